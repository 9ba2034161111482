"""Augmentation by timm: what happens to one image, and mixup and cutmix of a batch.

The recipe is DeiT's (Touvron et al., "Training data-efficient image transformers", 2012.12877, table 9).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import Image, ImageOps
from timm.data import Mixup, auto_augment, create_transform
from torch import Tensor
from torchvision import transforms

from multimax.data.images import ImageData
from multimax.data.loading import Stream, preserved_generators, random_seeds, seed_generators
from multimax.errors import UserError

Transform = Callable[[Image.Image], Tensor]  # to float32 [C, H, W], normalised


class ImageBatch(NamedTuple):
    """Images of one micro-batch.

    ``images`` is float32 [B, C, H, W], normalised. ``targets`` is int64 [B], or float32 [B, num_classes] after mixing.
    ``skipped`` names the unreadable images met: in training the next readable one stands in for each, in evaluation it
    is left out, so that B may be smaller there, and zero.
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
    """Mixup (1710.09412) or cutmix (1905.04899) of a batch with its mirror image; makes targets soft and smooth.

    The draw follows from the seed and the step alone: mixing each of the parts that ``shard`` makes of a global batch
    gives the parts of the mixed global batch.
    """

    def __init__(self, config: ImageData, label_smoothing: float) -> None:
        self._mixup = Mixup(
            mixup_alpha=config.mixup,
            cutmix_alpha=config.cutmix,
            label_smoothing=label_smoothing,
            num_classes=config.num_classes,
        )

    def __call__(self, batch: ImageBatch, step: int, seed: int) -> ImageBatch:
        """``batch`` of even size, int64 [B] targets, on any device; its images are overwritten.

        Targets of the result are float32 [B, num_classes] and sum to one.
        """
        with preserved_generators():
            seed_generators(*random_seeds(Stream.MIX, seed, step, count=1))
            images, targets = self._mixup(batch.images, batch.targets)
        return batch._replace(images=images, targets=targets)


def create_mix(config: ImageData, label_smoothing: float) -> Mix | None:
    """The mixing that the configuration asks for, or None: targets stay hard and smoothing is left to the loss."""
    return Mix(config, label_smoothing) if config.mixup > 0 or config.cutmix > 0 else None
