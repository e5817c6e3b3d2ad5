r"""Long short-term memory, with a forget gate.

    i_t = σ(W_i x_t + U_i h_{t-1} + b_i)              input gate
    f_t = σ(W_f x_t + U_f h_{t-1} + b_f)              forget gate
    g_t = tanh(W_g x_t + U_g h_{t-1} + b_g)           candidate
    o_t = σ(W_o x_t + U_o h_{t-1} + b_o)              output gate
    c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t                   cell
    h_t = o_t ⊙ tanh(c_t)                             hidden

x input (batch, width), h and c (batch, hidden); ⊙ is elementwise. Each bias is the sum of two, as in torch.nn.LSTM.

Source: Hochreiter & Schmidhuber 1997, Neural Computation 9; forget gate: Gers, Schmidhuber, Cummins 2000.
Differs: no peepholes; squashing by tanh rather than by the 1997 paper's own functions g and h.
"""

import torch

from retrograde.core.contracts import Task
from retrograde.layers.cells import LSTMCell
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.recurrent import RecurrentModel


def lstm(
    task: Task,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    forget_bias: float = 1.0,
    embedding: EmbeddingFactory = OneHot,
) -> RecurrentModel:
    """The gated network; b_f starts at ``forget_bias`` (1 as in Jozefowicz 2015; Gers 2000 takes 0 and more)."""

    def make(width: int) -> LSTMCell:
        cell = LSTMCell(width, hidden)
        weights = cell.weights()
        with torch.no_grad():
            weights["input_bias"][hidden : 2 * hidden] = forget_bias
            weights["recurrent_bias"][hidden : 2 * hidden] = 0.0
        return cell

    return RecurrentModel(task, make, layers, bidirectional, dropout, embedding)
