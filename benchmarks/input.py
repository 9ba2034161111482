"""Images per second that one core augments for DeiT, beside timm's own loader, and where the time goes.

    python -m benchmarks.input [FOLDER] [--images 256] [--batch 32] [--seconds 60] [--quick]

FOLDER has a folder of images for each class. Without it, JPEGs of 500x375 pixels with the spectrum
of photographs are made. What is timed is the work of a loading process up to a finished batch:
decoding, random resized crop, flip, RandAugment and collating. Our loader and timm's default
(``bytes``) leave normalisation and random erasing to the device. Without timm's prefetcher
(``floats``), as in DeiT's own code, they are timed too. Everything runs in one process with one
thread. Handing a batch to another process is not timed; it costs four times as much for floats as
for bytes.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import timm.data
import torch
from PIL import Image
from timm.data import auto_augment

from benchmarks.bench import Benchmark, parser
from multimax.suite.data.augment import draw_erased
from multimax.suite.data.image_dataset import ImageDataset
from multimax.suite.data.image_listing import ImageListing
from multimax.suite.data.image_sources import FolderSource
from multimax.suite.data.images import ImageData
from multimax.suite.data.loading import EpochOrder, preserved_generators, train_batches
from multimax.suite.data.pixels import as_bytes
from multimax.suite.data.row_shifts import OPERATIONS

AUGMENTATION = {"auto_augment": "rand-m9-mstd0.5-inc1", "color_jitter": 0.3, "interpolation": "bicubic"}
ERASING = 0.25


def write_photographs(folder: Path, count: int, width: int, height: int) -> None:
    """JPEGs whose amplitudes fall with frequency as in photographs, in files as large as ImageNet's."""
    generator = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    for number in range(count):
        grey, *colours = (
            np.fft.irfft2(np.fft.rfft2(generator.normal(size=(height, width))) / frequency, s=(height, width))
            for _ in range(4)
        )
        pixels = np.stack([grey + 0.3 * colour for colour in colours], -1)
        pixels = 128 + 55 * (pixels - pixels.mean()) / pixels.std()
        path = folder / f"class {number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, "JPEG", quality=88)


def timms(folder: Path, size: int, batch: int, *, prefetcher: bool) -> Iterator[Any]:
    """Endless batches of timm's loader; with its prefetcher, those that the device gets."""
    with mock.patch.dict(auto_augment.NAME_TO_OP, {name: ours.original for name, ours in OPERATIONS.items()}):
        loader = timm.data.create_loader(
            timm.data.ImageDataset(str(folder)),
            (3, size, size),
            batch,
            is_training=True,
            re_prob=ERASING,
            re_mode="pixel",
            num_workers=0,
            persistent_workers=False,
            use_prefetcher=prefetcher,
            device=torch.device("cpu"),
            **AUGMENTATION,
        )
    while True:
        yield from loader.loader if prefetcher else loader


def ours(dataset: ImageDataset, batch: int) -> Iterator[Any]:
    return train_batches(dataset, EpochOrder(len(dataset), batch, seed=0), start_step=0, seed=0)


def stages(benchmark: Benchmark, dataset: ImageDataset, size: int, case: str, count: int) -> None:
    """Each step by itself, timm's and ours, on the output of the step before."""
    with mock.patch.dict(auto_augment.NAME_TO_OP, {name: ours.original for name, ours in OPERATIONS.items()}):
        geometry, colour, tensor = timm.data.create_transform(
            size, is_training=True, re_prob=ERASING, re_mode="pixel", separate=True, **AUGMENTATION
        )
    mine: Any = dataset.transform.seen.transforms
    crop, flip, randaugment = geometry.transforms[0], geometry.transforms[1], colour
    to_tensor, normalise, erase = tensor.transforms
    source = dataset.source

    def cropped(number: int) -> Image.Image:
        return mine[0](source.open(number))

    numbers = range(min(count, len(source)))
    loaded = [source.load(number) for number in numbers]
    small = [cropped(number) for number in numbers]
    tensors = [to_tensor(image) for image in small]
    normal = [normalise(each.clone()) for each in tensors]
    examples = [dataset[number] for number in numbers]
    steps: list[tuple[str, Callable[..., Any], Callable[..., Any] | None, list[Any], list[Any]]] = [
        ("decode and crop", lambda number: crop(source.load(number)), cropped, list(numbers), list(numbers)),
        ("of which decode", source.load, None, list(numbers), []),
        ("of which crop", crop, None, loaded, []),
        ("flip", flip, mine[1], small, small),
        ("RandAugment", randaugment, mine[2], small, small),
        ("to tensor", to_tensor, as_bytes, small, small),
        ("normalise", normalise, None, tensors, []),
        ("erase", erase, partial(draw_erased, probability=ERASING), normal, [as_bytes(image) for image in small]),
        ("collate", torch.stack, dataset.collate, [normal], [examples]),
    ]
    for name, theirs, own, given, given_to_own in steps:
        calls = [partial(list_of, theirs, given)] + ([partial(list_of, own, given_to_own)] if own else [])
        names = [(name, "timm, floats"), (name, "ours")][: len(calls)]
        with preserved_generators():
            benchmark.measure("steps", case, "", names, calls, units=len(numbers))


def list_of(function: Callable[[Any], Any], given: list[Any]) -> list[Any]:
    return [function(one) for one in given]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("folder", nargs="?", type=Path, help="of images, a folder for each class")
    options.add_argument("--images", type=int, default=256, help="that are made")
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--size", type=int, default=224, help="pixels that the model sees")
    arguments = options.parse_args()
    arguments.device = "cpu"
    width, height = 500, 375
    if arguments.quick:
        arguments.images, arguments.batch, arguments.size, width, height = 8, 4, 32, 80, 60
    torch.set_num_threads(1)
    benchmark = Benchmark("input", arguments)
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.folder or Path(made) / "images"
        if not arguments.folder:
            write_photographs(folder, arguments.images, width, height)
        config = ImageData("input", "files", 2, arguments.size, random_erasing=ERASING, **AUGMENTATION)
        dataset = ImageDataset(FolderSource(ImageListing(folder, Path(made) / "cache"), "RGB"), config, training=True)
        kilobytes = np.mean([len(dataset.source.encoded(i)) for i in range(len(dataset))]) / 1000
        case = f"{len(dataset)} JPEGs of {kilobytes:.0f} kB to {arguments.size} pixels"
        loaders = {
            "timm, bytes": timms(folder, arguments.size, arguments.batch, prefetcher=True),
            "timm, floats": timms(folder, arguments.size, arguments.batch, prefetcher=False),
            "ours": ours(dataset, arguments.batch),
        }
        names = [("whole", way) for way in loaders]
        calls = [partial(next, loader) for loader in loaders.values()]
        benchmark.measure("loader", case, "", names, calls, units=arguments.batch)
        seconds, arguments.seconds = arguments.seconds, arguments.seconds / 8
        stages(benchmark, dataset, arguments.size, case, arguments.batch)
        arguments.seconds = seconds
    benchmark.save()
    whole = {row["way"]: float(row["ratio"]) for row in benchmark.rows if row["part"] == "loader"}
    print(f"images per second and core, over timm's loader: {min(1, whole['timm, floats']) / whole['ours']:.2f}")


if __name__ == "__main__":
    main()
