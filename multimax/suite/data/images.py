"""Labelled images: scikit-learn's digits, image folders, and parquet shards from a folder or the Hugging Face hub."""

import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from multimax.suite.data.fingerprint import Fingerprint, digest
from multimax.suite.data.hub import load_tables, named
from multimax.suite.data.image_listing import ImageListing
from multimax.suite.data.image_sources import (
    ArraySource,
    FolderSource,
    ImageSource,
    PartSource,
)
from multimax.suite.data.image_tables import (
    Classes,
    Part,
    TableSource,
    check_shards,
    find_columns,
    parts_of_files,
    shards,
)
from multimax.suite.data.left_out import LeftOut, beside
from multimax.suite.data.pixels import FEWER, UnreadableImage
from multimax.suite.errors import UserError
from multimax.suite.files import expanded
from multimax.suite.options import bounded, registered
from multimax.suite.plugins import build, has_target
from multimax.suite.registry import Registry
from multimax.suite.waiting import waiting

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SAMPLE = 1 << 26  # bytes that a fingerprint reads of a split
OTHERS = "data.train_split and data.eval_split name others, and data.held_out=0.1 scores a tenth of the training images"
SPLIT = re.compile(r"(train(ing)?|val(id(ation)?)?|test(ing)?|dev)[\d_-]*", re.IGNORECASE)
INSPECTED = 10_000  # images of a split that are decoded before training, which takes some seconds


SOURCES = Registry(
    {"digits": "multimax.suite.data.images.open_digits", "files": "multimax.suite.data.images.open_files"}
)
"""By name, the functions that make the training and validation images from the configuration."""


@dataclass
class ImageData:
    """Which images, and how they are augmented."""

    name: str  # the data's label in run names
    source: str = registered(SOURCES)  # files: from root, or else from hub
    num_classes: int | None = bounded(2)  # None: as in the data
    image_size: int = bounded(1, limit=2**14)  # pixels, as the model sees it
    root: str | None = None  # folder with train/CLASS/*.jpg and val/CLASS/*.jpg, or train.parquet and val.parquet
    hub: str | None = None  # data set on the Hugging Face hub, used if there is no root
    hub_config: str | None = None  # which configuration of the data set, if it has several
    where: str = ""  # where to get the data; printed when it is absent or incomplete
    num_val: int | None = bounded(1, default=None)  # expected validation images; None: any number
    train_split: str = "train"  # of tables and folders
    eval_split: str = "validation"  # what is scored; "validation" is also called val, valid or dev
    image_column: str | None = None  # of tables; None: the only one that qualifies
    label_column: str | None = None
    # Share of each class's training images that are scored in place of the validation images, and not trained on: for
    # when there are none, or to choose hyperparameters without looking at them.
    held_out: float = bounded(0, 0.9, default=0.0)
    held_out_seed: int | None = bounded(0, default=None)  # draws them; None: equally spaced
    in_chans: int = bounded(1, default=3)  # 1: read images as grey
    bits: int | None = bounded(8, 16, default=None)  # per pixel of 16-bit grey; None: 16, if that is plausible
    train_crop: str = "rrc"  # rrc: random resized crop | shift: by up to one pixel
    hflip: float = bounded(0, 1, default=0.5)  # probability
    auto_augment: str | None = None  # timm's notation, such as rand-m9-mstd0.5-inc1
    # Of brightness, contrast, saturation; timm, like DeiT, ignores it with auto_augment.
    color_jitter: float = bounded(0, default=0.0)
    random_erasing: float = bounded(0, 1, default=0.0)  # probability
    mixup: float = bounded(0, default=0.0)  # alpha of the beta distribution; 0: off
    cutmix: float = bounded(0, default=0.0)  # likewise; with both on, one is drawn per batch
    mix_group: int | None = bounded(2, default=None)  # images that share such a draw, even; None: the whole batch
    repeated_augmentation: int = bounded(1, default=1)  # times each image occurs in a row
    # Side of evaluation's centre crop, as a share of the resized image's shorter side.
    crop_pct: float = bounded(0.01, 1, default=0.875)
    interpolation: str = "bicubic"
    mean: list[float] = field(default_factory=lambda: list(IMAGENET_MEAN))  # per channel, for pixels in [0, 1]
    std: list[float] = field(default_factory=lambda: list(IMAGENET_STD))
    cache_dir: str = "~/.cache/multimax"  # where folder listings are kept
    num_workers: int = bounded(0, default=2, limit=1024)  # processes that load images, for each training process
    # Share of left-out files, or of unreadable images, above which no run starts.
    max_left_out: float = bounded(0, 1, default=0.5)

    @property
    def mode(self) -> str:
        """Pillow's name for the mode that images are read in."""
        return "L" if self.in_chans == 1 else "RGB"


