"""noise by hand, by the definition over pairs of samples, and along lags of known signal."""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.losses import sample_means
from retrograde.core.records import Batch, Reading, Trace
from retrograde.core.snapshot import snapshot
from retrograde.core.statuses import CENSORED, FINITE, ZERO
from retrograde.layers.opened import Opened
from retrograde.models.gru import gru
from retrograde.models.linear_rnn import linear_rnn
from retrograde.models.lstm import lstm
from retrograde.models.rule import rule
from retrograde.models.seq2seq import seq2seq
from retrograde.models.transformer import transformer
from retrograde.probes.noise import Moments, Noise
from retrograde.tasks.adding import Adding
from retrograde.tasks.copying import Copying
from retrograde.tasks.reverse import Reverse
from retrograde.tasks.temporal_order import TemporalOrder

pytestmark = pytest.mark.usefixtures("float64")

KEY = "0.forward.hidden"


class Line(SequenceModel):
    """y = w·x at every position."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, -1.0]))

    def forward(self, batch: Batch) -> Tensor:
        return (batch.inputs @ self.weight).unsqueeze(-1)

    def trace(self, batch: Batch, perturb: Mapping[str, Tensor] | None = None) -> Trace:
        opened = Opened(perturb)
        x = opened.kept("0.forward.activation", opened.read(batch.inputs))
        return opened.trace((x @ self.weight).unsqueeze(-1))

    @property
    def state_size(self) -> int:
        return 0


def drawn(task: Task, count: int = 4) -> Batch:
    return task.sample(count, torch.Generator().manual_seed(1))


def readings(model: SequenceModel, task: Task, batch: Batch, samples: int = 32) -> dict[str, Reading]:
    return {reading.name: reading for reading in Noise(samples)(snapshot(model, task, batch, 0))}


def each_samples_gradient(model: SequenceModel, task: Task, batch: Batch) -> dict[str, Tensor]:
    """(sample, entry), by one backward pass of the batch for each."""
    losses = sample_means(task.loss(model(batch), batch), batch.scored)
    names = [name for name, _ in model.named_parameters()]
    rows = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for loss in losses]
    return {name: torch.stack([row[at].flatten() for row in rows]) for at, name in enumerate(names)}


def by_pairs(gradients: Tensor) -> tuple[float, float]:
    """What has the right expectation because it says it: E gᵀg' and ½ E ‖g - g'‖² over pairs of different samples."""
    pairs = list(combinations(gradients, 2))
    signal = np.mean([(one @ other).item() for one, other in pairs])
    return float(signal), float(np.mean([(one - other).square().sum().item() / 2 for one, other in pairs]))


def test_of_a_line_through_two_points_signal_and_noise_are_those_by_hand() -> None:
    """w = (2, -1). Errors of 1 and -1 at x = (1, 1) and (1, 0): gradients 2 (1, 1) and -2 (1, 0)."""
    task = Adding(length=2)
    batch = drawn(task, 2)
    batch.inputs[:, -1] = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    batch.targets[:, -1, 0] = torch.tensor([0.0, 3.0])
    model = Line()
    made = readings(model, task, batch)
    # ⟨(2, 2), (-2, 0)⟩ = -4, and half of ‖(4, 2)‖² = 10
    for name, expected in (("signal", -4.0), ("noise", 10.0), ("ratio", -0.4), ("noise_scale", math.inf)):
        np.testing.assert_allclose(made[f"{name}/parameters"].values, [expected, expected])
    assert list(made["ratio/parameters"].dims["parameter"]) == ["weight", "all"]
    batch.targets[1, -1, 0] = 1.0  # now errors of 1 both: (2, 2) and (2, 0)
    made = readings(model, task, batch)
    for name, expected in (("signal", 4.0), ("noise", 2.0), ("ratio", 2.0), ("noise_scale", 0.5)):
        np.testing.assert_allclose(made[f"{name}/parameters"].values, [expected, expected])


@pytest.mark.parametrize("make", [lstm, lambda task, hidden: transformer(task, 8, 1, 2, 8)])
def test_signal_and_noise_are_those_over_all_pairs_of_samples(make: object) -> None:
    task = TemporalOrder(length=10)
    model = make(task, 4)  # type: ignore[operator]  # a factory
    batch = drawn(task)
    made = readings(model.eval(), task, batch)
    gradients = each_samples_gradient(model, task, batch)
    expected = [by_pairs(value) for value in [*gradients.values(), torch.cat(list(gradients.values()), 1)]]
    assert list(made["signal/parameters"].dims["parameter"]) == [*gradients, "all"]
    signal, noise = (np.array(part) for part in zip(*expected, strict=True))
    np.testing.assert_allclose(made["signal/parameters"].values, signal, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(made["noise/parameters"].values, noise, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(made["ratio/parameters"].values, signal / noise, rtol=1e-6, atol=1e-9)


def test_along_lags_it_is_the_ratio_of_the_states_gradients_over_all_pairs() -> None:
    """Samples of different lengths, each seen from its own last position."""
    task = TemporalOrder(length=10)
    model, batch = lstm(task, hidden=4), task.sample(6, torch.Generator().manual_seed(3))
    assert len(set(batch.lengths.tolist())) > 1
    on = snapshot(model, task, batch, 0)
    made = {reading.name: reading for reading in Noise()(on)}
    for component in ("hidden", "cell"):
        reading = made[f"ratio_by_lag/0.forward.{component}"]
        total = on.gradients[f"0.forward.{component}"].total.value()
        for lag in (0, 1, 9):
            rows = [total[b, length - lag] for b, length in enumerate(batch.lengths.tolist()) if length > lag]
            signal, noise = by_pairs(torch.stack(rows))
            np.testing.assert_allclose(reading.values[0, lag], signal / noise, rtol=1e-6)
        assert reading.dims["lag"][-1] == sorted(batch.lengths.tolist())[-2] - 1  # a lag needs two samples


def test_a_backward_direction_is_seen_towards_later_positions() -> None:
    task = Copying(length=4, symbols=3, recall=2)
    model, batch = lstm(task, hidden=3, bidirectional=True), drawn(task)
    at = 3
    batch = replace(batch, scored=torch.arange(batch.length).expand_as(batch.scored) == at)
    on = snapshot(model, task, batch, 0)
    made = {reading.name: reading for reading in Noise()(on)}
    total = on.gradients["0.backward.cell"].total.value()
    reading = made["ratio_by_lag/0.backward.cell"]
    assert list(reading.dims["lag"]) == list(range(batch.length - at))
    for lag in (0, 2):
        signal, noise = by_pairs(total[:, at + lag])
        np.testing.assert_allclose(reading.values[0, lag], signal / noise, rtol=1e-6)


def test_where_several_positions_are_scored_the_last_is_asked_alone() -> None:
    task = Copying(length=4, symbols=3, recall=2)
    model, batch = gru(task, hidden=3), drawn(task)
    made = readings(model, task, batch)[f"ratio_by_lag/{KEY}"]
    alone = replace(batch, scored=torch.arange(batch.length).expand_as(batch.scored) == batch.length - 1)
    np.testing.assert_allclose(made.values, readings(model, task, alone)[f"ratio_by_lag/{KEY}"].values)


def test_a_rotation_keeps_the_ratio_at_every_lag_and_so_does_a_decay_beyond_the_format() -> None:
    """dL/dh_{s-k} = (Wᵀ)^k dL/dh_s: signal and noise shrink together, here to 1e-300 in float32."""
    task = Adding(length=1000)
    model = linear_rnn(task, hidden=4, radius=0.5).float()
    made = readings(model, task, drawn(task).beside(model.readout.weight))[f"ratio_by_lag/{KEY}"]
    assert made.status is not None and (made.status == FINITE).all()
    np.testing.assert_allclose(made.values, made.values[0, 0], rtol=1e-3)


def test_what_no_gradient_reaches_says_so() -> None:
    """Behind a scored position in time nothing is felt; with a read-out of zeros nowhere."""
    task = TemporalOrder(length=10)
    model = gru(task, hidden=3)
    with torch.no_grad():
        model.readout.weight.zero_()
    made = readings(model, task, drawn(task))[f"ratio_by_lag/{KEY}"]
    assert made.status is not None and (made.status == ZERO).all()
    model = linear_rnn(Adding(length=80), hidden=1, radius=0.0).float()
    made = readings(model, Adding(length=80), drawn(Adding(length=80)).beside(model.readout.weight))
    status = made[f"ratio_by_lag/{KEY}"].status
    assert status is not None and status[0, 0] == FINITE and (status[0, 5:] == CENSORED).all()


def test_moments_of_nearly_equal_vectors_are_not_the_difference_of_large_sums() -> None:
    vectors = 1e8 + torch.tensor([[0.0], [1.0], [2.0]])
    moments = Moments.of(vectors[0]).with_another(vectors[1]).with_another(vectors[2])
    assert moments.noise == pytest.approx(1.0)


def test_a_decoders_lags_are_its_own() -> None:
    task = Reverse(symbols=3, shortest=3, longest=5)
    model = seq2seq(task, lambda side: gru(side, 4), lambda side: gru(side, 4))
    names = [name for name in readings(model, task, drawn(task)) if name.startswith("ratio_by_lag")]
    assert names == ["ratio_by_lag/decoder0.forward.hidden"]


def test_one_sample_has_no_noise_and_is_refused() -> None:
    task = Adding(length=6)
    with pytest.raises(ValueError, match="samples must be at least 2"):
        Noise(samples=1)
    with pytest.raises(ValueError, match="the probe batch has only one"):
        readings(gru(task, hidden=3), task, drawn(task, 1))


def test_a_rule_has_no_gradient() -> None:
    task = Adding(length=6)
    assert not readings(rule(task), task, drawn(task))


def test_only_the_first_samples_are_asked() -> None:
    task = TemporalOrder(length=10)
    model, batch = gru(task, hidden=3), drawn(task)
    few, alone = readings(model, task, batch, 3), readings(model, task, batch.select(torch.arange(3)))
    assert set(few) == set(alone)
    for name, reading in few.items():
        np.testing.assert_allclose(reading.values, alone[name].values, rtol=1e-9)
