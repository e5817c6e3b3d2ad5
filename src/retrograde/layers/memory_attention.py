"""A decoder's look at the encoder's outputs: a score, and a window over what it says."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retrograde.layers.scores.score import ScoreFactory
from retrograde.layers.windows.window import WindowFactory


class MemoryAttention(nn.Module):
    r"""The mean of the memory by what a query makes of each slot.

        a_t = window(score(q_t, m_1), …, score(q_t, m_S))          c_t = Σ_j a_tj m_j

    ``look`` is pure and broadcasts over axes before the batch's: it can stand inside a recurrence's step, and serve all
    target positions at once where these come first.
    """

    def __init__(self, query: int, memory: int, score: ScoreFactory, window: WindowFactory) -> None:
        super().__init__()
        self.score = score(query, memory)
        self.window = window(query)

    def weights(self) -> dict[str, Tensor]:
        """What ``look`` reads of the module itself."""
        return dict(self.named_parameters())

    def remembered(
        self, memory: Float[Tensor, "batch slots memory"], lengths: Int[Tensor, " batch"]
    ) -> dict[str, Tensor]:
        """What ``look`` reads of a batch of sources."""
        return {"memory": memory, "keys": self.score.keys(memory), "lengths": lengths}

    def energy(self, weights: Mapping[str, Tensor], query: Float[Tensor, "... query"]) -> Float[Tensor, "... slots"]:
        """What the score says of every slot, padding included."""
        return self.score.energy(_within(weights, "score."), query, weights["keys"])

    def look(
        self, weights: Mapping[str, Tensor], query: Float[Tensor, "... query"], time: Float[Tensor, "... 1"]
    ) -> tuple[Float[Tensor, "... memory"], Float[Tensor, "... slots"]]:
        """The context and the weights it was made with; ``weights`` holds ``weights()`` and ``remembered(…)``."""
        energy = self.energy(weights, query)
        share = self.window.share(_within(weights, "window."), energy, query, time, weights["lengths"])
        return context(share, weights["memory"]), share


def context(
    share: Float[Tensor, "... slots"], memory: Float[Tensor, "... slots memory"]
) -> Float[Tensor, "... memory"]:
    """The memory's mean by these weights."""
    return torch.einsum("...s,...sm->...m", share, memory)


def _within(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
