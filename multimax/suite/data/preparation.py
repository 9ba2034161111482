"""Prepares line-aligned raw text for translation, in a folder that fairseq can train on too.

The steps are those of fairseq's ``prepare-iwslt14.sh`` and ``fairseq-preprocess``: tokenise, leave out training pairs
that are too long or too unequal in length, lower-case, hold out validation pairs if there are none, learn one byte-pair
encoding on both sides of the training text, split all text by it, make dictionaries and number the tokens. The folder
has

- ``SPLIT.LANGUAGE``, the text as the model sees it, and ``raw/SPLIT.LANGUAGE``, what it was made from (not for
  ``train``);
- ``code`` with the merges, ``dict.LANGUAGE.txt``, and ``SPLIT.de-en.LANGUAGE.bin`` and ``.idx`` with the token ids;
- ``prepared.json``: how and from what it was made, and the sizes.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.progress import Progress

from multimax.suite.data.cache import whole_folder
from multimax.suite.data.corpus import check_spaced
from multimax.suite.data.dictionary import UNK, Dictionary
from multimax.suite.data.fairseq_data import write_sentences
from multimax.suite.data.languages import UNSPACED, check_code, check_processing, primary
from multimax.suite.data.left_out import record
from multimax.suite.data.lines import LineReader
from multimax.suite.data.text import TextSource
from multimax.suite.data.tokenization import Tokenizer, learn_codes, tokenize
from multimax.suite.errors import UserError
from multimax.suite.options import bounded
from multimax.suite.processes import worker_processes

FORMAT = 1  # of the folder: changing it leaves alone what older code made
DESCRIPTION = "prepared.json"
MARKED = re.compile(r"@@(?:\s|$)")  # a piece that does not end a word
CHUNK = 5_000  # lines that a process tokenises at a time

Lines = tuple[list[str], list[str]]
"""The source and target sides of a split."""


@dataclass(kw_only=True)
class Recipe:
    """What is done to raw text."""

    source_language: str = "de"
    target_language: str = "en"
    tokenize: bool = True  # with Moses' tokeniser; otherwise tokens are separated by white space
    lowercase: bool = True
    bpe_merges: int | None = bounded(1, default=10_000)  # None: words as tokens
    joined_dictionary: bool = False
    max_length: int = bounded(1, default=175)  # words on either side of a training pair
    max_ratio: float = bounded(1, default=1.5)  # between the numbers of words on a training pair's two sides
    # Without a validation split: hold out every n-th training pair.
    validation_every: int | None = bounded(2, default=None)

    @property
    def languages(self) -> tuple[str, str]:
        return self.source_language, self.target_language

    @property
    def direction(self) -> str:
        return f"{self.source_language}-{self.target_language}"

    def check_languages(self, prefix: str = "") -> None:
        """Raise UserError for unknown or equal languages; ``prefix`` goes before the options' names."""
        if self.source_language == self.target_language:
            raise UserError(f"{prefix}source_language and target_language are both {self.source_language}")
        check_code(f"{prefix}source_language", self.source_language)
        check_code(f"{prefix}target_language", self.target_language)

    def tokenizers(self, folder: Path) -> list[Tokenizer]:
        """Both languages' tokenisers, with the merges in ``folder``."""
        codes = folder / "code" if self.bpe_merges is not None else None
        return [Tokenizer(language, self.tokenize, self.lowercase, codes) for language in self.languages]


