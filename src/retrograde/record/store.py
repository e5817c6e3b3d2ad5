"""The reading side: the runs below a folder, as pandas tables."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from retrograde.record.folder import RunFolder
from retrograde.record.tables import LABELS, METRICS, READING, columns_of, table_files


class FolderStore:
    """Every run that lies below ``root``, at any depth, or ``root`` itself where it is a run.

    Raises ValueError, in one line, for a folder that is missing or holds no run. What cannot be read is left out, a run
    or a table of a run, and ``unreadable`` says which and why.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise ValueError(f"'{self.root}' is not a folder: give one that holds runs, such as outputs/demo")
        self.folders: dict[str, RunFolder] = {}
        self.unreadable: dict[str, str] = {}
        self._metadata: dict[str, dict[str, Any]] = {}
        for file in sorted(self.root.glob("**/run.json")):
            folder = RunFolder(file.parent.resolve())
            try:
                metadata = folder.read()
            except ValueError as error:
                self.unreadable[folder.run] = str(error)
                continue
            if folder.run in self.folders:
                self.unreadable[str(folder.path)] = f"{folder.path} is another copy of {self.folders[folder.run].path}"
                continue
            self._metadata[folder.run] = metadata
            self.folders[folder.run] = folder
        if not self.folders:
            why = "; ".join(self.unreadable.values()) or "there is no run.json below it"
            raise ValueError(f"'{self.root}' holds no run that can be read: {why}")

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
        """The task's card as it was when the run was made."""
        return self.folders[run].read_card()

    def metrics(self, runs: Sequence[str] | None = None) -> pd.DataFrame:
        """run, step, split, quantity, value, status."""
        return self._table("metrics", runs, None, METRICS.names)

    def labels(self, runs: Sequence[str] | None = None) -> pd.DataFrame:
        """The probe batch in words: run, sample, time, label, scored."""
        return self._table("labels", runs, None, LABELS.names)

    def tables(self, runs: Sequence[str] | None = None) -> list[str]:
        """The names, ``probe/quantity``, of the readings that any of the runs holds."""
        names = set()
        for folder in self._chosen(runs):
            root = folder.tables / "readings"
            names |= {f"{file.parent.name}/{file.stem}" for file in root.glob("*/*.parquet")}
            names |= {f"{part.parent.parent.name}/{part.parent.name}" for part in root.glob("*/*/part-*.parquet")}
        return sorted(names)

    def readings(
        self, name: str, runs: Sequence[str] | None = None, steps: Sequence[int] | None = None
    ) -> pd.DataFrame:
        """run, step, layer, component, the reading's dims, value, status."""
        return self._table(f"readings/{name}", runs, steps, READING)

    def _chosen(self, runs: Sequence[str] | None) -> list[RunFolder]:
        names = self._runs["run"] if runs is None else runs
        unknown = [run for run in names if run not in self.folders]
        if unknown:
            raise ValueError(f"no run '{unknown[0]}' below '{self.root}'")
        return [self.folders[run] for run in names]

    def _table(
        self, name: str, runs: Sequence[str] | None, steps: Sequence[int] | None, columns: Sequence[str]
    ) -> pd.DataFrame:
        tables = []
        for folder in self._chosen(runs):
            try:
                tables += [_read(file, steps) for file in table_files(folder.tables, name)]
            except ValueError as error:  # one damaged file costs its run's table, not everybody's
                self.unreadable[folder.run] = str(error)
        if not tables:
            return pd.DataFrame({column: [] for column in columns})
        table = pa.concat_tables(tables, promote_options="default").unify_dictionaries()
        frame = table.to_pandas()
        texts = frame.select_dtypes("category").columns
        return frame.astype(dict.fromkeys(texts, "str"))


def _read(file: Path, steps: Sequence[int] | None) -> pa.Table:
    try:
        wanted = None if steps is None else ds.field("step").isin(list(steps))
        return pq.read_table(file, filters=wanted).replace_schema_metadata(None)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
