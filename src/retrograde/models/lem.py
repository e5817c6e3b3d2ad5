r"""Long expressive memory: two states that relax at rates of their own, which inputs and states set.

    Δt_t = Δt σ(W_1 y_{t-1} + V_1 x_t + b_1)                              rate of z
    Δ̄t_t = Δt σ(W_2 y_{t-1} + V_2 x_t + b_2)                              rate of y
    z_t = (1 - Δt_t) ⊙ z_{t-1} + Δt_t ⊙ tanh(W_z y_{t-1} + V_z x_t + b_z)  memory
    y_t = (1 - Δ̄t_t) ⊙ y_{t-1} + Δ̄t_t ⊙ tanh(W_y z_t + V_y x_t + b_y)      hidden

x input (batch, width), y and z (batch, hidden), Δt a number in (0, 1]; ⊙ is elementwise. y reads the z just made.

Source: Rusch, Mishra, Erichson, Mahoney 2022, arXiv:2110.04744, eq. 3 (their u is our x); all weights start uniformly
within 1/√hidden, as in the authors' code.
Differs: nothing. (torchrecurrent 0.2.5 reads z_{t-1} instead of z_t for y_t.)
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


class MemoryCell(Recurrence):
    """Two gated relaxations, one reading the other; equations in the module's docstring.

    The rows of V and b are those of 1, 2, z and y in turn, the rows of W those of 1, 2 and z; W_y stands alone.
    """

    def __init__(self, inputs: int, hidden: int, dt: float) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        if not 0 < dt <= 1:
            raise ValueError(f"dt must lie in (0, 1], not {dt}")
        self.hidden, self.dt = hidden, dt
        bound = hidden**-0.5
        self.input = nn.Parameter(torch.empty(4 * hidden, inputs).uniform_(-bound, bound))
        self.recurrent = nn.Parameter(torch.empty(3 * hidden, hidden).uniform_(-bound, bound))
        self.memory = nn.Parameter(torch.empty(hidden, hidden).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(4 * hidden).uniform_(-bound, bound))

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (self.hidden,), "memory": (self.hidden,)}

    def weights(self) -> dict[str, Tensor]:
        return {"input": self.input, "recurrent": self.recurrent, "memory": self.memory, "bias": self.bias}

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        hidden, memory = state["hidden"], state["memory"]
        memory_rate, hidden_rate, written, read_input = self._driven(weights, x, hidden)
        memory_rate, hidden_rate = self.dt * torch.sigmoid(memory_rate), self.dt * torch.sigmoid(hidden_rate)
        memory = (1 - memory_rate) * memory + memory_rate * torch.tanh(written)
        read = torch.tanh(memory @ weights["memory"].mT + read_input)
        return {"hidden": (1 - hidden_rate) * hidden + hidden_rate * read, "memory": memory}

    def gates(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        """The rates in units of Δt."""
        memory_rate, hidden_rate, _, _ = self._driven(weights, x, state["hidden"])
        return {"memory_rate": torch.sigmoid(memory_rate), "hidden_rate": torch.sigmoid(hidden_rate)}

    def kept(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        rates = self.gates(weights, x, state)
        return {"hidden": 1 - self.dt * rates["hidden_rate"], "memory": 1 - self.dt * rates["memory_rate"]}

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = ("memory_rate", "hidden_rate", "written")
        return dict(zip(names, weights["recurrent"].chunk(3, -2), strict=True)) | {"read": weights["memory"]}

    def _driven(
        self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], hidden: Float[Tensor, "... hidden"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What input and hidden state say to the two rates and to what is written; what the input says to y."""
        *from_input, read_input = affine(x, weights["input"], weights["bias"]).chunk(4, -1)
        from_hidden = (hidden @ weights["recurrent"].mT).chunk(3, -1)
        memory_rate, hidden_rate, written = (a + b for a, b in zip(from_input, from_hidden, strict=True))
        return memory_rate, hidden_rate, written, read_input


def lem(
    task: Task,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    dt: float = 1.0,
    embedding: EmbeddingFactory = OneHot,
) -> RecurrentModel:
    """The two relaxing states; ``dt`` is the fastest rate that they can take."""
    return RecurrentModel(task, lambda width: MemoryCell(width, hidden, dt), layers, bidirectional, dropout, embedding)
