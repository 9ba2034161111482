import csv
import functools
import json
import operator
from pathlib import Path
from statistics import mean, stdev

import pytest
import yaml

from multimax.suite import cli
from multimax.suite.errors import UserError
from multimax.suite.files import write_atomic
from multimax.suite.report import records
from multimax.suite.report.outputs import save
from multimax.suite.report.records import record
from multimax.suite.report.settings import description
from multimax.suite.report.tables import tables
from multimax.suite.runs import ANALYSES, Run, read_runs

RECORDS = Path(__file__).parents[3] / "results" / "runs"


def finished_run(folder, function, seed, top1, epochs=3.0, **site):
    config = {
        "task": "deit", "scale": "demo", "experiment": None, "description": "made up", "run_dir": "/secret/run",
        "seed": seed, "data": {"name": "digits", "root": "/secret/data"}, "training": {"epochs": epochs},
        "reweight": {"attention": {"name": function, **site}, "output": {"name": "softmax"}},
    }  # fmt: skip
    run = folder / f"{function}-{seed}-{len(list(folder.iterdir()))}"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    summary = {"metric": "top1", "metrics": {"top1": top1}, "parameters": {"total": 7}, "revision": "0" * 40}
    (run / "summary.json").write_text(json.dumps(summary))
    return run


def test_a_table_is_what_the_records_say(tmp_path):
    runs, results = tmp_path / "runs", tmp_path / "results"
    runs.mkdir()
    values = {"softmax": [70.0, 71.5, 69.25], "sparsemax": [72.0, 70.0]}
    for function, tops in values.items():
        for seed, top1 in enumerate(tops):
            record(Run(finished_run(runs, function, seed, top1)), results / "runs")
    record(Run(finished_run(runs, "multimax", 0, 60.0, order=1)), results / "runs")
    assert not any("/secret" in path.read_text() for path in results.rglob("*.*"))
    assert not list(results.rglob("checkpoints"))

    (output,) = tables(read_runs(results / "runs"))
    save(output, results)
    table = {row["function"]: row for row in csv.DictReader((results / "tables" / "deit_demo.csv").open())}
    assert list(table) == ["sparsemax-softmax", "softmax", "multimax(order=1)-softmax"]
    for function, tops in values.items():
        row = table[function if function == "softmax" else f"{function}-softmax"]
        assert float(row["mean"]) == pytest.approx(mean(tops), abs=0.005)
        assert float(row["standard deviation"]) == pytest.approx(stdev(tops), abs=0.005)
    assert table["multimax(order=1)-softmax"]["standard deviation"] == ""
    (again,) = tables(read_runs(results / "runs"))
    assert again.files == output.files


def places(value, above=()):
    """The paths to everything in a JSON value; of a list, only to its first item."""
    yield above
    items = value.items() if isinstance(value, dict) else [(0, value[0])] if value and isinstance(value, list) else []
    for key, below in items:
        yield from places(below, (*above, key))


@pytest.mark.parametrize("kind", ANALYSES)
def test_an_analysis_that_is_damaged_anywhere_is_named(kind, tmp_path):
    (whole, *_) = sorted(RECORDS.glob(f"*/analysis/{kind}.json"))
    found = json.loads(whole.read_text())
    assert Run(whole.parent.parent).analysis(kind) == found
    (tmp_path / "analysis").mkdir()
    damaged = tmp_path / "analysis" / whole.name
    compared_only = [("checkpoint",), ("revision",), ("input", 0)]
    read = [path for path in places(found) if path not in compared_only]
    for path in read:
        content = json.loads(whole.read_text()) if path else "other"
        if path:
            *above, last = path
            functools.reduce(operator.getitem, above, content)[last] = True
        damaged.write_text(json.dumps(content))
        with pytest.raises(UserError, match=rf"{kind}\.json"):
            Run(tmp_path).analysis(kind)
    for content in ({}, found | {"measured": []} if "measured" in found else {"rows": []}):
        damaged.write_text(json.dumps(content))
        with pytest.raises(UserError, match=rf"{kind}\.json"):
            Run(tmp_path).analysis(kind)


