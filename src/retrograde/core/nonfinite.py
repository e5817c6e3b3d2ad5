"""Where numbers stop being numbers: the first place at which a batch shows NaN or infinity.

Forward, a place is the first that is read first, in the order of its own recurrence: one that runs backward reads each
sample from that sample's end. Of those that are read together, the inputs as the model reads them
come before its states, from the bottom, and these before the outputs and the loss; last comes the mean over the batch,
whose sum may leave the format where no sample's own loss does. Backward it is the other way round. Between a target and
its source, the source is read first. Padding counts nowhere.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
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
    """Which places of something over time hold NaN, which infinity and no NaN; and as the how manyth each is read."""

    what: What
    key: str
    times: range
    nan: Bool[Tensor, "batch place"]
    inf: Bool[Tensor, "batch place"]
    read: Int[Tensor, "batch place"]
    target_side: bool

    def first(self, back: bool = False) -> tuple[int, Place] | None:
        """The one of them that is read first, or on the way ``back`` last, and when; None where there is none."""
        at = (self.nan | self.inf).nonzero()
        if not len(at):
            return None
        read = self.read[*at.unbind(1)]
        sample, index = at[(read.argmax() if back else read.argmin())].tolist()
        value = math.nan if self.nan[sample, index] else math.inf
        return int(self.read[sample, index]), Place(self.what, self.key, self.times[index], sample, value)


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
        first = looked.first()
        if first is not None:
            found.append((looked.target_side, *first))
    if found:
        return min(found, key=lambda one: one[:2])[2]
    mean = float(sample_means(snapshot.losses, snapshot.batch.scored).sum())
    return None if math.isfinite(mean) else Place("mean", "", None, None, abs(mean))


def first_backward(snapshot: Snapshot, share: float = 1.0) -> Place | None:
    """The first place on the way back at which a state's total gradient is no number; None where all are."""
    found = []
    for looked in backward(snapshot, share):
        first = looked.first(back=True)
        if first is not None:
            found.append((looked.target_side, *first))
    return max(reversed(found), key=lambda one: one[:2])[2] if found else None


def largest(values: Float[Tensor, "batch place *state"]) -> Float[Tensor, "batch place"]:
    """The largest entry of each place by absolute value; NaN where one is NaN."""
    return values.abs().reshape(*values.shape[:2], -1).amax(-1)


def _looked(
    what: What,
    key: str,
    times: range,
    values: Float[Tensor, "batch place"],
    snapshot: Snapshot,
    target_side: bool = False,
) -> Looked:
    batch = snapshot.batch
    exists = present(batch, times, target_side)
    read = torch.arange(times.start, times.stop, device=values.device).expand_as(exists)
    if what in ("state", "gradient") and key.split(".")[1] == "backward":
        # the initial state, which stands at the end, before all others
        read = torch.where(read < batch.length, batch.lengths.unsqueeze(1) - 1 - read, -1)
    return Looked(what, key, times, torch.isnan(values) & exists, torch.isinf(values) & exists, read, target_side)
