"""Text, line by line: the English that ships with CPython, local files, and data sets of the Hugging Face hub."""

import gzip
import hashlib
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, Protocol

from multimax.suite.data.fingerprint import digest
from multimax.suite.data.hub import load_tables
from multimax.suite.data.lines import LineReader
from multimax.suite.errors import UserError
from multimax.suite.files import expanded
from multimax.suite.options import bounded, choice, registered
from multimax.suite.plugins import build, has_target, require
from multimax.suite.registry import Registry

SPLITS = {"train": "train", "validation": "valid|validation|val|dev", "test": "test"}

Advance = Callable[[int], None]
"""Called with the number of bytes (of a hub's data set: rows) done so far."""


SOURCES = Registry({"pydoc": "multimax.suite.data.text.open_pydoc", "files": "multimax.suite.data.text.open_files"})
"""Of each name what makes the ``TextSource`` of each split from the configuration."""


@dataclass
class TextData:
    """Which text, what its tokens are, and how evaluation walks over it."""

    name: str  # label of the data in run names
    source: str = registered(SOURCES)  # files: root, or else hub
    unit: str = choice("word", "character", default="word")  # word: between white space, <eos> after each line
    root: str | None = None  # folder with a text, gzip or parquet file of each split, such as train.txt.gz
    hub: str | None = None  # data set of the Hugging Face hub, used without root
    hub_config: str | None = None
    where: str = ""  # where to get the data: printed when it is absent or incomplete
    vocabulary: str | None = None  # JSON list of tokens, the most frequent first; None: those of the training text
    max_tokens: int | None = None  # size of a vocabulary made from the training text: its most frequent tokens
    cache_dir: str = "~/.cache/multimax"  # where token ids are kept
    eval_split: str = choice("validation", "test", default="validation")
    # transformer_xl: streams that the text is cut into, each with a memory of its own. transformer_lm: windows at a
    # time.
    eval_batch_size: int = bounded(1, default=10)
    # Share of rows, or of tokens that the vocabulary lacks, above which no run starts.
    max_left_out: float = bounded(0, 1, default=0.5)


class TextSource(Protocol):
    """One split of a text."""

    name: str
    size: int  # what ``lines`` counts up to

    def fingerprint(self) -> str:
        """Changes whenever the text does."""

    def lines(self, advance: Advance, reader: LineReader | None = None) -> Iterator[str]:
        """Lines without their end, as ``reader`` cleans and counts them. Raises UserError for what is no text."""


class FileSource:
    """A text file in UTF-8, gzipped or not, or a parquet file whose column ``text`` has lines or whole documents."""

    def __init__(self, path: Path) -> None:
        """Raises UserError if there is none."""
        try:
            self.path, self.name, self.size = path, str(path), path.stat().st_size
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None

    def fingerprint(self) -> str:
        """Of the file's bytes; raises UserError if it cannot be read."""
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror}") from None

    def lines(self, advance: Advance, reader: LineReader | None = None) -> Iterator[str]:
        reader = reader or LineReader(self.name)
        try:
            if self.path.suffix == ".parquet":
                yield from reader.read(self._rows(advance), "row ")
            else:
                yield from reader.read(self._lines(advance))
        except (OSError, EOFError, zlib.error, ValueError) as error:  # of OSErrors, BadGzipFile has no strerror
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"{self.path} cannot be read: {shorten(reason, 200)}") from None

    def _lines(self, advance: Advance) -> Iterator[str]:
        with self.path.open("rb") as raw, gzip.open(raw) if self.path.suffix == ".gz" else raw as file:
            # Lines end at \n alone, as for the other tokenizers of WikiText: some of its words hold other separators.
            for number, line in enumerate(file, 1):
                if number % 1000 == 0:
                    advance(raw.tell())
                try:
                    # Some editors write a mark of the byte order in front, which is no part of the first word.
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\n")
                except UnicodeDecodeError as error:
                    what = "UTF-16" if line.startswith((b"\xff\xfe", b"\xfe\xff")) else error.reason
                    raise UserError(
                        f"{self.path}:{number} is not UTF-8 ({what}): convert it, for instance with iconv"
                    ) from None

    def _rows(self, advance: Advance) -> Iterator[str | None]:
        import pyarrow.parquet

        file = pyarrow.parquet.ParquetFile(self.path)
        if "text" not in file.schema_arrow.names:
            raise UserError(f"{self.path} has no column text, but {', '.join(file.schema_arrow.names)}")
        require_text(file.schema_arrow.field("text").type, self.name)
        total, done = max(file.metadata.num_rows, 1), 0
        for batch in file.iter_batches(columns=["text"]):
            yield from (row and row.removesuffix("\n") for row in batch.column("text").to_pylist())
            done += len(batch)
            advance(self.size * done // total)


def require_text(column: Any, name: str) -> None:
    """Raise UserError unless pyarrow's type of a column is one of text."""
    import pyarrow.types as types

    inner = column.value_type if types.is_dictionary(column) else column
    if not (types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner)):
        raise UserError(f"the column text of {name} holds {column}, not text: cast it to string")


