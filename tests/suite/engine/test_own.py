"""A user's own tasks, models, data, optimisers and schedules: the example folder, and mistakes in one like it."""

import json
import os
import re
import shlex
import shutil
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from engine_runs import numbers, stop_at
from hydra.core.global_hydra import GlobalHydra

from multimax.suite import cli, plugins
from multimax.suite.composition import compose_configuration, typed
from multimax.suite.engine.optimization import create_schedule
from multimax.suite.engine.optimizers import create_optimizer
from multimax.suite.engine.run_writer import RunWriter
from multimax.suite.engine.trainer import Trainer
from multimax.suite.errors import Interrupted, UserError
from multimax.suite.identity import run_name
from multimax.suite.report.__main__ import main as report
from multimax.suite.runs import SUMMARY, Run
from multimax.suite.tasks import MODULES, task_of

IMAGES = ["data=stripes", "model=pooled", "optimizer=lion", "schedule=trapezoid", "training.epochs=null",
          "training.steps=6", "training.evaluate_every=4", "training.log_every=1", "logger.measure=false"]  # fmt: skip


@pytest.fixture
def folder(root, tmp_path, monkeypatch):
    """Make a copy of the example the working directory; forget its modules afterwards."""
    shutil.copytree(root / "examples" / "own", tmp_path / "own")
    monkeypatch.chdir(tmp_path / "own")
    monkeypatch.setattr(sys, "path", [*sys.path])
    forget(root / "examples")
    yield tmp_path / "own"
    forget(tmp_path)


def forget(folder):
    """Make Python import the modules in a folder anew."""
    for name, module in [*sys.modules.items()]:
        if Path(getattr(module, "__file__", None) or "/").is_relative_to(folder):
            del sys.modules[name]


def configure(*overrides):
    return typed(compose_configuration(overrides, "conf"), overrides=overrides)


def make(path, config):
    return Trainer(task_of(asdict(config)).create(config), RunWriter(path, config))


def run(monkeypatch, program, *arguments):
    monkeypatch.setattr(sys, "argv", [program.__name__, *arguments])
    monkeypatch.setattr(cli, "failures", [])
    GlobalHydra.instance().clear()
    program.__wrapped__()


def test_a_data_set_a_model_an_optimiser_and_a_schedule_train_and_resume(folder, capsys):
    config = configure(*IMAGES)
    assert config.description.endswith("PATH. This run has data=stripes and model=pooled instead.")
    make(Path("whole"), configure(*IMAGES, "data.num_workers=1")).run()
    broken = make(Path("broken"), config)
    stop_at(broken, 3)
    with pytest.raises(Interrupted):
        broken.run()
    broken.writer.run_lock.close()
    Path("lion.py").write_text(Path("lion.py").read_text() + "# changed\n")
    capsys.readouterr()
    make(Path("broken"), config).run()
    assert "the code of lion has changed since the last start" in capsys.readouterr().out
    assert numbers(Path("broken")) == numbers(Path("whole"))
    stored, resumed = Run(Path("whole")).summary["plugins"], Run(Path("broken")).summary["plugins"]
    assert stored.keys() == {"lion", "pooled", "stripes"}
    assert {name for name in stored if stored[name] != resumed[name]} == {"lion"}
    rates = [row["train/learning_rate"] for row in numbers(Path("whole")) if "train/learning_rate" in row]
    assert rates == pytest.approx([2e-3] * 5 + [2e-3 / 1.8])


