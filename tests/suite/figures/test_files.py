"""The bytes of a figure depend only on what it shows."""

import matplotlib.pyplot as plt
import numpy as np

from multimax.suite.figures.files import figure_files


def test_the_last_digits_of_a_processor_do_not_show_in_an_svg():
    drawn = []
    for digits in (0, 1e-13):
        figure, axes = plt.subplots()
        points = np.geomspace(1, 1000, 40) * (1 + digits)
        axes.loglog(points, points**1.5, "o-", label="a line")
        axes.legend()
        drawn.append(figure_files(figure, [{"x": "1"}])[".svg"])
        plt.close(figure)
    assert drawn[0] == drawn[1]
    assert b"scale(0.015625)" in drawn[0]
    assert b"<dc:date>" not in drawn[0]
