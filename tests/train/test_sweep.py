"""A sweep: the installed command, one folder and one W&B run a job, and nothing done twice."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from retrograde import TrainerSettings
from retrograde.record.folder import FAILED, FINISHED, INTERRUPTED, RunFolder
from retrograde.record.store import FolderStore
from retrograde.tasks.adding import Adding
from retrograde.train import listing
from retrograde.train import sweep as sweeping
from retrograde.train.closing import other_code
from retrograde.train.configuration import config_folder
from retrograde.train.devices import device_of
from retrograde.train.jobs import Planned
from retrograde.train.sweep import PLACE, Outcome, at_a_time, place, require_same_data, workers_end_first

pytestmark = pytest.mark.heavy

KNOWN = ", ".join(listing.GROUPS)

SETTINGS = ("width=4", "task.length=5", "steps=3", "probe=lag_gradient", "trainer.test_samples=8")


@dataclass(frozen=True)
class Launch:
    code: int
    output: list[str]
    error: str


@dataclass(frozen=True)
class Sweep:
    outputs: Path
    first: Launch
    touched: dict[str, int]
    second: Launch


@pytest.fixture(scope="module")
def sweep(bin_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two models, launched twice; the second time watched and recorded otherwise, and with the jobs turned round."""
    outputs = tmp_path_factory.mktemp("outputs")

    def launch(*arguments: str) -> Launch:
        command = [bin_folder / "retrograde", "-m", *SETTINGS, f"outputs={outputs}", *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=outputs, timeout=100)
        return Launch(ended.returncode, ended.stdout.splitlines(), ended.stderr)

    first = launch("model=gru,elman")
    touched = written(outputs)
    second = launch("model=elman,gru", "recorder.mode=disabled", "progress=false", "trainer.accelerator=cpu")
    return Sweep(outputs, first, touched, second)


def written(outputs: Path) -> dict[str, int]:
    """When each run was recorded, in nanoseconds."""
    return {file.parent.name: file.stat().st_mtime_ns for file in outputs.rglob("run.json")}


def folders(sweep: Sweep) -> list[Path]:
    return sorted(path for path in (sweep.outputs / "single").iterdir() if path.is_dir())


def test_every_job_gets_a_folder_named_by_what_it_holds(sweep: Sweep) -> None:
    elman, gru = folders(sweep)
    assert re.fullmatch(r"elman-adding-s0-[0-9a-f]{10}", elman.name)
    assert re.fullmatch(r"gru-adding-s0-[0-9a-f]{10}", gru.name)
    assert all(RunFolder(path).is_finished() for path in (elman, gru))
    assert FolderStore(sweep.outputs).runs()["model"].to_list() == ["elman", "gru"]


def test_every_job_gets_a_w_and_b_run_of_its_own(sweep: Sweep) -> None:
    logs = sorted(file.name for file in sweep.outputs.rglob("*.wandb"))
    assert logs == [f"run-{path.name}.wandb" for path in folders(sweep)]


def test_every_run_says_in_one_line_how_it_ended(sweep: Sweep) -> None:
    assert sweep.first.code == 0
    elman, gru = folders(sweep)
    *lines, counts = sweep.first.output
    assert counts == f"2 runs: 2 finished; {elman.parent}"
    for number, line, folder in zip((1, 2), lines, (gru, elman), strict=True):
        ended = RunFolder(folder).read()
        assert line == (
            f"[{number}/2] {ended['model']} on adding, seed 0: score {ended['score']:.3f} (always 1 0.000), "
            f"not solved; gradient horizon {ended['horizon']:.0f} lags at step {ended['steps']}; {folder}"
        )


def test_nothing_else_is_said(sweep: Sweep) -> None:
    assert sweep.first.error == ""
    assert sweep.second.error == ""
    made = {path.name for path in sweep.outputs.iterdir()}
    assert made == {"single"}  # and nothing is left in the working directory


def test_what_is_finished_is_not_done_again(sweep: Sweep) -> None:
    assert sweep.second.code == 0
    (*first, _), (*second, counts) = sweep.first.output, sweep.second.output
    assert counts == f"2 runs: 2 finished before; {sweep.outputs / 'single'}"
    assert [line[6:] for line in second] == [f"{line[6:]} (finished already)" for line in reversed(first)]
    assert [line[:6] for line in second] == ["[1/2] ", "[2/2] "]
    assert written(sweep.outputs) == sweep.touched


def test_what_is_not_finished_is_done_again(command, sweep: Sweep, tmp_path: Path) -> None:
    elman = folders(sweep)[0]
    folder = RunFolder(tmp_path / "single" / elman.name)
    folder.path.mkdir(parents=True)
    folder.write({**RunFolder(elman).read(), "status": "running"})
    (folder.path / "tables").mkdir()
    (folder.path / "tables" / "leftover.parquet").touch()
    ended = command("model=elman", *SETTINGS, "recorder.mode=disabled", f"outputs={tmp_path}")
    assert ended.code == 0, ended.error
    assert folder.is_finished()
    assert RunFolder(folder.path).read()["score"] == RunFolder(elman).read()["score"]
    assert not (folder.path / "tables" / "leftover.parquet").exists()


