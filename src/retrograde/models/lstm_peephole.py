r"""Long short-term memory whose gates look at the cell.

    i_t = σ(W_i x_t + U_i h_{t-1} + p_i ⊙ c_{t-1} + b_i)      input gate
    f_t = σ(W_f x_t + U_f h_{t-1} + p_f ⊙ c_{t-1} + b_f)      forget gate
    g_t = tanh(W_g x_t + U_g h_{t-1} + b_g)                   candidate
    c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t                           cell
    o_t = σ(W_o x_t + U_o h_{t-1} + p_o ⊙ c_t + b_o)          output gate
    h_t = o_t ⊙ tanh(c_t)                                     hidden

x input (batch, width), h and c (batch, hidden), p peepholes (hidden): each gate sees its own cell alone, also while the
output gate is shut and h says nothing of it. ⊙ is elementwise.

Source: Gers & Schmidhuber 2000, "Recurrent nets that time and count", IJCNN; Gers, Schraudolph, Schmidhuber 2002,
JMLR 3, section 2. In this form: Graves 2013, arXiv:1308.0850, eqs. 7-11.
Differs: h_t passes tanh, as in Graves; the papers of 2000 and 2002 take o_t ⊙ c_t. They also cut the gradient where it
leaves a cell, through a peephole too; here it is whole. Weights and peepholes start uniform within 1/√hidden, biases at
0 but for the forget gate's.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Task
from retrograde.core.records import State
from retrograde.core.recurrence import Recurrence, affine
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.recurrent import RecurrentModel


class PeepholeCell(Recurrence):
    """Three gates that read the cell; weights in the order i, f, g, o, as torch.nn.LSTM has them, peepholes i, f, o."""

    def __init__(self, inputs: int, hidden: int, forget_bias: float) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        self.hidden = hidden
        bound = hidden**-0.5
        self.input = nn.Parameter(torch.empty(4 * hidden, inputs).uniform_(-bound, bound))
        self.recurrent = nn.Parameter(torch.empty(4 * hidden, hidden).uniform_(-bound, bound))
        self.peephole = nn.Parameter(torch.empty(3, hidden).uniform_(-bound, bound))
        biases = torch.tensor([0.0, forget_bias, 0.0, 0.0], dtype=self.input.dtype)
        self.bias = nn.Parameter(biases.repeat_interleave(hidden))

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (self.hidden,), "cell": (self.hidden,)}

    def weights(self) -> dict[str, Tensor]:
        return {"input": self.input, "recurrent": self.recurrent, "peephole": self.peephole, "bias": self.bias}

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        input_gate, forget_gate, into_candidate, into_output = self._before(weights, x, state)
        cell = forget_gate * state["cell"] + input_gate * torch.tanh(into_candidate)
        output_gate = torch.sigmoid(into_output + _peephole(weights, 2) * cell)
        return {"hidden": output_gate * torch.tanh(cell), "cell": cell}

    def gates(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        input_gate, forget_gate, into_candidate, into_output = self._before(weights, x, state)
        cell = forget_gate * state["cell"] + input_gate * torch.tanh(into_candidate)
        output_gate = torch.sigmoid(into_output + _peephole(weights, 2) * cell)
        return {"input": input_gate, "forget": forget_gate, "output": output_gate}

    def kept(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        return {"cell": self.gates(weights, x, state)["forget"]}

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """U gate by gate; a peephole carries nothing from state to state but through a gate."""
        names = ("input", "forget", "candidate", "output")
        return dict(zip(names, weights["recurrent"].chunk(4, -2), strict=True))

    def _before(
        self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """i, f, and what goes into candidate and output gate but for that gate's view of the cell."""
        driven = affine(x, weights["input"], weights["bias"]) + state["hidden"] @ weights["recurrent"].mT
        into_input, into_forget, into_candidate, into_output = driven.chunk(4, -1)
        input_gate = torch.sigmoid(into_input + _peephole(weights, 0) * state["cell"])
        forget_gate = torch.sigmoid(into_forget + _peephole(weights, 1) * state["cell"])
        return input_gate, forget_gate, into_candidate, into_output


def _peephole(weights: Mapping[str, Tensor], gate: int) -> Float[Tensor, "... 1 hidden"]:
    """One gate's weights, beside the axes that weights may lead with, one for the batch."""
    return weights["peephole"].narrow(-2, gate, 1)


def lstm_peephole(
    task: Task,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    forget_bias: float = 1.0,
    embedding: EmbeddingFactory = OneHot,
) -> RecurrentModel:
    """The gated network whose gates see the cell; b_f starts at ``forget_bias``, as in ``lstm``."""
    return RecurrentModel(
        task, lambda width: PeepholeCell(width, hidden, forget_bias), layers, bidirectional, dropout, embedding
    )
