r"""Elman, LSTM and GRU along a batch, with the gradient of every state by hand: one small matrix product a step.

Outputs are made by the fused kernel of ``torch``, or by a loop where that is faster, and nothing else is kept but an
LSTM's cell every few steps. On the way back the gates are computed anew from inputs and outputs, a chunk of times at
once so that all stays in the cache, and the sweep runs through the chunk:

    Elman   δ_t = g_t ⊙ f'                                        g_{t-1} = d_{t-1} + Uᵀ δ_t
    GRU     δ_t = [g_t ⊙ ∂h/∂r, g_t ⊙ ∂h/∂z, g_t ⊙ ∂h/∂(U_n h)]   g_{t-1} = d_{t-1} + z_t ⊙ g_t + Uᵀ δ_t
    LSTM    q_t = d^c_t + g_t ⊙ o (1 - tanh² c_t) + f_{t+1} ⊙ q_{t+1}
                                                                  g_{t-1} = d_{t-1} + Uᵀ δ_t
            δ_t = [q_t ⊙ ∂c/∂i, q_t ⊙ ∂c/∂f, q_t ⊙ ∂c/∂g, g_t ⊙ ∂h/∂o]

g_t total and d_t direct gradient of the hidden state, q_t and d^c_t those of the cell, δ_t that of what U h_{t-1} is
added to; ∂ by what a gate is made of, before its σ or tanh. With a projection V, h = V (o ⊙ tanh c), the LSTM's gates
see Vᵀ g_t in place of g_t. Nothing is divided by, so that a saturated gate is no 0/0. The gradients of the weights are
one product of all δ of a chunk with what its steps read.

**Range.** Each sample has a power of two beside the mantissa that is carried. It is set anew between two chunks; where
a gradient comes near the end of the format the sweep goes again, half as far at a time, down to single steps, and goes
farther at a time when there is room.

Here time is the first axis of all, as the kernels have it, and states are in the order in which they are made.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from retrograde.core.records import State
from retrograde.core.scaled import power_of_two
from retrograde.layers.totals import Gradients

CACHED = 2**21
"""Numbers that the gates of a chunk hold: with all that is made of them 20 megabytes, which the last cache holds."""

LONGEST = 32
"""Steps of a chunk at most: between two settings of the power of two a gradient in float32 may shrink by 1e19."""


@dataclass(frozen=True)
class Weights:
    """Those of one layer in one direction, as ``torch.nn`` has them."""

    input: Float[Tensor, "gates width"]
    recurrent: Float[Tensor, "gates read"]
    input_bias: Float[Tensor, " gates"] | None = None
    recurrent_bias: Float[Tensor, " gates"] | None = None
    projection: Float[Tensor, "read hidden"] | None = None

    def named(self) -> dict[str, Tensor]:
        """Those that there are, in the order in which ``torch.nn`` registers them."""
        return {name: weight for name, weight in vars(self).items() if weight is not None}

    @property
    def biased(self) -> bool:
        return self.input_bias is not None

    def precise(self) -> "Weights":
        """In float32 at least."""
        return Weights(**{name: precise(weight) for name, weight in self.named().items()})


@dataclass(frozen=True)
class Arriving:
    """What the loss, or the layers above, say of each state after an input: ``value · 2^exponent``.

    Without an exponent it is 0; ``reached`` is where a path to the loss exists, without it where a value is not zero.
    """

    hidden: Float[Tensor, "time batch read"]
    cell: Float[Tensor, "time batch hidden"] | None = None
    exponent: Int[Tensor, "time batch"] | None = None
    reached: Bool[Tensor, "time batch"] | None = None

    def between(self, first: int, end: int) -> "Arriving":
        """A chunk of it, in float32 at least."""
        parts = {name: value[first:end] for name, value in vars(self).items() if value is not None}
        return Arriving(**{name: precise(part) if part.is_floating_point() else part for name, part in parts.items()})

    def values(self) -> State:
        """By component, those that there are."""
        return {"hidden": self.hidden} if self.cell is None else {"hidden": self.hidden, "cell": self.cell}

    def scaled(self, power: Int[Tensor, " batch"]) -> State:
        """As what is to be multiplied by 2^power."""
        shift = -power if self.exponent is None else self.exponent - power
        return {name: power_of_two(value, shift.expand(value.shape[:2])) for name, value in self.values().items()}


@dataclass(frozen=True)
class Swept:
    """Gradients of the states, and what follows for inputs, which have the exponent of the state after, and weights.

    ``coordinate``, with the exponent of the total, and ``carried``, with its own, are, where asked for, gradients of
    components that do not depend on each other.
    """

    gradients: Gradients
    inputs: Float[Tensor, "time batch width"] | None
    weights: dict[str, Tensor]
    coordinate: State
    carried: State
    carried_exponent: Int[Tensor, "states batch"]


def precise(value: Tensor) -> Tensor:
    """In float32 at least."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


