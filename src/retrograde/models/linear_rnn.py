r"""Linear recurrence with a full matrix: the textbook case in which gradients vanish or explode.

    h_t = W h_{t-1} + U x_t
    y_t = V h_t + d

x input (batch, width), h hidden (batch, hidden), y output. With a loss at time T alone, dL/dh_t = (Wᵀ)^{T-t} dL/dh_T:
the gradient shrinks or grows as the powers of W do.

W at the start, scaled to the spectral radius asked for:
orthogonal  a random rotation times the radius: every gradient norm is multiplied by exactly the radius
normal      symmetric, eigenvalues spread over [-radius, radius]
nonnormal   Gaussian entries: powers may grow before they shrink

Source: Bengio, Simard, Frasconi 1994; Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063, section 2.1.
Differs: without their nonlinearity.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.choices import require_at_least, require_one_of
from retrograde.core.contracts import Task
from retrograde.core.records import State
from retrograde.core.recurrence import HiddenAttention, Recurrence
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.recurrent import RecurrentModel
from retrograde.layers.token_matrix import toeplitz

Matrix = Literal["orthogonal", "normal", "nonnormal"]


class LinearCell(Recurrence):
    """h_t = W h_{t-1} + U x_t."""

    def __init__(self, inputs: int, hidden: int, radius: float, matrix: Matrix) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        self.hidden = hidden
        self.input = nn.Parameter(torch.randn(hidden, inputs) / inputs**0.5)
        self.recurrent = nn.Parameter(recurrent_matrix(hidden, radius, matrix))

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (self.hidden,)}

    def weights(self) -> dict[str, Tensor]:
        return {"input": self.input, "recurrent": self.recurrent}

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        return {"hidden": state["hidden"] @ weights["recurrent"].mT + x @ weights["input"].mT}

    def hidden_attention(
        self, weights: Mapping[str, Tensor], x: Float[Tensor, "batch time width"]
    ) -> HiddenAttention | None:
        """λ^{i-j} for every eigenvalue λ of W, a head whose values are U x in the basis of eigenvectors.

        None where W has no such basis, or one so skewed that half of a number's digits would be lost in it, or is no
        longer finite.
        """
        if not weights["recurrent"].isfinite().all():
            return None
        eigenvalues, basis = torch.linalg.eig(weights["recurrent"])
        if not torch.linalg.cond(basis) < torch.finfo(x.dtype).eps ** -0.5:
            return None
        values = torch.linalg.solve(basis, (x @ weights["input"].mT).mT.to(basis.dtype)).mT
        repeated = eigenvalues.unsqueeze(-1).expand(-1, x.shape[1] - 1)
        powers = torch.cat([torch.ones_like(eigenvalues).unsqueeze(-1), repeated], -1).cumprod(-1)
        mixing = torch.stack([basis.real, -basis.imag], -1).flatten(-2)
        return HiddenAttention(toeplitz(powers).expand(len(x), -1, -1, -1), values.unsqueeze(-1), mixing)

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"recurrent": weights["recurrent"]}


def recurrent_matrix(size: int, radius: float, matrix: Matrix) -> Float[Tensor, "size size"]:
    """A random square matrix of the kind asked for, its largest eigenvalue ``radius`` in absolute value."""
    require_one_of("matrix", matrix, get_args(Matrix))
    require_at_least("radius", radius, 0)
    gaussian = torch.randn(size, size)
    if matrix == "orthogonal":
        rotation, upper = torch.linalg.qr(gaussian)
        return radius * rotation * upper.diagonal().sign()
    if matrix == "normal":
        gaussian = gaussian + gaussian.mT
    return gaussian * (radius / torch.linalg.eigvals(gaussian).abs().max())


def linear_rnn(
    task: Task,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    radius: float = 1.0,
    matrix: Matrix = "orthogonal",
    embedding: EmbeddingFactory = OneHot,
) -> RecurrentModel:
    """The linear network; ``radius`` is the spectral radius of W at the start."""
    return RecurrentModel(
        task, lambda width: LinearCell(width, hidden, radius, matrix), layers, bidirectional, dropout, embedding
    )
