"""Retrograde: experiments and gradient analysis on sequence models.

Nothing heavy is loaded until it is used: torch alone takes over a second, Lightning three.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrograde.record.alerts import AlertSettings as AlertSettings
    from retrograde.record.store import FolderStore as FolderStore
    from retrograde.train.fit import fit as fit
    from retrograde.train.fit import fit_seeds as fit_seeds
    from retrograde.train.load import Run as Run
    from retrograde.train.load import load as load
    from retrograde.train.options import ProbingSettings as ProbingSettings
    from retrograde.train.options import RecorderSettings as RecorderSettings
    from retrograde.train.options import TrainerSettings as TrainerSettings
    from retrograde.watching.callback import Watch as Watch
    from retrograde.watching.steps import step as step
    from retrograde.watching.watch import log_spaced as log_spaced
    from retrograde.watching.watch import watch as watch

_PLACES = {
    "fit": "retrograde.train.fit",
    "fit_seeds": "retrograde.train.fit",
    "TrainerSettings": "retrograde.train.options",
    "ProbingSettings": "retrograde.train.options",
    "RecorderSettings": "retrograde.train.options",
    "Run": "retrograde.train.load",
    "load": "retrograde.train.load",
    "AlertSettings": "retrograde.record.alerts",
    "FolderStore": "retrograde.record.store",
    "Watch": "retrograde.watching.callback",
    "log_spaced": "retrograde.watching.watch",
    "step": "retrograde.watching.steps",
    "watch": "retrograde.watching.watch",
}

__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'retrograde' has no attribute '{name}'")
    return getattr(import_module(_PLACES[name]), name)
