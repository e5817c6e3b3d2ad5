"""A run is called by its settings: by all that bear on the result, and by nothing else."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fake_runs import CARD
from retrograde.record.folder import (
    CLAIM,
    CLAIMED,
    FAILED,
    FINISHED,
    INTERRUPTED,
    LOST,
    RUNNING,
    RunFolder,
    config_hash,
    run_name,
    status_of,
)

CONFIG: dict[str, Any] = {
    "model": {"_target_": "retrograde.models.lstm.lstm", "hidden": 64, "dropout": 0.0},
    "task": {"length": 50},
    "trainer": {"accelerator": "auto", "devices": 1, "clip": 1.0},
    "recorder": {"mode": "offline"},
    "outputs": "outputs",
    "progress": True,
    "seed": 0,
    "study": "reach",
}


def changed(path: str, value: object) -> dict[str, Any]:
    """The settings with one of them changed, or added."""
    config = json.loads(json.dumps(CONFIG))
    *parents, key = path.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[key] = value
    return config


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("recorder.mode", "online"),
        ("recorder", {"mode": "disabled", "project": "other"}),
        ("outputs", "/elsewhere"),
        ("progress", False),
        ("trainer.accelerator", "gpu"),
        ("trainer.devices", 4),
        ("hydra", {"job": {"num": 3}}),
        ("launcher", "joblib"),
    ],
)
def test_watching_recording_and_where_do_not_name_a_run(path: str, value: object) -> None:
    assert config_hash(changed(path, value)) == config_hash(CONFIG)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 1),
        ("model.hidden", 32),
        ("model.dropout", 0),  # a whole number is another text than 0.0, and counts as another setting
        ("model.layers", 1),
        ("trainer.clip", None),
        ("task.length", 51),
        ("study", "demo"),
        ("model.progress", True),  # only the key at the top is the bar
        ("task.devices", 1),
    ],
)
def test_everything_else_does(path: str, value: object) -> None:
    assert config_hash(changed(path, value)) != config_hash(CONFIG)


def test_the_order_of_keys_does_not_matter() -> None:
    turned = {key: dict(reversed(v.items())) if isinstance(v, dict) else v for key, v in reversed(CONFIG.items())}
    assert list(turned) != list(CONFIG)
    assert config_hash(turned) == config_hash(CONFIG)


def test_the_hash_is_the_same_on_every_machine_and_day() -> None:
    assert config_hash({"seed": 0, "model": {"hidden": 64}}) == "f883fb10ea"


def test_a_name_reads_as_model_task_and_seed() -> None:
    name = run_name("lstm", "adding", CONFIG)
    assert re.fullmatch(r"lstm-adding-s0-[0-9a-f]{10}", name)
    assert run_name("lstm", "adding", changed("seed", 12)).startswith("lstm-adding-s12-")
    assert run_name("mine/best one", "a:b", CONFIG).startswith("mine_best_one-a_b-s0-")  # as a folder can be called


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.write({"run": "run", "status": "running", "score": float("-inf")})
    assert folder.read() == {"run": "run", "status": "running", "score": float("-inf")}
    assert not folder.is_finished()
    folder.write({"run": "run", "status": "finished"})
    assert folder.is_finished()
    folder.write_card(CARD)
    assert folder.read_card()["lags"] == [list(pair) for pair in CARD.lags]
    assert sorted(path.name for path in folder.path.iterdir()) == ["card.json", "run.json"]


def test_a_folder_without_a_record_is_not_finished(tmp_path: Path) -> None:
    assert not RunFolder(tmp_path).is_finished()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read"),
        ('{"run": "run", "sta', "cannot be read"),
        ("[1]", "cannot be read"),
        ('{"run": "another", "status": "finished"}', "does not describe run run"),
        ('{"run": "run"}', "does not describe run run"),
    ],
)
def test_a_record_that_is_not_the_run_s_is_named_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    (folder.path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        folder.read()
    assert str(folder.path / "run.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_write_that_breaks_off_leaves_the_record_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.write({"run": tmp_path.name, "status": "running"})

    def dies(path: Path, text: str) -> None:
        path.open("w").close()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", dies)
    with pytest.raises(KeyboardInterrupt):
        folder.write({"run": tmp_path.name, "status": "finished"})
    assert folder.read()["status"] == "running"


def test_clearing_takes_away_what_an_earlier_attempt_left_and_nothing_else(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.clear()
    for left in ("tables/metrics.parquet", "checkpoints/best.ckpt", "wandb/debug.log", "run.json", "notes.txt"):
        (folder.path / left).parent.mkdir(exist_ok=True)
        (folder.path / left).touch()
    folder.clear()
    assert [path.name for path in folder.path.iterdir()] == ["notes.txt"]


def test_clearing_takes_away_the_traceback_of_a_failed_attempt(tmp_path: Path) -> None:
    (tmp_path / "traceback.txt").touch()
    RunFolder(tmp_path).clear()
    assert not (tmp_path / "traceback.txt").exists()


def test_a_run_is_one_process_s_at_a_time(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    refused = pytest.raises(ValueError, match=r"^another process is at work on .*/run$")
    with folder.claimed(), refused, folder.claimed():
        pass
    with folder.claimed():  # a claim ends with its holder
        pass


NO_FILES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "endless": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("made", NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path: Path, made: Callable[[Path], object]) -> None:
    folder = RunFolder(tmp_path)
    made(tmp_path / "run.json")
    with pytest.raises(ValueError, match=r"/run\.json cannot be read: it is no file$"):
        folder.read()
    assert status_of(folder) == FAILED
    made(tmp_path / CLAIM)
    assert folder.owner() is None
    with pytest.raises(ValueError, match=rf"/{CLAIM} cannot be locked: it is no file$"), folder.claimed():
        pass


@pytest.mark.parametrize(
    ("said", "status"),
    [(None, None), (FINISHED, FINISHED), (FAILED, FAILED), (INTERRUPTED, INTERRUPTED), (RUNNING, LOST), ("?", LOST)],
)
def test_what_becomes_of_a_run_is_what_its_folder_says(tmp_path: Path, said: str | None, status: str | None) -> None:
    folder = RunFolder(tmp_path)
    if said is not None:
        folder.write({"run": folder.run, "status": said})
    assert status_of(folder) == status
    with folder.claimed():
        assert status_of(folder) == CLAIMED
    assert status_of(folder) == status


@pytest.mark.parametrize(("before", "after"), [(None, RUNNING), (RUNNING, FINISHED)])
def test_a_run_that_begins_or_ends_while_it_is_looked_at_is_not_taken_for_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None, after: str
) -> None:
    """Between a look at what it says and one at who is at work on it."""
    folder = RunFolder(tmp_path)
    if before is not None:
        folder.write({"run": folder.run, "status": before})
    looks: list[int] = []

    def owner(folder: RunFolder) -> tuple[int, str] | None:
        looks.append(1)
        if len(looks) == 1:
            folder.write({"run": folder.run, "status": after})
        return (4711, "machine") if len(looks) > 1 and after == RUNNING else None

    monkeypatch.setattr(RunFolder, "owner", owner)
    assert status_of(folder) == (CLAIMED if after == RUNNING else FINISHED)


def test_a_claim_that_says_nothing_readable_is_a_claim_all_the_same(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.claimed():
        (tmp_path / CLAIM).write_bytes(b"\xb2\xff machine")
        assert folder.owner() == (0, "machine")


def test_settings_that_have_no_lasting_name_are_refused() -> None:
    with pytest.raises(TypeError):
        config_hash({"seed": 0, "model": {"hidden": object()}})
