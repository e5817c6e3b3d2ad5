"""Whatever is damaged in a run's folder, nothing else is lost, it is named, and nothing is called that was not trusted.

``damage_long.py`` is the long form.
"""

import json
import os
import re
import shutil
from pathlib import Path
from random import Random

import pandas as pd
import pytest

from damage import (
    NESTED,
    Done,
    Everything,
    damage,
    everything,
    faults,
    restore,
    write_few,
    write_not_begun,
)
from fake_runs import Fake, write_run
from retrograde.figures.comparison import comparisons, exceptions
from retrograde.record.metadata import LARGEST
from retrograde.record.store import FolderStore

DAMAGES, TOGETHER = 60, 6


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("good")
    write_few(outputs)
    return outputs


@pytest.fixture(scope="module")
def before(good: Path) -> Everything:
    return everything(FolderStore(good))


@pytest.fixture(scope="module")
def outputs(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that each test leaves as it found it."""
    return Path(shutil.copytree(good, tmp_path_factory.mktemp("copy") / "outputs"))


def one(outputs: Path) -> Path:
    """A run's folder."""
    return sorted(outputs.glob("demo/lstm-*"))[0]


@pytest.mark.parametrize("first", range(0, DAMAGES, TOGETHER))
def test_damage_costs_what_is_damaged_and_is_named(first: int, good: Path, outputs: Path, before: Everything) -> None:
    for seed in range(first, first + TOGETHER):
        done = damage(outputs, Random(seed))
        found, _ = faults(before, outputs, done)
        restore(good, outputs, done)
        assert not found, (seed, done, found)


def test_what_is_found_would_be_found(good: Path, outputs: Path, before: Everything) -> None:
    """The comparison above sees a row that is another, a run that has gone, and a file that nobody names."""
    file = one(outputs) / "tables/labels.parquet"
    done = Done(file, "by hand")
    shutil.copy(sorted(outputs.glob("demo/gru-*"))[0] / "card.json", file)
    assert faults(before, outputs, done) == ([], True)
    assert faults(before, outputs, Done(file.parent / "metrics.parquet", "by hand"))[0]  # the wrong one is named
    shutil.rmtree(one(outputs))
    assert len(faults(before, outputs, done)[0]) > 3
    restore_from(good, outputs)
    assert faults(before, outputs, done) == ([], False)


def restore_from(good: Path, outputs: Path) -> None:
    shutil.copytree(good, outputs, dirs_exist_ok=True)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("seed", "0", r'seed must be a whole number, not "0"'),
        ("seed", True, "seed must be a whole number, not true"),
        ("seed", 2**63, "seed must be a whole number"),
        ("seed", 10**30, "it holds a whole number of more than 64 bits"),
        ("status", "done", 'status must be one of finished, failed, interrupted, running, not "done"'),
        ("status", [], "status must be one of .*, not a list"),
        ("model", "../../x\n", "model must be a name of 1 to 255 characters that can be printed"),
        ("study", "\u202egru", "study must be a name"),
        ("task", "x" * 256, "task must be a name"),
        ("config", None, "config must be a mapping, not null"),
        ("config", NESTED, "it is nested too deeply"),
        ("score", "0.9", 'score must be a number, not "0.9"'),
        ("solved", 1, "solved must be true or false, not 1"),
        ("reason", "\ud800", "surrogates not allowed"),
        ("alerts", [{"kind": "dead"}], r"alerts\[0\]\.level is missing"),
        ("versions", {"torch": 2}, r"versions\.torch must be a text of .*, not 2"),
        ("deep", "x" * LARGEST, "it has [0-9,]+ bytes, more than the"),
    ],
)
def test_run_json_that_does_not_describe_a_run_is_named_with_the_key(
    tmp_path: Path, key: str, value: object, why: str
) -> None:
    folder = write_run(tmp_path, Fake("gru"))
    write_run(tmp_path, Fake("lstm"))
    folder.write({**folder.read(), key: value})
    said = FolderStore(tmp_path).unreadable[folder.run]
    assert said.startswith(f"{folder.path / 'run.json'} cannot be read: ")
    assert re.search(why, said), said
    assert said.isprintable()


def test_what_may_be_missing_or_null_may(tmp_path: Path) -> None:
    folder = write_not_begun(tmp_path)
    folder.write({**folder.read(), "score": None, "solved": None, "commit": None, "loss": float("nan"), "own": [1]})
    store = FolderStore(tmp_path)
    assert (list(store.folders), store.unreadable) == ([folder.run], {})


