"""What distinguishes runs: the part of a configuration that determines the numbers, and names made from it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from multimax import reweight
from multimax.integrations.sites import Site
from multimax.suite.config import RunConfig, flatten, skeleton
from multimax.suite.files import expanded

# Where a run's files, data and printed lines go does not change what it computes.
NOT_IDENTITY = {
    "run_dir",
    "runs_dir",
    "init_from",  # the digest of its weights, in ``parent``, is part of it
    "extends",
    "experiment",
    "description",
    "logger",
    "data.root",
    "data.cache_dir",
    "data.where",
    "data.max_left_out",
    "data.num_workers",
    "training.device",
    "training.activation_checkpointing",
    "training.cuda_graphs",
    "training.log_every",
    "training.keep_checkpoints",
    "training.max_skipped_steps",
    "training.checkpoint_every",
    "training.micro_batch_size",
    "decoding.batch_tokens",
}


RETIRED = {"model.init_from"}
"""Keys that no longer exist and are null in older runs."""


def identity(config: Mapping[str, Any], schema: type[RunConfig]) -> dict[str, Any]:
    """What determines the numbers of a run: the flattened part of its configuration that differs from the defaults.

    Defaults are left out so that options added to the code later do not change the identity of older runs.
    """
    defaults = dict(flatten(skeleton(schema))) | {"numerics": 1}
    for name, site in config["reweight"].items():
        if site and site["name"] in reweight.available():
            defaults |= {f"reweight.{name}.{key}": value for key, value in reweight.options(site["name"]).items()}
    return {
        key: value
        for key, value in sorted(flatten(config))
        if not {key, key.split(".")[0]} & (NOT_IDENTITY | RETIRED) and (key not in defaults or defaults[key] != value)
    }


def digest(config: RunConfig) -> str:
    """Eight hexadecimal digits that identify a configuration by its ``identity``."""
    return hashlib.sha256(json.dumps(identity(asdict(config), type(config))).encode()).hexdigest()[:8]


def changes(stored: Mapping[str, Any], config: RunConfig) -> dict[str, str]:
    """By key, in words, where the identity of ``config`` differs from that of a stored configuration."""
    values, schema = asdict(config), type(config)
    old, new = identity(stored, schema), identity(values, schema)
    was, now = {"numerics": 1} | dict(flatten(stored)), dict(flatten(values))
    return {
        key: f"{key} was {was.get(key)}, now {now.get(key)}"
        for key in sorted({*old, *new})
        if old.get(key, ...) != new.get(key, ...)
    }


def setting(config: Mapping[str, Any], schema: type[RunConfig]) -> dict[str, Any]:
    """The ``identity`` of a configuration without reweighting and seed: equal for runs that compare functions.

    For a run that started from another one, it has that run's setting instead of its name and weights.
    """
    numbers = identity(config, schema)
    own = {"seed", "parent.run", "parent.weights"} if "parent.setting" in numbers else {"seed"}
    return {key: value for key, value in numbers.items() if key not in own and not key.startswith("reweight.")}


def site_label(site: Site) -> str:
    """A function's name with its non-default options, as in ``multimax(order=1)``."""
    defaults = reweight.options(site["name"]) if site["name"] in reweight.available() else {}
    chosen = [f"{key}={value}" for key, value in site.items() if key != "name" and defaults.get(key, ...) != value]
    return site["name"] + (f"({', '.join(chosen)})" if chosen else "")


def reweight_label(sites: Mapping[str, Site | None]) -> str:
    """``multimax`` if attention and output agree, else such as ``sparsemax-softmax``, attention first.

    Kinds of attention with a function of their own follow: ``multimax cross=softmax``.
    """
    labels = {name: site_label(site) for name, site in sites.items() if site}
    attention, output = labels.pop("attention"), labels.pop("output")
    own = [f"{name}={label}" for name, label in labels.items()]
    return " ".join([attention if attention == output else f"{attention}-{output}", *own])


def experiment_name(config: Mapping[str, Any]) -> str:
    """The name under which the report and loggers group a run."""
    return config["experiment"] or f"{config['task']}_{config['scale']}"


def run_name(config: RunConfig) -> str:
    """Folder name of a run, which follows from its configuration and seed alone."""
    functions = dict.fromkeys([config.reweight.attention["name"], config.reweight.output["name"]])
    own = [f"{name}.{site['name']}" for name, site in config.reweight.own().items()]
    return "-".join([config.task, config.data.name, *functions, *own, f"seed{config.seed}", digest(config)])


def run_folder(config: RunConfig) -> Path:
    """Where the files of a run are. Raises UserError for a ``~`` where nobody has a home."""
    if config.run_dir:
        return expanded("run_dir", config.run_dir)
    return expanded("runs_dir", config.runs_dir or "runs") / run_name(config)
