r"""A stack of recurrences as one node of the autograd graph, which gives the total gradient at every state.

Its backward receives the direct gradient of every state, which is all that autograd can know about a layer from
outside, runs the sweep (see ``sweep``) layer by layer from the top, and hands on the gradients of inputs and weights.
So any model that contains such a stack gets exact totals by differentiating its loss once.

From layer to layer the sweep hands on mantissas and exponents, so that a lower layer reads its own total also where
the upper one's has left the floating-point format. What stands around a recurrence (see ``block``) treats every
position alone, so that one exponent for each position passes through it as it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from retrograde.core.block import Block
from retrograde.core.records import Course, Ledger, State, StateGradient
from retrograde.core.recurrence import Recurrence
from retrograde.core.scaled import Scaled
from retrograde.core.snapshot import evaluating
from retrograde.core.sweep import Sweepable, Unrolled, unrolling, vector_jacobian


@dataclass(frozen=True)
class Placed:
    """A recurrence in its place: ``name`` is ``layer.direction``; one that runs backward reads time from the end."""

    name: str
    recurrence: Recurrence
    backward: bool = False

    @property
    def keys(self) -> dict[str, str]:
        """The component behind each key under which a state is shown."""
        return {f"{self.name}.{component}": component for component in self.recurrence.components}


@dataclass(frozen=True)
class Layer:
    """Directions that read the same inputs, their read-outs side by side, and what a block puts around them.

    What is around is computed once more on the way back, and so without anything that is drawn: in eval mode.
    """

    placed: Sequence[Placed]
    around: Block | None = None

    def enter(self, x: Tensor) -> Tensor:
        if self.around is None:
            return x
        with evaluating(self.around):
            return self.around.enter(x)

    def leave(self, x: Tensor, y: Tensor) -> Tensor:
        if self.around is None:
            return y
        with evaluating(self.around):
            return self.around.leave(x, y)

    def parameters(self) -> list[Tensor]:
        """Those of the block but not of its recurrence, as far as they learn."""
        if self.around is None:
            return []
        inner = {id(parameter) for parameter in self.around.recurrence.parameters()}
        return [part for part in self.around.parameters() if id(part) not in inner and part.requires_grad]


Stack = Sequence[Layer]
"""Layers from the bottom; each reads what the one below gives."""


@dataclass(frozen=True)
class Traced:
    """What ``trace_stack`` gives: the top layer's outputs, and every state with its times, by key."""

    outputs: Float[Tensor, "batch time width"]
    states: dict[str, Tensor]
    times: dict[str, range]


def trace_stack(
    stack: Stack,
    inputs: Float[Tensor, "batch time width"],
    lengths: Int[Tensor, " batch"],
    ledger: Ledger,
    perturb: Mapping[str, Tensor] | None = None,
    initial: Mapping[str, Tensor] | None = None,
) -> Traced:
    """The stack as one node of the graph; g_t and d_t go to ``ledger`` as the loss's gradient passes through.

    ``initial`` gives the states, by key, that recurrences begin with; one that has none there begins as it does by
    itself.
    """
    keys = [key for placed in _each(stack) for key in placed.keys]
    for name, given in (("perturb", perturb or {}), ("begin with", initial or {})):
        unknown = set(given) - set(keys)
        if unknown:
            raise ValueError(f"there is no state '{min(unknown)}' to {name}; the states are {', '.join(keys)}")
    ledger.claim(keys)
    derived = {
        placed.name
        for placed in _each(stack)
        if any(weight.grad_fn is not None for weight in placed.recurrence.weights().values())
    }
    run = _Run(stack, lengths, ledger, dict(perturb or {}), list(initial or {}), derived)
    weights = [weight for placed in _each(stack) for weight in placed.recurrence.weights().values()]
    around = [parameter for layer in stack for parameter in layer.parameters()]
    outputs, *states = _StackFunction.apply(run, ledger.anchor, inputs, *(initial or {}).values(), *weights, *around)
    times = {key: times_of(placed, inputs.shape[1]) for placed in _each(stack) for key in placed.keys}
    return Traced(outputs, dict(zip(keys, states, strict=True)), times)


def times_of(placed: Placed, length: int) -> range:
    """The times of a recurrence's states: the initial one stands before the first input that is read."""
    return range(0, length + 1) if placed.backward else range(-1, length)


def reading_order(length: int, lengths: Int[Tensor, " batch"]) -> Int[Tensor, "batch time"]:
    """The times in the order in which a backward direction reads them: each sample from its own end; padding last.

    The order is its own inverse.
    """
    time = torch.arange(length, device=lengths.device).expand(len(lengths), length)
    return torch.where(time < lengths.unsqueeze(1), lengths.unsqueeze(1) - 1 - time, time)


