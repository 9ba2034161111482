"""The attention weights of a model, as it uses them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from multimax.attention import attention_scores
from multimax.reweight import Reweighting
from multimax.suite.models.encoder_decoder import EncoderDecoder

Listener = Callable[[str, Tensor, Tensor, Tensor | None], None]


@contextmanager
def listen_to_attention(model: nn.Module, heard: Listener) -> Iterator[None]:
    """Call ``heard(name, weights, scores, mask)`` for every attention of ``model`` in each forward within the context.

    ``name`` is that of the attention's submodule, weights are [batch, heads, queries, keys], before dropout and
    AttnScale, scores likewise, the mask broadcastable to them or None. It hears the models of this project, and timm's
    own attention with softmax. Within the context softmax is computed step by step, which agrees with PyTorch's fused
    attention up to rounding; outside nothing is slower.
    """
    with ExitStack() as stack:

        def listen(name: str, module: Reweighting) -> None:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                heard(name, output.detach(), inputs[0].detach(), inputs[1] if len(inputs) > 1 else None)

            stack.enter_context(module.register_forward_hook(hook))

        def listen_to_timm(name: str, module: Any) -> None:
            """Its softmax is no module, but what makes queries and keys is, and the dropout that takes the weights."""
            scores: list[Tensor] = []

            def before(_: nn.Module, inputs: tuple[Tensor, ...], features: Tensor) -> None:
                query, key, _ = features.detach().unflatten(-1, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)
                scores.append(attention_scores(module.q_norm(query), module.k_norm(key), scale=module.scale))

            def after(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                heard(name, inputs[0].detach(), scores.pop(), None)

            stack.callback(setattr, module, "fused_attn", module.fused_attn)
            module.fused_attn = False
            stack.enter_context(module.qkv.register_forward_hook(before))
            stack.enter_context(module.attn_drop.register_forward_hook(after))

        for name, module in model.named_modules():
            if isinstance(module, Reweighting) and name != "output":
                listen(name.removesuffix(".reweight"), module)
            elif isinstance(getattr(module, "fused_attn", None), bool) and not hasattr(module, "reweight"):
                listen_to_timm(name, module)
        yield


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Collect what ``listen_to_attention`` hears: for each attention by name its weights, one tensor per forward."""
    maps: dict[str, list[Tensor]] = {}
    with listen_to_attention(model, lambda name, weights, *_: maps.setdefault(name, []).append(weights)):
        yield maps


@torch.no_grad()
def attention_maps(
    model: EncoderDecoder, source: Tensor, source_mask: Tensor, target: Tensor
) -> dict[str, list[Tensor]]:
    """Weights [batch, heads, queries, keys] of each layer of ``encoder``, ``decoder`` and ``cross`` attention.

    source int64 [batch, source length], source_mask bool, True at a token, target int64 [batch, target length], as the
    decoder reads it; the weights are those of the whole forward, without a cache.
    """
    with record_attention(model) as maps:
        model.decode(target, model.encode(source, source_mask), source_mask)
    return {
        "encoder": [maps[f"encoder.{i}.attention.branch"][0] for i in range(len(model.encoder))],
        "decoder": [maps[f"decoder.{i}.attention.branch"][0] for i in range(len(model.decoder))],
        "cross": [maps[f"decoder.{i}.cross_attention.branch"][0] for i in range(len(model.decoder))],
    }
