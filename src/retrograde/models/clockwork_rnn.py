r"""Clockwork recurrent network: modules of units that each run at a clock of their own.

    ĥ_t = tanh(W x_t + U h_{t-1} + b)
    h_t = ĥ_t in the modules i with t mod T_i = 0, h_{t-1} in the others
    T_i = 1, 2, 4, … = 2^{i-1}

x input (batch, width), h hidden (batch, hidden), cut into ``modules`` equal parts, from the fastest to the slowest; t
from 0, where all of them run. U is block-upper-triangular: a module reads those of its own period or a longer one. A
module at rest copies its state, and its gradient: over a lag of k there are only k / T_i steps in which to vanish.

Time reaches ``step`` as ``modules`` more columns of its input, 1 where the module's clock ticks and else 0; a direction
that runs backward counts from the position that it reads first.

Source: Koutník, Greff, Gomez, Schmidhuber 2014, arXiv:1402.3511, section 3; the start: section 4.
Differs: a bias. Every module is computed at every time and used where it runs: the paper's saving of work is not had.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Task
from retrograde.core.records import State
from retrograde.core.recurrence import Recurrence, affine
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.recurrent import RecurrentModel

SPREAD = 0.1
"""Standard deviation of all weights at the start: section 4."""


class ClockworkCell(Recurrence):
    """A tanh layer in which module i changes at every 2^i-th time, i from 0."""

    unread: Tensor

    def __init__(self, inputs: int, hidden: int, modules: int) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        require_at_least("modules", modules, 1)
        if hidden % modules:
            raise ValueError(f"hidden must be a multiple of modules: {hidden} is not one of {modules}")
        self.hidden = hidden
        self.periods = [2**module for module in range(modules)]
        self.input = nn.Parameter(SPREAD * torch.randn(hidden, inputs))
        self.recurrent = nn.Parameter(SPREAD * torch.randn(hidden, hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))
        module = torch.arange(hidden) // (hidden // modules)
        self.register_buffer("unread", module[None, :] < module[:, None], persistent=False)

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (self.hidden,)}

    def weights(self) -> dict[str, Tensor]:
        """``recurrent`` with zeros where a module would read a faster one."""
        return {"input": self.input, "recurrent": self.recurrent.masked_fill(self.unread, 0.0), "bias": self.bias}

    def clock(self, times: Int[Tensor, " time"]) -> Int[Tensor, "time modules"]:
        return torch.stack([times % period == 0 for period in self.periods], -1).long()

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... clocked"], state: State) -> State:
        modules = len(self.periods)
        seen, ticks = x[..., :-modules], x[..., -modules:]
        proposed = affine(seen, weights["input"], weights["bias"]) + state["hidden"] @ weights["recurrent"].mT
        runs = ticks.repeat_interleave(self.hidden // modules, -1) > 0
        return {"hidden": torch.where(runs, torch.tanh(proposed), state["hidden"])}

    def kept(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... clocked"], state: State) -> dict[str, Tensor]:
        """1 in the modules that rest, 0 in those that run."""
        rests = x[..., -len(self.periods) :].repeat_interleave(self.hidden // len(self.periods), -1) == 0
        return {"hidden": rests.to(state["hidden"].dtype).expand_as(state["hidden"])}

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"recurrent": weights["recurrent"]}


def clockwork_rnn(
    task: Task,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    modules: int = 4,
    embedding: EmbeddingFactory = OneHot,
) -> RecurrentModel:
    """The network of ``modules`` modules; their periods are the powers of two from 1."""
    return RecurrentModel(
        task, lambda width: ClockworkCell(width, hidden, modules), layers, bidirectional, dropout, embedding
    )
