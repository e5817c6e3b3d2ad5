"""The test of a run, on outputs that are known."""

from dataclasses import replace
from functools import partial
from math import log

import pytest
import torch
from torch import Tensor

from retrograde.core.contracts import END, SequenceModel, Task
from retrograde.core.records import Batch, Reading, Trace
from retrograde.layers.positions import Learned as LearnedPosition
from retrograde.models.transformer import transformer
from retrograde.tasks.adding import Adding
from retrograde.tasks.copying import Copying
from retrograde.tasks.embedded_reber import EmbeddedReber
from retrograde.tasks.reverse import Reverse
from retrograde.train.evaluation import batches, evaluate, examine

COPYING = Copying(length=3, symbols=8, recall=4, scored="answer")


class Wrong(SequenceModel):
    """Says the target, but at the chosen positions of every second sample token 1; it has nothing to train."""

    kinds = ("aligned", "transduce")
    state_size = 0

    def __init__(self, task: Task, wrong: list[int]) -> None:
        super().__init__()
        self.size, self.wrong = task.outputs.size, wrong
        self.register_buffer("scale", torch.tensor(100.0))

    def forward(self, batch: Batch) -> Tensor:
        if batch.targets.is_floating_point():
            return batch.targets + 0.5
        said = batch.targets.clone()
        said[::2, self.wrong] = 1
        return torch.nn.functional.one_hot(said, self.size) * self.scale

    def trace(self, batch: Batch, perturb: object = None) -> Trace:
        return Trace(self(batch), {}, {})


def curve(readings: object, name: str) -> dict[int, tuple[float, float]]:
    """Mean and count by coordinate."""
    (reading,) = [each for each in readings if each.name == f"{name}/outputs"]  # type: ignore[attr-defined]  # readings
    assert isinstance(reading, Reading)
    (dim,) = [dim for dim in reading.dims if dim != "statistic"]
    return dict(zip(reading.dims[dim], zip(*reading.values.tolist(), strict=True), strict=True))


def without_ones(task: Copying) -> Batch:
    """Sequences in which token 1 is never right."""
    batch = task.sample(400, torch.Generator().manual_seed(0))
    return batch.select((batch.targets != 1).all(1).nonzero().squeeze(1)[:100])


def test_accuracy_by_position_by_lag_and_by_length_is_what_was_said() -> None:
    batch = without_ones(COPYING)
    result = examine(
        Wrong(COPYING, [-1]), COPYING, [batch.select(torch.arange(60)), batch.select(torch.arange(60, 100))]
    )
    assert curve(result.readings, "accuracy_by_position") == {7: (1, 100), 8: (1, 100), 9: (1, 100), 10: (0.5, 100)}
    assert curve(result.readings, "accuracy_by_lag") == {7: (0.875, 400)}
    assert curve(result.readings, "score_by_length") == {11: (0.875, 100)}
    assert result.score == pytest.approx(0.875)
    assert result.measures["exact_match"] == 0.5
    assert result.measures["effective_window"] == pytest.approx(4 * (1 - result.loss / log(8)))


def test_numbers_have_a_score_by_lag_and_no_exact_match() -> None:
    task = Adding(length=20)
    evaluation = batches(task, "test", 64, 32)
    result = examine(Wrong(task, []), task, evaluation)
    assert result.loss == pytest.approx(0.25)
    assert result.score == pytest.approx(1 - 0.25 * 6)
    assert "exact_match" not in result.measures
    assert "forced_score" not in result.measures
    by_lag = curve(result.readings, "score_by_lag")
    first = torch.cat([(19 - batch.inputs[:, :, 1].argmax(1)) for batch in evaluation])
    assert {lag: count for lag, (_, count) in by_lag.items()} == dict(
        zip(*(part.tolist() for part in first.unique(return_counts=True)), strict=True)
    )


def test_the_lag_of_a_target_apart_is_counted_as_if_it_stood_behind_the_source() -> None:
    task = Reverse(symbols=3, shortest=3, longest=5)
    evaluation = batches(task, "validation", 32, 32)
    result = examine(Wrong(task, []), task, evaluation)
    assert result.score == 1 and result.measures["exact_match"] == 1
    by_lag = curve(result.readings, "accuracy_by_lag")
    (batch,) = evaluation
    lags = [2 * at - 1 for length in batch.lengths.tolist() for at in range(1, length + 1)]
    assert {lag: count for lag, (_, count) in by_lag.items()} == {lag: lags.count(lag) for lag in sorted(set(lags))}


