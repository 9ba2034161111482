"""The pictures in the repository show what the recorded runs and the claims give.

The CSV beside a picture holds what it shows, and is compared number by number on any machine. The
picture itself must match the digest in its sidecar, so that it is the one drawn with these numbers.
Where Matplotlib has the version that drew it, the SVG is drawn again and compared byte by byte.
"""

import csv
import json

import matplotlib
import pytest

from multimax.suite.report.outputs import digest
from multimax.suite.report.results import all_figures


def numbers_and_words(content):
    """The cells of a CSV, as floats where they are numbers."""

    def value(cell):
        try:
            return float(cell)
        except ValueError:
            return cell

    return [[value(cell) for cell in line] for line in csv.reader(content.decode().splitlines())]


def test_drawing_the_figures_again_shows_the_same(root):
    results = root / "results"
    made = set()
    for output in all_figures(results):
        place = results / output.name
        kept, now = json.loads(place.with_suffix(".json").read_text()), output.sidecar(results)
        assert (kept["runs"], kept["sources"]) == (now["runs"], now["sources"]), f"{place} is out of date: make results"
        for suffix, content in output.files.items():
            file = place.with_suffix(suffix)
            assert digest(file.read_bytes()) == kept["files"][file.name], f"{file} is not what was drawn"
            if kept["made_with"]["matplotlib"] == matplotlib.__version__ and suffix == ".svg":
                assert file.read_bytes() == content, f"{file} is out of date: make results"
        shown = numbers_and_words(place.with_suffix(".csv").read_bytes())
        for ours, theirs in zip(numbers_and_words(output.files[".csv"]), shown, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-3), f"{place}.csv is out of date: make results"
        made |= {place.with_suffix(suffix) for suffix in [*output.files, ".json"]}
    assert made == set((results / "figures").iterdir()), "make results leaves out, or does not know, some figure"
