"""A model's attention weights, as it uses them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from multimax.attention import attention_scores
from multimax.reweight import Reweighting

Observer = Callable[[str, Tensor, Tensor, Tensor | None], None]


@contextmanager
def observe_attention(model: nn.Module, observe: Observer) -> Iterator[None]:
    """Call ``observe(name, weights, scores, mask)`` for every attention in each forward of ``model``.

    ``name`` is the name of the attention's submodule; weights and scores are [batch, heads, queries, keys], the weights
    before dropout and AttnScale; the mask is broadcastable to them or None. Works for this project's models and for
    timm's own attention with softmax. While the hooks are in place, softmax is computed step by step, which agrees with
    PyTorch's fused attention up to rounding. They are removed when the context ends.
    """
    with ExitStack() as stack:

        def hook_reweighting(name: str, module: Reweighting) -> None:
            def hook(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
                scores, mask = (*inputs, None, None)[:2]
                observe(name, output.detach(), named.get("scores", scores).detach(), named.get("mask", mask))

            stack.enter_context(module.register_forward_hook(hook, with_kwargs=True))

        def hook_timm(name: str, module: Any) -> None:
            """Its softmax is not a module: scores come from the qkv projection, weights from the input of attn_drop."""
            scores: list[Tensor] = []

            def before(_: nn.Module, inputs: tuple[Tensor, ...], features: Tensor) -> None:
                query, key, _ = features.detach().unflatten(-1, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)
                scores.append(attention_scores(module.q_norm(query), module.k_norm(key), scale=module.scale))

            def after(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                observe(name, inputs[0].detach(), scores.pop(), None)

            stack.callback(setattr, module, "fused_attn", module.fused_attn)
            module.fused_attn = False
            stack.enter_context(module.qkv.register_forward_hook(before))
            stack.enter_context(module.attn_drop.register_forward_hook(after))

        for name, module in model.named_modules():
            if isinstance(module, Reweighting) and name != "output":
                hook_reweighting(name.removesuffix(".reweight"), module)
            elif isinstance(getattr(module, "fused_attn", None), bool) and not hasattr(module, "reweight"):
                hook_timm(name, module)
        yield


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the weights of each attention by name, one tensor per forward."""
    maps: dict[str, list[Tensor]] = {}
    with observe_attention(model, lambda name, weights, *_: maps.setdefault(name, []).append(weights)):
        yield maps
