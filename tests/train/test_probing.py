from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from retrograde import ProbingSettings, Run
from retrograde.core.records import Reading, Update
from retrograde.models.gru import gru
from retrograde.models.lstm import lstm
from retrograde.probes.health import Health
from retrograde.probes.jacobian import Jacobian
from retrograde.record.folder import RunFolder
from retrograde.tasks.adding import Adding
from retrograde.tasks.copying import Copying
from retrograde.train.closing import alert_lines
from retrograde.train.configuration import probes_of
from retrograde.train.fit import default_probes
from retrograde.train.probing import Allowance, Probing, probe_batch, schedule


def test_snapshots_lie_evenly_in_the_logarithm_of_steps() -> None:
    assert sorted(schedule(1000, 4)) == [0, 1, 2, 3, 6, 10, 18, 32, 56, 100, 178, 316, 562, 1000]
    assert sorted(schedule(1000, 1)) == [0, 1, 10, 100, 1000]


@pytest.mark.parametrize("steps", [1, 2, 7, 150])
def test_the_start_the_first_step_and_the_last_are_always_probed(steps: int) -> None:
    assert schedule(steps, 3) >= {0, 1, steps}
    assert max(schedule(steps, 3)) == steps


def test_a_finer_schedule_is_a_larger_one() -> None:
    assert schedule(10_000, 4) < schedule(10_000, 8)


def test_no_snapshot_in_a_decade_is_refused() -> None:
    with pytest.raises(ValueError, match=r"probing\.per_decade must be at least 1, not 0"):
        schedule(10, 0)


def test_chosen_steps_stand_in_for_those_in_between() -> None:
    assert sorted(schedule(100, 4, [5, 50, 500])) == [0, 1, 5, 50, 100]


def spent_on(share: float | None, cost: float, steps: int, schedule: frozenset[int]) -> tuple[float, list[int]]:
    """Seconds that an allowance lets a run spend whose steps last a second, and the steps that it leaves out."""
    allowance = Allowance(share, schedule, steps)
    for step in sorted(schedule):
        if step in (0, steps) or allowance.allows(step, float(step)):
            allowance.firings.append(cost)
    return allowance.spent, allowance.left_out


def test_firings_keep_to_their_share_of_the_training_time() -> None:
    spent, left_out = spent_on(0.02, 5.0, 2000, schedule(2000, 4))
    assert 0.015 < spent / 2000 <= 0.02
    assert len(left_out) == len(schedule(2000, 4)) - spent / 5.0


def test_the_thinning_is_even_over_the_schedule() -> None:
    every = frozenset(range(0, 1001, 10))
    _, left_out = spent_on(0.05, 1.0, 1000, every)
    kept = sorted(every - set(left_out))
    assert len(kept) == pytest.approx(50, abs=2)
    assert max(np.diff(kept)[1:]) <= 30


def test_what_can_be_afforded_is_not_left_out() -> None:
    assert spent_on(0.02, 0.5, 2000, schedule(2000, 4))[1] == []
    assert spent_on(None, 500.0, 2000, schedule(2000, 4))[1] == []


def test_start_first_step_and_end_fire_whatever_they_cost() -> None:
    every = schedule(2000, 4)
    assert set(spent_on(0.02, 1000.0, 2000, every)[1]) == set(every) - {0, 1, 2000}


def test_a_run_records_what_probing_cost_and_what_it_left_out(small_run) -> None:
    run = small_run(probing=ProbingSettings(share=1e-9, samples=2))
    account = run.metadata["probing"]
    assert account["left_out"] == [2, 3, 6, 10, 18]
    assert account["firings"] == 3 and account["spent"] > 0
    assert set(run.readings("health/nonfinite")["step"]) == {0, 1, 20}
    assert set(account["seconds"]) == {"snapshot", *run.metadata["config"]["probe"]}
    assert sum(account["seconds"].values()) == pytest.approx(account["spent"], rel=0.1)
    assert run.store.runs()["probing.firings"].item() == 3


def test_what_a_probe_cannot_serve_is_noted_once_and_the_rest_is_measured(small_run) -> None:
    run = small_run(probes={"jacobian": Jacobian(largest=4), "health": Health()}, model=partial(lstm, hidden=8))
    (note,) = run.metadata["probing"]["notes"]
    assert note.startswith("jacobian leaves out layer '0.forward': 16 numbers")
    assert f"  note: {note}" in alert_lines(run.metadata)
    assert "health/dead" in run.tables()


def test_the_probe_batch_is_the_same_for_every_run_of_a_task() -> None:
    first = probe_batch(Adding(length=10), 4)
    torch.manual_seed(3)
    again = probe_batch(Adding(length=10), 4)
    assert torch.equal(first.inputs, again.inputs)
    assert len(first) == 4


