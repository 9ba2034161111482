"""Batches of sentence pairs of similar length, limited by tokens; a step depends only on the seed and its number.

As in fairseq (Ott et al., 1904.01038), a batch may have at most ``max_tokens`` tokens, counted as its rows times its
longest side, and its pairs are neighbours in the order of lengths.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from multimax.suite.data.bitext import Pairs
from multimax.suite.data.dictionary import EOS, PAD
from multimax.suite.data.left_out import LeftOut
from multimax.suite.data.loading import EpochOrder, Stream, random_seeds
from multimax.suite.data.segments import IGNORED
from multimax.suite.errors import UserError

ROWS = 8  # larger batches have a multiple of this many rows, which suits GPUs


class TranslationBatch(NamedTuple):
    """Sentence pairs, padded on the right."""

    source: Tensor  # int64 [rows, S], the sentence, which ends with EOS, then PAD
    source_mask: Tensor  # bool [rows, S], True for the sentence
    target: Tensor  # int64 [rows, T], the decoder's input: EOS and the sentence without its end, then PAD
    targets: Tensor  # int64 [rows, T], the sentence with its end, then IGNORED
    indices: Tensor  # int64 [rows], of the pairs

    def to(self, device: torch.device) -> "TranslationBatch":
        return TranslationBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


class TokenBatches:
    """Training batches, formed once per seed and in a new order each epoch.

    Pairs that do not fit into ``max_tokens`` by themselves are left out and counted in ``left_out``.

    Args:
        pairs: the training data.
        max_tokens: most tokens in a global batch, counted as rows times its longest side.
        seed: not negative; determines which pairs of equal lengths meet, and the order of the batches.

    Raises:
        UserError: no pair fits.
    """

    def __init__(self, pairs: Pairs, max_tokens: int, seed: int) -> None:
        self.pairs = pairs
        longest = np.maximum(pairs.sources.lengths, pairs.targets.lengths)
        order = np.random.default_rng(random_seeds(Stream.PLACE, seed, 0, count=4)).permutation(len(pairs))
        order = order[longest[order] <= max_tokens]
        reason = f"longer than training.batch_size={max_tokens} tokens"
        self.left_out = LeftOut("prepared training pairs", len(pairs), {reason: len(pairs) - len(order)})
        if not len(order):
            shortest = f"the shortest of {len(pairs)} pairs has {longest.min()}" if len(pairs) else "there is no pair"
            raise UserError(f"a batch of {max_tokens} tokens holds no sentence pair: {shortest}")
        order = order[np.lexsort((pairs.targets.lengths[order], pairs.sources.lengths[order]))]
        self.batches = cut_by_tokens(order, longest, max_tokens)
        self.steps_per_epoch = len(self.batches)
        self.order = EpochOrder(self.steps_per_epoch, 1, seed)

    def batch(self, step: int) -> np.ndarray:
        """Indices of the pairs of global batch ``step``, counted from the start of training."""
        return self.batches[self.order.batch(step)[0]]

    def train_batches(
        self, start_step: int, *, rank: int = 0, world: int = 1, micro_batches: int = 1
    ) -> Iterator[list[TranslationBatch]]:
        """This process's micro-batches of step ``start_step`` and every later step, without end.

        Part i of n takes rows i, i + n, ..., so that all parts have similar lengths. If a batch has fewer rows than
        parts, a part without rows gets the batch's first pair with nothing to score: its targets are IGNORED.
        """
        parts = range(rank * micro_batches, (rank + 1) * micro_batches)
        for step in itertools.count(start_step):
            indices = self.batch(step)
            yield [
                collate(self.pairs, part) if len(part) else unscored(collate(self.pairs, indices[:1]))
                for part in (indices[part :: world * micro_batches] for part in parts)
            ]


def eval_batches(pairs: Pairs, max_tokens: int, *, rank: int = 0, world: int = 1) -> Iterator[TranslationBatch]:
    """Batches in which each pair, however long, occurs exactly once over all processes; the longest come first.

    Processes may get different numbers of batches, so sum over processes after the last one, not in between.
    """
    longest = np.maximum(pairs.sources.lengths, pairs.targets.lengths)
    order = np.lexsort((pairs.targets.lengths, pairs.sources.lengths))
    for indices in cut_by_tokens(order, longest, max_tokens)[::-1][rank::world]:
        yield collate(pairs, indices)


def cut_by_tokens(order: np.ndarray, longest: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """``order`` cut into batches of at most ``max_tokens``; a longer sentence gets its own batch.

    Args:
        order: int [pairs], indices of pairs.
        longest: int, the length of each pair's longer side.
    """
    batches, lengths = [], longest[order].tolist()
    start = 0
    while start < len(order):
        side, stop = 0, start
        while stop < len(order) and max(side, lengths[stop]) * (stop + 1 - start) <= max_tokens:
            side = max(side, lengths[stop])
            stop += 1
        rows = max(stop - start, 1)
        if rows > ROWS and stop < len(order):
            rows -= rows % ROWS
        batches.append(order[start : start + rows])
        start += rows
    return batches


def collate(pairs: Pairs, indices: Sequence[int] | np.ndarray) -> TranslationBatch:
    """The pairs of ``indices``, of which there is at least one."""
    rows = len(indices)
    source = np.full((rows, int(pairs.sources.lengths[indices].max())), PAD, dtype=np.int64)
    targets = np.full((rows, int(pairs.targets.lengths[indices].max())), IGNORED, dtype=np.int64)
    target = np.full_like(targets, PAD)
    target[:, 0] = EOS
    for row, index in enumerate(indices):
        ids = pairs.sources[index]
        source[row, : len(ids)] = ids
        ids = pairs.targets[index]
        targets[row, : len(ids)] = ids
        target[row, 1 : len(ids)] = ids[:-1]
    tensor = torch.from_numpy
    return TranslationBatch(
        tensor(source), tensor(source != PAD), tensor(target), tensor(targets), torch.as_tensor(np.asarray(indices))
    )


def unscored(batch: TranslationBatch) -> TranslationBatch:
    return batch._replace(targets=torch.full_like(batch.targets, IGNORED))
