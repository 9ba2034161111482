"""A packed run becomes a record elsewhere and tells nothing about who trained it.

It is refused if anything is wrong with it.
"""

import copy
import gzip
import json
import pwd
import shutil
import socket
import subprocess
from dataclasses import asdict
from getpass import getuser
from pathlib import Path

import pytest
import torch
import yaml

from multimax.suite.composition import compose_configuration, typed
from multimax.suite.config import flatten
from multimax.suite.engine import distributed, run_writer
from multimax.suite.engine.checkpoint import name_of
from multimax.suite.engine.run_writer import RunWriter
from multimax.suite.engine.trainer import Trainer
from multimax.suite.errors import UserError
from multimax.suite.identity import identity, run_name
from multimax.suite.report import merge as merging
from multimax.suite.report import pack as packing
from multimax.suite.report.__main__ import main as report
from multimax.suite.report.merge import merge
from multimax.suite.report.outputs import save
from multimax.suite.report.pack import RUN, pack, unpack
from multimax.suite.report.records import record
from multimax.suite.report.results import all_tables
from multimax.suite.runs import Run, read_runs
from multimax.suite.tasks import task_module

SETTING = ["task=deit", "scale=demo", "training.epochs=2", "model.depth=1", "training.log_every=4"]
ROOT = Path(__file__).parents[3]


def train(folder, *overrides):
    config = typed(compose_configuration([*SETTING, *overrides]))
    writer = RunWriter(folder / run_name(config), config, command=f"python train.py run_dir={folder}")
    with distributed.processes(torch.device("cpu")):
        Trainer(task_module(config.task).create(config), writer).run()
    return writer.path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    if not head:
        pytest.skip("needs the repository, whose revision a record names")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_writer, "revision", lambda: head)
        folder = tmp_path_factory.mktemp("runs")
        made = [train(folder, f"reweight={function}", "seed=0") for function in ("softmax", "multimax")]
    (made[1] / "analysis").mkdir()
    measured = [{"step": 0, "epoch": 0.0, "patch_similarity": [0.5], "mad": [0.5]}]
    (made[1] / "analysis" / "oversmoothing.json").write_text(json.dumps({"measured": measured, "revision": head}))
    return made


@pytest.fixture
def results(tmp_path):
    """A results folder with nothing but a claim about these runs."""
    return results_in(tmp_path / "results")


