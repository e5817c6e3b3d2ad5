"""All runs below a folder, as a table: what each is, how far it is, how it ended, and how to run it again.

    python analysis/runs.py outputs                             # --seeds for a row per configuration
    python analysis/runs.py outputs --watch                     # live, until all have ended
    python analysis/runs.py outputs --where 'model=lstm' 'score>0.9' --sort -score
    python analysis/runs.py outputs --csv runs.csv              # with every setting; - for standard output
    python analysis/runs.py outputs --command RUN               # runs that one again; its name, or what it ends with

A run is finished, diverged (finished after a step whose numbers were not finite), running, interrupted, failed, lost
(it says running, and no process is at work on it), not begun (nothing is recorded) or unreadable. A score in
parentheses is the last validation's of a run that has not finished. A configuration is all settings but the seed.
"""

import argparse
import csv
import json
import math
import os
import re
import shlex
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime
from io import TextIOWrapper
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc
import yaml
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.live import Live
from rich.text import Text

from retrograde.core.choices import nearest
from retrograde.record.folder import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    LOST,
    NAME,
    NOT_BEGUN,
    NOT_PART_OF_THE_RESULT,
    RUNNING,
    RunFolder,
    config_hash,
    run_folders,
)
from retrograde.record.metadata import read_run, shown
from retrograde.record.tables import METRICS, columns_of, read_table, table_files

DIVERGED, UNREADABLE = "diverged", "unreadable"

STATUSES = {
    RUNNING: "cyan", UNREADABLE: "red", FAILED: "red", LOST: "red", INTERRUPTED: "yellow", NOT_BEGUN: "yellow",
    DIVERGED: "magenta", FINISHED: "green",
}  # fmt: skip
"""What a run can be, in its colour; where not all fit on the screen, the first come first."""

Row = dict[str, Any]

RECORDED = ("run", "study", "model", "task", "seed", "score", "baseline", "solved", "duration", "started", "reason")
"""What is called in a table as it is in run.json."""

RUN = (
    "run", "status", "study", "model", "task", "settings", "seed", "step", "steps", "score", "last_score", "baseline",
    "solved", "seeds_finished", "seeds", "duration", "started", "worker", "where", "reason",
)  # fmt: skip
"""The columns of a run; everything that run.json says besides has one of its own, such as ``config.task.length``."""

COMPUTED = {*RUN, "attempts"} - {*RECORDED}

SEEDS = (
    "study", "model", "task", "settings", "seeds_finished", "seeds", "score", "score_low", "score_high", "baseline",
    "solved", "others", "duration", "runs",
)  # fmt: skip
"""Those of a configuration: medians over the seeds that finished, and how many of them solved the task."""

SHOWN = {
    RUN: (
        "run", "status", "study", "model", "task", "settings", "seed", "step", "score", "baseline", "solved", "seeds",
        "duration", "started", "worker", "where",
    ),
    SEEDS: (
        "study", "model", "task", "settings", "seeds", "score", "range", "baseline", "solved", "others", "duration",
    ),
}  # fmt: skip
"""On a terminal, where the rest is part of one of these."""

IMPORTANT = {
    RUN: ("run", "status", "score", "baseline", "solved", "step", "settings", "seeds", "duration", "started", "study",
          "worker", "seed", "model", "task", "where"),
    SEEDS: ("model", "settings", "seeds", "score", "range", "solved", "baseline", "others", "task", "study",
            "duration"),
}  # fmt: skip
"""The most important first: a run's name holds its model, task and seed."""

NUMBERS = ("step", "score", "baseline", "seeds", "duration", "seed", "range")
"""Those that end at the right."""

WIDEST = 32
"""Characters of a cell, other than a name; ``--csv`` has all."""

NARROWEST = 16
"""Characters that are left of a column which is cut off."""

EARLY = 100
"""Runs that ended early whose tables are read for the screen, at some milliseconds each."""

REASONS = 12
"""Lines on what went wrong."""

PATIENCE = 15.0
"""Seconds without a running run after which a watch ends: between two jobs of a sweep none is running."""


