r"""Coupled oscillatory recurrent network: a driven, damped oscillator for every unit, coupled through tanh.

    z_t = z_{t-1} + Δt tanh(W y_{t-1} + 𝒲 z_{t-1} + V x_t + b) - Δt γ y_{t-1} - Δt ε z̄      velocity
    y_t = y_{t-1} + Δt z_t                                                                  hidden

x input (batch, width), y and z (batch, hidden). It is a time step Δt of y'' = tanh(W y + 𝒲 y' + V x + b) - γ y - ε y',
implicit and explicit: y moves by the velocity just made. The damping term takes

explicit  z̄ = z_{t-1}
implicit  z̄ = z_t, solved for z_t: everything else is divided by 1 + Δt ε

With Δt = γ = ε = 1 and explicit damping it is y_t = tanh(W y_{t-1} + …): a plain network that also sees its velocity.

Source: Rusch & Mishra 2021, arXiv:2010.00951, eqs. 1-3 (their u is our x).
Differs: Δt = 0.5 unless set. The paper searches Δt, γ and ε for each task (Δt from 0.04 to 0.08 in the authors' code,
for sequences of hundreds); a state so slow hardly tells one input from the one before it. W, 𝒲, V and b start as the
one torch.nn.Linear of the authors' code does, uniformly within 1/√(width + 2 hidden).
"""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.choices import require_at_least, require_one_of
from retrograde.core.contracts import Task
from retrograde.core.records import State
from retrograde.core.recurrence import Recurrence, affine
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.recurrent import RecurrentModel

Damping = Literal["explicit", "implicit"]


class OscillatorCell(Recurrence):
    """One time step of coupled oscillators; equations in the module's docstring."""

    def __init__(self, inputs: int, hidden: int, dt: float, gamma: float, epsilon: float, damping: Damping) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        require_at_least("gamma", gamma, 0)
        require_at_least("epsilon", epsilon, 0)
        require_one_of("damping", damping, get_args(Damping))
        if not 0 < dt <= 1:
            raise ValueError(f"dt must lie in (0, 1], not {dt}")
        self.hidden = hidden
        self.dt, self.gamma, self.epsilon, self.damping = dt, gamma, epsilon, damping
        bound = (inputs + 2 * hidden) ** -0.5
        self.input = nn.Parameter(torch.empty(hidden, inputs).uniform_(-bound, bound))
        self.recurrent = nn.Parameter(torch.empty(hidden, hidden).uniform_(-bound, bound))
        self.velocity = nn.Parameter(torch.empty(hidden, hidden).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(hidden).uniform_(-bound, bound))

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (self.hidden,), "velocity": (self.hidden,)}

    def weights(self) -> dict[str, Tensor]:
        return {"input": self.input, "recurrent": self.recurrent, "velocity": self.velocity, "bias": self.bias}

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        hidden, velocity = state["hidden"], state["velocity"]
        coupled = hidden @ weights["recurrent"].mT + velocity @ weights["velocity"].mT
        drive = torch.tanh(affine(x, weights["input"], weights["bias"]) + coupled)
        if self.damping == "explicit":
            velocity = velocity + self.dt * (drive - self.gamma * hidden - self.epsilon * velocity)
        else:
            velocity = (velocity + self.dt * (drive - self.gamma * hidden)) / (1 + self.dt * self.epsilon)
        return {"hidden": hidden + self.dt * velocity, "velocity": velocity}

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """W and 𝒲."""
        return {"recurrent": weights["recurrent"], "velocity": weights["velocity"]}


def cornn(
    task: Task,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    dt: float = 0.5,
    gamma: float = 1.0,
    epsilon: float = 1.0,
    damping: Damping = "explicit",
    embedding: EmbeddingFactory = OneHot,
) -> RecurrentModel:
    """The oscillators; ``gamma`` is the squared frequency of each alone, ``epsilon`` its damping."""
    return RecurrentModel(
        task,
        lambda width: OscillatorCell(width, hidden, dt, gamma, epsilon, damping),
        layers,
        bidirectional,
        dropout,
        embedding,
    )
