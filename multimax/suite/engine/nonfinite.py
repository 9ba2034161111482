"""Steps whose loss or gradient is NaN or infinite: they are left out, and looked into when there are too many."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from multimax.reweight import Reweighting


def poisoned(loss: Tensor, factor: float) -> Tensor:
    """``loss * factor``, with a gradient that is NaN everywhere if the loss is not finite.

    A loss can be infinite and its gradient finite, and the loss of one process is unknown to the others. The gradient
    is added up over them: by it, all come to the same decision.
    """
    return loss * torch.where(loss.detach().isfinite(), factor, math.nan)


class Guard:
    """Takes the optimiser's steps, except those whose gradient norm is not finite: these change nothing.

    As with a gradient scaler the decision falls on the device, by ``found_inf`` of torch's fused optimisers, so that
    the host need not wait for the step to end. Processes have the same gradients and decide alike.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device, limit: int):
        self.optimizer, self.limit = optimizer, limit
        self.counts = torch.zeros(2, dtype=torch.int64, device=device)  # skipped steps: in a row, in all
        self.noted = torch.zeros(2, dtype=torch.int64, pin_memory=device.type == "cuda")
        self.event = torch.cuda.Event() if device.type == "cuda" else None

    def restore(self, in_row: int, in_all: int) -> None:
        self.counts[0], self.counts[1] = in_row, in_all
        self.noted[0] = in_row

    def step(self, norm: Tensor) -> Tensor:
        """Step, given the norm of the whole gradient; returns whether it was taken, on the device."""
        taken = norm.isfinite()
        self.optimizer.found_inf = (~taken).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        row, total = self.counts
        self.counts = torch.stack([(row + 1) * ~taken, total + ~taken])
        return taken

    def in_a_row(self) -> int:
        """Steps up to the last one that were skipped; waits for the device."""
        return int(self.counts[0])

    def exhausted(self) -> bool:
        """Whether the last ``limit`` steps were skipped; to be asked after each step.

        On a GPU the host looks at what the step before came to, while the device works on this one, and only then
        waits for this one too: there it takes ``limit + 1`` steps.
        """
        if self.event is not None:
            self.event.synchronize()
            before = int(self.noted[0])
            self.noted.copy_(self.counts, non_blocking=True)
            self.event.record()
            if before < self.limit:
                return False
        return self.in_a_row() >= self.limit


@contextmanager
def largest_scores(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Record the largest absolute score that reached each reweighting in the block, by the name of its module's owner.

    NaN if there was one. Dead entries do not count, for what they hold does not matter.
    """
    found: dict[str, Tensor] = {}
    owner = ""
    handles: list[Any] = []

    def note(name: str, scores: Tensor, mask: Tensor | None) -> None:
        if not scores.numel():
            return
        size = scores.detach().abs() if mask is None else scores.detach().abs().masked_fill(~mask, 0)
        found[name] = torch.maximum(found.get(name, size.new_zeros(()).float()), size.amax().float())

    def before(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        note(name, args[0], args[1] if len(args) > 1 else kwargs.get("mask"))

    def enter(name: str, *_: Any) -> None:
        nonlocal owner
        owner = name

    def loss(name: str, original: Callable[..., Tensor], scores: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        note(name, scores, None)
        return original(scores, *args, **kwargs)

    class Fused(TorchFunctionMode):
        """Softmax in PyTorch's fused path never sees its module."""

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if function is F.scaled_dot_product_attention:
                scale = kwargs.get("scale") or args[0].shape[-1] ** -0.5
                note(owner, args[0].detach() * scale @ args[1].detach().mT, kwargs.get("attn_mask"))
            return function(*args, **kwargs)

    sites = {name: module for name, module in model.named_modules() if isinstance(module, Reweighting)}
    for name, module in sites.items():
        place = name.rpartition(".")[0] if name.endswith(".reweight") else name
        handles.append(module.register_forward_pre_hook(partial(before, place), with_kwargs=True))
        module.loss = partial(loss, place, module.loss)  # type: ignore[method-assign]
        handles.append(model.get_submodule(name.rpartition(".")[0]).register_forward_pre_hook(partial(enter, place)))
    try:
        with Fused():
            yield found
    finally:
        for handle in handles:
            handle.remove()
        for module in sites.values():
            del module.loss


def largest_gradients(model: nn.Module) -> dict[str, Tensor]:
    """The largest absolute gradient of each module that has parameters of its own, NaN if there is one."""
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            module = name.rpartition(".")[0]
            size = parameter.grad.abs().amax().float()
            found[module] = torch.maximum(found.get(module, size), size)
    return found


def diagnose(model: nn.Module, losses: Callable[[], Iterator[Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
    """Go through a batch once more, the ``losses`` of its micro-batches one by one, and look at every layer.

    Returns the sum of the losses and the largest absolute values as "scores of NAME" and "gradient of NAME".
    """
    model.zero_grad()
    total = torch.zeros(())
    with torch.compiler.set_stance("force_eager"), largest_scores(model) as scores:
        for loss in losses():
            loss.backward()
            total += loss.detach().cpu()
    gradients = largest_gradients(model)
    model.zero_grad()
    return total, {
        **{f"scores of {name}": value for name, value in scores.items()},
        **{f"gradient of {name}": value for name, value in gradients.items()},
    }


def largest_first(values: Mapping[str, float], kind: str, count: int) -> str:
    """The ``count`` largest "KIND of NAME" in one line, NaN and infinity before all others."""
    chosen = {name.removeprefix(f"{kind} of "): value for name, value in values.items() if name.startswith(kind)}
    ordered = sorted(chosen.items(), key=lambda item: math.inf if math.isnan(item[1]) else item[1], reverse=True)
    return ", ".join(f"{name} {value:.4g}" for name, value in ordered[:count])


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """Those that are neither NaN nor infinite."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


def readable(values: Mapping[str, float]) -> dict[str, float | str]:
    """For JSON, which has no NaN and no infinity: these as strings."""
    return {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
