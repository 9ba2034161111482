"""From raw text to translation's tokens and back: Moses' tokenisation, lower case and byte-pair encoding.

As is usual for IWSLT14, tokens are those of Moses' ``tokenizer.perl`` with its escapes (``&apos;`` for an apostrophe),
here by sacremoses, a port of it that differs in rare lines. The byte-pair encoding is that of Sennrich et al.
(1508.07909) by subword-nmt: a piece that does not end its word ends in ``@@``.
"""

import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path

from multimax.suite.data.languages import primary
from multimax.suite.errors import UserError

SEPARATOR = "@@"


class Tokenizer:
    """The text processing of one language.

    Args:
        language: such as ``de`` or ``pt_br``; Moses knows the abbreviations and apostrophes of many.
        moses: whether the text is tokenised; otherwise tokens are separated by white space.
        lowercase: whether it is lower-cased.
        codes: file with the merges of a byte-pair encoding; None for words as tokens.
    """

    def __init__(self, language: str, moses: bool, lowercase: bool, codes: Path | None = None) -> None:
        self.lowercase = lowercase
        self.moses = self.moses_back = self.bpe = None
        if moses:
            from sacremoses import MosesDetokenizer, MosesTokenizer

            self.moses, self.moses_back = MosesTokenizer(primary(language)), MosesDetokenizer(primary(language))
        if codes is not None:
            self.bpe = read_codes(codes)

    def words(self, line: str) -> str:
        """From raw text to words separated by spaces."""
        text = self.moses.tokenize(line, return_str=True) if self.moses else line
        return " ".join((text.lower() if self.lowercase else text).split())

    def pieces(self, words: str) -> str:
        """From words to pieces, the model's tokens."""
        return self.bpe.process_line(words) if self.bpe else words

    def text(self, words: str) -> str:
        """From words to text as people write it; lower-cased text stays lower-cased."""
        return self.moses_back.detokenize(words.split()) if self.moses_back else words


def join_pieces(pieces: str) -> str:
    """From the pieces of a byte-pair encoding to words."""
    return f"{pieces} ".replace(f"{SEPARATOR} ", "").rstrip()


def tokenize(language: str, lines: Sequence[str], moses: bool, lowercase: bool) -> list[str]:
    """``Tokenizer.words`` of many lines, as a function that can be sent to another process."""
    tokenizer = Tokenizer(language, moses, lowercase)
    return [tokenizer.words(line) for line in lines]


def learn_codes(lines: Sequence[str], merges: int, path: Path, counted: bool = False) -> None:
    """Learn a byte-pair encoding of at most ``merges`` merges from words and write it to ``path``.

    If ``counted``, each line is a word and how often it occurs.
    """
    from subword_nmt.learn_bpe import learn_bpe

    with path.open("w", encoding="utf-8", newline="\n") as file, redirect_stderr(io.StringIO()):
        try:
            learn_bpe(lines, file, merges, is_dict=counted)
        except ValueError:  # max() of nothing
            raise UserError(
                "the training text has no word of two letters: there is nothing to learn a BPE from"
            ) from None


def read_codes(path: Path):
    """subword-nmt's encoder of the merges in ``path``. Raises UserError if it holds none."""
    from subword_nmt.apply_bpe import BPE

    try:
        with path.open(encoding="utf-8", newline="\n") as file, redirect_stderr(io.StringIO()):
            return BPE(file)
    except OSError as error:
        raise UserError(f"the BPE's codes {path} cannot be read: {error.strerror}") from None
    except (SystemExit, ValueError):  # it exits if a line does not have two parts
        raise UserError(f"{path} is no file of BPE codes as subword-nmt writes it") from None
