"""Where numbers stop being numbers: the first place at which a batch shows NaN or infinity.

Forward, a place is the first that is read first; of those that are read together, the inputs as the model reads them
come before its states, from the bottom, and these before the outputs and the loss; last comes the mean over the batch,
whose sum may leave the format where no sample's own loss does. Backward it is the other way round. Between a target and
its source, the source is read first. Padding counts nowhere.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from retrograde.core.contracts import Snapshot
from retrograde.core.losses import sample_means
from retrograde.core.scaled import power_of_two
from retrograde.core.statistics import present

What = Literal["inputs", "state", "outputs", "loss", "mean", "gradient"]


@dataclass(frozen=True)
class Place:
    """``what`` is not finite; where there are several of the kind, that of ``key``. ``value`` is NaN or infinity.

    The mean over the batch is at no time, and of no sample.
    """

    what: What
    key: str
    time: int | None
    sample: int | None
    value: float


@dataclass(frozen=True)
class Looked:
    """Which places of something over time hold NaN, and which infinity and no NaN."""

    what: What
    key: str
    times: range
    nan: Bool[Tensor, "batch place"]
    inf: Bool[Tensor, "batch place"]
    target_side: bool

    @property
    def from_the_end(self) -> bool:
        """Whether it is a state of a recurrence that reads from the end."""
        return self.what in ("state", "gradient") and self.key.split(".")[1] == "backward"

    def place(self, last: bool = False) -> Place | None:
        """The first of them in time, or the last; None where there is none."""
        at = (self.nan | self.inf).any(0).nonzero().flatten()
        if not len(at):
            return None
        index = int(at[-1] if last else at[0])
        sample = int((self.nan | self.inf)[:, index].nonzero()[0])
        value = math.nan if self.nan[sample, index] else math.inf
        return Place(self.what, self.key, self.times[index], sample, value)


def forward(snapshot: Snapshot) -> Iterator[Looked]:
    """What the model computed of the batch, in the order in which it did."""
    trace, batch = snapshot.trace, snapshot.batch
    side = batch.target_lengths is not None
    if trace.inputs is not None:
        yield _looked("inputs", "", range(batch.length), largest(trace.inputs), snapshot)
    for key, state in trace.states.items():
        yield _looked("state", key, trace.times[key], largest(state), snapshot, key in trace.target_side)
    targets = range(snapshot.losses.shape[1])
    yield _looked("outputs", "", targets, largest(trace.outputs), snapshot, side)
    yield _looked("loss", "", targets, snapshot.losses, snapshot, side)


def backward(snapshot: Snapshot, share: float = 1.0) -> Iterator[Looked]:
    """The total gradient at every state, times ``share``, in the format in which the model computes.

    What the sweep keeps with an exponent of its own may be infinite there.
    """
    for key, gradient in snapshot.gradients.items():
        plain = power_of_two(share * largest(gradient.total.mantissa), gradient.total.exponent)
        yield _looked("gradient", key, gradient.times, plain, snapshot, key in snapshot.trace.target_side)


def first_forward(snapshot: Snapshot) -> Place | None:
    """The first place that is no number where the model computes its outputs; None where all are."""
    found = []
    for looked in forward(snapshot):
        place = looked.place(last=looked.from_the_end)
        if place is not None:
            found.append((looked.target_side, _read(place, looked, snapshot), place))
    if found:
        return min(found, key=lambda one: one[:2])[2]
    mean = float(sample_means(snapshot.losses, snapshot.batch.scored).sum())
    return None if math.isfinite(mean) else Place("mean", "", None, None, abs(mean))


def first_backward(snapshot: Snapshot, share: float = 1.0) -> Place | None:
    """The first place on the way back at which a state's total gradient is no number; None where all are."""
    found = []
    for looked in backward(snapshot, share):
        place = looked.place(last=not looked.from_the_end)
        if place is not None:
            found.append((looked.target_side, _read(place, looked, snapshot), place))
    return max(reversed(found), key=lambda one: one[:2])[2] if found else None


def largest(values: Float[Tensor, "batch place *state"]) -> Float[Tensor, "batch place"]:
    """The largest entry of each place by absolute value; NaN where one is NaN."""
    return values.abs().reshape(*values.shape[:2], -1).amax(-1)


def _read(place: Place, looked: Looked, snapshot: Snapshot) -> int:
    """As the how manyth it is read."""
    assert place.time is not None  # of what is looked at over time
    return snapshot.batch.length - 1 - place.time if looked.from_the_end else place.time


def _looked(
    what: What,
    key: str,
    times: range,
    values: Float[Tensor, "batch place"],
    snapshot: Snapshot,
    target_side: bool = False,
) -> Looked:
    exists = present(snapshot.batch, times, target_side)
    return Looked(what, key, times, torch.isnan(values) & exists, torch.isinf(values) & exists, target_side)