def fingerprint(train: ImageSource, val: ImageSource) -> Fingerprint:
    """Classes and their counts and, for each split, a digest of names, sizes, labels and part of the contents.

    All contents are read if they have fewer than about ``SAMPLE`` bytes, otherwise those of equally spaced images.
    Every file's size is looked up, which for a folder of ImageNet's size takes seconds on a local disk and longer on a
    network disk.
    """
    found: Fingerprint = {"images": type(train).__name__.removesuffix("Source").lower(), "classes": train.classes}
    for split, source in (("training", train), ("validation", val)):
        labels = np.array([source.label(i) for i in range(len(source))], dtype="<i8")
        counts = np.bincount(labels, minlength=len(source.classes)).tolist()
        found[f"{split} images"] = dict(zip(source.classes, counts, strict=True))
        few = [len(content(source, i)) for i in at_equal_distances(source, 64)]
        sample = SAMPLE * len(few) // max(1, sum(few))
        contents = (content(source, i) for i in at_equal_distances(source, sample))
        found[f"{split} contents"] = digest((labels.tobytes(), *source.listing(), *contents))
    return found


def at_equal_distances(source: ImageSource, most: int) -> range:
    return range(0, len(source), max(1, math.ceil(len(source) / max(1, most))))


def content(source: ImageSource, index: int) -> bytes:
    try:
        return source.encoded(index)
    except OSError:
        return b""


def empty_classes(source: ImageSource, split: str) -> LeftOut:
    """Classes that a table names but has no rows of; folders without images are refused."""
    filled = {source.label(i) for i in range(len(source))}
    reasons = {f"no image of {name}": 1 for label, name in enumerate(source.classes) if label not in filled}
    if len(reasons) > 3:
        reasons = {"no image": len(reasons)}
    return LeftOut(f"classes of the {split} images", len(source.classes), reasons, "are empty", limited=False)


def unreadable(source: ImageSource, split: str) -> tuple[LeftOut, int]:
    """Decode all images, or ``INSPECTED`` of them: which cannot be decoded, and the brightest 16-bit pixel."""

    def look(index: int) -> tuple[str | None, int]:
        try:
            picture = source.open(index)
        except UnreadableImage as error:
            return str(error), 0
        try:
            picture.pixels(reduced=8)  # this shows just as well whether a JPEG is whole, in a quarter of the time
        except UnreadableImage as error:
            return str(error), picture.brightest
        return None, picture.brightest

    indices = at_equal_distances(source, INSPECTED)
    looked_at = waiting(f"a look at {len(indices):,} {split} images")
    with looked_at, ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        seen = list(pool.map(look, indices))
    what = f"{split} images" + (f", as far as every {indices.step}th was looked at," if indices.step > 1 else "")
    broken = [(i, why) for i, (why, _) in zip(indices, seen, strict=True) if why]
    first = source.name(broken[0][0]) if broken else ""
    found = LeftOut(what, len(indices), Counter(why for _, why in broken), "cannot be read", first)
    return found, max((brightest for _, brightest in seen), default=0)


def check_bits(config: ImageData, brightest: int) -> None:
    """Raise UserError if 16-bit images are so dark that they may have fewer bits, and nobody said how many."""
    fewer = next((bits for bits in FEWER if brightest < 1 << bits), None)
    if config.bits is None and brightest and fewer:
        raise UserError(
            f"the brightest pixel of the 16-bit images is {brightest}, which would be dark: set data.bits={fewer} if "
            f"{(1 << fewer) - 1} is white, or data.bits=16"
        )


def not_decoded(source: ImageSource, split: str) -> LeftOut:
    """The images that ``unreadable`` does not look at."""
    indices = at_equal_distances(source, INSPECTED)
    rest = {f"of more than {INSPECTED:,} every {indices.step}th is": len(source) - len(indices)}
    return LeftOut(f"{split} images", len(source), rest, "are not decoded before training", limited=False)


