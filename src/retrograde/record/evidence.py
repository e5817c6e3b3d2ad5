"""What a run has recorded, as its alerts ask for it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from retrograde.record.store import FolderStore
from retrograde.record.tables import LOWEST


@dataclass(frozen=True)
class Evidence:
    """All that alerts are made of: a run's tables, its card, and what run.json says or is going to say of it."""

    store: FolderStore
    run: str
    metadata: Mapping[str, Any]
    read: dict[str, pd.DataFrame] = field(default_factory=dict)

    def table(self, name: str) -> pd.DataFrame:
        """The readings ``probe/quantity`` of this run, of statistics the mean alone."""
        if name not in self.read:
            table = self.store.readings(name, [self.run])
            self.read[name] = table[table["statistic"] == "mean"] if "statistic" in table else table
        return self.read[name]

    def numbers(self, name: str) -> dict[tuple[int, str, str], float]:
        """Numbers without axes by step, layer and component."""
        return {(row["step"], row["layer"], row["component"]): row["value"] for row in rows(self.table(name))}

    def steps(self, name: str) -> list[int]:
        """The steps at which there is a reading of that name."""
        return sorted({int(step) for step in self.table(name)["step"]})

    def config(self, path: str) -> Any:
        """A setting of the run; None where it has no such."""
        node: Any = self.metadata.get("config", {})
        for key in path.split("."):
            node = node.get(key) if isinstance(node, Mapping) else None
        return node

    def asks(self, path: str) -> bool:
        """Whether the run has that setting at all."""
        parent, _, key = path.rpartition(".")
        node = self.config(parent) if parent else self.metadata.get("config", {})
        return isinstance(node, Mapping) and key in node

    def over_lag(self, quantity: str) -> pd.DataFrame:
        """A gradient of recurrences over lag: the means in log10."""
        table = self.table(f"lag_gradient/{quantity}")
        return table[table["layer"].map(lambda layer: str(layer).partition(".")[0] in self.recurrent).astype(bool)]

    @cached_property
    def recurrent(self) -> frozenset[str]:
        """The layers, without direction, whose states begin before the first input."""
        table = self.table("state_gradient/total")
        if table.empty:
            return frozenset()
        return frozenset(str(layer).partition(".")[0] for layer in table.loc[table["time"] == -1, "layer"].unique())

    @cached_property
    def ungated(self) -> bool:
        """Whether gates were looked for, in a model that is a stack of recurrences, and none was there."""
        stacked = LOWEST.rstrip(".") in self.recurrent
        return stacked and self.asks("probe.gates") and "gates/gate" not in self.store.tables([self.run])


def rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows as mappings, in order."""
    return [{str(column): value for column, value in row.items()} for row in table.to_dict("records")]


def by_step(found: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """Rows that were read at one step together."""
    steps: dict[int, list[dict[str, Any]]] = {}
    for row in found:
        steps.setdefault(row["step"], []).append(row)
    return steps
