"""The transformer language model of fairseq's ``transformer_lm``, with any reweighting in attention and on its logits.

A decoder of pre-norm layers (Vaswani et al. 2017, 1706.03762) with sinusoidal positions and an output tied to the
embedding, in the form that MultiMax's authors train on WikiText-103, without an adaptive softmax. Checked against
fairseq's ``TransformerLanguageModel`` (github.com/facebookresearch/fairseq, 0.12) and torch's ``TransformerEncoder``.
"""

import torch
from torch import Tensor, nn

from multimax.attention import attention
from multimax.integrations.sites import Site, create_site
from multimax.suite.errors import UserError
from multimax.suite.models.adaptive import AdaptiveEmbedding
from multimax.suite.models.language_model import LanguageModel, LanguageModelConfig
from multimax.suite.models.layers import FIRST_POSITION, FeedForward, reset_attention, sinusoids


class TransformerLM(LanguageModel):
    """A causal transformer over at most ``segment_length`` tokens.

    Memory is a cache of keys and values, [depth, 2, batch, heads, length, head_dim]. Given None, no memory is made;
    pass ``start_memory`` to begin one.
    """

    max_length: int
    positions: Tensor

    def __init__(
        self,
        config: LanguageModelConfig,
        attention: Site,
        output: Site,
        num_tokens: int,
        fingerprint: Tensor | None = None,
    ):
        super().__init__(AdaptiveEmbedding(num_tokens, config.dim, bias=False), output, fingerprint)
        self.dim, self.num_heads, self.max_length = config.dim, config.num_heads, config.segment_length
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList([Block(config, attention) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(config.dim)
        positions = torch.arange(FIRST_POSITION, FIRST_POSITION + config.segment_length)
        self.register_buffer("positions", sinusoids(positions, config.dim), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fairseq's initial values; feed-forward layers and biases keep torch's, as they do there."""
        self.embedding.reset_parameters(self.dim**-0.5)
        for block in self.blocks:
            assert isinstance(block, Block)
            reset_attention(block.query_key_value.weight.chunk(3), block.projection)

    def start_memory(self, batch_size: int) -> Tensor:
        return self.norm.weight.new_zeros(
            len(self.blocks), 2, batch_size, self.num_heads, 0, self.dim // self.num_heads
        )

    def encode(self, tokens: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        length = tokens.shape[1]
        past = 0 if memory is None else memory.shape[-2]
        if past + length > self.max_length:
            raise UserError(
                f"a sequence of {past + length} tokens is longer than the model, which takes "
                f"{self.max_length} (model.segment_length): shorten it, or take model=transformer_xl"
            )
        x = self.dropout(self.embedding(tokens) * self.dim**0.5 + self.positions[past : past + length])
        mask = None  # causal attention without a past has special kernels
        if past:
            mask = torch.ones(length, past + length, dtype=torch.bool, device=tokens.device).tril(past)
        caches = []
        for i, block in enumerate(self.blocks):
            x, cache = block(x, None if memory is None else memory[i], mask)
            caches.append(cache)
        return self.norm(x), None if memory is None else torch.stack(caches)


class Block(nn.Module):
    """Attention and feed-forward, each after a norm, with dropout and a residual."""

    def __init__(self, config: LanguageModelConfig, site: Site):
        super().__init__()
        self.num_heads, self.attention_dropout = config.num_heads, config.attention_dropout
        self.attention_norm = nn.LayerNorm(config.dim)
        self.query_key_value = nn.Linear(config.dim, 3 * config.dim)
        self.projection = nn.Linear(config.dim, config.dim)
        self.reweight = create_site(site, config.num_heads)
        self.dropout = nn.Dropout(config.dropout)
        self.feed_forward_norm = nn.LayerNorm(config.dim)
        self.feed_forward = FeedForward(config.dim, config.ffn_dim, config.dropout)

    def forward(self, x: Tensor, cache: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Output [batch, queries, dim] and the cache with the keys and values of x [batch, queries, dim] appended.

        Without a mask, each query attends to the keys up to its own.
        """
        features = self.query_key_value(self.attention_norm(x)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = features.permute(2, 0, 3, 1, 4)  # each [batch, heads, queries, head_dim]
        if cache is not None:
            cache = torch.cat([cache, torch.stack([key, value]).to(cache.dtype)], -2)
            key, value = cache.to(key.dtype)
        dropout = self.attention_dropout if self.training else 0.0
        attended = attention(query, key, value, self.reweight, mask, causal=mask is None, dropout=dropout)
        x = x + self.dropout(self.projection(attended.transpose(1, 2).flatten(-2)))
        return x + self.feed_forward(self.feed_forward_norm(x)), cache
