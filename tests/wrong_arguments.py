"""Mostly wrong arguments for the public functions of the library.

``draws(right, count, seed)`` takes right arguments by name. It yields copies of that dictionary with one or two values
replaced, each with the replaced names. ``judge`` calls a function with such a dictionary: the function must raise an
error of one line that names a replaced argument, or give the same as the plain formula.
"""

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import torch
from torch import Tensor

PLAIN = [
    None,
    True,
    0,
    1,
    2,
    3,
    -1,
    0.5,
    1.5,
    math.nan,
    math.inf,
    "second_only",
    "mean",
    "",
    [1.0, 2.0],
    (1, 2),
    {},
    object,
]
PLAIN += [1j, numpy.ones(4), [torch.ones(3)]]
SHAPES = [
    (),
    (0,),
    (1,),
    (2,),
    (3,),
    (4,),
    (5,),
    (2, 1),
    (3, 1),
    (3, 4),
    (4, 3),
    (2, 3, 4),
    (3, 1, 1),
    (2, 3, 1),
    (1, 2, 3, 4),
]
DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.bool,
    torch.int64,
    torch.uint8,
    torch.int32,
]
DTYPES += [torch.complex64, torch.float8_e4m3fn]
KINDS = ["dense"] * 4 + ["sparse", "nested", "meta", "wants a gradient", "strided"]


def draws(right: dict[str, Any], count: int, seed: int) -> Iterator[tuple[dict[str, Any], list[str]]]:
    chance = random.Random(seed)
    for _ in range(count):
        changed = chance.sample(sorted(right), chance.choice([1, 1, 1, min(2, len(right))]))
        yield right | {name: wrong(chance, right[name]) for name in changed}, changed


def wrong(chance: random.Random, right: Any) -> Any:
    if chance.random() < 0.3:
        return chance.choice(PLAIN)
    is_tensor = isinstance(right, Tensor)
    shape = tuple(right.shape) if is_tensor and chance.random() < 0.5 else chance.choice(SHAPES)
    dtype = right.dtype if is_tensor and chance.random() < 0.4 else chance.choice(DTYPES)
    kind = chance.choice(KINDS)
    generator = torch.Generator().manual_seed(chance.randrange(2**31))
    tensor = (1 + 2 * torch.rand(shape, generator=generator)).to(dtype)
    if kind == "sparse" and shape and dtype.itemsize > 1:
        return tensor.to_sparse()
    if kind == "nested" and len(shape) > 1 and dtype == torch.float32:
        return torch.nested.nested_tensor(list(tensor), layout=chance.choice([torch.strided, torch.jagged]))
    if kind == "meta":
        return tensor.to("meta")
    if kind == "wants a gradient" and (dtype.is_floating_point or dtype.is_complex):
        return tensor.requires_grad_()
    return tensor.mT.contiguous().mT if kind == "strided" and len(shape) > 1 else tensor


def judge(
    function: Callable[..., Tensor], plain: Callable[..., Tensor], arguments: dict[str, Any], changed: list[str]
) -> str | None:
    """Say what is wrong with how ``function`` takes the arguments, or None. ``plain`` computes in float64."""
    try:
        found = function(**arguments)
    except (TypeError, ValueError) as error:
        message = str(error)
        if "\n" in message.strip():
            return f"more than a line: {message}"
        return None if any(name in message for name in changed) else f"names none of {changed}: {message}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if found.is_meta:
        return None
    expected = plain(**arguments)
    if found.shape != expected.shape:
        return f"shape {tuple(found.shape)} where it is {tuple(expected.shape)}"
    tolerance = 64 * torch.finfo(found.dtype).eps
    if torch.allclose(found.detach().double(), expected.double(), rtol=tolerance, atol=tolerance, equal_nan=True):
        return None
    return f"{found.tolist()} where it is {expected.tolist()}"
