"""What a person finds in W&B, read back from the log by W&B's own reader; and that a sync delivers all of it."""

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import wandb
from PIL import Image

import retrograde
from fake_runs import CARD
from loopback import LoopbackServer
from retrograde import RecorderSettings, TrainerSettings
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch, Reading
from retrograde.core.statistics import STATISTICS
from retrograde.models.transformer import transformer
from retrograde.record.alerts import AlertSettings
from retrograde.record.folder import RunFolder
from retrograde.record.palette import ABOVE, BELOW, NONE, coloured
from retrograde.record.recorder import RunRecorder
from retrograde.record.tables import TableWriter, metrics_table, reading_table, stored
from retrograde.record.view import OF_A_SET, Mode, WandbView, log_spaced, start_ahead
from retrograde.record.wandb_log import read_logs
from retrograde.tasks.adding import Adding

pytestmark = pytest.mark.heavy

STEP = "trainer/global_step"


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    """The environment is read once per process, so a set-up left by another test would win over ours."""
    wandb.teardown()
    yield
    for run in list(WandbView.still_open):
        WandbView.still_open.discard(run)
    wandb.teardown()


def opened(path: Path, name: str) -> tuple[WandbView, RunFolder]:
    """A view and the folder that it belongs to, with one table in it."""
    folder = RunFolder(path / name)
    folder.path.mkdir(parents=True)
    folder.write_card(CARD)
    writer = TableWriter(folder.tables)
    writer.append("metrics", metrics_table(name, [(1, "train/loss", 0.5)]))
    writer.append("readings/deep/down/below", metrics_table(name, [(1, "train/loss", 0.5)]))
    writer.merge()
    return WandbView(folder.path, {"run": name, "config": {"width": 8}}, "offline", "project", None, "reach"), folder


def directory(folder: RunFolder) -> Path:
    (found,) = (folder.path / "wandb").glob("offline-run-*")
    return found


def records(folder: RunFolder) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(directory(folder))]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    return [json.loads(line) for line in printed.splitlines()]


def history(folder: RunFolder) -> list[dict[str, Any]]:
    """The rows without W&B's own keys; what is not finite comes as a word."""
    rows = [record["history"]["item"] for record in records(folder) if record["type"] == "history"]
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]


def told(view: WandbView, folder: RunFolder, step: int, probe: str, readings: list[Reading]) -> None:
    """As a recorder tells it: the pictures of curves are drawn of the tables."""
    view.readings(step, probe, readings)
    writer = TableWriter(folder.tables)
    for reading in readings:
        quantity, table = reading_table(folder.run, step, reading)
        writer.append(f"readings/{probe}/{quantity}", table)
    writer.merge()


def curve(where: str, means: list[float], dim: str, coordinates: range | list[int], unit: str = "log10") -> Reading:
    values = np.full((len(STATISTICS), len(means)), -99.0)
    values[STATISTICS.index("mean")] = means
    return Reading(where, values, {"statistic": STATISTICS, dim: coordinates}, unit)


def test_a_run_is_found_by_its_name_study_and_settings(tmp_path: Path) -> None:
    view, folder = opened(tmp_path, "lstm-adding-s0-0123456789")
    view.close(folder, {"status": "finished", "score": 0.97, "loss": math.inf}, failed=False)
    log = records(folder)
    (run,) = (record["run"] for record in log if record["type"] == "run")
    assert (run["run_id"], run["display_name"], run["run_group"], run["project"]) == (
        folder.run,
        folder.run,
        "reach",
        "project",
    )
    assert run["config"]["update"]["config"] == {"width": 8}
    summaries = [record["summary"]["update"] for record in log if record["type"] == "summary"]
    assert {"status": "finished", "score": 0.97}.items() <= {k: v for s in summaries for k, v in s.items()}.items()
    (ending,) = (record["exit"] for record in log if record["type"] == "exit")
    assert ending.get("exit_code", 0) == 0


def test_a_failed_run_is_marked_as_one(tmp_path: Path) -> None:
    view, folder = opened(tmp_path, "failed")
    view.close(folder, {"status": "failed"}, failed=True)
    (ending,) = (record["exit"] for record in records(folder) if record["type"] == "exit")
    assert ending["exit_code"] == 1