def test_runs_of_other_data_are_not_compared_and_replace_no_record(tmp_path):
    (tmp_path / "runs").mkdir()
    runs = [Run(finished_run(tmp_path / "runs", name, 0, 70.0)) for name in ("softmax", "sparsemax")]
    for run, classes in zip(runs, (["cat", "dog"], ["bus", "dog"]), strict=True):
        (run.path / "data.json").write_text(json.dumps({"classes": classes}))
        record(run, tmp_path / "records")
    with pytest.raises(UserError, match=r"classes: bus here, cat in softmax-0-0"):
        list(tables(read_runs(tmp_path / "records")))
    (runs[0].path / "data.json").write_text('{"classes": ["bus", "dog"]}')
    with pytest.raises(UserError, match=r"is a run of other data than its record \(classes: bus here, cat in "):
        record(runs[0], tmp_path / "records")
    assert Run(tmp_path / "records" / runs[0].name).data == {"classes": ["cat", "dog"]}


def test_a_record_that_a_kill_cuts_short_is_none(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    run = Run(finished_run(tmp_path / "runs", "softmax", 0, 70.0))
    (run.path / "data.json").write_text('{"classes": ["a"]}')
    written = []

    def killed(path, content):
        if len(written) == last:
            raise KeyboardInterrupt
        written.append(path.name)
        write_atomic(path, content)

    monkeypatch.setattr(records, "write_atomic", killed)
    for last in range(4):
        written.clear()
        with pytest.raises(KeyboardInterrupt):
            record(run, tmp_path / str(last))
        assert read_runs(tmp_path / str(last)) == []
    last = -1  # no write is killed
    assert read_runs(record(run, tmp_path / "all").parent)[0].data == {"classes": ["a"]}


def test_runs_that_differ_in_something_else_are_not_averaged(tmp_path):
    runs, results = tmp_path / "runs", tmp_path / "results"
    runs.mkdir()
    record(Run(finished_run(runs, "softmax", 0, 70.0)), results / "runs")
    record(Run(finished_run(runs, "softmax", 1, 70.0, epochs=4.0)), results / "runs")
    with pytest.raises(UserError, match=r"differ in more than .*\(training.epochs: 4.0 and \d"):
        list(tables(read_runs(results / "runs")))


def test_what_an_analysis_kept_is_recorded_and_pictures_are_not(tmp_path):
    run = finished_run(tmp_path, "softmax", 0, 70.0)
    (run / "analysis").mkdir()
    (run / "analysis" / "numbers.json").write_text('{"found": [1, 2]}')
    (run / "analysis" / "numbers.png").write_bytes(b"picture")
    target = record(Run(run), tmp_path / "results")
    assert [path.name for path in (target / "analysis").iterdir()] == ["numbers.json"]
    (read,) = read_runs(tmp_path / "results")
    assert read.analysis("numbers") == {"found": [1, 2]}
    assert read.analysis("others") is None


def test_only_a_finished_run_is_recorded(tmp_path):
    with pytest.raises(UserError, match="not a finished run"):
        record(Run(tmp_path), tmp_path / "results")


def test_nothing_is_recorded_where_one_of_several_is_not_finished(tmp_path, monkeypatch):
    from multimax.suite.report.__main__ import main

    runs, results = tmp_path / "runs", tmp_path / "results"
    runs.mkdir()
    given = ["record", str(finished_run(runs, "softmax", 0, 70.0)), str(runs)]
    monkeypatch.setattr("sys.argv", ["report", "--results", str(results), *given])
    with pytest.raises(UserError, match="not a finished run"):
        main.__wrapped__()
    assert not results.exists()


def test_every_recorded_run_ends_with_the_last_values_of_its_own_metrics(root):
    records = read_runs(root / "results" / "runs")
    assert records
    for item in records:
        lines = [json.loads(line) for line in (item.path / "metrics.jsonl").read_text().splitlines()]
        scored = [line for line in lines if "val/loss" in line][-1]
        assert scored["step"] == item.summary["steps"]
        for name, value in item.summary["metrics"].items():
            if f"val/{name}" in scored:
                assert scored[f"val/{name}"] == value


def test_the_command_line(root, tmp_path, monkeypatch, capsys):
    from multimax.suite.report.__main__ import main

    runs = tmp_path / "runs"
    runs.mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "claims.yaml").write_bytes((root / "results" / "claims.yaml").read_bytes())
    run = finished_run(runs, "softmax", 0, 70.0)
    monkeypatch.setattr("sys.argv", ["report", "--results", str(tmp_path / "results"), "record", str(run)])
    main()
    assert "deit_demo.md" in capsys.readouterr().out
    assert cli.failures == []


def test_a_description_is_todays_and_says_what_a_run_has_instead():
    found = description("experiment", "imagenette_cpu", "As it once was. This run has data=images instead.")
    today = description("experiment", "imagenette_cpu", "As it once was.")
    assert today
    assert "once" not in today
    assert found == f"{today} This run has data=images instead."
    assert description("experiment", "gone", "As it\nonce was.") == "As it once was."
