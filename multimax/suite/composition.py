"""From ``configs/`` and the command line to a checked, typed configuration.

Some groups are made from code instead of files: the registered reweightings (a function can be selected as soon as it
is registered; ``configs/reweight/`` adds named variants), the tasks with the defaults of their dataclasses, the scales,
the loggers, the optimisers and the schedules. A user's own files are in the folder of ``--config-dir``.
"""

import copy
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from multimax import reweight
from multimax.suite.config import LOGGERS, OPTIMIZERS, SCALES, SCHEDULES, RunConfig, flatten, skeleton, text_keys
from multimax.suite.errors import UserError, install
from multimax.suite.identity import RETIRED
from multimax.suite.overrides import in_quotes, parse, readable
from multimax.suite.plugins import TARGET, has_target, import_plugins, with_own_parts
from multimax.suite.tasks import MODULES, task_module, task_of

SHIPPED = Path(__file__).resolve().with_name("configs")  # in a wheel; in a clone they are at the top
CONFIGS = SHIPPED if SHIPPED.is_dir() else SHIPPED.parents[2] / "configs"
SITES = ("attention", "encoder", "decoder", "cross", "output")
OPTIONAL = ("experiment", "optimizer", "schedule", "logger")  # groups from which a run need not choose
INSTEAD = " This run has "
"""In a description: what follows is the run's own, and not of the file that the description is from."""


_given: list[dict[str, Any]] = []  # the registries from which Hydra's groups were last made


def register_groups() -> None:
    """Give Hydra the groups that are made from code, unless it has them already."""
    store = ConfigStore.instance()
    functions = {name: reweight.get(name) for name in reweight.available()}
    registries = [functions, *map(dict, (MODULES, LOGGERS, OPTIMIZERS, SCHEDULES))]
    if registries == _given and "reweight" in store.repo:
        return
    _given[:] = registries
    # Hydra copies the store for each group that --help lists, seconds in all, and copies what it takes from it anyway.
    store.__deepcopy__ = lambda memo: store  # type: ignore[attr-defined]
    register_reweightings()
    for task in MODULES:  # with every default of its dataclasses, so that a recipe only contains what differs
        node = skeleton(task_module(task).Config) | {"task": task}
        store.store(group="task", name=task, node=node, package="_global_")
    store.store("run", skeleton(RunConfig), package="_global_")  # below a task that is not registered
    for scale in SCALES:
        store.store(group="scale", name=scale, node={"scale": scale}, package="_global_")
    for logger in LOGGERS:
        store.store(group="logger", name=logger, node={"name": logger, "samples_every": 0 if logger == "none" else 5})
    for group, registry in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        for name in registry:
            store.store(group=group, name=name, node={"name": name})


def register_reweightings() -> None:
    """Put every registered function into the group ``reweight`` and those of its sites.

    ``reweight=NAME`` sets attention and output, except that the output stays softmax for a function that gives exact
    zeros (label smoothing and mixup want every probability positive) or has no loss. ``reweight/output=NAME`` takes
    one with a loss there too, and ``reweight/encoder=``, ``decoder=`` or ``cross=NAME`` set one kind of attention of
    task=mt apart from the others.
    """
    store = ConfigStore.instance()
    for name in reweight.available():
        node = {"name": name, **reweight.options(name)}
        for site in SITES:
            store.store(group=f"reweight/{site}", name=name, node=node)
        sites = dict.fromkeys(SITES) | {"attention": name, "output": reweight.at_the_output(name)}
        store.store(group="reweight", name=name, node={"defaults": [{site: chosen} for site, chosen in sites.items()]})


def import_given_plugins(overrides: Iterable[str]) -> None:
    """Import the modules of a ``plugins=[...]`` override, which may register what other overrides select."""
    for override in overrides:
        if override.startswith("plugins=") and (parsed := parse(override)) is not None:
            import_plugins(parsed.value())


