r"""Whether the gradient stands out from what the draw of samples makes of it: signal to noise, also by lag.

    signal         ‖E g‖²                 g one sample's gradient, E over samples
    noise          tr Cov g = E ‖g - E g‖²
    ratio          signal / noise         not above 0 where the samples asked show no signal
    noise_scale    noise / signal         the batch size at which both are equal in a batch's mean gradient; infinite
                                          where there is no signal
    ratio_by_lag   the same ratio of dL_s/dz_{s-k}, over the lag k: does the distant signal exceed its own noise?

of each parameter and of all of them together, and of each component of a layer's state; z the state, s a sample's
scored position, the last where there are more. A lag is there for the samples that reach as far back, of which there
must be two. Where a task leads from a source to a target, lags are those of the decoder.

Signal and noise are unbiased: of n samples, with mean m and S = Σ‖g - m‖² / (n - 1), they are ‖m‖² - S/n and S. A ratio
of two estimates is not. To average over steps or runs, average signal and noise, not the ratio.

Source: ratio: Liu et al. 2020, arXiv:2001.07384; noise scale: McCandlish et al. 2018, arXiv:1812.06162, their B_simple.
Differs: sums over a parameter's entries above and below, where Liu et al. average the entries' own ratios, which are
0/0 for an entry that no sample touches.
Cost: a forward and a backward pass of the training form for each sample alone; and where samples have several scored
positions, a sweep.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Snapshot
from retrograde.core.gradients import parameter_gradients
from retrograde.core.records import Batch, Reading, StateGradient
from retrograde.core.scaled import log10_norm, power_of_two
from retrograde.core.snapshot import gradient_flow
from retrograde.core.statistics import plain_status
from retrograde.core.statuses import CENSORED, ZERO

ALL = "all"


class Noise:
    """Readings ``signal``, ``noise``, ``ratio`` and ``noise_scale`` of parameters, ``ratio_by_lag`` of states.

    Of the first ``samples`` of the probe batch. There must be two.
    """

    def __init__(self, samples: int = 32) -> None:
        require_at_least("samples", samples, 2)
        self.samples = samples

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        count = min(self.samples, len(snapshot.batch))
        if count < 2:
            raise ValueError(
                "noise compares samples, and the probe batch has only one: probing.samples must be at least 2"
            )
        batch = snapshot.batch.select(torch.arange(count, device=snapshot.batch.lengths.device))
        if snapshot.model.learns:
            yield from self._of_parameters(snapshot, batch)
        for key, gradient in self._at_last(snapshot, batch).items():
            if snapshot.task.kind == "transduce" and key not in snapshot.trace.target_side:
                continue  # between a target position and a source position there is no lag
            ratio, status, lags = by_lag(gradient, last_scored(batch), batch, key.split(".")[1] == "backward")
            dims: Mapping[str, Sequence[Any]] = {"statistic": ["ratio"], "lag": lags}
            values, statuses = (part.unsqueeze(0).cpu().numpy() for part in (ratio, status))
            yield Reading(f"ratio_by_lag/{key}", values, dims, "signal over noise", statuses)

    @staticmethod
    def _of_parameters(snapshot: Snapshot, batch: Batch) -> Iterable[Reading]:
        moments: dict[str, Moments] = {}
        for sample in range(len(batch)):
            alone = batch.select(torch.tensor([sample], device=batch.lengths.device)).trimmed()
            for name, gradient in parameter_gradients(snapshot.model, snapshot.task, alone).items():
                given = gradient.flatten().to(torch.float64)
                moments[name] = moments[name].with_another(given) if name in moments else Moments.of(given)
        signal = {name: each.signal for name, each in moments.items()}
        noise = {name: each.noise for name, each in moments.items()}
        signal[ALL], noise[ALL] = sum(signal.values()), sum(noise.values())
        dims = {"parameter": list(signal)}
        above, below = np.array(list(signal.values())), np.array(list(noise.values()))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = above / below
            scale = np.where(above > 0, below / above, np.where(np.isnan(ratio), math.nan, math.inf))
        for quantity, values, unit in (
            ("signal", above, "squared loss per weight"),
            ("noise", below, "squared loss per weight"),
            ("ratio", ratio, "signal over noise"),
            ("noise_scale", scale, "samples"),
        ):
            yield Reading(f"{quantity}/parameters", values, dims, unit)

    @staticmethod
    def _at_last(snapshot: Snapshot, batch: Batch) -> dict[str, StateGradient]:
        """The gradient of each sample's loss at its last scored position."""
        if (snapshot.batch.scored.sum(1) == 1).all() and len(batch) == len(snapshot.batch):
            return dict(snapshot.gradients)
        scored = torch.zeros_like(batch.scored)
        scored[torch.arange(len(batch), device=scored.device), last_scored(batch)] = True
        return gradient_flow(snapshot.model, snapshot.task, replace(batch, scored=scored)).gradients


