r"""DeltaNet: a linear transformer that corrects what a key recalls instead of adding to it.

    [q̃; k̃; ṽ]_t = SiLU(causal convolution of W_qkv n_t)        n = RMSNorm(x)
    q_t = q̃_t / ‖q̃_t‖        k_t = k̃_t / ‖k̃_t‖        v_t = ṽ_t                       per head
    β_t = σ(W_β n_t)                                                                writing strength
    S_t = S_{t-1} (I - β_t k_t k_tᵀ) + β_t v_t k_tᵀ                                 memory
    x ← x + W_o RMSNorm(S_t q_t)                                                    the norm within each head
    x ← x + SwiGLU(RMSNorm(x))                                                      `layers` times

x the residual stream (batch, time, hidden), at the start the embedded input; q, k, v (batch, head, hidden / heads),
β (batch, head), S (batch, head, values, keys); each channel is convolved by itself, over `convolution` times.

S_{t-1} is multiplied by a matrix with the eigenvalue 1 - β_t along k_t: in (0, 1), or with `negative_eigenvalues`,
where β_t = 2 σ(·), in (-1, 1). A reflection, which β = 2 is, lets one layer count parity.

Source: Yang et al. 2024, arXiv:2406.06484, section 3; eigenvalues: Grazzi et al. 2024, arXiv:2411.12537; SwiGLU:
Shazeer 2020, arXiv:2002.05202.
Differs: the query is not divided by the root of its width, which the authors' code does and which the norm after it
takes away again, but for its 1e-5. Lengths are ‖·‖ = √(Σ ·² + 1e-6). There is no dropout.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.block import Block
from retrograde.core.contracts import Task
from retrograde.layers.delta_rule import DeltaRuleCell
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.feedforward import SwiGLU
from retrograde.layers.residual import ResidualModel

EPSILON = 1e-5
"""What the norms add to a mean square, as in the authors' code."""


class DeltaNetBlock(Block):
    """The delta rule and a feed-forward layer, each behind a norm and beside a residual path."""

    def __init__(self, hidden: int, heads: int, convolution: int, negative_eigenvalues: bool) -> None:
        super().__init__()
        self.strongest = 2.0 if negative_eigenvalues else 1.0
        self.recurrence: DeltaRuleCell = DeltaRuleCell(
            hidden, hidden, heads, convolution, decays=False, strongest=self.strongest
        )
        self.norm = nn.RMSNorm(hidden, eps=EPSILON)
        self.project = nn.Linear(hidden, 3 * hidden, bias=False)
        self.strength = nn.Linear(hidden, heads, bias=False)
        self.head_norm = nn.RMSNorm(hidden // heads, eps=EPSILON)
        self.combine = nn.Linear(hidden, hidden, bias=False)
        self.feedforward = nn.Sequential(nn.RMSNorm(hidden, eps=EPSILON), SwiGLU(hidden))

    def enter(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time inner"]:
        x = self.norm(x)
        return torch.cat([self.project(x), self.strongest * torch.sigmoid(self.strength(x))], -1)

    def leave(
        self, x: Float[Tensor, "batch time width"], y: Float[Tensor, "batch time read"]
    ) -> Float[Tensor, "batch time width"]:
        heads = y.unflatten(-1, (self.recurrence.heads, -1))
        x = x + self.combine(self.head_norm(heads).flatten(-2))
        return x + self.feedforward(x)


def deltanet(
    task: Task,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    convolution: int = 4,
    negative_eigenvalues: bool = False,
    embedding: EmbeddingFactory = OneHot,
) -> ResidualModel:
    """The delta network; ``convolution`` is the width of the short one on queries, keys and values, 1 for none."""
    return ResidualModel(
        task,
        lambda: DeltaNetBlock(hidden, heads, convolution, negative_eigenvalues),
        hidden,
        layers,
        norm=lambda width: nn.RMSNorm(width, eps=EPSILON),
        embedding=embedding,
    )
