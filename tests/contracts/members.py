"""The members of every kind, as ``conf/`` has them: whoever adds a file there is tested from that day on."""

import inspect
from functools import cache, partial
from pathlib import Path
from typing import Any, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from retrograde.core.contracts import SequenceModel, Task

CONF = Path(__file__).parents[2] / "conf"
WIDTH = 8


def stems(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def factory(stem: str, *overrides: str) -> "partial[SequenceModel]":
    """What the model's file stands for; composed once, because composing takes longer than most tests."""
    return _factories(stem, overrides)


def kinds(stem: str) -> tuple[str, ...]:
    """The kinds of task that the model fits, which its class says, or the class that its factory gives."""
    made = factory(stem).func
    return (made if inspect.isclass(made) else get_type_hints(made)["return"]).kinds


@cache
def _factories(stem: str, overrides: tuple[str, ...]) -> "partial[SequenceModel]":
    return chosen("model", stem, *overrides)


def chosen(group: str, stem: str, *overrides: str) -> Any:
    """What the option of the group stands for."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=[f"{group}={stem}", f"width={WIDTH}", *overrides])
    return instantiate(config[group])


def model(stem: str, task: Task, *overrides: str) -> SequenceModel:
    return factory(stem, *overrides)(task)
