r"""What the gates of a recurrence do, and what they leave of a state by themselves.

    gate                  the mean of a gate over its units, over time
    saturated             of each unit, the share of samples and times with the gate below 0.1 (left), above 0.9 (right)
    saturated_share       the same of all these units together
    forget_path           Π_{j=s-k+1..s} |f_j| over the lag k, of each unit and sample: log10, zero where a factor is
    time_constant         -1 / ln f̄ of each unit, f̄ the mean of |f_j| over samples and times; infinite where f̄ ≥ 1
    median_time_constant  its median over units, to be set against the lag that a task needs; infinite where half are

f_j is the factor by which input j lets an entry of the state pass along its own path, every other path cut: the forget
gate of an LSTM's cell, the update gate of a GRU, |λ| of a complex diagonal (``Recurrence.kept``). So the product is
what of ∂c_s/∂c_{s-k} goes through the cell alone. s is the last input that a direction reads of a sample: in a backward
direction lags lead towards later positions. The longest lag reaches the initial state.

``gate`` gives mean and quantiles over samples, ``forget_path`` over samples and units together. Saturation and time
constants are of every unit by itself: ``unit`` counts the entries of the gate or of the state in their order.

Units: shares; log10 of a factor; positions.
Source: saturation and its limits: Karpathy, Johnson, Li 2015, arXiv:1506.02078; the product: Hochreiter & Schmidhuber
1997 and Gers, Schmidhuber, Cummins 2000; time constants: Tallec & Ollivier 2018, arXiv:1804.11188.
Cost: a forward step at ``times`` positions for the gates, and at all for the factors: 27 ms for an LSTM of 128 units on
32 samples of 400 positions, one thread.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from retrograde.core.contracts import Snapshot
from retrograde.core.records import Course, Reading
from retrograde.core.statistics import STATISTICS, linear_statistics, log10_statistics, status_of

LEFT, RIGHT = 0.1, 0.9

CHUNK = 64
"""Times at which the factors are made at once: all of a matrix-valued state's would not fit."""


class Gates:
    """Readings for every gate and for every component that has a path of its own; nothing for a layer without either.

    Gates are read at ``times`` positions of all samples, the factors at all positions of the first ``samples``, both
    of ``units`` units: at equal distances where there are more.
    """

    def __init__(self, times: int = 64, samples: int = 8, units: int = 128) -> None:
        if times < 1 or samples < 1 or units < 1:
            raise ValueError(f"times, samples and units must be at least 1, not {times}, {samples} and {units}")
        self.times = times
        self.samples = samples
        self.units = units

    @torch.no_grad()
    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        for layer, course in snapshot.courses.items():
            yield from self._gates(layer, course)
            for component, path in paths(course, self.samples, self.units).items():
                where = f"{layer}.{component}"
                lags = spaced(path.factor.shape[1])
                passed, counts = path.by_lag(lags)
                values, statuses = log10_statistics(passed, status_of(passed), counts)
                dims = {"statistic": STATISTICS, "lag": lags}
                yield Reading(
                    f"forget_path/{where}", values.cpu().numpy(), dims, "log10 factor", statuses.cpu().numpy()
                )
                constant = path.time_constant.cpu()
                yield Reading(f"time_constant/{where}", constant.numpy(), {"unit": numbers(path.units)}, "positions")
                middle = (constant.median() - (-constant).median()) / 2  # of torch's, the lower of two and the upper
                yield Reading(f"median_time_constant/{where}", middle.numpy(), {}, "positions")

    def _gates(self, layer: str, course: Course) -> Iterable[Reading]:
        time = every(int(course.lengths.max()), self.times)
        counts = torch.arange(time.stop, device=course.lengths.device)[time] < course.lengths.unsqueeze(1)
        x = course.in_time(course.inputs)[:, time].transpose(0, 1)
        before = {name: course.in_time(value)[:, time].transpose(0, 1) for name, value in course.before.items()}
        for gate, value in course.recurrence.gates(course.weights, x, before).items():
            where, opened = f"{layer}.{gate}", value.transpose(0, 1).flatten(2)
            over_time = linear_statistics(opened.mean(2, dtype=torch.float64), counts)
            dims = {"statistic": STATISTICS, "time": numbers(time)}
            yield Reading(f"gate/{where}", over_time.cpu().numpy(), dims, "share")
            units = every(opened.shape[2], self.units)
            shares = saturated(opened[..., units], counts).cpu()
            sides = ("left", "right")
            yield Reading(f"saturated/{where}", shares.numpy(), {"side": sides, "unit": numbers(units)}, "share")
            yield Reading(f"saturated_share/{where}", shares.mean(1).numpy(), {"side": sides}, "share")


