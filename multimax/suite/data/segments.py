"""Segments of a long token sequence: which ones a training step sees, and how evaluation covers each once.

The targets of a segment of ``length`` inputs are the tokens one position later.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from multimax.suite.data.left_out import LeftOut
from multimax.suite.data.loading import EpochOrder
from multimax.suite.errors import UserError

IGNORED = -100  # target that is not scored


class TextBatch(NamedTuple):
    """Segments of one length."""

    tokens: Tensor  # int64 [rows, length]
    targets: Tensor  # int64 [rows, length]
    first_row: int = 0  # in the global batch
    fresh: bool = True  # whether the rows start over, without the previous step's memory

    def to(self, device: torch.device) -> "TextBatch":
        return self._replace(tokens=self.tokens.to(device), targets=self.targets.to(device))


class Streams:
    """The text cut into ``batch_size`` parallel streams: each row continues where its last step ended."""

    def __init__(self, num_tokens: int, batch_size: int, length: int) -> None:
        self.stream_length, self.batch_size, self.length = (num_tokens - 1) // batch_size, batch_size, length
        self.steps_per_epoch = self.stream_length // length
        if not self.steps_per_epoch:
            raise UserError(
                f"{num_tokens} training tokens do not fill one step of training.batch_size={batch_size} segments "
                f"of model.segment_length={length}"
            )
        used = self.steps_per_epoch * batch_size * length
        reason = f"they fill no segment of model.segment_length={length} in each of {batch_size} streams"
        self.left_out = LeftOut("training tokens", num_tokens - 1, {reason: num_tokens - 1 - used})

    def starts(self, step: int) -> list[int]:
        """First token of each row."""
        column = step % self.steps_per_epoch * self.length
        return [row * self.stream_length + column for row in range(self.batch_size)]

    def fresh(self, step: int) -> bool:
        return step % self.steps_per_epoch == 0


class Blocks:
    """The text cut into blocks, in a fresh random order each epoch."""

    def __init__(self, num_tokens: int, batch_size: int, length: int, seed: int) -> None:
        if (blocks := (num_tokens - 1) // length) < batch_size:
            raise UserError(
                f"{num_tokens} training tokens do not fill one step of training.batch_size={batch_size} blocks "
                f"of model.segment_length={length}"
            )
        reason = f"they fill no block of model.segment_length={length}"
        self.left_out = LeftOut("training tokens", num_tokens - 1, {reason: num_tokens - 1 - blocks * length})
        self.order = EpochOrder(blocks, batch_size, seed)
        self.length, self.steps_per_epoch = length, self.order.steps_per_epoch

    def starts(self, step: int) -> list[int]:
        """First token of each row."""
        return [block * self.length for block in self.order.batch(step)]

    def fresh(self, step: int) -> bool:
        return True


def cut(ids: np.ndarray, starts: list[int], length: int) -> tuple[Tensor, Tensor]:
    """Tokens and targets int64 [len(starts), length]."""
    segments = np.stack([ids[start : start + length + 1] for start in starts]).astype(np.int64)
    return torch.from_numpy(segments[:, :-1]), torch.from_numpy(segments[:, 1:])


def eval_streams(ids: np.ndarray, num_streams: int, length: int, rank: int = 0, world: int = 1) -> Iterator[TextBatch]:
    """This process's part of ``num_streams`` equal streams, segment by segment; the first segment is ``fresh``.

    Together the streams score each token but the text's first once. A short text has fewer streams.
    """
    num_streams = max(1, min(num_streams, len(ids) - 1))
    bounds = [(len(ids) - 1) * i // num_streams for i in range(num_streams + 1)]
    mine = list(pairwise(bounds))[rank::world]
    longest = max((stop - start for start, stop in mine), default=0)
    for offset in range(0, longest, length):
        pieces = [(min(start + offset, stop), min(start + offset + length, stop)) for start, stop in mine]
        yield padded(ids, [(start, start, stop) for start, stop in pieces])._replace(fresh=offset == 0)


def eval_windows(
    ids: np.ndarray, window: int, context: int, batch_size: int, rank: int = 0, world: int = 1
) -> Iterator[TextBatch]:
    """Batches of overlapping windows of ``window`` tokens that score each token but the text's first once.

    Each scores its last ``window - context`` targets, so that these have at least ``context`` tokens before them; only
    the first windows, which begin with the text, have fewer.
    """
    stride, targets = window - context, len(ids) - 1
    windows = [(max(0, first - context), first, min(first + stride, targets)) for first in range(0, targets, stride)][
        rank::world
    ]
    for i in range(0, len(windows), batch_size):
        yield padded(ids, windows[i : i + batch_size])


def padded(ids: np.ndarray, windows: list[tuple[int, int, int]]) -> TextBatch:
    """One row per window (start, first scored, stop), padded on the right, where a causal model does not look."""
    length = max(stop - start for start, _, stop in windows)
    tokens = np.zeros((len(windows), length), dtype=np.int64)
    targets = np.full_like(tokens, IGNORED)
    for row, (start, first, stop) in enumerate(windows):
        tokens[row, : stop - start] = ids[start:stop]
        targets[row, first - start : stop - start] = ids[first + 1 : stop + 1]
    return TextBatch(torch.from_numpy(tokens), torch.from_numpy(targets))
