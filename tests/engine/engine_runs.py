"""Small runs for the tests of the engine."""

import os
import signal

from multimax.composition import compose_configuration, typed
from multimax.engine.run_folder import RunFolder, read_metrics
from multimax.engine.trainer import Trainer
from multimax.tasks import task_module

EVERYTHING = [
    "training.epochs=null", "training.steps=10", "training.log_every=3", "training.evaluate_every=4",
    "training.batch_size=32", "training.micro_batch_size=8", "training.ema_decay=0.9", "training.evaluate_ema=true",
    "model.drop_path=0.2", "model.depth=2", "data.mixup=0.8", "data.cutmix=1", "data.random_erasing=0.5",
]  # fmt: skip


def trainer(path, *overrides) -> Trainer:
    config = typed(compose_configuration([*EVERYTHING, *overrides]))
    return Trainer(task_module(config.task).create(config), RunFolder(path, config))


def numbers(path):
    """All that a run logged, but for its speed."""
    return [{k: v for k, v in r.items() if not k.endswith("per_second")} for r in read_metrics(path)]


def stop_at(running: Trainer, step: int) -> None:
    """Send this process a SIGTERM while ``running`` is in ``step``."""
    train_step = running.train_step

    def interrupted(batches):
        if running.step == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        train_step(batches)

    running.train_step = interrupted
