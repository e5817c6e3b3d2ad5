"""Runs that train together are the runs that they would be alone: each by itself, in all that it records."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from retrograde import RecorderSettings, Run, TrainerSettings, fit, fit_seeds, load
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.recurrence import Recurrence
from retrograde.models.gru import gru
from retrograde.models.lstm import lstm
from retrograde.models.transformer import transformer
from retrograde.probes.parameters import Parameters
from retrograde.probes.state_gradient import StateGradient
from retrograde.record.folder import FAILED, FINISHED, INTERRUPTED, RunFolder
from retrograde.record.store import FolderStore
from retrograde.tasks.adding import Adding
from retrograde.train import company, options, sweep
from retrograde.train.fit import _prepared
from retrograde.train.interruption import Interrupted
from retrograde.train.job import carry_out_together
from retrograde.train.module import Training

pytestmark = pytest.mark.heavy

TRAINER = TrainerSettings(
    accelerator="cpu",
    threads=1,
    precision="64-true",
    log_every=5,
    validate_every=5,
    validation_samples=32,
    test_samples=32,
    stop_when_solved=False,
)
SEEDS = 0, 1, 2


def settings(outputs: Path, **given: object) -> dict[str, object]:
    return {
        "task": Adding(length=12),
        "steps": 20,
        "batch_size": 8,
        "trainer": TRAINER,
        "probes": {"state_gradient": StateGradient(), "parameters": Parameters()},
        "probing": options.ProbingSettings(share=None),
        "recorder": RecorderSettings(mode="disabled"),
        "outputs": outputs,
        "progress": False,
        **given,
    }


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many took each round that was computed together."""
    seen: list[int] = []
    taken = company.round_together

    def watched(trainings: list[object], *rest: object) -> None:
        seen.append(len(trainings))
        taken(trainings, *rest)

    monkeypatch.setattr(company, "round_together", watched)
    return seen


def require_same(one: Run, other: Run) -> None:
    """In all that was recorded, to ten digits."""
    first, second = FolderStore(one.folder.path), FolderStore(other.folder.path)
    assert first.tables() == second.tables() != []
    for name in first.tables():
        pd.testing.assert_frame_equal(first.readings(name), second.readings(name), rtol=1e-10, atol=1e-10)
    pd.testing.assert_frame_equal(first.metrics(), second.metrics(), rtol=1e-10, atol=1e-10)
    assert one.folder.run == other.folder.run
    for what in ("score", "validation_score", "steps", "solved_step", "selected_step", "diverged_step", "status"):
        found, expected = one.metadata[what], other.metadata[what]
        assert found == (pytest.approx(expected, rel=1e-10) if isinstance(expected, float) else expected), what


@pytest.mark.parametrize(
    "model",
    [partial(lstm, hidden=6), partial(gru, hidden=6), partial(transformer, hidden=8, heads=2, layers=1)],
    ids=["lstm", "gru", "transformer"],
)
def test_each_seed_is_the_run_made_alone(
    tmp_path: Path, rounds: list[int], model: Callable[[Task], SequenceModel]
) -> None:
    together = fit_seeds(model, seeds=SEEDS, **settings(tmp_path / "together"))
    assert rounds and set(rounds) == {3}
    for seed, run in zip(SEEDS, together, strict=True):
        assert run.metadata["together"] == 3
        require_same(run, fit(model, seed=seed, **settings(tmp_path / "alone")))


def test_rates_differ_and_one_that_diverges_leaves(tmp_path: Path, rounds: list[int]) -> None:
    """The weights of the second leave all that is finite in its first step."""
    model = partial(lstm, hidden=6)
    rates = (0.1, math.inf, 0.05)
    given = [{"seed": seed, "optimizer": partial(torch.optim.SGD, lr=rate)} for seed, rate in enumerate(rates)]
    prepared = [_prepared(model, **without(settings(tmp_path / "together", **each), "progress")) for each in given]
    results = carry_out_together([one for one, _ in prepared], progress=False)
    assert [result["diverged_step"] for result in results] == [None, 1, None]
    assert (rounds[0], rounds[-1]) == (3, 2)
    for (one, _), each in zip(prepared, given, strict=True):
        require_same(load(one.folder.path), fit(model, **settings(tmp_path / "alone", **each)))


