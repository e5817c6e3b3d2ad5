r"""Recurrent network whose recurrent matrix is orthogonal at every step of training (expRNN).

    h_t = σ_b(W h_{t-1} + U x_t)                 hidden
    σ_b(z) = sign(z) ⊙ max(|z| + b, 0)           modReLU
    W = exp(A),   A = S - Sᵀ                     orthogonal, because A is skew-symmetric

x input (batch, width), h hidden (batch, hidden), b (hidden), S strictly lower triangular (hidden, hidden): the entries
that are learned. A unit that modReLU lets through has the derivative 1, so that a gradient keeps its norm from step to
step but for the units that are shut.

A at the start consists of 2×2 blocks that turn by an angle s each:
henaff   s uniform in [-π, π]
cayley   s = tan(φ/2), φ uniform in [0, π/2]

Source: Lezcano-Casado & Martínez-Rubio 2019, arXiv:1901.08428, and the authors' code; modReLU: Arjovsky, Shah, Bengio
2016, arXiv:1511.06464; blocks: Henaff, Szlam, LeCun 2016, arXiv:1602.06662, and Helfrich, Willmott, Ye 2018,
arXiv:1707.09520.
Differs: A learns at the optimiser's one learning rate, where the authors give it a tenth of the others'; the read-out
starts as torch.nn.Linear does. In half precision W is computed in float32 and rounded, so WᵀW = I to its rounding.
"""

import math
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.choices import require_at_least, require_one_of
from retrograde.core.contracts import Task
from retrograde.core.records import State
from retrograde.core.recurrence import Recurrence
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.recurrent import RecurrentModel

Start = Literal["henaff", "cayley"]


class OrthogonalCell(Recurrence):
    """h_t = modReLU(exp(A) h_{t-1} + U x_t)."""

    def __init__(self, inputs: int, hidden: int, start: Start) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        self.hidden = hidden
        self.input = nn.Parameter(nn.init.kaiming_normal_(torch.empty(hidden, inputs), nonlinearity="relu"))
        self.skew = nn.Parameter(skew_blocks(hidden, start))
        self.bias = nn.Parameter(torch.empty(hidden).uniform_(-0.01, 0.01))  # the authors' code

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (self.hidden,)}

    def weights(self) -> dict[str, Tensor]:
        return {"input": self.input, "recurrent": orthogonal(self.skew), "bias": self.bias}

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        before = state["hidden"] @ weights["recurrent"].mT + x @ weights["input"].mT
        return {"hidden": mod_relu(before, weights["bias"].unsqueeze(-2))}

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"recurrent": weights["recurrent"]}


def mod_relu(z: Float[Tensor, "... hidden"], bias: Float[Tensor, "... hidden"]) -> Float[Tensor, "... hidden"]:
    """sign(z) max(|z| + bias, 0), which keeps the sign and shifts the size; 0 at 0."""
    return torch.sign(z) * torch.relu(z.abs() + bias)


def orthogonal(entries: Float[Tensor, "size size"]) -> Float[Tensor, "size size"]:
    """The matrix exponential of the skew-symmetric matrix with the entries below the diagonal."""
    lower = torch.tril(entries, -1)
    skew = lower - lower.mT
    # torch's exponential of a bfloat16 matrix is NaN
    return torch.matrix_exp(skew.to(torch.promote_types(skew.dtype, torch.float32))).to(skew.dtype)


def skew_blocks(size: int, start: Start) -> Float[Tensor, "size size"]:
    """Angles of rotation at (1, 0), (3, 2), …, and zeros; an odd last axis is left as it is."""
    require_one_of("start", start, get_args(Start))
    if start == "henaff":
        angles = torch.empty(size // 2).uniform_(-math.pi, math.pi)
    else:
        angles = torch.tan(torch.empty(size // 2).uniform_(0, math.pi / 2) / 2)
    entries = torch.zeros(size, size)
    rows = torch.arange(1, size, 2)
    entries[rows, rows - 1] = angles
    return entries


def orthogonal_rnn(
    task: Task,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    start: Start = "henaff",
    embedding: EmbeddingFactory = OneHot,
) -> RecurrentModel:
    """The orthogonal network; ``start`` is how A begins."""
    return RecurrentModel(
        task, lambda width: OrthogonalCell(width, hidden, start), layers, bidirectional, dropout, embedding
    )
