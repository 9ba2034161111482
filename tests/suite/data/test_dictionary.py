import pytest
import torch

from multimax.suite.data.dictionary import EOS, PAD, UNK, Dictionary
from multimax.suite.errors import UserError


@pytest.fixture
def dictionary():
    return Dictionary.from_lines(["the dog sees the cat", "a dog"])


def test_ids_are_those_of_fairseq(dictionary):
    # Special tokens come first, then words by falling count and, for equal counts, by characters;
    # the list is filled up to a multiple of eight.
    assert dictionary.tokens[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert dictionary.tokens[4:] == ["dog", "the", "a", "cat", "sees", *(f"madeupword000{i}" for i in range(7))]
    assert len(dictionary) == 16


def test_text_to_ids_and_back(dictionary):
    assert dictionary.encode(" the  cat\tbarks ") == [5, 7, UNK]
    assert dictionary.encode("the cat", end=True) == [5, 7, EOS]
    assert dictionary.encode("", end=True) == [EOS]
    assert dictionary.decode([5, PAD, 7, EOS, 4]) == "the cat"
    assert dictionary.decode(torch.tensor([4, 3])) == "dog <unk>"


def test_words_spelt_like_special_tokens_are_unknown():
    dictionary = Dictionary.from_lines(["a <unk> </s> b"])
    assert dictionary.tokens.count("<unk>") == 1
    assert dictionary.encode("a <unk> <pad> </s> <s> b", end=True) == [4, UNK, UNK, UNK, UNK, 5, EOS]


def test_a_file_gives_the_dictionary_back(dictionary, tmp_path):
    path = tmp_path / "dict.txt"
    dictionary.save(path)
    assert path.read_text().splitlines()[:2] == ["dog 2", "the 2"]
    again = Dictionary.load(path)
    assert (again.tokens, again.counts) == (dictionary.tokens, dictionary.counts)
    assert torch.equal(again.fingerprint(), dictionary.fingerprint())


def test_the_fingerprint_is_of_tokens_and_their_order():
    first, same, swapped = (
        Dictionary(["a", "b"], [2, 1]),
        Dictionary(["a", "b"], [9, 9]),
        Dictionary(["b", "a"], [2, 1]),
    )
    assert torch.equal(first.fingerprint(), same.fingerprint())
    assert not torch.equal(first.fingerprint(), swapped.fingerprint())
    assert first.fingerprint().dtype == torch.int64
    assert first.fingerprint().shape == (4,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"the 3\ndog\n", "dict.txt:2 is not a line of a dictionary"),
        (b"the three\n", "dict.txt:1 is not a line"),
        (b"", "dict.txt:1 is not a line"),
        (b"the 3\nthe 2\n", "dict.txt:2 has 'the' once more"),
        (b"<pad> 2\n", "dict.txt:1 has '<pad>' once more"),
        (b"t\xe4r 3\n", "is not UTF-8"),
    ],
)
def test_what_is_no_dictionary_is_named(content, message, tmp_path):
    path = tmp_path / "dict.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        Dictionary.load(path)


def test_an_absent_dictionary_is_named(tmp_path):
    with pytest.raises(UserError, match=r"dict\.de\.txt cannot be read"):
        Dictionary.load(tmp_path / "dict.de.txt")
