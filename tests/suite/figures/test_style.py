"""Each function has a look of its own that everybody can tell apart."""

import numpy
from matplotlib.colors import to_rgb

from multimax import reweight
from multimax.suite.figures.style import STYLES, style_of


def test_every_function_has_a_style_of_its_own():
    assert set(STYLES) == set(reweight.available())
    styles = [style_of(name) for name in [*STYLES, "tempered"]]
    for part in ("color", "marker"):
        assert len({str(getattr(style, part)) for style in styles}) == len(styles), part


def test_the_colour_blind_tell_the_colours_apart():
    """As deuteranopes and protanopes see them (Viénot, Brettel, Mollon 1999). 2.3 in CIELAB is just noticeable."""
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
