"""Labelled images: scikit-learn's digits, image folders, and parquet shards from a folder or the Hugging Face hub."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from textwrap import shorten
from typing import Any, Protocol

import numpy as np
from PIL import Image

from multimax.suite.data.fingerprint import Fingerprint, digest
from multimax.suite.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
READ = 1 << 26  # bytes of a split that a fingerprint reads


@dataclass
class ImageData:
    """Which images, and how they are augmented."""

    name: str  # label of the data in run names
    source: str  # digits | files (root, or else hub)
    num_classes: int
    image_size: int  # pixels, of what the model sees
    root: str | None = None  # folder with train/CLASS/*.jpg and val/CLASS/*.jpg, or train-*.parquet and val*.parquet
    hub: str | None = None  # data set of the Hugging Face hub, used without root
    where: str = ""  # where to get the data: printed when it is absent or incomplete
    num_val: int | None = None  # expected validation images; None: any number
    in_chans: int = 3  # 1: images are read as grey
    train_crop: str = "rrc"  # rrc: random resized crop | shift: by up to one pixel
    hflip: float = 0.5  # probability
    auto_augment: str | None = None  # timm's notation, such as rand-m9-mstd0.5-inc1
    color_jitter: float = 0.0  # of brightness, contrast, saturation; timm ignores it beside auto_augment, as DeiT does
    random_erasing: float = 0.0  # probability
    mixup: float = 0.0  # alpha of the beta distribution; 0: off
    cutmix: float = 0.0  # likewise; with both on, one of the two is drawn per batch
    mix_group: int | None = None  # images that share a draw of mixup or cutmix, even; None: the global batch
    repeated_augmentation: int = 1  # times that an image occurs in a row
    crop_pct: float = 0.875  # side of the centre crop in evaluation, of the resized image's shorter side
    interpolation: str = "bicubic"
    mean: list[float] = field(default_factory=lambda: list(IMAGENET_MEAN))  # of each channel, for pixels in [0, 1]
    std: list[float] = field(default_factory=lambda: list(IMAGENET_STD))
    num_workers: int = 2  # processes that load images, beside each training process


class UnreadableImage(Exception):
    """An image file that cannot be opened or decoded."""


class ImageSource(Protocol):
    """Images and their labels by index."""

    classes: list[str]

    def __len__(self) -> int: ...

    def load(self, index: int) -> Image.Image:
        """The decoded image, in mode RGB or L; raises UnreadableImage."""

    def label(self, index: int) -> int:
        """The class, without reading the image."""

    def name(self, index: int) -> str:
        """What to call the image in a message."""

    def encoded(self, index: int) -> bytes:
        """The image as it is stored; raises OSError where its file cannot be read."""

    def listing(self) -> Iterator[bytes]:
        """Of each image its name, where it has one, and its size, without reading it."""


class ArraySource:
    """Grey images in memory: uint8 [N, H, W]."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, names: Sequence[str], classes: list[str]) -> None:
        self.images, self.labels, self.names, self.classes = images, labels, names, classes

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def name(self, index: int) -> str:
        return self.names[index]

    def encoded(self, index: int) -> bytes:
        return self.images[index].tobytes()

    def listing(self) -> Iterator[bytes]:
        yield from map(str.encode, self.names)


class FolderSource:
    """torchvision's ImageFolder: the name of an image's folder is its class."""

    def __init__(self, folder: Path, mode: str) -> None:
        from torchvision.datasets import ImageFolder

        try:
            dataset = ImageFolder(str(folder))
        except FileNotFoundError as error:
            if any(path.suffix.lower() in (".jpeg", ".jpg", ".png") for path in folder.iterdir()):
                raise UserError(f"the images of {folder} must be sorted into one folder for each class") from None
            raise UserError(_one_line(error)) from None
        self.folder, self.samples, self.classes, self.mode = folder, dataset.samples, dataset.classes, mode

    def __len__(self) -> int:
        return len(self.samples)

    def load(self, index: int) -> Image.Image:
        return decode(self.samples[index][0], self.mode)

    def label(self, index: int) -> int:
        return self.samples[index][1]

    def name(self, index: int) -> str:
        return self.samples[index][0]

    def encoded(self, index: int) -> bytes:
        return Path(self.samples[index][0]).read_bytes()

    def listing(self) -> Iterator[bytes]:
        for path, _ in self.samples:
            yield f"{os.path.relpath(path, self.folder)} {os.stat(path).st_size}".encode()


