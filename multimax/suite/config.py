"""The typed configuration of a run, and checks that involve more than one of its fields.

Hydra composes the values from ``configs/``; these dataclasses define the keys and their types. A task extends
``RunConfig`` with its own ``model`` and ``data``.
"""

import math
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints

from multimax import reweight
from multimax.suite.errors import UserError
from multimax.suite.options import bounded, check_options, choice, registered
from multimax.suite.plugins import PARTS, has_target, taken
from multimax.suite.registry import Registry


@dataclass
class Reweight:
    """The function at each site: ``{"name": registered name, **options}``.

    A task with several kinds of attention adds a site for each, None where ``attention`` applies.
    """

    attention: dict[str, Any]
    output: dict[str, Any]

    def own(self) -> dict[str, dict[str, Any]]:
        """The sites, besides ``attention`` and ``output``, that have their own function."""
        sites = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: site for name, site in sites.items() if site and name not in ("attention", "output")}


OPTIMIZERS = Registry(
    {
        "adamw": "multimax.suite.engine.optimizers.adamw",
        "sgd": "multimax.suite.engine.optimizers.sgd",
        "muon": "multimax.suite.engine.optimizers.muon",
        "schedule_free_adamw": "multimax.suite.engine.optimizers.schedule_free_adamw",
    }
)
"""By name, ``create(model, config: Optimizer) -> torch.optim.Optimizer``."""

SCHEDULES = Registry(
    {
        "cosine": "multimax.suite.engine.optimization.cosine",  # to final_rate at the last step
        "inverse_sqrt": "multimax.suite.engine.optimization.warmup",
        "constant": "multimax.suite.engine.optimization.warmup",
    }
)
"""By name, ``create(optimizer, config: Schedule, total_steps, warmup_steps)``, which has ``step_update(step)``."""


@dataclass
class Optimizer:
    """Biases, norms and the reweightings' own parameters are never decayed."""

    learning_rate: float = bounded(0)
    beta1: float = bounded(0, 1, default=0.9)
    beta2: float = bounded(0, 1, default=0.999)
    epsilon: float = bounded(0, default=1e-8)
    weight_decay: float = bounded(0, default=0.0)
    # Largest global gradient norm; the reweightings' parameters are clipped to it as a group of their own.
    clip_norm: float | None = bounded(0, default=None)
    name: str = registered(OPTIMIZERS, default="adamw")
    momentum: float = bounded(0, 1, default=0.9)  # of sgd; of muon, which takes Nesterov's, 0.95 is usual


@dataclass
class Schedule:
    """Learning rate over steps: linear warm-up from ``warmup_rate``, then the named decay."""

    name: str = registered(SCHEDULES, default="cosine")
    warmup_steps: int | None = bounded(0, default=None)
    warmup_epochs: float | None = bounded(0, default=None)
    warmup_rate: float = bounded(0, default=0.0)
    final_rate: float = bounded(0, default=0.0)


@dataclass
class Training:
    # Examples (task=mt: tokens) of a step over all devices and accumulated micro-batches.
    batch_size: int = bounded(1, limit=2**24)
    epochs: float | None = bounded(0, default=None)  # the length of a run: this
    steps: int | None = bounded(0, default=None)  # or this
    micro_batch_size: int | None = bounded(1, default=None)  # most examples (tokens) on a device at a time; None: all
    label_smoothing: float = bounded(0, 1, default=0.0)
    precision: str = choice("fp32", "bf16", "fp16", default="fp32")  # fp16: with a loss scale, for GPUs without bf16
    tf32: bool = True  # products of float32 on a GPU in TensorFloat-32, with ten bits behind the point
    activation_checkpointing: bool = False  # recompute each layer's inside in backward: less memory, a third more time
    compile: bool = False
    cuda_graphs: bool = False  # replays compiled steps instead of launching them: for batches of one shape
    ema_decay: float | None = bounded(0, 1, default=None)
    evaluate_ema: bool = False
    device: str = choice("auto", "cpu", "cuda", default="auto")
    log_every: int = bounded(1, default=50)  # steps
    evaluate_every: int | None = bounded(1, default=None)  # steps; None: at the end of each epoch
    checkpoint_every: int | None = bounded(1, default=None)  # steps; None: at each evaluation
    keep_checkpoints: int = bounded(1, default=2)  # newest ones kept, besides the best
    # Steps in a row that are left out for a loss or a gradient that is not finite, before the run stops.
    max_skipped_steps: int = bounded(1, default=3)
    # Evaluated checkpoints, the newest, that are kept too and whose mean weights are tested at the end; None: none.
    average_checkpoints: int | None = bounded(2, default=None)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimiser steps of the run. Raises UserError for an epoch of none, as a task of one's own may have."""
        if steps_per_epoch < 1:
            raise UserError(f"steps_per_epoch is {steps_per_epoch}: are there fewer data than a batch takes?")
        return self.steps if self.steps is not None else math.ceil((self.epochs or 0) * steps_per_epoch)