def test_jobs_of_one_run_count_once(command, tmp_path: Path) -> None:
    rates = "optimizer.lr=0.1,0.10,0.2"
    ended = command("-m", "model=elman", *SETTINGS, rates, "recorder.mode=disabled", f"outputs={tmp_path}")
    *lines, counts = ended.output.splitlines()
    assert [line[:6] for line in lines if line.startswith("[")] == ["[1/2] ", "[2/2] "]
    assert counts == f"2 runs: 2 finished; {tmp_path / 'single'}"


def test_a_job_knows_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLACE, "7/24")
    assert place() == (7, 24)
    monkeypatch.delenv(PLACE)
    assert place() is None


def listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    monkeypatch.setattr(sys, "argv", ["retrograde-list", *arguments])
    listing.main()
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("what", "group"), [("models", "model"), ("tasks", "task"), ("probes", "probe"), ("studies", "study")]
)
def test_everything_to_choose_from_is_listed_with_one_line(monkeypatch, capsys, what: str, group: str) -> None:
    lines = listed(monkeypatch, capsys, what)
    assert [line.split()[0] for line in lines] == sorted(file.stem for file in (config_folder() / group).glob("*.yaml"))
    assert all(len(line.split(maxsplit=1)[1]) > 5 for line in lines)
    assert not any("@package" in line for line in lines)


def test_a_study_is_listed_by_its_question(monkeypatch, capsys) -> None:
    lines = dict(line.split(maxsplit=1) for line in listed(monkeypatch, capsys, "studies"))
    assert lines["reach"] == "How many steps back does the loss gradient reach, before and after training?"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model"], f"unknown 'model'; did you mean 'models'? Known: {KNOWN}"),
        (["zzz"], f"unknown 'zzz'; known: {KNOWN}"),
        (["models", "--config-dir", "nowhere"], "'nowhere' is not a folder"),
    ],
)
def test_what_cannot_be_listed_is_refused_in_one_line(monkeypatch, capsys, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=f"^retrograde-list: {re.escape(message)}$"):
        listed(monkeypatch, capsys, *arguments)


