"""Text, line by line: the English that ships with CPython, local files, and data sets on the Hugging Face hub."""

import gzip
import hashlib
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Any

from multimax.suite.data.fingerprint import digest
from multimax.suite.data.hub import load_tables, named, spellings
from multimax.suite.data.left_out import LeftOut, beside
from multimax.suite.data.lines import LineReader, decoded
from multimax.suite.errors import UserError
from multimax.suite.files import expanded
from multimax.suite.options import bounded, choice, registered
from multimax.suite.pipes import require_file
from multimax.suite.plugins import build, has_target, require
from multimax.suite.registry import Registry

SPLITS = ("train", "validation", "test")

Advance = Callable[[int], None]
"""Called with the number of bytes (rows, for a hub data set) done so far."""


SOURCES = Registry({"pydoc": "multimax.suite.data.text.open_pydoc", "files": "multimax.suite.data.text.open_files"})
"""By name, the functions that make each split's ``TextSource`` from the configuration."""


@dataclass
class TextData:
    """Which text, what its tokens are, and how evaluation goes through it."""

    name: str  # the data's label in run names
    source: str = registered(SOURCES)  # files: from root, or else from hub
    # word: between white space, <eos> after each line; subword: pieces of those words by a byte-pair encoding
    unit: str = choice("word", "subword", "character", default="word")
    bpe_merges: int = bounded(1, default=10_000)  # for unit=subword: learnt from the training text
    # Folder with a text, gzip or parquet file for each split, such as train.txt.gz, or one file to train on.
    root: str | None = None
    text_column: str | None = None  # of tables; None: text, or the only one that qualifies
    # Share of the training text's lines, the last ones, that is scored in place of the validation text.
    held_out: float = bounded(0, 0.9, default=0.0)
    hub: str | None = None  # data set on the Hugging Face hub, used if there is no root
    hub_config: str | None = None
    where: str = ""  # where to get the data; printed when it is absent or incomplete
    vocabulary: str | None = None  # JSON list of tokens, most frequent first; None: those of the training text
    # Size of a vocabulary made from the training text's most frequent tokens, with <unk> and the end of a line.
    max_tokens: int | None = bounded(3, default=None)
    cache_dir: str = "~/.cache/multimax"  # where token ids are kept
    eval_split: str = choice("validation", "test", default="validation")
    # transformer_xl: streams that the text is cut into, each with its own memory. transformer_lm: windows at a time.
    eval_batch_size: int = bounded(1, default=10)
    # Share of left-out rows, or of tokens that the vocabulary lacks, above which no run starts.
    max_left_out: float = bounded(0, 1, default=0.5)


