"""state_gradient and lag_gradient against plain autograd over a loop, and their numbers by hand."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from retrograde.core.contracts import Snapshot
from retrograde.core.records import Reading
from retrograde.core.scaled import Scaled
from retrograde.core.snapshot import snapshot
from retrograde.models.elman import elman
from retrograde.models.linear_rnn import linear_rnn
from retrograde.models.transformer import transformer
from retrograde.probes.lag_gradient import LagGradient, half_life, horizon, slope
from retrograde.probes.state_gradient import StateGradient
from retrograde.tasks.adding import Adding
from retrograde.tasks.copying import Copying
from retrograde.tasks.temporal_order import TemporalOrder

KEY = "0.forward.hidden"


pytestmark = pytest.mark.usefixtures("float64")


def by_name(readings: object) -> dict[str, Reading]:
    assert isinstance(readings, Iterator)
    return {reading.name: reading for reading in readings}


def taken(model: torch.nn.Module, task: object, count: int = 5) -> Snapshot:
    batch = task.sample(count, torch.Generator().manual_seed(0))  # type: ignore[attr-defined]  # a task
    return snapshot(model, task, batch, 0)  # type: ignore[arg-type]  # a model, a task


def live_totals(on: Snapshot, position: int | None) -> torch.Tensor:
    """(sample, state) norms of dL/dh_t by autograd over a loop; L at one position, or the mean over the scored ones."""
    cell = on.model.stack.placed[0][0].recurrence  # type: ignore[union-attr, index]  # a recurrent model
    x = on.model.embedding(on.batch.inputs)  # type: ignore[operator]  # a module
    hidden = [torch.zeros(len(on.batch), 4, requires_grad=True)]
    for t in range(x.shape[1]):
        hidden.append(cell.step(cell.weights(), x[:, t], {"hidden": hidden[-1]})["hidden"])
    losses = on.task.loss(on.model.readout(torch.stack(hidden[1:], 1)), on.batch)  # type: ignore[operator]  # a module
    chosen = on.batch.scored if position is None else torch.arange(x.shape[1]) == position
    loss = (losses * chosen).sum(1) / (on.batch.scored.sum(1) if position is None else 1)
    gradients = torch.autograd.grad(loss.sum(), hidden, allow_unused=True, materialize_grads=True)
    return torch.stack(gradients, 1).norm(dim=-1)


def test_total_is_the_norm_of_each_samples_own_gradient() -> None:
    """Mean and median over samples of the norm, of the sample's mean loss, without 1/batch."""
    task = Copying(length=3, symbols=3, recall=2)
    on = taken(elman(task, hidden=4), task)
    reading = by_name(StateGradient()(on))[f"total/{KEY}"]
    norms = live_totals(on, None).detach().numpy()
    assert list(reading.dims["time"]) == list(range(-1, on.batch.length))
    np.testing.assert_allclose(10 ** reading.values[0], norms.mean(0), rtol=1e-10)
    np.testing.assert_allclose(10 ** reading.values[2], np.median(norms, 0), rtol=1e-10)


def test_direct_is_the_read_outs_share_alone_and_carried_the_rest() -> None:
    """L = Σ_t v h_t / T: directly |v|/T at every time; the last state has nothing carried, the initial one all."""
    task = Copying(length=3, symbols=3, recall=2)
    on = taken(linear_rnn(task, hidden=4), task)
    readings = by_name(StateGradient()(on))
    assert readings[f"carried/{KEY}"].values[0, -1] == 0.0
    assert readings[f"carried/{KEY}"].values[0, 0] == 1.0
    direct, total = readings[f"direct/{KEY}"], readings[f"total/{KEY}"]
    assert direct.status is not None and direct.status[0, 0] == 1  # zero: the initial state is not read out
    np.testing.assert_allclose(direct.values[:, -1], total.values[:, -1])
    assert (np.abs(direct.values[0, 1:-1] - total.values[0, 1:-1]) > 1e-3).all()


def test_padding_is_left_out_of_the_statistics() -> None:
    task = Adding(length=20, markers="first_ten")
    on = taken(linear_rnn(task, hidden=4), task, count=40)
    reading = by_name(StateGradient()(on))[f"total/{KEY}"]
    last = int(on.batch.lengths.max()) - 1
    assert on.batch.lengths.min() < on.batch.lengths.max()
    assert reading.dims["time"][-1] == last
    assert np.isfinite(reading.values[:, -1]).all()  # of the longest samples alone, which end there


def test_lags_run_back_from_every_samples_own_target() -> None:
    task = TemporalOrder(length=10)
    on = taken(elman(task, hidden=4), task, count=6)
    reading = by_name(LagGradient()(on))[f"norm/{KEY}"]
    norms = live_totals(on, None).detach().numpy()
    for lag in (0, 1, 5):
        expected = [row[int(length) - lag] for row, length in zip(norms, on.batch.lengths, strict=True)]
        np.testing.assert_allclose(10 ** reading.values[0, lag], np.mean(expected), rtol=1e-10)


