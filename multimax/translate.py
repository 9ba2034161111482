"""What ``evaluate.py`` does with text: translate it with a run of task=mt, or score translations that are there."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from typing import BinaryIO

import torch
from torch import nn

from multimax.errors import UserError
from multimax.models.encoder_decoder import EncoderDecoder
from multimax.tasks.base import Task
from multimax.tasks.translation import Translation

CHUNK = 256  # lines that are read, sorted by length and translated together


def translate_file(task: Task, model: nn.Module, device: torch.device, path: str) -> Iterator[str]:
    """Translations of the lines of a file of UTF-8, "-" for standard input, one for each line and in their order.

    Raises UserError if the file cannot be read or is empty, or a line is longer than the model takes.
    """
    assert isinstance(task, Translation)
    assert isinstance(model, EncoderDecoder)
    lines = read_lines(path)
    while chunk := list(islice(lines, CHUNK)):
        yield from task.translate(model, device, chunk)


def score_file(task: Task, path: str) -> dict[str, float]:
    """Metrics of a file's lines as translations of the split ``data.eval_split``.

    Raises UserError if the file cannot be read or has not one line for each sentence.
    """
    assert isinstance(task, Translation)
    split = task.config.data.eval_split
    hypotheses, sentences = list(read_lines(path)), len(task.bitext.splits[split])
    if len(hypotheses) != sentences:
        raise UserError(f"{path} has {len(hypotheses)} lines, but {split} has {sentences} sentences")
    return task.score_text(hypotheses, split)


def read_lines(path: str) -> Iterator[str]:
    """Lines of UTF-8 without their ends, as they come; raises UserError if they cannot be read or there is none."""
    count, name = 0, "standard input" if path == "-" else path
    try:
        with open_binary(path) as file:
            for line in file:
                count += 1
                yield line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise UserError(f"line {count} of {name} is not UTF-8") from None
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}") from None
    if not count:
        raise UserError(f"{name} is empty")


def open_binary(path: str) -> "BinaryIO | nullcontext[BinaryIO]":
    return nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb")
