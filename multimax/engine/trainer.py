"""The training loop. Plain torch with the launcher's environment, because exact resumption needs every piece in view.

All randomness of a step (data, augmentation, dropout) is a function of the seed and the step. A checkpoint therefore
holds no generator's state and no position in a data loader, and a resumed run is the uninterrupted one.
"""

import hashlib
import math
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from multimax import loggers
from multimax.engine import checkpoint, distributed
from multimax.engine.console import Console, format_metrics, say
from multimax.engine.optimization import clip_gradients, create_optimizer, create_schedule, reweighting_parameters
from multimax.engine.run_folder import RunFolder
from multimax.errors import Interrupted, UserError
from multimax.models.sites import count_parameters
from multimax.tasks import Task
from multimax.tasks.base import Shard

Evaluate = Callable[[nn.Module, torch.device, Shard], dict[str, float] | None]

STOPS = (signal.SIGINT, signal.SIGTERM)
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""What a cluster sends some time before it ends a job (sbatch --signal)."""


@dataclass
class Progress:
    """How far a run is; part of its checkpoints. Sums are over all processes."""

    step: int = 0  # optimiser steps done
    weight: float = 0.0  # examples or tokens trained on
    seconds: float = 0.0  # over all starts of the run, evaluation included
    loss_sum: float = 0.0  # since the last logged step, as is weight_sum
    weight_sum: float = 0.0
    best: float | None = None  # of the metric that the task names
    validation: dict[str, float] = field(default_factory=dict)  # metrics of this very step; empty: not evaluated


def step_seed(*parts: int) -> int:
    """A 63-bit seed that depends on every one of ``parts``."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1


