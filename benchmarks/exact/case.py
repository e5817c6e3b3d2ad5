"""One architecture on one small batch, and how an error of what a probe gives of it is measured."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce

import numpy as np
import torch
from torch import Tensor

from exact.loops import Live, live
from exact.steps import jacobians
from retrograde.core.contracts import Probe, SequenceModel, Snapshot, Task
from retrograde.core.records import Batch, Reading
from retrograde.core.snapshot import snapshot
from retrograde.core.statuses import CENSORED, ZERO

FLOOR = 1e-6
"""The share of what a quantity is a part or a difference of that it is held to at least: that one's rounding is in it.

So is a component whose gradient cancels (a stabiliser, in no output) held to that of the whole state at its time.
"""


Numbers = Tensor | np.ndarray | float


@dataclass
class Case:
    """One architecture on one batch; ``claimed`` collects the errors that differences claim for themselves."""

    model: SequenceModel
    task: Task
    batch: Batch
    probes: Mapping[str, Probe]
    claimed: list[float] = field(default_factory=list)

    @cached_property
    def snapshot(self) -> Snapshot:
        return snapshot(self.model, self.task, self.batch, 0)

    @cached_property
    def live(self) -> Live:
        return live(self.model, self.task, self.batch)

    @cached_property
    def totals(self) -> dict[str, Tensor]:
        """By live nodes, by key, in time."""
        return self.live.totals()

    @cached_property
    def directs(self) -> dict[str, Tensor]:
        """The same with the recurrence that a state belongs to cut from its past."""
        found: dict[str, Tensor] = {}
        for name in self.live.courses:
            cut = live(self.model, self.task, self.batch, cut=name)
            found |= {key: value for key, value in cut.totals().items() if key in cut.courses[name].placed.keys}
        return found

    def readings(self, probe: str) -> dict[str, Reading]:
        return {reading.name: reading for reading in self.probes[probe](self.snapshot)}

    @cached_property
    def jacobians(self) -> dict[str, list[Tensor]]:
        """Of every recurrence whose state is not too large, along the first sample without padding."""
        one = live(self.model, self.task, self.batch.select(torch.tensor([0])).trimmed())
        found = {name: jacobians(course) for name, course in one.courses.items()}
        return {name: steps for name, steps in found.items() if steps}

    def whole(self, key: str) -> Tensor:
        """(sample, state): the norm of the total gradient of the state that a component belongs to."""
        layer = key.rpartition(".")[0]
        return norms(*(value for other, value in self.totals.items() if other.rpartition(".")[0] == layer))

    def times(self, key: str) -> range:
        return self.snapshot.gradients[key].times

    def counts(self, key: str) -> Tensor:
        """(sample, state): which states of that key exist."""
        return exists(self.batch, self.times(key), key in self.snapshot.trace.target_side)


def exists(batch: Batch, times: range, target_side: bool) -> Tensor:
    """(sample, state): the states of a sample's own positions, and the one that it begins with."""
    lengths = batch.target_lengths if target_side else batch.lengths
    assert lengths is not None
    room = batch.targets.shape[1] if target_side else batch.inputs.shape[1]
    return torch.tensor([[not 0 <= time < room or time < length for time in times] for length in lengths.tolist()])


def statistics(values: Tensor, counts: Tensor) -> Tensor:
    """(statistic, place): mean, and the samples at 10, 50 and 90 % of those that count, at every place."""
    columns = []
    for place in range(values.shape[1]):
        own = values[:, place][counts[:, place]].sort().values
        ranks = [round((len(own) - 1) * share) for share in (0.1, 0.5, 0.9)]
        columns.append(torch.stack([own.mean(), *own[ranks]]))
    return torch.stack(columns, 1)


def norms(*gradients: Tensor) -> Tensor:
    """(batch, places), of all of them side by side."""
    return torch.cat([gradient.flatten(2) for gradient in gradients], 2).norm(dim=2)


def error(found: Numbers, expected: Numbers, floor: Numbers = 0.0) -> float:
    """The largest error, each entry relative to what is expected, or to ``floor`` where that is more.

    Infinite where one of the two is no number. Raises ValueError where there is nothing to compare.
    """
    one, other = (torch.as_tensor(value, dtype=torch.float64) for value in (found, expected))
    if one.shape != other.shape:
        raise ValueError(f"{tuple(one.shape)} numbers were found, {tuple(other.shape)} expected")
    if not other.numel():
        raise ValueError("no numbers were found, and none expected: that is no error of 0")
    scale = torch.maximum(other.abs(), torch.as_tensor(floor, dtype=torch.float64))
    share = torch.where((one == other) | (one.isnan() & other.isnan()), 0.0, (one - other).abs() / scale)
    return float(torch.where(share.isnan(), math.inf, share).max())


def worse(one: float, other: float) -> float:
    """The larger of two errors, infinite where one is no number."""
    return math.inf if math.isnan(one) or math.isnan(other) else max(one, other)


def worst(errors: Iterable[float]) -> float | None:
    """The largest, infinite where one is no number; None where there are none."""
    found = list(errors)
    return reduce(worse, found, 0.0) if found else None


def vectors(found: Tensor, expected: Tensor, counts: Tensor, floor: Tensor) -> float:
    """The largest error of vectors (sample, place, …), relative to each one's norm or to the floor."""
    size = norms(expected)
    return error((norms(found - expected) + size)[counts], size[counts], floor[counts])


def magnitudes(reading: Reading) -> np.ndarray:
    """What a reading in log10 stands for; nothing where it says that there is nothing, or nothing that it can hold."""
    nothing = np.isin(np.zeros(1) if reading.status is None else reading.status, (ZERO, CENSORED))
    return np.where(nothing, 0.0, 10**reading.values)


def of_statistics(reading: Reading, values: Tensor, counts: Tensor, log10: bool = True, floor: Numbers = 0.0) -> float:
    """A reading over statistic and place, against each sample's own value at every place that any sample has.

    ``floor`` is a number, or each sample's own at every place.
    """
    kept = counts.any(0)
    least = statistics(floor[:, kept], counts[:, kept]) if isinstance(floor, Tensor) else floor
    expected = statistics(values[:, kept], counts[:, kept])
    return error(magnitudes(reading) if log10 else reading.values, expected, least)
