r"""Long short-term memory whose gates start with time scales drawn from the task's range.

    i, f, g, o, c, h as in torch.nn.LSTM (equations in ``models/lstm.py``), and at the start

    b_f ~ log U[1, T_max - 1]        b_i = -b_f

x input (batch, width), h and c (batch, hidden), T_max the longest dependency that has to be bridged. A cell that is
left alone forgets over 1 / (1 - σ(b_f)) = 1 + e^{b_f} steps, so the cells' time constants start spread evenly over
[2, T_max]; and i_t = 1 - f_t at the start, as in a leaky integrator.

Source: Tallec & Ollivier 2018, arXiv:1804.11188, section 2.2, eq. 16.
Differs: T_max comes from the task: its longest lag plus one, the number of positions that the lag spans. In the adding
problem that is the sequence's length, as in the paper; in copying the paper takes 3/2 of the blank's length. In an
encoder-decoder no cell lives through the whole of a lag, and each side takes its part: an encoder's lasts to the end of
the source, a decoder's from the state that it begins with. All other weights and biases start as those of
torch.nn.LSTM.
"""

import torch

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Task
from retrograde.layers.cells import LSTMCell
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.recurrent import RecurrentModel


def lstm_chrono(
    task: Task,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    t_max: int | None = None,
    embedding: EmbeddingFactory = OneHot,
) -> RecurrentModel:
    """The gated network with chrono initialisation; ``t_max`` None takes the longest lag of the task's card."""
    longest = _positions_spanned(task) if t_max is None else t_max
    require_at_least("t_max", longest, 2)

    def make(width: int) -> LSTMCell:
        cell = LSTMCell(width, hidden)
        weights = cell.weights()
        with torch.no_grad():
            forget_bias = torch.empty(hidden).uniform_(1, longest - 1).log()
            weights["input_bias"][:hidden] = -forget_bias
            weights["input_bias"][hidden : 2 * hidden] = forget_bias
            weights["recurrent_bias"][: 2 * hidden] = 0.0
        return cell

    return RecurrentModel(task, make, layers, bidirectional, dropout, embedding)


def _positions_spanned(task: Task) -> int:
    longest = max((lag for lag, _ in task.card.lags), default=None)
    if longest is None or longest < 1:
        found = "none" if longest is None else longest
        raise ValueError(f"chrono initialisation needs a task with a lag of at least 1 (longest: {found}); set t_max")
    return longest + 1
