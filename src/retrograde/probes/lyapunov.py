r"""How fast changes of the state grow or fade, direction by direction: the Lyapunov spectrum of each recurrence.

    Q_t R_t = J_t Q_{t-1}            λ_i = 1/T Σ_t ln |R_t,ii|            J_t = ∂z_t/∂z_{t-1}

z_t the full state of a layer after input t, all components side by side; n numbers, n exponents, the largest first. Q_t
is orthogonal, R_t upper triangular, Q at the start the identity. A change along the i-th direction grows by e^{λ_i} at
each time: 0 keeps it, ln ½ halves it. Natural logarithm, per time. Each layer by itself, its inputs given.

    finite         over one sample, from its initial state to its end: what counts for a gradient across that sample;
                   the first `samples` samples of the probe batch
    asymptotic     over `length` times after `warmup` others, in which the directions settle: the samples' inputs one
                   behind the other, from the beginning again where there are too few, the state carried on from each
                   sample to the next; not for a decoder, which begins with what its encoder says
    maximum        the largest asymptotic one
    kaplan_yorke   the dimension j + (λ_1 + … + λ_j) / |λ_{j+1}|, j the largest number of leading asymptotic exponents
                   whose sum is not negative

In float64, whatever the model's precision. Where nothing of a direction is left at some time, every term of J_t Q_{t-1}
being 0, the exponent is -∞, status zero; a unit so saturated that float64 takes its derivative for 0 counts as that.
Where |R_t,ii| is no larger than the rounding of what is added up in J_t Q_{t-1}, it is unknown, and the exponent
censored: recorded as if it were that large, which it is not.

Source: Benettin et al. 1980, Meccanica 15; for networks Engelken, Wolf, Abbott 2023, arXiv:2006.02427, and Vogt et al.
2022, arXiv:2006.14123, who have finite times; dimension: Kaplan & Yorke 1979.
Cost: for each time a decomposition and two products of n×n matrices: n³; 3 to 8 ms for n = 256 on one core, so that 400
+ 1,100 times of an LSTM of 128 units take about 10 s. A state whose parts do not bear on one another costs what its
parts do; see ``core.jacobians``.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Snapshot
from retrograde.core.jacobians import Parts, Trajectory, cast, in_precision, orthonormalised, small_enough, trajectories
from retrograde.core.records import Course, Reading
from retrograde.core.recurrence import clocked
from retrograde.core.statuses import CENSORED, FINITE, INF, NAN, ZERO

PRECISION = torch.float64
PER_TIME = "nats per time"

ROUNDING = 1e-9
"""A sum of exponents that are 0 may come out as little below it, and is not negative."""


class Lyapunov:
    """Readings ``finite``, ``asymptotic``, ``maximum`` and ``kaplan_yorke`` for every recurrence.

    A layer with more than ``largest`` numbers of a state that bear on one another is left out, with a warning.
    """

    def __init__(self, samples: int = 1, length: int = 1000, warmup: int = 100, largest: int = 512) -> None:
        for name, value, least in (
            ("samples", samples, 1),
            ("length", length, 1),
            ("warmup", warmup, 0),
            ("largest", largest, 1),
        ):
            require_at_least(name, value, least)
        self.samples = samples
        self.length = length
        self.warmup = warmup
        self.largest = largest

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        finite: dict[str, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in snapshot.courses}
        for sample in range(min(self.samples, len(snapshot.batch))):
            for layer, trajectory in trajectories(snapshot, sample, PRECISION).items():
                parts = trajectory.parts()
                if small_enough(parts, self.largest, "lyapunov", layer):
                    finite[layer].append(exponents(trajectory, parts))
        of_target = {key.rpartition(".")[0] for key in snapshot.trace.target_side}
        for layer, course in snapshot.courses.items():
            if not finite[layer]:
                continue
            values, status = (torch.stack(part).cpu().numpy() for part in zip(*finite[layer], strict=True))
            dims = {"sample": range(values.shape[0]), "index": range(values.shape[1])}
            yield Reading(f"finite/{layer}", values, dims, PER_TIME, status)
            if layer in of_target:
                continue
            trajectory = self._on_and_on(course)
            parts = trajectory.parts()
            if small_enough(parts, self.largest, "lyapunov", layer):
                spectrum, kinds = exponents(trajectory, parts, self.warmup)
                values, status = spectrum.cpu().numpy(), kinds.cpu().numpy()
                yield Reading(f"asymptotic/{layer}", values, {"index": range(len(values))}, PER_TIME, status)
                yield Reading(f"maximum/{layer}", np.array(values[0]), {}, PER_TIME, np.array(status[0]))
                dimension = np.array(kaplan_yorke(values.tolist()))
                yield Reading(f"kaplan_yorke/{layer}", dimension, {}, "dimensions")

    def _on_and_on(self, course: Course) -> Trajectory:
        """The recurrence along all samples of the batch as one sequence."""
        recurrence, count = course.recurrence, self.warmup + self.length
        columns = recurrence.clock(torch.zeros(1, dtype=torch.long, device=course.inputs.device)).shape[1]
        read = course.inputs[course.read][:, : course.inputs.shape[-1] - columns]
        read = in_precision(read.repeat(math.ceil(count / len(read)), 1)[:count], PRECISION)
        with torch.no_grad():
            inputs = clocked(recurrence, read.unsqueeze(0)).transpose(0, 1)
            return Trajectory.run(recurrence, cast(course.weights, PRECISION), inputs)


def exponents(
    trajectory: Trajectory, parts: Parts, warmup: int = 0
) -> tuple[Float[Tensor, " number"], Int[Tensor, " number"]]:
    """The exponents over the times from ``warmup`` on, the largest first, and their status."""
    frames = [torch.eye(part.shape[1]).to(trajectory.inputs).repeat(len(part), 1, 1) for part in parts]
    sums = [torch.zeros_like(part, dtype=PRECISION) for part in parts]
    unknown = [torch.zeros_like(part, dtype=torch.bool) for part in parts]
    for times in trajectory.chunks(parts):
        steps = [blocks.unbind(0) for blocks in trajectory.jacobians(parts, times)]
        for time in times:
            for at, blocks in enumerate(steps):
                step = blocks[time - times.start]
                rounding = resolution(step, frames[at])
                frames[at], stretch = orthonormalised(step @ frames[at])
                if time >= warmup:
                    lost = stretch <= rounding
                    unknown[at] |= lost
                    sums[at] += torch.where(lost, rounding, stretch).log()
    spectrum = torch.cat([part.flatten() for part in sums]) / (trajectory.length - warmup)
    censored = torch.cat([part.flatten() for part in unknown])
    status = torch.where(censored, CENSORED, FINITE)
    status = torch.where(torch.isneginf(spectrum), ZERO, status)
    status = torch.where(torch.isposinf(spectrum), INF, status)
    status = torch.where(torch.isnan(spectrum), NAN, status).to(torch.int8)
    order = torch.nan_to_num(spectrum, nan=math.inf).argsort(descending=True, stable=True)
    return spectrum[order], status[order]


def resolution(
    step: Float[Tensor, "part size size"], frame: Float[Tensor, "part size vectors"]
) -> Float[Tensor, "part vectors"]:
    """How large the rounding of each vector of ``step @ frame`` may be, by the sizes of what is added up."""
    size = step.shape[-1]
    return (step.abs() @ frame.abs()).norm(dim=1) * (math.sqrt(size) * torch.finfo(step.dtype).eps)


def kaplan_yorke(spectrum: Sequence[float]) -> float:
    """The dimension, of exponents from the largest; all of them where their sum is not negative."""
    grown = 0.0
    for count, exponent in enumerate(spectrum):
        if grown + exponent < -ROUNDING:
            return count + grown / -exponent
        grown += exponent
    return float(len(spectrum)) if not math.isnan(grown) else math.nan
