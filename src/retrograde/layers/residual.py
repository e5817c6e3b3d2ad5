"""Blocks on top of each other along one residual stream, and the model around them."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.adjoint import Layer, Placed, trace_stack
from retrograde.core.block import Block
from retrograde.core.choices import require_at_least
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch, Ledger, Trace, node
from retrograde.core.truncated import truncated
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.positions import sinusoidal


class ResidualModel(SequenceModel):
    """Embedding, a projection to ``hidden``, ``layers`` blocks, a last norm, and a linear read-out at every position.

    ``make()`` builds one block of width ``hidden``. The projection also reads ``positions`` sinusoids of the time.
    """

    recurrent = True

    def __init__(
        self,
        task: Task,
        make: Callable[[], Block],
        hidden: int,
        layers: int,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        embedding: EmbeddingFactory = OneHot,
        positions: int = 0,
    ) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        require_at_least("layers", layers, 1)
        self.embedding = embedding(task.inputs)
        self.positions = positions
        self.project = nn.Linear(self.embedding.width + positions, hidden)
        self.chain: list[Block] = [make() for _ in range(layers)]
        self.blocks = nn.ModuleList(self.chain)
        self.placed = [Placed(f"{depth}.forward", block.recurrence) for depth, block in enumerate(self.chain)]
        self.norm = norm(hidden)
        self.readout = nn.Linear(hidden, task.outputs.size)

    def forward(self, batch: Batch) -> Float[Tensor, "batch time size"]:
        x = self.entered(self.embedding(batch.inputs))
        for block in self.chain:
            x = block.leave(x, truncated(block.recurrence, block.enter(x), self.truncation))
        return self.readout(self.norm(x))

    def trace(self, batch: Batch, perturb: Mapping[str, Tensor] | None = None) -> Trace:
        ledger = Ledger()
        stack = [Layer([placed], block) for placed, block in zip(self.placed, self.chain, strict=True)]
        read = node(self.embedding(batch.inputs))
        traced = trace_stack(stack, self.entered(read), batch.lengths, ledger, perturb)
        outputs = self.readout(self.norm(traced.outputs))
        return Trace(outputs, traced.states, traced.times, ledger=ledger, inputs=read)

    def entered(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time hidden"]:
        """What the first block reads of embedded inputs."""
        if self.positions:
            x = torch.cat([x, sinusoidal(x.shape[1], self.positions, x).expand(len(x), -1, -1)], -1)
        return self.project(x)

    @property
    def state_size(self) -> int:
        return sum(placed.recurrence.size for placed in self.placed)
