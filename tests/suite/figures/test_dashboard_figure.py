"""The figure of the dashboard: its bands, and that it has a panel for each panel of the workspace."""

import csv

from multimax.suite.figures.dashboard import bands
from multimax.suite.loggers.dashboard import curves


def test_a_band_is_over_the_seeds_that_have_the_step():
    assert bands([{1: 2.0, 2: 5.0}, {1: 4.0}, {1: 9.0}]) == [(1, 5.0, 2.0, 9.0), (2, 5.0, 5.0, 5.0)]


def test_it_has_the_panels_of_the_workspace(root):
    with (root / "results/figures/dashboard_multi30k_cpu.csv").open() as file:
        rows = list(csv.DictReader(file))
    drawn = {(row["section"], row["panel"]) for row in rows} - {("Final metrics", "BLEU, tokenised, last step")}
    assert drawn == {(section, title) for section, panels in curves("mt").items() for title in panels}
    for row in rows:
        assert float(row["least"]) <= float(row["mean"]) <= float(row["greatest"]), row
