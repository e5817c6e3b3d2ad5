r"""Linear attention: a transformer whose softmax is a product of features, so that it is a recurrence.

    [q; k; v]_t = W LayerNorm(x_t) + b                          per head
    φ(u) = elu(u) + 1                                           features, positive
    S_t = S_{t-1} + φ(k_t) v_tᵀ                                 memory
    z_t = z_{t-1} + φ(k_t)                                      normaliser
    y_t = S_tᵀ φ(q_t) / (z_t · φ(q_t) + 1e-6)
    x ← x + W_o y + b_o
    x ← x + W_2 max(0, W_1 LayerNorm(x) + b_1) + b_2            `layers` times

x the residual stream (batch, time, hidden), at the start the embedded input with its position; q, k, v
(batch, head, hidden / heads), S (batch, head, keys, values), z (batch, head, keys).

Source: Katharopoulos et al. 2020, arXiv:2006.16236, eqs. 7 and 16-20; 1e-6: the authors' code.
Differs: the norm stands before each sublayer (Xiong et al. 2020, arXiv:2002.04745), and so there is a last one;
positions are sinusoids of width `hidden` beside the embedded input, both through one projection, where a transformer
adds them after it: the same but for a matrix that is learned; no dropout.
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
from retrograde.layers.outer_products import by_head, outer_products
from retrograde.layers.residual import ResidualModel
from retrograde.layers.scanned import scanned

SMALLEST = 1e-6
"""What is added to the normaliser."""


class LinearAttentionCell(Recurrence):
    """Memory and normaliser; it reads q, k and v side by side, before φ."""

    output: ClassVar[str] = "memory"

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        require_at_least("heads", heads, 1)
        if hidden % heads:
            raise ValueError(f"hidden must be a multiple of heads; {hidden} is none of {heads}")
        self.hidden, self.heads = hidden, heads

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        size = self.hidden // self.heads
        return {"memory": (self.heads, size, size), "normaliser": (self.heads, size)}

    @property
    def width(self) -> int:
        return self.hidden

    def weights(self) -> dict[str, Tensor]:
        return {}

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        _, key, value = self.parts(x)
        return {
            "memory": state["memory"] + key.unsqueeze(-1) * value.unsqueeze(-2),
            "normaliser": state["normaliser"] + key,
        }

    def read(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> Tensor:
        query, _, _ = self.parts(x)
        found = (query.unsqueeze(-2) @ state["memory"]).squeeze(-2)
        return (found / ((query * state["normaliser"]).sum(-1, keepdim=True) + SMALLEST)).flatten(-2)

    def kept(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        """1, whatever the input."""
        return {name: torch.ones_like(value[..., :1]).expand_as(value) for name, value in state.items()}

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """1, for every entry of a key in every head."""
        size = self.hidden // self.heads
        return {"memory": torch.ones(self.heads * size), "normaliser": torch.ones(self.heads * size)}

    def hidden_attention(self, weights: Mapping[str, Tensor], x: Float[Tensor, "batch time width"]) -> HiddenAttention:
        """φ(q_i) · φ(k_j) over its sum along j, of every head."""
        query, key, value = self.parts(x)
        products = (query.transpose(1, 2) @ key.transpose(1, 2).mT).tril()
        return HiddenAttention(products / (products.sum(-1, keepdim=True) + SMALLEST), value)

    def parts(self, x: Float[Tensor, "... width"]) -> tuple[Tensor, Tensor, Tensor]:
        """φ(q), φ(k) and v of every head, (..., head, width)."""
        query, key, value = x.unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return features(query), features(key), value


def features(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """φ: elu(x) + 1."""
    return nn.functional.elu(x) + 1


@own_forms.register
def _(recurrence: LinearAttentionCell, inputs: Tensor) -> dict[str, Form]:
    return {"chunked": Form(_chunked)}


def _chunked(
    recurrence: LinearAttentionCell, inputs: Float[Tensor, "batch time width"], initial: State | None = None
) -> Float[Tensor, "batch time hidden"]:
    start = recurrence.initial_state(inputs) if initial is None else initial
    query, key, value = (part.transpose(1, 2) for part in recurrence.parts(inputs))
    # a value that is always 1 sums the keys up
    value = torch.cat([value, torch.ones_like(value[..., :1])], -1)
    memory = torch.cat([start["memory"], start["normaliser"].unsqueeze(-1)], -1)
    made = outer_products(query, key, value, memory)
    return by_head(made[..., :-1] / (made[..., -1:] + SMALLEST))


unrolling.register(LinearAttentionCell)(scanned)


class LinearAttentionBlock(Block):
    """Linear attention and a feed-forward layer, each behind a norm and beside a residual path."""

    def __init__(self, hidden: int, heads: int, feedforward: int) -> None:
        super().__init__()
        require_at_least("feedforward", feedforward, 1)
        self.recurrence = LinearAttentionCell(hidden, heads)
        self.norm = nn.LayerNorm(hidden)
        self.project = nn.Linear(hidden, 3 * hidden)
        self.combine = nn.Linear(hidden, hidden)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(hidden), nn.Linear(hidden, feedforward), nn.ReLU(), nn.Linear(feedforward, hidden)
        )

    def enter(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time inner"]:
        return self.project(self.norm(x))

    def leave(
        self, x: Float[Tensor, "batch time width"], y: Float[Tensor, "batch time read"]
    ) -> Float[Tensor, "batch time width"]:
        x = x + self.combine(y)
        return x + self.feedforward(x)


def linear_attention(
    task: Task,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    feedforward: int = 256,
    embedding: EmbeddingFactory = OneHot,
) -> ResidualModel:
    """The linear transformer; ``hidden`` must be a multiple of ``heads``."""
    return ResidualModel(
        task,
        lambda: LinearAttentionBlock(hidden, heads, feedforward),
        hidden,
        layers,
        embedding=embedding,
        positions=hidden,
    )