@dataclass(frozen=True)
class Moments:
    """Of vectors, as many as came: their sum, and the sum of their squared distances from their mean."""

    count: int
    total: Float[Tensor, " size"]
    spread: float

    @classmethod
    def of(cls, vector: Float[Tensor, " size"]) -> "Moments":
        """Those of one vector."""
        return cls(1, vector, 0.0)

    def with_another(self, vector: Float[Tensor, " size"]) -> "Moments":
        """Those of one vector more (Welford 1962), without the difference of two large sums."""
        from_mean = float((vector - self.total / self.count).square().sum())
        return Moments(self.count + 1, self.total + vector, self.spread + from_mean * self.count / (self.count + 1))

    @property
    def noise(self) -> float:
        """The trace of the covariance."""
        return self.spread / (self.count - 1)

    @property
    def signal(self) -> float:
        """The squared length of the expectation."""
        return float((self.total / self.count).square().sum()) - self.noise / self.count


def last_scored(batch: Batch) -> Int[Tensor, " batch"]:
    """The last position of each sample that counts."""
    position = torch.arange(batch.scored.shape[1], device=batch.scored.device)
    return torch.where(batch.scored, position, -1).amax(1)


def by_lag(
    gradient: StateGradient, last: Int[Tensor, " batch"], batch: Batch, backward: bool
) -> tuple[Float[Tensor, " lag"], Int[Tensor, " lag"], list[int]]:
    """The ratio at each lag, its status, and the lags at which there are two samples or more."""
    lag = torch.arange(len(gradient.times), device=last.device)
    time = last.unsqueeze(1) + (lag if backward else -lag)
    lengths = batch.lengths if batch.target_lengths is None else batch.target_lengths
    counts = (time >= 0) & (time < lengths.unsqueeze(1))
    kept = counts.sum(0) >= 2
    counts = counts[:, kept]
    index = (time - gradient.times.start).clamp(0, len(gradient.times) - 1)[:, kept]
    total = gradient.total
    mantissa, exponent = total.mantissa.flatten(2), total.exponent.gather(1, index)
    mantissa = mantissa.gather(1, index.unsqueeze(-1).expand(-1, -1, mantissa.shape[2])).to(torch.float64)
    _, status = log10_norm(total)
    status = status.gather(1, index)
    lost = (status == ZERO) | (status == CENSORED)
    seen = counts & ~lost
    # all samples of a lag in units of their largest power of two: a ratio does not know of it
    top = torch.where(seen, exponent, torch.iinfo(exponent.dtype).min).amax(0)
    value = power_of_two(mantissa, torch.where(seen, exponent - top, 0)).where(seen.unsqueeze(-1), 0.0)
    ratio = signal_to_noise(value, counts)
    censored = ((status == CENSORED) & counts).any(0)
    nothing = ~seen.any(0)
    found = torch.where(nothing, torch.where(censored, CENSORED, ZERO), plain_status(ratio))
    return ratio.masked_fill(nothing, 0.0), found, lag[kept].tolist()


def signal_to_noise(value: Float[Tensor, "batch lag size"], counts: Bool[Tensor, "batch lag"]) -> Float[Tensor, " lag"]:
    """Over the samples that count, of which there are two or more at every lag; what does not count is zero."""
    number = counts.sum(0)
    mean = value.sum(0) / number.unsqueeze(-1)
    apart = (value - mean).where(counts.unsqueeze(-1), 0.0)
    noise = apart.square().sum((0, 2)) / (number - 1)
    return (mean.square().sum(-1) - noise / number) / noise
