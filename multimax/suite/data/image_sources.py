"""Where labelled images come from: arrays in memory, folders, and tables of encoded images."""

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from multimax.suite.data.image_listing import ImageListing
from multimax.suite.data.pixels import Picture, Plain, UnreadableImage
from multimax.suite.errors import UserError
from multimax.suite.files import read_file


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
        return read_file(Path(self.name(index)))

    def listing(self) -> Iterator[bytes]:
        for index in range(len(self)):
            path = self.name(index)
            size = os.stat(path).st_size if os.path.exists(path) else "absent"  # a link may lead nowhere
            yield os.fsencode(f"{self.images.relative(index)} {size}")


class Columns(NamedTuple):
    """The columns of a table that have the images and their labels, and the classes by the values of labels."""

    image: str
    label: str
    classes: dict[Any, str]


ABSENT = (None, -1, "")  # labels of rows that have none
LABELS = ("label", "labels", "fine_label", "class", "target", "category")
"""What a column of labels is called where its type does not say so."""
KINDS = {"images": "an Image, bytes, or a struct of bytes and path", "labels": "a ClassLabel, whole numbers or text"}


def find_columns(table: Any, split: str, image: str | None, label: str | None) -> Columns:
    """The columns of these names, or those that can be no other, and the classes.

    Images are of type Image, or bytes, or a struct of bytes and path; labels are of type ClassLabel, or whole numbers
    or text, whose values are then the classes. Raises UserError where none is, or several are.
    """
    import datasets

    features = table.features
    kinds = ", ".join(f"{name} ({kind(feature)})" for name, feature in features.items())

    def choose(key: str, what: str, given: str | None, fit: Sequence[str]) -> str:
        if given is not None and given not in fit:
            raise UserError(
                f"data.{key}={given} is no column of {what} in the {split} split, which has {kinds}; {what} are "
                f"{KINDS[what]}"
            )
        if not fit:
            raise UserError(f"the {split} split has no column that is sure to hold {what}, but {kinds}: see data.{key}")
        usual = what.removesuffix("s")
        chosen = given or (usual if usual in fit else fit[0] if len(fit) == 1 else None)
        if chosen is None:
            raise UserError(f"{' and '.join(fit)} of the {split} split could be its {what}: set data.{key} to one")
        return chosen

    images = [name for name, feature in features.items() if kind(feature) in ("Image", "binary", "bytes and path")]
    image_column = choose("image_column", "images", image, images)
    marked = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    plain = [name for name, feature in features.items() if kind(feature) in ("integer", "string")]
    labels = marked or [name for name in plain if name in LABELS]
    label_column = choose("label_column", "labels", label, labels if label is None else [*marked, *plain])
    feature = features[label_column]
    if isinstance(feature, datasets.ClassLabel):
        return Columns(image_column, label_column, dict(enumerate(feature.names)))
    values = {*table.with_format("arrow")[label_column][:].unique().to_pylist()} - {*ABSENT}
    return Columns(image_column, label_column, {value: str(value) for value in sorted(values)})


def kind(feature: Any) -> str:
    """What a column holds, in a word."""
    import datasets

    if isinstance(feature, dict):
        return "bytes and path" if feature.keys() == {"bytes", "path"} else "struct"
    if isinstance(feature, datasets.Value):
        families = {"int": "integer", "uint": "integer", "string": "string", "large_string": "string"}
        return families.get(feature.dtype.rstrip("0123456789"), feature.dtype.removeprefix("large_"))
    return type(feature).__name__


class TableSource(ImageSource):
    """A split of a Hugging Face data set, whose ``columns`` have images and labels.

    Raises UserError for a label that is none of the classes.
    """

    def __init__(self, table: Any, split: str, mode: str, columns: Columns) -> None:
        import datasets

        self.split, self.mode, self.column = split, mode, columns.image
        self.classes = list(columns.classes.values())
        if missing := [name for name in columns[:2] if name not in table.features]:
            raise UserError(f"the {split} split has no column {missing[0]}, but {', '.join(table.features)}")
        place = {value: index for index, value in enumerate(columns.classes)}
        values = table.with_format("arrow")[columns.label][:].to_pylist()
        self.labels = np.array([place.get(value, -1) for value in values], np.int64)
        wrong = np.flatnonzero(self.labels < 0)
        if len(wrong):
            value = values[wrong[0]]
            known = f"0 to {len(place) - 1}" if [*place] == [*range(len(place))] else ", ".join(map(str, [*place][:5]))
            raise UserError(
                f"row {wrong[0]} of the {split} split has {'no label' if value in ABSENT else f'label {value}'}, "
                f"where classes are {known}: one of {len(wrong)} such rows of {len(self.labels)}"
            )
        if not isinstance(table.features[columns.image], datasets.Image):
            table = table.cast_column(columns.image, datasets.Image())
        # Arrow's rows hold the encoded bytes and the file's name; the decoding column loses the name, and is slower.
        self.images = table.select_columns(columns.image).with_format("arrow")

    def __len__(self) -> int:
        return len(self.labels)

    def _record(self, index: int) -> dict[str, Any]:
        return self.images[index][self.column][0].as_py() or {"bytes": None, "path": None}

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def name(self, index: int) -> str:
        return f"{self.split} row {index} ({self._record(index)['path']})"

    def encoded(self, index: int) -> bytes:
        record = self._record(index)
        if record["bytes"] is None and not record["path"]:
            raise OSError("the row has no image")
        return record["bytes"] if record["bytes"] is not None else read_file(Path(record["path"]))

    def listing(self) -> Iterator[bytes]:
        import pyarrow.compute

        for rows in self.images.iter(batch_size=10_000):
            sizes = pyarrow.compute.binary_length(rows[self.column].combine_chunks().field("bytes"))
            yield from (str(size).encode() for size in sizes.to_pylist())
