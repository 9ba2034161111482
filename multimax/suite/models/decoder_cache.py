"""Keys and values of a search's hypotheses, which stay in place when other hypotheses are chosen.

A sentence's hypotheses are the queries of one attention over all their keys, [batch, heads, beam, dim] to
[batch, heads, positions * beam, dim], and a mask says which slots hold a hypothesis's own past. When other hypotheses
are chosen, only the mask changes. The source's keys are held once per sentence, whatever the beam.
"""

import torch
from torch import Tensor

POSITIONS = 16  # initial room, doubled as needed


class DecoderCache:
    """What a decoder keeps between steps, for ``beam`` hypotheses of each sentence.

    Attributes:
        source: keys and values of the source, [depth, 2, batch, heads, source length, head_dim].
        source_mask: bool [batch, 1, 1, source length], True at a token.
        visible: bool [batch, 1, beam, length * beam], True at a hypothesis's own past.
        length: number of positions it holds.
    """

    def __init__(self, source: Tensor, source_mask: Tensor, beam: int):
        depth, _, batch, heads, _, head_dim = source.shape
        self.source, self.source_mask, self.beam = source, source_mask[:, None, None].clone(), beam
        self.target = source.new_empty(depth, 2, batch, heads, POSITIONS * beam, head_dim)
        self.visible = source_mask.new_empty(batch, 1, beam, 0)
        self.length = 0

    def advance(self) -> Tensor:
        """Begin the next position and return ``visible`` including it."""
        batch, _, beam, used = self.visible.shape
        own = torch.eye(beam, dtype=torch.bool, device=self.visible.device).expand(batch, 1, -1, -1)
        self.visible = torch.cat([self.visible, own], -1)
        self.length += 1
        if used == self.target.shape[-2]:
            self.target = torch.cat([self.target, torch.empty_like(self.target)], -2)
        return self.visible

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, including the newest position's, [batch, heads, beam, head_dim]."""
        used = self.length * self.beam
        self.target[layer, 0, ..., used - self.beam : used, :] = keys
        self.target[layer, 1, ..., used - self.beam : used, :] = values
        return self.target[layer, 0, ..., :used, :], self.target[layer, 1, ..., :used, :]

    def reorder(self, parents: Tensor) -> None:
        """Make hypothesis j of each sentence continue the previous ``parents[:, j]``, int64 [batch, beam]."""
        rows = parents[:, None, :, None].expand_as(self.visible)
        self.visible = self.visible.gather(2, rows)

    def keep(self, sentences: list[int]) -> None:
        """Keep only ``sentences``, in this order; only those whose place changes are moved."""
        places = [place for place, sentence in enumerate(sentences) if place != sentence]
        if places:
            moved, used = [sentences[place] for place in places], self.length * self.beam
            self.source[:, :, places] = self.source[:, :, moved]
            self.target[:, :, places, :, :used] = self.target[:, :, moved, :, :used]
            self.source_mask[places], self.visible[places] = self.source_mask[moved], self.visible[moved]
        left = len(sentences)
        self.source, self.target = self.source[:, :, :left], self.target[:, :, :left]
        self.source_mask, self.visible = self.source_mask[:left], self.visible[:left]
