"""The members of every kind, as ``conf/`` has them: whoever adds a file there is tested from that day on."""

import inspect
from functools import cache, partial
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from retrograde.core.choices import Unavailable
from retrograde.core.contracts import Kind, SequenceModel, Task
from retrograde.tasks.adding import Adding
from retrograde.tasks.cloze import Cloze
from retrograde.tasks.copying import Copying
from retrograde.tasks.reverse import Reverse
from retrograde.tasks.temporal_order import TemporalOrder

CONF = Path(__file__).parents[2] / "conf"
WIDTH = 8

TASKS: list[Task] = [
    Adding(length=20, markers="first_ten"),  # reals, one position scored, lengths differ
    Copying(length=4, symbols=3, recall=2),  # tokens, all positions scored
    TemporalOrder(length=10),  # tokens, one position scored
    Reverse(symbols=3, shortest=3, longest=5),  # from source to target, lengths differ
    Cloze(length=9, vocabulary=20),  # each word from its neighbours
]
"""Small ones of every kind, for models to be held to their contract on."""


def stems(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


FEWER = {"rule": ("model.samples=500",)}
"""What a model is fitted to as it is built, which takes long; how well, no contract says."""


def factory(stem: str, *overrides: str) -> "partial[SequenceModel]":
    """What the model's file stands for; composed once, because composing takes longer than most tests."""
    return _factories(stem, (*FEWER.get(stem, ()), *overrides))


@cache
def kinds(stem: str) -> tuple[str, ...]:
    """The kinds of task that the model fits, which its class says, or the class that its factory gives.

    From the file alone: nothing is composed where tests are only counted.
    """
    made = get_object(OmegaConf.load(CONF / "model" / f"{stem}.yaml")["_target_"])
    return (made if inspect.isclass(made) else get_type_hints(made)["return"]).kinds


@cache
def task_kind(stem: str) -> Kind:
    """The kind of the task as its file has it; built once."""
    task: Task = instantiate(OmegaConf.load(CONF / "task" / f"{stem}.yaml"))
    return task.kind


@cache
def _factories(stem: str, overrides: tuple[str, ...]) -> "partial[SequenceModel]":
    return chosen("model", stem, *overrides)


def chosen(group: str, stem: str, *overrides: str) -> Any:
    """What the option of the group stands for, composed by itself: with the whole menu it would take twice as long."""
    return instantiate(_composed(group, stem, overrides), _convert_="all")  # as the command does


@cache
def _composed(group: str, stem: str, overrides: tuple[str, ...]) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(None, overrides=[f"+{group}={stem}", f"+width={WIDTH}", *overrides])[group]


def model(stem: str, task: Task, *overrides: str) -> SequenceModel:
    return factory(stem, *overrides)(task)


def built(stem: str, task: Task, *overrides: str) -> SequenceModel:
    """The model, or a skip that says what this machine lacks for it."""
    try:
        return model(stem, task, *overrides)
    except Unavailable as error:
        pytest.skip(str(error))


def fitting(stem: str) -> list[Task]:
    """The tasks here of the kinds that a model is made for."""
    found = [task for task in TASKS if task.kind in kinds(stem)]
    assert found, f"no task here is of a kind that {stem} is made for: {', '.join(kinds(stem))}"
    return found
