r"""One step of a recurrence as matrices, J_t = ∂z_t/∂z_{t-1}, over the full state and along one sequence.

Row i of every J_t comes from one vector-Jacobian product of the step taken at all times at once; a cell that is known
to mix units in matrix products alone (``unit_by_unit``) needs one for each component of its state.

**Parts.** A state often falls apart into parts that do not bear on one another: the numbers of a diagonal recurrence,
the columns of a matrix memory. J_t is then block-diagonal, the blocks are all that is computed, and one product serves
the same row of all of them. Which numbers belong together is read off J at a few times and then checked at every time:
products with random vectors on half of the parts must give exact zeros on the other half, for as many halvings as tell
any two parts apart. Where they do not, the state is one part.

The state's numbers are counted through its components in turn.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch

import torch
from jaxtyping import Float, Int
from torch import Tensor

from retrograde.core.choices import LeftOut
from retrograde.core.contracts import Snapshot
from retrograde.core.records import Course, State
from retrograde.core.recurrence import Recurrence, affine
from retrograde.core.snapshot import gradient_flow
from retrograde.core.sweep import vector_jacobian

AT_ONCE = 1 << 25
"""Numbers of the matrices that exist together: 128 MiB in float32."""

Parts = Sequence[Int[Tensor, "_part _size"]]
"""Numbers of a state by the part that they belong to, parts of one size in one tensor."""

LOOKED_AT = 3
"""Times at which the parts are read off J, beginning, middle and end, before they are checked at all of them."""


@dataclass(frozen=True)
class Trajectory:
    """A recurrence along one sequence, and what it is linearised at: the inputs, clock included, and every state.

    The initial state is the first. Axes are (time, 1, …): the second is a batch of one, which weights that belong to a
    sample have as well.
    """

    recurrence: Recurrence
    weights: Mapping[str, Tensor]
    inputs: Float[Tensor, "time 1 clocked"]
    states: Mapping[str, Tensor]

    @classmethod
    def of(cls, course: Course, sample: int, dtype: torch.dtype) -> "Trajectory":
        """That of one sample of a course, without its padding, in the precision given."""
        length = int(course.lengths[sample])
        inputs = in_precision(course.inputs[sample, :length], dtype).unsqueeze(1)
        states = {
            name: in_precision(state[sample, : length + 1], dtype).unsqueeze(1) for name, state in course.states.items()
        }
        return cls(course.recurrence, cast(course.weights, dtype), inputs, states)

    @classmethod
    def run(
        cls, recurrence: Recurrence, weights: Mapping[str, Tensor], inputs: Float[Tensor, "time 1 clocked"]
    ) -> "Trajectory":
        """The loop over ``step`` from the recurrence's own initial state, in the inputs' precision."""
        states = [cast(recurrence.initial_state(inputs[0]), inputs.dtype)]
        for x in inputs.unbind(0):
            states.append(recurrence.step(weights, x, states[-1]))
        over_time = {name: torch.stack([state[name] for state in states]) for name in recurrence.components}
        return cls(recurrence, weights, inputs, over_time)

    @property
    def length(self) -> int:
        """How many steps it has."""
        return self.inputs.shape[0]

    @property
    def size(self) -> int:
        """How many numbers the state holds."""
        return sum(self._sizes)

    @property
    def _sizes(self) -> list[int]:
        return [state[0].numel() for state in self.states.values()]

    def parts(self, largest: int) -> Parts | None:
        """The state's numbers by parts that do not bear on one another at any time; parts of one size together.

        None where a part has more than ``largest`` numbers, as soon as that is known.
        """
        number = torch.arange(self.size, device=self.inputs.device)
        label = number
        for time in sorted({round(at) for at in torch.linspace(0, self.length - 1, LOOKED_AT).tolist()}):
            for rows in number.split(max(1, AT_ONCE // (16 * self.size))):
                row, column = self._rows(time, rows).nonzero(as_tuple=True)
                label = joined(label, rows[row], column)
                if int(label.bincount().max()) > largest:
                    return None
        label = label.unique(return_inverse=True)[1]
        if not self._falls_apart(label):
            if self.size > largest:
                return None
            label = torch.zeros_like(label)
        members = label.argsort(stable=True).split(label.bincount().tolist())
        sizes = sorted({len(part) for part in members})
        return [torch.stack([part for part in members if len(part) == size]) for size in sizes]

    def chunks(self, parts: Parts) -> list[range]:
        """The times in stretches whose matrices may exist together."""
        stretch = max(1, AT_ONCE // sum(part.shape[0] * part.shape[1] ** 2 for part in parts))
        return [range(start, min(start + stretch, self.length)) for start in range(0, self.length, stretch)]

    def jacobians(self, parts: Parts, times: range) -> list[Float[Tensor, "_time _part _size _size"]]:
        """The blocks of J_t at consecutive times t, the step of which reads input t, for each of ``parts``."""
        chosen = slice(times.start, times.stop)
        x = self.inputs[chosen]
        before = {name: state[:-1][chosen] for name, state in self.states.items()}
        if parts[0].shape[1] == self.size:
            return [step_jacobians(self.recurrence, self.weights, x, before).unsqueeze(1)]
        step = Linearised.of(self.recurrence, self.weights, x, before)
        rows = []
        for row in range(max(part.shape[1] for part in parts)):
            asked = x.new_zeros(self.size)
            for part in parts:
                asked[part[:, row : row + 1]] = 1.0
            rows.append(step.product(asked.expand(len(times), 1, -1))[:, 0])
        made = torch.stack(rows, 1)
        return [made[:, : part.shape[1], part].transpose(1, 2) for part in parts]

    def _rows(self, time: int, rows: Int[Tensor, " row"]) -> Float[Tensor, "row size"]:
        """Some rows of J at one time."""
        x = self.inputs[time].expand(len(rows), 1, -1)
        before = {name: state[time].expand(len(rows), *state[time].shape) for name, state in self.states.items()}
        one = torch.zeros(len(rows), 1, self.size, dtype=x.dtype, device=x.device)
        one[torch.arange(len(rows), device=x.device), 0, rows] = 1.0
        return Linearised.of(self.recurrence, self.weights, x, before).product(one)[:, 0]

    def _falls_apart(self, label: Int[Tensor, " size"]) -> bool:
        """Whether parts with these labels bear on one another at no time."""
        vector = torch.randn(self.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        vector = vector.to(self.inputs)
        stretch = max(1, AT_ONCE // (8 * self.size))
        for start in range(0, self.length, stretch):
            chosen = slice(start, start + stretch)
            x, before = self.inputs[chosen], {name: state[:-1][chosen] for name, state in self.states.items()}
            step = Linearised.of(self.recurrence, self.weights, x, before)
            for bit in range(int(label.max()).bit_length()):
                one = (label >> bit) % 2 == 1
                for half in (one, ~one):
                    if step.product(vector.where(half, 0.0).expand(len(x), 1, -1))[..., ~half].any():
                        return False
        return True


@dataclass(frozen=True)
class Linearised:
    """A step taken at several places at once, ready for products with its Jacobian."""

    before: State
    after: State

    @classmethod
    def of(
        cls,
        recurrence: Recurrence,
        weights: Mapping[str, Tensor],
        x: Float[Tensor, "place 1 clocked"],
        before: State,
    ) -> "Linearised":
        """At these inputs and the states before them."""
        with torch.enable_grad():
            before = {name: value.detach().requires_grad_() for name, value in before.items()}
            return cls(before, recurrence.step(weights, x, before))

    def product(self, vector: Float[Tensor, "place 1 size"]) -> Float[Tensor, "place 1 size"]:
        """``vector`` times J."""
        sizes = [value.shape[2:].numel() for value in self.before.values()]
        of_components = dict(zip(self.before, vector.split(sizes, -1), strict=True))
        asked = {name: value for name, value in self.after.items() if of_components[name].any()}
        gradient = {name: of_components[name].reshape(value.shape).to(value.dtype) for name, value in asked.items()}
        made = vector_jacobian(asked, self.before, gradient)
        return torch.cat([value.flatten(2) for value in made.values()], -1)


@singledispatch
def step_jacobians(
    recurrence: Recurrence,
    weights: Mapping[str, Tensor],
    x: Float[Tensor, "time 1 clocked"],
    before: State,
) -> Float[Tensor, "time size size"]:
    """J_t at several times, as one matrix each, in the fastest form known for the recurrence's type.

    A product for each row where no form is registered.
    """
    step = Linearised.of(recurrence, weights, x, before)
    size = sum(value.shape[2:].numel() for value in before.values())
    one = torch.eye(size, dtype=x.dtype, device=x.device)
    return torch.stack([step.product(row.expand(len(x), 1, -1))[:, 0] for row in one], 1)


def unit_by_unit(
    recurrence: Recurrence,
    weights: Mapping[str, Tensor],
    x: Float[Tensor, "time 1 clocked"],
    before: State,
) -> Float[Tensor, "time size size"]:
    r"""The same of a step that mixes units in sums U v + b alone, v one of the components and the sums by gates.

        J = ∂z_t/∂z_{t-1} + Σ_U (∂z_t/∂(U v + b)) U

    Both derivatives, of the sums held and by the sums, are diagonal for every pair of a component and a component or
    gate, and so one product for each component shows them all.
    """
    before = {name: value.detach().requires_grad_() for name, value in before.items()}
    with torch.enable_grad():
        sums, held, of = [], dict(weights), []
        for name, (bias, multiplied) in recurrence.products(weights, x, before).items():
            for component, value in before.items():
                if multiplied is value:
                    sums.append(affine(value, weights[name], weights[bias])[:, 0].detach().requires_grad_())
                    held |= {name: torch.zeros_like(weights[name]), bias: sums[-1]}
                    of.append((component, weights[name].unflatten(0, (-1, value.shape[-1]))))
        after = recurrence.step(held, x, before)
    rows = []
    for made in (after[name] for name in before):
        derivatives = torch.autograd.grad(
            made,
            [*before.values(), *sums],
            torch.ones_like(made),
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        own, by_sums = derivatives[: len(before)], derivatives[len(before) :]
        blocks = {name: torch.diag_embed(value[:, 0]) for name, value in zip(before, own, strict=True)}
        for (component, matrices), derivative in zip(of, by_sums, strict=True):
            gates = derivative.unflatten(1, (-1, made.shape[-1]))
            blocks[component] = blocks[component] + torch.einsum("tgi,gij->tij", gates, matrices)
        rows.append(torch.cat(list(blocks.values()), 2))
    return torch.cat(rows, 1)


def trajectories(snapshot: Snapshot, sample: int, dtype: torch.dtype) -> dict[str, Trajectory]:
    """Every recurrence along one sample of the probe batch, in the precision given or that of the model if higher."""
    courses = {layer: (course, sample) for layer, course in snapshot.courses.items()}
    of_target = {key.rpartition(".")[0] for key in snapshot.trace.target_side} & set(courses)
    if of_target:  # what a decoder looks at stands among its weights, and belongs to a sample
        chosen = torch.tensor([sample], device=snapshot.batch.lengths.device)
        alone = gradient_flow(snapshot.model, snapshot.task, snapshot.batch.select(chosen)).courses
        courses |= {layer: (alone[layer], 0) for layer in of_target}
    return {
        layer: Trajectory.of(course, at, torch.promote_types(course.inputs.dtype, dtype))
        for layer, (course, at) in courses.items()
    }


def parts_within(trajectory: Trajectory, largest: int, probe: str, layer: str) -> Parts | None:
    """The parts of its state, none of more than ``largest`` numbers.

    None where one has more: the layer is left out, and a warning names it.
    """
    parts = trajectory.parts(largest)
    if parts is None:
        warnings.warn(
            f"{probe} leaves out layer '{layer}': {trajectory.size} numbers are its state, and more than {largest} of "
            f"them bear on one another; probe.{probe}.largest={trajectory.size} asks for its matrices all the same",
            LeftOut,
            stacklevel=2,
        )
    return parts


def joined(label: Int[Tensor, " size"], one: Int[Tensor, " pair"], other: Int[Tensor, " pair"]) -> Int[Tensor, " size"]:
    """For each number the smallest of its part, once the two numbers of every pair are of one part."""
    while not torch.equal(label[one], label[other]):
        low, high = torch.minimum(label[one], label[other]), torch.maximum(label[one], label[other])
        label = label.scatter_reduce(0, high, low, "amin")
        while not torch.equal(label[label], label):
            label = label[label]
    return label


def cast(values: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Each in the real precision given, or its complex counterpart; what counts or masks stays as it is."""
    return {name: in_precision(value, dtype) for name, value in values.items()}


def in_precision(value: Tensor, dtype: torch.dtype) -> Tensor:
    """In the real precision given, or its complex counterpart; what counts or masks stays as it is."""
    if value.is_complex():
        return value.to(dtype.to_complex())
    return value.to(dtype) if value.is_floating_point() else value
