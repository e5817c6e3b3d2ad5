r"""Leaky integrator: a tanh network whose units average over time.

    h_t = (1 - a) h_{t-1} + a tanh(W x_t + U h_{t-1} + b)

x input (batch, width), h hidden (batch, hidden), a in (0, 1] the leak: at 1 this is Elman's network, below it the past
fades by 1 - a a step even where tanh is saturated.

Source: Jaeger et al. 2007, Neural Networks 20(3), eq. 2, with all its time constants in a.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.contracts import Task
from retrograde.core.records import State
from retrograde.core.recurrence import Recurrence
from retrograde.layers.recurrent import RecurrentModel


class LeakyCell(Recurrence):
    def __init__(self, inputs: int, hidden: int, leak: float) -> None:
        super().__init__()
        if not 0 < leak <= 1:
            raise ValueError(f"leak must lie in (0, 1], not {leak}")
        self.hidden, self.leak = hidden, leak
        self.input = nn.Linear(inputs, hidden)
        self.recurrent = nn.Parameter(torch.randn(hidden, hidden) / hidden**0.5)

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (self.hidden,)}

    def weights(self) -> dict[str, Tensor]:
        return {"W": self.input.weight, "U": self.recurrent, "b": self.input.bias}

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        h = state["hidden"]
        new = torch.tanh(x @ weights["W"].mT + h @ weights["U"].mT + weights["b"])
        return {"hidden": (1 - self.leak) * h + self.leak * new}


def leaky(task: Task, hidden: int = 64, layers: int = 1, leak: float = 0.1) -> RecurrentModel:
    return RecurrentModel(task, lambda width: LeakyCell(width, hidden, leak), layers, bidirectional=False, dropout=0.0)
