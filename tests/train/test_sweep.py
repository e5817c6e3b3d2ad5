"""A sweep: the installed command, one folder and one W&B run a job, and nothing done twice."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from retrograde import TrainerSettings
from retrograde.record.folder import RunFolder
from retrograde.record.store import FolderStore
from retrograde.train import listing
from retrograde.train.configuration import config_folder
from retrograde.train.devices import device_of
from retrograde.train.sweep import PLACE, place

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
