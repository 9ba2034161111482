"""What lies beside images in a folder, and images that cannot be read, are counted.

Labels and caches are checked.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from multimax.suite import cli
from multimax.suite.composition import compose_configuration, typed
from multimax.suite.data.images import ImageData, open_images
from multimax.suite.engine.run_writer import RunWriter
from multimax.suite.engine.trainer import Trainer
from multimax.suite.errors import UserError
from multimax.suite.tasks import task_module
from multimax.suite.tasks.base import Shard

CONFIG = ImageData(name="pets", source="files", num_classes=2, image_size=8, num_workers=0)


pytestmark = pytest.mark.usefixtures("own_cache")


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (12, 12, 3), dtype=np.uint8)


def folders(root: Path, count: int = 10) -> Path:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(pixels(i)).save(root / split / name / f"{i}.png")
    return root


def shards(root: Path, labels: list[int | None], seed: int = 0) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    images = [Image.fromarray(pixels(seed + i)) for i in range(len(labels))]
    for split in ("train", "val"):
        table = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        table.to_parquet(root / f"{split}.parquet")
    return root


def task(root: Path, *overrides: str):
    keys = ["task=deit", "scale=small", "data.num_classes=2", "data.image_size=16", "training.batch_size=4"]
    config = typed(compose_configuration([*keys, f"data.root={root}", "data.num_workers=0", *overrides]))
    return task_module("deit").create(config)


def test_nothing_is_said_of_a_folder_of_images_alone(tmp_path):
    assert task(folders(tmp_path)).left_out == []


def test_all_that_is_no_image_is_counted_and_said(tmp_path):
    root = folders(tmp_path)
    train = root / "train"
    (train / "README.md").touch()
    (train / "cat" / "notes.txt").touch()
    (train / "cat" / "0.gif").touch()
    (train / "cat" / "LICENSE").touch()
    (train / "cat" / "._0.png").touch()
    (train / ".ipynb_checkpoints").mkdir()
    (train / "dog" / ".hidden").mkdir()
    (train / "dog" / ".hidden" / "0.png").touch()
    (train / "dog" / "3.png").write_bytes((train / "dog" / "3.png").read_bytes()[:90])
    (train / "dog" / "4.png").write_bytes(b"")
    (train / "dog" / "5.png").write_bytes(b"no image")
    (train / "dog" / "6.png").unlink()
    os.mkfifo(train / "dog" / "6.png")
    found = task(root).left_out
    assert [str(one) for one in found] == [
        "7 of 27 files among the training images are left out, because: hidden (2); not in the folder of a class (2); "
        "file without a suffix (1); suffix .gif (1); suffix .txt (1)",
        "4 of 20 training images cannot be read, because: image file is truncated (1); it is a pipe or a device, not a "
        "file (1); not an image in a format that Pillow knows (1); the file is empty (1); the first is "
        f"{train / 'dog' / '3.png'}",
    ]
    summary = task(root).summary()["left_out"]
    assert [(one["count"], one["total"]) for one in summary] == [(7, 27), (4, 20)]
    with pytest.raises(UserError, match=r"7 of 27 files .* more than the share data.max_left_out=0.1"):
        task(root, "data.max_left_out=0.1").left_out  # noqa: B018


def test_the_order_is_that_of_torchvision(tmp_path):
    from torchvision.datasets import ImageFolder

    root = folders(tmp_path)
    for name in ("b/x.PNG", "b/a/z.jpeg", "a.webp", "a/y.tif"):
        path = root / "train" / "dog" / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels(0)).save(path)
    train, _ = open_images(replace(CONFIG, root=str(root)))
    assert [(train.name(i), train.label(i)) for i in range(len(train))] == ImageFolder(str(root / "train")).samples


@pytest.mark.parametrize(("label", "said"), [(None, "has no label"), (-1, "has no label")])
def test_a_row_without_a_label_is_refused_at_once(label, said, tmp_path):
    with pytest.raises(UserError, match=f"row 3 of the train split {said}, where classes are 0 to 1: one of 1 such"):
        open_images(replace(CONFIG, root=str(shards(tmp_path, [0, 1, 0, label, 1]))))


def test_another_file_of_the_same_name_size_and_time_is_another_data_set(tmp_path):
    """datasets caches what it made of a file under the file's name and time."""
    root = shards(tmp_path / "pets", [0, 1] * 4)
    config = replace(CONFIG, root=str(root))
    first = open_images(config)[0].load(0).tobytes()
    path = root / "train.parquet"
    stat = path.stat()
    other = shards(tmp_path / "others", [0, 1] * 4, seed=50) / "train.parquet"
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert open_images(config)[0].load(0).tobytes() != first


