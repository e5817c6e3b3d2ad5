"""A recurrence and what a paper puts around it, position by position: norms, projections, gates, residual paths."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.recurrence import Recurrence


class Block(nn.Module, ABC):
    """One layer of a residual stack.

        u_t = enter(x_t)        z_t = step(u_t, z_{t-1})        y_t = read(u_t, z_t)        x'_t = leave(x_t, y_t)

    ``enter`` and ``leave`` treat every position alike and alone, so that only the recurrence carries anything through
    time: whatever looks back, a short convolution too, belongs to its state.
    """

    recurrence: Recurrence

    @abstractmethod
    def enter(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time inner"]:
        """What the recurrence reads."""

    @abstractmethod
    def leave(
        self, x: Float[Tensor, "batch time width"], y: Float[Tensor, "batch time read"]
    ) -> Float[Tensor, "batch time width"]:
        """What the next layer reads, of the block's input and of what the recurrence gave at the same position."""