@dataclass(frozen=True)
class Run:
    """``row`` is all that is known; ``configuration`` is None where the settings are not known."""

    folder: RunFolder
    row: Row
    configuration: tuple[str, ...] | None


@dataclass
class Reader:
    """Reads the runs below ``root``; what is finished is read once as long as nobody writes to it.

    The tables of runs that ended before they were finished are read where these are no more than ``most``.
    """

    root: Path
    most: float = math.inf
    finished: dict[Path, tuple[int, Run]] = field(default_factory=dict)
    passed_over: int = 0

    def __post_init__(self) -> None:
        self.place = self.root.resolve()

    def runs(self) -> list[Run]:
        """Ordered by study, model, task, seed; raises ValueError, in one line, where there is none."""
        if not self.root.is_dir():
            raise ValueError(f"'{self.root}' is not a folder: give one that holds runs, such as outputs/demo")
        found = [self._run(folder) for folder in run_folders(self.root)]
        if not found:
            raise ValueError(f"'{self.root}' holds no run: there is no run.json below it")
        early = [run for run in found if run.row["status"] in (LOST, INTERRUPTED, FAILED)]
        self.passed_over = len(early) if len(early) > self.most else 0
        for run in early[: len(early) - self.passed_over]:
            reason = run.row["reason"]
            run.row.update(progress(run.folder))
            run.row["reason"] = "; ".join(filter(None, dict.fromkeys([reason, run.row["reason"]]))) or None
        found = without_copies(found)
        compare(found)
        order = ("study", "model", "task", "seed", "run")
        return sorted(found, key=lambda run: [in_order(run.row[name]) for name in order])

    def _run(self, folder: RunFolder) -> Run:
        where = str(self.root / folder.path.relative_to(self.place))
        blank = dict.fromkeys(RUN) | {"run": printable(folder.run), "where": printable(where)}
        try:
            written = _written(folder)
            if folder.path in self.finished and self.finished[folder.path][0] == written:
                return self.finished[folder.path][1]
            said, status, owner = look(folder)
            run = described(folder, said, status, owner, blank)
        except (OSError, ValueError) as error:
            return Run(folder, blank | {"status": UNREADABLE, "reason": printable(str(error))}, None)
        if status == FINISHED and written is not None:
            self.finished[folder.path] = written, run
        return run


def _written(folder: RunFolder) -> int | None:
    try:
        return (folder.path / "run.json").stat().st_mtime_ns
    except FileNotFoundError:
        return None


Owner = tuple[int, str] | None


def look(folder: RunFolder) -> tuple[Row, str, Owner]:
    """What run.json says, what the run is, and who is at work on it; raises ValueError where it cannot be read.

    A record is read twice before its run is called lost: it may have ended, or begun again, in between.
    """
    while True:
        said = _said(folder)
        status = said["status"] if said else NOT_BEGUN
        if status == FINISHED:
            return said, status, None
        if (owner := folder.owner()) is not None:
            return said, RUNNING, owner
        if status != RUNNING:
            return said, status, None
        if repr(_said(folder)) == repr(said):  # NaN is not equal to itself
            return said, LOST, None


def _said(folder: RunFolder) -> Row:
    try:
        return read_run(folder)
    except ValueError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return {}
        raise


def described(folder: RunFolder, said: Row, status: str, owner: Owner, blank: Row) -> Run:
    """A run, as a look at its folder shows it; raises ValueError for a time that is none."""
    begun = started(said, folder)
    row = blank | {
        printable(name): printable(value) for name, value in columns_of(said).items() if name not in COMPUTED
    }
    row |= {"status": status, "attempts": len(said.get("attempts", ())) or None}
    if not said:
        row |= named(folder)
    if status == FINISHED:
        row["step"] = said.get("steps")
        if said.get("diverged_step") is not None:
            row["status"] = DIVERGED
    else:
        row["score"] = None
    if status == RUNNING:
        row |= progress(folder)
    if status == RUNNING and begun is not None:
        elapsed = time.time() - begun.timestamp()
        row["duration"] = elapsed if elapsed >= 0 else None  # by a clock that was set back nothing can be told
    if status == LOST:
        row["reason"] = "no process is at work on it: launched again, it goes on from its last checkpoint"
    if status == NOT_BEGUN:
        row["reason"] = "nothing is recorded: it is being launched, or ended before it was a run"
    if owner is not None:
        row["worker"] = printable(f"{owner[1]} {owner[0]}")
    if not said:
        return Run(folder, row, None)
    row["steps"] = row.get("config.steps")
    without_seed = {key: value for key, value in said["config"].items() if key != "seed"}
    return Run(folder, row, (row["study"], row["model"], row["task"], config_hash(without_seed)))


