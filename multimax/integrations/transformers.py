"""Hugging Face transformers with any reweighting in their attention.

    Llama = reweighted(LlamaForCausalLM, "multimax")      # a subclass: from_config, from_pretrained, save_pretrained
    model = from_pretrained(AutoModelForCausalLM, path)   # what such a model saved

transformers' models look up their attention by name and pass it the module that attends: ``attend``, registered as
"multimax", calls ``module.reweight``, whose parameters are in the state dict, in float32. The function and its options
are in ``config.json`` as ``"reweight"``, next to ``"attn_implementation": "multimax"``, so that transformers refuses
the checkpoint without this module. docs/transformers.md has more.
"""

import copy
import inspect
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from multimax import reweight
from multimax.attention import attention, attention_weights
from multimax.convert.calls import live_and_bias
from multimax.convert.find import find
from multimax.integrations.sites import Site, create_site
from multimax.reweight import Reweighting

collector: Any = None
try:
    from transformers.utils.output_capturing import _active_collector as collector
except ImportError:  # it is private
    warnings.warn(
        "this version of transformers does not tell whether output_attentions is on: attention weights are returned by "
        "those models alone that pass it to their attention",
        stacklevel=2,
    )

NAME = "multimax"
"""Our ``attn_implementation``."""

HIDDEN = -50.0
"""Additive masks hide an entry with -inf, the lowest number of a dtype or, in Swin, -100. No learned bias is this low:
softmax's factor is then 2e-22. MultiMax would raise such entries if its t is above 0.
"""

# Arguments that models pass to their attention and that softmax attention ignores: the mask already has them, or they
# are for one kernel, or for the model around it, whose arguments reach the attention unless taken on the way.
_PASSED_OVER = """
sliding_window position_ids seq_idx cu_seq_lens_q cu_seq_lens_k max_length_q max_length_k deterministic
output_attentions output_hidden_states output_router_logits return_dict return_shared_kv_states logits_to_keep
num_items_in_batch use_cache cache past_key_values cache_position hidden_states position_embeddings
input_ids inputs_embeds token_type_ids mm_token_type_ids grid_thw encoder_outputs mm_encoder_outputs
decoder_input_ids decoder_inputs_embeds decoder_attention_mask decoder_position_ids
"""
PASSED_OVER = frozenset(_PASSED_OVER.split())

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
    indices: Tensor | None = None,
    **extra: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention function: the output [batch, queries, heads, dim], and the weights if recorded.

    ``attention_mask`` includes windows and packed sequences, and is bool or None, as made by transformers'
    ``sdpa_mask``. A floating-point mask, from a model that makes its own, is split into a mask and a bias. ``indices``
    [batch, queries, k] are the keys that an indexer chose for each query (DeepSeek-V3.2); the mask still says which of
    them are live.

    Raises:
        ValueError: ``module`` has no reweighting, packed sequences come without a mask, or ``extra`` holds something
            that may change what attention computes.
    """
    function = _reweighting_of(module)
    if unknown := [name for name, value in extra.items() if value is not None and name not in PASSED_OVER]:
        raise ValueError(
            f"{type(module).__name__} got {', '.join(unknown)} for its attention, which may change what that is: "
            "do not pass it to the model, or leave the module its softmax (where=)"
        )
    packed = extra.get("cu_seq_lens_q")
    if attention_mask is None and packed is not None and packed.numel() > 2:
        raise ValueError("packed sequences need position_ids, from which transformers makes their mask; pass them")
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    mask, bias = live_and_bias(attention_mask, HIDDEN)
    if indices is not None:
        chosen = torch.zeros(*indices.shape[:2], key.shape[2], dtype=torch.bool, device=key.device)
        chosen = chosen.scatter(-1, indices.long(), True).unsqueeze(1)
        mask = chosen if mask is None else mask & chosen
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


ARGUMENTS = {*inspect.signature(attend).parameters} | PASSED_OVER
"""What a model may pass to ``attend``."""

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


def _has_reweighting(module: nn.Module) -> bool:
    return isinstance(getattr(module, "reweight", None), Reweighting)


def _are_recorded(extra: dict[str, Any]) -> bool:
    """Whether ``output_attentions`` is on: an argument in some models, a collector around others."""
    collected = () if collector is None else collector.get() or ()
    return bool(extra.get("output_attentions")) or any("attentions" in key for key in collected)


def naming_ours(config: Any) -> Any:
    """A copy of a configuration, for modules that attend, that names our attention."""
    config = copy.deepcopy(config)
    config._attn_implementation = NAME
    return config


def _create(site: Site, heads: int | None) -> Reweighting:
    """A reweighting with parameters in float32, even if the model is built in another dtype."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        return reweight.create(**site, num_heads=heads)
    finally:
        torch.set_default_dtype(default)


