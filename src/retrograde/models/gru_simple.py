r"""Gated recurrent unit with its update gate alone.

    c̃_t = tanh(W_c [c_{t-1}, x_t] + b_c)                     candidate
    Γ_t = σ(W_u [c_{t-1}, x_t] + b_u)                         update gate
    c_t = Γ_t ⊙ c̃_t + (1 - Γ_t) ⊙ c_{t-1}                    memory cell, and the output

x input (batch, width), c memory cell (batch, hidden), shown as ``hidden``; [c, x] side by side; ⊙ is elementwise. Where
the gate is shut the cell is copied, and its gradient with it.

Source: Ng 2018, "Sequence models", lecture "Gated recurrent unit", the simplified form; the whole unit: Cho et al.
2014, arXiv:1406.1078, eqs. 5-8.
Differs: from Cho et al., no reset gate, and Γ opens where their z shuts (Γ = 1 - z). W is kept as two matrices, one
for c and one for x; all start uniform within 1/√hidden, as in torch.nn.GRU, biases too.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Task
from retrograde.core.records import State
from retrograde.core.recurrence import Recurrence, affine
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.recurrent import RecurrentModel


class UpdateGateCell(Recurrence):
    """A memory cell behind one gate; weights in the order candidate, update gate."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        self.hidden = hidden
        bound = hidden**-0.5
        self.input = nn.Parameter(torch.empty(2 * hidden, inputs).uniform_(-bound, bound))
        self.recurrent = nn.Parameter(torch.empty(2 * hidden, hidden).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(2 * hidden).uniform_(-bound, bound))

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (self.hidden,)}

    def weights(self) -> dict[str, Tensor]:
        return {"input": self.input, "recurrent": self.recurrent, "bias": self.bias}

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        cell = state["hidden"]
        driven = affine(x, weights["input"], weights["bias"]) + cell @ weights["recurrent"].mT
        into_candidate, into_update = driven.chunk(2, -1)
        update = torch.sigmoid(into_update)
        return {"hidden": update * torch.tanh(into_candidate) + (1 - update) * cell}

    def gates(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        driven = affine(x, weights["input"], weights["bias"]) + state["hidden"] @ weights["recurrent"].mT
        return {"update": torch.sigmoid(driven.chunk(2, -1)[1])}

    def kept(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        return {"hidden": 1 - self.gates(weights, x, state)["update"]}

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(zip(("candidate", "update"), weights["recurrent"].chunk(2, -2), strict=True))


def gru_simple(
    task: Task,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    embedding: EmbeddingFactory = OneHot,
) -> RecurrentModel:
    """The network of memory cells behind one gate each."""
    return RecurrentModel(task, lambda width: UpdateGateCell(width, hidden), layers, bidirectional, dropout, embedding)
