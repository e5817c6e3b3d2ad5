"""loss_over_time by a loop over positions, and its bins by hand."""

import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch

from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch, Reading
from retrograde.core.snapshot import snapshot
from retrograde.models.elman import elman
from retrograde.models.rule import rule
from retrograde.models.seq2seq import seq2seq
from retrograde.probes.loss_over_time import LossOverTime, octave
from retrograde.tasks.adding import Adding
from retrograde.tasks.copying import Copying
from retrograde.tasks.parity import Parity
from retrograde.tasks.reverse import Reverse

pytestmark = pytest.mark.usefixtures("float64")


def readings(model: SequenceModel, task: Task, batch: Batch) -> dict[str, Reading]:
    return {reading.name: reading for reading in LossOverTime()(snapshot(model, task, batch, 0))}


def drawn(task: Task, count: int = 5) -> Batch:
    return task.sample(count, torch.Generator().manual_seed(1))


def test_lags_are_put_into_octaves() -> None:
    lags = torch.tensor([0, 1, 2, 3, 4, 7, 8, 1023, 1024])
    assert octave(lags).tolist() == [0, 1, 2, 2, 4, 4, 8, 512, 1024]


@pytest.mark.parametrize("task", [Copying(length=5, symbols=3, recall=2), Adding(length=20, markers="first_ten")])
def test_means_and_counts_are_those_of_a_loop_over_samples_and_positions(task: Task) -> None:
    """The loss of each position by itself; the lag of each from the rows of what it needs."""
    model, batch = elman(task, hidden=3), drawn(task)
    made = readings(model, task, batch)
    losses = task.loss(model(batch), batch).detach()
    at_position, furthest, at_lag = defaultdict(list), {}, defaultdict(list)
    for (sample, _, position), lag in zip(task.needs(batch).tolist(), task.lags(batch).tolist(), strict=True):
        furthest[sample, position] = max(lag, furthest.get((sample, position), 0))
    for sample, position in batch.scored.nonzero().tolist():
        at_position[position].append(losses[sample, position].item())
    for (sample, position), lag in furthest.items():
        low = 0 if lag == 0 else 2 ** int(math.log2(lag))
        at_lag[low].append(losses[sample, position].item())
    for name, dim, expected in (("position", "position", at_position), ("lag", "lag", at_lag)):
        reading = made[f"loss_by_{name}/outputs"]
        assert list(reading.dims) == ["statistic", dim]
        assert list(reading.dims[dim]) == sorted(expected)
        np.testing.assert_allclose(reading.values[0], [np.mean(expected[key]) for key in sorted(expected)], rtol=1e-9)
        np.testing.assert_array_equal(reading.values[1], [len(expected[key]) for key in sorted(expected)])


def test_the_unit_is_nats_for_tokens_alone() -> None:
    tokens, reals = Copying(length=5, symbols=3, recall=2), Adding(length=6)
    assert readings(elman(tokens, hidden=3), tokens, drawn(tokens))["loss_by_position/outputs"].unit == "nats"
    assert readings(elman(reals, hidden=3), reals, drawn(reals))["loss_by_lag/outputs"].unit == "loss"


def test_positions_of_a_target_are_its_own_and_lags_run_over_the_source() -> None:
    """To write a reversed source of n symbols, the j-th is n - 1 - j of the source, written at n + j: lag 2j + 1."""
    task = Reverse(symbols=3, shortest=4, longest=4)
    batch = drawn(task)
    made = readings(seq2seq(task, lambda side: elman(side, 3), lambda side: elman(side, 3)), task, batch)
    assert list(made["loss_by_position/outputs"].dims["position"]) == list(range(5))  # the end is written as well
    lag = made["loss_by_lag/outputs"]
    spent = dict(zip(lag.dims["lag"], lag.values[1], strict=True))
    assert {1: 5.0, 2: 5.0, 4: 10.0}.items() <= spent.items()  # lags 1; 3; 5 and 7, of five samples


def test_a_loss_that_is_no_number_is_kept_where_it_is() -> None:
    task = Copying(length=5, symbols=3, recall=2)
    model = elman(task, hidden=3)
    on = snapshot(model, task, drawn(task), 0)
    losses = on.losses.clone()
    losses[2, 4] = math.inf
    made = {reading.name: reading for reading in LossOverTime()(replace(on, losses=losses))}
    values = made["loss_by_position/outputs"].values[0]
    assert np.isinf(values[4]) and np.isfinite(np.delete(values, 4)).all()


def test_a_rule_has_a_loss_over_time_as_well() -> None:
    task = Copying(length=5, symbols=3, recall=2)
    assert readings(rule(task), task, drawn(task))["loss_by_position/outputs"].values.shape == (2, 9)


def test_positions_of_which_nobody_knows_what_they_need_are_in_no_bin() -> None:
    class Unknown(Parity):
        def needs(self, batch: Batch) -> torch.Tensor:
            return batch.lengths.new_zeros(0, 3)

    task = Unknown()
    assert list(readings(elman(task, hidden=3), task, drawn(task))) == ["loss_by_position/outputs"]