def test_a_task_sweeps_is_scored_again_and_reported(folder, monkeypatch, capsys):
    short = ["--config-dir", "conf", "task=maximum", "training.steps=3", "training.log_every=1"]
    run(monkeypatch, cli.train, "-m", *short, "reweight=softmax,multimax")
    runs = sorted(path.parent for path in Path("runs").glob("*/summary.json"))
    assert [path.name.split("-")[:3] for path in runs] == [
        ["maximum", "numbers", "multimax"],
        ["maximum", "numbers", "softmax"],
    ]
    typed = " ".join([*short, "reweight=multimax"])
    assert Run(runs[0]).summary["command"] == f"python train.py {typed}"
    capsys.readouterr()
    run(monkeypatch, cli.evaluate, str(runs[0]))
    assert json.loads(capsys.readouterr().out)["accuracy"] == Run(runs[0]).final["accuracy"]
    run(monkeypatch, report, "--results", "results", "record", *map(str, runs))
    recorded = Run(Path("results/runs") / runs[0].name).summary["command"]
    assert recorded == f"python train.py {typed.replace('--config-dir conf', '--config-dir PATH')}"
    table = Path("results/tables/maximum_demo.md").read_text()
    assert "accuracy" in table
    assert "multimax" in table
    assert Path("results/index.html").is_file()


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        ({"where": Path("x")}, "summary() has where, which is no JSON: Object of type PosixPath"),
        ({"sizes": {(1, 2): 3}}, "summary() has sizes, which is no JSON: keys must be"),
        ({"metrics": {}}, "summary() has 'metrics', which is no name that is free there"),
        ({3: 4}, "summary() has 3, which is no name"),
        ([1], "summary() gives list, not a dict"),
    ],
)
def test_a_summary_that_cannot_be_written_is_refused_before_training(folder, tmp_path, summary, said):
    trainer = make(tmp_path / "run", configure("task=maximum", "training.steps=2"))
    trainer.task.summary = lambda: summary
    with pytest.raises(UserError, match=re.escape(said)):
        trainer.run()
    assert not (tmp_path / "run").exists()


def test_a_summary_that_can_no_longer_be_written_at_the_end_is_kept_as_text(folder, tmp_path):
    trainer = make(tmp_path / "run", configure("task=maximum", "training.steps=2"))
    trainer.task.summary = lambda: {"seen": 0} if not trainer.step else {"seen": torch.tensor(3), "sizes": {(1, 2): 3}}
    trainer.run()
    summary = Run(tmp_path / "run").summary
    assert (summary["seen"], summary["sizes"]) == ("tensor(3)", "{(1, 2): 3}")
    assert {*summary} - {"seen", "sizes"} == {*SUMMARY}