def readable_overrides(overrides: Sequence[str], sweep: bool = False, config_dir: str | None = None) -> list[str]:
    """The overrides as Hydra reads them. Raises UserError, saying what to type, for one that it cannot read."""
    groups = [*group_names(config_dir), "hydra"]
    texts = set().union(*(text_keys(task_module(task).Config) for task in MODULES)) - {*groups}
    found = []
    for given in overrides:
        override = readable(given, texts, sweep)
        found.append(override)
        if given.endswith("=") and given.count("=") == 1:  # what an unset shell variable leaves
            none = "" if given[:-1] in groups else f"; {given}null stands for no value"
            raise UserError(f"{given}: nothing follows the =, as where a variable of the shell is not set{none}")
        if name := re.fullmatch(r"\+*reweight\.(\w+)\.name=.*", override):
            raise UserError(f"{override}: reweight/{name[1]}=NAME chooses a function, with options of its own")
        parsed = parse(override)
        if parsed is None or parsed.is_sweep_override() or parsed.key_or_group not in groups:
            continue
        group = parsed.key_or_group
        if parsed.is_delete() and group not in OPTIONAL:
            raise UserError(f"{override}: no run is without it; {group}=NAME chooses another")
        if not parsed.is_delete() and not isinstance(parsed.value(), str):
            none = f"; ~{group} leaves it out" if group in OPTIONAL else ""
            raise UserError(f"{override}: {group}=NAME chooses one by its name{none}")
    return found


def compose_configuration(
    overrides: Sequence[str], config_dir: str | None = None, with_hydra: bool = False
) -> DictConfig:
    """What ``train.py`` composes from these overrides, without running anything; ``with_hydra``: and Hydra's own part.

    Raises UserError.
    """
    import_given_plugins(overrides)
    overrides = readable_overrides(overrides, config_dir=config_dir)
    try:
        return _compose(overrides, config_dir, with_hydra)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, *known_keys(overrides, config_dir))) from None


def _compose(overrides: Sequence[str], config_dir: str | None = None, with_hydra: bool = False) -> DictConfig:
    register_groups()
    GlobalHydra.instance().clear()
    more = [] if config_dir is None else [f"hydra.searchpath=[{in_quotes(f'file://{Path(config_dir).resolve()}')}]"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("config", overrides=[*overrides, *more], return_hydra_config=with_hydra)


def group_names(config_dir: str | None = None) -> list[str]:
    """The groups from which a command line can choose by name."""
    files = {
        str(path.parent.relative_to(folder))
        for folder in (CONFIGS, *([Path(config_dir)] if config_dir else []))
        for path in folder.rglob("*/*.yaml")
    }
    of_code = {"task", "scale", "logger", "optimizer", "schedule", "reweight", *(f"reweight/{site}" for site in SITES)}
    return sorted(files | of_code)


def known_keys(overrides: Sequence[str], config_dir: str | None = None) -> tuple[list[str], list[str]]:
    """Dotted keys and group names that a command line could have meant, given the groups that it selects."""
    groups = group_names(config_dir)
    chosen = [override for override in overrides if override.split("=")[0] in groups and "," not in override]
    try:
        composed = _compose(chosen, config_dir)
    except (HydraException, OmegaConfBaseException):
        return [], groups
    return [key for key, _ in flatten(cast(dict[str, Any], OmegaConf.to_container(composed)))], groups


def typed(composed: DictConfig, world: int = 1, overrides: Iterable[str] = ()) -> RunConfig:
    """The composed configuration, with its overrides, as the task's dataclass, checked. Raises UserError."""
    schema: type = RunConfig
    given = {parsed.key_or_group: parsed.input_line for parsed in map(parse, overrides) if parsed is not None}
    try:
        schema = with_own_parts(task_of(composed).Config, composed)
        composed = without_retired(composed)
        data = composed.get("data")
        if isinstance(data, DictConfig) and data.get(TARGET) is not None and OmegaConf.is_missing(data, "source"):
            data.source = "own"
        config = cast(RunConfig, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), composed)))
    except OmegaConfBaseException as error:
        raise UserError(
            foreign(error, composed, given) or explain(error, [key for key, _ in flatten(skeleton(schema))])
        ) from None
    config.check(world)
    config.check_read(given.keys())
    # A scale's or an experiment's description is of its own data and model.
    groups = ("data", "model") if has_target(getattr(config, "model", None)) else ("data",)
    if others := [str(given[group]) for group in groups if given.get(group)]:
        config.description = f"{config.description.strip()}{INSTEAD}{' and '.join(others)} instead."
    return config


