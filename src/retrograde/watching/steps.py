r"""Layers of other kinds join with one step function.

    @retrograde.step.register
    def _(layer: MyLayer, x: Tensor, state: dict[str, Tensor] | None) -> dict[str, Tensor]:
        hidden = layer.cell(x, None if state is None else state["hidden"])
        return {"hidden": hidden}

``layer(inputs)`` has to take (batch, time, width), or (time, batch, width) where it says ``batch_first = False``, and
to give one of the components at every time, alone or first in a tuple; what else it gives may be the last state. The
totals come from the sweep of ``core/sweep`` over the step function, from the gradient at what the layer gives. That the
function gives what the layer gave is tested at every backward pass; where it does not, the layer is left out.
"""

from collections.abc import Mapping, Sequence
from functools import partial, singledispatch
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.records import State
from retrograde.core.recurrence import Recurrence
from retrograde.core.scaled import Scaled
from retrograde.core.sweep import Unrolled, vector_jacobian
from retrograde.watching.activations import followed
from retrograde.watching.calls import Call, replaced, tensors
from retrograde.watching.flow import Measured
from retrograde.watching.norms import Norm, difference, share

ROUNDING = 4096
"""By how many units in the last place, of the largest entry, a layer and its step function may differ."""


@singledispatch
def step(layer: nn.Module, x: Tensor, state: State | None) -> State:
    """The state after one input (batch, width), by component; ``state`` is None before the first."""
    raise NotImplementedError(f"no step is registered for {type(layer).__name__}: retrograde.step.register")


def has_step(layer: nn.Module) -> bool:
    """Whether there is a step function for layers of that type."""
    return step.dispatch(type(layer)) is not step.dispatch(object)


