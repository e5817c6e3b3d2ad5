r"""Additive score.

    e_j = vᵀ tanh(W q + U m_j)

W and U map query and slot to `width` units, v weighs these.

Source: Bahdanau, Cho, Bengio 2014, arXiv:1409.0473, appendix A.1.2.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.choices import require_at_least
from retrograde.layers.scores.score import Score


class Additive(Score):
    """A small network with one hidden layer of ``width`` units; 0 stands for the query's own width."""

    def __init__(self, query: int, memory: int, width: int = 0) -> None:
        super().__init__()
        require_at_least("score.width", width, 0)
        self.query = nn.Linear(query, width or query, bias=False)
        self.memory = nn.Linear(memory, width or query, bias=False)
        self.weigh = nn.Linear(width or query, 1, bias=False)

    def keys(self, memory: Float[Tensor, "batch slots memory"]) -> Float[Tensor, "batch slots key"]:
        """``U m_j``, which no query changes."""
        return self.memory(memory)

    def energy(
        self, weights: Mapping[str, Tensor], query: Float[Tensor, "... query"], keys: Float[Tensor, "... slots key"]
    ) -> Float[Tensor, "... slots"]:
        hidden = torch.tanh((query @ weights["query.weight"].mT).unsqueeze(-2) + keys)
        return (hidden @ weights["weigh.weight"].mT).squeeze(-1)
