r"""Transformer encoder: every position sees every other, before and after it.

    x ← LayerNorm(x + Attention(x))
    x ← LayerNorm(x + W_2 max(0, W_1 x + b_1) + b_2)        `layers` times
    y = V x + d

x the residual stream (batch, time, width), at the start the embedded input plus its position; attention is over all
positions that are no padding. It is `transformer_postnorm` without the causal mask.

Source: Vaswani et al. 2017, arXiv:1706.03762, sections 3.1 to 3.3 and 3.5.
Differs: a read-out at every position in place of a decoder; no dropout of the embedded input; inputs are not multiplied
by √width; weights start as torch.nn.Linear's.
"""

from retrograde.core.contracts import Task
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.positions import PositionFactory, Sinusoidal
from retrograde.layers.transformer import Transformer


def transformer_encoder(
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
    """The post-norm encoder, not causal; 1/√d, residual path and LayerNorm are there to be switched off."""
    return Transformer(
        task,
        hidden,
        layers,
        heads,
        feedforward,
        dropout,
        norm_first=False,
        causal=False,
        scaling=scaling,
        residual=residual,
        normalisation=normalisation,
        position=position,
        embedding=embedding,
    )
