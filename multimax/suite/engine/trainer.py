"""The training loop, in plain torch, since exact resumption needs every piece in view.

All randomness in a step (data, augmentation, dropout) is a function of the seed and the step. So a checkpoint holds no
generator state and no data-loader position, and a resumed run equals an uninterrupted one.
"""

import hashlib
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from multimax import clip_gradients
from multimax.suite.engine import checkpoint, distributed, nonfinite, parent, precision
from multimax.suite.engine.console import Console, format_metrics
from multimax.suite.engine.memory import checkpoint_activations, peak_memory
from multimax.suite.engine.observation import Observer, observe
from multimax.suite.engine.optimization import create_schedule
from multimax.suite.engine.optimizers import create_optimizer, load_state, scored_weights, set_weights
from multimax.suite.engine.pace import Pace
from multimax.suite.engine.provenance import changes_since
from multimax.suite.engine.run_writer import RunWriter
from multimax.suite.engine.signals import StopSignals
from multimax.suite.errors import Diverged, Interrupted
from multimax.suite.models.sites import count_parameters
from multimax.suite.runs import SUMMARY
from multimax.suite.tasks import Task
from multimax.suite.tasks.base import Shard, require_metric, require_summary

Evaluate = Callable[[nn.Module, torch.device, Shard], dict[str, float] | None]
REMEDY = "In a new run, lower optimizer.learning_rate, lengthen the warm-up or set optimizer.clip_norm"


@dataclass
class Progress:
    """How far a run has got; part of its checkpoints. Sums are over all processes."""

    step: int = 0  # optimiser steps done
    weight: float = 0.0  # examples or tokens trained on
    seconds: float = 0.0  # over all starts of the run, including evaluation
    loss_sum: float = 0.0  # since the last logged step, like weight_sum
    weight_sum: float = 0.0
    skipped_in_row: int = 0  # steps up to this one whose loss or gradient was not finite
    skipped_steps: int = 0  # such steps so far
    loss_scale: float = 2.0**16  # for precision=fp16, with the steps since it last changed
    steps_at_scale: int = 0
    best: float | None = None  # value of the task's metric
    validation: dict[str, float] = field(default_factory=dict)  # metrics of this step; empty if it was not evaluated


