r"""General score.

    e_j = qᵀ W m_j

Source: Luong, Pham, Manning 2015, arXiv:1508.04025, section 3.1, "general".
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.layers.scores.score import Score


class General(Score):
    """A product with a learned matrix in between."""

    def __init__(self, query: int, memory: int) -> None:
        super().__init__()
        self.matrix = nn.Linear(memory, query, bias=False)

    def keys(self, memory: Float[Tensor, "batch slots memory"]) -> Float[Tensor, "batch slots key"]:
        """``W m_j``: the same product, formed once a sequence."""
        return self.matrix(memory)

    def energy(
        self, weights: Mapping[str, Tensor], query: Float[Tensor, "... query"], keys: Float[Tensor, "... slots key"]
    ) -> Float[Tensor, "... slots"]:
        return torch.einsum("...k,...sk->...s", query, keys)
