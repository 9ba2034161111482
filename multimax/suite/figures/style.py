"""How figures look: each function has one colour, marker and line style everywhere.

The colours of the paper's functions are Okabe and Ito's ("Color Universal Design", 2008). A search
chose the others: among the colours that colour-blind people can tell apart, each is the one that is
farthest from all before it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor


@dataclass(frozen=True)
class Style:
    label: str
    color: str
    marker: Any  # for Matplotlib: a letter, or (points, 1, angle) of a star
    line: Any  # for Matplotlib: a name, or the lengths of dashes
    size: float = 6.0


STYLES = {
    "softmax": Style("softmax", "#000000", "o", "-"),
    "multimax": Style("MultiMax", "#D55E00", "*", "-", 11),
    "sparsemax": Style("sparsemax", "#0072B2", "s", "--"),
    "entmax15": Style("1.5-entmax", "#56B4E9", "^", "-.", 7),
    "entmax": Style("entmax", "#009E73", "D", (0, (1, 1))),
    "evsoftmax": Style("ev-softmax", "#CC79A7", "v", (0, (5, 1, 1, 1, 1, 1)), 7),
    "temperature": Style("learned temperature", "#7B4B2A", "P", (0, (3, 1, 1, 1)), 7),
    "sigmoid": Style("sigmoid", "#0207FF", "<", "-", 7),
    "relu": Style("ReLU / n", "#0AEB4E", ">", "--", 7),
    "softmax_plus_one": Style("softmax-plus-one", "#1B0277", "p", "-.", 7),
    "sink": Style("learned sink", "#F82EFE", "h", ":", 7),
    "softpick": Style("softpick", "#FF1162", "H", "-", 7),
    "scalable_softmax": Style("scalable softmax", "#D5CAAD", "d", "--", 7),
    "topk_softmax": Style("top-k softmax", "#590341", "8", "-.", 7),
    "elastic_softmax": Style("elastic softmax", "#BB0A93", "x", ":", 7),
    "sa_softmax": Style("self-adjust softmax", "#666DE5", "+", "-", 7),
    "normmax": Style("normmax", "#A4DA7C", (4, 1, 0), "--", 9),
    "stieltjes": Style("Stieltjes", "#06E0E3", (3, 1, 0), "-.", 9),
}
OTHER = "#E69F00"


def style_of(function: str) -> Style:
    """The style of a function by its registered name; functions registered by users share one."""
    return STYLES.get(function) or Style(function, OTHER, "X", (0, (3, 1)))


SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "path",
    "svg.hashsalt": "multimax",
}
"""Matplotlib's settings while a figure is drawn and while it is saved."""


@contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of this size in inches with constrained layout; draw on it within the context."""
    with matplotlib.rc_context(SETTINGS):
        yield Figure(figsize=(width, height), layout="constrained")


def rounded(values: Tensor) -> Tensor:
    """``values`` in float64, rounded to four decimals.

    Processors that agree up to there then give the same bits.
    """
    flat = [round(value, 4) for value in values.flatten().tolist()]
    return torch.tensor(flat, dtype=torch.float64).view_as(values)
