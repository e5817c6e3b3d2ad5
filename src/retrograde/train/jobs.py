"""The jobs of a sweep: what each is called and where it lies, known before any of them runs.

To compose a configuration takes Hydra a tenth of a second, most of it for the choice of groups. So every choice is
composed once, and the values that jobs set on top of it are put into a copy, by the function that Hydra itself has for
that. A test holds that the names are those of the jobs that run.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

from retrograde.record.folder import RunFolder, run_name
from retrograde.train.configuration import common_keys
from retrograde.train.settings import check_keys


@dataclass(frozen=True)
class Planned:
    """A job of a sweep: its place from 1, what it sets, and its folder."""

    number: int
    overrides: tuple[str, ...]
    folder: RunFolder
    settings: dict[str, Any]


@dataclass
class Composer:
    """Composes the settings of jobs; ``master`` is the configuration that the sweep was launched with."""

    loader: ConfigLoaderImpl
    master: DictConfig
    composed: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = field(default_factory=dict)
    places: dict[tuple[str, ...], Path] = field(default_factory=dict)
    parsed: dict[str, Override] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parser = OverridesParser.create(config_loader=self.loader)
        self.known = common_keys()

    def planned(self, number: int, overrides: Sequence[str]) -> Planned:
        """Raises what composing the job would."""
        chosen = tuple(override for override in overrides if not self._is_value(override))
        values = [override for override in overrides if self._is_value(override)]
        shared, choices = self._base(chosen)
        content = copy.deepcopy(shared)
        ConfigLoaderImpl._apply_overrides_to_config([self._parse(override) for override in values], content)
        settings = settings_of(content, study_name(choices), self.known)
        place = self._place(chosen, tuple(override for override in values if override.startswith("outputs=")))
        folder = RunFolder(place / run_name(str(choices.model), str(choices.task), settings))
        return Planned(number, tuple(overrides), folder, settings)

    def _base(self, chosen: tuple[str, ...]) -> tuple[DictConfig, DictConfig]:
        """The configuration without Hydra's part, and the options that were chosen."""
        if chosen not in self.composed:
            config = self.loader.load_sweep_config(self.master, list(chosen))
            content = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            self.composed[chosen] = content, config.hydra.runtime.choices
        return self.composed[chosen]

    def _place(self, chosen: tuple[str, ...], outputs: tuple[str, ...]) -> Path:
        """The folder that the runs lie in."""
        if chosen + outputs not in self.places:
            config = self.loader.load_sweep_config(self.master, [*chosen, *outputs])
            self.places[chosen + outputs] = Path(str(OmegaConf.select(config, "hydra.sweep.dir"))).resolve()
        return self.places[chosen + outputs]

    def _is_value(self, text: str) -> bool:
        """Whether an override sets a value of ours, and neither chooses a group nor adds or takes away."""
        override = self._parse(text)
        return (
            override.type == OverrideType.CHANGE
            and override.package is None
            and not override.key_or_group.startswith("hydra")
            and not self.loader.repository.group_exists(override.key_or_group)
        )

    def _parse(self, text: str) -> Override:
        if text not in self.parsed:
            self.parsed[text] = self.parser.parse_override(text)
        return self.parsed[text]


SINGLE = "single"
"""The folder of runs that belong to no study."""


def study_name(choices: Any) -> str:
    """The chosen study, or the name for what belongs to none."""
    chosen = choices.get("study")
    return SINGLE if chosen in (None, "null") else str(chosen)


def settings_of(content: DictConfig, study: str, known: Sequence[str]) -> dict[str, Any]:
    """The resolved settings of a run, with the study that it belongs to; ``known`` are the keys that it may have.

    Raises ValueError for a key that does not exist, which a study's file can bring in past composition, or is missing.
    """
    resolved = OmegaConf.to_container(content, resolve=True)
    assert isinstance(resolved, dict)  # train.yaml is a mapping
    settings = {**{str(key): value for key, value in resolved.items()}, "study": study}
    check_keys(settings, known)
    missing = [key for key in known if key not in settings and key != "probe"]  # which is empty without probes
    if missing:
        raise ValueError(f"'{missing[0]}' is missing: no run can do without it")
    return settings
