"""Checks of settings, for the constructors that take them."""

import difflib
from collections.abc import Iterable
from typing import Any


class Unavailable(RuntimeError):
    """What is asked for needs a package or a device that this machine does not have; the message says which."""


class LeftOut(UserWarning):
    """What a probe leaves out because it cannot serve it, and why; the rest is measured."""


def require_one_of(setting: str, value: Any, known: Iterable[Any]) -> None:
    """Raise ValueError, with the known values and the nearest of them, where ``value`` is none of them."""
    options = list(known)
    if value not in options:
        names = [str(option) for option in options]
        raise ValueError(f"{setting} must be one of {', '.join(names)}; not {value!r}{nearest(str(value), names)}")


def require_at_least(setting: str, value: int | float, least: int) -> None:
    """Raise ValueError where ``value`` is smaller than ``least``."""
    if value < least:
        raise ValueError(f"{setting} must be at least {least}, not {value}")


def require_dropout(dropout: float) -> None:
    """Raise ValueError where ``dropout`` is negative, or 1 and more, which would leave nothing."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), not {dropout}")


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean …?`` with the known names most like ``name``, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.51)
    return f"; did you mean {' or '.join(repr(match) for match in close)}?" if close else ""
