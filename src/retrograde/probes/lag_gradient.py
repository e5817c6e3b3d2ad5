r"""How far back one position's loss is felt: the total gradient by lag.

    norm       ‖dL_s/dz_{s-k}‖ over the lag k, for a few target positions s of each sample
    relative   the same over its size at k = 0, target by target

as mean and quantiles over samples and targets. Targets near the beginning have no long lags; since each is relative to
itself, a mean over fewer targets does not look like a fall. A target whose gradient at k = 0 is zero or no number is no
measure of its other lags: `relative` ends before the first lag that no other target has. From its mean:

    horizon    the largest k at which it is at least 1 %; none where that is its last and `norm` has longer ones
    slope      of its log10 over k, by least squares over all lags whose value is finite; decades per lag
    half_life  log10(2) / -slope: lags in which the gradient halves; infinite where it does not fall

z is one component of a layer's state. In a backward direction k counts towards later positions, and the
initial state, which no position has, is left out. Where a task leads
from a source to a target, lags are those of the decoder; ``source_gradient`` has what reaches the encoder.

Source: Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063; Le & Zuidema 2016, arXiv:1603.00423; summary numbers are ours.
Cost: none beyond the snapshot where each sample has one scored position; else one sweep of samples · targets.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from retrograde.core.contracts import Snapshot
from retrograde.core.records import Batch, Reading, StateGradient
from retrograde.core.scaled import log10_norm
from retrograde.core.snapshot import gradient_flow
from retrograde.core.statistics import STATISTICS, log10_statistics
from retrograde.core.statuses import FINITE

KEPT = 0.01


class LagGradient:
    """Readings ``norm`` and ``relative`` over lag, ``horizon``, ``slope`` and ``half_life`` for every component.

    ``targets`` positions of each of the first ``samples`` samples are asked, spread evenly over the scored ones, the
    last always among them.
    """

    def __init__(self, targets: int = 4, samples: int = 8) -> None:
        if targets < 1 or samples < 1:
            raise ValueError(f"targets and samples must be at least 1, not {targets} and {samples}")
        self.targets = targets
        self.samples = samples

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        if (snapshot.batch.scored.sum(1) == 1).all():
            batch, gradients = snapshot.batch, snapshot.gradients
        else:
            first = torch.arange(min(self.samples, len(snapshot.batch)), device=snapshot.batch.scored.device)
            batch = one_target_each(snapshot.batch.select(first), self.targets)
            gradients = gradient_flow(snapshot.model, snapshot.task, batch).gradients
        target = batch.scored.int().argmax(1)
        for key, gradient in gradients.items():
            if snapshot.task.kind == "transduce" and key not in snapshot.trace.target_side:
                continue  # between a target position and a source position there is no lag
            norm, status, counts, lags = by_lag(gradient, target, batch.lengths, key.split(".")[1] == "backward")
            values, statuses = log10_statistics(norm, status, counts)
            dims = {"statistic": STATISTICS, "lag": lags}
            yield Reading(f"norm/{key}", values.cpu().numpy(), dims, "log10 loss per state", statuses.cpu().numpy())
            measured = counts & (status[:, :1] == FINITE)  # what is nothing at lag 0 is no measure of the rest
            told = int(measured.any(0).sum())  # a target that has a lag has all shorter ones
            if not told:
                continue
            values, statuses = log10_statistics((norm - norm[:, :1])[:, :told], status[:, :told], measured[:, :told])
            dims = {"statistic": STATISTICS, "lag": lags[:told]}
            yield Reading(f"relative/{key}", values.cpu().numpy(), dims, "log10 share", statuses.cpu().numpy())
            mean, finite = values[0].cpu().numpy(), (statuses[0] == FINITE).cpu().numpy()
            for name, value, unit in (
                ("horizon", horizon(mean, told == len(lags)), "lags"),
                ("slope", slope(mean, finite), "decades per lag"),
                ("half_life", half_life(slope(mean, finite)), "lags"),
            ):
                yield Reading(f"{name}/{key}", np.array(value), {}, unit)


def one_target_each(batch: Batch, targets: int) -> Batch:
    """Every sample as often as it has targets, each copy scored at one of them."""
    rows, positions = [], []
    for row, scored in enumerate(batch.scored):
        candidates = scored.nonzero().flatten()
        index = torch.linspace(0, len(candidates) - 1, min(targets, len(candidates))).round().long()
        if len(index) == 1:
            index = torch.tensor([len(candidates) - 1])
        rows += [row] * len(index)
        positions += candidates[index.to(candidates.device)].tolist()
    chosen = batch.select(torch.tensor(rows, device=batch.scored.device))
    scored = torch.zeros_like(chosen.scored)
    scored[torch.arange(len(rows)), torch.tensor(positions)] = True
    return replace(chosen, scored=scored)


def by_lag(
    gradient: StateGradient, target: Tensor, lengths: Tensor, backward: bool
) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """log10 norms (sample, lag) from each sample's own target, their status, which of them exist, and the lags."""
    norm, status = log10_norm(gradient.total)
    lag = torch.arange(len(gradient.times), device=norm.device)
    time = target.unsqueeze(1) + (lag if backward else -lag)
    counts = (time < lengths.unsqueeze(1)) if backward else (time >= gradient.times.start)
    index = (time - gradient.times.start).clamp(0, len(gradient.times) - 1)
    kept = counts.any(0)
    return norm.gather(1, index)[:, kept], status.gather(1, index)[:, kept], counts[:, kept], lag[kept].tolist()


def horizon(relative: np.ndarray, whole: bool = True) -> float:
    """The largest lag with at least 1 % of the gradient at lag 0.

    NaN where any lag's value is none, and where that is the last of lags that are not the ``whole``: it may lie beyond.
    """
    kept = relative >= math.log10(KEPT)
    if np.isnan(relative).any() or (kept[-1] and not whole):
        return math.nan
    return float(np.flatnonzero(kept).max())


def slope(relative: np.ndarray, finite: np.ndarray) -> float:
    """Decades per lag over the lags whose value is finite; NaN where there are fewer than two."""
    lags = np.flatnonzero(finite)
    if len(lags) < 2:
        return math.nan
    return float(np.polynomial.polynomial.polyfit(lags, relative[lags], 1)[1])


def half_life(falls: float) -> float:
    """Lags in which a gradient of that slope halves; infinite where it does not fall."""
    if math.isnan(falls):
        return math.nan
    return math.inf if falls >= 0 else -math.log10(2) / falls