def started(said: Row, folder: RunFolder) -> datetime | None:
    try:
        return datetime.fromisoformat(said["started"]).astimezone() if said.get("started") else None
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{folder.path / 'run.json'} cannot be read: started must be a time: {error}") from error


def named(folder: RunFolder) -> Row:
    """What a name alone tells of a run."""
    found = NAME.fullmatch(folder.run)
    if found is None or found["stem"].count("-") != 1:
        return {}
    model, _, task = found["stem"].partition("-")
    seed = int(found["seed"]) if found["seed"].isdecimal() else found["seed"]
    return {"study": folder.path.parent.name, "model": model, "task": task, "seed": seed}


def progress(folder: RunFolder) -> Row:
    """Step and last validation score of a run that has not finished, from the newest of its tables alone.

    A table that cannot be read is the reason why they are missing, but for one that was merged meanwhile.
    """
    row: Row = {}
    try:
        for file in reversed(table_files(folder.tables, "metrics")):
            table = read_table(file, folder.run, METRICS)
            row.setdefault("step", pc.max(table["step"]).as_py())
            split, quantity = (table[name].cast(pa.string()) for name in ("split", "quantity"))
            scores = table["value"].filter(pc.and_(pc.equal(split, "validation"), pc.equal(quantity, "score")))
            if len(scores):
                return row | {"last_score": scores[-1].as_py()}
    except ValueError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            row["reason"] = printable(str(error))
    return row


def without_copies(runs: Sequence[Run]) -> list[Run]:
    """A run that lies in two folders counts once among the seeds; of the other it is said."""
    first: dict[str, Run] = {}
    made = []
    for run in runs:
        one = first.setdefault(run.row["run"], run)
        if one is not run:
            run = Run(run.folder, run.row | {"reason": f"another copy of {one.row['where']}"}, None)
        made.append(run)
    return made


def compare(runs: Sequence[Run]) -> None:
    """Fill in what is known of a run only beside the others: the settings that differ, and the seeds.

    Settings are compared among the runs of one model on one task of one study.
    """
    seeds: dict[tuple[str, ...], list[Run]] = {}
    alike: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        if run.configuration is not None:
            seeds.setdefault(run.configuration, []).append(run)
            alike.setdefault(run.configuration[:3], []).append(run)
    for of_one in seeds.values():
        finished = sum(run.row["status"] in (FINISHED, DIVERGED) for run in of_one)
        for run in of_one:
            run.row.update({"seeds": len(of_one), "seeds_finished": finished})
    for of_model in alike.values():
        names = differing([run.row for run in of_model])
        for run in of_model:
            run.row["settings"] = ", ".join(f"{name}={words(run.row.get(key))}" for key, name in names.items()) or None


def differing(rows: Sequence[Row]) -> dict[str, str]:
    """The settings, other than the seed, in which runs differ, each with the shortest name that tells it.

    >>> differing([{"config.model.hidden": 8, "config.seed": 0}, {"config.model.hidden": 16, "config.seed": 1}])
    {'config.model.hidden': 'hidden'}
    >>> list(differing([{"config.model.size": 1, "config.task.size": 1}, {"config.model.size": 2}]).values())
    ['model.size', 'task.size']
    """
    left_out = tuple(f"config.{name}." for name in ("seed", "study", *NOT_PART_OF_THE_RESULT))
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith("config."))
    chosen = [
        key for key in keys if not f"{key}.".startswith(left_out) and len({words(row.get(key)) for row in rows}) > 1
    ]
    last = Counter(key.rpartition(".")[2] for key in chosen)
    return {
        key: (short if last[short := key.rpartition(".")[2]] == 1 else key.removeprefix("config.")) for key in chosen
    }


