"""Over-smoothing: how similar the tokens of one input are, layer by layer, over a whole data set.

Patch similarity is the mean signed cosine between the outputs of one attention, after its projection and before the
residual, over all pairs of tokens of an image, as MultiMax's authors measure it. MAD, the mean average distance (Chen
et al., "Measuring and Relieving the Over-smoothing Problem for Graph Neural Networks from the Topological View", AAAI
2020, 1909.03211), is the mean over tokens of the mean cosine distance to the others, on what a layer passes to the
next. Chen et al. leave zero distances out of the means; but rounding alone decides whether two tokens' distance is
exactly zero, so every pair counts here. MAD of the same tokens would be one minus their similarity.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multimax.suite.models.deit import ImageClassifier
from multimax.suite.models.encoder_decoder import EncoderDecoder


def patch_similarity(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean signed cosine over pairs of different tokens of each input [batch, n, dim]: [batch], float64.

    ``mask`` bool [batch, n] is True at a token; NaN for inputs with fewer than two. A token of zeros is orthogonal to
    every other.
    """
    directions = F.normalize(tokens.double(), dim=-1)
    live = torch.ones_like(directions[..., 0]) if mask is None else mask.double()
    directions = directions * live[..., None]
    count = live.sum(-1)
    # The square of the sum contains every pair twice, and each token with itself.
    pairs = directions.sum(-2).square().sum(-1) - directions.square().sum((-2, -1))
    return (pairs / (count * (count - 1))).where(count > 1, torch.nan)


def mean_average_distance(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """MAD of each input [batch, n, dim]: [batch], float64. Otherwise like ``patch_similarity``."""
    return 1 - patch_similarity(tokens, mask)


@dataclass
class LayerSmoothing:
    """Running means of one layer over inputs; inputs with a single token do not count."""

    sums: dict[str, float] = field(default_factory=lambda: {"patch_similarity": 0.0, "mad": 0.0})
    inputs: int = 0

    @property
    def means(self) -> dict[str, float]:
        return {name: total / self.inputs if self.inputs else torch.nan for name, total in self.sums.items()}

    def add(self, attended: Tensor, handed_on: Tensor, mask: Tensor | None) -> None:
        similarity = patch_similarity(attended, mask)
        self.sums["patch_similarity"] += similarity.nansum().item()
        self.sums["mad"] += mean_average_distance(handed_on, mask).nansum().item()
        self.inputs += int(similarity.isfinite().sum())


@contextmanager
def token_smoothing(model: nn.Module) -> Iterator[list[LayerSmoothing]]:
    """The layers of a DeiT, or of a translation model's encoder, over every forward within the context.

    A DeiT's class token is not among the patches. Empty for other models: each token of a language model or a decoder
    sees a different past.
    """
    layers: list[LayerSmoothing] = []
    with ExitStack() as stack:
        for block, attention, first in _layers(model):
            layers.append(LayerSmoothing())
            stack.enter_context(_measured(block, attention, first, layers[-1]))
        yield layers


def _layers(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module, int]]:
    """Each layer, its attention, and the number of leading tokens that are not part of the input."""
    layer: Any
    if isinstance(model, ImageClassifier):
        for layer in getattr(model.backbone, "blocks", ()):  # a user's own model may have other ones, or none
            if hasattr(layer, "attn"):
                yield layer, layer.attn, getattr(model.backbone, "num_prefix_tokens", 0)
    elif isinstance(model, EncoderDecoder):
        for layer in model.encoder:
            yield layer, layer.attention.branch, 0


@contextmanager
def _measured(block: nn.Module, attention: nn.Module, first: int, into: LayerSmoothing) -> Iterator[None]:
    attended: list[Tensor] = []

    def after_attention(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        attended.append(output.detach())

    def after_block(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        mask = inputs[1].flatten(1) if len(inputs) > 1 else None  # of an encoder, bool [batch, 1, 1, tokens]
        into.add(attended.pop()[:, first:], output.detach()[:, first:], mask)

    with attention.register_forward_hook(after_attention), block.register_forward_hook(after_block):
        yield


def summary(measured: Mapping[str, Any]) -> dict[str, float]:
    """Means over layers of one entry of ``measured`` in a run's ``oversmoothing.json``."""
    return {name: sum(measured[name]) / len(measured[name]) for name in ("patch_similarity", "mad")}
