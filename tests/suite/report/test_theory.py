"""docs/theory.md: what it proves holds row by row; its tables are what the program counts."""

import csv
import json

import pytest
import torch

from multimax import reweight
from multimax.suite.measures.trade_off import SETTINGS, draw_rows, gains, mean, two_slopes, warmer_and_colder
from multimax.suite.report.outputs import digest
from multimax.suite.report.theory import PAGE, theory, with_tables

QUICK = ["normal, n = 8", "uniform, n = 16"]


def read(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_counting_again_gives_the_same(root):
    for output in theory(root / "results", QUICK):
        path = root / "results" / f"{output.name}.csv"
        kept = {row["scores"]: row for row in read(path)}
        for row in csv.DictReader(output.files[".csv"].decode().splitlines()):
            if row["scores"] in QUICK:
                assert row == kept[row["scores"]], "make results"
        assert list(kept) == [*SETTINGS, "all"]
        assert json.loads(path.with_suffix(".json").read_text())["files"][path.name] == digest(path.read_bytes())


def test_the_page_has_the_tables(root):
    page = (root / PAGE).read_text()
    assert with_tables(page, root / "results/theory") == page, "make results"
    for path in (root / "results/theory").glob("*.csv"):
        assert f"<!-- {path.stem} -->" in page


def test_what_is_proved_of_every_row_holds_in_every_row(root):
    folder = root / "results/theory"
    for row in read(folder / "temperature.csv"):
        assert row["one better in both"] == "0"
    for row in read(folder / "one_side.csv"):
        assert (row["below only"], row["above only"]) == ("0.0", "0.0")


@pytest.mark.parametrize("setting", SETTINGS)
def test_entry_by_entry_a_colder_softmax_widens_every_gap_and_lowers_every_irrelevant_weight(setting):
    scores = draw_rows(setting, 500)
    warm, cold = (reweight.softmax(of) for of in warmer_and_colder(scores))
    gaps = (cold.amax(-1, keepdim=True) - cold) - (warm.amax(-1, keepdim=True) - warm)
    assert gaps.min() > -1e-15
    assert (cold <= warm)[scores < mean(scores)].all()


@pytest.mark.parametrize("setting", SETTINGS)
def test_two_slopes_are_seglu_of_the_first_order(setting):
    scores, at = draw_rows(setting, 20), 0.3
    ranges, ts = torch.full((2,), at).double(), torch.tensor([1 - 4, 0.5 - 1]).double()
    expected = reweight.seglu(scores, ranges, ts, order=1)
    torch.testing.assert_close(two_slopes(scores, at, 4, 0.5), expected - at)


def test_rows_with_nothing_to_trade_do_not_count():
    scores = torch.tensor([[3.0, 0.0, 0.0], [3.0, 2.0, -9.0]]).double()
    assert len(gains(scores, mean(scores), scores, 2 * scores).both) == 1
