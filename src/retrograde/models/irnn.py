r"""Recurrent network of rectified linear units that starts as the identity.

    h_t = max(0, W x_t + b + U h_{t-1} + c)        U = scale · I, b = c = 0, W ~ N(0, 0.001²) at the start
    y_t = V h_t + d

x input (batch, width), h hidden (batch, hidden), y output. While units stay active the gradient is copied unchanged
from step to step; nothing keeps it so in training.

Source: Le, Jaitly, Hinton 2015, arXiv:1504.00941, section 3.
Differs: the read-out keeps torch.nn.Linear's initialisation; the paper draws all other weights from N(0, 0.001²).
"""

import torch
from torch import nn

from retrograde.core.contracts import Task
from retrograde.layers.cells import ElmanCell
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.recurrent import RecurrentModel


def irnn(
    task: Task,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    scale: float = 1.0,
    embedding: EmbeddingFactory = OneHot,
) -> RecurrentModel:
    """The network with U = ``scale`` · I; the paper takes 1, and 0.01 where long memory would harm."""

    def make(width: int) -> ElmanCell:
        cell = ElmanCell(width, hidden, "relu")
        weights = cell.weights()
        with torch.no_grad():
            nn.init.normal_(weights["input"], std=0.001)
            weights["recurrent"].copy_(scale * torch.eye(hidden))
            nn.init.zeros_(weights["input_bias"])
            nn.init.zeros_(weights["recurrent_bias"])
        return cell

    return RecurrentModel(task, make, layers, bidirectional, dropout, embedding)
