r"""Transformer with a sliding window: each position sees the last `window` ones, itself included.

    A_ij = 0 unless i - window < j ≤ i
    x ← x + Attention(LayerNorm(x))
    x ← x + W_2 max(0, W_1 LayerNorm(x) + b_1) + b_2        `layers` times
    y = V LayerNorm(x) + d

x the residual stream (batch, time, width), at the start the embedded input plus its position; A the attention map
(batch, head, query, key). An output sees the last 1 + layers·(window - 1) inputs. Time and memory grow with
time · window. It is `transformer` but for the mask.

Source: Beltagy, Peters, Cohan 2020, arXiv:2004.05150, section 3.1; causal, as its language model and Jiang et al. 2023,
arXiv:2310.06825, section 2.
Differs: one window for all layers and heads, no dilation, no global attention; the norm comes first, as in the latter,
and is a LayerNorm; the rest as in `transformer`.
"""

from retrograde.core.contracts import Task
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.positions import PositionFactory, Sinusoidal
from retrograde.layers.transformer import Transformer


def transformer_local(
    task: Task,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    feedforward: int = 256,
    dropout: float = 0.0,
    window: int = 16,
    scaling: bool = True,
    residual: bool = True,
    normalisation: bool = True,
    position: PositionFactory = Sinusoidal,
    embedding: EmbeddingFactory = OneHot,
) -> Transformer:
    """The pre-norm decoder that looks back ``window`` - 1 positions in each layer."""
    return Transformer(
        task,
        hidden,
        layers,
        heads,
        feedforward,
        dropout,
        window=window,
        scaling=scaling,
        residual=residual,
        normalisation=normalisation,
        position=position,
        embedding=embedding,
    )