def reordered(value: Tensor, order: Int[Tensor, "batch time"]) -> Tensor:
    """``value`` with the time axis, its second, in another order for each sample."""
    return value[torch.arange(len(order), device=order.device).unsqueeze(1), order]


def refuse_a_second_derivative() -> None:
    """Raises ValueError within a backward pass that is to be differentiated itself, as ``create_graph`` asks."""
    if torch.is_grad_enabled():
        raise ValueError(
            "the backward pass of a layer whose totals are taken cannot be differentiated again: call it without "
            "create_graph, or take no totals of this layer"
        )


def _each(stack: Stack) -> Iterator[Placed]:
    for layer in stack:
        yield from layer.placed


@dataclass(frozen=True)
class _Run:
    """What a pass through a stack is told beside tensors that autograd has to know."""

    stack: Stack
    lengths: Tensor
    ledger: Ledger
    perturb: dict[str, Tensor]
    initial: list[str]
    derived: set[str]
    """The recurrences whose weights are made of something that a gradient may be asked of, as an encoder's states."""


def _own_order(placed: Placed, states: Tensor, order: Tensor) -> Tensor:
    """States 0 … T of a backward direction ↔ the states in the order in which it makes them, initial one first."""
    if not placed.backward:
        return states
    return torch.cat([states[:, -1:], reordered(states[:, :-1], order)], 1)


def _time_order(placed: Placed, states: Tensor, order: Tensor) -> Tensor:
    """The inverse of ``_own_order``."""
    if not placed.backward:
        return states
    return torch.cat([reordered(states[:, 1:], order), states[:, :1]], 1)


def _read_order(placed: Placed, value: Tensor, order: Tensor) -> Tensor:
    """Inputs 0 … T-1 ↔ the inputs in the order in which a direction reads them."""
    return reordered(value, order) if placed.backward else value


class _StackFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        run: _Run,
        anchor: Tensor,
        inputs: Tensor,
        *others: Tensor,  # initial states, weights, what is around: the last two only for autograd's sake
    ) -> tuple[Tensor, ...]:
        order = reading_order(inputs.shape[1], run.lengths)
        given = dict(zip(run.initial, others, strict=False))
        unrolled: dict[str, Sweepable] = {}
        read: list[Tensor] = []
        states: dict[str, Tensor] = {}
        x = inputs
        for layer in run.stack:
            read.append(x)
            entered = layer.enter(x)
            made = []
            for placed in layer.placed:
                own = _read_order(placed, entered, order)
                added = _perturbation(placed, run.perturb, order, own)
                initial = _initial(placed, given, own)
                unroll: Sweepable
                if added is None:
                    unroll = unrolling(placed.recurrence, own, initial)
                else:
                    unroll = Unrolled(placed.recurrence, own, added, initial)
                unrolled[placed.name] = unroll
                for name, value in unroll.states.items():
                    states[f"{placed.name}.{name}"] = _time_order(placed, value, order)
                made.append(_read_order(placed, unroll.outputs, order))
            x = layer.leave(x, torch.cat(made, -1))
        ctx.run, ctx.order, ctx.unrolled, ctx.read, ctx.keys = run, order, unrolled, read, list(states)
        # copies: an output that the context also keeps would keep the context, and with it every step, alive for ever
        return x.clone(), *(value.clone() for value in states.values())

    @staticmethod
    def backward(ctx: Any, of_outputs: Tensor, *direct: Tensor) -> tuple[Tensor | None, ...]:
        refuse_a_second_derivative()
        ledger = ctx.run.ledger
        by_key = {key: ledger.reached(part) for key, part in zip(ctx.keys, direct, strict=True)}
        initial: dict[str, Tensor] = {}
        weights: list[Tensor] = []
        around: list[Tensor] = []
        gradient = ledger.reached(of_outputs)
        for layer, x in zip(reversed(ctx.run.stack), reversed(ctx.read), strict=True):
            left = _left(layer, x, [ctx.unrolled[placed.name] for placed in layer.placed], ctx.order, gradient)
            of_entered: Scaled | None = None
            of_layer: list[Tensor] = []
            start = 0
            for placed in layer.placed:
                width = placed.recurrence.width
                above = _in(_read_order, placed, _columns(left.read, start, width), ctx.order)
                start += width
                own = {name: _in(_own_order, placed, by_key[key], ctx.order) for key, name in placed.keys.items()}
                unrolled = ctx.unrolled[placed.name]
                swept = unrolled.sweep(own, above, ledger.weights or placed.name in ctx.run.derived)
                ledger.courses[placed.name] = Course(
                    placed.recurrence,
                    unrolled.weights,
                    unrolled.inputs.detach(),
                    unrolled.states,
                    ctx.run.lengths,
                    placed.backward,
                    swept.coordinate,
                    swept.carried,
                )
                of_layer += swept.weights
                for key, name in placed.keys.items():
                    total, by_read_out = (
                        _in(_time_order, placed, part[name], ctx.order) for part in (swept.total, swept.direct)
                    )
                    times = times_of(placed, ctx.order.shape[1])
                    ledger.gradients[key] = StateGradient(total, by_read_out, times)
                    if key in ctx.run.initial:
                        begin = Scaled(*(part[:, :1] for part in vars(swept.total[name]).values()))
                        initial[key] = begin.value()[:, 0]
                        ledger.lose(begin)
                below = _in(_read_order, placed, swept.inputs, ctx.order)
                of_entered = below if of_entered is None else of_entered + below
            assert of_entered is not None  # a layer has directions
            entered = _entered(layer, x, of_entered)
            gradient = entered.inputs if left.inputs is None else left.inputs + entered.inputs
            weights = of_layer + weights
            around = [one + other for one, other in zip(left.around, entered.around, strict=True)] + around
        ledger.lose(gradient)
        given = [initial[key] for key in ctx.run.initial]
        learned = [weight if weight.is_floating_point() else None for weight in weights]
        return None, torch.zeros(()), gradient.value(), *given, *learned, *around


