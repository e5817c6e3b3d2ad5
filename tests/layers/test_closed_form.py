"""The closed form of the three fused cells against ``core.sweep.Unrolled``, which knows nothing but their step."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from retrograde.core.records import State
from retrograde.core.recurrence import Recurrence
from retrograde.core.scaled import Scaled
from retrograde.core.sweep import Swept, Unrolled, unrolling
from retrograde.layers import closed_form
from retrograde.layers.cells import ElmanCell, GRUCell, InClosedForm, LSTMCell

CELLS: dict[str, Callable[[], Recurrence]] = {
    "elman": lambda: ElmanCell(3, 5),
    "elman_relu": lambda: ElmanCell(3, 5, "relu"),
    "lstm": lambda: LSTMCell(3, 5),
    "gru": lambda: GRUCell(3, 5),
}
TIME = 11
EXACT = 1e-12


pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(params=CELLS)
def cell(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Recurrence:
    monkeypatch.setattr(closed_form, "LONGEST", 4)  # three chunks
    return CELLS[request.param]()


def gradient(*shape: int, every: int, decades: float = 0.0) -> Scaled:
    """Random at every so many times, each time of another size within so many decades."""
    value = torch.randn(shape) * (torch.arange(shape[1]) % every == 0)[:, None]
    exponent = (torch.rand(shape[:2]) * -decades * 3.32).to(torch.int32)
    return Scaled(value, exponent, (value != 0).any(-1))


def assert_same(made: dict[str, Scaled], expected: dict[str, Scaled]) -> None:
    assert made.keys() == expected.keys()
    for name, value in made.items():
        other = expected[name]
        assert torch.equal(value.reached, other.reached), name
        difference, largest = (value - other).value(), value.value().abs().amax(-1, keepdim=True)
        assert (difference.abs() <= EXACT * largest).all(), name


def both(cell: Recurrence, decades: float, every: int) -> tuple[Swept, Swept]:
    x = torch.randn(2, TIME, 3)
    begin = {name: torch.randn(2, *shape) for name, shape in cell.components.items()}
    direct = {name: gradient(2, TIME + 1, 5, every=every, decades=decades) for name in cell.components}
    above = gradient(2, TIME, 5, every=3, decades=decades)
    closed, stepped = unrolling(cell, x, begin), Unrolled(cell, x, initial=begin)
    assert isinstance(closed, InClosedForm)
    for name, value in stepped.states.items():
        torch.testing.assert_close(closed.states[name], value, rtol=0, atol=1e-14)
    torch.testing.assert_close(closed.outputs, stepped.outputs, rtol=0, atol=1e-14)
    return closed.sweep(direct, above), stepped.sweep(direct, above)


@pytest.mark.parametrize("decades", [0.0, 20.0, 280.0])
@pytest.mark.parametrize("every", [1, 5, 100])
def test_a_sweep_in_closed_form_gives_what_steps_give(cell: Recurrence, decades: float, every: int) -> None:
    """Whatever is said of states and outputs, the initial state among them, and of whatever sizes."""
    made, expected = both(cell, decades, every)
    for part in ("total", "direct", "coordinate", "carried"):
        assert_same(getattr(made, part), getattr(expected, part))
    assert_same({"": made.inputs}, {"": expected.inputs})
    for one, other in zip(made.weights, expected.weights, strict=True):
        assert (one - other).abs().max() <= EXACT * other.abs().max()


def test_a_second_sweep_gives_the_same(cell: Recurrence) -> None:
    """The first uses up what was opened for the states."""
    closed = unrolling(cell, torch.randn(2, TIME, 3))
    direct = {name: gradient(2, TIME + 1, 5, every=4) for name in cell.components}
    above = gradient(2, TIME, 5, every=3)
    once, again = closed.sweep(direct, above), closed.sweep(direct, above)
    assert_same(once.total, again.total)
    for one, other in zip(once.weights, again.weights, strict=True):
        assert torch.equal(one, other)


def test_half_precisions_take_the_steps(cell: Recurrence) -> None:
    cell = cell.to(torch.bfloat16)
    assert type(unrolling(cell, torch.randn(2, TIME, 3, dtype=torch.bfloat16))) is Unrolled


class Squared(LSTMCell):
    """An LSTM of which something else is read."""

    def read(self, weights: Mapping[str, Tensor], x: Tensor, state: State) -> Tensor:
        return state["hidden"].square()


def test_a_cell_that_reads_out_something_else_takes_the_steps() -> None:
    cell = Squared(3, 5)
    made = unrolling(cell, torch.randn(2, TIME, 3))
    assert type(made) is Unrolled
    torch.testing.assert_close(made.outputs, made.states["hidden"][:, 1:].square())


def test_gates_that_are_shut_or_open_are_no_zero_by_zero() -> None:
    """Saturated to the last digit: nothing may be had by dividing by a gate's slope."""
    for make in (LSTMCell, GRUCell):
        cell = make(3, 5)
        for part in cell.parameters():
            part.data.mul_(1e4)
        x = torch.randn(2, TIME, 3)
        direct = {name: gradient(2, TIME + 1, 5, every=1) for name in cell.components}
        swept = unrolling(cell, x).sweep(direct, gradient(2, TIME, 5, every=1))
        assert all(part.value().isfinite().all() for part in swept.total.values())
        assert all(part.isfinite().all() for part in swept.weights)