def test_what_holds_at_the_end_is_an_alert_and_everything_is_in_the_summary(tmp_path: Path) -> None:
    view, folder = opened(tmp_path, "run")
    now = {"kind": "vanishing", "level": "warning", "text": "layer 0: it vanishes (since step 3).", "at_end": True}
    gravest = {"kind": "nonfinite", "level": "error", "text": "step 7: it is NaN.", "at_end": True}
    before = {"kind": "dead", "level": "info", "text": "layer 0: dead (at step 0, not later).", "at_end": False}
    view.close(folder, {"status": "finished", "alerts": [gravest, now, before]}, failed=False)
    log = records(folder)
    sent = [record["alert"] for record in log if record["type"] == "alert"]
    assert [(alert["title"], alert["text"], alert["level"]) for alert in sent] == [
        ("Numbers that are none", gravest["text"], "ERROR"),
        ("Vanishing gradient", now["text"], "WARN"),
    ]
    summaries = [record["summary"]["update"] for record in log if record["type"] == "summary"]
    (kept,) = (summary["alerts"] for summary in summaries if "alerts" in summary)
    assert [alert["text"] for alert in kept] == [alert["text"] for alert in (gravest, now, before)]


def test_metrics_are_rows_over_the_global_step(tmp_path: Path) -> None:
    view, folder = opened(tmp_path, "run")
    view.metrics(50, {"train/loss": 0.25, "train/score": -math.inf})
    view.metrics(100, {"train/loss": math.nan})
    view.close(folder, {}, failed=False)
    assert history(folder)[:2] == [
        {STEP: 50, "train/loss": 0.25, "train/score": "-Infinity"},
        {STEP: 100, "train/loss": "NaN"},
    ]
    axes = [record["metric"] for record in records(folder) if record["type"] == "metric"]
    assert {axis["glob_name"]: axis["step_metric"] for axis in axes if "glob_name" in axis} == {"*": STEP}


def test_a_curve_is_logged_at_log_spaced_lags(tmp_path: Path) -> None:
    view, folder = opened(tmp_path, "run")
    over_time = curve("total/0.forward.hidden", [-6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0], "time", range(-1, 6))
    over_lag = curve("norm/0.forward.hidden", [0.0, -1.0, -2.0, -math.inf], "lag", [0, 1, 2, 5])
    told(view, folder, 3, "probe", [over_time, over_lag])
    view.close(folder, {}, failed=False)
    # time is counted back from the end, t = 5; lags that were not measured are left out
    assert history(folder)[0] == {
        STEP: 3,
        **{f"probe/total/0.forward.hidden/lag_{lag}": -lag for lag in (0, 1, 2, 4)},
        **{f"probe/norm/0.forward.hidden/lag_{lag}": -lag for lag in (0, 1, 2)},
    }


def test_log_spaced_lags_double() -> None:
    assert log_spaced(50).tolist() == [0, 1, 2, 4, 8, 16, 32]
    assert log_spaced(1).tolist() == [0, 1]


def test_single_numbers_and_those_along_a_name_are_logged(tmp_path: Path) -> None:
    view, folder = opened(tmp_path, "run")
    share = Reading("clipped/steps", np.array(0.25), {}, "share")
    norms = Reading("weight/parameters", np.array([1.5, -math.inf]), {"parameter": ["readout.bias", "all"]}, "log10")
    view.readings(0, "parameters", [share, norms])
    view.close(folder, {}, failed=False)
    assert history(folder)[0] == {
        STEP: 0,
        "parameters/clipped/steps": 0.25,
        "parameters/weight/parameters/readout.bias": 1.5,
        "parameters/weight/parameters/all": "-Infinity",
    }


def test_numbers_of_every_unit_stay_in_the_tables(tmp_path: Path) -> None:
    view, folder = opened(tmp_path, "run")
    units = Reading("time_constant/0.forward.cell", np.ones(3), {"unit": range(3)}, "positions")
    sizes = Reading("magnitude/0.forward.forget", np.ones(3), {"eigenvalue": range(3)}, "factor")
    exponents = Reading("asymptotic/0.forward", np.ones(3), {"index": range(3)}, "nats per time")
    median = Reading("median_time_constant/0.forward.cell", np.array(1.0), {}, "positions")
    view.readings(0, "gates", [units, sizes, exponents, median])
    view.close(folder, {}, failed=False)
    assert history(folder)[0] == {STEP: 0, "gates/median_time_constant/0.forward.cell": 1.0}


