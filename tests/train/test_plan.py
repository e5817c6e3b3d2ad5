"""A plan says what a launch would do, and how long that takes, and leaves no trace of itself."""

import dataclasses
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from retrograde import Run
from retrograde.models.elman import elman
from retrograde.models.lstm import lstm
from retrograde.record.folder import FAILED, INTERRUPTED, RunFolder
from retrograde.tasks.adding import Adding
from retrograde.train import plan as planning
from retrograde.train.fit import ADAM, default_probes
from retrograde.train.jobs import Planned
from retrograde.train.options import Identity, Job, ProbingSettings, RecorderSettings, TrainerSettings
from retrograde.train.plan import (
    BEFORE,
    REFUSED,
    Configuration,
    bearing,
    configured,
    distance,
    in_bytes,
    in_words,
    plan,
    standing,
    time_them,
    unlike,
    wall_time,
    wanted,
    workers_of,
)
from retrograde.train.timing import Cost, timed

pytestmark = pytest.mark.heavy

SETTINGS = ("width=4", "task.length=5", "steps=40", "probe=lag_gradient", "trainer.accelerator=cpu")

COST = Cost(
    setup=1.0,
    step=0.01,
    validation=0.1,
    saving=0.2,
    firing=0.5,
    test=2.0,
    checkpoint=1000,
    fixed=100,
    snapshot=10,
    logged=7,
    recorded=True,
    probed=True,
    learns=True,
)

RUN_OF = {
    "steps": 1000,
    "trainer": {"validate_every": 100, "log_every": 50},
    "probing": {"per_decade": 4, "steps": None, "share": None},
}


def planned(folder: Path, number: int = 1, **settings: Any) -> Planned:
    content = {"seed": 0, "steps": 20, "width": 4, "trainer": {"accelerator": "cpu"}, **settings}
    return Planned(number, (), RunFolder(folder), content)


def job(**settings: Any) -> tuple[Job, Identity]:
    everything = {
        "model": partial(lstm, hidden=8),
        "task": Adding(length=10),
        "probes": default_probes(),
        "seed": 0,
        "steps": 20,
        "batch_size": 8,
        "optimizer": ADAM,
        "scheduler": None,
        "trainer": TrainerSettings(accelerator="cpu", validation_samples=16, test_samples=16, longer_samples=8),
        "probing": ProbingSettings(),
        "recorder": RecorderSettings(mode="disabled"),
    }
    return Job(**{**everything, **settings}), Identity("single", "lstm", "adding")


@pytest.fixture(scope="module")
def cost() -> Cost:
    return timed(job, 0.2)


