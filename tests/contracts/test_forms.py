"""Every form of every recurrence is the loop over ``step``: in values, in all gradients, and in what it claims besides.

The recurrences are those that every model of ``conf/model`` calls for when it trains, with the inputs that they get
there, from the state that they begin with and from one that they have come to.
"""

from collections.abc import Sequence
from functools import cache, partial

import pytest
import torch
from members import built, fitting, stems
from torch import Tensor

from retrograde.core.records import State
from retrograde.core.recurrence import LOOP, Form, Recurrence, forms, listening, loop, unroll

pytestmark = pytest.mark.usefixtures("float64")

EXACT = 1e-12
"""Of the largest entry, or of 1: float64 holds sixteen digits."""

CASES = [
    *((stem,) for stem in stems("model")),
    ("lstm", "model.layers=2", "model.bidirectional=true"),
    ("seq2seq", "model@model.encoder=gru", "model@model.decoder=elman_relu"),
    ("mlstm", "model.forget=exponential"),
    ("s4d", "model.discretisation=bilinear"),
]
"""Every model as it stands, and other settings of some."""

Call = tuple[Recurrence, Tensor]


@cache
def calls(stem: str, *overrides: str) -> list[Call]:
    """One of each recurrence and its inputs, as training makes them; the weights are away from their initial values."""
    task = fitting(stem)[0]  # lengths differ
    model = built(stem, task, *overrides)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    found: dict[int, Call] = {}
    with listening(lambda recurrence, inputs, initial, made: found.setdefault(id(recurrence), (recurrence, inputs))):
        model.objective(task, task.sample(3, torch.Generator().manual_seed(0)))
    return [(recurrence, inputs.detach()) for recurrence, inputs in found.values()]


def reached(recurrence: Recurrence, inputs: Tensor) -> State:
    """A state that the recurrence comes to, of other samples than these."""
    with torch.no_grad():
        return {name: value[:, -1] for name, value in unroll(recurrence, inputs.flip(0)).items()}


def leaves(recurrence: Recurrence, inputs: Tensor, begun: bool) -> tuple[Tensor, State | None, list[Tensor]]:
    """Inputs and initial state to differentiate by, and all that there is to differentiate by."""
    x = inputs.clone().requires_grad_()
    if not begun:
        return x, None, [x, *recurrence.parameters()]
    initial = {name: value.clone().requires_grad_() for name, value in reached(recurrence, inputs).items()}
    return x, initial, [x, *recurrence.parameters(), *initial.values()]


def check_equal(made: Sequence[Tensor], expected: Sequence[Tensor], what: str) -> None:
    for one, other in zip(made, expected, strict=True):
        error, size = float((one - other).detach().abs().max()), max(1.0, float(other.detach().abs().max()))
        assert error <= EXACT * size, f"{what}: off by {error:.1e} of {size:.1e}"


def gradients(of: Tensor, by: Sequence[Tensor], again: bool = False) -> tuple[Tensor, ...]:
    """Of what those that ``of`` does not depend on get is zero."""
    return torch.autograd.grad(of, by, retain_graph=True, create_graph=again, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("begun", (False, True), ids=("from its own state", "from another state"))
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_every_form_is_the_loop_in_values_and_in_all_gradients(case: tuple[str, ...], begun: bool) -> None:
    for recurrence, inputs in calls(*case):
        x, initial, by = leaves(recurrence, inputs, begun)
        expected = loop(recurrence, x, initial)
        direction = torch.randn_like(expected)
        of_loop = gradients((expected * direction).sum(), by)
        for name, form in forms(recurrence, x).items():
            made = form.compute(recurrence, x, initial)
            what = f"{type(recurrence).__name__}, {name}"
            check_equal([made], [expected], f"{what}, values")
            check_equal(gradients((made * direction).sum(), by), of_loop, f"{what}, gradients")


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_form_that_says_so_can_be_differentiated_again(case: tuple[str, ...]) -> None:
    for recurrence, inputs in calls(*case):
        x, initial, by = leaves(recurrence, inputs, True)
        of_forms: dict[str, tuple[Tensor, ...]] = {}
        for name, form in forms(recurrence, x, twice=True).items():
            first = gradients(form.compute(recurrence, x, initial).square().sum(), by, again=True)
            of_forms[name] = gradients(sum(one.square().sum() for one in first), by)
        for name, made in of_forms.items():
            check_equal(made, of_forms[LOOP], f"{type(recurrence).__name__}, {name}, second derivatives")


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_form_that_says_so_goes_through_vmap(case: tuple[str, ...]) -> None:
    for recurrence, inputs in calls(*case):
        some = torch.stack([inputs, inputs.flip(0)])
        for name, form in forms(recurrence, inputs, transformed=True).items():
            if name == LOOP:
                continue  # no form would be left without it: that a step can be mapped is its own promise
            made = torch.func.vmap(partial(form.compute, recurrence), in_dims=(0, None))(some, None)
            expected = torch.stack([form.compute(recurrence, x, None) for x in some])
            check_equal([made], [expected], f"{type(recurrence).__name__}, {name}, under vmap")


def test_the_checks_reach_forms_of_every_kind(cpp: None) -> None:
    found: dict[str, set[str]] = {}
    for stem in ("gru", "lstm", "elman", "lru", "s4d", "retnet", "indrnn"):
        for recurrence, inputs in calls(stem):
            found[stem] = set(forms(recurrence, inputs))
    assert found["gru"] == found["lstm"] == found["elman"] == {"fused", "compiled", "chunked", "taps", LOOP}
    assert found["lru"] == {"scanned", LOOP} and found["s4d"] == {"convolved", LOOP}
    assert found["retnet"] == {"chunked", LOOP} and found["indrnn"] == {"scanned", LOOP}


def test_a_wrong_form_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose values are right and whose gradient is not."""
    recurrence, inputs = calls("indrnn")[0]

    def cut(recurrence: Recurrence, x: Tensor, initial: State | None) -> Tensor:
        made = loop(recurrence, x, initial)
        return made.detach() + 0.999 * (made - made.detach())

    x, initial, by = leaves(recurrence, inputs, True)
    made, expected = (form.compute(recurrence, x, initial) for form in (Form(cut), Form(loop)))
    check_equal([made], [expected], "values")
    with pytest.raises(AssertionError, match="gradients: off by"):
        check_equal(gradients(made.sum(), by), gradients(expected.sum(), by), "gradients")
