import struct

import numpy as np
import pytest

from multimax.suite.data.fairseq_data import read_sentences, write_sentences
from multimax.suite.errors import UserError

SENTENCES = [[4, 5, 2], [2], [7, 6, 5, 4, 2]]
TOKENS = 8


def lists(sentences):
    return [sentences[i].tolist() for i in range(len(sentences))]


def by_hand(prefix, code: int, kind: str, sentences=SENTENCES, magic=b"MMIDIDX\0\0", version=1) -> None:
    """Write sentences in fairseq's format, packed field by field."""
    size = struct.calcsize(kind)
    index = magic + struct.pack("<Q", version) + struct.pack("<B", code) + struct.pack("<Q", len(sentences))
    index += b"".join(struct.pack("<i", len(s)) for s in sentences)
    starts = [sum(len(s) for s in sentences[:i]) for i in range(len(sentences))]
    index += b"".join(struct.pack("<q", start * size) for start in starts)
    prefix.with_suffix(".idx").write_bytes(index)
    prefix.with_suffix(".bin").write_bytes(b"".join(struct.pack(f"<{kind}", i) for s in sentences for i in s))


@pytest.fixture
def prefix(tmp_path):
    return tmp_path / "train"


@pytest.mark.parametrize(
    ("code", "kind"), [(1, "B"), (2, "b"), (3, "h"), (4, "i"), (5, "q"), (8, "H"), (9, "I"), (10, "Q")]
)
def test_ids_of_every_type_are_read(prefix, code, kind):
    by_hand(prefix, code, kind)
    sentences = read_sentences(prefix, TOKENS)
    assert lists(sentences) == SENTENCES
    assert sentences.lengths.tolist() == [3, 1, 5]
    assert isinstance(sentences.ids, np.memmap)


@pytest.mark.parametrize(("num_tokens", "code", "kind"), [(TOKENS, 8, "H"), (100_000, 4, "i")])
def test_what_is_written_is_the_format(prefix, num_tokens, code, kind):
    write_sentences(prefix, SENTENCES, num_tokens)
    written = [prefix.with_suffix(suffix).read_bytes() for suffix in (".idx", ".bin")]
    by_hand(prefix, code, kind)
    assert written == [prefix.with_suffix(suffix).read_bytes() for suffix in (".idx", ".bin")]


def test_bad_files_are_named(prefix):
    index, data = prefix.with_suffix(".idx"), prefix.with_suffix(".bin")

    def error() -> str:
        with pytest.raises(UserError) as caught:
            read_sentences(prefix, TOKENS)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert f"{index} cannot be read: No such file" in error()
    for damage, message in (
        (lambda: index.write_bytes(index.read_bytes()[:-1]), "3 sentences take 62"),
        (lambda: index.write_bytes(index.read_bytes()[:20]), "is cut short"),
        (lambda: index.write_bytes(b""), "is no index of fairseq"),
        (lambda: index.write_bytes(b"TNTIDX\0\0" + bytes(40)), "format lazy or cached: binarise it again"),
        (lambda: index.write_bytes(b"HUFFIDX\0\0" + bytes(40)), "format huffman"),
        (lambda: data.write_bytes(data.read_bytes()[:-2]), "does not hold the sentences that train.idx says"),
        (lambda: data.write_bytes(b""), "train.bin is empty"),
        (data.unlink, f"{data} cannot be read"),
        (lambda: by_hand(prefix, 8, "H", version=2), "version 2"),
        (lambda: by_hand(prefix, 7, "d"), "type 7"),
        (lambda: by_hand(prefix, 8, "H", []), "is empty"),
        (lambda: by_hand(prefix, 8, "H", [[4, 2], [4, 5]]), "without </s> at their end"),
        (lambda: by_hand(prefix, 8, "H", [[8, 2]]), "ids up to 8, but its dictionary 8 tokens"),
        (lambda: by_hand(prefix, 4, "i", [[-3, 2]]), "do not belong together"),
    ):
        by_hand(prefix, 8, "H")
        damage()
        assert message in error()
