"""Global window: every position of the source, by one softmax.

Source: Bahdanau et al. 2014, arXiv:1409.0473; the word is Luong's, 2015, arXiv:1508.04025, section 3.1.
"""

from collections.abc import Mapping

from jaxtyping import Float, Int
from torch import Tensor

from retrograde.layers.windows.window import Window, filled, shared


class Global(Window):
    """All slots but padding."""

    def __init__(self, query: int) -> None:
        super().__init__()

    def share(
        self,
        weights: Mapping[str, Tensor],
        energy: Float[Tensor, "... slots"],
        query: Float[Tensor, "... query"],
        time: Float[Tensor, "... 1"],
        lengths: Int[Tensor, " batch"],
    ) -> Float[Tensor, "... slots"]:
        return shared(energy, filled(lengths, energy.shape[-1]))
