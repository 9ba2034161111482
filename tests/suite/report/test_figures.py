"""The pictures that are in the repository show what the recorded runs and the claims give.

What a picture shows lies beside it as CSV, and that is compared number by number on any machine. A picture itself is
held to the digest in its sidecar, so that it is the one that was drawn with these numbers. Where Matplotlib has the
version that drew it, the SVG is drawn again and compared too, coordinates to a fifth of a point.
"""

import csv
import json
import re

import matplotlib
import numpy
import pytest
from matplotlib.colors import to_rgb

from multimax import reweight
from multimax.suite.analysis.figure2 import figure2
from multimax.suite.analysis.style import STYLES, style_of
from multimax.suite.report.outputs import digest
from multimax.suite.report.pictures import picture
from multimax.suite.report.results import all_figures


def numbers_and_words(content):
    """Cells of a CSV as floats where they are numbers."""

    def value(cell):
        try:
            return float(cell)
        except ValueError:
            return cell

    return [[value(cell) for cell in line] for line in csv.reader(content.decode().splitlines())]


def same_drawing(one, other):
    """Whether two SVG files are equal but for rounding in coordinates and the names made from these."""
    names, number = r"(?<=[#\"])[a-z][0-9a-f]{10}\b", r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
    one, other = (re.sub(names, "", text) for text in (one, other))
    near = zip(re.findall(number, one), re.findall(number, other), strict=False)
    return re.split(number, one) == re.split(number, other) and all(abs(float(a) - float(b)) < 0.2 for a, b in near)


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
                assert len(file.read_bytes()) == pytest.approx(len(content), rel=0.01), (
                    f"{file} is drawn in another way"
                )
        shown = numbers_and_words(place.with_suffix(".csv").read_bytes())
        for ours, theirs in zip(numbers_and_words(output.files[".csv"]), shown, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-3), f"{place}.csv is out of date: make results"
        made |= {place.with_suffix(suffix) for suffix in [*output.files, ".json"]}
    assert made == set((results / "figures").iterdir()), "make results leaves out, or does not know, some figure"


def test_a_picture_drawn_twice_is_the_same_to_the_byte():
    first, second = picture("f", *figure2()), picture("f", *figure2())
    assert first.files == second.files
    assert b"<dc:date>" not in first.files[".svg"]


def test_every_function_has_a_style_of_its_own():
    assert set(STYLES) == set(reweight.available())
    styles = [style_of(name) for name in [*STYLES, "tempered"]]
    for part in ("color", "marker"):
        assert len({str(getattr(style, part)) for style in styles}) == len(styles), part


def test_the_colour_blind_tell_the_colours_apart():
    """As deuteranopes and protanopes see them (Viénot, Brettel, Mollon 1999): 2.3 in CIELAB is just noticeable."""
    sees = {
        "protanopia": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "deuteranopia": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    }
    linear = numpy.array([to_rgb(style.color) for style in STYLES.values()]) ** 2.2
    for blindness, matrix in sees.items():
        seen = cielab((linear @ numpy.array(matrix).T).clip(0))
        distances = numpy.linalg.norm(seen[:, None] - seen, axis=-1) + 100 * numpy.eye(len(seen))
        assert distances.min() > 15, (blindness, distances)


def cielab(linear):
    """CIELAB of linear sRGB [n, 3] under D65."""
    white = numpy.array([0.9505, 1.0, 1.089])
    to_xyz = numpy.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / white
    x, y, z = numpy.where(xyz > 0.008856, numpy.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return numpy.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)
