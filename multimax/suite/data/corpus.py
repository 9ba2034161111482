"""Token ids of a text: computed once, kept in a compact file, and mapped into memory.

However large the text, computing them needs memory only for the vocabulary.
"""

import hashlib
import json
import os
import re
import sys
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from multimax.suite.data.cache import cached, whole_folder
from multimax.suite.data.fingerprint import Fingerprint, digest
from multimax.suite.data.left_out import LeftOut, record, restore
from multimax.suite.data.lines import LineReader
from multimax.suite.data.text import TextData, TextSource, open_text
from multimax.suite.data.tokenization import SEPARATOR, join_pieces, learn_codes, read_codes
from multimax.suite.errors import UserError
from multimax.suite.files import expanded

UNKNOWN, END_OF_LINE = "<unk>", {"word": "<eos>", "subword": "<eos>", "character": "\n"}
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]+")  # Thai, ..., Chinese
CODES = "codes.txt"  # of the byte-pair encoding
FORMAT = 3  # version of the cache: raising it leaves older code's caches unused
BUFFER = 1 << 16  # tokens held in memory while writing a file


def fingerprint(tokens: Sequence[str]) -> Tensor:
    """Four int64 that identify tokens and their order."""
    digest = hashlib.sha256(json.dumps(tokens).encode()).digest()
    return torch.from_numpy(np.frombuffer(digest, dtype="<i8").copy())


class Vocabulary:
    """Tokens and their ids, most frequent first; all other tokens are ``<unk>``.

    ``codes`` is the file with the byte-pair encoding for ``unit`` "subword".
    """

    def __init__(self, tokens: Sequence[str], unit: str, codes: Path | None = None) -> None:
        self.tokens, self.unit, self.codes = tokens, unit, codes
        self.bpe = read_codes(codes) if codes else None
        self.ids = {token: i for i, token in enumerate(tokens)}
        self.unknown = self.ids[UNKNOWN]

    def __len__(self) -> int:
        return len(self.tokens)

    def split(self, line: str) -> list[str]:
        """The tokens of one line, including its end."""
        tokens = line if self.unit == "character" else line.split()
        return [*(pieces(tokens, self.bpe) if self.bpe else tokens), END_OF_LINE[self.unit]]

    def encode(self, text: str) -> list[int]:
        """The ids of a text in any Unicode form; no end is added to the last line."""
        text = unicodedata.normalize("NFC", text)
        tokens = [token for line in text.split("\n") for token in self.split(line)][:-1]
        return [self.ids.get(token, self.unknown) for token in tokens]

    def decode(self, ids: Iterable[int]) -> str:
        """The text that ``ids`` stand for."""
        tokens = (self.tokens[i] for i in ids)
        if self.unit == "character":
            return "".join(tokens)
        text = " ".join("\n" if token == END_OF_LINE["word"] else token for token in tokens).replace(" \n ", "\n")
        return join_pieces(text) if self.bpe else text

    def identity(self) -> list[str]:
        """What distinguishes it from others: the tokens in order and the encoding that produces them."""
        return [*self.tokens, *([self.codes.read_text(encoding="utf-8")] if self.codes else [])]

    def fingerprint(self) -> Tensor:
        """Four int64 that identify the ``identity``."""
        return fingerprint(self.identity())


def pieces(words: Iterable[str], bpe: Any) -> Iterator[str]:
    """The pieces of words; ``<unk>`` is one piece."""
    for word in words:
        yield from [word] if word == UNKNOWN else bpe.segment_tokens([word])


