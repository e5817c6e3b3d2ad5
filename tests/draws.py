"""What random numbers are drawn from: moments within five standard errors of those of the distribution claimed."""

import math

from torch import Tensor


def check_gaussian(values: Tensor, variance: float) -> None:
    """Of mean 0, by its second moment and its fourth, which of no other distribution here is three squares."""
    values = values.detach().double().flatten() / math.sqrt(variance)
    error = 5 / math.sqrt(len(values))
    assert abs(values.mean()) < error
    assert abs(values.square().mean() - 1) < error * math.sqrt(2)
    assert abs(values.pow(4).mean() - 3) < error * math.sqrt(96)


def check_uniform(values: Tensor, low: float, high: float) -> None:
    """By its ends, neither passed nor left out, and by its first two moments."""
    values = (values.detach().double().flatten() - low) / (high - low)
    error = 5 / math.sqrt(len(values))
    assert -1e-6 <= values.min() < 10 / len(values) and 1 - 10 / len(values) < values.max() <= 1 + 1e-6
    assert abs(values.mean() - 1 / 2) < error / math.sqrt(12)
    assert abs(values.square().mean() - 1 / 3) < error * math.sqrt(4 / 45)
