r"""Location score.

    e = W q

one row of W for each place in the source: the decoder's state alone says where to look, whatever stands there.

Source: Luong, Pham, Manning 2015, arXiv:1508.04025, eq. 8.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.choices import require_at_least
from retrograde.layers.scores.score import Score


class Location(Score):
    """A place for each of the first ``longest`` slots; a longer source is refused."""

    def __init__(self, query: int, memory: int, longest: int = 100) -> None:
        super().__init__()
        require_at_least("score.longest", longest, 1)
        self.longest = longest
        self.places = nn.Linear(query, longest, bias=False)

    def energy(
        self, weights: Mapping[str, Tensor], query: Float[Tensor, "... query"], keys: Float[Tensor, "... slots key"]
    ) -> Float[Tensor, "... slots"]:
        slots = keys.shape[-2]
        if slots > self.longest:
            raise ValueError(f"score=location has {self.longest} places and the source {slots}: raise score.longest")
        return query @ weights["places.weight"][..., :slots, :].mT
