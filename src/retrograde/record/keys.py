"""The keys that a run's history has in W&B, told from its tables: what the view writes, by the names that it gives.

A dashboard is made of such keys, and the record says which there are: layers, components, lags and heads are those of
the runs, which need not have been uploaded yet.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from retrograde.core.statistics import OF_A_SET
from retrograde.record.store import FolderStore
from retrograde.record.tables import METRICS, READING
from retrograde.record.view import AS_LONG_AS_WIDE, log_spaced, marks

Kind = Literal["metric", "number", "named", "lag", "picture", "map", "set"]
"""A metric; a number without dims, and one along a name; a curve at one lag, and all of it as a picture; an attention
map's picture; the mean over a test set at one coordinate."""


@dataclass(frozen=True, order=True)
class Key:
    """One key: ``<table>/<where>/<label>``, of which the last two may be empty; ``table`` is ``<probe>/<quantity>``."""

    table: str
    where: str
    kind: Kind
    label: str = ""

    @property
    def text(self) -> str:
        return "/".join(part for part in (self.table, self.where, self.label) if part)


def metric_keys(store: FolderStore, runs: Sequence[str]) -> list[Key]:
    """The metrics of these runs, each once, in order."""
    table = store.metrics(runs)[[METRICS.names[2], METRICS.names[3]]].drop_duplicates()
    return sorted(Key(f"{split}/{quantity}", "", "metric") for split, quantity in table.itertuples(index=False))


def reading_keys(store: FolderStore, name: str, runs: Sequence[str]) -> list[Key]:
    """Those of one reading, ``<probe>/<quantity>``, in these runs, each once: by place, then by lag."""
    found: dict[Key, None] = {}
    for run in runs:
        table = store.readings(name, [run])
        for (layer, component), rows in table.groupby(["layer", "component"], sort=True):
            where = f"{layer}.{component}" if component else str(layer)
            found |= dict.fromkeys(_of_place(name, where, rows))
    return list(found)


def _of_place(name: str, where: str, rows: pd.DataFrame) -> Iterator[Key]:
    """The view's own rules: which readings become keys, and at which coordinates."""
    dims = [dim for dim in rows if dim not in READING and rows[dim].notna().any()]
    if not dims:
        yield Key(name, where, "number")
    elif len(dims) == 2 and set(dims) > {"statistic"} and set(rows["statistic"]) == set(OF_A_SET):
        (dim,) = set(dims) - {"statistic"}
        yield from (Key(name, where, "set", f"{dim}_{at}") for at in marks(sorted(map(int, rows[dim].unique()))))
    elif set(dims) in ({"statistic", "time"}, {"statistic", "lag"}):
        (dim,) = set(dims) - {"statistic"}
        at = sorted(map(int, rows[dim].unique()))
        lags = at if dim == "lag" else [at[-1] - time for time in at]
        for lag in log_spaced(max(lags)).tolist():
            if lag in lags:
                yield Key(name, where, "lag", f"lag_{lag}")
        yield Key(name, where, "picture", f"over_{dim}")
    elif len(dims) == 1 and dims[0] not in AS_LONG_AS_WIDE:
        yield from (Key(name, where, "named", _label(label)) for label in rows[dims[0]].dropna().unique())
    elif {"query", "key"} < set(dims):
        yield from (Key(name, where, "map", f"head_{head}") for head in range(rows["head"].nunique()))


def _label(label: object) -> str:
    """A table keeps whole numbers as floats where another place has none."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)
