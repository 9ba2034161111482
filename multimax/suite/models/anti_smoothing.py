"""Methods against over-smoothing in vision transformers, to compare MultiMax with.

AttnScale and FeatScale: Wang et al., "Anti-Oversmoothing in Deep Vision Transformers via the Fourier Domain Analysis:
From Theory to Practice", ICLR 2022, 2203.05962 (github.com/VITA-Group/ViT-Anti-Oversmoothing). Both start as the
identity. Patch Diversification: Gong et al., "Vision Transformers with Patch Diversification", 2021, 2104.12753
(github.com/ChengyueGongR/PatchVisionTransformer), three losses in addition to the classifier's.
"""

from collections.abc import Sequence

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

LOSSES = ("cosine", "contrastive", "mixing")


class AttnScale(nn.Module):
    """Scale attention's deviation from averaging: A becomes 11^T / n + (1 + omega) (A - 11^T / n), omega per head."""

    def __init__(self, num_heads: int):
        super().__init__()
        self.omega = nn.Parameter(torch.zeros(num_heads))

    def forward(self, attended: Tensor, value: Tensor) -> Tensor:
        """The output of the scaled weights, for ``attended`` = A @ ``value``, both [batch, heads, n, dim]."""
        omega = self.omega.to(attended.dtype)[:, None, None]
        return attended + omega * (attended - value.mean(-2, keepdim=True))


class FeatScale(nn.Module):
    """Scale the mean over tokens by 1 + s and deviations from it by 1 + t, channel by channel."""

    def __init__(self, dim: int):
        super().__init__()
        self.s = nn.Parameter(torch.zeros(dim))
        self.t = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """x [batch, n, dim], the output of an attention after its projection."""
        direct = x.mean(-2, keepdim=True)
        return x + self.s.to(x.dtype) * direct + self.t.to(x.dtype) * (x - direct)


def cosine_loss(last: Tensor) -> Tensor:
    """Mean absolute cosine over pairs of different patches of ``last`` [batch, n, dim]: [batch]."""
    directions = F.normalize(last.float(), dim=-1)
    cosines = (directions @ directions.transpose(-2, -1)).abs()
    n = last.shape[-2]
    return (cosines.sum((-2, -1)) - cosines.diagonal(dim1=-2, dim2=-1).sum(-1)) / (n * (n - 1))


def contrastive_loss(first: Tensor, last: Tensor) -> Tensor:
    """Cross-entropy of telling, by a patch's first state, its own last state from the others' mean: [batch].

    Both [batch, n, dim]; no gradient goes through ``first``.
    """
    first, last = first.detach().float(), last.float()
    others = (last.sum(-2, keepdim=True) - last) / (last.shape[-2] - 1)
    return F.softplus((first * (others - last)).sum(-1)).mean(-1)


def random_box(generator: torch.Generator) -> Tensor:
    """Top, left, bottom and right, as fractions of the image, of a box drawn as in CutMix (Yun et al. 2019,
    1905.04899).

    Its share of the area is uniform in [0, 1], its centre is uniform, and what lies outside the image is cut off.
    """
    share, centre = torch.rand(3, generator=generator).split([1, 2])
    half = share.sqrt() / 2
    return torch.cat([centre - half, centre + half]).clamp(0, 1)


def patches_outside(box: Tensor, side: int) -> Tensor:
    """bool [side * side], row by row: which patches of a grid have their centres outside a ``random_box``."""
    centres = (torch.arange(side, device=box.device) + 0.5) / side
    rows, columns = ((box[i] <= centres) & (centres < box[i + 2]) for i in (0, 1))
    return ~(rows[:, None] & columns).flatten()


def mix_patches(images: Tensor, keeps: Tensor) -> Tensor:
    """Images [batch, channels, size, size] with the patches not in ``keeps`` taken from the mirrored batch.

    ``keeps`` is bool [side * side] for a grid of square patches.
    """
    side = round(len(keeps) ** 0.5)
    patch = images.shape[-1] // side
    pixels = keeps.view(side, side).repeat_interleave(patch, 0).repeat_interleave(patch, 1)
    return images.where(pixels, images.flip(0))


class PatchDiversification(nn.Module):
    """The chosen ``LOSSES``, each with weight one, summed over a batch.

    ``mixing`` classifies every patch of mixed images with its own linear head, which is only used in training.
    """

    def __init__(self, losses: Sequence[str], dim: int, num_classes: int):
        super().__init__()
        self.losses = tuple(losses)
        self.head: nn.Linear | None = None
        if "mixing" in losses:
            self.head = nn.Linear(dim, num_classes)
            trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def forward(
        self, first: Tensor, last: Tensor, targets: Tensor, keeps: Tensor | None, label_smoothing: float
    ) -> Tensor:
        """Summed loss of patches [batch, n, dim] after the first layer, and after the last layer and its norm.

        targets float [batch, classes], of the images before mixing; keeps bool [n], as given to ``mix_patches``.
        """
        total = last.new_zeros((), dtype=torch.float32)
        if "cosine" in self.losses:
            total = total + cosine_loss(last).sum()
        if "contrastive" in self.losses:
            total = total + contrastive_loss(first, last).sum()
        if self.head is not None:
            assert keeps is not None
            of_patches = torch.where(keeps[:, None], targets[:, None], targets.flip(0)[:, None])
            scores = self.head(last).float()
            summed = F.cross_entropy(
                scores.flatten(0, 1), of_patches.flatten(0, 1), label_smoothing=label_smoothing, reduction="sum"
            )
            total = total + summed / len(keeps)
        return total
