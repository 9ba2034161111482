"""Two processes do what one does: same data, same learning rate, same loss."""

import os
import signal
import subprocess
import sys
import time

import pytest

from multimax.engine import checkpoint
from multimax.engine.run_folder import read_metrics

ARGUMENTS = [
    "training.epochs=null", "training.steps=12", "training.log_every=1", "training.evaluate_every=6",
    "training.batch_size=64", "data.mixup=0.8", "data.cutmix=1.0",
]  # fmt: skip


def start(root, run, *extra, processes=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    return subprocess.Popen(
        [sys.executable, *launcher, str(root / "train.py"), f"run_dir={run}", *ARGUMENTS, *extra],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def train(root, run, *extra, processes=1):
    process = start(root, run, *extra, processes=processes)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return read_metrics(run)


def test_processes_and_micro_batches_do_not_change_a_run(root, tmp_path):
    one = train(root, tmp_path / "one")
    two = train(root, tmp_path / "two", "training.micro_batch_size=16", processes=2)
    assert len(one) == len(two) == 14
    for expected, record in zip(one, two, strict=True):
        for key in ("step", "train/loss", "train/learning_rate", "val/loss", "val/top1", "val/images"):
            assert record.get(key) == pytest.approx(expected.get(key), abs=1e-5), (key, expected["step"])


@pytest.mark.parametrize("whom", ["group", "one"])
def test_two_processes_stop_together_and_go_on(root, tmp_path, whom):
    """A signal to all, as a terminal or scancel sends it, or to one of the processes."""
    run = tmp_path / "run"
    extra = ["training.steps=60", "training.evaluate_every=60", "data.num_workers=1"]
    process = start(root, run, *extra, processes=2)
    while len(read_metrics(run)) < 3 and process.poll() is None:
        time.sleep(0.05)
    if whom == "group":
        os.killpg(process.pid, signal.SIGTERM)
    else:
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        os.kill(int(children[-1]), signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert "stopped at step" in errors
    assert "UserError" not in errors
    found, skipped = checkpoint.newest(run / "checkpoints")
    assert found is not None
    assert not skipped
    step = checkpoint.read_manifest(found)["step"]
    resumed = train(root, run, *extra, processes=2)
    assert [record["step"] for record in resumed if "train/loss" in record] == list(range(1, 61))
    assert 0 < step < 60
