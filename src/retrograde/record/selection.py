"""Rows by what holds of them, and in which order.

condition("score>0.9").holds(row)
ordered(rows, ["-score", "model"])
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import ge, gt, le, lt
from typing import Any

from retrograde.core.choices import nearest

Row = Mapping[str, Any]


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


def condition(text: str) -> Condition:
    """Raises ValueError for what is none."""
    found = re.fullmatch(r"\s*([^=!<>\s]+)\s*(==?|!=|>=|<=|>|<)\s*(.*?)\s*", text)
    if found is None:
        raise ValueError(f"'{text}' is no condition: write column=value, !=, >, >=, < or <=, in quotation marks")
    return Condition(found[1], "=" if found[2] == "==" else found[2], found[3])


def as_number(text: str) -> float | None:
    """None where it is none."""
    try:
        return float(text)
    except ValueError:
        return None


def require_known(names: Iterable[str], rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Raise ValueError for a column that no row has."""
    known = dict.fromkeys([*columns, *(key for row in rows for key in row)])
    for name in names:
        if name not in known:
            hint = nearest(name, dict.fromkeys([*known, *(key.rpartition(".")[2] for key in known)]))
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
    """Whether it has no place in an order."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def in_order(value: Any) -> tuple[bool, float, str]:
    """A key for values of different kinds: numbers, then texts, then what is missing."""
    if value is None:
        return True, math.inf, ""
    return (True, 0.0, value) if isinstance(value, str) else (False, value, "")
