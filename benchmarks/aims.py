"""What the kernels are meant to reach, held against the tables that were measured.

An aim is met where a number of each of its rows is within the bound. The aims for a GPU were set for an H100; the table
says which one it was.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.bench import BOTH, FORWARD

Row = Mapping[str, str]
Number = Callable[[Row, Sequence[Row]], float]  # of a row, and of its table where it is compared with another
KEYS = ("part", "case", "size", "function", "way", "direction")


def column(name: str) -> Number:
    return lambda row, _: float(row[name] or "nan")


ratio = column("ratio")


def speedup(row: Row, _: Sequence[Row]) -> float:
    return 1 / ratio(row, ())


def over(number: Number, **other: str) -> Number:
    """Divided by the number of the row that is the same but for the fields in ``other``."""

    def quotient(row: Row, rows: Sequence[Row]) -> float:
        wanted = {key: row[key] for key in KEYS} | other
        divisors = (number(r, rows) for r in rows if all(r[key] == wanted[key] for key in KEYS))
        return number(row, rows) / next(divisors, math.nan)

    return quotient


def share_of_logits(row: Row, _: Sequence[Row] = ()) -> float:
    """Peak memory of a loss beyond its gradients, over that of the scores [tokens, vocabulary], all in float32."""
    tokens, dim, vocabulary = map(int, re.findall(r"\d+", row["case"]))
    gradients = 4 * dim * (tokens + vocabulary)
    return (float(row["peak_mb"] or "nan") * 2**20 - gradients) / (4 * tokens * vocabulary)


def bits_differ(row: Row, _: Sequence[Row]) -> float:
    return float(row["same_bits"] != "yes")


@dataclass(frozen=True)
class Aim:
    """``number`` is at most, or at least, ``bound`` in all rows of ``table`` that are ``among`` its own."""

    text: str
    table: str
    among: Callable[[Row], bool]
    bound: float
    number: Number = ratio
    at_least: bool = False
    on_gpu: bool = False
    named_by: Sequence[str] = ("case",)  # the fields that tell its rows apart

    def values(self, rows: Sequence[Row]) -> list[tuple[Row, float]]:
        """Its rows, each with what is held against the bound: NaN where it was not to be had."""
        return [(row, self.number(row, rows)) for row in rows if self.among(row)]

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


def shapes(function: str, way: str, direction: str, smallest: float = 0) -> Callable[[Row], bool]:
    """Rows of ``functions`` about shapes of at least so many scores."""
    wanted = ("shapes", function, way, direction)
    return lambda r: (r["part"], r["function"], r["way"], r["direction"]) == wanted and float(r["size"]) >= smallest


def attention(*cases: str) -> Callable[[Row], bool]:
    """Rows of ``attention`` about MultiMax by the path that is taken by default."""
    return lambda r: r["case"] in cases and (r["function"], r["way"], r["direction"]) == ("multimax", "default", BOTH)


def flash(direction: str) -> Callable[[Row], bool]:
    wanted = ("length", "multimax", "flash", direction)
    return lambda r: (r["part"], r["function"], r["way"], r["direction"]) == wanted and float(r["size"]) >= 1024


def step_of_deit(function: str) -> Callable[[Row], bool]:
    return lambda r: (r["part"], r["direction"], r["function"]) == ("DeiT-S", "training step", function)


def parameters(row: Row) -> bool:
    return row["part"] == "gradients of parameters"


def row_lengths(row: Row) -> bool:
    return (row["part"], row["way"]) == ("row length", "kernel") and 197 <= float(row["size"]) <= 16_384


def largest_vocabulary(row: Row) -> bool:
    return (row["part"], row["way"], row["size"]) == ("loss", "pieces", "267744")


IN_FULL = ("function", "case", "direction")
on_gpu = partial(Aim, on_gpu=True)

ON_BOTH = [
    aim
    for make in (Aim, on_gpu)
    for aim in (
        make(
            "gradients of parameters whose bits differ between two runs",
            "functions",
            parameters,
            0,
            bits_differ,
            named_by=IN_FULL,
        ),
        make(
            "gradients of parameters: relative error against float64",
            "functions",
            parameters,
            1e-4,
            column("error"),
            named_by=IN_FULL,
        ),
        make(
            "output layer, V=267,744: peak memory beyond the gradients, over that of the scores in float32",
            "output_layer",
            largest_vocabulary,
            1.0,
            share_of_logits,
            named_by=IN_FULL,
        ),
        make(
            "output layer, V=267,744: MultiMax in pieces, over softmax in pieces",
            "output_layer",
            lambda r: largest_vocabulary(r) and r["function"] == "multimax",
            1.1,
            over(ratio, function="softmax"),
            named_by=("case", "direction"),
        ),
    )
]

AIMS = [
    *(
        Aim(f"{text}, {direction}, over torch.softmax", "functions", shapes(function, way, direction, smallest), bound)
        for text, function, way, direction, smallest, bound in (
            ("MultiMax by kernel", "multimax", "kernel", FORWARD, 0, 1.15),
            ("MultiMax by kernel", "multimax", "kernel", BOTH, 0, 1.3),
            ("MultiMax without a compiler", "multimax", "eager", FORWARD, 1e7, 4.0),
            ("MultiMax without a compiler", "multimax", "eager", BOTH, 1e7, 5.0),
            ("sparsemax by kernel", "sparsemax", "kernel", BOTH, 0, 1.3),
            ("entmax15 by kernel", "entmax15", "kernel", BOTH, 0, 1.3),
            ("evsoftmax by kernel", "evsoftmax", "kernel", BOTH, 0, 1.3),
            ("entmax by kernel", "entmax", "kernel", BOTH, 0, 4.0),
        )
    ),
    Aim(
        "MultiMax's attention, N <= 512, forward + backward, over torch's fused softmax",
        "attention",
        attention("64x6x197x64", "N=128", "N=256", "N=512"),
        1.0,
    ),
    Aim(
        "MultiMax's attention, N <= 512, causal, forward + backward, over torch's fused softmax",
        "attention",
        attention("N=128, causal", "N=256, causal", "N=512, causal"),
        1.0,
    ),
    Aim("training step of DeiT-S with MultiMax, over softmax", "training_steps", step_of_deit("multimax"), 1.03),
    Aim(
        "GPT-2 small and ViT-S of other libraries, converted to MultiMax, over their fused softmax",
        "convert",
        lambda r: (r["function"], r["way"]) == ("multimax", "converted"),
        1.0,
        named_by=("part", "direction"),
    ),
    Aim(
        "functions of segments, over PyTorch Geometric's softmax",
        "segments",
        lambda r: r["way"] == "segment",
        2.0,
        named_by=("part", "case", "function", "direction"),
    ),
    Aim(
        "long rows by the names of the entmax package, over the package's speed",
        "compat",
        lambda r: (r["part"], r["way"]) == ("long rows", "ours"),
        5.0,
        speedup,
        at_least=True,
        named_by=("function",),
    ),
    Aim(
        "images per second and core of the input pipeline, over timm's loader",
        "input",
        lambda r: (r["part"], r["way"]) == ("loader", "ours"),
        2.0,
        speedup,
        at_least=True,
    ),
    *(
        Aim(
            f"{part} of the IWSLT14 model, {unit}/s over fairseq's",
            "translation",
            lambda r, part=part: (r["part"], r["way"]) == (part, "ours"),  # type: ignore[misc]
            bound,
            speedup,
            at_least=True,
            named_by=IN_FULL,
        )
        for part, unit, bound in (("training", "tokens", 2.0), ("beam search", "sentences", 3.0))
    ),
    *ON_BOTH,
    on_gpu(
        "row kernels, rows of 197 to 16,384: bandwidth, over that of a copy",
        "functions",
        row_lengths,
        0.8,
        column("of_copy"),
        at_least=True,
        named_by=IN_FULL,
    ),
    on_gpu("row kernels, rows of 197 to 16,384, over torch.softmax", "functions", row_lengths, 1.1, named_by=IN_FULL),
    *(
        on_gpu(
            f"MultiMax by flash kernel, N >= 1024, {direction}, over {what}",
            "attention",
            flash(direction),
            bound,
            over(ratio, function="softmax", way=way),
        )
        for direction, bound in ((FORWARD, 1.5), (BOTH, 1.7))
        for way, what in (("FlexAttention", "FlexAttention's plain softmax"), ("flash", "the same kernel's softmax"))
    ),
    on_gpu(
        "MultiMax by flash kernel: peak memory at N=4096, over N=1024 with as many tokens",
        "attention",
        lambda r: flash(BOTH)(r) and r["case"] == "N=4096",
        1.5,
        over(column("peak_mb"), case="N=1024", size="1024"),
        named_by=(),
    ),
    on_gpu(
        "training step of DeiT-S with MultiMax, bfloat16, compiled, over softmax",
        "training_steps",
        step_of_deit("multimax"),
        1.08,
    ),
    on_gpu(
        "training of DeiT-S with softmax, bfloat16, compiled: images/s",
        "training_steps",
        step_of_deit("softmax"),
        7500,
        column("per_s"),
        at_least=True,
    ),
    on_gpu(
        "output layer, V=267,744: tokens/s",
        "output_layer",
        largest_vocabulary,
        250_000,
        column("per_s"),
        at_least=True,
        named_by=IN_FULL,
    ),
]
