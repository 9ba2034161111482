"""What the language models have in common: configuration, output and interface."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from multimax.integrations.sites import Site, create_site
from multimax.suite.models.adaptive import AdaptiveEmbedding
from multimax.suite.models.layers import VocabularyModel
from multimax.suite.options import bounded, registered
from multimax.suite.registry import Registry

MODELS = Registry(
    {
        "transformer_xl": "multimax.suite.models.transformer_xl.TransformerXL",
        "transformer_lm": "multimax.suite.models.transformer_lm.TransformerLM",
    }
)
"""Subclasses of ``LanguageModel``; a model with ``memory_length`` is called segment by segment, with its memory."""


@dataclass
class LanguageModelConfig:
    """A language model; lengths are in tokens."""

    name: str = registered(MODELS, default="transformer_xl")
    depth: int = bounded(1, default=16, limit=10_000)
    dim: int = bounded(4, default=410, limit=2**20)  # sines and cosines, at least two wavelengths
    num_heads: int = bounded(1, default=10, limit=2**20)
    ffn_dim: int = bounded(1, default=2100, limit=2**20)
    dropout: float = bounded(0, 1, default=0.1)
    attention_dropout: float = bounded(0, 1, default=0.0)
    segment_length: int = bounded(1, default=150)  # of one training example; transformer_lm takes no longer inputs
    # transformer_lm: least context of a scored token, except at the very start of the text.
    eval_context: int | None = bounded(0, default=None)
    # transformer_xl: the reach of attention in training and in evaluation.
    memory_length: int | None = bounded(0, default=None)
    clamp_length: int | None = bounded(1, default=None)  # larger distances count as this one
    same_length: bool = False  # every position attends to the same number of positions: memory_length
    eval_segment_length: int | None = bounded(1, default=None)
    eval_memory_length: int | None = bounded(0, default=None)
    eval_clamp_length: int | None = bounded(1, default=None)
    eval_same_length: bool = False
    # transformer_xl: first token ids of the tail clusters of its adaptive softmax and input; empty: one softmax.
    cutoffs: list[int] = field(default_factory=list)
    div_val: int = bounded(1, default=1)  # factor by which vectors shrink from one cluster to the next


class LanguageModel(VocabularyModel):
    """Embedding, a subclass's layers, tied output scores, and the reweighting that turns them into probabilities.

    A subclass defines ``blocks``, ``encode`` and ``start_memory``.
    """

    of_classes = ("embedding.",)
    blocks: nn.ModuleList
    max_length: int | None = None  # longest input including its memory; None: any

    def __init__(self, embedding: AdaptiveEmbedding, output: Site, fingerprint: Tensor | None = None):
        super().__init__(fingerprint)
        self.embedding = embedding
        self.output = create_site(output)

    def layers(self) -> list[nn.Module]:
        return list(self.blocks)

    def start_memory(self, batch_size: int) -> Tensor:
        """The empty memory that ``encode`` fills."""
        raise NotImplementedError

    def encode(self, tokens: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Hidden states [batch, length, dim] of tokens int64 [batch, length], and the memory for what follows."""
        raise NotImplementedError

    def forward(self, tokens: Tensor, targets: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Loss summed over all ``targets`` int64 [batch, length], and the memory after ``tokens``."""
        hidden, memory = self.encode(tokens, memory)
        parts = self.embedding.losses(hidden.flatten(0, 1), targets.flatten(), self.output, reduction="sum")
        return torch.stack([loss for _, loss in parts]).sum(), memory

    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Training loss [N] of targets int64 [N] after hidden states [N, dim]; -log P if the function is positive."""
        losses = hidden.new_zeros(len(targets), dtype=torch.promote_types(hidden.dtype, torch.float32))
        for rows, part in self.embedding.losses(hidden, targets, self.output, reduction="none"):
            losses[rows] += part
        return losses

    def target_weights(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Probabilities [N] of targets int64 [N], which a sparse function may make exactly zero."""
        weights = hidden.new_ones(len(targets), dtype=torch.promote_types(hidden.dtype, torch.float32))
        for cluster, rows, entries in self.embedding.routes(targets):
            scores = self.embedding.scores(cluster, hidden[rows])
            weights[rows] *= self.output(scores).gather(-1, entries[:, None]).squeeze(-1)
        return weights

    def weights(self, hidden: Tensor) -> Tensor:
        """Probabilities [N, num_tokens] of all tokens after hidden states [N, dim]."""
        return self.embedding.weights(hidden, self.output)
