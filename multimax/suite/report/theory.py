"""``results/theory``: how often rows of scores do what docs/theory.md proves about them, and that page's tables."""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from multimax.suite.measures import trade_off
from multimax.suite.measures.trade_off import DROP, SETTINGS, by_slopes, draw_rows, gains, mean, with_offsets
from multimax.suite.report.outputs import Output, rewrite
from multimax.suite.text_tables import csv_table, markdown_table

SLOPES = ((2.0, 0.5), (4.0, 0.5), (4.0, 0.25), (16.0, 0.125))
OFFSETS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
SHARED = (4.0, 0.5)  # the slopes at breakpoints that rows share
ONE_SIDE = {"below only": (4.0, 1.0), "above only": (1.0, 0.5), "both": (4.0, 0.5), "drop below": (DROP, 0.5)}
Cells = dict[str, float]  # counts of rows as int, shares of them in percent as float
PAGE = "docs/theory.md"


def theory(results: Path, settings: Sequence[str] = tuple(SETTINGS)) -> Iterator[Output]:
    """The tables, which depend on no file."""
    drawn = {setting: draw_rows(setting) for setting in settings}
    for count in (temperature, own_breakpoints, shared_breakpoints, one_side):
        of = {setting: count(scores) for setting, scores in drawn.items()}
        of["all"] = together(list(of.values()))
        rows = [{"scores": label} | texts(cells) for label, cells in of.items()]
        yield Output(f"theory/{count.__name__}", {".csv": csv_table(list(rows[0]), rows)})


def together(of: Sequence[Cells]) -> Cells:
    """Sums of counts and means of shares; every setting has the same number of rows."""
    return {
        name: sum(cells[name] for cells in of) if isinstance(value, int) else fmean(cells[name] for cells in of)
        for name, value in of[0].items()
    }


def texts(cells: Cells) -> dict[str, str]:
    return {name: f"{value:,}" if isinstance(value, int) else f"{value:.1f}" for name, value in cells.items()}


def temperature(scores: Tensor) -> Cells:
    """Softmax at two temperatures, with the row's mean, and the mean plus one deviation, as the threshold."""
    warm, cold = trade_off.warmer_and_colder(scores)
    at_mean = gains(scores, mean(scores), warm, cold)
    higher = gains(scores, mean(scores) + scores.std(-1, keepdim=True), warm, cold)
    return {
        "rows": len(at_mean.both),
        "traded": int(at_mean.traded.sum()),
        "one better in both": int((at_mean.both | (at_mean.m_fell & at_mean.s_fell)).sum()),
        "traded, threshold a deviation higher": percent(higher.traded),
    }


def own_breakpoints(scores: Tensor) -> Cells:
    """Both slopes meet at the row's mean."""
    found = by_slopes(scores, mean(scores), SLOPES)
    each = {f"{below:g} and {above:g}": percent(both) for (below, above), both in zip(SLOPES, found, strict=True)}
    return each | {"one of these": percent(torch.stack(found).any(0))}


def shared_breakpoints(scores: Tensor) -> Cells:
    """Both slopes meet at the mean of all rows; the rows' own means are spread by multiples of a score's deviation."""
    cells = {}
    for offset in OFFSETS:
        moved = with_offsets(scores, offset)
        (both,) = by_slopes(moved, float(moved.mean()), [SHARED])
        cells[f"offsets {offset:g}"] = percent(both)
    return cells


def one_side(scores: Tensor) -> Cells:
    """A temperature only on one side of the row's mean, on both, and above it with everything below dropped."""
    found = by_slopes(scores, mean(scores), ONE_SIDE.values())
    cells = {name: percent(both) for name, both in zip(ONE_SIDE, found, strict=True)}
    moved = with_offsets(scores, 1.0)
    shared = by_slopes(moved, float(moved.mean()), [ONE_SIDE["both"], ONE_SIDE["drop below"]])
    names = ("both, shared breakpoint", "drop below, shared breakpoint")
    return cells | {name: percent(both) for name, both in zip(names, shared, strict=True)}


def percent(of: Tensor) -> float:
    return 100 * of.double().mean().item()


def update_theory(results: Path) -> None:
    """Update docs/theory.md from the tables in ``results``."""
    rewrite(PAGE, results, lambda page: with_tables(page, results / "theory"))


def with_tables(page: str, folder: Path) -> str:
    """``page`` with everything between ``<!-- NAME -->`` and ``<!-- end -->`` made from ``folder``/NAME.csv."""

    def made(found: re.Match[str]) -> str:
        with (folder / f"{found[1]}.csv").open(newline="", encoding="utf-8") as file:
            columns, *rows = csv.reader(file)
        return f"<!-- {found[1]} -->\n\n{markdown_table(columns, rows)}\n<!-- end -->"

    return re.sub("<!-- ([a-z_]+) -->.*?<!-- end -->", made, page, flags=re.S)
