"""Sentence pairs for training translation: line-aligned text, folders prepared from it, and fairseq's folders.

Text is prepared on first use (``multimax.suite.data.preparation``) and cached under a hash of the text and its
processing. In the end all are opened in one format, fairseq's, mapped into memory.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from multimax.suite.data import preparation
from multimax.suite.data.aligned_files import VALID, beside_text, find_text, name_of_files
from multimax.suite.data.cache import cached
from multimax.suite.data.dictionary import EOS, UNK, Dictionary
from multimax.suite.data.fairseq_data import Sentences, read_sentences
from multimax.suite.data.fingerprint import Fingerprint, digest
from multimax.suite.data.hub import VALIDATION
from multimax.suite.data.left_out import LeftOut, beside, restore
from multimax.suite.data.preparation import DESCRIPTION, Recipe, prepare, read_lines
from multimax.suite.data.text import StringSource, TextSource
from multimax.suite.data.tokenization import Tokenizer, join_pieces
from multimax.suite.errors import UserError
from multimax.suite.files import expanded
from multimax.suite.options import bounded, registered
from multimax.suite.plugins import build, has_target, require
from multimax.suite.registry import Registry

READING = 2  # version of how raw text is read: raising it leaves older code's caches unused
MORE = re.compile(r"train\d+\.")  # parts of the training data that fairseq would add to train


SOURCES = Registry(
    {"synthetic": "multimax.suite.data.bitext.synthetic", "files": "multimax.suite.data.bitext.from_files"}
)
"""By name (except files), the functions that make each split's two ``TextSource``s from the configuration."""


@dataclass
class TranslationData(Recipe):
    """Which sentence pairs, and how raw text is processed; prepared folders record that themselves."""

    name: str  # the data's label in run names
    source: str = registered(SOURCES)  # synthetic: from the project's own German grammar; files: from root
    # Folder with line-aligned text of each split, such as train.de and train.en or train.de.gz and train.en.gz; or one
    # made by scripts/prepare_iwslt14.py or fairseq-preprocess.
    root: str | None = None
    where: str = ""  # where to get the data; printed when it is absent or incomplete
    cache_dir: str = "~/.cache/multimax"  # where prepared text is kept
    # What evaluation scores: validation, by this name or its files', or a test split, by its files' name.
    eval_split: str = "validation"
    test_split: str = "test"  # what a run's results are measured on
    max_left_out: float = bounded(0, 1, default=0.5)  # share of training pairs, or of unknown tokens, that stops a run

    def __post_init__(self) -> None:
        if self.eval_split in VALIDATION:  # one name only, as it is part of a run's identity
            self.eval_split = "validation"

    def check(self) -> None:
        """Raise UserError for values that cannot fit any data."""
        self.check_languages("data.")

    def recipe(self) -> Recipe:
        return Recipe(**{field.name: getattr(self, field.name) for field in fields(Recipe)})


@dataclass
class Pairs:
    """Source and target sentences of a split, equally many of each."""

    sources: Sentences
    targets: Sentences

    def __len__(self) -> int:
        return len(self.sources)


@dataclass
class References:
    """Target sentences that translations are scored against."""

    tokenized: list[str]  # words as the model is trained on them (perhaps lower-cased), without BPE marks
    raw: list[str] | None  # lines as given; None if they are not known, as in fairseq's folders