SCALES = ("demo", "small", "paper")
LOGGERS = Registry(
    {
        "none": None,
        "wandb": "multimax.suite.loggers.wandb_mirror.WandbMirror",
        "tensorboard": "multimax.suite.loggers.tensorboard_mirror.TensorBoardMirror",
    }
)
"""By name, ``create(run) -> multimax.suite.loggers.mirror.Mirror``."""


@dataclass
class Logger:
    """Where the run is shown besides its own files, and what is measured for that; changes no numbers of the run."""

    name: str = registered(LOGGERS, default="none")
    measure: bool = True  # at each evaluation the reweightings' parameters, sparsity and multi-modality of attention
    # Evaluations from one set of sample predictions and attention pictures to the next; 0: none.
    samples_every: int = bounded(0, default=0)
    # For name=wandb:
    project: str = "multimax"
    entity: str | None = None  # None: the user's default
    group: str | None = None  # None: the experiment, or task and scale
    mode: str = choice("auto", "online", "offline", default="auto")  # auto: online with a key and a connection


@dataclass
class Parent:
    """What ``init_from`` or ``extends`` refers to, as found at the start; null without them. Not to be set by users."""

    run: str | None = None  # name of a run; null: a file of weights
    setting: str | None = None  # digest of that run's ``setting``
    step: int | None = bounded(0, default=None)  # with ``extends``: the step that the run goes on from
    weights: str | None = None  # SHA-256


# Version of the numbers that a configuration gives. Raise it with any change that makes an unchanged configuration give
# other numbers (an initialisation, a loss, an order of the data, a metric): its runs then get other names, a run begun
# before is not resumed, and no table averages the two. Runs of version 1 do not record it.
NUMERICS = 2


