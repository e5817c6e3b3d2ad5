"""What run.json and card.json have to hold, by name and type.

It is asked once, where the files are read. A folder may come from anywhere and its files may be damaged: what has
passed here can be counted on by everybody else, and what has not is named with its file. Keys that are not listed may
hold anything that JSON can say.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from retrograde.record.folder import FAILED, FINISHED, INTERRUPTED, RUNNING, RunFolder, regular

LARGEST = 16 * 2**20
"""Bytes of a file of either kind; those of long runs with many alerts take some tens of thousands."""

DEEPEST = 32
"""Mappings and lists within one another; the settings of a run take about six."""

LONGEST, LONGEST_TEXT = 255, 10_000
"""Characters of a name, which is that of a folder or a file as well, and of a sentence on a page."""

Check = Callable[[Any, str], None]
"""Raises ValueError, naming the place, for a value that is not of that kind."""


def read_run(folder: RunFolder) -> dict[str, Any]:
    """What run.json says; raises ValueError, in one line that names the file, where it does not describe this run."""
    file = folder.path / "run.json"
    metadata = _read(file, _RUN)
    if metadata["run"] != folder.run:
        raise ValueError(f"{shown(file)} does not describe run {shown(folder.run)}")
    return metadata


def read_card(folder: RunFolder) -> dict[str, Any]:
    """The task's card; raises ValueError, in one line that names the file, where there is none."""
    return _read(folder.path / "card.json", _CARD)


