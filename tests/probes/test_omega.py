"""Pascanu's Ω against the paper's formula written out, and ratios that are known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from retrograde.core.contracts import Snapshot, Task
from retrograde.core.records import Reading
from retrograde.core.snapshot import snapshot
from retrograde.models.elman import elman
from retrograde.models.gru import gru
from retrograde.models.linear_rnn import linear_rnn
from retrograde.models.lstm import lstm
from retrograde.models.transformer import transformer
from retrograde.probes.omega import Omega
from retrograde.tasks.adding import Adding
from retrograde.tasks.copying import Copying

KEY = "0.forward"
FINITE, CENSORED, NAN = 0, 2, 4

pytestmark = pytest.mark.usefixtures("float64")


def taken(model: object, task: Task, count: int = 4) -> Snapshot:
    batch = task.sample(count, torch.Generator().manual_seed(0))
    return snapshot(model, task, batch.beside(model.like), 0)  # type: ignore[arg-type, attr-defined]  # a model


def by_name(on: Snapshot) -> dict[str, Reading]:
    return {reading.name: reading for reading in Omega()(on)}


def test_omega_is_the_papers_formula_for_a_tanh_network() -> None:
    """Σ_t (‖Uᵀ diag(1 - h_t²) g_t‖ / ‖g_t‖ - 1)², with g_t by autograd over a loop of live states."""
    torch.manual_seed(0)
    task = Copying(length=3, symbols=3, recall=2)
    model = elman(task, hidden=4)
    on = taken(model, task)
    cell = model.stack.placed[0][0].recurrence
    x, weights = model.embedding(on.batch.inputs), cell.weights()
    hidden = [torch.zeros(len(on.batch), 4, requires_grad=True)]
    for t in range(x.shape[1]):
        hidden.append(cell.step(weights, x[:, t], {"hidden": hidden[-1]})["hidden"])
    loss = (task.loss(model.readout(torch.stack(hidden[1:], 1)), on.batch) * on.batch.scored).sum(1)
    errors = torch.autograd.grad((loss / on.batch.scored.sum(1)).sum(), hidden)
    back = [((1 - h.square()) * g) @ weights["recurrent"] for h, g in zip(hidden[1:], errors[1:], strict=True)]
    ratios = torch.stack([b.norm(dim=1) / g.norm(dim=1) for b, g in zip(back, errors[1:], strict=True)], 1).detach()
    readings = by_name(on)
    ratio = readings[f"ratio/{KEY}"]
    assert list(ratio.dims["time"]) == list(range(on.batch.length))
    np.testing.assert_allclose(10 ** ratio.values[0], ratios.mean(0), rtol=1e-11)
    of_samples = (ratios - 1).square().sum(1)
    omega = readings[f"omega/{KEY}"]
    np.testing.assert_allclose(omega.values[0], of_samples.mean(), rtol=1e-11)
    np.testing.assert_allclose(omega.values[3], of_samples.sort().values[round(0.9 * 3)], rtol=1e-11)


def test_all_components_of_a_state_count_together() -> None:
    """An LSTM's hidden state and cell, side by side, through the Jacobian of the step by autograd."""
    torch.manual_seed(0)
    task = Adding(length=6)
    on = taken(lstm(task, hidden=3), task, count=1)
    course, time = on.courses[KEY], 4

    def step(flat: torch.Tensor) -> torch.Tensor:
        state = {"hidden": flat[None, :3], "cell": flat[None, 3:]}
        after = course.recurrence.step(course.weights, course.inputs[:, time], state)
        return torch.cat([after["hidden"][0], after["cell"][0]])

    before, error = (
        torch.cat([values[name][0, at] for name in ("hidden", "cell")])
        for values, at in ((course.states, time), ({n: g.value() for n, g in course.total.items()}, time + 1))
    )
    jacobian = torch.autograd.functional.jacobian(step, before)
    assert isinstance(jacobian, torch.Tensor)
    expected = (error @ jacobian).norm() / error.norm()
    np.testing.assert_allclose(by_name(on)[f"ratio/{KEY}"].values[0, time], expected.log10(), rtol=1e-11)


def test_a_rotation_costs_nothing() -> None:
    readings = by_name(taken(linear_rnn(Adding(length=20), hidden=3), Adding(length=20)))
    np.testing.assert_allclose(readings[f"omega/{KEY}"].values, 0.0, atol=1e-24)
    np.testing.assert_allclose(readings[f"ratio/{KEY}"].values, 0.0, atol=1e-12)