class TableSource:
    """A split of a Hugging Face data set with the columns ``image`` (Image) and ``label`` (ClassLabel)."""

    def __init__(self, table: Any, split: str, mode: str) -> None:
        import datasets

        features = table.features
        if not isinstance(features.get("image"), datasets.Image) or not isinstance(
            features.get("label"), datasets.ClassLabel
        ):
            found = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
            raise UserError(f"the {split} split needs columns image (Image) and label (ClassLabel), and has {found}")
        self.labels = np.asarray(table.with_format("numpy")["label"][:])
        self.classes, self.split, self.mode = features["label"].names, split, mode
        # Arrow's rows hold the encoded bytes and the file's name; the decoding column loses the name, and is slower.
        self.images = table.select_columns("image").with_format("arrow")

    def __len__(self) -> int:
        return len(self.labels)

    def _record(self, index: int) -> dict[str, Any]:
        return self.images[index]["image"][0].as_py() or {"bytes": None, "path": None}

    def load(self, index: int) -> Image.Image:
        record = self._record(index)
        return decode(BytesIO(record["bytes"]) if record["bytes"] else record["path"], self.mode)

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def name(self, index: int) -> str:
        return f"{self.split} row {index} ({self._record(index)['path']})"

    def encoded(self, index: int) -> bytes:
        record = self._record(index)
        return record["bytes"] or Path(record["path"] or "").read_bytes()

    def listing(self) -> Iterator[bytes]:
        import pyarrow.compute

        for rows in self.images.iter(batch_size=10_000):
            sizes = pyarrow.compute.binary_length(rows["image"].combine_chunks().field("bytes"))
            yield from (str(size).encode() for size in sizes.to_pylist())


def fingerprint(train: ImageSource, val: ImageSource) -> Fingerprint:
    """Classes and their counts, and of each split a digest of names, sizes and labels, and of a part of the contents.

    All contents are read where they are below ``READ`` bytes or so, else those of images at equal distances: a folder
    of ImageNet's size takes seconds.
    """
    found: Fingerprint = {"images": type(train).__name__.removesuffix("Source").lower(), "classes": train.classes}
    for split, source in (("training", train), ("validation", val)):
        labels = np.array([source.label(i) for i in range(len(source))], dtype="<i8")
        counts = np.bincount(labels, minlength=len(source.classes)).tolist()
        found[f"{split} images"] = dict(zip(source.classes, counts, strict=True))
        contents = (source.encoded(i) for i in range(0, len(source), step(source)))
        found[f"{split} contents"] = digest((labels.tobytes(), *source.listing(), *contents))
    return found


