"""What every window of an encoder-decoder's attention promises."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class Window(nn.Module, ABC):
    """From energies to the weights of the slots: which slots can be seen at all, and how the rest is shared."""

    @abstractmethod
    def share(
        self,
        weights: Mapping[str, Tensor],
        energy: Float[Tensor, "... slots"],
        query: Float[Tensor, "... query"],
        time: Float[Tensor, "... 1"],
        lengths: Int[Tensor, " batch"],
    ) -> Float[Tensor, "... slots"]:
        """Pure, as ``Score.energy``. ``time`` is the target position that asks, ``lengths`` those of the sources."""


WindowFactory = Callable[[int], Window]
"""From the query's width to the window."""


def filled(lengths: Int[Tensor, " batch"], slots: int) -> Bool[Tensor, "batch slots"]:
    """Which slots hold a position of the source rather than padding."""
    return torch.arange(slots, device=lengths.device) < lengths.unsqueeze(-1)


def shared(energy: Float[Tensor, "... slots"], visible: Bool[Tensor, "... slots"]) -> Float[Tensor, "... slots"]:
    """The softmax over what is visible, zero elsewhere."""
    return torch.softmax(energy.masked_fill(~visible, -torch.inf), -1)
