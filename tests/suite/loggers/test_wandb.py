"""The real wandb client, offline and against a stand-in for its server."""

import multiprocessing
import shutil
import subprocess
import sys
import time

import pytest
from logged_runs import begin, configuration, finished_run, log_steps, merged, shown

from multimax.suite import loggers
from multimax.suite.engine.run_writer import RunWriter
from multimax.suite.engine.trainer import Trainer
from multimax.suite.errors import UserError
from multimax.suite.loggers import wandb_mirror
from multimax.suite.loggers.mirror import Follower, Mirror
from multimax.suite.loggers.wandb_mirror import run_id
from multimax.suite.report.push_wandb import push_wandb
from multimax.suite.runs import Run
from multimax.suite.tasks import task_module
from tests.suite.engine.engine_runs import is_timing

TRAINING = (
    "logger=wandb", "logger.samples_every=1", "training.epochs=null", "training.steps=20", "training.log_every=2",
    "training.evaluate_every=5", "model.depth=1", "training.batch_size=32",
)  # fmt: skip


def assert_shows(run, path):
    """Check that W&B has every step of a run once, in order and with the right numbers."""
    rows = merged(Run(path).metrics)
    assert [row["_step"] for row in run.history] == sorted(rows)
    for ours in shown(run.history):
        theirs = rows[ours["step"]]
        assert {key: value for key, value in ours.items() if not key.startswith("samples/")} == pytest.approx(theirs)


def killed(run, when):
    """Call ``run`` in a process of its own, and kill the process once ``when`` comes true."""
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    try:
        limit = time.monotonic() + 100
        while not when():
            assert process.is_alive(), "it ended by itself"
            assert time.monotonic() < limit, "it did not happen"
            time.sleep(0.05)
    finally:
        process.kill()
        process.join()


def killed_after_five_steps(path, *overrides):
    done = path.with_suffix(".done")

    def run():
        folder = begin(path, *overrides)
        with loggers.follow(Run(path), "wandb") as follower:
            log_steps(folder, 1, 5)
            follower.update()
            done.touch()
            time.sleep(1000)

    killed(run, when=done.exists)


def trainer(path):
    config = configuration(*TRAINING)
    writer = RunWriter(path, config)
    return Trainer(task_module(config.task).create(config), writer, loggers.follow(Run(path), config.logger.name))


def test_a_run_killed_resumed_and_pushed_shows_every_step_once(server, tmp_path):
    path = tmp_path / "run"

    def run():
        running = trainer(path)
        train_step = running.train_step

        def step(batches):
            train_step(batches)
            if running.step == 13:
                time.sleep(1000)

        running.train_step = step
        running.run()

    def shows_step_12():
        return any(row["_step"] == 12 for served in server.runs.values() for row in served.history)

    killed(run, when=shows_step_12)
    [served] = server.runs.values()
    # The resumed run repeats the steps after its checkpoint at 10.
    assert [row["_step"] for row in served.history] == [2, 4, 5, 6, 8, 10, 12]
    trainer(path).run()
    assert [row["_step"] for row in served.history] == [2, 4, 5, 6, 8, 10, 12, 14, 15, 16, 18, 20]
    for ours, theirs in zip(shown(served.history), merged(Run(path).metrics).values(), strict=True):
        same = {key: value for key, value in theirs.items() if not is_timing(key)}
        assert {key: ours[key] for key in same} == pytest.approx(same)
    history = list(served.history)
    for _ in range(2):
        push_wandb([path])
        assert served.history == history
    assert len(server.runs) == 1
    assert served.exit_code == 0
    for row in served.history:
        assert ("samples/attention" in row) == ("sparsity/mean" in row) == (row["step"] % 5 == 0)
    uploaded = [name for name in served.files if name.startswith("media/images/samples/")]
    assert len(uploaded) >= 4 * 9  # eight images and one map of attention at each evaluation


