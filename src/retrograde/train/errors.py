"""What a person reads when something is wrong: one line that names the culprit and says what was expected."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, InstantiationException, MissingConfigException
from omegaconf import OmegaConf

from retrograde.core.choices import nearest
from retrograde.train.configuration import config_folder, options


def in_one_line(error: BaseException, arguments: Sequence[str]) -> str:
    """The message for an exception that the command line ``arguments`` led to."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_option(error.missing_cfg_file, error.options, arguments)
    if isinstance(error, ConfigCompositionException):
        unknown = re.search(r"(?:Could not override|Error merging override|Could not delete) '?([^'=\s]+)", str(error))
        if unknown:
            return _unknown_key(unknown[1].lstrip("+~"), arguments)
    if isinstance(error, InstantiationException):
        where = re.search(r"full_key: (\S+)", str(error))
        cause = error.__cause__ or error.__context__
        message = str(error).splitlines()[0] if cause is None else _first_line(cause)
        return f"{where[1]}: {message}" if where else message
    if isinstance(error, (ValueError, OSError)):
        return _first_line(error)
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _unknown_option(missing: str, known: Sequence[str] | None, arguments: Sequence[str]) -> str:
    """``missing`` is ``group/option``, or the name of the primary configuration."""
    group, _, option = missing.rpartition("/")
    names = sorted(set(known or ()) | set(options(group, config_folder(), *config_dirs(arguments))))
    if not names:
        return f"there is no configuration '{missing}'"
    return f"unknown {group} '{option}'{nearest(option, names)} known: {', '.join(names)}".replace("? known", "? Known")


def _unknown_key(key: str, arguments: Sequence[str]) -> str:
    """A key that no configuration has; the known ones are those beside it."""
    parent, _, name = key.rpartition(".")
    node: Any = _chosen(arguments)
    for part in parent.split(".") if parent else []:
        node = node.get(part) if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping):
        return _unknown_key(parent, arguments)
    names = [str(known) for known in node if not str(known).startswith("_")]
    owner = f"'{parent}' has" if parent else "the keys are"
    hint = nearest(name, names)
    return f"unknown key '{key}'{hint or ';'} {owner} {', '.join(names)}".replace("? ", "? Here ", 1)


def _chosen(arguments: Sequence[str]) -> dict[str, Any]:
    """The configuration with the groups chosen on the command line, and nothing else of it."""
    folder = config_folder()
    groups = {path.name for place in (folder, *config_dirs(arguments)) for path in place.iterdir() if path.is_dir()}
    parser = OverridesParser.create()
    choices = []
    for argument in arguments:
        if "=" not in argument or argument.startswith("-"):
            continue
        override = parser.parse_override(argument)
        if override.key_or_group in groups and not override.is_sweep_override():
            choices.append(argument)
    with initialize_config_dir(str(folder), version_base="1.3"):
        config = compose("train", overrides=choices)
    content = OmegaConf.to_container(config, resolve=False)
    assert isinstance(content, dict)  # train.yaml is a mapping
    return {str(key): value for key, value in content.items()}


def config_dirs(arguments: Sequence[str]) -> list[Path]:
    """The folders that ``--config-dir`` names, those that exist."""
    found = []
    for at, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in ("--config-dir", "-cd"):
            value = value or (arguments[at + 1] if at + 1 < len(arguments) else "")
            found.append(Path(value))
    return [path for path in found if path.is_dir()]
