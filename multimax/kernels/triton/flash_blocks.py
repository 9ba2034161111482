"""Block sizes of the flash kernels, by the size of the heads, the dtype and the device's shared memory.

For half precision and heads of up to 64, they are the fastest of some fifteen tried for each kernel on an H100, at 196
and 256 keys: results/benchmarks/exploration_nvidia_h100_80gb_hbm3.json. Blocks of 128 rows with eight warps, which the
compiler's report favoured, took a quarter longer. The other sizes are chosen from that report (registers, spills and
shared memory for compute capability 8.0 and 9.0): among those that spill least, the ones with the largest blocks of the
rows that stay in registers, that is, of queries in the forward and for dq, and of keys for dk and dv. float32 is
multiplied without tensor cores, in smaller blocks.
"""

import torch
from torch import Tensor

# KiB of shared memory, BLOCK_M, BLOCK_N, warps, stages; the first that fits is taken.
_HALF: dict[int, dict[str, list[tuple[int, int, int, int, int]]]] = {
    64: {
        "forward": [(40, 64, 64, 4, 2)],
        "backward_of_queries": [(40, 64, 32, 4, 3)],
        "backward_of_keys": [(32, 64, 64, 4, 1)],
    },
    128: {
        "forward": [(128, 128, 64, 8, 3), (96, 128, 64, 8, 2)],
        "backward_of_queries": [(96, 128, 32, 8, 2)],
        "backward_of_keys": [(97, 32, 128, 8, 2)],
    },
    256: {
        "forward": [(128, 128, 32, 8, 2), (96, 64, 32, 4, 2)],
        "backward_of_queries": [(68, 32, 32, 4, 2)],
        "backward_of_keys": [(67, 32, 32, 4, 2)],
    },
}
_SINGLE: dict[int, dict[str, list[tuple[int, int, int, int, int]]]] = {
    64: {
        "forward": [(64, 64, 32, 4, 2)],
        "backward_of_queries": [(64, 32, 32, 4, 2)],
        "backward_of_keys": [(64, 32, 32, 4, 2)],
    },
    128: {
        "forward": [(96, 32, 32, 4, 2)],
        "backward_of_queries": [(96, 32, 16, 4, 2)],
        "backward_of_keys": [(96, 16, 32, 4, 2)],
    },
    256: {
        "forward": [(96, 16, 16, 4, 2)],
        "backward_of_queries": [(96, 16, 16, 4, 2)],
        "backward_of_keys": [(96, 16, 16, 4, 2)],
    },
}


def choose(kernel: str, query: Tensor, value: Tensor) -> dict[str, int | bool]:
    """Block sizes and the compiler's options for ``kernel``, a name in ``flash_forward`` or ``flash_backward``."""
    size = max(query.shape[-1], value.shape[-1])
    table = _SINGLE if query.dtype == torch.float32 else _HALF
    choices = table[next(width for width in table if size <= width)][kernel]
    kib = _shared_memory(query.device) // 1024
    m, n, warps, stages = next((rest for need, *rest in choices if need <= kib), choices[-1][1:])
    # Triton 3.10 no longer fuses products and sums by default.
    return {"BLOCK_M": m, "BLOCK_N": n, "num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}


def _shared_memory(device: torch.device) -> int:
    """Bytes that one program may use."""
    if device.type != "cuda":
        return 227 * 1024
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin
