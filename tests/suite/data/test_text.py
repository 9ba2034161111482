import gzip
import json
import os
import tracemalloc

import datasets
import numpy as np
import pytest

from multimax.suite.data import corpus as corpora
from multimax.suite.data.corpus import Vocabulary, open_corpus
from multimax.suite.data.segments import Blocks, Streams, cut, eval_streams, eval_windows
from multimax.suite.data.text import TextData
from multimax.suite.errors import UserError

TRAIN = " \n = Title = \n \n the cat saw the <unk> 戦場\n"
VALID = "the cat\n"


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "text"
    root.mkdir()
    for name, text in (("train", TRAIN), ("valid", VALID), ("test", VALID)):
        (root / f"{name}.txt").write_text(text)
    return root


def config(root, **changes) -> TextData:
    return TextData("few", "files", root=str(root), cache_dir=str(root.parent / "cache"), **changes)


def test_words_are_those_between_spaces_and_lines_have_an_end(folder):
    corpus = open_corpus(config(folder))
    # They occur four, two and two times; equal counts are ordered by their characters.
    assert corpus.vocabulary.tokens[:3] == ["<eos>", "=", "the"]
    words = [corpus.vocabulary.tokens[i] for i in corpus.splits["train"]]
    assert words == [w for line in TRAIN.splitlines() for w in [*line.split(), "<eos>"]]
    assert corpus.splits["train"].dtype == np.uint16
    assert isinstance(corpus.splits["train"], np.memmap)
    assert corpus.unknown == {"train": 0, "validation": 0, "test": 0}


def test_a_smaller_vocabulary_keeps_the_most_frequent_words(folder):
    corpus = open_corpus(config(folder, max_tokens=4))
    assert corpus.vocabulary.tokens == ["<unk>", "<eos>", "=", "the"]
    assert corpus.unknown["train"] == 4  # Title, cat, saw, 戦場
    assert len(open_corpus(config(folder)).vocabulary) == 8


def test_characters_give_the_text_back(folder):
    corpus = open_corpus(config(folder, unit="character"))
    assert corpus.vocabulary.decode(corpus.splits["train"]) == TRAIN
    assert corpus.vocabulary.decode(corpus.vocabulary.encode("the cat\nsaw")) == "the cat\nsaw"


def test_text_gzip_parquet_and_the_hubs_form_are_the_same_tokens(folder, monkeypatch):
    plain = open_corpus(config(folder))
    texts = {"train": TRAIN, "validation": VALID, "test": VALID}
    for kind in ("gz", "parquet", "hub"):
        root = folder.parent / kind
        root.mkdir()
        tables = datasets.DatasetDict()
        for split, text in texts.items():
            # The hub's rows keep their line ends, except for empty ones.
            rows = [line if line.strip() == "" else f"{line}\n" for line in text.removesuffix("\n").split("\n")]
            tables[split] = datasets.Dataset.from_dict({"text": rows})
            if kind == "gz":
                (root / f"wiki.{split}.tokens.gz").write_bytes(gzip.compress(text.encode()))
            elif kind == "parquet":
                tables[split].to_parquet(root / f"{split}-00000-of-00001.parquet")
        if kind == "hub":
            monkeypatch.setattr(datasets, "load_dataset", lambda *_, tables=tables, **__: tables)
            other = open_corpus(TextData("few", "files", hub="someone/words", cache_dir=str(root)))
        else:
            other = open_corpus(config(root))
        assert other.vocabulary.tokens == plain.vocabulary.tokens
        assert all(np.array_equal(other.splits[split], plain.splits[split]) for split in texts)


