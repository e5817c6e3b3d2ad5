r"""One recurrence along one batch, and the reverse sweep that gives its total gradients.

    g_t = d_t + J_{t+1}ᵀ g_{t+1}          J_{t+1} = ∂z_{t+1}/∂z_t

z_t state after input t, d_t = ∂L/∂z_t the direct gradient (other times held fixed), g_t = dL/dz_t the total one.

A component that the same step makes of another (an LSTM's hidden state of its cell) is counted as an autograd node
would be: dL/dc_t includes the path through h_t. The sweep itself carries the components as independent coordinates.

Range: the sweep carries a mantissa and an exponent per sample; see ``scaled``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor

from retrograde.core.records import State
from retrograde.core.recurrence import Recurrence, clocked, perturbed_step
from retrograde.core.scaled import Scaled, power_of_two

CHUNK = 4
"""Steps between two renormalisations: within them a gradient may shrink or grow by 1e9 a step in float32."""


class Sweepable(ABC):
    """One recurrence along one batch, in the order in which it reads."""

    weights: dict[str, Tensor]
    inputs: Tensor
    states: dict[str, Tensor]
    outputs: Tensor

    @abstractmethod
    def sweep(self, direct: dict[str, Scaled], above: Scaled, weights: bool = True) -> "Swept":
        """The recursion for g_t, and what follows from all g_t at once: totals, gradients of inputs and weights.

        ``direct`` is what the loss says of the states themselves, ``above`` what it says of the outputs read of them.
        Gradients of ``weights`` that are not asked for read zero.
        """


@singledispatch
def unrolling(recurrence: Recurrence, inputs: Tensor, initial: State | None = None) -> Sweepable:
    """A recurrence along a batch (batch, time, width), in the fastest form known for its type; ``Unrolled`` if none."""
    return Unrolled(recurrence, inputs, initial=initial)


class Stepped(Sweepable):
    """Swept back by a recursion of its own; all else follows from one step taken at all times at once.

    ``inputs`` have the recurrence's clock behind their first ``columns``.
    """

    recurrence: Recurrence
    columns: int

    @abstractmethod
    def back(self, direct: dict[str, Scaled]) -> tuple[dict[str, Scaled], dict[str, Scaled]]:
        """g_t, and what of it is not said of the state itself, of the components as independent coordinates.

        Those of ``direct`` share exponent and reach, and so do those of each that is given.
        """

    def sweep(self, direct: dict[str, Scaled], above: Scaled, weights: bool = True) -> "Swept":
        read = self._read(above, weights)
        direct = common_scale(
            {name: part + read.states[name] if name in read.states else part for name, part in direct.items()}
        )
        return self._finish(*self.back(direct), direct, read, weights)

    def _read(self, above: Scaled, learned: bool) -> "_Read":
        """The gradient at the outputs carried to the states, the inputs and the weights that they are read of."""
        with torch.enable_grad():
            x = _time_first(self.inputs).detach().requires_grad_()
            weights = {name: _leaf(weight, learned) for name, weight in self.weights.items()}
            states = {name: _time_first(value[:, 1:]).requires_grad_() for name, value in self.states.items()}
            read = self.recurrence.read(weights, x, states)
        for name, state in states.items():
            if read is state:  # a component as it stands: inputs and weights have no part in it
                return _Read({name: after_an_initial_zero(above)}, None, None)
        outputs, mantissa = {"": read}, {"": _time_first(above.mantissa)}
        of_states = vector_jacobian(outputs, states, mantissa)
        of_inputs = vector_jacobian(outputs, {"x": x}, mantissa)["x"][..., : self.columns]
        of_weights = vector_jacobian(outputs, weights, {"": _time_first(above.value())})
        return _Read(
            {
                name: after_an_initial_zero(Scaled(value.transpose(0, 1), above.exponent, above.reached))
                for name, value in of_states.items()
            },
            Scaled(of_inputs.transpose(0, 1), above.exponent, above.reached),
            list(of_weights.values()),
        )

    def _finish(
        self,
        total: dict[str, Scaled],
        carried: dict[str, Scaled],
        direct: dict[str, Scaled],
        read: "_Read",
        learned: bool,
    ) -> "Swept":
        """One step taken at all times at once, differentiated with every g_t in place."""
        with torch.enable_grad():
            x = _time_first(self.inputs).detach().requires_grad_()
            weights = {name: _leaf(weight, learned) for name, weight in self.weights.items()}
            before = {name: _time_first(states[:, :-1]).requires_grad_() for name, states in self.states.items()}
            after = self.recurrence.step(weights, x, before)
            # what the step hands on as it came is a state all the same, with a gradient apart from its other uses
            given = {id(value) for value in (x, *before.values(), *weights.values())}
            after = {name: made.clone() if id(made) in given else made for name, made in after.items()}

        def later(gradient: dict[str, Scaled]) -> State:
            return {name: _time_first(part.mantissa[:, 1:]) for name, part in gradient.items()}

        def at_nodes(gradient: dict[str, Scaled]) -> dict[str, Scaled]:
            made = vector_jacobian(after, after, later(gradient))
            return {
                name: Scaled(
                    torch.cat([part.mantissa[:, :1], made[name].transpose(0, 1)], 1), part.exponent, part.reached
                )
                for name, part in gradient.items()
            }

        some = next(iter(total.values()))
        of_inputs = vector_jacobian(after, {"x": x}, later(total))["x"][..., : self.columns].transpose(0, 1)
        values = {name: _time_first(part.value()[:, 1:]) for name, part in total.items()}
        of_weights = list(vector_jacobian(after, weights, values).values())
        stepped = Scaled(of_inputs, some.exponent[:, 1:], some.reached[:, 1:])
        return Swept(
            at_nodes(total),
            at_nodes(direct),
            total,
            carried,
            stepped if read.inputs is None else stepped + read.inputs,
            of_weights
            if read.weights is None
            else [one + other for one, other in zip(of_weights, read.weights, strict=True)],
        )


class Unrolled(Stepped):
    """One recurrence along one batch: a small graph for every few steps, each cut off from its neighbours."""

    def __init__(
        self, recurrence: Recurrence, inputs: Tensor, perturb: State | None = None, initial: State | None = None
    ) -> None:
        self.recurrence = recurrence
        self.columns = inputs.shape[-1]
        inputs = self.inputs = clocked(recurrence, inputs)
        self.weights = {name: weight.detach() for name, weight in recurrence.weights().items()}
        state = recurrence.initial_state(inputs) if initial is None else initial
        if perturb is not None:
            state = {name: value + perturb[name][:, 0] for name, value in state.items()}
        self.leaves: list[State] = []  # the state that a chunk begins with
        self.nodes: list[State] = [state]  # every state, as the later steps of its chunk read it
        with torch.enable_grad():
            for t, x in enumerate(inputs.unbind(1)):
                if t % CHUNK == 0:
                    state = {name: value.detach().requires_grad_() for name, value in state.items()}
                    self.leaves.append(state)
                if perturb is None:
                    state = recurrence.step(self.weights, x, state)
                else:
                    added = {name: value[:, t + 1] for name, value in perturb.items()}
                    state = perturbed_step(recurrence, self.weights, x, state, added)
                # a name of its own for what later steps and the read-out see of a component, apart from what the
                # same step makes of it: the sweep carries the components as independent coordinates
                state = {name: _named_anew(value) for name, value in state.items()}
                self.nodes.append(state)
        self.states = {
            name: torch.stack([state[name].detach() for state in self.nodes], 1) for name in recurrence.components
        }
        self.outputs = read_out(recurrence, self.weights, inputs, self.states)

    def back(self, direct: dict[str, Scaled]) -> tuple[dict[str, Scaled], dict[str, Scaled]]:
        scale = next(iter(direct.values()))  # the components share exponent and reach
        present = scale.reached.any(0).tolist()
        carry: State = {name: torch.zeros_like(part.mantissa[:, 0]) for name, part in direct.items()}
        exponent = torch.zeros_like(scale.exponent[:, 0])
        totals: list[tuple[State, Tensor]] = []  # from the last state to the first
        carries: list[tuple[State, Tensor]] = []  # the same without what is said of each state itself
        at = len(self.nodes) - 1
        while True:
            carries.append((carry, exponent))
            if present[at]:
                here = {name: part.mantissa[:, at] for name, part in direct.items()}
                carry, exponent = summed(carry, exponent, here, scale.exponent[:, at])
            carry, exponent = normalised(carry, exponent)
            totals.append((carry, exponent))
            if at == 0:
                break
            # back to where something is added, or to the beginning of the chunk
            leaf = (at - 1) // CHUNK * CHUNK
            stop = next((t for t in range(at - 1, leaf, -1) if present[t]), leaf)
            before = [self.nodes[t] if t > leaf else self.leaves[leaf // CHUNK] for t in range(at - 1, stop - 1, -1)]
            *between, carry = _carried_back(self.nodes[at], before, carry)
            totals += [(passed, exponent) for passed in between]
            carries += [(passed, exponent) for passed in between]
            at = stop
        reached, later = reach(scale)
        return _over_time(totals, reached), _over_time(carries, later)


@dataclass(frozen=True)
class _Read:
    """What the outputs' gradient is for the states, initial one first, for inputs and for weights, where they count."""

    states: dict[str, Scaled]
    inputs: Scaled | None
    weights: list[Tensor] | None