def step_seed(*parts: int) -> int:
    """A 63-bit seed that depends on all ``parts``."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1


class Trainer:
    """Trains the run of one task: ``Trainer(task, writer).run()``. ``observer`` is updated after each step."""

    def __init__(self, task: Task, writer: RunWriter, observer: Observer | None = None):
        self.task, self.writer, self.config = task, writer, task.config
        self.observer = observer or Observer()
        config = self.config.training
        self.device = distributed.choose_device(config.device)
        self.computes_in = precision.set_up(self.device, config)
        world = distributed.world_size()
        self.shard = Shard(distributed.rank(), world, self.config.micro_batches(world))
        self.total_steps = config.total_steps(task.steps_per_epoch)
        parent.check_length(self.config, self.total_steps)

        torch.manual_seed(self.config.seed)
        self.model = task.build_model()
        self.initialised = parent.initialise(self.model, task) if self.config.init_from is not None else []
        self.model.to(self.device)
        self.ema = ModelEmaV3(self.model, decay=config.ema_decay) if config.ema_decay is not None else None
        self.optimizer = create_optimizer(self.model, self.config.optimizer)
        self.schedule = create_schedule(self.optimizer, self.config.schedule, self.total_steps, task.steps_per_epoch)
        self.train_model: nn.Module = DistributedDataParallel(self.model) if world > 1 else self.model
        if config.activation_checkpointing:
            checkpoint_activations(self.model)
        if config.compile:
            self.train_model.compile(mode="reduce-overhead" if config.cuda_graphs else None)

        self.progress = Progress()
        self.loss_scale = precision.LossScale(config.precision, self.device)
        self.guard = nonfinite.Guard(self.optimizer, self.device, config.max_skipped_steps, self.loss_scale)
        # This process's loss and all processes' weight, over the steps since the last logged one, without skipped ones.
        self.sums = torch.zeros(2, device=self.device, dtype=torch.float64)
        self.signals = StopSignals()
        self.stopping = False  # a signal to stop has reached some process
        self.out_of_time = False  # one of the signals was a cluster's warning
        self.saved = -1  # step of the newest checkpoint

    @property
    def step(self) -> int:
        return self.progress.step

    def run(self) -> dict[str, float]:
        """Train from the newest checkpoint, or from the start, to the end; return the final metrics.

        Raises Interrupted after a signal to stop, with a checkpoint of the last step taken; and Diverged if too many
        steps in a row had a non-finite loss or gradient, with a checkpoint of the weights before them.
        """
        with self.signals:
            # In one process only: looking for unreadable examples may mean decoding thousands of images.
            distributed.from_first(self.say_what_is_left_out)
            self.writer.open(self.task.fingerprint)
            self.restore()
            self.announce()
            self.started = time.perf_counter() - self.progress.seconds
            with self.observer:
                self.train()
                if not self.progress.validation:  # a run with no steps
                    self.validate()
                return self.finish()

    def say_what_is_left_out(self) -> None:
        self.writer.say(*self.task.left_out)
        require_summary(self.task, SUMMARY)

    def train(self) -> None:
        config = self.config.training
        evaluate_every = config.evaluate_every or self.task.steps_per_epoch
        checkpoint_every = config.checkpoint_every or evaluate_every
        with Console(self.total_steps, self.step, quiet=not self.writer.active) as console:
            self.pace = Pace(self.progress.weight)
            batches = self.task.train_batches(self.step, self.shard) if self.step < self.total_steps else iter(())
            while self.step < self.total_steps:
                self.train_step(self.pace.next(batches))
                if self.guard.exhausted():
                    if self.saved < self.step - self.guard.in_a_row():
                        self.save()
                    raise self.diverged("the loss or the gradient is")
                console.advance(self.step)
                at_end = self.step == self.total_steps
                improved = False
                if self.step % config.log_every == 0 or at_end:
                    console.train(self.step, self.log_training())
                with self.pace.paused():
                    if self.step % evaluate_every == 0 or at_end:
                        improved = self.validate()
                        console.validation(self.step, self.progress.validation)
                        self.share()  # a signal may have come during a long evaluation
                    if self.step % checkpoint_every == 0 or at_end or improved or self.stopping:
                        self.save()
                    self.observer.update()
                self.stop_if_asked()

    def share(self, **values: float) -> dict[str, float]:
        """Sum ``values`` over all processes, which also agree here on whether to stop."""
        signals = {"stop": float(self.signals.requested), "warned": float(self.signals.warned)}
        total = distributed.all_reduce({**values, **signals})
        self.stopping, self.out_of_time = total["stop"] > 0, total["warned"] > 0
        return total

    def stop_if_asked(self) -> None:
        """Raise Interrupted if any process had been asked to stop at the last ``share``; the state is saved by then."""
        if self.stopping:
            raise Interrupted(self.step, out_of_time=self.out_of_time)

    def train_step(self, batches: list[Any]) -> None:
        """One optimiser step over this process's micro-batches, skipped if the loss or gradient is not finite."""
        progress = self.progress
        torch.manual_seed(step_seed(self.config.seed, self.step, self.shard.rank))
        self.schedule.step_update(self.step)
        self.train_model.train()
        total_weight = self.share(weight=float(sum(self.task.weight(batch) for batch in batches)))["weight"]
        sums = torch.zeros_like(self.sums)
        sums[1] = total_weight
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            no_sync = getattr(self.train_model, "no_sync", nullcontext)
            with nullcontext() if last else no_sync():
                with self.autocast():
                    loss = self.task.loss(self.train_model, batch, self.device)
                # Gradients are averaged over processes, but the loss over the whole batch.
                nonfinite.poisoned(loss, self.shard.world / total_weight * self.loss_scale.value).backward()
            sums[0] += loss.detach()
        self.loss_scale.unscale(self.model)
        self.gradient_norm = clip_gradients(self.model, self.config.optimizer.clip_norm)
        self.sums += sums.where(self.guard.step(self.gradient_norm), 0)
        self.optimizer.zero_grad()
        progress.step += 1
        progress.weight += total_weight
        progress.validation = {}
        if self.ema is not None:
            self.ema.update(self.model, self.step)

    def autocast(self) -> torch.autocast:
        return precision.autocast(self.device, self.config.training.precision)

    def gather(self) -> None:
        """Bring ``progress`` up to date with the device."""
        loss, weight = self.sums.tolist()
        self.progress.loss_sum, self.progress.weight_sum = distributed.all_reduce({"": loss})[""], weight
        self.progress.skipped_in_row, self.progress.skipped_steps = self.guard.counts.tolist()
        self.progress.loss_scale = float(self.loss_scale.value)
        self.progress.steps_at_scale = int(self.loss_scale.good_steps)
        self.progress.seconds = time.perf_counter() - self.started

    def log_training(self) -> dict[str, float]:
        """Write the training metrics since the last call."""
        self.gather()
        progress = self.progress
        metrics = {
            "loss": progress.loss_sum / progress.weight_sum if progress.weight_sum else math.nan,
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "gradient_norm": float(self.gradient_norm),
            f"{self.task.unit}_per_second": progress.weight / progress.seconds,
        }
        if progress.skipped_steps:
            metrics["skipped_steps"] = progress.skipped_steps
        self.sums.zero_()
        left = progress.seconds / self.step * (self.total_steps - self.step)
        timing = self.pace.lap(progress.weight, self.task.unit) | {"seconds_left": left}
        return self.log("train", metrics, {f"time/{name}": value for name, value in timing.items()}) | timing

    def diverged(self, what: str) -> Diverged:
        self.gather()
        return Diverged(
            f"{what} not finite by step {self.step} ({self.progress.skipped_in_row} skipped in a row); the checkpoints "
            f"are from before. python -m multimax.suite.engine.diagnose {self.writer.path} shows in which layer. "
            f"{REMEDY}"
        )

    def log(self, phase: str, metrics: dict[str, float], observed: dict[str, float] | None = None) -> dict[str, float]:
        """Write a line of ``metrics.jsonl``, dropping non-finite values; returns the ``metrics`` that were written."""
        metrics = nonfinite.finite(metrics)
        named = nonfinite.finite({f"{phase}/{name}": value for name, value in metrics.items()} | (observed or {}))
        self.writer.log({"step": self.step, "epoch": self.step / self.task.steps_per_epoch, **named})
        return metrics

    def observe(self) -> dict[str, float]:
        """Numbers to log with the metrics, from the first process."""
        if not self.writer.active:
            return {}
        with self.autocast():
            return observe(self.task, self.model, self.device, self.writer.run, self.step, self.total_steps)

    def validate(self) -> bool:
        """Score the validation data, also with averaged weights if configured; True for a new best score."""
        with scored_weights(self.optimizer, self.model):
            metrics = self.score(self.task.evaluate, self.model)
            require_metric(self.task, metrics)
            if self.ema is not None and self.config.training.evaluate_ema:
                averaged = self.score(self.task.evaluate, self.ema.module)
                metrics |= {f"{name}_ema": value for name, value in averaged.items()}
            self.progress.validation = self.log("val", metrics, self.observe())
        score, best = self.progress.validation.get(self.task.metric), self.progress.best
        if score is None:  # it was not finite
            return False
        improved = best is None or (score > best if self.task.higher_is_better else score < best)
        if improved:
            self.progress.best = score
        return improved

    @torch.no_grad()
    def score(self, evaluate: Evaluate, model: nn.Module) -> dict[str, float]:
        """Metrics from the sums of ``evaluate`` over all processes; empty if there is nothing to score."""
        model.eval()
        with self.autocast():
            sums = evaluate(model, self.device, self.shard)
        return self.task.metrics(distributed.all_reduce(sums)) if sums is not None else {}

    def test(self) -> dict[str, float]:
        """Metrics ``test_NAME@last``, ``@best`` and ``@average`` of a task with test data; changes the model's weights.

        After a signal to stop, raises Interrupted between them, as each may take as long as an evaluation.
        """
        tested = {"last": self.test_weights()}
        if not tested["last"]:
            return {}
        folder, count = self.writer.run.checkpoints, self.config.training.average_checkpoints
        if best := distributed.from_first(lambda: checkpoint.best(folder, self.task.higher_is_better)):
            checkpoint.load_weights(best, self.model, "model", self.device)
            tested["best"] = self.test_weights()
        if count and (newest := distributed.from_first(lambda: checkpoint.newest_scored(folder, count))):
            checkpoint.load_average(newest, self.model, self.device)
            tested["average"] = self.test_weights()
        return {f"test_{name}@{of}": value for of, scores in tested.items() for name, value in scores.items()}

    def test_weights(self) -> dict[str, float]:
        self.share()  # also waits until the first process has written its checkpoint
        self.stop_if_asked()
        return self.score(self.task.test, self.model)

    def save(self) -> None:
        """Write a checkpoint of this step and drop old ones. Only the first process writes.

        Raises Diverged if the weights are not finite.
        """
        if not torch.stack([parameter.isfinite().all() for parameter in self.model.parameters()]).all():
            raise self.diverged("the weights are")
        self.gather()
        self.saved = self.step
        task = {name: distributed.all_gather(rows) for name, rows in self.task.state().items()}
        if not self.writer.active:
            return
        self.writer.flush()
        training = {"progress": asdict(self.progress), "optimizer": self.optimizer.state_dict(), "task": task}
        ema = self.ema.module if self.ema is not None else None
        metric = self.progress.validation.get(self.task.metric)
        folder = self.writer.run.checkpoints
        with scored_weights(self.optimizer, self.model) as trained:
            training["trained weights"] = trained
            checkpoint.save(folder, self.step, self.model, ema, training, metric, self.writer.digest)
        self.prune()

    def prune(self) -> None:
        """Drop old checkpoints, but not while steps are being skipped, which may precede divergence."""
        if self.progress.skipped_in_row or not self.writer.active:
            return
        config, folder = self.config.training, self.writer.run.checkpoints
        average = config.average_checkpoints or 0
        checkpoint.prune(folder, config.keep_checkpoints, self.task.higher_is_better, average)

    def restore(self) -> None:
        """Continue from the newest whole checkpoint of the run folder, if there is one.

        Raises UserError if there are checkpoints but all are damaged: starting over silently would hide the loss.
        """
        found = self.writer.newest_checkpoint()
        if found is not None:
            state = self.take_up(found)
            load_state(self.optimizer, state["optimizer"])
            self.saved = self.step
            self.writer.say(f"resuming from {found}")
            self.prune()  # in case the run was killed between its last checkpoint and pruning
        elif self.config.extends is not None:
            if self.writer.active:
                parent.check_data(self.config, self.writer.run)
            run, last = parent.extended(self.config.extends)
            state = self.take_up(last)
            load_state(self.optimizer, parent.keep_hyperparameters(self.optimizer, state["optimizer"]))
            self.progress.best, self.progress.validation = None, {}
            self.writer.say(f"continuing from {last}", *changes_since(run))
        self.writer.start(self.step)

    def take_up(self, found: Path) -> dict[str, Any]:
        """Load weights, progress and the task's state from a whole checkpoint; returns its training state."""
        checkpoint.load_weights(found, self.model, "model", self.device)
        if self.ema is not None:
            checkpoint.load_weights(found, self.ema.module, "ema", self.device)
        state = checkpoint.load_training(found)
        set_weights(self.model, state.get("trained weights", {}))
        self.progress = Progress(**state["progress"])
        self.task.load_state(state["task"], self.shard)
        self.sums[0] = self.progress.loss_sum if self.writer.active else 0.0  # it is the sum over all processes
        self.sums[1] = self.progress.weight_sum
        self.guard.restore(self.progress.skipped_in_row, self.progress.skipped_steps)
        self.loss_scale.restore(self.progress.loss_scale, self.progress.steps_at_scale)
        return state

    def announce(self) -> None:
        counts = count_parameters(self.model)
        self.writer.say(
            f"run folder: {self.writer.path}",
            *self.initialised,
            f"parameters: {counts['total']:,} in total; of the reweightings {counts['attention']} in attention and "
            f"{counts['output']} at the output",
            f"{self.total_steps} steps of {self.config.training.batch_size} on {self.shard.world} x {self.device.type} "
            f"in {self.shard.micro_batches} micro-batch(es), {self.computes_in}",
        )

    def finish(self) -> dict[str, float]:
        name, best = self.task.metric, self.progress.best
        if best is None or name not in self.progress.validation:
            raise Diverged(f"{name} of the last step is not finite, so {self.writer.path} has no result. {REMEDY}")
        metrics = {**self.progress.validation, f"best_{name}": best}
        seconds = time.perf_counter() - self.started
        with scored_weights(self.optimizer, self.model):
            metrics |= nonfinite.finite(self.test())
        rate, memory = self.progress.weight / seconds, peak_memory(self.device)
        self.writer.finish(
            metrics,
            self.task.summary() if self.writer.active else {},
            metric=self.task.metric,
            steps=self.step,
            processes=self.shard.world,
            skipped_steps=self.progress.skipped_steps,
            parameters=count_parameters(self.model),
            # The time includes evaluation and checkpoints, but not the test at the end.
            throughput={"seconds": seconds, f"{self.task.unit}_per_second": rate},
            peak_memory_bytes=memory,
        )
        self.writer.say(
            f"finished: {format_metrics(metrics)}",
            f"{rate:.4g} {self.task.unit} per second, peak memory {memory / 2**20:.0f} MiB",
        )
        return metrics
