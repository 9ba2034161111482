"""Block sizes of the flash kernels at the length of DeiT's sequences, to set ``kernels/triton/flash_blocks.py`` by.

    python -m benchmarks.flash_blocks [--device cuda] [--quick]

Each kernel in turn has other blocks of queries and keys, the other two what they have by default. The first is
PyTorch's fused softmax; beside it stand the default of all three and the scores held whole, with the row kernel on
them. Runs on a CPU only in Triton's interpreter (TRITON_INTERPRET=1), where times mean nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from benchmarks.attention import sdpa
from benchmarks.bench import BOTH, FORWARD, Benchmark, Contestant, parser
from multimax import reweight
from multimax.attention import attention
from multimax.kernels.triton import flash, flash_blocks

KERNELS = {"forward": FORWARD, "backward_of_queries": BOTH, "backward_of_keys": BOTH}
BLOCKS = ((64, 32), (64, 64), (128, 32))  # rows that stay, queries but in the last kernel; rows walked over
WARPS = (4, 8)


@contextmanager
def blocks_of(kernel: str, blocks: dict[str, int]) -> Iterator[None]:
    default: Any = flash_blocks.choose
    flash_blocks.choose = lambda name, *tensors: default(name, *tensors) | (blocks if name == kernel else {})
    try:
        yield
    finally:
        flash_blocks.choose = default


def run(benchmark: Benchmark) -> None:
    device, quick = benchmark.device, benchmark.quick
    module = reweight.MultiMax().to(device)
    parameters = tuple(module.parameters())

    def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return flash.flash_attention(query, key, value, module.ranges, module.ts, (1, 1, 2, 2))

    def whole(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attention(query, key, value, module, backend="reference")

    shape = (1, 1, 19, 16) if quick else (256, 6, 196, 64)
    inputs = [torch.randn(shape, device=device, dtype=benchmark.dtype, requires_grad=True) for _ in range(3)]
    sizes = tuple(product(((16, 16),), (4,))) if quick else tuple(product(BLOCKS, WARPS))
    for kernel, direction in KERNELS.items():
        contestants = [sdpa(False), Contestant("multimax", "reference", whole, parameters)]
        contestants.append(Contestant("multimax", "default", fused, parameters))
        for blocks, warps in sizes:
            queries, keys = blocks[::-1] if kernel == "backward_of_keys" else blocks
            within = partial(blocks_of, kernel, {"BLOCK_M": queries, "BLOCK_N": keys, "num_warps": warps})
            way = f"{queries} x {keys}, {warps} warps"
            contestants.append(Contestant("multimax", way, fused, parameters, within=within))
        benchmark.race(kernel, "x".join(map(str, shape)), contestants, inputs, directions=[direction])


def main() -> None:
    benchmark = Benchmark("flash_blocks", parser(__doc__).parse_args())
    run(benchmark)
    benchmark.save()


if __name__ == "__main__":
    main()
