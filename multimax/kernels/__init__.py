"""Fast paths behind the reweighting functions, and the choice between them and plain tensor operations.

    from multimax import kernels

    kernels.path(scores)                    # "cpp", "triton" or "eager": what will compute with these scores
    with kernels.use("eager"):              # or kernels.use("eager") for the rest of the process
        ...

Three modes: "auto" takes the fastest path that is there; "eager" takes tensor operations alone; "require" raises
RuntimeError, with the reason, where "auto" would fall back on them. The environment variable MULTIMAX_KERNELS names the
mode of the start, "auto" if unset.

The CPU's path is C++ that is compiled at its first use, some thirty seconds, and then kept; ``python -m
multimax.kernels`` compiles it ahead of that. Where it cannot be had, one line on stderr says why, and the eager path
serves. The path is never a matter of the tensor's size, so that a computation gives the same bits wherever in a process
it stands.
"""

import importlib.util
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from multimax.kernels.cpu import build

MODES = ("auto", "eager", "require")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

F = TypeVar("F", bound=Callable[..., object])


def _checked(mode: str, where: str) -> str:
    if mode not in MODES:
        raise ValueError(f"{where} must be one of {', '.join(MODES)}, got {mode!r}")
    return mode


_mode = _checked(os.environ.get("MULTIMAX_KERNELS", "auto"), "MULTIMAX_KERNELS")


class use:
    """Set the mode: at once and for the whole process, or for a ``with`` block.

    Raises:
        ValueError: no such mode.
    """

    def __init__(self, mode: str) -> None:
        global _mode
        self._before, _mode = _mode, _checked(mode, "mode")

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        global _mode
        _mode = self._before


def constant(function: F) -> F:
    """torch.compiler.assume_constant_result, without the import of all of torch._dynamo that it begins with."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Within it, Triton launches on the device of ``tensor``; otherwise it does on the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def mode() -> str:
    """The mode that is set now."""
    return _mode


def path(scores: Tensor) -> str:
    """What computes the reweighting of ``scores``: "cpp" or "triton", one of this package's kernels, or "eager".

    Eager in every mode are torch.export, whose programs shall need no operator of ours; torch.func transforms and
    forward-mode differentiation; subclasses of Tensor; and devices and dtypes without a kernel.

    Raises:
        RuntimeError: in the mode "require", where only the lack of a compiler or of Triton stands in the way.
    """
    if _mode == "eager" or not _is_ordinary(scores):
        return "eager"
    kind = scores.device.type
    if kind == "cpu":
        return "cpp" if _is_there("cpp", _mode == "require") else "eager"
    if kind == "cuda":
        return "triton" if _is_there("triton", _mode == "require") else "eager"
    return "eager"


def can_be_blocked(scores: Tensor) -> bool:
    """Whether tensor operations may compute with ``scores`` block by block: on a CPU, and nothing looks on."""
    is_watched = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
    return scores.device.type == "cpu" and scores.numel() > 0 and _is_ordinary(scores) and not is_watched


def _is_ordinary(scores: Tensor) -> bool:
    if scores.dtype not in DTYPES or type(scores) not in (Tensor, torch.nn.Parameter):
        return False
    return not torch.compiler.is_exporting() and (torch.compiler.is_compiling() or not _is_transformed())


def _is_transformed() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0


@constant
def _is_there(name: str, required: bool) -> bool:
    why_not = _obstacle(name)
    if why_not is None:
        return True
    if required:
        raise RuntimeError(f"MULTIMAX_KERNELS=require, but the {name} kernels cannot be had: {why_not}")
    _say_once(name, why_not)
    return False


@cache
def _obstacle(name: str) -> str | None:
    """Why the kernels of this name cannot be had; None: they are there."""
    if name == "cpp":
        return build.load()
    return None if importlib.util.find_spec("triton") else "Triton is not installed"


@cache
def _say_once(name: str, why_not: str) -> None:
    print(f"multimax: without its {name} kernels, several times slower: {why_not}", file=sys.stderr)
