"""The progress of a run and of the sweep that it belongs to, on a terminal."""

import sys
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from retrograde.train.module import Training
from retrograde.train.sweep import place

REFRESH = 10
"""Times a second, at most."""


class ProgressBar(pl.Callback):
    """Two bars: jobs of the sweep where there is one, steps of this run."""

    def __init__(self, title: str, steps: int) -> None:
        self.title = title
        self.steps = steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[score]}"),
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=REFRESH,
        )
        where = place()
        if where is not None:
            number, size = where
            self.progress.add_task(f"run {number} of {size}", total=size, completed=number - 1, score="")
        self.bar = self.progress.add_task(self.title, total=self.steps, score="")
        self.progress.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Training)  # the one module that this project trains
        score = pl_module.best_score
        shown = "" if score is None else f"validation score {score:.3f}"
        self.progress.update(self.bar, completed=trainer.global_step, score=shown)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.progress.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.progress.stop()


def wanted(progress: bool) -> bool:
    """A bar is for a person who watches; a log file gets the line at the end of a run alone."""
    return progress and sys.stderr.isatty()
