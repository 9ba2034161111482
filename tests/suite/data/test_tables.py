"""Labelled images in layouts that others have: columns and splits of other names, no validation split."""

import io
from dataclasses import replace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from multimax.suite.composition import compose_configuration, typed
from multimax.suite.data.image_sources import ArraySource
from multimax.suite.data.images import ImageData, open_images, own_images
from multimax.suite.errors import UserError
from multimax.suite.tasks import task_module

CONFIG = ImageData("pets", "files", None, 8, num_workers=0)
LABELS = [0, 1, 2] * 4


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def png(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PICTURES = [png(i) for i in range(len(LABELS))]
STRUCTS = [{"bytes": file, "path": None} for file in PICTURES]
NAMES = datasets.ClassLabel(names=["bird", "cat", "dog"])
COARSE = datasets.ClassLabel(names=["big", "small"])


def table(columns, features=None) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features) if features else None)


def marked(image="image", label="label") -> datasets.Dataset:
    return table({image: STRUCTS, label: LABELS}, {image: datasets.Image(), label: NAMES})


def raw(**columns) -> pa.Table:
    """Parquet as another program writes it, with nothing of Hugging Face's in it."""
    return pa.table(columns)


BYTES = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TABLES = {
    "image and label": (marked(), ["bird", "cat", "dog"]),
    "img and fine_label": (marked("img", "fine_label"), ["bird", "cat", "dog"]),
    "picture and kind, by their types": (marked("picture", "kind"), ["bird", "cat", "dog"]),
    "bytes and whole numbers": (raw(jpg=PICTURES, label=[label + 5 for label in LABELS]), ["5", "6", "7"]),
    "structs and text": (raw(image=pa.array(STRUCTS, BYTES), target=["xyz"[i] for i in LABELS]), ["x", "y", "z"]),
}


def write(root, splits):
    root.mkdir(parents=True, exist_ok=True)
    for name, one in splits.items():
        if isinstance(one, pa.Table):
            pyarrow.parquet.write_table(one, root / f"{name}.parquet")
        else:
            one.to_parquet(root / f"{name}.parquet")
    return replace(CONFIG, root=str(root))


@pytest.mark.parametrize("layout", TABLES)
def test_columns_are_recognised_where_they_can_be_no_other(tmp_path, layout):
    content, classes = TABLES[layout]
    train, val = open_images(write(tmp_path / "pets", {"train": content, "validation": content}))
    for source in (train, val):
        assert source.classes == classes
        assert [source.label(i) for i in range(len(source))] == LABELS
        assert [source.encoded(i) for i in range(len(source))] == PICTURES
        assert len(list(source.listing())) == len(LABELS)


def test_columns_that_could_be_several_are_asked_for(tmp_path):
    both = table(
        {"img": STRUCTS, "fine": LABELS, "coarse": [0, 1] * 6},
        {"img": datasets.Image(), "fine": NAMES, "coarse": COARSE},
    )
    config = write(tmp_path / "pets", {"train": both, "test": both})
    config = replace(config, eval_split="test")
    with pytest.raises(
        UserError, match=r"fine and coarse of the train split could be its labels: set data.label_column"
    ):
        open_images(config)
    assert open_images(replace(config, label_column="coarse"))[1].classes == ["big", "small"]
    with pytest.raises(UserError, match=r"data.label_column=img is no column of labels .* img \(Image\), fine \(Class"):
        open_images(replace(config, label_column="img"))
    with pytest.raises(UserError, match=r"data.image_column=fine is no column of images"):
        open_images(replace(config, image_column="fine", label_column="fine"))
    numbers = raw(image=PICTURES, age=LABELS)
    with pytest.raises(
        UserError, match=r"no column that is sure to hold labels, but image \(binary\), age \(integer\)"
    ):
        open_images(write(tmp_path / "ages", {"train": numbers, "val": numbers}))
    assert open_images(replace(write(tmp_path / "ages", {}), label_column="age"))[0].classes == ["0", "1", "2"]


