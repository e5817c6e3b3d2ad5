"""Scaled dot-product attention of several heads, fused for training and opened up for its maps."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class MultiHeadAttention(nn.Module):
    r"""Each head lets every query look at the keys and takes the mean of the values by what it sees.

        A = softmax(Q Kᵀ / √d)        output = (A V) of all heads side by side, times W_O

    ``turn`` is applied to queries and keys of every head (rotary positions), nothing by default.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.
    """

    def __init__(self, width: int, heads: int, turn: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"the width must be a multiple of heads: {width} is not one of {heads}")
        self.heads = heads
        self.turn = turn
        self.project = nn.Linear(width, 3 * width)
        self.combine = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "batch time width"], visible: Bool[Tensor, "batch 1 query key"] | None = None
    ) -> Float[Tensor, "batch time width"]:
        """Fused. Without ``visible`` each query sees itself and what came before."""
        query, key, value = self._heads(x)
        causal = visible is None
        made = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=visible, is_causal=causal)
        return self.combine(made.transpose(1, 2).flatten(2))

    def trace(
        self, x: Float[Tensor, "batch time width"], visible: Bool[Tensor, "batch 1 query key"] | None = None
    ) -> tuple[Float[Tensor, "batch time width"], Float[Tensor, "batch head query key"]]:
        """The same with the map A; its rows sum to 1."""
        query, key, value = self._heads(x)
        if visible is None:
            visible = x.new_ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        similarity = query @ key.mT / math.sqrt(query.shape[-1])
        weights = torch.softmax(similarity.masked_fill(~visible, -math.inf), -1)
        return self.combine((weights @ value).transpose(1, 2).flatten(2)), weights

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        split = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        if self.turn is not None:
            query, key = self.turn(query), self.turn(key)
        return query, key, value
