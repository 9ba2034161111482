"""The kernels behind the reweighting functions, and the choice between them and plain tensor operations::

    from multimax import kernels

    kernels.path(scores)                    # "cpp", "triton" or "eager": what computes with these scores
    with kernels.use("eager"):              # or kernels.use("eager") for the rest of the thread
        ...

There are three modes. "auto" uses the fastest path available, "eager" only tensor operations, and "require" raises
RuntimeError, with the reason, where "auto" would fall back on them. Every thread starts in the mode named by the
environment variable MULTIMAX_KERNELS, "auto" if it is unset; ``use`` changes it for its own thread only. Autograd has
its own threads for CUDA. A backward uses the path of its forward in any thread, but a forward that checkpointing
repeats there does not. To change the mode of a whole process, set the variable.

The CPU kernels are C++, compiled on first use (about half a minute) and cached; ``python -m multimax.kernels`` compiles
them in advance. If that fails, one line on stderr says why, and the eager path is used. The path never depends on the
size of a tensor, so a computation gives the same bits anywhere in a process.

docs/inside/row.md follows a call down to the loop over a row.
"""

import importlib.util
import os
import sys
import threading
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor

from multimax.formulas.rows import DTYPES
from multimax.formulas.torch_private import constant, is_batched, is_exporting, is_transformed, is_watched
from multimax.kernels.cpu import build

MODES = ("auto", "eager", "require")


def _checked(mode: str, where: str) -> str:
    if mode not in MODES:
        raise ValueError(f"{where} must be one of {', '.join(MODES)}, got {mode!r}")
    return mode


# Checked on first use rather than on import, so that a program can report the error its own way.
_INITIAL = os.environ.get("MULTIMAX_KERNELS", "auto")


class _OfThread(threading.local):
    def __init__(self) -> None:  # in each thread; torch.compile would not guard a class attribute
        self.mode = _INITIAL


_of_thread = _OfThread()


class use:
    """Set this thread's mode, for good or for a ``with`` block.

    Raises:
        ValueError: no such mode.
    """

    def __init__(self, mode: str) -> None:
        self._before, _of_thread.mode = _of_thread.mode, _checked(mode, "mode")

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        _of_thread.mode = self._before


def mode() -> str:
    """This thread's mode."""
    return _of_thread.mode


def path(scores: Tensor) -> str:
    """What computes the reweighting of ``scores``: this package's kernels, "cpp" or "triton", or "eager".

    The first call loads the kernels, and compiles them if necessary.

    In every mode the path is eager for torch.export, whose programs should not need our operators; for torch.func
    transforms and forward-mode differentiation; for subclasses of Tensor; and for devices and dtypes without a kernel.

    Raises:
        RuntimeError: in mode "require", if only a compiler or Triton is missing.
        ValueError: MULTIMAX_KERNELS is not a mode.
    """
    if mode() == "eager" or not is_ordinary(scores):
        return "eager"
    kernel = {"cpu": "cpp", "cuda": "triton"}.get(scores.device.type)
    return kernel if kernel and _is_there(kernel, mode()) else "eager"


def can_be_blocked(scores: Tensor) -> bool:
    """Whether tensor operations may process ``scores`` in blocks: yes on a CPU, if nothing traces them."""
    is_traced = torch.compiler.is_compiling() or is_watched()
    if is_traced or scores.device.type != "cpu" or scores.numel() == 0:
        return False
    return is_ordinary(scores) and not is_batched(scores)


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """A context in which Triton launches on the device of ``tensor`` instead of the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def is_ordinary(*tensors: Tensor) -> bool:
    """Whether our operators can take these: no subclass of Tensor, and no transform or export is under way."""
    if any(t.dtype not in DTYPES or type(t) not in (Tensor, torch.nn.Parameter) for t in tensors):
        return False
    return not is_exporting() and not is_transformed()


@constant
def _is_there(name: str, mode: str) -> bool:
    _checked(mode, "MULTIMAX_KERNELS")
    why_not = _obstacle(name)
    if why_not is None:
        return True
    if mode == "require":
        raise RuntimeError(f"MULTIMAX_KERNELS=require, but there are no {name} kernels: {why_not}")
    _say_once(name, why_not)
    return False


@cache
def _obstacle(name: str) -> str | None:
    """Why the kernels of this name are missing, in one line, or None."""
    if name == "triton":
        return None if importlib.util.find_spec("triton") else "Triton is not installed"
    try:
        build.load()
    except build.Unavailable as error:
        return str(error)
    return None


@cache
def _say_once(name: str, why_not: str) -> None:
    print(f"multimax: without its {name} kernels, several times slower: {why_not}", file=sys.stderr)
