"""The jobs of a sweep: what each is called and where it lies, known before any of them runs.

To compose a configuration takes Hydra a tenth of a second, most of it for the choice of groups. So every choice is
composed once, and the values that jobs set on top of it are put into a copy, by the function that Hydra itself has for
that; where they are plain values in the place of plain values, only what refers to others is resolved anew. A test
holds that the names are those of the jobs that run.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from retrograde.record.folder import RunFolder, run_name
from retrograde.train.configuration import common_keys
from retrograde.train.settings import check_keys

SWEEP_FOLDER, JOB_FOLDER = "${outputs}/${study_folder:}", "${run_folder:}"
"""Where ``train.yaml`` has Hydra put jobs: a folder of the study, and in it one named by the settings."""


@dataclass(frozen=True)
class Planned:
    """A job of a sweep: its place from 1, what it sets, and its folder. Jobs share parts of their settings."""

    number: int
    overrides: tuple[str, ...]
    folder: RunFolder
    settings: dict[str, Any]


@dataclass
class Composer:
    """Composes the settings of jobs; ``master`` is the configuration that the sweep was launched with."""

    loader: ConfigLoaderImpl
    master: DictConfig
    composed: "dict[tuple[str, ...], Composed]" = field(default_factory=dict)
    parsed: dict[str, Override] = field(default_factory=dict)
    groups: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parser = OverridesParser.create(config_loader=self.loader)
        self.known = common_keys()
        # as the loader itself makes it, with what hydra.searchpath adds
        _, self.repository = self.loader._parse_overrides_and_create_caching_repo(
            self.master.hydra.job.config_name, list(self.master.hydra.overrides.hydra)
        )

    def planned(self, number: int, overrides: Sequence[str]) -> Planned:
        """Raises what composing the job would."""
        chosen, values = self._divided(overrides)
        if chosen not in self.composed:
            config = self.loader.load_sweep_config(self.master, list(chosen))
            self.composed[chosen] = Composed(config, self.known)
        composed = self.composed[chosen]
        settings = composed.settings(values)
        return Planned(number, tuple(overrides), RunFolder(composed.path(values, settings)), settings)

    def _divided(self, overrides: Sequence[str]) -> tuple[tuple[str, ...], list[Override]]:
        """What only Hydra can compose, and the values that are put in afterwards, in the order that they stand in."""
        parsed = [self._parse(text) for text in overrides]
        chosen, values = [], []
        for at, (text, override) in enumerate(zip(overrides, parsed, strict=True)):
            # what is added to or taken away from the same part later has to find the value there
            if self._is_value(override) and not any(self._reshapes(later, override) for later in parsed[at + 1 :]):
                values.append(override)
            else:
                chosen.append(text)
        return tuple(chosen), values

    def _is_value(self, override: Override) -> bool:
        """Whether an override sets a value of ours, and neither chooses a group nor adds or takes away."""
        return (
            override.type == OverrideType.CHANGE
            and override.package is None
            and not override.key_or_group.startswith("hydra")
            and not self._is_group(override.key_or_group)
        )

    def _reshapes(self, later: Override, earlier: Override) -> bool:
        top = later.key_or_group.partition(".")[0]
        same = top == earlier.key_or_group.partition(".")[0]
        return same and later.type != OverrideType.CHANGE and not self._is_group(later.key_or_group)

    def _is_group(self, name: str) -> bool:
        if name not in self.groups:
            self.groups[name] = self.repository.group_exists(name)
        return self.groups[name]

    def _parse(self, text: str) -> Override:
        if text not in self.parsed:
            self.parsed[text] = self.parser.parse_override(text)
        return self.parsed[text]


class Composed:
    """A choice of groups, composed, and what becomes of it with the values of a job."""

    def __init__(self, config: DictConfig, known: Sequence[str]) -> None:
        self.config = config
        self.known = known
        self.choices = config.hydra.runtime.choices
        self.study = study_name(self.choices)
        self.content = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        OmegaConf.set_struct(self.content, True)  # as in the whole, where a key that does not exist is refused
        self.plain = OmegaConf.to_container(self.content, resolve=False)
        self.references = {path: value for path, value in _leaves(self.plain) if "${" in str(value)}
        self.places: dict[tuple[str, ...], Path] = {}
        sweep = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        assert isinstance(sweep, dict) and isinstance(self.plain, dict)  # both are mappings
        self.place, self.subfolder = sweep["dir"], sweep["subdir"]
        self.resolved: dict[str, Any] | None = None
        try:
            resolved = settings_of(self.content, self.study, known)
        except (ValueError, OmegaConfBaseException):  # a job's values may mend it; if not, they say what is wrong
            return
        # a list, or a part that stands for another one, is left to Hydra
        if all(path is not None and not _is_part(_at(resolved, path)) for path in self.references):
            self.resolved = resolved

    def settings(self, values: Sequence[Override]) -> dict[str, Any]:
        """The settings of a job; raises what composing it would."""
        if self.resolved is None or not all(self._replaces(override) for override in values):
            return settings_of(self._with(values, self.content), self.study, self.known)
        given = {tuple(override.key_or_group.split(".")): override.value() for override in values}
        return _replaced(self.resolved, {**given, **self._referring(values, given)})

    def _replaces(self, override: Override) -> bool:
        """Whether a plain value takes the place of another."""
        value = override.value()
        if not (value is None or isinstance(value, (bool, int, float, str))):
            return False
        if isinstance(value, str) and ("${" in value or value == "???"):
            return False
        node: Any = self.plain
        for part in override.key_or_group.split("."):
            if not isinstance(node, dict) or part not in node:
                return False
            node = node[part]
        return not _is_part(node)

    def _referring(
        self, values: Sequence[Override], given: Mapping[tuple[str, ...], Any]
    ) -> dict[tuple[str, ...], Any]:
        """What refers to other settings, with these values among them."""
        left = [path for path in self.references if path is not None and path not in given]
        if not left or not values:
            return {}
        try:
            ConfigLoaderImpl._apply_overrides_to_config(list(values), self.content)
            return {path: OmegaConf.select(self.content, ".".join(path)) for path in left}
        finally:
            for override in values:
                before = _at(self.plain, tuple(override.key_or_group.split(".")))
                OmegaConf.update(self.content, override.key_or_group, before, merge=True)

    def path(self, values: Sequence[Override], settings: Mapping[str, Any]) -> Path:
        """The folder of a job with these settings."""
        simple = self.place == SWEEP_FOLDER
        bearing = [override for override in values if not simple or override.key_or_group == "outputs"]
        key = tuple(str(override.input_line) for override in bearing)
        if key not in self.places:
            folder = OmegaConf.select(self._with(bearing, self.config), "hydra.sweep.dir")
            self.places[key] = Path(str(folder)).resolve()
        if self.subfolder != JOB_FOLDER:
            return self.places[key] / str(OmegaConf.select(self._with(values, self.config), "hydra.sweep.subdir"))
        return self.places[key] / run_name(str(self.choices.model), str(self.choices.task), settings)

    @staticmethod
    def _with(values: Sequence[Override], config: DictConfig) -> DictConfig:
        changed = copy.deepcopy(config)
        ConfigLoaderImpl._apply_overrides_to_config(list(values), changed)
        return changed


def _is_part(value: Any) -> bool:
    return isinstance(value, (dict, list))


def _leaves(node: Any, path: tuple[str, ...] | None = ()) -> Iterator[tuple[tuple[str, ...] | None, Any]]:
    """Every single value with its path; None is the path of what a list holds, or of a key that is no plain name."""
    if isinstance(node, dict):
        for key, value in node.items():
            named = path is not None and isinstance(key, str) and key.isidentifier()
            yield from _leaves(value, (*path, key) if path is not None and named else None)
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, None)
    else:
        yield path, node


def _at(node: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        node = node[part]
    return node


def _replaced(settings: Mapping[str, Any], changes: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """A copy with these values, which shares what did not change."""
    below: dict[str, dict[tuple[str, ...], Any]] = {}
    changed = dict(settings)
    for (first, *rest), value in changes.items():
        if rest:
            below.setdefault(first, {})[tuple(rest)] = value
        else:
            changed[first] = value
    for first, inner in below.items():
        changed[first] = _replaced(changed[first], inner)
    return changed


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
