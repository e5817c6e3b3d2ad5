"""The temporal order problem against 1997: its windows, its classes, its guess."""

from itertools import pairwise
from math import log, sqrt

import pytest
import torch

from retrograde.core.records import Batch
from retrograde.tasks.temporal_order import TemporalOrder

CLASSES = {
    4: ["XX", "XY", "YX", "YY"],  # Q, R, S, U
    8: ["XXX", "XXY", "XYX", "XYY", "YXX", "YXY", "YYX", "YYY"],  # Q, R, S, U, V, A, B, C
}


def draw(task: TemporalOrder, count: int) -> Batch:
    return task.sample(count, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("classes", [4, 8])
@pytest.mark.parametrize("length", [10, 11, 60, 100])
def test_class_is_the_order_of_the_letters(length: int, classes: int) -> None:
    task = TemporalOrder(length, classes)
    batch = draw(task, 100)
    for sample, letters in enumerate(task.labels(batch)):
        end = int(batch.lengths[sample])
        assert letters[0] == "E" and letters[end - 1] == "B" and letters[end:] == [""] * (batch.length - end)
        assert set(letters[1 : end - 1]) <= set("abcdXY")
        word = "".join(letter for letter in letters if letter in "XY")
        assert batch.targets[sample, end - 1].item() == CLASSES[classes].index(word)
        assert batch.scored[sample].nonzero().tolist() == [[end - 1]]


@pytest.mark.parametrize(("classes", "windows"), [(4, [(10, 20), (50, 60)]), (8, [(10, 20), (33, 43), (66, 76)])])
def test_windows_at_100_are_those_of_1997(classes: int, windows: list[tuple[int, int]]) -> None:
    task = TemporalOrder(100, classes)
    batch = draw(task, 600)
    letters = task.labels(batch)
    times = [[time for time, letter in enumerate(sample) if letter in ("X", "Y")] for sample in letters]
    for place, (first, last) in enumerate(windows):
        assert {sample[place] for sample in times} == set(range(first, last + 1))
    assert set(batch.lengths.tolist()) == set(range(100, 111))


@pytest.mark.parametrize("classes", [4, 8])
def test_windows_lie_apart_at_every_length(classes: int) -> None:
    for length in range(10, 400):
        windows = TemporalOrder(length, classes).windows
        assert windows[0].start > 0 and windows[-1].stop <= length - 1
        assert all(before.stop <= after.start for before, after in pairwise(windows))


@pytest.mark.parametrize("classes", [4, 8])
def test_classes_and_distractors_are_equally_likely(classes: int) -> None:
    count = 20_000
    task = TemporalOrder(20, classes)
    batch = draw(task, count)
    shares = torch.bincount(batch.targets[batch.scored], minlength=classes) / count
    error = 4 * sqrt(1 / classes * (1 - 1 / classes) / count)
    assert shares.tolist() == pytest.approx([1 / classes] * classes, abs=error)
    distractors = torch.bincount(batch.inputs.flatten(), minlength=8)[2:6].double()
    total = distractors.sum().item()
    assert (distractors / total).tolist() == pytest.approx([0.25] * 4, abs=4 * sqrt(0.25 * 0.75 / total))


@pytest.mark.parametrize("classes", [4, 8])
def test_uniform_guess_costs_and_scores_what_the_card_says(classes: int) -> None:
    count = 20_000
    task = TemporalOrder(10, classes)
    batch = draw(task, count)
    baseline = task.card.baselines[0]
    assert (baseline.loss, baseline.score) == (log(classes), 1 / classes)
    alike = torch.zeros(count, batch.length, classes, dtype=torch.float64)
    assert task.loss(alike, batch)[batch.scored].mean().item() == pytest.approx(baseline.loss, rel=1e-12)
    guess = torch.rand(alike.shape, generator=torch.Generator().manual_seed(1))
    error = 4 * sqrt(baseline.score * (1 - baseline.score) / count)
    assert task.score(guess, batch)[batch.scored].mean().item() == pytest.approx(baseline.score, abs=error)


@pytest.mark.parametrize("classes", [4, 8])
def test_whoever_reads_the_letters_scores_one(classes: int) -> None:
    task = TemporalOrder(30, classes)
    batch = draw(task, 20)
    outputs = torch.zeros(20, batch.length, classes)
    for sample, letters in enumerate(task.labels(batch)):
        word = "".join(letter for letter in letters if letter in "XY")
        outputs[sample, int(batch.lengths[sample]) - 1, CLASSES[classes].index(word)] = 50
    assert (task.score(outputs, batch)[batch.scored] == 1).all()
    assert task.loss(outputs, batch)[batch.scored].max() < 1e-6


@pytest.mark.parametrize(
    ("length", "classes", "share", "loss"), [(60, 4, 3 / 4, log(2) / 2), (60, 8, 1 / 2, 3 / 4 * log(3))]
)
def test_counting_without_order_is_the_best_rule_on_the_card(
    length: int, classes: int, share: float, loss: float
) -> None:
    count = 1024
    task = TemporalOrder(length, classes)
    batch = task.sample(count, torch.Generator().manual_seed(1), "test")
    outputs = torch.full((count, batch.length, classes), -40.0)
    for sample, letters in enumerate(task.labels(batch)):
        times = letters.count("Y")
        alike = [place for place, word in enumerate(CLASSES[classes]) if word.count("Y") == times]
        for place in alike:
            outputs[sample, int(batch.lengths[sample]) - 1, place] = -log(len(alike))
    losses = task.loss(outputs, batch)[batch.scored]
    right = task.score(outputs, batch)[batch.scored].mean().item()
    baseline = task.card.baseline
    assert (baseline.score, baseline.loss) == (share, pytest.approx(loss, rel=1e-12))
    assert right == pytest.approx(share, abs=4 * sqrt(share * (1 - share) / count))
    assert losses.mean().item() == pytest.approx(loss, abs=4 * losses.std().item() / sqrt(count))


@pytest.mark.parametrize(("classes", "sequences"), [(4, "31,390"), (8, "571,100")])
def test_published_results_stand_beside_their_own_variant_alone(classes: int, sequences: str) -> None:
    known, other = TemporalOrder(100, classes).card, TemporalOrder(60, classes).card
    assert sequences in known.comparable[0] and "Pascanu" in known.incomparable[0]
    assert not other.comparable and sequences in other.incomparable[0]


def test_longer_is_the_same_task_at_the_test_length() -> None:
    task = TemporalOrder(60, 8, test_length=67)
    assert task.longer == TemporalOrder(67, 8)
    assert draw(task, 200).lengths.max() == 66
    with pytest.raises(ValueError, match="test_length must be at least 67, not 66"):
        TemporalOrder(60, 8, test_length=66)


def test_lags_lead_from_b_to_the_letters() -> None:
    task = TemporalOrder(100)
    batch = draw(task, 2000)
    lags = task.lags(batch).view(-1, 2)
    assert (lags[:, 0].min().item(), lags[:, 0].max().item()) == (79, 99)  # 99 - 20, 109 - 10
    assert (lags[:, 1].min().item(), lags[:, 1].max().item()) == (39, 59)  # 99 - 60, 109 - 50
    for sample, letters in enumerate(task.labels(batch.select(torch.arange(20)))):
        first = next(time for time, letter in enumerate(letters) if letter in "XY")
        assert lags[sample, 0].item() == int(batch.lengths[sample]) - 1 - first


@pytest.mark.parametrize(
    ("length", "classes", "message"),
    [
        (9, 4, "length must be at least 10 for windows that lie apart, not 9"),
        (-5, 8, "length must be at least 10 for windows that lie apart, not -5"),
        (60, 5, "classes must be 4 or 8, not 5"),
    ],
)
def test_settings_that_make_no_task_are_refused(length: int, classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TemporalOrder(length, classes)
