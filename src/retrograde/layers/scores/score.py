"""What every attention score of an encoder-decoder promises."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from jaxtyping import Float
from torch import Tensor, nn


class Score(nn.Module, ABC):
    """How well a decoder's query fits each slot of the memory, before the softmax.

    Slots are the encoder's outputs. What of them a score compares with, ``keys``, is formed once a sequence.
    """

    def keys(self, memory: Float[Tensor, "batch slots memory"]) -> Float[Tensor, "batch slots key"]:
        """The memory as ``energy`` compares it: as it is, unless the score projects it."""
        return memory

    @abstractmethod
    def energy(
        self, weights: Mapping[str, Tensor], query: Float[Tensor, "... query"], keys: Float[Tensor, "... slots key"]
    ) -> Float[Tensor, "... slots"]:
        """Pure: it reads ``weights``, this module's parameters by name, and broadcasts over leading axes."""


ScoreFactory = Callable[[int, int], Score]
"""From the widths of query and memory to the score between them."""


def require_equal_widths(score: str, query: int, memory: int) -> None:
    """Raise ValueError where a score that has no matrix in between is given two widths."""
    if query != memory:
        raise ValueError(
            f"score={score} compares vectors of one width, and the decoder's state has {query}, the encoder's output "
            f"{memory}; general, additive, concat and location fit any"
        )
