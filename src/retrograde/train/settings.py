"""Settings: what they mean when they come from a configuration, and what they are called when they come from Python."""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object

from retrograde.core.choices import nearest


def check_types(config: Any, path: str = "") -> None:
    """Raise ValueError, naming the key, where a value does not fit the annotation of the constructor that takes it."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            _check_target(config, path)
        for key, value in config.items():
            check_types(value, f"{path}{key}.")


def _check_target(config: Mapping[str, Any], path: str) -> None:
    try:
        target = get_object(config["_target_"])
    except Exception as error:  # hydra wraps whatever importing a user's module raises
        raise ValueError(f"{path}_target_: '{config['_target_']}' cannot be imported: {error}") from error
    check_against(target, config, path)


def check_against(target: Any, config: Mapping[str, Any], path: str = "") -> None:
    """The same for the settings that a constructor or function shares with ``config``."""
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    for key, value in config.items():
        if key in hints and _plain(value) and not fits(value, hints[key]):
            raise ValueError(
                f"{path}{key} must be {in_words(hints[key])}, not {value!r}{suggestion(value, hints[key])}"
            )


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value may stand for an annotation; an annotation that is no class is left to the callee."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if inspect.isclass(hint) and hint is not object:
        return isinstance(value, hint)
    return True


def in_words(hint: Any) -> str:
    """An annotation as a reader of an error message wants it."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(in_words(option) for option in get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in get_args(hint))
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text", types.NoneType: "null"}.get(
        hint, str(hint)
    )


def suggestion(value: Any, hint: Any) -> str:
    """The nearest of the words that an annotation allows, where it lists them."""
    if get_origin(hint) is not Literal:
        return ""
    return nearest(str(value), [str(option) for option in get_args(hint)])


def specification(thing: Any) -> dict[str, Any]:
    """What a factory or a dataclass was made of, in the form that a configuration has: ``_target_`` and settings.

    For a factory every setting stands there, its defaults included, so that Python and Hydra name a run alike.
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
        if parameter.default is not inspect.Parameter.empty and _plain(parameter.default)
    }
    return {"_target_": _path(function), "_partial_": True, **defaults, **given}


def _path(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))
