import io
from dataclasses import replace
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from multimax.suite.data.augment import Normalise
from multimax.suite.data.image_dataset import ImageDataset
from multimax.suite.data.images import ImageData, open_images
from multimax.suite.data.loading import EpochOrder, eval_batches, train_batches
from multimax.suite.data.pixels import UnreadableImage
from multimax.suite.errors import UserError

CLASSES = ["bird", "cat", "dog"]
CONFIG = ImageData(
    name="pets", source="files", num_classes=3, image_size=8, where="the shelter has them", num_val=6, num_workers=0
)


pytestmark = pytest.mark.usefixtures("own_cache")


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def pets(split: str, broken: tuple[int, ...] = ()) -> list[tuple[str, int, bytes]]:
    """Name, label and file of each image: four per class for training and two for validation.

    Those whose numbers are in ``broken`` are cut short.
    """
    count, first = {"train": (4, 0), "val": (2, 100)}[split]
    files = [(f"{i}.jpg", i // count, jpeg(first + i)) for i in range(3 * count)]
    return [(name, label, file[:-20] if i in broken else file) for i, (name, label, file) in enumerate(files)]


def write_folder(root: Path, split: str, images: list[tuple[str, int, bytes]]) -> None:
    for name, label, file in images:
        path = root / split / CLASSES[label] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file)


def write_shards(root: Path, split: str, images: list[tuple[str, int, bytes]], shards: int = 2) -> None:
    root.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    table = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": file, "path": name} for name, _, file in images],
            "label": [label for _, label, _ in images],
        },
        features=features,
    )
    for i in range(shards):
        table.shard(shards, i, contiguous=True).to_parquet(root / f"{split}-{i:05d}-of-{shards:05d}.parquet")


def write(layout: str, root: Path, broken: tuple[int, ...] = ()) -> ImageData:
    """Write pets under ``root``; returns the configuration that opens them.

    ``broken`` holds for both splits.
    """
    if layout == "folder":
        write_folder(root, "train", pets("train", broken))
        write_folder(root, "val", pets("val", broken))
    else:
        write_shards(root / "data" if layout == "hub" else root, "train", pets("train", broken))
        write_shards(root / "data" if layout == "hub" else root, "validation", pets("val", broken))
    return replace(CONFIG, hub="someone/pets") if layout == "hub" else replace(CONFIG, root=str(root))


@pytest.mark.parametrize("layout", ["folder", "parquet", "hub"])
def test_every_layout_gives_the_same_images(layout: str, tmp_path: Path, capfd, monkeypatch):
    load = datasets.load_dataset
    hub = {"someone/pets": str(tmp_path / "pets")}
    monkeypatch.setattr(datasets, "load_dataset", lambda path, **options: load(hub.get(path, path), **options))
    config = write(layout, tmp_path / "pets")
    capfd.readouterr()
    train, val = open_images(config)
    assert train.classes == val.classes == CLASSES
    for source, split in ((train, "train"), (val, "val")):
        expected = sorted(pets(split), key=lambda image: (image[1], image[0]))
        assert len(source) == len(expected)
        found = {source.name(i): (source.label(i), source.load(i)) for i in range(len(source))}
        for name, label, file in expected:
            (match,) = [found[key] for key in found if Path(key.rstrip(")").split("(")[-1]).name == name]
            assert match[0] == label
            assert match[1].mode == "RGB"
            assert match[1].tobytes() == Image.open(io.BytesIO(file)).tobytes()
    assert capfd.readouterr() == ("", "")


def test_grey_images_on_request(tmp_path: Path):
    config = replace(write("folder", tmp_path), in_chans=1, mean=[0.5], std=[0.5])
    source, _ = open_images(config)
    assert source.load(0).mode == "L"
    assert ImageDataset(source, config, training=True)[0].image.shape == (8, 8, 1)


