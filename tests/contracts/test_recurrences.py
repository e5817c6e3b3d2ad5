"""What every recurrence says of itself is true of its step: its gates, the factors along its own paths, its matrices.

The recurrences are those of every model of ``conf/model``, as a snapshot shows them.
"""

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from members import built, fitting, stems
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from retrograde.core.records import Course
from retrograde.core.snapshot import snapshot
from retrograde.layers.scans import as_complex
from retrograde.probes.gates import paths

pytestmark = pytest.mark.usefixtures("float64")

SAMPLES = 3
ALL = 10**6

CASES = [
    *((stem,) for stem in stems("model")),
    ("antisymmetric_rnn", "model.gated=true"),
    ("lem", "model.dt=0.3"),
    ("lstm", "model.layers=2", "model.bidirectional=true"),
    ("slstm", "model.forget=exponential", "model.bidirectional=true"),
    ("mlstm", "model.forget=exponential"),
]
"""Every model as it stands, and other forms of some."""


@cache
def courses(stem: str, *overrides: str) -> Mapping[str, Course]:
    """Of the model away from its initialisation, which may have zeros where a path could be missed."""
    task = fitting(stem)[0]  # lengths differ
    model = built(stem, task, *overrides)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return snapshot(model, task, task.sample(SAMPLES, torch.Generator().manual_seed(0)), 0).courses


def time_first(course: Course) -> tuple[Tensor, dict[str, Tensor]]:
    """The inputs and the states before them."""
    return course.inputs.detach().transpose(0, 1), {key: value.transpose(0, 1) for key, value in course.before.items()}


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_gates_lie_within_0_and_1_and_all_times_at_once_are_each_by_itself(case: tuple[str, ...]) -> None:
    for course in courses(*case).values():
        x, before = time_first(course)
        for method in (course.recurrence.gates, course.recurrence.kept):
            together = method(course.weights, x, before)
            for at in (0, len(x) // 2, len(x) - 1):
                alone = method(course.weights, x[at], {key: value[at] for key, value in before.items()})
                assert together.keys() == alone.keys()
                for name, value in alone.items():
                    torch.testing.assert_close(together[name][at], value)
        for name, value in course.recurrence.gates(course.weights, x, before).items():
            assert "." not in name
            assert value.shape[:2] == x.shape[:2] and value.ndim > 2, f"{name} has the axes {value.shape}"
            assert value.min() >= 0 and value.max() <= 1, f"{name} lies in [{value.min()}, {value.max()}]"


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_factor_has_the_shape_of_its_component(case: tuple[str, ...]) -> None:
    for course in courses(*case).values():
        x, before = time_first(course)
        for name, factor in course.recurrence.kept(course.weights, x, before).items():
            state = before[name]
            assert factor.shape == (as_complex(state) if factor.is_complex() else state).shape


def square_widths(course: Course) -> set[int]:
    """How many entries there are along axes of a component that follow one another."""
    found = set()
    for shape in course.recurrence.components.values():
        for first in range(len(shape)):
            found |= {math.prod(shape[first:last]) for last in range(first + 1, len(shape) + 1)}
    return found


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_matrices_are_square_and_as_wide_as_what_they_multiply(case: tuple[str, ...]) -> None:
    for course in courses(*case).values():
        for name, weight in course.recurrence.transitions(course.weights).items():
            assert "." not in name
            assert weight.ndim in (1, 2) and weight.shape[0] == weight.shape[-1], f"{name} has the axes {weight.shape}"
            assert len(weight) in square_widths(course), f"{name} is {len(weight)} wide, states {square_widths(course)}"


MIXING = (
    Tensor.__matmul__,
    Tensor.matmul,
    torch.matmul,
    torch.bmm,
    torch.einsum,
    functional.linear,
    Tensor.sum,
    torch.sum,
)
SQUASHING = (torch.sigmoid, torch.tanh, torch.exp, functional.softplus, functional.logsigmoid, functional.silu)


class OwnPath(TorchFunctionMode):
    """Cuts every path that leads from one unit to another, or into what a gate or a candidate is made of."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return result.detach() if func in MIXING or func in SQUASHING else result


def along_its_own_path(course: Course, component: str, is_complex: bool) -> Tensor:
    """|∂c_s/∂c_{s-k}| of that component, (sample, unit, lag), s each sample's last input; NaN where there is no lag.

    By the gradient of c_s · v, v random: were there a way from one unit to another, it would be no multiple of v.
    """
    nodes = [course.states[component][:, 0].detach().requires_grad_()]
    with OwnPath():
        for at, x in enumerate(course.inputs.detach().unbind(1)):
            state = {name: value[:, at] for name, value in course.states.items()}
            nodes.append(course.recurrence.step(course.weights, x, state | {component: nodes[-1]})[component])
    made = torch.stack(nodes, 1)
    torch.testing.assert_close(made.detach(), course.states[component])
    samples = torch.arange(len(made))
    direction = torch.randn_like(made[:, 0])
    gradients = torch.autograd.grad(
        (made[samples, course.lengths] * direction).sum(), nodes, allow_unused=True, materialize_grads=True
    )
    along = torch.stack(gradients, 1)
    if is_complex:
        along, direction = as_complex(along), as_complex(direction)
    share = (along / direction.unsqueeze(1)).flatten(2).abs()
    lag = torch.arange(len(nodes))
    back = share[samples[:, None], (course.lengths[:, None] - lag).clamp(min=0)]
    return back.where((lag <= course.lengths[:, None])[..., None], math.nan).transpose(1, 2)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_product_of_factors_is_what_passes_along_the_units_own_path(case: tuple[str, ...]) -> None:
    """The forget-path product is exactly ∂c_s/∂c_t by autograd, where hidden states, gates and candidates are held."""
    for course in courses(*case).values():
        kept = course.recurrence.kept(course.weights, *time_first(course))
        for name, path in paths(course, SAMPLES, ALL).items():
            longest = int(course.lengths.max())
            passed, counts = path.by_lag(range(longest + 1))
            expected = along_its_own_path(course, name, kept[name].is_complex())[..., : longest + 1]
            exists = ~expected.isnan()
            assert torch.equal(counts.unflatten(0, (SAMPLES, -1)), exists)
            made = (10**passed).unflatten(0, (SAMPLES, -1)).where(exists, math.nan)
            torch.testing.assert_close(made, expected, rtol=1e-9, atol=0, equal_nan=True)


def test_the_checks_reach_recurrences_of_every_kind() -> None:
    """Real and complex factors, states of several axes, a clock, attention within a step: none is passed over."""
    reached = {}
    for stem in ("lstm", "gru", "clockwork_rnn", "lru", "s4d", "mamba"):
        course = next(iter(courses(stem).values()))
        reached[stem] = set(course.recurrence.kept(course.weights, *time_first(course)))
    assert reached["lstm"] == {"cell"}
    assert reached["gru"] == reached["clockwork_rnn"] == {"hidden"}
    assert reached["lru"] == reached["s4d"] == reached["mamba"] == {"state"}
    decoder = courses("seq2seq_bahdanau")["decoder0.forward"]
    assert type(decoder.recurrence).__name__ == "Attending"
    assert decoder.recurrence.kept(decoder.weights, *time_first(decoder))
