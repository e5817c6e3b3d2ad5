r"""How one step, and all steps up to the end, stretch a change of the state: norms of Jacobians over the full state.

    spectral             σ_max(J_t)                 J_t = ∂z_t/∂z_{t-1}, at `times` times spread evenly over a sample
    frobenius            ‖J_t‖_F / √n               at every time
    product_frobenius    ‖∂z_T/∂z_{T-k}‖_F / √n     at every lag k
    product_spectral     σ_max(∂z_T/∂z_{T-k})       at lags spread evenly in the logarithm, and at the longest

z_t the full state of a layer after input t, n numbers, all components side by side (of an LSTM hidden and cell: what
passes through one of them alone is another quantity), T the last time that the layer reads; the longest lag leads to
the initial state. ‖·‖_F / √n is the root mean square by which a change in a random direction grows, σ_max the most by
which any grows. Each layer by itself, its inputs given; log10; the first `samples` samples of the probe batch, then
mean and quantiles over these.

Exact: no direction is drawn at random. A product is kept as a mantissa and an exponent, and does not leave the format.
What is exactly 0 reads as censored: a path that is cut and a derivative that was rounded to 0 look alike.

Source: Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063 (one step); Bengio, Simard, Frasconi 1994 (products).
Cost: for each sample n products of a vector with one step at all times (for elman, gru and lstm two at most), T
products of n×n matrices, and a singular value decomposition for each spectral norm: for one sample, n of 128 to 256 and
T = 400 half to two and a half training steps. A decoder needs a sweep of its own besides. A state whose parts do not
bear on one another costs what its parts do; see ``core.jacobians``.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Snapshot
from retrograde.core.jacobians import Parts, Trajectory, parts_within, trajectories
from retrograde.core.records import Reading
from retrograde.core.scaled import LOG10_2
from retrograde.core.statistics import STATISTICS, log10_joint, log10_statistics, status_of
from retrograde.core.statuses import CENSORED, ZERO

Blocks = Sequence[Float[Tensor, "_part _size _size"]]
"""A block-diagonal matrix, blocks of one size in one tensor."""

Found = tuple[list[int], Float[Tensor, " _place"], Int[Tensor, " _place"]]
"""Times or lags of one sample, what was found there, in log10, and its status."""

QUANTITIES = {"spectral": "time", "frobenius": "time", "product_spectral": "lag", "product_frobenius": "lag"}
"""Each with the axis that it is given over."""


@dataclass
class Curve:
    """A norm of one sample by time or by lag, as it is found: the norm of each part of the state, and its exponent."""

    places: list[int] = field(default_factory=list)
    norms: list[Float[Tensor, " _part"]] = field(default_factory=list)
    exponents: list[Int[Tensor, " _part"]] = field(default_factory=list)

    def add(self, place: int, norms: Sequence[Tensor], exponents: Sequence[Tensor]) -> None:
        self.places.append(place)
        self.norms.append(torch.cat(list(norms)))
        self.exponents.append(torch.cat(list(exponents)))

    def of_state(
        self, spectral: bool, size: int, dtype: torch.dtype
    ) -> tuple[Float[Tensor, " place"], Int[Tensor, " place"]]:
        """log10 of the norm of the whole state's matrix, a Frobenius norm over √size, and its status.

        What is 0 in the precision that it was computed in reads where that ends.
        """
        norms, shift = torch.stack(self.norms), torch.stack(self.exponents) * LOG10_2
        values = (torch.log10(norms.double()) + shift).T
        joint = values.amax(0) if spectral else log10_joint(values, status_of(values))[0] - 0.5 * math.log10(size)
        status = status_of(joint)
        floor = math.log10(torch.finfo(dtype).smallest_normal) + shift.amax(1)
        return torch.where(status == ZERO, floor, joint), torch.where(status == ZERO, CENSORED, status)


class Jacobian:
    """Readings ``spectral`` and ``frobenius`` over time, ``product_spectral`` and ``product_frobenius`` over lag.

    A layer with more than ``largest`` numbers of a state that bear on one another is left out, with a warning. Of the
    lags ``per_decade`` for each factor of ten are asked for the spectral norm.
    """

    def __init__(self, samples: int = 1, times: int = 8, per_decade: int = 4, largest: int = 512) -> None:
        for name, value in (("samples", samples), ("times", times), ("per_decade", per_decade), ("largest", largest)):
            require_at_least(name, value, 1)
        self.samples = samples
        self.times = times
        self.per_decade = per_decade
        self.largest = largest

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        found: dict[str, list[dict[str, Found]]] = {layer: [] for layer in snapshot.courses}
        for sample in range(min(self.samples, len(snapshot.batch))):
            for layer, trajectory in trajectories(snapshot, sample, torch.float32).items():
                parts = parts_within(trajectory, self.largest, "jacobian", layer)
                if parts is not None:
                    found[layer].append(self._found(trajectory, parts, snapshot.courses[layer].backward))
        for layer, samples in found.items():
            for quantity, axis in QUANTITIES.items() if samples else ():
                yield _reading(f"{quantity}/{layer}", axis, [curves[quantity] for curves in samples])

    def _found(self, trajectory: Trajectory, parts: Parts, backward: bool) -> dict[str, Found]:
        """Each quantity of one sample: its places, values and statuses."""
        length, dtype = trajectory.length, trajectory.inputs.dtype
        asked = {round(at) for at in torch.linspace(0, length - 1, self.times).tolist()}
        lags = spaced(length, self.per_decade)
        curves = {quantity: Curve() for quantity in QUANTITIES}
        product: Blocks = [torch.eye(part.shape[1]).to(trajectory.inputs).repeat(len(part), 1, 1) for part in parts]
        exponents = start = [torch.zeros(len(part), dtype=torch.int32, device=part.device) for part in parts]
        curves["product_frobenius"].add(0, _frobenius(product), exponents)
        for time, step in _backwards(trajectory, parts):
            place, lag = (length - 1 - time if backward else time), length - time
            product, shifts = _scaled([before @ blocks for before, blocks in zip(product, step, strict=True)])
            exponents = [before + shift for before, shift in zip(exponents, shifts, strict=True)]
            curves["product_frobenius"].add(lag, _frobenius(product), exponents)
            if lag in lags:
                curves["product_spectral"].add(lag, _spectral(product), exponents)
            curves["frobenius"].add(place, _frobenius(step), start)
            if time in asked:
                step, shifts = _scaled(step)
                curves["spectral"].add(place, _spectral(step), shifts)
        return {
            quantity: (curve.places, *curve.of_state(quantity.endswith("spectral"), trajectory.size, dtype))
            for quantity, curve in curves.items()
        }


def spaced(longest: int, per_decade: int) -> set[int]:
    """Lags from 1 evenly in the logarithm, ``per_decade`` for each factor of ten, and the longest."""
    decades = math.log10(longest)
    return {round(10 ** (at / per_decade)) for at in range(math.floor(decades * per_decade) + 1)} | {longest}


def _backwards(trajectory: Trajectory, parts: Parts) -> Iterator[tuple[int, Blocks]]:
    """J_t from the last time to the first."""
    for times in reversed(trajectory.chunks(parts)):
        steps = [blocks.unbind(0) for blocks in trajectory.jacobians(parts, times)]
        for time in reversed(times):
            yield time, [blocks[time - times.start] for blocks in steps]


def _scaled(
    step: Blocks,
) -> tuple[Blocks, list[Int[Tensor, " _part"]]]:
    """The same blocks with the largest entry of each in [1/2, 1) where that is a number, and the exponents for it."""
    blocks, exponents = [], []
    for block in step:
        largest = block.abs().flatten(1).amax(1)
        # the bounds keep the power of two itself in float32 where there are but denormal numbers
        exponent = torch.where(torch.isfinite(largest), torch.frexp(largest).exponent, 0).clamp(-126, 126)
        blocks.append(block * torch.exp2(-exponent.to(block.dtype))[:, None, None])
        exponents.append(exponent)
    return blocks, exponents


def _frobenius(blocks: Blocks) -> list[Float[Tensor, " _part"]]:
    # in float64, where the squares of float32 numbers stay within the format
    return [torch.linalg.vector_norm(block.flatten(1), dim=1, dtype=torch.float64) for block in blocks]


def _spectral(blocks: Blocks) -> list[Float[Tensor, " _part"]]:
    norms = []
    for block in blocks:
        finite = torch.isfinite(block).flatten(1).all(1)  # others have no singular values
        norms.append(torch.linalg.matrix_norm(block.where(finite[:, None, None], 0.0), 2).where(finite, math.nan))
    return norms


def _reading(name: str, axis: str, samples: Sequence[Found]) -> Reading:
    """Mean and quantiles over samples, at each place over those that have it."""
    places = sorted({place for found, _, _ in samples for place in found})
    column = {place: at for at, place in enumerate(places)}
    values = torch.zeros(len(samples), len(places), dtype=torch.float64)
    status, counts = values.to(torch.int8), values.to(torch.bool)
    for row, (found, value, of_value) in enumerate(samples):
        at = [column[place] for place in found]
        values[row, at], status[row, at], counts[row, at] = value.cpu(), of_value.cpu(), torch.tensor(True)
    statistics, statuses = log10_statistics(values, status, counts)
    return Reading(name, statistics.numpy(), {"statistic": STATISTICS, axis: places}, "log10", statuses.numpy())
