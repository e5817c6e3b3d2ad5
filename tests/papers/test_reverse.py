"""String reversal against Python's own, and its baseline against a simulated guess."""

from math import log

import pytest
import torch

from retrograde.core.contracts import END, START
from retrograde.core.losses import sample_means
from retrograde.tasks.reverse import FIRST, Reverse


@pytest.mark.parametrize(("symbols", "shortest", "longest"), [(2, 1, 10), (5, 3, 3), (8, 5, 7)])
def test_a_target_is_its_source_backwards(symbols: int, shortest: int, longest: int) -> None:
    task = Reverse(symbols, shortest, longest)
    batch = task.sample(200, torch.Generator().manual_seed(0))
    assert batch.decoder_inputs is not None and batch.target_lengths is not None
    assert set(batch.lengths.tolist()) == set(range(shortest, longest + 1))
    for sample, length in enumerate(batch.lengths.tolist()):
        source = batch.inputs[sample, :length].tolist()
        expected = [FIRST + symbol for symbol in reversed(source)] + [END]
        assert batch.targets[sample, : length + 1].tolist() == expected
        assert batch.decoder_inputs[sample, : length + 1].tolist() == [START, *expected[:-1]]
        assert batch.target_lengths[sample] == batch.scored[sample].sum() == length + 1
        assert batch.scored[sample, : length + 1].all()
        assert task.labels(batch)[sample][:length] == [str(symbol) for symbol in source]


def test_a_lag_is_the_distance_in_source_and_target_written_one_behind_the_other() -> None:
    task = Reverse(2, 4, 4)
    batch = task.sample(1, torch.Generator().manual_seed(0))
    together = 4 + torch.arange(4)  # when target position j is due, after the source's four symbols
    expected = [int(together[3 - at]) - at for at in range(4)]
    assert task.lags(batch).tolist() == expected == [7, 5, 3, 1]


def test_the_baseline_is_what_guessing_symbols_scores() -> None:
    task = Reverse(3, 1, 6)
    batch = task.sample(20_000, torch.Generator().manual_seed(0))
    guess = FIRST + torch.randint(3, batch.targets.shape, generator=torch.Generator().manual_seed(1))
    guess = guess.where(batch.targets != END, END)
    right = sample_means((guess == batch.targets).float(), batch.scored).mean().item()
    assert task.card.baseline.score == pytest.approx(right, abs=0.005)
    uniform = sample_means((batch.targets != END) * log(3.0), batch.scored).mean().item()
    assert task.card.baseline.loss == pytest.approx(uniform, abs=0.005)
