"""Text in other layouts: subwords, one file, no validation split, columns with other names."""

import math
import random

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from multimax.suite.composition import compose_configuration, typed
from multimax.suite.data.corpus import open_corpus
from multimax.suite.data.text import TextData
from multimax.suite.errors import UserError
from multimax.suite.tasks import task_module
from multimax.suite.tasks.base import Shard

STEMS, ENDS = ["walk", "talk", "jump", "paint", "<unk>"], ["s", "ed", "ing", "er", ""]
LINES = [
    " ".join(random.Random(line * 9 + i).choice(STEMS) + random.Random(i - line).choice(ENDS) for i in range(6))
    for line in range(60)
]


def write(folder, **splits):
    folder.mkdir(exist_ok=True)
    for split, lines in splits.items():
        (folder / f"{split}.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder


def config(root, **changes) -> TextData:
    return TextData("words", "files", root=str(root), cache_dir=str(root.parent / "cache"), **changes)


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "text", train=LINES[:40], valid=LINES[40:50], test=LINES[50:])


def test_subwords_give_the_text_back_and_are_few(folder):
    for _ in range(2):  # the second pass reads the cache
        corpus = open_corpus(config(folder, unit="subword", bpe_merges=20))
        for split, lines in (("train", LINES[:40]), ("validation", LINES[40:50])):
            text = corpus.vocabulary.decode(corpus.splits[split])
            assert text.strip().split("\n") == lines
        ids = corpus.vocabulary.encode("walking talks")
        assert corpus.vocabulary.decode(ids) == "walking talks"
        assert corpus.vocabulary.unknown not in ids
    words = open_corpus(config(folder))
    assert len(corpus.splits["train"]) > len(words.splits["train"])
    fewer = open_corpus(config(folder, unit="subword", bpe_merges=2))
    assert len(fewer.splits["train"]) > len(corpus.splits["train"])
    assert fewer.fingerprint(["train"]) != corpus.fingerprint(["train"])
    assert open_corpus(config(folder, unit="subword", bpe_merges=20, max_tokens=8)).unknown["train"] > 0
    write(folder, train=["walk@@ talk"])
    with pytest.raises(UserError, match="has the word walk@@"):
        open_corpus(config(folder, unit="subword"))


def test_words_are_counted_alike_whatever_the_tokens_are(folder):
    counts = [open_corpus(config(folder, unit=unit)) for unit in ("word", "subword", "character")]
    assert counts[0].words == counts[1].words == counts[2].words
    assert counts[0].words == {split: len(ids) for split, ids in counts[0].splits.items()}


@pytest.mark.parametrize("unit", ["subword", "character"])
def test_perplexity_per_word_is_of_the_same_likelihood(folder, unit):
    keys = ["task=lm", "data=wikitext2", f"data.root={folder}", f"data.cache_dir={folder.parent}/cache", "model.dim=8"]
    keys += ["model.cutoffs=[]", *(f"model.{of}=8" for of in ("segment_length", "memory_length"))]
    keys += [f"model.eval_{of}=8" for of in ("segment_length", "memory_length")]
    keys += ["model.depth=1", "model.num_heads=2", "model.ffn_dim=8", "training.batch_size=2", f"data.unit={unit}"]
    task = task_module("lm").create(typed(compose_configuration(keys), overrides=keys))
    torch.manual_seed(0)
    model = task.build_model().eval()
    with torch.no_grad():
        parts = [task.evaluate(model, torch.device("cpu"), Shard(rank, 2)) for rank in range(2)]
    metrics = task.metrics({key: sum(part[key] for part in parts) for key in parts[0]})
    words = sum(len(line.split()) + 1 for line in LINES[40:50])
    per_word = metrics["loss"] * metrics["tokens"] / words
    assert math.log(metrics[f"word_{task.metric}"]) == pytest.approx(per_word)


