"""Checkpoints that are either whole or absent.

A checkpoint is a folder ``step-00001234`` with ``model.safetensors``, perhaps ``ema.safetensors``, ``training.pt``
(optimiser state, read with ``weights_only=True``) and ``manifest.json``, which names the run and has the SHA-256 of
each file; it is checked before anything is read. The folder is written under a temporary name, flushed to disk, then
renamed.
"""

import hashlib
import json
import logging
import os
import pickle
import re
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from multimax.suite.errors import UserError
from multimax.suite.files import flush_to_disk

logger = logging.getLogger(__name__)

PREFIX = "step-"
MANIFEST = "manifest.json"
ASIDE = "damaged-"


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    ema: nn.Module | None,
    training: dict[str, Any],
    metric: float | None,
    run: str | None = None,
) -> Path:
    """Write the checkpoint of ``step`` of the run ``run`` and return its folder.

    Raises UserError if the disk is full, gone or not writable, or if ``training`` holds something that
    ``load_training`` would not read. Existing checkpoints stay as they are.
    """
    final = folder / name_of(step)
    temporary, replaced = folder / f".{final.name}.tmp", folder / f".{final.name}.old.tmp"
    for leftover in (temporary, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    training = {name: plain(value, name) for name, value in training.items()}
    try:
        temporary.mkdir(parents=True)
        save_model(model, str(temporary / "model.safetensors"))
        if ema is not None:
            save_model(ema, str(temporary / "ema.safetensors"))
        torch.save(training, temporary / "training.pt")
        files = {path.name: sha256(path) for path in sorted(temporary.iterdir())}
        content = {"step": step, "metric": metric, "run": run, "files": files}
        (temporary / MANIFEST).write_text(json.dumps({"content": content, "sha256": digest(content)}, indent=1))
        for path in [*temporary.iterdir(), temporary]:
            flush_to_disk(path)
        if final.exists():  # it is damaged, or the run would have resumed from it
            final.rename(replaced)
        temporary.rename(final)
        flush_to_disk(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    except Exception as error:  # safetensors, torch and Python each report a full disk differently
        full, gone = is_full(folder, error), not os.path.exists(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        if gone:
            raise UserError(f"{folder} disappeared while a checkpoint was written: was it deleted or moved?") from error
        if full:
            raise UserError(f"no space left for a checkpoint in {folder}; the last whole one is untouched") from error
        # This includes quotas and limits on files; neither torch nor safetensors raises OSError.
        if isinstance(error, OSError) or "inline_container" in str(error) or "os error" in str(error):
            raise UserError(f"no checkpoint can be written in {folder}: {error}; the last is untouched") from error
        raise
    return final


def plain(value: Any, where: str) -> Any:
    """``value``, found ``where``, with Python numbers in place of NumPy's, which a user's own schedule may set.

    Raises UserError if it holds anything but tensors, numbers, text and containers.
    """
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (dict, OrderedDict):
        return {plain(key, where): plain(item, f"{where}.{key}") for key, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(plain(item, where) for item in value)
    if not isinstance(value, Tensor) and type(value) not in (str, bytes, bool, int, float, complex, type(None)):
        raise UserError(
            f"no checkpoint can hold {where}, a {type(value).__module__}.{type(value).__qualname__}: the state of an "
            "optimizer or a task is of tensors, numbers, text and containers of these"
        )
    return value


def is_full(folder: Path, error: Exception) -> bool:
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return False
    return free < 2**20 or "No space left" in str(error) or "quota" in str(error)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """``step``, ``metric`` and the files' checksums; raises ValueError if the manifest is damaged."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        content = manifest["content"]
        intact = manifest["sha256"] == digest(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{MANIFEST} cannot be read ({error})") from None
    if not intact:
        raise ValueError(f"{MANIFEST} does not have its checksum")
    return content


def verify(checkpoint: Path, run: str | None = None) -> None:
    """Raise ValueError, saying what is wrong, if a checkpoint is damaged or not of the run ``run``."""
    content = read_manifest(checkpoint)
    if checkpoint.name != name_of(content["step"]):
        raise ValueError(f"it is that of step {content['step']}")
    if run is not None and content["run"] != run:
        raise ValueError(f"it is of another run (configuration {content['run']}, not {run})")
    for name, expected in content["files"].items():
        try:
            found = sha256(checkpoint / name)
        except FileNotFoundError:
            raise ValueError(f"{name} is missing") from None
        except OSError as error:
            raise ValueError(f"{name} cannot be read ({error.strerror})") from None
        if found != expected:
            raise ValueError(f"{name} does not have its checksum")


def name_of(step: int) -> str:
    return f"{PREFIX}{step:08d}"


def is_named(checkpoint: Path) -> bool:
    return re.fullmatch(rf"{PREFIX}[0-9]{{8,}}", checkpoint.name) is not None


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(PREFIX))


def newest_first(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first, complete or not; copies that somebody made under other names do not count."""
    return sorted(filter(is_named, folder.glob(f"{PREFIX}*")), reverse=True)


def newest(folder: Path, run: str | None = None) -> tuple[Path | None, dict[Path, str]]:
    """The newest whole checkpoint of the run ``run``, and what is wrong with each newer one."""
    skipped = {}
    for checkpoint in newest_first(folder):
        try:
            verify(checkpoint, run)
        except ValueError as error:
            skipped[checkpoint] = str(error)
        else:
            return checkpoint, skipped
    return None, skipped


def set_aside(checkpoint: Path) -> None:
    """Rename a damaged checkpoint, so that it no longer counts as the newest and its step can be written again."""
    aside = checkpoint.with_name(f"{ASIDE}{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)


def scored(folder: Path) -> Iterator[tuple[float, Path]]:
    """Metrics and checkpoints of the steps that were evaluated, newest first."""
    for checkpoint in newest_first(folder):
        try:
            metric = read_manifest(checkpoint)["metric"]
        except ValueError:
            continue
        if metric is not None:
            yield metric, checkpoint


def best(folder: Path, higher_is_better: bool) -> Path | None:
    """The checkpoint with the best metric, the newest of several equal ones; None if no checkpoint has a metric."""
    ranked = [(metric if higher_is_better else -metric, path.name, path) for metric, path in scored(folder)]
    return max(ranked)[2] if ranked else None


def find(folder: Path, name: str, higher_is_better: bool) -> Path:
    """The checkpoint called ``name``, which may be "last" or "best"; raises UserError if there is none."""
    if name == "last":
        path, damaged = newest(folder)
        for newer, reason in damaged.items():
            logger.warning("%s is passed over: %s", newer, reason)
    elif name == "best":
        path = best(folder, higher_is_better)
    else:
        path = folder / name if is_named(Path(name)) else None
    if path is None or not path.is_dir():
        there = ", ".join(p.name for p in reversed(newest_first(folder))) or "none"
        raise UserError(f"{folder} has no checkpoint {name}; there: {there}")
    return path


def newest_scored(folder: Path, count: int) -> list[Path]:
    """The ``count`` newest checkpoints whose step was evaluated, or as many as there are.

    Interruptions do not change these, as they write their checkpoints without a metric.
    """
    return [path for _, path in islice(scored(folder), count)]


def prune(folder: Path, keep: int, higher_is_better: bool, average: int = 0) -> None:
    """Delete all but the ``keep`` newest checkpoints, the ``average`` newest that were evaluated, and the best one.

    Also deletes what interrupted writes left behind, and all but the newest damaged checkpoint that was set aside.
    """
    spared = {best(folder, higher_is_better), *newest_first(folder)[:keep], *newest_scored(folder, average)}
    for checkpoint in newest_first(folder):
        if checkpoint not in spared:
            shutil.rmtree(checkpoint, ignore_errors=True)
    for leftover in (*folder.glob(f".{PREFIX}*.tmp"), *sorted(folder.glob(f"{ASIDE}{PREFIX}*"))[:-1]):
        shutil.rmtree(leftover, ignore_errors=True)


def load_weights(checkpoint: Path, model: nn.Module, which: str, device: torch.device | str = "cpu") -> None:
    """Load the "model" or "ema" weights of a whole checkpoint; raises UserError if they belong to another model."""
    try:
        load_model(model, checkpoint / f"{which}.safetensors", device=str(device))
    except (RuntimeError, FileNotFoundError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{checkpoint} does not hold the {which} weights of this run: {reason}") from None


@torch.no_grad()
def load_average(checkpoints: Sequence[Path], model: nn.Module, device: torch.device | str = "cpu") -> None:
    """Load the mean of whole checkpoints' weights, summed in float64; raises UserError like ``load_weights``."""
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    sums = [torch.zeros_like(tensor, dtype=torch.float64) for tensor in tensors]
    for checkpoint in checkpoints:
        load_weights(checkpoint, model, "model", device)
        for total, tensor in zip(sums, tensors, strict=True):
            total += tensor
    for total, tensor in zip(sums, tensors, strict=True):
        tensor.copy_(total / len(checkpoints))


def load_training(checkpoint: Path) -> dict[str, Any]:
    """What ``save`` got as ``training``, with tensors on the CPU: the optimiser moves what belongs on the GPU.

    Raises UserError if it holds anything but tensors, numbers, text and containers; no code in it is run.
    """
    path = checkpoint / "training.pt"
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds more than tensors and numbers, and is not read: no run of ours wrote it"
        ) from None
