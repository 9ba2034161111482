"""Functions of ragged rows, such as the edges into each node of a graph: segments of a long vector, without padding."""

import torch
from torch import Tensor

from multimax import kernels
from multimax.formulas.rows import check_count, check_dense, check_floating, compute_dtype
from multimax.formulas.torch_private import is_readable
from multimax.kernels import segments
from multimax.kernels.attention import kernel_arguments
from multimax.reweight._base import Reweighting, may_bypass
from multimax.reweight._registry import create


def segment(
    function: str | Reweighting,
    scores: Tensor,
    index: Tensor | None = None,
    ptr: Tensor | None = None,
    num_segments: int | None = None,
) -> Tensor:
    """Weights of ``scores`` along the first dimension, normalised within each segment.

    Segments are given by ``index`` or by ``ptr``, as in ``torch_geometric.utils.softmax``.

    Args:
        function: a module, or the name of a function with default options: softmax, the entmax family up to alpha = 2,
            ev-softmax, MultiMax, or any other that uses one of their row kernels.
        scores: floating point [n, ...]; parameters per head need [n, heads].
        index: int64 [n], the segment of each entry, in any order.
        ptr: int64 [segments + 1], where each segment begins and the last one ends, from 0 to n.
        num_segments: the number of segments, with ``index``; if None, the largest index plus one, which has to be read.

    Returns:
        Weights in the shape and dtype of ``scores``.

    Raises:
        TypeError, ValueError: an argument that does not fit, or a function that has no row kernel, in one line.
    """
    check_floating("scores", scores)
    if scores.dim() == 0:
        raise ValueError("scores must be [n, ...], got a 0-d tensor")
    module = create(function) if isinstance(function, str) else function
    if not isinstance(module, Reweighting):
        raise TypeError(f"function must be a name or a Reweighting, got {type(module).__name__}")
    kernel = module.row_kernel() if may_bypass(module, "row_kernel") else None
    if kernel is None:
        name = function if isinstance(function, str) else type(function).__name__
        raise ValueError(f"function {name!r} has no form for segments: no row kernel computes it as it is here")
    index, count = _segments(scores, index, ptr, num_segments)
    x = scores.to(compute_dtype(scores))
    heads = x.shape[1] if x.dim() == 2 else 1
    arguments = kernel_arguments(kernel, x.new_empty(1, heads, 1, 1))
    if arguments is None:
        raise ValueError(f"parameters per head do not fit scores of shape {tuple(x.shape)}; they must be [n, heads]")
    rows = x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)
    weigh = segments.weigh if kernels.path(x) == "cpp" else segments.formula
    return weigh(rows, index, count, *arguments).reshape(scores.shape).to(scores.dtype)


def _segments(scores: Tensor, index: Tensor | None, ptr: Tensor | None, num_segments: int | None) -> tuple[Tensor, int]:
    """The segment of each entry and the number of segments."""
    if (index is None) == (ptr is None):
        raise ValueError("segments are given by index or by ptr: pass one of the two")
    n = scores.shape[0]  # not len(), which torch.export takes for a constant
    for name, given in (("index", index), ("ptr", ptr)):
        if given is None:
            continue
        check_dense(name, given)
        if given.dtype != torch.int64 or given.dim() != 1:
            raise TypeError(f"{name} must be int64 and 1-D, got {given.dtype} of shape {tuple(given.shape)}")
        if given.device != scores.device:
            raise ValueError(f"{name} must be on {scores.device}, where the scores are, got {given.device}")
    if num_segments is not None:
        check_count("num_segments", num_segments, least=0)
    if ptr is not None:
        if num_segments not in (None, len(ptr) - 1):
            raise ValueError(f"num_segments must be {len(ptr) - 1}, as ptr has it, or None, got {num_segments}")
        lengths = ptr.diff()
        if len(ptr) == 0 or (is_readable(ptr) and (int(ptr[0]) != 0 or int(ptr[-1]) != n or bool((lengths < 0).any()))):
            raise ValueError(f"ptr must rise from 0 to {n}, the number of scores, and have at least one entry")
        return torch.arange(len(lengths), device=ptr.device).repeat_interleave(lengths, output_size=n), len(lengths)
    assert index is not None
    if index.shape[0] != n:
        raise ValueError(f"index must have one entry for each of the {n} scores, got {index.shape[0]}")
    count = (int(index.max()) + 1 if n else 0) if num_segments is None else num_segments
    if n and is_readable(index) and index.device.type == "cpu":  # a GPU's host would have to wait
        low, high = (int(bound) for bound in index.aminmax())
        if low < 0 or high >= count:
            raise ValueError(f"index must be from 0 to {count - 1}, got {low if low < 0 else high}")
    return index, count
