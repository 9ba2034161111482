"""Where labelled images come from: arrays in memory, folders, and tables of encoded images."""

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from multimax.suite.data.image_listing import ImageListing
from multimax.suite.data.pixels import Picture, Plain, UnreadableImage
from multimax.suite.errors import UserError


class ImageSource(ABC):
    """Images of mode RGB or L and their labels by index; ``other_files`` counts what else was there, by what it is."""

    classes: list[str]
    mode: str
    other_files: Counter[str] = Counter()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def label(self, index: int) -> int:
        """The class, without reading the image."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call the image in a message."""

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """The image as it is stored; raises OSError where its file cannot be read."""

    @abstractmethod
    def listing(self) -> Iterator[bytes]:
        """Of each image its name, where it has one, and its size, without reading it."""

    def open(self, index: int) -> Picture:
        """The image, not decoded yet; raises UnreadableImage."""
        try:
            content = self.encoded(index)
        except OSError as error:
            raise UnreadableImage(error.strerror or str(error)) from None
        return Picture(content, self.mode)

    def load(self, index: int) -> Image.Image:
        """The decoded image; raises UnreadableImage."""
        return self.open(index).pixels()


class ArraySource(ImageSource):
    """Grey images in memory: uint8 [N, H, W]."""

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, names: Sequence[str], classes: list[str], mode: str
    ) -> None:
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
    """Some images of another source, by their indices there."""

    def __init__(self, whole: ImageSource, indices: Sequence[int]) -> None:
        self.whole, self.indices = whole, np.array(indices, np.int64)  # which workers share, as they do not a list
        self.classes, self.mode, self.other_files = whole.classes, whole.mode, whole.other_files

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
        return Path(self.name(index)).read_bytes()

    def listing(self) -> Iterator[bytes]:
        for index in range(len(self)):
            path = self.name(index)
            size = os.stat(path).st_size if os.path.exists(path) else "absent"  # a link may lead nowhere
            yield os.fsencode(f"{self.images.relative(index)} {size}")


class TableSource(ImageSource):
    """A split of a Hugging Face data set with the columns ``image`` (Image) and ``label`` (ClassLabel).

    Raises UserError for other columns, and for a label that is none of the classes.
    """

    def __init__(self, table: Any, split: str, mode: str) -> None:
        import datasets

        features = table.features
        if not isinstance(features.get("image"), datasets.Image) or not isinstance(
            features.get("label"), datasets.ClassLabel
        ):
            found = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
            raise UserError(f"the {split} split needs columns image (Image) and label (ClassLabel), and has {found}")
        self.classes, self.split, self.mode = features["label"].names, split, mode
        labels = table.with_format("arrow")["label"][:].fill_null(-1)
        self.labels = labels.to_numpy()
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if len(wrong):
            label = self.labels[wrong[0]]
            raise UserError(
                f"row {wrong[0]} of the {split} split has {'no label' if label == -1 else f'label {label}'}, where "
                f"classes are 0 to {len(self.classes) - 1}: one of {len(wrong)} such rows of {len(self.labels)}"
            )
        # Arrow's rows hold the encoded bytes and the file's name; the decoding column loses the name, and is slower.
        self.images = table.select_columns("image").with_format("arrow")

    def __len__(self) -> int:
        return len(self.labels)

    def _record(self, index: int) -> dict[str, Any]:
        return self.images[index]["image"][0].as_py() or {"bytes": None, "path": None}

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def name(self, index: int) -> str:
        return f"{self.split} row {index} ({self._record(index)['path']})"

    def encoded(self, index: int) -> bytes:
        record = self._record(index)
        if record["bytes"] is None and not record["path"]:
            raise OSError("the row has no image")
        return record["bytes"] if record["bytes"] is not None else Path(record["path"]).read_bytes()

    def listing(self) -> Iterator[bytes]:
        import pyarrow.compute

        for rows in self.images.iter(batch_size=10_000):
            sizes = pyarrow.compute.binary_length(rows["image"].combine_chunks().field("bytes"))
            yield from (str(size).encode() for size in sizes.to_pylist())