def test_one_that_has_solved_its_task_leaves(tmp_path: Path, rounds: list[int]) -> None:
    """By a bar that the first validation clears, for a seed each time another step."""
    given = settings(tmp_path / "together", steps=60, trainer=replace(TRAINER, stop_when_solved=True))
    model = partial(gru, hidden=6)
    easy = {**given, "task": Easy(length=12)}
    together = fit_seeds(model, seeds=SEEDS, **easy)
    steps = [run.metadata["steps"] for run in together]
    assert min(steps) < max(steps) and rounds[0] == 3
    for seed, run in zip(SEEDS, together, strict=True):
        require_same(run, fit(model, seed=seed, **{**easy, "outputs": tmp_path / "alone"}))


def test_a_round_that_fails_fails_all_that_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(company, "round_together", _raising)
    with pytest.raises(RuntimeError, match="3 runs together failed"):
        fit_seeds(partial(lstm, hidden=6), seeds=SEEDS, **settings(tmp_path))
    states = {RunFolder(file.parent).read()["status"] for file in tmp_path.rglob("run.json")}
    assert states == {FAILED}


def test_one_that_fails_by_itself_costs_the_others_nothing(
    tmp_path: Path, rounds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = Training._validate

    def failing(training: Training, step: int) -> bool:
        if training.job.seed == 1 and step == 10:
            raise OSError("no room left")
        return validate(training, step)

    monkeypatch.setattr(Training, "_validate", failing)
    with pytest.raises(OSError, match="no room left"):
        fit_seeds(partial(lstm, hidden=6), seeds=SEEDS, **settings(tmp_path))
    states = {(made := RunFolder(file.parent).read())["seed"]: made["status"] for file in tmp_path.rglob("run.json")}
    assert states == {0: FINISHED, 1: FAILED, 2: FINISHED}
    assert (rounds[0], rounds[-1]) == (3, 2)


def test_one_that_was_interrupted_catches_up(tmp_path: Path, rounds: list[int]) -> None:
    """The second run begins where it was ended, at step 10, and waits there for the others."""
    model, given = partial(lstm, hidden=6), settings(tmp_path / "together")

    def asked(training: Training, step: int) -> None:
        if step == 10:
            training.interruption.asked = signal.SIGTERM

    with pytest.MonkeyPatch.context() as patched:
        log = Training._log
        patched.setattr(Training, "_log", lambda training, step: (log(training, step), asked(training, step)))
        with pytest.raises(Interrupted):
            fit(model, seed=1, **given)
    together = fit_seeds(model, seeds=SEEDS, **given)
    assert together[1].metadata["attempts"][-1]["from_step"] == 10
    assert set(rounds) == {2, 3}
    for seed, run in zip(SEEDS, together, strict=True):
        require_same(run, fit(model, seed=seed, **{**given, "outputs": tmp_path / "alone"}))


def test_who_is_asked_to_end_keeps_every_run(tmp_path: Path, rounds: list[int]) -> None:
    """By a signal to the process while one of them records; all end after their step, and go on from there."""
    model, given = partial(lstm, hidden=6), settings(tmp_path / "together")
    log = Training._log

    def ring(training: Training, step: int) -> None:
        log(training, step)
        if step == 10 and training.job.seed == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            while training.interruption.asked is None:  # the main thread hears of it in between
                time.sleep(0.01)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Training, "_log", ring)
        with pytest.raises(Interrupted):
            fit_seeds(model, seeds=SEEDS, **given)
    states = {(made := RunFolder(file.parent).read())["seed"]: made["status"] for file in tmp_path.rglob("run.json")}
    assert states == dict.fromkeys(SEEDS, INTERRUPTED)
    together = fit_seeds(model, seeds=SEEDS, **given)
    assert {run.metadata["attempts"][-1]["from_step"] for run in together} <= {10, 11}
    for seed, run in zip(SEEDS, together, strict=True):
        require_same(run, fit(model, seed=seed, **{**given, "outputs": tmp_path / "alone"}))


