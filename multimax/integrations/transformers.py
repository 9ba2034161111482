"""Hugging Face's transformers with any reweighting in their attention.

    Llama = reweighted(LlamaForCausalLM, "multimax")      # a subclass: from_config, from_pretrained, save_pretrained
    model = from_pretrained(AutoModelForCausalLM, path)   # what such a model saved

transformers' models look their attention up by name, and pass the module that attends: ``attend``, registered as
"multimax", calls ``module.reweight``. Its parameters are in the state dict, in float32. The function and its options
are in ``config.json`` as ``"reweight"``, beside ``"attn_implementation": "multimax"``, so that transformers refuses the
checkpoint without this module. docs/transformers.md has more.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.masking_utils import sdpa_mask
from transformers.utils.output_capturing import _active_collector

from multimax import reweight
from multimax.attention import attention, attention_weights
from multimax.convert.calls import live_and_bias
from multimax.convert.find import find
from multimax.integrations.sites import Site
from multimax.reweight import Reweighting

NAME = "multimax"
"""Our ``attn_implementation``."""

HIDDEN = -50.0
"""Additive masks hide an entry with -inf, the lowest number of a dtype or, in Swin, -100. No learned bias is as low as
this, where softmax's factor is 2e-22; MultiMax would raise such entries if its t is above 0."""

_FOR_CONFIG = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token", "trust_remote_code")


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **extra: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention function: the output [batch, queries, heads, dim], and the weights if they are recorded.

    ``attention_mask`` includes windows and packed sequences, and is bool or None, as made by their ``sdpa_mask``. A
    floating-point mask, from a model that makes its own, is split into a mask and a bias.

    Raises:
        ValueError: ``module`` has no reweighting, or packed sequences come without a mask.
    """
    function = _reweighting_of(module)
    packed = extra.get("cu_seq_lens_q")
    if attention_mask is None and packed is not None and packed.numel() > 2:
        raise ValueError("packed sequences need position_ids, from which transformers makes their mask; pass them")
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    mask, bias = live_and_bias(attention_mask, HIDDEN)
    terms = [term.to(query.dtype) for term in (bias, position_bias) if term is not None]
    options: dict[str, Any] = {
        "causal": query.shape[2] > 1 and attention_mask is None and is_causal,
        "bias": sum(terms) if terms else None,
        "scale": scaling,
        "softcap": softcap,
        "sink": s_aux,
    }
    output = attention(query, key, value, function, mask, dropout=dropout, **options)
    weights = attention_weights(query, key, function, mask, **options) if _are_recorded(extra) else None
    return output.transpose(1, 2).contiguous(), weights


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def _reweighting_of(module: nn.Module) -> Reweighting:
    function = getattr(module, "reweight", None)
    if function is None:
        raise ValueError(
            f"{type(module).__name__} has no reweighting; load the model with "
            "multimax.integrations.transformers.from_pretrained, or make its class with reweighted"
        )
    if hasattr(function, "modules_to_save"):  # PEFT keeps a copy for each adapter
        adapters = {} if function.disable_adapters else function.modules_to_save
        active = [name for name in function.active_adapters if name in adapters]
        return adapters[active[0]] if active else function.original_module
    return function


def _are_recorded(extra: dict[str, Any]) -> bool:
    """Whether ``output_attentions`` is on: it is an argument in some models, and a collector around others."""
    return bool(extra.get("output_attentions")) or any("attentions" in key for key in _active_collector.get() or ())


def attention_modules(model: nn.Module) -> dict[nn.Module, int | None]:
    """The modules that look their attention up in transformers' registry, and their numbers of heads."""
    return {site.module: site.num_heads for site in find(model) if site.by == "registry"}


