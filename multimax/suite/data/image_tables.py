"""Labelled images in tables: which files and columns a split has, and which class each label stands for."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np

from multimax.suite.data.hub import spellings
from multimax.suite.data.image_sources import ImageSource
from multimax.suite.errors import UserError
from multimax.suite.files import read_file
from multimax.suite.pipes import require_file

ABSENT = (None, -1, "")  # labels of rows without one
LABELS = ("label", "labels", "fine_label", "class", "target", "category")
"""Names of a column of labels, for when its type does not say so."""
KINDS = {"images": "an Image, bytes, or a struct of bytes and path", "labels": "a ClassLabel, whole numbers or text"}
SHARD = r"(?:-(?P<number>\d+)-of-(?P<total>\d+)(?:-[0-9a-f]{16})?)?\.parquet"
"""What follows the split's name in a file's name, as the hub writes it."""


def shards(folder: Path, split: str, splits: Sequence[str]) -> list[str]:
    """A split's parquet files in order: SPLIT.parquet, or SPLIT-00000-of-00003.parquet and so on.

    Raises UserError for a file whose name begins like the split's but belongs to none of ``splits``.
    """

    def of(names: Iterable[str], path: Path) -> re.Match[str] | None:
        return re.fullmatch(f"(?:{'|'.join(map(re.escape, names))}){SHARD}", path.name)

    found: dict[int, Path] = {}
    for path in sorted(folder.glob("*.parquet")):
        if match := of(spellings(split), path):
            number = int(match["number"] or 0)
            if number in found:
                raise UserError(f"{folder} has {found[number].name} and {path.name}: keep one of them")
            found[number] = path
        elif path.name.startswith(spellings(split)) and not any(of(spellings(other), path) for other in splits):
            raise UserError(
                f"{path} is neither {split}.parquet nor one of {split}-00000-of-00002.parquet and so on: rename it if "
                f"it is of the {split} split, or move it elsewhere"
            )
    totals = {match["total"] for path in found.values() if (match := of(spellings(split), path))}
    if len(totals) > 1:
        raise UserError(f"{folder} has parquet shards of the {split} split from different sets: keep those of one")
    total = int(totals.pop() or 1) if totals else 0
    if sorted(found) != list(range(total)):
        raise UserError(f"{folder} has {len(found)} of the {total} parquet shards of the {split} split")
    return [str(found[number]) for number in range(total)]


def check_shards(files: Sequence[str]) -> None:
    """Raise UserError for a file that is empty or not parquet."""
    from pyarrow.parquet import read_metadata

    for path in files:
        try:
            require_file(os.stat(path), Path(path))
            if not read_metadata(path).num_rows:
                raise UserError(f"{path} has no rows: delete it")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or shorten(str(error), 100)
            raise UserError(f"{path} cannot be read: {reason}") from None


class Columns(NamedTuple):
    """The columns of a table with the images and their labels."""

    image: str
    label: str


def find_columns(table: Any, split: str, image: str | None, label: str | None) -> Columns:
    """The columns with these names or, for None, the only ones that qualify.

    Images are of type Image, or bytes, or a struct of bytes and path; labels are of type ClassLabel, integers or text.
    Raises UserError if no column qualifies, or several do.
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
    return Columns(
        image_column, choose("label_column", "labels", label, labels if label is None else [*marked, *plain])
    )


def kind(feature: Any) -> str:
    """What a column holds, in a word."""
    import datasets

    if isinstance(feature, dict):
        return "bytes and path" if feature.keys() == {"bytes", "path"} else "struct"
    if isinstance(feature, datasets.Value):
        families = {"int": "integer", "uint": "integer", "string": "string", "large_string": "string"}
        return families.get(feature.dtype.rstrip("0123456789"), feature.dtype.removeprefix("large_"))
    return type(feature).__name__


