"""Every kind of text becomes the right tokens, or is refused with file and line.

docs/data.md says which.
"""

import gzip
import os
import re
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from multimax.suite.data.corpus import open_corpus
from multimax.suite.data.left_out import checked
from multimax.suite.data.text import TableSource, TextData
from multimax.suite.errors import UserError
from tests.suite.data.accepted import Refused, Row, Said, assert_documented

READ = [["the", "café", "is", "open"], ["so", "is", "the", "sea"]]
TEXT = "the café is open\nso is the sea\n"


def parquet(rows, kind=None) -> tuple[str, pa.Array]:
    return "parquet", pa.array(rows, kind or pa.string())


RIGHT = "right"
COUNTED = "right, and counted before training"
NOT_UTF8 = "refused with the line: convert it to UTF-8"
TYPES = "refused: cast it to string"
TEXTS = [
    Row("UTF-8", RIGHT, ("txt", TEXT.encode()), READ),
    Row("the same, gzipped", RIGHT, ("txt.gz", gzip.compress(TEXT.encode())), READ),
    Row("a byte order mark in front", RIGHT, ("txt", b"\xef\xbb\xbf" + TEXT.encode()), READ),
    Row("line ends of Windows", RIGHT, ("txt", TEXT.replace("\n", "\r\n").encode()), READ),
    Row("no end of the last line", RIGHT, ("txt", TEXT.removesuffix("\n").encode()), READ),
    Row(
        "other spaces between words (tab, no-break, U+2028, form feed)",
        RIGHT,
        ("txt", "the\tcafé\xa0is\u2028open\nso\x0cis\x0bthe\x85sea\n".encode()),
        READ,
    ),
    Row(
        "other forms of Unicode, such as NFD: read as NFC",
        COUNTED,
        ("txt", TEXT.replace("é", "e\u0301").encode()),
        Said(READ, "1 of 2 lines of .* are brought into Unicode's form NFC.*:1$"),
    ),
    Row(
        "invisible characters: kept in their words",
        COUNTED,
        ("txt", TEXT.replace("é", "\u00adé").encode()),
        Said(
            [["the", "caf\u00adé", "is", "open"], READ[1]],
            r"1 of 2 lines of .* have invisible characters in their words, because: U\+00AD SOFT HYPHEN \(1\); .*:1$",
        ),
    ),
    Row(
        "words that the vocabulary lacks, or `<unk>` in the text: read as `<unk>`",
        COUNTED,
        ("txt", TEXT.replace("sea", "<unk>").encode()),
        Said(
            [READ[0], ["so", "is", "the", "<unk>"]],
            r"1 of 10 train tokens are read as <unk>, because: the text has them so \(1\)",
        ),
    ),
    Row("parquet with a line in each row", RIGHT, parquet(TEXT.splitlines()), READ),
    Row("parquet with a document in each row", RIGHT, parquet([TEXT]), READ),
    Row(
        "large or dictionary-encoded strings", RIGHT, ("parquet", pa.array(TEXT.splitlines()).dictionary_encode()), READ
    ),
    Row(
        "rows that are null: left out",
        COUNTED,
        parquet(["the café is open", None, "so is the sea"]),
        Said(READ, r"1 of 3 rows of .* are left out, because: null \(1\); the first is .*:row 2$"),
    ),
    Row(
        "more than half of the rows null",
        "refused: see `data.max_left_out`",
        parquet(["a b c", None, None, "d e f", None]),
        Refused("3 of 5 rows .* more than the share data.max_left_out=0.5"),
    ),
    Row("UTF-16", NOT_UTF8, ("txt", TEXT.encode("utf-16")), Refused(r"train.txt:1 is not UTF-8 \(UTF-16\)")),
    Row(
        "UTF-16 without a mark",
        NOT_UTF8,
        ("txt", "the sea\n".encode("utf-16-le")),
        Refused("train.txt:1 holds a null character: if this is UTF-16"),
    ),
    Row("Latin-1", NOT_UTF8, ("txt", TEXT.encode("latin-1")), Refused("train.txt:1 is not UTF-8")),
    Row(
        "null characters",
        "refused with the line",
        ("txt", b"the sea\na \0 b\n"),
        Refused("train.txt:2 holds a null character"),
    ),
    Row(
        "lines that end in carriage returns alone",
        "refused: convert them to \\n",
        ("txt", TEXT.replace("\n", "\r").encode()),
        Refused("ends its lines with carriage returns"),
    ),
    Row(
        "the word `<eos>`",
        "refused with the line: it stands for the end of a line",
        ("txt", b"the sea\nso <eos>\n"),
        Refused("line 2 of .*train.txt has the word <eos>"),
    ),
    Row(
        "Chinese, Japanese, Thai, ... without spaces",
        "refused: `data.unit=character`, or segment the text",
        ("txt", "我喜欢在海边看日落\n今天的天气非常好\n".encode() * 4),
        Refused("no spaces in between: there are 8 characters"),
    ),
    Row(
        "Chinese, segmented",
        RIGHT,
        ("txt", "我 喜欢 海\n今天 的 天气\n".encode()),
        [["我", "喜欢", "海"], ["今天", "的", "天气"]],
    ),
    Row("columns of bytes", TYPES, parquet([b"the sea"], pa.binary()), Refused("holds binary, not text")),
    Row("lists", TYPES, parquet([["the", "sea"]], pa.list_(pa.string())), Refused("holds list<.*>, not text")),
    Row("numbers", TYPES, parquet([1, 2], pa.int64()), Refused("holds int64, not text")),
    Row("an empty file", "refused", ("txt", b""), Refused("is empty")),
    Row(
        "a damaged gzip or parquet file",
        "refused, with the reason",
        ("txt.gz", gzip.compress(TEXT.encode())[:-9]),
        Refused("cannot be read"),
    ),
    Row(
        "CSV, JSON",
        "refused: text, gzip or parquet",
        ("csv", b"text\nthe sea\n"),
        Refused("has no train split, such as train.txt, train.txt.gz or train.parquet"),
    ),
]


