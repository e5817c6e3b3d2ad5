r"""Dot score.

    e_j = q · m_j

Source: Luong, Pham, Manning 2015, arXiv:1508.04025, section 3.1, "dot".
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from retrograde.layers.scores.score import Score, require_equal_widths


class Dot(Score):
    """The plain product of query and slot."""

    def __init__(self, query: int, memory: int) -> None:
        super().__init__()
        require_equal_widths("dot", query, memory)

    def energy(
        self, weights: Mapping[str, Tensor], query: Float[Tensor, "... query"], keys: Float[Tensor, "... slots key"]
    ) -> Float[Tensor, "... slots"]:
        return torch.einsum("...k,...sk->...s", query, keys)