@pytest.mark.parametrize(
    ("devices", "number", "where", "expected"),
    [("shared", 4, "6/8", [1]), ("shared", 4, "", 1), ("shared", 0, "6/8", 1), (1, 4, "6/8", 1)],
)
def test_jobs_share_the_gpus_in_turn(
    monkeypatch: pytest.MonkeyPatch, devices: int | str, number: int, where: str, expected: object
) -> None:
    """Nothing here has a GPU, so their number is made up; that Lightning takes a list of indices is its own promise."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    if where:
        monkeypatch.setenv(PLACE, where)
    assert device_of(TrainerSettings(devices=devices)) == expected


def jobs_in(outputs: Path, number: int) -> list[Planned]:
    return [Planned(place, (), RunFolder(outputs / f"run{place}"), {}) for place in range(1, number + 1)]


def say(job: Planned, status: str, **more: object) -> None:
    job.folder.path.mkdir(exist_ok=True)
    job.folder.write({"run": job.folder.run, "status": status, **more})


def finishing(jobs: Sequence[Planned]) -> Mapping[str, str | None]:
    """A launcher whose jobs all finish."""
    for job in jobs:
        say(job, FINISHED)
    return {job.folder.run: None for job in jobs}


def swept(jobs: Sequence[Planned], launch: Callable[..., Mapping[str, str | None]]) -> tuple[Outcome, list[str]]:
    lines: list[str] = []
    return sweeping.sweep(jobs, launch, lambda job: f"{job.folder.run} was finished", lines.append), lines


def test_a_record_that_cannot_be_read_does_not_keep_the_other_jobs_from_running(tmp_path: Path) -> None:
    jobs = jobs_in(tmp_path, 3)
    say(jobs[0], FINISHED)
    jobs[1].folder.path.mkdir()
    (jobs[1].folder.path / "run.json").write_text("{")
    outcome, lines = swept(jobs, finishing)
    assert lines == ["run1 was finished"]
    counts, failure = outcome.lines()
    assert counts == f"3 runs: 1 finished, 1 finished before, 1 failed; {tmp_path}"
    assert failure.startswith(f"  failed: {jobs[1].folder.path}: {jobs[1].folder.path}/run.json cannot be read")


def test_a_finished_record_that_lacks_something_is_named(tmp_path: Path) -> None:
    (job,) = jobs_in(tmp_path, 1)
    say(job, FINISHED)
    job.folder.write_card(Adding(length=5).card)
    with pytest.raises(ValueError, match=r"/run1/run\.json is no finished run's: KeyError: 'solved'$"):
        sweeping.said_before(job, 1)
    unlike = pytest.raises(ValueError, match=r"/run1/run\.json is no finished run's: KeyError: 'commit'$")
    with unlike, sweeping.a_whole_record(job.folder):
        other_code(job.folder.read())


@contextmanager
def claimed(folder: RunFolder, seconds: float) -> Iterator[None]:
    """By somebody else, for so long."""
    has_it = threading.Event()

    def hold() -> None:
        with folder.claimed():
            has_it.set()
            time.sleep(seconds)

    holder = threading.Thread(target=hold)
    holder.start()
    has_it.wait()
    yield
    holder.join()


def test_a_run_of_another_launch_is_waited_for_and_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "POLL", 0.02)
    jobs = jobs_in(tmp_path, 1)
    with claimed(jobs[0].folder, 0.1):
        outcome, lines = swept(jobs, finishing)
    assert lines == ["waiting for 1 run that another process is at work on"]
    assert outcome.lines() == [f"1 run: 1 finished; {tmp_path}"]


def test_a_sweep_that_is_ended_says_what_became_of_every_job(tmp_path: Path) -> None:
    jobs = jobs_in(tmp_path, 4)
    say(jobs[2], FAILED, reason="ValueError: of an earlier launch")

    def ended(jobs: Sequence[Planned]) -> Mapping[str, str | None]:
        say(jobs[0], FINISHED)
        say(jobs[1], INTERRUPTED)
        raise KeyboardInterrupt

    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        sweeping.sweep(jobs, ended, lambda job: "", lines.append)
    assert lines == [
        f"4 runs: 1 finished, 1 interrupted, 1 failed, 1 not begun; {tmp_path}",
        f"  interrupted: {jobs[1].folder.path}",
        f"  failed: {jobs[2].folder.path}: ValueError: of an earlier launch",
        f"  not begun: {jobs[3].folder.path}",
    ]


def test_runs_on_other_machines_are_waited_for_when_a_sweep_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """They have heard of it from their launcher, and still hold their claims while they keep what they have."""
    monkeypatch.setattr(sweeping, "POLL", 0.02)
    jobs = jobs_in(tmp_path, 2)
    told: list[str] = []
    with claimed(jobs[1].folder, 0.2):
        with pytest.raises(KeyboardInterrupt), workers_end_first(jobs):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1)
            except KeyboardInterrupt:
                told.append("by the launcher")
                assert jobs[1].folder.owner() is not None
                raise
        assert jobs[1].folder.owner() is None
    assert told
    assert capfd.readouterr().err == "retrograde: runs end after their step\n"


def test_a_second_request_to_end_waits_for_nobody(tmp_path: Path) -> None:
    jobs = jobs_in(tmp_path, 1)
    with claimed(jobs[0].folder, 0.2):
        with pytest.raises(KeyboardInterrupt), workers_end_first(jobs):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
        assert jobs[0].folder.owner() is not None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ps is asked")
def test_who_started_a_process_is_known_without_ps(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import subprocess; subprocess.run(['sleep', '60'])"
    with subprocess.Popen([sys.executable, "-S", "-c", code]) as child:
        try:
            children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
            while not children.read_text():
                time.sleep(0.01)
            (grandchild,) = map(int, children.read_text().split())
            monkeypatch.setenv("PATH", "")
            assert list(sweeping._ancestors(grandchild))[:2] == [child.pid, os.getpid()]
            os.kill(grandchild, signal.SIGKILL)
        finally:
            child.kill()
    assert list(sweeping._ancestors(child.pid)) == [0]


@pytest.mark.parametrize(("n_jobs", "runs"), [(1, 1), (7, 7), (-1, 4), (-2, 3), (-9, 1)])
def test_runs_at_a_time_are_counted_from_the_number_of_cores(
    n_jobs: int, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    assert at_a_time(n_jobs) == runs


def test_a_finished_job_whose_data_are_gone_or_changed_is_told_from_one_that_can_be_left(tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    rows = "".join(f"{'good' if row % 2 else 'bad'} {row},{'up' if row % 2 else 'down'}\n" for row in range(30))
    file.write_text("text,label\n" + rows)
    task = {"_target_": "retrograde.tasks.classify_text.ClassifyText", "path": str(file), "label": "label"}
    job = Planned(1, (), RunFolder(tmp_path / "run"), {"task": task})
    job.folder.path.mkdir()
    from hydra.utils import instantiate

    job.folder.write_card(instantiate(task).card)
    require_same_data(job)
    file.write_text("text,label\nother 1,up\n" + rows)
    with pytest.raises(ValueError, match=r"is a finished run on texts\.csv .* and what is there now is texts\.csv"):
        require_same_data(job)
    file.unlink()
    with pytest.raises(ValueError, match=r"^task: .*texts\.csv"):
        require_same_data(job)