def write(root: Path, given: tuple[str, object]) -> TextData:
    suffix, content = given
    for split in ("train", "valid", "test"):
        path = root / f"{split}.{suffix if split == 'train' else 'txt'}"
        if split != "train":
            path.write_text("the sea\n")
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            pq.write_table(pa.table({"text": content}), path)
    return TextData(name="text", source="files", root=str(root), cache_dir=str(root / "cache"))


def tokens(corpus) -> list[list[str]]:
    return [line.split() for line in corpus.vocabulary.decode(corpus.splits["train"]).split("\n") if line.strip()]


@pytest.mark.parametrize("row", TEXTS, ids=lambda row: row.what)
def test_text_is_right_or_refused(row, tmp_path):
    config = write(tmp_path, row.given)

    def opened():
        corpus = open_corpus(config)
        return corpus, checked(corpus.left_out(["train"]), config.max_left_out)

    if isinstance(row.expected, Refused):
        with pytest.raises(UserError, match=row.expected) as raised:
            opened()
        assert len(str(raised.value).splitlines()) == 1
        return
    read, said = row.expected if isinstance(row.expected, Said) else (row.expected, None)
    for _ in range(2):  # the second pass reads the cache
        corpus, found = opened()
        assert tokens(corpus) == read
        if said is None:
            assert found == []
        else:
            (line,) = map(str, found)
            assert re.search(said, line), line


def test_what_is_fed_at_the_prompt_is_read_as_the_text_was(tmp_path):
    vocabulary = open_corpus(write(tmp_path, TEXTS[0].given)).vocabulary
    assert vocabulary.encode("the cafe\u0301") == vocabulary.encode("the café")


def test_another_text_of_the_same_size_and_time_is_another_corpus(tmp_path):
    config = write(tmp_path, ("txt", b"the sea\nso so\n"))
    before = tokens(open_corpus(config))
    path = tmp_path / "train.txt"
    stat = path.stat()
    path.write_bytes(b"the sky\nso so\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert tokens(open_corpus(config)) != before


@pytest.mark.parametrize("rows", [["the sea", None, "a\nb"], [b"x"]])
def test_a_hub_table_is_read_as_a_file_is(rows):
    table = datasets.Dataset.from_dict({"text": rows})
    if isinstance(rows[0], bytes):
        with pytest.raises(UserError, match="the column text of hub holds binary, not text"):
            TableSource(table, "hub")
        return
    source = TableSource(table, "hub")
    assert list(source.lines(lambda _: None)) == ["the sea", "a", "b"]
    others = (["the sea", "", "a\nb"], ["the sea", None, "a", "b"])
    assert source.fingerprint() not in [
        TableSource(datasets.Dataset.from_dict({"text": other}), "hub").fingerprint() for other in others
    ]


def test_the_documentation_says_so():
    assert_documented(TEXTS)
