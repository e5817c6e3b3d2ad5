"""A finished run, back in memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra.utils import instantiate

from retrograde.core.contracts import SequenceModel, Task
from retrograde.record.folder import RunFolder
from retrograde.record.store import FolderStore
from retrograde.train.checkpoints import BEST, weights_of
from retrograde.train.replay import Replay, kept, replay


@dataclass(frozen=True)
class Run:
    """A run: the model with the weights that validation chose, its task, and its tables."""

    folder: RunFolder
    model: SequenceModel
    task: Task
    metadata: dict[str, Any]
    store: FolderStore

    def readings(self, name: str) -> pd.DataFrame:
        """The table ``probe/quantity`` of this run."""
        return self.store.readings(name)

    def metrics(self) -> pd.DataFrame:
        """Loss, score and what else was logged, by step."""
        return self.store.metrics()

    def tables(self) -> list[str]:
        """The names that ``readings`` knows."""
        return self.store.tables()

    def replay(self) -> Replay:
        """The step on which this run stopped being finite, once more: from the weights before it, on its own batch.

        Raises ValueError where it never did.
        """
        step, weights, batch = kept(self.folder.checkpoints)
        model, task = built(self.metadata)
        precision = next(value.dtype for value in weights.values() if value.is_floating_point())
        model.to(precision).load_state_dict(weights)
        return replay(model, task, batch, step)


def load(run: Path | str) -> Run:
    """The run in that folder. Its model and task are built anew from the settings that it recorded.

    Raises ValueError where the folder holds no finished run, or names a model that cannot be imported.
    """
    folder = RunFolder(Path(run).resolve())
    metadata = folder.read()
    if metadata["status"] != "finished":
        raise ValueError(f"run {folder.run} is {metadata['status']}, not finished: there is no model to load")
    model, task = built(metadata)
    weights, _ = selected_weights(folder.checkpoints)
    model.load_state_dict(weights)
    return Run(folder, model.eval(), task, metadata, FolderStore(folder.path))


def restored(path: Path) -> tuple[RunFolder, SequenceModel, Task, int]:
    """A run's model with saved weights, its task, and the step: the weights that validation chose, of a run's folder,
    or those of a checkpoint's file in it. The run may have ended anyhow.

    Raises ValueError, in one line, where there is no such run or checkpoint.
    """
    checkpoint = path if path.is_file() else path / "checkpoints" / BEST
    folder = RunFolder(checkpoint.resolve().parent.parent)
    if not (folder.path / "run.json").is_file():
        raise ValueError(f"'{path}' is neither a run's folder nor a checkpoint in one")
    if not checkpoint.is_file():
        raise ValueError(f"run {folder.run} has no checkpoint {checkpoint.name}")
    model, task = built(folder.read())
    weights, step = weights_of(checkpoint)
    model.load_state_dict(weights)
    return folder, model.eval(), task, step


def built(metadata: dict[str, Any]) -> tuple[SequenceModel, Task]:
    """The model and the task of a run, made anew from the settings that it recorded; the weights are initial ones."""
    task = instantiate(metadata["config"]["task"])
    with torch.random.fork_rng():  # the initial weights, which are replaced at once, are drawn at nobody's expense
        return instantiate(metadata["config"]["model"])(task), task


def selected_weights(checkpoints: Path) -> tuple[dict[str, torch.Tensor], int]:
    """The weights that validation chose, and the step that they are from."""
    return weights_of(checkpoints / BEST)