def shown(text: object) -> str:
    """A text in one line of characters that can be printed, whatever else it holds as its escape.

    >>> shown("runs/\\u202egru\\n")
    'runs/\\\\u202egru\\\\n'
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(text))


def _read(file: Path, check: Check) -> dict[str, Any]:
    try:
        size = regular(file).stat().st_size
        if size > LARGEST:
            raise ValueError(f"it has {size:,} bytes, more than the {LARGEST:,} that it may")
        content = json.loads(file.read_text(encoding="utf-8"))
        _plain(content)
        check(content, "")
    except OSError as error:
        raise ValueError(f"{shown(file)} cannot be read: {error.strerror or error}") from error
    except RecursionError as error:
        raise ValueError(f"{shown(file)} cannot be read: it is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{shown(file)} cannot be read: {shown(error)}") from error
    return content


def _plain(content: Any) -> None:
    """Raise ValueError for what is nested too deeply, for whole numbers beyond 64 bits, and for halves of characters,
    which no file could be written with."""
    waiting = [(content, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, (dict, list)):
            if depth > DEEPEST:
                raise ValueError("it is nested too deeply")
            parts = [*value, *value.values()] if isinstance(value, dict) else value
            waiting += [(part, depth + 1) for part in parts]
        elif isinstance(value, str):
            value.encode()  # UnicodeEncodeError is a ValueError
        elif isinstance(value, int) and not -(2**63) <= value < 2**64:
            raise ValueError("it holds a whole number of more than 64 bits")


def _kind(words: str, holds: Callable[[Any], bool]) -> Check:
    def check(value: Any, place: str) -> None:
        if not holds(value):
            raise ValueError(f"{place or 'all of it'} must be {words}, not {_in_short(value)}")

    return check


def _in_short(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_whole(value)


_ANY_TEXT = _kind("a text", lambda value: isinstance(value, str))
_TEXT = _kind(
    f"a text of at most {LONGEST_TEXT:,} characters",
    lambda value: isinstance(value, str) and len(value) <= LONGEST_TEXT,
)
_NAME = _kind(
    f"a name of 1 to {LONGEST} characters that can be printed",
    lambda value: isinstance(value, str) and 0 < len(value) <= LONGEST and value.isprintable(),
)
_TRUTH = _kind("true or false", lambda value: isinstance(value, bool))
_WHOLE = _kind("a whole number", _is_whole)
_NUMBER = _kind("a number", _is_number)
_FINITE = _kind("a finite number", lambda value: _is_number(value) and math.isfinite(value))
_STATUS = _kind(
    f"one of {', '.join((FINISHED, FAILED, INTERRUPTED, RUNNING))}",
    lambda value: value in (FINISHED, FAILED, INTERRUPTED, RUNNING),
)
_LAG = _kind(
    "a lag and how often it was found, two whole numbers",
    lambda value: (
        isinstance(value, list) and len(value) == 2 and all(_is_whole(part) and 0 <= part < 2**31 for part in value)
    ),
)


def _maybe(check: Check) -> Check:
    """Of that kind, or null."""
    return lambda value, place: None if value is None else check(value, place)


def _each(check: Check) -> Check:
    """A list of such."""

    def checked(value: Any, place: str) -> None:
        _kind("a list", lambda value: isinstance(value, list))(value, place)
        for at, part in enumerate(value):
            check(part, f"{place}[{at}]")

    return checked


def _mapping(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """A mapping that has these keys, and of those that it may have what is right."""

    def checked(value: Any, place: str) -> None:
        _kind("a mapping", lambda value: isinstance(value, dict))(value, place)
        for key in required:
            if key not in value:
                raise ValueError(f"{f'{place}.' if place else ''}{key} is missing")
        for key, check in {**required, **(optional or {})}.items():
            if key in value:
                check(value[key], f"{place}.{key}" if place else key)

    return checked


def _values(check: Check) -> Check:
    """A mapping whose values are such."""

    def checked(value: Any, place: str) -> None:
        _mapping({})(value, place)
        for key, part in value.items():
            check(part, f"{place}.{key}")

    return checked


_ALERT = _mapping(
    {
        **dict.fromkeys(("kind", "level", "text", "layer", "component"), _TEXT),
        "value": _NUMBER,
        "first": _WHOLE,
        "last": _WHOLE,
        "at_end": _TRUTH,
    }
)

_FORM = _mapping(
    {**dict.fromkeys(("recurrence", "form", "by"), _TEXT), "layers": _each(_TEXT), "milliseconds": _values(_NUMBER)}
)

_RUN = _mapping(
    {
        **dict.fromkeys(("run", "study", "model", "task"), _NAME),
        "seed": _WHOLE,
        "status": _STATUS,
        "config": _mapping({}),
    },
    {
        "reason": _maybe(_ANY_TEXT),
        **dict.fromkeys(("commit", "baseline_rule", "config_hash", "started", "form", "hardware"), _maybe(_TEXT)),
        **dict.fromkeys(
            (
                *("score", "loss", "validation_score", "baseline", "baseline_loss", "horizon", "horizon_start"),
                *("parameters", "state_size", "duration", "steps", "selected_step", "solved_step", "diverged_step"),
            ),
            _maybe(_NUMBER),
        ),
        **dict.fromkeys(("solved", "learns"), _maybe(_TRUTH)),
        "versions": _values(_maybe(_TEXT)),
        "alerts": _each(_ALERT),
        "nonfinite": _maybe(_mapping({})),
        "probing": _mapping({}, {"notes": _each(_TEXT)}),
        "tables": _each(_TEXT),
        "attempts": _each(_mapping({}, {"from_seconds": _FINITE})),
        "asked": _each(_mapping({})),
        "forms": _each(_FORM),
        **dict.fromkeys(("test", "longer"), _values(_maybe(_NUMBER))),
    },
)

_CARD = _mapping(
    {
        **dict.fromkeys(("variant", "scored", "score"), _TEXT),
        "solved": _FINITE,
        "baselines": _each(_mapping({"rule": _TEXT, "derivation": _TEXT, "score": _NUMBER, "loss": _NUMBER})),
        "lags": _each(_LAG),
    },
    {
        **dict.fromkeys(("comparable", "incomparable"), _each(_TEXT)),
        "window": _maybe(_TEXT),
        "source": _maybe(
            _mapping({**dict.fromkeys(("name", "version", "licence", "unit", "sha256"), _TEXT), "count": _WHOLE})
        ),
    },
)


def number_of(count: int, thing: str) -> str:
    """
    >>> number_of(1, "run"), number_of(2, "run")
    ('1 run', '2 runs')
    """
    return f"{count} {thing}{'s' * (count != 1)}"
