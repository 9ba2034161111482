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
from contextlib import nullcontext
from types import FrameType
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from multimax.config import micro_batches
from multimax.engine import checkpoint, distributed
from multimax.engine.console import Console, format_metrics, say
from multimax.engine.optimization import clip_gradients, create_optimizer, create_schedule, reweighting_parameters
from multimax.engine.run_folder import RunFolder
from multimax.errors import UserError
from multimax.models.sites import count_parameters
from multimax.tasks import Task
from multimax.tasks.base import Shard


class Interrupted(Exception):
    """A signal asked the run to stop; its state is in the checkpoint of ``step``."""

    def __init__(self, step: int):
        super().__init__(f"stopped at step {step}; the same command continues from there")


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
        self.shard = Shard(distributed.rank(), world, micro_batches(config, world))
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

        self.step = 0
        self.loss_sum = torch.zeros((), device=self.device, dtype=torch.float64)  # since the last logged step
        self.weight_sum = 0.0
        self.best: float | None = None
        self.stop_requested = False

    def run(self) -> dict[str, float]:
        """Train to the end from the newest checkpoint, or from the start; return the final metrics.

        Raises Interrupted after SIGINT or SIGTERM, with a checkpoint written, and UserError if the loss is not finite.
        """
        self.restore()
        self.announce()
        config = self.config.training
        evaluate_every = config.evaluate_every or self.task.steps_per_epoch
        checkpoint_every = config.checkpoint_every or evaluate_every
        validation: dict[str, float] = {}
        started, first_step, weight_done = time.perf_counter(), self.step, 0.0
        handlers = {number: signal.signal(number, self.request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with Console(self.total_steps, self.step, quiet=not self.folder.writer) as console:
                batches = self.task.train_batches(self.step, self.shard) if self.step < self.total_steps else iter(())
                while self.step < self.total_steps:
                    weight_done += self.train_step(next(batches))
                    console.advance(self.step)
                    if self.step % config.log_every == 0 or self.step == self.total_steps:
                        rate = weight_done / (time.perf_counter() - started)
                        console.train(self.step, self.log_training(rate))
                    at_end = self.step == self.total_steps
                    if self.step % evaluate_every == 0 or at_end:
                        validation = self.validate()
                        console.validation(self.step, validation)
                    if self.step % checkpoint_every == 0 or at_end:
                        self.save(validation.get(self.task.metric))
                    if self.stop_requested and not at_end:
                        self.save(None)
                        raise Interrupted(self.step)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        # A run of no steps, or one killed between its last checkpoint and its summary, has not been scored yet.
        validation = validation or self.validate()
        return self.finish(validation, time.perf_counter() - started, weight_done, self.step - first_step)

    def train_step(self, batches: list[Any]) -> float:
        """One optimiser step over this process's micro-batches; returns the weight of the whole global batch."""
        torch.manual_seed(step_seed(self.config.seed, self.step, self.shard.rank))
        self.schedule.step_update(self.step)
        self.train_model.train()
        weight = float(sum(self.task.weight(batch) for batch in batches))
        weight = distributed.sum_over_processes({"weight": weight}, self.device)["weight"]
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            no_sync = getattr(self.train_model, "no_sync", nullcontext)
            with nullcontext() if last else no_sync():
                with self.autocast():
                    loss = self.task.loss(self.train_model, batch, self.device)
                # Gradients are averaged over processes, the loss over the whole batch.
                (loss * (self.shard.world / weight)).backward()
            self.loss_sum += loss.detach()
        self.weight_sum += weight
        self.gradient_norm = clip_gradients(self.model, self.own_parameters, self.config.optimizer.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.model, self.step)
        return weight

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.training.precision == "bf16")

    def log_training(self, rate: float) -> dict[str, float]:
        """Write the training metrics since the last call; raises UserError if the loss is not finite."""
        total = distributed.sum_over_processes({"loss": self.loss_sum.item()}, self.device)["loss"]
        loss = total / self.weight_sum
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} by step {self.step}; the last checkpoint is from before. "
                "Lower optimizer.learning_rate, lengthen the warm-up or set optimizer.clip_norm"
            )
        self.loss_sum.zero_()
        self.weight_sum = 0.0
        metrics = {
            "train/loss": loss,
            "train/learning_rate": self.optimizer.param_groups[0]["lr"],
            "train/gradient_norm": float(self.gradient_norm),
            f"train/{self.task.unit}_per_second": rate,
        }
        self.log(metrics)
        return {name.removeprefix("train/"): value for name, value in metrics.items()}

    def log(self, metrics: dict[str, float]) -> None:
        self.folder.log({"step": self.step, "epoch": self.step / self.task.steps_per_epoch, **metrics})

    def validate(self) -> dict[str, float]:
        """Metrics on the validation data, also of the averaged weights where the configuration asks for them."""
        metrics = self.evaluate(self.model)
        if self.ema is not None and self.config.training.evaluate_ema:
            metrics |= {f"{name}_ema": value for name, value in self.evaluate(self.ema.module).items()}
        score = metrics[self.task.metric]
        if self.best is None or (score > self.best) == self.task.higher_is_better:
            self.best = score
        self.log({f"val/{name}": value for name, value in metrics.items()})
        return metrics

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        model.eval()
        with self.autocast():
            sums = self.task.evaluate(model, self.device, self.shard)
        return self.task.metrics(distributed.sum_over_processes(sums, self.device))

    def save(self, metric: float | None) -> None:
        """Write a checkpoint of this step and drop the old ones. Only the first process writes."""
        task = {name: distributed.concatenate_over_processes(rows) for name, rows in self.task.state().items()}
        if not self.folder.writer:
            return
        training = {
            "task": task,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "loss_sum": self.loss_sum,
            "weight_sum": self.weight_sum,
            "best": self.best,
        }
        ema = self.ema.module if self.ema is not None else None
        checkpoint.save(self.folder.checkpoints, self.step, self.model, ema, training, metric)
        checkpoint.prune(self.folder.checkpoints, self.config.training.keep_checkpoints, self.task.higher_is_better)

    def restore(self) -> None:
        """Go on from the newest whole checkpoint of the run folder, if there is one."""
        found, skipped = checkpoint.newest(self.folder.checkpoints)
        for line in skipped:
            self.say(line)
        if found is None:
            self.folder.rewind(-1)
            return
        checkpoint.load_weights(found, self.model, "model", self.device)
        if self.ema is not None:
            checkpoint.load_weights(found, self.ema.module, "ema", self.device)
        state = checkpoint.load_training(found, self.device)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best, self.weight_sum = state["step"], state["best"], state["weight_sum"]
        self.loss_sum.copy_(state["loss_sum"])
        self.task.load_state(state["task"], self.shard)
        self.folder.rewind(self.step)
        self.say(f"resuming from {found}")

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

    def finish(self, validation: dict[str, float], seconds: float, weight: float, steps: int) -> dict[str, float]:
        metrics = {**validation, f"best_{self.task.metric}": self.best if self.best is not None else math.nan}
        memory = peak_memory(self.device)
        self.folder.finish(
            metrics,
            metric=self.task.metric,
            steps=self.step,
            parameters=count_parameters(self.model),
            # Of the last start only, where a run was resumed; evaluation and checkpoints are in it.
            throughput={"seconds": seconds, "steps": steps, f"{self.task.unit}_per_second": weight / seconds},
            peak_memory_bytes=memory,
            **self.task.summary(),
        )
        self.say(f"finished: {format_metrics(metrics)}")
        self.say(f"{weight / seconds:.4g} {self.task.unit} per second, peak memory {memory / 2**20:.0f} MiB")
        return metrics

    def request_stop(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: stop after this step; a second signal stops at once."""
        if self.stop_requested:
            raise KeyboardInterrupt
        self.stop_requested = True
        print(f"{signal.Signals(number).name}: stopping after this step; once more stops at once", file=sys.stderr)


def peak_memory(device: torch.device) -> int:
    """Largest memory in bytes that the process had: of the GPU's allocator, or resident where there is no GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