def test_with_many_scored_positions_each_target_is_asked_alone() -> None:
    task = Copying(length=3, symbols=3, recall=2)
    on = taken(elman(task, hidden=4), task, count=3)
    reading = by_name(LagGradient(targets=3, samples=2)(on))[f"norm/{KEY}"]
    length = on.batch.length
    targets = [0, (length - 1) // 2, length - 1]
    norms = {position: live_totals(on, position)[:2].detach().numpy() for position in targets}
    for lag in (0, 1, length - 1):
        expected = [norms[s][row, s + 1 - lag] for s in targets for row in range(2) if s + 1 - lag >= 0]
        np.testing.assert_allclose(10 ** reading.values[0, lag], np.mean(expected), rtol=1e-10)


def test_a_decay_of_known_rate_has_its_horizon_half_life_and_slope() -> None:
    """A rotation times 0.8: 0.8^20 = 0.0115 is kept, 0.8^21 = 0.0092 is not."""
    task = Adding(length=40)
    on = taken(linear_rnn(task, hidden=4, radius=0.8), task)
    readings = by_name(LagGradient()(on))
    assert float(readings[f"horizon/{KEY}"].values) == 20
    np.testing.assert_allclose(readings[f"slope/{KEY}"].values, math.log10(0.8), rtol=1e-6)
    np.testing.assert_allclose(readings[f"half_life/{KEY}"].values, math.log(2) / -math.log(0.8), rtol=1e-6)


@pytest.mark.parametrize(("radius", "reached"), [(0.5, 6.0), (0.9, math.nan)])
def test_lags_that_no_target_measures_are_left_out_and_the_others_kept(radius: float, reached: float) -> None:
    """The longest has no gradient at lag 0. 0.5^6 = 0.016 is kept, 0.5^7 is not; 0.9^k is as far as it is told."""
    task = Adding(length=12)
    batch = task.sample(3, torch.Generator().manual_seed(0))
    at = torch.tensor([11, 8, 8])
    batch = replace(batch, lengths=at + 1, scored=torch.arange(12) == at[:, None])
    on = snapshot(linear_rnn(task, hidden=4, radius=radius), task, batch, 0)
    gradient = on.gradients[KEY]
    total = gradient.total.value()
    total[0] = 0.0
    readings = by_name(LagGradient()(replace(on, gradients={KEY: replace(gradient, total=Scaled.of(total))})))
    assert list(readings[f"norm/{KEY}"].dims["lag"]) == list(range(13))
    relative = readings[f"relative/{KEY}"]
    assert list(relative.dims["lag"]) == list(range(10))
    np.testing.assert_allclose(relative.values[0], np.arange(10) * math.log10(radius), rtol=1e-10, atol=1e-12)
    np.testing.assert_equal(float(readings[f"horizon/{KEY}"].values), reached)
    np.testing.assert_allclose(readings[f"slope/{KEY}"].values, math.log10(radius), rtol=1e-10)


def test_where_no_target_measures_lag_0_there_is_nothing_relative_to_it() -> None:
    task = Adding(length=6)
    on = taken(linear_rnn(task, hidden=4), task)
    gradient = on.gradients[KEY]
    nothing = replace(gradient, total=Scaled.of(torch.zeros_like(gradient.total.mantissa)))
    assert list(by_name(LagGradient()(replace(on, gradients={KEY: nothing})))) == [f"norm/{KEY}"]


def test_summaries_of_curves_without_a_rate_say_so() -> None:
    assert math.isnan(horizon(np.array([0.0, -1.0, math.nan])))
    assert math.isnan(slope(np.array([0.0, math.inf, math.nan]), np.array([True, False, False])))
    assert half_life(slope(np.array([0.0, 0.5, 1.0]), np.ones(3, dtype=bool))) == math.inf
    assert horizon(np.array([0.0, -3.0, -1.0, -2.5])) == 2


def test_censored_lags_do_not_flatten_the_slope() -> None:
    curve = np.concatenate([-0.5 * np.arange(10), np.full(90, -37.9)])
    assert slope(curve, np.arange(100) < 10) == pytest.approx(-0.5)


def test_targets_of_other_sizes_that_reach_less_far_do_not_look_like_a_fall() -> None:
    """Copying scores all positions: early targets have short lags alone. A rotation keeps every norm."""
    task = Copying(length=6, symbols=3, recall=2)
    on = taken(linear_rnn(task, hidden=4, radius=1.0), task)
    readings = by_name(LagGradient(targets=4)(on))
    relative = readings[f"relative/{KEY}"]
    np.testing.assert_allclose(relative.values, 0.0, atol=1e-9)
    assert float(readings[f"horizon/{KEY}"].values) == relative.dims["lag"][-1]


def test_a_layer_without_recurrence_has_all_of_its_gradient_directly() -> None:
    task = Adding(length=6)
    readings = by_name(StateGradient()(taken(transformer(task, 8, 1, 2, 8), task)))
    for depth in (0, 1):
        key = f"{depth}.forward.residual"
        np.testing.assert_array_equal(readings[f"total/{key}"].values, readings[f"direct/{key}"].values)
        assert not readings[f"carried/{key}"].values.any()
    last = readings["total/1.forward.residual"]
    assert last.status is not None
    assert (last.status[0, :-1] == 1).all()  # after the last block only the scored position is read: zeros, and said so
    assert np.isfinite(last.values[0, -1])
