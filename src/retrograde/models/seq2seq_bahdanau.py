r"""Sequence to sequence with attention before the decoder's cell.

    m_i = encoder(x)_i                                  both directions side by side
    e_ji = score(s_{j-1}, m_i)                          a_j = softmax(e_j)
    c_j = Σ_i a_ji m_i                                  context
    s_j = decoder([E y_{j-1}; c_j], s_{j-1})            s_0 = tanh(W m_end + b)
    p(y_j | y_<j, x) = softmax(V s_j + d)

x source, y target, E the target's embedding, s the output of the decoder's lowest layer where it asks and of its top
layer where it is read.

Source: Bahdanau, Cho, Bengio 2014, arXiv:1409.0473, section 3 and appendix A.
Differs: the read-out is linear in s_j, where the paper puts a maxout layer over s_{j-1}, y_{j-1} and c_j; s_0 comes
from both directions' ends, where the paper takes the backward one's.
"""

from functools import partial

from retrograde.core.contracts import Task
from retrograde.layers.decoding import Decoding, Writing
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.encoder_decoder import EncoderDecoder, RecurrentFactory
from retrograde.layers.memory_attention import MemoryAttention
from retrograde.layers.scores.score import ScoreFactory
from retrograde.layers.windows.window import WindowFactory


def seq2seq_bahdanau(
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
    """Encoder and decoder; the decoder's last state asks what its next step reads."""
    attention = partial(MemoryAttention, score=score, window=window)
    return EncoderDecoder(task, encoder, decoder, attention, "before", Writing(forcing, decoding, beams), embedding)