def pictures(folder: RunFolder, row: dict[str, Any]) -> dict[str, np.ndarray]:
    """The pictures of a row by name; W&B's reader spreads what is said of one over several keys."""
    files = directory(folder) / "files"
    paths = {key.removesuffix(".path"): value for key, value in row.items() if key.endswith(".path")}
    return {name: np.asarray(Image.open(files / path)) for name, path in paths.items()}


def test_curves_become_one_picture_with_training_downward(tmp_path: Path) -> None:
    view, folder = opened(tmp_path, "run")
    for step, mean in ((0, [-2.0, -1.0]), (1, [0.0, -math.inf])):
        told(view, folder, step, "probe", [curve("total/0.forward.hidden", mean, "time", range(2))])
    view.close(folder, {}, failed=False)
    ((name, picture),) = pictures(folder, history(folder)[-1]).items()
    assert name == "probe/total/0.forward.hidden/over_time"
    corners = picture[:: picture.shape[0] - 1, :: picture.shape[1] - 1]
    expected = coloured(np.array([[-2.0, -1.0], [0.0, -math.inf]]), -2.0, 0.0)
    assert np.array_equal(corners, expected)
    assert min(picture.shape[:2]) >= 160  # magnified, so that a browser does not blur it
    assert tuple(corners[1, 1]) == BELOW