def test_the_cache_is_reused_and_a_changed_text_or_vocabulary_is_noticed(folder, monkeypatch):
    built = []
    build = corpora.build
    monkeypatch.setattr(corpora, "build", lambda *arguments: built.append(1) or build(*arguments))
    first = open_corpus(config(folder))
    assert open_corpus(config(folder)).splits.keys() == first.splits.keys()
    assert len(built) == 1

    stamp = (folder / "valid.txt").stat()
    # The changed file is as long and as old as before.
    (folder / "valid.txt").write_text(VALID.replace("cat", "saw"))
    os.utime(folder / "valid.txt", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    changed = open_corpus(config(folder))
    assert len(built) == 2
    assert not np.array_equal(changed.splits["validation"], first.splits["validation"])

    words = folder.parent / "words.json"
    words.write_text(json.dumps(["<unk>", "<eos>", "the"]))
    few = open_corpus(config(folder, vocabulary=str(words)))
    assert (len(built), len(few.vocabulary), few.unknown["validation"]) == (3, 3, 1)
    words.write_text(json.dumps(["<unk>", "<eos>", "cat"]))
    assert open_corpus(config(folder, vocabulary=str(words))).vocabulary.tokens[2] == "cat"
    assert len(built) == 4


@pytest.mark.parametrize("victim", ["train.bin", "vocabulary.json", "description.json"])
def test_a_damaged_cache_is_made_again(folder, victim):
    whole = open_corpus(config(folder))
    (path,) = (folder.parent / "cache").glob(f"*/{victim}")
    path.write_bytes(path.read_bytes()[:-3])
    again = open_corpus(config(folder))
    assert np.array_equal(again.splits["train"], whole.splits["train"])
    assert not list((folder.parent / "cache").glob(".*[!k]"))  # only locks are left beside it


def test_memory_is_that_of_the_vocabulary_however_long_the_text(folder):
    with (folder / "train.txt").open("w") as file:
        for i in range(20_000):
            file.write(f"{' '.join(str((i * j) % 1000) for j in range(20))}\n")
    tracemalloc.start()
    corpus = open_corpus(config(folder))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(corpus.splits["train"]) == 420_000
    assert peak < 2 << 20  # a list of its tokens takes 3 MB, not counting the tokens


MISTAKES = {
    "empty": "train.txt is empty",
    "latin": "train.txt:1 is not UTF-8",
    "gzip": "train.txt.gz cannot be read",
    "parquet": "train.parquet cannot be read",
    "missing": "has no validation split, such as validation.txt",
    "two": "has several files of the train split: train.txt, wiki.train.tokens",
    "nowhere": "is not a folder",
    "pipe": "it is a pipe or a device, not a file",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_no_cache(folder, mistake):
    root = folder
    if mistake == "empty":
        (folder / "train.txt").write_text("")
    elif mistake == "latin":
        (folder / "train.txt").write_bytes("schön\n".encode("latin-1"))
    elif mistake == "gzip":
        (folder / "train.txt.gz").write_bytes(gzip.compress(TRAIN.encode())[:-9])
        (folder / "train.txt").unlink()
    elif mistake == "parquet":
        (folder / "train.txt").rename(folder / "train.parquet")
    elif mistake == "missing":
        (folder / "valid.txt").unlink()
    elif mistake == "pipe":
        (folder / "train.txt").unlink()
        os.mkfifo(folder / "train.txt")
    elif mistake == "two":
        (folder / "wiki.train.tokens").write_text(TRAIN)
    else:
        root = folder / "nowhere"
    with pytest.raises(UserError, match=MISTAKES[mistake]) as caught:
        open_corpus(config(root))
    assert "\n" not in str(caught.value)
    assert not list((folder.parent / "cache").glob("[!.]*"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('["<eos>", "the"]', "has no '<unk>'"),
        ('["<unk>", "the"]', "has no '<eos>'"),
        ('["<unk>", "<eos>", "a", "a"]', "has 'a' more than once"),
        ('{"the": 1}', "not a JSON list"),
        ("the\n", "cannot be read"),
    ],
)
def test_a_vocabulary_that_is_none_is_one_line(folder, content, expected):
    words = folder.parent / "words.json"
    words.write_text(content)
    with pytest.raises(UserError, match=expected) as caught:
        open_corpus(config(folder, vocabulary=str(words)))
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written_is_one_line(folder):
    (folder.parent / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"data\.cache_dir"):
        open_corpus(config(folder))


def test_help_texts_of_python_are_english(tmp_path):
    corpus = open_corpus(TextData("pydoc", "pydoc", unit="character", cache_dir=str(tmp_path)))
    assert len(corpus.splits["train"]) > 300_000
    assert " the " in corpus.vocabulary.decode(corpus.splits["validation"][:2000])
    ids = corpus.splits["train"]
    frequencies = np.bincount(ids) / len(ids)
    entropy = -(frequencies[frequencies > 0] * np.log(frequencies[frequencies > 0])).sum()
    assert corpus.unigram_perplexity("train") == pytest.approx(np.exp(entropy), rel=1e-3)


def test_streams_go_on_from_step_to_step():
    streams = Streams(num_tokens=103, batch_size=4, length=5)
    ids = np.arange(103)
    assert streams.steps_per_epoch == 5
    for step in range(12):
        tokens, targets = cut(ids, streams.starts(step), 5)
        assert (targets == tokens + 1).all()
        if not streams.fresh(step):
            before, _ = cut(ids, streams.starts(step - 1), 5)
            assert (tokens[:, 0] == before[:, -1] + 1).all()
    assert [step for step in range(12) if streams.fresh(step)] == [0, 5, 10]
    with pytest.raises(UserError, match="do not fill one step"):
        Streams(num_tokens=20, batch_size=4, length=5)


def test_blocks_cover_the_text_in_an_order_that_follows_from_the_seed():
    blocks = Blocks(num_tokens=101, batch_size=5, length=4, seed=3)
    epoch = [start for step in range(blocks.steps_per_epoch) for start in blocks.starts(step)]
    assert sorted(epoch) == list(range(0, 100, 4))
    assert epoch != sorted(epoch)
    assert Blocks(101, 5, 4, 3).starts(7) == blocks.starts(7)


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("num_tokens", [2, 37, 100])
def test_evaluation_scores_each_token_but_the_first_once(num_tokens, world):
    ids = np.arange(num_tokens)
    for kind in ("windows", "streams"):
        scored = []
        for rank in range(world):
            batches = (
                eval_windows(ids, 9, 6, 4, rank, world) if kind == "windows" else eval_streams(ids, 4, 5, rank, world)
            )
            for tokens, targets, *_ in batches:
                live = targets >= 0
                assert (targets[live] == tokens[live] + 1).all()
                scored += targets[live].tolist()
                if kind == "windows":
                    for row, row_live in zip(tokens, live, strict=True):
                        first = int(row_live.nonzero()[0, 0])
                        assert first == 6 or row[0] == 0
        assert sorted(scored) == list(range(1, num_tokens))


def test_a_vocabulary_has_one_fingerprint_for_its_tokens_in_their_order():
    words = ["<unk>", "<eos>", "a", "b"]
    assert (Vocabulary(words, "word").fingerprint() == Vocabulary(list(words), "word").fingerprint()).all()
    assert (Vocabulary(words[::-1], "word").fingerprint() != Vocabulary(words, "word").fingerprint()).any()
