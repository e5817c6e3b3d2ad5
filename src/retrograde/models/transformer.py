r"""Transformer, decoder only, with the norm before each sublayer.

    x ← x + Attention(LayerNorm(x))
    x ← x + W_2 max(0, W_1 LayerNorm(x) + b_1) + b_2        `layers` times
    y = V LayerNorm(x) + d

x the residual stream (batch, time, width), at the start the embedded input plus its position; attention is causal.

Source: Vaswani et al. 2017, arXiv:1706.03762; the norm's place: Xiong et al. 2020, arXiv:2002.04745.
Differs: no encoder; the last LayerNorm that pre-norm needs; dropout after each sublayer alone; weights start as
torch.nn.Linear's.
"""

from retrograde.core.contracts import Task
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.positions import PositionFactory, Sinusoidal
from retrograde.layers.transformer import Transformer


def transformer(
    task: Task,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    feedforward: int = 256,
    dropout: float = 0.0,
    scaling: bool = True,
    residual: bool = True,
    normalisation: bool = True,
    position: PositionFactory = Sinusoidal,
    embedding: EmbeddingFactory = OneHot,
) -> Transformer:
    """The pre-norm decoder; 1/√d, residual path and LayerNorm are there to be switched off."""
    return Transformer(
        task,
        hidden,
        layers,
        heads,
        feedforward,
        dropout,
        scaling=scaling,
        residual=residual,
        normalisation=normalisation,
        position=position,
        embedding=embedding,
    )
