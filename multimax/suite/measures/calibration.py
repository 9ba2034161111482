"""How much a classifier's confidence differs from how often it is right."""

import torch
from torch import Tensor

BINS = 15  # of confidence


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Expected calibration error in percent over ``BINS`` equal bins of confidence (Guo et al. 2017, 1706.04599).

    Both arguments are float64 [examples]; ``right`` is 1 where the most likely class is the true one, else 0.
    """
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64, device=confidence.device).index_add(0, bins, right - confidence)
    return 100 * (gaps.abs().sum() / len(right)).item()
