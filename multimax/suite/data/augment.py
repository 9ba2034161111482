"""Augmentation with timm: transforms of single images, and mixup and cutmix of batches.

The recipe is DeiT's (Touvron et al., "Training data-efficient image transformers", 2012.12877, table 9). All random
draws are timm's. Data workers hand over bytes; normalisation, random erasing's noise, and mixing are done on the
device.
"""

import math
import random
import sys
from collections.abc import Callable
from operator import methodcaller
from typing import NamedTuple

import torch
from PIL import Image, ImageOps
from timm.data import Mixup, auto_augment, create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor, nn
from torchvision import transforms

from multimax.suite.data.images import ImageData
from multimax.suite.data.loading import Stream, preserved_generators, random_seeds, seed_generators
from multimax.suite.data.pixels import Picture, as_bytes
from multimax.suite.data.row_shifts import OPERATIONS
from multimax.suite.errors import UserError


class Erased(NamedTuple):
    """A part of an image, in pixels, that is filled with noise drawn from ``seed``."""

    top: int
    left: int
    height: int
    width: int
    seed: int


class ImageBatch(NamedTuple):
    """The images of one micro-batch.

    When loaded, ``images`` is uint8 [B, H, W, C], and ``erased`` says for each image what will become noise;
    ``Normalise`` turns it into float32 [B, C, H, W]. ``targets`` is int64 [B], or float32 [B, num_classes] after
    mixing. ``skipped`` names the images that could not be read, and why. In training each is replaced by the next
    readable one; in evaluation it is left out, so B may be smaller, even zero.
    """

    images: Tensor
    targets: Tensor
    skipped: list[str]
    erased: dict[int, Erased] = {}


class Normalise:
    """Moves a loaded batch to a device, erases, and normalises by ``data.mean`` and ``data.std``."""

    def __init__(self, config: ImageData) -> None:
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (config.mean, config.std))

    def __call__(self, batch: ImageBatch, device: torch.device) -> ImageBatch:
        pixels = batch.images.to(device, non_blocking=True).permute(0, 3, 1, 2)
        images = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        images.sub_(self.mean.to(device)).div_(self.std.to(device))
        generator = torch.Generator(device)
        for index, (top, left, height, width, seed) in batch.erased.items():
            inside = images[index, :, top : top + height, left : left + width]
            inside.normal_(generator=generator.manual_seed(seed))
        return batch._replace(images=images, targets=batch.targets.to(device, non_blocking=True), erased={})


def _posterize(image: Image.Image, bits_to_keep: int, **_: object) -> Image.Image:
    if bits_to_keep == 0:
        return image.point(lambda _: 0)
    return image if bits_to_keep >= 8 else ImageOps.posterize(image, bits_to_keep)


# At magnitude 10, which rand-m9-mstd0.5 draws for one image in several hundred, timm 1.0.31 asks for zero bits. That
# gave a black image until Pillow 13, which raises ValueError.
auto_augment.NAME_TO_OP.update(OPERATIONS)
auto_augment.NAME_TO_OP.update(dict.fromkeys(("Posterize", "PosterizeIncreasing"), _posterize))


