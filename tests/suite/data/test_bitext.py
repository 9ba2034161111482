import gzip
import json
import re
import shutil
from dataclasses import asdict

import pytest

from multimax.suite.data import bitext as bitexts
from multimax.suite.data.bitext import TranslationData, open_bitext
from multimax.suite.data.dictionary import EOS, UNK
from multimax.suite.errors import UserError
from multimax.suite.options import check_options

TRAIN = {
    "de": ["Der Hund schläft nicht.", "Die Katze sieht den Hund.", "Das Kind sieht's!", "", "Die Katze schläft."],
    "en": ["The dog doesn't sleep.", "The cat sees the dog.", "The child sees it!", "Nothing", "The cat sleeps."],
}
VALID = {"de": ["Der Hund sieht die Katze."], "en": ["The dog sees the cat."]}
TEST = {"de": ["Die Katze sieht ein Pferd.", "Der Hund schläft."], "en": ["The cat sees a horse.", "The dog sleeps."]}
TEXTS = {"train": TRAIN, "val": VALID, "test_2016": TEST}


def write(root, name: str, language: str, lines: list[str]) -> None:
    (root / f"{name}.{language}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "text"
    root.mkdir()
    for name, sides in TEXTS.items():
        for language, lines in sides.items():
            write(root, name, language, lines)
    return root


def config(root, **changes) -> TranslationData:
    options = {"root": str(root), "cache_dir": str(root.parent / "cache"), "test_split": "test_2016", "bpe_merges": 20}
    return TranslationData("few", "files", **{**options, **changes})


def error(configuration: TranslationData) -> str:
    with pytest.raises(UserError) as caught:
        open_bitext(configuration)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_text_becomes_ids_and_ids_text(folder):
    bitext = open_bitext(config(folder))
    train = bitext.splits["train"]
    assert list(bitext.splits) == ["test_2016", "train", "validation"]
    assert [len(pairs) for pairs in bitext.splits.values()] == [2, 4, 1]  # the pair with an empty side is left out
    assert bitext.description["train"]["dropped"] == {"empty side": 1}
    assert bitext.prepare(TRAIN["de"][1]) == train.sources[1].tolist()
    assert bitext.tokenized(train.targets[0]) == "the dog doesn &apos;t sleep ."
    assert bitext.detokenize([*train.targets[0], 7, 7]) == "the dog doesn't sleep."
    assert train.sources.lengths.tolist() == [len(train.sources[i]) for i in range(4)]
    assert all(train.targets[i][-1] == EOS for i in range(4))
    assert any("@@" in token for token in bitext.target_dictionary.tokens)


def test_references_are_the_lines_as_given_and_their_words(folder):
    references = open_bitext(config(folder)).references("test_2016")
    assert references.raw == TEST["en"]
    assert references.tokenized == ["the cat sees a horse .", "the dog sleeps ."]


def test_lines_end_at_a_line_feed_alone(folder):
    odd = ["The cat\rsees a horse.", "The\u2028dog\x85sleeps."]
    write(folder, "test_2016", "en", odd)
    assert (folder / "test_2016.en").read_bytes().count(b"\n") == 2
    bitext = open_bitext(config(folder))
    assert bitext.references("test_2016").raw == odd
    assert bitext.references("test_2016").tokenized == ["the cat sees a horse .", "the dog sleeps ."]
    path = bitext.root / "raw" / "test_2016.en"
    path.write_text(f"{odd[0]}\n")
    with pytest.raises(UserError, match=r"raw/test_2016\.en has 1 lines, but test_2016 2 sentences: prepare the data"):
        bitext.references("test_2016")
    path.unlink()
    with pytest.raises(UserError, match=r"raw/test_2016\.en cannot be read"):
        bitext.references("test_2016")


def test_a_mark_of_the_byte_order_is_no_part_of_the_text(folder):
    plain = open_bitext(config(folder))
    for path in folder.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    marked = open_bitext(config(folder))
    assert marked.root != plain.root
    assert marked.source_dictionary.tokens == plain.source_dictionary.tokens
    assert marked.references("test_2016") == plain.references("test_2016")


def test_gzip_and_other_names_are_the_same_data(folder):
    plain = open_bitext(config(folder))
    root = folder.parent / "packed"
    root.mkdir()
    for name, sides in TEXTS.items():
        for language, lines in sides.items():
            path = root / f"{name.replace('val', 'dev')}.{language}.gz"
            # The last line has no line feed.
            path.write_bytes(gzip.compress("\n".join(lines).encode()))
    other = open_bitext(config(root))
    assert other.source_dictionary.tokens == plain.source_dictionary.tokens
    for split, pairs in plain.splits.items():
        assert [pairs.targets[i].tolist() for i in range(len(pairs))] == [
            other.splits[split].targets[i].tolist() for i in range(len(pairs))
        ]


def test_options_change_what_is_made_of_the_text(folder):
    words = open_bitext(config(folder, bpe_merges=None, lowercase=False))
    assert "Hund" in words.source_dictionary.ids
    assert not any("@@" in token for token in words.source_dictionary.tokens)
    assert UNK in words.prepare("Ein Zebra schläft.")
    spaces = open_bitext(config(folder, bpe_merges=None, tokenize=False, lowercase=False))
    assert "sieht's!" in spaces.source_dictionary.ids
    assert spaces.detokenize(spaces.splits["train"].targets[0]) == TRAIN["en"][0]
    joined = open_bitext(config(folder, joined_dictionary=True))
    assert joined.source_dictionary is joined.target_dictionary
    back = open_bitext(config(folder, source_language="en", target_language="de"))
    assert back.detokenize(back.splits["train"].targets[0]) == "der Hund schläft nicht.".lower()


def test_text_is_prepared_once_and_again_when_it_changed_or_is_damaged(folder, monkeypatch):
    made = []
    prepare = bitexts.prepare
    monkeypatch.setattr(bitexts, "prepare", lambda *arguments: made.append(1) or prepare(*arguments))
    whole = open_bitext(config(folder)).splits["train"].sources.ids.tolist()
    open_bitext(config(folder))
    assert len(made) == 1
    (path,) = (folder.parent / "cache").glob("few-*/train.de-en.de.bin")
    path.write_bytes(path.read_bytes()[:-2])
    again = open_bitext(config(folder))
    assert len(made) == 2
    assert again.splits["train"].sources.ids.tolist() == whole
    write(folder, "val", "de", ["Der Hund sieht das Kind."])
    open_bitext(config(folder))
    assert len(made) == 3
    assert not [path for path in (folder.parent / "cache").glob(".*") if path.suffix != ".lock"]


def test_a_prepared_folder_is_read_as_it_is(folder):
    first = open_bitext(config(folder))
    copy = folder.parent / "copy"
    first.root.rename(copy)
    shutil.rmtree(folder.parent / "cache")
    # 10_000 is the default; the folder itself says that it has 20.
    second = open_bitext(config(copy, bpe_merges=10_000))
    assert second.preparation["recipe"] == asdict(first.recipe)
    assert set(second.preparation["versions"]) == {"sacremoses", "subword-nmt"}
    for name, value, made in (("bpe_merges", 5, 20), ("lowercase", False, True), ("max_ratio", 9.0, 1.5)):
        assert f"data.{name}={value}, but {copy} was prepared with {made}" in error(config(copy, **{name: value}))
    assert second.prepare(TRAIN["de"][1]) == first.splits["train"].sources[1].tolist()
    assert second.references("validation").raw == VALID["en"]
    assert not (folder.parent / "cache").exists()
    back = open_bitext(config(copy, source_language="en", target_language="de"))
    assert back.splits["train"].sources[0].tolist() == first.splits["train"].targets[0].tolist()
    assert back.references("validation").raw == VALID["de"]

    assert f"{copy} holds de and en, not de and fr" in error(config(copy, target_language="fr"))
    description = json.loads((copy / "prepared.json").read_text())
    (copy / "prepared.json").write_text(json.dumps({**description, "format": 0}))
    assert "prepared by another version (format 0): prepare it again" in error(config(copy))
    (copy / "code").unlink()
    (copy / "prepared.json").write_text(json.dumps(description))
    assert f"{copy} has no file code" in error(config(copy))
    (copy / "prepared.json").write_text("{")
    assert "prepared.json is not whole" in error(config(copy))


@pytest.fixture
def fairseq_folder(folder):
    """What fairseq-preprocess would make of the text: only dictionaries and binary data."""
    root = folder.parent / "data-bin"
    shutil.copytree(open_bitext(config(folder)).root, root)
    for path in root.iterdir():
        if path.suffix not in (".bin", ".idx", ".txt"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return root


def test_a_folder_of_fairseq_is_read_without_fairseq(folder, fairseq_folder):
    ours, bitext = open_bitext(config(folder)), open_bitext(config(fairseq_folder))
    assert {split: len(pairs) for split, pairs in bitext.splits.items()} == {
        "train": 4,
        "validation": 1,
        "test_2016": 2,
    }
    assert bitext.preparation == {}
    references = bitext.references("test_2016")
    assert references.raw is None
    # An unknown word in a reference must not match an unknown word in a translation.
    known = [line for line in ours.references("test_2016").tokenized if "<<unk>>" not in line]
    assert references.tokenized[1] in known
    assert references.tokenized[0].startswith("the cat sees")
    pieces = bitext.source_dictionary.decode(ours.splits["train"].sources[0])
    # Without BPE codes, tokens are taken as they are.
    assert bitext.prepare(pieces) == ours.splits["train"].sources[0].tolist()
    shutil.copy(ours.root / "code", fairseq_folder)
    assert open_bitext(config(fairseq_folder)).prepare(TRAIN["de"][0]) == ours.splits["train"].sources[0].tolist()


def test_bad_folders_of_fairseq_are_named(fairseq_folder):
    assert "no dictionary dict.fr.txt: there is de, en" in error(config(fairseq_folder, source_language="fr"))
    dictionary = fairseq_folder / "dict.de.txt"
    whole = dictionary.read_text()
    dictionary.write_text("\n".join(whole.splitlines()[:4]))
    assert re.search(
        r"ids up to \d+, but its dictionary 8 tokens: they do not belong together", error(config(fairseq_folder))
    )
    dictionary.write_text(whole)
    for suffix in ("bin", "idx"):
        shutil.copy(fairseq_folder / f"valid.de-en.de.{suffix}", fairseq_folder / f"test_2016.de-en.de.{suffix}")
    assert "1 sentences of test_2016 in de and 2 in en" in error(config(fairseq_folder))
    for path in fairseq_folder.glob("train.*"):
        path.unlink()
    for path in fairseq_folder.glob("test_2016.*"):
        path.unlink()
    assert "no binary data of train, such as train.de-en.de.idx" in error(config(fairseq_folder))


def test_bad_text_is_named_in_one_line_and_leaves_nothing_behind(folder):
    def after(name: str, language: str, content: bytes) -> str:
        path = folder / f"{name}.{language}"
        whole = path.read_bytes()
        path.write_bytes(content)
        try:
            return error(config(folder))
        finally:
            path.write_bytes(whole)

    assert re.search(r"train\.de has 5 lines and .*train\.en 2", after("train", "en", b"a\nb\n"))
    assert f"{folder / 'test_2016.en'} is empty" in after("test_2016", "en", b"")
    assert "test_2016.en:2 has no word: take the line out" in after("test_2016", "en", b"The cat sees.\n \n")
    assert "test_2016.en:1 has no word: take the line out" in after("test_2016", "en", b"\x01\nThe cat sees.\n")
    assert "val.en:1 is not UTF-8" in after("val", "en", "Bäume\n".encode("latin-1"))
    assert "none of the 5 training pairs is left" in after("train", "en", b"a b c d e f g h i j k l\n" * 5)
    (folder / "val.de.gz").write_bytes(gzip.compress(b"x"))
    assert "has de of valid twice: val.de, val.de.gz" in error(config(folder))
    (folder / "val.de.gz").rename(folder / "x.de.gz")
    cache = folder.parent / "cache"
    assert [path.name for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_absent_data_is_named(folder):
    assert "no training text in fr: there is de, en" in error(config(folder, target_language="fr"))
    assert (
        error(config(folder / "none", where="get it there"))
        == f"data.root={folder / 'none'} is not a folder; get it there"
    )
    assert "data.root is not set" in error(TranslationData("few", "files"))
    assert "data.test_split=test: there is no such split; there are" in error(config(folder, test_split="test"))
    assert "data.eval_split=test_2017: there is no such split" in error(config(folder, eval_split="test_2017"))
    (folder / "val.de").unlink()
    assert "no validation text, such as valid.de and valid.en" in error(config(folder))
    (folder / "train.de").rename(folder / "training.de")
    (folder / "train.en").rename(folder / "training.en")
    assert "there is no train.de or train.de.gz" in error(config(folder))


def test_what_is_no_file_is_named(folder):
    path = folder / "train.de"
    path.unlink()
    path.mkdir()
    assert error(config(folder)) == f"{path} cannot be read: Is a directory"
    path.rmdir()
    path.symlink_to(folder / "absent")
    assert error(config(folder)) == f"{path} cannot be read: No such file or directory"


def test_text_that_cannot_be_read_to_its_end_is_not_blamed_on_the_cache(folder, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")
        yield

    monkeypatch.setattr("multimax.suite.data.text.FileSource._lines", fail)
    assert re.fullmatch(rf"{folder}/\S+ cannot be read: Input/output error", error(config(folder)))


@pytest.mark.parametrize("name", ["valid", "val", "dev", "validation"])
def test_validation_data_have_one_name(folder, name):
    assert config(folder, eval_split=name) == config(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "hub"}, "data.source=hub: choose one of"),
        ({"target_language": "de"}, "are both de"),
        ({"max_length": 0}, "data.max_length=0 is below 1"),
        ({"max_ratio": 0.5}, "data.max_ratio=0.5 is below 1"),
        ({"bpe_merges": 0}, "data.bpe_merges=0 is below 1"),
    ],
)
def test_values_that_no_data_could_do_with_are_refused(changes, message):
    data = TranslationData(**{"name": "few", "source": "files", **changes})

    def check():
        check_options(data, "data.")
        data.check()

    with pytest.raises(UserError, match=message):
        check()