@dataclass
class Bitext:
    """Dictionaries, each split's pairs, and conversion between text and ids."""

    root: Path
    recipe: Recipe
    source_dictionary: Dictionary
    target_dictionary: Dictionary  # the same object if joined
    splits: dict[str, Pairs]  # train, validation, and test splits by their files' names
    description: dict[str, Any]  # sizes and, for text, what was dropped: for a run's summary
    preparation: dict[str, Any]  # recipe and versions that prepared the text, for the summary; unknown for fairseq
    held_out: int = 0  # training pairs that are scored in place of validation pairs
    beside: LeftOut | None = None  # what else is there besides the splits' files

    @cached_property
    def tokenizers(self) -> tuple[Tokenizer, Tokenizer]:
        source, target = self.recipe.tokenizers(self.root)
        return source, target

    def prepare(self, line: str, target: bool = False) -> list[int]:
        """Ids of a raw source (or target) sentence, ending with EOS, as in ``Pairs``."""
        line = unicodedata.normalize("NFC", line)
        tokenizer = self.tokenizers[target]
        dictionary = self.target_dictionary if target else self.source_dictionary
        return dictionary.encode(tokenizer.pieces(tokenizer.words(line)), end=True)

    def tokenized(self, ids: Iterable[int]) -> str:
        """The words of target ids up to EOS, which tokenised BLEU compares."""
        return join_pieces(self.target_dictionary.decode(ids))

    def detokenize(self, ids: Iterable[int]) -> str:
        """The text of target ids up to EOS, which detokenised BLEU compares and people read."""
        return self.tokenizers[1].text(self.tokenized(ids))

    def fingerprint(self, splits: Iterable[str]) -> Fingerprint:
        """Identifies the ids of ``splits`` and the conversion between text and ids, wherever they were prepared."""
        found: Fingerprint = {"languages": self.recipe.direction}
        codes = self.root / "code"
        found["segmentation"] = (
            f"tokenize={self.recipe.tokenize}, lowercase={self.recipe.lowercase}, "
            f"BPE {digest([codes.read_bytes()]) if self.recipe.bpe_merges is not None else 'none'}"
        )
        for side, dictionary in (("source", self.source_dictionary), ("target", self.target_dictionary)):
            tokens = [token.encode() for token in dictionary.tokens]
            found[f"{side} vocabulary"] = f"{len(tokens):,} tokens ({digest(tokens)})"
        for split in dict.fromkeys(splits):
            pairs = self.splits[split]
            sides = (pairs.sources, pairs.targets)
            parts = (part for side in sides for part in (side.lengths.tobytes(), side.ids.astype("<i4").tobytes()))
            found[f"{split} pairs"] = f"{len(pairs):,} ({digest(parts)})"
        return found

    def left_out(self, splits: Iterable[str], training: bool = True) -> list[LeftOut]:
        """What was found in reading ``splits``, and their unknown tokens.

        With ``training``, also files that are not read and, as far as the folder records them, pairs not trained on.
        """
        found = [*self.not_trained_on()] if training else []
        for split in dict.fromkeys(splits):
            pairs = self.splits[split]
            found += restore(self.description.get(name_of_files(split), {}).get("read", ()))
            for language, side in zip(self.recipe.languages, (pairs.sources, pairs.targets), strict=True):
                reasons = {"the dictionary lacks them": int((side.ids == UNK).sum())}
                found.append(LeftOut(f"{split} tokens in {language}", len(side.ids), reasons, "are read as <unk>"))
        return found

    def not_trained_on(self) -> Iterator[LeftOut]:
        if self.beside is not None:
            yield self.beside
        train = self.description["train"]
        dropped = train.get("dropped", {})
        whole = train["pairs"] + self.held_out
        yield LeftOut("training pairs", whole + sum(dropped.values()), dropped)
        reason = {"they are scored in the place of validation pairs": self.held_out}
        yield LeftOut("training pairs", whole, reason, "are held out", limited=False)

    def references(self, split: str) -> References:
        name = f"{name_of_files(split)}.{self.recipe.target_language}"
        if (self.root / DESCRIPTION).exists():
            raw = self.lines(f"raw/{name}", split) if split != "train" else None
            return References([join_pieces(line) for line in self.lines(name, split)], raw)
        # As in fairseq, an unknown word in the reference does not match one in a translation.
        tokens = [f"<{token}>" if i == UNK else token for i, token in enumerate(self.target_dictionary.tokens)]
        sentences = (self.splits[split].targets[i] for i in range(len(self.splits[split])))
        return References([join_pieces(" ".join(tokens[i] for i in ids if i != EOS)) for ids in sentences], None)

    def lines(self, name: str, split: str) -> list[str]:
        """A text file of a prepared folder. Raises UserError unless it has one line per sentence of the split."""
        path, count = self.root / name, len(self.splits[split])
        try:
            lines = read_lines(path)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read ({error}): prepare the data again") from None
        if len(lines) != count:
            raise UserError(f"{path} has {len(lines)} lines, but {split} {count} sentences: prepare the data again")
        return lines