class Form(ABC):
    """The equations of a kind of layer."""

    components: tuple[str, ...] = ("hidden",)
    mode: str
    """The name that ``torch.nn`` has for its kind."""

    def __init__(self, weights: Weights) -> None:
        self.given = weights
        self.weights = weights.precise()
        self.gates, self.read = weights.recurrent.shape

    @property
    @abstractmethod
    def hidden(self) -> int:
        """The units."""

    @abstractmethod
    def kernel(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs and last state, as the kernel of ``torch`` computes them."""

    def stepped(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The same by a loop, in float32 or float64, where that takes less time than the kernel for a CPU."""
        return self.kernel(x, state)

    @abstractmethod
    def chunk(self, steps: int, batch: int, scratch: tuple[Tensor, ...]) -> "Chunk":
        """Room for so many steps; ``scratch`` is needed while they are opened, and by one chunk after another."""

    @abstractmethod
    def scratch(self, steps: int, batch: int) -> tuple[Tensor, ...]:
        """As ``chunk`` takes it."""

    def widths(self) -> dict[str, int]:
        """Of the components."""
        return dict(zip(self.components, (self.read, self.hidden), strict=False))

    def listed(self) -> list[Tensor]:
        """The weights as the kernels take them."""
        return list(self.given.named().values())


class Chunk(ABC):
    """A few steps opened up for the gradient to pass through; their room is used for one chunk after another.

    ``delta`` holds what a gradient is multiplied by on its way and, where it has been, δ. ``cells``, if the form has
    one, are those before the first step and after each.
    """

    def __init__(self, weights: Weights, delta: Float[Tensor, "time batch gates"]) -> None:
        self.weights, self.recurrent, self.delta = weights, weights.recurrent, delta
        self.x = self.before = self.cells = delta[:0]

    @abstractmethod
    def open(self, x: Tensor, before: Tensor, after: Tensor, cell: Tensor) -> None:
        """Of the inputs, the hidden states before and after each step, and the cell before the first."""

    @abstractmethod
    def back(
        self, at: int, hidden: Tensor, cell: Tensor, direct: Tensor | None, out: Tensor, q: Tensor, cell_out: Tensor
    ) -> None:
        """Carries the gradient at the hidden state and the cell after a step to the state before it.

        The hidden one goes to ``out``, ``direct`` added, the cell's to ``cell_out``, which may be ``cell`` itself, and
        that of the cell as a node to ``q``. Where there is no cell the three say nothing.
        """

    def direct_cell(self, hidden: Float[Tensor, "time batch read"]) -> Float[Tensor, "time batch hidden"]:
        """What a direct gradient of the hidden states is for the cells of the same times."""
        raise NotImplementedError

    def gradients(self, scale: "Scale", total: Float[Tensor, "time batch read"], sums: "Sums") -> None:
        """Adds what the δ are for inputs and weights; once, after the sweep, since it takes them out of their scale."""
        deltas = self.delta[: len(self.x)]
        delta = deltas.flatten(0, 1)
        sums.add_inputs((delta, self.weights.input))
        if sums.made and scale.unscale(deltas):
            sums.add("input", self.x, delta)
            sums.add("recurrent", self.before, delta)
            sums.add_bias(delta, "input_bias", "recurrent_bias")


class Elman(Form):
    """h_t = f(W x_t + b + U h_{t-1} + c), f tanh or ReLU."""

    def __init__(self, weights: Weights, nonlinearity: Literal["tanh", "relu"]) -> None:
        super().__init__(weights)
        self.nonlinearity = nonlinearity
        self.mode = "RNN_TANH" if nonlinearity == "tanh" else "RNN_RELU"

    @property
    def hidden(self) -> int:
        return self.gates

    def kernel(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        kernel = torch.rnn_tanh if self.nonlinearity == "tanh" else torch.rnn_relu
        outputs, last = kernel(x, state[0][None], self.listed(), self.given.biased, 1, 0.0, False, False, False)
        return outputs, (last[0],)

    def stepped(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        outputs = x.new_empty(*x.shape[:2], self.hidden)
        apply = torch.tanh_ if self.nonlinearity == "tanh" else torch.relu_
        bias, recurrent, hidden = _both(self.weights), self.weights.recurrent.t(), state[0]
        for first, end in _bounds(self, x):
            made = outputs[first:end]
            _product(bias, x[first:end].flatten(0, 1), self.weights.input.t(), made.flatten(0, 1))
            for step in made.unbind():
                hidden = apply(step.addmm_(hidden, recurrent))
        return outputs, (hidden,)

    def scratch(self, steps: int, batch: int) -> tuple[Tensor, ...]:
        return ()

    def chunk(self, steps: int, batch: int, scratch: tuple[Tensor, ...]) -> Chunk:
        return _ElmanChunk(self, steps, batch)


class _ElmanChunk(Chunk):
    def __init__(self, form: Elman, steps: int, batch: int) -> None:
        super().__init__(form.weights, form.weights.recurrent.new_empty(steps, batch, form.gates))
        self.tanh = form.nonlinearity == "tanh"
        self.one = self.delta.new_ones(())
        self.steps = self.delta.unbind()

    def open(self, x: Tensor, before: Tensor, after: Tensor, cell: Tensor) -> None:
        self.x, self.before = x, before
        slope = self.delta[: len(x)]
        if self.tanh:
            torch.addcmul(self.one, after, after, value=-1, out=slope)
        else:
            slope.copy_(after != 0)  # NaN passes, as with torch

    def back(
        self, at: int, hidden: Tensor, cell: Tensor, direct: Tensor | None, out: Tensor, q: Tensor, cell_out: Tensor
    ) -> None:
        _product(direct, self.steps[at].mul_(hidden), self.recurrent, out)


class GRU(Form):
    """Reset and update gate, the reset gate after U_n; equations in ``models/gru.py``."""

    mode = "GRU"

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights)
        self.both = 2 * self.hidden  # rows of the reset and the update gate
        self.bias, self.hidden_bias = self.weights.input_bias, self.weights.recurrent_bias
        if self.bias is not None and self.hidden_bias is not None:
            self.bias = torch.cat([self.bias[: self.both] + self.hidden_bias[: self.both], self.bias[self.both :]])
            self.hidden_bias = self.hidden_bias[self.both :]

    @property
    def hidden(self) -> int:
        return self.gates // 3

    def kernel(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        outputs, last = torch.gru(x, state[0][None], self.listed(), self.given.biased, 1, 0.0, False, False, False)
        return outputs, (last[0],)

    def stepped(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        outputs = x.new_empty(*x.shape[:2], self.hidden)
        of_gates, of_candidate = self.weights.recurrent[: self.both].t(), self.weights.recurrent[self.both :].t()
        hidden = state[0]
        from_hidden, candidate = torch.empty_like(outputs[0]), torch.empty_like(outputs[0])
        for first, end in _bounds(self, x):
            gates = x.new_empty(end - first, x.shape[1], self.gates)
            _product(self.bias, x[first:end].flatten(0, 1), self.weights.input.t(), gates.flatten(0, 1))
            parts = gates[:, :, : self.both], *gates.chunk(3, -1), outputs[first:end]
            for both, reset, update, entered, made in _by_step(*parts):
                both.addmm_(hidden, of_gates).sigmoid_()
                _product(self.hidden_bias, hidden, of_candidate, from_hidden)
                torch.addcmul(entered, reset, from_hidden, out=candidate).tanh_()
                hidden = torch.lerp(candidate, hidden, update, out=made)
        return outputs, (hidden,)

    def scratch(self, steps: int, batch: int) -> tuple[Tensor, ...]:
        return tuple(self.weights.recurrent.new_empty(steps, batch, self.hidden) for _ in range(3))

    def chunk(self, steps: int, batch: int, scratch: tuple[Tensor, ...]) -> Chunk:
        return _GRUChunk(self, steps, batch, *scratch)


class _GRUChunk(Chunk):
    def __init__(self, form: GRU, steps: int, batch: int, of_hidden: Tensor, candidate: Tensor, rest: Tensor) -> None:
        gates = form.weights.recurrent.new_empty(steps, batch, 3, form.hidden)
        super().__init__(form.weights, gates.flatten(2))
        self.gates, self.both, self.bias, self.hidden_bias = gates, form.both, form.bias, form.hidden_bias
        self.of_hidden, self.candidate, self.rest = of_hidden, candidate, rest
        self.update, self.slope = (gates.new_empty(steps, batch, form.hidden) for _ in range(2))
        self.base, self.one = torch.empty_like(self.rest[0]), gates.new_ones(())
        self.steps = _by_step(gates, self.delta, self.update)

    def open(self, x: Tensor, before: Tensor, after: Tensor, cell: Tensor) -> None:
        self.x, self.before = x, before
        gates, of_hidden, candidate, update, slope, rest = (
            part[: len(x)] for part in (self.gates, self.of_hidden, self.candidate, self.update, self.slope, self.rest)
        )
        rows, read = gates.flatten(2).flatten(0, 1), before.flatten(0, 1)
        _product(self.bias, x.flatten(0, 1), self.weights.input.t(), rows)
        rows[:, : self.both].addmm_(read, self.recurrent[: self.both].t())
        _product(self.hidden_bias, read, self.recurrent[self.both :].t(), of_hidden.flatten(0, 1))
        reset, _, of_candidate = gates.unbind(2)
        gates[:, :, :2].sigmoid_()
        update.copy_(gates[:, :, 1])
        torch.addcmul(of_candidate, reset, of_hidden, out=candidate).tanh_()
        # ∂h_t/∂ of what the candidate is made of, (1 - z)(1 - n²); in the gates' place those of U_n h, r and z
        torch.sub(self.one, update, out=rest)
        torch.mul(rest, candidate, out=slope)
        torch.addcmul(rest, slope, candidate, value=-1, out=slope)
        torch.mul(slope, reset, out=of_candidate)
        torch.mul(of_candidate, of_hidden, out=rest)
        torch.addcmul(rest, rest, reset, value=-1, out=reset)
        torch.sub(before, candidate, out=rest).mul_(update)
        torch.addcmul(rest, rest, update, value=-1, out=gates[:, :, 1])

    def back(
        self, at: int, hidden: Tensor, cell: Tensor, direct: Tensor | None, out: Tensor, q: Tensor, cell_out: Tensor
    ) -> None:
        gates, delta, update = self.steps[at]
        gates.mul_(hidden.unsqueeze(1))
        if direct is None:
            torch.mul(hidden, update, out=self.base)
        else:
            torch.addcmul(direct, hidden, update, out=self.base)
        torch.addmm(self.base, delta, self.recurrent, out=out)

    def gradients(self, scale: "Scale", total: Tensor, sums: "Sums") -> None:
        """The reset gate stands between the candidate and U_n h, so that the δ of the two differ."""
        both, last = slice(0, self.both), slice(self.both, None)
        deltas, candidates = self.delta[: len(self.x)], self.slope[: len(self.x)].mul_(total)
        delta, candidate = deltas.flatten(0, 1), candidates.flatten(0, 1)
        sums.add_inputs((delta[:, both], self.weights.input[both]), (candidate, self.weights.input[last]))
        if sums.made and scale.unscale(deltas, candidates):
            sums.add("recurrent", self.before, delta)
            sums.add_bias(delta, "recurrent_bias")
            for rows, part in ((both, delta[:, both]), (last, candidate)):
                sums.add("input", self.x, part, rows)
                sums.add_bias(part, "input_bias", rows=rows)


class LSTM(Form):
    """Input, forget and output gate around a cell, in the order i, f, g, o; equations in ``models/lstm.py``."""

    components = ("hidden", "cell")
    mode = "LSTM"

    @property
    def hidden(self) -> int:
        return self.gates // 4

    def kernel(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        begin = [part[None] for part in state]
        outputs, hidden, cell = torch.lstm(x, begin, self.listed(), self.given.biased, 1, 0.0, False, False, False)
        return outputs, (hidden[0], cell[0])

    def scratch(self, steps: int, batch: int) -> tuple[Tensor, ...]:
        return tuple(self.weights.recurrent.new_empty(steps, batch, self.hidden) for _ in range(2))

    def chunk(self, steps: int, batch: int, scratch: tuple[Tensor, ...]) -> Chunk:
        return _LSTMChunk(self, steps, batch, *scratch)


class _LSTMChunk(Chunk):
    def __init__(self, form: LSTM, steps: int, batch: int, candidate: Tensor, entered: Tensor) -> None:
        gates = form.weights.recurrent.new_empty(steps, batch, 4, form.hidden)
        super().__init__(form.weights, gates.flatten(2))
        self.gates, self.projection = gates, form.weights.projection
        self.candidate, self.entered = candidate, entered
        self.forget, self.slope = (gates.new_empty(steps, batch, form.hidden) for _ in range(2))
        self.shown = entered if self.projection is None else torch.empty_like(self.slope)
        self.cells = gates.new_empty(steps + 1, batch, form.hidden)
        self.bias = _both(form.weights)
        self.scan = _by_step(self.entered, self.forget, self.cells[:-1], self.cells[1:])
        self.steps = _by_step(self.slope, self.forget, gates[:, :, :3], gates[:, :, 3], self.delta)

    def open(self, x: Tensor, before: Tensor, after: Tensor, cell: Tensor) -> None:
        self.x, self.before = x, before
        steps = len(x)
        gates, candidate, forget, entered, slope, shown = (
            part[:steps] for part in (self.gates, self.candidate, self.forget, self.entered, self.slope, self.shown)
        )
        rows = gates.flatten(2).flatten(0, 1)
        _product(self.bias, x.flatten(0, 1), self.weights.input.t(), rows)
        rows.addmm_(before.flatten(0, 1), self.recurrent.t())
        entry, _, of_candidate, out = gates.unbind(2)
        candidate.copy_(of_candidate).tanh_()  # copied: three times as fast where nothing lies between the numbers
        gates.sigmoid_()
        forget.copy_(gates[:, :, 1])
        torch.mul(entry, candidate, out=entered)
        self.cells[0] = cell
        for new, kept, earlier, later in self.scan[:steps]:
            torch.addcmul(new, kept, earlier, out=later)
        # ∂c_t/∂ of what g, i and f are made of and ∂h_t/∂ of what o is, in the gates' place; and ∂h_t/∂c_t
        torch.addcmul(entry, entered, candidate, value=-1, out=of_candidate)
        torch.addcmul(entered, entered, entry, value=-1, out=entry)
        torch.mul(self.cells[:steps], forget, out=entered)
        torch.addcmul(entered, entered, forget, value=-1, out=gates[:, :, 1])
        squashed = torch.tanh(self.cells[1 : steps + 1], out=candidate)
        torch.mul(out, squashed, out=shown)
        torch.addcmul(out, shown, squashed, value=-1, out=slope)
        torch.addcmul(shown, shown, out, value=-1, out=out)

    def back(
        self, at: int, hidden: Tensor, cell: Tensor, direct: Tensor | None, out: Tensor, q: Tensor, cell_out: Tensor
    ) -> None:
        of_cell, forget, inner, outer, delta = self.steps[at]
        if self.projection is not None:
            hidden = hidden @ self.projection
        torch.addcmul(cell, of_cell, hidden, out=q)
        inner.mul_(q.unsqueeze(1))
        outer.mul_(hidden)
        torch.mul(q, forget, out=cell_out)
        _product(direct, delta, self.recurrent, out)

    def direct_cell(self, hidden: Tensor) -> Tensor:
        if self.projection is not None:
            hidden = hidden @ self.projection
        return hidden * self.slope[: len(hidden)]

    def gradients(self, scale: "Scale", total: Tensor, sums: "Sums") -> None:
        super().gradients(scale, total, sums)
        if self.projection is not None and sums.made:
            sums.add("projection", self.shown[: len(self.x)], scale.unscaled(total).flatten(0, 1))


@dataclass(frozen=True)
class Scale:
    """The powers of two of a chunk's gradients, where they are not 0 throughout."""

    exponent: Int[Tensor, "time batch"] | None

    def unscaled(self, value: Float[Tensor, "time batch width"]) -> Float[Tensor, "time batch width"]:
        return value if self.exponent is None else power_of_two(value, self.exponent)

    def unscale(self, *values: Float[Tensor, "time batch _"]) -> bool:
        """The same in place; and whether anything is left that is not zero."""
        if self.exponent is None:
            return True
        numbers = torch.finfo(values[0].dtype)
        largest = 2 * math.floor(math.log2(numbers.max))
        if int(self.exponent.max()) < -largest:
            return False
        # a power of two that the format does not hold is had in two steps; one that two do not, gives 0 or infinity
        bounded = self.exponent.clamp(-largest, largest)
        half = torch.div(bounded, 2, rounding_mode="floor")
        for part in (half, bounded - half) if int(bounded.abs().max()) > largest // 2 else (bounded,):
            factor = torch.exp2(part.to(values[0].dtype)).unsqueeze(-1)
            for value in values:
                value.mul_(factor)
        return True


class Sums:
    """The gradients of the weights, over chunks, and those of a chunk's inputs."""

    def __init__(self, weights: Weights, learned: bool) -> None:
        # transposed, as below for inputs, because products with few inputs are ten times as fast that way round
        self.made = {
            name: torch.zeros_like(weight.t().contiguous()) for name, weight in weights.named().items() if learned
        }
        self.inputs: Tensor | None = None

    def weights(self) -> dict[str, Tensor]:
        return {name: value.t().contiguous() for name, value in self.made.items()}

    def add(self, name: str, read: Tensor, delta: Tensor, rows: slice = slice(None)) -> None:
        if name in self.made:
            self.made[name][:, rows].addmm_(read.flatten(0, 1).t(), delta)

    def add_bias(self, delta: Tensor, *names: str, rows: slice = slice(None)) -> None:
        if names[0] in self.made:
            made = delta.sum(0)
            for name in names:
                self.made[name][rows] += made

    def add_inputs(self, *parts: tuple[Tensor, Tensor]) -> None:
        """δ and the weights that they go back through."""
        if self.inputs is not None:
            made = sum(weight.t().contiguous() @ delta.t() for delta, weight in parts)
            assert isinstance(made, Tensor)
            self.inputs.copy_(made.t().view_as(self.inputs))


@dataclass
class Run:
    """A layer in one direction along a batch, ready to be swept.

    ``cells`` stand before each chunk. What is ``open`` already needs not be computed anew; it is used up by a sweep.
    """

    form: Form
    x: Float[Tensor, "time batch width"]
    begin: tuple[Tensor, ...]
    outputs: Float[Tensor, "time batch read"]
    cells: list[Float[Tensor, "batch hidden"]]
    open: dict[int, Chunk] = field(default_factory=dict)

    @cached_property
    def bounds(self) -> list[tuple[int, int]]:
        """Where chunks begin and end."""
        return _bounds(self.form, self.x)

    def scratch(self) -> tuple[Tensor, ...]:
        """For the longest chunk."""
        return self.form.scratch(self.bounds[0][1], self.x.shape[1])

    def room(self, scratch: tuple[Tensor, ...]) -> Chunk:
        """For the longest chunk."""
        return self.form.chunk(self.bounds[0][1], self.x.shape[1], scratch)

    def opened(self, at: int, room: Chunk) -> Chunk:
        """A chunk with its gates, computed anew in ``room`` where it is not open."""
        if at in self.open:
            return self.open.pop(at)
        first, end = self.bounds[at]
        self.open_in(room, at, end - first)
        return room

    def open_in(self, room: Chunk, at: int, steps: int) -> None:
        """So many of its steps; what has become of those behind them stays."""
        first = self.bounds[at][0]
        end = first + steps
        before = (
            torch.cat([self.begin[0][None], self.outputs[: end - 1]])
            if first == 0
            else self.outputs[first - 1 : end - 1]
        )
        cell = self.cells[at] if self.cells else before[0]
        parts = self.x[first:end].contiguous(), before, self.outputs[first:end], cell
        room.open(*(precise(part) for part in parts))

    def cell_at(self, times: Int[Tensor, " batch"]) -> Float[Tensor, "batch hidden"]:
        """The cell after each sample's input of that time."""
        steps = self.bounds[0][1]
        chunk = self.room(self.scratch())
        samples = torch.arange(len(times), device=times.device)
        chunks, within = times // steps, times % steps
        begin = chunks * steps  # each sample's own chunk, side by side; beyond the end anything may stand
        at = (begin + torch.arange(steps, device=times.device).unsqueeze(1)).clamp(max=len(self.x) - 1)
        before = torch.cat([self.begin[0][None], self.outputs])[at, samples]
        parts = self.x[at, samples], before, before, torch.stack(self.cells)[chunks, samples]
        with torch.autocast(self.x.device.type, enabled=False):
            chunk.open(*(precise(part) for part in parts))
        return chunk.cells[within + 1, samples].to(self.cells[0].dtype)

    def sweep(self, arriving: Arriving, learned: bool = True, of_inputs: bool = True, carried: bool = False) -> Swept:
        """The gradients of every state, and of inputs and weights as far as they are wanted."""
        return _Sweep(self, arriving, learned, of_inputs, carried).swept()


def run(
    form: Form,
    x: Float[Tensor, "time batch width"],
    begin: tuple[Tensor, ...],
    lengths: Int[Tensor, " batch"] | None = None,
) -> tuple[Run, tuple[Tensor, ...]]:
    """The layer along a batch, as far as each sample goes, and its last state; beyond that outputs are zero."""
    made, last = _whole(form, x, begin)
    if lengths is not None:
        samples = torch.arange(len(lengths), device=x.device)
        made.outputs.masked_fill_((torch.arange(len(x), device=x.device).unsqueeze(1) >= lengths).unsqueeze(2), 0.0)
        last = (made.outputs[lengths - 1, samples], *(made.cell_at(lengths - 1) for _ in last[1:]))
    return made, last


def _whole(
    form: Form, x: Float[Tensor, "time batch width"], begin: tuple[Tensor, ...]
) -> tuple[Run, tuple[Tensor, ...]]:
    if form.components == ("hidden",):
        whole = len(x) > 0 and x.device.type == "cpu" and x.dtype == form.given.input.dtype == form.weights.input.dtype
        # whatever is rounded on the way, in half precision or under autocast, is the kernel's to round
        make = form.stepped if whole and not torch.is_autocast_enabled("cpu") else form.kernel
        outputs, last = make(x, begin)
        return Run(form, x, begin, outputs, []), last
    made, cells, state = [], [], begin
    for first, end in _bounds(form, x):
        cells.append(state[1])
        outputs, state = form.kernel(x[first:end], state)
        made.append(outputs)
    return Run(form, x, begin, torch.cat(made), cells), state


def all_cells(run: Run) -> Float[Tensor, "states batch hidden"]:
    """The cells at all times; what has to be computed for that stays open for the sweep."""
    made = [run.begin[1][None]]
    scratch = run.scratch()
    for at, (first, end) in enumerate(run.bounds):
        run.open[at] = chunk = run.opened(at, run.room(scratch))
        made.append(chunk.cells[1 : end - first + 1])
    return torch.cat(made)


def form(mode: str, weights: Weights) -> Form:
    """By the name that ``torch.nn`` has for its kind."""
    if mode == "LSTM":
        return LSTM(weights)
    return GRU(weights) if mode == "GRU" else Elman(weights, "relu" if mode == "RNN_RELU" else "tanh")


def _bounds(form: Form, x: Tensor) -> list[tuple[int, int]]:
    length, batch = x.shape[:2]
    steps = min(LONGEST, max(1, CACHED // max(1, batch * form.gates)))
    return [(at, min(at + steps, length)) for at in range(0, max(length, 1), steps)]


class _Sweep:
    """The way back through a run, chunk by chunk."""

    def __init__(self, run: Run, arriving: Arriving, learned: bool, of_inputs: bool, carried: bool) -> None:
        self.run, self.arriving, self.keep = run, arriving, carried
        length, batch = run.x.shape[:2]
        widths = run.form.widths()
        like = precise(arriving.hidden[:0])

        def states(make: Callable[..., Tensor]) -> State:
            return {name: make(length + 1, batch, width) for name, width in widths.items()}

        self.total, self.direct = states(like.new_empty), states(like.new_zeros)
        self.carried = states(like.new_empty) if carried else {}
        self.coordinate = {"hidden": self.total["hidden"]} if carried else {}
        if carried and "cell" in self.total:
            self.coordinate["cell"] = torch.empty_like(self.total["cell"])
        self.exponent = torch.zeros(length + 1, batch, dtype=torch.int32, device=like.device)
        self.carried_exponent = torch.zeros_like(self.exponent)
        self.present = torch.zeros_like(self.exponent, dtype=torch.bool)
        self.room = run.room(run.scratch())
        self.sums = Sums(run.form.weights, learned)
        self.inputs = like.new_empty(run.x.shape) if of_inputs else None
        numbers = torch.finfo(like.dtype)
        self.safe = numbers.tiny**0.75, numbers.max**0.75
        self.comfortable = numbers.tiny**0.25, numbers.max**0.25
        # what is carried from one chunk to the one before it, and its powers of two where they are not 0 throughout
        self.carry: State = {name: like.new_zeros(batch, width) for name, width in widths.items()}
        self.power: Tensor | None = None
        # steps to one power of two; once they were too many, each piece begins with entries of about 1
        self.longest = self.stride = run.bounds[0][1]
        self.careful = False

    def swept(self) -> Swept:
        for at in reversed(range(len(self.run.bounds))):
            self._sweep(at)
        for gradient in (self.total, self.carried, self.coordinate):
            for name, value in gradient.items():
                value[0] = self.carry[name]
        if self.power is not None:
            self.exponent[0] = self.carried_exponent[0] = self.power
        given, exponent = self.arriving.reached, self.arriving.exponent
        present = self.present if given is None else after_one(given)
        gradients = Gradients(
            self.total,
            self.exponent,
            present.flip(0).cummax(0).values.flip(0),
            self.direct,
            torch.zeros_like(self.exponent) if exponent is None else after_one(exponent),
            present,
        )
        return Swept(gradients, self.inputs, self.sums.weights(), self.coordinate, self.carried, self.carried_exponent)

    def _sweep(self, at: int) -> None:
        first, end = self.run.bounds[at]
        states = slice(first + 1, end + 1)
        chunk = self.run.opened(at, self.room)
        arriving = self.arriving.between(first, end)
        largest = _largest(arriving.values())
        self.present[states] = largest != 0
        some = (largest != 0).any(1).tolist()
        whole, left = (chunk.x, chunk.before), end - first
        while left:
            piece = slice(max(0, left - self.stride), left)
            if self._passed(chunk, first, piece, arriving, largest, some):
                left = piece.start
            else:
                self.run.open_in(chunk, at, left)
                chunk.x, chunk.before = whole
        if any(some):
            for name, value in self._direct(chunk, arriving).items():
                self.direct[name][states] = value
        self.sums.inputs = None if self.inputs is None else self.inputs[first:end]
        chunk.gradients(
            Scale(None if self.power is None else self.exponent[states]), self.total["hidden"][states], self.sums
        )

    def _passed(
        self, chunk: Chunk, first: int, piece: slice, arriving: Arriving, largest: Tensor, some: list[bool]
    ) -> bool:
        """Whether the gradient went through a piece of a chunk, and how long the next piece, or attempt, is to be."""
        states = slice(first + 1 + piece.start, first + 1 + piece.stop)
        self._normalise()
        begun = self.carry, self.power
        arriving, some = arriving.between(piece.start, piece.stop), some[piece]
        self._at_one_power(chunk, piece.start, states, arriving, largest[piece], some)
        passed = self._within(states, begun[0]) or (self.careful and self.stride == 1)
        if not passed:
            self.carry, self.power = begun
            self.careful, self.stride = True, max(1, (piece.stop - piece.start) // 2)
        elif self.careful and self._within(states, begun[0], share=0.5):
            self.careful = self.stride < self.longest
            self.stride = min(2 * self.stride, self.longest)
        return passed

    def _at_one_power(
        self, chunk: Chunk, start: int, states: slice, arriving: Arriving, largest: Tensor, some: list[bool]
    ) -> None:
        """Through a piece with that of the largest gradient which comes to it; none, as long as none was needed."""
        walk = self._walk_and_keep if self.keep else self._walk
        if self.power is None and arriving.exponent is None and not self.careful:
            walk(chunk, start, states, arriving.values(), some)
            return
        power = self._common_power(largest, arriving.exponent)
        shift = power if self.power is None else power - self.power
        if bool(shift.any()):
            self.carry = {name: power_of_two(value, -shift) for name, value in self.carry.items()}
        walk(chunk, start, states, arriving.scaled(power) if any(some) else arriving.values(), some)
        self.exponent[states] = self.carried_exponent[states] = self.power = power

    def _walk(self, chunk: Chunk, start: int, states: slice, direct: State, some: list[bool]) -> None:
        """Through a piece with one power of two for each sample."""
        total, of_state = _steps(self.total, states), {name: value.unbind() for name, value in direct.items()}
        last = len(some) - 1
        hidden, cell = self.carry["hidden"], self.carry.get("cell", self.carry["hidden"]).clone()
        out = total["hidden"][last].copy_(hidden)
        if some[last]:
            out += of_state["hidden"][last]
        for at in range(last, -1, -1):
            here, q = out, total.get("cell", total["hidden"])[at]
            if some[at] and "cell" in of_state:
                cell += of_state["cell"][at]
            out = total["hidden"][at - 1] if at else torch.empty_like(here)
            chunk.back(
                start + at, here, cell, of_state["hidden"][at - 1] if at and some[at - 1] else None, out, q, cell
            )
        self.carry = dict(zip(self.carry, (out, cell), strict=False))

    def _walk_and_keep(self, chunk: Chunk, start: int, states: slice, direct: State, some: list[bool]) -> None:
        """The same; what is carried stays beside what it becomes when the direct gradient joins it."""
        total, carried = _steps(self.total, states), _steps(self.carried, states)
        of_state = {name: value.unbind() for name, value in direct.items()}
        for name, value in self.carry.items():
            carried[name][-1].copy_(value)
        for at in range(len(some) - 1, -1, -1):
            here = {name: value[at] for name, value in carried.items()}
            if some[at]:
                here |= {name: here[name] + value[at] for name, value in of_state.items()}
            out = {name: value[at - 1] if at else torch.empty_like(value[0]) for name, value in carried.items()}
            hidden, q = here["hidden"], total.get("cell", total["hidden"])[at]
            own, cell_out = (each.get("cell", each["hidden"]) for each in (here, out))
            chunk.back(start + at, hidden, own, None, out["hidden"], q, cell_out)
            if any(some):
                for name, place in self.coordinate.items():
                    place[states.start + at] = here[name]
            self.carry = out
        if not any(some):  # nothing joined what was carried
            for name, value in self.coordinate.items():
                value[states] = self.carried[name][states]

    def _direct(self, chunk: Chunk, arriving: Arriving) -> State:
        """As of nodes."""
        if "cell" not in self.direct:
            return arriving.values()
        through_hidden = chunk.direct_cell(arriving.hidden)
        return {
            "hidden": arriving.hidden,
            "cell": through_hidden if arriving.cell is None else through_hidden + arriving.cell,
        }

    def _common_power(self, largest: Tensor, exponent: Tensor | None) -> Tensor:
        """For each sample, that of the largest of what is carried and of what joins it in a chunk."""
        least = torch.iinfo(torch.int32).min
        own = torch.frexp(largest).exponent if exponent is None else torch.frexp(largest).exponent + exponent
        power = own.where(torch.isfinite(largest) & (largest > 0), least).amax(0)
        if self.power is not None:
            power = torch.maximum(power, self.power.where(_largest(self.carry) != 0, least))
        return power.where(power != least, 0)

    def _within(self, states: slice, begun: State, share: float = 1.0) -> bool:
        """Whether all gradients that are none of zero are so by a wide margin, or by a share of it, in decades."""
        of_states = _largest({name: value[states] for name, value in self.total.items()})
        largest = torch.cat([_largest(self.carry)[None], of_states])  # the carry may be lost on the very last step
        low, high = (bound**share for bound in self.safe)
        fine = (largest >= low) & (largest <= high)
        if bool(fine.all()):
            return True
        # a zero is a true one where nothing joins it and it was carried from none, or from what no step can lose
        carried = torch.cat([(of_states == 0) | (of_states >= self.comfortable[0]), (_largest(begun) == 0)[None]])
        return bool((fine | ((largest == 0) & carried & ~after_one(self.present[states]))).all())

    def _normalise(self) -> None:
        largest = _largest(self.carry)
        low, high = (0.5, 1.0) if self.careful else self.comfortable
        away = torch.isfinite(largest) & (largest > 0) & ~((largest >= low) & (largest <= high))
        if bool(away.any()):
            shift = torch.frexp(largest).exponent.where(away, 0)
            self.carry = {name: power_of_two(value, -shift) for name, value in self.carry.items()}
            self.power = shift if self.power is None else self.power + shift


def _both(weights: Weights) -> Tensor | None:
    """The biases, where they are added to the same."""
    one, other = weights.input_bias, weights.recurrent_bias
    return one if one is None or other is None else one + other


def _by_step(*parts: Tensor) -> list[tuple[Tensor, ...]]:
    """Made once: to take a tensor apart step by step costs as much as to compute with it."""
    return list(zip(*(part.unbind() for part in parts), strict=True))


def _steps(gradient: State, states: slice) -> dict[str, tuple[Tensor, ...]]:
    return {name: value[states].unbind() for name, value in gradient.items()}


def _largest(values: State) -> Tensor:
    """The largest absolute entry along the last axis, of all components."""
    found = [torch.maximum(value.amax(-1), value.amin(-1).neg_()) for value in values.values()]
    return found[0] if len(found) == 1 else torch.maximum(*found)


def after_one(value: Shaped[Tensor, "time batch *width"]) -> Shaped[Tensor, "states batch *width"]:
    """What is known of the states after an input, with zeros for the initial one."""
    return torch.cat([torch.zeros_like(value[:1]), value])


def _product(added: Tensor | None, one: Tensor, other: Tensor, out: Tensor) -> None:
    if added is None:
        torch.mm(one, other, out=out)
    else:
        torch.addmm(added, one, other, out=out)
