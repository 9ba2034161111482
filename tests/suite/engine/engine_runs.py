"""Small runs for the tests of the engine, in this process or in forks of it."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from multimax.suite.composition import compose_configuration, typed
from multimax.suite.config import RunConfig
from multimax.suite.engine import distributed, parent
from multimax.suite.engine.run_writer import RunWriter
from multimax.suite.engine.trainer import Trainer
from multimax.suite.errors import Interrupted, UserError
from multimax.suite.runs import Run
from multimax.suite.tasks import task_module

EVERYTHING = [
    "training.epochs=null", "training.steps=10", "training.log_every=3", "training.evaluate_every=4",
    "training.batch_size=32", "training.micro_batch_size=8", "training.ema_decay=0.9", "training.evaluate_ema=true",
    "model.drop_path=0.2", "model.depth=2", "data.mixup=0.8", "data.cutmix=1", "data.random_erasing=0.5",
]  # fmt: skip


def configure(*overrides) -> RunConfig:
    return typed(compose_configuration(overrides))


def make(path, config: RunConfig) -> Trainer:
    config = parent.found(config)
    return Trainer(task_module(config.task).create(config), RunWriter(path, config, active=distributed.rank() == 0))


def trainer(path, *overrides) -> Trainer:
    return make(path, configure(*EVERYTHING, *overrides))


def numbers(path):
    """Everything that a run logged, except its speed."""
    return [{k: v for k, v in record.items() if not is_timing(k)} for record in Run(path).metrics]


def is_timing(key):
    return key.endswith("per_second") or key.startswith("time/")


def stop_at(running: Trainer, step: int) -> None:
    """Make ``running`` send this process a SIGTERM during ``step``."""
    train_step = running.train_step

    def interrupted(batches):
        if running.step == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        train_step(batches)

    running.train_step = interrupted


TEXT = [
    "task=lm", "data=wikitext2", "reweight=multimax", "model.depth=1", "model.dim=8", "model.num_heads=2",
    "model.ffn_dim=8", "model.dropout=0.1", "training.batch_size=4", "training.device=cpu", "data.eval_batch_size=4",
    "schedule.warmup_steps=4", "optimizer.learning_rate=0.01", "training.log_every=1", "training.evaluate_every=8",
]  # fmt: skip
LANGUAGE_MODELS = {
    "transformer_xl": [
        *TEXT, "model.segment_length=4", "model.memory_length=4", "model.eval_segment_length=4",
        "model.eval_memory_length=4", "model.eval_clamp_length=4",
    ],
    "transformer_lm": [*TEXT, "model=transformer_lm", "model.segment_length=6", "model.eval_context=3"],
}  # fmt: skip


TRANSLATION = [
    "task=mt", "reweight=multimax", "model.encoder_depth=1", "model.decoder_depth=1", "model.dim=8",
    "model.num_heads=2", "model.ffn_dim=8", "model.max_length=32", "data.source=files", "data.tokenize=false",
    "data.bpe_merges=null", "data.name=words", "training.device=cpu", "training.batch_size=60", "decoding.beam=2",
    "training.log_every=1", "training.evaluate_every=8", "training.average_checkpoints=2",
]  # fmt: skip
TEXT_RUNS = {**LANGUAGE_MODELS, "translation": TRANSLATION}


def write_text(root: Path) -> list[str]:
    """Write a small text to train on, which is also its own translation; return the overrides that name it."""
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    folder = root / "text"
    folder.mkdir()
    for split, seed, lines in (("train", 0, 60), ("valid", 1, 3), ("test", 2, 2)):
        steps = torch.randint(1, 4, (lines, 7), generator=torch.Generator().manual_seed(seed))
        rows = (steps.cumsum(1) % len(words)).tolist()
        for suffix in ("txt", "de", "en"):
            (folder / f"{split}.{suffix}").write_text("".join(f"{' '.join(words[i] for i in row)}\n" for row in rows))
    return [f"data.root={folder}", f"data.cache_dir={root / 'cache'}"]


def fork(work: Callable[[], object], log: Path, **environment: str) -> int:
    """Fork a child that does ``work`` and exits as a command would, without starting an interpreter; return its pid."""
    if child := os.fork():
        return child
    code = 0
    try:
        os.environ.update(environment)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = sys.stderr = os.fdopen(descriptor, "w", buffering=1)
        work()
    except UserError as error:
        print(f"error: {error}")
        code = 2
    except Interrupted as error:
        print(error)
        code = 130
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """Wait for a child; return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