def reweighted(model_class: type[PreTrainedModel], name: str, **options: Any) -> type[Any]:
    """A subclass of ``model_class`` whose attention uses the function ``name``, with parameters of its own in each
    layer.

    Its ``from_pretrained`` also takes checkpoints of ``model_class``, and then draws the function's parameters. All
    other parameters, and torch's generator, are as they would be without it.

    Args:
        model_class: a transformers class, such as ``LlamaForCausalLM``; not an auto class.
        name, options: as for ``multimax.reweight.create``.

    Raises:
        TypeError, ValueError: an unknown name or option. Later, when a model is built: its attention is not looked up
            by name (Bloom, Falcon, DeBERTa-v2, ...) or gets arguments that only transformers' own attention uses
            (Inkling 2, MiniMax-M3), or its configuration has another reweighting.
    """
    site = {"name": name, **options}
    create_site(site)  # raises before a model is built
    if not _is_model_class(model_class):
        raise TypeError(f"model_class must be a class of models, such as LlamaForCausalLM, got {_named(model_class)}")

    class Reweighted(model_class):  # type: ignore[misc, valid-type]
        _keep_in_fp32_modules_strict = {*(model_class._keep_in_fp32_modules_strict or ()), "reweight"}

        def __init__(self, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
            _check_config(config)
            config = copy.deepcopy(config)
            if getattr(config, "reweight", site) != site:
                raise ValueError(f"the model was saved with {config.reweight}, its class is for {site}")
            config.reweight, config.attn_implementation = site, NAME
            # Some models compare the name and make what "sdpa" needs, so only modules that attend have ours.
            config._attn_implementation = None if model_class._supports_sdpa else NAME
            super().__init__(config, *args, **kwargs)
            sites = [found for found in find(self) if found.by == "registry"]
            if not sites:
                raise ValueError(
                    f"{model_class.__name__} computes attention in a way of its own, which nothing can swap"
                )
            if left := [found for found in sites if found.obstacle and not _has_reweighting(found.module)]:
                raise ValueError(f"{left[0].path} of {model_class.__name__} cannot be reweighted: {left[0].obstacle}")
            configs = {id(found.module.config): found.module.config for found in sites}
            named = {key: naming_ours(config) for key, config in configs.items()}
            with torch.random.fork_rng(devices=[]):
                for found in sites:
                    found.module.config = named[id(found.module.config)]
                    found.module.reweight = _create(site, found.num_heads)

        def _get_name(self) -> str:  # by which Trainer knows that labels are shifted
            return model_class.__name__

        @classmethod
        def from_config(cls, config: PretrainedConfig, **kwargs: Any) -> Any:
            _check_config(config)
            return cls._from_config(config, **kwargs)

        @classmethod
        def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
            model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
            _draw(model, info["missing_keys"], site)
            return (model, info) if output_loading_info else model

    Reweighted.__name__ = Reweighted.__qualname__ = f"Reweighted{model_class.__name__}"
    Reweighted.__module__ = model_class.__module__  # transformers reads its source
    return Reweighted


def _is_model_class(model_class: Any) -> bool:
    return isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)


def _named(thing: Any) -> str:
    return thing.__name__ if isinstance(thing, type) else type(thing).__name__


def _check_config(config: Any) -> None:
    if not isinstance(config, PretrainedConfig):
        raise TypeError(f"config must be a configuration of transformers, such as LlamaConfig(), got {_named(config)}")


def _draw(model: nn.Module, missing: set[str], site: Site) -> None:
    """Draw the parameters that a checkpoint lacks, which transformers leaves uninitialised."""
    with torch.random.fork_rng(devices=[]):
        for found in find(model):
            if found.by == "registry" and any(key.startswith(f"{found.path}.reweight.") for key in missing):
                drawn = _create(site, found.num_heads)
                found.module.get_submodule("reweight").load_state_dict(drawn.state_dict())


def from_pretrained(model_class: Any, path: str, *args: Any, **kwargs: Any) -> Any:
    """Load what a reweighted model saved, with the function that its ``config.json`` names.

    Args:
        model_class: a class of models or one of transformers' auto classes.
        path, args, kwargs: as for its ``from_pretrained``.

    Raises:
        TypeError, ValueError: the checkpoint names no function, or an unknown one; ``model_class`` is not such a class,
            or is not for this checkpoint.
    """
    if not _is_model_class(model_class) and not hasattr(model_class, "_model_mapping"):
        raise TypeError(f"model_class must be a class of models or an AutoModel, got {_named(model_class)}")
    config = kwargs.pop("config", None) or AutoConfig.from_pretrained(
        path, **{name: kwargs[name] for name in _FOR_CONFIG if name in kwargs}
    )
    _check_config(config)
    site = getattr(config, "reweight", None)
    if site is None:
        raise ValueError(f"{path} names no reweighting; choose one: reweighted(MODEL_CLASS, NAME).from_pretrained(...)")
    create_site(site)
    if not _is_model_class(model_class):
        if type(config) not in model_class._model_mapping:
            raise ValueError(f"{_named(model_class)} has no model for a {_named(config)}, which {path} was saved with")
        found = model_class._model_mapping[type(config)]
        saved = {f"Reweighted{each.__name__}": each for each in (found if isinstance(found, tuple) else (found,))}
        model_class = saved.get((config.architectures or [""])[0], next(iter(saved.values())))
    return reweighted(model_class, **site).from_pretrained(path, *args, config=config, **kwargs)
