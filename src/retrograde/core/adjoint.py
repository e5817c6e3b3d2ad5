r"""A stack of recurrences as one node of the autograd graph, which gives the total gradient at every state.

Its backward receives the direct gradient of every state, which is all that autograd can know about a layer from
outside, runs the sweep (see ``sweep``) layer by layer from the top, and hands on the gradients of inputs and weights.
So any model that contains such a stack gets exact totals by differentiating its loss once.

From layer to layer the sweep hands on mantissas and exponents, so that a lower layer reads its own total also where
the upper one's has left the floating-point format.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from retrograde.core.records import Ledger, State, StateGradient
from retrograde.core.recurrence import Recurrence
from retrograde.core.scaled import Scaled
from retrograde.core.sweep import Unrolled


@dataclass(frozen=True)
class Placed:
    """A recurrence in its place: ``name`` is ``layer.direction``; one that runs backward reads time from the end."""

    name: str
    recurrence: Recurrence
    backward: bool


Stack = Sequence[Sequence[Placed]]
"""Layers from the bottom; the directions of one layer read the same inputs, and the next layer reads their outputs
side by side."""


@dataclass(frozen=True)
class Traced:
    """What ``trace_stack`` gives: the top layer's outputs, and every state with its times, by key."""

    outputs: Float[Tensor, "batch time hidden"]
    states: dict[str, Tensor]
    times: dict[str, range]


def trace_stack(
    stack: Stack,
    inputs: Float[Tensor, "batch time width"],
    lengths: Int[Tensor, " batch"],
    ledger: Ledger,
    perturb: Mapping[str, Tensor] | None = None,
) -> Traced:
    """The stack as one node of the graph; g_t and d_t go to ``ledger`` as the loss's gradient passes through."""
    keys = [f"{placed.name}.{name}" for layer in stack for placed in layer for name in placed.recurrence.components]
    weights = [weight for layer in stack for placed in layer for weight in placed.recurrence.weights().values()]
    unknown = set(perturb or ()) - set(keys)
    if unknown:
        raise ValueError(f"there is no state '{min(unknown)}' to perturb; the states are {', '.join(keys)}")
    ledger.claim(keys)
    made = _StackFunction.apply(stack, lengths, ledger, perturb, ledger.anchor, inputs, *weights)
    states = dict(zip(keys, made, strict=True))
    times = {
        f"{placed.name}.{name}": times_of(placed, inputs.shape[1])
        for layer in stack
        for placed in layer
        for name in placed.recurrence.components
    }
    return Traced(_outputs(stack[-1], states), states, times)


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


def _outputs(layer: Sequence[Placed], states: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([_without_initial(placed, states[_output_key(placed)]) for placed in layer], -1)


def _output_key(placed: Placed) -> str:
    return f"{placed.name}.{placed.recurrence.output}"


def _without_initial(placed: Placed, states: Tensor) -> Tensor:
    return states[:, :-1] if placed.backward else states[:, 1:]


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


class _StackFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        stack: Stack,
        lengths: Tensor,
        ledger: Ledger,
        perturb: Mapping[str, Tensor] | None,
        anchor: Tensor,
        inputs: Tensor,
        *weights: Tensor,  # arguments only for autograd's sake: the recurrences hold them
    ) -> tuple[Tensor, ...]:
        order = reading_order(inputs.shape[1], lengths)
        unrolled: dict[str, Unrolled] = {}
        states: dict[str, Tensor] = {}
        for layer in stack:
            for placed in layer:
                own = reordered(inputs, order) if placed.backward else inputs
                added = _perturbation(placed, perturb, order, inputs)
                run = unrolled[placed.name] = Unrolled(placed.recurrence, own, added)
                for name, value in run.states.items():
                    states[f"{placed.name}.{name}"] = _time_order(placed, value, order)
            inputs = _outputs(layer, states)
        ctx.stack, ctx.order, ctx.ledger, ctx.unrolled = stack, order, ledger, unrolled
        ctx.keys = list(states)
        # copies: an output that the context also keeps would keep the context, and with it every step, alive for ever
        return tuple(value.clone() for value in states.values())

    @staticmethod
    def backward(ctx: Any, *direct: Tensor) -> tuple[Tensor | None, ...]:
        by_key = {key: Scaled.of(part) for key, part in zip(ctx.keys, direct, strict=True)}
        weights: dict[str, tuple[Tensor | None, ...]] = {}
        of_inputs: Scaled | None = None
        for layer in reversed(ctx.stack):
            of_layer: Scaled | None = None
            start = 0
            for placed in layer:
                own = {name: by_key[f"{placed.name}.{name}"] for name in placed.recurrence.components}
                width = own[placed.recurrence.output].mantissa.shape[-1]
                if of_inputs is not None:
                    above = _with_initial(placed, _columns(of_inputs, start, width))
                    own[placed.recurrence.output] = own[placed.recurrence.output] + above
                start += width
                own = {name: _scaled_order(_own_order, placed, part, ctx.order) for name, part in own.items()}
                swept = ctx.unrolled[placed.name].sweep(own)
                weights[placed.name] = swept.weights
                for name in own:
                    total, by_read_out = (
                        _scaled_order(_time_order, placed, part[name], ctx.order)
                        for part in (swept.total, swept.direct)
                    )
                    times = times_of(placed, ctx.order.shape[1])
                    ctx.ledger.gradients[f"{placed.name}.{name}"] = StateGradient(total, by_read_out, times)
                below = swept.inputs
                if placed.backward:
                    below = Scaled(*(reordered(part, ctx.order) for part in vars(below).values()))
                of_layer = below if of_layer is None else of_layer + below
            of_inputs = of_layer
        assert of_inputs is not None  # a stack has layers
        flat = [gradient for layer in ctx.stack for placed in layer for gradient in weights[placed.name]]
        return None, None, None, None, torch.zeros(()), of_inputs.value(), *flat


def _perturbation(placed: Placed, perturb: Mapping[str, Tensor] | None, order: Tensor, like: Tensor) -> State | None:
    if not perturb or not any(key.startswith(f"{placed.name}.") for key in perturb):
        return None
    states = like.shape[1] + 1
    added = {}
    for name, shape in placed.recurrence.components.items():
        given = perturb.get(f"{placed.name}.{name}")
        added[name] = like.new_zeros(len(like), states, *shape) if given is None else _own_order(placed, given, order)
    return added


def _columns(gradient: Scaled, start: int, width: int) -> Scaled:
    return Scaled(gradient.mantissa[..., start : start + width], gradient.exponent, gradient.reached)


def _with_initial(placed: Placed, gradient: Scaled) -> Scaled:
    """A gradient at times 0 … T-1 widened by a zero for the initial state."""
    parts = []
    for part in vars(gradient).values():
        zero = torch.zeros_like(part[:, :1])
        parts.append(torch.cat([part, zero] if placed.backward else [zero, part], 1))
    return Scaled(*parts)


def _scaled_order(reorder: Any, placed: Placed, gradient: Scaled, order: Tensor) -> Scaled:
    return Scaled(*(reorder(placed, part, order) for part in vars(gradient).values()))
