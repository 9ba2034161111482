"""What ``evaluate.py`` does with text: translate it with a run of task=mt, or score given translations."""

import logging
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import torch
from torch import nn

from multimax.suite.data.dictionary import UNK
from multimax.suite.data.left_out import LeftOut
from multimax.suite.data.lines import LineReader, decoded
from multimax.suite.data.preparation import DESCRIPTION
from multimax.suite.errors import UserError
from multimax.suite.models.encoder_decoder import EncoderDecoder
from multimax.suite.tasks.base import Task
from multimax.suite.tasks.translation import Translation

CHUNK = 256  # lines read, sorted by length and translated together

logger = logging.getLogger(__name__)


class TextFile:
    """The lines of a UTF-8 file, or of standard input ("-"), as they arrive, without line ends and byte order mark.

    Raises UserError at once if it cannot be opened, and in iteration if it cannot be read, is not UTF-8, is empty, or
    for what ``LineReader`` refuses.
    """

    def __init__(self, path: str):
        self.name = "standard input" if path == "-" else path
        self.whole = path != "-" and Path(path).is_file()  # not a terminal or a pipe, which may end much later
        try:
            self.file: BinaryIO = sys.stdin.buffer if path == "-" else open(path, "rb")  # noqa: SIM115
        except OSError as error:
            raise self.unreadable(error) from None

    def unreadable(self, error: OSError) -> UserError:
        return UserError(f"{self.name} cannot be read: {error.strerror}")

    def __iter__(self) -> Iterator[str]:
        reader = LineReader(self.name)  # as the text that the run was trained on
        try:
            yield from reader.read(decoded(self.file, self.name))
        except OSError as error:
            raise self.unreadable(error) from None
        if not reader.lines:
            raise UserError(f"{self.name} is empty")


def translate_text(
    task: Task, model: nn.Module, device: torch.device, text: TextFile, nbest: int | None = None
) -> Iterator[str]:
    """A translation of each line of ``text``, in order.

    With ``nbest``, the best N of each line, or as many as the search found, as line number, score and translation,
    separated by tabs.

    Raises UserError as ``text`` does, and for a line that is too long for the model; for a file, before the first line
    is translated.
    """
    assert isinstance(task, Translation)
    assert isinstance(model, EncoderDecoder)
    root = task.bitext.root
    if not (root / DESCRIPTION).exists() and not (root / "code").exists():
        logger.warning(
            "%s has no file code with the merges of its BPE: lines are taken as its tokens, with spaces in between",
            root,
        )
    sources = (task.encode(line, f"line {number} of {text.name}") for number, line in enumerate(text, 1))
    unknown = tokens = 0
    remaining = iter(list(sources)) if text.whole else sources
    done, size = 0, 1 if text.file.isatty() else CHUNK
    while chunk := list(islice(remaining, size)):
        tokens += sum(len(ids) - 1 for ids in chunk)
        unknown += sum(int((ids == UNK).sum()) for ids in chunk)
        for number, found in enumerate(task.translate(model, device, chunk), done + 1):
            if nbest is None:
                yield found[0][1]
            else:
                yield from (f"{number}\t{score:.6f}\t{translation}" for score, translation in found[:nbest])
        done += len(chunk)
    if unknown:
        reason = {"the dictionary of the run lacks them": unknown}
        logger.warning("%s", LeftOut(f"tokens of {text.name}", tokens, reason, "are read as <unk>"))


def score_text(task: Task, text: TextFile) -> dict[str, float]:
    """Metrics of the lines of ``text`` as translations of the split ``data.eval_split``.

    Raises UserError as ``text`` does, and if it does not have one line for each sentence.
    """
    assert isinstance(task, Translation)
    split = task.config.data.eval_split
    hypotheses, sentences = list(text), len(task.bitext.splits[split])
    if len(hypotheses) != sentences:
        raise UserError(f"{text.name} has {len(hypotheses)} lines, but {split} has {sentences} sentences")
    return task.score_text(hypotheses, split)
