"""What the kernels are meant to reach, compared with the tables that were measured.

An aim is met if all of its values are within its bound. The aims for a GPU were set for an H100; the table says which
GPU was measured.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, nan

from benchmarks.bench import BOTH, FORWARD

Row = Mapping[str, str]
Rows = Sequence[Row]
Values = Iterator[tuple[Row, float]]  # each row that an aim is about, and its number to compare


@dataclass(frozen=True)
class Aim:
    """All that ``values`` finds in ``table`` should be at most, or at least, ``bound``.

    ``named_by`` has the columns that tell the rows apart.
    """

    text: str
    table: str
    bound: float
    values: Callable[[Rows], Values]
    at_least: bool = False
    on_gpu: bool = False
    named_by: Sequence[str] = ("case",)

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


def where(rows: Rows, **fields: str) -> list[Row]:
    return [row for row in rows if all(row[key] == value for key, value in fields.items())]


def number(row: Row, name: str) -> float:
    """A number in a table, NaN where it was not measured."""
    return float(row[name] or "nan")


def column(name: str, **fields: str) -> Callable[[Rows], Values]:
    return lambda rows: ((row, number(row, name)) for row in where(rows, **fields))


def sized(least: float, most: float, found: Callable[[Rows], Values]) -> Callable[[Rows], Values]:
    """The part of what ``found`` yields whose rows have a size from ``least`` to ``most``."""
    return lambda rows: ((row, value) for row, value in found(rows) if least <= number(row, "size") <= most)


def over(other: Mapping[str, str], name: str, **fields: str) -> Callable[[Rows], Values]:
    """A ``column``, each value over that of the row that differs only in the fields ``other``."""
    return lambda rows: ((row, quotient(name, row, rows, **other)) for row in where(rows, **fields))


def quotient(name: str, row: Row, rows: Rows, **other: str) -> float:
    """A number of ``row`` divided by that of the row that differs only in the fields ``other``.

    NaN if there is no such row.
    """
    keys = ("part", "case", "size", "function", "way", "direction")
    divisors = where(rows, **{key: row[key] for key in keys} | other)
    return number(row, name) / number(divisors[0], name) if divisors else nan


def speedup(**fields: str) -> Callable[[Rows], Values]:
    return lambda rows: ((row, 1 / number(row, "ratio")) for row in where(rows, way="ours", **fields))


def attention_of(*cases: str) -> Callable[[Rows], Values]:
    """Time of MultiMax's attention by its default path, over torch's; NaN where it is missing."""

    def values(rows: Rows) -> Values:
        mine = where(rows, function="multimax", way="default", direction=BOTH)
        for case in cases:
            found = where(mine, case=case) or [{"case": case, "milliseconds": "", "ratio": "", "note": "not measured"}]
            yield from ((row, number(row, "ratio")) for row in found)

    return values


def share_of_logits(rows: Rows) -> Values:
    """Peak memory of a loss beyond its gradients, divided by the size of the scores.

    The scores are [tokens, vocabulary]; everything is in float32.
    """
    for row in where(rows, **LARGEST_VOCABULARY):
        tokens, dim, vocabulary = map(int, re.findall(r"\d+", row["case"]))
        gradients = 4 * dim * (tokens + vocabulary)
        yield row, (number(row, "peak_mb") * 2**20 - gradients) / (4 * tokens * vocabulary)


def bits_differ(rows: Rows) -> Values:
    return ((row, float(row["same_bits"] != "yes")) for row in where(rows, **PARAMETERS))


SOFTMAX = {"function": "softmax"}
PARAMETERS = {"part": "gradients of parameters"}
LARGEST_VOCABULARY = {"part": "loss", "way": "pieces", "size": "267744"}
FLASH = {"part": "length", "function": "multimax", "way": "flash"}
STEP = {"part": "DeiT-S", "direction": "training step"}
IN_FULL = ("function", "case", "direction")

ON_BOTH = [
    aim
    for make in (Aim, partial(Aim, on_gpu=True))
    for aim in (
        make(
            "gradients of parameters whose bits differ between two runs",
            *("functions", 0, bits_differ),
            named_by=IN_FULL,
        ),
        make(
            "gradients of parameters: relative error against float64",
            *("functions", 1e-4, column("error", **PARAMETERS)),
            named_by=IN_FULL,
        ),
        make(
            "output layer, V=267,744: peak memory beyond the gradients, over that of the scores in float32",
            *("output_layer", 1.0, share_of_logits),
            named_by=IN_FULL,
        ),
        make(
            "output layer, V=267,744: MultiMax in pieces, over softmax in pieces",
            *("output_layer", 1.1, over(SOFTMAX, "ratio", function="multimax", **LARGEST_VOCABULARY)),
            named_by=("case", "direction"),
        ),
    )
]

ON_CPU = [
    *(
        Aim(
            f"{text} by kernel, {direction}, over torch.softmax",
            *("functions", bound),
            column("ratio", part="shapes", function=function, way="kernel", direction=direction),
        )
        for text, function, direction, bound in (
            ("MultiMax", "multimax", FORWARD, 1.15),
            ("MultiMax", "multimax", BOTH, 1.3),
            ("sparsemax", "sparsemax", BOTH, 1.3),
            ("entmax15", "entmax15", BOTH, 1.3),
            ("evsoftmax", "evsoftmax", BOTH, 1.3),
            ("entmax", "entmax", BOTH, 4.0),
        )
    ),
    Aim(
        "entmax with a learned alpha by kernel, 384x197x197, forward + backward, over torch.softmax",
        *("functions", 1.5),
        column("ratio", part="shapes", function="entmax", way="kernel", direction=BOTH, case="384x197x197"),
    ),
    *(
        Aim(
            f"MultiMax without a compiler, {direction}, over torch.softmax",
            *("functions", bound),
            # sizes at which the work costs more than starting the calls
            sized(1e7, inf, column("ratio", part="shapes", function="multimax", way="eager", direction=direction)),
        )
        for direction, bound in ((FORWARD, 4.0), (BOTH, 5.0))
    ),
    *(
        Aim(
            f"MultiMax's attention, {lengths}, forward + backward, over torch's fused softmax",
            *("attention", 1.0, attention_of(*cases)),
        )
        for lengths, cases in (
            ("N <= 512", ("64x6x197x64", "N=128", "N=256", "N=512")),
            ("N <= 512, causal", ("N=128, causal", "N=256, causal", "N=512, causal")),
            ("N = 2048 and 4096", ("N=2048", "N=4096")),
        )
    ),
    Aim(
        "training step of DeiT-S with MultiMax, over softmax",
        *("training_steps", 1.03, column("ratio", function="multimax", **STEP)),
    ),
    Aim(
        "GPT-2 small and ViT-S of other libraries, converted to MultiMax, over their fused softmax",
        *("convert", 1.0, column("ratio", function="multimax", way="converted")),
        named_by=("part", "direction"),
    ),
    Aim(
        "functions of segments, over PyTorch Geometric's softmax",
        *("segments", 2.0, column("ratio", way="segment")),
        named_by=("part", "case", "function", "direction"),
    ),
    Aim(
        "long rows by the names of the entmax package, over the package's speed",
        *("compat", 5.0, speedup(part="long rows")),
        at_least=True,
        named_by=("function",),
    ),
    Aim(
        "images per second and core of the input pipeline, over timm's loader",
        *("input", 2.0, speedup(part="loader")),
        at_least=True,
    ),
]

on_gpu = partial(Aim, on_gpu=True)

ON_GPU = [
    on_gpu(
        "row kernels, rows of 197 to 16,384: bandwidth, over that of a copy",
        *("functions", 0.8, sized(197, 16_384, column("of_copy", part="row length", way="kernel"))),
        at_least=True,
        named_by=IN_FULL,
    ),
    on_gpu(
        "row kernels, rows of 197 to 16,384, over torch.softmax",
        *("functions", 1.1, sized(197, 16_384, column("ratio", part="row length", way="kernel"))),
        named_by=IN_FULL,
    ),
    *(
        on_gpu(
            f"MultiMax by flash kernel, N >= 1024, {direction}, over {what}",
            *("attention", bound),
            sized(1024, inf, over(SOFTMAX | {"way": way}, "ratio", direction=direction, **FLASH)),
        )
        for direction, bound in ((FORWARD, 1.5), (BOTH, 1.7))
        for way, what in (("FlexAttention", "FlexAttention's plain softmax"), ("flash", "the same kernel's softmax"))
    ),
    on_gpu(
        "MultiMax by flash kernel: peak memory at N=4096, over N=1024 with as many tokens",
        *("attention", 1.5),
        over({"case": "N=1024", "size": "1024"}, "peak_mb", direction=BOTH, case="N=4096", **FLASH),
        named_by=(),
    ),
    on_gpu(
        "training step of DeiT-S with MultiMax, bfloat16, compiled, over softmax",
        *("training_steps", 1.08, column("ratio", function="multimax", **STEP)),
    ),
    on_gpu(
        "training of DeiT-S with softmax, bfloat16, compiled: images/s",
        *("training_steps", 7500, column("per_s", function="softmax", **STEP)),
        at_least=True,
    ),
    on_gpu(
        "output layer, V=267,744: tokens/s",
        *("output_layer", 250_000, column("per_s", **LARGEST_VOCABULARY)),
        at_least=True,
        named_by=IN_FULL,
    ),
]

AIMS = [*ON_CPU, *ON_BOTH, *ON_GPU]