class Part(NamedTuple):
    """A number of a table's rows, in order, and what their labels mean in the file they come from."""

    where: str
    rows: int
    label: Any  # a feature of datasets


def parts_of_files(files: Sequence[str], label: str) -> list[Part]:
    """The parts of a table that datasets made from parquet files: it uses the first file's class names for all."""
    from datasets import Features
    from pyarrow.parquet import ParquetFile

    parts = []
    for path in files:
        with ParquetFile(path) as file:
            features = Features.from_arrow_schema(file.schema_arrow)
            if label not in features:  # datasets would fill in nulls
                raise UserError(f"{path} has no column {label}, but {', '.join(features)}")
            parts.append(Part(path, file.metadata.num_rows, features[label]))
    return parts


class Classes:
    """The classes of the training data, and which class a label stands for.

    Labels are the numbers of a ClassLabel, whose names count, or integers or text, which then are the names.
    """

    def __init__(self, table: Any, column: str, where: str) -> None:
        self.where = where
        names = class_names(table.features[column])
        self.named = names is not None
        values = range(len(names)) if names is not None else sorted({*labels_of(table, column)} - {*ABSENT})
        self.by_label = dict(zip(values, names or map(str, values), strict=True))
        self.names = list(self.by_label.values())
        self.known = f"0 to {len(names) - 1}" if names else ", ".join(self.names[:5])

    def of(self, part: Part) -> dict[Any, int]:
        """The class of each label of a part. Raises UserError if it has other classes."""
        names = class_names(part.label)
        if (names is not None) != self.named:
            raise UserError(
                f"the labels of {part.where} are {kind(part.label)}, and those of {self.where} "
                f"{'ClassLabel, with names' if self.named else 'without names'}: write both alike"
            )
        own = dict(enumerate(names)) if names is not None else self.by_label
        if names is not None and (differing := sorted({*names} ^ {*self.names})):
            raise UserError(
                f"{part.where} has other classes than {self.where}: {', '.join(differing[:5])} are in one of them alone"
            )
        place = {name: index for index, name in enumerate(self.names)}
        return {label: place[name] for label, name in own.items()}


def labels_of(table: Any, column: str) -> list[Any]:
    """The labels of all rows, with text in Unicode form NFC."""
    values = table.with_format("arrow")[column][:].to_pylist()
    return [unicodedata.normalize("NFC", value) if isinstance(value, str) else value for value in values]


def class_names(feature: Any) -> list[str] | None:
    """The names of a ClassLabel, in Unicode form NFC; None for another column."""
    names = getattr(feature, "names", None)
    return None if names is None else [unicodedata.normalize("NFC", name) for name in names]


class TableSource(ImageSource):
    """A split of a Hugging Face data set; ``parts`` are its rows, by origin.

    Raises UserError for a label that is not one of the classes.
    """

    def __init__(
        self, table: Any, split: str, mode: str, columns: Columns, classes: Classes, parts: Sequence[Part]
    ) -> None:
        import datasets

        self.split, self.mode, self.column, self.classes = split, mode, columns.image, classes.names
        labels = iter(labels_of(table, columns.label))
        numbers = [
            place.get(next(labels), -1) for part in parts for place in [classes.of(part)] for _ in range(part.rows)
        ]
        self.labels = np.array(numbers, np.int64)
        assert len(self.labels) == len(table)
        wrong = np.flatnonzero(self.labels < 0)
        if len(wrong):
            value = labels_of(table, columns.label)[wrong[0]]
            raise UserError(
                f"row {wrong[0]} of the {split} split has {'no label' if value in ABSENT else f'label {value}'}, "
                f"where classes are {classes.known}: one of {len(wrong)} such rows of {len(self.labels)}"
            )
        if not isinstance(table.features[columns.image], datasets.Image):
            table = table.cast_column(columns.image, datasets.Image())
        # Arrow's rows hold the encoded bytes and the file name; the decoding column loses the name and is slower.
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