class TextSource(ABC):
    """One split of a text."""

    name: str
    size: int  # the number that ``raw`` counts up to
    beside: LeftOut | None = None  # what else is there besides the splits
    unit = ""  # "row " if rows of a table are counted

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes whenever the text does."""

    @abstractmethod
    def raw(self, advance: Advance) -> Iterator[str | None]:
        """Lines, or rows of a table, as stored; None is a row without text."""

    def lines(self, advance: Advance, reader: LineReader | None = None) -> Iterator[str]:
        """Lines without their ends, as ``reader`` cleans and counts them. Raises UserError for anything but text."""
        return (reader or LineReader(self.name)).read(self.raw(advance), self.unit)


class FileSource(TextSource):
    """A UTF-8 text file, perhaps gzipped, or a parquet file whose column ``text`` has lines or whole documents."""

    def __init__(self, path: Path, column: str | None = None) -> None:
        """Raises UserError if there is no such file."""
        table = path.suffix == ".parquet"
        if column is not None and not table:
            raise UserError(f"data.text_column is of tables, and {path} is a text: leave it out")
        self.column, self.unit = column, "row " if table else ""
        try:
            require_file(found := path.stat(), path)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
        self.path, self.name, self.size = path, str(path), found.st_size

    def fingerprint(self) -> str:
        """A digest of the file's bytes, and the requested column; raises UserError if the file cannot be read."""
        try:
            with self.path.open("rb") as file:
                return " ".join(filter(None, [hashlib.file_digest(file, "sha256").hexdigest(), self.column]))
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror}") from None

    def raw(self, advance: Advance) -> Iterator[str | None]:
        try:
            yield from self._rows(advance) if self.path.suffix == ".parquet" else self._lines(advance)
        except (OSError, EOFError, zlib.error, ValueError) as error:  # among OSErrors, BadGzipFile has no strerror
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"{self.path} cannot be read: {shorten(reason, 200)}") from None

    def _lines(self, advance: Advance) -> Iterator[str]:
        with self.path.open("rb") as raw, gzip.open(raw) if self.path.suffix == ".gz" else raw as file:
            # Lines end only at \n, as for other tokenizers of WikiText: some of its words hold other separators.
            for number, line in enumerate(decoded(file, self.name), 1):
                if number % 1000 == 0:
                    advance(raw.tell())
                yield line

    def _rows(self, advance: Advance) -> Iterator[str | None]:
        import pyarrow.parquet

        file = pyarrow.parquet.ParquetFile(self.path)
        column = find_text(file.schema_arrow, self.column, self.name)
        total, done = max(file.metadata.num_rows, 1), 0
        for batch in file.iter_batches(columns=[column]):
            yield from (row and row.removesuffix("\n") for row in batch.column(column).to_pylist())
            done += len(batch)
            advance(self.size * done // total)


def find_text(schema: Any, column: str | None, name: str) -> str:
    """The text column in pyarrow's ``schema``: the requested one, ``text``, or the only column of text.

    Raises UserError if there is none.
    """
    names: list[str] = schema.names
    texts = [one for one in names if is_text(schema.field(one).type)]
    chosen = column or ("text" if "text" in names else texts[0] if len(texts) == 1 else None)
    if chosen is None or chosen not in names:
        raise UserError(f"{name} has no column {column or 'text'}, but {', '.join(names)}: see data.text_column")
    if chosen not in texts:
        kind = schema.field(chosen).type
        raise UserError(f"the column {chosen} of {name} holds {kind}, not text: cast it to string")
    return chosen


def is_text(column: Any) -> bool:
    """Whether a pyarrow column holds text, by its type."""
    import pyarrow.types as types

    inner = column.value_type if types.is_dictionary(column) else column
    return types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner)


class TableSource(TextSource):
    """A split of a Hugging Face data set with a column of lines or whole documents."""

    def __init__(self, table: Any, name: str, column: str | None = None) -> None:
        self.column = find_text(table.data.schema, column, name)
        self.table, self.name, self.size, self.unit = table.select_columns(self.column), name, len(table), "row "

    def fingerprint(self) -> str:
        rows = (row for batch in self.table.iter(1000) for row in batch[self.column])
        return digest((row or "").encode() + bytes([row is None]) for row in rows)

    def raw(self, advance: Advance) -> Iterator[str | None]:
        done = 0
        for batch in self.table.iter(batch_size=1000):
            yield from (row and row.removesuffix("\n") for row in batch[self.column])
            done += len(batch[self.column])
            advance(done)