def configurations(runs: Sequence[Run]) -> list[Row]:
    """One row a configuration."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for run in runs:
        if run.configuration is not None:
            groups.setdefault(run.configuration, []).append(run.row)
    made = []
    for rows in groups.values():
        ended = [row for row in rows if row["status"] in (FINISHED, DIVERGED)]
        scores = [row["score"] for row in ended if row["score"] is not None and not math.isnan(row["score"])]
        durations = [row["duration"] for row in ended if row["duration"] is not None]
        others = Counter(row["status"] for row in rows if row["status"] != FINISHED)
        baselines = [row["baseline"] for row in rows if row["baseline"] is not None]
        made.append(
            {name: rows[0][name] for name in ("study", "model", "task", "settings")}
            | {
                "seeds_finished": len(ended),
                "seeds": len(rows),
                "score": statistics.median(scores) if scores else None,
                "score_low": min(scores, default=None),
                "score_high": max(scores, default=None),
                "baseline": baselines[0] if baselines else None,
                "solved": sum(row["solved"] is True for row in ended),
                "others": counted(others) or None,
                "duration": statistics.median(durations) if durations else None,
                "runs": " ".join(row["run"] for row in rows),
            }
        )
    return made


@dataclass(frozen=True)
class Condition:
    """``column=value`` with ``*`` for anything, ``!=``, or an order: of numbers where both are, of texts else."""

    column: str
    sign: str
    value: str

    def holds(self, row: Row) -> bool:
        """Of what is missing no order holds; ``column=`` asks for it."""
        found = row.get(self.column)
        if self.sign in ("=", "!="):
            return self._equal(found) == (self.sign == "=")
        order = {">": gt, ">=": ge, "<": lt, "<=": le}[self.sign]
        if found is None:
            return False
        if isinstance(found, str):
            return order(found, self.value)
        asked = as_number(self.value)
        if asked is None:
            raise ValueError(
                f"'{self.column}{self.sign}{self.value}': {self.column} is a number, '{self.value}' is none"
            )
        return order(found, asked)

    def _equal(self, found: Any) -> bool:
        if found is None or self.value == "":
            return found is None and self.value in ("", "null", "-")
        if isinstance(found, bool):
            return self.value.lower() in (("true", "yes") if found else ("false", "no"))
        if isinstance(found, (int, float)) and (asked := as_number(self.value)) is not None:
            return found == asked
        return re.fullmatch(".*".join(map(re.escape, self.value.split("*"))), str(found)) is not None


class NothingLeft(ValueError):
    """No run is as was asked."""


def condition(text: str) -> Condition:
    """Raises ValueError for what is none."""
    found = re.fullmatch(r"\s*([^=!<>\s]+)\s*(==?|!=|>=|<=|>|<)\s*(.*?)\s*", text)
    if found is None:
        raise ValueError(f"'{text}' is no condition: write column=value, !=, >, >=, < or <=, in quotation marks")
    return Condition(found[1], "=" if found[2] == "==" else found[2], found[3])


def as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def require_known(names: Iterable[str], rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Raise ValueError for a column that no row has."""
    known = dict.fromkeys([*columns, *(key for row in rows for key in row)])
    for name in names:
        if name not in known:
            hint = nearest(name, [*known, *(key.rpartition(".")[2] for key in known)])
            whole = [key for key in known if key.endswith(f".{name}")]
            hint = f"; did you mean {' or '.join(map(repr, whole))}?" if whole else hint
            raise ValueError(f"there is no column '{name}'{hint or '; known: ' + ', '.join(columns)}")


def ordered(rows: Sequence[Row], by: Sequence[str]) -> list[Row]:
    """By these columns, descending where one begins with a minus; what is missing comes last."""
    made = list(rows)
    for name in reversed(by):
        column = name.removeprefix("-")
        there = [row for row in made if not missing(row.get(column))]
        there.sort(key=lambda row: in_order(row[column]), reverse=name.startswith("-"))
        made = there + [row for row in made if missing(row.get(column))]
    return made


def missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def in_order(value: Any) -> tuple[bool, float, str]:
    """A key for values of different kinds: numbers, then texts, then what is missing."""
    if value is None:
        return True, math.inf, ""
    return (True, 0.0, value) if isinstance(value, str) else (False, value, "")


@dataclass(frozen=True)
class Chosen:
    """The rows that were asked for, and all that there are."""

    kind: tuple[str, ...]
    rows: list[Row]
    runs: list[Run]
    of: int
    passed_over: int

    def counts(self) -> str:
        """How many there are of each status."""
        some = f" of {self.of}" if len(self.runs) < self.of else ""
        return f"{len(self.runs)}{some} runs: {counted(Counter(run.row['status'] for run in self.runs))}"


def chosen(reader: Reader, options: argparse.Namespace) -> Chosen:
    """Raises ValueError where nothing is left, or a column is not known."""
    every = reader.runs()
    conditions = [condition(text) for text in options.where]
    require_known([one.column for one in conditions], [run.row for run in every], RUN)
    runs = [run for run in every if all(one.holds(run.row) for one in conditions)]
    if not runs:
        raise NothingLeft(f"none of the {len(every)} runs below '{reader.root}' has {' and '.join(options.where)}")
    kind = SEEDS if options.seeds else RUN
    rows = configurations(runs) if options.seeds else [run.row for run in runs]
    if not rows:
        raise ValueError(f"of none of the {len(runs)} runs below '{reader.root}' the configuration can be read")
    require_known([name.removeprefix("-") for name in options.sort], rows, kind)
    require_known(options.columns, rows, kind if options.csv else (*kind, *SHOWN[kind]))
    return Chosen(kind, ordered(rows, options.sort), runs, len(every), reader.passed_over)


def printable(value: Any) -> Any:
    """A text from outside on one line, without what a terminal would take for a command.

    >>> printable("red \\x1b[31m\\n text")
    'red \\\\x1b[31m text'
    """
    if not isinstance(value, str) or value.isprintable():
        return value
    return shown(" ".join(value.split()))


def words(value: Any) -> str:
    """
    >>> [words(value) for value in (0.98765, 2000.0, 3, True, None, float("nan"), "x")]
    ['0.9877', '2000', '3', 'yes', '-', 'nan', 'x']
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1000 else str(value).removesuffix(".0")


def length(seconds: float) -> str:
    """
    >>> [length(seconds) for seconds in (2.345, 83, 7500, 200000)]
    ['2.3 s', '1 m 23 s', '2 h 05 m', '2 d 07 h']
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, days = minutes // 60, minutes // 1440
    if days:
        return f"{days} d {hours % 24:02} h"
    return f"{hours} h {minutes % 60:02} m" if hours else f"{minutes} m {rest:02} s"


def of_run(name: str, row: Row) -> str:
    """A cell as a reader wants it."""
    value = row.get(name)
    if name == "score" and value is None and row["last_score"] is not None:
        return f"({row['last_score']:.3f})"
    if name == "step" and value is not None and row["steps"] is not None and row["status"] not in (FINISHED, DIVERGED):
        return f"{value}/{words(row['steps'])}"
    return of_any(name, row)


def of_configuration(name: str, row: Row) -> str:
    if name == "range" and row["score_low"] is not None:
        return f"{row['score_low']:.3f} to {row['score_high']:.3f}"
    return f"{row['solved']} of {row['seeds_finished']}" if name == "solved" else of_any(name, row)


def of_any(name: str, row: Row) -> str:
    value = row.get(name)
    if value is None:
        return "-"
    if name in ("score", "baseline"):
        return f"{value:.3f}"
    if name == "seeds":
        return f"{row['seeds_finished']}/{value}"
    if name == "duration" and math.isfinite(value):
        return length(value)
    if name == "started":
        return datetime.fromisoformat(value).astimezone().strftime("%Y-%m-%d %H:%M")
    return words(value)


