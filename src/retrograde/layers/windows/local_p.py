r"""Predictive local window.

    p_t = (S - 1) σ(vᵀ tanh(W q_t))
    a_tj = softmax_j(e_tj) exp(-(j - p_t)² / (2 σ²))          over |j - p_t| ≤ D, σ = D / 2

S the source's length. The weights do not sum to 1: the Gaussian takes from them what lies away from p_t.

Source: Luong, Pham, Manning 2015, arXiv:1508.04025, eqs. 9 and 10, "local-p".
Differs: S - 1 for S, so that the last position, counted from 0, is the farthest that p_t can be.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retrograde.core.choices import require_at_least
from retrograde.layers.windows.window import Window, filled, shared


class LocalP(Window):
    """``reach`` slots on both sides of a place that the query predicts."""

    def __init__(self, query: int, reach: int = 10) -> None:
        super().__init__()
        require_at_least("window.reach", reach, 1)
        self.reach = reach
        self.hidden = nn.Linear(query, query, bias=False)
        self.place = nn.Linear(query, 1, bias=False)

    def share(
        self,
        weights: Mapping[str, Tensor],
        energy: Float[Tensor, "... slots"],
        query: Float[Tensor, "... query"],
        time: Float[Tensor, "... 1"],
        lengths: Int[Tensor, " batch"],
    ) -> Float[Tensor, "... slots"]:
        slots = energy.shape[-1]
        predicted = torch.sigmoid(torch.tanh(query @ weights["hidden.weight"].mT) @ weights["place.weight"].mT)
        distance = torch.arange(slots, device=energy.device) - (lengths - 1).unsqueeze(-1) * predicted
        near = shared(energy, (distance.abs() <= self.reach) & filled(lengths, slots))
        return near * torch.exp(-2 * (distance / self.reach).square())
