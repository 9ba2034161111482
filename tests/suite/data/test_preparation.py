import gzip
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from multimax.suite.data.bitext import TranslationData, open_bitext
from multimax.suite.data.iwslt14 import TEST_SETS, main, report
from multimax.suite.data.preparation import Recipe, prepare, tokenize_all
from multimax.suite.data.text import StringSource
from multimax.suite.data.tokenization import Tokenizer, join_pieces
from multimax.suite.errors import UserError

SCRIPT = Path(__file__).parents[3] / "scripts" / "prepare_iwslt14.py"


def source(lines: list[str]) -> StringSource:
    return StringSource("\n".join(lines), "lines")


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_words_are_those_of_moses_with_its_escapes():
    german, english = Tokenizer("de", True, True), Tokenizer("en", True, True)
    assert german.words("„Das ist z. B. Evas Idee“, sagt er; 3.000 & mehr.") == (
        "„ das ist z. b. evas idee “ , sagt er ; 3.000 &amp; mehr ."
    )
    assert english.words("It's \"here\" [now], isn't it?") == (
        "it &apos;s &quot; here &quot; &#91; now &#93; , isn &apos;t it ?"
    )
    assert english.text("it &apos;s here , isn &apos;t it ?") == "it's here, isn't it?"
    assert join_pieces("wer@@ k@@ zeug a@@ b") == "werkzeug ab"


def test_pairs_that_are_long_or_unlike_are_left_out(tmp_path):
    words = [(1, 1), (4, 6), (4, 7), (6, 4), (7, 4), (8, 8), (8, 9), (9, 8), (0, 3), (3, 0)]
    sides = [source([" ".join(f"w{i}" for i in range(pair[side])) for pair in words]) for side in (0, 1)]
    recipe = Recipe(tokenize=False, bpe_merges=None, max_length=8)
    valid = source(["w1"])
    made = prepare({"train": (sides[0], sides[1]), "valid": (valid, valid)}, recipe, tmp_path / "out", {})
    kept = [(4, 6), (6, 4), (1, 1), (8, 8)]
    assert sorted(
        (len(line.split()), len(other.split()))
        for line, other in zip(lines_of(tmp_path / "out/train.de"), lines_of(tmp_path / "out/train.en"), strict=True)
    ) == sorted(kept)
    assert made["splits"]["train"] == {
        "pairs": 4,
        "unknown": {"de": 0, "en": 0},
        "dropped": {"ratio of lengths above 1.5": 2, "longer than 8 words": 2, "empty side": 2},
    }


def test_every_so_manieth_pair_that_is_kept_is_held_out(tmp_path):
    lines = [f"w{i}" if i % 10 else "" for i in range(100)]
    recipe = Recipe(tokenize=False, bpe_merges=None, validation_every=7)
    prepare({"train": (source(lines), source(lines))}, recipe, tmp_path / "out", {})
    kept = [line for line in lines if line]
    assert lines_of(tmp_path / "out/valid.de") == kept[6::7] == lines_of(tmp_path / "out/raw/valid.en")
    assert lines_of(tmp_path / "out/train.en") == [line for i, line in enumerate(kept, 1) if i % 7]
    with pytest.raises(UserError, match="there is no validation text"):
        prepare({"train": (source(lines), source(lines))}, Recipe(bpe_merges=None), tmp_path / "none", {})
    with pytest.raises(UserError, match="3 pairs are too few to hold out every 7th"):
        prepare({"train": (source(lines[:4]), source(lines[:4]))}, recipe, tmp_path / "none", {})
    assert not (tmp_path / "none").exists()


