"""Settings: what they mean when they come from a configuration, and what they are called when they come from Python."""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra._internal.utils import _locate  # get_object of hydra.utils also writes to the log

from retrograde.core.choices import nearest
from retrograde.train.configuration import config_folder

PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", types.NoneType: "null"}
"""The types of a value that a configuration can hold, in a reader's words."""


def check_types(config: Any, path: str = "") -> None:
    """Raise ValueError, naming the key, where the constructor that takes a value has no such key or wants another type.

    Keys are checked here too, because composition takes whatever a study's file adds to a group.
    """
    if isinstance(config, Mapping):
        if "_target_" in config:
            _check_target(config, path)
        for key, value in config.items():
            check_types(value, f"{path}{key}.")


def _check_target(config: Mapping[str, Any], path: str) -> None:
    try:
        target = _locate(config["_target_"])
    except ImportError as error:  # Hydra wraps whatever importing a user's module raises
        why = error.__cause__ or error
        package = str(config["_target_"]).partition(".")[0]
        here = isinstance(why, ModuleNotFoundError) and why.name == package and Path(package).is_dir()
        hint = f"; {package}/ lies in this folder: put PYTHONPATH=. before the command" if here else ""
        raise ValueError(f"{path}_target_: '{config['_target_']}' cannot be imported: {why}{hint}") from error
    known = takes(target)
    if known is not None and config.get("_partial_"):
        known = known[1:]  # the first is what a factory is called with
    check_keys([key for key in config if not key.startswith("_")], known, path)
    check_against(target, config, path)


def check_keys(keys: Iterable[str], known: Collection[str] | None, path: str = "") -> None:
    """Raise ValueError for a key that is not among the known ones, where these are known at all."""
    unknown = [] if known is None else [key for key in keys if key not in known]
    if unknown:
        raise ValueError(unknown_key(unknown[0], known or (), path))


def unknown_key(key: str, known: Iterable[str], path: str = "") -> str:
    """What is said of a key that does not exist; ``path`` is the part that it was looked for in, with its last dot."""
    names = list(known)
    hint = nearest(key, names)
    there = f"'{path[:-1]}' has" if path else "the keys are"
    return f"unknown key '{path}{key}'{hint}{' Here' if hint else ';'} {there} {', '.join(names) or 'none'}"


def takes(target: Any) -> list[str] | None:
    """The names of the settings that a constructor or function takes; None where it takes any."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except ValueError:  # of some that are written in C nothing is known
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY]


def check_against(target: Any, config: Mapping[str, Any], path: str = "") -> None:
    """Raise ValueError where a setting that a constructor or function shares with ``config`` is of another type."""
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    for key, value in config.items():
        if value is not None and _plain(value) and get_origin(hints.get(key)) is Callable:
            group = f"{path}{key}".replace(".", "/")
            if not (config_folder() / group).is_dir():  # a whole model in the place of a part
                group = f"{group.partition('/')[0]}@{path}{key}"
            raise ValueError(f"{path}{key} is a group of settings, not {value!r}: write {group}={value}")
        if key in hints and (_plain(value) or isinstance(value, list)) and not fits(value, hints[key]):
            raise ValueError(
                f"{path}{key} must be {in_words(hints[key])}, not {value!r}{suggestion(value, hints[key])}"
            )


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value or a list may stand for an annotation; one that is no class is left to the callee."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in PLAIN:
        return isinstance(value, hint)
    if getattr(hint, "_is_protocol", False):
        return False  # a part such as a regulariser: no value can be one
    if inspect.isclass(hint) and hint not in (object, Any):
        return isinstance(value, (list, hint))  # what a list may hold is left to the callee
    return True


def in_words(hint: Any) -> str:
    """An annotation as a reader of an error message wants it."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        options = get_args(hint)
        written = [option for option in options if option in PLAIN or get_origin(option) is Literal]
        return " or ".join(in_words(option) for option in written or options)  # a tensor cannot be written down
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in get_args(hint))
    return PLAIN.get(hint, str(hint))


def suggestion(value: Any, hint: Any) -> str:
    """The nearest of the words that an annotation allows, where it lists them."""
    if get_origin(hint) is not Literal:
        return ""
    return nearest(str(value), [str(option) for option in get_args(hint)])


def specification(thing: Any) -> dict[str, Any]:
    """What a factory or a dataclass was made of, in the form that a configuration has: ``_target_`` and settings.

    For a factory every setting stands there, its defaults included: a run is named by what it was made with, whether or
    not that was said.
    """
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        fields = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
        return {"_target_": _path(type(thing)), **fields}
    given: Mapping[str, Any] = {}
    function: Callable[..., Any] = thing
    if isinstance(thing, functools.partial):
        function, given = thing.func, thing.keywords
    signature = inspect.signature(function)
    defaults = {
        name: parameter.default
        for name, parameter in signature.parameters.items()
        if _plain(parameter.default) or (callable(parameter.default) and parameter.default is not parameter.empty)
    }
    # a part such as an embedding is a factory itself
    settings = {
        name: specification(value) if callable(value) else value for name, value in {**defaults, **given}.items()
    }
    return {"_target_": _path(function), "_partial_": True, **settings}


def _path(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))