def table(chosen: Chosen, columns: Sequence[str], width: int | None, height: int | None = None) -> Text:
    """The rows, and below them what they come to and what went wrong; nothing is wider or longer than there is room.

    ``columns`` are those asked for, none for the usual ones: the least important are left out, and said to be.
    """
    cell = of_configuration if chosen.kind == SEEDS else of_run
    below = [chosen.counts(), *notes(chosen)]
    rows = chosen.rows
    if height is not None and len(rows) > (room := max(height - len(below) - 5, 1)):
        rows = foremost(rows, room)
        below.insert(1, f"{len(chosen.rows) - room} rows more than there is room for")
    asked = columns or [name for name in SHOWN[chosen.kind] if any(cell(name, row) != "-" for row in rows)]
    cells = {name: [name, *(cell(name, row) for row in rows)] for name in asked}
    widths = {name: max(map(cell_len, texts)) for name, texts in cells.items()}
    if width is not None:
        most = {name: width if columns or name in ("run", "where") else WIDEST for name in asked}
        widths = {name: min(widths[name], most[name], width) for name in asked}
        if columns and (room := width - sum(widths[name] + 2 for name in asked[:-1])) >= NARROWEST:
            widths[asked[-1]] = min(widths[asked[-1]], room)  # such as a long reason
    kept = fitting(widths, columns or IMPORTANT[chosen.kind], width)
    if left_out := [name for name in asked if name not in kept]:
        below.append(f"left out for want of width: {', '.join(left_out)} (--columns chooses, --csv has all)")
    made = Text(no_wrap=True, end="")
    for at in range(len(rows) + 1):
        for name in kept:
            style = "bold" if at == 0 else STATUSES[cells[name][at]] if name == "status" else ""
            made.append(padded(cells[name][at], widths[name], right=name in NUMBERS), style)
            made.append("\n" if name == kept[-1] else "  ")
    return made.append("\n".join(["", *(cut_off(line, width or UNLIMITED) for line in below), ""]))


def padded(text: str, width: int, right: bool) -> str:
    """A cell of exactly that width."""
    space = " " * (width - cell_len(text))
    return cut_off(f"{space}{text}" if right else f"{text}{space}", width)


def cut_off(line: str, width: int) -> str:
    return line if cell_len(line) <= width else f"{set_cell_size(line, width - 1)}…"


def fitting(widths: Mapping[str, int], important: Sequence[str], width: int | None) -> list[str]:
    """The columns that there is room for, the most important at least, in the order in which they are shown."""
    kept: list[str] = []
    for name in important:
        there = sum(widths[other] + 2 for other in kept)
        if name in widths and (not kept or width is None or there + widths[name] <= width):
            kept.append(name)
    return [name for name in widths if name in kept]


def foremost(rows: Sequence[Row], room: int) -> list[Row]:
    """As many rows as there is room for, in their order: those that go on or went wrong before those that finished."""
    ranks = list(STATUSES)
    first = sorted(range(len(rows)), key=lambda at: ranks.index(rows[at].get("status", FINISHED)))[:room]
    return [rows[at] for at in sorted(first)]


