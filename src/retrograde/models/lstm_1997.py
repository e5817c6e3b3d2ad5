r"""Long short-term memory as it began: two gates, and a cell that never forgets.

    i_t = σ(W_i x_t + U_i h_{t-1} + b_i)              input gate
    o_t = σ(W_o x_t + U_o h_{t-1} + b_o)              output gate
    z_t = g(W_z x_t + U_z h_{t-1} + b_z)              what the cell is offered
    c_t = c_{t-1} + i_t ⊙ z_t                         cell
    h_t = o_t ⊙ h(c_t)                                hidden

    g(a) = 4 σ(a) - 2, in [-2, 2]        h(a) = 2 σ(a) - 1, in [-1, 1]

x input (batch, width), h and c (batch, hidden); ⊙ is elementwise. The cell is joined to itself with weight 1: along it
alone dc_t/dc_{t-1} = 1 at every step, the constant error carousel. What is once added stays, so the cell drifts where
the input gate is not kept shut. Against it the paper starts gates with negative biases, another for each block: -1, -3,
-5 at the input and -2, -4, -6 at the output in experiment 3, -3 and -6 at the input in the adding problem.
Biases given as a list are shared out: the first to as many of the cells as it falls to, then the second.

Source: Hochreiter & Schmidhuber 1997, Neural Computation 9(8), section 4; g, h and biases: section 5.
Differs: the gradient is whole. The paper cuts it at the net inputs of gates and cells, so that only the cell carries it
back. A memory block has one cell. Gates and cells read the outputs of all cells but not the gates, which they do in the
paper. Weights start uniform within 1/√hidden where no ``bound`` is given; in the paper within 0.1 or 0.2. z has a bias,
as in experiments 4 to 6, and it starts at 0.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.abreast import abreast
from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Task
from retrograde.core.records import State
from retrograde.core.recurrence import Form, Recurrence, affine, own_forms
from retrograde.layers import compiled
from retrograde.layers.compiled import CAROUSEL
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.recurrent import RecurrentModel
from retrograde.layers.seeds import in_cpp


class CarouselCell(Recurrence):
    """Input and output gate around a cell that adds up what it is given; weights in the order i, o, z."""

    def __init__(
        self,
        inputs: int,
        hidden: int,
        input_gate_bias: float | Sequence[float],
        output_gate_bias: float | Sequence[float],
        bound: float | None = None,
    ) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        if bound is not None and bound <= 0:
            raise ValueError(f"bound must be greater than 0, not {bound:g}")
        self.hidden = hidden
        within = hidden**-0.5 if bound is None else bound
        self.input = nn.Parameter(torch.empty(3 * hidden, inputs).uniform_(-within, within))
        self.recurrent = nn.Parameter(torch.empty(3 * hidden, hidden).uniform_(-within, within))
        starts = shared_out(input_gate_bias, hidden) + shared_out(output_gate_bias, hidden) + [0.0] * hidden
        self.bias = nn.Parameter(torch.tensor(starts, dtype=self.input.dtype))

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (self.hidden,), "cell": (self.hidden,)}

    def weights(self) -> dict[str, Tensor]:
        return {"input": self.input, "recurrent": self.recurrent, "bias": self.bias}

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        driven = affine(x, weights["input"], weights["bias"]) + state["hidden"] @ weights["recurrent"].mT
        input_gate, output_gate, offered = torch.sigmoid(driven).chunk(3, -1)
        cell = state["cell"] + input_gate * (4 * offered - 2)
        return {"hidden": output_gate * (2 * torch.sigmoid(cell) - 1), "cell": cell}

    def gates(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        driven = affine(x, weights["input"], weights["bias"]) + state["hidden"] @ weights["recurrent"].mT
        input_gate, output_gate, _ = torch.sigmoid(driven).chunk(3, -1)
        return {"input": input_gate, "output": output_gate}

    def kept(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        return {"cell": torch.ones_like(state["cell"])}

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(zip(("input", "output", "offered"), weights["recurrent"].chunk(3, -2), strict=True))


@own_forms.register
def _(recurrence: CarouselCell, inputs: Float[Tensor, "batch time width"]) -> dict[str, Form]:
    if type(recurrence) is not CarouselCell or not compiled.serves(inputs, recurrence.recurrent):
        return {}  # a class derived from it may step otherwise
    return {"compiled": Form(_compiled, twice=False, transformed=abreast(inputs, *recurrence.weights().values()))}


def _compiled(
    recurrence: CarouselCell, inputs: Float[Tensor, "batch time width"], initial: State | None = None
) -> Float[Tensor, "batch time hidden"]:
    begin = recurrence.initial_state(inputs) if initial is None else initial
    weights = *recurrence.weights().values(), torch.zeros_like(recurrence.bias)
    return in_cpp(CAROUSEL, inputs, (begin["hidden"], begin["cell"]), weights)


def lstm_1997(
    task: Task,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    input_gate_bias: float | Sequence[float] = 0.0,
    output_gate_bias: float | Sequence[float] = 0.0,
    bound: float | None = None,
    embedding: EmbeddingFactory = OneHot,
) -> RecurrentModel:
    """The network without a forget gate; b_i and b_o start at the values given, negative to keep a gate shut.

    Values given as a list are shared out among the cells; weights start uniform within ``bound``, the read-out's too.
    """

    def make(width: int) -> CarouselCell:
        return CarouselCell(width, hidden, input_gate_bias, output_gate_bias, bound)

    model = RecurrentModel(task, make, layers, bidirectional, dropout, embedding)
    if bound is not None:
        nn.init.uniform_(model.readout.weight, -bound, bound)
        nn.init.uniform_(model.readout.bias, -bound, bound)
    return model


def shared_out(biases: float | Sequence[float], hidden: int) -> list[float]:
    """One bias for each cell, neighbours in one block; raises ValueError where blocks would not be equally large.

    >>> shared_out([-3, -6], 4)
    [-3.0, -3.0, -6.0, -6.0]
    """
    if not isinstance(biases, Sequence):
        return [float(biases)] * hidden
    if not biases or hidden % len(biases):
        raise ValueError(f"{len(biases)} biases cannot be shared out evenly among {hidden} cells")
    return [float(bias) for bias in biases for _ in range(hidden // len(biases))]