class _View(Recurrence):
    """The step function of a layer as a recurrence. The layer's weights are its own, and no argument."""

    def __init__(self, layer: nn.Module, first: State) -> None:
        super().__init__()
        self.stepped = partial(step, layer)  # no submodule: nothing of the layer's may change hands
        self.shapes = {name: tuple(value.shape[1:]) for name, value in first.items()}
        self.first = next(iter(first))

    @property
    def components(self) -> dict[str, tuple[int, ...]]:
        return self.shapes

    def weights(self) -> dict[str, Tensor]:
        return {}

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        if x.ndim == 2:
            return self.stepped(x, state)
        flat = {name: value.flatten(0, 1) for name, value in state.items()}
        return {name: value.unflatten(0, x.shape[:2]) for name, value in self.stepped(x.flatten(0, 1), flat).items()}

    def read(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> Tensor:
        return state[self.first]


def stepped(call: Call) -> Any:
    """A call of a layer that has a step function."""
    number = call.step.call(call.layer)
    with call.muted():
        made = call.run()
    results = [(path, value) for path, value in tensors(made) if value.is_floating_point()]
    if len(call.args) != 1 or call.kwargs or not isinstance(call.args[0], Tensor) or call.args[0].ndim != 3:
        call.leave_out("with a step function goes a call with (batch, time, width) and nothing else")
        return made
    if call.frozen:
        for path, value in results:
            made = replaced(made, path, followed(value))
        results = [(path, value) for path, value in tensors(made) if value.is_floating_point()]
    sweep = _Sweep(call, number, call.args[0].detach(), [value.detach() for _, value in results])
    for (path, _), value in zip(results, _Joined.apply(sweep, *(value for _, value in results)), strict=True):
        made = replaced(made, path, value)
    return made


class _Joined(torch.autograd.Function):
    """Brings the gradients of all that a layer gave together, and hands each on as it came."""

    @staticmethod
    def forward(ctx: Any, sweep: "_Sweep", *results: Tensor) -> tuple[Tensor, ...]:
        ctx.sweep = sweep
        return tuple(result.clone() for result in results)  # a view would refuse to be changed in place

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.sweep(gradients)
        return None, *gradients


class _Sweep:
    """One call of a layer: its inputs and results, and the sweep once there are gradients at the latter."""

    def __init__(self, call: Call, number: int, inputs: Tensor, results: list[Tensor]) -> None:
        self.call = call
        self.number = number
        self.time_first = getattr(call.module, "batch_first", True) is False
        self.inputs = inputs.transpose(0, 1) if self.time_first else inputs
        self.results = results
        self.within = call.step.within()
        call.step.told(len(self.inputs))

    def __call__(self, gradients: Sequence[Tensor]) -> None:
        """Tell of the totals, or name the layer."""
        device = self.inputs.device
        passing = self.call.step.passing(self.within)
        devices = [] if device.type == "cpu" else [device]
        # a step that draws (dropout) gives something else than the layer, and is found out; it must not draw from ours
        ours = torch.random.fork_rng(devices, device_type="cuda" if device.type == "cpu" else device.type)
        with ours, self.call.muted(), torch.enable_grad():
            passing.measured += self._measured([gradient.detach() for gradient in gradients])

    def _measured(self, gradients: Sequence[Tensor]) -> list[Measured]:
        module = self.call.module
        x = self.inputs[:, 0].clone().requires_grad_()
        first = step(module, x, None)
        view = _View(module, first)
        begun = {name: value.detach() for name, value in first.items()}
        unrolled = Unrolled(view, self.inputs[:, 1:], initial=begun) if self.inputs.shape[1] > 1 else None
        states = {name: value.unsqueeze(1) for name, value in begun.items()} if unrolled is None else unrolled.states
        direct = self._direct(states, gradients)
        if direct is None:
            return []
        if unrolled is None:
            coordinate = direct
        else:
            above = Scaled.of(torch.zeros_like(unrolled.outputs))
            coordinate = unrolled.sweep(direct, above).coordinate
        total, by_read_out = (self._at_nodes(first, states, part) for part in (coordinate, direct))
        measured = []
        for name in states:
            norms = Norm.of(total[name]), Norm.of(by_read_out[name])
            carried = Norm.of(difference(total[name], by_read_out[name]))
            counts = torch.ones_like(norms[0].status, dtype=torch.bool)
            times = range(states[name].shape[1])
            measured.append(Measured(self.call.layer, name, self.number, times, *norms, share(*norms, carried), counts))
        return measured

    def _direct(self, states: Mapping[str, Tensor], gradients: Sequence[Tensor]) -> dict[str, Scaled] | None:
        """What the loss says of the states: of the one that the layer gives over time, and of last states."""
        direct = {name: torch.zeros_like(value) for name, value in states.items()}
        for place, (result, gradient) in enumerate(zip(self.results, gradients, strict=True)):
            whole, part = (v.transpose(0, 1) if self.time_first and not place else v for v in (result, gradient))
            over_time = next((name for name, value in states.items() if not place and _same(whole, value)), None)
            last = next((name for name, value in states.items() if place and _same(result, value[:, -1])), None)
            if over_time is not None:
                direct[over_time] = direct[over_time] + part
            elif last is not None:
                direct[last][:, -1] += gradient.reshape(direct[last][:, -1].shape)
            elif not place:
                self.call.leave_out(f"its step function gives other states than the layer: {_apart(whole, states)}")
                return None
            elif (gradient != 0).any():
                self.call.leave_out(f"the loss reads result {place} of it, which is no last state")
                return None
        return {name: Scaled.of(value) for name, value in direct.items()}

    def _at_nodes(
        self, first: State, states: Mapping[str, Tensor], gradient: Mapping[str, Scaled]
    ) -> dict[str, Scaled]:
        """Gradients of independent coordinates as those of the nodes: a component counts what the step makes of it."""
        made = vector_jacobian(first, first, {name: part.mantissa[:, 0] for name, part in gradient.items()})
        parts = {name: [value.unsqueeze(1)] for name, value in made.items()}
        if self.inputs.shape[1] > 1:
            samples = len(self.inputs)
            before = {name: value[:, :-1].flatten(0, 1).requires_grad_() for name, value in states.items()}
            after = step(self.call.module, self.inputs[:, 1:].flatten(0, 1).requires_grad_(), before)
            flat = {name: part.mantissa[:, 1:].flatten(0, 1) for name, part in gradient.items()}
            for name, value in vector_jacobian(after, after, flat).items():
                parts[name].append(value.unflatten(0, (samples, -1)))
        return {name: Scaled(torch.cat(parts[name], 1), part.exponent, part.reached) for name, part in gradient.items()}


def _same(one: Tensor, other: Tensor) -> bool:
    if one.numel() != other.numel() or one.squeeze().shape != other.squeeze().shape:
        return False
    allowed = ROUNDING * torch.finfo(one.dtype).eps * float(other.abs().amax())
    return float((one.reshape(other.shape) - other).abs().amax()) <= allowed


def _apart(result: Tensor, states: Mapping[str, Tensor]) -> str:
    alike = [(name, value) for name, value in states.items() if value.shape == result.shape]
    if not alike:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in states.items())
        return f"{tuple(result.shape)} and {shapes}"
    name, value = alike[0]
    return f"{name} differs by up to {float((value - result).abs().amax()):.2g}"
