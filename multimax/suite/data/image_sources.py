"""Where labelled images come from: arrays in memory, folders, and tables of encoded images."""

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from multimax.suite.data.image_listing import ImageListing
from multimax.suite.data.left_out import LeftOut
from multimax.suite.data.pixels import Picture, Plain, UnreadableImage
from multimax.suite.errors import UserError
from multimax.suite.files import read_file

CHUNK, THREADS = 1024, 16  # a thread asks for the sizes of this many files at a time


class ImageSource(ABC):
    """Images of mode RGB or L and their labels, by index."""

    classes: list[str]
    mode: str
    bits: int | None = None  # per pixel of 16-bit grey; None: 16, as far as can be seen
    other_files: Counter[str] = Counter()  # what else was there, by kind
    beside: LeftOut | None = None  # what else is there besides the splits

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def label(self, index: int) -> int:
        """The image's class, without reading the image."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call the image in a message."""

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """The image as stored; raises OSError if its file cannot be read."""

    @abstractmethod
    def listing(self) -> Iterator[bytes]:
        """Each image's name, if it has one, and size, without reading it."""

    def open(self, index: int) -> Picture:
        """The image, not yet decoded; raises UnreadableImage."""
        try:
            content = self.encoded(index)
        except OSError as error:
            raise UnreadableImage(error.strerror or str(error)) from None
        return Picture(content, self.mode, self.bits)

    def load(self, index: int) -> Image.Image:
        """The decoded image; raises UnreadableImage."""
        return self.open(index).pixels()


class ArraySource(ImageSource):
    """Grey images in memory: uint8 [N, H, W]."""

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, names: Sequence[str], classes: list[str], mode: str
    ) -> None:
        if images.dtype != np.uint8 or (images.ndim != 3 and images.shape[3:] != (3,)):
            raise UserError(f"data: images are {images.dtype} {[*images.shape]}, not uint8 [images, height, width, 3]")
        if labels.dtype.kind not in "iu" or {len(labels), len(names)} != {len(images)}:
            raise UserError(f"data: {len(names)} names and {len(labels)} {labels.dtype} labels of {len(images)} images")
        self.images, self.labels, self.names, self.classes, self.mode = images, labels, names, classes, mode

    def __len__(self) -> int:
        return len(self.images)

    def open(self, index: int) -> Picture:
        return Plain(Image.fromarray(self.images[index]).convert(self.mode))

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def name(self, index: int) -> str:
        return self.names[index]

    def encoded(self, index: int) -> bytes:
        return self.images[index].tobytes()

    def listing(self) -> Iterator[bytes]:
        yield from map(str.encode, self.names)


class PartSource(ImageSource):
    """Some of another source's images, by their indices there."""

    def __init__(self, whole: ImageSource, indices: Sequence[int]) -> None:
        self.whole, self.indices = whole, np.array(indices, np.int64)  # workers share an array, but not a list
        self.classes, self.other_files, self.beside = whole.classes, whole.other_files, whole.beside
        self.mode = whole.mode

    def __len__(self) -> int:
        return len(self.indices)

    def open(self, index: int) -> Picture:
        return self.whole.open(self.indices[index])

    def label(self, index: int) -> int:
        return self.whole.label(self.indices[index])

    def name(self, index: int) -> str:
        return self.whole.name(self.indices[index])

    def encoded(self, index: int) -> bytes:
        return self.whole.encoded(self.indices[index])

    def listing(self) -> Iterator[bytes]:
        every = list(self.whole.listing())
        return (every[index] for index in self.indices)


class FolderSource(ImageSource):
    """The images of an ``ImageListing``."""

    def __init__(self, listing: ImageListing, mode: str) -> None:
        self.images, self.mode = listing, mode
        self.classes, self.other_files = listing.classes, listing.other_files

    def __len__(self) -> int:
        return len(self.images)

    def label(self, index: int) -> int:
        return int(self.images.labels[index])

    def name(self, index: int) -> str:
        return os.path.join(self.images.folder, self.images.relative(index))

    def encoded(self, index: int) -> bytes:
        return read_file(Path(self.name(index)))

    def listing(self) -> Iterator[bytes]:
        def described(chunk: range) -> list[bytes]:
            return [os.fsencode(f"{self.images.relative(index)} {size(self.name(index))}") for index in chunk]

        def size(path: str) -> int | str:
            try:
                return os.stat(path).st_size
            except OSError:
                return "absent"  # a dangling link, perhaps

        # A network disk can answer many queries at a time.
        chunks = [range(i, min(i + CHUNK, len(self))) for i in range(0, len(self), CHUNK)]
        with ThreadPoolExecutor(THREADS) as pool:
            for found in pool.map(described, chunks):
                yield from found
