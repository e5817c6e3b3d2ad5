"""The recorder of a run: complete tables in its folder, and the W&B view beside them."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from retrograde.core.records import Reading
from retrograde.record.folder import FINISHED, RUNNING, RunFolder
from retrograde.record.tables import Side, TableWriter, labels_table, metrics_table, reading_table
from retrograde.record.view import WandbView

FLUSH_SECONDS = 5.0
"""What a kill can cost at most, and the step at hand."""


class RunRecorder:
    """Writes run.json as running at once, and with its end in ``close``: without that a run is not finished."""

    def __init__(self, folder: RunFolder, metadata: Mapping[str, Any], view: WandbView | None = None) -> None:
        self.folder = folder
        self.metadata = dict(metadata)
        self.view = view
        self.writer = TableWriter(folder.tables)
        self.rows: list[tuple[int, str, float]] = []
        self.flushed = time.monotonic()
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write({**self.metadata, "status": RUNNING})

    def note(self, **facts: Any) -> None:
        """What run.json says from now on, besides what it said at the beginning."""
        self.metadata |= facts
        self.folder.write({**self.metadata, "status": RUNNING})
        if self.view is not None:
            self.view.note(facts)

    def labels(self, labels: Sequence[Sequence[str]], scored: np.ndarray, side: Side = "input") -> None:
        self.writer.append("labels", labels_table(self.folder.run, labels, scored, side))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.rows += [(step, name, value) for name, value in values.items()]
        if self.view is not None:
            self.view.metrics(step, values)
        self.flush_when_due()

    def readings(self, step: int, probe: str, readings: Iterable[Reading]) -> None:
        kept = list(readings)
        for reading in kept:
            quantity, table = reading_table(self.folder.run, step, reading)
            self.writer.append(f"readings/{probe}/{quantity}", table)
        if self.view is not None:
            self.view.readings(step, probe, kept)
        self.flush_when_due()

    def flush(self) -> None:
        if self.rows:
            self.writer.append("metrics", metrics_table(self.folder.run, self.rows))
            self.rows = []
        self.writer.flush()
        self.flushed = time.monotonic()

    def flush_when_due(self) -> None:
        """Called after every step, so that nothing recorded waits for what is recorded next."""
        if time.monotonic() - self.flushed >= FLUSH_SECONDS:
            self.flush()

    def close(self, status: str, summary: Mapping[str, Any]) -> None:
        """The record is complete once run.json says how the run ended; what the view makes of it comes after."""
        self.flush()
        self.writer.merge()
        ended = {**summary, "tables": self.writer.names(), "status": status}
        self.folder.write({**self.metadata, **ended})
        if self.view is not None:
            self.view.close(self.folder, ended, failed=status != FINISHED)
