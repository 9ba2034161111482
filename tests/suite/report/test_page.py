"""The contents of the page of runs; tests/suite/report/test_page_in_browser.py opens it."""

import base64
import csv
import hashlib
import json
import os
import re
import shlex
import threading
import urllib.error
import urllib.request
from dataclasses import asdict
from decimal import ROUND_HALF_UP, Decimal
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from page_runs import NAUGHTY, make_run, make_runs

from multimax.suite.composition import compose_configuration, typed
from multimax.suite.errors import UserError
from multimax.suite.figures.style import STYLES
from multimax.suite.identity import identity
from multimax.suite.report.page.curves import POINTS, Curves, packed, thinned
from multimax.suite.report.page.data import page_data, read_run
from multimax.suite.report.page.html import page
from multimax.suite.report.page.results_page import results_page, table
from multimax.suite.report.page.serve import Runs, server
from multimax.suite.report.statistics import paired
from multimax.suite.runs import Run, read_runs


class Parts(HTMLParser):
    """The elements of a page, and the text of its scripts and style."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.texts.append("")
        self.inside = True

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.texts[-1] += data

    def all(self, tag):
        return [
            (attributes, text)
            for (name, attributes), text in zip(self.elements, self.texts, strict=True)
            if name == tag
        ]


def data_in(content):
    """The data that a page holds as JSON."""
    return next(json.loads(text) for attributes, text in Parts(content.decode()).all("script") if attributes.get("id"))


def data_of(folder):
    return page_data([read_run(Run(path)) for path in sorted(folder.iterdir())], "Runs", "Made up.")


def test_the_page_in_the_repository_is_what_the_records_give(root):
    results = root / "results"
    [output] = results_page(results)
    kept = json.loads((results / "index.json").read_text())
    assert kept.pop("revision")
    assert (results / "index.html").read_bytes() == output.files[".html"], (
        "results/index.html is out of date: make results"
    )
    assert kept == output.sidecar(results), "results/index.json is out of date: make results"
    data = data_in(output.files[".html"])
    assert [run["name"] for run in data["runs"]] == [record.path.name for record in read_runs(results / "runs")]
    assert all(run["curves"] and run["command"] for run in data["runs"])
    for run in data["runs"]:
        assert (results / run["folder"]).is_dir()
    for figure in data["figures"]:
        assert all((results / (figure["path"] + suffix)).is_file() for suffix in figure["files"])
    assert len(output.files[".html"]) < 1_000_000


def as_the_page_shows(value, sign=""):
    """Round as JavaScript's toFixed(2) does: halves up, where Python rounds them to even."""
    rounded = Decimal(value).quantize(Decimal(".01"), ROUND_HALF_UP) + 0  # + 0: no negative zero
    return f"{rounded:{sign}}"


def test_the_page_shows_the_numbers_of_the_tables(root):
    """Each number is rounded only once, from its full value."""
    tables = root / "results" / "tables"
    data = data_in((root / "results" / "index.html").read_bytes())
    assert data["means"]
    for mean in data["means"]:
        with (tables / f"{mean['experiment']}.csv").open(newline="") as file:
            [row] = [row for row in csv.DictReader(file) if row["function"] == mean["function"]]
        assert as_the_page_shows(mean["mean"]) == row["mean"]
        for key, column in (("deviation", "standard deviation"), ("difference", "difference")):
            if mean[key] is not None:
                assert as_the_page_shows(mean[key], "+" if key == "difference" else "") == row[column]
        if mean["interval"]:
            assert " to ".join(map(as_the_page_shows, mean["interval"])) == row["95% interval"]
        if mean["difference_interval"]:
            bounds = [as_the_page_shows(bound, "+") for bound in mean["difference_interval"]]
            assert " to ".join(bounds) == row["of the difference"]
        runs = [r for r in data["runs"] if (r["experiment"], r["function"]) == (mean["experiment"], mean["function"])]
        assert sorted(as_the_page_shows(run["value"]) for run in runs) == sorted(row["values"].split())


