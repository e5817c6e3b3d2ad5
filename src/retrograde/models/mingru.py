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
from torch import Tensor, nn

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Task
from retrograde.core.records import State
from retrograde.core.recurrence import Recurrence, affine, sequence
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.recurrent import RecurrentModel
from retrograde.layers.scans import scan


class MinGRUCell(Recurrence):
    """h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ h̃_t, gate and candidate of the input alone."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        self.hidden = hidden
        self.project = nn.Linear(inputs, 2 * hidden)

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (self.hidden,)}

    def weights(self) -> dict[str, Tensor]:
        """Those of the gate above those of the candidate."""
        return {"input": self.project.weight, "bias": self.project.bias}

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        keep, write = self.kept_and_written(weights, x)
        return {"hidden": keep * state["hidden"] + write}

    def kept_and_written(self, weights: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """1 - z and z ⊙ h̃."""
        gate, candidate = affine(x, weights["input"], weights["bias"]).chunk(2, -1)
        update = torch.sigmoid(gate)
        return 1 - update, update * candidate


@sequence.register
def _(
    recurrence: MinGRUCell, inputs: Float[Tensor, "batch time width"], initial: State | None = None
) -> Float[Tensor, "batch time hidden"]:
    keep, write = recurrence.kept_and_written(recurrence.weights(), inputs)
    return scan(keep, write, None if initial is None else initial["hidden"])


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
