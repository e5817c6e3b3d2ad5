r"""Simple recurrent network.

    h_t = tanh(W x_t + b + U h_{t-1} + c)
    y_t = V h_t + d

x input (batch, width), h hidden (batch, hidden), y output.

Source: Elman 1990, "Finding structure in time", Cognitive Science 14.
Differs: tanh in place of the logistic function, as in torch.nn.RNN, whose initialisation is taken over.
"""

from retrograde.core.contracts import Task
from retrograde.layers.cells import ElmanCell
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.recurrent import RecurrentModel


def elman(
    task: Task,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    embedding: EmbeddingFactory = OneHot,
) -> RecurrentModel:
    """The plain recurrent network."""
    return RecurrentModel(task, lambda width: ElmanCell(width, hidden), layers, bidirectional, dropout, embedding)
