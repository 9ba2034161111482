"""Parts that several models share."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from multimax.suite.errors import UserError

# fairseq counts positions from the id of its padding token, which is 1, plus one.
FIRST_POSITION = 2


class VocabularyModel(nn.Module):
    """A model for one vocabulary or a pair, without which its weights mean nothing.

    ``fingerprint`` (int64 tensor) identifies the vocabulary; None: unknown. It is saved in checkpoints, and weights of
    another vocabulary are refused.
    """

    def __init__(self, fingerprint: Tensor | None = None):
        super().__init__()
        self.fingerprint = torch.zeros(1, dtype=torch.long) if fingerprint is None else fingerprint

    def get_extra_state(self) -> Tensor:
        return self.fingerprint

    def set_extra_state(self, state: Tensor) -> None:
        if not torch.equal(state.cpu(), self.fingerprint.cpu()):
            raise UserError(
                "these weights were trained with another vocabulary than that of data: point data.root (or "
                "data.vocabulary) at the text that the run was trained on"
            )


class FeedForward(nn.Sequential):
    """Two linear layers around a ReLU, with dropout after the ReLU (``inner_dropout``) and at the end."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float, inner_dropout: float = 0.0):
        super().__init__(
            nn.Linear(dim, hidden_dim),
            nn.ReLU(),
            nn.Dropout(inner_dropout),
            nn.Linear(hidden_dim, dim),
            nn.Dropout(dropout),
        )


def reset_attention(inputs: Iterable[Tensor], projection: nn.Linear) -> None:
    """Draw initial values as fairseq's ``MultiheadAttention`` does.

    ``inputs`` are the matrices [dim, dim] that compute queries, keys and values; their biases keep torch's values.
    """
    for matrix in inputs:
        nn.init.xavier_uniform_(matrix, gain=2**-0.5)
    nn.init.xavier_uniform_(projection.weight)
    nn.init.zeros_(projection.bias)


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Sines [n, dim / 2], then cosines, of positions [n] at wavelengths from 2 pi to 10000 * 2 pi, both included."""
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, device=positions.device) * (-math.log(10000) / (half - 1)))
    angles = positions[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)
