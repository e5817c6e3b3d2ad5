"""Central differences by Ridders' method, with the error that they claim for themselves.

f'(0) from (f(h) - f(-h)) / 2h at h = 2^-6, 2^-8, …: Richardson's extrapolation in a tableau, from which every entry
takes the value that its neighbours in the tableau disagree with least. That disagreement is the error claimed. Smaller
steps are added until it is below ``SETTLED`` of the largest entry, or ``LEVELS`` of them are there: that carries it
past the kink of a ReLU, and into the small place where a norm of nearly nothing is smooth.

Source: Ridders 1982, Advances in Engineering Software 4(2).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST_STEP = 2.0**-6


FACTOR = 4.0


LEVELS = 12


SETTLED = 1e-9


@dataclass(frozen=True)
class Derivative:
    """A central difference and the error that the method claims for it."""

    value: Tensor
    error: Tensor


def derivative(f: Callable[[float], Tensor], settled: float = SETTLED) -> Derivative:
    """f'(0) of a function with values of any shape, entry by entry, by Ridders' method."""
    rows: list[list[Tensor]] = []
    best = Derivative(torch.tensor(torch.nan), torch.tensor(torch.inf))
    for level in range(LEVELS):
        step = LARGEST_STEP / FACTOR**level
        row = [(f(step) - f(-step)) / (2 * step)]
        for order in range(1, level + 1):
            gain = FACTOR ** (2 * order)  # the error of a central difference has even powers alone
            value = row[-1] + (row[-1] - rows[-1][order - 1]) / (gain - 1)
            error = torch.maximum((value - row[-1]).abs(), (value - rows[-1][order - 1]).abs())
            better = error < best.error
            best = Derivative(torch.where(better, value, best.value), torch.where(better, error, best.error))
            row.append(value)
        rows.append(row)
        if level and float(best.error.max()) <= settled * float(best.value.abs().max()):
            break
    return best
