r"""Concat score.

    e_j = vᵀ tanh(W [q; m_j])

Source: Luong, Pham, Manning 2015, arXiv:1508.04025, eq. 8, "concat". With W cut in two it is the additive score; the
one matrix has one initialisation, over both widths together.
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
        self.together = nn.Linear(query + memory, width or query, bias=False)
        self.weigh = nn.Linear(width or query, 1, bias=False)

    def energy(
        self, weights: Mapping[str, Tensor], query: Float[Tensor, "... query"], keys: Float[Tensor, "... slots key"]
    ) -> Float[Tensor, "... slots"]:
        lead = torch.broadcast_shapes(query.shape[:-1], keys.shape[:-2])
        spread = query.unsqueeze(-2).expand(*lead, keys.shape[-2], query.shape[-1])
        pair = torch.cat([spread, keys.expand(*lead, *keys.shape[-2:])], -1)
        return (torch.tanh(pair @ weights["together.weight"].mT) @ weights["weigh.weight"].mT).squeeze(-1)
