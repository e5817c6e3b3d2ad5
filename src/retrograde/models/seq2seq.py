r"""Sequence to sequence through one vector.

    z_i = encoder(x_i, z_{i-1})                         i = 1 … S
    v   = what the encoder's top layer says at i = S
    s_0 = tanh(W v + b)                                 every component of every layer of the decoder
    s_j = decoder(E y_{j-1}, s_{j-1})                   j = 1 … T, y_0 = <sos>
    p(y_j | y_<j, x) = softmax(V s_j + d)               until y_j = <eos>

x source, y target, E the target's embedding. All that the decoder knows of the source is v.

Source: Sutskever, Vinyals, Le 2014, arXiv:1409.3215, sections 2 and 3.
Differs: encoder and decoder may be of any kind and depth, so the decoder begins with a learned map of v (as in Cho et
al. 2014, arXiv:1406.1078, section 3.1) where the paper hands its LSTM's states on; the source is not reversed.
"""

from retrograde.core.contracts import Task
from retrograde.layers.decoding import Decoding, Writing
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.encoder_decoder import EncoderDecoder, RecurrentFactory


def seq2seq(
    task: Task,
    encoder: RecurrentFactory,
    decoder: RecurrentFactory,
    forcing: float = 1.0,
    decoding: Decoding = "greedy",
    beams: int = 4,
    embedding: EmbeddingFactory = OneHot,
) -> EncoderDecoder:
    """Encoder and decoder with nothing but one vector in between."""
    return EncoderDecoder(task, encoder, decoder, writing=Writing(forcing, decoding, beams), embedding=embedding)
