"""What is uploaded, what is not, and that what is missing is named: against a server that counts what it was sent."""

import math
import os
import re
from pathlib import Path
from types import ModuleType

import pytest

from fake_runs import CARD
from loopback import HISTORY, LoopbackServer
from retrograde.record.folder import CLAIM, RunFolder
from retrograde.record.tables import TableWriter, metrics_table
from retrograde.record.view import WandbView
from retrograde.record.wandb_log import BLOCK, read_logs

STEP = "trainer/global_step"
AT_ONCE = ("--patience", "0", "--timeout", "5")


@pytest.fixture
def sync(script, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("sync")


def attempt(outputs: Path, name: str, steps: range, status: str = "finished") -> RunFolder:
    """One more log of the run, offline."""
    folder = RunFolder(outputs / name)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_card(CARD)
    folder.write(
        {"run": name, "study": "reach", "model": "gru", "task": "adding", "seed": 0, "status": status, "config": {}}
    )
    writer = TableWriter(folder.tables)
    writer.append("metrics", metrics_table(name, [(steps[-1], "train/loss", 0.5)]))
    writer.merge()
    view = WandbView(folder.path, {"run": name}, "offline", "project", None, "reach")
    for step in steps:
        view.metrics(step, {"train/loss": 1 / (step + 1), "train/score": math.nan if step % 2 else -math.inf})
    view.close(folder, {"status": status, "score": 1.0, "loss": math.nan}, failed=status != "finished")
    assert view.failures == {}
    return folder


def steps(server: LoopbackServer, run: str) -> list[int]:
    """Of the rows as they arrived, without those that close an attempt."""
    return [row[STEP] for row in server.runs[run].rows if "train/loss" in row]


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return sorted(capsys.readouterr().out.splitlines())


@pytest.mark.heavy
def test_what_is_missing_is_uploaded_once(
    server: LoopbackServer, sync: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = tmp_path / "outputs"
    attempt(outputs, "whole", range(1, 4))
    attempt(outputs, "resumed", range(1, 4), "interrupted")
    attempt(outputs, "resumed", range(4, 6))
    arguments = [str(outputs), *AT_ONCE]

    assert sync.main([*arguments, "--dry-run"]) == 1
    assert said(capsys) == ["2 runs: 2 not wholly in W&B", "missing: resumed: the run", "missing: whole: the run"]
    assert server.runs == {}

    assert sync.main(arguments) == 0
    assert said(capsys) == ["2 runs: W&B holds all that is to be held", "uploaded: resumed", "uploaded: whole"]
    assert (steps(server, "whole"), steps(server, "resumed")) == ([1, 2, 3], [1, 2, 3, 4, 5])

    # as after an outage: some rows of the last log, and one file, never arrived
    rows = server.runs["resumed"].streams[HISTORY]
    for line in sorted(rows)[-2:]:
        del rows[line]
    server.runs["whole"].files["retrograde/card.json"] = b"{"
    assert sync.main([*arguments, "--dry-run"]) == 1
    assert said(capsys)[1:] == ["missing: resumed: 2 of 7 rows", "missing: whole: 1 file: retrograde/card.json"]
    assert sync.main(arguments) == 0
    assert steps(server, "resumed") == [1, 2, 3, 4, 5]
    counted = [row["_step"] for row in server.runs["resumed"].rows]
    assert counted == sorted(set(counted))  # W&B goes on counting from what the summary says
    assert steps(server, "whole") == [1, 2, 3]
    capsys.readouterr()

    assert sync.main(arguments) == 0
    assert said(capsys)[1:] == ["already there: resumed", "already there: whole"]
    assert server.unknown == []


def test_what_did_not_arrive_is_named(
    server: LoopbackServer, sync: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    """The client's own command has an exit code of 0 whatever it did."""
    attempt(tmp_path / "outputs", "run", range(1, 4))
    arguments = [str(tmp_path / "outputs"), *AT_ONCE]
    assert sync.main(arguments) == 0
    arrived = server.runs["run"]
    del arrived.streams["wandb-summary.json"]
    del arrived.files["retrograde/metrics.parquet"]
    arrived.exit_code = None
    rows = arrived.streams[HISTORY]
    rows[0] = rows[0].replace('"train/loss":0.5', '"train/loss":0.25')
    del rows[1]
    monkeypatch.setattr(sync, "upload", lambda *_: "wandb: ERROR no room\n")
    capsys.readouterr()
    assert sync.main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == (
        "missing: run: 1 of 4 rows; what was logged in 1 row that W&B holds otherwise; the summary's score, status, "
        "train/loss, …; 1 file: retrograde/metrics.parquet; its end"
    )
    assert printed.err == "  wandb: ERROR no room\n"


def test_what_must_not_be_uploaded_is_left(
    server: LoopbackServer, sync: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = tmp_path / "outputs"
    busy = attempt(outputs, "busy", range(1, 4))
    foreign = attempt(outputs, "foreign", range(1, 4))
    linked = attempt(outputs, "linked", range(1, 4))
    bare = attempt(outputs, "bare", range(1, 4))
    damaged = attempt(outputs, "damaged", range(1, 400))
    odd = attempt(outputs, "odd", range(1, 4))
    os.mkfifo(odd.path / CLAIM)
    (log,), _ = read_logs(foreign.path)
    log.folder.rename(outputs / "log")
    (outputs / "log" / log.file.name).rename(outputs / "log" / "run-busy.wandb")
    (outputs / "log").rename(log.folder)
    (log,), _ = read_logs(linked.path)
    (tmp_path / "private").write_text("private")
    (log.files / "requirements.txt").unlink()
    (log.files / "requirements.txt").symlink_to(tmp_path / "private")
    (log,), _ = read_logs(bare.path)
    log.file.write_bytes(b"")
    (log,), _ = read_logs(damaged.path)
    content = bytearray(log.file.read_bytes())
    content[BLOCK + 100] ^= 1
    log.file.write_bytes(content)
    kept = len(read_logs(damaged.path)[0][0].rows)
    assert 0 < kept < 400
    foreign.path.rename(outputs / "other")
    RunFolder(outputs / "other").write({**RunFolder(outputs / "busy").read(), "run": "other"})

    with busy.claimed():
        assert sync.main([str(outputs), *AT_ONCE]) == 1
    lines = said(capsys)
    assert lines[0] == "6 runs: 5 not wholly in W&B"
    assert lines[1] == "left alone: busy: a process is at work on it"
    assert [line.split(": ")[1] for line in lines[2:]] == ["bare", "damaged", "linked", "odd", "other"]
    for line, end in zip(
        lines[2:],
        [
            "is no log of W&B",
            "what 1 damaged place of .* held",
            "would upload 'requirements.txt', which is outside its folder",
            "cannot be locked: it is no file",
            "is of run 'foreign'",
        ],
        strict=True,
    ):
        assert re.search(f"{end}$", line), line
    assert set(server.runs) == {"damaged"}
    assert len(server.runs["damaged"].rows) == kept  # all that can be read, which is more than W&B's command sends
    assert not any(b"private" in content for run in server.runs.values() for content in run.files.values())


@pytest.mark.parametrize(
    ("trouble", "key", "message"),
    [
        ("refusing", "0" * 40, "refusing"),
        ("failing", "0" * 40, "Failed to"),
        (None, "short", "API key must have 40"),
    ],
)
def test_no_way_to_w_and_b_is_one_line(
    server: LoopbackServer, sync: ModuleType, tmp_path: Path, trouble, key: str, message: str, monkeypatch, capsys
) -> None:
    attempt(tmp_path / "outputs", "run", range(1, 2))
    monkeypatch.setenv("WANDB_API_KEY", key)
    server.trouble = trouble
    assert sync.main([str(tmp_path / "outputs"), "--patience", "0", "--timeout", "1"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = [line for line in printed.err.splitlines() if line]
    assert message in line
    assert key == "short" or key not in line


def test_a_folder_without_runs_is_one_line(sync: ModuleType, tmp_path: Path, capsys) -> None:
    assert sync.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
