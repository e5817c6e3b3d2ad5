r"""minLSTM: a long short-term memory whose gates read the input alone, so that it trains in parallel over time.

    f_t = σ(W_f x_t + b_f)                                    forget gate
    i_t = σ(W_i x_t + b_i)                                    input gate
    h̃_t = W_h x_t + b_h                                       candidate
    f'_t = f_t / (f_t + i_t)        i'_t = i_t / (f_t + i_t)  the two gates, made to sum to 1
    h_t = f'_t ⊙ h_{t-1} + i'_t ⊙ h̃_t                         hidden

x input (batch, width), h, h̃ and the gates (batch, hidden); ⊙ is elementwise. There is one state: no cell, no output
gate. f' is computed as σ(log f - log i), which is the same and stays a number where both gates are shut.

Source: Feng et al. 2024, arXiv:2410.01201, section 3.2 and algorithms 3 and 4, the vanilla version with length
independence scaling.
Differs: not computed in log-space, for which appendix B makes the candidate positive by g(x) = x + 1/2 or σ(x), and
which the paper prefers for its stability: the scan here divides by nothing and needs neither. Layers are put on top of
each other as they are, without the projections, convolutions and residual paths of the paper's experiments.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.contracts import Task
from retrograde.core.records import State
from retrograde.core.recurrence import affine
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.minimal_cell import MinimalCell
from retrograde.layers.recurrent import RecurrentModel


class MinLSTMCell(MinimalCell):
    """h_t = f'_t ⊙ h_{t-1} + i'_t ⊙ h̃_t; the rows of W and b are those of f, then those of i, then those of h̃."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden, parts=3)

    def kept_and_written(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        """f' and i' ⊙ h̃."""
        forget_gate, input_gate, candidate = parts
        ratio = nn.functional.logsigmoid(forget_gate) - nn.functional.logsigmoid(input_gate)
        return torch.sigmoid(ratio), torch.sigmoid(-ratio) * candidate

    def gates(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        """f and i, before they are made to sum to 1."""
        forget_gate, input_gate, _ = affine(x, weights["input"], weights["bias"]).chunk(self.parts, -1)
        return {"forget": torch.sigmoid(forget_gate), "input": torch.sigmoid(input_gate)}


def minlstm(
    task: Task,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    embedding: EmbeddingFactory = OneHot,
) -> RecurrentModel:
    """The minimal network with torch.nn.Linear's initialisation, as in the paper's listings."""
    return RecurrentModel(task, lambda width: MinLSTMCell(width, hidden), layers, bidirectional, dropout, embedding)
