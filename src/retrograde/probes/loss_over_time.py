r"""Where in the sequence the loss is: by position, and by how far back a position has to look.

    loss_by_position    of the scored positions that stand there
    loss_by_lag         of the scored positions whose furthest piece of information lies so far back, in bins
                        0, 1, 2-3, 4-7, 8-15, …, each called by its smallest lag

as the mean over the probe batch's positions, and how many there are. What a position needs is said by the task; those
of which nobody knows it are in no bin, and where there are no others there is no reading by lag. Where a target has an
axis of its own, positions are the target's, and it counts as if it were written behind the source.

In nats for tokens, else in the task's unit.

Source: by position: Kaplan et al. 2020, arXiv:2001.08361; by lag: ours.
Cost: none beyond the snapshot but for the task's account of what is needed.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Int
from torch import Tensor

from retrograde.core.contracts import Snapshot, Tokens
from retrograde.core.records import Reading
from retrograde.core.statistics import curve


class LossOverTime:
    """Readings ``loss_by_position`` and ``loss_by_lag``."""

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        batch, task = snapshot.batch.to("cpu"), snapshot.task
        losses, scored = snapshot.losses.to("cpu", torch.float64), batch.scored
        unit = "nats" if isinstance(task.outputs, Tokens) else "loss"
        position = torch.arange(scored.shape[1]).expand_as(scored)
        yield curve("loss_by_position", "position", position[scored], losses[scored], unit)
        lag = task.furthest_lags(batch)
        known = scored & (lag >= 0)
        if known.any():
            yield curve("loss_by_lag", "lag", octave(lag[known]), losses[known], unit)


def octave(lag: Int[Tensor, " lags"]) -> Int[Tensor, " lags"]:
    """The largest power of two that is not above the lag; 0 for 0."""
    _, exponent = torch.frexp(lag.double())
    return torch.where(lag == 0, 0, 2 ** (exponent.long() - 1).clamp(min=0))
