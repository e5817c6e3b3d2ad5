r"""Linear recurrent unit: a stack of complex diagonal recurrences that begin on a ring in the unit disk.

    u_t = LayerNorm(x_t)
    h_t = λ ⊙ h_{t-1} + e^γ ⊙ (B u_t)              λ = exp(-e^ν + i e^θ)
    y_t = Re(C h_t) + D ⊙ u_t
    x'_t = x_t + (W v_t + b) ⊙ σ(V v_t + c)        v = GELU(y)                      `layers` times

x the residual stream and u, y (batch, time, hidden), h (batch, state) complex, shown as pairs of a real and an
imaginary part; ν, θ, γ (state) and D (hidden) real; B (state, hidden) and C (hidden, state) complex. |λ| =
exp(-e^ν) < 1 whatever ν is, so no state explodes, and ∂h_t/∂h_{t-1} is the diagonal matrix λ at every time.

At the start: |λ|² uniform in [r_min², r_max²], its angle uniform in [0, max_phase], e^γ = √(1 - |λ|²), so that white
noise gives states of the variance of B u; B, C and D Gaussian with variances 1 / (2 hidden), 1 / state for each part of
a number, and 1.

Source: Orvieto et al. 2023, arXiv:2303.06349, section 3 and appendices A and D.1.
Differs: LayerNorm where the paper has batch norm, by which samples would mix; GELU before the gate, as in S4. The same
learning rate and weight decay for all parameters. Only forward in time.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Task
from retrograde.core.records import State
from retrograde.core.recurrence import Form, HiddenAttention, Recurrence, own_forms
from retrograde.core.sweep import unrolling
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.gated_block import GatedBlock
from retrograde.layers.residual import ResidualModel
from retrograde.layers.scanned import scanned
from retrograde.layers.scans import as_complex, as_pairs, scan
from retrograde.layers.token_matrix import toeplitz


class LinearRecurrentUnit(Recurrence):
    """h_t = λ ⊙ h_{t-1} + e^γ ⊙ (B u_t), read as Re(C h_t) + D ⊙ u_t.

    B is kept as the real matrix that makes pairs of parts, C as the one that reads them: its columns are the real
    parts of C's entries and, negative, the imaginary ones.
    """

    output = "state"

    def __init__(self, hidden: int, state: int, r_min: float, r_max: float, max_phase: float) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        require_at_least("state", state, 1)
        if not 0 <= r_min < r_max <= 1:
            raise ValueError(f"the ring needs 0 ≤ r_min < r_max ≤ 1, not r_min {r_min} and r_max {r_max}")
        if max_phase <= 0:
            raise ValueError(f"max_phase must be positive, not {max_phase}")
        self.hidden, self.state = hidden, state
        # in float64: at a radius of nearly 1, float32 would give a γ of log 0
        squared = r_min**2 + (r_max**2 - r_min**2) * (1 - torch.rand(state, dtype=torch.float64))
        radius = squared.sqrt().clamp(1e-9, 1 - 1e-9)
        angle = max_phase * (1 - torch.rand(state, dtype=torch.float64))  # never 0, which has no logarithm
        self.magnitude = nn.Parameter((-radius.log()).log().to(torch.get_default_dtype()))
        self.phase = nn.Parameter(angle.log().to(torch.get_default_dtype()))
        self.scale = nn.Parameter((0.5 * torch.log1p(-radius.square())).to(torch.get_default_dtype()))
        self.input = nn.Parameter(torch.randn(2 * state, hidden) / math.sqrt(2 * hidden))
        self.output_weight = nn.Parameter(torch.randn(hidden, 2 * state) / math.sqrt(state))
        self.skip = nn.Parameter(torch.randn(hidden))

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"state": (self.state, 2)}

    @property
    def width(self) -> int:
        return self.hidden

    def weights(self) -> dict[str, Tensor]:
        """ν, θ, γ, B, C and D."""
        return {
            "magnitude": self.magnitude,
            "phase": self.phase,
            "scale": self.scale,
            "input": self.input,
            "output": self.output_weight,
            "skip": self.skip,
        }

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        before = as_complex(state["state"])
        return {"state": as_pairs(self.decay(weights) * before + self.driven(weights, x), x.dtype)}

    def read(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> Tensor:
        return state["state"].flatten(-2) @ weights["output"].mT + weights["skip"].unsqueeze(-2) * x

    def kept(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        """λ, whatever the input."""
        return {"state": self.decay(weights).expand(x.shape[:-1] + (self.state,))}

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """λ."""
        return {"state": self.decay(weights).flatten()}

    def hidden_attention(self, weights: Mapping[str, Tensor], x: Float[Tensor, "batch time width"]) -> HiddenAttention:
        """λ^{i-j} for every entry of the state, a head whose values are e^γ B u; C mixes the heads, D u is apart."""
        driven = self.driven(weights, x)
        powers = torch.exp(self.log_decay_of(weights).unsqueeze(-1) * torch.arange(x.shape[1], device=x.device))
        matrix = toeplitz(powers).expand(len(x), -1, -1, -1)
        return HiddenAttention(matrix, driven.unsqueeze(-1), weights["output"], weights["skip"] * x)

    def decay(self, weights: Mapping[str, Tensor]) -> Complex[Tensor, "... 1 state"]:
        """λ."""
        return torch.exp(self.log_decay_of(weights)).unsqueeze(-2)

    def log_decay_of(self, weights: Mapping[str, Tensor]) -> Complex[Tensor, "... state"]:
        """log λ."""
        return as_complex(torch.stack([-weights["magnitude"].exp(), weights["phase"].exp()], -1))

    def driven(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"]) -> Complex[Tensor, "... state"]:
        """e^γ ⊙ (B u)."""
        pairs = (x @ weights["input"].mT).unflatten(-1, (self.state, 2))
        return as_complex(pairs * weights["scale"].exp().unsqueeze(-1).unsqueeze(-3))


@own_forms.register
def _(recurrence: LinearRecurrentUnit, inputs: Tensor) -> dict[str, Form]:
    return {"scanned": Form(_scanned)}


def _scanned(
    recurrence: LinearRecurrentUnit, inputs: Float[Tensor, "batch time width"], initial: State | None = None
) -> Float[Tensor, "batch time hidden"]:
    weights = recurrence.weights()
    begin = None if initial is None else as_complex(initial["state"])
    states = scan(recurrence.decay(weights), recurrence.driven(weights, inputs), begin)
    return recurrence.read(weights, inputs, {"state": as_pairs(states, inputs.dtype)})


unrolling.register(LinearRecurrentUnit)(scanned)


def lru(
    task: Task,
    hidden: int = 64,
    layers: int = 2,
    state: int = 64,
    r_min: float = 0.0,
    r_max: float = 1.0,
    max_phase: float = 2 * math.pi,
    dropout: float = 0.0,
    embedding: EmbeddingFactory = OneHot,
) -> ResidualModel:
    """The linear network; ``state`` counts complex numbers, of which each is two of the model's state."""
    return ResidualModel(
        task,
        lambda: GatedBlock(hidden, LinearRecurrentUnit(hidden, state, r_min, r_max, max_phase), dropout),
        hidden,
        layers,
        embedding=embedding,
    )
