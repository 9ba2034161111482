"""What a run starts from: weights from a file or another run (``init_from``), or a whole run (``extends``)."""

import pickle
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from multimax.suite.config import Parent, RunConfig
from multimax.suite.data.fingerprint import difference, digest
from multimax.suite.engine import checkpoint
from multimax.suite.engine.provenance import changes_since
from multimax.suite.errors import UserError
from multimax.suite.files import expanded
from multimax.suite.identity import changes
from multimax.suite.runs import Run
from multimax.suite.tasks import Task

HUB = "hub:"
FILES = ("model.safetensors", "pytorch_model.bin")  # of a model on the hub
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
MAY_CHANGE = {  # in a run that extends another
    *(f"training.{name}" for name in ("steps", "epochs", "evaluate_every", "average_checkpoints", "precision", "tf32")),
    *(f"optimizer.{name}" for name in ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay", "clip_norm")),
}
HYPERPARAMETERS = ("lr", "initial_lr", "betas", "eps", "weight_decay")
WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and of torch.compile
SITES = {"reweight", "attn_scale", "feat_scale"}


class Source(NamedTuple):
    """A file of weights and the run it belongs to, if any."""

    path: Path
    run: Run | None


def found(config: RunConfig) -> RunConfig:
    """The configuration with its ``parent`` filled in, which is part of the run's name.

    Raises UserError if the weights do not exist, or if the extended run differs from this one in more than its length.
    """
    run: Run | None
    try:
        if config.extends is not None:
            run, last = extended(config.extends)
            check_extends(config, run)
            weights, step = checkpoint.read_manifest(last)["files"]["model.safetensors"], checkpoint.step_of(last)
        elif config.init_from is not None:
            path, run = locate(config.init_from)
            weights, step = checkpoint.sha256(path), None
        else:
            return config
    except OSError as error:
        given = f"init_from={config.init_from}" if config.extends is None else f"extends={config.extends}"
        raise UserError(f"{given} cannot be read: {error.strerror}") from None
    name, setting = (run.name, digest([repr(run.setting).encode()])) if run else (None, None)
    return replace(config, parent=Parent(name, setting, step, weights))


def locate(name: str) -> Source:
    """The weights named by ``init_from``: a run's last, a checkpoint's, a file's or the hub's. Raises UserError."""
    if name.startswith(HUB):
        return Source(download(name.removeprefix(HUB)), None)
    path = expanded("init_from", name)
    if (run := Run(path)).exists:
        path = checkpoint.find(run.checkpoints, "last", True)
    if path.is_dir():  # a checkpoint, or a model as on the hub, perhaps in the hub's own cache
        inside = [file for name in FILES for file in (path / name, *sorted(path.glob(f"snapshots/*/{name}")))]
        there = [file for file in inside if file.is_file()]
        if not there:
            raise UserError(f"init_from={name} is neither a run nor a checkpoint, and has no {' or '.join(FILES)}")
        if len({file.parent for file in there}) > 1:
            raise UserError(f"init_from={name} has several models ({', '.join(map(str, there))}): name one of them")
        path = there[0]
    if not path.is_file():
        raise UserError(f"init_from={name}: there is no run and no file {path}")
    if path.suffix not in SUFFIXES:
        raise UserError(f"init_from={name}: files of weights end in {', '.join(SUFFIXES)}")
    owner = Run(path.absolute().parents[2]) if path.absolute().parent.parent.name == "checkpoints" else None
    if owner is None or not owner.exists:
        return Source(path, None)
    try:
        checkpoint.verify(path.parent)
    except ValueError as error:
        raise UserError(f"init_from={name}: {path.parent} is damaged: {error}") from None
    return Source(path, owner)


def download(name: str) -> Path:
    """The weights of a model on the Hugging Face hub, from its cache if they are there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        try:
            return Path(hf_hub_download(name, FILES[0]))
        except EntryNotFoundError:
            return Path(hf_hub_download(name, FILES[1]))
    except Exception as error:  # absent, gated, offline, no connection: each has its own type
        raise UserError(f"init_from={HUB}{name} cannot be loaded: {' '.join(str(error).split())[:200]}") from None


def read(path: Path) -> dict[str, Tensor]:
    """The tensors in a file, by name. Raises UserError if it holds none, or anything else."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, SafetensorError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise UserError(f"init_from: {path} does not hold weights alone: {reason}") from None
    for wrapped in ("model", "state_dict"):  # as in DeiT's releases and timm's checkpoints
        state = state.get(wrapped, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise UserError(f"init_from: {path} is not the state dict of one model")
    return state


def without_wrappers(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """``state`` without the prefixes of DDP and torch.compile, and a line that says so."""
    found = ""
    while prefix := next((one for one in WRAPPERS if state and all(key.startswith(one) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
        found += prefix
    return state, [f"taken without {found} before the names"] if found else []


@torch.no_grad()
def initialise(model: nn.Module, task: Task) -> list[str]:
    """Put the weights of ``init_from`` into a fresh model; returns lines that say what was done.

    Parameters keep their fresh values, and are listed, if they belong to a reweighting that the weights lack or have
    with another function, or to a head or embeddings for other classes or another vocabulary. Raises UserError if any
    other weights are missing, superfluous or of another shape.
    """
    name = task.config.init_from
    assert name is not None
    path, run = locate(name)
    adapted, said = without_wrappers(read(path))
    if run is not None:
        said += changes_since(run)
    if adapt := getattr(model, "adapted", None):
        adapted, resampled = adapt(adapted)
        said += resampled
    own = {key: value for key, value in model.state_dict().items() if not key.endswith("_extra_state")}
    vocabulary = adapted.pop("_extra_state", None)
    if run is not None:
        drop_other_functions(adapted, run.config["reweight"], asdict(task.config.reweight))
    fit = {key for key, value in adapted.items() if key in own and own[key].shape == value.shape}

    kinds = {key: (adapted[key].dtype, own[key].dtype) for key in sorted(fit)}
    for key, (given, here) in kinds.items():  # copying quantised weights would change them
        if given.is_floating_point != here.is_floating_point:
            raise UserError(f"init_from={name} does not fit the model: {key} is of {given}, and here of {here}")

    heads = {key for key in {*own, *adapted} if key.startswith(getattr(model, "of_classes", ()))}
    same = run is None or run.data is None or task.same_outputs(run.data)
    if run is not None and run.data is not None and (order := task.output_order(run.data)):
        for key in heads & adapted.keys():
            if adapted[key].shape[:1] == (len(order),):
                adapted[key] = adapted[key][order]
        said.append(f"put into the order of the classes here, which is another: {listed(heads & adapted.keys())}")
        same = True
    if vocabulary is not None and (fingerprint := getattr(model, "fingerprint", None)) is not None:
        same = same and torch.equal(vocabulary.cpu(), fingerprint.cpu())
    redrawn = set() if same and heads <= fit else heads
    sites = {key for key in {*own, *adapted} if is_site(key)} - redrawn
    wrong = {*own, *adapted} - fit - redrawn - sites
    if wrong:
        raise UserError(f"init_from={name} does not fit the model: {describe(wrong, own, adapted)}")
    model.load_state_dict({key: adapted[key] for key in fit - redrawn}, strict=False)

    if redrawn:
        said.append(f"drawn anew, for other classes or another vocabulary: {listed(redrawn & own.keys())}")
    if drawn := sites & own.keys() - fit:
        said.append(f"drawn, since no such parameters of the reweighting are in it: {listed(drawn)}")
    if useless := sites & adapted.keys() - fit:
        said.append(f"left out, since the reweighting here has no such parameters: {listed(useless)}")
    return [f"init_from={name}: {len(fit - redrawn)} of {len(own)} tensors", *said]


def is_site(key: str) -> bool:
    """Whether a parameter belongs to a reweighting, or to another method used at its site."""
    return bool(SITES & set(key.split("."))) or key.split(".")[0] == "output"


def drop_other_functions(state: dict[str, Tensor], theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Remove the parameters of sites with another function, where the same names may mean something else."""

    def functions(sites: dict[str, Any], at_output: bool) -> dict[str, str]:
        names = {site: (of or sites["attention"])["name"] for site, of in sites.items()}
        return {site: name for site, name in names.items() if (site == "output") == at_output}

    for key in filter(is_site, [*state]):
        at_output = key.split(".")[0] == "output"
        if functions(theirs, at_output) != functions(ours, at_output):
            del state[key]


def describe(wrong: set[str], own: dict[str, Tensor], given: dict[str, Tensor]) -> str:
    """Which tensors are missing, superfluous, or of another shape."""
    shapes = sorted(wrong & own.keys() & given.keys())
    parts = [f"{key} is {[*given[key].shape]}, and here {[*own[key].shape]}" for key in shapes[:3]]
    parts += [f"and {len(shapes) - 3} more"] if len(shapes) > 3 else []
    for what, keys in (("it lacks", own.keys() - given.keys()), ("it has besides", given.keys() - own.keys())):
        if some := wrong & keys:
            parts.append(f"{what} {listed(some)}")
    return "; ".join(parts)


def listed(keys: set[str]) -> str:
    names = sorted(keys)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def extended(name: str) -> tuple[Run, Path]:
    """The run named by ``extends`` and its last checkpoint. Raises UserError unless it is finished and whole."""
    run = Run(expanded("extends", name))
    if not run.finished:
        what = "is not finished: its own command continues it" if run.exists else "is not a run folder"
        raise UserError(f"extends={name} {what}")
    last = run.checkpoints / checkpoint.name_of(run.summary["steps"])
    try:
        checkpoint.verify(last)
    except ValueError as error:
        raise UserError(f"extends={name}: its last checkpoint is not whole: {error}") from None
    return run, last


def check_extends(config: RunConfig, run: Run) -> None:
    """Raise UserError unless ``config`` is the configuration of ``run`` apart from its length and schedule."""
    changed = [
        said
        for key, said in changes(run.config, config).items()
        if key not in MAY_CHANGE and key.split(".")[0] not in ("schedule", "parent")
    ]
    if changed:
        raise UserError(
            f"extends={config.extends} goes on with that run, perhaps longer or by another schedule, but "
            f"{'; '.join(changed[:3])}: init_from={config.extends} takes its weights alone"
        )


def check_length(config: RunConfig, total_steps: int) -> None:
    """Raise UserError if the extended run is already as long as this one."""
    if config.extends is not None and (config.parent.step or 0) >= total_steps:
        raise UserError(
            f"extends={config.extends} has {config.parent.step} steps, and this run is to have {total_steps} in all: "
            "set training.epochs or training.steps above"
        )


def check_data(config: RunConfig, run: Run) -> None:
    """Raise UserError if ``run`` has other data than the run that it extends."""
    assert config.extends is not None
    theirs = Run(expanded("extends", config.extends)).data
    if run.data is not None and theirs is not None and (differs := difference(run.data, theirs, "in that run")):
        raise UserError(
            f"extends={config.extends} is a run of other data ({differs}): init_from takes its weights alone"
        )


def keep_hyperparameters(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's ``state`` with the hyperparameters of ``optimizer``."""
    if "param_groups" not in state:  # a user's own optimiser
        return state
    groups: Sequence[dict[str, Any]] = [
        theirs | {key: ours[key] for key in HYPERPARAMETERS if key in ours}
        for theirs, ours in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    return {**state, "param_groups": groups}