def test_the_ratio_is_known_where_the_error_is_below_the_format() -> None:
    """A thousandth is kept of it at each of 100 steps, in float32: the last errors are of size 1e-300."""
    task = Adding(length=100)
    readings = by_name(taken(linear_rnn(task, hidden=3, radius=1e-3).float(), task))
    ratio = readings[f"ratio/{KEY}"]
    np.testing.assert_allclose(ratio.values, -3.0, atol=1e-5)
    assert ratio.status is not None and (ratio.status == FINITE).all()
    np.testing.assert_allclose(readings[f"omega/{KEY}"].values, 100 * (1e-3 - 1) ** 2, rtol=1e-5)
    assert readings[f"left_out/{KEY}"].values == 0


def test_times_without_an_error_are_left_out_and_counted() -> None:
    """Scored at time 3 of 8 alone: what follows has no gradient; 4 steps are left, each keeping a half."""
    task = Adding(length=8)
    batch = task.sample(4, torch.Generator().manual_seed(0))
    scored = torch.zeros_like(batch.scored)
    scored[:, 3] = True
    model = linear_rnn(task, hidden=3, radius=0.5)
    readings = by_name(snapshot(model, task, replace(batch, scored=scored), 0))
    assert list(readings[f"ratio/{KEY}"].dims["time"]) == [0, 1, 2, 3]
    assert readings[f"left_out/{KEY}"].values == 4
    np.testing.assert_allclose(readings[f"omega/{KEY}"].values, 4 * 0.25, rtol=1e-12)


def test_where_no_error_arrives_at_all_nothing_is_said_but_that() -> None:
    """A sample without an error is none that keeps it: with a read-out of zeros for all, there is no Ω."""
    task = Adding(length=8)
    model = linear_rnn(task, hidden=3, radius=0.5)
    batch = task.sample(2, torch.Generator().manual_seed(0))
    with torch.no_grad():  # the mean squared error of the first sample is none
        targets = batch.targets.clone()
        targets[0] = model(batch)[0]
    readings = by_name(snapshot(model, task, replace(batch, targets=targets), 0))
    assert readings[f"left_out/{KEY}"].values == 4  # 8 of one sample and 0 of the other
    np.testing.assert_allclose(readings[f"omega/{KEY}"].values, 8 * 0.25, rtol=1e-12)
    with torch.no_grad():
        model.readout.weight.zero_()
    readings = by_name(snapshot(model, task, batch, 0))
    assert list(readings) == [f"left_out/{KEY}"]
    assert readings[f"left_out/{KEY}"].values == 8


def test_padding_is_neither_summed_nor_counted_as_left_out() -> None:
    task = Adding(length=20, markers="first_ten")
    on = taken(linear_rnn(task, hidden=3, radius=0.5), task)
    lengths = on.batch.lengths.double()
    assert lengths.min() < lengths.max()
    readings = by_name(on)
    assert readings[f"left_out/{KEY}"].values == 0
    np.testing.assert_allclose(readings[f"omega/{KEY}"].values[0], 0.25 * lengths.mean(), rtol=1e-12)
    assert readings[f"ratio/{KEY}"].dims["time"][-1] == lengths.max() - 1


def test_a_backward_direction_is_given_in_time() -> None:
    """It reads the last input first: the loss at the end leaves that step alone an error."""
    torch.manual_seed(0)
    task = Adding(length=6)
    readings = by_name(taken(gru(task, hidden=3, bidirectional=True), task))
    assert list(readings["ratio/0.backward"].dims["time"]) == [5]
    assert list(readings["ratio/0.forward"].dims["time"]) == [0, 1, 2, 3, 4, 5]
    assert readings["left_out/0.backward"].values == 5


def test_a_step_that_keeps_nothing_counts_fully() -> None:
    model = elman(Adding(length=5), hidden=3)
    with torch.no_grad():
        model.stack.placed[0][0].recurrence.weights()["recurrent"].zero_()
    readings = by_name(taken(model, Adding(length=5)))
    assert list(readings[f"ratio/{KEY}"].dims["time"]) == [4]
    np.testing.assert_array_equal(readings[f"omega/{KEY}"].values, 1.0)
    assert np.asarray(readings[f"ratio/{KEY}"].status).tolist() == [[CENSORED]] * 4


def test_an_error_that_is_no_number_makes_omega_none() -> None:
    model = elman(Adding(length=5), hidden=3)
    with torch.no_grad():
        model.readout.weight.fill_(math.nan)
    readings = by_name(taken(model, Adding(length=5)))
    assert np.isnan(readings[f"omega/{KEY}"].values).all()
    assert (np.asarray(readings[f"ratio/{KEY}"].status) == NAN).all()


def test_attention_has_no_omega() -> None:
    assert not by_name(taken(transformer(Adding(length=6), 8, 1, 2, 8), Adding(length=6)))
