"""Loops of live autograd nodes in place of the sweep.

While ``Loops`` stands in for ``trace_stack``, a model computes the same with a plain loop over ``step``, in which every
state is a node of torch's own graph: nothing of the sweep is left. From one such trace come the total gradient of every
state, the gradients of its components as independent coordinates, and, with one recurrence cut from its own past, the
direct gradients of its states.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock

import torch
from torch import Tensor

from retrograde.core import adjoint
from retrograde.core.adjoint import Layer, Placed, Traced
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch, Ledger, State, Trace
from retrograde.core.recurrence import Recurrence, clocked


@dataclass
class Course:
    """One recurrence along a batch as a live loop, in the order in which it reads, the initial state first.

    Of every component there are three nodes a time: the state ``made``, which the same step may make another component
    of; what it is as a ``point``, for all that comes after its step; and what of that the next step is handed ``on``.
    """

    placed: Placed
    inputs: Tensor
    lengths: Tensor
    weights: dict[str, Tensor]
    made: list[State] = field(default_factory=list)
    point: list[State] = field(default_factory=list)
    on: list[State] = field(default_factory=list)
    used: list[dict[str, Tensor]] = field(default_factory=list)
    """The weights by a name of their own at every step, so that each use of one has a gradient to itself."""
    read: Tensor = field(default_factory=lambda: torch.empty(0))
    """What the layer gives of every input."""

    @property
    def recurrence(self) -> Recurrence:
        return self.placed.recurrence

    def states(self, name: str) -> Tensor:
        """(batch, states, …)"""
        return torch.stack([state[name] for state in self.point], 1).detach()

    def in_time(self, values: Tensor) -> Tensor:
        """Something of every state, from the order of reading into that of time."""
        if not self.placed.backward:
            return values
        return torch.cat([self.of_inputs_in_time(values[:, 1:]), values[:, :1]], 1)

    def of_inputs_in_time(self, values: Tensor) -> Tensor:
        """Something of every input, from the order of reading into that of time."""
        return _gathered(values, _order(values.shape[1], self.lengths)) if self.placed.backward else values


class Loops:
    """``trace_stack`` as plain loops; the states of recurrence ``cut`` do not reach its own later ones.

    With ``window`` no state that a multiple of so many inputs leads to reaches later ones, in any recurrence.
    """

    def __init__(self, cut: str | None = None, window: int | None = None) -> None:
        self.cut = cut
        self.window = window
        self.courses: dict[str, Course] = {}

    def __call__(
        self,
        stack: Sequence[Layer],
        inputs: Tensor,
        lengths: Tensor,
        ledger: Ledger,
        perturb: Mapping[str, Tensor] | None = None,
        initial: Mapping[str, Tensor] | None = None,
    ) -> Traced:
        assert not perturb  # differences go through the model's own trace
        states: dict[str, Tensor] = {}
        times: dict[str, range] = {}
        x = inputs
        for layer in stack:
            entered = layer.enter(x)
            made = []
            for placed in layer.placed:
                course = self._run(placed, entered, lengths, initial or {})
                made.append(course.of_inputs_in_time(course.read))
                for key, name in placed.keys.items():
                    states[key] = course.in_time(torch.stack([state[name] for state in course.made], 1))
                    times[key] = range(0, x.shape[1] + 1) if placed.backward else range(-1, x.shape[1])
            x = layer.leave(x, torch.cat(made, -1))
        return Traced(x, states, times)

    def _run(self, placed: Placed, entered: Tensor, lengths: Tensor, initial: Mapping[str, Tensor]) -> Course:
        recurrence = placed.recurrence
        order = _order(entered.shape[1], lengths)
        own = _gathered(entered, order) if placed.backward else entered
        course = Course(placed, clocked(recurrence, own), lengths, recurrence.weights())
        begin = recurrence.initial_state(own)
        given = {name: initial.get(key, begin[name]) for key, name in placed.keys.items()}
        self._keep(course, given, {})
        for x in course.inputs.unbind(1):
            before = course.on[-1]
            course.used.append({name: weight.view_as(weight) for name, weight in course.weights.items()})
            self._keep(course, recurrence.step(course.used[-1], x, before), before | {"": x} | course.used[-1])
        self.courses[placed.name] = course
        after = {name: torch.stack([state[name] for state in course.point[1:]], 1) for name in recurrence.components}
        course.read = recurrence.read(course.weights, course.inputs, after)
        return course

    def _keep(self, course: Course, state: State, came: Mapping[str, Tensor]) -> None:
        """Append a state; what the step handed on as it ``came`` is a state of its own all the same."""
        same = {id(value) for value in came.values()}
        made = {name: value.clone() if id(value) in same else value for name, value in state.items()}
        made = {name: value if value.requires_grad else value.detach().requires_grad_() for name, value in made.items()}
        point = {name: value.clone() for name, value in made.items()}
        read = len(course.point)
        cut = course.placed.name == self.cut or (self.window is not None and read > 0 and read % self.window == 0)
        on = {name: (value.detach() if cut else value).clone().requires_grad_() for name, value in point.items()}
        for kept, value in ((course.made, made), (course.point, point), (course.on, on)):
            kept.append(value)


def _order(length: int, lengths: Tensor) -> Tensor:
    """Times in the order in which a backward direction reads them, padding last; its own inverse."""
    time = torch.arange(length, device=lengths.device).expand(len(lengths), length)
    return torch.where(time < lengths.unsqueeze(1), lengths.unsqueeze(1) - 1 - time, time)


def _gathered(values: Tensor, order: Tensor) -> Tensor:
    return values[torch.arange(len(order)).unsqueeze(1), order]


@contextmanager
def in_place_of_the_sweep(loops: Loops) -> Iterator[None]:
    """While it lasts, every model's trace runs ``loops``."""
    # by what they hold, not by getattr, at which some modules import others
    places = [each for each in list(sys.modules.values()) if vars(each).get("trace_stack") is adjoint.trace_stack]
    patches = [mock.patch.object(module, "trace_stack", loops) for module in places]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


