"""Weights of fairseq's transformer and transformer_lm as ours, and ours as fairseq's.

Does not need fairseq. Parameters of reweightings are converted too; fairseq's own models have none.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from multimax.suite.errors import UserError
from multimax.suite.models.encoder_decoder import EncoderDecoder
from multimax.suite.models.transformer_lm import TransformerLM

# Our tensors, and fairseq's that are concatenated into each.
SELF_ATTENTION = {
    "query_key_value": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "projection": ("self_attn.out_proj",),
    "reweight": ("self_attn.reweight",),
}
CROSS_ATTENTION = {
    "query": ("encoder_attn.q_proj",),
    "key_value": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "projection": ("encoder_attn.out_proj",),
    "reweight": ("encoder_attn.reweight",),
}
ENCODER_DECODER_LAYER = {
    **{f"attention.branch.{ours}": theirs for ours, theirs in SELF_ATTENTION.items()},
    **{f"cross_attention.branch.{ours}": theirs for ours, theirs in CROSS_ATTENTION.items()},
    "attention.norm": ("self_attn_layer_norm",),
    "cross_attention.norm": ("encoder_attn_layer_norm",),
    "feed_forward.branch.0": ("fc1",),
    "feed_forward.branch.3": ("fc2",),
    "feed_forward.norm": ("final_layer_norm",),
}
LANGUAGE_MODEL_LAYER = {
    **SELF_ATTENTION,
    "attention_norm": ("self_attn_layer_norm",),
    "feed_forward.0": ("fc1",),
    "feed_forward.3": ("fc2",),
    "feed_forward_norm": ("final_layer_norm",),
}
STACKS = {
    "encoder": ("encoder", ENCODER_DECODER_LAYER),
    "decoder": ("decoder", ENCODER_DECODER_LAYER),
    "blocks": ("decoder", LANGUAGE_MODEL_LAYER),
}
OUTSIDE = {
    "source_embedding.weight": "encoder.embed_tokens.weight",
    "target_embedding.weight": "decoder.embed_tokens.weight",
    "embedding.tables.0": "decoder.embed_tokens.weight",
    "encoder_norm": "encoder.layer_norm",
    "decoder_norm": "decoder.layer_norm",
    "norm": "decoder.layer_norm",
    "output": "output",
}
EMBEDDING = "decoder.embed_tokens.weight"
# Copies that fairseq keeps of the decoder's embedding, the second where all are shared.
COPIES = ("decoder.output_projection.weight", "encoder.embed_tokens.weight")
# What fairseq's checkpoints hold beside weights.
NO_WEIGHTS = re.compile(r"(en|de)coder\.(version|embed_positions\._float_tensor)")


def from_fairseq(model: EncoderDecoder | TransformerLM, state: Mapping[str, Tensor]) -> None:
    """Copy the weights of a fairseq model, its ``state_dict()`` or a checkpoint's "model", into one of the same sizes.

    Raises:
        UserError: the weights are those of another model, such as one whose output is not tied to its embedding.
    """
    left = {name: tensor for name, tensor in state.items() if not NO_WEIGHTS.fullmatch(name)}
    weights = {}
    for name, tensor in tensors(model).items():
        sources = theirs(name)
        absent = [source for source in sources if source not in state]
        if absent:
            raise UserError(f"fairseq's weights are those of another model: {absent[0]} is not among them")
        weights[name] = torch.cat([state[source] for source in sources])
        if weights[name].shape != tensor.shape:
            raise UserError(
                f"fairseq's weights are those of another model: {sources[0]} is for {tuple(weights[name].shape)} and "
                f"not {tuple(tensor.shape)}"
            )
        for source in sources:
            left.pop(source)
    for copy in COPIES:
        if copy in left and torch.equal(left[copy], state[EMBEDDING]):
            del left[copy]
    if left:
        others = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise UserError(f"fairseq's weights are those of another model: there is no place for {min(left)}{others}")
    model.load_state_dict(weights, strict=False)


def to_fairseq(model: EncoderDecoder | TransformerLM) -> dict[str, Tensor]:
    """The weights of ``model`` as fairseq's ``load_state_dict`` takes them, for a model of the same sizes.

    Where the model has parameters of reweightings, so must fairseq's: it is one of ``multimax_transformer...``.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in tensors(model).items():
        names = theirs(name)
        state.update(zip(names, tensor.chunk(len(names)), strict=True))
    state[COPIES[0]] = state[EMBEDDING]
    for part in {name.split(".")[0] for name in state} & {"encoder", "decoder"}:
        state[f"{part}.version"] = torch.tensor([3.0])
    if "encoder.version" in state:
        state.setdefault(COPIES[1], state[EMBEDDING])
    return state


def tensors(model: EncoderDecoder | TransformerLM) -> dict[str, Tensor]:
    """The weights of ``model`` by name."""
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def theirs(name: str) -> list[str]:
    """The names of fairseq's tensors that are concatenated into our tensor ``name``."""
    stack, _, rest = name.partition(".")
    if stack in STACKS:
        part, layer = STACKS[stack]
        number, _, rest = rest.partition(".")
        module, _, tensor = rest.rpartition(".")
        return [f"{part}.layers.{number}.{module}.{tensor}" for module in layer[module]]
    if name in OUTSIDE:
        return [OUTSIDE[name]]
    return [f"{OUTSIDE[stack]}.{rest}"]