@pytest.mark.parametrize("layout", ["folder", "parquet"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_image_is_named_and_skipped(layout: str, num_workers: int, tmp_path: Path):
    config = write(layout, tmp_path, broken=(1, 5))
    train, val = open_images(config)
    with pytest.raises(UnreadableImage, match="truncated"):
        train.load(1)
    assert train.label(1) == 0

    dataset = ImageDataset(train, config, training=True)
    order = EpochOrder(num_examples=12, batch_size=12, seed=0)
    ((batch,),) = islice(train_batches(dataset, order, start_step=0, seed=0, num_workers=num_workers), 1)
    assert sorted(batch.skipped) == sorted(f"{train.name(i)}: image file is truncated" for i in (1, 5))
    next_readable = {1: 2, 5: 6}
    assert batch.targets.tolist() == [train.label(next_readable.get(i, i)) for i in order.batch(0)]
    assert batch.images.shape == (12, 8, 8, 3)

    batches = list(eval_batches(ImageDataset(val, config, training=False), 1, num_workers=num_workers))
    assert [image.split(": ")[0] for batch in batches for image in batch.skipped] == [val.name(1), val.name(5)]
    assert [batch.images.shape for batch in batches] == [(int(i not in (1, 5)), 8, 8, 3) for i in range(6)]
    assert [label for batch in batches for label in batch.targets.tolist()] == [0, 1, 1, 2]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_and_resuming_make_the_same_images(num_workers: int, tmp_path: Path):
    config = replace(write("folder", tmp_path), auto_augment="rand-m9-mstd0.5-inc1", random_erasing=0.5)
    dataset, normalise = ImageDataset(open_images(config)[0], config, training=True), Normalise(config)
    order = EpochOrder(num_examples=12, batch_size=6, seed=0)

    def images(start_step: int, **options) -> list[torch.Tensor]:
        batches = islice(train_batches(dataset, order, start_step=start_step, seed=0, **options), 3 - start_step)
        return [normalise(batch, torch.device("cpu")).images for (batch,) in batches]

    whole = images(0)
    assert all(map(torch.equal, whole, images(0, num_workers=num_workers)))
    assert all(map(torch.equal, whole[1:], images(1, num_workers=num_workers)))


def test_a_lost_disk_is_not_a_broken_image(tmp_path: Path):
    config = write("folder", tmp_path, broken=tuple(range(12)))
    dataset = ImageDataset(open_images(config)[0], config, training=True)
    with pytest.raises(UserError, match="in a row cannot be read"):
        dataset[0]


def refused(config: ImageData) -> str:
    with pytest.raises(UserError) as caught:
        open_images(config)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(config.where)
    return message


def test_absent_data_are_refused(tmp_path: Path):
    assert "is not a folder" in refused(replace(CONFIG, root=str(tmp_path / "nowhere")))
    assert "but nothing" in refused(replace(CONFIG, root=str(tmp_path)))
    assert "data.root is not set" in refused(CONFIG)
    assert "choose one of digits, files" in refused(replace(CONFIG, source="imagenet", where=""))
    assert "data.in_chans=1" in refused(replace(CONFIG, in_chans=1, where=""))
    assert "cannot load someone/pets" in refused(replace(CONFIG, hub="someone/pets"))


def test_an_incomplete_folder_is_refused(tmp_path: Path):
    config = write("folder", tmp_path)
    assert "3 training classes" in refused(replace(config, num_classes=4))
    assert "6 validation images, but data.num_val=50000" in refused(replace(config, num_val=50000))
    for path in (tmp_path / "val" / "dog").iterdir():
        path.unlink()
    assert "val/dog has no image" in refused(config)
    (tmp_path / "val" / "dog").rename(tmp_path / "val" / "fox")
    (tmp_path / "val" / "fox" / "1.jpg").write_bytes(jpeg(0))
    assert "different classes in training and validation: dog, fox" in refused(config)
    (tmp_path / "val").rename(tmp_path / "test")
    assert "neither folders train/ and validation/ (or val/)" in refused(config)
    (tmp_path / "val").mkdir()
    assert "has no folder of a class" in refused(config)
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(jpeg(0))
    assert "sorted into one folder for each class" in refused(config)


def test_incomplete_shards_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture):
    config = write("parquet", tmp_path)
    capfd.readouterr()
    second = tmp_path / "train-00001-of-00002.parquet"
    content = second.read_bytes()
    second.unlink()
    assert "has 1 of the 2 parquet shards of the train split" in refused(config)
    second.write_bytes(content[: len(content) // 2])
    assert f"{second} cannot be read: Parquet" in refused(config)
    assert capfd.readouterr() == ("", "")
    datasets.Dataset.from_dict({"image": [], "label": []}).to_parquet(second)
    assert f"{second} has no rows" in refused(config)
    for path in tmp_path.glob("*.parquet"):
        datasets.Dataset.from_dict({"img": ["a"], "label": [0]}).to_parquet(path)
    assert "no column that is sure to hold images, but img (string), label (integer)" in refused(config)
    for path in tmp_path.glob("validation-*"):
        path.unlink()
    assert "no parquet shards of the validation split" in refused(config)


def test_digits_are_split_the_same_way_every_time():
    config = replace(CONFIG, source="digits", num_classes=10, num_val=360, in_chans=1, mean=[0.3], std=[0.4])
    train, val = open_images(config)
    assert (len(train), len(val)) == (1437, 360)
    assert len({source.name(i) for source in (train, val) for i in range(len(source))}) == 1797
    labels = np.bincount([val.label(i) for i in range(360)])
    assert labels.min() >= 34  # a fifth of each class; the smallest has 174
    assert labels.max() <= 37
    image = train.load(0)
    assert image.size == (8, 8)
    assert image.mode == "L"
    assert image.getextrema()[1] > 200
    again, _ = open_images(config)
    assert [again.name(i) for i in range(1437)] == [train.name(i) for i in range(1437)]


def test_the_configuration_is_one_that_omegaconf_checks():
    schema = OmegaConf.structured(ImageData)
    config = OmegaConf.to_object(
        OmegaConf.merge(schema, {"name": "a", "source": "b", "num_classes": 2, "image_size": 8})
    )
    assert config == ImageData("a", "b", 2, 8)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_what_is_held_out_of_each_class_is_scored_and_not_trained_on(tmp_path, share):
    for split in ("train", "val"):
        write_folder(tmp_path, split, pets(split))
    config = replace(CONFIG, root=str(tmp_path))
    whole, _ = open_images(config)
    parts = open_images(replace(config, held_out=share))
    kept, scored = ([part.encoded(i) for i in range(len(part))] for part in parts)
    assert sorted(kept + scored) == sorted(whole.encoded(i) for i in range(len(whole)))
    assert not set(kept) & set(scored)
    labels = [parts[1].label(i) for i in range(len(parts[1]))]
    assert [labels.count(label) for label in range(3)] == [4 * share] * 3
    assert len(list(parts[1].listing())) == len(parts[1])
