r"""Recurrent network that discretises a stable differential equation.

    h_t = h_{t-1} + ε tanh((W - Wᵀ - γ I) h_{t-1} + V x_t + b)                  plain

    z_t = σ((W - Wᵀ - γ I) h_{t-1} + V_z x_t + b_z)                             gated
    h_t = h_{t-1} + ε z_t ⊙ tanh((W - Wᵀ - γ I) h_{t-1} + V x_t + b)

x input (batch, width), h hidden (batch, hidden), ε step size, γ diffusion, W strictly upper triangular. Behind it
stands dh/dt = tanh(…), whose Jacobian is diag(tanh') (W - Wᵀ - γ I): W - Wᵀ is antisymmetric, so for γ = 0 its
eigenvalues are imaginary and nothing is lost or blown up over time. The forward Euler step is not quite so kind: it
takes an eigenvalue iω to 1 + iεω, which is larger than 1; γ draws it back.

Source: Chang, Chen, Haber, Chi 2019, arXiv:1902.09689, eqs. 12 and 13; start V ~ N(0, 1/width), W ~ N(0, σ_w²/hidden),
zero biases: appendix C.
Differs: nothing in the equations. The paper picks ε, γ and σ_w for each task from a grid; the defaults here are ε and γ
of its simulations (section 4) and σ_w = 1. With so small a step what came in fades slowly: tasks that need the last
input alone and exactly want ε = γ = 1.
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


class AntisymmetricCell(Recurrence):
    """A step of forward Euler; where gated, the input weights are stacked in the order V, V_z."""

    upper: Tensor

    def __init__(
        self, inputs: int, hidden: int, step_size: float, diffusion: float, spread: float, gated: bool
    ) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        require_at_least("diffusion", diffusion, 0)
        require_at_least("spread", spread, 0)
        if not step_size > 0:
            raise ValueError(f"step_size must be positive, not {step_size}")
        self.hidden = hidden
        self.step_size = step_size
        self.diffusion = diffusion
        self.gated = gated
        rows = hidden * (2 if gated else 1)
        self.input = nn.Parameter(torch.randn(rows, inputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(rows))
        # what is not given by the rest of W - Wᵀ, row by row
        self.triangle = nn.Parameter(torch.randn(hidden * (hidden - 1) // 2) * spread / hidden**0.5)
        self.register_buffer("upper", torch.triu_indices(hidden, hidden, 1), persistent=False)

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (self.hidden,)}

    def weights(self) -> dict[str, Tensor]:
        """``recurrent`` is W - Wᵀ."""
        empty = self.triangle.new_zeros(self.hidden, self.hidden)
        upper = empty.index_put(tuple(self.upper), self.triangle)
        return {"input": self.input, "recurrent": upper - upper.mT, "bias": self.bias}

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        hidden = state["hidden"]
        turned = hidden @ weights["recurrent"].mT - self.diffusion * hidden
        driven = affine(x, weights["input"], weights["bias"])
        if not self.gated:
            return {"hidden": hidden + self.step_size * torch.tanh(turned + driven)}
        into_change, into_gate = driven.chunk(2, -1)
        change = torch.sigmoid(turned + into_gate) * torch.tanh(turned + into_change)
        return {"hidden": hidden + self.step_size * change}

    def gates(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        """z where gated."""
        if not self.gated:
            return {}
        hidden = state["hidden"]
        turned = hidden @ weights["recurrent"].mT - self.diffusion * hidden
        _, into_gate = affine(x, weights["input"], weights["bias"]).chunk(2, -1)
        return {"update": torch.sigmoid(turned + into_gate)}

    def kept(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        return {"hidden": torch.ones_like(state["hidden"])}

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """W - Wᵀ - γ I, which stands within tanh: the step adds ε of what comes of it to the state as it was."""
        recurrent = weights["recurrent"]
        eye = torch.eye(self.hidden, dtype=recurrent.dtype, device=recurrent.device)
        return {"recurrent": recurrent - self.diffusion * eye}


def antisymmetric_rnn(
    task: Task,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    step_size: float = 0.1,
    diffusion: float = 0.15,
    spread: float = 1.0,
    gated: bool = False,
    embedding: EmbeddingFactory = OneHot,
) -> RecurrentModel:
    """The network; ``step_size`` is ε, ``diffusion`` γ, ``spread`` σ_w."""

    def make(width: int) -> AntisymmetricCell:
        return AntisymmetricCell(width, hidden, step_size, diffusion, spread, gated)

    return RecurrentModel(task, make, layers, bidirectional, dropout, embedding)
