r"""Monotonic local window.

    p_t = t          the softmax over slots p_t - D … p_t + D

Source: Luong, Pham, Manning 2015, arXiv:1508.04025, section 3.2, "local-m".
Differs: behind the source's end p_t stays at its last position, so that there is always something to see.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from retrograde.core.choices import require_at_least
from retrograde.layers.windows.window import Window, filled, shared


class LocalM(Window):
    """The ``reach`` slots on both sides of the one that stands where the target does."""

    def __init__(self, query: int, reach: int = 10) -> None:
        super().__init__()
        require_at_least("window.reach", reach, 0)
        self.reach = reach

    def share(
        self,
        weights: Mapping[str, Tensor],
        energy: Float[Tensor, "... slots"],
        query: Float[Tensor, "... query"],
        time: Float[Tensor, "... 1"],
        lengths: Int[Tensor, " batch"],
    ) -> Float[Tensor, "... slots"]:
        slots = energy.shape[-1]
        centre = torch.minimum(time, (lengths - 1).unsqueeze(-1).to(time.dtype))
        near = (torch.arange(slots, device=energy.device) - centre).abs() <= self.reach
        return shared(energy, near & filled(lengths, slots))
