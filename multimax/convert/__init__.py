"""Replace softmax by another function in an existing model.

    conversion = multimax.convert(model, "multimax")
    print(conversion)                                  # what changed, what was left, and why
    conversion.undo()

This replaces the softmax of ``F.scaled_dot_product_attention`` and ``nn.MultiheadAttention`` wherever the model's
modules call them, of transformers' models that look up their attention by name, and of x-transformers.
"""

import fnmatch
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from multimax import reweight
from multimax.convert.find import Site, find, integration
from multimax.convert.intercept import Intercepted, intercepted
from multimax.convert.watch import Inputs, in_a_line
from multimax.reweight import Reweighting

__all__ = ["Conversion", "convert"]

Where = str | Callable[[str], bool]


class Conversion:
    """What ``convert`` did to a model; it prints as a table.

    Attributes:
        changed: paths of the modules that now attend with another function, at ``PATH.reweight``.
        left: (path, reason) for every other module that attends or computes a softmax.
    """

    changed: tuple[str, ...]
    left: tuple[tuple[str, str], ...]

    def __init__(self) -> None:
        self.changed, self.left = (), ()
        self._rows: list[tuple[str, str, str]] = []
        self._undo: list[Callable[[], None]] = []
        self._classes: list[tuple[str, nn.Module, type[nn.Module]]] = []
        self._configurations: dict[int, Any] = {}

    def undo(self) -> None:
        """Give the model its softmax back. The functions' parameters are lost; all others stay as they are.

        Raises:
            RuntimeError: it has already been undone; or a converted module has changed its class since, as torch's
                parametrizations and ``fully_shard`` make it do. The model is then left as it is.
        """
        if not self._undo:
            raise RuntimeError("there is nothing to undo: this conversion is undone already")
        for path, module, converted in self._classes:
            if type(module) is not converted:
                raise RuntimeError(
                    f"the class of {path or 'the model itself'} is no longer the one that convert gave it, but "
                    f"{type(module).__name__}: remove first what changed it, such as a parametrization"
                )
        self._restore()

    def _restore(self) -> None:
        while self._undo:
            self._undo.pop()()

    def __repr__(self) -> str:
        widths = [max(len(row[i]) for row in self._rows) for i in range(2)]
        return "\n".join(f"{path:{widths[0]}}  {cls:{widths[1]}}  {what}" for path, cls, what in self._rows)

    def _install(self, site: Site, function: Reweighting) -> None:
        module = site.module
        if site.by == "registry":
            self._set(module, "reweight", function)
            self._set(module, "config", self._configuration_of(module))
            return
        stock: Any = type(module)
        module.__class__ = intercepted(stock)
        self._undo.append(lambda: setattr(module, "__class__", stock))
        self._classes.append((site.path, module, type(module)))
        for name, value in {**site.attributes, "reweight": function}.items():
            self._set(module, name, value)

    def _configuration_of(self, module: nn.Module) -> Any:
        """A copy of the module's configuration that names our attention: modules that share it may not be converted."""
        config: Any = module.config
        if id(config) not in self._configurations:
            self._configurations[id(config)] = integration().naming_ours(config)
        return self._configurations[id(config)]

    def _write_down(self, model: Any, site: dict[str, Any]) -> None:
        """Write the function into the configuration, for ``multimax.integrations.transformers.from_pretrained``."""
        self._set(model.config, "reweight", site)
        self._set(model.config, "attn_implementation", integration().NAME)

    def _avoid_fused_layers(self, model: nn.Module) -> None:
        """Turn off torch's fused encoder layers, which in evaluation include the softmax."""
        for module in model.modules():
            if isinstance(module, nn.TransformerEncoderLayer) and isinstance(module.self_attn, Intercepted):
                self._set(module, "activation_relu_or_gelu", 0)
            if isinstance(module, nn.TransformerEncoder):
                attentions = [getattr(layer, "self_attn", None) for layer in module.layers]
                if any(isinstance(attention, Intercepted) for attention in attentions):
                    self._set(module, "use_nested_tensor", False)

    def _set(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute so that it can be undone."""
        before = vars(owner).get(name, _set_by_class)
        setattr(owner, name, value)
        self._undo.append(lambda: delattr(owner, name) if before is _set_by_class else setattr(owner, name, before))


_set_by_class = object()


def convert(
    model: nn.Module, name: str, where: Where | None = None, *, inputs: Inputs | None = None, **options: Any
) -> Conversion:
    """Replace the softmax of a model's attention, in place, by the function registered as ``name``.

    Each module that attends gets its own function as its child ``reweight``. The function's parameters are in float32,
    and are part of ``model.parameters()`` and the state dict. So convert a model before building an optimizer or DDP,
    and before loading weights saved from a converted model. With ``init="zero"`` MultiMax starts as softmax, and the
    model's outputs do not change.

    Boolean masks, ``is_causal``, and additive masks with -inf or numbers up to -1e4 (up to -50 in transformers' models)
    say which keys are dead; anything else added to the scores remains a bias. torch's generator is left as it was.

    Args:
        model: any module. Its code is read, but only run if there are ``inputs``.
        name: one of ``multimax.reweight.available()``.
        where: a pattern for module paths, such as ``"encoder.*"`` (``*`` also matches dots), or a function from a path
            to a bool; None for every module that attends.
        inputs: a tensor, a tuple or a mapping of keywords to call the model with. The model runs once, in evaluation
            and without gradients, to find modules whose code does not show that they call torch's attention.
        options: of the function; see ``multimax.reweight.options(name)``.

    Raises:
        TypeError, ValueError: there is no such function or option; nothing can be converted, at all or where asked for;
            or a module is already converted. The model is then left as it was.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if where is not None and not isinstance(where, str) and not callable(where):
        raise TypeError(f"where must be a pattern or a function from a path to a bool, got {type(where).__name__}")
    if "num_heads" in options:
        raise TypeError("num_heads is no option of a function: each module's own is used")
    per_head = _is_per_head(name, options)
    sites = find(model, inputs)
    chosen = [site for site in sites if _matches(where, site.path)]
    _check(model, where, inputs, sites, chosen)
    reasons = {site.path: _reason(site, chosen, per_head) for site in sites}
    with torch.random.fork_rng(devices=[]):
        functions = {site.path: _function(site, model, name, options) for site in sites if not reasons[site.path]}
    conversion = Conversion()
    try:
        for site in sites:
            if site.path in functions:
                conversion._install(site, functions[site.path])
        conversion._avoid_fused_layers(model)
        if hasattr(model, "save_pretrained") and all((s.by == "registry") == (s.path in functions) for s in sites):
            conversion._write_down(model, {"name": name, **options})
    except BaseException:
        conversion._restore()
        raise
    conversion.changed = tuple(functions)
    conversion.left = tuple((path, reason) for path, reason in reasons.items() if reason)
    conversion._rows = [
        (site.path or "(the model)", type(site.module).__name__, f"left: {reason}" if reason else name)
        for site, reason in zip(sites, reasons.values(), strict=True)
    ]
    return conversion


def _is_per_head(name: str, options: dict[str, Any]) -> bool:
    """Whether the function has parameters for each head."""
    one, two = (reweight.create(name, num_heads=n, **options) for n in (1, 2))
    return [p.shape for p in one.parameters()] != [p.shape for p in two.parameters()]


def _reason(site: Site, chosen: list[Site], per_head: bool) -> str | None:
    """Why a module is not converted, or None."""
    if site not in chosen:
        return "where does not match it"
    if site.obstacle is None and per_head and site.num_heads is None:
        return "it does not say how many heads it has, in an attribute num_heads"
    return site.obstacle


def _function(site: Site, model: nn.Module, name: str, options: dict[str, Any]) -> Reweighting:
    function = reweight.create(name, num_heads=site.num_heads, **options)
    placed = next(itertools.chain(site.module.parameters(), site.module.buffers(), model.parameters()), None)
    return function.to(None if placed is None else placed.device, torch.float32).train(site.module.training)


def _matches(where: Where | None, path: str) -> bool:
    if where is None:
        return True
    if isinstance(where, str):
        return fnmatch.fnmatchcase(path, where)
    try:
        return bool(where(path))
    except Exception as error:
        raise ValueError(f"where({path!r}) must say whether to convert it, but failed: {in_a_line(error)}") from error


def _check(model: nn.Module, where: Where | None, inputs: Inputs | None, sites: list[Site], chosen: list[Site]) -> None:
    model_name = type(model).__name__
    if not sites:
        hint = "; with inputs= it is run, which shows more" if inputs is None else " and a run shows"
        raise ValueError(f"no module of {model_name} attends, as far as its code says{hint}")
    if not chosen:
        raise ValueError(f"where={where!r} matches none of the modules of {model_name} that attend: {_listed(sites)}")
    if again := [site for site in chosen if isinstance(getattr(site.module, "reweight", None), Reweighting)]:
        raise ValueError(f"{_listed(again)} of {model_name} has been converted already; undo that first")
    if all(site.obstacle for site in chosen):
        reasons = dict.fromkeys(str(site.obstacle) for site in chosen)
        raise ValueError(
            f"no attention of {model_name} can be converted: {_listed(chosen)}: {'; '.join(reasons)}; "
            "in code of your own, call a multimax.reweight.create(NAME) where the softmax is"
        )
    staying = [site for site in sites if site.by == "torch" and (site.obstacle or site not in chosen)]
    for site in chosen:
        inner = [s for s in staying if s is not site and s.path.startswith(f"{site.path}." if site.path else "")]
        if site.obstacle is None and inner:  # the outer module's function would answer its calls
            raise ValueError(f"{_listed([site])} cannot be converted without {_listed(inner)}, which is within it")


def _listed(sites: list[Site]) -> str:
    paths = [site.path or "the model itself" for site in sites]
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
