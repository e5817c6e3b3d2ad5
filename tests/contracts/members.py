"""The members of every kind, as ``conf/`` has them: whoever adds a file there is tested from that day on."""

from functools import partial
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from retrograde.core.contracts import SequenceModel, Task

CONF = Path(__file__).parents[2] / "conf"
WIDTH = 8


def stems(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def chosen(group: str, stem: str, *overrides: str) -> Any:
    """What the option of the group stands for."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=[f"{group}={stem}", f"width={WIDTH}", *overrides])
    return instantiate(config[group])


def model(stem: str, task: Task, *overrides: str) -> SequenceModel:
    factory: partial[SequenceModel] = chosen("model", stem, *overrides)
    return factory(task)
