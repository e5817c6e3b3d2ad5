"""The reading side: the runs below a folder, as pandas tables."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from retrograde.record.folder import FINISHED, RunFolder, run_folders, stamp
from retrograde.record.metadata import read_card, read_run, shown
from retrograde.record.tables import (
    LABELS,
    METRICS,
    PART_NAME,
    READINGS,
    columns_of,
    is_there,
    parts_of,
    read_table,
    table_files,
)

TRIES = 3
"""How often a table is read whose files are merged meanwhile."""


BEGUN = "run.json", "tables", "checkpoints"
"""What a run's folder holds one of, once the run has begun; they come in this order."""

ALWAYS = "metrics", "labels"
"""Tables of a finished run that does not say which it had."""

SAID = 5
"""Folders that are named where none can be read."""


@dataclass(frozen=True)
class Piece:
    """What one file says of a run."""

    folder: RunFolder
    file: Path
    table: pa.Table

    @property
    def kinds(self) -> list[tuple[str, bool]]:
        """The columns, each with whether it holds texts."""
        return [(field.name, pa.types.is_dictionary(field.type)) for field in self.table.schema]


class FolderStore:
    """Every run that lies below ``root``, at any depth, or ``root`` itself where it is a run.

    Raises ValueError, in one line, for a folder that is missing or holds no run. What cannot be read is left out, a run
    or a file of one of its tables, and ``unreadable`` says which and why, by run; of tables once they have been asked
    for. Nothing is made of a file but its numbers and texts.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise ValueError(f"'{self.root}' is not a folder: give one that holds runs, such as outputs/demo")
        self.folders: dict[str, RunFolder] = {}
        self.unreadable: dict[str, str] = {}
        self._metadata: dict[str, dict[str, Any]] = {}
        self._cards: dict[str, dict[str, Any]] = {}
        for folder in sorted(run_folders(self.root), key=lambda folder: folder.path):
            if not any(is_there(folder.path / part) for part in BEGUN) and os.access(folder.path, os.X_OK):
                continue
            try:
                metadata = read_run(folder)
            except ValueError as error:
                self._say(folder.run, str(error))
                continue
            if folder.run in self.folders:
                self._say(str(folder.path), f"{folder.path} is another copy of {self.folders[folder.run].path}")
                continue
            self._metadata[folder.run] = metadata
            self.folders[folder.run] = folder
            for name in metadata.get("tables", ALWAYS if metadata["status"] == FINISHED else ()):
                file = folder.tables / f"{name}.parquet"
                if not is_there(file):
                    self._say(folder.run, f"{file} is missing")
        if not self.folders:
            said = list(self.unreadable.values())
            more = [f"and {len(said) - SAID} more"] if len(said) > SAID else []
            why = "; ".join([*said[:SAID], *more]) or "there is no run.json below it"
            raise ValueError(f"'{self.root}' holds no run that can be read: {why}")

    def _say(self, who: str, what: str) -> None:
        """Note in one line what could not be read, once."""
        said = self.unreadable.get(shown(who))
        if said is None:
            self.unreadable[shown(who)] = shown(what)
        elif shown(what) not in said:
            self.unreadable[shown(who)] = f"{said}; {shown(what)}"

    def note(self, unreadable: Mapping[str, str]) -> None:
        """What another process could not read of the same runs."""
        for who, said in unreadable.items():
            for what in said.split("; "):
                self._say(who, what)

    def runs(self) -> pd.DataFrame:
        """One row a run, ordered by study, model, task, seed; every setting is a column, its keys joined by dots."""
        return self._runs.copy()

    @cached_property
    def _runs(self) -> pd.DataFrame:
        frame = pd.DataFrame([columns_of(metadata) for metadata in self._metadata.values()])
        return frame.sort_values(["study", "model", "task", "seed", "run"], ignore_index=True)

    def metadata(self, run: str) -> dict[str, Any]:
        """Everything that run.json holds."""
        return self._metadata[run]

    def card(self, run: str) -> dict[str, Any]:
        """The task's card as it was when the run was made; raises ValueError, naming the file, where there is none."""
        if run not in self._cards:
            self._cards[run] = read_card(self.folders[run])
        return self._cards[run]

    def at_work(self, run: str) -> bool:
        """Whether a process is at work on the run, as far as this machine knows."""
        return self.folders[run].owner() is not None

    def metrics(self, runs: Sequence[str] | None = None) -> pd.DataFrame:
        """run, step, split, quantity, value, status."""
        return self._table("metrics", runs, METRICS)

    def labels(self, runs: Sequence[str] | None = None) -> pd.DataFrame:
        """The probe batch in words: run, side, sample, time, label, scored."""
        return self._table("labels", runs, LABELS)

    def tables(self, runs: Sequence[str] | None = None) -> list[str]:
        """The names, ``probe/quantity``, of the readings that any of the runs holds."""
        names = set()
        for folder in self._chosen(runs):
            root = folder.tables / "readings"
            names |= {f"{file.parent.name}/{file.stem}" for file in root.glob("*/*.parquet")}
            parts = [part for part in root.glob("*/*/part-*.parquet") if PART_NAME.fullmatch(part.name)]
            names |= {f"{part.parent.parent.name}/{part.parent.name}" for part in parts}
        return sorted(names)

    def readings(
        self,
        name: str,
        runs: Sequence[str] | None = None,
        steps: Sequence[int] | None = None,
        statistic: str | None = None,
    ) -> pd.DataFrame:
        """run, step, layer, component, the reading's dims, value, status; of a batch's statistics one where named."""
        return self._table(f"readings/{name}", runs, READINGS, steps, statistic)

    def _chosen(self, runs: Sequence[str] | None) -> list[RunFolder]:
        names = self._runs["run"] if runs is None else runs
        unknown = [run for run in names if run not in self.folders]
        if unknown:
            raise ValueError(f"no run '{unknown[0]}' below '{self.root}'")
        return [self.folders[run] for run in names]

    def _table(
        self,
        name: str,
        runs: Sequence[str] | None,
        schema: pa.Schema,
        steps: Sequence[int] | None = None,
        statistic: str | None = None,
    ) -> pd.DataFrame:
        found = [
            Piece(folder, file, table)
            for folder in self._chosen(runs)
            for file, table in self._read(folder, name, schema, steps, statistic).items()
        ]
        pieces = self._alike(found)
        tables = [piece.table for piece in pieces] or [schema.empty_table()]
        table = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
        return _decoded(self._once(table, pieces)).to_pandas()

    def _read(
        self,
        folder: RunFolder,
        name: str,
        schema: pa.Schema,
        steps: Sequence[int] | None,
        statistic: str | None,
    ) -> dict[Path, pa.Table]:
        """A run's table by file; a file that cannot be read costs its own rows and nobody else's."""
        merged = folder.tables / f"{name}.parquet"
        for _ in range(TRIES):
            before, found, bad = stamp(merged), {}, []
            try:
                files = table_files(folder.tables, name)
            except ValueError as error:
                files, bad = parts_of(folder.tables, name), [str(error)]
            for file in files:
                try:
                    found[file] = read_table(file, folder.run, schema, steps, statistic)
                except ValueError as error:
                    bad.append(str(error))
            if stamp(merged) == before and all(is_there(file) for file in files):  # else they were merged meanwhile
                break
        for what in bad:
            self._say(folder.run, what)
        return found

    def _alike(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Without those of which a dim holds texts where most have numbers, or the other way round."""
        count = Counter((column, is_text) for piece in pieces for column, is_text in piece.kinds)
        kept = []
        for piece in pieces:
            odd = [column for column, is_text in piece.kinds if count[column, is_text] < count[column, not is_text]]
            if odd:
                self._say(piece.folder.run, f"{piece.file} cannot be read: '{odd[0]}' is of another kind elsewhere")
            else:
                kept.append(piece)
        return kept

    def _once(self, table: pa.Table, pieces: Sequence[Piece]) -> pa.Table:
        """The rows of these pieces, each once."""
        where = table.select([name for name in table.column_names if name not in ("value", "status")])
        if not where.to_pandas().duplicated().any():  # which is faster than a look at what they say as well
            return table
        again = table.to_pandas().duplicated().to_numpy()
        for piece, end in zip(pieces, accumulate(len(piece.table) for piece in pieces), strict=True):
            if again[end - len(piece.table) : end].any():
                self._say(piece.folder.run, f"{piece.file} holds rows a second time; they count once")
        return table.filter(pa.array(~again))


def _decoded(table: pa.Table) -> pa.Table:
    """The table with its texts as such; pandas takes several times as long for it."""
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(pa.large_string()))
    return table