def test_a_curve_of_another_statistic_than_a_mean_is_a_picture_too_and_costs_the_others_nothing(tmp_path: Path) -> None:
    view, folder = opened(tmp_path, "run")
    dims = {"statistic": ["ratio"], "lag": range(3)}
    ratio = Reading("ratio_by_lag/0.forward.hidden", np.array([[3.0, 2.0, 1.0]]), dims, "signal over noise")
    told(view, folder, 0, "probe", [ratio, curve("norm/0.forward.hidden", [0.0, -1.0], "lag", range(2))])
    view.close(folder, {}, failed=False)
    assert view.failures == {}
    assert history(folder)[0]["probe/ratio_by_lag/0.forward.hidden/lag_2"] == 1
    drawn = pictures(folder, history(folder)[-1])
    assert set(drawn) == {"probe/ratio_by_lag/0.forward.hidden/over_lag", "probe/norm/0.forward.hidden/over_lag"}
    row = drawn["probe/ratio_by_lag/0.forward.hidden/over_lag"][0, :: 160 // 3]
    assert np.array_equal(row[:3], coloured(np.array([3.0, 2.0, 1.0]), 1.0, 3.0))


def test_the_first_sample_s_maps_are_drawn_now_and_then(tmp_path: Path) -> None:
    view, folder = opened(tmp_path, "run")
    weights = np.zeros((2, 2, 4, 4))
    weights[0, 1] = np.tril(np.ones((4, 4))) / 4
    dims = {"sample": range(2), "head": range(2), "query": range(4), "key": range(4)}
    for step in range(6):
        view.readings(step, "attention", [Reading("map/0", weights, dims, "share")])
    view.close(folder, {}, failed=False)
    drawn = {row[STEP]: pictures(folder, row) for row in history(folder) if any("map" in key for key in row)}
    assert list(drawn) == [0, 4, 5]  # of every fourth snapshot, and the last
    assert set(drawn[0]) == {"attention/map/0/head_0", "attention/map/0/head_1"}
    side = 160 // 4
    assert np.array_equal(
        drawn[0]["attention/map/0/head_1"][::side, ::side], coloured(np.sqrt(weights[0, 1]), 0.0, 1.0)
    )


def of_a_set(where: str, dim: str, means: dict[int, float], unit: str = "share") -> Reading:
    values = np.array([list(means.values()), [7.0] * len(means)])
    return Reading(where, values, {"statistic": OF_A_SET, dim: list(means)}, unit)


def test_a_test_is_logged_at_the_coordinates_below_powers_of_two_and_the_largest(tmp_path: Path) -> None:
    view, folder = opened(tmp_path, "run")
    by_lag = of_a_set("accuracy_by_lag/outputs", "lag", {lag: lag / 100 for lag in (3, 5, 6, 16, 17, 30, 40)})
    by_position = of_a_set("score_by_position/outputs", "position", {49: -0.5}, "score")
    by_length = of_a_set("score_by_length/outputs", "length", {1: 1.0, 2: 0.75, 3: 0.5}, "score")
    view.readings(300, "test", [by_lag, by_position, by_length])
    view.close(folder, {}, failed=False)
    assert history(folder)[:-1] == [
        {
            STEP: 300,
            **{f"test/accuracy_by_lag/outputs/lag_{lag}": lag / 100 for lag in (3, 6, 16, 30, 40)},
            "test/score_by_position/outputs/position_49": -0.5,
            "test/score_by_length/outputs/length_1": 1,
            "test/score_by_length/outputs/length_2": 0.75,
            "test/score_by_length/outputs/length_3": 0.5,
        }
    ]
    assert not any("over_" in key for key in history(folder)[-1])


def test_a_test_is_no_snapshot_and_pending_maps_keep_their_step(tmp_path: Path) -> None:
    view, folder = opened(tmp_path, "run")
    weights = np.ones((1, 1, 2, 2)) / 2
    dims = {"sample": range(1), "head": range(1), "query": range(2), "key": range(2)}
    maps = Reading("map/0", weights, dims, "share")
    lag = curve("norm/0.forward.hidden", [0.0, -1.0], "lag", range(2))
    for step in (0, 1000, 2000):
        told(view, folder, step, "probe", [lag])
        view.readings(step, "attention", [maps])
    for name in ("test", "longer"):
        view.readings(300, name, [of_a_set("accuracy_by_lag/outputs", "lag", {4: 0.5})])
    view.close(folder, {}, failed=False)
    rows = history(folder)
    drawn = {row[STEP]: set(pictures(folder, row)) for row in rows if pictures(folder, row)}
    assert drawn == {
        0: {"attention/map/0/head_0"},
        2000: {"attention/map/0/head_0", "probe/norm/0.forward.hidden/over_lag"},
    }
    assert [row for row in rows if row[STEP] == 300] == [
        {STEP: 300, f"{name}/accuracy_by_lag/outputs/lag_4": 0.5} for name in ("test", "longer")
    ]


def test_tests_do_not_bring_the_next_pictures_forward(tmp_path: Path) -> None:
    view, folder = opened(tmp_path, "run")
    dims = {"sample": range(1), "head": range(1), "query": range(2), "key": range(2)}
    for step in range(5):
        view.readings(step, "attention", [Reading("map/0", np.ones((1, 1, 2, 2)) / 2, dims, "share")])
        view.readings(step + 100, "test", [of_a_set("accuracy_by_lag/outputs", "lag", {4: 0.5})])
    view.close(folder, {}, failed=False)
    assert [row[STEP] for row in history(folder) if pictures(folder, row)] == [0, 4]


def test_maps_that_come_only_now_and_then_are_drawn_with_the_step_of_their_own(tmp_path: Path) -> None:
    view, folder = opened(tmp_path, "run")
    dims = {"sample": range(1), "head": range(1), "query": range(2), "key": range(2)}
    maps = Reading("map/0", np.ones((1, 1, 2, 2)) / 2, dims, "share")
    for step in range(6):
        view.readings(step, "first", [maps] if step == 3 else [])
        view.readings(step, "second", [maps])
    view.close(folder, {}, failed=False)
    drawn = {row[STEP]: set(pictures(folder, row)) for row in history(folder) if pictures(folder, row)}
    second = "second/map/0/head_0"
    assert drawn == {0: {second}, 3: {"first/map/0/head_0"}, 4: {second}, 5: {second}}


def test_colours_rise_from_dark_to_light_and_mark_what_is_no_number() -> None:
    pixels = coloured(np.array([0.0, 0.5, 1.0, -5.0, 9.0, -math.inf, math.inf, math.nan]), 0.0, 1.0)
    assert pixels.dtype == np.uint8
    lightness = pixels[:3].astype(float) @ [0.2126, 0.7152, 0.0722]
    assert lightness[0] < lightness[1] < lightness[2]
    assert np.array_equal(pixels[3], pixels[0])  # beyond the ends is at the ends
    assert np.array_equal(pixels[4], pixels[2])
    assert [tuple(pixel) for pixel in pixels[5:]] == [BELOW, ABOVE, NONE]
    assert np.array_equal(coloured(np.array([2.0, 2.0]), 2.0, 2.0)[0], pixels[0])  # a flat picture


def test_the_record_lies_among_the_files_of_the_run(tmp_path: Path) -> None:
    view, folder = opened(tmp_path, "run")
    view.close(folder, {"status": "finished", "score": 0.5, "loss": math.nan}, failed=False)
    kept = directory(folder) / "files" / "retrograde"
    for table in folder.tables.rglob("*.parquet"):
        assert (kept / table.relative_to(folder.tables)).read_bytes() == table.read_bytes()
    assert json.loads((kept / "card.json").read_text()) == folder.read_card()
    metadata = json.loads((kept / "metadata.json").read_text())
    assert math.isnan(metadata.pop("loss"))
    assert metadata == {"run": "run", "config": {"width": 8}, "status": "finished", "score": 0.5}
    saved = {file["path"] for r in records(folder) if r["type"] == "files" for file in r["files"]["files"]}
    expected = {file.relative_to(kept.parent).as_posix() for file in kept.rglob("*") if file.is_file()}
    assert len(expected) == 4
    assert expected <= saved


def test_two_views_that_are_open_at_once_do_not_mix(tmp_path: Path) -> None:
    (first, one), (second, two) = opened(tmp_path, "first"), opened(tmp_path, "second")
    first.metrics(1, {"train/loss": 1.0})
    second.metrics(1, {"train/loss": 2.0})
    first.metrics(2, {"train/loss": 1.5})
    first.close(one, {"status": "finished"}, failed=False)
    second.metrics(3, {"train/loss": 2.5})  # which goes on after the other's end
    second.close(two, {"status": "finished"}, failed=False)
    assert [row["train/loss"] for row in history(one) if "train/loss" in row] == [1.0, 1.5]
    assert [row["train/loss"] for row in history(two) if "train/loss" in row] == [2.0, 2.5]
    assert any(record["type"] == "exit" for record in records(two))
    assert wandb.run is None


def identity(folder: RunFolder) -> dict[str, Any]:
    return {"run": folder.run, "study": "reach", "model": "gru", "task": "adding", "seed": 0, "config": {}}


def recorded(path: Path, name: str, mode: Mode, **settings: float) -> tuple[RunRecorder, WandbView, RunFolder]:
    folder = RunFolder(path / name)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_card(CARD)
    view = WandbView(folder.path, identity(folder), mode, "project", None, "reach", **settings)
    return RunRecorder(folder, identity(folder), view), view, folder


def test_a_view_that_cannot_take_the_tables_costs_the_record_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    recorder, view, folder = recorded(tmp_path, "run", "offline")
    recorder.metrics(2, {"train/loss": 0.25})
    monkeypatch.setattr(view, "_attach", full)
    recorder.close("finished", {"score": 1.0})
    assert capfd.readouterr().err == "retrograde: W&B could not take the tables: [Errno 28] No space left on device\n"
    assert folder.read() == {
        **identity(folder),
        "status": "finished",
        "score": 1.0,
        "tables": ["metrics"],
        "wandb": "could not take the tables: [Errno 28] No space left on device",
    }
    assert stored(folder.tables, "metrics")["step"].to_pylist() == [2]
    assert any(record["type"] == "exit" for record in records(folder))  # it was closed all the same


KILLED = """
import os, signal, sys, time
from pathlib import Path

from retrograde.record.folder import RunFolder
from retrograde.record.recorder import RunRecorder
from retrograde.record.view import WandbView

folder = RunFolder(Path(sys.argv[1]))
identity = {"run": folder.run, "study": "reach", "model": "gru", "task": "adding", "seed": 0, "config": {}}
view = WandbView(folder.path, identity, "offline", "project", None, "reach")
recorder = RunRecorder(folder, identity, view)
children = [child for one in Path("/proc/self/task").iterdir() for child in (one / "children").read_text().split()]
(core,) = (child for child in children if "wandb-core" in Path(f"/proc/{child}/comm").read_text())
os.kill(int(core), signal.SIGKILL)
deadline = time.monotonic() + 5
while not view.lost and time.monotonic() < deadline:  # a message or two may still find their way into the socket
    recorder.metrics(2, {"train/loss": 0.25})
    time.sleep(0.01)
recorder.close("finished", {"score": 1.0})
again = WandbView(folder.path.with_name("again"), identity, "offline", "project", None, "reach")
again.metrics(1, {"train/loss": 0.5})
again.close(RunFolder(folder.path.with_name("again")), {}, failed=False)
assert set(again.failures) == {"take the tables"}  # there are none
"""


def test_when_w_and_b_dies_the_run_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    again = RunFolder(tmp_path / "again")
    again.path.mkdir()
    again.write({**identity(again), "status": "running"})
    command = [sys.executable, "-W", "error", "-c", KILLED, str(folder.path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    first, second = [line for line in ended.stderr.splitlines() if line.startswith("retrograde:")]
    assert first.startswith("retrograde: W&B could not log: ")
    assert second.startswith("retrograde: W&B could not take the tables: ")  # of the run that came after it
    assert (folder.read()["status"], folder.read()["wandb"]) == ("finished", first.partition("W&B ")[2])
    assert set(stored(folder.tables, "metrics")["step"].to_pylist()) == {2}
    assert history(again)[0] == {STEP: 1, "train/loss": 0.5}


def test_a_view_that_cannot_note_what_it_could_not_do_costs_the_record_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A disk that is full from the end of the record on."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    recorder, view, folder = recorded(tmp_path, "run", "offline")
    monkeypatch.setattr(view, "_attach", full)
    true = RunFolder.write
    monkeypatch.setattr(RunFolder, "write", lambda at, said: full() if "wandb" in said else true(at, said))
    recorder.close("finished", {"score": 1.0})
    assert capfd.readouterr().err.splitlines() == [
        f"retrograde: W&B could not {what}: [Errno 28] No space left on device"
        for what in ("take the tables", "note that in run.json")
    ]
    assert folder.read()["status"] == "finished" and "wandb" not in folder.read()


def test_a_process_of_w_and_b_that_ends_badly_ends_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """W&B itself would exit with its code."""

    def ends(*_: object) -> None:
        raise SystemExit(-9)

    recorder, _, folder = recorded(tmp_path, "run", "offline")
    monkeypatch.setattr(wandb, "teardown", ends)
    recorder.close("finished", {"score": 1.0})
    monkeypatch.undo()
    assert capfd.readouterr().err == "retrograde: W&B could not end: its process ended with -9\n"
    assert folder.read()["wandb"] == "could not end: its process ended with -9"


def test_a_run_whose_process_was_started_ahead_is_as_any_other(tmp_path: Path) -> None:
    ends, shows = sys.exit, sys.excepthook
    for name in ("first", "second"):
        view, folder = opened(tmp_path, name)
        view.metrics(2, {"train/loss": 0.5})
        view.close(folder, {"score": 1.0}, failed=False)
        assert history(folder)[0] == {STEP: 2, "train/loss": 0.5}
        start_ahead()
    assert WandbView.starting is not None
    WandbView.starting.join()
    assert wandb.setup().assert_service().owns_service  # which is there before anybody asks
    assert (sys.exit, sys.excepthook) == (ends, shows)  # W&B puts its own in their place, each time on top


STARTED = "import os, time; from retrograde.record.view import start_ahead; start_ahead(); "


@pytest.mark.parametrize("then", ["", "time.sleep(0.03)", "os._exit(0)"])
def test_a_process_that_exits_while_w_and_b_starts_leaves_nothing_behind(then: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", STARTED + then], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as one:
        assert (one.communicate(timeout=60)[0], one.returncode) == (b"", 0)
    deadline = time.monotonic() + (10 if "_exit" in then else 0)  # then W&B's process has to notice it by itself
    while (left := of_w_and_b(one.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def of_w_and_b(process: int) -> list[str]:
    """The processes that W&B has started for that one."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if b"wandb-core" in words[0] and str(process).encode() in words:
            found.append(file.parent.name)
    return found


class Trouble:
    """A regularizer that adds nothing and, once, does ``due`` in the middle of a step, which no setting tells."""

    due: ClassVar[Callable[[], object] | None] = None
    at: ClassVar[int] = 12

    def __call__(self, model: SequenceModel, task: Task, batch: Batch, step: int) -> None:
        if Trouble.due is not None and step == Trouble.at:
            due, Trouble.due = Trouble.due, None
            due()


def trained(outputs: Path, mode: str, **settings: float) -> retrograde.Run:
    return retrograde.fit(
        partial(transformer, hidden=8, layers=1, heads=2, feedforward=8),
        Adding(length=6),
        steps=20,
        trainer=TrainerSettings(accelerator="cpu", log_every=5, validate_every=10, test_samples=8),
        recorder=RecorderSettings(mode=mode, **settings),
        regularizer=Trouble(),
        alerts=AlertSettings(collapsed=1.0),  # which every attention is below
        outputs=outputs,
    )


def assert_arrived_whole(server: LoopbackServer, run: retrograde.Run) -> None:
    assert server.unknown == []
    assert list(server.runs) == [run.folder.run]
    arrived = server.runs[run.folder.run]
    assert (arrived.group, arrived.exit_code) == ("python", 0)

    for row in run.metrics().to_dict("records"):
        name = f"{row['split']}/{row['quantity']}"
        assert any(one.get(name) == row["value"] and one[STEP] == row["step"] for one in arrived.rows if STEP in one)
    steps = {row[STEP] for row in arrived.rows if "parameters/weight/parameters/all" in row}
    assert steps == set(run.readings("parameters/weight")["step"])
    drawn = {value["path"] for row in arrived.rows for value in row.values() if isinstance(value, dict)}
    assert any("attention/map" in path for path in drawn)
    assert drawn <= arrived.files.keys()

    tables = {f"retrograde/{f.relative_to(run.folder.tables).as_posix()}": f for f in run.folder.tables.rglob("*.*")}
    assert {name for name in tables if name.count("/") == 3}  # readings/<probe>/<quantity>
    received = {name: content for name, content in arrived.files.items() if name.startswith("retrograde/")}
    assert received.keys() == tables.keys() | {"retrograde/card.json", "retrograde/metadata.json"}
    assert all(received[name] == file.read_bytes() for name, file in tables.items())
    assert json.loads(received["retrograde/card.json"]) == run.folder.read_card()
    assert json.loads(received["retrograde/metadata.json"]) == run.metadata
    assert arrived.summary["score"] == run.metadata["score"]
    held = [alert["text"] for alert in run.metadata["alerts"] if alert["at_end"]]
    assert held and [alert["text"] for alert in arrived.alerts] == held


def test_a_sync_delivers_all_rows_and_all_tables(server: LoopbackServer, tmp_path: Path) -> None:
    run = trained(tmp_path, "offline")
    assert server.runs == {}
    (offline,) = (run.folder.path / "wandb").glob("offline-run-*")
    subprocess.run([sys.executable, "-m", "wandb", "sync", str(offline)], check=True, capture_output=True, timeout=60)
    assert_arrived_whole(server, run)


def test_an_online_run_delivers_them_as_it_goes(server: LoopbackServer, tmp_path: Path) -> None:
    assert_arrived_whole(server, trained(tmp_path, "online"))


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_an_interrupted_run_is_one_run_with_all_rows(server: LoopbackServer, tmp_path: Path, mode: str) -> None:
    Trouble.due = partial(os.kill, os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit):
        trained(tmp_path, mode)
    run = trained(tmp_path, mode)
    assert [attempt.get("from_step") for attempt in run.metadata["attempts"]] == [None, 12]
    logs, left_out = read_logs(run.folder.path)
    assert (len(logs), left_out) == (2, {})
    if mode == "offline":
        folders = [str(log.folder) for log in logs]
        command = [sys.executable, "-m", "wandb", "sync", *folders]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert_arrived_whole(server, run)  # one run, its id, its group, all numbers of the tables
    arrived = server.runs[run.folder.run].rows
    assert [row["_step"] for row in arrived] == list(range(len(arrived)))
    assert [row["_timestamp"] for row in arrived] == [row["_timestamp"] for log in logs for row in log.rows]


@pytest.mark.parametrize("trouble", ["down", "failing", "hanging"])
def test_a_server_out_of_reach_leaves_a_run_offline(
    server: LoopbackServer, tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    if trouble == "down":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    else:
        server.trouble = trouble
    begun = time.monotonic()
    recorder, view, folder = recorded(tmp_path, "run", "online", init_timeout=0.5)
    assert time.monotonic() - begun < 20  # of which a busy machine takes most
    assert view.run.offline
    recorder.metrics(1, {"train/loss": 0.5})
    recorder.close("finished", {"score": 1.0})
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("retrograde: W&B could not start online, so that the run goes on offline: ")
    assert folder.read()["wandb"] == line.partition("W&B ")[2]
    assert history(folder)[0] == {STEP: 1, "train/loss": 0.5}


@pytest.mark.parametrize(
    ("key", "trouble", "message"),
    [
        ("0" * 40, "refusing", "returned error 401"),
        ("short", None, "API key must have 40"),
        (None, None, "No API key configured"),
    ],
)
def test_a_wrong_key_is_said_before_training(
    server: LoopbackServer, tmp_path: Path, key: str | None, trouble: str | None, message: str, monkeypatch: Any
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY") if key is None else monkeypatch.setenv("WANDB_API_KEY", key)
    server.trouble = trouble
    with pytest.raises(
        ValueError, match=rf"^recorder.mode=online: .*{message}.*choose recorder.mode=offline$"
    ) as error:
        trained(tmp_path, "online")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("**/run.json"))  # nothing was begun


@pytest.mark.parametrize(
    ("trouble", "reasons"),
    [
        ("failing", ["Timed out finishing run."]),
        ("hanging", ["Timed out finishing run.", "the server does not answer"]),  # W&B notices only now and then
    ],
)
def test_an_outage_holds_a_run_no_longer_than_it_is_told(
    server: LoopbackServer,
    tmp_path: Path,
    trouble: str,
    reasons: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
) -> None:
    monkeypatch.setattr("retrograde.record.view.GRACE", 1.5)
    recorder, _, folder = recorded(tmp_path, "run", "online", finish_timeout=1.0)
    recorder.metrics(1, {"train/loss": 0.5})
    server.trouble = trouble
    recorder.metrics(2, {"train/loss": 0.25})
    begun = time.monotonic()
    recorder.close("finished", {"score": 1.0})
    assert time.monotonic() - begun < 6
    whys = [f"could not take everything within 1 s (analysis/sync.py uploads the rest): {reason}" for reason in reasons]
    assert folder.read()["status"] == "finished"
    assert folder.read()["wandb"] in whys
    assert capfd.readouterr().err == f"retrograde: W&B {folder.read()['wandb']}\n"
    (log,), _ = read_logs(folder.path)  # which holds everything, so that it can be uploaded later
    assert [row.get("train/loss") for row in log.rows] == [0.5, 0.25, None]
    assert log.ended and log.summary["score"] == 1.0


def test_a_version_of_w_and_b_whose_process_cannot_be_ended_costs_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """It is found by names of W&B's own that are not public."""
    monkeypatch.setattr("retrograde.record.view.GRACE", 0.1)
    recorder, view, folder = recorded(tmp_path, "run", "offline", finish_timeout=0.1)
    answered = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(view.run, "finish", lambda exit_code: answered.wait())
        patch.delattr(wandb.setup().assert_service(), "_proc")
        recorder.close("finished", {"score": 1.0})
    answered.set()
    (line,) = capfd.readouterr().err.splitlines()
    assert re.search(r"the server does not answer, and W&B 0\.31\.\S+ waits for it until this process is ended$", line)
    assert folder.read()["wandb"] == line.partition("W&B ")[2]


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_no_key_reaches_a_file_or_the_terminal(
    server: LoopbackServer, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    secrets = {"WANDB_API_KEY": "local-" + "5ec2e7" * 7, "HF_TOKEN": "hf_" + "70ce9" * 6}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)

    def fail() -> None:
        try:
            raise OSError(5, f"no answer for {secrets['HF_TOKEN']}")
        except OSError as error:
            raise RuntimeError(f"refused {secrets['WANDB_API_KEY']}") from error

    trained(tmp_path / "good", mode)
    Trouble.due = fail
    with pytest.raises(RuntimeError, match=r"^refused \[a secret\]$"):
        trained(tmp_path / "bad", mode)
    wandb.teardown()
    assert (server.keys == {secrets["WANDB_API_KEY"]}) == (mode == "online")  # it was in use
    (trace,) = tmp_path.glob("bad/**/traceback.txt")
    assert "no answer for [a secret]" in trace.read_text()
    texts = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert {".json", ".log", ".wandb", ".parquet", ".ckpt", ".txt"} <= {file.suffix for file in texts}
    printed = capfd.readouterr()
    for secret in secrets.values():
        assert [file for file, content in texts.items() if secret.encode() in content] == []
        assert secret not in printed.out + printed.err


def test_no_view_is_opened_where_none_is_wanted(server: LoopbackServer, tmp_path: Path) -> None:
    run = trained(tmp_path, "disabled")
    assert not (run.folder.path / "wandb").exists()
    assert server.runs == {}
