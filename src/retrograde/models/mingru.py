r"""minGRU: a gated recurrent unit whose gate reads the input alone, so that it trains in parallel over time.

    z_t = σ(W_z x_t + b_z)                    update
    h̃_t = W_h x_t + b_h                       candidate
    h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ h̃_t     hidden

x input (batch, width), h, h̃ and z (batch, hidden); ⊙ is elementwise. Nothing that is not linear stands between two
states: ∂h_t/∂h_{t-1} is the diagonal matrix 1 - z_t, whatever the states are.

Source: Feng et al. 2024, arXiv:2410.01201, section 3.1 and algorithms 1 and 2, the vanilla version.
Differs: not computed in log-space, for which appendix B makes the candidate positive by g(x) = x + 1/2 or σ(x), and
which the paper prefers for its stability: the scan here divides by nothing and needs neither. Layers are put on top of
each other as they are, without the projections, convolutions and residual paths of the paper's experiments.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from retrograde.core.contracts import Task
from retrograde.core.records import State
from retrograde.core.recurrence import affine
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.minimal_cell import MinimalCell
from retrograde.layers.recurrent import RecurrentModel


class MinGRUCell(MinimalCell):
    """h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ h̃_t; the rows of W and b are those of z, then those of h̃."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden, parts=2)

    def kept_and_written(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        """1 - z and z ⊙ h̃."""
        gate, candidate = parts
        update = torch.sigmoid(gate)
        return 1 - update, update * candidate

    def gates(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        gate, _ = affine(x, weights["input"], weights["bias"]).chunk(self.parts, -1)
        return {"update": torch.sigmoid(gate)}


def mingru(
    task: Task,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    embedding: EmbeddingFactory = OneHot,
) -> RecurrentModel:
    """The minimal network with torch.nn.Linear's initialisation, as in the paper's listings."""
    return RecurrentModel(task, lambda width: MinGRUCell(width, hidden), layers, bidirectional, dropout, embedding)