def test_readings_lie_at_the_scheduled_steps(finished: Run) -> None:
    for name in finished.tables():
        if name.startswith("test/"):  # of the selected checkpoint
            continue
        steps = set(finished.readings(name)["step"])
        updated = {"gradient", "used", "update_ratio", "clipped"}  # there is no update before the first step
        before = set() if name.partition("/")[2] in updated else {0}
        assert steps == {1, 2, 3, 6, 10, 18, 20} | before, name


def test_settings_say_when_and_on_how_much(small_run) -> None:
    run = small_run(
        task=Copying(length=3, symbols=4, recall=3),
        probing=ProbingSettings(samples=3, per_decade=1, share=None),
        probes={"health": Health()},
    )
    assert set(run.readings("health/nonfinite")["step"]) == {0, 1, 10, 20}
    labels = run.store.labels()
    assert set(labels["sample"]) == {0, 1, 2}
    assert labels["scored"].any()


def test_the_default_probes_are_those_of_the_configuration(finished: Run) -> None:
    assert list(default_probes()) == list(probes_of("default"))
    recorded = {name.partition("/")[0] for name in finished.tables()}
    assert {"state_gradient", "lag_gradient", "parameters", "health"} <= recorded <= {*default_probes(), "test"}
    assert "attention" not in recorded  # an LSTM has none
    assert probes_of("none") == {}


def test_the_horizon_of_a_run_is_that_of_its_last_snapshot(finished: Run) -> None:
    horizons = finished.readings("lag_gradient/horizon")
    furthest = horizons.groupby("step")["value"].max()  # of the hidden state and the cell
    assert finished.metadata["horizon_start"] == furthest[0]
    assert finished.metadata["horizon"] == furthest[20]


@pytest.mark.parametrize(
    ("horizons", "furthest"),
    [([np.nan, 3.0, 2.0], 3.0), ([3.0, 2.0, np.nan], 3.0), ([np.nan, np.nan, np.nan], None)],
)
def test_a_component_whose_horizon_cannot_be_told_hides_no_other(small_run, horizons, furthest: float | None) -> None:
    run = small_run(probes={"horizons": Horizons(horizons)}, steps=1)
    assert run.metadata["horizon"] == furthest


class Horizons:
    """As of a state of three components."""

    def __init__(self, horizons: list[float]) -> None:
        self.horizons = horizons

    def __call__(self, snapshot: object) -> list[Reading]:
        names = [f"horizon/0.forward.{component}" for component in "abc"]
        return [Reading(name, np.array(one), {}, "lags") for name, one in zip(names, self.horizons, strict=True)]


@pytest.mark.parametrize("model", [lstm, gru])
def test_a_snapshot_leaves_gradients_weights_and_random_numbers_alone(small_run, monkeypatch, model) -> None:
    fire, seen = Probing.fire, {}

    def state(training: torch.nn.Module) -> dict[str, object]:
        return {
            **{f"weight {name}": weight.detach().clone() for name, weight in training.named_parameters()},
            **{f"gradient {name}": weight.grad for name, weight in training.named_parameters()},
            **{f"requires_grad {name}": weight.requires_grad for name, weight in training.named_parameters()},
            **{f"values {name}": None if p.grad is None else p.grad.clone() for name, p in training.named_parameters()},
            **{f"training {name}": module.training for name, module in training.named_modules()},
            **{f"hooks {name}": len(module._forward_hooks) for name, module in training.named_modules()},
            "torch": torch.get_rng_state(),
            "numpy": np.random.get_state()[1].copy(),  # not Python's: beartype draws from it
            "grad mode": torch.is_grad_enabled(),
        }

    def same(one: object, other: object) -> bool:
        if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
            return torch.equal(one, other)
        return np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other

    def watched(self: Probing, model: torch.nn.Module, task: Adding, step: int, update: Update | None) -> None:
        before = state(model)
        fire(self, model, task, step, update)
        after = state(model)
        assert {name for name in before if not same(before[name], after[name])} == set()
        assert before.keys() == after.keys()
        seen.setdefault(step, all(weight.grad is not None for weight in model.parameters()))

    monkeypatch.setattr(Probing, "fire", watched)
    small_run(model=partial(model, hidden=8, layers=2))
    # but for the start there were gradients that could have been touched
    assert seen == {0: False} | dict.fromkeys([1, 2, 3, 6, 10, 18, 20], True)


def test_a_probe_that_fails_fails_the_run(small_run, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        small_run(probes={"broken": Broken()}, outputs=tmp_path)
    (path,) = (tmp_path / "python").iterdir()
    assert RunFolder(path).read()["status"] == "failed"


class Broken:
    def __call__(self, snapshot: object) -> list[object]:
        return [1 // 0]