@pytest.mark.parametrize("layout", ["file", "folder of one", "folder"])
def test_without_a_validation_split_the_last_lines_are_held_out(tmp_path, layout):
    name = "book" if layout == "folder of one" else "train"
    root = write(tmp_path / "text", **{name: LINES})
    root = root / "train.txt" if layout == "file" else root
    with pytest.raises(UserError, match=r"has no validation split, .* data.held_out=0.1 scores the last tenth"):
        open_corpus(config(root))
    corpus = open_corpus(config(root, held_out=0.25))
    parts = [corpus.vocabulary.decode(corpus.splits[split]).strip().split("\n") for split in ("train", "validation")]
    assert parts == [LINES[:45], LINES[45:]]
    assert "test" not in corpus.splits
    with pytest.raises(UserError, match="has no test split"):
        open_corpus(config(root, held_out=0.25, eval_split="test"))
    with pytest.raises(UserError, match=r"data.held_out=0.01 of the 60 lines .* leaves a part empty"):
        open_corpus(config(root, held_out=0.01))


def test_a_line_that_is_held_out_is_refused_by_its_number_in_the_file(tmp_path):
    root = write(tmp_path / "text", train=[*LINES, "a\0b"])
    with pytest.raises(UserError, match=r"train.txt:61 holds a null character"):
        open_corpus(config(root, held_out=0.25))


def test_what_is_held_out_is_said(tmp_path):
    root = write(tmp_path / "text", train=LINES * 20)
    keys = ["task=lm", "data=wikitext2", f"data.root={root}", f"data.cache_dir={tmp_path}/cache", "data.held_out=0.2"]
    task = task_module("lm").create(typed(compose_configuration(keys), overrides=keys))
    (said,) = [str(one) for one in task.left_out if "held out" in str(one)]
    assert said.startswith("1,680 of 8,400 training tokens are held out")
    assert task.test_split is None


def test_the_column_of_text_is_recognised_or_asked_for(folder, tmp_path, monkeypatch):
    plain = open_corpus(config(folder))
    splits = {"train": LINES[:40], "validation": LINES[40:50], "test": LINES[50:]}
    tables = {
        split: pa.table({"id": list(range(len(lines))), "sentence": lines, "source": ["web"] * len(lines)})
        for split, lines in splits.items()
    }
    root = tmp_path / "tables"
    root.mkdir()
    for split, table in tables.items():
        pyarrow.parquet.write_table(table.drop_columns("source"), root / f"{split}.parquet")
    hub = {("dev" if split == "validation" else split): datasets.Dataset(table) for split, table in tables.items()}
    monkeypatch.setattr(datasets, "load_dataset", lambda path, **options: datasets.DatasetDict(hub))
    for found in (
        config(root),
        config(root, text_column="sentence"),
        TextData("words", "files", hub="a/b", cache_dir=str(tmp_path / "hub"), text_column="sentence"),
    ):
        corpus = open_corpus(found)
        assert corpus.splits["train"].tolist() == plain.splits["train"].tolist()
    with pytest.raises(UserError, match=r"has no column text, but id, sentence, source: see data.text_column"):
        open_corpus(TextData("words", "files", hub="a/b", cache_dir=str(tmp_path / "hub")))
    with pytest.raises(UserError, match=r"the column id .* holds int64, not text"):
        open_corpus(config(root, text_column="id"))
    with pytest.raises(UserError, match=r"data.text_column is of tables"):
        open_corpus(config(folder, text_column="text"))


def test_what_else_is_in_the_folder_is_said(folder):
    assert open_corpus(config(folder)).beside.count == 0
    (folder / "notes").mkdir()
    for name in ("train2.txt", "book.txt", "train.csv", ".cache"):
        (folder / name).touch()
    for _ in range(2):  # the second pass reads the cache
        assert str(open_corpus(config(folder, held_out=0.1)).beside) == (
            f"5 of 8 files and folders in {folder} are left out, because: of no split that is read (4); hidden (1); "
            "the first is book.txt"
        )
    assert open_corpus(config(folder / "train.txt", held_out=0.1)).beside is None
