r"""Concat score.

    e_j = vᵀ tanh(W [q; m_j])

Source: Luong, Pham, Manning 2015, arXiv:1508.04025, section 3.1, "concat". With W cut in two it is the additive score;
the one matrix has one initialisation, over both widths together.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.choices import require_at_least
from retrograde.layers.scores.score import Score


class Concat(Score):
    """One matrix over query and slot side by side, ``width`` units; 0 stands for the query's own width."""

    def __init__(self, query: int, memory: int, width: int = 0) -> None:
        super().__init__()
        require_at_least("score.width", width, 0)
        self.first = query
        self.together = nn.Linear(query + memory, width or query, bias=False)
        self.weigh = nn.Linear(width or query, 1, bias=False)

    def keys(self, memory: Float[Tensor, "batch slots memory"]) -> Float[Tensor, "batch slots key"]:
        """The part of ``W [q; m_j]`` that no query changes."""
        return memory @ self.together.weight[:, self.first :].mT

    def energy(
        self, weights: Mapping[str, Tensor], query: Float[Tensor, "... query"], keys: Float[Tensor, "... slots key"]
    ) -> Float[Tensor, "... slots"]:
        asked = query @ weights["together.weight"][..., : self.first].mT
        return (torch.tanh(asked.unsqueeze(-2) + keys) @ weights["weigh.weight"].mT).squeeze(-1)
