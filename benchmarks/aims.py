"""What the kernels are meant to reach, held against the tables that were measured.

An aim picks rows of a table and a number in each of them, and is met where all of these are within its bound. The aims
for a GPU were set for an H100; the table says which one it was.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.bench import BOTH, FORWARD

Row = Mapping[str, str]
Fields = Mapping[str, str | Sequence[str]]


def column(name: str) -> Callable[[Row], float]:
    return lambda row: float(row[name] or "nan")


RATIO = column("ratio")


def speedup(row: Row) -> float:
    return 1 / RATIO(row)


def share_of_logits(row: Row) -> float:
    """Peak memory of a loss beyond its gradients, over that of the scores [tokens, vocabulary], all in float32."""
    tokens, dim, vocabulary = map(int, re.findall(r"\d+", row["case"]))
    gradients = 4 * dim * (tokens + vocabulary)
    return (column("peak_mb")(row) * 2**20 - gradients) / (4 * tokens * vocabulary)


def bits_differ(row: Row) -> float:
    return float(row["same_bits"] != "yes")


@dataclass(frozen=True)
class Aim:
    """``number`` of the rows of ``table`` whose fields are as in ``of`` is at most, or at least, ``bound``.

    With ``over`` it is divided by that of the row that differs from it in just these fields.
    """

    text: str
    table: str
    of: Fields
    bound: float
    number: Callable[[Row], float] = RATIO
    over: Mapping[str, str] | None = None
    at_least: bool = False
    on_gpu: bool = False
    sizes: tuple[float, float] = (-math.inf, math.inf)  # of the rows, both included

    def values(self, rows: Sequence[Row]) -> list[tuple[Row, float]]:
        """The rows concerned, each with what is held against the bound: NaN where it was not to be had."""
        found = []
        for row in rows:
            fits = all(row[k] == v if isinstance(v, str) else row[k] in v for k, v in self.of.items())
            if fits and self.sizes[0] <= float(row["size"] or 0) <= self.sizes[1]:
                value = self.number(row)
                if self.over is not None:
                    value /= next((self.number(r) for r in rows if self.beside(row, r)), math.nan)
                found.append((row, value))
        return found

    def beside(self, row: Row, other: Row) -> bool:
        keys = ("part", "case", "size", "function", "way", "direction")
        return all(other[key] == (self.over or {}).get(key, row[key]) for key in keys)

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


SHAPES = {"part": "shapes"}
LARGE = (1e7, math.inf)  # scores, of the shapes
STEP = {"part": "DeiT-S", "direction": "training step"}
PIECES = {"part": "loss", "way": "pieces"}
LARGEST = (267_744, 267_744)  # entries of the vocabulary

ON_BOTH = [
    aim
    for on_gpu in (False, True)
    for aim in (
        Aim(
            "gradients of parameters whose bits differ between two runs",
            "functions",
            {"part": "gradients of parameters"},
            0,
            bits_differ,
            on_gpu=on_gpu,
        ),
        Aim(
            "gradients of parameters: relative error against float64",
            "functions",
            {"part": "gradients of parameters"},
            1e-4,
            column("error"),
            on_gpu=on_gpu,
        ),
        Aim(
            "output layer, V=267,744: peak memory beyond the gradients, over that of the scores in float32",
            "output_layer",
            PIECES,
            1.0,
            share_of_logits,
            on_gpu=on_gpu,
            sizes=LARGEST,
        ),
        Aim(
            "output layer, V=267,744: MultiMax in pieces, over softmax in pieces",
            "output_layer",
            PIECES | {"function": "multimax"},
            1.1,
            over={"function": "softmax"},
            on_gpu=on_gpu,
            sizes=LARGEST,
        ),
    )
]

AIMS = [
    Aim(
        "MultiMax by kernel, forward, over torch.softmax",
        "functions",
        SHAPES | {"function": "multimax", "way": "kernel", "direction": FORWARD},
        1.15,
    ),
    Aim(
        "MultiMax by kernel, forward + backward, over torch.softmax",
        "functions",
        SHAPES | {"function": "multimax", "way": "kernel", "direction": BOTH},
        1.3,
    ),
    Aim(
        "MultiMax without a compiler, forward, over torch.softmax",
        "functions",
        SHAPES | {"function": "multimax", "way": "eager", "direction": FORWARD},
        4.0,
        sizes=LARGE,
    ),
    Aim(
        "MultiMax without a compiler, forward + backward, over torch.softmax",
        "functions",
        SHAPES | {"function": "multimax", "way": "eager", "direction": BOTH},
        5.0,
        sizes=LARGE,
    ),
    *(
        Aim(
            f"{name} by kernel, forward + backward, over torch.softmax",
            "functions",
            SHAPES | {"function": name, "way": "kernel", "direction": BOTH},
            bound,
        )
        for name, bound in (("sparsemax", 1.3), ("entmax15", 1.3), ("evsoftmax", 1.3), ("entmax", 4.0))
    ),
    *(
        Aim(
            f"MultiMax's attention, N <= 512{causal}, forward + backward, over torch's fused softmax",
            "attention",
            {"function": "multimax", "way": "default", "direction": BOTH, "case": cases},
            1.0,
        )
        for causal, cases in (
            ("", ("64x6x197x64", "N=128", "N=256", "N=512")),
            (", causal", ("N=128, causal", "N=256, causal", "N=512, causal")),
        )
    ),
    Aim("training step of DeiT-S with MultiMax, over softmax", "training_steps", STEP | {"function": "multimax"}, 1.03),
    Aim(
        "training of the IWSLT14 model, tokens/s over fairseq's",
        "translation",
        {"part": "training", "way": "ours"},
        2.0,
        speedup,
        at_least=True,
    ),
    Aim(
        "beam search of the IWSLT14 model, sentences/s over fairseq's",
        "translation",
        {"part": "beam search", "way": "ours"},
        3.0,
        speedup,
        at_least=True,
    ),
    *ON_BOTH,
    Aim(
        "row kernels, rows of 197 to 16,384: bandwidth, over that of a copy",
        "functions",
        {"part": "row length", "way": "kernel"},
        0.8,
        column("of_copy"),
        at_least=True,
        on_gpu=True,
        sizes=(197, 16_384),
    ),
    Aim(
        "row kernels, rows of 197 to 16,384, over torch.softmax",
        "functions",
        {"part": "row length", "way": "kernel"},
        1.1,
        on_gpu=True,
        sizes=(197, 16_384),
    ),
    *(
        Aim(
            f"MultiMax by flash kernel, N >= 1024, {direction}, over {what}",
            "attention",
            {"part": "length", "function": "multimax", "way": "flash", "direction": direction},
            bound,
            over={"function": "softmax", "way": way},
            on_gpu=True,
            sizes=(1024, math.inf),
        )
        for direction, bound in ((FORWARD, 1.5), (BOTH, 1.7))
        for way, what in (("FlexAttention", "FlexAttention's plain softmax"), ("flash", "the same kernel's softmax"))
    ),
    Aim(
        "MultiMax by flash kernel: peak memory at N=4096, over N=1024 with as many tokens",
        "attention",
        {"part": "length", "case": "N=4096", "function": "multimax", "way": "flash", "direction": BOTH},
        1.5,
        column("peak_mb"),
        over={"case": "N=1024", "size": "1024"},
        on_gpu=True,
    ),
    Aim(
        "training step of DeiT-S with MultiMax, bfloat16, compiled, over softmax",
        "training_steps",
        STEP | {"function": "multimax"},
        1.08,
        on_gpu=True,
    ),
    Aim(
        "training of DeiT-S with softmax, bfloat16, compiled: images/s",
        "training_steps",
        STEP | {"function": "softmax"},
        7500,
        column("per_s"),
        at_least=True,
        on_gpu=True,
    ),
    Aim(
        "output layer, V=267,744: tokens/s",
        "output_layer",
        PIECES,
        250_000,
        column("per_s"),
        at_least=True,
        on_gpu=True,
        sizes=LARGEST,
    ),
]