def notes(chosen: Chosen) -> list[str]:
    """What went wrong, by reason, and how to run one again."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for run in chosen.runs:
        if run.row["reason"] is not None:
            reasons.setdefault((run.row["status"], run.row["reason"]), []).append(run.row["run"])
    said = sorted(reasons.items(), key=lambda entry: list(STATUSES).index(entry[0][0]))
    lines = [
        f"{status}: {runs[0]}{f' and {len(runs) - 1} more' if len(runs) > 1 else ''}: {reason}"
        for (status, reason), runs in said[:REASONS]
    ]
    if len(said) > REASONS:
        lines.append(f"and {len(said) - REASONS} reasons more: --csv has all")
    if chosen.kind == RUN and any(
        run.row["score"] is None and run.row["last_score"] is not None for run in chosen.runs
    ):
        lines.append("(score): the last validation of a run that has not finished")
    if chosen.passed_over:
        lines.append(f"how far {chosen.passed_over} runs came that ended early is not looked up for this: --csv has it")
    if wrong := [run.row["run"] for run in chosen.runs if run.row["status"] not in (FINISHED, RUNNING, UNREADABLE)]:
        lines.append(f"how to run one again: --command RUN, such as --command {wrong[0]}")
    return lines


def counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[status]} {status}" for status in reversed(STATUSES) if counts.get(status))


def terminal_width() -> int | None:
    """None where nothing says how wide it is, such as in a pipe without a terminal: then nothing is left out."""
    if os.environ.get("COLUMNS", "").isdecimal():
        return int(os.environ["COLUMNS"])
    for stream in (1, 2, 0):
        try:
            return os.get_terminal_size(stream).columns or None
        except OSError:
            continue
    return None


PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}

UNLIMITED = 10_000
"""Columns that no table fills."""


def show(chosen: Chosen, options: argparse.Namespace) -> None:
    width = terminal_width()
    Console(width=width or UNLIMITED, **PLAIN).print(table(chosen, options.columns, width), end="")


def watch(reader: Reader, options: argparse.Namespace) -> None:
    """Shows the table anew every so many seconds until nothing has been running for a while, or until interrupted.

    Where there is no terminal, a line for each run whose status has changed. The whole table comes last.
    """
    console = Console(**PLAIN)
    now = chosen(reader, options)
    statuses: dict[str, str] = {}
    live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
    ran = time.monotonic()
    try:
        with live or nullcontext():
            while time.monotonic() - ran < PATIENCE:
                if live is not None:
                    live.update(table(now, options.columns, console.width, console.height), refresh=True)
                else:
                    print(*changes(now, statuses), sep="", end="", flush=True)
                time.sleep(options.watch)
                with suppress(NothingLeft):  # what was asked for holds of none any more, or not yet again
                    now = chosen(reader, options)
                    if any(run.row["status"] == RUNNING for run in now.runs):
                        ran = time.monotonic()
    except KeyboardInterrupt:
        pass
    show(chosen(reader, options), options)


def changes(now: Chosen, statuses: dict[str, str]) -> Iterator[str]:
    """A line for each run that is not what ``statuses`` says, which is brought up to date."""
    for run in now.runs:
        row = run.row
        if statuses.get(row["where"]) != row["status"]:
            statuses[row["where"]] = row["status"]
            score = "" if row["score"] is None else f", score {row['score']:.3f}"
            yield f"{datetime.now():%H:%M:%S} {row['run']} {row['status']}{score}\n"


def write(chosen: Chosen, columns: Sequence[str], file: TextIO) -> None:
    """CSV: times in seconds and as recorded, numbers in full, nothing where there is nothing."""
    header = columns or list(dict.fromkeys([*chosen.kind, *(key for row in chosen.rows for key in row)]))
    writer = csv.writer(file)
    writer.writerow(header)
    for row in chosen.rows:
        values = [row.get(name) for name in header]
        writer.writerow([json.dumps(value) if isinstance(value, (bool, float)) else value for value in values])


def command(reader: Reader, asked: str) -> str:
    """The command line that leads to that run; raises ValueError where there is none.

    It is what was recorded beside the run when it was launched. In a sweep that is the one job, with a launcher of its
    own where one was chosen.
    """
    folder = found(reader, asked)
    record = folder.path / ".hydra"
    if not record.is_dir():
        said = _said(folder)
        if said and "outputs" not in said["config"]:
            raise ValueError(f"{folder.run} was made from Python, by retrograde.fit: there is no command for it")
        raise ValueError(f"{record} is missing, which holds the command that {folder.run} was launched with")
    file = record / "hydra.yaml"
    try:
        hydra = yaml.safe_load(file.read_text())["hydra"]
        overrides, runtime = hydra["overrides"], hydra["runtime"]
        settings = [str(text) for text in overrides["task"]]
        own = [str(text) for text in overrides["hydra"] if not text.lstrip("+~").startswith(OF_THE_LAUNCH)]
        name, cwd = str(hydra["job"]["config_name"]), Path(runtime["cwd"])
        sources = [source["path"] for source in runtime["config_sources"] if source["provider"] == "command-line"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    flags = [] if name == "train" else ["--config-name", name]
    for source in sources:
        flags += ["--config-dir", str(source)]
    if any(text.startswith("launcher=") for text in settings):
        own.append("hydra.mode=MULTIRUN")
    elif any(text.startswith("study=") for text in settings):
        own.append("hydra.mode=RUN")  # a study makes a sweep of itself
    line = shlex.join(["retrograde", *flags, *settings, *own])
    if cwd != Path.cwd() and cwd.is_dir():
        line = f"cd {shlex.quote(str(cwd))} && {line}"
    if not line.isprintable():
        raise ValueError(f"{file} holds what cannot be printed: {line}")
    return line


OF_THE_LAUNCH = ("hydra.mode=", "hydra.job.env_set.RETROGRADE_PLACE=", "hydra.sweeper", "hydra/sweeper")
"""Settings of Hydra's that a sweep has and one run of it does without."""


