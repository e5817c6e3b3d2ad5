"""The table of all runs: what each is, whatever lies in its folder, and the command that leads to it again."""

import csv
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.types import RunMode

from fake_runs import Fake, write_run
from retrograde.record import survey
from retrograde.record.folder import RunFolder, run_name
from retrograde.record.tables import TableWriter, metrics_table
from retrograde.train.app import run_folder
from retrograde.train.configuration import config_folder

Rows = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Shown:
    code: int
    lines: list[str]
    error: list[str]


@pytest.fixture
def runs(script) -> ModuleType:
    return script("runs")


@pytest.fixture
def shown(runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Shown]:
    """The command on a terminal of that width; 0 is none."""

    def called(*arguments: object, width: int = 0) -> Shown:
        monkeypatch.setenv("COLUMNS", str(width) if width else "")
        monkeypatch.setattr(runs.os, "get_terminal_size", no_terminal)
        capsys.readouterr()
        code = runs.main([str(argument) for argument in arguments])
        output, error = capsys.readouterr()
        return Shown(code, output.splitlines(), error.splitlines())

    return called


def no_terminal(stream: int) -> None:
    raise OSError


@pytest.fixture
def rows(shown) -> Callable[..., Rows]:
    """The rows by run, as CSV has them."""

    def read(*arguments: object) -> Rows:
        ended = shown(*arguments, "--csv", "-")
        assert ended.code == 0, ended.error
        return {row["run"]: row for row in csv.DictReader(ended.lines)}

    return read


def unfinished(outputs: Path, model: str, seed: int = 0, status: str = "running", parts: int = 2) -> RunFolder:
    """A run of 1,000 steps with validations at steps 100, 200, …, of scores 0.1, 0.2, …, one in each part."""
    config = {"study": "demo", "seed": seed, "steps": 1000, "model": {"_target_": model}}
    folder = RunFolder(outputs / "demo" / run_name(model, "adding", config))
    folder.path.mkdir(parents=True)
    who = {"run": folder.run, "study": "demo", "model": model, "task": "adding", "seed": seed, "baseline": 0.0}
    folder.write({**who, "status": status, "started": "2026-08-07T10:00:00+00:00", "config": config})
    writer = TableWriter(folder.tables)
    for part in range(1, parts + 1):
        metrics = [(100 * part, "validation/score", part / 10), (100 * part + 50, "train/loss", 0.5)]
        writer.append("metrics", metrics_table(folder.run, metrics))
        writer.flush()
    return folder


def test_every_run_is_what_its_folder_shows(rows, tmp_path: Path) -> None:
    finished = write_run(tmp_path, Fake("gru"))
    diverged = write_run(tmp_path, Fake("elman", more={"diverged_step": 7, "reason": "loss at step 7 is inf"}))
    failed = write_run(tmp_path, Fake("tcn", status="failed"))
    interrupted = unfinished(tmp_path, "lstm", status="interrupted")
    lost, running = unfinished(tmp_path, "lru"), unfinished(tmp_path, "s4d")
    begins = RunFolder(tmp_path / "demo" / "mamba-copying-s3-0123456789")
    (tmp_path / "demo" / "hyena-adding-s4-0123456789" / ".hydra").mkdir(parents=True)
    with running.claimed(), begins.claimed():
        found = rows(tmp_path)
    assert {run: row["status"] for run, row in found.items()} == {
        finished.run: "finished", diverged.run: "diverged", failed.run: "failed", interrupted.run: "interrupted",
        lost.run: "lost", running.run: "running", begins.run: "running", "hyena-adding-s4-0123456789": "not begun",
    }  # fmt: skip
    assert found[failed.run]["reason"] == "RuntimeError: out of patience"
    assert found[diverged.run]["reason"] == "loss at step 7 is inf"
    named = found["hyena-adding-s4-0123456789"]
    assert (named["study"], named["model"], named["task"], named["seed"]) == ("demo", "hyena", "adding", "4")
    assert [run for run, row in found.items() if row["worker"]] == [begins.run, running.run]