@dataclass(frozen=True)
class Swept:
    """Total and direct gradients of the states, initial one first, and what they mean for inputs and weights.

    ``coordinate`` and ``carried`` are those of the components as independent coordinates; see ``records.Course``.
    """

    total: dict[str, Scaled]
    direct: dict[str, Scaled]
    coordinate: dict[str, Scaled]
    carried: dict[str, Scaled]
    inputs: Scaled
    weights: list[Tensor]


def read_out(recurrence: Recurrence, weights: State, inputs: Tensor, states: State) -> Tensor:
    """What the layer above gets at every time, of inputs with their clock and of all states, initial one first."""
    after = {name: _time_first(value[:, 1:]) for name, value in states.items()}
    with torch.no_grad():
        return recurrence.read(weights, _time_first(inputs), after).transpose(0, 1)


def reach(direct: Scaled) -> tuple[Tensor, Tensor]:
    """Where totals have a path to the loss, and where what comes to them from later states has one."""
    reached = direct.reached.flip(1).cummax(1).values.flip(1)
    return reached, torch.cat([reached[:, 1:], torch.zeros_like(reached[:, :1])], 1)


def _over_time(gradients: list[tuple[State, Tensor]], reached: Tensor) -> dict[str, Scaled]:
    """One gradient for every state, from the first, of a list that begins with the last."""
    exponents = torch.stack([exponent for _, exponent in reversed(gradients)], 1)
    return {
        name: Scaled(torch.stack([part[name] for part, _ in reversed(gradients)], 1), exponents, reached)
        for name in gradients[0][0]
    }


