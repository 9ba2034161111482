"""Optimisers from libraries, by name, and a user's own by ``optimizer._target_``.

All get ``multimax.parameter_groups``: weight decay for matrices only. Muon (Jordan et al. 2024,
kellerjordan.github.io/posts/muon) orthogonalises the steps of the matrices within the layers; AdamW trains the
embeddings, the output layer, everything that is not a matrix, and the reweightings.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from multimax import is_reweighting, parameter_groups
from multimax.suite.config import OPTIMIZERS, Optimizer
from multimax.suite.errors import UserError, install
from multimax.suite.models.adaptive import AdaptiveEmbedding
from multimax.suite.plugins import build, has_target, require

METHODS = ("step", "zero_grad", "state_dict", "load_state_dict")


def create_optimizer(model: nn.Module, config: Optimizer) -> Any:
    """The configured optimiser, ready to train.

    Raises UserError for an unknown name or an unsuitable ``_target_``.
    """
    if has_target(config):
        groups, offered = parameter_groups(model, config.weight_decay), {"model": model}
        made = build("optimizer", config, groups, offered=offered, lr=config.learning_rate)
        require("optimizer", made, object, *METHODS)
        if not hasattr(made, "param_groups"):
            raise UserError(f"optimizer: {type(made).__name__} has no param_groups, whose lr a schedule sets")
    else:
        made = OPTIMIZERS.find("optimizer.name", config.name)(model, config)
    if trains_other_weights(made):
        made.train()
    return made


def adamw(model: nn.Module, config: Optimizer) -> torch.optim.AdamW:
    """Fused, so that the device can decide to skip a step (``found_inf``)."""
    groups = parameter_groups(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True, **adam_options(config))


def adam_options(config: Optimizer) -> dict[str, Any]:
    return {"betas": (config.beta1, config.beta2), "eps": config.epsilon}


def sgd(model: nn.Module, config: Optimizer) -> torch.optim.SGD:
    groups = parameter_groups(model, config.weight_decay)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, fused=True)


def muon(model: nn.Module, config: Optimizer) -> "Several":
    """Muon with steps of AdamW's size (Liu et al. 2025, 2502.16982), so that one learning rate serves both."""
    inside = {id(parameter) for parameter in inner_matrices(model)}
    of_muon: list[dict[str, Any]] = []
    of_adamw: list[dict[str, Any]] = []
    for group in parameter_groups(model, config.weight_decay):
        for groups, chosen in ((of_muon, True), (of_adamw, False)):
            if parameters := [p for p in group["params"] if (id(p) in inside) is chosen]:
                groups.append({**group, "params": parameters})
    if not of_muon:
        raise UserError("optimizer.name=muon is for the matrices of layers, and this model has none")
    rate = config.learning_rate
    parts: list[torch.optim.Optimizer] = [
        torch.optim.Muon(of_muon, lr=rate, momentum=config.momentum, adjust_lr_fn="match_rms_adamw")
    ]
    if of_adamw:
        parts.append(torch.optim.AdamW(of_adamw, lr=rate, **adam_options(config)))
    return Several(parts)


def inner_matrices(model: nn.Module) -> Iterator[nn.Parameter]:
    """The weights of linear layers, except those that embed tokens, produce the scores, or belong to a reweighting."""
    outside = {
        id(parameter)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding | AdaptiveEmbedding) or name.rpartition(".")[2] == "head"
        for parameter in module.parameters()
    }
    for module in model.modules():
        weight = module.weight if isinstance(module, nn.Linear) else None
        if isinstance(weight, nn.Parameter) and not (id(weight) in outside or is_reweighting(weight)):
            yield weight


class Several:
    """Several optimisers of one model's parameters, used as one."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            load_state(part, state)


def schedule_free_adamw(model: nn.Module, config: Optimizer) -> Any:
    """Defazio et al. 2024, "The Road Less Scheduled", 2405.15682. Raises UserError without its package."""
    try:
        import schedulefree
    except ModuleNotFoundError:
        raise UserError(
            f"optimizer.name=schedule_free_adamw needs the package schedulefree: {install('schedulefree')}"
        ) from None
    groups = parameter_groups(model, config.weight_decay)
    return schedulefree.AdamWScheduleFree(groups, lr=config.learning_rate, **adam_options(config))


def load_state(optimizer: Any, state: dict[str, Any]) -> None:
    """``load_state_dict`` that keeps the parameter groups: torch makes new ones, but a schedule may hold these."""
    before = list(optimizer.param_groups)
    optimizer.load_state_dict(state)
    groups = optimizer.param_groups
    for index, (held, made) in enumerate(zip(before, groups, strict=True)):
        held.update(made)
        groups[index] = held


def trains_other_weights(optimizer: Any) -> bool:
    """Whether the weights to score differ from the trained ones, as with schedule-free optimisers."""
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))


@contextmanager
def scored_weights(optimizer: Any, model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Within the block ``model`` holds the weights to score; afterwards, exactly the trained ones again.

    Yields the trained weights by name, to be saved with the others; empty if the optimiser has only one kind.
    """
    if not trains_other_weights(optimizer):
        yield {}
        return
    trained = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer.eval()
    try:
        yield trained
    finally:
        optimizer.train()
        set_weights(model, trained)


@torch.no_grad()
def set_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy ``weights`` into the parameters with the same names."""
    for name, parameter in model.named_parameters():
        if name in weights:
            parameter.copy_(weights[name])
