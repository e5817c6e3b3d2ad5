r"""Recurrent network of units that each remember themselves alone.

    h_t = max(0, W x_t + u ⊙ h_{t-1} + b)        |u_n| ≤ γ^{1/T}
    y_t = V h_t + d

x input (batch, width), h hidden and u recurrent weights (hidden), T the sequence's length, of source and target the
longer one's; ⊙ is elementwise. Units mix in the next layer only. While a unit stays active its gradient over k steps
is u_n^k: over the whole sequence it grows to at most γ times its size, and by choice of u_n it lasts for as long as is
wanted.

At the start u ~ U[0, γ^{1/T}]; with ``long_memory`` the last layer's u ~ U[γ^{-1/T}, γ^{1/T}], so that it keeps at
least 1/γ over the sequence: for tasks whose answer is due at the end.

Source: Li, Li, Cook, Zhu, Gao 2018, arXiv:1803.04831, eq. 2, and for the start of u the authors' code (IndRNN_pytorch).
Differs: γ = 2 unless set, a choice that the paper leaves open; the authors' code has 5, and bounds u only if asked to.
They then cut u back to its bound before each step of the optimiser; here the bound is always there and part of the
layer: u beyond it acts as the bound, and learns from a gradient only what leads back. No batch normalisation and no
residual paths; W and b start as those of torch.nn.Linear, where the authors' b is 0 and their W uniform within a bound
that they set, with batch normalisation behind it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Task
from retrograde.core.records import State
from retrograde.core.recurrence import Form, Recurrence, affine, own_forms
from retrograde.core.sweep import unrolling
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.recurrent import RecurrentModel
from retrograde.layers.scanned import swept_by_scan
from retrograde.layers.scans import rectified_scan


class IndependentCell(Recurrence):
    """A self-connection per unit, bounded so that over ``length`` steps it grows at most ``growth``-fold."""

    def __init__(self, inputs: int, hidden: int, length: int, growth: float) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        require_at_least("length", length, 1)
        require_at_least("growth", growth, 1)
        self.hidden = hidden
        self.bound = growth ** (1 / length)
        self.input = nn.Linear(inputs, hidden)
        self.recurrent = nn.Parameter(torch.empty(hidden).uniform_(0, self.bound))

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (self.hidden,)}

    def weights(self) -> dict[str, Tensor]:
        """``recurrent`` is u within its bound."""
        bounded = _Bounded.apply(self.recurrent, self.bound)
        return {"input": self.input.weight, "recurrent": bounded, "bias": self.input.bias}

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        kept = weights["recurrent"].unsqueeze(-2) * state["hidden"]
        return {"hidden": torch.relu(affine(x, weights["input"], weights["bias"]) + kept)}

    def kept(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        """u where the unit is active, else 0."""
        active = self.step(weights, x, state)["hidden"] > 0
        return {"hidden": weights["recurrent"].unsqueeze(-2) * active}

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"recurrent": weights["recurrent"]}


@own_forms.register
def _(recurrence: IndependentCell, inputs: Float[Tensor, "batch time width"]) -> dict[str, Form]:
    return {"scanned": Form(_scanned)}


def _scanned(
    recurrence: IndependentCell, inputs: Float[Tensor, "batch time width"], initial: State | None = None
) -> Float[Tensor, "batch time hidden"]:
    start = recurrence.initial_state(inputs) if initial is None else initial
    weights = recurrence.weights()
    return rectified_scan(weights["recurrent"], affine(inputs, weights["input"], weights["bias"]), start["hidden"])


unrolling.register(IndependentCell)(swept_by_scan)


class _Bounded(torch.autograd.Function):
    """The value cut to ±bound; a gradient passes unless a step along it would lead from the bound further out.

    A plain clamp would pass none there, and what has once gone beyond it would never come back.
    """

    generate_vmap_rule = True  # seeds that train together

    @staticmethod
    def forward(value: Tensor, bound: float) -> Tensor:
        return value.clamp(-bound, bound)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        value, ctx.bound = inputs
        ctx.save_for_backward(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (value,) = ctx.saved_tensors
        outward = (value.abs() >= ctx.bound) & (gradient * value < 0)  # steps go against the gradient
        return gradient.masked_fill(outward, 0.0), None


def indrnn(
    task: Task,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    length: int | None = None,
    growth: float = 2.0,
    long_memory: bool = False,
    embedding: EmbeddingFactory = OneHot,
) -> RecurrentModel:
    """The independent units; the bound's T is ``length``, None for that of the task's sequences, its γ ``growth``."""
    steps = _sequence_length(task) if length is None else length
    cells: list[IndependentCell] = []

    def make(width: int) -> IndependentCell:
        cells.append(IndependentCell(width, hidden, steps, growth))
        return cells[-1]

    model = RecurrentModel(task, make, layers, bidirectional, dropout, embedding)
    if long_memory:
        for cell in cells[-2:] if bidirectional else cells[-1:]:
            nn.init.uniform_(cell.recurrent, 1 / cell.bound, cell.bound)
    return model


def _sequence_length(task: Task) -> int:
    """The longest of as many sequences as a card is measured on; a task of one length has only that.

    A target of an axis of its own is a sequence as well, over which a decoder runs.
    """
    batch = task.sample(512, torch.Generator().manual_seed(0))
    each = [batch.lengths] if batch.target_lengths is None else [batch.lengths, batch.target_lengths]
    return int(torch.cat(each).max())
