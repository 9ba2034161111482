"""Forest plots show each pair of runs; their titles say how many intervals exclude zero."""

import csv
from dataclasses import asdict

from written_runs import write_run

from multimax.suite.composition import compose_configuration, typed
from multimax.suite.report.difference_figures import difference_figures, finding, lines
from multimax.suite.report.tables import adjusted_p, compare


def records(folder, function, values):
    config = asdict(typed(compose_configuration(["task=deit", f"reweight={function}"])))
    summary = {"metric": "top1", "revision": "0" * 40, "parameters": {"total": 1}}
    return [
        write_run(folder / f"{function}-{seed}", config | {"seed": seed}, summary | {"metrics": {"top1": value}})
        for seed, value in values.items()
    ]


def test_each_pair_and_its_interval(tmp_path):
    runs = [
        *records(tmp_path, "softmax", {0: 70.0, 1: 71.0, 2: 72.5}),
        *records(tmp_path, "multimax", {0: 72.0, 1: 73.1, 2: 74.4, 5: 10.0}),
        *records(tmp_path, "entmax15", {1: 70.5}),
    ]
    (output,) = difference_figures(runs)
    assert output.name == "figures/differences_deit"
    rows = list(csv.DictReader(output.files[".csv"].decode().splitlines()))
    found = {}
    for row in rows:
        found.setdefault(row["function"], []).append((row["kind"], float(row["value"])))
    assert found["entmax15-softmax"] == [("pair", -0.5), ("mean", -0.5)]
    assert found["multimax"][:4] == [("pair", 2.0), ("pair", 2.1), ("pair", 1.9), ("mean", 2.0)]
    assert [kind for kind, _ in found["multimax"][4:]] == ["low", "high"]
    assert "softmax" not in found
    compared = compare(runs)
    title = finding({"deit_demo": list(lines(compared))}, list(adjusted_p({"deit_demo": compared}).values()))
    assert title.startswith("Differences from softmax: 1 of 1 intervals without zero, 1 after")


def test_without_a_pair_there_is_no_figure(tmp_path):
    assert not list(difference_figures(records(tmp_path, "multimax", {0: 1.0, 1: 2.0})))