def test_a_search_ends_with_its_best_values(folder, monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs Optuna: pip install -e '.[optuna]'")
    short = ["task=maximum", "experiment=search", "training.steps=3", "hydra.sweeper.n_trials=2"]
    run(monkeypatch, cli.train, "-m", "--config-dir", "conf", *short)
    found = {Run(path.parent).config["optimizer"]["learning_rate"]: Run(path.parent).score
             for path in Path("runs").glob("*/summary.json")}  # fmt: skip
    best = yaml.safe_load(Path("runs/optimization_results.yaml").read_text())
    assert len(found) == 2
    assert best["best_value"] == max(found.values()) == found[best["best_params"]["optimizer.learning_rate"]]


def test_a_search_whose_runs_fail_says_why(folder, monkeypatch):
    if find_spec("hydra_plugins.hydra_optuna_sweeper"):
        why, broken = "training.batch_size=0 is below 1", ["training.batch_size=0", "hydra.sweeper.n_trials=1"]
    else:
        why, broken = "needs Optuna: pip install", []
    with pytest.raises(UserError, match=why):
        run(monkeypatch, cli.train, "-m", "--config-dir", "conf", "task=maximum", "experiment=search", *broken)


def test_a_task_of_a_plugin_has_its_dataclass_s_defaults(folder, monkeypatch):
    monkeypatch.setattr("multimax.suite.tasks.MODULES", registry := type(MODULES)(MODULES))
    monkeypatch.setattr("multimax.suite.composition.MODULES", registry)
    Path("plugin.py").write_text(
        "import maximum\nfrom multimax.suite import tasks\ntasks.MODULES.register('top')(maximum.Maximum)\n"
    )
    Path("conf/recipe/top_demo.yaml").write_text(Path("conf/recipe/maximum_demo.yaml").read_text())
    config = configure("plugins=[plugin]", "task=top", "data.length=9")
    assert (config.task, config.model.dim, config.data.length, config.data.values) == ("top", 32, 9, 4)
    assert run_name(config) != run_name(configure("task=maximum", "data.length=9"))


def test_own_keys_are_part_of_what_a_run_is(folder):
    named = run_name(configure(*IMAGES))
    assert run_name(configure(*IMAGES, "data.contrast=0.6")) == named
    assert len({named, *(run_name(configure(*IMAGES, key)) for key in ("data.contrast=0.5", "model.dim=16"))}) == 3


def made_of(config):
    """Make what a trainer makes of a configuration: task, model, optimiser and schedule. Return the schedule."""
    task = task_of(asdict(config)).create(config)
    return create_schedule(create_optimizer(task.build_model(), config.optimizer), config.schedule, 10, 10)


MISTAKES = {
    "model._target_=pooled": "not a dotted name",
    "model._target_=nowhere.Pooled": "there is no module nowhere",
    "model._target_=pooled.Poled": "pooled has no class or function Poled",
    "model._target_=broken.Model": "broken cannot be imported: ZeroDivisionError at .*broken.py:1",
    "model._target_=stripes.pictures": "model: stripes.pictures.* required argument",
    "+model.deth=3": "unexpected keyword argument 'deth'",
    "model._target_=pooled.attend": "model: .*required argument",
    "data._target_=half.anything": "data: a data set of images is a pair",
    "+data.contast=3": "unexpected keyword argument 'contast'",
    "optimizer._target_=pooled.Pooled": "optimizer: pooled.Pooled.*",
    "optimizer._target_=half.anything": "optimizer: builtins.dict has no method step",
    "schedule._target_=half.anything": "schedule: builtins.dict has no method step_update",
    "schedule._target_=builtins.dict": "nobody knows what .* takes",
    "optimizer.epsilon=0.1": "only with optimizer._target_ taking it is it read",
    "plugins=${x}": "not a list of modules",
    "model._target_=${x}": "Interpolation key 'x' not found",
    "plugins=[broken]": "plugins: broken cannot be imported",
    "plugins=[nowhere]": "there is no module nowhere .looked for nowhere on PYTHONPATH and in the working folder",
    "task=maximum _target_=maximum.Reader": "Reader is not a subclass of multimax.suite.tasks.Task",
    "task=maximum _target_=half.Half": "Half has no .*evaluate.*loss.*metric",
}


@pytest.mark.parametrize("overrides", MISTAKES)
def test_a_mistake_is_one_line(folder, overrides):
    Path("broken.py").write_text("1 / 0\n")
    Path("half.py").write_text(
        "import maximum\nfrom multimax.suite.tasks import Task\nclass Half(Task):\n    Config = maximum.Config\n"
        "def anything(*arguments, **options): return {}\n"
    )
    others = [] if "task=" in overrides else IMAGES
    with pytest.raises(UserError, match=MISTAKES[overrides]) as caught:
        made_of(configure(*others, *overrides.split()))
    assert "\n" not in str(caught.value)


def test_a_schedule_that_holds_the_groups_and_sets_numpy_s_numbers_is_resumed(folder):
    Path("waves.py").write_text(
        "import numpy as np\n"
        "class Waves:\n"
        "    def __init__(self, optimizer): self.groups = optimizer.param_groups\n"
        "    def step_update(self, step):\n"
        "        for group in self.groups: group['lr'] = np.float32(0.01) * (1 + np.cos(step))\n"
    )
    given = ["task=maximum", "+schedule._target_=waves.Waves", "training.steps=6", "training.log_every=1"]
    make(Path("whole"), configure(*given)).run()
    broken = make(Path("broken"), configure(*given))
    stop_at(broken, 3)
    with pytest.raises(Interrupted):
        broken.run()
    broken.writer.run_lock.close()
    make(Path("broken"), configure(*given)).run()
    assert numbers(Path("broken")) == numbers(Path("whole"))


TASKS = {
    "def metrics(self, sums): return {'right': 1.0}": "metrics.. gives no accuracy, its metric",
    "def metrics(self, sums): return {'accuracy': torch.ones(1)}": "gives accuracy as Tensor, not a number",
    "def train_batches(self, start_step, shard): return iter([])": "has to go on without end",
    "steps_per_epoch = 0": "fewer data than a batch",
}


@pytest.mark.parametrize("wrong", TASKS)
def test_a_task_that_does_not_do_what_it_should_is_told_so_at_once(folder, wrong):
    Path("wrong.py").write_text(f"import maximum, torch\nclass Wrong(maximum.Maximum):\n    {wrong}\n")
    short = ["task=maximum", "_target_=wrong.Wrong", "training.steps=4", "training.evaluate_every=2"]
    with pytest.raises(UserError, match=TASKS[wrong]):
        make(Path("run"), configure(*short)).run()
    assert not list(Path("run").glob("checkpoints/*"))


FILES = {
    b"\tdim: 3\n": "bad.yaml.*line 1",
    b"a: 1\na: 2\n": "duplicate key a.*bad.yaml",
    b"# gr\xfc\xdf\n": "not UTF-8",
}


@pytest.mark.parametrize("content", FILES)
def test_a_configuration_file_that_is_none_is_named_in_one_line(folder, monkeypatch, capsys, content):
    Path("conf/model/bad.yaml").write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["train.py", "--config-dir", "conf", "data=stripes", "model=bad"])
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit):
        cli.train()
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert re.search(FILES[content], said)


