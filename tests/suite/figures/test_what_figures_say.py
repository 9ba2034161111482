"""Titles say what is in the picture, and things that are compared share one scale."""

from matplotlib.colors import to_rgba

from multimax.suite.figures.forest import Line, forest
from multimax.suite.figures.oversmoothing_figure import Smoothing, oversmoothing_figure
from multimax.suite.figures.panels import draw_maps
from multimax.suite.figures.statistics_figures import both_title, falling_title
from multimax.suite.report.measured_figures import smoothing_title


def attention(gini, multi_modality):
    return {"means": {"gini": [gini, None], "multi_modality": [multi_modality]}}


def test_an_attention_counts_as_both_where_gini_and_m_are_above_softmax():
    found = {
        "softmax": {"function": "softmax", "attentions": dict.fromkeys("abc", attention(0.5, 0.5))},
        "ours": {
            "function": "multimax",
            "attentions": {"a": attention(0.6, 0.6), "b": attention(0.9, 0.4), "c": attention(0.4, 0.9)},
        },
    }
    assert "ours in 1 of 3 attentions" in both_title(found)
    assert both_title({"ours": found["ours"]}) == ""


def test_a_modulator_falls_where_a_larger_score_is_mapped_lower():
    rising, falling = {"modulated": [[-1.0, 0.0, 2.0]]}, {"modulated": [[0.0, 1.0, 2.0], [0.0, -0.1, 1.0]]}
    found = {"ours": {"modulators": {"a": rising, "b": falling, "output": falling}}}
    assert "1 of 2 attentions" in falling_title(found)


def smoothing(label, seed, epochs, last):
    measured = [
        {"epoch": epoch, "step": 10 * epoch, "patch_similarity": [0.5, 0.6], "mad": [0.9, last]} for epoch in epochs
    ]
    return Smoothing(label, label, seed, measured)


def test_over_training_only_what_was_measured_of_every_run_is_shown():
    runs = [smoothing("softmax", 0, [0, 5, 10], 0.5), smoothing("multimax", 0, [0, 10], 0.6)]
    drawing, rows = oversmoothing_figure(runs)
    assert list(drawing.axes[2].get_xticks()) == [0, 10]
    assert all(set(line.get_xdata()) == {0, 10} for line in drawing.axes[2].lines)
    assert len(rows) == 2 * (3 + 2)
    assert len(oversmoothing_figure([*runs, smoothing("multimax", 1, [10], 0.6)])[0].axes) == 2


def test_the_title_of_over_smoothing_has_the_paired_difference_of_the_last_layer():
    values = {"softmax": [0.5, 0.6, 0.4], "multimax": [0.6, 0.7, 0.5], "sparsemax": [0.3]}
    runs = [smoothing(label, seed, [10], last) for label, of in values.items() for seed, last in enumerate(of)]
    assert smoothing_title("small", runs).endswith("minus softmax's: multimax +0.100 [+0.100 to +0.100]")
    assert smoothing_title("small", runs[:3]) == "small, exploratory"


def test_secondary_marks_are_hollow():
    lines = [Line(str(secondary), "multimax", [1.0, 2.0], 1.5, (1.0, 2.0), secondary) for secondary in (False, True)]
    (axes,) = forest({"group": lines}, "title", "axis")[0].axes
    faces = [to_rgba(line.get_markerfacecolor()) for line in axes.lines if line.get_marker() == "*"]
    assert faces[0] != faces[1] == to_rgba("white")


def test_maps_of_text_share_one_scale():
    values = {"softmax": [[0.5, 0.5], [0.1, 0.2]], "sparsemax": [[1.0, 0.0], [0.8, 0.2]]}
    text = {"queries": list("ab"), "keys": list("ab")}
    found = {
        name: text | {"rows": [{"label": "", "panels": [{"title": "", "values": of}]}]} for name, of in values.items()
    }
    drawing, _ = draw_maps(found)
    assert {axes.images[0].get_clim() for axes in drawing.axes} == {(0, 1.0)}
