import os
import random
import shutil
import subprocess

import numpy as np
import pytest
import torch
from torch import nn

from multimax.suite.engine import checkpoint
from multimax.suite.errors import UserError


def write(folder, step, metric=None, seed=0):
    torch.manual_seed(seed)
    return checkpoint.save(folder, step, nn.Linear(4, 4), None, {"step": step}, metric)


def test_weights_and_state_come_back(tmp_path):
    torch.manual_seed(1)
    model, ema, other = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
    path = checkpoint.save(tmp_path, 7, model, ema, {"step": 7, "numbers": torch.arange(3)}, 0.5)
    assert checkpoint.newest(tmp_path) == (path, {})
    checkpoint.load_weights(path, other, "model")
    assert torch.equal(other.weight, model.weight)
    checkpoint.load_weights(path, other, "ema")
    assert torch.equal(other.weight, ema.weight)
    assert torch.equal(checkpoint.load_training(path)["numbers"], torch.arange(3))


def test_any_damage_is_noticed_and_the_one_before_is_taken(tmp_path):
    good = write(tmp_path, 1)
    generator = random.Random(0)
    for trial in range(60):
        bad = write(tmp_path, 2, seed=trial)
        victim = generator.choice(sorted(bad.iterdir()))
        content = bytearray(victim.read_bytes())
        kind = trial % 3
        if kind == 0:
            content = content[: generator.randrange(len(content))]
        elif kind == 1:
            content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        if kind == 2:
            victim.unlink()
        else:
            victim.write_bytes(content)
        found, skipped = checkpoint.newest(tmp_path)
        assert found == good, (victim.name, kind)
        assert list(skipped) == [bad]


def test_the_newest_and_the_best_are_kept(tmp_path):
    for step, metric in enumerate([1.0, 3.0, 2.0, None, 2.5]):
        write(tmp_path, step, metric)
    (tmp_path / ".step-00000009.tmp").mkdir()
    checkpoint.prune(tmp_path, keep=2, higher_is_better=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000003", "step-00000004"]
    assert checkpoint.best(tmp_path, higher_is_better=True).name == "step-00000001"
    assert checkpoint.best(tmp_path, higher_is_better=False).name == "step-00000004"


@pytest.mark.parametrize("kilobytes", [40, 160, 300])
def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint(tmp_path, kilobytes):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes + 16}k", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    try:
        good = write(disk, 1)
        big = nn.Linear(200, 200)  # 160 kB: the disk fills up in the weights' file, or the optimiser's, or both
        with pytest.raises(UserError, match="no space left"):
            checkpoint.save(disk, 2, big, None, {"moments": torch.zeros(200, 200)}, None)
        assert list(disk.iterdir()) == [good]
        assert checkpoint.newest(disk) == (good, {})
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("before", ["save_model", "sha256", "flush_to_disk"])
def test_a_folder_that_goes_while_a_checkpoint_is_written_is_one_line(tmp_path, monkeypatch, before):
    operation = getattr(checkpoint, before)

    def lost(*arguments):
        shutil.rmtree(tmp_path / "run")
        return operation(*arguments)

    monkeypatch.setattr(checkpoint, before, lost)
    with pytest.raises(UserError, match="checkpoints disappeared while a checkpoint was written"):
        write(tmp_path / "run" / "checkpoints", 1)


def test_state_of_one_s_own_comes_back_or_is_refused_before_it_is_written(tmp_path):
    state = {"optimizer": {"groups": [{"lr": np.float64(0.1), "betas": (0.9, np.int64(2))}], 0: torch.ones(2)}}
    back = checkpoint.load_training(checkpoint.save(tmp_path, 1, nn.Linear(2, 2), None, state, None))
    assert back["optimizer"]["groups"] == [{"lr": 0.1, "betas": (0.9, 2)}]
    for bad in (np.zeros(3), random.Random(0), nn.ReLU):
        with pytest.raises(UserError, match=r"no checkpoint can hold optimizer\.state\.3, a "):
            checkpoint.save(tmp_path, 2, nn.Linear(2, 2), None, {"optimizer": {"state": {3: bad}}}, None)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_copy_of_a_checkpoint_under_another_name_is_none_and_stays(tmp_path):
    good = write(tmp_path, 3, 9.0)
    copies = [
        shutil.copytree(good, tmp_path / name) for name in ("step-00000003.bak", "step-00000003 (copy)", "step-x")
    ]
    (tmp_path / "step-00000003.tar.gz").write_bytes(b"")
    assert checkpoint.newest(tmp_path) == (good, {})
    assert checkpoint.best(tmp_path, higher_is_better=True) == good
    with pytest.raises(UserError, match="has no checkpoint"):
        checkpoint.find(tmp_path, copies[0].name, higher_is_better=True)
    write(tmp_path, 4, 9.5)
    checkpoint.prune(tmp_path, keep=1, higher_is_better=True)
    assert not good.exists()
    assert all(copy.exists() for copy in copies)


def test_of_damaged_checkpoints_the_newest_is_kept(tmp_path):
    for step in (1, 2, 10):
        checkpoint.set_aside(write(tmp_path, step))
    write(tmp_path, 11)
    checkpoint.prune(tmp_path, keep=1, higher_is_better=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged-step-00000010", "step-00000011"]


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path):
    path = write(tmp_path, 1)
    (path / "training.pt").write_bytes(b"")
    assert write(tmp_path, 1) == path
    assert checkpoint.newest(tmp_path) == (path, {})
    assert list(tmp_path.iterdir()) == [path]


def test_weights_of_another_model_are_refused(tmp_path):
    path = write(tmp_path, 1)
    with pytest.raises(UserError, match="does not hold the model weights"):
        checkpoint.load_weights(path, nn.Linear(5, 5), "model")