def test_a_pushed_run_is_all_that_its_files_say(server, tmp_path, capsys):
    path = tmp_path / "run"
    finished_run(path, "reweight=sparsemax", "seed=3")
    push_wandb([path])
    [(name, run)] = server.runs.items()
    assert_shows(run, path)
    assert run.facts["project"] == "multimax"
    assert (run.facts["groupName"], run.facts["jobType"]) == ("deit_demo", "deit")
    assert run.facts["displayName"] == "run"
    assert set(run.facts["tags"]) == {"sparsemax", "softmax", "demo"}
    assert run.values["function"] == "sparsemax-softmax"
    assert run.values["seed"] == 3
    assert run.values["training"]["batch_size"] > 0
    start = Run(path).starts[0]
    assert run.values["revision"] == start["revision"]
    assert run.facts["commit"] == (start["revision"] or "").removesuffix("-dirty") or None
    assert run.summary["final/top1"] == 70
    assert f"7 new steps, {server.url}/me/multimax/runs/{name}" in capsys.readouterr().out
    assert not (path / "wandb").exists()


def test_runs_trained_offline_side_by_side_are_pushed_whole_and_once(server, tmp_path):
    paths = [tmp_path / f"seed{seed}" for seed in range(3)]
    killed_after_five_steps(paths[0], "logger=wandb", "logger.mode=offline")
    folders = [begin(path, "logger=wandb", "logger.mode=offline", f"seed={path.name[4:]}") for path in paths[1:]]
    with loggers.follow(Run(paths[1]), "wandb") as one, loggers.follow(Run(paths[2]), "wandb") as two:
        for folder, follower in zip(folders, (one, two), strict=True):
            log_steps(folder, 1, 5)
            follower.update()
            folder.finish({"top1": 1.0}, metric="top1", steps=5)
            folder.run_lock.close()
    for _ in range(2):
        push_wandb(paths)
        counts = sorted(len(run.history) for run in server.runs.values())
        assert counts == [4, 5, 5]  # the killed run's last step may be only half written
    folder = begin(paths[0], "logger=wandb", "logger.mode=offline", step=3)
    log_steps(folder, 4, 6)
    folder.finish({"top1": 1.0}, metric="top1", steps=6)
    folder.run_lock.close()
    push_wandb(paths)
    for path in paths:
        assert_shows(server.runs[run_id(Run(path))], path)


def test_an_offline_folder_resumed_and_synced_by_wandb_itself_shows_every_step_once(server, tmp_path):
    path = tmp_path / "run"
    options = ("logger=wandb", "logger.mode=offline")
    killed_after_five_steps(path, *options)
    folder = begin(path, *options, step=3)
    with loggers.follow(Run(path), "wandb") as follower:
        log_steps(folder, 4, 8)
        follower.update()
        folder.finish({"top1": 1.0}, metric="top1", steps=8)
    [offline] = (path / "wandb").glob("offline-run-*")
    assert not server.runs
    command = [sys.executable, "-m", "wandb", "sync", str(offline)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    run = server.runs[run_id(Run(path))]
    assert_shows(run, path)
    assert (run.facts["groupName"], run.facts["jobType"], run.summary["final/top1"]) == ("deit_demo", "deit", 1)
    assert set(run.facts["tags"]) == {"multimax", "demo"}
    assert run.values["reweight"]["attention"]["name"] == "multimax"


def test_a_run_begun_again_from_nothing_is_another_one(tmp_path):
    ids = []
    for times in (("2026-01-01", "2026-01-02"), ("2026-01-03",)):
        for time_ in times:
            folder = begin(tmp_path / "run", "logger=wandb")
            lines = folder.starts.read_text().splitlines()
            folder.starts.write_text("\n".join(line.replace('"time": "', f'"time": "{time_}') for line in lines) + "\n")
            folder.run_lock.close()
            ids.append(run_id(Run(tmp_path / "run")))
        shutil.rmtree(tmp_path / "run")
    assert ids[0] != ids[2]


def follow_some_steps(path, *overrides):
    folder = begin(path, "logger=wandb", *overrides)
    with loggers.follow(Run(path), "wandb") as follower:
        log_steps(folder, 1, 4)
        follower.update()


def test_without_a_key_it_is_offline_and_one_line_says_so(tmp_path, capfd):
    follow_some_steps(tmp_path / "run")
    out, err = capfd.readouterr()
    [line] = (out + err).splitlines()
    assert line.startswith("W&B: offline (no API key")
    assert f"push-wandb {tmp_path / 'run'}" in line
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))


