"""What a person reads when something is wrong: one line that names the culprit and says what was expected."""

import errno
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import MarkedYAMLError  # type: ignore[import-untyped]  # its stubs are a package of their own

from retrograde.core.choices import Unavailable, nearest
from retrograde.train.configuration import common_keys, config_folder, options
from retrograde.train.settings import unknown_key

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC, errno.EDQUOT)

SECOND_CHOICE = r"Multiple values for (\S+)\.|An item is already at '(\S+)'"
SEVERAL_VALUES = r"(?:Ambiguous value for argument|Sweep parameters) '(.+)'"
UNKNOWN_PART = r"Could not override '([^']+@[^']+)'\.\s*(?:Did you mean to override (?:one of )?(.+)\?)?"
UNKNOWN_KEY = r"Could not override '([^']+)|Could not delete from config\. '(\S+)' does not exist"
MERGING = r"Error merging override ([^=]+)="


def flags_first(arguments: Sequence[str]) -> list[str]:
    """The arguments in the one order in which Hydra understands all of them: flags, then overrides.

    Raises ValueError for a flag that does not exist or lacks its value.
    """
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]  # which would print a page and leave
    known, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
        raise ValueError(f"unknown flag '{unknown[0]}'{nearest(unknown[0], flags) or '; --hydra-help lists them'}")
    return [argument for argument in arguments if argument not in known.overrides] + known.overrides


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def in_one_line(error: BaseException, arguments: Sequence[str]) -> str:
    """The message for an exception that the command line ``arguments`` led to."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_option(error.missing_cfg_file, error.options, arguments)
    if isinstance(error, OverrideParseException):
        return f"'{error.override}' cannot be read: write key=value, and quote what is not a plain word or number"
    if isinstance(error, ConfigCompositionException):
        return _composition(error, arguments)
    if isinstance(error, InstantiationException):
        where = re.search(r"full_key: (\S+)", str(error))
        cause = error.__cause__ or error.__context__
        message = str(error).splitlines()[0] if cause is None else first_line(cause)
        return f"{where[1]}: {message}" if where and not isinstance(cause, Unavailable) else message
    if isinstance(error, OSError) and error.strerror:
        place = "" if error.filename is None else f"'{error.filename}': "
        way_out = "; outputs=FOLDER chooses another place" if error.errno in UNWRITABLE else ""
        return f"{place}{error.strerror.lower()}{way_out}"
    if "Config group override must be a string" in str(error):
        culprit = next((argument for argument in arguments if argument.endswith("=null")), "a choice")
        return f"{culprit}: a choice of null is made by leaving it out"
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error, (ValueError, OSError, Unavailable, HydraException, OmegaConfBaseException)):
        return first_line(error)
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """The first line of a message that says something, without the remarks that OmegaConf puts before it."""
    remarks = r"\w+ raised while (?:resolving interpolation: |composing config:\s*)"
    lines = re.sub(remarks, "", str(error)).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def _composition(error: ConfigCompositionException, arguments: Sequence[str]) -> str:
    message, cause = str(error), error.__cause__
    file = re.match(r"In '\S+': ", message)
    where = file[0] if file else ""
    if several := re.search(SEVERAL_VALUES, message):
        key, _, values = several[1].partition("=")
        together = f", or brackets for all of them in one run: probe=[{values}]" if key == "probe" else ""
        return f"'{several[1]}' are several values: add --multirun for a run of each{together}"
    if second := re.search(SECOND_CHOICE, message):
        return f"{where}'{second[1] or second[2]}' has a value already: write it without the +"
    if part := re.search(UNKNOWN_PART, message):
        parts = [name for name in (part[2] or "").split(", ") if "@" in name]
        hint = nearest(part[1], parts) or (f"; there are {', '.join(parts)}" if parts else "")
        return f"{where}'{part[1]}' names no part of what is chosen{hint}"
    if unknown := re.search(UNKNOWN_KEY, message):
        return where + _unknown_key(unknown[1] or unknown[2], arguments)
    if merging := re.search(MERGING, message):
        key = merging[1].lstrip("+~")
        if isinstance(cause, (ConfigAttributeError, ConfigKeyError)):
            return _unknown_key(key, arguments)
        return f"{key}: {first_line(cause or error)}"
    return first_line(cause if cause is not None and not message else error)


def _unknown_option(missing: str, known: Sequence[str] | None, arguments: Sequence[str]) -> str:
    """``missing`` is ``group/option``, or the name of the primary configuration."""
    group, _, option = missing.rpartition("/")
    names = sorted(set(known or ()) | set(options(group, config_folder(), *config_dirs(arguments))))
    if not group or not names:
        return f"there is no configuration '{missing}'"
    hint = nearest(option, names)
    return f"unknown {group} '{option}'{hint}{' Known' if hint else '; known'}: {', '.join(names)}"


def _unknown_key(key: str, arguments: Sequence[str]) -> str:
    """A key that no configuration has; the known ones are those beside it."""
    parts = key.split(".")
    if len(parts) == 1:
        return unknown_key(key, common_keys())
    node: Any = _chosen(arguments)
    for depth, part in enumerate(parts):
        path = ".".join(parts[:depth])
        if node is None:
            return f"unknown key '{key}': no {path} is chosen; {path}=… chooses one"
        if not isinstance(node, Mapping):
            return f"unknown key '{key}': '{path}' is a single value"
        if part not in node:
            return unknown_key(part, [str(known) for known in node if not str(known).startswith("_")], f"{path}.")
        node = node[part]
    return f"unknown key '{key}'"


def _chosen(arguments: Sequence[str]) -> dict[str, Any]:
    """The configuration with the groups chosen on the command line, and nothing else of it."""
    folder, others = config_folder(), config_dirs(arguments)
    groups = {path.name for place in (folder, *others) for path in place.iterdir() if path.is_dir()}
    parser = OverridesParser.create()
    choices = ["hydra.searchpath=[" + ",".join(f"'{path.resolve()}'" for path in others) + "]"]
    for argument in arguments:
        if "=" not in argument or argument.startswith("-"):
            continue
        override = parser.parse_override(argument)
        if override.key_or_group.partition("/")[0] in groups and not override.is_sweep_override():
            choices.append(argument)
    with initialize_config_dir(str(folder), version_base="1.3"):
        config = compose("train", overrides=choices, return_hydra_config=True)
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