class StringSource(TextSource):
    """Text in memory."""

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name, self.size = text, name, len(text)

    def fingerprint(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def raw(self, advance: Advance) -> Iterator[str | None]:
        yield from self.text.split("\n")


class PartSource(TextSource):
    """Another source's lines (or table rows) without the last ``share``, or only these."""

    def __init__(self, whole: TextSource, share: float, last: bool) -> None:
        self.whole, self.share, self.last = whole, share, last
        self.name, self.size, self.unit, self.beside = whole.name, whole.size, whole.unit, whole.beside

    def fingerprint(self) -> str:
        return f"{self.whole.fingerprint()} {'the last' if self.last else 'without'} {self.share:g}"

    def lines(self, advance: Advance, reader: LineReader | None = None) -> Iterator[str]:
        return (reader or LineReader(self.name)).read(self.raw(advance), self.unit, self.cut if self.last else 0)

    def raw(self, advance: Advance) -> Iterator[str | None]:
        yield from islice(self.whole.raw(advance), *((self.cut, None) if self.last else (self.cut,)))

    @cached_property
    def cut(self) -> int:
        """Number of lines before the cut; raises UserError if either part is empty."""
        count = sum(1 for _ in self.whole.raw(lambda _: None))
        cut = count - int(count * self.share)
        if cut in (0, count):
            raise UserError(f"data.held_out={self.share:g} of the {count} lines of {self.name} leaves a part empty")
        return cut


def open_text(config: TextData) -> dict[str, TextSource]:
    """The sources of the splits "train", "validation" and, if there is one, "test".

    Raises:
        UserError: the data is absent or incomplete; says what was found and where to get it.
    """
    if has_target(config):
        sources = own_text(build("data", config, offered={}))
    else:
        sources = SOURCES.find("data.source", config.source)(config)
    if config.held_out:
        sources["validation"] = PartSource(sources["train"], config.held_out, last=True)
        sources["train"] = PartSource(sources["train"], config.held_out, last=False)
    return sources


def own_text(made: Any) -> dict[str, TextSource]:
    """The text of a ``_target_``: a string or a ``TextSource`` for each split. Raises UserError."""
    texts = require("data", made, dict)
    if missing := {*SPLITS} - texts.keys():
        raise UserError(f"data: there is no text of {', '.join(sorted(missing))}")
    for split, text in texts.items():
        if not isinstance(text, str | TextSource):
            raise UserError(f"data: {split} is no text, but {type(text).__name__}")
    return {
        split: StringSource(text, f"the {split} text") if isinstance(text, str) else text
        for split, text in texts.items()
    }


def open_files(config: TextData) -> dict[str, TextSource]:
    try:
        return _open_files(config) if config.root else _open_hub(config)
    except OSError as error:
        raise UserError(f"data.root={config.root} cannot be read: {error.strerror}") from None
    except UserError as error:
        raise UserError(f"{error}; {config.where}" if config.where else str(error)) from error


def _require_splits(config: TextData, found: Iterable[str], place: str) -> None:
    """Raise UserError, suggesting a substitute, for a split that is needed but missing."""
    needed = {"train", config.eval_split} - ({"validation"} if config.held_out else set())
    for split in (name for name in SPLITS if name in needed - set(found)):
        tip = ": data.held_out=0.1 scores the last tenth of the training text" if split == "validation" else ""
        raise UserError(f"{place} has no {split} split, such as {split}.txt, {split}.txt.gz or {split}.parquet{tip}")


def open_pydoc(config: TextData) -> dict[str, TextSource]:
    """CPython's language reference as ``help()`` prints it: a tenth of the topics each for validation and test."""
    from pydoc_data.topics import topics

    texts: dict[str, list[str]] = {split: [] for split in SPLITS}
    for i, name in enumerate(sorted(topics)):
        texts[{0: "validation", 5: "test"}.get(i % 10, "train")].append(topics[name].strip())
    return {split: StringSource("\n\n".join(some), f"pydoc_data.topics ({split})") for split, some in texts.items()}


FILES = r"\.((txt|tokens|raw)(\.gz)?|parquet)"


def _open_files(config: TextData) -> dict[str, TextSource]:
    root = expanded("data.root", config.root or "")
    place = f"data.root={root}"
    if root.is_file():
        if not re.search(f"{FILES}$", root.name):
            raise UserError(f"{place} is no text: files of text end in .txt, .tokens, .raw, .gz of these, or .parquet")
        found = {"train": [root]}
    elif root.is_dir():
        files = sorted(path for path in root.iterdir() if re.search(f"{FILES}$", path.name))
        found = {split: [path for path in files if _is_of(split, path)] for split in SPLITS}
        if not any(found.values()) and len(files) == 1:
            found = {"train": files}
    else:
        raise UserError(f"{place} is not a folder, and no file")
    for split, several in found.items():
        if len(several) > 1:
            raise UserError(f"{place} has several files of the {split} split: {', '.join(p.name for p in several)}")
    _require_splits(config, [split for split, paths in found.items() if paths], place)
    read = {split: paths[0] for split, paths in found.items() if paths}
    sources: dict[str, TextSource] = {split: FileSource(path, config.text_column) for split, path in read.items()}
    if root.is_dir():
        sources["train"].beside = beside(root, read.values())
    return sources


def _is_of(split: str, path: Path) -> bool:
    return re.fullmatch(rf"(wiki\.)?({'|'.join(spellings(split))})(-00000-of-00001)?{FILES}", path.name) is not None


def _open_hub(config: TextData) -> dict[str, TextSource]:
    if config.hub is None:
        raise UserError("data.root is not set: point it at the text")
    tables = load_tables(config.hub, config.hub, name=config.hub_config)
    found = {split: name for split in SPLITS if (name := named(split, tables)) is not None}
    _require_splits(config, found, f"{config.hub}, which has {', '.join(tables)},")
    return {
        split: TableSource(tables[name], f"{config.hub} ({split})", config.text_column) for split, name in found.items()
    }
