r"""Gated recurrent unit.

    r_t = σ(W_r x_t + U_r h_{t-1} + b_r)                    reset
    z_t = σ(W_z x_t + U_z h_{t-1} + b_z)                    update
    n_t = tanh(W_n x_t + b_n + r_t ⊙ (U_n h_{t-1} + c_n))   candidate
    h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1}                   hidden

x input (batch, width), h hidden (batch, hidden); ⊙ is elementwise.

Source: Cho et al. 2014, arXiv:1406.1078, eqs. 5-8.
Differs: the reset gate acts after U_n, as in cuDNN; the paper applies it before.
"""

from retrograde.core.contracts import Task
from retrograde.layers.cells import GRUCell
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.recurrent import RecurrentModel


def gru(
    task: Task,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    embedding: EmbeddingFactory = OneHot,
) -> RecurrentModel:
    """The gated network with torch.nn.GRU's initialisation."""
    return RecurrentModel(task, lambda width: GRUCell(width, hidden), layers, bidirectional, dropout, embedding)
