r"""Gated linear attention: each entry of a key is forgotten at a rate that the input sets.

    q_t, k_t, v_t = W_q n_t / √d, W_k n_t, W_v n_t              n = RMSNorm(x), per head
    α_t = σ(W_2 W_1 n_t + b)^{1/τ}                              gate, in (0, 1)
    S_t = diag(α_t) S_{t-1} + k_t v_tᵀ                          memory
    y_t = S_tᵀ q_t
    x ← x + W_o (RMSNorm(y) ⊙ swish(W_r n + b_r))               the norm within each head
    x ← x + SwiGLU(RMSNorm(x))                                  `layers` times

x the residual stream (batch, time, hidden), at the start the embedded input; q, k and α (batch, head, d) with
d = hidden / (2 · heads), v (batch, head, hidden / heads), S (batch, head, keys, values). W_1 has `rank` rows. τ makes
forgetting slow: where the input says nothing, α = 2^{-1/16} = 0.958.

Source: Yang et al. 2023, arXiv:2312.06635, section 4, and the authors' package fla; SwiGLU: Shazeer 2020,
arXiv:2002.05202.
Differs: RMSNorm where the paper writes LN, as in fla. There is no dropout.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.block import Block
from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Task
from retrograde.core.records import State
from retrograde.core.recurrence import Form, HiddenAttention, Recurrence, own_forms
from retrograde.core.sweep import unrolling
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.feedforward import SwiGLU
from retrograde.layers.outer_products import by_head, outer_products
from retrograde.layers.residual import ResidualModel
from retrograde.layers.scanned import scanned
from retrograde.layers.token_matrix import token_matrix

EPSILON = 1e-5
"""What the norms add to a mean square, as in the authors' code."""


class GatedLinearAttentionCell(Recurrence):
    """A memory whose rows decay apart; it reads q, k, log α and v side by side."""

    output: ClassVar[str] = "memory"

    def __init__(self, keys: int, values: int, heads: int) -> None:
        super().__init__()
        require_at_least("heads", heads, 1)
        for name, size in (("keys", keys), ("values", values)):
            if size % heads:
                raise ValueError(f"the width of the {name} must be a multiple of heads; {size} is none of {heads}")
        self.keys, self.values, self.heads = keys, values, heads

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"memory": (self.heads, self.keys // self.heads, self.values // self.heads)}

    @property
    def width(self) -> int:
        return self.values

    def weights(self) -> dict[str, Tensor]:
        return {}

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        _, key, log_decay, value = self.parts(x)
        kept = log_decay.exp().unsqueeze(-1) * state["memory"]
        return {"memory": kept + key.unsqueeze(-1) * value.unsqueeze(-2)}

    def read(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> Tensor:
        query, _, _, _ = self.parts(x)
        return (query.unsqueeze(-2) @ state["memory"]).squeeze(-2).flatten(-2)

    def gates(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        """α."""
        _, _, log_decay, _ = self.parts(x)
        return {"forget": log_decay.exp()}

    def kept(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        """α, for all values of a key's entry."""
        _, _, log_decay, _ = self.parts(x)
        return {"memory": log_decay.exp().unsqueeze(-1).expand_as(state["memory"])}

    def hidden_attention(self, weights: Mapping[str, Tensor], x: Float[Tensor, "batch time width"]) -> HiddenAttention:
        """q_i · (α_{j+1} ⊙ … ⊙ α_i ⊙ k_j) of every head."""
        query, key, log_decay, value = self.parts(x)
        decay = log_decay.exp()
        return HiddenAttention(token_matrix(key, query, lambda i, states: decay[:, i : i + 1] * states), value)

    def parts(self, x: Float[Tensor, "... width"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, log α and v of every head, (..., head, width)."""
        split = x.split([self.keys, self.keys, self.keys, self.values], -1)
        query, key, log_decay, value = (part.unflatten(-1, (self.heads, -1)) for part in split)
        return query, key, log_decay, value


@own_forms.register
def _(recurrence: GatedLinearAttentionCell, inputs: Tensor) -> dict[str, Form]:
    return {"chunked": Form(_chunked)}


def _chunked(
    recurrence: GatedLinearAttentionCell, inputs: Float[Tensor, "batch time width"], initial: State | None = None
) -> Float[Tensor, "batch time values"]:
    start = recurrence.initial_state(inputs) if initial is None else initial
    query, key, log_decay, value = (part.transpose(1, 2) for part in recurrence.parts(inputs))
    return by_head(outer_products(query, key, value, start["memory"], log_decay))


unrolling.register(GatedLinearAttentionCell)(scanned)


class GatedLinearAttentionBlock(Block):
    """Gated linear attention and a feed-forward layer, each behind a norm and beside a residual path."""

    def __init__(self, hidden: int, heads: int, rank: int, temperature: float) -> None:
        super().__init__()
        require_at_least("rank", rank, 1)
        if temperature <= 0:
            raise ValueError(f"temperature must be greater than 0, not {temperature}")
        if hidden % 2:
            raise ValueError(f"hidden must be even, for keys of half the width; {hidden} is not")
        keys = hidden // 2
        self.recurrence = GatedLinearAttentionCell(keys, hidden, heads)
        self.temperature = temperature
        self.scale = (keys // heads) ** -0.5
        self.norm = nn.RMSNorm(hidden, eps=EPSILON)
        self.query = nn.Linear(hidden, keys, bias=False)
        self.key = nn.Linear(hidden, keys, bias=False)
        self.value = nn.Linear(hidden, hidden, bias=False)
        self.forget = nn.Sequential(nn.Linear(hidden, rank, bias=False), nn.Linear(rank, keys))
        self.gate = nn.Linear(hidden, hidden)
        self.head_norm = nn.RMSNorm(hidden // heads, eps=EPSILON)
        self.combine = nn.Linear(hidden, hidden, bias=False)
        self.feedforward = nn.Sequential(nn.RMSNorm(hidden, eps=EPSILON), SwiGLU(hidden))

    def enter(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time inner"]:
        x = self.norm(x)
        log_decay = nn.functional.logsigmoid(self.forget(x)) / self.temperature
        return torch.cat([self.scale * self.query(x), self.key(x), log_decay, self.value(x)], -1)

    def leave(
        self, x: Float[Tensor, "batch time width"], y: Float[Tensor, "batch time read"]
    ) -> Float[Tensor, "batch time width"]:
        normed = self.head_norm(y.unflatten(-1, (self.recurrence.heads, -1))).flatten(-2)
        x = x + self.combine(normed * nn.functional.silu(self.gate(self.norm(x))))
        return x + self.feedforward(x)


def gla(
    task: Task,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    rank: int = 16,
    temperature: float = 16.0,
    embedding: EmbeddingFactory = OneHot,
) -> ResidualModel:
    """The gated linear transformer; ``temperature`` is τ, ``hidden`` a multiple of twice the heads."""
    return ResidualModel(
        task,
        lambda: GatedLinearAttentionBlock(hidden, heads, rank, temperature),
        hidden,
        layers,
        norm=lambda width: nn.RMSNorm(width, eps=EPSILON),
        embedding=embedding,
    )
