r"""Gated DeltaNet: the delta rule on a memory that decays.

    [q̃; k̃; ṽ]_t = SiLU(causal convolution of W_qkv n_t)        n = RMSNorm(x)
    q_t = q̃_t / ‖q̃_t‖        k_t = k̃_t / ‖k̃_t‖        v_t = ṽ_t                       per head
    β_t = σ(W_β n_t)                                                                writing strength
    α_t = exp(-softplus(W_α n_t + d) ⊙ e^a)                                         decay
    S_t = α_t S_{t-1} (I - β_t k_t k_tᵀ) + β_t v_t k_tᵀ                             memory
    x ← x + W_o (RMSNorm(S_t q_t) ⊙ SiLU(W_g n_t))                                  the norm within each head
    x ← x + SwiGLU(RMSNorm(x))                                                      `layers` times

x the residual stream (batch, time, hidden), at the start the embedded input; q and k (batch, head, hidden / heads),
v as wide times `expansion`, β and α (batch, head), S (batch, head, values, keys); a and d one number a head; each
channel is convolved by itself, over `convolution` times.

At the start e^a is uniform on (0, 16] and softplus(d) log-uniform on [0.001, 0.1], both as in the authors' code:
memories of one step to many thousands. With `negative_eigenvalues` β_t = 2 σ(·).

Source: Yang et al. 2024, arXiv:2412.06464, section 3; α: Dao & Gu 2024, arXiv:2405.21060; eigenvalues: Grazzi et al.
2024, arXiv:2411.12537; SwiGLU: Shazeer 2020, arXiv:2002.05202.
Differs: keys as wide as the model where the authors' code takes three quarters of it; the query is not divided by
the root of its width, which that code does and which the norm after it takes away again, but for its 1e-5. Lengths are
‖·‖ = √(Σ ·² + 1e-6). There is no dropout. Mamba-2, whose start this is else, draws e^a from [1, 16].
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.block import Block
from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Task
from retrograde.layers.delta_rule import DeltaRuleCell
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.feedforward import SwiGLU
from retrograde.layers.residual import ResidualModel

EPSILON = 1e-5
"""What the norms add to a mean square, as in the authors' code."""

FASTEST = 16.0
"""The greatest e^a at the start, as in the authors' code."""

STEPS = 0.001, 0.1
"""Between which softplus(d) starts, as in the authors' code."""


class GatedDeltaNetBlock(Block):
    """The decaying delta rule and a feed-forward layer, each behind a norm and beside a residual path."""

    def __init__(self, hidden: int, heads: int, expansion: int, convolution: int, negative_eigenvalues: bool) -> None:
        super().__init__()
        require_at_least("expansion", expansion, 1)
        values = expansion * hidden
        self.strongest = 2.0 if negative_eigenvalues else 1.0
        self.recurrence: DeltaRuleCell = DeltaRuleCell(
            hidden, values, heads, convolution, decays=True, strongest=self.strongest
        )
        self.norm = nn.RMSNorm(hidden, eps=EPSILON)
        self.project = nn.Linear(hidden, 2 * hidden + values, bias=False)
        self.strength = nn.Linear(hidden, heads, bias=False)
        self.decay = nn.Linear(hidden, heads, bias=False)
        self.log_rate = nn.Parameter((FASTEST * (1 - torch.rand(heads))).log())  # never log 0
        step = torch.empty(heads).uniform_(math.log(STEPS[0]), math.log(STEPS[1])).exp()
        self.step_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus
        self.gate = nn.Linear(hidden, values, bias=False)
        self.head_norm = nn.RMSNorm(values // heads, eps=EPSILON)
        self.combine = nn.Linear(values, hidden, bias=False)
        self.feedforward = nn.Sequential(nn.RMSNorm(hidden, eps=EPSILON), SwiGLU(hidden))

    def enter(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time inner"]:
        x = self.norm(x)
        strength = self.strongest * torch.sigmoid(self.strength(x))
        log_decay = -nn.functional.softplus(self.decay(x) + self.step_bias) * self.log_rate.exp()
        return torch.cat([self.project(x), strength, log_decay], -1)

    def leave(
        self, x: Float[Tensor, "batch time width"], y: Float[Tensor, "batch time read"]
    ) -> Float[Tensor, "batch time width"]:
        heads = y.unflatten(-1, (self.recurrence.heads, -1))
        gate = nn.functional.silu(self.gate(self.norm(x)))
        x = x + self.combine(self.head_norm(heads).flatten(-2) * gate)
        return x + self.feedforward(x)


def gated_deltanet(
    task: Task,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    expansion: int = 2,
    convolution: int = 4,
    negative_eigenvalues: bool = False,
    embedding: EmbeddingFactory = OneHot,
) -> ResidualModel:
    """The gated delta network; ``expansion`` is the width of the values in that of the keys."""
    return ResidualModel(
        task,
        lambda: GatedDeltaNetBlock(hidden, heads, expansion, convolution, negative_eigenvalues),
        hidden,
        layers,
        norm=lambda width: nn.RMSNorm(width, eps=EPSILON),
        embedding=embedding,
    )