def test_a_failed_run_that_is_being_run_again_is_running(rows, tmp_path: Path) -> None:
    folder = write_run(tmp_path, Fake("tcn", status="failed"))
    with folder.claimed():
        assert rows(tmp_path)[folder.run]["status"] == "running"


def test_looking_leaves_folders_as_they_are(rows, tmp_path: Path) -> None:
    folder = unfinished(tmp_path, "lru")
    before = sorted(tmp_path.rglob("*"))
    rows(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    with folder.claimed():
        pass
    (folder.path / ".claim").chmod(0o444)
    assert rows(tmp_path)[folder.run]["status"] == "lost"


def test_a_run_that_goes_on_has_the_step_and_the_score_of_its_newest_tables(shown, rows, tmp_path: Path) -> None:
    folder = unfinished(tmp_path, "lru", parts=3)
    (row,) = rows(tmp_path).values()
    assert (row["step"], row["steps"], row["score"], row["last_score"]) == ("350", "1000", "", "0.3")
    lines = shown(tmp_path).lines
    assert lines[1].startswith(f"{folder.run}  lost") and "0/1  350/1000  (0.300)" in lines[1]
    assert "(score): the last validation of a run that has not finished" in lines


def test_an_older_table_that_is_damaged_costs_nothing_and_the_newest_is_named(rows, tmp_path: Path) -> None:
    folder = unfinished(tmp_path, "lru", parts=3)
    parts = sorted((folder.tables / "metrics").iterdir())
    parts[0].write_bytes(b"PAR1")
    (row,) = rows(tmp_path).values()
    assert row["last_score"] == "0.3" and "cannot be read" not in row["reason"]
    parts[2].write_bytes(b"PAR1")
    (row,) = rows(tmp_path).values()
    assert row["status"] == "lost" and f"{parts[2]} cannot be read" in row["reason"]


def test_tables_are_read_of_runs_that_have_not_finished_alone(
    rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    true = survey.read_table

    def noted(file: Path, run: str, *more: Any) -> Any:
        read.append(run)
        return true(file, run, *more)

    monkeypatch.setattr(survey, "read_table", noted)
    write_run(tmp_path, Fake("gru"))
    running = unfinished(tmp_path, "lru")
    with running.claimed():
        rows(tmp_path)
    assert read == [running.run]


def test_what_has_ended_is_read_once_as_long_as_nobody_writes_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    true = survey.columns_of
    monkeypatch.setattr(survey, "columns_of", lambda said: read.append(said["run"]) or true(said))
    finished, lost = write_run(tmp_path, Fake("gru")), unfinished(tmp_path, "lru")
    reader = survey.Reader(tmp_path)
    first, again = ([dict(run.row) for run in reader.runs()] for _ in range(2))
    assert first == again and sorted(read) == sorted([finished.run, lost.run])
    with lost.claimed():
        assert [run.row["status"] for run in reader.runs()] == ["finished", "running"]
    finished.write({**finished.read(), "score": 0.5})
    assert [(run.row["status"], run.row["score"]) for run in reader.runs()] == [("finished", 0.5), ("lost", None)]


def test_the_duration_of_a_run_that_goes_on_counts_its_earlier_attempts(rows, tmp_path: Path) -> None:
    folder = unfinished(tmp_path, "lru")
    now = datetime.now(UTC).isoformat()
    attempts = [{"started": "2026-08-07T10:00:00+00:00"}, {"started": now, "from_step": 50, "from_seconds": 4000.5}]
    with folder.claimed():
        folder.write({**folder.read(), "started": now, "attempts": attempts})
        (row,) = rows(tmp_path).values()
        assert 4000.5 <= float(row["duration"]) < 4060
        folder.write({**folder.read(), "attempts": [{"from_seconds": "long"}]})
        (row,) = rows(tmp_path).values()
        assert row["status"] == "unreadable" and "attempts[0].from_seconds must be a finite number" in row["reason"]


def test_seeds_of_a_configuration_are_counted_and_settings_that_differ_are_named(rows, tmp_path: Path) -> None:
    for hidden in (8, 16):
        for seed in (0, 1):
            status = "failed" if (hidden, seed) == (16, 1) else "finished"
            write_run(tmp_path, Fake("gru", seed, status=status, config={"model": {"hidden": hidden, "layers": 1}}))
    write_run(tmp_path, Fake("tcn"))
    found = [(row["settings"], row["seeds_finished"], row["seeds"]) for row in rows(tmp_path).values()]
    assert sorted(found) == [
        ("", "1", "1"), ("hidden=16", "1", "2"), ("hidden=16", "1", "2"), ("hidden=8", "2", "2"),
        ("hidden=8", "2", "2"),
    ]  # fmt: skip


def test_a_configuration_is_the_median_and_the_range_of_the_seeds_that_finished(shown, tmp_path: Path) -> None:
    for seed in (0, 1, 4):
        write_run(tmp_path, Fake("gru", seed))  # 0.97, 0.96, 0.93
    write_run(tmp_path, Fake("gru", 5, status="failed"))
    write_run(tmp_path, Fake("elman", 0, solved=False))
    (header, *made) = csv.reader(shown(tmp_path, "--seeds", "--sort", "-score", "--csv", "-").lines)
    gru, elman = (dict(zip(header, row, strict=True)) for row in made)
    assert [float(gru[name]) for name in ("score", "score_low", "score_high")] == pytest.approx([0.96, 0.93, 0.97])
    assert (gru["seeds_finished"], gru["seeds"], gru["solved"], gru["others"]) == ("3", "4", "3", "1 failed")
    assert (elman["model"], elman["solved"]) == ("elman", "0")
    line = next(line for line in shown(tmp_path, "--seeds").lines if " gru " in line)
    assert "3/4  0.960  0.930 to 0.970     0.000  3 of 3  1 failed" in line


def test_a_copy_of_a_run_counts_once(rows, tmp_path: Path) -> None:
    folder = write_run(tmp_path, Fake("gru"))
    copy = tmp_path / "zcopy" / folder.run
    copy.mkdir(parents=True)
    (copy / "run.json").write_text((folder.path / "run.json").read_text())
    assert len(rows(tmp_path, "--where", "seeds=1")) == 1
    (row,) = rows(tmp_path, "--where", "reason=another copy*").values()
    assert row["where"] == str(copy) and str(folder.path) in row["reason"]


@pytest.mark.parametrize(
    ("conditions", "left"),
    [
        (["model=gru"], {"gru0", "gru1"}),
        (["model=gru", "seed=1"], {"gru1"}),
        (["run=*-s1-*"], {"gru1"}),
        (["status!=finished"], {"tcn"}),
        (["score>0.96"], {"gru0"}),
        (["score>=.96", "score<0.965"], {"gru1"}),
        (["solved=no"], {"elman"}),
        (["score="], {"tcn"}),
        (["score!=null", "model!=gru"], {"elman"}),
        (["config.task.length=20"], {"elman"}),
        (["started>2026-08"], set()),
        (["reason=*out of patience"], {"tcn"}),
    ],
)
def test_conditions_leave_the_runs_of_which_all_hold(runs, shown, rows, tmp_path: Path, conditions, left) -> None:
    folders = {
        "gru0": write_run(tmp_path, Fake("gru", 0)),
        "gru1": write_run(tmp_path, Fake("gru", 1)),
        "elman": write_run(tmp_path, Fake("elman", solved=False, config={"task": {"length": 20}})),
        "tcn": write_run(tmp_path, Fake("tcn", status="failed")),
    }
    if left:
        assert set(rows(tmp_path, "--where", *conditions)) == {folders[name].run for name in left}
        assert f"{len(left)} of 4 runs: " in "\n".join(shown(tmp_path, "--where", *conditions).lines)
    else:
        ended = shown(tmp_path, "--where", *conditions)
        assert (ended.code, ended.error) == (1, [f"of 4 runs below '{tmp_path}' none has {conditions[0]}"])


def test_rows_are_sorted_by_columns_and_what_is_missing_comes_last(rows, tmp_path: Path) -> None:
    for model, status in (("elman", "failed"), ("gru", "finished"), ("lstm", "finished")):
        for seed in (0, 1):
            write_run(tmp_path, Fake(model, seed, status=status))

    def order(*by: str) -> list[str]:
        return [f"{row['model']}{row['seed']}" for row in rows(tmp_path, "--sort", *by).values()]

    assert order("score,-model") == ["lstm1", "gru1", "lstm0", "gru0", "elman0", "elman1"]
    assert order("-score") == ["gru0", "lstm0", "gru1", "lstm1", "elman0", "elman1"]


@pytest.mark.parametrize("arguments", [[], ["--seeds"], ["--columns", "run,status,reason,where,started"]])
@pytest.mark.parametrize("width", [100, 60, 12])
def test_nothing_is_wider_than_the_terminal_and_what_is_left_out_is_said(shown, tmp_path: Path, width, arguments):
    for model in ("gru", "transformer_seq2seq"):
        for seed in range(3):
            write_run(tmp_path, Fake(model, seed, study="a_study_with_a_long_name", task="translate_numbers"))
    failed = Fake("tcn", status="failed", more={"reason": "ValueError: " + "long " * 100})
    write_run(tmp_path, failed)
    lines = shown(tmp_path, *arguments, width=width).lines
    assert max(map(len, lines)) <= width
    header, *table = lines[: lines.index("")]
    assert len(table) == (3 if "--seeds" in arguments else 7)
    if width == 100 and not arguments:
        assert header.split() == ["run", "status", "step", "score", "baseline", "solved"]
        note = "left out for want of width: study, model, task, seed, seeds, duration, where (--columns"
        assert any(line.startswith(note) for line in lines)


def test_without_a_terminal_nothing_is_left_out(shown, tmp_path: Path) -> None:
    folder = write_run(tmp_path, Fake("tcn", status="failed", more={"reason": "ValueError: " + "long " * 100}))
    lines = shown(tmp_path).lines
    assert str(folder.path) in lines[1]
    assert any(line.count("long") == 100 for line in lines)
    assert not any("left out" in line for line in lines)


def test_what_went_wrong_and_how_to_run_it_again_stands_below(shown, tmp_path: Path) -> None:
    for seed in range(3):
        failed = write_run(tmp_path, Fake("tcn", seed, status="failed"))
    write_run(tmp_path, Fake("gru"))
    lines = shown(tmp_path).lines
    assert "4 runs: 1 finished, 3 failed" in lines
    (line,) = [line for line in lines if line.startswith("failed: ")]
    assert line.endswith(" and 2 more: RuntimeError: out of patience")
    assert any(line.startswith("how to run one again: --command RUN") for line in lines)
    assert failed.run in "\n".join(lines)


def test_csv_holds_every_setting_of_the_same_rows(shown, tmp_path: Path) -> None:
    write_run(tmp_path, Fake("gru", config={"task": {"length": 20}}))
    write_run(tmp_path, Fake("tcn", status="failed"))
    file = tmp_path / "runs.csv"
    assert shown(tmp_path, "--csv", file, "--sort", "-score") == Shown(0, [], [])
    with file.open(newline="") as opened:
        gru, tcn = csv.DictReader(opened)
    assert (gru["score"], gru["solved"], gru["duration"], gru["config.task.length"]) == ("0.97", "true", "12.5", "20")
    assert (tcn["score"], tcn["solved"], tcn["config.task.length"], tcn["config.steps"]) == ("", "", "", "200")
    assert shown(tmp_path, "--csv", "-", "--columns", "model,score").lines == ["model,score", "gru,0.97", "tcn,"]


def test_names_and_reasons_cannot_command_a_terminal(shown, rows, tmp_path: Path) -> None:
    evil = "\x1b[2Jgone\x07 [red]\nnew line"
    write_run(tmp_path, Fake("gru", more={"commit": evil}))
    write_run(tmp_path, Fake("tcn", status="failed", more={"reason": evil}))
    text = "\n".join(shown(tmp_path).lines + shown(tmp_path, "--csv", "-").lines)
    assert "\x1b" not in text and "\x07" not in text
    assert r"\x1b[2Jgone\x07 [red] new line" in text


@pytest.mark.parametrize(
    "content",
    [
        b"", b'{"run"', b"\xff\xfe", b"[" * 100_000, b"1" * 5000, b"{}", b'{"run": "another", "status": "finished"}',
        '"status": "finished"→"status": 5', '"score": 0.97→"score": "high"', '"seed": 0→"seed": {}',
        '"duration": 12.5→"duration": 1e999', '"study": "demo"→"study": null', '"config": {→"config": 3, "x": {',
        '"solved": true→"solved": true, "started": "yesterday"', '"solved": true→"started": "0001-01-01T00:00:00"',
        '"solved": true→"started": "9999-12-31T23:59:59-12:00"',
        '"solved": true→"last_score": "a", "step": "b", "worker": 1, "where": [], "seeds": {}',
    ],
    ids=str,
)  # fmt: skip
def test_whatever_lies_there_is_a_row(shown, rows, tmp_path: Path, content) -> None:
    folder, other = write_run(tmp_path, Fake("gru")), write_run(tmp_path, Fake("tcn"))
    file = folder.path / "run.json"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        old, _, new = content.partition("→")
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
    for arguments in ([], ["--seeds"], ["--sort", "-score"]):
        assert shown(tmp_path, *arguments).code == 0
    found = rows(tmp_path)
    assert set(found) == {folder.run, other.run} and found[other.run]["status"] == "finished"
    row = found[folder.run]
    if row["status"] == "finished":
        assert row["where"] == str(folder.path)
    else:
        assert row["status"] == "unreadable" and str(file) in row["reason"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "'{}/nothing' is not a folder"),
        (["file"], "'{}/file' is not a folder"),
        (["empty"], "'{}/empty' holds no run: there is no run.json below it"),
        (["full", "--where", "modle=gru"], "there is no column 'modle'; did you mean 'model'"),
        (["full", "--where", "length=1"], "there is no column 'length'; did you mean 'config.task.length'?"),
        (["full", "--where", "gru"], "'gru' is no condition: write column=value"),
        (["full", "--where", "score>much"], "'score>much': score is a number, 'much' is none"),
        (["full", "--sort", "-scroe"], "there is no column 'scroe'; did you mean 'score'"),
        (["full", "--sort", "stepps"], "there is no column 'stepps'; did you mean 'steps' or 'step' or"),
        (["full", "--columns", "run,stat"], "there is no column 'stat'; did you mean 'status'"),
        (["full", "--csv", "nowhere/runs.csv"], "[Errno 2] No such file or directory: 'nowhere/runs.csv'"),
        (["full", "--command", "lstm"], "there is no run 'lstm' below '{}/full'"),
        (["full", "--command", "gru"], "'gru' may be any of 2 runs, such as gru-adding-s"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(shown, tmp_path: Path, arguments, message) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty" / "demo").mkdir(parents=True)
    for seed in (0, 1):
        write_run(tmp_path / "full", Fake("gru", seed, config={"task": {"length": 20}}))
    ended = shown(tmp_path / arguments[0], *arguments[1:])
    assert (ended.code, ended.lines) == (1, [])
    (line,) = ended.error
    assert line.startswith(message.format(tmp_path))


def test_a_watch_shows_what_changes_and_ends_with_the_last_run(
    runs, shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "PATIENCE", 0.4)
    folder = unfinished(tmp_path, "lru")
    claimed = threading.Event()

    def work() -> None:
        with folder.claimed():
            claimed.set()
            time.sleep(0.3)
            folder.write({**folder.read(), "status": "finished", "score": 0.5, "steps": 700})

    worker = threading.Thread(target=work)
    worker.start()
    claimed.wait()
    ended = shown(tmp_path, "--watch", "0.05")
    worker.join()
    changes = [line.split(maxsplit=1)[1] for line in ended.lines if line[2:3] == ":"]
    assert changes == [f"{folder.run} running", f"{folder.run} finished, score 0.500"]
    assert ended.code == 0 and ended.lines[-1] == "1 run: 1 finished"


def test_a_watch_of_runs_that_go_on_ends_when_none_does(
    runs, shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "PATIENCE", 0.2)
    folder = unfinished(tmp_path, "lru")
    true, looks = runs.Reader.runs, []

    def ends(reader: Any) -> Any:
        looks.append(0)
        if len(looks) == 1:
            with folder.claimed():
                return true(reader)
        return true(reader)

    monkeypatch.setattr(runs.Reader, "runs", ends)
    ended = shown(tmp_path, "--watch", "0.05", "--where", "status=running")
    assert ended.code == 1 and len(looks) > 2
    assert ended.error == [f"of 1 run below '{tmp_path}' none has status=running"]


def test_a_screen_that_is_too_low_shows_what_goes_on_or_went_wrong(runs, tmp_path: Path) -> None:
    for seed in range(8):
        write_run(tmp_path, Fake("gru", seed))
    failed = write_run(tmp_path, Fake("tcn", status="failed"))
    options = runs.parser().parse_args([str(tmp_path)])
    text = str(runs.table(runs.chosen(runs.Reader(tmp_path), options), [], 100, 12))
    lines = text.splitlines()
    assert len(lines) < 12 and any(line.startswith(failed.run) for line in lines)
    assert any(line.endswith("rows more than there is room for") for line in lines)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's sweep of two, one of which cannot begin; some settings have to be quoted."""
    place = tmp_path_factory.mktemp("a place")
    settings = ["steps=3", "task.length=5", "probe=none", "trainer.test_samples=8", "recorder.mode=disabled"]
    axes = ["model=elman", "seed=0", "model.hidden=4,abc", "probing.steps=[0, 3]", f"outputs='{place}/out puts'"]
    command = [Path(sys.executable).parent / "retrograde", "study=demo", *axes, *settings]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=place, timeout=100)
    assert ended.returncode == 1 and "1 finished, 1 failed" in ended.stdout, ended.stderr
    return place / "out puts"


@pytest.mark.heavy
def test_the_command_of_a_run_leads_to_that_run_alone(shown, rows, swept: Path) -> None:
    found = rows(swept)
    assert sorted(row["status"] for row in found.values()) == ["failed", "finished"]
    for run in found:
        (line,) = shown(swept, "--command", run).lines
        before, _, command = line.partition(" && ")
        assert shlex.split(before) == ["cd", str(swept.parent)]
        name, *overrides = shlex.split(command)
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            config = compose("train", overrides=overrides, return_hydra_config=True)
        assert name == "retrograde" and config.hydra.mode == RunMode.RUN
        assert run_folder(_root_=config) == run
        assert config.outputs == str(swept)
        assert shown(swept, "--command", run[-6:]).lines == [line]


@pytest.mark.heavy
def test_a_chosen_launcher_and_a_folder_of_configurations_are_part_of_the_command(
    shown, swept: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(swept.parent)
    (source, *_) = sorted(swept.rglob("hydra.yaml"))
    folder = RunFolder(tmp_path / "demo" / source.parents[1].name)
    (folder.path / ".hydra").mkdir(parents=True)
    text = source.read_text().replace("- study=demo\n", "- study=demo\n    - launcher=joblib\n")
    text = text.replace(
        "    config_sources:\n", "    config_sources:\n    - {path: /my conf, provider: command-line}\n"
    )
    (folder.path / ".hydra" / "hydra.yaml").write_text(text)
    (line,) = shown(tmp_path, "--command", folder.run).lines
    words = shlex.split(line)
    assert words[:3] == ["retrograde", "--config-dir", "/my conf"]
    assert "launcher=joblib" in words and words[-1] == "hydra.mode=MULTIRUN"


def test_a_run_made_from_python_has_no_command(shown, tmp_path: Path) -> None:
    folder = write_run(tmp_path, Fake("gru"))
    ended = shown(tmp_path, "--command", folder.run)
    assert ended.code == 1 and "made from Python, by retrograde.fit: there is no command" in ended.error[0]
    copied = write_run(tmp_path, Fake("tcn", config={"outputs": "outputs"}))
    ended = shown(tmp_path, "--command", copied.path)
    assert ended.code == 1 and f"{copied.path / '.hydra'} is missing" in ended.error[0]
    (copied.path / ".hydra").mkdir()
    (copied.path / ".hydra" / "hydra.yaml").write_text("hydra: [1]")
    (line,) = shown(tmp_path, "--command", copied.run).error
    assert "hydra.yaml cannot be read" in line
