"""best.ckpt and last.ckpt: weights for those who load a run, and all that an interrupted run goes on from.

    state_dict, global_step    the weights after that step, their names beginning with ``model.``
    optimizer, schedulers, precision, drawn, random    as in ``marks.Mark``
    training, probing          what these two have counted and found
    seconds                    that the run has taken so far
    ended                      whether training is over, so that only its test is left

A file appears whole or not at all, and what was recorded up to its step is on disk before it. Nothing but tensors and
plain values is read back.
"""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import torch
from torch import Tensor

from retrograde.core.contracts import Recorder
from retrograde.record.folder import aside, regular
from retrograde.record.tables import is_there
from retrograde.train.marks import Mark, marked

if TYPE_CHECKING:  # which uses this module
    from retrograde.train.module import Training

BEST, LAST = "best.ckpt", "last.ckpt"

PREFIX = "model."
"""Where the model's weights stand in a checkpoint."""

EVERY = 10.0
"""Seconds of training that a kill can cost, and the steps since the last log."""

SHARE = 0.02
"""Of training's time that checkpoints may take, where a large model makes them slow."""

State = dict[str, Any]

WEIGHTS = {"state_dict": {str: Tensor}, "global_step": int}
"""What every checkpoint consists of, see ``_is``."""

MOMENT = {
    "optimizer": dict,
    "schedulers": [dict],
    "precision": dict,
    "drawn": Tensor,
    "random": {str: Tensor},
    "training": {
        "solved_step": (int, NoneType),
        "best_score": (float, NoneType),
        "validated": (int, NoneType),
        "diverged": (dict, NoneType),
        "losses": Tensor,
        "clipped": Tensor,
        "clipped_steps": int,
    },
    "probing": {
        "last": int,
        "horizons": {int: float},
        "firings": [float],
        "left_out": [int],
        "seconds": {str: float},
        "notes": [str],
        "trained": float,
    },
    "seconds": float,
    "ended": bool,
}
"""What a moment that can be gone on from consists of, see ``_is``."""


@dataclass(frozen=True)
class Resumption:
    """The newest moment that an interrupted run has kept; ``unread`` are the files there that hold none."""

    mark: Mark
    training: State
    probing: State
    seconds: float
    ended: bool
    unread: tuple[str, ...] = ()

    @property
    def recorded(self) -> int:
        """The step up to which what stands in the tables holds; of a divergence that is the step after the last."""
        diverged = self.training["diverged"]
        return self.mark.step if diverged is None else diverged["step"]


class Checkpoints:
    """Writes them.

    ``probing`` tells what probes have cost and found so far; ``before`` are the seconds of earlier attempts, ``clock``
    counts those of this one.
    """

    def __init__(
        self,
        folder: Path,
        recorder: Recorder,
        probing: Callable[[], State],
        before: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.clock = clock
        self.folder = folder
        self.recorder = recorder
        self.probing = probing
        self.begun = clock() - before
        self.saved, self.trained = time.monotonic(), clock()
        self.cost = 0.0

    def save_when_due(self, training: "Training") -> None:
        # a kill costs time by the clock on the wall; saving may take a share of this run's own, in company as alone
        if time.monotonic() - self.saved >= EVERY and self.clock() - self.trained >= self.cost / SHARE:
            self.save(training, LAST)

    def save(self, training: "Training", name: str, ended: bool = False) -> None:
        """All of this moment, after a step of training; of several processes the first saves it."""
        if not training.trainer.is_global_zero:
            return
        begun = time.monotonic()
        self.recorder.flush()
        mark = marked(training.trainer, training)
        content = {
            "state_dict": {f"{PREFIX}{key}": value for key, value in mark.weights.items()},
            "global_step": mark.step,
            **{key: value for key, value in vars(mark).items() if key not in ("step", "weights")},
            "training": training.progress(),
            "probing": self.probing(),
            "seconds": self.clock() - self.begun,
            "ended": ended,
        }
        write_aside(content, self.folder / name)
        self.saved, self.trained = time.monotonic(), self.clock()
        self.cost = self.saved - begun


def write_aside(content: State, path: Path) -> None:
    """The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(content, buffer)  # not to the file: of a full disk torch says nothing that a person would understand
    with aside(path) as unfinished:
        unfinished.write_bytes(buffer.getbuffer())


def newest(folder: Path, device: str) -> Resumption:
    """What to go on from, on a device of that kind; ValueError, saying why, where there is nothing.

    The best weights carry everything as well, so they serve where they are newer than the last.
    """
    kept = [folder / name for name in (LAST, BEST) if is_there(folder / name)]
    if not kept:
        raise ValueError("it was interrupted before it had kept anything")
    found, unread = [], []
    for file in kept:
        try:
            found.append(_resumption(file))
        except ValueError:  # torn, foreign, or of another version
            unread.append(file.name)
    if not found:
        raise ValueError(f"{' and '.join(unread)} cannot be gone on from")
    latest = max(found, key=lambda one: one.mark.step)
    if latest.mark.device != device:
        raise ValueError(f"it was interrupted on {latest.mark.device} and {device} is next")
    return replace(latest, unread=tuple(unread))


def _resumption(file: Path) -> Resumption:
    """Raises ValueError where the file is no checkpoint, or none that a run goes on from."""
    content = read(file)
    weights, step = content.pop("state_dict"), content.pop("global_step")
    diverged = content["training"]["diverged"] if _is(content, MOMENT) else {}
    if diverged is not None and type(diverged.get("step")) is not int:
        raise ValueError(f"{file} holds no moment to go on from")
    moment = {name: content[name] for name in ("optimizer", "schedulers", "precision", "drawn", "random")}
    parts = {name: content[name] for name in ("training", "probing", "seconds", "ended")}
    return Resumption(
        Mark(step, {name.removeprefix(PREFIX): value for name, value in weights.items()}, **moment), **parts
    )


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind: one of some types; a list of one kind; a mapping of certain or of any names."""
    if isinstance(kind, list):
        return type(value) is list and all(_is(one, kind[0]) for one in value)
    if isinstance(kind, dict):
        if type(value) is not dict:
            return False
        (named, *_) = kind
        if isinstance(named, type):
            return all(type(name) is named and _is(one, kind[named]) for name, one in value.items())
        return value.keys() == kind.keys() and all(_is(one, kind[name]) for name, one in value.items())
    return type(value) in (kind if isinstance(kind, tuple) else (kind,))


def read(file: Path) -> State:
    """A checkpoint's content, on the CPU; raises ValueError, naming the file, where it is none."""
    try:
        with ZipFile(regular(file)) as parts:
            intact = parts.testzip() is None  # torch writes checksums, and looks at none
        content = torch.load(file, weights_only=True, map_location="cpu") if intact else None
    except Exception as error:  # damage may look like anything
        raise ValueError(f"{file} cannot be read as a checkpoint") from error
    if not isinstance(content, dict) or not _is({name: content.get(name) for name in WEIGHTS}, WEIGHTS):
        raise ValueError(f"{file} cannot be read as a checkpoint")
    return content


def weights_of(file: Path) -> tuple[dict[str, Tensor], int]:
    """The model's weights in a checkpoint, and the step that they are from."""
    content = read(file)
    weights = {
        name.removeprefix(PREFIX): value for name, value in content["state_dict"].items() if name.startswith(PREFIX)
    }
    return weights, content["global_step"]