def open_images(config: ImageData) -> tuple[ImageSource, ImageSource]:
    """Training and validation images, checked against what the configuration expects.

    Raises:
        UserError: the data is absent or incomplete; says what was found, what was expected and where to get it.
    """
    if config.in_chans not in (1, 3):
        raise UserError(f"data.in_chans={config.in_chans}: images are read as grey (1) or in colours (3)")
    if not len(config.mean) == len(config.std) == config.in_chans:
        raise UserError(f"data.mean and data.std must have as many entries as data.in_chans={config.in_chans}")
    if not all(value > 0 for value in config.std):
        raise UserError(f"data.std={config.std}: pixels are divided by it, so that it must be above 0")
    for key in ("train_split", "eval_split"):
        if not re.fullmatch(r"[\w.-]+", getattr(config, key)):
            raise UserError(f"data.{key}={getattr(config, key)}: names of splits have letters, digits and _.- alone")
    try:
        if has_target(config):
            train, val = own_images(build("data", config, offered={}))
        else:
            train, val = SOURCES.find("data.source", config.source)(config)
        _check(config, train, val)
        for source in (train, val):
            if source is not None:
                source.bits = config.bits
        if config.held_out:
            train, val = hold_out(train, config.held_out, config.held_out_seed)
            if not len(val):
                raise UserError(f"data.held_out={config.held_out} of each class is less than one of its images")
        assert val is not None
    except OSError as error:
        raise UserError(f"{error.filename or config.root} cannot be read: {error.strerror}") from None
    except UserError as error:
        raise UserError(f"{error}; {config.where}" if config.where else str(error)) from error
    return train, val


def hold_out(train: ImageSource, share: float, seed: int | None = None) -> tuple[PartSource, PartSource]:
    """The training images split into the rest and a ``share`` of each class, equally spaced or drawn by a seed."""
    order = range(len(train)) if seed is None else np.random.default_rng(seed).permutation(len(train))
    parts: tuple[list[int], list[int]] = [], []
    seen: Counter[int] = Counter()
    for index in map(int, order):
        label = train.label(index)
        seen[label] += 1
        parts[int(seen[label] * share) - int((seen[label] - 1) * share)].append(index)
    return PartSource(train, sorted(parts[0])), PartSource(train, sorted(parts[1]))


def held_out(source: ImageSource) -> LeftOut:
    """What is reported about images held out of training."""
    here, whole = len(source), len(source.whole) if isinstance(source, PartSource) else len(source)
    reason = {"they are scored in the place of validation images": whole - here}
    return LeftOut("training images", whole, reason, "are held out", limited=False)


def own_images(made: Any) -> tuple[ImageSource, ImageSource]:
    """The training and validation images that a ``_target_`` made. Raises UserError."""
    if not (isinstance(made, tuple) and len(made) == 2 and all(isinstance(part, ImageSource) for part in made)):
        raise UserError("data: a data set of images is a pair of ImageSources, for training and validation")
    for split, source in zip(("training", "validation"), made, strict=True):
        if repeated := [name for name, count in Counter(source.classes).items() if count > 1]:
            raise UserError(f"data: two classes of the {split} images are called {repeated[0]}")
        for index in range(len(source)):
            if not 0 <= source.label(index) < len(source.classes):
                raise UserError(
                    f"data: {source.name(index)} of the {split} images has label {source.label(index)}, where classes "
                    f"are 0 to {len(source.classes) - 1}"
                )
    return made