def test_who_is_asked_twice_ends_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a round that would go on for long; nobody works on when the caller hears of it, and the runs are kept."""
    model, given = partial(lstm, hidden=6), settings(tmp_path)
    steps = []

    def endless(*_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            time.sleep(0.3)  # in which the main thread hears of it
        while True:
            steps.append(time.sleep(0.01))

    monkeypatch.setattr(company, "round_together", endless)
    with pytest.raises(Interrupted, match="SIGINT"):
        fit_seeds(model, seeds=SEEDS, **given)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("run ")] == []
    states = [RunFolder(file.parent).read() for file in tmp_path.rglob("run.json")]
    assert [(made["status"], made["reason"]) for made in states] == [(INTERRUPTED, "Interrupted: SIGINT")] * len(SEEDS)


@dataclass(frozen=True)
class Easy(Adding):
    """Solved by a score that any network of some steps has."""

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "solved": -0.2}


def without(given: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key != name}


def _raising(*given: object) -> None:
    raise MemoryError("too much at once")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"model": partial(lstm, hidden=6, layers=2, dropout=0.5)}, "dropout"),
        ({"trainer": replace(TRAINER, precision="bf16-mixed")}, "mixed precision"),
        ({"optimizer": partial(torch.optim.LBFGS, lr=0.1)}, "LBFGS"),
    ],
)
def test_what_cannot_be_computed_together_is_said_and_done_in_turn(
    tmp_path: Path, rounds: list[int], capsys: pytest.CaptureFixture[str], changed: dict[str, object], why: str
) -> None:
    given = {"model": partial(lstm, hidden=6), **settings(tmp_path), **changed}
    if why == "LBFGS":
        with pytest.raises(TypeError):  # alone it wants a closure as well
            fit_seeds(seeds=SEEDS, **given)
    else:
        runs = fit_seeds(seeds=SEEDS, **given)
        assert {run.metadata["status"] for run in runs} == {FINISHED}
    assert not rounds
    said = capsys.readouterr().err
    assert said.count("these runs train one after the other") == 1 and why in said


def test_a_finished_run_is_given_back_and_the_others_are_made(tmp_path: Path, rounds: list[int]) -> None:
    model = partial(lstm, hidden=6)
    before = fit(model, seed=1, **settings(tmp_path))
    runs = fit_seeds(model, seeds=SEEDS, **settings(tmp_path))
    assert runs[1].metadata == before.metadata
    assert set(rounds) == {2}
    assert [run.metadata["seed"] for run in runs] == [0, 1, 2]


def test_time_is_shared_out(tmp_path: Path) -> None:
    """What all took together is about what passed, and no run was given all of it."""
    begun = time.perf_counter()
    runs = fit_seeds(partial(lstm, hidden=6), seeds=SEEDS, **settings(tmp_path))
    passed = time.perf_counter() - begun
    each = [run.metadata["duration"] for run in runs]
    assert max(each) < sum(each) <= passed


COMMAND = (
    *("width=6", "task.length=12", "steps=20", "batch_size=8", "recorder.mode=disabled", "probe=state_gradient"),
    *("trainer.accelerator=cpu", "trainer.threads=1", "trainer.precision=64-true", "trainer.validate_every=10"),
    *("trainer.validation_samples=32", "trainer.test_samples=32", "probing.share=null"),
)


@pytest.fixture
def sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials that find whatever is computed together the faster: how long it takes is not what is tested."""
    monkeypatch.setattr(company, "slower", lambda job, models: None)
    monkeypatch.setattr(sweep, "WORTH_A_TRIAL", 5)


@pytest.mark.heavy
def test_seeds_of_the_command_are_the_runs_of_a_sweep(
    tmp_path: Path, command: Callable[..., Any], rounds: list[int], sooner: None
) -> None:
    """Those that differ in more than seed and rate do not train together; a second launch finds all of it done."""
    ended = command(*COMMAND, "model=gru", "seed=3", "seeds=2", f"outputs={tmp_path / 'together'}")
    assert ended.code == 0, ended.error
    assert set(rounds) == {2}
    lines = ended.output.splitlines()
    assert [line.partition(" gru on adding")[0] for line in lines[:2]] == ["[1/2]", "[2/2]"]
    assert lines[2].startswith("2 runs: 2 finished")
    assert command(*COMMAND, "model=gru", "seeds=2", "seed=3", "together=1", f"outputs={tmp_path / 'alone'}").code == 0
    assert set(rounds) == {2}
    for made in (tmp_path / "alone").glob("single/*/run.json"):
        twin = tmp_path / "together" / "single" / made.parent.name
        require_same(load(twin), load(made.parent))
        overrides = (twin / ".hydra" / "overrides.yaml").read_text().splitlines()
        assert f"- seed={load(twin).metadata['seed']}" in overrides and "- model=gru" in overrides
    again = command(*COMMAND, "model=gru", "seed=3", "seeds=2", f"outputs={tmp_path / 'together'}")
    assert again.output.count("finished already") == 2


