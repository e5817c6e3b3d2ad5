"""Recurrent layers on top of each other, in one direction or both, and the model around them."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retrograde.core.adjoint import Layer, Placed, Traced, reading_order, reordered, trace_stack
from retrograde.core.choices import require_at_least, require_dropout
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch, Ledger, Trace, node
from retrograde.core.recurrence import Recurrence
from retrograde.core.truncated import truncated
from retrograde.layers.embedding import EmbeddingFactory, OneHot

DIRECTIONS = ("forward", "backward")


class RecurrentStack(nn.Module):
    """``layers`` recurrences deep; with ``bidirectional`` each layer reads both ways and the next reads both outputs.

    ``make(width)`` builds one recurrence for inputs of that width. Dropout acts between layers, in training alone.
    """

    def __init__(
        self, make: Callable[[int], Recurrence], inputs: int, layers: int, bidirectional: bool, dropout: float
    ) -> None:
        super().__init__()
        require_at_least("layers", layers, 1)
        require_dropout(dropout)
        self.placed: list[list[Placed]] = []
        width = inputs
        for depth in range(layers):
            directions = DIRECTIONS if bidirectional else DIRECTIONS[:1]
            layer = [Placed(f"{depth}.{name}", make(width), name == "backward") for name in directions]
            self.placed.append(layer)
            width = sum(placed.recurrence.width for placed in layer)
        self.width = width
        self.layers = nn.ModuleList(nn.ModuleList(placed.recurrence for placed in layer) for layer in self.placed)
        self.dropout = nn.Dropout(dropout)

    def rename(self, prefix: str) -> None:
        """Set a word before every layer's number, for a model that holds several stacks."""
        self.placed = [[replace(placed, name=prefix + placed.name) for placed in layer] for layer in self.placed]

    def last(
        self, outputs: Float[Tensor, "batch time hidden"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch hidden"]:
        """What the top layer says when it has read all: at each sample's end, backward directions at the beginning."""
        parts = outputs.split([placed.recurrence.width for placed in self.placed[-1]], -1)
        samples = torch.arange(len(outputs), device=outputs.device)
        return torch.cat(
            [
                part[:, 0] if placed.backward else part[samples, lengths - 1]
                for placed, part in zip(self.placed[-1], parts, strict=True)
            ],
            -1,
        )

    def forward(
        self, inputs: Float[Tensor, "batch time width"], lengths: Int[Tensor, " batch"], truncation: int | None = None
    ) -> Float[Tensor, "batch time hidden"]:
        """The top layer's outputs; the gradient through time is cut at every ``truncation`` times that are read."""
        value = inputs
        for depth, layer in enumerate(self.placed):
            if depth > 0:
                value = self.dropout(value)
            made = []
            for placed in layer:
                if placed.backward:
                    order = reading_order(value.shape[1], lengths)
                    read = truncated(placed.recurrence, reordered(value, order), truncation)
                    made.append(reordered(read, order))
                else:
                    made.append(truncated(placed.recurrence, value, truncation))
            value = torch.cat(made, -1) if len(made) > 1 else made[0]
        return value

    def trace(
        self,
        inputs: Float[Tensor, "batch time width"],
        lengths: Int[Tensor, " batch"],
        ledger: Ledger,
        perturb: Mapping[str, Tensor] | None = None,
        initial: Mapping[str, Tensor] | None = None,
    ) -> Traced:
        return trace_stack([Layer(layer) for layer in self.placed], inputs, lengths, ledger, perturb, initial)


class RecurrentModel(SequenceModel):
    """Embedding, a stack of recurrences, and a linear read-out at every position."""

    recurrent = True

    def __init__(
        self,
        task: Task,
        make: Callable[[int], Recurrence],
        layers: int,
        bidirectional: bool,
        dropout: float,
        embedding: EmbeddingFactory = OneHot,
    ) -> None:
        super().__init__()
        self.embedding = embedding(task.inputs)
        self.stack = RecurrentStack(make, self.embedding.width, layers, bidirectional, dropout)
        self.readout = nn.Linear(self.stack.width, task.outputs.size)
        self.causal = not bidirectional

    def forward(self, batch: Batch) -> Float[Tensor, "batch time size"]:
        return self.readout(self.stack(self.embedding(batch.inputs), batch.lengths, self.truncation))

    def trace(self, batch: Batch, perturb: Mapping[str, Tensor] | None = None) -> Trace:
        ledger = Ledger()
        read = node(self.embedding(batch.inputs))
        traced = self.stack.trace(read, batch.lengths, ledger, perturb)
        return Trace(self.readout(traced.outputs), traced.states, traced.times, ledger=ledger, inputs=read)

    @property
    def state_size(self) -> int:
        return sum(placed.recurrence.size for layer in self.stack.placed for placed in layer)
