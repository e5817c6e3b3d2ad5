"""Settings as a preset's file has them: which values a sweep takes, and when one is that of a run."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

from retrograde.record.folder import NOT_PART_OF_THE_RESULT

Value = str | float | bool | None

CHOSEN = ("model", "task", "optimizer")
"""Groups of which a preset chooses one option for all of its runs."""

NAMED = ("model", "task", "seed")
"""Settings that a run says by name, beside its configuration."""


def value_of(said: Any) -> Value:
    """A setting as it can be compared; numbers are floats, and a list is its text."""
    if said is None or isinstance(said, bool):
        return said
    text = str(said).strip().strip("'\"")
    if text in ("null", "true", "false"):
        return json.loads(text)
    try:
        return float(text)
    except ValueError:
        return text


def plain(value: Value) -> str:
    """A value as a file has it.

    >>> plain(None), plain(True), plain(0.50), plain("lstm")
    ('null', 'true', '0.5', 'lstm')
    """
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else value


def same(one: Any, other: Any) -> bool:
    """Whether a setting of a file is that of a run, in which a missing one may be NaN.

    >>> same(1.0, 1), same("[1, 2]", [1, 2]), same(None, float("nan")), same("None", None)
    (True, True, True, False)
    """
    absent = [each is None or each != each for each in (one, other)]
    return all(absent) if any(absent) else one == other or str(one) == str(other)


def axis(text: str) -> list[Value]:
    """The values of an axis of a sweep, from a list or a range as Hydra takes them.

    >>> axis("lstm, elman"), axis("range(0,4)"), axis("0.01,1e-3,null,[1,2]")
    (['lstm', 'elman'], [0.0, 1.0, 2.0, 3.0], [0.01, 0.001, None, '[1,2]'])
    """
    counted = re.fullmatch(r"range\((.*)\)", text.strip())
    if counted:
        return [float(each) for each in range(*map(int, counted[1].split(",")))]
    chosen = re.fullmatch(r"choice\((.*)\)", text.strip())
    return [value_of(part) for part in re.split(r",(?![^\[\]]*\])", chosen[1] if chosen else text)]


def fixed(content: Mapping[str, Any]) -> dict[str, Value]:
    """What a preset sets for all of its runs: settings, and which model, task and optimiser it chooses."""
    options = [option for entry in content.get("defaults") or [] if isinstance(entry, dict) for option in entry.items()]
    groups = [(str(key).removeprefix("override ").strip().lstrip("/"), option) for key, option in options]
    chosen = {group: value_of(option) for group, option in groups if group in CHOSEN}
    body = {key: value for key, value in content.items() if key not in ("defaults", "hydra")}
    return {**chosen, **{key: value for key, value in _leaves(body, "") if "${" not in str(value)}}


def _leaves(settings: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Value]]:
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if any(f"{key}.".startswith(f"{part}.") for part in NOT_PART_OF_THE_RESULT):
            continue
        if isinstance(value, dict):
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value_of(value)


def made(group: Path, option: Value) -> str | None:
    """What an option of a group makes, as a run's settings have it; None for no option, or one that makes nothing.

    Raises ValueError where the group has no such option.
    """
    if option is None:
        return None
    file = group / f"{option}.yaml"
    if not file.is_file():
        raise ValueError(f"there is no {group.name}={option}")
    return (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("_target_")