def test_loss_and_score_are_those_of_validation() -> None:
    model, evaluation = Wrong(COPYING, [-1, -2]), [without_ones(COPYING)]
    result = examine(model, COPYING, evaluation)
    assert evaluate(model, COPYING, evaluation) == pytest.approx((result.loss, result.score))


class Prompted(Wrong):
    """Right as long as it is shown the target; by itself it says <eos> at once in every second sample."""

    def answers(self, batch: Batch, outputs: Tensor) -> Tensor:
        said = batch.targets.clone()
        said[::2] = END
        return torch.nn.functional.one_hot(said, self.size) * self.scale


def test_score_and_exact_match_are_of_what_is_said_without_seeing_the_target() -> None:
    task = Reverse(symbols=3, shortest=5, longest=5)
    batch = task.sample(20, torch.Generator().manual_seed(0))
    result = examine(Prompted(task, []), task, [batch])
    assert result.loss == pytest.approx(0, abs=1e-6)
    assert result.measures["exact_match"] == 0.5
    assert result.score == pytest.approx(0.5 * (1 + 1 / 6))  # of six symbols <eos> alone is right
    assert result.measures["forced_score"] == 1
    by_position = curve(result.readings, "accuracy_by_position")
    assert by_position == {**dict.fromkeys(range(5), (0.5, 20)), 5: (1, 20)}
    assert evaluate(Prompted(task, []), task, [batch])[1] == pytest.approx(result.score)


def test_accuracy_and_exact_match_are_of_what_the_score_is_about() -> None:
    """Most symbols of a grammar nobody can know; a perfect answer knows the critical one."""
    task = EmbeddedReber()
    batch = task.sample(50, torch.Generator().manual_seed(0))
    critical = batch.lengths - 2

    class Knowing(Wrong):
        def forward(self, batch: Batch) -> Tensor:
            said = torch.zeros_like(batch.targets)
            rows = torch.arange(len(batch))
            said[rows, critical] = batch.targets[rows, critical]
            return torch.nn.functional.one_hot(said, self.size) * self.scale

    result = examine(Knowing(task, []), task, [batch])
    assert result.score == 1
    assert sum(count for _, count in curve(result.readings, "accuracy_by_position").values()) == 50
    assert {mean for mean, _ in curve(result.readings, "accuracy_by_position").values()} == {1}


def test_a_model_that_cannot_read_the_longer_test_is_refused_before_it_is_trained(small_run) -> None:
    with pytest.raises(ValueError, match="longest must be at least 30"):
        small_run(
            model=partial(transformer, hidden=8, heads=2, position=partial(LearnedPosition, longest=20)),
            task=Adding(length=10, test_length=30),
            steps=1000_000,
        )


def test_an_evaluation_has_no_more_sequences_than_there_are() -> None:
    class Few(Adding):
        def available(self, split: str) -> int | None:
            return 10 if split == "test" else None

    task = Few(length=20)
    assert [len(batch) for batch in batches(task, "test", 64, 8)] == [10]
    assert [len(batch) for batch in batches(task, "validation", 64, 8)] == [64]


def test_long_sequences_are_evaluated_as_many_at_a_time_as_they_are_trained_and_short_ones_more() -> None:
    assert [len(batch) for batch in batches(Adding(length=2000), "test", 20, 3)] == [8, 8, 4]
    assert [len(batch) for batch in batches(Adding(length=20_000), "test", 20, 8)] == [8, 8, 4]
    assert [len(batch) for batch in batches(Adding(length=20), "test", 1000, 1)] == [819, 181]


def test_positions_without_a_score_have_no_part() -> None:
    batch = without_ones(COPYING)
    spoiled = replace(batch, targets=batch.targets.where(batch.scored, 3))
    once = examine(Wrong(COPYING, [-1]), COPYING, [batch])
    again = examine(Wrong(COPYING, [0, 1, -1]), COPYING, [spoiled])
    assert (once.loss, once.score, once.measures) == (again.loss, again.score, again.measures)
