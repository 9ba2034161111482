"""Every kind of sentence pairs becomes the right words or is refused with file and line.

docs/data.md says which.
"""

import os
import re
from pathlib import Path

import pytest

from multimax.suite.data.bitext import TranslationData, open_bitext
from multimax.suite.data.languages import bleu_tokenizer, primary
from multimax.suite.data.left_out import checked
from multimax.suite.errors import UserError
from multimax.suite.tasks.bleu import CorpusBLEU
from tests.suite.data.accepted import Refused, Row, Said, assert_documented

DE, EN = ["ein café ist hier", "das meer ist da", "so ist das"], ["a café is here", "the sea is there", "so it is"]
PAIRS = [(de.split(), en.split()) for de, en in zip(DE, EN, strict=True)]
COUNTED = "left out of the training data and counted; refused in data that are scored"

RIGHT = "right"
LANGUAGES = "refused: says which key to set"


def files(train=(DE, EN), valid=(DE, EN), languages=("de", "en"), **keys) -> tuple[dict[str, bytes], dict]:
    """File contents by name, and keys of the configuration; test has the lines of ``valid``."""
    content = {}
    for split, sides in (("train", train), ("valid", valid), ("test", valid)):
        for language, lines in zip(languages, sides, strict=True):
            text = lines if isinstance(lines, bytes) else "".join(f"{line}\n" for line in lines).encode()
            content[f"{split}.{language}"] = text
    return content, {"source_language": languages[0], "target_language": languages[1], **keys}


def more(de: str, en: str) -> tuple[list[str], list[str]]:
    return [*DE, de], [*EN, en]


ROWS = [
    Row("`train.de` and `train.en`, gzipped or not", RIGHT, files(), PAIRS),
    Row("line ends of Windows", RIGHT, files(("\r\n".join([*DE, ""]).encode(), EN)), PAIRS),
    Row("a byte order mark in front", RIGHT, files((b"\xef\xbb\xbf" + "\n".join(DE).encode(), EN)), PAIRS),
    Row("codes of languages such as zh-CN, pt_br, sr-Latn, deu", RIGHT, files(languages=("sr-Latn", "pt_br")), PAIRS),
    Row(
        "words in Chinese, Japanese, Thai, ... with spaces in between",
        RIGHT,
        files(
            (["我 喜欢 海", *DE[1:]], EN), valid=(["我 喜欢 海"] * 2, EN[:2]), languages=("zh", "en"), tokenize=False
        ),
        [(["我", "喜欢", "海"], PAIRS[0][1]), *PAIRS[1:]],
    ),
    Row(
        "other forms of Unicode, such as NFD: read as NFC",
        "right, and counted before training",
        files(([line.replace("é", "e\u0301") for line in DE], EN)),
        Said(PAIRS, r"1 of 3 lines of .*train.de are brought into Unicode's form NFC.*train.de:1$"),
    ),
    Row(
        "invisible characters: kept in their words",
        "right, and counted before training",
        files((["ein ca\u00adfé ist hier", *DE[1:]], EN)),
        Said(
            [(["ein", "ca\u00adfé", "ist", "hier"], PAIRS[0][1]), *PAIRS[1:]],
            "1 of 3 lines of .*train.de have invisible characters",
        ),
    ),
    Row(
        "words that a dictionary lacks, or spelt like `</s>`: read as `<unk>`",
        "right, and counted before training",
        files(valid=(["ein hund ist hier", *DE[1:]], EN)),
        Said(PAIRS, r"1 of 14 validation tokens in de are read as <unk>, because: the dictionary lacks them \(1\)"),
    ),
    Row(
        "an empty side",
        COUNTED,
        files(more("", "nothing")),
        Said(PAIRS, r"1 of 4 training pairs are left out, because: empty side \(1\)"),
    ),
    Row(
        "a side above `data.max_length` words",
        COUNTED,
        files(more("a " * 9, "a " * 9), max_length=8),
        Said(PAIRS, "longer than 8 words"),
    ),
    Row(
        "sides whose lengths differ by more than `data.max_ratio`",
        COUNTED,
        files(more("eins", "one two")),
        Said(PAIRS, "ratio of lengths above 1.5"),
    ),
    Row(
        "a word that ends in the BPE's mark @@",
        COUNTED,
        files(more("foo@@ bar", "foo bar"), bpe_merges=5),
        Said(None, r"a word ends in @@, the mark of the BPE \(1\)"),
    ),
    Row(
        "an empty side in validation",
        COUNTED,
        files(valid=more("", "nothing")),
        Refused("(valid|test).de:4 has no word: take the line out of both files"),
    ),
    Row(
        "a word that ends in @@ in validation",
        COUNTED,
        files(valid=more("foo@@ bar", "foo bar"), bpe_merges=5),
        Refused("(valid|test).de:4 has a word that ends in @@"),
    ),
    Row(
        "more than half of the pairs left out",
        "refused: see `data.max_left_out`",
        files((DE, ["a", "b", "so it is"])),
        Refused("2 of 3 training pairs .* more than the share data.max_left_out=0.5"),
    ),
    Row(
        "sides of unlike numbers of lines",
        "refused with both numbers",
        files((DE, EN[:2])),
        Refused("has 3 lines and .* 2"),
    ),
    Row(
        "UTF-16, Latin-1",
        "refused with the line: convert it to UTF-8",
        files(("\n".join(DE).encode("latin-1"), EN)),
        Refused("train.de:1 is not UTF-8"),
    ),
    Row(
        "UTF-16 in one file",
        "refused with the line: convert it to UTF-8",
        files((DE, "\n".join(EN).encode("utf-16"))),
        Refused(r"train.en:1 is not UTF-8 \(UTF-16\)"),
    ),
    Row(
        "null characters",
        "refused with the line",
        files((DE, [*EN[:2], "a \0"])),
        Refused("train.en:3 holds a null character"),
    ),
    Row(
        "`data.tokenize=true` for Chinese, Japanese, Thai, ...",
        LANGUAGES,
        files(languages=("de", "zh-CN"), tokenize=True),
        Refused("Moses' tokeniser finds no words in zh-CN"),
    ),
    Row(
        "`data.lowercase=true` for Turkish and Azerbaijani",
        LANGUAGES,
        files(languages=("tur", "en"), lowercase=True),
        Refused("the lower case of I is another letter in tur"),
    ),
    Row(
        "text in those without spaces",
        LANGUAGES,
        files((["我喜欢在海边看日落"] * 3, EN), languages=("zh", "en"), max_ratio=50, tokenize=False),
        Refused("no spaces in between: .* segment the text"),
    ),
    Row(
        "a name that is no code of a language",
        LANGUAGES,
        files(languages=("german", "en")),
        Refused("data.source_language=german is no code of a language"),
    ),
]