def prepare(
    texts: Mapping[str, tuple[TextSource, TextSource]],
    recipe: Recipe,
    folder: Path,
    origin: Mapping[str, Any],
    processes: int = 1,
) -> dict[str, Any]:
    """Make ``folder``, whole or not at all; an existing one is replaced.

    Args:
        texts: source and target side of ``train`` and of each other split, such as ``valid`` and ``test``. They are all
            held in memory.
        recipe: what is done to them.
        folder: its parent must exist.
        origin: what to record about where the text comes from.
        processes: number of processes that tokenise.

    Returns:
        What ``prepared.json`` holds: ``recipe``, ``origin``, ``versions`` and, in ``splits``, each split's number of
            ``pairs`` and of ``unknown`` tokens on each side, and for ``train`` also how many pairs were ``dropped`` and
            why.

    Raises:
        UserError: a file is empty, not UTF-8 or not aligned, a sentence outside ``train`` has no words, or no training
            pair is left.
    """
    for language in recipe.languages:
        check_processing(language, recipe.tokenize, recipe.lowercase)
    readers = {split: (LineReader(source.name), LineReader(target.name)) for split, (source, target) in texts.items()}
    raw = {split: read_pair(sources, readers[split]) for split, sources in texts.items()}
    check_scored(texts, raw)
    words = tokenize_all(raw, recipe, processes)
    check_scored(
        texts, words, marked=recipe.bpe_merges is not None
    )  # once more, as the tokeniser removes control characters
    for language, source, side in zip(recipe.languages, texts["train"], words["train"], strict=True):
        if primary(language) in UNSPACED:
            check_spaced(Counter(word for line in side for word in line.split()), source.name, "segment the text")
    kept, dropped = clean(words["train"], recipe)
    if not kept:
        raise UserError(f"none of the {len(words['train'][0])} training pairs is left: {dropped}")
    held_out: list[int] = []
    if "valid" not in texts:
        if recipe.validation_every is None:
            raise UserError("there is no validation text: give one, or set validation_every")
        held_out = kept[recipe.validation_every - 1 :: recipe.validation_every]
        kept = [i for number, i in enumerate(kept, 1) if number % recipe.validation_every]
        if not held_out or not kept:
            raise UserError(
                f"{len(held_out) + len(kept)} pairs are too few to hold out every {recipe.validation_every}th"
            )
    for lines in (raw, words):
        train = lines["train"]
        lines["train"] = select(train, kept)
        if held_out:
            lines["valid"] = select(train, held_out)

    with whole_folder(folder) as made:
        sizes = write(made, raw, words, recipe)
        sizes["train"]["dropped"] = dropped
        for split, sides in readers.items():
            found = [one for reader in sides for one in reader.left_out() if one.count]
            if found:
                sizes[split]["read"] = record(found)
        description = {
            "format": FORMAT,
            "recipe": asdict(recipe),
            "origin": dict(origin),
            "versions": {package: version(package) for package in ("sacremoses", "subword-nmt")},
            "splits": sizes,
        }
        (made / DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")
    return description


def read_pair(sources: tuple[TextSource, TextSource], readers: tuple[LineReader, LineReader]) -> Lines:
    """The lines of both sides. Raises UserError unless they are equally many."""
    source, target = sources
    pair = [
        [line.strip() for line in side.lines(lambda _: None, reader)]
        for side, reader in zip(sources, readers, strict=True)
    ]
    for side, lines in zip((source, target), pair, strict=True):
        if not any(lines):
            raise UserError(f"{side.name} is empty")
    if len(pair[0]) != len(pair[1]):
        raise UserError(
            f"{source.name} has {len(pair[0])} lines and {target.name} {len(pair[1])}: "
            "line i of the one must be the translation of line i of the other"
        )
    return pair[0], pair[1]


def check_scored(
    texts: Mapping[str, tuple[TextSource, TextSource]], text: Mapping[str, Lines], marked: bool = False
) -> None:
    """Raise UserError for a line without words and, if pieces will be ``marked``, for a word that looks marked.

    This does not apply to ``train``, where such a pair is left out, but what is scored must be whole.
    """
    for split, sides in text.items():
        for source, lines in zip(texts[split], sides, strict=True):
            if split == "train":
                continue
            if "" in lines:
                raise UserError(f"{source.name}:{lines.index('') + 1} has no word: take the line out of both files")
            if marked and (bad := next((i for i, line in enumerate(lines, 1) if MARKED.search(line)), None)):
                raise UserError(
                    f"{source.name}:{bad} has a word that ends in @@, the mark of the BPE: take the line out of both "
                    "files, or set data.bpe_merges=null if the text is split already"
                )


def tokenize_all(raw: Mapping[str, Lines], recipe: Recipe, processes: int) -> dict[str, Lines]:
    """The words of all lines, in chunks shared among the processes."""
    words: dict[str, Lines] = {split: ([], []) for split in raw}
    chunks = [
        (split, side, lines[i : i + CHUNK])
        for split, sides in raw.items()
        for side, lines in enumerate(sides)
        for i in range(0, len(lines), CHUNK)
    ]
    bar = Progress(disable=not sys.stdout.isatty(), transient=True)
    with bar, worker_processes(processes) as pool:
        do = partial(tokenize, moses=recipe.tokenize, lowercase=recipe.lowercase)
        languages = [recipe.languages[side] for _, side, _ in chunks]
        many = processes > 1 and sum(len(lines) for *_, lines in chunks) > CHUNK
        done = (pool.map if many else map)(do, languages, [lines for *_, lines in chunks])
        for split, side, _ in bar.track(chunks, description="tokenising"):
            words[split][side].extend(next(done))
    return words


def clean(words: Lines, recipe: Recipe) -> tuple[list[int], dict[str, int]]:
    """Indices of the pairs to train on, chosen like Moses' ``clean-corpus-n.perl``, and counts of others by reason."""
    kept: list[int] = []
    dropped: Counter[str] = Counter()
    for i, pair in enumerate(zip(*words, strict=True)):
        shorter, longer = sorted(len(side.split()) for side in pair)
        if recipe.bpe_merges is not None and any(MARKED.search(side) for side in pair):
            dropped["a word ends in @@, the mark of the BPE"] += 1
        elif not shorter:
            dropped["empty side"] += 1
        elif longer > recipe.max_length:
            dropped[f"longer than {recipe.max_length} words"] += 1
        elif longer > recipe.max_ratio * shorter:
            dropped[f"ratio of lengths above {recipe.max_ratio:g}"] += 1
        else:
            kept.append(i)
    return kept, dict(dropped)


def select(lines: Lines, indices: list[int]) -> Lines:
    return [lines[0][i] for i in indices], [lines[1][i] for i in indices]


def write(
    folder: Path, raw: Mapping[str, Lines], words: Mapping[str, Lines], recipe: Recipe
) -> dict[str, dict[str, Any]]:
    """Learn the encoding, split the text by it, and write everything but the description; returns the sizes."""
    if recipe.bpe_merges is not None:
        learn_codes([line for side in words["train"] for line in side], recipe.bpe_merges, folder / "code")
    tokenizers = recipe.tokenizers(folder)
    pieces = {
        split: [[tokenizer.pieces(line) for line in lines] for tokenizer, lines in zip(tokenizers, sides, strict=True)]
        for split, sides in words.items()
    }
    train = pieces["train"]
    if recipe.joined_dictionary:
        dictionaries = [Dictionary.from_lines([*train[0], *train[1]])] * 2
    else:
        dictionaries = [Dictionary.from_lines(side) for side in train]
    (folder / "raw").mkdir()
    sizes: dict[str, dict[str, Any]] = {}
    for split in pieces:
        sizes[split] = {"pairs": len(pieces[split][0]), "unknown": {}}
        for side, (language, dictionary) in enumerate(zip(recipe.languages, dictionaries, strict=True)):
            dictionary.save(folder / f"dict.{language}.txt")
            write_lines(folder / f"{split}.{language}", pieces[split][side])
            if split != "train":
                write_lines(folder / "raw" / f"{split}.{language}", raw[split][side])
            ids = [dictionary.encode(line, end=True) for line in pieces[split][side]]
            write_sentences(folder / f"{split}.{recipe.direction}.{language}", ids, len(dictionary))
            sizes[split]["unknown"][language] = sum(sentence.count(UNK) for sentence in ids)
    return sizes


def write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def read_lines(path: Path) -> list[str]:
    """What ``write_lines`` wrote: lines end only at ``\\n``, as raw text may hold other separators."""
    return path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
