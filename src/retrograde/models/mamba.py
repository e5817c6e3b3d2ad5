r"""Mamba: a state space model that chooses by its input what to keep, behind a short convolution and beside a gate.

    n_t = RMSNorm(x_t)
    a_t = W_a n_t        z_t = W_z n_t
    u_t = SiLU(Σ_{k<width} w_k ⊙ a_{t-width+1+k} + c)      causal, each channel by itself
    [r_t; B_t; C_t] = W_s u_t                              what is selected, of u alone
    Δ_t = softplus(W_Δ r_t + b_Δ)                          step
    h_t = exp(Δ_t A) ⊙ h_{t-1} + (Δ_t ⊙ u_t) B_tᵀ          A = -e^α
    y_t = h_t C_t + D ⊙ u_t
    x'_t = x_t + W_o (y_t ⊙ SiLU(z_t))                     `layers` times

x the residual stream (batch, time, hidden); a, z, u, y and Δ (batch, inner), inner = expansion · hidden; r (batch,
hidden / 16, rounded up); B, C (batch, state); h and A (inner, state); w (inner, width). ∂h_t/∂h_{t-1} is diagonal and
depends on the input: where Δ is small a channel keeps what it has, where it is large it starts anew.

What looks back is state: h, and ``window``, the last inputs a of the convolution, the present one included, of which
the read-out needs u_t and C_t again.

At the start: α_n = log n for n from 1 to state, D = 1, softplus(b_Δ) log-uniform in [dt_min, dt_max] and at least 1e-4,
W_Δ uniform within ± 1/√rank.

Source: Gu & Dao 2023, arXiv:2312.00752, algorithm 2 and section 3; sizes and start: sections 3.4, 3.6 and the authors'
code.
Differs: Δ B in place of the zero-order hold of B (equation 4), as in the authors' code. W_o is not made smaller with
depth at the start, as that code does. There is no dropout. Training goes through time in blocks and computes each anew
for its gradient, so that no tensor of (batch, time, inner, state) is kept.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.abreast import recomputed
from retrograde.core.block import Block
from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Task
from retrograde.core.records import State
from retrograde.core.recurrence import Form, HiddenAttention, Recurrence, affine, own_forms
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.residual import ResidualModel
from retrograde.layers.scans import scan
from retrograde.layers.short_convolution import convolved, filter_at_start, short_convolution, window_after
from retrograde.layers.token_matrix import token_matrix

CHANNELS_PER_RANK = 16
"""Hidden channels for each number that Δ is made of: section 3.6 gives Δ a projection of low rank."""

SMALLEST_STEP = 1e-4
"""The least Δ at the start, as in the authors' code."""

EPSILON = 1e-5
"""What the norms add to a mean square, as in the authors' code."""

BLOCK = 32
"""Times whose states exist together in training: fewer are slower in small batches, more in large ones."""


