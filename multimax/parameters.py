"""How to optimise the reweightings' parameters: without weight decay, and clipped by their own norm.

    optimizer = torch.optim.AdamW(multimax.parameter_groups(model, weight_decay=0.05), lr=1e-3)
    loss.backward()
    multimax.clip_gradients(model, max_norm=1.0)
    optimizer.step()

docs/trainers.md says why, and how to do this in the trainers of other libraries.
"""

from typing import Any

import torch
from torch import Tensor, nn

from multimax.formulas.rows import check_number
from multimax.reweight import Reweighting
from multimax.reweight._base import living


def is_reweighting(parameter: nn.Parameter) -> bool:
    """Whether a parameter belongs to a reweighting. Do not train these with Muon, which is for the matrices of layers.

    Raises:
        TypeError: ``parameter`` is not a tensor.
    """
    if not isinstance(parameter, Tensor):
        raise TypeError(f"parameter must be one of a module's parameters, got {type(parameter).__name__}")
    return any(parameter is own for module in living() for own in module.parameters())


def reweighting_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters of the reweightings anywhere in a model, each once."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    modules = (module for module in model.modules() if isinstance(module, Reweighting))
    return list({id(p): p for module in modules for p in module.parameters()}.values())


def parameter_groups(model: nn.Module, weight_decay: float, lr: float | None = None) -> list[dict[str, Any]]:
    """Parameter groups for any torch optimiser: with weight decay, without, and the reweightings', also without.

    Parameters of at most one dimension (biases, norms) are not decayed, nor are those named by a ``no_weight_decay``
    method of the model or of a module in it, as in timm. Parameters that require no gradient and empty groups are left
    out.

    Args:
        weight_decay: of the first group; 0 in the others.
        lr: learning rate of the reweightings' group; the optimiser's if None.

    Raises:
        TypeError, ValueError: ``model`` is not a module; ``weight_decay`` or ``lr`` is not a number, or is negative.
    """
    check_number("weight_decay", weight_decay, least=0)
    if lr is not None:
        check_number("lr", lr, least=0)
    own = reweighting_parameters(model)
    own_ids = {id(p) for p in own}
    exempt = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name in getattr(module, "no_weight_decay", set)()
    }
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if id(parameter) not in own_ids:
            (undecayed if parameter.ndim <= 1 or name in exempt else decayed).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
        {"params": own, "weight_decay": 0.0, **({} if lr is None else {"lr": lr})},
    ]
    trained = [{**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups]
    return [group for group in trained if group["params"]]


def clip_gradients(model: nn.Module, max_norm: float | None) -> Tensor:
    """Clip the reweightings' gradients and all others to ``max_norm``, each by their own norm.

    The parameters of a MultiMax on V logits sum V gradients; with a common norm they would shrink everyone else's step.

    Args:
        max_norm: the largest norm; None only measures it.

    Returns:
        The norm of the whole gradient before clipping, 0-d.

    Raises:
        TypeError, ValueError: ``model`` is not a module; ``max_norm`` is not a number, is negative or NaN.
    """
    if isinstance(max_norm, bool) or not isinstance(max_norm, int | float | None):
        raise TypeError(f"max_norm must be a number or None, got {type(max_norm).__name__}")
    if max_norm is not None and not max_norm >= 0:
        raise ValueError(f"max_norm must be at least 0, got {max_norm}")
    own = reweighting_parameters(model)
    own_ids = {id(p) for p in own}
    norms = []
    for group in ([p for p in model.parameters() if id(p) not in own_ids], own):
        norms.append(nn.utils.get_total_norm([p.grad for p in group if p.grad is not None]))
        if max_norm is not None:
            nn.utils.clip_grads_with_norm_(group, max_norm, norms[-1])
    return torch.stack([norm.to(norms[0].device) for norm in norms]).norm()
