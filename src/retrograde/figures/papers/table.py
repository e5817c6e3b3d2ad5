"""The board's table, board.csv: a row a claim, every cell a text, with everything that page and figure say.

Several values in one cell are set apart by semicolons, in the order of seeds.
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

REPRODUCED, NOT_REPRODUCED, NOT_FINISHED, NOT_RUN = "reproduced", "not reproduced", "not finished", "not run"
"""Verdicts; the last two go on behind a colon: how many runs there are, and what they would cost."""

COLUMNS = (
    "preset", "title", "source", "says", "models", "quantity", "aggregate", "published", "ours", "low", "high", "seeds",
    "max", "band_low", "band_high", "origin", "verdict", "diverged", "trivial_rule", "trivial", "shallow_rule",
    "shallow", "solved_from", "lag", "horizons_before", "horizons_after", "horizon_before", "horizon_after", "runs",
    "cost", "hardware", "version", "command", "rules", "figure", "settings", "open", "bands", "expected_cost", "tried",
    "configured",
)  # fmt: skip

STATED = (
    "title", "source", "command", "rules", "settings", "open", "bands", "expected_cost", "tried",
)  # fmt: skip
"""What a row has from the head of its preset, which may be said better at any time."""

CLAIMED = ("says", "models", "quantity", "aggregate", "published", "band_low", "band_high", "origin", "configured")
"""What a verdict is on: with another one, the runs have to be made again."""

Row = Mapping[str, str]


def cell(value: float | None) -> str:
    """Six digits, as every table has them."""
    return "" if value is None else f"{value:.6g}"


def cells(values: Iterable[float]) -> str:
    """Several in one."""
    return ";".join(cell(float(value)) for value in values)


def number_in(one: str) -> float:
    """NaN where there is none."""
    return float(one) if one else math.nan


def numbers_in(several: str) -> list[float]:
    """Those of a cell, none where it is empty."""
    return [float(one) for one in several.split(";")] if several else []


def grouped(rows: Iterable[Row], by: str) -> dict[str, list[Row]]:
    """Rows by what they have in a column, in the order in which that comes up."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[by], []).append(row)
    return groups


def is_measured(row: Row) -> bool:
    """Whether there were runs."""
    return not row["verdict"].startswith(NOT_RUN)


def is_finished(row: Row) -> bool:
    """Whether all its runs were there."""
    return is_measured(row) and not row["verdict"].startswith(NOT_FINISHED)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a board; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: row.get(name, "") for name in COLUMNS} for row in csv.DictReader(file)]


def write(rows: Sequence[Row], path: Path) -> None:
    """One kind of line end on every system."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
