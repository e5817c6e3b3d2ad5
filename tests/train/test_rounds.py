"""Steps are taken in rounds, between which Lightning has its turn; what is recorded knows nothing of them."""

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest
import torch

from retrograde import Run, TrainerSettings
from retrograde.probes.parameters import Parameters
from retrograde.record.store import FolderStore
from retrograde.train import module
from retrograde.train.module import Training

Fit = Callable[..., Run]

SETTINGS = TrainerSettings(
    accelerator="cpu", log_every=6, validate_every=8, validation_samples=32, test_samples=32, clip=0.05
)


def halving(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.5)


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The step that each round ends with."""
    seen: list[int] = []
    taken = Training.training_step

    def watched(training: Training, end: int, round: int) -> None:
        taken(training, end, round)
        seen.append(training.global_step)

    monkeypatch.setattr(Training, "training_step", watched)
    return seen


def test_a_round_ends_where_something_is_recorded_and_nowhere_else(
    small_run: Fit, ends: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROUND", 3600.0)
    small_run(trainer=SETTINGS, probes={})
    assert ends == [6, 8, 12, 16, 18, 20]


def test_a_slow_step_is_a_round(small_run: Fit, ends: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROUND", 0.0)
    small_run(trainer=SETTINGS, probes={})
    assert ends == list(range(1, 21))


def test_how_long_rounds_are_changes_nothing(small_run: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = []
    for seconds in (0.0, 3600.0):
        monkeypatch.setattr(module, "ROUND", seconds)
        run = small_run(trainer=SETTINGS, scheduler=halving, probes={"parameters": Parameters()})
        stores.append(FolderStore(run.folder.path))
    one, other = stores
    pd.testing.assert_frame_equal(one.metrics(), other.metrics())
    assert one.tables() == other.tables() != []
    for name in one.tables():
        pd.testing.assert_frame_equal(one.readings(name), other.readings(name))
    rates = one.metrics().query("quantity == 'learning_rate'").set_index("step")["value"]
    assert rates.to_dict() == {6: 3e-3, 12: 1.5e-3, 18: 7.5e-4, 20: 7.5e-4}


def test_the_share_of_clipped_steps_is_counted_over_rounds(small_run: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a bound that none keeps to, and by one that all do."""
    monkeypatch.setattr(module, "ROUND", 3600.0)
    for clip, share in ((1e-9, 1.0), (1e9, 0.0)):
        run = small_run(trainer=replace(SETTINGS, clip=clip), probes={"parameters": Parameters()})
        assert set(FolderStore(run.folder.path).readings("parameters/clipped")["value"]) == {share}
