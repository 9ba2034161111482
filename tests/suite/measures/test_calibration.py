"""Calibration error in cases where it is obvious."""

import pytest
import torch

from multimax.suite.measures.calibration import calibration_error


def test_the_calibration_error_is_that_of_confidence():
    right = torch.tensor([1.0, 1.0, 0.0, 0.0]).double()
    assert calibration_error(torch.full((4,), 0.5).double(), right) == pytest.approx(0)
    assert calibration_error(torch.full((4,), 1.0).double(), right) == pytest.approx(50)