class TableSource:
    """A split of a Hugging Face data set with a column ``text``, of lines or of whole documents."""

    def __init__(self, table: Any, name: str) -> None:
        self.table, self.name, self.size = table.select_columns("text"), name, len(table)
        require_text(self.table.data.schema.field("text").type, name)

    def fingerprint(self) -> str:
        return digest(
            (row or "").encode() + bytes([row is None]) for rows in self.table.iter(1000) for row in rows["text"]
        )

    def lines(self, advance: Advance, reader: LineReader | None = None) -> Iterator[str]:
        yield from (reader or LineReader(self.name)).read(self._rows(advance), "row ")

    def _rows(self, advance: Advance) -> Iterator[str | None]:
        done = 0
        for batch in self.table.iter(batch_size=1000):
            yield from (row and row.removesuffix("\n") for row in batch["text"])
            done += len(batch["text"])
            advance(done)


class StringSource:
    """Text in memory."""

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name, self.size = text, name, len(text)

    def fingerprint(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def lines(self, advance: Advance, reader: LineReader | None = None) -> Iterator[str]:
        yield from (reader or LineReader(self.name)).read(self.text.split("\n"))


def open_text(config: TextData) -> dict[str, TextSource]:
    """The sources of the splits "train", "validation" and "test".

    Raises:
        UserError: the data is absent or incomplete: what was found and where to get it.
    """
    if has_target(config):
        return own_text(build("data", config, offered={}))
    return SOURCES.find("data.source", config.source)(config)


def own_text(made: Any) -> dict[str, TextSource]:
    """The text of a ``_target_``: a string, or a ``TextSource``, for each split. Raises UserError."""
    texts = require("data", made, dict)
    if missing := SPLITS.keys() - texts.keys():
        raise UserError(f"data: there is no text of {', '.join(sorted(missing))}")
    return {
        split: StringSource(text, f"the {split} text") if isinstance(text, str) else text
        for split, text in texts.items()
    }


def open_files(config: TextData) -> dict[str, TextSource]:
    try:
        return _open_folder(expanded("data.root", config.root)) if config.root else _open_hub(config)
    except OSError as error:
        raise UserError(f"data.root={config.root} cannot be read: {error.strerror}") from None
    except UserError as error:
        raise UserError(f"{error}; {config.where}" if config.where else str(error)) from error


def open_pydoc(config: TextData) -> dict[str, TextSource]:
    return dict(_open_pydoc())


def _open_pydoc() -> Iterator[tuple[str, TextSource]]:
    """CPython's language reference as ``help()`` prints it: a tenth of the topics each for validation and test."""
    from pydoc_data.topics import topics

    texts = [topics[name].strip() for name in sorted(topics)]
    for split, remainders in (("train", {1, 2, 3, 4, 6, 7, 8, 9}), ("validation", {0}), ("test", {5})):
        chosen = [text for i, text in enumerate(texts) if i % 10 in remainders]
        yield split, StringSource("\n\n".join(chosen), f"pydoc_data.topics ({split})")


def _open_folder(root: Path) -> dict[str, TextSource]:
    if not root.is_dir():
        raise UserError(f"data.root={root} is not a folder")
    sources: dict[str, TextSource] = {}
    for split, names in SPLITS.items():
        pattern = re.compile(rf"(wiki\.)?({names})(-00000-of-00001)?\.((txt|tokens|raw)(\.gz)?|parquet)")
        found = sorted(path for path in root.iterdir() if pattern.fullmatch(path.name))
        if len(found) != 1:
            described = (
                f"several files of the {split} split: {', '.join(path.name for path in found)}"
                if found
                else f"no {split} split, such as {split}.txt, {split}.txt.gz or {split}.parquet"
            )
            raise UserError(f"data.root={root} has {described}")
        sources[split] = FileSource(found[0])
    return sources


def _open_hub(config: TextData) -> dict[str, TextSource]:
    if config.hub is None:
        raise UserError("data.root is not set: point it at the text")
    tables = load_tables(config.hub, tuple(SPLITS), config.hub, name=config.hub_config)
    for split, table in tables.items():
        if "text" not in table.column_names:
            raise UserError(f"{config.hub} has no column text in its {split} split")
    return {split: TableSource(table, f"{config.hub} ({split})") for split, table in tables.items()}
