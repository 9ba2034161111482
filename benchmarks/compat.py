"""The functions and losses of multimax.compat.entmax, beside those of the entmax package itself.

    python -m benchmarks.compat [--quick]

Long rows, as at the output of a language model, and short ones, as in attention. The package comes
first in each pair. Arguments are the defaults; entmax_bisect gets its default alpha, 1.5, as a
learned parameter. A full run on the CPU with the default --output also writes the table in
docs/entmax.md.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.aims import Row
from benchmarks.bench import BOTH, RESULTS, Benchmark, Contestant, program
from multimax.suite.text_tables import markdown_table

PAGE = Path(__file__).parent.parent / "docs" / "entmax.md"
TABLE = re.compile(r"(?<=<!-- table -->\n).*(?=<!-- end of table -->)", re.DOTALL)
SHAPES = {"long rows": (32, 32000), "short rows": (4096, 197)}
FUNCTIONS = ("sparsemax", "entmax15", "sparsemax_bisect", "entmax_bisect", "normmax_bisect", "budget_bisect")
LOSSES = ("SparsemaxLoss", "Entmax15Loss", "SparsemaxBisectLoss", "EntmaxBisectLoss", "NormmaxBisectLoss")


def calls(package: ModuleType, name: str, target: Tensor) -> tuple[Callable[[Tensor], Tensor], Sequence[Tensor]]:
    """A function of scores that calls ``name`` of ``package``, and its learned parameters."""
    if name in LOSSES:
        loss: Any = getattr(package, name)()
        return (lambda x: loss(x, target)), ()
    if name != "entmax_bisect":
        return partial(getattr(package, name), dim=-1), ()
    alpha = nn.Parameter(torch.tensor(1.5, device=target.device))
    return (lambda x: package.entmax_bisect(x, alpha)), (alpha,)


def run(benchmark: Benchmark) -> None:
    try:
        import entmax
    except ImportError as error:
        benchmark.leave_out(f"the entmax package is not installed ({error})")
        return
    from multimax.compat import entmax as ours

    for part, (rows, length) in SHAPES.items():
        shape = (3, 7) if benchmark.quick else (rows, length)
        x = torch.randn(shape, device=benchmark.device, requires_grad=True)
        target = torch.randint(shape[1], shape[:1], device=benchmark.device)
        for name in (*FUNCTIONS, *LOSSES):
            pair = [
                Contestant(name, way, *calls(package, name, target))
                for way, package in (("entmax package", entmax), ("ours", ours))
            ]
            case = f"{shape[0]}x{shape[1]}"
            benchmark.race(part, case, pair, [x], size=x.numel(), directions=[BOTH])
    is_kept = benchmark.arguments.output == RESULTS and benchmark.device.type == "cpu" and not benchmark.quick
    if benchmark.rows and is_kept:
        PAGE.write_text(TABLE.sub(lambda _: table(benchmark.rows), PAGE.read_text()))


def table(rows: Sequence[Row]) -> str:
    """How many times as fast as the package each name is here, in each part."""
    found = {(r["function"], r["part"]): 1 / float(r["ratio"]) for r in rows if r["way"] == "ours" and r["ratio"]}
    cases = {r["part"]: r["case"] for r in rows}
    names = dict.fromkeys(function for function, _ in found)
    cells = [[f"{found[name, part]:.3g}" if (name, part) in found else "" for part in cases] for name in names]
    columns = ["", *(f"{part}, {case}" for part, case in cases.items())]
    return markdown_table(columns, [[f"`{name}`", *row] for name, row in zip(names, cells, strict=True)])


main = program("compat", __doc__, run)

if __name__ == "__main__":
    main()