def test_the_page_is_one_file_that_asks_for_nothing(tmp_path):
    make_runs(tmp_path)
    content = page(data_of(tmp_path)).decode()
    parts = Parts(content)
    assert all(attributes["href"].startswith("data:") for attributes, _ in parts.all("link"))
    assert not [a for tag in ("script", "img", "iframe") for a, _ in parts.all(tag) if "src" in a]
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", content)
    assert "innerHTML" not in content
    assert "{{" not in content
    [(_, style)], scripts = parts.all("style"), parts.all("script")
    policy = next(a["content"] for a, _ in parts.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    run = [text for attributes, text in scripts if "type" not in attributes]
    for kind, text in (("style-src", style), ("script-src", *run)):
        expected = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert re.search(rf"{kind} 'sha256-{re.escape(expected)}'(;|$)", policy)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_same_runs_give_the_same_bytes(tmp_path):
    make_runs(tmp_path)
    assert page(data_of(tmp_path)) == page(data_of(tmp_path))


def test_what_a_run_is_called_cannot_leave_the_data(tmp_path):
    make_run(tmp_path, name="x", experiment=NAUGHTY, description=NAUGHTY + "\u2028&amp;")
    content = page(data_of(tmp_path))
    parts = Parts(content.decode())
    assert len(parts.all("script")) == 2
    assert not parts.all("img")
    [run] = data_in(content)["runs"]
    assert run["experiment"] == NAUGHTY


def test_functions_look_as_in_the_figures(tmp_path):
    make_run(tmp_path, "softmax")
    looks = data_of(tmp_path)["functions"]
    for name, style in STYLES.items():
        assert (looks[name]["color"], looks[name]["label"]) == (style.color, style.label)
    assert len({look["outline"] for look in looks.values()}) == len(STYLES)
    square = {tuple(map(float, point.split())) for point in re.findall(r"[ML]([^MLZ]+)", looks["sparsemax"]["outline"])}
    assert square == {(x, y) for x in (-0.5, 0.5) for y in (-0.5, 0.5)}
    assert looks["softmax"]["dash"] == []
    assert looks["entmax"]["dash"] == [1, 1]
    assert len(looks["sparsemax"]["dash"]) == 2


def test_differences_are_paired_by_seed(tmp_path):
    for seed, (ours, softmax) in enumerate([(52.0, 50.0), (53.0, 49.0), (51.0, 50.5)]):
        make_run(tmp_path, "multimax", seed, level=ours - seed)
        make_run(tmp_path, "softmax", seed, level=softmax - seed)
    make_run(tmp_path, "multimax", 3, level=90.0)
    row = next(row for row in data_of(tmp_path)["means"] if row["function"] == "multimax-softmax")
    expected = paired({0: 52.0, 1: 53.0, 2: 51.0}, {0: 50.0, 1: 49.0, 2: 50.5})
    assert row["seeds"] == [0, 1, 2, 3]
    assert row["pairs"] == 3
    assert row["difference"] == pytest.approx(expected.mean, rel=1e-4)
    assert row["difference_interval"] == pytest.approx(expected.interval, rel=1e-4)
    assert row["p"] == pytest.approx(expected.p, rel=1e-4)


def test_the_score_on_test_data_stands_beside_that_on_validation_data(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path, "softmax", seed, task="mt", level=30.0)
        make_run(tmp_path, "softmax", seed, task="deit")
    data = data_of(tmp_path)
    scores = {run["name"]: (run["validation"], run["test"]) for run in data["runs"]}
    assert scores["mt-softmax-seed1"] == (31.0, 31.0)
    assert scores["deit-softmax-seed1"] == (51.0, None)
    assert [(row["validation"], row["test"]) for row in data["means"]] == [(50.5, None), (30.5, 30.5)]


def test_runs_that_differ_in_more_than_function_and_seed_are_told_apart(tmp_path):
    for rate in (0.1, 0.2):
        for seed in (0, 1):
            make_run(tmp_path, seed=seed, name=f"{rate}-{seed}", training={"label_smoothing": rate})
    data = data_of(tmp_path)
    assert {run["variant"] for run in data["runs"]} == {f"training.label_smoothing={rate}" for rate in (0.1, 0.2)}
    assert [row["seeds"] for row in data["means"]] == [[0, 1], [0, 1]]


def test_thinned_curves_keep_their_ends_and_seeds_keep_their_steps():
    steps = list(range(1, 7654))
    thin, values = thinned((steps, [float(step) for step in steps]), POINTS)
    assert len(thin) <= POINTS
    assert thin == values
    assert (thin[0], thin[-1]) == (1, 7653)
    assert {b - a for a, b in pairwise(thin[:-1])} == {thin[1] - thin[0]}
    assert thinned((steps[:POINTS], steps[:POINTS]), POINTS)[0] == steps[:POINTS]
    many = [Curves({"loss": (steps, [0.5] * len(steps))}, 7653)] * 100
    _, runs, most = packed(many, budget=10_000)
    assert sum(len(curve[2]) for _, curves in runs for curve in curves) <= 100 * most <= 10_000


def test_curves_come_back_to_five_digits(tmp_path):
    run = make_run(tmp_path, steps=1000, every=50)
    data = data_of(tmp_path)
    [(axis, values)] = [(a, v) for m, a, v in data["runs"][0]["curves"] if data["metrics"][m] == "train/loss"]
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = {row["step"]: row["train/loss"] for row in logged if "train/loss" in row}
    assert dict(zip(data["runs"][0]["steps"][axis], values, strict=True)) == pytest.approx(logged, rel=1e-4)


def test_a_table_is_read_with_its_words(tmp_path):
    (tmp_path / "t.csv").write_text('a,b\n1,"x, y"\n')
    (tmp_path / "t.md").write_text("# A title\n\nSome words\nabout it.\n\n| a | b |\n|---|---|\n| 1 | x |\n")
    assert table(tmp_path / "t.csv") == {
        "name": "t", "title": "A title", "text": "Some words about it.", "columns": ["a", "b"], "rows": [["1", "x, y"]],
    }  # fmt: skip


def test_the_command_of_a_recorded_run_makes_that_run(root):
    """One run of each experiment, with the functions in turn.

    The version of the numerics may have grown since the run.
    """
    groups: dict[str, list] = {}
    for record in read_runs(root / "results" / "runs"):
        groups.setdefault(record.experiment, []).append(record)
    for number, group in enumerate(groups.values()):
        record = group[number * 3 % len(group)]
        train, script, *overrides = shlex.split(record.summary["command"])
        assert (train, script) == ("python", "train.py")
        config = typed(compose_configuration(overrides))
        then, now = (identity(of, type(config)) for of in (record.config, asdict(config)))
        assert now.pop("numerics", 1) >= then.pop("numerics", 1), record.path
        assert now == then, record.path


@pytest.fixture
def served(tmp_path):
    """Serve the runs in ``tmp_path``; yields a function that loads a path from the server."""
    make_run(tmp_path / "runs", "multimax", 0)
    running = server(Runs([tmp_path / "runs"]), 0)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()

    def load(path="/", host="localhost"):
        address = f"http://127.0.0.1:{running.server_port}{path}"
        with urllib.request.urlopen(urllib.request.Request(address, headers={"Host": host}), timeout=30) as answer:
            return answer.headers, answer.read()

    yield load
    running.shutdown()
    thread.join()
    running.server_close()


def test_a_served_page_is_read_anew_at_each_load(served, tmp_path):
    def statuses():
        return {run["name"]: (run["status"], run["step"]) for run in data_in(served()[1])["runs"]}

    assert statuses() == {"deit-multimax-seed0": ("finished", 1000)}
    run = make_run(tmp_path / "runs", "softmax", 1, finished=False, steps=500)
    assert statuses()["deit-softmax-seed1"] == ("running", 500)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 600, "epoch": 6.0, "train/loss": 1.0}\n{"step": 650, "epo')
    assert statuses()["deit-softmax-seed1"] == ("running", 600)
    for path in run.iterdir():
        os.utime(path, (1, 1))
    assert statuses()["deit-softmax-seed1"] == ("stopped", 600)


def test_a_run_that_cannot_be_read_is_named_and_keeps_no_other_away(served, tmp_path):
    run = make_run(tmp_path / "runs", "softmax", 1)
    (run / "metrics.jsonl").write_text("no JSON\n")
    data = data_in(served()[1])
    assert [run["name"] for run in data["runs"]] == ["deit-multimax-seed0"]
    assert len(data["problems"]) == 1
    assert "deit-softmax-seed1" in data["problems"][0]


def test_pictures_of_a_run_are_served_and_no_other_file(served, tmp_path):
    analysis = tmp_path / "runs" / "deit-multimax-seed0" / "analysis"
    analysis.mkdir()
    (analysis / "attention map.png").write_bytes(b"a picture")
    (analysis / "attention map.csv").write_text("secret")
    [[kind, place]] = data_in(served()[1])["runs"][0]["pictures"]
    assert kind == "analysis/attention map"
    headers, content = served(f"/{place}")
    assert (headers["Content-Type"], content) == ("image/png", b"a picture")
    for other in (place.replace(".png", ".csv"), "pictures/0/../../../../etc/passwd", "pictures/0/config.yaml", "etc"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            served(f"/{other}")


def test_a_foreign_name_for_this_machine_gets_nothing(served):
    assert served(host="localhost:9000")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        served(host="evil.example")


def test_serving_nothing_is_an_error_of_one_line(tmp_path):
    with pytest.raises(UserError, match="no runs in"):
        Runs([tmp_path]).html()
    with pytest.raises(UserError, match="is not a folder"):
        Runs([tmp_path / "absent"]).html()
    make_run(tmp_path)
    with server(Runs([tmp_path]), 0) as running, pytest.raises(UserError, match="choose another with --port"):
        server(Runs([tmp_path]), running.server_port)


def test_a_page_of_500_runs_has_every_run_and_curve(tmp_path):
    make_runs(tmp_path, experiments=42, seeds=4, steps=500, every=100)
    data = data_in(page(data_of(tmp_path)))
    assert len(data["runs"]) == 504
    assert all(len(run["curves"]) >= 2 for run in data["runs"])
    assert len(data["means"]) == 42 * 3