@dataclass(frozen=True)
class _Left:
    """The gradient of a layer's output carried to what the layer above was made of."""

    inputs: Scaled | None
    read: Scaled
    around: list[Tensor]


@dataclass(frozen=True)
class _Entered:
    """The gradient of what recurrences read carried to the layer's inputs."""

    inputs: Scaled
    around: list[Tensor]


def _left(layer: Layer, x: Tensor, unrolled: Sequence[Sweepable], order: Tensor, gradient: Scaled) -> _Left:
    if layer.around is None:
        return _Left(None, gradient, [])
    read = [_read_order(placed, run.outputs, order) for placed, run in zip(layer.placed, unrolled, strict=True)]
    with torch.enable_grad():
        x, y = x.detach().requires_grad_(), torch.cat(read, -1).detach().requires_grad_()
        made = layer.leave(x, y)
    of_x, of_y = (
        Scaled(part, gradient.exponent, gradient.reached)
        for part in vector_jacobian({"": made}, {"x": x, "y": y}, {"": gradient.mantissa}).values()
    )
    return _Left(of_x, of_y, _of_parameters(layer, made, gradient))


def _entered(layer: Layer, x: Tensor, gradient: Scaled) -> _Entered:
    if layer.around is None:
        return _Entered(gradient, [])
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        made = layer.enter(x)
    of_x = vector_jacobian({"": made}, {"x": x}, {"": gradient.mantissa})["x"]
    return _Entered(Scaled(of_x, gradient.exponent, gradient.reached), _of_parameters(layer, made, gradient))


def _of_parameters(layer: Layer, made: Tensor, gradient: Scaled) -> list[Tensor]:
    parameters = {str(at): part for at, part in enumerate(layer.parameters())}
    return list(vector_jacobian({"": made}, parameters, {"": gradient.value()}).values())


def _initial(placed: Placed, given: Mapping[str, Tensor], like: Tensor) -> State | None:
    if not any(key in given for key in placed.keys):
        return None
    own = placed.recurrence.initial_state(like)
    return {name: given.get(key, own[name]) for key, name in placed.keys.items()}


def _perturbation(placed: Placed, perturb: Mapping[str, Tensor], order: Tensor, like: Tensor) -> State | None:
    if not any(key in perturb for key in placed.keys):
        return None
    states = like.shape[1] + 1
    added = {}
    for key, name in placed.keys.items():
        shape = placed.recurrence.components[name]
        given = perturb.get(key)
        added[name] = like.new_zeros(len(like), states, *shape) if given is None else _own_order(placed, given, order)
    return added


def _columns(gradient: Scaled, start: int, width: int) -> Scaled:
    return Scaled(gradient.mantissa[..., start : start + width], gradient.exponent, gradient.reached)


def _in(reorder: Any, placed: Placed, gradient: Scaled, order: Tensor) -> Scaled:
    """A gradient in another order of time."""
    return Scaled(*(reorder(placed, part, order) for part in vars(gradient).values()))
