"""What a run does where its surroundings are hostile: one clear line, and nothing that was recorded is lost."""

import errno
import itertools
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from retrograde import Run
from retrograde.probes.parameters import Parameters
from retrograde.record import tables
from retrograde.record.folder import RunFolder
from retrograde.record.store import FolderStore
from retrograde.train import checkpoints
from retrograde.train.checkpoints import LAST, weights_of
from retrograde.train.errors import in_one_line

Fit = Callable[..., Run]
PROBES = {"parameters": Parameters()}


@dataclass
class Disk:
    """Stands in for a disk that is full after so many files."""

    left: int

    def full(self, write: Callable[..., None]) -> Callable[..., None]:
        def written(*given: object, **settings: object) -> None:
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(*given, **settings)

        return written


@pytest.mark.parametrize("left", [0, 1, 3, 6])
def test_a_full_disk_is_said_in_one_line_and_the_run_goes_on_once_there_is_room(
    small_run: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    undisturbed = small_run(probes=PROBES)
    disk = Disk(left)
    with monkeypatch.context() as patch:
        patch.setattr(tables, "write_aside", disk.full(tables.write_aside))
        patch.setattr(checkpoints, "write_aside", disk.full(checkpoints.write_aside))
        with pytest.raises(OSError) as raised:
            small_run(probes=PROBES, outputs=tmp_path)
    assert in_one_line(raised.value, []) == "no space left on device; outputs=FOLDER chooses another place"
    (file,) = tmp_path.glob("**/run.json")
    assert RunFolder(file.parent).owner() is None
    again = small_run(probes=PROBES, outputs=tmp_path)
    expected, found = (FolderStore(run.folder.path).metrics().drop(columns="run") for run in (undisturbed, again))
    assert found.equals(expected)


def test_a_checkpoint_that_found_no_room_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"state_dict": {}, "global_step": 1}
    checkpoints.write_aside(content, tmp_path / LAST)

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(bytes(data)[:50])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError):
            checkpoints.write_aside({**content, "global_step": 2}, tmp_path / LAST)
    assert weights_of(tmp_path / LAST)[1] == 1
    assert [file.name for file in tmp_path.iterdir()] == [LAST]


def test_a_clock_that_jumps_back_changes_nothing(small_run: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = small_run(probes=PROBES)
    backwards = itertools.count(2e9, -3600)
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: next(backwards))
        run = small_run(probes=PROBES)
    assert run.metadata["duration"] > 0
    assert run.metrics().drop(columns="run").equals(undisturbed.metrics().drop(columns="run"))


@pytest.mark.heavy
def test_a_home_that_cannot_be_written_to_is_done_without(tmp_path: Path, bin_folder: Path) -> None:
    settings = ("width=4", "task.length=5", "steps=3", "probe=none", "trainer.test_samples=8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "WANDB_", "MPL"))}
    ended = subprocess.run(
        [bin_folder / "retrograde", *settings, f"outputs={tmp_path}"],
        **{"capture_output": True, "text": True, "timeout": 100},  # type: ignore[call-overload]
        env={**environment, "HOME": "/proc/nowhere", "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"},
    )
    assert ended.returncode == 0, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("retrograde: '/proc/nowhere' cannot be written to: what libraries keep there goes to ")
    assert len(list(tmp_path.glob("**/*.wandb"))) == 1
