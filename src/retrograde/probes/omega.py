r"""How much of the error's size each step back keeps: Pascanu's Ω, and the ratio that it is made of.

    ratio    r_t = ‖(dL/dz_t) J_t‖ / ‖dL/dz_t‖          J_t = ∂z_t/∂z_{t-1}
    omega    Ω = Σ_t (r_t - 1)²

z_t the full state of a layer after input t, all components side by side; r_t belongs to the step that reads input t. 1
means that the step back keeps the norm of the error that really passes there, in its own direction; in a product of
many steps it is log10 r_t that adds up. The numerator is the carried part of dL/dz_{t-1}, without what the loss says of
z_{t-1} itself.

    left_out    times at which dL/dz_t is zero or below the format's range: of those nothing is said, and nothing summed

Per sample, then mean and quantiles over those of the batch that have such a time; left_out as their mean.

Source: Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063, section 3.3; the ratio over time is ours.
Cost: none beyond the snapshot.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from retrograde.core.contracts import Snapshot
from retrograde.core.records import Course, Reading
from retrograde.core.scaled import Scaled, log10_norm
from retrograde.core.statistics import STATISTICS, linear_statistics, log10_joint, log10_statistics
from retrograde.core.statuses import CENSORED, INF, NAN, ZERO


class Omega:
    """Readings ``omega``, ``ratio`` over time and ``left_out`` for every recurrence; nothing for other layers."""

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        for layer, course in snapshot.courses.items():
            ratio, status, counts = ratios(course)
            left_out = (course.read & ~counts).sum(1).double().mean()
            yield Reading(f"left_out/{layer}", np.array(float(left_out)), {}, "times")
            samples = counts.any(1, keepdim=True)
            if not samples.any():
                continue
            squares = (10**ratio - 1).square().where(counts, 0.0)
            omega = linear_statistics(squares.sum(1, keepdim=True), samples)
            yield Reading(f"omega/{layer}", omega[:, 0].cpu().numpy(), {"statistic": STATISTICS}, "sum over times")
            ratio, status, counts = (course.in_time(value) for value in (ratio, status, counts))
            kept = counts.any(0)
            values, statuses = log10_statistics(ratio[:, kept], status[:, kept], counts[:, kept])
            dims = {"statistic": STATISTICS, "time": kept.nonzero().flatten().tolist()}
            yield Reading(f"ratio/{layer}", values.cpu().numpy(), dims, "log10", statuses.cpu().numpy())


def full_norm(gradient: Mapping[str, Scaled]) -> tuple[Tensor, Tensor]:
    """log10 of the norm over all components of a state, and its status."""
    norms = [log10_norm(part) for part in gradient.values()]
    values, statuses = (torch.stack(part) for part in zip(*norms, strict=True))
    return log10_joint(values, statuses)


def ratios(course: Course) -> tuple[Tensor, Tensor, Tensor]:
    """log10 r of every input in the order of reading, (batch, time), its status, and which of them count."""
    carried, status = (value[:, :-1] for value in full_norm(course.carried))
    total, of_total = (value[:, 1:] for value in full_norm(course.total))
    counts = course.read & (of_total != ZERO) & (of_total != CENSORED)
    unbounded = (of_total == INF) | (of_total == NAN)
    ratio = torch.where(unbounded, torch.nan, carried - total)
    return ratio, torch.where(unbounded, NAN, status), counts