def open_bitext(config: TranslationData) -> Bitext:
    """The sentence pairs of a configuration.

    Raises:
        UserError: the pairs are absent, incomplete, not aligned, not UTF-8 or not in these languages, a dictionary does
            not belong to them, or the cache cannot be written.
    """
    if config.source == "files":
        bitext = from_files(config)
    elif has_target(config):
        bitext = from_text(config, own_texts(build("data", config, offered={})))
    else:
        bitext = from_text(config, SOURCES.find("data.source", config.source)(config))
    for key in ("eval_split", "test_split"):
        if (split := getattr(config, key)) not in bitext.splits:
            raise UserError(f"data.{key}={split}: there is no such split; there are {', '.join(bitext.splits)}")
    return bitext


def synthetic(config: TranslationData) -> dict[str, tuple[TextSource, TextSource]]:
    """Text from the project's own grammar."""
    from multimax.suite.data.german_grammar import LANGUAGES, corpus

    if (config.source_language, config.target_language) != LANGUAGES:
        raise UserError(f"data.source=synthetic translates from {LANGUAGES[0]} to {LANGUAGES[1]} only")
    return in_memory(corpus())


def own_texts(made: Any) -> dict[str, tuple[TextSource, TextSource]]:
    """The text of a ``_target_``: each split's lines in both languages. Raises UserError."""
    texts = require("data", made, dict)
    for split in dict.fromkeys(("train", VALID, *texts)):
        sides = texts.get(split)
        if not isinstance(sides, tuple) or len(sides) != 2 or len(sides[0]) != len(sides[1]):
            raise UserError(f"data: {split} is no pair of lists of lines, as many in either language")
        if other := next((line for side in sides for line in side if not isinstance(line, str)), None):
            raise UserError(f"data: a line of {split} is no text, but {type(other).__name__}")
    return in_memory(texts)


def in_memory(texts: Mapping[str, tuple[Sequence[str], Sequence[str]]]) -> dict[str, tuple[TextSource, TextSource]]:
    def source(lines: Sequence[str], name: str) -> TextSource:
        return StringSource("\n".join(lines), name)

    return {split: (source(a, f"{split}, side 1"), source(b, f"{split}, side 2")) for split, (a, b) in texts.items()}


def from_files(config: TranslationData) -> Bitext:
    """The pairs in ``data.root``, whichever of the three kinds of folder that is."""
    try:
        if config.root is None:
            raise UserError("data.root is not set: point it at the sentence pairs")
        root = expanded("data.root", config.root)
        if not root.is_dir():
            raise UserError(f"data.root={root} is not a folder")
        if (root / DESCRIPTION).exists():
            bitext = open_prepared(root, config.source_language, config.target_language)
            check_recipe(config, bitext)
            return bitext
        if any(root.glob("dict.*.txt")):
            bitext = open_fairseq(root, config)
            bitext.beside = beside_binary(root, bitext)
            return bitext
        texts = find_text(root, *(languages := config.recipe().languages))
        if VALID not in texts and config.validation_every is None:
            raise UserError(
                f"data.root={root} has no validation text, such as valid.{languages[0]} and valid.{languages[1]}"
            )
    except OSError as error:
        raise UserError(f"data.root={config.root} cannot be read: {error}") from None
    except UserError as error:
        raise UserError(f"{error}; {config.where}" if config.where else str(error)) from error
    bitext = from_text(config, texts)
    bitext.beside = beside_text(root, texts, *languages)
    return bitext


def from_text(config: TranslationData, texts: dict[str, tuple[TextSource, TextSource]]) -> Bitext:
    """The pairs of raw text, from the cache, where they are prepared first if need be."""
    recipe = config.recipe()
    origin = {split: [side.fingerprint() for side in sides] for split, sides in texts.items()}

    def load(folder: Path) -> Bitext | None:
        try:
            return open_prepared(folder, *recipe.languages)
        except UserError:  # absent or damaged
            return None

    return cached(
        config,
        {"format": preparation.FORMAT, "reading": READING, "recipe": asdict(recipe), "text": origin},
        load,
        make=lambda folder: prepare(texts, recipe, folder, {"name": config.name, "text": origin}),
    )


def beside_binary(root: Path, bitext: Bitext) -> LeftOut:
    """What ``open_fairseq`` passes over."""
    names = "|".join(re.escape(name_of_files(split)) for split in bitext.splits)
    of = f"({'|'.join(map(re.escape, bitext.recipe.languages))})"
    read = re.compile(rf"code|dict\.{of}\.txt|({names})\.{of}-{of}\.{of}\.(bin|idx)")

    def why(path: Path) -> str:
        return "more training data, as fairseq numbers them" if MORE.match(path.name) else "of no split that is read"

    return beside(root, [path for path in root.iterdir() if read.fullmatch(path.name)], why)


