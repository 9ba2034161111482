"""The fingerprint of a task's data changes when the data do, and only then.

A model is scored only on data with the same names.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multimax.suite.composition import compose_configuration, typed
from multimax.suite.errors import UserError
from multimax.suite.tasks import task_module

DRAWS = 8


def images(root: Path, classes: dict[str, int]) -> list[str]:
    for split in ("train", "val"):
        for name, level in classes.items():
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(DRAWS):
                pixels = np.random.default_rng([level, i]).integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.bmp")
    return [
        "task=deit",
        "scale=small",
        f"data.root={root}",
        f"data.num_classes={len(classes)}",
        "data.image_size=16",
        "training.batch_size=4",
        "data.num_workers=0",
    ]


def text(root: Path, words: str) -> list[str]:
    root.mkdir(parents=True, exist_ok=True)
    for split in ("train", "valid", "test"):
        (root / f"{split}.txt").write_text(f"{words}\n" * 200, encoding="utf-8")
    return ["task=lm", "data=wikitext2", f"data.root={root}", f"data.cache_dir={root}/cache", "training.batch_size=2"]


def pairs(root: Path, words: str) -> list[str]:
    root.mkdir(parents=True, exist_ok=True)
    for split in ("train", "valid", "test"):
        for language in ("de", "en"):
            (root / f"{split}.{language}").write_text(f"{words}\n" * 20, encoding="utf-8")
    keys = ["task=mt", "data=multi30k", "data.test_split=test", "data.bpe_merges=null", "training.batch_size=64"]
    return [*keys, f"data.root={root}", f"data.cache_dir={root}/cache"]


KINDS = {
    "deit": (images, {"cat": 1, "dog": 2}, {"cat": 1, "dog": 3}, {"cat": 1, "owl": 2}),
    "lm": (text, "the cat sat", "sat the cat", "the dog sat"),
    "mt": (pairs, "eins zwei drei", "eins zwei drei", "eins zwei vier"),
}
"""For each task: a function that writes data, and three data sets for it to write.

The second has the same names or words as the first; the third has others.
"""


def opened(overrides):
    config = typed(compose_configuration(overrides))
    return task_module(config.task).create(config)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_of_the_data_and_not_of_their_place(kind, tmp_path):
    write, data, same_names, other = KINDS[kind]
    found = opened(write(tmp_path / "a", data)).fingerprint()
    assert json.loads(json.dumps(found)) == found
    assert opened(write(tmp_path / "b", data)).fingerprint() == found
    assert opened(write(tmp_path / "c", other)).fingerprint() != found
    if same_names != data:
        assert opened(write(tmp_path / "d", same_names)).fingerprint() != found


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_scored_on_data_of_the_same_names_only(kind, tmp_path):
    write, data, same_names, other = KINDS[kind]
    trained = opened(write(tmp_path / "a", data)).fingerprint()
    opened(write(tmp_path / "b", same_names)).match(trained)
    with pytest.raises(UserError, match="not what the run was trained on") as raised:
        opened(write(tmp_path / "c", other)).match(trained)
    assert len(str(raised.value).splitlines()) == 1


def test_classes_are_matched_by_name(tmp_path):
    task = opened(images(tmp_path, {"cat": 1, "dog": 2}))
    before = [task.val_dataset[i].target for i in range(len(task.val_dataset))]
    task.match(task.fingerprint() | {"classes": ["dog", "cat"]})
    assert [task.val_dataset[i].target for i in range(len(task.val_dataset))] == [1 - target for target in before]
    assert task.val_dataset.classes == ["dog", "cat"]
