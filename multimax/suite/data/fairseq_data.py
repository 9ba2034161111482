"""The binary data made by ``fairseq-preprocess`` (``--dataset-impl mmap``), read and written without fairseq.

``PREFIX.bin`` holds the ids of all sentences, one after the other. ``PREFIX.idx`` holds, all little-endian: the nine
bytes ``MMIDIDX\\0\\0``, a version (uint64, 1), a code for the ids' type (uint8), the number of sentences (uint64),
their lengths in ids (int32 each) and where they begin in bytes (int64 each). fairseq calls it ``MMapIndexedDataset``.
"""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from multimax.suite.data.dictionary import EOS
from multimax.suite.errors import UserError

MAGIC, VERSION = b"MMIDIDX\x00\x00", 1
HEADER = struct.Struct("<9sQBQ")
TYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2", 9: "<u4", 10: "<u8"}
OTHERS = {b"TNTIDX\x00\x00": "lazy or cached", b"HUFFIDX\x00": "huffman"}  # first bytes of fairseq's other formats
AGAIN = "binarise it again with fairseq-preprocess --dataset-impl mmap"


@dataclass
class Sentences:
    """Sentences of one language, mapped into memory; each ends with EOS."""

    ids: np.ndarray  # [tokens], all sentences
    lengths: np.ndarray  # int32 [sentences], EOS included
    starts: np.ndarray  # int64 [sentences], in ``ids``

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> np.ndarray:
        """The ids of sentence ``i``, in the file's type."""
        return self.ids[self.starts[i] : self.starts[i] + self.lengths[i]]


def read_sentences(prefix: Path, num_tokens: int) -> Sentences:
    """The sentences in ``PREFIX.bin`` and ``PREFIX.idx``.

    Args:
        prefix: path without suffix.
        num_tokens: size of the dictionary that the ids must belong to.

    Raises:
        UserError: a file is absent, cut short, in another format or of another dictionary, or a sentence has no end.
    """
    index, data = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    try:
        content = index.read_bytes()
        size = data.stat().st_size
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None
    if not content.startswith(MAGIC):
        kind = OTHERS.get(content[:8])
        raise UserError(f"{index} is {f'of fairseq format {kind}' if kind else 'no index of fairseq'}: {AGAIN}")
    if len(content) < HEADER.size:
        raise UserError(f"{index} is cut short: {AGAIN}")
    _, version, code, count = HEADER.unpack_from(content)
    if version != VERSION or code not in TYPES:
        raise UserError(
            f"{index} has version {version} and type {code}, of which only 1 and integers are known: {AGAIN}"
        )
    if len(content) != HEADER.size + 12 * count:
        raise UserError(
            f"{index} has {len(content)} bytes, but {count} sentences take {HEADER.size + 12 * count}: {AGAIN}"
        )
    dtype = np.dtype(TYPES[code])
    lengths = np.frombuffer(content, "<i4", count, HEADER.size).astype(np.int32)
    starts = np.frombuffer(content, "<i8", count, HEADER.size + 4 * count) // dtype.itemsize
    if not count or not size:
        raise UserError(f"{data} is empty: {AGAIN}")
    if (
        size % dtype.itemsize
        or lengths.min() < 1
        or starts.min() < 0
        or (starts + lengths).max() > size // dtype.itemsize
    ):
        raise UserError(f"{data} does not hold the sentences that {index.name} says it does: {AGAIN}")
    ids = np.memmap(data, dtype, "r")
    if (largest := int(ids.max())) >= num_tokens or int(ids.min()) < 0:
        raise UserError(
            f"{data} has ids up to {largest}, but its dictionary {num_tokens} tokens: they do not belong together"
        )
    if np.any(ids[starts + lengths - 1] != EOS):
        raise UserError(f"{data} has sentences without </s> at their end: {AGAIN}, without --append-eos off")
    return Sentences(ids, lengths, starts)


def write_sentences(prefix: Path, sentences: Sequence[Sequence[int]], num_tokens: int) -> None:
    """Write ``PREFIX.bin`` and ``PREFIX.idx``; the sentences end with EOS, their ids are below ``num_tokens``."""
    code = 8 if num_tokens < 65_500 else 4
    dtype = np.dtype(TYPES[code])
    lengths = np.array([len(sentence) for sentence in sentences], dtype="<i4")
    starts = np.cumsum(lengths, dtype="<i8") - lengths
    ids = np.fromiter(chain.from_iterable(sentences), dtype, int(lengths.sum()))
    header = HEADER.pack(MAGIC, VERSION, code, len(lengths))
    index = header + lengths.tobytes() + (starts * dtype.itemsize).tobytes()
    for suffix, content in (("bin", ids.tobytes()), ("idx", index)):
        with Path(f"{prefix}.{suffix}").open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
