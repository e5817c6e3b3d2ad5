r"""The spectrum of the weights that a state is multiplied by.

Of a square matrix W (each gate's by itself):

    magnitude, phase  |λ_i| and arg λ_i of its eigenvalues, the largest first
    radius            max_i |λ_i|
    norm              σ_max, its largest singular value
    departure         √(‖W‖²_F - Σ_i |λ_i|²): 0 where W is normal; else powers of W may grow before they fall
    departure_share   the same over ‖W‖_F, between 0 and 1

Of a vector that is the diagonal of such a matrix (a state space model's Ā, independent units), which is normal:

    magnitude, phase, radius    as above, the diagonal's entries being the eigenvalues
    time_scale                  -1 / ln |λ_i|, the positions over which a state fades to 1/e; infinite where |λ_i| ≥ 1

in the order of ``magnitude``. These are numbers of the weights alone. Only in a linear recurrence is W the Jacobian of
a step; in others gates and derivatives of the nonlinearity stand around it, and in gated cells W makes gates and
candidates and no state by itself: ``jacobian`` has what a step does. All is computed in float64; of a normal matrix
``departure`` still reads up to 1e-7 of ‖W‖_F, the root of what rounding leaves of the difference of squares.

Units: factors; radians; positions.
Source: Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063 (radius and norm); Henrici 1962 and Kerg et al. 2019,
arXiv:1905.12080 (departure from normality); Orvieto et al. 2023, arXiv:2303.06349 (magnitudes, phases, time scales).
Cost: about 25 n³ operations a matrix: 5 ms at n = 128, 0.3 s at 512 on one thread, 20 ms for the four of an LSTM of 128
units. Above ``widest`` eigenvalues take seconds, and norm alone is given.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from jaxtyping import Complex, Float, Shaped
from torch import Tensor

from retrograde.core.contracts import Snapshot
from retrograde.core.records import Reading


class RecurrentSpectrum:
    """Readings for every matrix and diagonal of every recurrence; eigenvalues of matrices up to ``widest`` alone."""

    def __init__(self, widest: int = 512) -> None:
        if widest < 1:
            raise ValueError(f"widest must be at least 1, not {widest}")
        self.widest = widest

    @torch.no_grad()
    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        for layer, course in snapshot.courses.items():
            for name, weight in course.recurrence.transitions(course.weights).items():
                precise = weight.cpu().to(torch.promote_types(weight.dtype, torch.float64))
                if weight.ndim == 1:
                    numbers = of_diagonal(precise)
                elif len(weight) <= self.widest:
                    numbers = of_matrix(precise)
                else:
                    numbers = {"norm": (norm(precise), "factor")}
                yield from readings(f"{layer}.{name}", numbers)


Numbers = dict[str, tuple[Tensor, str]]
"""Each quantity with its unit."""


def readings(where: str, numbers: Mapping[str, tuple[Tensor, str]]) -> Iterable[Reading]:
    """Scalars as they are, what there is of every eigenvalue along its own dim."""
    for quantity, (values, unit) in numbers.items():
        dims = {"eigenvalue": range(len(values))} if values.ndim else {}
        yield Reading(f"{quantity}/{where}", values.numpy(), dims, unit)


def of_matrix(matrix: Shaped[Tensor, "n n"]) -> Numbers:
    """What is said of a square matrix; NaN throughout where an entry is no number."""
    finite = bool(matrix.isfinite().all())
    values = torch.linalg.eigvals(matrix) if finite else torch.full((len(matrix),), math.nan, dtype=torch.complex128)
    frobenius = torch.linalg.matrix_norm(matrix)
    departure = (frobenius.square() - values.abs().square().sum()).clamp(min=0).sqrt()
    return of_eigenvalues(by_size(values)) | {
        "norm": (norm(matrix), "factor"),
        "departure": (departure, "factor"),
        "departure_share": (torch.where(frobenius > 0, departure / frobenius, departure), "share"),
    }


def of_diagonal(diagonal: Shaped[Tensor, " n"]) -> Numbers:
    """What is said of a diagonal matrix."""
    values = by_size(diagonal.to(torch.complex128))
    size = values.abs()
    return of_eigenvalues(values) | {"time_scale": (torch.where(size >= 1, math.inf, -1 / size.log()), "positions")}


def of_eigenvalues(values: Complex[Tensor, " n"]) -> Numbers:
    """Sizes, angles, and the largest size."""
    size = values.abs()
    return {"magnitude": (size, "factor"), "phase": (values.angle(), "radians"), "radius": (size.max(), "factor")}


def by_size(values: Complex[Tensor, " n"]) -> Complex[Tensor, " n"]:
    """The largest first; of those of one size the larger angle, so that a pair of conjugates stands together."""
    numbers = values.numpy()
    return values[torch.from_numpy(np.lexsort((-np.angle(numbers), -np.abs(numbers))))]


def norm(matrix: Shaped[Tensor, "n n"]) -> Float[Tensor, ""]:
    """The largest singular value; NaN where an entry is no number."""
    if not matrix.isfinite().all():
        return torch.tensor(math.nan, dtype=torch.float64)
    return torch.linalg.svdvals(matrix)[0]
