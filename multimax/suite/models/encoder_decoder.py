"""The encoder-decoder transformer of fairseq's ``transformer_iwslt_de_en``, with any reweighting at its four sites.

Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv 1706.03762, in the form and with the initial values of
``TransformerModel`` of fairseq 0.12 (github.com/facebookresearch/fairseq). Token ids are those of fairseq's
dictionaries, rows are padded on the right, and a target begins with the token that ends one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multimax.attention import attention
from multimax.integrations.sites import Site, create_site
from multimax.output_layer import linear_loss
from multimax.reweight import Reweighting, Softmax
from multimax.suite.errors import UserError
from multimax.suite.models.decoder_cache import DecoderCache
from multimax.suite.models.layers import FIRST_POSITION, FeedForward, VocabularyModel, reset_attention, sinusoids
from multimax.suite.options import bounded, choice

PAD, END = 1, 2  # in fairseq's dictionaries; END also begins the decoder's input
SOFTMAX = Softmax()
Append = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass
class EncoderDecoderConfig:
    """An encoder-decoder transformer; the defaults are fairseq's ``transformer_iwslt_de_en`` and its recipe's dropout.

    ``as_released`` decodes with a different model than the trained one, like the fairseq port released by MultiMax's
    authors: their modulation acts in the encoder and in the decoder's training, but neither in cross-attention nor in
    incremental decoding. With it, cross-attention is softmax, and so is the decoder's self-attention wherever it has a
    cache. The output stays as it is. This option exists to measure what that costs.
    """

    encoder_depth: int = bounded(1, default=6, limit=10_000)
    decoder_depth: int = bounded(1, default=6, limit=10_000)
    dim: int = bounded(4, default=512, limit=2**20)  # sines and cosines, at least two wavelengths
    num_heads: int = bounded(1, default=4, limit=2**20)
    ffn_dim: int = bounded(1, default=1024, limit=2**20)
    dropout: float = bounded(0, 1, default=0.3)
    attention_dropout: float = bounded(0, 1, default=0.0)
    activation_dropout: float = bounded(0, 1, default=0.0)
    pre_norm: bool = False  # norms before each sublayer and at the end, instead of after each residual
    # decoder: its input and output; all: also the encoder's, for a joined vocabulary.
    share_embeddings: str = choice("decoder", "all", default="decoder")
    max_length: int = bounded(1, default=1024, limit=2**20)  # tokens in the longest source or target
    as_released: bool = False


@dataclass(frozen=True)
class AttentionSites:
    """The reweighting of each kind of attention; cross-attention is the decoder's, to the encoder's output."""

    encoder: Site
    decoder: Site
    cross: Site


class EncoderDecoder(VocabularyModel):
    """Encoder, decoder, scores tied to the target embedding, and the reweighting that turns them into probabilities.

    Masks are bool, True at a token. ``fingerprint`` (int64 tensor) identifies both vocabularies.

    Raises:
        UserError: one embedding for vocabularies of different sizes.
    """

    of_classes = ("source_embedding.", "target_embedding.")
    positions: Tensor

    def __init__(
        self,
        config: EncoderDecoderConfig,
        attention: AttentionSites,
        output: Site,
        source_tokens: int,
        target_tokens: int,
        fingerprint: Tensor | None = None,
    ):
        super().__init__(fingerprint)
        joined = config.share_embeddings == "all"
        if joined and source_tokens != target_tokens:
            raise UserError(
                f"model.share_embeddings=all needs one vocabulary, but there are {source_tokens} source and "
                f"{target_tokens} target tokens: prepare the data with a joined one, or take share_embeddings=decoder"
            )
        self.dim, self.max_length = config.dim, config.max_length
        self.source_embedding = None if joined else nn.Embedding(source_tokens, config.dim, PAD)
        self.target_embedding = nn.Embedding(target_tokens, config.dim, PAD)
        self.dropout = nn.Dropout(config.dropout)
        positions = torch.arange(FIRST_POSITION, FIRST_POSITION + config.max_length)
        self.register_buffer("positions", sinusoids(positions, config.dim), persistent=False)
        self.encoder = nn.ModuleList([EncoderLayer(config, attention.encoder) for _ in range(config.encoder_depth)])
        self.encoder_norm = nn.LayerNorm(config.dim) if config.pre_norm else nn.Identity()
        self.decoder: Any = nn.ModuleList([DecoderLayer(config, attention) for _ in range(config.decoder_depth)])
        self.decoder_norm = nn.LayerNorm(config.dim) if config.pre_norm else nn.Identity()
        self.output = create_site(output)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=self.dim**-0.5)
                with torch.no_grad():
                    module.weight[PAD] = 0
            elif isinstance(module, Attention):
                reset_attention(module.input_matrices(), module.projection)

    def layers(self) -> list[nn.Module]:
        return [*self.encoder, *self.decoder]

    def encode(self, source: Tensor, source_mask: Tensor) -> Tensor:
        """Encoder output [batch, length, dim] of source int64 [batch, length]."""
        x = self.embed(source, self.source_embedding or self.target_embedding)
        for layer in self.encoder:
            x = layer(x, source_mask[:, None, None])
        return self.encoder_norm(x)

    def decode(self, target: Tensor, encoded: Tensor, source_mask: Tensor) -> Tensor:
        """Hidden states [batch, length, dim] of target int64 [batch, length], each from the tokens up to its own."""
        x = self.embed(target, self.target_embedding)
        for layer in self.decoder:
            x = layer(x, None, None, *layer.keys_values(encoded), source_mask[:, None, None])
        return self.decoder_norm(x)

    def step(self, tokens: Tensor, cache: DecoderCache) -> Tensor:
        """Hidden states [batch, beam, dim] of the newest tokens int64 [batch, beam], which are added to ``cache``."""
        x = self.embed(tokens, self.target_embedding, cache.length)
        mask = cache.advance()
        for i, layer in enumerate(self.decoder):
            x = layer(x, mask, partial(cache.append, i), *cache.source[i], cache.source_mask)
        return self.decoder_norm(x)

    def start_cache(self, encoded: Tensor, source_mask: Tensor, beam: int) -> DecoderCache:
        """An empty cache for ``beam`` hypotheses of each sentence with encoder output ``encoded``."""
        layers = [torch.stack(layer.keys_values(encoded)) for layer in self.decoder]
        return DecoderCache(torch.stack(layers), source_mask, beam)

    def forward(
        self, source: Tensor, source_mask: Tensor, target: Tensor, targets: Tensor, label_smoothing: float = 0.0
    ) -> Tensor:
        """Summed training loss of ``targets`` int64 [batch, length], -100 where there is no target, after ``target``.

        With label smoothing eps and V tokens, a target has mass 1 - eps + eps / V and every other token eps / V, as in
        ``torch.nn.functional.cross_entropy``. fairseq gives the target 1 - eps and every other token eps / (V - 1): its
        loss at eps is this one at eps * V / (V - 1).
        """
        hidden = self.decode(target, self.encode(source, source_mask), source_mask)
        return linear_loss(
            self.output,
            hidden.flatten(0, 1),
            self.target_embedding.weight,
            None,
            targets.flatten(),
            label_smoothing=label_smoothing,
            reduction="sum",
        )

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores [..., target_tokens] of hidden states [..., dim], before the output's reweighting."""
        return F.linear(hidden, self.target_embedding.weight)

    def weights(self, hidden: Tensor) -> Tensor:
        """Probabilities [..., target_tokens] for hidden states [..., dim], in at least float32."""
        scores = self.scores(hidden)
        return self.output(scores.to(torch.promote_types(scores.dtype, torch.float32)))

    def embed(self, tokens: Tensor, embedding: nn.Embedding, position: int | None = None) -> Tensor:
        """Layer input of tokens [batch, length] at positions 0, 1, ..., or all at ``position``."""
        if position is None:
            self.check_length(tokens.shape[1])
            positions = self.positions[: tokens.shape[1]]
        else:
            positions = self.positions[position]
        return self.dropout(embedding(tokens) * self.dim**0.5 + positions)

    def check_length(self, length: int) -> None:
        if length > self.max_length:
            raise UserError(
                f"a sentence of {length} tokens is longer than the {self.max_length} that the model takes "
                "(model.max_length): shorten or split it"
            )


