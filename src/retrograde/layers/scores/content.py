r"""Content score.

    e_j = β (q · m_j) / (‖q‖ ‖m_j‖)          β = softplus(w · q + b)

Source: Graves, Wayne, Danihelka 2014, arXiv:1410.5401, eqs. 5 and 6: cosine similarity, sharpened by a key strength.
Differs: the key is the decoder's state itself; the strength is a softplus of it.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.layers.scores.score import Score, require_equal_widths


class Content(Score):
    """Cosine similarity times a strength that the query sets."""

    def __init__(self, query: int, memory: int) -> None:
        super().__init__()
        require_equal_widths("content", query, memory)
        self.strength = nn.Linear(query, 1)

    def keys(self, memory: Float[Tensor, "batch slots memory"]) -> Float[Tensor, "batch slots key"]:
        """``m_j / ‖m_j‖``."""
        return nn.functional.normalize(memory, dim=-1)

    def energy(
        self, weights: Mapping[str, Tensor], query: Float[Tensor, "... query"], keys: Float[Tensor, "... slots key"]
    ) -> Float[Tensor, "... slots"]:
        strength = query @ weights["strength.weight"].mT + weights["strength.bias"].unsqueeze(-2)
        similarity = torch.einsum("...k,...sk->...s", nn.functional.normalize(query, dim=-1), keys)
        return torch.nn.functional.softplus(strength) * similarity