@dataclass
class RunConfig:
    """One run. ``model`` and ``data`` belong to the task."""

    task: str
    scale: str
    description: str
    model: Any
    data: Any
    reweight: Reweight
    optimizer: Optimizer
    schedule: Schedule
    training: Training
    logger: Logger = field(default_factory=Logger)
    seed: int = bounded(0, default=0)
    run_dir: str | None = None  # folder of the run; null: one in runs_dir that is named after the configuration
    runs_dir: str | None = "${oc.env:MULTIMAX_RUNS,runs}"
    experiment: str | None = None  # what the report gathers runs under; None: the task and the scale
    plugins: list[str] = field(default_factory=list)  # modules of the user's own, imported at the start
    _target_: str | None = None  # class of a task that has no name in multimax.suite.tasks
    init_from: str | None = None  # weights to start from: a run, a checkpoint of one, or a file; also hub:OWNER/NAME
    extends: str | None = None  # a finished run that this one goes on from: the same, but for its length and schedule
    parent: Parent = field(default_factory=Parent)
    numerics: int = NUMERICS  # of the code that made the run's numbers; not to be set by users

    def check(self, world: int) -> None:
        """Raise UserError for a combination that cannot run on ``world`` processes, before anything is loaded."""
        training, schedule = self.training, self.schedule
        check_options(self)
        if not re.fullmatch(r"[^/\x00-\x1f]+", self.data.name):
            raise UserError(f"data.name={self.data.name} is a part of the names of folders, and may not have a / in it")
        for name in ("attention", "output", *self.reweight.own()):
            try:
                reweight.create(**getattr(self.reweight, name))
            except (TypeError, ValueError) as error:
                raise UserError(f"reweight.{name}: {error}") from None
        if (training.epochs is None) == (training.steps is None):
            raise UserError("set one of training.epochs and training.steps, and null the other")
        if schedule.warmup_epochs is not None and schedule.warmup_steps is not None:
            raise UserError("set at most one of schedule.warmup_epochs and schedule.warmup_steps")
        if (
            schedule.name == "inverse_sqrt"
            and not has_target(schedule)
            and not (schedule.warmup_steps or schedule.warmup_epochs)
        ):
            raise UserError("schedule.name=inverse_sqrt needs a warm-up: set schedule.warmup_steps")
        if self.optimizer.name == "schedule_free_adamw" and schedule.name != "constant":
            raise UserError(
                "optimizer.name=schedule_free_adamw averages the weights instead of lowering the learning rate: set "
                "schedule.name=constant"
            )
        if training.cuda_graphs and not training.compile:
            raise UserError("training.cuda_graphs replays compiled steps: set training.compile=true too")
        if training.average_checkpoints is not None and training.checkpoint_every is not None:
            raise UserError("training.average_checkpoints takes each evaluation's: null training.checkpoint_every")
        if training.evaluate_ema and training.ema_decay is None:
            raise UserError("training.evaluate_ema=true needs training.ema_decay")
        if self.init_from is not None and self.extends is not None:
            raise UserError("set at most one of init_from, which takes weights alone, and extends")
        self.micro_batches(world)
        self.check_loss(soft_targets=training.label_smoothing > 0)

    def readers(self) -> Iterator[tuple[str, bool, tuple[str, ...]]]:
        """Keys that only some configurations read: the condition, whether it holds here, and the keys."""
        schedule = self.schedule
        warmup = bool(schedule.warmup_steps or schedule.warmup_epochs)
        yield "schedule.warmup_steps or schedule.warmup_epochs", warmup, ("schedule.warmup_rate",)
        if not has_target(schedule):
            yield "schedule.name=cosine", schedule.name == "cosine", ("schedule.final_rate",)
        optimizer, betas = self.optimizer, ("optimizer.beta1", "optimizer.beta2", "optimizer.epsilon")
        if not has_target(optimizer):
            yield "optimizer.name other than sgd", optimizer.name != "sgd", betas
            yield "optimizer.name=sgd or muon", optimizer.name in ("sgd", "muon"), ("optimizer.momentum",)
        yield from self.unread("optimizer", "learning_rate", "weight_decay", "clip_norm")
        yield from self.unread("schedule", "warmup_steps", "warmup_epochs")

    def unread(self, name: str, *read: str) -> Iterator[tuple[str, bool, tuple[str, ...]]]:
        """Keys of a part with a ``_target_`` that neither this takes nor the suite reads (``read``)."""
        part = getattr(self, name)
        if has_target(part):
            unread = {item.name for item in fields(part)} - {*part.__own__, *read} - taken(name, part)
            yield f"{name}._target_ taking it", False, tuple(f"{name}.{key}" for key in sorted(unread))

    def check_read(self, given: Set[str]) -> None:
        """Raise UserError if one of the ``given`` keys has another value than its default, and nothing reads it.

        Keys that only recipes and data sets give are allowed: they remain when an override turns their reader off.
        """
        if "numerics" in given:
            raise UserError("numerics is the version of the code that made a run's numbers: leave it out")
        if chosen := [key for key in given if key.split(".")[0] == "parent"]:
            raise UserError(f"{min(chosen)} follows from init_from or extends: leave it out")
        defaults, values = dict(flatten(skeleton(type(self)))), dict(flatten(asdict(self)))
        own = {f"{name}.{key}" for name in PARTS if has_target(of := getattr(self, name)) for key in taken(name, of)}
        for condition, holds, keys in self.readers():
            for key in () if holds else (given & set(keys)) - own:
                if values[key] != defaults[key]:
                    raise UserError(f"{key}={values[key]}: only with {condition} is it read: set that, or leave it out")

    def micro_batches(self, world: int) -> int:
        """Micro-batches that each of ``world`` processes makes of its share of a global batch of examples.

        The fewest that keep to ``micro_batch_size``, and of equal size if the processes have equal shares. Raises
        UserError if there are more processes than examples.
        """
        training = self.training
        if training.batch_size < world:
            raise UserError(
                f"training.batch_size={training.batch_size} is less than the {world} processes: start fewer"
            )
        share = math.ceil(training.batch_size / world)
        most = training.micro_batch_size or share
        if training.batch_size % world:
            return math.ceil(share / most)
        return next(count for count in range(1, share + 1) if share % count == 0 and share // count <= most)

    def check_loss(self, soft_targets: bool) -> None:
        """Raise UserError if the reweighting at the output has no loss for the recipe's targets."""
        name = self.reweight.output["name"]
        output = reweight.create(**self.reweight.output)
        way_out = "take reweight/output=softmax or give it one (see 'Add a function' in README.md)"
        if not output.has_loss:
            raise UserError(f"reweight.output={name} has no loss, since its weights {output.why_no_loss()}: {way_out}")
        if soft_targets and not output.soft_targets:
            raise UserError(
                f"the loss of reweight.output={name} takes hard targets only, but label smoothing, mixup or cutmix "
                f"is on: turn them off, or {way_out}"
            )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of the leaves of nested mappings."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def skeleton(schema: type) -> dict[str, Any]:
    """All keys of a configuration as nested dicts, with each field's default or "???" where a value is required."""
    types = get_type_hints(schema)

    def value(item: Field) -> Any:
        if isinstance(types[item.name], type) and is_dataclass(types[item.name]):
            return skeleton(types[item.name])
        if item.default_factory is not MISSING:
            return item.default_factory()
        return "???" if item.default is MISSING else item.default

    return {item.name: value(item) for item in fields(schema)}


def text_keys(schema: type, prefix: str = "") -> set[str]:
    """Dotted keys of a configuration whose value is text."""
    keys = set()
    for name, kind in get_type_hints(schema).items():
        if isinstance(kind, type) and is_dataclass(kind):
            keys |= text_keys(kind, f"{prefix}{name}.")
        elif kind in (str, str | None):
            keys.add(f"{prefix}{name}")
    return keys
