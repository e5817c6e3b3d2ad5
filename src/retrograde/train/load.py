"""A finished run, back in memory."""

import inspect
import pydoc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra.utils import instantiate
from torch import Tensor

from retrograde.core.contracts import SequenceModel, Task
from retrograde.record.folder import FINISHED, RunFolder
from retrograde.record.metadata import read_run, shown
from retrograde.record.store import FolderStore
from retrograde.train.checkpoints import BEST, weights_of
from retrograde.train.replay import KEPT, Replay, kept, replay

OURS = tuple(f"retrograde.{part}" for part in ("models", "tasks", "layers", "probes"))
"""Whose classes and functions a run may name without being trusted."""

TORCH = "torch.nn"

NAMING = "retrograde.models.module"
"""Whose setting ``target`` names what is called, as ``_target_`` does everywhere."""


@dataclass(frozen=True)
class Run:
    """A run: the model with the weights that validation chose, its task, and its tables."""

    folder: RunFolder
    model: SequenceModel
    task: Task
    metadata: dict[str, Any]
    store: FolderStore
    trusted: tuple[str, ...] = ()

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
        try:
            step, weights, batch = kept(self.folder.checkpoints)
        except ValueError:
            raise
        except Exception as error:  # torch's reader raises whatever damaged bytes lead it to
            raise ValueError(f"{self.folder.checkpoints / KEPT} cannot be read") from error
        model, task = built(self.metadata, self.trusted)
        precision = next(value.dtype for value in weights.values() if value.is_floating_point())
        put(weights, model.to(precision), self.folder.checkpoints / KEPT)
        return replay(model, task, batch, step)


def load(run: Path | str, trusted: Sequence[str] = ()) -> Run:
    """The run in that folder. Its model and task are built anew from the settings that it recorded.

    What these name is called if it is ours or torch's; ``trusted`` are the packages besides in which it may lie.
    Raises ValueError where the folder holds no finished run, or names a model that cannot be built.
    """
    folder = RunFolder(Path(run).resolve())
    metadata = read_run(folder)
    if metadata["status"] != FINISHED:
        raise ValueError(f"run {folder.run} is {metadata['status']}, not finished: there is no model to load")
    model, task = built(metadata, trusted)
    weights, _ = selected_weights(folder.checkpoints)
    put(weights, model, folder.checkpoints / BEST)
    return Run(folder, model.eval(), task, metadata, FolderStore(folder.path), tuple(trusted))


def restored(path: Path, trusted: Sequence[str] = ()) -> tuple[RunFolder, SequenceModel, Task, int]:
    """A run's model with saved weights, its task, and the step: the weights that validation chose, of a run's folder,
    or those of a checkpoint's file in it. The run may have ended anyhow; ``trusted`` is as in ``load``.

    Raises ValueError, in one line, where there is no such run or checkpoint.
    """
    checkpoint = path if path.is_file() else path / "checkpoints" / BEST
    folder = RunFolder(checkpoint.resolve().parent.parent)
    if not (folder.path / "run.json").is_file():
        raise ValueError(f"'{path}' is neither a run's folder nor a checkpoint in one")
    if not checkpoint.is_file():
        raise ValueError(f"run {folder.run} has no checkpoint {checkpoint.name}")
    model, task = built(read_run(folder), trusted)
    weights, step = read_weights(checkpoint)
    put(weights, model, checkpoint)
    return folder, model.eval(), task, step


def built(metadata: Mapping[str, Any], trusted: Sequence[str] = ()) -> tuple[SequenceModel, Task]:
    """The model and the task of a run, made anew from the settings that it recorded; the weights are initial ones.

    Raises ValueError, before anything is called, where the settings name what is not trusted.
    """
    for part in ("task", "model"):
        settings = metadata["config"].get(part)
        if not isinstance(settings, dict) or "_target_" not in settings:
            raise ValueError(f"run {metadata['run']} does not say of what its {part} was made")
        require_trusted(settings, trusted, f"run {metadata['run']}")
    task = instantiate(metadata["config"]["task"])
    with torch.random.fork_rng():  # the initial weights, which are replaced at once, are drawn at nobody's expense
        return instantiate(metadata["config"]["model"])(task), task


def require_trusted(settings: Mapping[str, Any], trusted: Sequence[str], who: str) -> None:
    """Raise ValueError unless all that recorded settings would call is ours, a layer of torch's, or trusted.

    Ours are the classes and functions that stand in our models, tasks, layers and probes, and not what these import.
    """
    for name in called(settings, who):
        package = name.partition(".")[0]
        if not all(map(str.isidentifier, name.split("."))) or not below(name, (*OURS, TORCH, *trusted)):
            raise ValueError(
                f"{who} names '{shown(name)}', which is not Retrograde's: trusted=['{shown(package)}'], or "
                f"--trust {shown(package)} for retrograde-probe, is your word that it may be called"
            )
        try:
            found = pydoc.locate(name)
        except pydoc.ErrorDuringImport as error:
            raise ValueError(f"{who} names '{name}', which cannot be imported: {error.value}") from error
        if found is None:
            raise ValueError(f"{who} names '{name}', which cannot be imported")
        home = str(getattr(found, "__module__", ""))
        stands_there = name == f"{home}.{getattr(found, '__name__', '')}" and not name.rpartition(".")[2].startswith(
            "_"
        )
        is_ours = below(home, OURS) and stands_there and (inspect.isclass(found) or inspect.isfunction(found))
        is_layer = below(home, (TORCH,)) and inspect.isclass(found) and issubclass(found, torch.nn.Module)
        if not (is_ours or is_layer or (below(home, trusted) and callable(found))):
            raise ValueError(f"{who} names '{name}', which is no model, task, layer or probe")


def called(settings: Any, who: str) -> Iterator[str]:
    """The names of all that settings would call; raises ValueError for what could hide others."""
    if isinstance(settings, str) and "${" in settings:
        raise ValueError(
            f"{who} holds '{shown(settings)}', which could stand for anything: settings are recorded resolved"
        )
    if isinstance(settings, list):
        for part in settings:
            yield from called(part, who)
    if isinstance(settings, dict):
        if "_args_" in settings:
            raise ValueError(f"{who} holds _args_: settings are recorded by name")
        for key, value in settings.items():
            yield from called(value, who)
            if key == "_target_" or (key == "target" and below(str(settings.get("_target_")), (NAMING,))):
                yield str(value)


def below(path: str, packages: Sequence[str]) -> bool:
    """Whether a module is one of the packages or lies in one."""
    return any(path == package or path.startswith(f"{package}.") for package in packages)


def selected_weights(checkpoints: Path) -> tuple[dict[str, Tensor], int]:
    """The weights that validation chose, and the step that they are from."""
    return read_weights(checkpoints / BEST)


def read_weights(file: Path) -> tuple[dict[str, Tensor], int]:
    """The weights in a checkpoint and their step; raises ValueError, naming the file, where it holds none."""
    try:
        weights, step = weights_of(file)
    except ValueError:
        raise
    except Exception as error:  # torch's reader raises whatever damaged bytes lead it to
        raise ValueError(f"{file} cannot be read as a checkpoint") from error
    if not isinstance(step, int):
        raise ValueError(f"{file} does not say which step it is from")
    return weights, step


def put(weights: Mapping[str, Tensor], model: SequenceModel, file: Path) -> None:
    """Into the model; raises ValueError, naming the file, where they are another's."""
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"the weights in {file} are not those of the model that run.json describes") from error
