"""The command that makes a run again, from the configuration that it was made of."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

from multimax import reweight
from multimax.suite.composition import CONFIGS, compose_configuration, typed
from multimax.suite.config import flatten, identity
from multimax.suite.errors import UserError
from multimax.suite.tasks import task_module


def command(config: Mapping[str, Any]) -> str | None:
    """What to type for a run of this configuration; None where a function of it is not registered here.

    It starts from the run's experiment, or its task and scale, as they are now and sets whatever the run has otherwise,
    so that it stays right when these change. ``PATH`` stands for where the data are.
    """
    sites = config["reweight"]
    if any(site and site["name"] not in reweight.available() for site in sites.values()):
        return None
    base = chosen(config)
    if base is None:
        return None
    start, flat, known = base
    own, wanted = dict(flatten(config)), identity(config, task_module(config["task"]).Config)
    arguments = [*start, *reweight_overrides(sites), f"seed={config['seed']}"]
    arguments += [
        f"{key}={hydra_value(own[key])}"
        for key in sorted({*wanted, *known})
        if key in own and key != "seed" and not key.startswith("reweight.") and own[key] != flat.get(key, ...)
    ]
    if own.get("data.source") == "files":
        arguments.append("data.root=PATH")
    return " ".join(["python train.py", *map(shlex.quote, arguments)])


def chosen(config: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, Any], dict[str, Any]] | None:
    """Overrides that come nearest to a run, with the flat configuration and the identity of what they compose."""
    task, scale, name = f"task={config['task']}", f"scale={config['scale']}", config.get("experiment")
    starts: list[tuple[str, ...]] = [(task, scale)]
    if name and (CONFIGS / "experiment" / f"{name}.yaml").is_file():
        experiment = f"experiment={name}"
        starts = [(experiment,), (experiment, scale), (experiment, task, scale), *starts]
    for start in starts:
        composed = composition(start)
        if composed and all(composed[0][key] == config[key] for key in ("task", "scale")):
            return start, *composed
    return None


@cache
def composition(overrides: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    try:
        typed_config = typed(compose_configuration(overrides))
    except UserError:
        return None
    values = asdict(typed_config)
    return dict(flatten(values)), identity(values, type(typed_config))


def reweight_overrides(sites: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """Overrides that choose these functions with their options, whatever the experiment's own choice is."""
    attention = sites["attention"]
    assert attention is not None
    name = attention["name"]
    result = [f"reweight={name}"]
    by_default = {"attention": name, "output": name if reweight.get(name).positive else "softmax"}
    for key, site in sites.items():
        if not site:
            continue
        if site["name"] != by_default.get(key):
            result.append(f"reweight/{key}={site['name']}")
        defaults = reweight.options(site["name"])
        result += [
            f"reweight.{key}.{option}={hydra_value(value)}"
            for option, value in site.items()
            if option != "name" and defaults.get(option, ...) != value
        ]
    return result


def hydra_value(value: Any) -> str:
    """A value as Hydra reads it on a command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return "[" + ",".join(map(hydra_value, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{hydra_value(item)}" for key, item in value.items()) + "}"
    if not isinstance(value, str):
        return repr(value)
    plain = value and all(c.isalnum() or c in "_-./@" for c in value) and value.lower() not in ("null", "true", "false")
    return value if plain else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
