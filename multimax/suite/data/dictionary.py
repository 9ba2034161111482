"""One language's tokens and their ids, by fairseq's conventions, so that its dictionaries and binary data fit.

The ids 0 to 3 are ``<s>``, ``<pad>``, ``</s>`` and ``<unk>``; the tokens of ``dict.txt``, one "token count" per line,
follow in its order. ``</s>`` ends every sentence and begins every decoder input; ``<s>`` is not used. A word spelt like
one of the four is an unknown word here; fairseq takes it for that token.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from multimax.suite.data.corpus import fingerprint
from multimax.suite.errors import UserError

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
PAD, EOS, UNK = 1, 2, 3
FILLER = "madeupword{:04d}"  # fairseq pads dictionaries with this


class Dictionary:
    """Tokens by id, special ones first, and how often each occurs in the training text."""

    def __init__(self, tokens: Sequence[str], counts: Sequence[int]) -> None:
        """``tokens`` and ``counts`` exclude special tokens."""
        self.tokens = [*SPECIAL, *tokens]
        self.counts = list(counts)
        self.ids = {token: i for i, token in enumerate(self.tokens) if i >= len(SPECIAL)}  # only tokens that texts have

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, line: str, end: bool = False) -> list[int]:
        """Ids of the tokens between white space, ``UNK`` for unknown ones; with ``end``, an ``EOS`` follows."""
        return [*(self.ids.get(token, UNK) for token in line.split()), *([EOS] if end else [])]

    def decode(self, ids: Iterable[int]) -> str:
        """Tokens up to ``EOS``, separated by spaces, without ``PAD``; BPE marks stay."""
        tokens = []
        for i in map(int, ids):
            if i == EOS:
                break
            if i != PAD:
                tokens.append(self.tokens[i])
        return " ".join(tokens)

    def fingerprint(self) -> Tensor:
        """Four int64 that identify the tokens and their order."""
        return fingerprint(self.tokens)

    @classmethod
    def from_lines(cls, lines: Iterable[str]) -> "Dictionary":
        """The tokens between white space in all lines, in the order of ``fairseq-preprocess``.

        That is by decreasing count, ties alphabetically. The size is padded to a multiple of eight, which suits GPUs,
        with tokens that no text has.
        """
        counts = Counter(token for line in lines for token in line.split())
        tokens = sorted(counts.keys() - set(SPECIAL), key=lambda token: (-counts[token], token))
        names = (name for name in map(FILLER.format, itertools.count()) if name not in counts)
        fillers = list(itertools.islice(names, -(len(SPECIAL) + len(tokens)) % 8))
        return cls([*tokens, *fillers], [counts[token] for token in (*tokens, *fillers)])

    @classmethod
    def load(cls, path: Path) -> "Dictionary":
        """The dictionary in fairseq's ``dict.txt``. Raises UserError if it is not one."""
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{path} is not UTF-8: is it a dictionary?") from None
        except OSError as error:
            raise UserError(f"the dictionary {path} cannot be read: {error.strerror}") from None
        tokens, counts = [], []
        seen = set(SPECIAL)
        for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
            token, _, count = line.rstrip().removesuffix("#fairseq:overwrite").rstrip().rpartition(" ")
            if not token or not count.isdecimal():
                raise UserError(f"{path}:{number} is not a line of a dictionary, 'token count', but {line[:60]!r}")
            if token in seen:
                raise UserError(f"{path}:{number} has {token!r} once more: which id is its own?")
            seen.add(token)
            tokens.append(token)
            counts.append(int(count))
        return cls(tokens, counts)

    def save(self, path: Path) -> None:
        """Write fairseq's ``dict.txt``."""
        lines = (f"{token} {count}\n" for token, count in zip(self.tokens[len(SPECIAL) :], self.counts, strict=True))
        path.write_text("".join(lines), encoding="utf-8")
