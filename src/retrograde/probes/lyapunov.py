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
Where |R_t,ii| is no larger than what the rounding of J_t Q_{t-1} may make of it, it is unknown, and the exponent
censored: recorded as if it were that large, which it is not; and so is a dimension that is cut off at such an exponent.
A direction that is lost in either way goes behind all others, which keep what they have left of their own.

Source: Benettin et al. 1980, Meccanica 15; for networks Engelken, Wolf, Abbott 2023, arXiv:2006.02427, and Vogt et al.
2022, arXiv:2006.14123, who have finite times; dimension: Kaplan & Yorke 1979.
Cost: for each time a decomposition and three products of n×n matrices: n³; about 8 ms for n = 256 on one core, so that
400 + 1,100 times of an LSTM of 128 units take about 12 s. A state whose parts do not bear on one another costs what its
parts do; see ``core.jacobians``.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Snapshot
from retrograde.core.jacobians import Parts, Trajectory, cast, in_precision, parts_within, trajectories
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
        finite: dict[str, dict[int, tuple[Tensor, Tensor]]] = {layer: {} for layer in snapshot.courses}
        for sample in range(min(self.samples, len(snapshot.batch))):
            for layer, trajectory in trajectories(snapshot, sample, PRECISION).items():
                parts = parts_within(trajectory, self.largest, "lyapunov", layer)
                if parts is not None:
                    finite[layer][sample] = exponents(trajectory, parts)
        of_target = {key.rpartition(".")[0] for key in snapshot.trace.target_side}
        for layer, course in snapshot.courses.items():
            if not finite[layer]:
                continue
            values, status = (torch.stack(part).cpu().numpy() for part in zip(*finite[layer].values(), strict=True))
            dims = {"sample": list(finite[layer]), "index": range(values.shape[1])}
            yield Reading(f"finite/{layer}", values, dims, PER_TIME, status)
            if layer in of_target:
                continue
            trajectory = self._on_and_on(course)
            parts = parts_within(trajectory, self.largest, "lyapunov", layer)
            if parts is not None:
                spectrum, kinds = exponents(trajectory, parts, self.warmup)
                values, status = spectrum.cpu().numpy(), kinds.cpu().numpy()
                yield Reading(f"asymptotic/{layer}", values, {"index": range(len(values))}, PER_TIME, status)
                yield Reading(f"maximum/{layer}", np.array(values[0]), {}, PER_TIME, np.array(status[0]))
                dimension, cut_off = kaplan_yorke(values.tolist()), status[: leading(values.tolist()) + 1]
                known = np.array(NAN if math.isnan(dimension) else CENSORED if CENSORED in cut_off else FINITE, np.int8)
                yield Reading(f"kaplan_yorke/{layer}", np.array(dimension), {}, "dimensions", known)

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
                terms = (step.abs() @ frames[at].abs()).norm(dim=1)
                frames[at], stretch, rounding, order = orthonormalised(step @ frames[at], terms)
                sums[at], unknown[at] = sums[at].gather(1, order), unknown[at].gather(1, order)
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


def orthonormalised(
    image: Float[Tensor, "part size vectors"], terms: Float[Tensor, "part vectors"]
) -> tuple[
    Float[Tensor, "part size vectors"],
    Float[Tensor, "part vectors"],
    Float[Tensor, "part vectors"],
    Int[Tensor, "part vectors"],
]:
    """Q of image = Q R; |R_ii|, by how much each vector stands out of those before it; what of it may be rounding.

    Last comes which vector of the image each of them is: one of which nothing is left stands behind all others, because
    the decomposition puts a direction of its own choice in its place, which would take from the vectors behind it.
    ``terms`` are the norms of what was added up in each vector.
    """
    place = torch.arange(image.shape[2], device=image.device)
    order = place.expand_as(terms)
    rounding = terms * (math.sqrt(image.shape[1]) * torch.finfo(image.dtype).eps)
    if image.shape[1] == 1:
        return torch.ones_like(image), image.abs().squeeze(1), rounding, order
    rounds = 0
    while True:
        frame, upper = torch.linalg.qr(image.gather(2, order.unsqueeze(1).expand_as(image)))
        stretch = torch.diagonal(upper, dim1=1, dim2=2).abs()
        resolved = resolution(upper, rounding.gather(1, order))
        lost = stretch <= resolved
        if not lost.any():
            return frame, stretch, resolved, order
        first = torch.where(lost.any(1), lost.int().argmax(1), len(place)).unsqueeze(1)
        beyond = upper.where((place >= first).unsqueeze(2), 0.0).norm(dim=1)  # what those before the first leave of it
        behind = ((place >= first) & (beyond <= resolved)).int().argsort(dim=1, stable=True)
        # each round settles another place, but for vectors at the edge of rounding, which might change places for ever
        if torch.equal(behind, place.expand_as(behind)) or rounds == len(place):
            return frame, stretch, resolved, order
        order, rounds = order.gather(1, behind), rounds + 1


def resolution(
    upper: Float[Tensor, "part size size"], rounding: Float[Tensor, "part size"]
) -> Float[Tensor, "part size"]:
    """How much of each |R_ii| may be rounding, where each vector's own is ``rounding``.

    That of the vectors before it moves the space that they span: what is made up of y times these, R_ki = Σ_j R_kj y_j,
    is off by |y| times theirs. Those of which nothing is left span nothing.
    """
    stretch = torch.diagonal(upper, dim1=1, dim2=2)
    found, lost = rounding, stretch.abs() <= rounding
    while True:
        rows = torch.where(lost.unsqueeze(2), 0.0, upper / stretch.unsqueeze(2)).triu(1)
        one = torch.eye(upper.shape[2]).to(upper)
        made_of = torch.linalg.solve_triangular(rows + one, one.expand_as(rows), upper=True, unitriangular=True)
        found = (rounding.unsqueeze(1) @ made_of.abs()).squeeze(1)  # the inverse has -y beside its diagonal of ones
        if torch.equal(stretch.abs() <= found, lost):
            return found
        lost = stretch.abs() <= found


def kaplan_yorke(spectrum: Sequence[float]) -> float:
    """The dimension, of exponents from the largest; all of them where their sum is not negative."""
    if any(math.isnan(exponent) for exponent in spectrum):
        return math.nan
    whole = leading(spectrum)
    return whole + sum(spectrum[:whole]) / -spectrum[whole] if whole < len(spectrum) else float(whole)


def leading(spectrum: Sequence[float]) -> int:
    """The largest number of exponents from the first on whose sum is not negative."""
    sums = [total >= -ROUNDING for total in accumulate(spectrum)]
    return sums.index(False) if False in sums else len(spectrum)
