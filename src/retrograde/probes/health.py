r"""What has gone wrong in the states: numbers that are none, units that no longer answer.

    nonfinite         entries of the state that are NaN or infinite, and `first_nonfinite` the earliest time of one
    gradient_nonfinite   states whose total gradient is NaN, or infinite beyond what a float's exponent holds
    dead              share of units that are exactly 0 for every sample at every time
    saturated         share of entries beyond 0.95 in absolute value, where all lie within [-1, 1]

per component of every layer.

Source: shares: Karpathy, Johnson, Li 2015, arXiv:1506.02078 (for gates); 0.95 is ours.
Cost: a pass over the snapshot's states.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch

from retrograde.core.contracts import Snapshot
from retrograde.core.records import Reading
from retrograde.core.scaled import log10_norm
from retrograde.core.statistics import present
from retrograde.core.statuses import INF, NAN

SATURATED = 0.95


class Health:
    """Counts and shares; ``first_nonfinite`` is NaN while all is finite."""

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        for key, state in snapshot.trace.states.items():
            times = snapshot.trace.times[key]
            counts = present(snapshot.batch, times, key in snapshot.trace.target_side)
            bad = ~torch.isfinite(state.flatten(2)) & counts.unsqueeze(-1)
            at = bad.any(-1).any(0).nonzero().flatten()
            first = float(times[int(at[0])]) if len(at) else math.nan
            _, status = log10_norm(snapshot.gradients[key].total)
            lost = (((status == NAN) | (status == INF)) & counts).sum()
            axis = snapshot.batch.targets if key in snapshot.trace.target_side else snapshot.batch.inputs
            inside = torch.tensor([0 <= time < axis.shape[1] for time in times], device=counts.device)
            kept = state.flatten(2)[counts & inside]  # an initial state of zeros is neither dead nor alive
            readings = {
                "nonfinite": (float(bad.sum()), "entries"),
                "first_nonfinite": (first, "time"),
                "gradient_nonfinite": (float(lost), "states"),
                "dead": (float((kept == 0).all(0).double().mean()), "share"),
            }
            if kept.abs().max() <= 1:
                readings["saturated"] = (float((kept.abs() > SATURATED).double().mean()), "share")
            for name, (value, unit) in readings.items():
                yield Reading(f"{name}/{key}", np.array(value), {}, unit)