class RandomCrop:
    """timm's random resized crop, decoding the picture only as finely as the crop needs."""

    def __init__(self, crop: RandomResizedCropAndInterpolation) -> None:
        self.crop = crop

    def __call__(self, picture: Picture) -> Image.Image:
        whole = torch.empty(()).expand(picture.size[::-1])  # timm only reads its size
        top, left, height, width = self.crop.get_params(whole, self.crop.scale, self.crop.ratio)
        height, width = max(1, height), max(1, width)  # timm's crop of a picture of a few pixels may be empty
        top, left = min(top, picture.size[1] - height), min(left, picture.size[0] - width)
        pixels = picture.array(reduced=min(height // self.crop.size[0], width // self.crop.size[1]))
        y, x = pixels.shape[0] / picture.size[1], pixels.shape[1] / picture.size[0]
        part = pixels[round(top * y) : round((top + height) * y), round(left * x) : round((left + width) * x)]
        return resized(part, self.crop.size, self.crop.interpolation)


def resized(pixels: Tensor, size: tuple[int, int], interpolation: transforms.InterpolationMode) -> Image.Image:
    """uint8 [H, W, C] at ``size``. torch resizes bytes like Pillow, within two levels, several times faster."""
    if interpolation.value not in ("bilinear", "bicubic"):
        image = Image.fromarray(pixels.squeeze(2).numpy())
        return transforms.functional.resize(image, size, interpolation)
    planes = pixels[None].permute(0, 3, 1, 2)
    small = nn.functional.interpolate(planes, size, mode=interpolation.value, antialias=True)
    return Image.fromarray(small.permute(0, 2, 3, 1)[0].contiguous().squeeze(2).numpy())


def draw_erased(image: Tensor, probability: float) -> Erased | None:
    """The box that timm's RandomErasing would draw in ``image`` [H, W, C] with its defaults."""
    if random.random() > probability:
        return None
    height, width, _ = image.shape
    for _ in range(10):
        area = random.uniform(0.02, 1 / 3) * height * width
        aspect = math.exp(random.uniform(math.log(0.3), math.log(1 / 0.3)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if w < width and h < height:
            top, left = random.randint(0, height - h), random.randint(0, width - w)
            return Erased(top, left, h, w, random.getrandbits(63))
    return None


class TrainTransform:
    """Random crop, flip, RandAugment or colour jitter, erasing; draws from the global generators.

    Raises:
        UserError: timm does not know an option.
    """

    def __init__(self, config: ImageData) -> None:
        if config.train_crop not in ("rrc", "shift"):
            raise UserError(f"data.train_crop={config.train_crop} is neither rrc nor shift")
        interpolation = _interpolation(config)
        try:
            geometry, colour, _ = create_transform(
                (config.in_chans, config.image_size, config.image_size),
                is_training=True,
                hflip=config.hflip,
                color_jitter=config.color_jitter,
                auto_augment=config.auto_augment,
                interpolation=config.interpolation,
                mean=tuple(config.mean),
                separate=True,
            )
        except (AssertionError, KeyError, ValueError) as error:
            raise UserError(f"data.auto_augment={config.auto_augment} is not timm's notation: {error}") from error
        crop, *flips = geometry.transforms
        crops: list[Callable] = [RandomCrop(crop)]
        if config.train_crop == "shift":
            resize = transforms.Resize(config.image_size, interpolation)
            crops = [methodcaller("pixels"), resize, transforms.RandomCrop(config.image_size, padding=1)]
        self.seen = transforms.Compose([*crops, *flips, colour])
        self.erasing = config.random_erasing

    def __call__(self, picture: Picture) -> tuple[Tensor, Erased | None]:
        pixels = as_bytes(self.seen(picture))
        return pixels, draw_erased(pixels, self.erasing)


class EvalTransform:
    """Resize the shorter side to image_size / crop_pct, crop the centre."""

    def __init__(self, config: ImageData) -> None:
        _interpolation(config)
        size = (config.in_chans, config.image_size, config.image_size)
        *geometry, _ = create_transform(
            size, interpolation=config.interpolation, crop_pct=config.crop_pct, use_prefetcher=True
        ).transforms
        self.seen = transforms.Compose([methodcaller("pixels"), *geometry])

    def __call__(self, picture: Picture) -> tuple[Tensor, None]:
        return as_bytes(self.seen(picture)), None


def _interpolation(config: ImageData) -> transforms.InterpolationMode:
    names = [mode.value for mode in transforms.InterpolationMode]
    if config.interpolation not in names:
        raise UserError(f"data.interpolation={config.interpolation}: choose one of {', '.join(names)}")
    return transforms.InterpolationMode(config.interpolation)


class Mix:
    """Mixup (1710.09412) or cutmix (1905.04899) of a batch with its own reverse; makes targets soft.

    One draw (mixup or cutmix, lambda, the box) is shared by ``mix_group`` images, or by the whole global batch. It
    depends only on the seed, the step and the group, so mixing the parts of a global batch one by one gives the parts
    of the mixed global batch.
    """

    def __init__(self, config: ImageData) -> None:
        self._mixup = Mixup(
            mixup_alpha=config.mixup, cutmix_alpha=config.cutmix, label_smoothing=0.0, num_classes=config.num_classes
        )
        self._pairs_per_group = (config.mix_group or sys.maxsize) // 2

    def __call__(self, batch: ImageBatch, step: int, seed: int, part: int = 0) -> ImageBatch:
        """Mix ``batch``, the ``part``-th of its global batch, of even size with int64 [B] targets, on any device.

        Its images are overwritten. The result's targets are float32 [B, num_classes] and sum to one.
        """
        images, targets = batch.images, batch.targets
        pairs, size = len(targets) // 2, self._pairs_per_group
        first = part * pairs  # among the global batch's pairs, counted from its ends to its middle
        soft = images.new_empty(len(targets), self._mixup.num_classes)
        for group in range(first // size, (first + pairs - 1) // size + 1):
            front = torch.arange(max(group * size - first, 0), min((group + 1) * size - first, pairs))
            members = torch.cat([front, len(targets) - 1 - front.flip(0)]).to(images.device)
            with preserved_generators():
                seed_generators(random_seeds(Stream.MIX, seed, step, count=group + 1)[group])
                images[members], soft[members] = self._mixup(images[members], targets[members])
        return batch._replace(images=images, targets=soft)


def create_mix(config: ImageData) -> Mix | None:
    """The configured mixing, or None, which leaves targets hard."""
    return Mix(config) if config.mixup > 0 or config.cutmix > 0 else None
