r"""Simple recurrent network.

    h_t = tanh(W x_t + b + U h_{t-1} + c)
    y_t = V h_t + d

x input (batch, width), h hidden (batch, hidden), y output.

Source: Elman 1990, "Finding structure in time", Cognitive Science 14; ``radius``: Pascanu, Mikolov, Bengio 2013,
arXiv:1211.5063, section 4, 0.95 with tanh.
Differs: tanh in place of the logistic function, as in torch.nn.RNN, whose initialisation is taken over: the spectral
radius of U is then about 0.58, and a gradient falls by half at every step. In the paper of 2013 only fifteen entries of
a row are not zero.
"""

import torch

from retrograde.core.choices import require_at_least
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
    radius: float | None = None,
    embedding: EmbeddingFactory = OneHot,
) -> RecurrentModel:
    """The plain recurrent network; U starts with the spectral ``radius``, or as torch.nn.RNN's where that is None."""
    if radius is not None:
        require_at_least("radius", radius, 0)

    def make(width: int) -> ElmanCell:
        cell = ElmanCell(width, hidden)
        if radius is not None:
            recurrent = cell.weights()["recurrent"]
            with torch.no_grad():
                recurrent *= radius / torch.linalg.eigvals(recurrent).abs().max()
        return cell

    return RecurrentModel(task, make, layers, bidirectional, dropout, embedding)
