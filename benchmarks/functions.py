"""Every function that has a kernel, with it and in eager mode, against other implementations.

    python -m benchmarks.functions [--device cuda] [--functions multimax ...] [--quick]

Parts: the shapes of a vision transformer, of attention over text and of a language model's output;
rows of growing length at a constant number of scores; growing numbers of threads. They are
compared with ``torch.softmax``, MultiMax's formula written out, in eager mode and compiled, the
entmax package and, on a GPU, Liger's sparsemax. Then the gradients of parameters: whether two runs
give the same bits, and their largest error against eager float64, relative to the largest gradient.

Bandwidth counts what even softmax must move: forward reads the scores and writes the weights; backward reads the
weights and their gradient and writes that of the scores.
"""

import copy
import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.bench import BOTH, FORWARD, Benchmark, Contestant, program
from multimax import kernels, reweight

SHAPES = ((384, 197, 197), (8, 512, 512), (512, 32000))
LENGTHS = (197, 1024, 4096, 16384, 512, 267_744, 64, 65536)  # by importance: time may run out

MODES = {"kernel": "require", "eager": "eager"}

SOFTMAX = Contestant("softmax", "torch", partial(torch.softmax, dim=-1))


def written_out(x: Tensor, ranges: Tensor, ts: Tensor) -> Tensor:
    """MultiMax of the second order, term by term, for autograd to differentiate."""
    left, right = torch.relu(ranges[0] - x) * ts[0], torch.relu(x - ranges[1]) * ts[1]
    left2, right2 = torch.relu(ranges[2] - x).square() * ts[2], torch.relu(x - ranges[3]).square() * ts[3]
    return torch.softmax(x + left + right + left2 + right2, -1)


def ours(name: str, path: str, device: torch.device) -> Contestant:
    """A registered function by one path, "kernel" or "eager"."""
    module = reweight.create(name).to(device)
    return Contestant(name, path, module, tuple(module.parameters()), within=partial(kernels.use, MODES[path]))


def peers(benchmark: Benchmark) -> list[Contestant]:
    """Other implementations of the functions, those that are installed."""
    names, device = benchmark.arguments.functions, benchmark.device
    found = []
    if "multimax" in names:
        parameters = [nn.Parameter(torch.randn(4, device=device) * 0.02) for _ in range(2)]
        compiled = benchmark.compile(written_out)
        for way, formula in (("written out", written_out), ("written out, compiled", compiled)):
            call = lambda x, formula=formula: formula(x, *parameters)  # noqa: E731
            found.append(Contestant("multimax", way, call, parameters))
    try:
        import entmax

        alpha = nn.Parameter(torch.tensor(1.5, device=device))
        theirs: Sequence[tuple[str, str, Callable[..., Tensor], Sequence[Tensor]]] = (
            ("sparsemax", "sorted", entmax.sparsemax, ()),
            ("entmax15", "sorted", entmax.entmax15, ()),
            ("entmax", "bisection", lambda x: entmax.entmax_bisect(x, alpha), (alpha,)),
        )
        for name, way, of_rows, learned in theirs:  # all work along the last dimension
            found.append(Contestant(name, f"entmax package, {way}", of_rows, learned, directions=[BOTH]))
    except ImportError as error:
        benchmark.leave_out(f"the entmax package is not installed ({error})")
    if device.type == "cuda":
        try:
            from liger_kernel.ops.sparsemax import LigerSparsemaxFunction

            liger: Any = LigerSparsemaxFunction
            found.append(Contestant("sparsemax", "Liger", lambda x: liger.apply(x, -1)))
        except ImportError as error:
            benchmark.leave_out(f"Liger is not installed ({error})")
    return [contestant for contestant in found if contestant.function in names]


def gradients(benchmark: Benchmark, name: str, path: str, shape: tuple[int, ...]) -> None:
    """Add a row about the gradients of one function's parameters, computed by one path."""
    module = reweight.create(name).to(benchmark.device)
    scores, grad = torch.randn(2, *shape, device=benchmark.device, dtype=benchmark.dtype)

    def of_parameters(path: str, module: nn.Module, scores: Tensor, grad: Tensor) -> Tensor:
        with kernels.use(MODES[path]):
            found = torch.autograd.grad(module(scores), list(module.parameters()), grad)
        return torch.cat([part.flatten() for part in found])

    first, second = (of_parameters(path, module, scores, grad) for _ in range(2))
    exact = of_parameters("eager", copy.deepcopy(module).double(), scores.double(), grad.double())
    benchmark.add(
        {
            "part": "gradients of parameters",
            "case": "x".join(map(str, shape)),
            "size": prod(shape),
            "function": name,
            "way": path,
            "error": f"{((first - exact).abs().max() / exact.abs().max()).item():.3g}",
            "same_bits": "yes" if torch.equal(first, second) else "no",
        }
    )


def moved(scores: Tensor) -> dict[str, float]:
    once = scores.numel() * scores.element_size()
    return {FORWARD: 2 * once, BOTH: 5 * once}


def run(benchmark: Benchmark) -> None:
    device, names = benchmark.device, benchmark.arguments.functions
    quick, on_gpu = benchmark.quick, device.type == "cuda"
    kernel_paths = [ours(name, "kernel", device) for name in names]

    def scores(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=benchmark.dtype, requires_grad=True)

    for length in LENGTHS[:2] if quick else LENGTHS:
        x = scores(max(1, (2**10 if quick else 2**27 if on_gpu else 2**23) // length), length)
        contestants = [SOFTMAX, *kernel_paths]
        benchmark.race("row length", f"{length}", contestants, [x], size=length, moved=moved(x))
    everyone = [SOFTMAX, *kernel_paths, *(ours(name, "eager", device) for name in names)]
    everyone += peers(benchmark)
    shapes = ((2, 3, 7), (3, 33)) if quick else SHAPES
    for shape in shapes:
        x = scores(*shape)
        benchmark.race("shapes", "x".join(map(str, shape)), everyone, [x], size=prod(shape), moved=moved(x))
    for name in names:
        if any(True for _ in reweight.create(name).parameters()):
            for path, shape in product(("kernel", "eager"), shapes):
                gradients(benchmark, name, path, shape)
    if on_gpu:
        return
    threads = torch.get_num_threads()
    x = scores(*shapes[-1])
    for count in sorted({1, *(2**i for i in range(1, 8) if 2**i < threads), threads}):
        torch.set_num_threads(count)
        case = f"{count} of {os.cpu_count()}"
        benchmark.race("threads", case, [SOFTMAX, *kernel_paths], [x], size=count, moved=moved(x))
    torch.set_num_threads(threads)


main = program("functions", __doc__, run)

if __name__ == "__main__":
    main()
