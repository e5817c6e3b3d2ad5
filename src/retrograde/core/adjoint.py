r"""The total gradient at every state of a stack of recurrences, by one reverse sweep of vector-Jacobian products.

    g_t = d_t + J_{t+1}ᵀ g_{t+1}          J_{t+1} = ∂z_{t+1}/∂z_t

z_t state after input t, d_t = ∂L/∂z_t the direct gradient (other times held fixed), g_t = dL/dz_t the total one.

The stack becomes one node of the autograd graph. Its backward receives d_t for every state, which is all that autograd
can know about a layer from outside, runs the sweep layer by layer from the top, and hands on the gradients of inputs
and weights. So any model that contains such a stack gets exact totals by differentiating its loss once.

A component that the same step makes of another (an LSTM's hidden state of its cell) is counted as an autograd node
would be: dL/dc_t includes the path through h_t. The sweep itself carries the components as independent coordinates.

Range: the sweep carries a mantissa and an exponent per sample, renormalised at every step, and hands both from layer
to layer; see ``scaled``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from retrograde.core.records import Ledger, State, StateGradient
from retrograde.core.recurrence import Recurrence, perturbed_step
from retrograde.core.scaled import Scaled, power_of_two


@dataclass(frozen=True)
class Placed:
    """A recurrence in its place: ``name`` is ``layer.direction``; one that runs backward reads time from the end."""

    name: str
    recurrence: Recurrence
    backward: bool


RENORMALISE = 4
"""Steps between two renormalisations: within them a gradient may shrink or grow by 1e9 a step in float32."""

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


class _Unrolled:
    """One recurrence along one batch: a small graph per step, each cut off from its neighbours."""

    def __init__(self, placed: Placed, inputs: Tensor, perturb: State | None) -> None:
        recurrence = placed.recurrence
        self.placed = placed
        self.inputs = inputs
        self.weights = {name: weight.detach() for name, weight in recurrence.weights().items()}
        state = recurrence.initial_state(inputs)
        if perturb is not None:
            state = {name: value + perturb[name][:, 0] for name, value in state.items()}
        self.steps: list[tuple[State, State]] = []  # before (leaves), after (nodes)
        made = [state]
        with torch.enable_grad():
            for t, x in enumerate(inputs.unbind(1)):
                before = {name: value.detach().requires_grad_() for name, value in state.items()}
                if perturb is None:
                    state = recurrence.step(self.weights, x, before)
                else:
                    added = {name: value[:, t + 1] for name, value in perturb.items()}
                    state = perturbed_step(recurrence, self.weights, x, before, added)
                self.steps.append((before, state))
                made.append(state)
        self.states = {name: torch.stack([state[name].detach() for state in made], 1) for name in recurrence.components}

    def sweep(self, direct: dict[str, Scaled]) -> "_Swept":
        """The recursion for g_t, and what follows from all g_t at once: totals, gradients of inputs and weights."""
        components = list(self.states)
        direct = _common_scale(direct)
        scale = next(iter(direct.values()))  # the components share exponent and reach
        present = scale.reached.any(0).tolist()
        reached = scale.reached.flip(1).cummax(1).values.flip(1)
        carry: State = {name: torch.zeros_like(part.mantissa[:, 0]) for name, part in direct.items()}
        exponent = torch.zeros_like(scale.exponent[:, 0])
        totals: list[tuple[State, Tensor]] = []
        for t in range(len(self.steps), -1, -1):
            if present[t]:
                here = {name: part.mantissa[:, t] for name, part in direct.items()}
                carry, exponent = _sum(carry, exponent, here, scale.exponent[:, t])
            if present[t] or t % RENORMALISE == 0:
                carry, exponent = _normalised(carry, exponent)
            totals.append((carry, exponent))
            if t > 0:
                before, after = self.steps[t - 1]
                carry = _vector_jacobian(after, before, carry)
        exponents = torch.stack([part for _, part in reversed(totals)], 1)
        independent = {name: torch.stack([part[name] for part, _ in reversed(totals)], 1) for name in components}
        return self._finish({name: Scaled(part, exponents, reached) for name, part in independent.items()}, direct)

    def _finish(self, total: dict[str, Scaled], direct: dict[str, Scaled]) -> "_Swept":
        """One step taken at all times at once, differentiated with every g_t in place."""
        with torch.enable_grad():
            x = self.inputs.detach().requires_grad_()
            weights = {name: weight.detach().requires_grad_() for name, weight in self.weights.items()}
            before = {name: states[:, :-1] for name, states in self.states.items()}
            after = self.placed.recurrence.step(weights, x, before)

        def at_nodes(gradient: dict[str, Scaled]) -> dict[str, Scaled]:
            made = _vector_jacobian(after, after, {name: part.mantissa[:, 1:] for name, part in gradient.items()})
            return {
                name: Scaled(torch.cat([part.mantissa[:, :1], made[name]], 1), part.exponent, part.reached)
                for name, part in gradient.items()
            }

        some = next(iter(total.values()))
        of_inputs = _vector_jacobian(after, {"x": x}, {name: part.mantissa[:, 1:] for name, part in total.items()})
        of_weights = _vector_jacobian(after, weights, {name: part.value()[:, 1:] for name, part in total.items()})
        return _Swept(
            at_nodes(total),
            at_nodes(direct),
            Scaled(of_inputs["x"], some.exponent[:, 1:], some.reached[:, 1:]),
            tuple(of_weights.values()),
        )


@dataclass(frozen=True)
class _Swept:
    total: dict[str, Scaled]
    direct: dict[str, Scaled]
    inputs: Scaled
    weights: tuple[Tensor, ...]


def _vector_jacobian(outputs: State, inputs: Mapping[str, Tensor], gradient: State) -> dict[str, Tensor]:
    """``gradient`` times the Jacobian of ``outputs`` by ``inputs``; zero where an input is not used."""
    live = [name for name, value in outputs.items() if value.requires_grad]
    if not live:
        return {name: torch.zeros_like(value) for name, value in inputs.items()}
    made = torch.autograd.grad(
        [outputs[name] for name in live],
        list(inputs.values()),
        [gradient[name] for name in live],
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(inputs, made, strict=True))


def _common_scale(gradient: Mapping[str, Scaled]) -> dict[str, Scaled]:
    """The components of one state with one exponent, the largest of theirs, and reached where any of them is."""
    parts = list(gradient.values())
    exponent = torch.stack([part.exponent for part in parts]).amax(0)
    reached = torch.stack([part.reached for part in parts]).any(0)
    return {
        name: Scaled(power_of_two(part.mantissa, part.exponent - exponent), exponent, reached)
        for name, part in gradient.items()
    }


def _sum(carry: State, exponent: Tensor, direct: State, direct_exponent: Tensor) -> tuple[State, Tensor]:
    """``carry · 2^exponent + direct · 2^direct_exponent``, at the larger exponent of those that are not zero."""
    common = torch.where(
        _largest(carry) == 0,
        direct_exponent,
        torch.where(_largest(direct) == 0, exponent, torch.maximum(exponent, direct_exponent)),
    )
    total = {
        name: power_of_two(value, exponent - common) + power_of_two(direct[name], direct_exponent - common)
        for name, value in carry.items()
    }
    return total, common


def _normalised(carry: State, exponent: Tensor) -> tuple[State, Tensor]:
    """The same gradient with each sample's largest entry in [1/2, 1); what is not finite is left as it is."""
    largest = _largest(carry)
    shift = torch.where(torch.isfinite(largest), torch.frexp(largest).exponent, 0)
    return {name: power_of_two(value, -shift) for name, value in carry.items()}, exponent + shift


def _largest(state: State) -> Tensor:
    return torch.stack([value.abs().flatten(1).amax(-1) for value in state.values()]).amax(0)


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
        unrolled: dict[str, _Unrolled] = {}
        states: dict[str, Tensor] = {}
        for layer in stack:
            for placed in layer:
                own = reordered(inputs, order) if placed.backward else inputs
                added = _perturbation(placed, perturb, order, inputs)
                run = unrolled[placed.name] = _Unrolled(placed, own, added)
                for name, value in run.states.items():
                    states[f"{placed.name}.{name}"] = _time_order(placed, value, order)
            inputs = _outputs(layer, states)
        ctx.stack, ctx.order, ctx.ledger, ctx.unrolled = stack, order, ledger, unrolled
        ctx.keys = list(states)
        return tuple(states.values())

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
