"""Two processes do what one does: same data, same learning rate, same loss."""

import os
import subprocess
import sys

import pytest

from multimax.engine.run_folder import read_metrics

ARGUMENTS = [
    "training.epochs=null", "training.steps=12", "training.log_every=1", "training.evaluate_every=6",
    "training.batch_size=64", "data.mixup=0.8", "data.cutmix=1.0",
]  # fmt: skip


def train(root, run, *extra, processes=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, str(root / "train.py"), f"run_dir={run}", *ARGUMENTS, *extra],
        capture_output=True, text=True, timeout=300, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return read_metrics(run)


def test_processes_and_micro_batches_do_not_change_a_run(root, tmp_path):
    one = train(root, tmp_path / "one")
    two = train(root, tmp_path / "two", "training.micro_batch_size=16", processes=2)
    assert len(one) == len(two) == 14
    for expected, record in zip(one, two, strict=True):
        for key in ("step", "train/loss", "train/learning_rate", "val/loss", "val/top1", "val/images"):
            assert record.get(key) == pytest.approx(expected.get(key), abs=1e-5), (key, expected["step"])