@dataclass(frozen=True)
class Live:
    """A trace by live loops, and the loss of each sample: the mean over its scored positions, or at one of them."""

    trace: Trace
    courses: dict[str, Course]
    losses: Tensor

    def of(self, nodes: Sequence[Tensor]) -> list[Tensor]:
        """The gradient of each sample's loss at each node; zeros where there is no path."""
        if not nodes:
            return []
        return list(
            torch.autograd.grad(self.losses.sum(), nodes, retain_graph=True, allow_unused=True, materialize_grads=True)
        )

    def at(self, course: Course, which: str) -> dict[str, Tensor]:
        """The gradients of a recurrence's states, by component, (batch, states, …) in the order of reading."""
        states: list[State] = getattr(course, which)
        names = list(course.recurrence.components)
        found = iter(self.of([state[name] for state in states for name in names]))
        by_time = [{name: next(found) for name in names} for _ in states]
        return {name: torch.stack([state[name] for state in by_time], 1) for name in names}

    def totals(self) -> dict[str, Tensor]:
        """dL/dz_t by the key of the state, in the order of time."""
        totals: dict[str, Tensor] = {}
        for course in self.courses.values():
            gradients = self.at(course, "made")
            totals |= {key: course.in_time(gradients[name]) for key, name in course.placed.keys.items()}
        others = [key for key in self.trace.states if key not in totals]
        return totals | dict(zip(others, self.of([self.trace.states[key] for key in others]), strict=True))


def live(
    model: SequenceModel,
    task: Task,
    batch: Batch,
    position: Tensor | None = None,
    cut: str | None = None,
    window: int | None = None,
) -> Live:
    """The model on a batch, in the mode that it is in; ``position`` gives each sample the one place whose loss counts.

    For ``cut`` and ``window`` see ``Loops``.
    """
    loops = Loops(cut, window)
    with in_place_of_the_sweep(loops):
        trace = model.trace(batch)
    losses = task.loss(trace.outputs, batch)
    if position is None:
        counts = batch.scored
        means = losses.where(counts, 0.0).sum(1) / counts.sum(1)
    else:
        means = losses.gather(1, position.unsqueeze(1)).squeeze(1)
    return Live(trace, loops.courses, means)
