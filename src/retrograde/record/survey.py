"""All runs below a folder, each as a row: what it is, how far it is, how it ended.

    Reader(root).runs()        the rows, in order; read again, they show what has changed
    configurations(runs)       one row for all seeds of a configuration, which is all settings but the seed

A run is finished, diverged (finished after a step whose numbers were not finite), running, interrupted, failed, lost,
not begun or unreadable. Whatever lies in a folder, there is a row for it; looking changes nothing.
"""

import math
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from retrograde.record.folder import (
    CLAIMED,
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
    stamp,
    status_of,
)
from retrograde.record.metadata import read_run, shown
from retrograde.record.selection import in_order
from retrograde.record.tables import METRICS, columns_of, read_table, table_files

DIVERGED, UNREADABLE = "diverged", "unreadable"

STATUSES = (RUNNING, UNREADABLE, FAILED, LOST, INTERRUPTED, NOT_BEGUN, DIVERGED, FINISHED)
"""What a run can be; those that somebody has to look at first come first."""

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


@dataclass(frozen=True)
class Run:
    """``row`` is all that is known; ``configuration`` is None where the settings are not known."""

    folder: RunFolder
    row: Row
    configuration: tuple[str, ...] | None


@dataclass
class Reader:
    """Reads the runs below ``root``; what has ended is read once as long as nobody writes to it."""

    root: Path
    ended: dict[Path, tuple[object, Run]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.place = self.root.resolve()

    def runs(self) -> list[Run]:
        """Ordered by study, model, task, seed; raises ValueError, in one line, where there is none."""
        if not self.root.is_dir():
            raise ValueError(f"'{self.root}' is not a folder: give one that holds runs, such as outputs/demo")
        found = [self._run(folder) for folder in run_folders(self.root)]
        if not found:
            raise ValueError(f"'{self.root}' holds no run: there is no run.json below it")
        found = without_copies(found)
        compare(found)
        order = ("study", "model", "task", "seed", "run")
        return sorted(found, key=lambda run: [in_order(run.row[name]) for name in order])

    def _run(self, folder: RunFolder) -> Run:
        where = str(self.root / folder.path.relative_to(self.place))
        blank = dict.fromkeys(RUN) | {"run": printable(folder.run), "where": printable(where)}
        try:
            written = stamp(folder.path / "run.json")
            known, run = self.ended.get(folder.path, (None, None))
            if run is not None and known == (written, FINISHED):
                return run
            said, status = look(folder)
            if run is not None and known == (written, status):
                return run
            run = described(folder, said, status, blank)
        except (OSError, ValueError) as error:
            return Run(folder, blank | {"status": UNREADABLE, "reason": printable(str(error))}, None)
        if status != RUNNING:
            self.ended[folder.path] = (written, status), run
        return run


def look(folder: RunFolder) -> tuple[Row, str]:
    """What run.json says, and what the run is; raises ValueError where that cannot be read."""
    record = folder.path / "run.json"
    while True:
        before = stamp(record)
        said = recorded(folder)
        if said.get("status") == FINISHED:
            return said, FINISHED
        status = status_of(folder)
        if stamp(record) == before:  # else it has begun or ended in between
            return said, NOT_BEGUN if status is None else RUNNING if status == CLAIMED else status


def recorded(folder: RunFolder) -> Row:
    """What run.json says, nothing where there is none."""
    try:
        return read_run(folder)
    except ValueError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return {}
        raise


EXPLAINED = {
    LOST: "no process is at work on it: launched again, it goes on from its last checkpoint",
    NOT_BEGUN: "nothing is recorded: it is being launched, or ended before it was a run",
}


def described(folder: RunFolder, said: Row, status: str, blank: Row) -> Run:
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
    reasons = [row["reason"], EXPLAINED.get(status)]
    if status not in (FINISHED, NOT_BEGUN):
        come = progress(folder)
        reasons.append(come.pop("reason", None))
        row |= come
    row["reason"] = "; ".join(filter(None, dict.fromkeys(reasons))) or None
    if status == RUNNING and (owner := folder.owner()) is not None:
        row["worker"] = printable(f"{owner[1]} {owner[0]}")
    if status == RUNNING and begun is not None:
        before = (said.get("attempts") or [{}])[-1].get("from_seconds", 0.0)
        elapsed = time.time() - begun.timestamp()
        row["duration"] = before + elapsed if elapsed >= 0 else None  # by a clock that was set back nothing can be told
    if not said:
        return Run(folder, row, None)
    row["steps"] = row.get("config.steps")
    without_seed = {key: value for key, value in said["config"].items() if key != "seed"}
    return Run(folder, row, (row["study"], row["model"], row["task"], config_hash(without_seed)))


def started(said: Row, folder: RunFolder) -> datetime | None:
    """When its newest attempt began; raises ValueError for what is no time."""
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
        settings = settings_of([run.row for run in of_model])
        names = differing(settings, ("seed", "study", *NOT_PART_OF_THE_RESULT), words)
        for run, of_run in zip(of_model, settings, strict=True):
            run.row["settings"] = ", ".join(f"{name}={words(of_run.get(key))}" for key, name in names.items()) or None


def settings_of(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The settings of each, a choice under the name of its group: none, or what is made of it.

    >>> settings_of([{"config.optimizer._target_": "torch.optim.SGD", "config.optimizer._partial_": True}])
    [{'config.optimizer': 'sgd'}]
    >>> settings_of([{"config.position": None}, {"config.position._target_": "retrograde.layers.positions.NoPosition"}])
    [{'config.position': 'none'}, {'config.position': 'no_position'}]
    """
    groups = {key.removesuffix(TARGET) for row in rows for key in row if key.endswith(TARGET)}
    made = []
    for row in rows:
        settings: Row = {}
        for key, value in row.items():
            if key.endswith(TARGET):
                last = str(value).rpartition(".")[2]
                settings[key.removesuffix(TARGET)] = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", last).lower()
            elif key.startswith("config.") and not key.endswith("._partial_"):
                settings[key] = "none" if value is None and key in groups else value
        made.append(settings)
    return made


TARGET = "._target_"


def differing(settings: Sequence[Row], left_out: Sequence[str], words: Callable[[Any], str]) -> dict[str, str]:
    """The settings in which runs differ in ``words``, each with the shortest name that tells it.

    Of a choice, the settings that come with it are not told: those are in which runs with the same choice differ.

    >>> differing([{"config.model.hidden": 8, "config.seed": 0}, {"config.model.hidden": 16}], ["seed"], str)
    {'config.model.hidden': 'hidden'}
    >>> list(differing([{"config.model.size": 1, "config.task.size": 1}, {"config.model.size": 2}], [], str).values())
    ['model.size', 'task.size']
    >>> sgd, adam = {"config.optimizer": "sgd", "config.optimizer.momentum": 0.0}, {"config.optimizer": "adam"}
    >>> list(differing([sgd, adam], [], str)), list(differing([sgd, sgd | {"config.optimizer.momentum": 0.9}], [], str))
    (['config.optimizer'], ['config.optimizer.momentum'])
    """
    beginnings = tuple(f"config.{name}." for name in left_out)
    chosen = []
    for key in dict.fromkeys(key for row in settings for key in row if not f"{key}.".startswith(beginnings)):
        group = key.rpartition(".")[0]
        told = {(row.get(group), words(row.get(key))) for row in settings}
        if len(told) > len({row.get(group) for row in settings}):
            chosen.append(key)
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


def counted(counts: Mapping[str, int]) -> str:
    """How many there are of each status.

    >>> counted({LOST: 1, FINISHED: 3})
    '3 finished, 1 lost'
    """
    return ", ".join(f"{counts[status]} {status}" for status in reversed(STATUSES) if counts.get(status))
