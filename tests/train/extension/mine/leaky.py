r"""Leaky integrator: a tanh network whose units average over time.

    h_t = (1 - a) h_{t-1} + a tanh(W x_t + b + U h_{t-1})

x input (batch, width), h hidden (batch, hidden), a in (0, 1] the leak: at 1 this is Elman's network; below it the past
fades by no more than 1 - a a step, even where tanh is saturated.

Source: Jaeger, Lukoševičius, Popovici, Siewert 2007, Neural Networks 20(3).
Differs: all weights are trained; one rate stands for both decay and gain.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.contracts import Task
from retrograde.core.records import State
from retrograde.core.recurrence import Recurrence, affine
from retrograde.layers.recurrent import RecurrentModel


class LeakyCell(Recurrence):
    def __init__(self, inputs: int, hidden: int, leak: float) -> None:
        super().__init__()
        if not 0 < leak <= 1:
            raise ValueError(f"leak must lie in (0, 1], not {leak}")
        self.hidden = hidden
        self.leak = leak
        self.input = nn.Linear(inputs, hidden)
        self.recurrent = nn.Parameter(torch.randn(hidden, hidden) / hidden**0.5)

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (self.hidden,)}

    def weights(self) -> dict[str, Tensor]:
        return {"W": self.input.weight, "b": self.input.bias, "U": self.recurrent}

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        driven = affine(x, weights["W"], weights["b"]) + state["hidden"] @ weights["U"].mT
        return {"hidden": (1 - self.leak) * state["hidden"] + self.leak * torch.tanh(driven)}


def leaky(task: Task, hidden: int = 64, layers: int = 1, leak: float = 0.1) -> RecurrentModel:
    return RecurrentModel(task, lambda width: LeakyCell(width, hidden, leak), layers, bidirectional=False, dropout=0.0)
