"""Checks that initial weights have a given mean and standard deviation."""

import pytest
import torch


def assert_drawn(name: str, parameter: torch.Tensor, mean: float, std: float) -> None:
    """Both must be within five standard errors, computed as for a normal distribution."""
    assert parameter.mean().item() == pytest.approx(mean, abs=5 * std / parameter.numel() ** 0.5), name
    assert parameter.std().item() == pytest.approx(std, rel=5 / (2 * parameter.numel()) ** 0.5), name