def open_digits(config: ImageData) -> tuple[ImageSource, ImageSource]:
    """1,797 scans of 8x8 pixels with 17 grey levels; a fixed fifth of each class is for validation."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    indices = np.arange(len(images))
    splits = train_test_split(indices, test_size=360, stratify=digits.target, random_state=0)
    train, val = (
        ArraySource(
            images[split],
            digits.target[split],
            [f"digit {i}" for i in split],
            [str(i) for i in range(10)],
            config.mode,
        )
        for split in splits
    )
    return train, val


def open_files(config: ImageData) -> tuple[ImageSource, ImageSource | None]:
    if config.root is None:
        if config.hub is None:
            raise UserError("data.root is not set: point it at the images")
        return _open_tables(config.hub, config, name=config.hub_config)
    root = expanded("data.root", config.root)
    if not root.is_dir():
        raise UserError(f"data.root={root} is not a folder")
    for folder in (root, root / "data"):
        splits = (config.train_split, config.eval_split)
        files = {split: shards(folder, split, splits) for split in splits}
        if any(files.values()):
            if config.held_out and not files[config.eval_split]:
                del files[config.eval_split]
            return _open_shards(root, folder, files, config)
    return _open_folders(root, config)


def _open_shards(
    root: Path, folder: Path, files: dict[str, list[str]], config: ImageData
) -> tuple[ImageSource, ImageSource | None]:
    for split, some in files.items():
        if not some:
            raise UserError(f"{folder} has no parquet shards of the {split} split: {OTHERS}")
        check_shards(some)
    # datasets would mistake what it made from another file with this name and time for this one's.
    stats = [(path, os.stat(path)) for some in files.values() for path in some]
    key = digest(f"{Path(path).name} {stat.st_size} {stat.st_ctime_ns}".encode() for path, stat in stats)
    train, val = _open_tables("parquet", config, files, name=f"files-{key}", data_files=files)
    train.beside = beside(root, [Path(path) for some in files.values() for path in some])
    return train, val


def _open_folders(root: Path, config: ImageData) -> tuple[ImageSource, ImageSource | None]:
    for key in ("image_column", "label_column"):
        if getattr(config, key) is not None:
            raise UserError(f"data.{key} is of tables, and data.root={root} holds no parquet shards: leave it out")
    entries = sorted(path.name for path in root.iterdir())
    folders = [name for name in entries if (root / name).is_dir() and not name.startswith(".")]
    train, val = named(config.train_split, folders), named(config.eval_split, folders)
    if train is None and val is None and config.held_out and folders and not any(map(SPLIT.fullmatch, folders)):
        train = ""  # the class folders are in the root itself
    if train is None or (val is None and not config.held_out):
        found = ", ".join(entries[:5]) + (", ..." if len(entries) > 5 else "") if entries else "nothing"
        raise UserError(
            f"data.root={root} holds neither folders {config.train_split}/ and {config.eval_split}/ (or val/) nor such "
            f"parquet shards, but {found}: {OTHERS}"
        )
    try:
        cache = Path(config.cache_dir).expanduser()
    except RuntimeError:  # no home folder: a listing that cannot be cached is made anew
        cache = Path(os.devnull)
    with waiting(f"the images in {root} to be listed"):
        sources = [
            None if name is None else FolderSource(ImageListing(root / name, cache), config.mode)
            for name in (train, val)
        ]
    assert sources[0] is not None
    if train:
        sources[0].beside = beside(root, [root / name for name in (train, val) if name])
    return sources[0], sources[1]


def _open_tables(
    path: str, config: ImageData, files: Mapping[str, Sequence[str]] | None = None, **options: Any
) -> tuple[ImageSource, ImageSource | None]:
    place = config.root or path
    tables = load_tables(path, place, **options)
    names = [named(split, tables) for split in (config.train_split, config.eval_split)]
    if names[0] is None or (names[1] is None and not config.held_out):
        wanted = config.train_split if names[0] is None else config.eval_split
        raise UserError(f"{place} has no {wanted} split, but {', '.join(tables)}: {OTHERS}")
    sources: list[ImageSource] = []
    classes: Classes | None = None
    for name in filter(None, names):
        table = tables[name]
        columns = find_columns(table, name, config.image_column, config.label_column)
        whole = [Part(f"the {name} split of {place}", len(table), table.features[columns.label])]
        parts = parts_of_files(files[name], columns.label) if files else whole
        classes = classes or Classes(table, columns.label, parts[0].where)
        sources.append(TableSource(table, name, config.mode, columns, classes, parts))
    return sources[0], sources[1] if len(sources) > 1 else None


def _check(config: ImageData, train: ImageSource, val: ImageSource | None) -> None:
    place = config.root or config.hub or config.source
    for split, source in (("training", train), ("validation", val)):
        if source is not None and config.num_classes not in (None, len(source.classes)):
            count, first = len(source.classes), ", ".join(source.classes[:3])
            raise UserError(
                f"{place} has {count} {split} classes ({first}{', ...' if count > 3 else ''}), "
                f"but data.num_classes={config.num_classes}: for data of your own say data.num_classes={count}, or null"
            )
        looks = Counter(unicodedata.normalize("NFC", name) for name in source.classes) if source is not None else {}
        if twice := [name for name, count in looks.items() if count > 1]:
            raise UserError(
                f"{place} has two {split} classes called {twice[0]}, in two forms of Unicode: make them one"
            )
    if len(train.classes) < 2:
        raise UserError(f"{place} has one class, {train.classes[0]}: there is nothing to tell apart")
    if val is None:
        return
    if not len(val):
        raise UserError(f"{place} has no validation image")
    if sorted(train.classes) != sorted(val.classes):
        differing = sorted(set(train.classes) ^ set(val.classes))[:5]
        if len({unicodedata.normalize("NFC", name) for name in differing}) < len(differing):
            differing = [*map(ascii, differing)]  # names that look alike
        raise UserError(f"{place} has different classes in training and validation: {', '.join(differing)}")
    if config.num_val is not None and len(val) != config.num_val:
        raise UserError(f"{place} has {len(val)} validation images, but data.num_val={config.num_val}")
