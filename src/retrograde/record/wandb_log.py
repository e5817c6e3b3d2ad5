"""The logs that W&B keeps of a run in its folder: read whatever has become of them, and copied without some rows.

    wandb/offline-run-<start>-<id>/run-<id>.wandb     one log an attempt; run-<start>-<id>/ where it was online
    wandb/offline-run-<start>-<id>/files/             what is uploaded with it

    log          ":W&B", 0xBEE1, 0; then blocks of 32 KiB, as in LevelDB
    piece        crc32 of kind and content, length, kind (whole, first, middle, last), content; never across blocks
    record       the contents of its pieces, a ``Record`` of W&B's protocol

W&B has no reader of its own in Python. What is damaged costs the rest of its block, which is counted; that a log ends
in the middle of a piece is no damage, since it is so wherever its writer was killed.
"""

import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # its stubs are a package of their own
from wandb.proto import wandb_internal_pb2 as protocol

MAGIC = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
BLOCK = 32 * 1024
HEADER = struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4

Row = dict[str, Any]


@dataclass(frozen=True)
class Log:
    """One log, as far as it can be read.

    ``rows`` are its history and ``summary`` what it says last, nested keys joined by dots. ``damaged`` counts the
    places where it cannot be read; ``ended`` is whether W&B was told how the run ended. ``outside`` names the files
    that it has W&B upload from elsewhere, as no log of ours does.
    """

    file: Path
    id: str
    project: str
    entity: str
    rows: list[Row]
    summary: Row
    ended: bool
    damaged: int
    outside: list[str]

    @property
    def folder(self) -> Path:
        return self.file.parent

    @property
    def files(self) -> Path:
        return self.folder / "files"


def read_logs(folder: Path) -> tuple[list[Log], dict[Path, str]]:
    """The logs of a run's folder in order of their start, and why those were left out that say nothing."""
    found, left_out = [], {}
    for file in sorted(folder.glob("wandb/*run-*/run-*.wandb"), key=_start):
        if file.parent.is_symlink():  # W&B's name for the latest
            continue
        try:
            found.append(read_log(file))
        except (OSError, ValueError) as error:
            left_out[file] = str(error)
    return found, left_out


def _start(file: Path) -> str:
    """The time in the folder's name."""
    return file.parent.name.partition("run-")[2]


def read_log(file: Path) -> Log:
    """A log; raises ValueError, naming the file, where it is none, or ends before it says of which run it is."""
    run: Any = None
    rows: list[Row] = []
    summary: Row = {}
    ended, damaged = False, 0
    outside: list[str] = []
    for content in _contents(file):
        record = _record(content)
        if record is None:
            damaged += 1
            continue
        match record.WhichOneof("record_type"):
            case "run":
                run = record.run
            case "history":
                rows.append(_items(record.history.item))
            case "summary":
                summary |= _items(record.summary.update)
                for item in record.summary.remove:
                    summary.pop(_name(item), None)
            case "files":
                names = [item.path for item in record.files.files]
                outside += [name for name in names if not _is_within(file.parent / "files", name)]
            case "artifact":
                names = [entry.local_path for entry in record.artifact.manifest.contents]
                outside += [name for name in names if not _is_within(file.parent / "files", name)]
            case "exit":
                ended = True
    if run is None:  # killed before it was said
        raise ValueError(f"{file} holds nothing of a run")
    return Log(file, run.run_id, run.project, run.entity, rows, summary, ended, damaged, outside)


def _is_within(folder: Path, name: str) -> bool:
    """Whether a name means a file within the folder, links followed."""
    try:
        return (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # a name that no file can have, or links in a circle
        return False


def write_rest(log: Log, is_wanted: Callable[[Row], bool], folder: Path) -> Path:
    """A log below ``folder`` with the wanted rows alone and everything else that this one says; its own folder.

    The rows are numbered anew from 0, and no alert is given twice. The files are those of this log, by links.
    """
    target = folder / f"offline-run-{log.folder.name.partition('run-')[2]}"
    target.mkdir()
    (target / "files").symlink_to(log.files.resolve(), target_is_directory=True)
    step = 0
    with (target / log.file.name).open("wb") as out:
        out.write(MAGIC)
        for content in _contents(log.file):
            record = _record(content)
            if record is None or record.WhichOneof("record_type") == "alert":
                continue
            if record.WhichOneof("record_type") == "history":
                if not is_wanted(_items(record.history.item)):
                    continue
                record.history.step.num = step
                for item in record.history.item:
                    if _name(item) == "_step":
                        item.value_json = str(step)
                step += 1
            _append(out, record.SerializeToString())
    return target


def flat(values: Mapping[str, Any], prefix: str = "") -> Row:
    """Nested mappings as one, keys joined by dots.

    >>> flat({"loss": 1.0, "map": {"width": 2}})
    {'loss': 1.0, 'map.width': 2}
    """
    row: Row = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            row |= flat(value, f"{prefix}{key}.")
        else:
            row[f"{prefix}{key}"] = value
    return row


def _record(content: bytes | None) -> Any:
    """None where it is damaged."""
    if content is None:
        return None
    try:
        return protocol.Record.FromString(content)  # type: ignore[attr-defined]  # made when it is loaded
    except DecodeError:
        return None


def _name(item: Any) -> str:
    return ".".join(item.nested_key) or item.key


def _items(items: Any) -> Row:
    """What cannot be read as JSON, or is of a kind that this version does not know, is left out."""
    row: Row = {}
    for item in items:
        try:
            row |= flat({_name(item): json.loads(item.value_json)})
        except json.JSONDecodeError:
            continue
    return row


def _contents(file: Path) -> Iterator[bytes | None]:
    """The records' contents; None stands for what is damaged."""
    collected: bytes | None = None
    for piece in _pieces(file):
        if piece is None:
            collected = None
            yield None
            continue
        kind, content = piece
        if kind in (WHOLE, FIRST):
            collected = content
        elif collected is None:  # its beginning was damaged
            continue
        else:
            collected += content
        if kind in (WHOLE, LAST):
            yield collected
            collected = None


def _pieces(file: Path) -> Iterator[tuple[int, bytes] | None]:
    with file.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{file} is no log of W&B")
        at = len(MAGIC)  # which is part of the first block
        while block := stream.read(BLOCK - at):
            yield from _of_block(block, is_cut=len(block) < BLOCK - at)
            at = 0


def _of_block(block: bytes, is_cut: bool) -> Iterator[tuple[int, bytes] | None]:
    at = 0
    while len(block) - at >= HEADER.size:
        checksum, length, kind = HEADER.unpack_from(block, at)
        content = block[at + HEADER.size : at + HEADER.size + length]
        if is_cut and len(content) < length:  # as far as it was written
            return
        is_whole = len(content) == length and kind in (WHOLE, FIRST, MIDDLE, LAST)
        if not is_whole or zlib.crc32(content, zlib.crc32(bytes([kind]))) != checksum:
            yield None
            return
        yield kind, content
        at += HEADER.size + length


def _append(out: IO[bytes], content: bytes) -> None:
    """One record, in as many pieces as it takes."""
    is_first = True
    while True:
        room = BLOCK - out.tell() % BLOCK
        if room < HEADER.size:
            out.write(bytes(room))
            continue
        piece, content = content[: room - HEADER.size], content[room - HEADER.size :]
        kind = (WHOLE if is_first else LAST) if not content else (FIRST if is_first else MIDDLE)
        out.write(HEADER.pack(zlib.crc32(piece, zlib.crc32(bytes([kind]))), len(piece), kind) + piece)
        is_first = False
        if not content:
            return
