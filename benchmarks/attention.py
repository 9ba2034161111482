"""Attention with every function by every path, against PyTorch's fused softmax and FlexAttention.

    python -m benchmarks.attention [--device cuda] [--functions multimax ...] [--quick]

Parts: DeiT-S's attention, and sequences of growing length at a constant number of tokens, causal
or not. In FlexAttention, MultiMax's parameters are frozen: its backward, which exists only on a
GPU, gives them no gradient.
"""

from collections.abc import Sequence
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from benchmarks.bench import BOTH, FORWARD, Benchmark, Contestant, program
from benchmarks.functions import written_out
from multimax import reweight
from multimax.attention import BACKENDS, attention, attention_path
from multimax.kernels.triton.flash import flash_attention, supports

SHAPE = (64, 6, 197, 64)
LENGTHS = (128, 256, 512, 1024, 2048, 4096)
LENGTHS_ON_GPU = (1024, 4096, 256, 128, 64, 512, 2048)  # most important first: compiling is slow
GROWING = ("multimax", "entmax15")  # the functions measured at growing lengths


def sdpa(causal: bool) -> Contestant:
    return Contestant("softmax", "torch", partial(F.scaled_dot_product_attention, is_causal=causal))


def ours(name: str, causal: bool, inputs: Sequence[Tensor]) -> list[Contestant]:
    """A registered function by the backend that ``attention`` chooses, and by every other one.

    Backends that do not support the function are skipped.
    """
    query, key, value = (tensor.detach() for tensor in inputs)
    module = reweight.create(name, num_heads=query.shape[1]).to(query.device)
    taken = attention_path(query, key, value, module)
    found = []
    for backend in (None, *BACKENDS):
        if backend in ("sdpa", "flash", taken):  # the first two are contestants of their own
            continue
        try:
            with torch.no_grad():
                attention(query[:1], key[:1], value[:1], module, causal=causal, backend=backend)
        except ValueError:
            continue
        call = lambda q, k, v, backend=backend: attention(q, k, v, module, causal=causal, backend=backend)  # noqa: E731
        way, note = ("default", taken) if backend is None else (backend, "")
        found.append(Contestant(name, way, call, tuple(module.parameters()), note=note))
    return found


def flash(name: str, causal: bool, device: torch.device) -> Contestant:
    """The flash kernel itself, whatever ``attention`` would choose; for softmax, without SegLU."""
    if name == "softmax":
        call = lambda q, k, v: flash_attention(q, k, v, None, None, (), causal=causal)  # noqa: E731
        return Contestant(name, "flash", call)
    module = reweight.MultiMax().to(device)
    call = lambda q, k, v: flash_attention(q, k, v, module.ranges, module.ts, (1, 1, 2, 2), causal=causal)  # noqa: E731
    return Contestant(name, "flash", call, tuple(module.parameters()))


def materialised(causal: bool, device: torch.device) -> Contestant:
    """Scores, MultiMax's formula term by term, and weights, as in the authors' code."""
    ranges, ts = (torch.nn.Parameter(torch.randn(4, device=device) * 0.02) for _ in range(2))

    def call(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        if causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=device).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        return written_out(scores, ranges, ts) @ value

    return Contestant("multimax", "written out", call, (ranges, ts))


def flex(modulated: bool, causal: bool, length: int, benchmark: Benchmark) -> Contestant:
    """FlexAttention, with MultiMax as its score_mod or plain."""
    device = benchmark.device
    (r0, r1, r2, r3), (t0, t1, t2, t3) = (torch.randn(2, 4) * 0.02).tolist()

    def multimax(score: Tensor, *_: Tensor) -> Tensor:
        first = t0 * (r0 - score).relu() + t1 * (score - r1).relu()
        return score + first + t2 * (r2 - score).relu() ** 2 + t3 * (score - r3).relu() ** 2

    block_mask = None
    if causal:
        block_mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, length, length, device=str(device))
    call = partial(benchmark.compile(flex_attention), score_mod=multimax if modulated else None, block_mask=block_mask)
    directions = (FORWARD, BOTH) if device.type == "cuda" else (FORWARD,)
    return Contestant("multimax" if modulated else "softmax", "FlexAttention", call, directions=directions)


def run(benchmark: Benchmark) -> None:
    device, names, quick = benchmark.device, benchmark.arguments.functions, benchmark.quick
    on_gpu = device.type == "cuda"

    def inputs(*shape: int) -> list[Tensor]:
        return [torch.randn(shape, device=device, dtype=benchmark.dtype, requires_grad=True) for _ in range(3)]

    flashes = [name for name in ("softmax", "multimax") if name in names and supports(*inputs(1, 1, 1, 1)) is None]

    shape = (1, 1, 19, 16) if quick else SHAPE
    _, heads, length, dim = shape
    tensors = inputs(*shape)
    contestants = [sdpa(False), *(c for name in names for c in ours(name, False, tensors))]
    if "multimax" in names:
        contestants += [materialised(False, device), flex(True, False, length, benchmark)]
    contestants += [flex(False, False, length, benchmark), *(flash(name, False, device) for name in flashes)]
    benchmark.race("DeiT-S", "x".join(map(str, shape)), contestants, tensors, size=length, units=shape[0])

    tokens = 16 if quick else 2**16 if on_gpu else 2**12
    lengths = (8, 16) if quick else LENGTHS_ON_GPU if on_gpu else LENGTHS
    for causal, length in product((False, True), lengths):
        tensors = inputs(tokens // length, heads, length, dim)
        contestants = [sdpa(causal)]
        contestants += [c for name in names if name in GROWING for c in ours(name, causal, tensors)]
        if "multimax" in names and (on_gpu or length <= 1024):
            contestants.append(materialised(causal, device))
        contestants += [flash(name, causal, device) for name in flashes]
        if on_gpu and length in (1024, 4096):
            contestants += [flex(modulated, causal, length, benchmark) for modulated in (False, True)]
        case = f"N={length}{', causal' if causal else ''}"
        benchmark.race("length", case, contestants, tensors, size=length, units=tokens)


main = program("attention", __doc__, run)

if __name__ == "__main__":
    main()
