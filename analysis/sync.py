"""Uploads to W&B what is not there yet of the runs below a folder, and reads it back.

    python analysis/sync.py outputs/demo --dry-run
    python analysis/sync.py outputs/demo --project retrograde --entity my-team

Each run is a line: uploaded, already there, left alone because a process is at work on it, nothing to upload, or
missing, and what. A row is there where one with its time is, so that what has arrived is never sent twice, whichever
log it came by; its numbers, the summary and the files beside it are then compared with W&B's. The exit code is 1 where
anything is missing, which W&B's own command does not tell.
"""

import argparse
import base64
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb

from retrograde.record.folder import Claimed, RunFolder
from retrograde.record.metadata import number_of
from retrograde.record.project import md5_of
from retrograde.record.secret import redacted
from retrograde.record.store import FolderStore
from retrograde.record.view import in_one_line
from retrograde.record.wandb_log import Log, Row, flat, read_logs, write_rest

TOGETHER = 20
"""Runs that one command of W&B uploads, five at a time."""

UNSAID = ("_step", "_runtime")
"""Keys of a row that W&B counts anew where a run was resumed."""

TIME = "_timestamp"
KEPT = "retrograde", "media"
"""The folders of files that have to arrive: the tables, and pictures."""


@dataclass
class Kept:
    """What a run's folder holds for W&B."""

    logs: list[Log]
    lost: list[str]
    """What no upload brings."""

    @property
    def rows(self) -> list[Row]:
        return [row for log in self.logs for row in log.rows]

    @property
    def summary(self) -> Row:
        """What the last log says of each key, without W&B's own."""
        merged: Row = {}
        for log in self.logs:
            merged |= log.summary
        return {key: value for key, value in merged.items() if not key.startswith("_")}

    @property
    def files(self) -> dict[str, Path]:
        """The files by the name that W&B has for them; a later attempt's replace an earlier one's."""
        found = {}
        for log in self.logs:
            for file in (file for name in KEPT for file in (log.files / name).rglob("*")):
                if file.is_file() and not file.is_symlink():
                    found[file.relative_to(log.files).as_posix()] = file
        return found


@dataclass
class There:
    """What W&B holds of a run."""

    rows: list[Row] = field(default_factory=list)
    summary: Row = field(default_factory=dict)
    files: dict[str, tuple[int, str | None]] = field(default_factory=dict)
    state: str | None = None


@dataclass
class Place:
    """Where runs go, and how they are read back."""

    api: wandb.Api
    project: str | None
    entity: str | None

    def read(self, log: Log) -> There:
        """What is there; raises wandb.Error where W&B cannot say."""
        entity = self.entity or log.entity or self.api.default_entity
        if not entity:
            raise ValueError("W&B knows no user or team of yours to upload to: choose one with --entity")
        path = f"{entity}/{self.project or log.project or 'uncategorized'}/{log.id}"
        self.api.flush()  # it would answer from memory
        try:
            run = self.api.run(path)
        except wandb.errors.CommError as error:
            if "Could not find run" in str(error):
                return There()
            raise
        rows = [flat(row) for row in run.scan_history(use_cache=False)]
        files = {file.name: (file.size, file.md5) for file in run.files(per_page=500)}
        return There(rows, flat(run.summary_metrics), files, run.state)


def read_kept(folder: RunFolder) -> Kept:
    """The logs that hold something, in order of start; those of another run, or with foreign files, are left out."""
    logs, unreadable = read_logs(folder.path)
    lost = [] if logs else list(unreadable.values())  # beside others, what was killed before it began
    own = []
    for log in logs:
        if log.id != folder.run:
            lost.append(f"{log.file} is of run {log.id!r}")
        elif log.outside:
            lost.append(f"{log.file} would upload {log.outside[0]!r}, which is outside its folder")
        else:
            own.append(log)
    lost += [f"what {number_of(log.damaged, 'damaged place')} of {log.file} held" for log in own if log.damaged]
    if own and not own[-1].ended and folder.is_finished():
        lost.append(f"the end of {own[-1].file}, which is cut off")
    return Kept([log for log in own if log.rows or log.ended] or own[-1:], lost)


def missing(kept: Kept, there: There) -> list[str]:
    """What W&B does not hold of the logs, or holds differently, in words; empty where all is there."""
    found: list[str] = []
    by_time = {row.get(TIME): row for row in there.rows}
    absent = sum(row.get(TIME) not in by_time for row in kept.rows)
    if there.state is None:
        return ["the run"]
    if absent:
        found.append(f"{absent} of {number_of(len(kept.rows), 'row')}")
    other = sum(TIME in row and row[TIME] in by_time and not _same_row(row, by_time[row[TIME]]) for row in kept.rows)
    if other:
        found.append(f"what was logged in {number_of(other, 'row')} that W&B holds otherwise")
    keys = [key for key, value in sorted(kept.summary.items()) if not _same(value, there.summary.get(key))]
    if keys:
        found.append(f"the summary's {_named(keys)}")
    files = [name for name, file in sorted(kept.files.items()) if not _is_there(file, there.files.get(name))]
    if files:
        found.append(f"{number_of(len(files), 'file')}: {_named(files)}")
    if kept.logs and kept.logs[-1].ended and there.state in ("running", "crashed"):
        found.append("its end")
    return found


def uploads(kept: Kept, there: There, folder: Path) -> list[Path]:
    """The folders to upload, in order: whole logs as they are, and below ``folder`` the rest of others.

    From the first log on that lacks a row, because the last has the last word on the summary and the files.
    """
    arrived = {row.get(TIME) for row in there.rows}
    lacking = [any(row.get(TIME) not in arrived for row in log.rows) for log in kept.logs]
    first = lacking.index(True) if True in lacking else len(kept.logs) - 1
    chosen = []
    for log in kept.logs[first:]:
        is_new = log.ended and not log.damaged and not any(row.get(TIME) in arrived for row in log.rows)
        chosen.append(log.folder if is_new else write_rest(log, lambda row: row.get(TIME) not in arrived, folder))
    return chosen