def test_without_a_network_it_is_offline_and_one_line_says_so(server, tmp_path, capfd):
    server.http.shutdown()
    server.http.server_close()
    follow_some_steps(tmp_path / "run")
    out, err = capfd.readouterr()
    [line] = (out + err).splitlines()
    assert line.startswith(f"W&B: offline (no connection to {server.url})")


def test_a_server_that_never_answers_holds_nothing_up(server, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(wandb_mirror, "CONNECT_SECONDS", 1)
    server.dead = True
    follow_some_steps(tmp_path / "run")
    assert "W&B: offline (no connection" in capfd.readouterr().out


def test_a_server_that_goes_away_in_the_middle_does_not_keep_the_run_from_ending(server, tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_mirror, "FINISH_SECONDS", 1)
    path = tmp_path / "run"
    folder = begin(path, "logger=wandb")
    with loggers.follow(Run(path), "wandb") as follower:
        log_steps(folder, 1, 3)
        follower.update()
        server.dead = True
        log_steps(folder, 4, 6)
        follower.update()
        folder.finish({"top1": 1.0}, metric="top1", steps=6)
        folder.run_lock.close()
    server.dead = False
    server.revived.set()
    push_wandb([path])
    assert_shows(server.runs[run_id(Run(path))], path)


def test_a_failing_mirror_says_a_line_and_leaves_the_run_alone(tmp_path, capsys):
    class Broken(Mirror):
        def open(self):
            return -1

        def show(self, step, values, samples):
            raise ConnectionError(f"lost at {step}\nand more")

        def close(self, outcome):
            raise AssertionError("it has been given up before")

    folder = begin(tmp_path / "run")
    with Follower(Broken(), Run(tmp_path / "run")) as follower:
        log_steps(folder, 1, 2)
        follower.update()
        log_steps(folder, 3, 4)
        follower.update()
    [line] = capsys.readouterr().out.splitlines()
    assert "ConnectionError: lost at 1)" in line


def test_a_run_without_logger_and_a_record_can_be_pushed(server, tmp_path):
    from multimax.suite.report.records import record

    finished_run(tmp_path / "run")
    target = record(Run(tmp_path / "run"), tmp_path / "records")
    push_wandb([target])
    [run] = server.runs.values()
    assert_shows(run, tmp_path / "run")
    assert sorted(path.name for path in target.iterdir()) == [
        "config.yaml", "data.json", "metrics.jsonl", "summary.json",
    ]  # fmt: skip


def test_what_cannot_be_pushed_is_named_and_the_rest_is_pushed(server, tmp_path):
    good = tmp_path / "good"
    finished_run(good)
    busy = tmp_path / "busy"
    folder = begin(busy, "logger=wandb", "seed=1")
    (tmp_path / "empty").mkdir()
    with loggers.follow(Run(busy), "wandb") as follower:
        log_steps(folder, 1, 4)
        follower.update()
        with pytest.raises(UserError) as caught:
            push_wandb([tmp_path / "empty", busy, good])
    first, second = caught.value.args
    assert "empty is not a run folder" in first
    assert "busy is being trained" in second
    assert_shows(server.runs[run_id(Run(good))], good)


def test_push_without_a_key_ends_before_it_begins(tmp_path):
    finished_run(tmp_path / "run")
    with pytest.raises(UserError, match="no API key"):
        push_wandb([tmp_path / "run"])