@dataclass
class Corpus:
    """A vocabulary and each split's ids, mapped from a file."""

    vocabulary: Vocabulary
    splits: dict[str, np.ndarray]
    unknown: dict[str, int]  # each split's count of tokens that the vocabulary lacks
    words: dict[str, int]  # each split's count of words between white space, including the ends of lines
    read: dict[str, list[LeftOut]]  # what was left out of each split's lines, or changed in them
    beside: LeftOut | None = None  # what else is there besides the splits' files

    def fingerprint(self, splits: Iterable[str]) -> Fingerprint:
        """Identifies the vocabulary and the tokens of ``splits``, whatever file they come from."""
        tokens = [token.encode() for token in self.vocabulary.identity()]
        found: Fingerprint = {
            "unit": self.vocabulary.unit,
            "vocabulary": f"{len(self.vocabulary):,} tokens ({digest(tokens)})",
        }
        for split in splits:
            ids = self.splits[split]
            found[f"{split} text"] = f"{len(ids):,} tokens ({digest([ids.tobytes()])})"
        return found

    def left_out(self, splits: Iterable[str]) -> list[LeftOut]:
        """What was found while reading the lines of ``splits``, and their unknown tokens."""
        found = []
        for split in splits:
            ids, lacking = self.splits[split], self.unknown[split]
            written = int(np.count_nonzero(ids == self.vocabulary.unknown)) - lacking
            reasons = {"the vocabulary lacks them": lacking, "the text has them so": written}
            reasons = {reason: count for reason, count in reasons.items() if count}
            found += [*self.read[split], LeftOut(f"{split} tokens", len(ids), reasons, f"are read as {UNKNOWN}")]
        return found

    def unigram_perplexity(self, split: str) -> float:
        """A split's perplexity under the training text's token frequencies, with one added to each count."""
        seen, scored = (np.bincount(self.splits[name], minlength=len(self.vocabulary)) for name in ("train", split))
        log_probability = np.log((seen + 1) / (seen.sum() + len(seen)))
        return float(np.exp(-(scored * log_probability).sum() / scored.sum()))


def open_corpus(config: TextData) -> Corpus:
    """The configured corpus, from the cache if it is there.

    Raises:
        UserError: the text is absent, empty or not UTF-8, the vocabulary does not fit, or the cache cannot be written.
    """
    sources = open_text(config)
    file = expanded("data.vocabulary", config.vocabulary) if config.vocabulary else None
    given = read_vocabulary(file, config.unit) if file else None
    origin: dict[str, object] = {
        "format": FORMAT,
        "unit": [config.unit, config.bpe_merges] if config.unit == "subword" else config.unit,
        "vocabulary": given.fingerprint().tolist() if given else config.max_tokens,
        "text": {split: source.fingerprint() for split, source in sources.items()},
    }
    corpus = cached(
        config,
        origin,
        load=lambda folder: load(folder, config.unit),
        make=lambda folder: build(folder, sources, given, config, origin),
    )
    corpus.beside = sources["train"].beside
    return corpus


def read_vocabulary(path: Path, unit: str) -> Vocabulary:
    """The vocabulary in a JSON file. Raises UserError if it is not one, or lacks ``<unk>`` or an end of line."""
    try:
        tokens = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"data.vocabulary={path} cannot be read: {error}") from None
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise UserError(f"data.vocabulary={path} is not a JSON list of tokens")
    if len(set(tokens)) < len(tokens):
        raise UserError(f"data.vocabulary={path} has {Counter(tokens).most_common(1)[0][0]!r} more than once")
    for needed in (UNKNOWN, END_OF_LINE[unit]):
        if needed not in tokens:
            raise UserError(
                f"data.vocabulary={path} has no {needed!r}, which data.unit={unit} needs: add it to the list"
            )
    return Vocabulary(tokens, unit)


def build_vocabulary(source: TextSource, config: TextData, folder: Path) -> Vocabulary:
    """The tokens of a text by decreasing frequency, ties alphabetically.

    The subword encoding is learnt from the text and kept in ``folder``.
    """
    unit, codes = config.unit, folder / CODES if config.unit == "subword" else None
    counts: Counter[str] = Counter({UNKNOWN: 0})
    with progress(source, "reading") as lines:
        for line in lines:
            counts.update(line if unit == "character" else line.split())
            counts[END_OF_LINE[unit]] += 1

    if unit != "character":
        check_spaced(counts, source.name, "set data.unit=character, or segment the text")
    if codes is not None:
        counts = count_pieces(counts, config.bpe_merges, codes, source.name)

    def by_frequency(tokens: Iterable[str]) -> list[str]:
        return sorted(tokens, key=lambda token: (-counts[token], token))

    if config.max_tokens is not None:
        special = {UNKNOWN, END_OF_LINE[unit]}
        for token in by_frequency(counts.keys() - special)[config.max_tokens - len(special) :]:
            counts[UNKNOWN] += counts.pop(token)
    return Vocabulary(by_frequency(counts), unit, codes)


def count_pieces(words: Counter[str], merges: int, codes: Path, name: str) -> Counter[str]:
    """How often each piece occurs in a text with these words, by a byte-pair encoding learnt from them."""
    special = {UNKNOWN, END_OF_LINE["subword"]}
    counted = [f"{word} {count}" for word, count in sorted(words.items()) if word not in special]
    learn_codes(counted, merges, codes, counted=True)
    bpe, counts = read_codes(codes), Counter({token: words[token] for token in special})
    for word, count in words.items():
        if word.endswith(SEPARATOR):
            raise UserError(f"{name} has the word {word}: {SEPARATOR} at its end is the mark of a piece: take it out")
        for piece in () if word in special else bpe.segment_tokens([word]):
            counts[piece] += count
    return counts


