"""A run that is interrupted goes on where it was, and records what it would have recorded undisturbed."""

import math
import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from torch import Tensor

from retrograde import Run, TrainerSettings
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch
from retrograde.models.gru import gru
from retrograde.models.linear_rnn import linear_rnn
from retrograde.models.transformer import transformer
from retrograde.probes.parameters import Parameters
from retrograde.probes.state_gradient import StateGradient
from retrograde.record.folder import INTERRUPTED, RUNNING, RunFolder
from retrograde.record.store import FolderStore
from retrograde.tasks.adding import Adding
from retrograde.train import checkpoints, closing, job
from retrograde.train.checkpoints import BEST, LAST, newest, read, weights_of
from retrograde.train.closing import alert_lines
from retrograde.train.interruption import Interrupted

pytestmark = pytest.mark.heavy

Fit = Callable[..., Run]

SMALL = TrainerSettings(accelerator="cpu", log_every=5, validate_every=5, validation_samples=32, test_samples=32)
PROBES = {"state_gradient": StateGradient(), "parameters": Parameters()}


class Bell:
    """A regularizer that adds nothing and, once, sends this process a signal in the middle of a step."""

    due: ClassVar[tuple[int, int] | None] = None
    """Step and signal: no part of the settings, so that the run has the same name with and without."""

    def __call__(self, model: SequenceModel, task: Task, batch: Batch, step: int) -> Tensor | None:
        if Bell.due is not None and step == Bell.due[0]:
            number, Bell.due = Bell.due[1], None
            os.kill(os.getpid(), number)
        return None


def tables(run: Path) -> dict[str, pd.DataFrame]:
    """Everything that was recorded."""
    store = FolderStore(run)
    named = {name: store.readings(name) for name in store.tables()}
    return {"metrics": store.metrics(), "labels": store.labels(), **named}


def require_equal(one: Path, other: Path) -> None:
    first, second = tables(one), tables(other)
    assert first.keys() == second.keys()
    for name, table in first.items():
        pd.testing.assert_frame_equal(table.drop(columns="run"), second[name].drop(columns="run"), check_exact=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (BEST, LAST)}


def only_run(outputs: Path) -> RunFolder:
    (file,) = outputs.glob("**/run.json")
    return RunFolder(file.parent)


WARMED = partial(torch.optim.lr_scheduler.LinearLR, start_factor=0.1, total_iters=15)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("settings", "at"),
    [
        ({"model": partial(gru, hidden=8)}, 1),
        ({"model": partial(gru, hidden=8), "scheduler": WARMED}, 7),
        ({"model": partial(transformer, hidden=8, heads=2, layers=1, dropout=0.5)}, 10),
        ({"model": partial(gru, hidden=8)}, 20),
    ],
)
def test_after_a_signal_it_goes_on_as_if_nothing_had_been(
    small_run: Fit, tmp_path: Path, settings: dict[str, Any], at: int, number: int
) -> None:
    undisturbed = small_run(**settings, probes=PROBES, regularizer=Bell())
    Bell.due = at, number
    with pytest.raises(Interrupted):
        small_run(**settings, probes=PROBES, regularizer=Bell(), outputs=tmp_path)
    folder = only_run(tmp_path)
    assert folder.read()["status"] == INTERRUPTED
    assert weights_of(folder.checkpoints / LAST)[1] == at
    resumed = small_run(**settings, probes=PROBES, regularizer=Bell(), outputs=tmp_path)
    assert [attempt.get("from_step") for attempt in resumed.metadata["attempts"]] == [None, at]
    require_equal(undisturbed.folder.path, resumed.folder.path)
    for name in ("score", "loss", "solved_step", "steps", "horizon", "horizon_start", "validation_score"):
        assert resumed.metadata[name] == undisturbed.metadata[name], name
    assert resumed.metadata["duration"] > resumed.metadata["probing"]["spent"]


def test_what_was_recorded_after_the_last_checkpoint_counts_once(small_run: Fit, tmp_path: Path) -> None:
    """As after a kill: the record is ahead of the checkpoint, up to the test itself, and no end was written."""
    undisturbed = small_run(probes=PROBES, regularizer=Bell())
    Bell.due = 7, signal.SIGTERM
    with pytest.raises(Interrupted):
        small_run(probes=PROBES, regularizer=Bell(), outputs=tmp_path)
    folder = only_run(tmp_path)
    of_seven = contents(folder.checkpoints)
    small_run(probes=PROBES, regularizer=Bell(), outputs=tmp_path)
    for kept, step in ((of_seven, 7), (contents(folder.checkpoints), 20)):  # training was over at 20
        for name, content in kept.items():
            (folder.checkpoints / name).write_bytes(content)
        folder.write({**folder.read(), "status": RUNNING})
        resumed = small_run(probes=PROBES, regularizer=Bell(), outputs=tmp_path)
        assert resumed.metadata["attempts"][-1]["from_step"] == step
        require_equal(undisturbed.folder.path, resumed.folder.path)