def _create(site: Site, heads: int | None) -> Reweighting:
    """A reweighting with its parameters in float32, even if the model is made in another dtype."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        return reweight.create(**site, num_heads=heads)
    finally:
        torch.set_default_dtype(default)


def reweighted(model_class: type[PreTrainedModel], name: str, **options: Any) -> type[Any]:
    """A subclass of ``model_class`` whose attention reweights with ``name``, with one set of parameters for each layer.

    Its ``from_pretrained`` also takes checkpoints of ``model_class``, and then draws the function's parameters. All
    other parameters, and torch's generator, are as without it.

    Args:
        model_class: a class of transformers, such as ``LlamaForCausalLM``; none of the auto classes.
        name, options: as of ``multimax.reweight.create``.

    Raises:
        TypeError, ValueError: an unknown name or option; later, when a model is built: its attention is not looked up
            by
            name (Bloom, Falcon, DeBERTa-v2, ...), or its configuration has another reweighting.
    """
    with torch.random.fork_rng(devices=[]):
        reweight.create(name, **options)  # raises before a model is built
    site = {"name": name, **options}
    if not (isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)):
        raise TypeError(f"model_class must be a class of models, such as LlamaForCausalLM, got {model_class!r}")

    class Reweighted(model_class):  # type: ignore[misc, valid-type]
        _keep_in_fp32_modules_strict = {*(model_class._keep_in_fp32_modules_strict or ()), "reweight"}

        def __init__(self, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
            config = copy.deepcopy(config)
            if getattr(config, "reweight", site) != site:
                raise ValueError(f"the model was saved with {config.reweight}, its class is for {site}")
            config.reweight, config.attn_implementation, config._attn_implementation = site, NAME, NAME
            super().__init__(config, *args, **kwargs)
            modules = attention_modules(self)
            with torch.random.fork_rng(devices=[]):
                for module, heads in modules.items():
                    module.reweight = _create(site, heads)
            if not modules:
                raise ValueError(
                    f"{model_class.__name__} computes attention in a way of its own, which nothing can swap"
                )

        def _get_name(self) -> str:  # which tells Trainer that labels are shifted
            return model_class.__name__

        @classmethod
        def from_config(cls, config: PretrainedConfig, **kwargs: Any) -> Any:
            return cls._from_config(config, **kwargs)

        @classmethod
        def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
            model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
            _draw(model, info["missing_keys"], site)
            return (model, info) if output_loading_info else model

    Reweighted.__name__ = Reweighted.__qualname__ = f"Reweighted{model_class.__name__}"
    Reweighted.__module__ = model_class.__module__  # whose source transformers reads
    return Reweighted


def _draw(model: nn.Module, missing: set[str], site: Site) -> None:
    """Draw parameters that a checkpoint lacks: transformers leaves them uninitialised."""
    heads = attention_modules(model)
    with torch.random.fork_rng(devices=[]):
        for path, module in model.named_modules():
            if module in heads and any(key.startswith(f"{path}.reweight.") for key in missing):
                module.get_submodule("reweight").load_state_dict(_create(site, heads[module]).state_dict())


def from_pretrained(model_class: Any, path: str, *args: Any, **kwargs: Any) -> Any:
    """Load what a reweighted model saved, with the function that its ``config.json`` names.

    Args:
        model_class: a class of models or one of transformers' auto classes.
        path, args, kwargs: as of its ``from_pretrained``.

    Raises:
        ValueError: the checkpoint names no function.
    """
    config = kwargs.pop("config", None) or AutoConfig.from_pretrained(
        path, **{name: kwargs[name] for name in _FOR_CONFIG if name in kwargs}
    )
    site = getattr(config, "reweight", None)
    if site is None:
        raise ValueError(f"{path} names no reweighting; choose one: reweighted(MODEL_CLASS, NAME).from_pretrained(...)")
    if not issubclass(model_class, PreTrainedModel):
        found = model_class._model_mapping[type(config)]
        saved = {f"Reweighted{each.__name__}": each for each in (found if isinstance(found, tuple) else (found,))}
        model_class = saved.get((config.architectures or [""])[0], next(iter(saved.values())))
    return reweighted(model_class, **site).from_pretrained(path, *args, config=config, **kwargs)
