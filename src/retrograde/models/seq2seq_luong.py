r"""Sequence to sequence with attention after the decoder's cell.

    m_i = encoder(x)_i
    s_j = decoder(E y_{j-1}, s_{j-1})                   s_0 = tanh(W m_end + b)
    e_ji = score(s_j, m_i)                              a_j = window(e_j), softmax over the source by default
    c_j = Σ_i a_ji m_i                                  context
    s̃_j = tanh(W_c [c_j; s_j] + b_c)
    p(y_j | y_<j, x) = softmax(V s̃_j + d)

x source, y target, E the target's embedding, s the output of the decoder's top layer.

Source: Luong, Pham, Manning 2015, arXiv:1508.04025, eqs. 5 to 7.
Differs: no input feeding, so that the decoder's recurrence stands alone and keeps its fused form; W_c has a bias; the
decoder begins with a learned map of the encoder's end.
"""

from functools import partial

from retrograde.core.contracts import Task
from retrograde.layers.decoding import Decoding, Writing
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.encoder_decoder import EncoderDecoder, RecurrentFactory
from retrograde.layers.memory_attention import MemoryAttention
from retrograde.layers.scores.score import ScoreFactory
from retrograde.layers.windows.window import WindowFactory


def seq2seq_luong(
    task: Task,
    encoder: RecurrentFactory,
    decoder: RecurrentFactory,
    score: ScoreFactory,
    window: WindowFactory,
    forcing: float = 1.0,
    decoding: Decoding = "greedy",
    beams: int = 4,
    embedding: EmbeddingFactory = OneHot,
) -> EncoderDecoder:
    """Encoder and decoder; the decoder's state of now asks, and the answer goes to the read-out alone."""
    attention = partial(MemoryAttention, score=score, window=window)
    return EncoderDecoder(task, encoder, decoder, attention, "after", Writing(forcing, decoding, beams), embedding)
