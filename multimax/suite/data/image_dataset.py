"""Augmented images and their batches, even if some files are broken."""

from typing import NamedTuple

import torch
from torch import Tensor

from multimax.suite.data.augment import Erased, EvalTransform, ImageBatch, TrainTransform
from multimax.suite.data.image_sources import ImageSource
from multimax.suite.data.images import ImageData
from multimax.suite.data.pixels import UnreadableImage
from multimax.suite.errors import UserError

MAX_UNREADABLE_IN_A_ROW = 10  # more means a lost disk, not broken files


class Example(NamedTuple):
    image: Tensor | None  # uint8 [H, W, C]; None: unreadable and left out
    erased: Erased | None
    target: int
    skipped: list[str]


class ImageDataset:
    """The transformed images of a source.

    In training, an unreadable image is replaced by the next readable one; otherwise it is left out of its batch.
    """

    def __init__(self, source: ImageSource, config: ImageData, *, training: bool) -> None:
        self.source = source
        self.order_classes(source.classes)
        self.training = training
        self.transform = TrainTransform(config) if training else EvalTransform(config)
        self.shape = (config.image_size, config.image_size, config.in_chans)

    def order_classes(self, classes: list[str]) -> None:
        """Number the classes in this order, which may not be the source's."""
        self.classes = classes
        self.targets = [classes.index(name) for name in self.source.classes]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        """Draws from the global generators in training.

        Raises:
            UserError: too many images in a row are unreadable.
        """
        skipped: list[str] = []
        for candidate in range(index, index + MAX_UNREADABLE_IN_A_ROW):
            candidate %= len(self.source)
            try:
                image, erased = self.transform(self.source.open(candidate))
            except UnreadableImage as error:
                skipped.append(f"{self.source.name(candidate)}: {error}")
                if not self.training:
                    return Example(None, None, self.targets[self.source.label(candidate)], skipped)
            else:
                return Example(image, erased, self.targets[self.source.label(candidate)], skipped)
        raise UserError(f"{len(skipped)} images in a row cannot be read, the last is {skipped[-1]}; is the disk there?")

    def collate(self, examples: list[Example]) -> ImageBatch:
        readable = [(one.image, one.erased, one.target) for one in examples if one.image is not None]
        images, erased, targets = zip(*readable, strict=True) if readable else ((), (), ())
        return ImageBatch(
            torch.stack(images) if images else torch.empty(0, *self.shape, dtype=torch.uint8),
            torch.tensor(targets, dtype=torch.int64),
            [name for example in examples for name in example.skipped],
            {index: one for index, one in enumerate(erased) if one is not None},
        )
