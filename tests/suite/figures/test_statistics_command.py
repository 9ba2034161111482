"""python -m multimax.suite.figures on a run: its numbers add up over the data set, mistakes give a one-line error."""

import csv
import json

import pytest

from multimax.suite import cli
from multimax.suite.figures.__main__ import main
from multimax.suite.figures.statistics_figures import lines, short


def call(monkeypatch, function, *arguments):
    monkeypatch.setattr("sys.argv", ["program", *map(str, arguments)])
    function()


@pytest.mark.parametrize("name", ["multimax", "softmax"])
def test_a_run_of_the_demo(name, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    steps = ["training.epochs=null", "training.steps=2", "training.evaluate_every=2", "schedule.warmup_epochs=null"]
    call(monkeypatch, cli.train, f"reweight={name}", f"run_dir={run}", *steps)
    call(monkeypatch, main, "statistics", run)
    made = {path.name for path in (run / "analysis").iterdir()}
    kinds = {"attention", "histograms"} | ({"modulators"} if name == "multimax" else set())
    assert made == {f"{kind}{suffix}" for kind in kinds for suffix in (".csv", ".svg", ".png")} | {"statistics.json"}
    assert str(run / "analysis" / "attention.csv") in capsys.readouterr().out

    rows = list(csv.DictReader((run / "analysis" / "attention.csv").open()))
    images, tokens = 360, 16
    assert [(row["attention"][-6], row["head"]) for row in rows] == [
        (str(i), str(h)) for i in range(4) for h in range(4)
    ]
    assert {row["rows"] for row in rows} == {str(images * tokens)}
    assert {float(row["support"]) for row in rows} == {tokens}
    shares = {}
    for row in csv.DictReader((run / "analysis" / "histograms.csv").open()):
        key = row["attention"], row["of"] == "score"
        shares[key] = shares.get(key, 0) + float(row["share"])
    assert len(shares) == 8
    assert all(share == pytest.approx(1, abs=1e-3) for share in shares.values())
    kept = json.loads((run / "analysis" / "statistics.json").read_text())
    assert set(kept["modulators"]) == ({*kept["attentions"], "output"} if name == "multimax" else set())


def test_a_mistake_ends_in_one_line(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call(monkeypatch, main, "statistics", tmp_path)
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} is not a run folder")


def test_names_without_what_they_share():
    assert short(["backbone.blocks.0.attn", "backbone.blocks.11.attn", "output"]) == ["0", "11", "output"]
    mixed = ["encoder.0.attention.branch", "decoder.0.attention.branch", "decoder.0.cross_attention.branch"]
    assert short(mixed) == ["enc 0", "dec 0", "cross 0"]
    assert short(["blocks.0"]) == ["blocks.0"]


def test_lines_of_each_kind_of_attention_have_a_stroke_and_run_from_dark_to_light():
    looks = lines([f"{side}.{i}.attention" for side in ("encoder", "decoder") for i in range(3)])
    strokes, shades = [look["linestyle"] for look in looks], [sum(look["color"][:3]) for look in looks]
    assert len(set(strokes[:3])) == len(set(strokes[3:])) == 1
    assert strokes[0] != strokes[3]
    assert shades[:3] == shades[3:] == sorted(shades[:3])
    assert len({(look["linestyle"], look["color"]) for look in looks}) == 6
