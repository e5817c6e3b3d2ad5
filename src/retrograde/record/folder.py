"""A run's folder: what it is called and what lies in it.

<outputs>/<study>/<model>-<task>-s<seed>-<hash>/
    run.json        who, what, with which settings and versions; how it ended; its summary
    card.json       the task's card
    tables/         see ``tables``
    checkpoints/    best.ckpt by validation, last.ckpt; nonfinite.pt, the step that ended a run which diverged
    wandb/          the W&B run
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:  # the only use; at run time it would load torch
    from retrograde.core.contracts import Card

NOT_PART_OF_THE_RESULT = (
    "hydra",
    "launcher",
    "sweeper",
    "recorder",
    "alerts",
    "progress",
    "plan",
    "size",
    "together",
    "outputs",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.nodes",
    "trainer.strategy",
    "trainer.threads",
    "trainer.form",
    "form",
)
"""Settings that a run may change without becoming another run."""

FINISHED, FAILED, INTERRUPTED, RUNNING = "finished", "failed", "interrupted", "running"
"""What run.json says of a run."""

CLAIMED, LOST, NOT_BEGUN = "claimed", "lost", "not begun"
"""What only a look at the folder shows: that a process is at work on it; that it says running and none is; that it says
nothing yet."""

NAME = re.compile(r"(?P<stem>.+)-s(?P<seed>[^-]*)-[0-9a-f]{10}")
"""What a run is called, see ``run_name``."""

PARTS = ("tables", "checkpoints", "wandb", ".hydra")
"""Folders inside a run's, which hold no other run."""

CLAIM = ".claim"
ATTEMPTS, PAUSE = 5, 0.02
"""Who asks for a run's owner holds its lock for a moment, which must not keep anybody from claiming it."""


class Claimed(ValueError):
    """Another process is at work on the run."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run; ``run`` is its name, unique among all runs."""

    path: Path

    @property
    def run(self) -> str:
        return self.path.name

    @property
    def tables(self) -> Path:
        return self.path / "tables"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def read(self) -> dict[str, Any]:
        """What run.json says; raises ValueError, naming the file, where it is not a run's."""
        metadata = _read_json(self.path / "run.json")
        if metadata.get("run") != self.run or "status" not in metadata:
            raise ValueError(f"{self.path / 'run.json'} does not describe run {self.run}")
        return metadata

    def write(self, metadata: Mapping[str, Any]) -> None:
        _write_json(self.path / "run.json", metadata)

    def read_card(self) -> dict[str, Any]:
        """The task's card; raises ValueError, naming the file, where there is none."""
        return _read_json(self.path / "card.json")

    def write_card(self, card: "Card") -> None:
        _write_json(self.path / "card.json", asdict(card))

    def clear(self) -> None:
        """An empty run's folder: what an attempt that did not finish has left is taken away."""
        self.path.mkdir(parents=True, exist_ok=True)
        for file in ("run.json", "traceback.txt"):
            (self.path / file).unlink(missing_ok=True)
        for leftover in (self.tables, self.checkpoints, self.path / "wandb"):
            if leftover.exists():
                shutil.rmtree(leftover)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """For as long as this lasts the run is this process's own; raises Claimed where it is another's.

        The claim is a lock on a file, which says whose it is: it ends with the process, however that ends.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        claim = self.path / CLAIM
        if os.path.lexists(claim) and not claim.is_file():
            raise ValueError(f"{claim} cannot be locked: it is no file")
        with claim.open("a+") as file:
            if not _locked(file, fcntl.LOCK_EX):
                raise Claimed(f"another process is at work on {self.path}")
            file.truncate(0)
            print(os.getpid(), socket.gethostname(), file=file, flush=True)
            yield

    def owner(self) -> tuple[int, str] | None:
        """Process and machine that are at work on the run, as far as this machine knows; None where none is."""
        try:
            with regular(self.path / CLAIM).open(errors="replace") as file:
                if _locked(file, fcntl.LOCK_SH, attempts=1):  # which those who ask have in common
                    return None
                process, _, machine = file.read().strip().partition(" ")
        except (OSError, ValueError):  # nobody can be at work on what cannot be claimed
            return None
        return (int(process), machine) if process.isdecimal() else (0, machine)  # it has not said so yet

    def is_interrupted(self) -> bool:
        """Whether an attempt ended before its end, by a signal or without a word, so that it can be gone on from."""
        if not (self.path / "run.json").exists():
            return False
        try:
            return self.read()["status"] in (RUNNING, INTERRUPTED)
        except ValueError:  # nobody can go on from what cannot be read
            return False

    def is_finished(self) -> bool:
        return (self.path / "run.json").exists() and self.read()["status"] == FINISHED


def status_of(folder: RunFolder) -> str | None:
    """FINISHED, FAILED, INTERRUPTED, CLAIMED or LOST, as the folder shows it; None where nothing has begun.

    A run whose record cannot be read has failed. One that says running is lost where nobody is at work on it.
    """
    record = folder.path / "run.json"
    while True:
        before = stamp(record)
        try:
            status = folder.read()["status"] if record.exists() else None
        except ValueError:
            status = FAILED
        if folder.owner() is not None:
            return CLAIMED
        if stamp(record) == before:  # else it has begun or ended in between
            return status if status in (None, FINISHED, FAILED, INTERRUPTED) else LOST


def run_folders(root: Path) -> Iterator[RunFolder]:
    """Every folder that is a run's, ``root`` or below it: it holds run.json, or is called as runs are.

    One that cannot be looked into comes too, whatever it holds, so that who reads it learns why.
    """
    closed: list[OSError] = []
    for place, inside, files in os.walk(root.resolve(), onerror=closed.append):
        folder = RunFolder(Path(place))
        if "run.json" in files or NAME.fullmatch(folder.run):
            inside[:] = [name for name in inside if name not in PARTS]
            yield folder
        inside.sort()
    yield from (RunFolder(Path(error.filename)) for error in closed if not isinstance(error, FileNotFoundError))


def _locked(file: IO[str], kind: int, attempts: int = ATTEMPTS) -> bool:
    for _ in range(attempts):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(PAUSE)
    return False


def run_name(model: str, task: str, config: Mapping[str, Any]) -> str:
    """A readable stem and a hash of every setting that bears on the result."""
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{model}-{task}-s{config['seed']}")
    return f"{stem}-{config_hash(config)}"


def config_hash(config: Mapping[str, Any]) -> str:
    """Ten hexadecimal digits; the order of keys does not matter."""
    canonical = json.dumps(_without(config, ""), sort_keys=True)  # an object has no name that would last
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def _without(config: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        key: _without(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in config.items()
        if f"{prefix}{key}" not in NOT_PART_OF_THE_RESULT
    }


def regular(path: Path) -> Path:
    """The path, of a file; raises ValueError for anything else: a pipe would be waited for without end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no file")
    return path


def stamp(file: Path) -> tuple[int, ...] | None:
    """What changes where a file is replaced; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(regular(path).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} cannot be read: it holds no mapping")
    return content


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A file to write in place of ``path``, which then appears whole or, where writing fails, not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield unfinished
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with aside(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1, default=str))