def found(reader: Reader, asked: str) -> RunFolder:
    """The run of that name or folder, or the only one whose name begins or ends so."""
    folders = list(run_folders(reader.root)) if reader.root.is_dir() else []
    path = Path(asked).resolve()
    exact = [folder for folder in folders if folder.run == asked or folder.path == path]
    near = [folder for folder in folders if folder.run.startswith(asked) or folder.run.endswith(asked)]
    if exact:
        return exact[0]
    if len(near) == 1:
        return near[0]
    if near:
        raise ValueError(f"'{asked}' may be any of {len(near)} runs, such as {near[0].run} or {near[1].run}")
    hint = nearest(asked, [folder.run for folder in folders])
    raise ValueError(f"there is no run '{asked}' below '{reader.root}'{hint}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1, with one line that says why, where there is nothing to show."""
    options = parser().parse_args(minus_kept(sys.argv[1:] if arguments is None else arguments))
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # where not every character can be printed
    reader = Reader(options.outputs, math.inf if options.csv else EARLY)
    try:
        if options.command is not None:
            print(command(reader, options.command))
        elif options.csv == "-":
            write(chosen(reader, options), options.columns, sys.stdout)
        elif options.csv is not None:
            rows = chosen(reader, options)
            with Path(options.csv).open("w", newline="", encoding="utf-8") as file:
                write(rows, options.columns, file)
        elif options.watch is not None:
            watch(reader, options)
        else:
            show(chosen(reader, options), options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, ValueError) as error:
        print(printable(str(error)), file=sys.stderr)
        return 1
    return 0


def minus_kept(arguments: Sequence[str]) -> list[str]:
    """``--sort -score`` as argparse understands it, which takes -score for an option of its own."""
    made: list[str] = []
    for argument in arguments:
        if made and made[-1] == "--sort":
            made[-1] = f"--sort={argument}"
        else:
            made.append(argument)
    return made


def names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def seconds(text: str) -> float:
    value = as_number(text)
    if value is None or not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds")
    return value


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description="All runs below a folder, as a table")
    made.add_argument("outputs", metavar="OUTPUTS", type=Path, help="a folder that holds runs, such as outputs")
    made.add_argument("--seeds", action="store_true", help="one row a configuration: n finished, median, range, solved")
    made.add_argument(
        "--where", nargs="+", action="extend", default=[], metavar="CONDITION",
        help="runs with all of these: 'model=lstm' 'run=gru*' 'score>0.9' 'config.task.length=50'",
    )  # fmt: skip
    made.add_argument("--sort", type=names, default=[], metavar="COLUMN", help="several with commas; -score descends")
    made.add_argument("--columns", type=names, default=[], metavar="COLUMN,…", help="these, in this order")
    way = made.add_mutually_exclusive_group()
    way.add_argument("--watch", nargs="?", type=seconds, const=2.0, metavar="SECONDS", help="live, every 2 seconds")
    way.add_argument("--csv", metavar="FILE", help="with every setting, times in seconds; - for standard output")
    way.add_argument("--command", metavar="RUN", help="print the command that runs this one again")
    return made


if __name__ == "__main__":
    sys.exit(main())
