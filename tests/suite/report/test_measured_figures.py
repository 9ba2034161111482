"""Pictures from the analyses kept with recorded runs: one for each experiment and kind.

They are in the functions' order.
"""

import csv
import io
import json

import pytest
from written_runs import write_run

from multimax.suite.errors import UserError
from multimax.suite.report.measured_figures import measured_figures


def recorded(folder, function, seed=0, experiment="small", **kinds):
    site = {"name": function}
    config = {"experiment": experiment, "seed": seed, "reweight": {"attention": site, "output": site}}
    path = folder / f"{experiment}-{function}-{seed}"
    (path / "analysis").mkdir(parents=True)
    for kind, found in kinds.items():
        (path / "analysis" / f"{kind}.json").write_text(json.dumps(found))
    return write_run(path, config, {"revision": "0" * 40})


def heads(text, weight):
    panels = [{"title": "head 0", "values": [[1.0, 0.0], [weight, 1 - weight]]}]
    return {"input": text, "keys": list(text), "queries": list(text), "rows": [{"label": "layer 0", "panels": panels}]}


def shown(output, column):
    return [row[column] for row in csv.DictReader(io.StringIO(output.files[".csv"].decode()))]


def test_maps_of_an_experiment_stand_side_by_side(tmp_path):
    runs, results = tmp_path / "runs", tmp_path
    records = [
        recorded(runs, "sparsemax", heads=heads("ab", 0.0)),
        recorded(runs, "multimax", heads=heads("ab", 0.25)),
        recorded(runs, "softmax", heads=heads("ab", 0.5)),
        recorded(runs, "softmax", experiment="other", heads=heads("cd", 0.5)),
        recorded(runs, "entmax"),
    ]
    small, other = measured_figures(records)
    assert (small.name, other.name) == ("figures/heads_small", "figures/heads_other")
    assert list(dict.fromkeys(shown(small, "run"))) == ["softmax", "multimax", "sparsemax"]
    assert shown(small, "value") == ["1", "0", "0.5", "0.5", "1", "0", "0.25", "0.75", "1", "0", "0", "1"]
    assert [record.function for record in small.records] == ["softmax", "multimax", "sparsemax"]
    sidecar = small.sidecar(results)
    assert len(sidecar["sources"]) == 3
    assert all(source.endswith("analysis/heads.json") for source in sidecar["sources"])


def test_maps_of_two_texts_are_not_compared(tmp_path):
    records = [
        recorded(tmp_path, "softmax", heads=heads("ab", 0.5)),
        recorded(tmp_path, "multimax", heads=heads("cd", 0.5)),
    ]
    with pytest.raises(UserError, match=r"heads\.json of small are of different images or texts"):
        list(measured_figures(records))


def test_statistics_make_three_figures_and_two_without_a_modulator(tmp_path):
    attention = {
        "means": {name: [0.5, None] for name in ("sparsity", "multi_modality", "entropy", "support", "gini")},
        "rows": [3, 3], "middle": [-1.0, 1.0], "scores_from": -1.0, "scores": [0.05] * 20, "weights": [0.025] * 40,
        "tiny": 0.0,
    }  # fmt: skip
    found = {"function": "softmax", "attentions": {"blocks.0": attention, "blocks.1": attention}, "modulators": {}}
    names = [output.name for output in measured_figures([recorded(tmp_path, "softmax", statistics=found)])]
    assert names == ["figures/attention_small", "figures/histograms_small"]
    curve = {"scores": [-1.0, 1.0], "modulated": [[-2.0, 1.5]]}
    found |= {"function": "multimax", "modulators": {"blocks.0": curve, "output": curve}}
    *_, last = measured_figures([recorded(tmp_path, "multimax", statistics=found)])
    assert last.name == "figures/modulators_small"
    assert shown(last, "modulated") == ["-2", "1.5"] * 2
