"""The three recurrences that ``torch.nn`` has a fused kernel for: each is that module, and the step that it computes.

The step is the definition; ``sequence`` takes the kernel, or the closed form of its gradient where that was chosen.
Tests hold all forms equal, in values and in gradients.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.abreast import abreast
from retrograde.core.choices import require_at_least
from retrograde.core.jacobians import step_jacobians, unit_by_unit
from retrograde.core.records import State, StateGradient
from retrograde.core.recurrence import Form, Recurrence, affine, own_forms
from retrograde.core.scaled import Scaled
from retrograde.core.sweep import (
    Sweepable,
    Swept,
    Unrolled,
    after_an_initial_zero,
    common_scale,
    normalised,
    summed,
    unrolling,
)
from retrograde.core.truncated import in_pieces
from retrograde.layers import compiled
from retrograde.layers.closed_form import Arriving, Weights, all_cells, form, run
from retrograde.layers.fused import closed
from retrograde.layers.seeds import in_cpp, of_seeds
from retrograde.layers.taps import tapped
from retrograde.layers.totals import Stack


def _weights(fused: nn.RNNBase) -> dict[str, Tensor]:
    names = ("input", "recurrent", "input_bias", "recurrent_bias")
    return dict(zip(names, fused.parameters(), strict=True))  # the order in which torch.nn registers them


def _projections(weights: Mapping[str, Tensor], x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    return (
        affine(x, weights["input"], weights["input_bias"]),
        affine(hidden, weights["recurrent"], weights["recurrent_bias"]),
    )


def _products(x: Tensor, hidden: Tensor) -> dict[str, tuple[str, Tensor]]:
    return {"input": ("input_bias", x), "recurrent": ("recurrent_bias", hidden)}


def _part(weights: Mapping[str, Tensor], at: int, of: int) -> dict[str, Tensor]:
    """The weights of one of the parts that are stacked in them."""
    return {name: weight.chunk(of, -1 if name.endswith("bias") else -2)[at] for name, weight in weights.items()}


class ElmanCell(Recurrence):
    """h_t = f(W x_t + b + U h_{t-1} + c), f tanh or ReLU."""

    def __init__(self, inputs: int, hidden: int, nonlinearity: Literal["tanh", "relu"] = "tanh") -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        self.hidden = hidden
        self.nonlinearity = torch.tanh if nonlinearity == "tanh" else torch.relu
        self.fused = nn.RNN(inputs, hidden, nonlinearity=nonlinearity, batch_first=True)

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (self.hidden,)}

    def weights(self) -> dict[str, Tensor]:
        return _weights(self.fused)

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        from_input, from_hidden = _projections(weights, x, state["hidden"])
        return {"hidden": self.nonlinearity(from_input + from_hidden)}

    def products(
        self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State
    ) -> dict[str, tuple[str, Tensor]]:
        return _products(x, state["hidden"])

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"recurrent": weights["recurrent"]}


class LSTMCell(Recurrence):
    """Input, forget and output gate around a cell; equations in ``models/lstm.py``."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        self.hidden = hidden
        self.fused = nn.LSTM(inputs, hidden, batch_first=True)

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (self.hidden,), "cell": (self.hidden,)}

    def weights(self) -> dict[str, Tensor]:
        return _weights(self.fused)

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        from_input, from_hidden = _projections(weights, x, state["hidden"])
        input_gate, forget_gate, candidate, output_gate = (from_input + from_hidden).chunk(4, -1)
        cell = torch.sigmoid(forget_gate) * state["cell"] + torch.sigmoid(input_gate) * torch.tanh(candidate)
        return {"hidden": torch.sigmoid(output_gate) * torch.tanh(cell), "cell": cell}

    def gates(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        from_input, from_hidden = _projections(weights, x, state["hidden"])
        input_gate, forget_gate, _, output_gate = (from_input + from_hidden).chunk(4, -1)
        return {
            "input": torch.sigmoid(input_gate),
            "forget": torch.sigmoid(forget_gate),
            "output": torch.sigmoid(output_gate),
        }

    def kept(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        from_input, from_hidden = _projections(_part(weights, 1, of=4), x, state["hidden"])
        return {"cell": torch.sigmoid(from_input + from_hidden)}

    def products(
        self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State
    ) -> dict[str, tuple[str, Tensor]]:
        return _products(x, state["hidden"])

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = ("input", "forget", "candidate", "output")
        return dict(zip(names, weights["recurrent"].chunk(4, -2), strict=True))


class GRUCell(Recurrence):
    """Reset and update gate; equations in ``models/gru.py``."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        self.hidden = hidden
        self.fused = nn.GRU(inputs, hidden, batch_first=True)

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (self.hidden,)}

    def weights(self) -> dict[str, Tensor]:
        return _weights(self.fused)

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        hidden = state["hidden"]
        from_input, from_hidden = _projections(weights, x, hidden)
        reset_input, update_input, candidate_input = from_input.chunk(3, -1)
        reset_hidden, update_hidden, candidate_hidden = from_hidden.chunk(3, -1)
        reset = torch.sigmoid(reset_input + reset_hidden)
        update = torch.sigmoid(update_input + update_hidden)
        candidate = torch.tanh(candidate_input + reset * candidate_hidden)
        return {"hidden": (1 - update) * candidate + update * hidden}

    def gates(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        from_input, from_hidden = _projections(weights, x, state["hidden"])
        reset, update, _ = (from_input + from_hidden).chunk(3, -1)
        return {"reset": torch.sigmoid(reset), "update": torch.sigmoid(update)}

    def kept(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        from_input, from_hidden = _projections(_part(weights, 1, of=3), x, state["hidden"])
        return {"hidden": torch.sigmoid(from_input + from_hidden)}

    def products(
        self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State
    ) -> dict[str, tuple[str, Tensor]]:
        return _products(x, state["hidden"])

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(zip(("reset", "update", "candidate"), weights["recurrent"].chunk(3, -2), strict=True))


def _in_cpp(recurrence: ElmanCell | LSTMCell | GRUCell, inputs: Tensor) -> bool:
    """Whether C++ is to be had for such inputs."""
    return _own(recurrence) and compiled.serves(inputs, recurrence.weights()["recurrent"])


def _with_seeds(
    recurrence: ElmanCell | LSTMCell | GRUCell, inputs: Tensor, initial: State | None, fast: bool
) -> tuple[Tensor, State]:
    """Outputs and last state of seeds that train together, whose axis torch's kernels refuse."""
    begin = recurrence.initial_state(inputs) if initial is None else initial
    outputs, last = of_seeds(
        recurrence.fused.mode,
        inputs,
        tuple(begin[name] for name in recurrence.components),
        list(recurrence.weights().values()),
        fast,
    )
    return outputs, {"hidden": outputs[:, -1]} | ({"cell": last} if "cell" in begin else {})


def _pieces_with_seeds(
    recurrence: ElmanCell | LSTMCell | GRUCell, inputs: Tensor, length: int, state: State | None
) -> Tensor:
    """The same in pieces, the state going on and its gradient not."""
    made = []
    for piece in inputs.split(length, 1):
        outputs, last = _with_seeds(recurrence, piece, state, _in_cpp(recurrence, inputs))
        state = {name: value.detach() for name, value in last.items()}
        made.append(outputs)
    return torch.cat(made, 1)


@own_forms.register(ElmanCell)
@own_forms.register(LSTMCell)
@own_forms.register(GRUCell)
def _(recurrence: ElmanCell | LSTMCell | GRUCell, inputs: Float[Tensor, "batch time width"]) -> dict[str, Form]:
    if abreast(inputs, *recurrence.weights().values()):
        some = {"seeds": Form(_of_seeds, twice=False)}
        return {"compiled": Form(_compiled, twice=False)} | some if _in_cpp(recurrence, inputs) else some
    device = inputs.device.type
    # neither cuDNN's backward pass nor those by hand can be differentiated; no kernel has a rule for vmap
    found = {"fused": Form(_fused, twice=device == "cpu", transformed=False)}
    if not _own(recurrence) or torch.is_autocast_enabled(device) or torch.compiler.is_compiling():
        return found
    if device == "cpu" and inputs.dtype in (torch.float32, torch.float64):
        if _in_cpp(recurrence, inputs):
            found["compiled"] = Form(_compiled, twice=False, transformed=False)
        found["chunked"] = Form(partial(_with_totals, closed), twice=False, transformed=False)
    # the kernel with more columns than it needs for this: whoever wants the totals asks for it by name
    found["taps"] = Form(partial(_with_totals, tapped), twice=False, transformed=False, timed=False)
    return found


def _own(recurrence: ElmanCell | LSTMCell | GRUCell) -> bool:
    """Whether the step is the one that is known here; a class derived from these may step otherwise."""
    return type(recurrence) in (ElmanCell, LSTMCell, GRUCell)


def _fused(
    recurrence: ElmanCell | LSTMCell | GRUCell, inputs: Float[Tensor, "batch time width"], initial: State | None = None
) -> Float[Tensor, "batch time hidden"]:
    if initial is None:
        return recurrence.fused(inputs)[0]
    begin = [initial[name][None].contiguous() for name in recurrence.components]
    return recurrence.fused(inputs, begin[0] if len(begin) == 1 else tuple(begin))[0]


def _compiled(
    recurrence: ElmanCell | LSTMCell | GRUCell, inputs: Float[Tensor, "batch time width"], initial: State | None = None
) -> Float[Tensor, "batch time hidden"]:
    begin = recurrence.initial_state(inputs) if initial is None else initial
    parts = tuple(begin[name] for name in recurrence.components)
    return in_cpp(recurrence.fused.mode, inputs, parts, list(recurrence.weights().values()))


def _of_seeds(
    recurrence: ElmanCell | LSTMCell | GRUCell, inputs: Float[Tensor, "batch time width"], initial: State | None = None
) -> Float[Tensor, "batch time hidden"]:
    """Of seeds that train together."""
    return _with_seeds(recurrence, inputs, initial, False)[0]


def _with_totals(
    layer: Callable[..., tuple[Tensor, list[Tensor]]],
    recurrence: ElmanCell | LSTMCell | GRUCell,
    inputs: Float[Tensor, "batch time width"],
    initial: State | None = None,
) -> Float[Tensor, "batch time hidden"]:
    """By ``closed`` or ``tapped``, whose backward pass makes the totals as well."""
    begin = recurrence.initial_state(inputs) if initial is None else initial
    weights = recurrence.weights()
    stack = Stack(
        mode=recurrence.fused.mode,
        layers=1,
        directions=1,
        weights=tuple(weights),
        dropout=0.0,
        time=inputs.shape[1],
        lengths=inputs.new_full(inputs.shape[:1], inputs.shape[1], dtype=torch.int64),
        ragged=False,
        report=_unheard,
        anchored=False,
    )
    parts = [begin[name][None] for name in recurrence.components]
    outputs, _ = layer(stack, inputs.transpose(0, 1), parts, [list(weights.values())])
    return outputs.transpose(0, 1)


def _unheard(place: str, gradient: StateGradient, lengths: Tensor) -> None:
    """Nobody has asked for the totals."""


@in_pieces.register(ElmanCell)
@in_pieces.register(GRUCell)
def _(
    recurrence: ElmanCell | GRUCell,
    inputs: Float[Tensor, "batch time width"],
    length: int,
    initial: State | None = None,
) -> Float[Tensor, "batch time hidden"]:
    if abreast(inputs, *recurrence.weights().values()):
        return _pieces_with_seeds(recurrence, inputs, length, initial)
    state = None if initial is None else initial["hidden"][None].contiguous()
    made = []
    for piece in inputs.split(length, 1):
        outputs, last = recurrence.fused(piece, state)
        state = last.detach()
        made.append(outputs)
    return torch.cat(made, 1)


@in_pieces.register
def _(
    recurrence: LSTMCell, inputs: Float[Tensor, "batch time width"], length: int, initial: State | None = None
) -> Float[Tensor, "batch time hidden"]:
    if abreast(inputs, *recurrence.weights().values()):
        return _pieces_with_seeds(recurrence, inputs, length, initial)
    state = None
    if initial is not None:
        state = initial["hidden"][None].contiguous(), initial["cell"][None].contiguous()
    made = []
    for piece in inputs.split(length, 1):
        outputs, (hidden, cell) = recurrence.fused(piece, state)
        state = hidden.detach(), cell.detach()
        made.append(outputs)
    return torch.cat(made, 1)


class InClosedForm(Sweepable):
    """A cell along a batch by the kernel, swept in closed form; what ``core.sweep.Unrolled`` is for any recurrence."""

    def __init__(self, cell: ElmanCell | LSTMCell | GRUCell, inputs: Tensor, initial: State | None) -> None:
        self.inputs = inputs
        self.weights = {name: weight.detach() for name, weight in cell.weights().items()}
        begin = cell.initial_state(inputs) if initial is None else initial
        with torch.no_grad():
            equations = form(cell.fused.mode, Weights(**self.weights))
            self.run, _ = run(equations, inputs.transpose(0, 1), tuple(begin[name] for name in equations.components))
            self.outputs = self.run.outputs.transpose(0, 1)
            self.states = {"hidden": torch.cat([begin["hidden"].unsqueeze(1), self.outputs], 1)}
            if "cell" in begin:
                self.states["cell"] = all_cells(self.run).transpose(0, 1)

    def sweep(self, direct: dict[str, Scaled], above: Scaled, weights: bool = True) -> Swept:
        said = common_scale(direct | {"hidden": direct["hidden"] + after_an_initial_zero(above)})
        some = said["hidden"]  # the components share exponent and reach
        later = {name: part.mantissa[:, 1:].transpose(0, 1) for name, part in said.items()}
        exponent = some.exponent[:, 1:].t() if bool(some.exponent.any()) else None
        arriving = Arriving(**later, exponent=exponent, reached=some.reached[:, 1:].t())
        swept = self.run.sweep(arriving, learned=weights, carried=True)
        made = swept.gradients
        first = {name: part.mantissa[:, 0] for name, part in said.items()}
        if bool(some.reached[:, 0].any()):
            carry = {name: value[0] for name, value in swept.coordinate.items()}
            carry, power = normalised(*summed(carry, made.exponent[0], first, some.exponent[:, 0]))
            made.exponent[0] = power
            for name, value in carry.items():
                swept.coordinate[name][0] = made.total[name][0] = value
        for name, value in first.items():
            made.direct[name][0] = value
        reached = some.reached.flip(1).cummax(1).values.flip(1)
        later_reached = torch.cat([reached[:, 1:], torch.zeros_like(reached[:, :1])], 1)

        def scaled(gradient: State, exponent: Tensor, reached: Tensor) -> dict[str, Scaled]:
            return {name: Scaled(value.transpose(0, 1), exponent, reached) for name, value in gradient.items()}

        assert swept.inputs is not None  # they were asked for
        exponents = made.exponent.t()
        return Swept(
            scaled(made.total, exponents, reached),
            scaled(made.direct, some.exponent, some.reached),
            scaled(swept.coordinate, exponents, reached),
            scaled(swept.carried, swept.carried_exponent.t(), later_reached),
            Scaled(swept.inputs.transpose(0, 1), exponents[:, 1:], reached[:, 1:]),
            list(swept.weights.values()) if weights else [torch.zeros_like(one) for one in self.weights.values()],
        )


@unrolling.register(ElmanCell)
@unrolling.register(LSTMCell)
@unrolling.register(GRUCell)
def _(recurrence: ElmanCell | LSTMCell | GRUCell, inputs: Tensor, initial: State | None = None) -> Sweepable:
    # half precisions round where the step does
    if _own(recurrence) and inputs.dtype in (torch.float32, torch.float64):
        return InClosedForm(recurrence, inputs, initial)
    return Unrolled(recurrence, inputs, initial=initial)


@step_jacobians.register(ElmanCell)
@step_jacobians.register(LSTMCell)
@step_jacobians.register(GRUCell)
def _(
    recurrence: ElmanCell | LSTMCell | GRUCell, weights: Mapping[str, Tensor], x: Tensor, before: State
) -> Float[Tensor, "time size size"]:
    # a class derived from these may mix units in other ways
    form = unit_by_unit if _own(recurrence) else step_jacobians.dispatch(Recurrence)
    return form(recurrence, weights, x, before)