class EncoderLayer(nn.Module):
    def __init__(self, config: EncoderDecoderConfig, site: Site):
        super().__init__()
        self.attention = Residual(SelfAttention(config, site), config)
        self.feed_forward = Residual(feed_forward(config), config)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.feed_forward(self.attention(x, mask))


class DecoderLayer(nn.Module):
    def __init__(self, config: EncoderDecoderConfig, sites: AttentionSites):
        super().__init__()
        cross: Site = {"name": "softmax"} if config.as_released else sites.cross
        self.attention = Residual(SelfAttention(config, sites.decoder), config)
        self.cross_attention = Residual(CrossAttention(config, cross), config)
        self.feed_forward = Residual(feed_forward(config), config)

    def keys_values(self, encoded: Tensor) -> tuple[Tensor, ...]:
        return self.cross_attention.branch.keys_values(encoded)

    def forward(
        self, x: Tensor, mask: Tensor | None, append: Append | None, keys: Tensor, values: Tensor, source_mask: Tensor
    ) -> Tensor:
        x = self.attention(x, mask, append)
        return self.feed_forward(self.cross_attention(x, keys, values, source_mask))


class Residual(nn.Module):
    """A residual branch, with a norm after the sum or (``pre_norm``) before the branch."""

    def __init__(self, branch: nn.Module, config: EncoderDecoderConfig):
        super().__init__()
        self.branch: Any = branch
        self.norm = nn.LayerNorm(config.dim)
        self.pre_norm = config.pre_norm

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        return x + self.branch(self.norm(x), *others) if self.pre_norm else self.norm(x + self.branch(x, *others))