def everything_in(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_a_plan_of_a_sweep_writes_nothing_and_says_all(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = command("-m", "plan=true", *SETTINGS, "model=gru,elman", "seed=range(15)", "outputs=here")
    assert (ended.code, ended.error) == (0, "")
    assert list(tmp_path.iterdir()) == []
    lines = ended.output.splitlines()
    assert lines[0] == f"30 runs: 30 new; {tmp_path / 'here' / 'single'}"
    assert [line.split()[0] for line in lines[1:21]] == [f"[{number}/30]" for number in range(1, 21)]
    assert lines[21] == "  and 10 more; plan=all lists them all"
    for line, model in zip(lines[22:24], ("gru", "elman"), strict=True):
        assert re.fullmatch(rf"  {model}-adding: [\d.e+]+ ms a step, \S+ (s|min) and \S+ kB a run, 15 runs", line)
    assert re.fullmatch(r"left: 30 runs, about .+ one after the other, \S+ [kM]B", lines[24])
    assert lines[25] == "  a run whose task is solved ends earlier than that"
    assert re.fullmatch(r"  timed 2 configurations in .*s", lines[26])
    assert len(lines) == 27


def test_a_plan_of_one_run_writes_nothing(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = command("plan=all", *SETTINGS, "outputs=here")
    assert (ended.code, ended.error) == (0, "")
    assert list(tmp_path.iterdir()) == []
    first, second, *_ = ended.output.splitlines()
    assert first == f"1 run: 1 new; {tmp_path / 'here' / 'single'}"
    assert re.fullmatch(r"  \[1/1\] lstm-adding-s0-[0-9a-f]{10} new", second)


def test_a_plan_names_the_folder_that_the_run_gets_and_then_finds_it_finished(command, tmp_path: Path) -> None:
    arguments = (*SETTINGS, "recorder.mode=disabled", "trainer.test_samples=8", f"outputs={tmp_path}")
    before = command("plan=true", *arguments)
    assert command(*arguments).code == 0
    (run,) = (tmp_path / "single").iterdir()
    assert f"  [1/1] {run.name} new" in before.output.splitlines()
    there = everything_in(tmp_path)
    after = command("plan=true", *arguments)
    assert after.output.splitlines() == [
        f"1 run: 1 finished before; {run.parent}",
        f"  [1/1] {run.name} finished before",
    ]
    assert everything_in(tmp_path) == there


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan=maybe",), "plan must be true, false or all, not 'maybe'"),
        (("-m", "plan=maybe"), "plan must be true, false or all, not 'maybe'"),
        (("plan=true", "task.lenght=3"), "unknown key 'task.lenght'; did you mean 'length'"),
    ],
)
def test_a_plan_that_cannot_be_made_is_refused_in_one_line(
    command, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    ended = command(*arguments, f"outputs={tmp_path / 'none'}")
    assert ended.code == 1
    assert ended.message.startswith(f"retrograde: {message}")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("value", "asked"), [(True, "some"), ("all", "all"), (False, None)])
def test_what_is_asked_for(value: Any, asked: str | None) -> None:
    assert wanted(value) == asked


def test_a_run_that_never_began_is_new(tmp_path: Path) -> None:
    assert standing(planned(tmp_path / "none")).words == "new"


def test_a_failed_run_runs_again_and_says_why_it_failed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "failed")
    folder.path.mkdir()
    folder.write({"run": "failed", "status": FAILED, "reason": "ValueError: no memory\nand more"})
    found = standing(planned(folder.path))
    assert found.left
    assert found.words == "runs again, since it failed: ValueError: no memory"