def test_a_divergence_is_still_known_when_the_test_was_interrupted(small_run: Fit, tmp_path: Path) -> None:
    settings = {"model": partial(linear_rnn, hidden=8, radius=2.0), "task": Adding(length=150), "probes": PROBES}
    settings |= {"trainer": replace(SMALL, clip=None)}
    undisturbed = small_run(**settings)
    assert undisturbed.metadata["diverged_step"] is not None
    small_run(**settings, outputs=tmp_path)
    folder = only_run(tmp_path)
    folder.write({**folder.read(), "status": "running"})
    resumed = small_run(**settings, outputs=tmp_path)
    assert resumed.metadata["nonfinite"] == undisturbed.metadata["nonfinite"]
    require_equal(undisturbed.folder.path, resumed.folder.path)


@pytest.mark.parametrize("damaged", ["checkpoints/last.ckpt", "tables/labels.parquet"])
def test_what_cannot_be_gone_on_from_begins_anew(small_run: Fit, tmp_path: Path, damaged: str) -> None:
    undisturbed = small_run(regularizer=Bell())
    Bell.due = 3, signal.SIGTERM
    with pytest.raises(Interrupted):
        small_run(regularizer=Bell(), outputs=tmp_path)
    folder = only_run(tmp_path)
    found = folder.path / damaged
    found.write_bytes(found.read_bytes()[:100])
    again = small_run(regularizer=Bell(), outputs=tmp_path)
    assert len(again.metadata["attempts"]) == 1
    require_equal(undisturbed.folder.path, again.folder.path)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Some bytes flipped, a block zeroed, or the end cut off."""
    place = chance.randrange(len(content))
    match chance.choice(["flip", "zero", "cut"]):
        case "flip":
            bad = bytearray(content)
            for flipped in (place, *chance.sample(range(len(content)), chance.choice([0, 0, 9]))):
                bad[flipped] ^= 1 << chance.randrange(8)
            return bytes(bad)
        case "zero":
            size = chance.choice([1, 16, 512, 4096])
            return content[:place] + bytes(min(size, len(content) - place)) + content[place + size :]
    return content[:place]


def test_what_is_read_of_a_damaged_checkpoint_is_nothing_or_all_of_it(finished: Run, tmp_path: Path) -> None:
    """torch writes a checksum with each tensor, and reads a tensor with flipped bytes without a look at it."""
    file = finished.folder.checkpoints / LAST
    whole, chance = read(file), random.Random(0)
    read_back = 0
    for _ in range(300):
        (tmp_path / LAST).write_bytes(damaged(file.read_bytes(), chance))
        with suppress(ValueError):
            newest(tmp_path, "cpu")
            read_back += 1  # what fills the file up was damaged
            assert same(read(tmp_path / LAST), whole)
    assert 0 < read_back < 100


def test_a_pipe_in_the_place_of_a_checkpoint_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LAST)
    with pytest.raises(ValueError, match=r"^last\.ckpt cannot be gone on from$"):
        newest(tmp_path, "cpu")


def put(content: Any, path: str, value: object) -> None:
    """Set what a path leads to, or take it away."""
    *parts, last = path.split(".")
    for part in parts:
        content = content[part]
    if value is MISSING:
        del content[last]
    else:
        content[last] = value


MISSING = object()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("global_step", "20"),
        ("global_step", MISSING),
        ("state_dict", MISSING),
        ("state_dict.model.readout.bias", [1.0]),
        ("state_dict", {3: torch.zeros(1)}),
        ("optimizer", [1]),
        ("schedulers", [None]),
        ("drawn", None),
        ("random", {"cpu": 3}),
        ("random", {0: torch.zeros(1)}),
        ("training", MISSING),
        ("training.best_score", "high"),
        ("training.diverged", {"loss": 1.0}),
        ("training.losses", MISSING),
        ("training.model", None),
        ("probing.horizons", [1.0]),
        ("probing.horizons", {"one": 1.0}),
        ("probing.horizons", {1: 2}),
        ("probing.firings", ["1.0"]),
        ("probing.trained", MISSING),
        ("seconds", None),
        ("ended", 1),
    ],
)
def test_what_is_no_moment_of_a_run_is_not_gone_on_from(
    finished: Run, tmp_path: Path, path: str, value: object
) -> None:
    content = read(finished.folder.checkpoints / LAST)
    torch.save(content, tmp_path / LAST)
    newest(tmp_path, "cpu")
    if path.startswith("state_dict."):
        content["state_dict"][path.removeprefix("state_dict.")] = value
    else:
        put(content, path, value)
    torch.save(content, tmp_path / LAST)
    with pytest.raises(ValueError, match=r"^last\.ckpt cannot be gone on from$"):
        newest(tmp_path, "cpu")


def test_a_run_whose_checkpoints_are_damaged_begins_anew_and_says_so(
    small_run: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Bell.due = 3, signal.SIGTERM
    with pytest.raises(Interrupted):
        small_run(regularizer=Bell(), outputs=tmp_path)
    folder = only_run(tmp_path)
    kept = sorted(folder.checkpoints.iterdir())
    assert kept
    for file in kept:
        file.write_bytes(file.read_bytes()[:500])
    capsys.readouterr()
    again = small_run(regularizer=Bell(), outputs=tmp_path)
    names = " and ".join(file.name for file in reversed(kept))
    note = f"begun anew, since {names} cannot be gone on from"
    assert again.metadata["notes"] == [note]
    assert capsys.readouterr().err == f"{folder.path}: {note}\n"
    assert len(again.metadata["attempts"]) == 1


def test_a_run_that_goes_on_from_the_older_of_two_checkpoints_says_so(small_run: Fit, tmp_path: Path) -> None:
    expected = []
    for step in (13, 18):  # each after a validation whose weights were kept
        Bell.due = step, signal.SIGTERM
        with pytest.raises(Interrupted):
            small_run(regularizer=Bell(), outputs=tmp_path)
        folder = only_run(tmp_path)
        last = folder.checkpoints / LAST
        last.write_bytes(last.read_bytes()[:500])
        kept = read(folder.checkpoints / BEST)["global_step"]
        assert 0 < kept < step
        expected.append(f"gone on with from step {kept}, since {LAST} cannot be gone on from")
    again = small_run(regularizer=Bell(), outputs=tmp_path)
    assert again.metadata["notes"] == list(dict.fromkeys(expected))
    assert [attempt.get("unread") for attempt in again.metadata["attempts"]] == [None, [LAST], [LAST]]


def test_a_moment_of_another_training_is_named_and_the_next_launch_begins_anew(small_run: Fit, tmp_path: Path) -> None:
    """As where the code was changed since."""
    Bell.due = 3, signal.SIGTERM
    with pytest.raises(Interrupted):
        small_run(regularizer=Bell(), outputs=tmp_path)
    folder = only_run(tmp_path)
    stopped, kept = folder.read(), (folder.checkpoints / LAST).read_bytes()
    others = {"state_dict": {"model.other": torch.zeros(1)}, "optimizer": {}, "drawn": torch.zeros(3), "random": {}}
    for name, value in others.items():
        folder.write(stopped)
        (folder.checkpoints / LAST).write_bytes(kept)
        torch.save({**read(folder.checkpoints / LAST), name: value}, folder.checkpoints / LAST)
        with pytest.raises(
            ValueError, match=r"checkpoints is of another model or optimizer than this run, of step 3: "
        ):
            small_run(regularizer=Bell(), outputs=tmp_path)
    again = small_run(regularizer=Bell(), outputs=tmp_path)
    assert len(again.metadata["attempts"]) == 1


def test_a_checkpoint_is_kept_where_it_is_due_and_all_is_known_to_be_finite(
    small_run: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "EVERY", 0.0)
    monkeypatch.setattr(checkpoints, "SHARE", math.inf)
    written: list[int] = []
    write = checkpoints.write_aside

    def noted(content: dict[str, Any], path: Path) -> None:
        written.append(content["global_step"])
        write(content, path)

    monkeypatch.setattr(checkpoints, "write_aside", noted)
    small_run(model=partial(gru, hidden=8))
    assert written == [1, 2, 3, 5, 6, 10, 15, 18, 20, 20]  # snapshots, logs and validations; and the end


def test_who_goes_on_with_other_code_is_told(small_run: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Bell.due = 3, signal.SIGTERM
    with pytest.raises(Interrupted):
        small_run(regularizer=Bell(), outputs=tmp_path)
    first = only_run(tmp_path).read()
    monkeypatch.setattr(job, "provenance", lambda: {"versions": first["versions"], "commit": "0123456789"})
    resumed = small_run(regularizer=Bell(), outputs=tmp_path)
    note = f"begun by code {first['commit']}, gone on with by 0123456789"
    assert resumed.metadata["notes"] == [note]
    assert alert_lines(resumed.metadata)[-1] == f"  note: {note}"
    assert closing.other_code(resumed.metadata) == f", by code 0123456789, which is {first['commit']} now"
