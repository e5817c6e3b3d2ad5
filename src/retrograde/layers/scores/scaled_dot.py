r"""Scaled dot score.

    e_j = q · m_j / √d

d the width of both.

Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from retrograde.layers.scores.score import Score, require_equal_widths


class ScaledDot(Score):
    """The product of query and slot, kept at one size whatever the width."""

    def __init__(self, query: int, memory: int) -> None:
        super().__init__()
        require_equal_widths("scaled_dot", query, memory)

    def energy(
        self, weights: Mapping[str, Tensor], query: Float[Tensor, "... query"], keys: Float[Tensor, "... slots key"]
    ) -> Float[Tensor, "... slots"]:
        return torch.einsum("...k,...sk->...s", query, keys) / math.sqrt(query.shape[-1])
