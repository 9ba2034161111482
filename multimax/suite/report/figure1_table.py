"""The table of Figure 1's points, published and computed here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multimax.suite.measures.three_scores import Fit, functions, points
from multimax.suite.report.claims import NOT_REPRODUCED, REPRODUCED
from multimax.suite.report.outputs import Output, Row, table

COLUMNS = ("function", "k", "M published", "M here", "difference", "S here", "verdict")


def figure1_table(fit: Fit, claims: Mapping[str, Any], path: Path) -> Output:
    """Every published point next to ours. MultiMax was fitted to its own points, which is not a reproduction."""
    rows: list[Row] = []
    for name, values in claims["multi_modality"].items():
        here = points(functions(fit)[name], claims["k"])
        for k, published, m, s in zip(
            claims["k"], values, here.multi_modality.tolist(), here.sparsity.tolist(), strict=True
        ):
            verdict = REPRODUCED if abs(m - published) <= claims["tolerance"] else NOT_REPRODUCED
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
measured in the authors' picture and count as reproduced within {claims["tolerance"]}.

The parameters of the authors' MultiMax are not published. Its rows come from parameters fitted to the published
weights, r = ({ranges}) and t = ({ts}), whose largest residual in a weight is {fit.residual:.5f}. They show that
MultiMax can do this, not that it learns to; other parameters fit as well.

"""
    return table("figure1", text, COLUMNS, rows, sources=[path])
