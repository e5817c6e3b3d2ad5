"""Where the configurations lie, and what can be made of one without a command line."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf


def config_folder() -> Path:
    """``conf/`` beside ``src/`` in a source checkout, or inside the installed package."""
    package = Path(__file__).parents[1]
    installed, checkout = package / "conf", package.parents[1] / "conf"
    return installed if installed.is_dir() else checkout


def common_keys() -> list[str]:
    """The keys of a run's settings: the groups that train.yaml chooses from, and what it sets itself."""
    return list(_keys_of(config_folder() / "train.yaml"))


@cache
def _keys_of(menu: Path) -> tuple[str, ...]:
    content = OmegaConf.load(menu)
    assert isinstance(content, DictConfig)  # train.yaml is a mapping
    groups = [str(key) for choice in content.pop("defaults") if isinstance(choice, Mapping) for key in choice]
    chosen = [group for group in groups if not group.startswith("override ")]
    return tuple(dict.fromkeys([*chosen, *(str(key) for key in content if key != "hydra")]))


def probes_of(preset: str) -> dict[str, Any]:
    """The probes of a preset, by stem, with every setting at its default."""
    return {str(name): instantiate(probe) for name, probe in _composed_probes(config_folder(), preset).items()}


@cache
def _composed_probes(folder: Path, preset: str) -> DictConfig:
    """A preset's settings; composed once, because that takes as long as a short training."""
    with initialize_config_dir(str(folder), version_base="1.3"):
        return compose("train", overrides=[f"probe={preset}"]).probe


def options(group: str, *folders: Path) -> dict[str, str]:
    """The options of a group in these folders, each with its description; a folder inside is a group of its own."""
    return {file.stem: _description(file) for folder in folders for file in sorted((folder / group).glob("*.yaml"))}


def _description(file: Path) -> str:
    """The first comment line; Hydra wants its own, ``@package``, before it."""
    comments = [line.removeprefix("#").strip() for line in file.read_text().splitlines() if line.startswith("#")]
    return next((line for line in comments if not line.startswith("@package")), "")
