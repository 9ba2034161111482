"""fairseq's multi-head attention with any reweighting instead of softmax."""

import torch
from fairseq.modules import MultiheadAttention
from torch import Tensor

from multimax.attention import attention, attention_scores
from multimax.integrations.sites import Site, create_site
from multimax.reweight import Reweighting

IncrementalState = dict[str, dict[str, Tensor | None]]


class ReweightedAttention(MultiheadAttention):
    """fairseq's attention, with its projections, cache and beam reordering, whose weights are those of ``reweight``.

    Training, scoring and incremental decoding share one path here; fairseq uses torch's fused attention in one and its
    own code in the others. TorchScript, ONNX and xFormers are not supported.
    """

    reweight: Reweighting

    @staticmethod
    def install(module: MultiheadAttention, site: Site) -> None:
        """Convert ``module`` in place, so that it keeps the weights that fairseq drew."""
        module.__class__ = ReweightedAttention
        module.reweight = create_site(site, module.num_heads)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask: Tensor | None = None,
        incremental_state: IncrementalState | None = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Tensor | None = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Output [queries, batch, dim] and, if wanted, weights.

        Args:
            query: [queries, batch, dim].
            key, value: [keys, batch, dim]; ignored in incremental decoding if ``static_kv`` and cached.
            key_padding_mask: [batch, keys], nonzero where a key is padding.
            incremental_state: what fairseq passes from one decoding step to the next.
            need_weights: return the mean of the heads' weights [batch, queries, keys], at the cost of computing them
                all.
            static_kv: keys and values stay the same from step to step, as an encoder's do.
            attn_mask: [queries, keys], added to the scores by fairseq: zero where a key may be attended to.
            before_softmax: not supported.
            need_head_weights: return the weights of each head [heads, batch, queries, keys].
        """
        if before_softmax:
            raise NotImplementedError("the scores are not returned, only the weights")
        seen = {} if incremental_state is None else self._get_input_buffer(incremental_state)
        queries = self._split_heads(self.q_proj(query))
        if static_kv and "prev_key" in seen:
            keys, values, padding = seen["prev_key"], seen["prev_value"], seen["prev_key_padding_mask"]
        else:
            keys, values = self._split_heads(self.k_proj(key)), self._split_heads(self.v_proj(value))
            padding = key_padding_mask
            if "prev_key" in seen:
                keys = torch.cat([seen["prev_key"], keys], -2)
                values = torch.cat([seen["prev_value"], values], -2)
                padding = self._append_prev_key_padding_mask(
                    padding, seen["prev_key_padding_mask"], len(keys), keys.shape[-2], static_kv
                )
            if incremental_state is not None:
                state = {"prev_key": keys, "prev_value": values, "prev_key_padding_mask": padding}
                self._set_input_buffer(incremental_state, state)
        mask = None if padding is None else ~padding.bool()[:, None, None]
        if attn_mask is not None:
            allowed = attn_mask == 0
            mask = allowed if mask is None else mask & allowed
        weights = None
        if need_weights or need_head_weights:
            weights = self.reweight(attention_scores(queries, keys), mask)
            attended = self.dropout_module(weights) @ values
            weights = weights.transpose(0, 1) if need_head_weights else weights.mean(1)
        else:
            dropout = self.dropout_module.p if self.training or self.dropout_module.apply_during_inference else 0.0
            attended = attention(queries, keys, values, self.reweight, mask, dropout=dropout)
        return self.out_proj(attended.permute(2, 0, 1, 3).flatten(-2)), weights

    def _split_heads(self, features: Tensor) -> Tensor:
        """[batch, heads, length, head_dim] of features [length, batch, dim]."""
        return features.unflatten(-1, (self.num_heads, self.head_dim)).permute(1, 2, 0, 3)
