"""Figures 1 and 2 as outputs, and the table of Figure 1's points."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multimax.suite.figures.figure1 import figure1, idea
from multimax.suite.figures.figure2 import figure2
from multimax.suite.measures.three_scores import Fit, fit_multimax, functions, points
from multimax.suite.report.claims import NOT_REPRODUCED, REPRODUCED
from multimax.suite.report.outputs import Output, Row, picture, table

COLUMNS = ("function", "k", "M published", "M here", "difference", "S here", "verdict")


def figure1_fit(claims: Mapping[str, Any]) -> Fit:
    """MultiMax fitted to the weights among the ``figure1`` claims."""
    return fit_multimax(claims["k"], *claims["multimax_weights"])


def figure1_picture(claims: Mapping[str, Any], path: Path) -> Output:
    drawing, rows = figure1(figure1_fit(claims), claims["k"], claims["multi_modality"])
    return picture("figure1", drawing, rows, sources=[path])


def idea_picture(claims: Mapping[str, Any], path: Path) -> Output:
    return picture("idea", *idea(figure1_fit(claims)), sources=[path])


def figure2_picture() -> Output:
    return picture("figure2", *figure2())


def figure1_table(claims: Mapping[str, Any], path: Path) -> Output:
    """Every published point beside ours. MultiMax was fitted to its own: that is no reproduction."""
    fit, tolerance = figure1_fit(claims), claims["tolerance"]
    rows: list[Row] = []
    for name, values in claims["multi_modality"].items():
        here = points(functions(fit)[name], claims["k"])
        for k, published, m, s in zip(
            claims["k"], values, here.multi_modality.tolist(), here.sparsity.tolist(), strict=True
        ):
            verdict = REPRODUCED if abs(m - published) <= tolerance else NOT_REPRODUCED
            rows.append(
                {
                    "function": name,
                    "k": str(k),
                    "M published": f"{published:.3f}",
                    "M here": f"{m:.3f}",
                    "difference": f"{round(m - published, 3) + 0.0:+.3f}",  # no -0.000
                    "S here": f"{s:.3f}",
                    "verdict": "fitted" if name == "multimax" else verdict,
                }
            )
    ranges, ts = (", ".join(f"{value:.2f}" for value in values.tolist()) for values in (fit.ranges, fit.ts))
    text = f"""# The points of Figure 1

Made by `python -m multimax.suite.report` from `results/claims.yaml`. Scores (10, k, -1); the published points were
measured in the authors' picture and count as reproduced within {tolerance}.

The parameters of the authors' MultiMax are not published. Its rows come from parameters fitted to the published
weights, r = ({ranges}) and t = ({ts}), whose largest residual in a weight is {fit.residual:.5f}. They show that
MultiMax can do this, not that it learns to; other parameters fit as well.

"""
    return table("figure1", text, COLUMNS, rows, sources=[path])
