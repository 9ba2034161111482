"""Labelled images in other layouts: columns and splits with other names, no validation split."""

import io
import re
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


pytestmark = pytest.mark.usefixtures("own_cache")


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
    """A table as another program would write it, without anything of Hugging Face's in it."""
    return pa.table(columns)


BYTES = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TABLES = {
    "image and label": (marked(), ["bird", "cat", "dog"]),
    "img and fine_label": (marked("img", "fine_label"), ["bird", "cat", "dog"]),
    "picture and kind, by their types": (marked("picture", "kind"), ["bird", "cat", "dog"]),
    "bytes and whole numbers": (raw(jpg=PICTURES, label=[label + 5 for label in LABELS]), ["5", "6", "7"]),
    "structs and text": (raw(image=pa.array(STRUCTS, BYTES), target=["xyz"[i] for i in LABELS]), ["x", "y", "z"]),
}


IN_ORDER, REORDERED, OTHERS = ["bird", "cat", "dog"], ["dog", "bird", "cat"], ["bird", "cat", "fish"]


def labelled(kind: str, names: list[str]) -> datasets.Dataset | pa.Table:
    """The pictures with the classes of LABELS, in one of the ways in which tables hold labels."""
    classes = [IN_ORDER[label] for label in LABELS]
    if kind == "names":
        numbers = [names.index(name) if name in names else 2 for name in classes]
        features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
        return table({"image": STRUCTS, "label": numbers}, features)
    column = pa.array(classes).dictionary_encode() if kind == "text, encoded" else classes if kind == "text" else LABELS
    return raw(image=pa.array(STRUCTS, BYTES), label=column)


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
    with pytest.raises(UserError, match="but Val2017, train2017"):  # these are not classes
        open_images(replace(CONFIG, root=str(tmp_path / "coco"), held_out=0.5))
    with pytest.raises(UserError, match=r"data\.label_column is of tables"):
        open_images(replace(CONFIG, root=str(tmp_path), label_column="label"))


@pytest.mark.parametrize("where", ["split", "shard", "split of the hub"])
@pytest.mark.parametrize("names", [IN_ORDER, REORDERED, OTHERS], ids=["same", "reordered", "others"])
def test_labels_of_each_file_mean_what_its_own_names_say(tmp_path, monkeypatch, where, names):
    """datasets would apply the names of the first file to all files."""
    first, second = labelled("names", IN_ORDER), labelled("names", names)
    if where == "split of the hub":
        tables = datasets.DatasetDict(train=first, validation=second)
        monkeypatch.setattr(datasets, "load_dataset", lambda path, **options: tables)
        config = replace(CONFIG, hub="somebody/pets")
    elif where == "split":
        config = write(tmp_path / "pets", {"train": first, "validation": second})
    else:
        shards = {"train-00000-of-00002": first, "train-00001-of-00002": second, "validation": second}
        config = write(tmp_path / "pets", shards)
    if names is OTHERS:
        with pytest.raises(UserError, match=r"has other classes than .*: dog, fish are in one of them alone"):
            open_images(config)
        return
    train, val = open_images(config)
    for source in (train, val):
        found = [source.classes[source.label(i)] for i in range(len(source))]
        assert found == [IN_ORDER[label] for label in LABELS] * (len(source) // len(LABELS))
    assert train.classes == val.classes


@pytest.mark.parametrize(
    ("train", "val"),
    [("text", "text, encoded"), ("names", "numbers"), ("numbers", "names"), ("names", "text"), ("text", "names")],
)
def test_labels_of_other_kinds_are_the_same_text_or_refused(tmp_path, train, val):
    config = write(tmp_path / "pets", {"train": labelled(train, IN_ORDER), "validation": labelled(val, IN_ORDER)})
    if val == "text, encoded":
        sources = open_images(config)
        assert [[source.classes[source.label(i)] for i in range(3)] for source in sources] == [IN_ORDER] * 2
    else:
        with pytest.raises(UserError, match=r"(write both alike|cannot load)"):
            open_images(config)


def test_text_in_another_form_of_unicode_is_the_same_class_and_two_such_names_are_refused(tmp_path):
    forms = ["caf\u00e9", "cafe\u0301"]
    splits = dict(zip(("train", "val"), forms, strict=True))
    texts = {
        split: raw(image=pa.array(STRUCTS, BYTES), label=[form if label else "bar" for label in LABELS])
        for split, form in splits.items()
    }
    assert [source.classes for source in open_images(write(tmp_path / "texts", texts))] == [["bar", forms[0]]] * 2
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=[*forms, "bar"])}
    numbered = table({"image": STRUCTS, "label": LABELS}, features)
    with pytest.raises(UserError, match="two training classes called caf\u00e9, in two forms of Unicode"):
        open_images(write(tmp_path / "names", {"train": numbered, "val": numbered}))
    for split in splits:
        for form in forms:
            (tmp_path / "folders" / split / form).mkdir(parents=True)
            (tmp_path / "folders" / split / form / "0.png").write_bytes(PICTURES[0])
    with pytest.raises(UserError, match="two training classes called"):
        open_images(replace(CONFIG, root=str(tmp_path / "folders"), cache_dir=str(tmp_path)))


FILES = {
    "one of each": (
        ["train", "validation", "test", "extra"],
        r"2 of 4 files and folders in .*: of no split that is read \(2\); the first is extra.parquet",
    ),
    "the hub's": (["data/train-00001-of-00002", "data/train-00000-of-00002", "data/dev"], ""),
    "a part beside the whole": (
        ["train", "train_small", "val"],
        "error: .*train_small.parquet is neither train.parquet nor one of",
    ),
    "of another name": (["train-part0", "val"], "error: .*train-part0.parquet is neither"),
    "whole and in shards": (
        ["train", "train-00000-of-00001", "val"],
        "error: .*train-00000-of-00001.parquet and train.parquet: keep one",
    ),
    "of two sets": (["train-00000-of-00002", "train-00001-of-00003", "val"], "error: .*from different sets"),
    "twice": (["train", "val", "validation"], "error: .*val.parquet and validation.parquet: keep one"),
    "one is missing": (["train-00000-of-00003", "train-00002-of-00003", "val"], "error: .*has 2 of the 3"),
}


@pytest.mark.parametrize("layout", FILES)
def test_files_of_a_split_are_whole_and_no_others(tmp_path, layout):
    names, said = FILES[layout]
    root = tmp_path / "pets"
    if layout == "the hub's":
        (root / "data").mkdir(parents=True)
    config = write(root, dict.fromkeys(names, labelled("names", IN_ORDER)))
    if said.startswith("error: "):
        with pytest.raises(UserError, match=said.removeprefix("error: ")):
            open_images(config)
        return
    train, _ = open_images(config)
    assert len(train) == sum("train" in name for name in names) * len(LABELS)
    assert train.beside is not None
    assert re.search(said, str(train.beside)) if said else not train.beside.count


def test_a_split_may_be_called_as_the_beginning_of_another(tmp_path):
    content = labelled("names", IN_ORDER)
    config = write(tmp_path / "pets", {"train": content, "train_small": content})
    assert len(open_images(replace(config, eval_split="train_small"))[1]) == len(LABELS)


def test_a_configuration_of_the_hub_is_asked_for(monkeypatch):
    asked = []
    tables = datasets.DatasetDict(train=marked(), validation=marked())
    monkeypatch.setattr(datasets, "load_dataset", lambda path, **options: asked.append(options) or tables)
    open_images(replace(CONFIG, hub="somebody/pets", hub_config="small"))
    assert asked == [{"name": "small"}]
