"""Transformer-XL: relative positions and a memory of previous segments, with any reweighting of the full score.

Dai et al., "Transformer-XL: Attentive Language Models Beyond a Fixed-Length Context", ACL 2019, arXiv 1901.02860. For
query i, key j and their distance i - j, whose sinusoidal vector is R,

    score_ij = ((q_i + u) . k_j + (q_i + v) . W_R R_(i-j)) / sqrt(head_dim),      weights_i = reweight(score_i, mask_i).

Layers, initial values and the adaptive output are those of the authors' code (github.com/kimiyoung/transformer-xl) in
its WikiText-103 base configuration: normalisation after the residual, u and v shared by all layers. With ``div_val`` >
1 the head cluster's projection is tied like the others, unlike theirs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from multimax.attention import attention
from multimax.integrations.sites import Site, create_site
from multimax.suite.models.adaptive import AdaptiveEmbedding
from multimax.suite.models.language_model import LanguageModel, LanguageModelConfig
from multimax.suite.models.layers import FeedForward


@dataclass(frozen=True)
class Reach:
    """How far back a position attends, in tokens; the fields are those of ``LanguageModelConfig``."""

    memory_length: int
    clamp_length: int | None = None
    same_length: bool = False

    def mask(self, distance: Tensor) -> Tensor:
        """True where a key this far before the query may be attended to."""
        live = distance >= 0
        return live & (distance < self.memory_length) if self.same_length else live

    def clamp(self, distance: Tensor) -> Tensor:
        return distance if self.clamp_length is None else distance.clamp(max=self.clamp_length)


class TransformerXL(LanguageModel):
    """Transformer-XL with its two sites for a reweighting.

    ``train_reach`` applies in training mode and ``eval_reach`` in evaluation mode. Memory is
    [depth, batch, length, dim]: the input of each layer at the last ``memory_length`` positions, without gradients.
    """

    def __init__(
        self,
        config: LanguageModelConfig,
        attention: Site,
        output: Site,
        num_tokens: int,
        fingerprint: Tensor | None = None,
    ):
        embedding = AdaptiveEmbedding(num_tokens, config.dim, config.cutoffs, config.div_val)
        super().__init__(embedding, output, fingerprint)
        self.dim, self.depth = config.dim, config.depth
        memory_length = config.memory_length or 0
        self.train_reach = Reach(memory_length, config.clamp_length, config.same_length)
        self.eval_reach = Reach(
            memory_length if config.eval_memory_length is None else config.eval_memory_length,
            config.eval_clamp_length,
            config.eval_same_length,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.content_bias = nn.Parameter(torch.empty(config.num_heads, config.dim // config.num_heads))
        self.position_bias = nn.Parameter(torch.empty_like(self.content_bias))
        self.blocks = nn.ModuleList([Block(config, attention) for _ in range(config.depth)])
        self.reset_parameters()

    def reset_parameters(self, std: float = 0.02) -> None:
        self.embedding.reset_parameters(std)
        nn.init.normal_(self.content_bias, std=std)
        nn.init.normal_(self.position_bias, std=std)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                nn.init.normal_(module.weight, 1.0, std)

    def no_weight_decay(self) -> set[str]:
        """Names of the biases that are not one-dimensional."""
        return {"content_bias", "position_bias"}

    def start_memory(self, batch_size: int) -> Tensor:
        return self.content_bias.new_zeros(self.depth, batch_size, 0, self.dim)

    def encode(self, tokens: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        reach = self.train_reach if self.training else self.eval_reach
        memory = self.start_memory(len(tokens)) if memory is None else memory
        length, past = tokens.shape[1], memory.shape[2]
        # Column c of the relative scores is distance keys - 1 - c: in the order of the last query's keys.
        distances = torch.arange(past + length - 1, -1, -1, device=tokens.device)
        keys = distances.flip(0)
        mask = reach.mask(keys[past:, None] - keys)
        positions = self.dropout(sinusoids(reach.clamp(distances), self.dim).to(memory.dtype))
        x = self.dropout(self.embedding(tokens) * self.dim**0.5)
        inputs = []
        for block, before in zip(self.blocks, memory, strict=True):
            inputs.append(x)
            x = block(x, before, positions, mask, self.content_bias, self.position_bias)
        seen = torch.cat([memory, torch.stack(inputs).detach()], dim=2)
        kept = min(reach.memory_length, past + length)
        return self.dropout(x), seen[:, :, past + length - kept :].contiguous()


class Block(nn.Module):
    """Relative attention and feed-forward, each followed by dropout, a residual and a norm."""

    def __init__(self, config: LanguageModelConfig, site: Site):
        super().__init__()
        self.attention = RelativeAttention(config.dim, config.num_heads, site, config.attention_dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.attention_norm = nn.LayerNorm(config.dim)
        self.feed_forward = FeedForward(config.dim, config.ffn_dim, config.dropout, inner_dropout=config.dropout)
        self.feed_forward_norm = nn.LayerNorm(config.dim)

    def forward(
        self, x: Tensor, before: Tensor, positions: Tensor, mask: Tensor, content_bias: Tensor, position_bias: Tensor
    ) -> Tensor:
        attended = self.attention(x, before, positions, mask, content_bias, position_bias)
        x = self.attention_norm(x + self.dropout(attended))
        return self.feed_forward_norm(x + self.feed_forward(x))


class RelativeAttention(nn.Module):
    """Multi-head attention whose scores depend on the distance between query and key."""

    def __init__(self, dim: int, num_heads: int, site: Site, dropout: float):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.position = nn.Linear(dim, dim, bias=False)
        self.projection = nn.Linear(dim, dim, bias=False)
        self.reweight = create_site(site, num_heads)

    def forward(
        self, x: Tensor, before: Tensor, positions: Tensor, mask: Tensor, content_bias: Tensor, position_bias: Tensor
    ) -> Tensor:
        """Attention output [batch, queries, dim].

        x [batch, queries, dim]; before [batch, past, dim], what precedes x; positions [past + queries, dim], by
        decreasing distance; mask bool [queries, past + queries]; both biases [heads, head_dim].
        """
        query = self.split_heads(self.query(x))
        key, value = (self.split_heads(part) for part in self.key_value(torch.cat([before, x], 1)).chunk(2, -1))
        relative = self.split_heads(self.position(positions))  # [heads, past + queries, head_dim]
        scale = query.shape[-1] ** -0.5
        by_distance = (query + position_bias[:, None]) * scale @ relative.transpose(-2, -1)
        attended = attention(
            query + content_bias[:, None],
            key,
            value,
            self.reweight,
            mask,
            bias=align_distances(by_distance),
            scale=scale,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.projection(attended.transpose(-3, -2).flatten(-2))

    def split_heads(self, x: Tensor) -> Tensor:
        """[..., length, dim] to [..., heads, length, head_dim]."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)


def align_distances(scores: Tensor) -> Tensor:
    """From columns by decreasing distance to columns by key: row i [..., queries, keys] moves left by queries - 1 - i.

    With one more column, each row of the flat array starts one later, which makes the move. What comes in from the
    right belongs to keys after the query.
    """
    *leading, queries, keys = scores.shape
    padded = nn.functional.pad(scores, (1, 0)).reshape(*leading, keys + 1, queries)
    return padded[..., 1:, :].reshape(*leading, queries, keys)


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Sines [n, dim / 2], then cosines, of positions [n] at wavelengths from 2 pi to 10000 * 2 pi; float32."""
    frequencies = 10000.0 ** (-torch.arange(0, dim, 2, device=positions.device) / dim)
    angles = positions[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)
