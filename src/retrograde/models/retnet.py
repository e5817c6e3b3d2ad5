r"""Retentive network: linear attention that forgets at a rate of each head's own and turns with time.

    [q; k; v]_t = W_qkv n_t,  k_t ← k_t / √d                    n = LayerNorm(x), per head
    S_t = γ_h R S_{t-1} + k_t v_tᵀ                              memory
    y_t = S_tᵀ q_t
    γ_h = 1 - 2^{-5-h}                                          h = 0 … heads - 1
    x ← x + W_o (GroupNorm(y) ⊙ swish(W_g n))                   a group is a head
    x ← x + W_2 gelu(W_1 LayerNorm(x) + b_1) + b_2              `layers` times

x the residual stream (batch, time, hidden), at the start the embedded input; q and k (batch, head, d) with
d = hidden / heads, v `expansion` times as wide, as is the inside of the feed-forward layer; S (batch, head, keys,
values). R turns the pair of entries 2i and 2i+1 of a key by the angle -10000^{-2i/d}: after t - j steps

    y_t = Σ_{j≤t} γ^{t-j} (R^{t-j} k_j · q_t) v_j

which is what turning both q and k by their own times gives (rotary positions). Turned step by step inside the state,
no step has to know what time it is.

Source: Sun et al. 2023, arXiv:2307.08621, eqs. 5-9; widths: section 3.1.
Differs: γ is the default, that of equation 8, where the experiments of section 3.1 have, for a fair comparison,
γ = 1 - exp(linspace(log 1/32, log 1/512, heads)); angles as in rotary positions (Su et al. 2021, arXiv:2104.09864),
where the authors' code has 10000^{-i/(d/2-1)}; LayerNorm and GELU as the paper has them, where the authors' code has
come to RMSNorm and a gated layer; the scores are not divided by their sums, which the paper does for the sake of
precision and which GroupNorm takes away again but for its 1e-5; there is no dropout.
"""

import math
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
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.outer_products import by_head, decay_between, outer_products
from retrograde.layers.positions import rotated
from retrograde.layers.residual import ResidualModel


class RetentionCell(Recurrence):
    """A turning, decaying memory; it reads q, k and v side by side."""

    output: ClassVar[str] = "memory"

    def __init__(self, keys: int, values: int, heads: int) -> None:
        super().__init__()
        require_at_least("heads", heads, 1)
        if keys % (2 * heads):
            raise ValueError(f"hidden must be a multiple of twice the heads; {keys} is none of {2 * heads}")
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
        _, key, value = self.parts(x)
        kept = log_decay(self.heads, x).exp()[:, None, None] * turned(state["memory"])
        return {"memory": kept.to(x.dtype) + key.unsqueeze(-1) * value.unsqueeze(-2)}

    def read(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> Tensor:
        query, _, _ = self.parts(x)
        return (query.unsqueeze(-2) @ state["memory"]).squeeze(-2).flatten(-2)

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """γ e^{-iθ} for every head and every pair of a key's entries; the other eigenvalue of a pair is its conjugate.

        No entry is carried on by itself, only pairs of them are: so nothing is ``kept``.
        """
        angle = angles(self.keys // self.heads, torch.empty(0))
        decay = log_decay(self.heads, angle).exp().unsqueeze(-1)
        return {"memory": torch.polar(decay.expand(-1, len(angle)), -angle.expand(self.heads, -1)).flatten()}

    def hidden_attention(self, weights: Mapping[str, Tensor], x: Float[Tensor, "batch time width"]) -> HiddenAttention:
        """(R^{i-j} k_j · q_i) γ^{i-j} of every head."""
        query, key, value = self.parts(x)
        turned_query, turned_key = (rotated(part.transpose(1, 2)) for part in (query, key))
        decay = log_decay(self.heads, x).view(1, -1, 1, 1).expand(-1, -1, x.shape[1], -1)
        return HiddenAttention(turned_query @ turned_key.mT * decay_between(decay), value)

    def parts(self, x: Float[Tensor, "... width"]) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v of every head, (..., head, width)."""
        split = x.split([self.keys, self.keys, self.values], -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)) for part in split)
        return query, key, value


def log_decay(heads: int, like: Tensor) -> Float[Tensor, " head"]:
    """log γ of every head; in float32 at least, because to half precision most of them are 1."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.log1p(-torch.exp2(-5 - torch.arange(heads, device=like.device, dtype=dtype)))


def turned(memory: Float[Tensor, "*batch keys values"]) -> Float[Tensor, "*batch keys values"]:
    """R S: the memory one step later, at every pair of rows 2i, 2i+1."""
    angle = angles(memory.shape[-2], memory).unsqueeze(-1)
    sin, cos = angle.sin(), angle.cos()
    even, odd = memory.unflatten(-2, (-1, 2)).unbind(-2)
    return torch.stack([even * cos + odd * sin, odd * cos - even * sin], -2).flatten(-3, -2)


def angles(width: int, like: Tensor) -> Float[Tensor, " pairs"]:
    """By how much each pair of entries turns in a step; in float32 at least."""
    pair = torch.arange(width // 2, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
    return torch.exp(-math.log(10000.0) * 2 * pair / width)


@own_forms.register
def _(recurrence: RetentionCell, inputs: Tensor) -> dict[str, Form]:
    return {"chunked": Form(_chunked)}


def _chunked(
    recurrence: RetentionCell, inputs: Float[Tensor, "batch time width"], initial: State | None = None
) -> Float[Tensor, "batch time values"]:
    start = recurrence.initial_state(inputs) if initial is None else initial
    query, key, value = (part.transpose(1, 2) for part in recurrence.parts(inputs))
    decay = log_decay(recurrence.heads, inputs).view(1, -1, 1, 1)
    # turned by times from 0 on: the state before them is one step earlier
    made = outer_products(rotated(query), rotated(key), value, turned(start["memory"]), decay)
    return by_head(made)


class RetentionBlock(Block):
    """Gated retention and a feed-forward layer, each behind a norm and beside a residual path."""

    def __init__(self, hidden: int, heads: int, expansion: int) -> None:
        super().__init__()
        require_at_least("expansion", expansion, 1)
        values = expansion * hidden
        self.recurrence = RetentionCell(hidden, values, heads)
        self.scale = (hidden // heads) ** -0.5
        self.norm = nn.LayerNorm(hidden)
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.key = nn.Linear(hidden, hidden, bias=False)
        self.value = nn.Linear(hidden, values, bias=False)
        self.gate = nn.Linear(hidden, values, bias=False)
        self.head_norm = nn.GroupNorm(heads, values)
        self.combine = nn.Linear(values, hidden, bias=False)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(hidden), nn.Linear(hidden, values), nn.GELU(), nn.Linear(values, hidden)
        )

    def enter(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time inner"]:
        x = self.norm(x)
        return torch.cat([self.query(x), self.scale * self.key(x), self.value(x)], -1)

    def leave(
        self, x: Float[Tensor, "batch time width"], y: Float[Tensor, "batch time read"]
    ) -> Float[Tensor, "batch time width"]:
        normed = self.head_norm(y.flatten(0, 1)).view_as(y)
        x = x + self.combine(normed * nn.functional.silu(self.gate(self.norm(x))))
        return x + self.feedforward(x)


def retnet(
    task: Task,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    expansion: int = 2,
    embedding: EmbeddingFactory = OneHot,
) -> ResidualModel:
    """The retentive network; ``expansion`` is the width of values and feed-forward layer in that of the keys."""
    return ResidualModel(task, lambda: RetentionBlock(hidden, heads, expansion), hidden, layers, embedding=embedding)
