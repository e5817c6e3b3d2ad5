"""Norms of Jacobians and of their products, against autograd of each step alone and in closed form."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from retrograde.core.contracts import Snapshot, Task
from retrograde.core.records import Reading
from retrograde.core.snapshot import snapshot
from retrograde.models.elman import elman
from retrograde.models.gru import gru
from retrograde.models.linear_attention import linear_attention
from retrograde.models.linear_rnn import linear_rnn
from retrograde.models.lstm import lstm
from retrograde.models.transformer import transformer
from retrograde.probes.jacobian import Jacobian, spaced
from retrograde.tasks.adding import Adding
from step_jacobians import jacobians

KEY = "0.forward"
FINITE, CENSORED, NAN = 0, 2, 4

pytestmark = pytest.mark.usefixtures("float64")


def taken(model: object, task: Task, count: int = 3) -> Snapshot:
    batch = task.sample(count, torch.Generator().manual_seed(0))
    return snapshot(model, task, batch.beside(model.like), 0)  # type: ignore[arg-type, attr-defined]  # a model


def read(model: object, task: Task, **settings: int) -> dict[str, Reading]:
    return {reading.name: reading for reading in Jacobian(**settings)(taken(model, task))}


def products(steps: list[Tensor]) -> list[Tensor]:
    """∂z_T/∂z_{T-k} for k = 0, 1, …"""
    made = [torch.eye(len(steps[0]))]
    for step in reversed(steps):
        made.append(made[-1] @ step)
    return made


def log10(values: list[Tensor]) -> np.ndarray:
    return torch.stack(values).log10().numpy()


@pytest.mark.parametrize("make", [elman, gru, lstm])
def test_norms_are_those_of_autograds_jacobians_and_of_their_products(make) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    task = Adding(length=9)
    on = taken(make(task, hidden=3), task)
    steps = jacobians(on)
    found = {reading.name.partition("/")[0]: reading for reading in Jacobian(times=3, per_decade=2)(on)}
    root = math.sqrt(len(steps[0]))
    frobenius = found["frobenius"]
    assert list(frobenius.dims["time"]) == list(range(9))
    np.testing.assert_allclose(frobenius.values[0], log10([step.norm() / root for step in steps]), atol=1e-12)
    assert list(found["spectral"].dims["time"]) == [0, 4, 8]
    expected = log10([torch.linalg.matrix_norm(steps[time], 2) for time in (0, 4, 8)])
    np.testing.assert_allclose(found["spectral"].values[0], expected, atol=1e-12)
    along = products(steps)
    assert list(found["product_frobenius"].dims["lag"]) == list(range(10))
    expected = log10([product.norm() / root for product in along])
    np.testing.assert_allclose(found["product_frobenius"].values[0], expected, atol=1e-12)
    assert list(found["product_spectral"].dims["lag"]) == [1, 3, 9]
    expected = log10([torch.linalg.matrix_norm(along[lag], 2) for lag in (1, 3, 9)])
    np.testing.assert_allclose(found["product_spectral"].values[0], expected, atol=1e-12)


def test_a_backward_direction_ends_at_the_beginning_of_each_sample() -> None:
    torch.manual_seed(0)
    task = Adding(length=20, markers="first_ten")
    on = taken(gru(task, hidden=3, bidirectional=True), task)
    lengths = on.batch.lengths.tolist()
    assert lengths[0] != lengths[1]
    found = {reading.name: reading for reading in Jacobian(samples=2)(on)}
    steps = [jacobians(on, "0.backward", sample) for sample in range(2)]
    frobenius = found["frobenius/0.backward"]
    both = min(lengths[:2])
    expected = np.array([log10([step.norm() / math.sqrt(3) for step in reversed(each)])[:both] for each in steps])
    np.testing.assert_allclose(frobenius.values[0, :both], np.log10((10**expected).mean(0)), atol=1e-12)
    long = found["product_frobenius/0.backward"]
    assert list(long.dims["lag"]) == list(range(max(lengths[:2]) + 1))
    expected = np.array(
        [log10([product.norm() / math.sqrt(3) for product in products(each)])[: both + 1] for each in steps]
    )
    np.testing.assert_allclose(long.values[0, : both + 1], np.log10((10**expected).mean(0)), atol=1e-12)
    longer = steps[0] if lengths[0] > lengths[1] else steps[1]  # of the longest lags that sample alone speaks
    np.testing.assert_allclose(long.values[0, -1], log10([products(longer)[-1].norm() / math.sqrt(3)])[0], atol=1e-12)


def test_a_rotation_keeps_every_norm() -> None:
    readings = read(linear_rnn(Adding(length=30), hidden=4), Adding(length=30))
    assert len(readings) == 4
    for reading in readings.values():
        np.testing.assert_allclose(reading.values, 0.0, atol=1e-12)


@pytest.mark.parametrize("radius", [0.1, 10.0])
def test_products_go_beyond_the_format_and_stay_exact(radius: float) -> None:
    """In float32 over 400 times: 1e-400 and 1e400 are no numbers of any format at hand."""
    task = Adding(length=400)
    readings = read(linear_rnn(task, hidden=3, radius=radius).float(), task)
    for name in ("product_frobenius", "product_spectral"):
        reading = readings[f"{name}/{KEY}"]
        lags = np.array(reading.dims["lag"])
        np.testing.assert_allclose(reading.values[0], lags * math.log10(radius), atol=2e-4)
        assert reading.status is not None and (reading.status == FINITE).all() and lags[-1] == 400


def test_one_part_that_fades_does_not_hide_another_that_fades_later() -> None:
    """Two units by themselves: from the end, one falls by 1e-30 a time and the other by 1e-1."""
    task = Adding(length=40)
    model = linear_rnn(task, hidden=2)
    with torch.no_grad():
        model.stack.placed[0][0].recurrence.weights()["recurrent"].copy_(torch.diag(torch.tensor([1e-30, 1e-1])))
    readings = read(model.float(), task)
    lags = np.arange(41)
    expected = np.maximum(-lags, -30 * lags) - 0.5 * math.log10(2)
    np.testing.assert_allclose(readings[f"product_frobenius/{KEY}"].values[0][1:], expected[1:], atol=1e-4)
    np.testing.assert_allclose(readings[f"spectral/{KEY}"].values[0], -1, atol=1e-6)


def test_a_cut_path_is_censored_and_not_zero() -> None:
    model = elman(Adding(length=6), hidden=3)
    with torch.no_grad():
        model.stack.placed[0][0].recurrence.weights()["recurrent"].zero_()
    readings = read(model.float(), Adding(length=6))
    for name, first in (("spectral", 0), ("frobenius", 0), ("product_spectral", 0), ("product_frobenius", 1)):
        reading = readings[f"{name}/{KEY}"]
        assert reading.status is not None and (reading.status[:, first:] == CENSORED).all()
        np.testing.assert_allclose(reading.values[:, first:], math.log10(torch.finfo(torch.float32).smallest_normal))


def test_a_matrix_memory_that_only_adds_is_carried_on_as_it_is() -> None:
    task = Adding(length=6)
    readings = read(linear_attention(task, hidden=4, layers=1, heads=2, feedforward=4), task)
    for reading in readings.values():
        np.testing.assert_allclose(reading.values, 0.0, atol=1e-12)


def test_what_is_no_number_is_kept_as_such() -> None:
    model = elman(Adding(length=6), hidden=2)
    with torch.no_grad():
        model.stack.placed[0][0].recurrence.weights()["input_bias"].fill_(math.nan)
    readings = read(model, Adding(length=6))
    for reading in readings.values():
        assert reading.status is not None and np.isnan(reading.values[0, -1]) and reading.status[0, -1] == NAN


def test_a_layer_that_is_too_large_is_left_out_and_the_rest_measured() -> None:
    task = Adding(length=6)
    model = gru(task, hidden=4, layers=2)
    with torch.no_grad():  # the upper layer falls apart into single units
        model.stack.placed[1][0].recurrence.weights()["recurrent"].zero_()
    with pytest.warns(UserWarning, match="jacobian leaves out layer '0.forward'"):
        readings = read(model, task, largest=3)
    assert {name.partition("/")[2] for name in readings} == {"1.forward"}


def test_attention_has_no_jacobian_over_time() -> None:
    assert not read(transformer(Adding(length=6), 8, 1, 2, 8), Adding(length=6))


def test_lags_are_spaced_evenly_in_the_logarithm_up_to_the_longest() -> None:
    assert spaced(400, 2) == {1, 3, 10, 32, 100, 316, 400}
    assert spaced(1, 4) == {1}


def test_many_times_are_taken_a_few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = lstm(Adding(length=11), hidden=2)
    whole = read(model, Adding(length=11))
    monkeypatch.setattr("retrograde.core.jacobians.AT_ONCE", 3 * 4 * 4)
    pieces = read(model, Adding(length=11))
    assert whole.keys() == pieces.keys()
    for name, reading in whole.items():
        np.testing.assert_allclose(pieces[name].values, reading.values, rtol=1e-12, atol=1e-14)