def test_a_damaged_record_is_named_and_its_run_fails_as_it_would(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    found = standing(planned(tmp_path))
    assert not found.left
    assert found.words.startswith(f"would fail: {tmp_path}/run.json cannot be read: ")


def test_a_finished_run_whose_data_have_changed_fails_in_the_plan_as_it_would(finished: Run, tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    rows = "".join(f"{word} {number},{word}\n" for word in ("sun", "rain") for number in range(40))
    file.write_text(f"text,label\n{rows}")
    task = {"_target_": "retrograde.tasks.classify_text.ClassifyText", "path": str(file)}
    job = planned(tmp_path / "run", task=task)
    job.folder.path.mkdir()
    job.folder.write({**finished.metadata, "run": "run"})
    job.folder.write_card(instantiate(task).card)
    assert standing(job).word == BEFORE
    file.write_text(f"text,label\nsnow 1,rain\n{rows}")
    found = standing(job)
    assert (found.word, found.left) == (REFUSED, False)
    assert found.words.startswith(f"would fail: {job.folder.path} is a finished run on texts.csv ")


def test_an_interrupted_run_goes_on_from_its_newest_checkpoint(finished: Run, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "stopped")
    folder.path.mkdir()
    folder.write({**finished.metadata, "run": "stopped", "status": INTERRUPTED})
    assert standing(planned(folder.path)).words == "runs again, since it was interrupted before it had kept anything"
    folder.checkpoints.mkdir()
    for name in ("best.ckpt", "last.ckpt"):
        (folder.checkpoints / name).write_bytes(b"torn")
    assert standing(planned(folder.path)).words == "runs again, since last.ckpt and best.ckpt cannot be gone on from"
    for name in ("best.ckpt", "last.ckpt"):
        content = torch.load(finished.folder.checkpoints / name, weights_only=True)
        torch.save({**content, "ended": False}, folder.checkpoints / name)
    found = standing(planned(folder.path))
    assert (found.words, found.step) == ("goes on from step 20 of 20", 20)
    torch.save({**content, "ended": True}, folder.checkpoints / "last.ckpt")
    (folder.checkpoints / "best.ckpt").unlink()
    assert standing(planned(folder.path)).words == "goes on from its test"


def test_a_run_that_another_process_is_at_work_on_is_not_ours(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "busy")
    with folder.claimed():
        found = standing(planned(folder.path))
    assert not found.left
    assert found.words.startswith("another process is at work on it, ")


def test_a_run_takes_as_long_as_its_parts() -> None:
    fired = [0, 1, 2, 3, 6, 10, 18, 32, 56, 100, 178, 316, 562, 1000]
    assert COST.fired(RUN_OF) == fired
    assert COST.seconds(RUN_OF) == pytest.approx(1 + 1000 * 0.01 + 10 * 0.1 + 11 * 0.2 + 14 * 0.5 + 2)


def test_a_resumed_run_takes_as_long_as_what_is_left_of_it() -> None:
    assert COST.seconds(RUN_OF, after=350) == pytest.approx(1 + 650 * 0.01 + 7 * 0.1 + 8 * 0.2 + 2 * 0.5 + 2)
    assert COST.seconds(RUN_OF, after=1000, ended=True) == pytest.approx(1 + 2)


def test_probes_keep_to_their_share() -> None:
    bounded = {**RUN_OF, "probing": {**RUN_OF["probing"], "share": 0.1}}
    assert COST.fired(bounded) == [0, 1, 1000]  # 0.1 of 11 s of training, with half a second each
    assert COST.seconds(bounded) == pytest.approx(1 + 10 + 1 + 11 * 0.2 + 3 * 0.5 + 2)


def test_a_model_that_has_nothing_to_learn_is_only_looked_at() -> None:
    still = dataclasses.replace(COST, learns=False)
    assert still.seconds(RUN_OF) == pytest.approx(1 + 0.1 + 0.5 + 2)


def test_disk_holds_two_checkpoints_and_the_tables_twice_where_w_and_b_has_a_copy() -> None:
    alone = dataclasses.replace(COST, recorded=False)
    rows = 12 * (5 * 21 + 3 * 11)
    assert alone.disk(RUN_OF) == 2 * 1000 + 100 + 14 * 10 + rows
    assert COST.disk(RUN_OF) > alone.disk(RUN_OF) + 100 + 14 * 10 + rows


def test_what_is_timed_is_what_a_run_does(cost: Cost, finished: Run) -> None:
    assert 0 < cost.step < cost.setup + 1
    assert min(cost.validation, cost.saving, cost.firing, cost.test, cost.setup) > 0
    kept = (finished.folder.checkpoints / "last.ckpt").stat().st_size
    assert kept / 1.5 < cost.checkpoint < kept * 1.5


def test_the_size_of_a_run_is_foretold(cost: Cost, finished: Run) -> None:
    """The same model and task, recorded without W&B."""
    config = finished.metadata["config"]
    run = {**RUN_OF, "steps": 20, "trainer": config["trainer"]}
    size = sum(path.stat().st_size for path in finished.folder.path.rglob("*") if path.is_file())
    assert size / 1.6 < cost.disk(run) < size * 1.6


def test_timing_leaves_random_numbers_as_they_were(cost: Cost) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    timed(job, 0.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_settings_that_make_no_step_slower_do_not_part_configurations() -> None:
    settings = {"seed": 1, "steps": 9, "optimizer": {"lr": 0.1}, "width": 4, "trainer": {"validate_every": 3}}
    assert bearing(settings) == {"optimizer.lr": True, "width": 4}
    jobs = [
        planning.Standing(planned(Path("x"), number, seed=number, width=width, optimizer={"lr": rate}), "new", "new")
        for number, (width, rate) in enumerate([(4, 0.1), (4, 0.2), (8, 0.1), (4, 0.3)])
    ]
    assert [len(one.runs) for one in configured(jobs)] == [3, 1]


def test_sizes_are_as_far_apart_as_their_ratio_and_models_further() -> None:
    narrow, wide = {"width": 8, "model._target_": "a"}, {"width": 64, "model._target_": "a"}
    assert distance(narrow, narrow) == 0
    assert distance(narrow, wide) == pytest.approx(3)
    assert distance(narrow, {**narrow, "model._target_": "b"}) > distance(narrow, wide)
    assert distance({"clip": None}, {"clip": [1]}) == 1


def test_the_most_unlike_are_timed_first_and_the_others_are_taken_for_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_width(width: int) -> Configuration:
        one = planning.Standing(planned(tmp_path, width=width), "new", "new")
        return Configuration({"width": width}, [one])

    some = [of_width(width) for width in (4, 5, 60, 64)]
    assert [one.settings["width"] for one in unlike(some)] == [4, 64, 5, 60]
    asked: list[int] = []

    def make(job: Planned) -> Any:
        asked.append(job.settings["width"])
        return job.settings["width"]

    monkeypatch.setattr("retrograde.train.timing.timed", lambda make, allowance: dataclasses.replace(COST, step=make()))
    monkeypatch.setattr(planning.time, "perf_counter", iter([0.0, 0.0, 0.0, 0.0, 1.0, 9.0, 9.0]).__next__)
    time_them(some, make, 5.0)
    assert asked == [4, 4, 64]
    assert [one.timed for one in some] == [True, False, False, True]
    assert [one.cost.step for one in some if one.cost] == [4, 4, 64, 64]


def test_a_configuration_that_cannot_run_is_said_to_fail(tmp_path: Path) -> None:
    def make(job: Planned) -> tuple[Job, Identity]:
        raise ValueError("elman is made for other tasks")

    lines: list[str] = []
    run = planned(tmp_path / "none", trainer={"stop_when_solved": True})
    plan([run], make, 1, False, lines.append)
    assert "1 run would fail: elman is made for other tasks" in lines[2]
    assert not any(line.startswith("left:") for line in lines)


def test_a_model_that_does_not_suit_its_task_fails_in_the_plan_as_it_would() -> None:
    with pytest.raises(ValueError, match=r"trainer|attempt|hidden"):
        timed(lambda: job(model=partial(elman, hidden=-1)), 0.0)


def test_runs_side_by_side_share_the_time() -> None:
    assert wall_time([3, 1, 1, 1], 1) == 6
    assert wall_time([3, 1, 1, 1], 2) == 3
    assert wall_time([1, 1, 1, 3], 2) == 4  # each is begun in its turn
    assert wall_time([1], 8) == 1


@pytest.mark.parametrize(
    ("over", "jobs", "workers"),
    [
        (None, 9, 1),
        ({"n_jobs": 3}, 9, 3),
        ({"n_jobs": 3}, 2, 2),
        ({"n_jobs": -1}, 9, 2),
        ({"n_jobs": -2}, 9, 1),
        ({"cluster": "slurm", "parameters": {"slurm_array_parallelism": 5}}, 9, 5),
        ({"cluster": "local", "n_jobs": 4, "parameters": {"timeout_min": 5}}, 9, 4),
        ({"remote": {"num_cpus": 1}}, 9, 2),
    ],
)
def test_workers_are_those_of_the_launcher(
    over: dict[str, Any] | None, jobs: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    config = OmegaConf.create({"hydra": {"launcher": {} if over is None else {"over": over}}})
    assert workers_of(config, jobs) == workers


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.34, "0.3 s"), (12.4, "12 s"), (600, "10 min"), (9000, "2.5 h"), (864000, "10.0 days")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


@pytest.mark.parametrize(
    ("size", "words"), [(400, "0.4 kB"), (123456, "123 kB"), (5e6, "5 MB"), (2.5e9, "2.5 GB"), (7e12, "7 TB")]
)
def test_sizes_in_words(size: float, words: str) -> None:
    assert in_bytes(size) == words
