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
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.live import Live
from rich.text import Text

from retrograde.record.command import command
from retrograde.record.folder import FINISHED, RUNNING
from retrograde.record.metadata import number_of
from retrograde.record.selection import Row, as_number, condition, ordered, require_known
from retrograde.record.survey import (
    DIVERGED,
    RUN,
    SEEDS,
    STATUSES,
    UNREADABLE,
    Reader,
    Run,
    configurations,
    counted,
    length,
    printable,
    words,
)

COLOURS = dict(zip(STATUSES, ("cyan", "red", "red", "red", "yellow", "yellow", "magenta", "green"), strict=True))

IMPORTANT = {
    RUN: ("run", "status", "score", "baseline", "solved", "step", "settings", "seeds", "duration", "started", "study",
          "worker", "seed", "model", "task", "where"),
    SEEDS: ("model", "settings", "seeds", "score", "range", "solved", "baseline", "others", "task", "study",
            "duration"),
}  # fmt: skip
"""The most important first: a run's name holds its model, task and seed."""

ORDER = (
    "run", "status", "study", "model", "task", "settings", "seed", "seeds", "step", "score", "range", "baseline",
    "solved", "others", "duration", "started", "worker", "where",
)  # fmt: skip
"""How these follow one another on a terminal, where the rest is part of one of them."""

NUMBERS = ("step", "score", "baseline", "seeds", "duration", "seed", "range")
"""Those that end at the right."""

WIDEST = 32
"""Characters of a cell, other than a name; ``--csv`` has all."""

NARROWEST = 16
"""Characters that are left of a column which is cut off."""

REASONS = 12
"""Lines on what went wrong."""

PATIENCE = 15.0
"""Seconds without a running run after which a watch ends: between two jobs of a sweep none is running."""


class NothingLeft(ValueError):
    """No run is as was asked."""


@dataclass(frozen=True)
class Chosen:
    """The rows that were asked for, and all that there are."""

    kind: tuple[str, ...]
    rows: list[Row]
    runs: list[Run]
    of: int

    def counts(self) -> str:
        """How many there are of each status."""
        some = f"{len(self.runs)} of " if len(self.runs) < self.of else ""
        return f"{some}{number_of(self.of, 'run')}: {counted(Counter(run.row['status'] for run in self.runs))}"


def chosen(reader: Reader, options: argparse.Namespace) -> Chosen:
    """Raises ValueError where nothing is left, or a column is not known."""
    every = reader.runs()
    conditions = [condition(text) for text in options.where]
    require_known([one.column for one in conditions], [run.row for run in every], RUN)
    runs = [run for run in every if all(one.holds(run.row) for one in conditions)]
    if not runs:
        raise NothingLeft(
            f"of {number_of(len(every), 'run')} below '{reader.root}' none has {' and '.join(options.where)}"
        )
    kind = SEEDS if options.seeds else RUN
    rows = configurations(runs) if options.seeds else [run.row for run in runs]
    if not rows:
        raise ValueError(f"of {number_of(len(runs), 'run')} below '{reader.root}' no configuration can be read")
    require_known([name.removeprefix("-") for name in options.sort], rows, kind)
    require_known(options.columns, rows, kind if options.csv else (*kind, *IMPORTANT[kind]))
    return Chosen(kind, ordered(rows, options.sort), runs, len(every))


def cell(name: str, row: Row) -> str:
    """A value of a run, or of a configuration, as a reader wants it."""
    value = row.get(name)
    if name == "range" and row["score_low"] is not None:
        return f"{row['score_low']:.3f} to {row['score_high']:.3f}"
    if name == "score" and value is None and row.get("last_score") is not None:
        return f"({row['last_score']:.3f})"
    if value is None:
        return "-"
    if name == "solved" and "others" in row:
        return f"{value} of {row['seeds_finished']}"
    if name == "step" and row["steps"] is not None and row["status"] not in (FINISHED, DIVERGED):
        return f"{value}/{words(row['steps'])}"
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
    below = [chosen.counts(), *notes(chosen)]
    rows = chosen.rows
    if height is not None and len(rows) > (room := max(height - len(below) - 5, 1)):
        rows = foremost(rows, room)
        below.insert(1, f"{number_of(len(chosen.rows) - room, 'row')} more than there is room for")
    asked = columns or [
        name for name in ORDER if name in IMPORTANT[chosen.kind] and any(cell(name, row) != "-" for row in rows)
    ]
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
            style = "bold" if at == 0 else COLOURS[cells[name][at]] if name == "status" else ""
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
    first = sorted(range(len(rows)), key=lambda at: STATUSES.index(rows[at].get("status", FINISHED)))[:room]
    return [rows[at] for at in sorted(first)]


def notes(chosen: Chosen) -> list[str]:
    """What went wrong, by reason, and how to run one again."""
    rows = [run.row for run in chosen.runs]
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["reason"] is not None:
            reasons.setdefault((row["status"], row["reason"]), []).append(row["run"])
    said = sorted(reasons.items(), key=lambda entry: STATUSES.index(entry[0][0]))
    lines = [
        f"{status}: {runs[0]}{f' and {len(runs) - 1} more' if len(runs) > 1 else ''}: {reason}"
        for (status, reason), runs in said[:REASONS]
    ]
    if len(said) > REASONS:
        lines.append(f"and {number_of(len(said) - REASONS, 'reason')} more: --csv has all")
    if chosen.kind == RUN and any(row["score"] is None and row["last_score"] is not None for row in rows):
        lines.append("(score): the last validation of a run that has not finished")
    if wrong := [row["run"] for row in rows if row["status"] not in (FINISHED, RUNNING, UNREADABLE)]:
        lines.append(f"how to run one again: --command RUN, such as --command {wrong[0]}")
    return lines


PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}

UNLIMITED = 10_000
"""Columns that no table fills."""


def show(chosen: Chosen, options: argparse.Namespace) -> None:
    width = shutil.get_terminal_size((0, 0)).columns or None  # nothing is left out where nobody says how wide it is
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1, with one line that says why, where there is nothing to show."""
    options = parser().parse_args(minus_kept(sys.argv[1:] if arguments is None else arguments))
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # where not every character can be printed
    reader = Reader(options.outputs)
    try:
        if options.command is not None:
            print(command(options.outputs, options.command))
        elif options.csv is not None:
            rows = chosen(reader, options)
            if options.csv == "-":
                write(rows, options.columns, sys.stdout)
            else:
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