class Trainer:
    """Trains one task in one run folder: ``Trainer(task, folder).run()``."""

    def __init__(self, task: Task, folder: RunFolder):
        self.task, self.folder, self.config = task, folder, task.config
        config = self.config.training
        self.device = distributed.choose_device(config.device)
        world = distributed.world_size()
        self.shard = Shard(distributed.rank(), world, self.config.micro_batches(world))
        self.total_steps = config.total_steps(task.steps_per_epoch)

        torch.manual_seed(self.config.seed)
        self.model = task.build_model().to(self.device)
        self.ema = ModelEmaV3(self.model, decay=config.ema_decay) if config.ema_decay is not None else None
        self.optimizer = create_optimizer(self.model, self.config.optimizer)
        self.own_parameters = reweighting_parameters(self.model)
        self.schedule = create_schedule(self.optimizer, self.config.schedule, self.total_steps, task.steps_per_epoch)
        self.train_model: nn.Module = self.model
        if world > 1:
            self.train_model = DistributedDataParallel(self.model)
        if config.compile:
            self.train_model.compile()

        self.progress = Progress()
        self.loss_sum = torch.zeros((), device=self.device, dtype=torch.float64)  # this process's, since the last log
        self.finite = torch.ones((), device=self.device, dtype=torch.bool)  # every loss and gradient so far
        self.stop_requested = False  # a signal reached this process
        self.stopping = False  # a signal reached any process
        self.warned = False  # it was a cluster's, that the time is nearly up
        self.signalled = -math.inf
        self.mirror = loggers.follow(folder.path, self.config.logger.name if folder.writer else "none")

    @property
    def step(self) -> int:
        return self.progress.step

    def run(self) -> dict[str, float]:
        """Train to the end from the newest checkpoint, or from the start; return the final metrics.

        Raises Interrupted after a signal to stop, with a checkpoint written, and UserError if a loss or a gradient is
        not finite, with the checkpoints from before untouched.
        """
        self.folder.claim()
        self.restore()
        self.announce()
        self.started = time.perf_counter() - self.progress.seconds
        with self.mirror:
            handlers = {number: signal.signal(number, self.request_stop) for number in (*STOPS, *WARNINGS)}
            try:
                self.train()
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
            if not self.progress.validation:  # a run of no steps
                self.validate()
            return self.finish()

    def train(self) -> None:
        config = self.config.training
        evaluate_every = config.evaluate_every or self.task.steps_per_epoch
        checkpoint_every = config.checkpoint_every or evaluate_every
        with Console(self.total_steps, self.step, quiet=not self.folder.writer) as console:
            batches = self.task.train_batches(self.step, self.shard) if self.step < self.total_steps else iter(())
            while self.step < self.total_steps:
                self.train_step(next(batches))
                console.advance(self.step)
                at_end = self.step == self.total_steps
                improved = False
                if self.step % config.log_every == 0 or at_end:
                    console.train(self.step, self.log_training())
                if self.step % evaluate_every == 0 or at_end:
                    improved = self.validate()
                    console.validation(self.step, self.progress.validation)
                if self.step % checkpoint_every == 0 or at_end or improved or self.stopping:
                    self.save()
                self.mirror.update()
                if self.stopping and not at_end:
                    raise Interrupted(self.step, out_of_time=self.warned)

    def train_step(self, batches: list[Any]) -> None:
        """One optimiser step over this process's micro-batches."""
        progress = self.progress
        torch.manual_seed(step_seed(self.config.seed, self.step, self.shard.rank))
        self.schedule.step_update(self.step)
        self.train_model.train()
        weight = float(sum(self.task.weight(batch) for batch in batches))
        total = distributed.sum_over_processes(
            {"weight": weight, "stop": float(self.stop_requested), "warned": float(self.warned)}
        )
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            no_sync = getattr(self.train_model, "no_sync", nullcontext)
            with nullcontext() if last else no_sync():
                with self.autocast():
                    loss = self.task.loss(self.train_model, batch, self.device)
                # Gradients are averaged over processes, the loss over the whole batch.
                (loss * (self.shard.world / total["weight"])).backward()
            self.loss_sum += loss.detach()
        self.gradient_norm = clip_gradients(self.model, self.own_parameters, self.config.optimizer.clip_norm)
        self.finite &= self.loss_sum.isfinite() & self.gradient_norm.isfinite()
        self.optimizer.step()
        self.optimizer.zero_grad()
        progress.step += 1
        progress.weight += total["weight"]
        progress.weight_sum += total["weight"]
        progress.validation = {}
        self.stopping, self.warned = total["stop"] > 0, total["warned"] > 0
        if self.ema is not None:
            self.ema.update(self.model, self.step)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.training.precision == "bf16")

    def total_loss(self) -> float:
        """Sum of the loss over all processes since the last logged step.

        Raises UserError if it, or any loss or gradient before it, is not finite: then the weights are lost.
        """
        total = distributed.sum_over_processes({"loss": self.loss_sum.item(), "broken": float(not self.finite)})
        if total["broken"] or not math.isfinite(total["loss"]):
            raise UserError(
                f"a loss or a gradient is not finite by step {self.step}; the checkpoints are from before. "
                "Lower optimizer.learning_rate, lengthen the warm-up or set optimizer.clip_norm"
            )
        return total["loss"]

    def log_training(self) -> dict[str, float]:
        """Write the training metrics since the last call."""
        metrics = {
            "loss": self.total_loss() / self.progress.weight_sum,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "gradient_norm": float(self.gradient_norm),
            f"{self.task.unit}_per_second": self.progress.weight / (time.perf_counter() - self.started),
        }
        self.loss_sum.zero_()
        self.progress.weight_sum = 0.0
        self.log("train", metrics)
        return metrics

    def log(self, phase: str, metrics: dict[str, float]) -> None:
        named = {f"{phase}/{name}": value for name, value in metrics.items()}
        self.folder.log({"step": self.step, "epoch": self.step / self.task.steps_per_epoch, **named})

    def validate(self) -> bool:
        """Score the validation data, also with the averaged weights where that is asked for; True for a new best."""
        metrics = self.evaluate(self.model)
        if self.ema is not None and self.config.training.evaluate_ema:
            metrics |= {f"{name}_ema": value for name, value in self.evaluate(self.ema.module).items()}
        self.progress.validation = metrics
        self.log("val", metrics)
        score, best = metrics[self.task.metric], self.progress.best
        improved = best is None or (score > best if self.task.higher_is_better else score < best)
        if improved:
            self.progress.best = score
        return improved

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        metrics = self.score(self.task.evaluate, model)
        assert metrics is not None
        return metrics

    @torch.no_grad()
    def score(self, evaluate: Evaluate, model: nn.Module) -> dict[str, float] | None:
        """Metrics from the sums of ``evaluate`` over all processes."""
        model.eval()
        with self.autocast():
            sums = evaluate(model, self.device, self.shard)
        return None if sums is None else self.task.metrics(distributed.sum_over_processes(sums))

    def test(self) -> dict[str, float]:
        """Metrics ``test_NAME@last``, ``@best`` and ``@average`` of a task with test data; leaves other weights behind.

        The last weights come first: their sums over processes also wait until the first has written its checkpoint.
        """
        tested = {"last": self.score(self.task.test, self.model)}
        if tested["last"] is None:
            return {}
        folder, count = self.folder.checkpoints, self.config.training.average_checkpoints
        best = checkpoint.best(folder, self.task.higher_is_better)
        if best is not None:
            checkpoint.load_weights(best, self.model, "model", self.device)
            tested["best"] = self.score(self.task.test, self.model)
        if count is not None and (newest := checkpoint.newest_scored(folder, count)):
            checkpoint.load_average(newest, self.model, self.device)
            tested["average"] = self.score(self.task.test, self.model)
        return {f"test_{name}@{of}": value for of, scores in tested.items() for name, value in (scores or {}).items()}

    def save(self) -> None:
        """Write a checkpoint of this step and drop the old ones. Only the first process writes."""
        self.progress.loss_sum = self.total_loss()
        self.progress.seconds = time.perf_counter() - self.started
        task = {name: distributed.concatenate_over_processes(rows) for name, rows in self.task.state().items()}
        if not self.folder.writer:
            return
        training = {"progress": asdict(self.progress), "optimizer": self.optimizer.state_dict(), "task": task}
        ema = self.ema.module if self.ema is not None else None
        metric = self.progress.validation.get(self.task.metric)
        checkpoint.save(self.folder.checkpoints, self.step, self.model, ema, training, metric)
        config = self.config.training
        checkpoint.prune(
            self.folder.checkpoints,
            config.keep_checkpoints,
            self.task.higher_is_better,
            config.average_checkpoints or 0,
        )

    def restore(self) -> None:
        """Go on from the newest whole checkpoint of the run folder, if there is one."""
        found, skipped = checkpoint.newest(self.folder.checkpoints)
        for line in skipped:
            self.say(line)
        if found is not None:
            checkpoint.load_weights(found, self.model, "model", self.device)
            if self.ema is not None:
                checkpoint.load_weights(found, self.ema.module, "ema", self.device)
            state = checkpoint.load_training(found)
            self.optimizer.load_state_dict(state["optimizer"])
            self.progress = Progress(**state["progress"])
            self.task.load_state(state["task"], self.shard)
            if self.folder.writer:  # the sum is that of all processes
                self.loss_sum.fill_(self.progress.loss_sum)
            self.say(f"resuming from {found}")
        self.folder.start(self.step)

    def announce(self) -> None:
        counts = count_parameters(self.model)
        self.say(f"run folder: {self.folder.path}")
        self.say(
            f"parameters: {counts['total']:,}, of which the reweighting has {counts['attention']} in attention "
            f"and {counts['output']} at the output"
        )
        self.say(
            f"{self.total_steps} steps of {self.config.training.batch_size} on {self.shard.world} x {self.device.type} "
            f"in {self.shard.micro_batches} micro-batch(es), {self.config.training.precision}"
        )

    def say(self, line: str) -> None:
        if self.folder.writer:
            say(line)

    def finish(self) -> dict[str, float]:
        metrics = {
            **self.progress.validation,
            f"best_{self.task.metric}": self.progress.best if self.progress.best is not None else math.nan,
        }
        seconds = time.perf_counter() - self.started
        metrics |= self.test()
        rate, memory = self.progress.weight / seconds, peak_memory(self.device)
        self.folder.finish(
            metrics,
            metric=self.task.metric,
            steps=self.step,
            parameters=count_parameters(self.model),
            # Evaluation and checkpoints are in the time, the test at the end is not.
            throughput={"seconds": seconds, f"{self.task.unit}_per_second": rate},
            peak_memory_bytes=memory,
            **self.task.summary(),
        )
        self.say(f"finished: {format_metrics(metrics)}")
        self.say(f"{rate:.4g} {self.task.unit} per second, peak memory {memory / 2**20:.0f} MiB")
        return metrics

    def request_stop(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: stop after this step; a second SIGINT stops at once.

        A launcher passes on the signal that the terminal has sent already: what comes within a second is the same one.
        A cluster sends SIGTERM more than once and kills a while after, which the checkpoint should have to itself.
        """
        self.warned |= number in WARNINGS
        now = time.monotonic()
        if now - self.signalled < 1:
            return
        if not self.stop_requested:
            name = signal.Signals(number).name
            print(f"{name}: stopping after this step; Ctrl-C once more stops at once", file=sys.stderr)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        self.stop_requested, self.signalled = True, now


def peak_memory(device: torch.device) -> int:
    """Largest memory in bytes that the process had: of the GPU's allocator, or resident where there is no GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