def feed_forward(config: EncoderDecoderConfig) -> FeedForward:
    return FeedForward(config.dim, config.ffn_dim, config.dropout, config.activation_dropout)


class Attention(nn.Module):
    """Base of the two kinds of attention: heads, reweighting, projection and dropout."""

    def __init__(self, config: EncoderDecoderConfig, site: Site):
        super().__init__()
        self.num_heads, self.attention_dropout = config.num_heads, config.attention_dropout
        self.projection = nn.Linear(config.dim, config.dim)
        self.reweight = create_site(site, config.num_heads)
        self.dropout = nn.Dropout(config.dropout)

    def input_matrices(self) -> tuple[Tensor, ...]:
        """The matrices that compute queries, keys and values, each [dim, dim]."""
        raise NotImplementedError

    def split_heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """[batch, length, parts * dim] to ``parts`` times [batch, heads, length, head_dim]."""
        return x.unflatten(-1, (parts, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, reweight: Reweighting) -> Tensor:
        dropout = self.attention_dropout if self.training else 0.0
        attended = attention(query, keys, values, reweight, mask, causal=mask is None, dropout=dropout)
        return self.dropout(self.projection(attended.transpose(1, 2).flatten(-2)))


class SelfAttention(Attention):
    """Attention of x [batch, length, dim] to itself and, with ``append``, to what was appended before.

    Without a mask, each position attends to those up to its own.
    """

    def __init__(self, config: EncoderDecoderConfig, site: Site):
        super().__init__(config, site)
        self.query_key_value = nn.Linear(config.dim, 3 * config.dim)
        self.as_released = config.as_released

    def input_matrices(self) -> tuple[Tensor, ...]:
        return self.query_key_value.weight.chunk(3)

    def forward(self, x: Tensor, mask: Tensor | None, append: Append | None = None) -> Tensor:
        query, keys, values = self.split_heads(self.query_key_value(x), 3)
        if append is not None:
            keys, values = append(keys, values)
        reweight = SOFTMAX if append is not None and self.as_released else self.reweight
        return self.attend(query, keys, values, mask, reweight)


class CrossAttention(Attention):
    """Attention of x [batch, length, dim] to keys and values that ``keys_values`` makes from the encoder's output."""

    def __init__(self, config: EncoderDecoderConfig, site: Site):
        super().__init__(config, site)
        self.query = nn.Linear(config.dim, config.dim)
        self.key_value = nn.Linear(config.dim, 2 * config.dim)

    def input_matrices(self) -> tuple[Tensor, ...]:
        return self.query.weight, *self.key_value.weight.chunk(2)

    def keys_values(self, encoded: Tensor) -> tuple[Tensor, ...]:
        return self.split_heads(self.key_value(encoded), 2)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        (query,) = self.split_heads(self.query(x), 1)
        return self.attend(query, keys, values, mask, self.reweight)
