"""Shears and translations, which move an image's rows or columns: timm's operations, much faster.

Pillow transforms each pixel separately, with 4x4 neighbours for bicubic interpolation. When a whole row moves, two or
four neighbours are enough, and the weights are the same for all pixels.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment
from torch import Tensor

WEIGHTS: dict[int, Callable[[Tensor], list[Tensor]]] = {
    Image.Resampling.BILINEAR: lambda t: [1 - t, t],
    Image.Resampling.BICUBIC: lambda t: [-t + 2 * t**2 - t**3, 1 - 2 * t**2 + t**3, t + t**2 - t**3, -(t**2) + t**3],
}
"""Weights of neighbouring pixels, at a fraction t of the way between the middle two. Pillow's bicubic has a = -1."""


def move_rows(image: Image.Image, shifts: Tensor, resample: int, fill: tuple[int, ...]) -> Image.Image:
    """Pillow's affine transform of an RGB image in which each row moves by itself.

    ``shifts`` is float64 [height]: how many pixels further along each row is read. ``fill`` comes in from outside.
    """
    width, height = image.size
    whole = shifts.floor()
    weights = WEIGHTS[resample]((shifts - whole).float())
    first = 1 - len(weights) // 2
    places = torch.arange(first, first + width + len(weights) - 1) + whole.long()[:, None]
    packed = torch.frombuffer(bytearray(image.tobytes("raw", "RGBX")), dtype=torch.int32).view(height, width)
    neighbours = packed.gather(1, places.clamp_(0, width - 1)).view(torch.uint8).view(height, -1, 4).float()
    sums = torch.zeros(height, width, 4)
    for i, weight in enumerate(weights):
        sums.addcmul_(neighbours[:, i : i + width], weight[:, None, None])
    pixels = sums.clamp_(0, 255).numpy().astype(np.uint8).view(np.int32)[..., 0]
    columns, first_inside = torch.arange(width), (-0.5 - shifts).ceil().long()[:, None]
    outside = (columns < first_inside) | (columns >= first_inside + width)
    pixels[outside.numpy()] = np.array([*fill, 0], np.uint8).view(np.int32)
    return Image.frombytes("RGB", image.size, pixels.tobytes(), "raw", "RGBX")


def shear(image: Image.Image, factor: float) -> Tensor:
    return torch.arange(0.5, image.height, dtype=torch.float64) * factor


def translate(image: Image.Image, pixels: float) -> Tensor:
    return torch.full((image.height,), pixels, dtype=torch.float64)


def translate_rel(image: Image.Image, share: float) -> Tensor:
    return translate(image, share * image.width)


@dataclass(frozen=True)
class Move:
    """timm's operation, by ``move_rows`` where possible; it draws the interpolation as timm does."""

    name: str
    original: Callable[..., Image.Image]
    shifts: Callable[[Image.Image, float], Tensor]

    def __call__(self, image: Image.Image, amount: float, fillcolor: tuple[int, ...], resample: int) -> Image.Image:
        if isinstance(resample, list | tuple):
            resample = random.choice(resample)
        if image.mode != "RGB" or resample not in WEIGHTS:
            return self.original(image, amount, fillcolor=fillcolor, resample=resample)
        if "X" in self.name:
            return move_rows(image, self.shifts(image, amount), resample, fillcolor)
        image = image.transpose(Image.Transpose.TRANSPOSE)
        moved = move_rows(image, self.shifts(image, amount), resample, fillcolor)
        return moved.transpose(Image.Transpose.TRANSPOSE)


TIMMS: dict[str, Any] = dict(auto_augment.NAME_TO_OP)
SHIFTS = {"Shear{}": shear, "Translate{}": translate, "Translate{}Rel": translate_rel}
OPERATIONS: dict[str, Any] = {
    name: Move(name, TIMMS[name], shifts)
    for kind, shifts in SHIFTS.items()
    for name in (kind.format("X"), kind.format("Y"))
}