def _leaf(weight: Tensor, learned: bool) -> Tensor:
    """The same numbers as the beginning of a graph, where they are to be and can be: a mask cannot."""
    return weight.detach().requires_grad_(learned and weight.is_floating_point())


def after_an_initial_zero(gradient: Scaled) -> Scaled:
    """The gradient with that of the initial state, which no output is read of, before it."""
    return Scaled(*(torch.cat([torch.zeros_like(part[:, :1]), part], 1) for part in vars(gradient).values()))


def _time_first(value: Tensor) -> Tensor:
    """(batch, time, …) as (time, batch, …): weights of one sample each, (batch, …), then meet every time."""
    return value.transpose(0, 1)


def _named_anew(value: Tensor) -> Tensor:
    """The same numbers as another node of the graph; one that begins there where no earlier state bears on them."""
    return value.view_as(value) if value.requires_grad else value.detach().requires_grad_()


def _carried_back(after: State, before: list[State], gradient: State) -> list[State]:
    """``gradient`` at the state ``after``, carried to each of the earlier states ``before``."""
    flat = {f"{place}.{name}": value for place, state in enumerate(before) for name, value in state.items()}
    made = vector_jacobian(after, flat, gradient)
    return [{name: made[f"{place}.{name}"] for name in state} for place, state in enumerate(before)]


def vector_jacobian(
    outputs: State, inputs: Mapping[str, Tensor], gradient: Mapping[str, Tensor], create_graph: bool = False
) -> dict[str, Tensor]:
    """``gradient`` times the Jacobian of ``outputs`` by ``inputs``; zero where an input is not used.

    With ``create_graph`` the products can be differentiated themselves.
    """
    live = [name for name, value in outputs.items() if value.requires_grad]
    wanted = [name for name, value in inputs.items() if value.requires_grad]
    if not live or not wanted:
        return {name: torch.zeros_like(value) for name, value in inputs.items()}
    made = torch.autograd.grad(
        [outputs[name] for name in live],
        [inputs[name] for name in wanted],
        [gradient[name] for name in live],
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    found = dict(zip(wanted, made, strict=True))
    return {name: found.get(name, torch.zeros_like(value)) for name, value in inputs.items()}


def common_scale(gradient: Mapping[str, Scaled]) -> dict[str, Scaled]:
    """The components of one state with one exponent, the largest of theirs, and reached where any of them is."""
    parts = list(gradient.values())
    if not any(bool((part.exponent != parts[0].exponent).any()) for part in parts[1:]):
        reached = torch.stack([part.reached for part in parts]).any(0)
        return {name: Scaled(part.mantissa, part.exponent, reached) for name, part in gradient.items()}
    some = torch.stack([(part.mantissa != 0).flatten(2).any(-1) for part in parts])
    exponents = torch.stack([part.exponent for part in parts])
    least = torch.iinfo(exponents.dtype).min
    largest = exponents.where(some, least).amax(0)  # the exponent of a zero says nothing
    exponent = torch.where(some.any(0), largest, 0)
    reached = torch.stack([part.reached for part in parts]).any(0)
    return {
        name: Scaled(power_of_two(part.mantissa, part.exponent - exponent), exponent, reached)
        for name, part in gradient.items()
    }


def summed(carry: State, exponent: Tensor, direct: State, direct_exponent: Tensor) -> tuple[State, Tensor]:
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


def normalised(carry: State, exponent: Tensor) -> tuple[State, Tensor]:
    """The same gradient with each sample's largest entry in [1/2, 1); what is not finite is left as it is."""
    largest = _largest(carry)
    shift = torch.where(torch.isfinite(largest), torch.frexp(largest).exponent, 0)
    return {name: power_of_two(value, -shift) for name, value in carry.items()}, exponent + shift


def _largest(state: State) -> Tensor:
    return torch.stack([value.abs().flatten(1).amax(-1) for value in state.values()]).amax(0)
