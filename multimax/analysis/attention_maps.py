"""The attention weights of a model, as it uses them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from multimax.models.encoder_decoder import EncoderDecoder
from multimax.reweight import Reweighting

Listener = Callable[[str, Tensor, Tensor | None, Tensor | None], None]


@contextmanager
def listen_to_attention(model: nn.Module, heard: Listener) -> Iterator[None]:
    """Call ``heard(name, weights, scores, mask)`` for every attention of ``model`` in each forward within the context.

    ``name`` is that of the attention's submodule, weights are [batch, heads, queries, keys], before dropout, scores
    likewise, the mask broadcastable to them or None. It hears the models of this project, and those of timm, whose own
    softmax keeps its scores to itself: None. Within the context softmax is computed step by step, which agrees with
    PyTorch's fused attention up to rounding; outside nothing is slower.
    """
    with ExitStack() as stack:

        def listen(name: str, module: nn.Module) -> None:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                if isinstance(module, Reweighting):
                    heard(name, output.detach(), inputs[0].detach(), inputs[1] if len(inputs) > 1 else None)
                else:
                    heard(name, inputs[0].detach(), None, None)

            stack.enter_context(module.register_forward_hook(hook))

        for name, module in model.named_modules():
            if isinstance(module, Reweighting) and name != "output":
                listen(name.removesuffix(".reweight"), module)
            elif isinstance(fused := getattr(module, "fused_attn", None), bool):
                # timm's attention: its softmax is no module, but the dropout that takes the weights is.
                stack.callback(setattr, module, "fused_attn", fused)
                module.fused_attn = False
                listen(name, module.attn_drop)
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