def test_text_and_pairs_of_one_s_own(folder, tmp_path):
    Path("texts.py").write_text(
        "LINES = ['one two three four', 'two three four one'] * 20\n"
        "def text(): return {split: '\\n'.join(LINES) for split in ('train', 'validation', 'test')}\n"
        "def pairs(): return {split: (LINES, LINES) for split in ('train', 'valid', 'test')}\n"
        "def no_lm(): return dict(text(), train=3)\n"
        "def no_mt(): return dict(pairs(), train=([1], [2]))\n"
    )
    cache = f"data.cache_dir={tmp_path / 'cache'}"
    for task, more in (("lm", ["model.segment_length=4", "training.batch_size=4"]), ("mt", ["data.bpe_merges=null"])):
        Path(f"conf/data/own_{task}.yaml").write_text(
            f"_target_: texts.{'text' if task == 'lm' else 'pairs'}\nname: counted\n"
        )
        config = configure(f"task={task}", f"data=own_{task}", cache, *more)
        assert config.data.source == "own"
        assert next(task_of(asdict(config)).create(config).train_batches(0, cli.Shard()))
        with pytest.raises(UserError, match="is no text, but int"):
            task_of(asdict(config)).create(replace(config, data=replace(config.data, _target_=f"texts.no_{task}")))


def test_a_sweep_s_job_has_the_modules_of_targets_and_the_command_that_was_typed(folder, monkeypatch):
    pytest.importorskip("submitit", reason="needs submitit: pip install -e '.[slurm]'")
    from multimax.suite import sweep

    monkeypatch.setattr(cli, "config_dir", "conf")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/multimax-train"])
    composed = compose_configuration([*IMAGES, "hydra/launcher=local"], "conf", with_hydra=True)
    one = sweep.member(composed, IMAGES, "")
    assert one.command == f"multimax-train --config-dir conf {shlex.join(IMAGES)}"
    sweep.freeze(Path("sweep"), [one])
    assert {path.name for path in Path("sweep/code").iterdir()} == {"lion.py", "multimax", "pooled.py", "stripes.py"}


def test_the_code_of_a_package_is_all_of_its_modules(folder):
    Path("mine/inner").mkdir(parents=True)
    for name in ("mine/__init__.py", "mine/inner/__init__.py"):
        Path(name).write_text("")
    before = plugins.sources({"plugins": ["mine"]})
    Path("mine/inner/__init__.py").write_text("VALUE = 1\n")
    assert plugins.sources({"plugins": ["mine"]}) != before
    assert plugins.is_installed(torch)
    assert not plugins.is_installed(sys.modules["mine"])


def test_a_language_model_of_one_s_own_is_called_with_what_it_names(folder):
    Path("small.py").write_text(
        "from dataclasses import replace\n"
        "from multimax.suite.models.transformer_lm import TransformerLM\n"
        "class Small(TransformerLM):\n"
        "    def __init__(self, config, attention, output, num_tokens, fingerprint, width):\n"
        "        smaller = replace(config, dim=width, depth=1, num_heads=1, ffn_dim=8)\n"
        "        super().__init__(smaller, attention, output, num_tokens, fingerprint)\n"
    )
    Path("conf/model/small.yaml").write_text("_target_: small.Small\nwidth: 6\n")
    Path("conf/recipe/lm").mkdir()
    Path("conf/recipe/lm/demo_small.yaml").write_text(
        "# @package _global_\ndefaults: [demo_transformer_lm, _self_]\nmodel: {segment_length: 8, eval_context: 4}\n"
    )
    config = configure("task=lm", "model=small")
    task = task_of(asdict(config)).create(config)
    assert task.metric == "ppl@ctx4"
    assert task.build_model().embedding.tables[0].shape[1] == 6


def test_documented_commands_are_those_that_are_tested_here(root):
    text = (root / "docs" / "own.md").read_text()
    for path in (root / "examples" / "own" / "conf").rglob("*.yaml"):
        assert yaml.safe_load(path.read_text())
        if path.parent.name in ("data", "model", "optimizer", "schedule", "task"):
            assert f"{path.parent.name}={path.stem}" in text
    assert os.path.exists(root / "examples" / "own" / "maximum.py")
