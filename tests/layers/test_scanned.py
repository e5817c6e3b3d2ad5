"""Sweeps by scans against ``core.sweep.Unrolled``, which knows nothing but a recurrence's step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from retrograde.core.recurrence import Recurrence
from retrograde.core.scaled import Scaled
from retrograde.core.sweep import Swept, Unrolled, unrolling
from retrograde.layers.scanned import Scanned
from retrograde.models.gla import GatedLinearAttentionCell
from retrograde.models.indrnn import IndependentCell
from retrograde.models.linear_attention import LinearAttentionCell
from retrograde.models.lru import LinearRecurrentUnit
from retrograde.models.mingru import MinGRUCell
from retrograde.models.minlstm import MinLSTMCell
from retrograde.models.s4d import DiagonalStateSpace

CELLS: dict[str, tuple[int, Callable[[], Recurrence]]] = {
    "mingru": (3, lambda: MinGRUCell(3, 5)),
    "minlstm": (3, lambda: MinLSTMCell(3, 5)),
    "lru": (3, lambda: LinearRecurrentUnit(3, 4, 0.0, 1.0, 6.28)),
    "s4d": (3, lambda: DiagonalStateSpace(3, 4, "lin", "zoh", 0.001, 0.1)),
    "linear_attention": (12, lambda: LinearAttentionCell(4, 2)),
    "gla": (16, lambda: GatedLinearAttentionCell(4, 4, 2)),
    "indrnn": (3, lambda: IndependentCell(3, 5, 11, 2.0)),
}
TIME = 11
EXACT = 1e-12
"""Of the largest entry of a time; a sum of a dozen terms in another order."""

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(params=CELLS)
def cell(request: pytest.FixtureRequest) -> tuple[int, Recurrence]:
    width, make = CELLS[request.param]
    return width, make()


def gradient(shape: tuple[int, ...], every: int, decades: float) -> Scaled:
    """Random at every so many times, each time of another size within so many decades."""
    value = torch.randn(shape) * (torch.arange(shape[1]) % every == 0).view(-1, *(1,) * (len(shape) - 2))
    exponent = (torch.rand(shape[:2]) * -decades * 3.32).to(torch.int32)
    return Scaled(value, exponent, (value != 0).flatten(2).any(-1))


def inputs(width: int, length: int = TIME) -> Tensor:
    """Negative where a gated memory reads the logarithm of its decay."""
    return -torch.rand(2, length, width)


def said(recurrence: Recurrence, outputs: Tensor, every: int, decades: float) -> tuple[dict[str, Scaled], Scaled]:
    length = outputs.shape[1]
    direct = {name: gradient((2, length + 1, *shape), every, decades) for name, shape in recurrence.components.items()}
    return direct, gradient(tuple(outputs.shape), 3, decades)


def assert_same(made: dict[str, Scaled], expected: dict[str, Scaled]) -> None:
    assert made.keys() == expected.keys()
    largest: Any = 0.0
    for value in made.values():
        largest = torch.maximum(value.value().flatten(2).abs().amax(-1), torch.as_tensor(largest))
    for name, value in made.items():
        assert torch.equal(value.reached, expected[name].reached), name
        difference = (value - expected[name]).value().flatten(2).abs().amax(-1)
        assert (difference <= EXACT * largest).all(), name


@pytest.mark.parametrize("decades", [0.0, 20.0, 280.0])
@pytest.mark.parametrize("every", [1, 5, 100])
def test_a_sweep_by_scan_gives_what_steps_give(cell: tuple[int, Recurrence], decades: float, every: int) -> None:
    """Whatever is said of states and outputs, the initial state among them, and of whatever sizes."""
    width, recurrence = cell
    x = inputs(width)
    begin = {name: torch.randn(2, *shape) for name, shape in recurrence.components.items()}
    by_scan, stepped = unrolling(recurrence, x, begin), Unrolled(recurrence, x, initial=begin)
    assert type(by_scan) is Scanned
    for name, value in stepped.states.items():
        torch.testing.assert_close(by_scan.states[name], value, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(by_scan.outputs, stepped.outputs, rtol=1e-11, atol=1e-12)
    direct, above = said(recurrence, stepped.outputs, every, decades)
    made, expected = by_scan.sweep(direct, above), stepped.sweep(direct, above)
    for part in ("total", "direct", "coordinate", "carried"):
        assert_same(getattr(made, part), getattr(expected, part))
    assert_same({"": made.inputs}, {"": expected.inputs})
    for one, other in zip(made.weights, expected.weights, strict=True):
        assert (one - other).abs().max() <= 1e-10 * other.abs().max().clamp(min=1e-280)


def swept(recurrence: Recurrence, x: Tensor, last: Tensor) -> Swept:
    made = unrolling(recurrence, x)
    direct = {name: Scaled.of(x.new_zeros(2, x.shape[1] + 1, *shape)) for name, shape in recurrence.components.items()}
    return made.sweep(direct, Scaled.of(torch.cat([torch.zeros_like(made.outputs[:, 1:]), last], 1)))


def test_a_gradient_beyond_the_format_keeps_its_digits() -> None:
    """A minGRU that keeps ½ at every time: after 2,000 of them 2^-2000, in float32; its neighbour keeps nothing."""
    recurrence = MinGRUCell(1, 2)
    with torch.no_grad():
        recurrence.project.weight.zero_()
        recurrence.project.bias.copy_(torch.tensor([0.0, 200.0, 0.0, 0.0]))
    recurrence = recurrence.to(torch.float32)
    made = swept(recurrence, torch.zeros(2, 2000, 1, dtype=torch.float32), torch.ones(2, 1, 2, dtype=torch.float32))
    total = made.coordinate["hidden"]
    mantissa, exponent = torch.frexp(total.mantissa[:, :, 0])
    assert mantissa.eq(0.5).all()
    assert torch.equal(exponent + total.exponent - 1, torch.arange(-2000, 1).expand(2, -1))
    assert total.reached.all()


def test_what_is_no_number_stays_none() -> None:
    """From the last time on which the loss is infinite, and with NaN from an infinity times a decay of 0."""
    recurrence = MinGRUCell(1, 2)
    with torch.no_grad():
        recurrence.project.weight.zero_()
        recurrence.project.bias.copy_(torch.tensor([0.0, 2000.0, 0.0, 0.0]))
    last = torch.tensor([[[torch.inf, 1.0]], [[1.0, torch.inf]]])
    total = swept(recurrence, torch.zeros(2, 4, 1), last).coordinate["hidden"]
    assert total.mantissa[0, :, 0].isposinf().all()
    assert total.mantissa[1, :4, 1].isnan().all() and total.mantissa[1, 4, 1].isposinf()


def test_half_precisions_take_the_steps(cell: tuple[int, Recurrence]) -> None:
    width, recurrence = cell
    assert type(unrolling(recurrence.to(torch.bfloat16), inputs(width).to(torch.bfloat16))) is Unrolled
