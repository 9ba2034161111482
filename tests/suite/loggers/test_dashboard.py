"""scripts/wandb_dashboard.py: what it would save, and that a server receives it."""

import json
import re
import runpy
import sys

import pytest
from logged_runs import finished_run

from multimax.suite.report.push_wandb import push_wandb
from multimax.suite.tasks import MODULES


@pytest.fixture
def dashboard(root, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["wandb_dashboard.py", *arguments])
        runpy.run_path(str(root / "scripts" / "wandb_dashboard.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def panels(spec):
    bank = spec["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in bank}


@pytest.mark.parametrize("task", MODULES)
def test_a_dry_run_prints_the_comparison_without_a_server(dashboard, task):
    view = json.loads(dashboard("--dry-run", "--task", task, "--group", "some_experiment"))
    sections = panels(view["spec"])
    curves = [panel for name in sections for panel in sections[name] if panel["viewType"] == "Run History Line Plot"]
    assert curves
    for panel in curves:
        config = panel["config"]
        assert (config["groupBy"], config["groupAgg"], config["groupArea"]) == ("function.value", "mean", "minmax")
        assert config["useMetricRegex"]
    patterns = [panel["config"]["metricRegex"] for panel in curves]
    for key in (
        "train/loss", "val/loss", "reweight/backbone.blocks.0.attn/ts.3", "reweight/output/ranges.0",
        "sparsity/mean", "sparsity/layers.3", "multi_modality/mean",
        {"deit": "val/top1", "lm": "val/smoothed_ppl@mem640", "mt": "val/bleu"}[task],
    ):  # fmt: skip
        assert sum(bool(re.search(pattern, key)) for pattern in patterns) == 1, key
    [runs] = view["spec"]["section"]["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["function.value"]
    assert runs["runFeed"]["columnPinned"]["summary:final/score"]
    asked = json.dumps(runs["filters"])
    assert task in asked
    assert "some_experiment" in asked


def test_a_server_gets_it_and_has_what_it_groups_by(dashboard, tmp_path, server):
    finished_run(tmp_path / "run")
    push_wandb([tmp_path / "run"])
    [run] = server.runs.values()
    assert run.summary["final/score"] == 70
    assert run.values["function"] == "multimax"
    out = dashboard("--entity", "me")
    [view] = server.views
    assert view["entityName"] == "me"
    assert view["projectName"] == run.facts["project"]
    dry = json.loads(dashboard("--entity", "me", "--dry-run"))["spec"]
    assert list(panels(json.loads(view["spec"]))) == list(panels(dry))
    assert out.splitlines()[-1].startswith(f"{server.url}/me/multimax?nw=")


def test_without_entity_or_key_it_says_so(dashboard, capsys):
    for arguments, message in (((), "--entity"), (("--entity", "me"), "no API key")):
        with pytest.raises(SystemExit):
            dashboard(*arguments)
        [line] = capsys.readouterr().err.splitlines()
        assert message in line
