"""The middle of a few seeds, and how far it is to be trusted.

Below ``FEWEST`` seeds there is nothing to resample: a bootstrap of three values is their range under a grander name. So
the interval is the range of the seeds, and says so. (A range of n values covers the median of their distribution with
probability 1 - 2^(1-n): 75 % for three seeds, 94 % for five.) From ``FEWEST`` on it is the percentile bootstrap of the
median.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

FEWEST = 6
LEVEL = 0.95
DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """Median, lower and upper end, each over the first axis of what was given."""

    median: np.ndarray
    low: np.ndarray
    high: np.ndarray


def interval(values: Float[np.ndarray, "seed *place"], seed: int = 0) -> Interval:
    """Over seeds, place by place. NaN where any seed has NaN: a missing run is not averaged away."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0:
        raise ValueError("an interval needs at least one seed")
    with np.errstate(invalid="ignore"):  # the middle of -inf and inf is no number
        median = np.median(values, axis=0)
        if len(values) < FEWEST:
            return Interval(median, values.min(0), values.max(0))
        chosen = np.random.default_rng(seed).integers(len(values), size=(DRAWS, len(values)))
        medians = np.sort(np.median(values[chosen], axis=1), axis=0)
    outside = round((1 - LEVEL) / 2 * DRAWS)
    low, high = medians[outside], medians[-1 - outside]
    missing = np.isnan(values).any(0)
    return Interval(median, np.where(missing, np.nan, low), np.where(missing, np.nan, high))


def interval_in_words(seeds: int) -> str:
    """What a band over that many seeds is.

    >>> interval_in_words(3)
    'the range of the seeds'
    """
    if seeds < FEWEST:
        return "the range of the seeds"
    return f"the {LEVEL:.0%} percentile bootstrap interval of the median ({DRAWS:,} draws, fixed seed)"
