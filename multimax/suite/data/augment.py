"""Augmentation by timm: what happens to one image, and mixup and cutmix of a batch.

The recipe is DeiT's (Touvron et al., "Training data-efficient image transformers", 2012.12877, table 9).
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import Image, ImageOps
from timm.data import Mixup, auto_augment, create_transform
from torch import Tensor
from torchvision import transforms

from multimax.suite.data.images import ImageData
from multimax.suite.data.loading import Stream, preserved_generators, random_seeds, seed_generators
from multimax.suite.errors import UserError

Transform = Callable[[Image.Image], Tensor]  # to float32 [C, H, W], normalised


class ImageBatch(NamedTuple):
    """Images of one micro-batch.

    ``images`` is float32 [B, C, H, W], normalised. ``targets`` is int64 [B], or float32 [B, num_classes] after mixing.
    ``skipped`` says which images met cannot be read, and why: in training the next readable one stands in for each, in
    evaluation it is left out, so that B may be smaller there, and zero.
    """

    images: Tensor
    targets: Tensor
    skipped: list[str]

    def to(self, device: torch.device) -> "ImageBatch":
        return ImageBatch(
            self.images.to(device, non_blocking=True), self.targets.to(device, non_blocking=True), self.skipped
        )


def _posterize(image: Image.Image, bits_to_keep: int, **_: object) -> Image.Image:
    if bits_to_keep == 0:
        return image.point(lambda _: 0)
    return image if bits_to_keep >= 8 else ImageOps.posterize(image, bits_to_keep)


# At magnitude 10, which rand-m9-mstd0.5 draws for one image in several hundred, timm 1.0.31 asks for zero bits. Pillow
# made a black image of that, until Pillow 13 raised ValueError.
for _name in ("Posterize", "PosterizeIncreasing"):
    auto_augment.NAME_TO_OP[_name] = _posterize


def train_transform(config: ImageData) -> Transform:
    """Random crop, flip, RandAugment or colour jitter, normalisation, erasing.

    Raises:
        UserError: an option that timm does not know.
    """
    if config.train_crop not in ("rrc", "shift"):
        raise UserError(f"data.train_crop={config.train_crop} is neither rrc nor shift")
    interpolation = _interpolation(config)
    try:
        geometry, colour, tensor = create_transform(
            (config.in_chans, config.image_size, config.image_size),
            is_training=True,
            hflip=config.hflip,
            color_jitter=config.color_jitter,
            auto_augment=config.auto_augment,
            interpolation=config.interpolation,
            mean=tuple(config.mean),
            std=tuple(config.std),
            re_prob=config.random_erasing,
            re_mode="pixel",
            separate=True,
        )
    except (AssertionError, KeyError, ValueError) as error:
        raise UserError(f"data.auto_augment={config.auto_augment} is not timm's notation: {error}") from error
    if config.train_crop == "shift":
        geometry.transforms[0] = transforms.Compose(
            [
                transforms.Resize(config.image_size, interpolation),
                transforms.RandomCrop(config.image_size, padding=1),
            ]
        )
    return transforms.Compose([geometry, colour, tensor])


def eval_transform(config: ImageData) -> Transform:
    """Resize the shorter side to image_size / crop_pct, crop the centre, normalise."""
    _interpolation(config)
    return create_transform(
        (config.in_chans, config.image_size, config.image_size),
        interpolation=config.interpolation,
        mean=tuple(config.mean),
        std=tuple(config.std),
        crop_pct=config.crop_pct,
    )


def _interpolation(config: ImageData) -> transforms.InterpolationMode:
    names = [mode.value for mode in transforms.InterpolationMode]
    if config.interpolation not in names:
        raise UserError(f"data.interpolation={config.interpolation}: choose one of {', '.join(names)}")
    return transforms.InterpolationMode(config.interpolation)


class Mix:
    """Mixup (1710.09412) or cutmix (1905.04899) of a batch with its mirror image; makes targets soft.

    One draw (mixup or cutmix, their lambda, the box) holds for ``mix_group`` images, or for the whole global batch. It
    follows from the seed, the step and the group alone: mixing each of the parts that ``shard`` makes of a global batch
    gives the parts of the mixed global batch.
    """

    def __init__(self, config: ImageData) -> None:
        self._mixup = Mixup(
            mixup_alpha=config.mixup, cutmix_alpha=config.cutmix, label_smoothing=0.0, num_classes=config.num_classes
        )
        self._pairs_per_group = (config.mix_group or sys.maxsize) // 2

    def __call__(self, batch: ImageBatch, step: int, seed: int, part: int = 0) -> ImageBatch:
        """``batch`` of even size, the ``part``-th of its global batch, int64 [B] targets, on any device.

        Its images are overwritten. Targets of the result are float32 [B, num_classes] and sum to one.
        """
        images, targets = batch.images, batch.targets
        pairs, size = len(targets) // 2, self._pairs_per_group
        first = part * pairs  # of the global batch's pairs, counted from its ends to its middle
        soft = images.new_empty(len(targets), self._mixup.num_classes)
        for group in range(first // size, (first + pairs - 1) // size + 1):
            front = torch.arange(max(group * size - first, 0), min((group + 1) * size - first, pairs))
            members = torch.cat([front, len(targets) - 1 - front.flip(0)]).to(images.device)
            with preserved_generators():
                seed_generators(random_seeds(Stream.MIX, seed, step, count=group + 1)[group])
                images[members], soft[members] = self._mixup(images[members], targets[members])
        return batch._replace(images=images, targets=soft)


def create_mix(config: ImageData) -> Mix | None:
    """The mixing that the configuration asks for, or None: then targets stay hard."""
    return Mix(config) if config.mixup > 0 or config.cutmix > 0 else None