def upload(folders: Sequence[Path], options: argparse.Namespace, scratch: Path) -> str:
    """What W&B's own command says on its error stream; its exit code says nothing."""
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", "--include-synced", "-n", "5"]
    command += ["--project", options.project] if options.project else []
    command += ["--entity", options.entity] if options.entity else []
    environment = {**os.environ, "WANDB_DIR": str(scratch)}  # else it writes into the working directory
    done = subprocess.run([*command, "--", *map(str, folders)], env=environment, capture_output=True, text=True)
    return done.stderr


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        store = FolderStore(options.outputs)
        with _scratch() as scratch:
            place = Place(wandb.Api(timeout=options.timeout), options.project, options.entity)
            names = list(store.folders)
            wanting = 0
            for at in range(0, len(names), TOGETHER):
                chosen = [store.folders[name] for name in names[at : at + TOGETHER]]
                wanting += _synced(chosen, place, options, scratch)
    except (ValueError, OSError, wandb.Error) as error:
        print(in_one_line(error), file=sys.stderr)
        return 1
    for run, why in store.unreadable.items():
        if run not in store.folders:  # else it is a table of a run, which is uploaded as it is
            print(f"missing: {run}: {why}")
            wanting += 1
    outcome = f"{wanting} not wholly in W&B" if wanting else "W&B holds all that is to be held"
    print(f"{number_of(len(names), 'run')}: {outcome}")
    return 1 if wanting else 0


def _synced(folders: Sequence[RunFolder], place: Place, options: argparse.Namespace, scratch: Path) -> int:
    """Uploads and verifies some runs, a line each; how many are not wholly there comes back."""
    wanting = 0
    with ExitStack() as claims, tempfile.TemporaryDirectory(dir=scratch) as rests:
        sent: list[tuple[RunFolder, Kept]] = []
        paths: list[Path] = []
        for folder in folders:
            if folder.owner() is not None:
                print(f"left alone: {folder.run}: a process is at work on it")
                continue
            if not options.dry_run:
                try:
                    claims.enter_context(folder.claimed())  # nobody begins to write while this reads
                except Claimed:
                    print(f"left alone: {folder.run}: a process is at work on it")
                    continue
                except (ValueError, OSError) as error:  # such as of somebody else's run
                    wanting += _said("", folder, [in_one_line(error)])
                    continue
            kept = read_kept(folder)
            if not kept.logs:
                wanting += _said("nothing to upload", folder, kept.lost)
                continue
            there = place.read(kept.logs[-1])
            lacking = missing(kept, there)
            if options.dry_run or not lacking:
                wanting += _said("already there", folder, lacking + kept.lost)
            else:
                rest = Path(rests) / str(len(sent))
                rest.mkdir()
                paths += uploads(kept, there, rest)
                sent.append((folder, kept))
        said = upload(paths, options, scratch) if paths else ""
        deadline = time.monotonic() + options.patience
        for folder, kept in sent:
            lacking = _verified(kept, place, deadline)
            wanting += _said("uploaded", folder, lacking + kept.lost)
            if lacking and (complaints := [line for line in said.splitlines() if re.search("error|fail", line, re.I)]):
                print(f"  {redacted(complaints[0])}", file=sys.stderr)
    return wanting


def _said(well: str, folder: RunFolder, lacking: Sequence[str]) -> bool:
    """Whether anything is missing, which is said of the run; else how it is well."""
    print(f"missing: {folder.run}: {'; '.join(lacking)}" if lacking else f"{well}: {folder.run}", flush=True)
    return bool(lacking)


def _verified(kept: Kept, place: Place, deadline: float) -> list[str]:
    """What is missing still; a server may take a while to show what it has received."""
    while (lacking := missing(kept, place.read(kept.logs[-1]))) and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(2.0, left))
    return lacking


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for what W&B writes, here and in its own command, and that nobody reads."""
    before = os.environ.get("WANDB_DIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["WANDB_DIR"] = folder
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ["WANDB_DIR"]
            else:
                os.environ["WANDB_DIR"] = before


def _same_row(row: Row, other: Row) -> bool:
    return all(_same(value, other.get(key)) for key, value in row.items() if key not in UNSAID)


def _same(value: Any, other: Any) -> bool:
    """W&B keeps what is not finite as a word, as null, or as it is."""
    if isinstance(value, float) and not math.isfinite(value):
        words = {"nan": ("NaN", None), "inf": ("Infinity",), "-inf": ("-Infinity",)}[str(value)]
        return other in words or (isinstance(other, float) and str(other) == str(value))
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_same, value, other))
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(_same(value[key], other[key]) for key in value)
    return bool(value == other)


def _is_there(file: Path, other: tuple[int, str | None] | None) -> bool:
    if other is None:
        return False
    size, md5 = other
    if not md5:
        return file.stat().st_size == size
    return base64.b64encode(md5_of(file)).decode() == md5


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Uploads to W&B what is not there yet, and reads it back.")
    parser.add_argument("outputs", type=Path, help="a folder that holds runs, such as outputs/demo")
    parser.add_argument("--project", help="another project than the one that a run was logged for")
    parser.add_argument("--entity", help="another user or team")
    parser.add_argument("--dry-run", action="store_true", help="say what is missing, and upload nothing")
    parser.add_argument("--timeout", type=int, default=30, help="seconds that W&B has for an answer; %(default)s")
    parser.add_argument(
        "--patience", type=float, default=20.0, help="seconds in which what was sent has to show; %(default)s"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