def test_channels_that_no_image_has_are_refused():
    with pytest.raises(UserError, match=r"data\.in_chans=4: images are read as grey"):
        open_images(replace(CONFIG, in_chans=4))


def test_digits_serve_a_model_of_colours():
    train, _ = open_images(replace(CONFIG, source="digits", num_classes=10))
    assert train.load(0).mode == "RGB"


def test_a_class_that_a_table_names_and_has_no_row_of_is_said(tmp_path):
    found, _ = task(shards(tmp_path / "pets", [0] * 8)).left_out
    assert not found.limited
    assert str(found).startswith("1 of 2 classes of the training images are empty, because: no image of dog (1)")


def test_too_many_unreadable_images_end_a_run_that_had_not_looked_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr("multimax.suite.data.images.INSPECTED", 1)
    root = folders(tmp_path)
    for index in range(3, 6):
        (root / "train" / "dog" / f"{index}.png").write_bytes(b"no image")
    opened = task(root, "data.max_left_out=0.05", "training.micro_batch_size=2")
    assert [str(one) for one in opened.left_out] == [
        f"19 of 20 {split} images are not decoded before training, because: of more than 1 every 20th is (19)"
        for split in ("training", "validation")
    ]
    with pytest.raises(UserError, match=r"3 of 40 images cannot be read, the last is .*\.png: .*max_left_out=0\.05"):
        for _ in opened.train_batches(0, Shard()):
            pass


def test_what_stands_beside_the_splits_is_said(tmp_path):
    root = folders(tmp_path / "pets")
    for name in ("extra", ".cache"):
        (root / name).mkdir()
    (root / "labels.csv").touch()
    assert [str(one) for one in task(root).left_out] == [
        f"3 of 5 files and folders in {root} are left out, because: of no split that is read (2); hidden (1); the "
        "first is extra"
    ]


def deep(root: Path, brightest: int, count: int = 2) -> Path:
    """Images in 16-bit grey; the first of each class has a pixel of value ``brightest``."""
    for path in folders(root, count).rglob("*.png"):
        values = np.random.default_rng(0).integers(0, 4999, (12, 12)).astype(np.uint16)
        values[0, 0] = brightest if path.stem == "0" else 5000
        Image.fromarray(values).save(path)
    return root


@pytest.mark.parametrize(("brightest", "bits"), [(255, 8), (4000, 12), (16000, 14)])
def test_images_of_fewer_bits_in_16_are_asked_about(tmp_path, brightest, bits):
    root = tmp_path / "pets"
    for path in deep(root, 0).rglob("*.png"):
        Image.fromarray(np.linspace(0, brightest, 144).reshape(12, 12).astype(np.uint16)).save(path)
    said = f"the brightest pixel of the 16-bit images is {brightest}, .* data.bits={bits} if .* or data.bits=16"
    with pytest.raises(UserError, match=said):
        task(root).left_out  # noqa: B018
    with pytest.raises(UserError, match=said):
        task(root).scored_left_out()
    for given in (bits, 16):
        assert task(root, f"data.bits={given}").left_out == []
    assert (np.asarray(open_images(replace(CONFIG, root=str(root), bits=bits))[0].load(0)) > 245).any()


def test_one_bright_image_is_enough(tmp_path):
    assert task(deep(tmp_path / "pets", 20000)).left_out == []
    assert [one.reasons for one in task(deep(tmp_path / "more", 20000), "data.bits=14").left_out] == [
        {"a pixel of 20000, which has more than data.bits=14 bits": 2}
    ] * 2


def test_evaluation_says_what_is_left_out_of_what_it_scores_and_of_nothing_else(tmp_path, monkeypatch, capsys):
    run, data = tmp_path / "run", folders(tmp_path / "pets")
    opened = task(data, f"run_dir={run}", "training.epochs=null", "training.steps=1", "model.depth=1")
    Trainer(opened, RunWriter(run, opened.config)).run()
    for path in (data / "train").rglob("*.png"):
        path.write_bytes(b"no image")
    (data / "val" / "cat" / "notes.txt").touch()
    (data / "val" / "cat" / "0.png").write_bytes(b"no image")
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["evaluate.py", str(run)])
    cli.evaluate()
    printed, said = capsys.readouterr()
    assert json.loads(printed)["images"] == 19
    assert said.splitlines()[:2] == [
        "1 of 21 files among the scored images are left out, because: suffix .txt (1)",
        "1 of 20 scored images cannot be read, because: not an image in a format that Pillow knows (1); the first is "
        f"{data / 'val' / 'cat' / '0.png'}",
    ]