def config(root: Path, row: Row) -> TranslationData:
    content, keys = row.given
    for name, text in content.items():
        (root / name).write_bytes(text)
    keys = {"tokenize": False, "lowercase": False, "bpe_merges": None, **keys}
    return TranslationData(name="pairs", source="files", root=str(root), cache_dir=f"{root}-cache", **keys)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_pairs_are_right_or_refused(row, tmp_path):
    data = config(tmp_path, row)

    def opened():
        data.check()
        bitext = open_bitext(data)
        return bitext, checked(bitext.left_out(("train", "validation", "test")), data.max_left_out)

    if isinstance(row.expected, Refused):
        with pytest.raises(UserError, match=row.expected) as raised:
            opened()
        assert len(str(raised.value).splitlines()) == 1
        return
    read, said = row.expected if isinstance(row.expected, Said) else (row.expected, None)
    for _ in range(2):  # the second pass reads the cache
        bitext, found = opened()
        if read is not None:
            train = bitext.splits["train"]
            assert len(train) == len(read)
            for i, (de, en) in enumerate(read):
                assert bitext.source_dictionary.decode(train.sources[i]).split() == de
                assert bitext.target_dictionary.decode(train.targets[i]).split() == en
        lines = [str(one) for one in found]
        assert not lines if said is None else any(re.search(said, line) for line in lines), lines


def test_what_else_is_in_the_folder_and_what_is_held_out_is_said(tmp_path):
    content, _ = files((DE * 4, EN * 4), valid=(DE, EN))
    del content["valid.de"], content["test.en"]
    names = ["train2.de", "train.fr", "notes.txt", "test_2017.de", "test_2017.en"]
    content |= dict.fromkeys(names, content["valid.en"])
    data = config(tmp_path, Row("", "", (content, {"validation_every": 4, "test_split": "test_2017"}), None))
    for _ in range(2):
        assert [str(one) for one in checked(open_bitext(data).left_out(("train", "validation")), 0.5)] == [
            f"5 of 9 files and folders in {tmp_path} are left out, because: of no split that is read (2); the other "
            "language is absent (2); of another language (1); the first is notes.txt",
            "3 of 12 training pairs are held out, because: they are scored in the place of validation pairs (3)",
        ]


def test_what_is_translated_is_read_as_the_text_was(tmp_path):
    bitext = open_bitext(config(tmp_path, ROWS[0]))
    assert (
        bitext.prepare("ein cafe\u0301 ist hier")
        == bitext.prepare("ein café ist hier")
        == bitext.splits["train"].sources[0].tolist()
    )


def test_another_text_of_the_same_size_and_time_is_prepared_anew(tmp_path):
    data = config(tmp_path, ROWS[0])
    before = open_bitext(data).fingerprint(["train"])
    path = tmp_path / "train.de"
    stat = path.stat()
    path.write_bytes(path.read_bytes().replace(b"meer", b"haus"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert open_bitext(data).fingerprint(["train"]) != before


@pytest.mark.parametrize(
    ("code", "language", "tokenizer"),
    [
        ("de", "de", "13a"),
        ("deu", "de", "13a"),
        ("zh-CN", "zh", "zh"),
        ("zh_Hant_TW", "zh", "zh"),
        ("jpn", "ja", "ja-mecab"),
        ("ko-KR", "ko", "ko-mecab"),
        ("th", "th", "char"),
        ("pt_br", "pt", "13a"),
        ("sr-Latn", "sr", "13a"),
    ],
)
def test_bleu_follows_from_the_language(code, language, tokenizer):
    assert primary(code) == language
    assert bleu_tokenizer(code) == tokenizer


@pytest.mark.parametrize("code", ["zh", "th", "de", "ja", "ko"])
def test_bleu_of_each_tokenizer_works_or_says_what_to_install(code):
    tokenizer, sentence = (
        bleu_tokenizer(code),
        {"zh": "我喜欢在海边看日落", "th": "ฉันชอบทะเล"}.get(code, "one two three four five"),
    )
    try:
        bleu = CorpusBLEU("sacrebleu", tokenizer, lowercase=False)
    except UserError as error:
        assert re.search(rf"pip install 'sacrebleu\[{code}\]'", str(error))  # noqa: PT017
        return
    assert bleu.score(bleu.sums([sentence], [sentence])) == pytest.approx(100)
    assert f"tok:{tokenizer}" in bleu.signature()


def test_the_documentation_says_so():
    assert_documented(ROWS)