def results_in(folder):
    folder.mkdir()
    claims = yaml.safe_load((ROOT / "results" / "claims.yaml").read_text())
    claim = claims["comparisons"][0] | {"id": "made-up", "run": SETTING, "others": ["reweight=softmax"]}
    content = claims | {"numbers": [], "comparisons": [claim]}
    (folder / "claims.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(scope="module")
def packed(runs, tmp_path_factory):
    file = tmp_path_factory.mktemp("packed") / "runs.json.gz"
    pack(runs, file, "A. Contributor")
    return json.loads(gzip.decompress(file.read_bytes()))


def test_a_checkpoint_without_its_manifest_is_named(runs, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(runs[0], copy)
    (Run(copy).checkpoints / name_of(Run(copy).summary["steps"]) / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
        pack([copy], tmp_path / "packed.json.gz", "A. Contributor")


def nobody(*_):
    raise KeyError("getpwuid(): uid not found: 54321")


def test_a_user_without_a_name_or_a_home_packs(runs, tmp_path, monkeypatch):
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    pack(runs, tmp_path / "packed.json.gz")
    assert unpack(tmp_path / "packed.json.gz")["from"] is None


def write(content, folder):
    (folder / "damaged.json.gz").write_bytes(gzip.compress(json.dumps(content).encode()))
    return folder / "damaged.json.gz"


def test_a_merged_run_gives_the_tables_of_a_recorded_one(runs, results, tmp_path, packed):
    merged = merge(write(packed, tmp_path), results)
    assert [of for _, of in merged] == ["made-up", "made-up"]
    recorded = results_in(tmp_path / "recorded")
    for run in runs:
        record(Run(run), recorded / "runs")
    tables = [{of.name: of.files for of in all_tables(folder)} for folder in (results, recorded)]
    assert tables[0].keys() == tables[1].keys()
    differ = {name for name, files in tables[0].items() if files != tables[1][name]}
    assert differ == {"tables/claims_comparisons"}, "where the runs came from is all that differs"
    ours, theirs = (of["tables/claims_comparisons"][".csv"].decode() for of in tables)
    assert "2 of 2 (A. Contributor 2)" in ours
    assert ours.replace("2 of 2 (A. Contributor 2)", "0 of 2") == theirs
    for mine, other in zip(read_runs(results / "runs"), read_runs(recorded / "runs"), strict=True):
        assert (mine.name, mine.config["seed"], mine.final) == (other.name, other.config["seed"], other.final)
        assert (mine.data, mine.metrics, mine.setting) == (other.data, other.metrics, other.setting)
        assert mine.origin == {"from": "A. Contributor", "of": ["made-up"], "weights": mine.origin["weights"]}
        assert len(mine.origin["weights"]) == 64
        assert other.origin is None
    assert not any(str(runs[0].parent) in path.read_text() for path in results.rglob("*.*") if path.is_file())
    for output in all_tables(results):
        save(output, results)


def test_nothing_tells_who_packed_it_or_where(runs, packed):
    text = json.dumps(packed)
    for private in (str(Path.home()) + "/", str(runs[0].parent), socket.gethostname(), "train.py", '"command"'):
        assert private not in text
    if getuser() != "root":
        assert getuser() not in text


@pytest.mark.parametrize("private", ["here", "somebody", "/home/somebody/data", "of somebody's", "C:\\runs"])
def test_a_run_that_tells_it_is_not_packed(runs, tmp_path, monkeypatch, private):
    monkeypatch.setattr(packing, "getuser", lambda: "somebody")
    monkeypatch.setattr(socket, "gethostname", lambda: "here.example.org")
    run = tmp_path / "run"
    for name in ("config.yaml", "summary.json", "metrics.jsonl", "data.json"):
        run.mkdir(exist_ok=True)
        (run / name).write_bytes((runs[0] / name).read_bytes())
    pack([run], tmp_path / "file")
    config = yaml.safe_load((run / "config.yaml").read_text())
    for key in ("data", "environment"):
        (run / "config.yaml").write_text(yaml.safe_dump(config | {"description": private} if key == "data" else config))
        summary = json.loads((runs[0] / "summary.json").read_text())
        summary["environment"]["cpu"] = private if key == "environment" else "made up"
        (run / "summary.json").write_text(json.dumps(summary))
        with pytest.raises(UserError, match=r"names you or this machine|no path, markup"):
            pack([run], tmp_path / "file")


def shapes(shape, value, path=()):
    """Paths to every part of a packed run that has a shape of its own.

    Of a list, and of free names, only the first is followed.
    """
    yield path
    if isinstance(shape, dict) and value:
        free = ... in shape
        for key in [next(iter(value))] if free else shape:
            yield from shapes(shape[... if free else key], value[key], (*path, key))
    elif isinstance(shape, list) and value:
        yield from shapes(shape[0], value[0], (*path, 0))


def changed(content, path, change):
    content = copy.deepcopy(content)
    of = content["runs"][1]
    for key in path[:-1]:
        of = of[key]
    change(of, path[-1])
    return content


def refused(content, tmp_path, results, match):
    with pytest.raises(UserError, match=match) as error:
        merge(write(content, tmp_path), results)
    (message,) = error.value.args
    assert "\n" not in message
    assert not (results / "runs").exists()


def test_every_field_must_be_there_and_of_its_type(packed, tmp_path, results):
    places = [path for path in shapes(RUN, packed["runs"][1]) if path]
    assert len(places) > 35
    for path in places:
        refused(changed(packed, path, lambda of, key: of.__setitem__(key, True)), tmp_path, results, "should be")
        named = isinstance(path[-1], str) and path[-1] not in packed["runs"][1]["data"]
        if named and path[:2] not in {("summary", "throughput"), ("summary", "parameters")} and path[0] != "metrics":
            refused(changed(packed, path, lambda of, key: of.pop(key)), tmp_path, results, "lacks|summary has top")
        extra = changed(packed, (*path, "extra"), lambda of, key: isinstance(of, dict) and of.update({key: "x"}))
        if extra != packed and path != ("data",):
            refused(extra, tmp_path, results, "should (be|not have)|no such key")


@pytest.mark.parametrize(
    "bad", ["/home/somebody", "../../x", "~/x", "${oc.env:HOME}", "<script>", "a | b", "x\ty", "x" * 3000]
)
def test_no_text_is_a_path_or_markup(packed, tmp_path, results, bad):
    for key, value in flatten(
        {name: of for name, of in packed["runs"][1].items() if name in ("config", "summary", "data")}
    ):
        if isinstance(value, str):
            path = key.split(".")
            refused(
                changed(packed, path, lambda of, key: of.__setitem__(key, bad)), tmp_path, results, "no path, markup"
            )
    refused(packed | {"from": bad}, tmp_path, results, "a name has up to 80")


def test_every_key_that_makes_a_run_counts(packed, tmp_path, results):
    run = packed["runs"][1]
    schema = task_module("deit").Config
    filled = asdict(typed(compose_configuration([*SETTING, "reweight=multimax"])))
    keys = [key for key in identity(filled, schema) if key != "seed"]
    assert len(keys) > 15
    for key in keys:
        path = ("config", *key.split("."))

        def other(of, name):
            value = of[name]
            of[name] = (
                not value if isinstance(value, bool) else value * 2 + 1 if isinstance(value, int | float) else "x"
            )

        refused(changed(packed, path, other), tmp_path, results, "config(_hash is|:)|numerics=|data.name and")
    seed = copy.deepcopy(packed)
    seed["runs"][1]["config"]["seed"] = 77
    refused(seed, tmp_path, results, "config_hash")
    config = merging.configuration("", run["config"] | {"seed": 77}, 1)
    seed["runs"][1]["summary"]["config_hash"] = merging.digest(config)
    refused(seed, tmp_path, results, "no claim and no entry")


def put(*path_and_value):
    *path, value = path_and_value
    return lambda content: changed(content, path, lambda of, key: of.__setitem__(key, value))


def last_row(**values):
    return lambda content: changed(content, ("metrics", -1), lambda of, key: of.__setitem__(key, of[key] | values))


DAMAGE = {
    "another digest": (put("summary", "config_hash", "00000000"), "config_hash is"),
    "other numerics": (put("config", "numerics", 1), "numerics=1"),
    "uncommitted code": (put("summary", "revision", "0" * 40 + "-dirty"), "not a commit"),
    "an unknown revision": (put("summary", "revision", "0" * 40), "not in this clone"),
    "an epoch without end": (last_row(epoch=1e-320), "metrics end before the run does"),
    "an option for git": (put("summary", "revision", "--help"), "not a commit"),
    "an unknown task": (put("config", "task", "chess"), "no task chess"),
    "an unknown key": (put("config", "surprise", 1), "no such key"),
    "somebody's module": (put("config", "plugins", ["os"]), "code that is not ours .os."),
    "somebody's function": (put("config", "model", "_target_", "os.system"), "code that is not ours .os."),
    "an unknown function": (put("config", "reweight", "attention", {"name": "unheard"}), "unheard"),
    "another name of the table": (put("config", "experiment", "imagenette_cpu"), "experiment is"),
    "another score": (put("summary", "metrics", "top1", 99.0), "summary has top1"),
    "another best score": (put("summary", "metrics", "best_top1", 99.5), "summary has best_top1"),
    "an unheard-of metric": (put("summary", "metrics", "top9", 1.0), "summary has top9"),
    "an impossible test score": (put("summary", "metrics", "test_top1", 101.0), "cannot be 101"),
    "an impossible loss": (last_row(**{"val/loss": -1.0}), "loss"),
    "no rows": (put("metrics", []), "not those of"),
    "a row too early": (last_row(step=0), "not those of"),
    "a row too late": (last_row(step=10**6), "not those of"),
    "a step that is none": (last_row(step=0.5), "not those of"),
    "rows in another order": (lambda of: changed(of, ("metrics",), lambda run, key: run[key].reverse()), "order"),
    "a row less": (lambda of: changed(of, ("metrics", 0), lambda rows, key: rows.pop(key)), "metrics lack"),
    "no last row": (lambda of: changed(of, ("metrics", -1), lambda rows, key: rows.pop(key)), "metrics"),
    "fewer steps": (put("summary", "steps", 3), "not those of"),
    "no epoch": (last_row(epoch=0), "length"),
    "another length": (last_row(epoch=1.0), "length"),
    "another main metric": (put("summary", "metric", "top5"), "best_top"),
    "no data": (put("data", {}), "data is empty"),
    "weights of no digest": (put("weights", "beef"), "SHA-256"),
    "no process": (put("summary", "processes", 0), "above zero"),
    "no parameters": (put("summary", "parameters", {}), "above zero"),
    "no time": (put("summary", "throughput", {}), "above zero"),
    "more skipped than taken": (put("summary", "skipped_steps", 10**6), "skipped_steps"),
    "less than no memory": (put("summary", "peak_memory_bytes", -1), "peak_memory"),
    "no date": (put("summary", "finished", "yesterday"), "not a time"),
    "an impossible similarity": (put("oversmoothing", 0, "patch_similarity", [1.5]), "cannot be"),
    "no layers": (put("oversmoothing", 0, "mad", []), "cannot be"),
    "one run twice": (lambda of: of | {"runs": [*of["runs"], of["runs"][0]]}, "which is there"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused(packed, tmp_path, results, kind):
    damage, match = DAMAGE[kind]
    refused(damage(packed), tmp_path, results, match)


def test_a_file_that_is_none_is_refused(packed, tmp_path, results, monkeypatch):
    whole = gzip.compress(json.dumps(packed).encode())
    contents = [
        b"", b"text", whole[:-20], whole[:50] + b"\0\0\0" + whole[53:], gzip.compress(b"{"),
        gzip.compress(b"[" * 10**5),
        gzip.compress(b'{"from": null, "runs": [NaN]}'), gzip.compress(b"[]"), gzip.compress(b"\xff\xfe"),
        gzip.compress(json.dumps(packed | {"more": 1}).encode()),
    ]  # fmt: skip
    file = tmp_path / "file"
    for content in contents:
        file.write_bytes(content)
        with pytest.raises(UserError) as error:
            merge(file, results)
        assert "\n" not in str(error.value)
    file.write_bytes(whole)
    monkeypatch.setattr(packing, "MOST_UNPACKED", 1000)
    with pytest.raises(UserError, match="unpacks to more"):
        unpack(file)
    monkeypatch.setattr(packing, "MOST", 100)
    with pytest.raises(UserError, match="has more than"):
        unpack(file)
    assert not (results / "runs").exists()


def test_other_numbers_at_the_revision_are_refused(packed, tmp_path, results, monkeypatch):
    monkeypatch.setattr(merging, "git", lambda *_: "NUMERICS = 1\n")
    refused(packed, tmp_path, results, "has numerics 1")


def test_a_second_run_under_one_seed_and_other_data_are_refused(packed, tmp_path, results):
    merge(write(packed | {"runs": packed["runs"][:1]}, tmp_path), results)
    with pytest.raises(UserError, match="which is there"):
        merge(write(packed, tmp_path), results)
    other = changed(packed | {"runs": packed["runs"][1:] * 2}, ("data",), put_data)
    with pytest.raises(UserError, match="run of other data"):
        merge(write(other | {"runs": other["runs"][1:]}, tmp_path), results)
    assert len(read_runs(results / "runs")) == 1


def put_data(of, key):
    of[key] = dict.fromkeys(of[key], "others")


def test_what_nobody_asked_for_is_exploratory_or_refused(packed, tmp_path, results):
    claims = yaml.safe_load((results / "claims.yaml").read_text())
    claims["comparisons"][0]["seeds"] = [5]
    (results / "claims.yaml").write_text(yaml.safe_dump(claims))
    refused(packed, tmp_path, results, "--exploratory")
    assert [of for _, of in merge(write(packed, tmp_path), results, exploratory=True)] == ["exploratory"] * 2


def test_the_plans_runs_are_known(packed, tmp_path, results, monkeypatch):
    monkeypatch.setattr(merging, "tests", lambda _: [])
    monkeypatch.setattr(
        merging,
        "of_plan",
        lambda *_: [("entry", [*SETTING, f"reweight={name}", "seed=0"]) for name in ("softmax", "multimax")],
    )
    assert [of for _, of in merge(write(packed, tmp_path), results)] == ["entry", "entry"]


def test_the_command_line(runs, results, tmp_path, monkeypatch, capsys):
    file = str(tmp_path / "runs.json.gz")
    for words in (["pack", *map(str, runs), "--to", file, "--from", "Me"], ["merge", file]):
        monkeypatch.setattr("sys.argv", ["report", "--results", str(results), *words])
        report()
    said = capsys.readouterr().out
    assert "left out: command" in said
    assert said.count("merged") == 2
