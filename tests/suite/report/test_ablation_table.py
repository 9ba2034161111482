"""The ablation compares runs that share a seed and differ only in what a row names."""

import csv
from statistics import mean

import pytest
from written_runs import write_run

from multimax.suite.report.ablation_table import ablation_table
from multimax.suite.report.measured_figures import oversmoothing_figures
from multimax.suite.report.records import final_metrics


def record(folder, experiment, values, attention, output, pool="avg", bias=True):
    """Made-up records, one for each value, with seeds from 0 on."""
    for seed, value in enumerate(values):
        config = {
            "experiment": experiment, "scale": "demo", "seed": seed, "training": {"epochs": 20.0},
            "model": {"pool": pool, "qkv_bias": bias}, "reweight": {"attention": attention, "output": output},
        }  # fmt: skip
        summary = {"metric": "top1", "metrics": {"top1": value}, "revision": "0" * 40, "steps": 8}
        yield write_run(folder / f"{len(list(folder.iterdir()))}", config, summary)


def test_each_row_is_compared_with_what_it_changes(tmp_path):
    full, softmax, first = {"name": "multimax"}, {"name": "softmax"}, {"name": "multimax", "order": 1}
    records = [
        *record(tmp_path, "ablation_demo", [90.0, 92.0], full, full),
        *record(tmp_path, "ablation_demo", [91.0, 92.5], first, first),
        *record(tmp_path, "ablation_demo", [89.0, 90.0], softmax, softmax),
        *record(tmp_path, "ablation_demo_class_token", [80.0, 84.0], full, full, "token"),
        *record(tmp_path, "ablation_demo_class_token", [81.0, 82.0], softmax, softmax, "token"),
        *record(tmp_path, "imagenette_cpu", [10.0], full, full),
    ]
    (output,) = ablation_table(records)
    assert len(output.records) == 10
    rows = list(csv.DictReader(output.files[".csv"].decode().splitlines()))
    found = [(row["attention"], row["head"], row["mean"], row["difference"], row["from"]) for row in rows]
    assert found == [
        ("multimax(order=1)", "average pooling", "91.75", "+0.75", "MultiMax"),
        ("multimax", "average pooling", "91.00", "", ""),
        ("softmax", "average pooling", "89.50", "-1.50", "MultiMax"),
        ("multimax", "class token", "82.00", "-9.00", "usual model"),
        ("softmax", "class token", "81.50", "-0.50", "MultiMax"),
    ]
    assert float(rows[2]["difference"]) == pytest.approx(mean([89.0 - 90.0, 90.0 - 92.0]))
    assert not list(ablation_table(records[-1:]))


def test_a_picture_of_every_experiment_that_was_measured(tmp_path):
    site = {"name": "softmax"}
    records = list(record(tmp_path, "one", [1.0, 2.0], site, site))
    assert not list(oversmoothing_figures(records))
    at = {"step": 8, "epoch": 2.0, "patch_similarity": [0.5, 0.7], "mad": [0.4, 0.2]}
    for item, step in zip(records, (8, 4), strict=True):
        folder = item.path
        (folder / "analysis").mkdir(parents=True)
        measured = str([at | {"step": 0, "epoch": 0.0}, at | {"step": step}]).replace("'", '"')
        (folder / "analysis" / "oversmoothing.json").write_text(f'{{"measured": {measured}}}')
    (output,) = oversmoothing_figures(records)
    assert output.name == "figures/oversmoothing_one"
    rows = list(csv.DictReader(output.files[".csv"].decode().splitlines()))
    assert [float(row["MAD"]) for row in rows] == [0.4, 0.2] * 4
    assert final_metrics(records[0]) == {"top1": 1.0, "patch_similarity": pytest.approx(0.6), "mad": pytest.approx(0.3)}
    assert final_metrics(records[1]) == {"top1": 2.0}, "what was measured at another step is no metric of the last"
