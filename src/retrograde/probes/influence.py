r"""How much each output depends on each input, by the distance between them: a measure that all architectures share.

    norm       ‖∂y_i/∂x_j‖_F over the lag i - j
    mean_lag   Σ_j w_j (i - j) / Σ_j w_j            w_j = ‖∂y_i/∂x_j‖_F²
    spread     the root of Σ_j w_j (i - j - mean_lag)² / Σ_j w_j: the effective receptive field's standard deviation

y_i what the model puts out at position i, before any softmax; x_j the vector that it reads the input at time j as, its
token's embedding or the input itself. Mean and quantiles over `positions` positions i of each of the first `samples`
samples, evenly spread to the last one; mean_lag and spread for each of these places by itself, as shares of the
sample's length, because what stands near the beginning cannot look far back. Where a target has an axis of its own it
counts as if it were written behind the source; what the decoder reads of the target is given and no input. Lags below 0
lie in the future. Nothing for a model that does not read vectors.

Outputs of up to `projections` numbers are asked for each of them, exactly. Of larger ones ‖vᵀ ∂y_i/∂x_j‖ is taken for
as many orthogonal v, drawn at random for each position and scaled so that the expected square is right. The relative
standard deviation of a square is then at most √(2 (n - p) / (p (n + 2))), n numbers, p projections: `error`. It is that
if the matrix has rank one, and less the more ranks it has.

Source: Wang et al. 2024, arXiv:2501.00658 (by distance); Luo et al. 2016, arXiv:1701.04128 (effective receptive field).
Cost: a trace and its gradient for samples · positions · projections copies of a sequence, a few at a time.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Snapshot
from retrograde.core.records import Batch, Reading
from retrograde.core.scaled import Scaled, log10_norm
from retrograde.core.snapshot import evaluating
from retrograde.core.statistics import STATISTICS, linear_statistics, log10_statistics
from retrograde.core.statuses import CENSORED, ZERO

COPIES = 32
"""Sequences that are traced together."""


class Influence:
    """Readings ``norm`` over lag, ``mean_lag`` and ``spread`` over places, and ``error``, of the inputs."""

    def __init__(self, samples: int = 2, positions: int = 4, projections: int = 8) -> None:
        for name, value in (("samples", samples), ("positions", positions), ("projections", projections)):
            require_at_least(name, value, 1)
        self.samples = samples
        self.positions = positions
        self.projections = projections

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        if snapshot.trace.inputs is None:
            return
        first = torch.arange(min(self.samples, len(snapshot.batch)), device=snapshot.batch.lengths.device)
        batch = snapshot.batch.select(first).trimmed()
        asked = Asked.of(batch, self.positions)
        size = snapshot.task.outputs.size
        norm, status = log10_norm(felt(snapshot, batch, asked, projected(size, self.projections, len(asked.sample))))
        counts = torch.arange(batch.length, device=norm.device) < batch.lengths[asked.sample].unsqueeze(1)
        lags, values, statuses, kept = by_lag(norm, status, counts, asked.lag(batch))
        found, of_found = log10_statistics(values, statuses, kept)
        dims = {"statistic": STATISTICS, "lag": lags}
        yield Reading("norm/inputs", found.cpu().numpy(), dims, "log10 output per input", of_found.cpu().numpy())
        places = {"statistic": STATISTICS, "place": [(at + 1) / self.positions for at in range(self.positions)]}
        mean, spread = field(norm, status, counts, asked.lag(batch))
        for name, each in (("mean_lag", mean), ("spread", spread)):
            by_place = each.unflatten(0, (-1, self.positions))
            all_of_them = torch.ones_like(by_place, dtype=torch.bool)
            made = linear_statistics(by_place, all_of_them).cpu().numpy()
            yield Reading(f"{name}/inputs", made, places, "lags")
        yield Reading("error/inputs", np.array(relative_error(size, self.projections)), {}, "share of a square")


@dataclass(frozen=True)
class Asked:
    """Positions of samples: for each of ``sample`` the ``position`` on the axis of the targets."""

    sample: Int[Tensor, " asked"]
    position: Int[Tensor, " asked"]

    @classmethod
    def of(cls, batch: Batch, positions: int) -> "Asked":
        """So many of each sample, evenly spread over its length, the last one among them."""
        lengths = batch.lengths if batch.target_lengths is None else batch.target_lengths
        places = torch.arange(1, positions + 1, device=lengths.device)
        at = (lengths.unsqueeze(1) * places + positions - 1) // positions - 1
        sample = torch.arange(len(batch), device=lengths.device).unsqueeze(1).expand_as(at)
        return cls(sample.flatten(), at.flatten())

    def lag(self, batch: Batch) -> Int[Tensor, "asked time"]:
        """From each input to the position."""
        written = self.position if batch.target_lengths is None else self.position + batch.lengths[self.sample]
        return written.unsqueeze(1) - torch.arange(batch.length, device=written.device)


def projected(size: int, projections: int, asked: int) -> Float[Tensor, "asked projection size"]:
    """For each position what is asked of its output: every number of it, or random directions in their place."""
    if size <= projections:
        return torch.eye(size, dtype=torch.float64).expand(asked, -1, -1)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(asked, size, projections, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(drawn).Q.mT * math.sqrt(size / projections)


def relative_error(size: int, projections: int) -> float:
    """The most that the relative standard deviation of a squared norm can be."""
    return math.sqrt(2 * max(0, size - projections) / (projections * (size + 2)))


def felt(snapshot: Snapshot, batch: Batch, asked: Asked, directions: Float[Tensor, "asked projection size"]) -> Scaled:
    """∂y_i/∂x_j along the directions, (asked, time, projection, width)."""
    projections = directions.shape[1]
    sample, position = (each.repeat_interleave(projections) for each in (asked.sample, asked.position))
    wanted = directions.flatten(0, 1).to(snapshot.trace.outputs)
    found, reached = [], []
    for rows in torch.arange(len(sample), device=sample.device).split(COPIES):
        with torch.enable_grad(), evaluating(snapshot.model):
            trace = snapshot.model.trace(batch.select(sample[rows]))
            assert trace.inputs is not None  # the snapshot's trace has them
            trace.ledger.weights = False
            outputs = trace.outputs[torch.arange(len(rows), device=rows.device), position[rows]]
            (gradient,) = torch.autograd.grad(
                (outputs * wanted[rows]).sum(), trace.inputs, allow_unused=True, materialize_grads=True
            )
        known = trace.ledger.reached(gradient)
        found.append(known.mantissa)
        reached.append(known.reached)
    mantissa = torch.cat(found).unflatten(0, (-1, projections)).transpose(1, 2)
    exponent = torch.zeros(mantissa.shape[:2], dtype=torch.int32, device=mantissa.device)
    return Scaled(mantissa, exponent, torch.cat(reached).unflatten(0, (-1, projections)).any(1))


def by_lag(
    norm: Float[Tensor, "asked time"],
    status: Int[Tensor, "asked time"],
    counts: Bool[Tensor, "asked time"],
    lag: Int[Tensor, "asked time"],
) -> tuple[list[int], Float[Tensor, "asked lag"], Int[Tensor, "asked lag"], Bool[Tensor, "asked lag"]]:
    """The lags that there are, and the norms, their status and which of them count, over these instead of time."""
    lags = lag[counts].unique()
    time = lag[:, :1] - lags  # the first column is the lag from time 0, which is the position itself
    there = (time >= 0) & (time < norm.shape[1])
    index = time.clamp(0, norm.shape[1] - 1)
    return lags.tolist(), norm.gather(1, index), status.gather(1, index), there & counts.gather(1, index)


def field(
    norm: Float[Tensor, "asked time"],
    status: Int[Tensor, "asked time"],
    counts: Bool[Tensor, "asked time"],
    lag: Int[Tensor, "asked time"],
) -> tuple[Float[Tensor, " asked"], Float[Tensor, " asked"]]:
    """Mean and standard deviation of the lag, weighted by squared norms; what is zero or censored has no weight."""
    nothing = (status == ZERO) | (status == CENSORED) | ~counts
    known = norm.masked_fill(nothing, -math.inf)
    weight = 10 ** (2 * (known - known.amax(1, keepdim=True)))
    weight = weight / weight.sum(1, keepdim=True)
    mean = (weight * lag).sum(1)
    return mean, (weight * (lag - mean.unsqueeze(1)).square()).sum(1).sqrt()
