"""What the kernels are meant to reach, held against the tables that were measured.

An aim is met if all rows that it is about are within its bound. The aims for a GPU were set for an H100; the table says
which GPU was measured.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.bench import BOTH, FORWARD

Row = Mapping[str, str]
Number = Callable[[Row, Sequence[Row]], float]  # of a row, and of its table where it is compared with another row
KEYS = ("part", "case", "size", "function", "way", "direction")


def column(name: str) -> Number:
    return lambda row, _: float(row[name] or "nan")


ratio = column("ratio")


def speedup(row: Row, _: Sequence[Row]) -> float:
    return 1 / ratio(row, ())


def over(number: Number, **other: str) -> Number:
    """``number`` divided by that of the row which is the same except for the fields in ``other``."""

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
    """``number`` is at most, or at least, ``bound`` in the rows of ``table`` with these ``fields`` and ``sizes``."""

    text: str
    table: str
    fields: Mapping[str, str | Sequence[str]]  # a value, or several of which any will do
    bound: float
    number: Number = ratio
    sizes: tuple[float, float] = (0, math.inf)  # both included
    at_least: bool = False
    on_gpu: bool = False
    named_by: Sequence[str] = ("case",)  # the fields that tell its rows apart

    def values(self, rows: Sequence[Row]) -> list[tuple[Row, float]]:
        """Its rows, each with the number that is held against the bound: NaN where there is none."""
        wanted = {key: (value,) if isinstance(value, str) else value for key, value in self.fields.items()}
        low, high = self.sizes
        mine = [row for row in rows if all(row[key] in values for key, values in wanted.items())]
        return [(row, self.number(row, rows)) for row in mine if low <= float(row["size"] or 0) <= high]

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


def of(function: str, way: str, direction: str = BOTH, **others: str | Sequence[str]) -> dict[str, str | Sequence[str]]:
    return {"function": function, "way": way, "direction": direction, **others}


def step_of_deit(function: str) -> dict[str, str]:
    return {"part": "DeiT-S", "direction": "training step", "function": function}


IN_FULL = ("function", "case", "direction")
PARAMETERS = {"part": "gradients of parameters"}
LARGEST_VOCABULARY = {"part": "loss", "way": "pieces", "size": "267744"}
ROW_LENGTHS = {"part": "row length", "way": "kernel"}

on_gpu = partial(Aim, on_gpu=True)

ON_BOTH = [
    aim
    for make in (partial(Aim, named_by=IN_FULL), partial(on_gpu, named_by=IN_FULL))
    for aim in (
        make("gradients of parameters whose bits differ between two runs", "functions", PARAMETERS, 0, bits_differ),
        make("gradients of parameters: relative error against float64", "functions", PARAMETERS, 1e-4, column("error")),
        make(
            "output layer, V=267,744: peak memory beyond the gradients, over that of the scores in float32",
            "output_layer",
            LARGEST_VOCABULARY,
            1.0,
            share_of_logits,
        ),
        make(
            "output layer, V=267,744: MultiMax in pieces, over softmax in pieces",
            "output_layer",
            LARGEST_VOCABULARY | {"function": "multimax"},
            1.1,
            over(ratio, function="softmax"),
            named_by=("case", "direction"),
        ),
    )
]

AIMS = [
    *(
        Aim(
            f"{text}, {direction}, over torch.softmax",
            "functions",
            of(function, way, direction, part="shapes"),
            bound,
            sizes=(smallest, math.inf),
        )
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
    *(
        Aim(
            f"MultiMax's attention, N <= 512{causal}, forward + backward, over torch's fused softmax",
            "attention",
            of("multimax", "default", case=cases),
            1.0,
        )
        for causal, cases in (
            ("", ("64x6x197x64", "N=128", "N=256", "N=512")),
            (", causal", ("N=128, causal", "N=256, causal", "N=512, causal")),
        )
    ),
    Aim("training step of DeiT-S with MultiMax, over softmax", "training_steps", step_of_deit("multimax"), 1.03),
    Aim(
        "GPT-2 small and ViT-S of other libraries, converted to MultiMax, over their fused softmax",
        "convert",
        {"function": "multimax", "way": "converted"},
        1.0,
        named_by=("part", "direction"),
    ),
    Aim(
        "functions of segments, over PyTorch Geometric's softmax",
        "segments",
        {"way": "segment"},
        2.0,
        named_by=("part", "case", "function", "direction"),
    ),
    *(
        Aim(text, table, {"part": part, "way": "ours"}, bound, speedup, at_least=True, named_by=named_by)
        for text, table, part, bound, named_by in (
            (
                "long rows by the names of the entmax package, over the package's speed",
                *("compat", "long rows", 5.0, ("function",)),
            ),
            (
                "images per second and core of the input pipeline, over timm's loader",
                *("input", "loader", 2.0, ("case",)),
            ),
            ("training of the IWSLT14 model, tokens/s over fairseq's", "translation", "training", 2.0, IN_FULL),
            (
                "beam search of the IWSLT14 model, sentences/s over fairseq's",
                "translation",
                "beam search",
                3.0,
                IN_FULL,
            ),
        )
    ),
    *ON_BOTH,
    on_gpu(
        "row kernels, rows of 197 to 16,384: bandwidth, over that of a copy",
        "functions",
        ROW_LENGTHS,
        0.8,
        column("of_copy"),
        (197, 16_384),
        at_least=True,
        named_by=IN_FULL,
    ),
    on_gpu(
        "row kernels, rows of 197 to 16,384, over torch.softmax",
        "functions",
        ROW_LENGTHS,
        1.1,
        sizes=(197, 16_384),
        named_by=IN_FULL,
    ),
    *(
        on_gpu(
            f"MultiMax by flash kernel, N >= 1024, {direction}, over {what}",
            "attention",
            of("multimax", "flash", direction, part="length"),
            bound,
            over(ratio, function="softmax", way=way),
            (1024, math.inf),
        )
        for direction, bound in ((FORWARD, 1.5), (BOTH, 1.7))
        for way, what in (("FlexAttention", "FlexAttention's plain softmax"), ("flash", "the same kernel's softmax"))
    ),
    on_gpu(
        "MultiMax by flash kernel: peak memory at N=4096, over N=1024 with as many tokens",
        "attention",
        of("multimax", "flash", part="length", case="N=4096"),
        1.5,
        over(column("peak_mb"), case="N=1024", size="1024"),
        named_by=(),
    ),
    *(
        on_gpu(text, "training_steps", step_of_deit(function), bound, number, at_least=at_least)
        for text, function, bound, number, at_least in (
            ("training step of DeiT-S with MultiMax, bfloat16, compiled, over softmax", "multimax", 1.08, ratio, False),
            (
                "training of DeiT-S with softmax, bfloat16, compiled: images/s",
                *("softmax", 7500, column("per_s"), True),
            ),
        )
    ),
    on_gpu(
        "output layer, V=267,744: tokens/s",
        "output_layer",
        LARGEST_VOCABULARY,
        250_000,
        column("per_s"),
        at_least=True,
        named_by=IN_FULL,
    ),
]
