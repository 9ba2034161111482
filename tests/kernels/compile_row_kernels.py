"""Compile the row kernels for GPUs of a given compute capability, on a machine without one.

``python compile_row_kernels.py 90 197 bfloat16`` prints what each kernel uses.
"""

import os
import sys

os.environ.pop("TRITON_INTERPRET", None)

import torch
from without_gpu import compile_only

from multimax.kernels.triton import cross_entropy as triton_cross_entropy
from multimax.kernels.triton import launch as triton_launch
from multimax.kernels.triton import rows as triton_rows


def main(capability: int, n: int, dtype: torch.dtype) -> None:
    compile_only(capability)
    triton_launch.processors = lambda device: 132
    scores = torch.zeros(2, 3, 20, n, dtype=dtype)
    mask = torch.ones(2, 1, 1, n, dtype=torch.bool)
    kind = torch.promote_types(dtype, torch.float32)
    ranges = ts = torch.zeros(3, 4, dtype=kind)
    _, statistics = triton_rows.multimax_forward(scores, mask, ranges, ts, (1, 1, 2, 2))
    triton_rows.multimax_backward(scores, scores, mask, statistics, ranges, ts, (1, 1, 2, 2))
    for alpha in (2.0, 1.5):
        triton_rows.entmax_backward(scores, triton_rows.entmax_forward(scores, mask, alpha), alpha)
    alphas = torch.full((3,), 1.5, dtype=kind)
    triton_rows.alpha_entmax_backward(scores, triton_rows.alpha_entmax_forward(scores, mask, alphas), alphas)
    triton_rows.evsoftmax_forward(scores, None, 0.0)
    logits, targets, counts = scores[0, 0], torch.zeros(20, dtype=torch.int64), ranges.new_ones(20)
    for given in (targets, logits):
        triton_cross_entropy.cross_entropy(logits, n, given, counts, ranges[0], ts[0], (1, 1, 2, 2), 0.1, True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), getattr(torch, sys.argv[3]))