def test_a_file_that_was_deleted_is_named_where_the_run_says_that_it_was_there(good: Path, outputs: Path) -> None:
    missing = one(outputs) / "tables/readings/lag_gradient/horizon.parquet"
    missing.unlink()
    store = FolderStore(outputs)
    restore_from(good, outputs)
    assert store.unreadable == {one(outputs).name: f"{missing} is missing"}
    assert FolderStore(outputs).unreadable == {}


def test_two_damaged_files_of_a_run_are_both_named(good: Path, outputs: Path) -> None:
    files = [one(outputs) / "tables" / name for name in ("metrics.parquet", "labels.parquet")]
    for file in files:
        file.write_bytes(b"")
    store = FolderStore(outputs)
    everything(store)
    restore_from(good, outputs)
    assert all(str(file) in store.unreadable[one(outputs).name] for file in files)


def test_parts_that_are_merged_while_they_are_read_are_read_once(
    outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader has listed the files of a run at work when that merges them."""
    from retrograde.record import store as module
    from retrograde.record.tables import TableWriter, table_files

    folder = sorted(outputs.glob("demo/gru-*"))[0]
    kept = {file: file.read_bytes() for file in (folder / "tables").rglob("metrics*/*")}
    whole = (folder / "tables/metrics.parquet").read_bytes()
    expected = FolderStore(folder).metrics()
    merged = []

    def listing(root: Path, name: str) -> list[Path]:
        files = table_files(root, name)
        if not merged:
            merged.append(True)
            TableWriter(root).merge()
        return files

    monkeypatch.setattr(module, "table_files", listing)
    store = FolderStore(folder)
    pd.testing.assert_frame_equal(store.metrics(), expected)
    assert merged and store.unreadable == {}
    (folder / "tables/metrics").mkdir()
    for file, content in kept.items():
        file.write_bytes(content)
    (folder / "tables/metrics.parquet").write_bytes(whole)


def test_a_folder_whose_name_cannot_be_printed_is_named_in_one_line(tmp_path: Path) -> None:
    write_run(tmp_path, Fake("gru"))
    for name in (os.fsdecode(b"\xff-adding"), "a\nb\u202e"):
        place = tmp_path / name
        place.mkdir()
        (place / "run.json").write_text(json.dumps({"run": place.name}))
    store = FolderStore(tmp_path)
    assert len(store.unreadable) == 2
    assert all(f"{run} {why}".isprintable() for run, why in store.unreadable.items())


def test_runs_that_failed_before_they_began_are_compared_with_those_on_their_task(tmp_path: Path) -> None:
    write_run(tmp_path, Fake("gru"))
    write_not_begun(tmp_path)
    (comparison,), left_out = comparisons(FolderStore(tmp_path))
    assert left_out == {}
    assert exceptions(comparison.runs) == ["rnn, seed 0, failed: task.length must be at least 2, not 1"]


def test_a_study_of_which_every_run_failed_before_it_began_says_why(tmp_path: Path) -> None:
    folder = write_not_begun(tmp_path)
    found, left_out = comparisons(FolderStore(tmp_path))
    assert found == []
    assert left_out == {folder.run: "rnn, seed 0, failed: task.length must be at least 2, not 1"}


def test_a_run_whose_card_is_damaged_is_shown_and_the_card_is_named(tmp_path: Path) -> None:
    folders = [write_run(tmp_path, Fake("gru", seed)) for seed in (0, 1)]
    (folders[1].path / "card.json").write_text("[]")
    (comparison,), left_out = comparisons(FolderStore(tmp_path))
    assert set(comparison.runs["run"]) == {folder.run for folder in folders}
    assert left_out == {
        folders[1].run: f"{folders[1].path}/card.json cannot be read: all of it must be a mapping, not a list"
    }


def test_a_run_that_nobody_is_at_work_on_says_so(tmp_path: Path) -> None:
    folders = [write_run(tmp_path, Fake("gru", seed, status="running")) for seed in (0, 1)]
    with folders[0].claimed():
        (comparison,), _ = comparisons(FolderStore(tmp_path))
    assert exceptions(comparison.runs) == [
        "gru, seed 0, is not finished",
        "gru, seed 1, is not finished: nobody is at work on it",
    ]


def test_a_claim_that_is_no_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    folder = write_run(tmp_path, Fake("gru", status="running"))
    os.mkfifo(folder.path / ".claim")
    assert not FolderStore(tmp_path).at_work(folder.run)