def open_prepared(root: Path, source: str, target: str) -> Bitext:
    """Open a folder made by ``preparation.prepare``."""
    try:
        description = json.loads((root / DESCRIPTION).read_text(encoding="utf-8"))
        if description["format"] != preparation.FORMAT:
            raise UserError(
                f"{root} was prepared by another version (format {description['format']}): prepare it again"
            )
        recipe, sizes = Recipe(**description["recipe"]), description["splits"]
        made = {key: description[key] for key in ("recipe", "versions")}
        texts = description["origin"].get("text", {VALID: []})
        held_out = 0 if VALID in texts else sizes[VALID]["pairs"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{root / DESCRIPTION} is not whole ({error}): prepare the data again") from None
    if {source, target} != set(recipe.languages):
        raise UserError(f"{root} holds {' and '.join(recipe.languages)}, not {source} and {target}")
    if (source, target) != recipe.languages:
        recipe = replace(recipe, source_language=source, target_language=target)
    bitext = open_folder(root, recipe, sizes, made)
    bitext.held_out = held_out
    return bitext


def check_recipe(config: TranslationData, bitext: Bitext) -> None:
    """Raise UserError for an option that is neither the default nor what a folder's text was prepared with."""
    asked, default = asdict(config.recipe()), asdict(Recipe())
    for name, value in asdict(bitext.recipe).items():
        if asked[name] not in (value, default[name]):
            raise UserError(
                f"data.{name}={asked[name]}, but {bitext.root} was prepared with {value}: leave it out, or prepare the "
                "text again"
            )


def open_fairseq(root: Path, config: TranslationData) -> Bitext:
    """Open a folder made by ``fairseq-preprocess``.

    Raw sentences to translate are tokenised and split only if the folder also has the BPE codes, in a file ``code``;
    otherwise they are taken as tokens separated by spaces.
    """
    recipe = config.recipe()
    if not (root / "code").exists():
        recipe = replace(recipe, tokenize=False, lowercase=False, bpe_merges=None)
    return open_folder(root, recipe, {}, {})


def open_folder(root: Path, recipe: Recipe, description: dict[str, Any], made: dict[str, Any]) -> Bitext:
    """Open dictionaries and binary data. The files may be named after either direction."""
    languages = recipe.languages
    there = sorted(path.name.split(".")[1] for path in root.glob("dict.*.txt"))
    for language in languages:
        if language not in there:
            raise UserError(f"{root} has no dictionary dict.{language}.txt: there is {', '.join(there) or 'none'}")
    if recipe.bpe_merges is not None and not (root / "code").is_file():
        raise UserError(f"{root} has no file code with the merges of its BPE: prepare the data again")
    source, target = (Dictionary.load(root / f"dict.{language}.txt") for language in languages)
    if source.tokens == target.tokens:
        target = source
    splits: dict[str, Pairs] = {}
    for direction in ("-".join(languages), "-".join(reversed(languages))):
        suffix = f".{direction}.{languages[0]}.idx"
        for name in sorted(path.name.removesuffix(suffix) for path in root.glob(f"*{suffix}")):
            if MORE.match(f"{name}."):
                continue
            prefixes = (root / f"{name}.{direction}.{language}" for language in languages)
            sides = [read_sentences(prefix, len(side)) for prefix, side in zip(prefixes, (source, target), strict=True)]
            if len(sides[0]) != len(sides[1]):
                raise UserError(
                    f"{root} has {len(sides[0])} sentences of {name} in {languages[0]} and {len(sides[1])} in "
                    f"{languages[1]}: they do not belong together"
                )
            splits["validation" if name == VALID else name] = Pairs(*sides)
    for split in ("train", "validation"):
        if split not in splits:
            name = name_of_files(split)
            raise UserError(
                f"{root} has no binary data of {name}, such as {name}.{recipe.direction}.{languages[0]}.idx"
            )
    sizes = description or {split: {"pairs": len(pairs)} for split, pairs in splits.items()}
    return Bitext(root, recipe, source, target, splits, sizes, made)