def test_the_encoding_is_learnt_on_both_sides_of_the_training_text_alone(tmp_path):
    train, valid = (source(["lower low"] * 9), source(["newest new"] * 9)), (source(["zzzz zzzz"]), source(["newer"]))
    prepare({"train": train, "valid": valid}, Recipe(bpe_merges=9), tmp_path / "out", {})
    codes = lines_of(tmp_path / "out/code")
    assert codes[0] == "#version: 0.2"
    assert "l o" in codes
    assert "n e" in codes
    assert not any("z" in line for line in codes)
    assert lines_of(tmp_path / "out/valid.de") == ["z@@ z@@ z@@ z z@@ z@@ z@@ z"]
    with pytest.raises(UserError, match="no word of two letters"):
        prepare({"train": (source(["a"]), source(["b"])), "valid": valid}, Recipe(), tmp_path / "none", {})


def test_processes_make_no_difference(monkeypatch):
    monkeypatch.setattr("multimax.suite.data.preparation.CHUNK", 3)
    raw = {"train": ([f"Zeile {i}, z. B." for i in range(8)], [f"Line {i}, e.g." for i in range(8)])}
    assert tokenize_all(raw, Recipe(), 1) == tokenize_all(raw, Recipe(), 2)


def test_what_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    texts = {"train": (source(["a b"]), source(["c d"])), "valid": (source(["a"]), source(["b"]))}
    recipe = Recipe(tokenize=False, bpe_merges=None)
    prepare(texts, recipe, folder, {"version": "first"})
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("multimax.suite.data.preparation.write_sentences", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(texts, recipe, folder, {"version": "second"})
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert list(tmp_path.iterdir()) == [folder]


# A small copy of the IWSLT14 archive.


def segments(count: int, name: str) -> str:
    body = "".join(f'<seg id="{i + 1}"> {name} satz’s {i} </seg>\n' for i in range(count))
    return f'<?xml version="1.0"?>\n<mteval><srcset setid="{name}">\n<title>x</title>\n{body}</srcset></mteval>\n'


def archive_files(pairs: int = 50) -> dict[str, str]:
    files = {}
    for language, word in (("de", "Das Wort"), ("en", "The word")):
        head = "<url>http://x</url>\n<keywords>a, b</keywords>\n<talkid>1</talkid>\n"
        head += f"<title>{word} vorn</title>\n<description>{word} dahinter.</description>\n"
        files[f"de-en/train.tags.de-en.{language}"] = head + "".join(f" {word} x{i}. \n" for i in range(pairs - 2))
        for i, name in enumerate(TEST_SETS):
            files[f"de-en/IWSLT14.{name}.de-en.{language}.xml"] = segments(i + 1, name)
    return files


def write_archive(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            content = text.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def prepare_by_command(monkeypatch):
    def command(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", [SCRIPT.name, *map(str, arguments), "--processes", "1"])
        main()

    return command


@pytest.fixture
def error(prepare_by_command, capsys):
    def message(*arguments: object) -> str:
        with pytest.raises(SystemExit) as stopped:
            prepare_by_command(*arguments)
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return message


def test_the_archive_of_iwslt14_is_prepared_as_fairseq_does(tmp_path, capsys, prepare_by_command):
    archive = write_archive(tmp_path / "de-en.tgz", archive_files())
    out = tmp_path / "out"
    prepare_by_command(out, "--archive", archive, "bpe_merges=30")
    train, valid, test = (
        [join_pieces(line) for line in lines_of(out / f"{split}.de")] for split in ("train", "valid", "test")
    )
    everything = ["das wort vorn", "das wort dahinter .", *(f"das wort x{i} ." for i in range(48))]
    assert valid == everything[22::23]
    assert train == [line for i, line in enumerate(everything, 1) if i % 23]
    assert test == [f"{name.lower()} satz &apos; s {j}" for i, name in enumerate(TEST_SETS) for j in range(i + 1)]
    assert lines_of(out / "raw/test.en")[0] == "TED.dev2010 satz's 0"
    printed = capsys.readouterr().out
    assert "train: 48 pairs; published: 160,239, -160,191 here" in printed
    assert "test: 15 pairs; published: 6,750, -6,735 here" in printed
    bitext = open_bitext(TranslationData("iwslt14", "files", root=str(out)))
    assert bitext.prepare("Das Wort x7.") == bitext.splits["train"].sources[9].tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["de-en.tgz", "out"]


def test_published_sizes_are_recognised(capsys):
    report({"splits": {"train": {"pairs": 160_239}, "test": {"pairs": 6_751}}}, {"train": 160_239, "test": 6_750})
    assert capsys.readouterr().out.splitlines() == [
        "train: 160,239 pairs; published: 160,239, the same",
        "test: 6,751 pairs; published: 6,750, +1 here",
    ]


def test_an_archive_can_be_downloaded(tmp_path, prepare_by_command, error):
    archive = write_archive(tmp_path / "de-en.tgz", archive_files())
    prepare_by_command(tmp_path / "a", "--url", archive.as_uri(), "bpe_merges=5")
    prepare_by_command(tmp_path / "b", "--archive", archive, "bpe_merges=5")
    assert lines_of(tmp_path / "a/train.en") == lines_of(tmp_path / "b/train.en")
    message = error(tmp_path / "c", "--url", (tmp_path / "absent").as_uri())
    assert "cannot be downloaded" in message
    assert message.endswith("get the archive and name it with --archive")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "de-en.tgz"]


def test_bad_archives_are_named(tmp_path, error):
    files = archive_files()

    def named(path: Path, *arguments: object) -> str:
        message = error(tmp_path / "out", "--archive", path, *arguments)
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith((".out", "out"))] == []
        return message

    whole = write_archive(tmp_path / "whole.tgz", files)
    assert "no training text of de-fr: there is de-en.de, de-en.en" in named(whole, "target_language=fr")
    (tmp_path / "cut.tgz").write_bytes(whole.read_bytes()[:-300])
    assert "cut.tgz is not a whole tar archive" in named(tmp_path / "cut.tgz")
    (tmp_path / "none.tgz").write_bytes(b"no archive")
    assert "none.tgz is not a whole tar archive" in named(tmp_path / "none.tgz")
    assert "absent.tgz cannot be read" in named(tmp_path / "absent.tgz")
    few = {name: text for name, text in files.items() if "tst2011" not in name}
    assert "has no IWSLT14.TED.tst2011.de-en.de.xml" in named(write_archive(tmp_path / "few.tgz", few))
    uneven = {**files, "de-en/train.tags.de-en.en": "one\n"}
    assert "has 50 lines and" in named(write_archive(tmp_path / "uneven.tgz", uneven))


def test_other_text_goes_the_same_way(tmp_path, prepare_by_command, error):
    text, out = tmp_path / "text", tmp_path / "out"
    text.mkdir()
    for language, lines in (("fr", ["Il pleut.", "Bonjour !"] * 5), ("en", ["It rains.", "Hello!"] * 5)):
        for split in ("train", "test"):
            (text / f"{split}.{language}.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    options = ["--text", text, "source_language=fr", "bpe_merges=5", "lowercase=false", "validation_every=5"]
    command = [sys.executable, SCRIPT, out, *options]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[:3] == ["test: 10 pairs", "train: 8 pairs", "valid: 2 pairs"]
    for language in ("fr", "en"):
        (text / f"valid.{language}.gz").write_bytes((text / f"test.{language}.gz").read_bytes())
    prepare_by_command(out, *options)  # the script may replace what it made
    assert lines_of(out / "raw/valid.fr")[0] == "Il pleut."

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    assert "was not made by this script: name another folder" in error(tmp_path / "mine", *options)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    assert "has no training text in de: there is en, fr" in error(tmp_path / "new" / "o", "--text", text)
    assert not (tmp_path / "new").exists()
    assert "bpe_merges=0 is below 1" in error(tmp_path / "o", *options, "bpe_merges=0")
    assert "bpe_mergers=1" in error(tmp_path / "o", *options, "bpe_mergers=1")
