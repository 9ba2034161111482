"""Embedding and output scores of a large vocabulary from one table, cut into clusters by word frequency.

Grave et al., "Efficient softmax approximation for GPUs", ICML 2017, arXiv 1609.04309; adaptive input: Baevski & Auli,
ICLR 2019, arXiv 1809.10853. The head is normalised over the most frequent words and one entry per tail cluster, and
each tail cluster over its own words, so that

    P(w) = P_head(w)                       for w among the most frequent,
    P(w) = P_head(cluster) P_tail(w)       for the others.

All normalisations use the output site's reweighting, with one set of parameters: P sums to one for any function. If its
loss is a negative log-likelihood, the losses sum to -log P(w). With a Fenchel-Young loss it is a sum of proper losses:
zero if and only if all of the mass is on the word.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multimax.output_layer import linear_loss
from multimax.reweight import Reweighting


class AdaptiveEmbedding(nn.Module):
    """Vectors of tokens, and the scores of tokens against a hidden state, with tied weights.

    Cluster i has vectors of size ``dim // div_val**i``, projected to ``dim``. Without ``cutoffs`` it is an ordinary
    table, and the output has one normalisation over all tokens. Token ids must be in order of decreasing frequency.

    Args:
        num_tokens: size of the vocabulary.
        dim: size of the hidden state.
        cutoffs: ascending first token ids of the tail clusters.
        div_val: factor by which vectors shrink from one cluster to the next.
        bias: whether the output scores have a bias per token.
    """

    def __init__(self, num_tokens: int, dim: int, cutoffs: Sequence[int] = (), div_val: int = 1, bias: bool = True):
        super().__init__()
        self.edges = [0, *cutoffs, num_tokens]
        tails = len(cutoffs)
        if div_val == 1:  # one table, shared by the clusters
            sizes = [(num_tokens, dim)]
        else:
            sizes = [(stop - start, dim // div_val**i) for i, (start, stop) in enumerate(pairwise(self.edges))]
        self.tables = nn.ParameterList([torch.empty(size) for size in sizes])
        self.projections = nn.ParameterList([torch.empty(narrow, dim) for _, narrow in sizes] if div_val > 1 else [])
        self.bias = nn.Parameter(torch.zeros(num_tokens)) if bias else None
        if tails:
            self.tail_vectors = nn.Parameter(torch.empty(tails, dim))
            self.tail_bias = nn.Parameter(torch.zeros(tails)) if bias else None
        # The tail entries' vectors are not projected, so with projections the head's scores come from two features.
        self.head_in_two = tails > 0 and div_val > 1
        self.cutoffs: Tensor
        self.register_buffer("cutoffs", torch.tensor(cutoffs, dtype=torch.long), persistent=False)

    def reset_parameters(self, std: float) -> None:
        """Draw tables and tail vectors from a normal distribution, projections from one half as wide."""
        for table in self.tables:
            nn.init.normal_(table, std=std)
        for projection in self.projections:
            nn.init.normal_(projection, std=std / 2)
        if len(self.cutoffs):
            nn.init.normal_(self.tail_vectors, std=std)

    def forward(self, tokens: Tensor) -> Tensor:
        """Vectors [..., dim] of tokens int64 [...]."""
        if not len(self.projections):
            return F.embedding(tokens, self.tables[0])
        cluster = torch.bucketize(tokens.contiguous(), self.cutoffs, right=True)
        vectors = self.projections[0].new_zeros(*tokens.shape, self.projections[0].shape[1])
        for i, (table, projection) in enumerate(zip(self.tables, self.projections, strict=True)):
            # Even if no token is of this cluster: every parameter takes part in every step, as DDP wants.
            here = cluster == i
            found = F.embedding(tokens[here] - self.edges[i], table) @ projection
            vectors = vectors.index_put(here.nonzero(as_tuple=True), found.to(vectors.dtype))
        return vectors

    def layers(self) -> list[tuple[Tensor, Tensor | None]]:
        """Weight [entries, narrow] and bias [entries] of each cluster's scores, the head first.

        If the head is in two, only its first part.
        """
        sizes = [stop - start for start, stop in pairwise(self.edges)]
        # One split, not a slice per cluster: a slice's gradient is as large as the whole table.
        weights = list(self.tables if len(self.projections) else self.tables[0].split(sizes))
        biases = [None] * len(sizes) if self.bias is None else list(self.bias.split(sizes))
        if len(self.cutoffs) and not self.head_in_two:
            weights[0] = torch.cat([weights[0], self.tail_vectors])
            if biases[0] is not None and self.tail_bias is not None:
                biases[0] = torch.cat([biases[0], self.tail_bias])
        return list(zip(weights, biases, strict=True))

    def features(self, cluster: int, hidden: Tensor) -> Tensor:
        """The features [N, narrow] of hidden states [N, dim] in which a cluster's scores are linear."""
        return hidden @ self.projections[cluster].T if len(self.projections) else hidden

    def scores(self, cluster: int, hidden: Tensor) -> Tensor:
        """Scores [N, entries] in float32 of hidden states [N, dim] for one cluster's entries; 0 is the head."""
        weight, bias = self.layers()[cluster]
        scores = F.linear(self.features(cluster, hidden), weight, bias)
        if cluster == 0 and self.head_in_two:
            scores = torch.cat([scores, F.linear(hidden, self.tail_vectors, self.tail_bias)], -1)
        return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores

    def routes(self, targets: Tensor) -> Iterator[tuple[int, Tensor | slice, Tensor]]:
        """The normalisations whose product is the probability of ``targets`` int64 [N]: head, then tails.

        Yields the cluster, the rows that it concerns and the targets' entries [n] in it, even if there are none: every
        parameter takes part in every step, as DDP wants.
        """
        cluster = torch.bucketize(targets, self.cutoffs, right=True)
        yield 0, slice(None), torch.where(cluster == 0, targets, self.edges[1] + cluster - 1)
        for i in range(1, len(self.cutoffs) + 1):
            rows = (cluster == i).nonzero().squeeze(-1)
            yield i, rows, targets[rows] - self.edges[i]

    def losses(
        self, hidden: Tensor, targets: Tensor, reweight: Reweighting, reduction: str
    ) -> Iterator[tuple[Tensor | slice, Tensor]]:
        """The rows and the loss, by the output function, of each normalisation, for hidden states [N, dim]."""
        layers = self.layers()
        for cluster, rows, entries in self.routes(targets):
            part = hidden[rows]
            if cluster == 0 and self.head_in_two:
                yield rows, reweight.loss(self.scores(0, part), entries, reduction=reduction)
            else:
                features = self.features(cluster, part)
                yield rows, linear_loss(reweight, features, *layers[cluster], entries, reduction=reduction)

    def weights(self, hidden: Tensor, reweight: Reweighting) -> Tensor:
        """Probabilities [N, num_tokens] of all tokens after hidden states [N, dim]."""
        head = reweight(self.scores(0, hidden))
        kept = self.edges[1]
        tails = [
            head[:, kept + i - 1, None] * reweight(self.scores(i, hidden)) for i in range(1, len(self.cutoffs) + 1)
        ]
        return torch.cat([head[:, :kept], *tails], -1)
