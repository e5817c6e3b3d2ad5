"""What a few seeds say, and how far it is to be trusted.

Below ``FEWEST`` seeds there is nothing to resample: a bootstrap of three values is their range under a grander name. So
the interval is the range of the seeds, and says so. (A range of n values covers the median of their distribution with
probability 1 - 2^(1-n): 75 % for three seeds, 94 % for five.) From ``FEWEST`` on it is the percentile bootstrap of the
median, or of the mean where that is what is compared.

The other summaries are those that Agarwal et al. 2021, arXiv:2108.13264, recommend for few runs: interquartile mean and
probability of improvement, with bootstrap intervals stratified by task. Beside them what training to a threshold asks
for: solve rates, and steps to solve as censored data, because a run that ended unsolved has needed more than it had.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

FEWEST = 6
LEVEL = 0.95
DRAWS = 2000
TAIL = NormalDist().inv_cdf((1 + LEVEL) / 2)
"""Standard deviations of a normal distribution to either side that hold the level."""

FEWEST_IN_STRATUM = 3
"""Seeds: of two, a resampled pair has half of the variance, of one it has none."""

HALF = 0.5 + 1e-9
"""One half as a product of fractions may give it."""

WIDE = 0.5
"""Width from which on an interval of a solve rate holds one half, wherever it lies."""


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
        low, high = _middle_of(np.median(values[chosen], axis=1))
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


@dataclass(frozen=True)
class Estimate:
    """A number, or an array of them, with the ends of its interval; NaN where nothing can be said."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def mean_interval(values: Float[np.ndarray, " seed"], seed: int = 0) -> Estimate:
    """The mean over seeds: between their least and largest below ``FEWEST``, else with its percentile bootstrap.

    NaN throughout where any seed has NaN; infinite where any is.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0:
        raise ValueError("a mean needs at least one seed")
    with np.errstate(invalid="ignore"):  # of inf and -inf
        mean = np.asarray(values.mean())
        if np.isnan(mean):
            return Estimate(*[np.asarray(np.nan)] * 3)
        if len(values) < FEWEST:
            return Estimate(mean, values.min(), values.max())
        chosen = np.random.default_rng(seed).integers(len(values), size=(DRAWS, len(values)))
        return Estimate(mean, *_middle_of(values[chosen].mean(axis=1)))


def solve_rate(solved: np.ndarray | int, runs: np.ndarray | int) -> Estimate:
    """The share of runs that solved their task, with Wilson's score interval; 0 to 1 where there is no run.

    Wilson 1927, doi:10.1080/01621459.1927.10502953: the rates that a test at this level would not reject.
    """
    solved, runs = np.asarray(solved, dtype=float), np.asarray(runs, dtype=float)
    if (solved > runs).any() or (solved < 0).any():
        raise ValueError(f"of {runs} runs {solved} cannot have solved their task")
    square = TAIL**2
    middle = (solved + square / 2) / (runs + square)
    half = TAIL / (runs + square) * np.sqrt(solved * (1 - solved / np.maximum(runs, 1)) + square / 4)
    rate = np.divide(solved, runs, out=np.full(np.broadcast(solved, runs).shape, np.nan), where=runs > 0)
    low, high = np.where(solved == 0, 0, middle - half), np.where(solved == runs, 1, middle + half)  # but for rounding
    return Estimate(rate, low, high)


def steps_to_solve(steps: np.ndarray, solved: np.ndarray) -> Estimate:
    """The median number of steps to solve, of runs of which some ended before; infinite where it was not reached.

    ``steps`` is where a run solved its task, or up to where it had not: infinite for one that never will, such as one
    that diverged. The median is that of Kaplan & Meier's curve, the first step at which at most half are unsolved. Its
    interval holds the steps at which the curve's own interval, by Greenwood's variance of log(-log), holds one half
    (Brookmeyer & Crowley 1982). Below ``FEWEST`` runs it is their range, in which those that did not solve are above.
    """
    steps, solved = np.asarray(steps, dtype=float), np.asarray(solved, dtype=bool)
    if len(steps) == 0:
        raise ValueError("steps to solve need at least one run")
    if np.isnan(steps).any() or np.isinf(steps[solved]).any():
        raise ValueError("a run that solved its task has a step at which it did, any other one up to which it had not")
    at, events = np.unique(steps[solved], return_counts=True)
    at_risk = (steps[None] >= at[:, None]).sum(1)
    unsolved = np.cumprod(1 - events / at_risk)
    if len(steps) < FEWEST:
        high = steps.max() if solved.all() else np.inf
        return Estimate(_first(at, unsolved <= HALF), steps.min(), np.asarray(high))
    with np.errstate(divide="ignore", invalid="ignore"):  # where all have solved, the curve has no interval
        greenwood = np.cumsum(events / (at_risk * (at_risk - events)))
        spread = TAIL * np.sqrt(greenwood) / np.log(unsolved)
        low, high = unsolved ** np.exp(-spread), unsolved ** np.exp(spread)
    return Estimate(_first(at, unsolved <= HALF), _first(at, low <= HALF), _first(at, high <= HALF))


def _first(at: np.ndarray, holds: np.ndarray) -> np.ndarray:
    """The first step at which it holds; infinite where it never does."""
    return np.asarray(at[holds.argmax()] if holds.any() else np.inf)


def interquartile_mean(strata: Sequence[np.ndarray], seed: int = 0) -> Estimate:
    """The mean of the middle half of all scores, with its bootstrap interval stratified by task, model or both.

    A quarter of the scores, rounded down, is left out at either end. Each draw takes as many scores from a stratum as
    it has, with replacement. The interval is NaN where that cannot vary enough to say anything: with fewer than
    ``FEWEST`` scores, or than ``FEWEST_IN_STRATUM`` in any stratum.
    """
    strata = _scores(strata)
    value = _middle_half(np.concatenate(strata))
    if sum(map(len, strata)) < FEWEST or min(map(len, strata)) < FEWEST_IN_STRATUM:
        return Estimate(value, np.asarray(np.nan), np.asarray(np.nan))
    generator = np.random.default_rng(seed)
    drawn = [scores[generator.integers(len(scores), size=(DRAWS, len(scores)))] for scores in strata]
    return Estimate(value, *_middle_of(_middle_half(np.concatenate(drawn, axis=1))))


def _middle_half(scores: Float[np.ndarray, "*draw run"]) -> np.ndarray:
    ordered = np.sort(scores, axis=-1)
    cut = ordered.shape[-1] // 4
    return np.asarray(ordered[..., cut : ordered.shape[-1] - cut].mean(-1))


def improvement(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], seed: int = 0) -> Estimate:
    """The probability that a run of ours scores above one of theirs on the same task, a tie counting half.

    Both give the scores by task. On one task this is Mann & Whitney's U over the number of pairs; over several it is
    their mean. The interval is a bootstrap of either's runs within each task, NaN where either has fewer than
    ``FEWEST`` in all, or than ``FEWEST_IN_STRATUM`` on any task.
    """
    ours, theirs = _scores(ours), _scores(theirs)
    if len(ours) != len(theirs):
        raise ValueError(f"scores on {len(ours)} tasks cannot be compared with scores on {len(theirs)}")
    above = [(one[:, None] > other) + (one[:, None] == other) / 2 for one, other in zip(ours, theirs, strict=True)]
    value = np.asarray(np.mean([pairs.mean() for pairs in above]))
    sizes = [list(map(len, side)) for side in (ours, theirs)]
    if any(sum(size) < FEWEST or min(size) < FEWEST_IN_STRATUM for size in sizes):
        return Estimate(value, np.asarray(np.nan), np.asarray(np.nan))
    generator = np.random.default_rng(seed)
    drawn = np.mean([((_shares(len(p), generator) @ p) * _shares(p.shape[1], generator)).sum(1) for p in above], axis=0)
    return Estimate(value, *_middle_of(drawn))


def _shares(runs: int, generator: np.random.Generator) -> Float[np.ndarray, "draw run"]:
    """How large a part of each draw is each run."""
    return generator.multinomial(runs, np.full(runs, 1 / runs), size=DRAWS) / runs


def _scores(strata: Sequence[np.ndarray]) -> list[np.ndarray]:
    scores = [np.asarray(one, dtype=float) for one in strata]
    if not scores or not all(map(len, scores)):
        raise ValueError("every stratum needs at least one score")
    if any(np.isnan(one).any() for one in scores):
        raise ValueError("a score that is no number has no place among others")
    return scores


def _middle_of(draws: Float[np.ndarray, "draw *place"]) -> tuple[np.ndarray, np.ndarray]:
    """The ends between which the middle ``LEVEL`` of the draws lie."""
    ordered, outside = np.sort(draws, axis=0), round((1 - LEVEL) / 2 * len(draws))
    return ordered[outside], ordered[-1 - outside]


def too_few(seeds: int, claim: str) -> str:
    """What that many seeds are too few for, as a sentence without its full stop; empty where they are enough.

    >>> too_few(3, "a median")
    '3 seeds are few for a median: its interval is their range, which in 25 % of cases misses it'
    >>> too_few(1, "a median"), too_few(6, "a median")
    ('1 seed is too few for a median: it has no interval', '')
    """
    if seeds < 2:
        return (
            f"{seeds} seed{'s' * (seeds != 1)} {'is' if seeds == 1 else 'are'} too few for {claim}: it has no interval"
        )
    if seeds < FEWEST:
        missed = f"{2.0 ** (1 - seeds):.0%}".replace("%", " %")
        return f"{seeds} seeds are few for {claim}: its interval is their range, which in {missed} of cases misses it"
    return ""


def not_told(solved: int, runs: int) -> str:
    """What so many runs leave open of a solve rate, as a clause; empty where its interval is at most ``WIDE``.

    >>> not_told(3, 3), not_told(6, 6)
    ('3 of 3 solved is not told apart from a solve rate of one half (44 to 100 %)', '')
    """
    rate = solve_rate(solved, runs)
    if rate.high - rate.low <= WIDE:
        return ""
    return f"{solved} of {runs} solved is not told apart from a solve rate of one half ({in_percent(rate)})"


def in_percent(rate: Estimate) -> str:
    """The interval of a share.

    >>> in_percent(solve_rate(2, 4))
    '15 to 85 %'
    """
    return f"{100 * rate.low:.0f} to {100 * rate.high:.0f} %"