class SelectiveStateSpace(Recurrence):
    """Convolution and selective recurrence, of a_t to y_t."""

    output = "state"

    def __init__(self, inner: int, state: int, rank: int, convolution: int, dt_min: float, dt_max: float) -> None:
        super().__init__()
        for name, size in (("state", state), ("convolution", convolution)):
            require_at_least(name, size, 1)
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"steps need 0 < dt_min ≤ dt_max, not dt_min {dt_min} and dt_max {dt_max}")
        self.inner, self.state, self.rank, self.convolution = inner, state, rank, convolution
        self.filter = nn.Parameter(filter_at_start(inner, convolution))
        self.filter_bias = nn.Parameter((2 * torch.rand(inner) - 1) / math.sqrt(convolution))
        self.select = nn.Linear(inner, rank + 2 * state, bias=False)
        self.timescale = nn.Linear(rank, inner)
        self.log_decay = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        low, high = math.log(dt_min), math.log(dt_max)
        steps = torch.exp(low + (high - low) * torch.rand(inner)).clamp(min=SMALLEST_STEP)
        with torch.no_grad():
            nn.init.uniform_(self.timescale.weight, -(rank**-0.5), rank**-0.5)
            self.timescale.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # the inverse of softplus

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"window": (self.inner, self.convolution), "state": (self.inner, self.state)}

    @property
    def width(self) -> int:
        return self.inner

    def weights(self) -> dict[str, Tensor]:
        """w, c, W_s, W_Δ, b_Δ, α and D."""
        return {
            "filter": self.filter,
            "filter_bias": self.filter_bias,
            "select": self.select.weight,
            "timescale": self.timescale.weight,
            "timescale_bias": self.timescale.bias,
            "decay": self.log_decay,
            "skip": self.skip,
        }

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        window = window_after(state["window"], x)
        u = self.activated(weights, convolved(window, weights["filter"]))
        timescale, enter, _ = self.selected(weights, u)
        driven = (timescale * u).unsqueeze(-1) * enter.unsqueeze(-2)
        return {"window": window, "state": self.decay(weights, timescale) * state["state"] + driven}

    def read(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> Tensor:
        u = self.activated(weights, convolved(state["window"], weights["filter"]))
        _, _, leave = self.selected(weights, u)
        read = (state["state"] @ leave.unsqueeze(-1)).squeeze(-1)
        return read + weights["skip"].unsqueeze(-2) * u

    def kept(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        """exp(Δ A)."""
        u = self.activated(weights, convolved(window_after(state["window"], x), weights["filter"]))
        timescale, _, _ = self.selected(weights, u)
        return {"state": self.decay(weights, timescale)}

    def hidden_attention(self, weights: Mapping[str, Tensor], x: Float[Tensor, "batch time width"]) -> HiddenAttention:
        """C_i · exp(Σ_{j<k≤i} Δ_k A) Δ_j B_j of every channel, for the values u; D u is apart."""
        start = self.initial_state(x)["window"]
        u = self.activated(weights, short_convolution(x, start, weights["filter"]))
        timescale, enter, leave = self.selected(weights, u)
        written = timescale.unsqueeze(-1) * enter.unsqueeze(-2)

        def carried(time: int, states: Tensor) -> Tensor:
            return self.decay(weights, timescale[:, time]).unsqueeze(1) * states

        matrix = token_matrix(written, leave.unsqueeze(-2), carried)
        return HiddenAttention(matrix, u.unsqueeze(-1), rest=weights["skip"] * u)

    def decay(
        self, weights: Mapping[str, Tensor], timescale: Float[Tensor, "... inner"]
    ) -> Float[Tensor, "... inner state"]:
        """exp(Δ A)."""
        return torch.exp(timescale.unsqueeze(-1) * -weights["decay"].exp().unsqueeze(-3))

    def activated(self, weights: Mapping[str, Tensor], summed: Tensor) -> Float[Tensor, "... inner"]:
        """u of what the filter makes."""
        return nn.functional.silu(summed + weights["filter_bias"].unsqueeze(-2))

    def selected(self, weights: Mapping[str, Tensor], u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Δ, B and C of u."""
        low, enter, leave = (u @ weights["select"].mT).split([self.rank, self.state, self.state], -1)
        timescale = nn.functional.softplus(affine(low, weights["timescale"], weights["timescale_bias"]))
        return timescale, enter, leave


@own_forms.register
def _(recurrence: SelectiveStateSpace, inputs: Tensor) -> dict[str, Form]:
    return {"scanned": Form(_scanned)}


def _scanned(
    recurrence: SelectiveStateSpace, inputs: Float[Tensor, "batch time width"], initial: State | None = None
) -> Float[Tensor, "batch time inner"]:
    weights = recurrence.weights()
    start = recurrence.initial_state(inputs) if initial is None else initial
    u = recurrence.activated(weights, short_convolution(inputs, start["window"], weights["filter"]))
    timescale, enter, leave = recurrence.selected(weights, u)
    rate = -weights["decay"].exp()
    state, made = start["state"], []
    parts = (part.split(BLOCK, 1) for part in (timescale, timescale * u, enter, leave))
    for block in zip(*parts, strict=True):
        read, state = recomputed(_block, rate, *block, state)
        made.append(read)
    return torch.cat(made, 1) + weights["skip"] * u


def _block(
    rate: Tensor, timescale: Tensor, driven: Tensor, enter: Tensor, leave: Tensor, state: Tensor
) -> tuple[Float[Tensor, "batch time inner"], Float[Tensor, "batch inner state"]]:
    """h C at some times, and the last h."""
    decay = torch.exp(timescale.unsqueeze(-1) * rate)
    states = scan(decay, driven.unsqueeze(-1) * enter.unsqueeze(-2), state)
    return (states * leave.unsqueeze(-2)).sum(-1), states[:, -1]  # on a CPU faster than a product of matrices


class MambaBlock(Block):
    """The selective recurrence behind a norm and a projection, its output gated, beside a residual path."""

    def __init__(self, hidden: int, state: int, expansion: int, convolution: int, dt_min: float, dt_max: float) -> None:
        super().__init__()
        require_at_least("expansion", expansion, 1)
        inner, rank = expansion * hidden, math.ceil(hidden / CHANNELS_PER_RANK)
        self.recurrence = SelectiveStateSpace(inner, state, rank, convolution, dt_min, dt_max)
        self.norm = nn.RMSNorm(hidden, eps=EPSILON)
        self.project = nn.Linear(hidden, inner, bias=False)
        self.gate = nn.Linear(hidden, inner, bias=False)
        self.combine = nn.Linear(inner, hidden, bias=False)

    def enter(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time inner"]:
        return self.project(self.norm(x))

    def leave(
        self, x: Float[Tensor, "batch time width"], y: Float[Tensor, "batch time read"]
    ) -> Float[Tensor, "batch time width"]:
        return x + self.combine(y * nn.functional.silu(self.gate(self.norm(x))))


def mamba(
    task: Task,
    hidden: int = 64,
    layers: int = 2,
    state: int = 16,
    expansion: int = 2,
    convolution: int = 4,
    dt_min: float = 0.001,
    dt_max: float = 0.1,
    embedding: EmbeddingFactory = OneHot,
) -> ResidualModel:
    """The selective network; ``state`` is N, the numbers that each of ``expansion`` · ``hidden`` channels carries."""
    return ResidualModel(
        task,
        lambda: MambaBlock(hidden, state, expansion, convolution, dt_min, dt_max),
        hidden,
        layers,
        norm=lambda width: nn.RMSNorm(width, eps=EPSILON),
        embedding=embedding,
    )