def test_labels_of_one_s_own_are_checked(tmp_path):
    pictures = np.zeros((2, 8, 8), np.uint8)
    for labels, classes, said in (
        ([0, 2], ["a", "b"], "b.png of the training .* label 2"),
        ([0, 1], ["a", "a"], "two"),
    ):
        source = ArraySource(pictures, np.array(labels), ["a.png", "b.png"], classes, "L")
        with pytest.raises(UserError, match=said):
            own_images((source, source))
    names = ["a", "b"]
    for images, labels, said in (
        (pictures / 255, [0, 1], "images are float64"),
        (pictures[..., None], [0, 1], r"uint8 \[2, 8, 8, 1\]"),
        (pictures, [0.5, 1], "float64 labels"),
        (pictures, [0], "1 int64 labels of 2 images"),
    ):
        with pytest.raises(UserError, match=said):
            ArraySource(images, np.array(labels), names, names, "L")


@pytest.mark.parametrize("layout", ["parquet", "hub", "folder", "classes alone"])
def test_without_a_validation_split_one_is_named_or_held_out(tmp_path, monkeypatch, layout):
    root = tmp_path / "pets"
    config = replace(CONFIG, root=str(root))
    if layout == "parquet":
        write(root, {"train": marked(), "test": marked()})
    elif layout == "hub":
        tables = datasets.DatasetDict(train=marked(), test=marked())
        monkeypatch.setattr(datasets, "load_dataset", lambda path, **options: tables)
        config = replace(CONFIG, hub="somebody/pets")
    else:
        for split in ("train", "test") if layout == "folder" else ("",):
            for i, label in enumerate(LABELS):
                path = root / split / NAMES.names[label] / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(PICTURES[i])
    with pytest.raises(UserError, match=r"data.eval_split name others.* data.held_out=0.1 scores a tenth"):
        open_images(config)
    if layout != "classes alone":
        assert [len(source) for source in open_images(replace(config, eval_split="test"))] == [12, 12]
    train, val = open_images(replace(config, held_out=0.25))
    assert (len(train), len(val)) == (9, 3)
    assert sorted(val.label(i) for i in range(3)) == [0, 1, 2]
    drawn = [open_images(replace(config, held_out=0.25, held_out_seed=seed))[1] for seed in (1, 1, 2, 3)]
    kept = [{source.encoded(i) for i in range(3)} for source in drawn]
    assert kept[0] == kept[1]
    assert len({frozenset(one) for one in kept}) > 1
    assert all(sorted(source.label(i) for i in range(3)) == [0, 1, 2] for source in drawn)
    with pytest.raises(UserError, match=r"data.held_out=0.1 of each class is less than one"):
        open_images(replace(config, held_out=0.1))


def test_what_is_held_out_is_said_and_the_number_of_classes_is_that_of_the_data(tmp_path):
    write(tmp_path / "pets", {"train": marked()})
    keys = ["task=deit", "scale=small", "data=images", f"data.root={tmp_path / 'pets'}", "data.held_out=0.25"]
    keys += ["data.image_size=16", "data.num_workers=0", "training.batch_size=4", "model.depth=1"]
    task = task_module("deit").create(typed(compose_configuration(keys), overrides=keys))
    assert [str(one) for one in task.left_out] == [
        "3 of 12 training images are held out, because: they are scored in the place of validation images (3)"
    ]
    assert task.build_model().backbone.head.weight.shape[0] == 3
    for folder in ("train2017", "Val2017"):
        (tmp_path / "coco" / folder).mkdir(parents=True)
    with pytest.raises(UserError, match="but Val2017, train2017"):  # which are no classes
        open_images(replace(CONFIG, root=str(tmp_path / "coco"), held_out=0.5))
    with pytest.raises(UserError, match=r"data\.label_column is of tables"):
        open_images(replace(CONFIG, root=str(tmp_path), label_column="label"))
