r"""Simple recurrent network of rectified linear units.

    h_t = max(0, W x_t + b + U h_{t-1} + c)
    y_t = V h_t + d

x input (batch, width), h hidden (batch, hidden), y output. The derivative of an active unit is 1 and never less, so
only U makes the gradient shrink or grow: dh_t/dh_{t-1} is U without the rows of the units that are silent at t.

Source: Elman 1990, "Finding structure in time", Cognitive Science 14; the unit: Nair & Hinton 2010, ICML.
Differs: the unit in place of the logistic function; weights and biases start as those of torch.nn.RNN, uniform within
1/√hidden. See ``irnn`` for the start that Le et al. 2015 found this network to need for long memory.
"""

from retrograde.core.contracts import Task
from retrograde.layers.cells import ElmanCell
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.recurrent import RecurrentModel


def elman_relu(
    task: Task,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    embedding: EmbeddingFactory = OneHot,
) -> RecurrentModel:
    """The plain recurrent network with units that do not saturate."""
    return RecurrentModel(
        task, lambda width: ElmanCell(width, hidden, "relu"), layers, bidirectional, dropout, embedding
    )