@pytest.mark.heavy
def test_a_sweep_groups_what_differs_in_seed_and_rate_alone(
    tmp_path: Path, command: Callable[..., Any], rounds: list[int], sooner: None
) -> None:
    swept = ("model=gru,elman", "seed=0,1", "optimizer.lr=1e-3,3e-3", "together=3")
    ended = command("-m", *COMMAND, *swept, f"outputs={tmp_path}")
    assert ended.code == 0, ended.error
    assert "8 runs: 8 finished" in ended.output
    assert set(rounds) == {3}  # of each model's four, three and one by itself
    rates = {file.parent.name: RunFolder(file.parent).read() for file in tmp_path.rglob("run.json")}
    assert {(run["model"], run["seed"], run["config"]["optimizer"]["lr"]) for run in rates.values()} == {
        (model, seed, rate) for model in ("gru", "elman") for seed in (0, 1) for rate in (1e-3, 3e-3)
    }


@pytest.mark.heavy
def test_a_job_that_cannot_begin_fails_alone(
    tmp_path: Path, command: Callable[..., Any], rounds: list[int], sooner: None
) -> None:
    ended = command("-m", *COMMAND, "model=gru", "seed=0,-1,2", f"outputs={tmp_path}")
    assert ended.code == 1
    assert "seed must not be negative" in ended.error
    assert "3 runs: 2 finished, 1 failed" in ended.output
    assert set(rounds) == {2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("seeds=0",), "seeds must be how many, a whole number of at least 1; not 0"),
        (("seeds=many",), "seeds must be how many, a whole number of at least 1; not many"),
        (("seeds=2", "seed=1,2"), "seeds=2 begins with one seed, not with seed=1,2"),
        (("seeds=2", "sweeper=optuna"), "seeds=2 asks for every seed, and a sweeper that searches for some"),
        (("-m", "seed=0,1", "together=0"), "together must be a whole number of at least 1"),
    ],
)
def test_what_is_no_number_of_seeds(
    tmp_path: Path, command: Callable[..., Any], arguments: tuple[str, ...], message: str
) -> None:
    ended = command(*COMMAND, *arguments, f"outputs={tmp_path}")
    assert ended.code == 1
    assert message in ended.error


@pytest.mark.parametrize(
    ("trainer", "said"),
    [({"form": "fused"}, "form=fused names the form of one run"), ({"precision": "bf16-true"}, "bf16-true: its round")],
)
def test_what_only_a_run_alone_can_keep_is_done_alone(tmp_path: Path, trainer: dict[str, Any], said: str) -> None:
    given = without(settings(tmp_path, trainer=replace(TRAINER, **trainer)), "progress")
    jobs = [_prepared(partial(gru, hidden=6), **{**given, "seed": seed})[0].job for seed in SEEDS]
    assert said in (company.why_not(jobs, if_faster=False) or "")


def test_a_trial_takes_every_form_that_a_run_alone_may_choose(cpp: None) -> None:
    task = Adding(length=12)
    tried = company.in_each_form(gru(task, hidden=6), task, task.sample(4, torch.Generator().manual_seed(0)))
    chosen = [{module.form for module in each.modules() if isinstance(module, Recurrence)} for each in tried.values()]
    assert chosen[0] == {None} and {"compiled"} in chosen and {"chunked"} in chosen and {"loop"} not in chosen


def test_what_takes_longer_together_is_done_in_turn(
    tmp_path: Path, rounds: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a trial in which no time is worth while."""
    prepared = [
        _prepared(partial(gru, hidden=6), **without(settings(tmp_path, seed=seed), "progress"))[0] for seed in SEEDS
    ]
    monkeypatch.setattr(company, "WORTHWHILE", 0.0)
    results = carry_out_together(prepared, progress=False, if_faster=True)
    assert [result["steps"] for result in results] == [20] * 3
    assert not rounds
    assert "a step of all 3 takes" in capsys.readouterr().err