def foreign(error: OmegaConfBaseException, composed: DictConfig, given: Mapping[str, str | None]) -> str | None:
    """Of a key that nobody typed, which a task lacks or misses: the files that were chosen and may be another's."""
    chosen = [given[group] for group in ("recipe", "model", "data", "experiment") if given.get(group)]
    verbs = {ConfigKeyError: "has no", MissingMandatoryValue: "needs"}
    if (verb := verbs.get(type(error))) and error.full_key not in given and chosen:
        files, task = " or ".join(map(str, chosen)), composed.get("task")
        return f"{files}: task={task} {verb} {error.full_key}; is the file for another task, or mistyped?"
    return None


def without_retired(composed: DictConfig) -> DictConfig:
    """The configuration, perhaps an older run's, without keys that no longer exist."""
    kept = copy.deepcopy(composed)
    for group, key in (name.split(".") for name in RETIRED):
        part = kept.get(group)
        if isinstance(part, DictConfig) and key in part and part[key] is None:
            del part[key]
    return kept


def explain(error: Exception, known: Sequence[str] = (), groups: Sequence[str] = ()) -> str:
    """One line saying what is wrong with an override and which valid one is nearest."""
    message = str(error).splitlines()[0]
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if name.startswith("multimax_"):  # the launcher's keys and types come with its plugin
            return f"{group}={name.removeprefix('multimax_')} needs submitit: {install('slurm')}"
        if (group, name) == ("hydra/sweeper", "optuna"):
            return f"hydra/sweeper=optuna needs Optuna: {install('optuna')}"
        options = sorted(error.options or [])
        if not group:
            return f"--config-name {name}: there is none; leave it out"
        if group == "recipe/lm":  # SCALE_MODEL
            scale, _, model = name.partition("_")
            there = [option.removeprefix(f"{scale}_") for option in options if option.startswith(f"{scale}_")]
            return f"model={model}: there is no {group}/{name}.yaml; task=lm has {', '.join(there)}"
        return f"{group}={name}: there is none{nearest(name, options)}; choose one of {', '.join(options)}"
    if match := re.match(
        r".*already at '(.+)'|Multiple values for (\w+)|force-add of config groups .*\+\+(\w+)", message
    ):
        return f"+{match[match.lastindex or 0]}: it is there already: leave out the +"
    if match := re.match(r"Could not delete from config. '(.+)' does not exist", message):
        return f"~{match[1]}: there is nothing to leave out; {match[1]}=null stands for no value"
    if match := re.match(r"Could not override '([^']+)'", message):
        key = match[1]
        if key.startswith("reweight.") and key.count(".") > 1:
            site = ".".join(key.split(".")[:2])
            known = [k for k in known if k.startswith(site)]
            return f"{key}: the function at {site} has no such option{nearest(key, known)}; it has {', '.join(known)}"
        return f"{key}: there is no such key{nearest(key, [*known, *groups])}"
    if isinstance(error, ConfigKeyError) and error.full_key in [f"reweight.{site}" for site in SITES]:
        return f"{error.full_key}: only task=mt has this site; elsewhere reweight/attention=NAME is all of it"
    if isinstance(error, ConfigKeyError):
        return f"{error.full_key}: there is no such key{nearest(str(error.full_key), known)}"
    if isinstance(error, OmegaConfBaseException) and error.full_key in [f"reweight.{site}" for site in SITES]:
        site = error.full_key.replace(".", "/")
        return f"{error.full_key} holds a function and its options: choose the function with {site}=NAME"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {message}"
    return message


def nearest(wrong: str, right: Sequence[str]) -> str:
    """ " (nearest: X)" for the name most like the wrong one, by its whole or by its last part; else nothing."""
    lasts = {name.rsplit(".", 1)[-1]: name for name in right}
    close = difflib.get_close_matches(wrong, right, 1, 0.6)
    if not close:
        close = [lasts[last] for last in difflib.get_close_matches(wrong.rsplit(".", 1)[-1], list(lasts), 1, 0.6)]
    return f" (nearest: {close[0]})" if close else ""