@dataclass(frozen=True)
class Path:
    """The size of the factors of some units of a component, for a few samples, in reading order."""

    units: slice
    factor: Float[Tensor, "sample time unit"]
    lengths: Int[Tensor, " sample"]

    @property
    def time_constant(self) -> Float[Tensor, " unit"]:
        """The steps after which the mean factor has left 1/e of what it was given; infinite where it takes nothing."""
        read = torch.arange(self.factor.shape[1], device=self.lengths.device) < self.lengths.unsqueeze(1)
        mean = self.factor.where(read.unsqueeze(2), 0.0).sum((0, 1)) / read.sum()
        return torch.where(mean >= 1, math.inf, -1 / mean.log())

    def by_lag(self, lags: Sequence[int]) -> tuple[Float[Tensor, "path lag"], Bool[Tensor, "path lag"]]:
        """log10 of the product back from each sample's last input, by sample and unit, and which lags it has."""
        place = torch.arange(self.factor.shape[1], device=self.lengths.device)
        backwards = (self.lengths.unsqueeze(1) - 1 - place).clamp(min=0)
        passed = self.factor.log10().gather(1, backwards.unsqueeze(2).expand_as(self.factor)).cumsum(1)
        chosen = torch.tensor(lags, device=self.lengths.device)
        by_lag = torch.cat([torch.zeros_like(passed[:, :1]), passed], 1)[:, chosen]
        counts = (chosen <= self.lengths.unsqueeze(1)).unsqueeze(2).expand_as(by_lag)
        return by_lag.transpose(1, 2).flatten(0, 1), counts.transpose(1, 2).flatten(0, 1)


def paths(course: Course, samples: int, units: int) -> dict[str, Path]:
    """The factors of every component that has a path of its own."""
    lengths = course.lengths[:samples]
    longest = int(lengths.max())
    chosen: dict[str, slice] = {}
    made: dict[str, list[Tensor]] = defaultdict(list)
    for start in range(0, longest, CHUNK):
        for name, factor in sizes(course, slice(start, min(start + CHUNK, longest)), samples, units).items():
            chosen[name] = factor.units
            made[name].append(factor.size.double().transpose(0, 1))
    return {name: Path(places, torch.cat(made[name], 1), lengths) for name, places in chosen.items()}


@dataclass(frozen=True)
class Sizes:
    """|f| of some units, and which these are."""

    units: slice
    size: Float[Tensor, "time sample unit"]


def sizes(course: Course, times: slice, samples: int, units: int) -> dict[str, Sizes]:
    """Those of these inputs in reading order; from float64 where the format loses one.

    What is zero then is one: of a unit at rest, or a rectifier that is shut.
    """

    def chosen(kept: Mapping[str, Tensor]) -> dict[str, Sizes]:
        places = {name: every(math.prod(factor.shape[2:]), units) for name, factor in kept.items()}
        return {name: Sizes(places[name], entries(kept[name][:, :samples], places[name]).abs()) for name in kept}

    x = course.inputs[:, times].transpose(0, 1)
    before = {name: value[:, times].transpose(0, 1) for name, value in course.before.items()}
    made = chosen(course.recurrence.kept(course.weights, x, before))
    if not any((part.size < torch.finfo(part.size.dtype).smallest_normal).any() for part in made.values()):
        return made
    weights = {name: precise(weight) for name, weight in course.weights.items()}
    return chosen(course.recurrence.kept(weights, precise(x), {name: precise(value) for name, value in before.items()}))


def entries(value: Shaped[Tensor, "time sample *state"], units: slice) -> Shaped[Tensor, "time sample unit"]:
    """Some entries of a state of any shape, counted in their order."""
    if value.ndim == 3:
        return value[..., units]
    places = torch.arange(units.stop, device=value.device)[units]
    index: tuple[slice | Tensor, ...] = (slice(None), slice(None), *torch.unravel_index(places, value.shape[2:]))
    return value[index]


def precise(value: Tensor) -> Tensor:
    """In float64, where it is a number and not a mask."""
    return value.double() if value.is_floating_point() else value


def saturated(
    gate: Float[Tensor, "sample time unit"], counts: Bool[Tensor, "sample time"]
) -> Float[Tensor, "side unit"]:
    """The shares of each unit's entries that lie below and above the limits; NaN where one is NaN."""
    counted = gate.where(counts.unsqueeze(2), 0.5)  # neither
    shares = torch.stack([(counted < LEFT).sum((0, 1)), (counted > RIGHT).sum((0, 1))]).double() / counts.sum()
    return torch.where(counted.sum((0, 1)).isnan(), math.nan, shares)


def every(count: int, wanted: int) -> slice:
    """At most ``wanted`` of ``count`` places, a power of two apart, the last among them."""
    step = 1 << (math.ceil(count / wanted) - 1).bit_length()
    return slice((count - 1) % step, count, step)


def numbers(places: slice) -> list[int]:
    """The places one by one."""
    return list(range(places.start, places.stop, places.step))


def spaced(longest: int) -> list[int]:
    """Every lag to 16, from there eight to an octave, and the longest."""
    lags = [0]
    while lags[-1] < longest:
        lags.append(min(lags[-1] + (1 << max(0, lags[-1].bit_length() - 4)), longest))
    return lags