def check_spaced(counts: Counter[str], name: str, remedy: str) -> None:
    """Raise UserError, ending in ``remedy``, for text without spaces: its tokens would be whole sentences."""
    found = {token: sum(map(len, UNSPACED.findall(token))) for token in counts}
    characters = sum(len(token) * count for token, count in counts.items())
    unspaced = sum(length * counts[token] for token, length in found.items())
    tokens = sum(counts[token] for token, length in found.items() if length)
    if unspaced > characters / 2 and unspaced > 6 * tokens:
        raise UserError(
            f"the words of {name} have no spaces in between: there are {unspaced // tokens} characters from one to the "
            f"next; {remedy}"
        )


def build(
    folder: Path, sources: dict[str, TextSource], given: Vocabulary | None, config: TextData, origin: dict[str, object]
) -> None:
    """Make ``folder``, whole or not at all."""
    with whole_folder(folder) as made:
        vocabulary = given or build_vocabulary(sources["train"], config, made)
        sizes = {split: write_ids(made / f"{split}.bin", source, vocabulary) for split, source in sources.items()}
        (made / "vocabulary.json").write_text(json.dumps(vocabulary.tokens), encoding="utf-8")
        (made / "description.json").write_text(json.dumps({"origin": origin, "splits": sizes}, indent=1))


def write_ids(path: Path, source: TextSource, vocabulary: Vocabulary) -> dict[str, Any]:
    """Write the ids of a text as little-endian integers.

    Returns the numbers of ``tokens``, ``unknown`` tokens and ``words``, and what was found in the lines (``read``).
    """
    reader = LineReader(source.name)
    end = None if vocabulary.unit == "character" else END_OF_LINE[vocabulary.unit]
    tokens = unknown = words = 0
    lookup, dtype = vocabulary.ids.get, id_type(len(vocabulary))
    buffer = array("i")
    with path.open("wb") as file, progress(source, "numbering", reader) as lines:

        def flush() -> None:
            nonlocal tokens, unknown
            ids = np.array(buffer, dtype=np.int32)
            tokens, unknown = tokens + len(ids), unknown + int((ids < 0).sum())
            file.write(np.where(ids < 0, vocabulary.unknown, ids).astype(dtype).tobytes())
            del buffer[:]

        for line in lines:
            if end is not None and end in line and end in line.split():
                raise UserError(
                    f"line {reader.lines} of {source.name} has the word {end}, which stands for the end of a line: "
                    "take it out"
                )
            words += len(line.split()) + 1
            buffer.extend([lookup(token, -1) for token in vocabulary.split(line)])
            if len(buffer) >= BUFFER:
                flush()
        flush()
        file.flush()
        os.fsync(file.fileno())
    if tokens < 2:
        raise UserError(f"{source.name} is empty")
    read = record(one for one in reader.left_out() if one.count)
    return {"tokens": tokens, "unknown": unknown, "words": words, "read": read}


def id_type(num_tokens: int) -> np.dtype:
    return np.dtype("<u2" if num_tokens <= 1 << 16 else "<i4")


def load(folder: Path, unit: str) -> Corpus | None:
    """What ``build`` made, or None if it is incomplete."""
    try:
        sizes = json.loads((folder / "description.json").read_text())["splits"]
        tokens = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        vocabulary = Vocabulary(tokens, unit, folder / CODES if unit == "subword" else None)
        dtype = id_type(len(vocabulary))
        splits: dict[str, np.ndarray] = {}
        for split, size in sizes.items():
            splits[split] = np.memmap(folder / f"{split}.bin", dtype, "r", shape=(size["tokens"],))
            if (folder / f"{split}.bin").stat().st_size != size["tokens"] * dtype.itemsize:
                return None
        read = {split: restore(size["read"]) for split, size in sizes.items()}
        unknown, words = ({split: size[of] for split, size in sizes.items()} for of in ("unknown", "words"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Corpus(vocabulary, splits, unknown, words, read)


@contextmanager
def progress(source: TextSource, doing: str, reader: LineReader | None = None) -> Iterator[Iterator[str]]:
    """The lines of a text, with a progress bar on a terminal."""
    with Progress(disable=not sys.stdout.isatty(), transient=True) as bar:
        task = bar.add_task(f"{doing} {source.name}", total=source.size)
        yield source.lines(lambda done: bar.update(task, completed=done), reader)