def step(source: ImageSource) -> int:
    """The distance of images that have about ``READ`` bytes together."""
    if not len(source):
        return 1
    few = range(0, len(source), max(1, len(source) // 64))
    return max(1, round(len(source) * sum(len(source.encoded(i)) for i in few) / len(few)) // READ)


def open_images(config: ImageData) -> tuple[ImageSource, ImageSource]:
    """Training and validation images, checked against what the configuration expects.

    Raises:
        UserError: the data is absent or incomplete: what was found, what was expected and where to get it.
    """
    if not len(config.mean) == len(config.std) == config.in_chans:
        raise UserError(f"data.mean and data.std must have as many entries as data.in_chans={config.in_chans}")
    openers = {"digits": _open_digits, "files": _open_files}
    if config.source not in openers:
        raise UserError(f"data.source={config.source}: choose one of {', '.join(openers)}")
    try:
        train, val = openers[config.source](config)
        _check(config, train, val)
    except UserError as error:
        raise UserError(f"{error}; {config.where}" if config.where else str(error)) from error
    return train, val


def _open_digits(_config: ImageData) -> tuple[ImageSource, ImageSource]:
    """1,797 scans of 8x8 pixels with 17 levels of grey; a fixed fifth of each class is for validation."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    indices = np.arange(len(images))
    splits = train_test_split(indices, test_size=360, stratify=digits.target, random_state=0)
    train, val = (
        ArraySource(images[split], digits.target[split], [f"digit {i}" for i in split], [str(i) for i in range(10)])
        for split in splits
    )
    return train, val


def _open_files(config: ImageData) -> tuple[ImageSource, ImageSource]:
    if config.root is None:
        if config.hub is None:
            raise UserError("data.root is not set: point it at the images")
        return _open_tables(config.hub, config)
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise UserError(f"data.root={root} is not a folder")
    for folder in (root, root / "data"):
        shards = {
            split: sorted(map(str, folder.glob(f"{pattern}*.parquet")))
            for split, pattern in (("train", "train"), ("validation", "val"))
        }
        if any(shards.values()):
            for split, files in shards.items():
                _check_shards(folder, split, files)
            return _open_tables("parquet", config, data_files=shards)
    train = root / "train"
    val = root / "validation" if (root / "validation").is_dir() else root / "val"
    if not train.is_dir() or not val.is_dir():
        entries = sorted(path.name for path in root.iterdir())
        found = ", ".join(entries[:5]) + (", ..." if len(entries) > 5 else "") if entries else "nothing"
        raise UserError(
            f"data.root={root} holds neither folders train/ and val/ nor train-*.parquet and val*.parquet, but {found}"
        )
    mode = image_mode(config)
    return FolderSource(train, mode), FolderSource(val, mode)


def _check_shards(folder: Path, split: str, files: list[str]) -> None:
    """A shard's name ends in -00000-of-00294: raise UserError if some are missing."""
    if not files:
        raise UserError(f"{folder} has no parquet shards of the {split} split")
    total = re.search(r"-of-(\d+)\.parquet$", files[0])
    if total and len(files) != int(total[1]):
        raise UserError(f"{folder} has {len(files)} of the {int(total[1])} parquet shards of the {split} split")


def _open_tables(path: str, config: ImageData, **options: Any) -> tuple[ImageSource, ImageSource]:
    """Splits of a data set, which ``datasets`` copies to its cache (HF_DATASETS_CACHE) on first use."""
    import datasets

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is said below, in one line
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        tables = datasets.load_dataset(path, **options)
    except Exception as error:  # gated, absent, offline, a broken file, a full disk: each has a type of its own
        reason = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
        raise UserError(f"cannot load {config.root or config.hub}: {_one_line(reason or error)}") from error
    mode = image_mode(config)
    for split in ("train", "validation"):
        if split not in tables:
            raise UserError(f"{config.root or config.hub} has no {split} split, but {', '.join(tables)}")
    return TableSource(tables["train"], "train", mode), TableSource(tables["validation"], "validation", mode)


def _check(config: ImageData, train: ImageSource, val: ImageSource) -> None:
    place = config.root or config.hub or config.source
    for split, source in (("training", train), ("validation", val)):
        if len(source.classes) != config.num_classes:
            raise UserError(
                f"{place} has {len(source.classes)} {split} classes ({', '.join(source.classes[:3])}, ...), "
                f"but data.num_classes={config.num_classes}"
            )
    if train.classes != val.classes:
        differing = sorted(set(train.classes) ^ set(val.classes))[:5]
        raise UserError(f"{place} has different classes in training and validation: {', '.join(differing)}")
    if config.num_val is not None and len(val) != config.num_val:
        raise UserError(f"{place} has {len(val)} validation images, but data.num_val={config.num_val}")


def image_mode(config: ImageData) -> str:
    return "L" if config.in_chans == 1 else "RGB"


def decode(file: str | BytesIO, mode: str) -> Image.Image:
    """The image in a file, in mode RGB or L; raises UnreadableImage."""
    try:
        with Image.open(file) as image:
            return image.convert(mode)
    except Exception as error:  # on a broken file Pillow's decoders raise nearly anything
        raise UnreadableImage(str(error)) from error


def _one_line(error: BaseException) -> str:
    return shorten(str(error), 200, placeholder=" ...") or type(error).__name__
