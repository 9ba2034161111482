"""A model of one's own: self-attention over the rows of a picture, and the mean of what it gives."""

from typing import Any

import torch
from torch import Tensor, nn

from multimax.attention import attention as attend
from multimax.integrations.sites import create_site


class Pooled(nn.Module):
    """Scores [batch, num_classes] of images [batch, in_chans, image_size, image_size]."""

    def __init__(
        self, attention: dict[str, Any], image_size: int, in_chans: int, num_classes: int, dim: int, num_heads: int = 4
    ):
        super().__init__()
        self.num_heads = num_heads
        self.embed = nn.Linear(in_chans * image_size, dim)
        self.position = nn.Parameter(0.5 * torch.randn(image_size, dim))
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.reweight = create_site(attention, num_heads)  # what reweight= names
        self.inside = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.head = nn.Linear(dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        rows = self.embed(images.transpose(1, 2).flatten(2)) + self.position
        features = self.query_key_value(rows).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = features.permute(2, 0, 3, 1, 4)
        rows = rows + attend(query, key, value, self.reweight).transpose(1, 2).flatten(2)
        return self.head((rows + self.inside(rows)).mean(1))
