"""What the readings of a comparison's runs warned of: one entry for each kind, and in it one sentence for
each model, however many runs that is about.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from retrograde.figures.comparison import Comparison, listed, records
from retrograde.figures.theme import present
from retrograde.record.alerts import KINDS, LEVELS, NEEDS, TITLES, Kind
from retrograde.record.metadata import number_of

COLUMNS = ["model", "seed", "alert", "level", "layer", "component", "from step", "to step", "at the end", "text", "run"]

SPOKEN, NAMED = 4, 8
"""Models that have a sentence of their own; the others are named, and where there are more than that, counted."""

WHERE: Mapping[Kind, str] = {"collapsed": " (of models that attend)"}
"""Kinds that only some models can have, which without the probe does not show."""


@dataclass(frozen=True)
class OfModel:
    """Some of a model's ``asked`` runs, which raised the same kind of alert, and of its gravest the sentence in the
    middle."""

    model: str
    runs: int
    asked: int
    text: str
    seed: int


@dataclass(frozen=True)
class Raised:
    """A kind of alert that held at the end of some runs; ``others`` are the models without a sentence, in words."""

    title: str
    level: str
    runs: int
    models: list[OfModel]
    others: str


def per_alert(comparison: Comparison) -> pd.DataFrame:
    """One row an alert, as the runs recorded them: what holds at a run's end first, then by weight, model and seed."""
    rows: list[dict[str, Any]] = []
    for run in records(comparison.runs[["run", "model", "seed"]]):
        for alert in comparison.store.metadata(run["run"]).get("alerts", ()):
            place = [alert["kind"], alert["level"], alert["layer"], alert["component"]]
            when = [alert["first"], alert["last"], alert["at_end"]]
            values = [run["model"], run["seed"], *place, *when, alert["text"], run["run"], alert["value"]]
            rows.append(dict(zip([*COLUMNS, "value"], values, strict=True)))
    table = pd.DataFrame(rows, columns=[*COLUMNS, "value"]).astype({"model": comparison.runs["model"].dtype})
    weight = [
        (not at_end, _place(LEVELS, level), _place(KINDS, kind))
        for at_end, level, kind in zip(table["at the end"], table["level"], table["alert"], strict=True)
    ]
    order = pd.Series(weight, index=table.index, dtype=object)
    return (
        table.assign(order=order)
        .sort_values(["order", "model", "seed", "text"], ignore_index=True)
        .drop(columns="order")
    )


def per_kind(table: pd.DataFrame, comparison: Comparison) -> list[Raised]:
    """The entries of the page, from ``per_alert``: one a kind, of what holds at the end."""
    held = table[table["at the end"].astype(bool)]
    lines = []
    for kind in dict.fromkeys(held["alert"]):
        of_kind = held[held["alert"] == kind]
        models = [_of_model(of_kind[of_kind["model"] == model], comparison) for model in present(of_kind["model"])]
        level, runs = str(of_kind["level"].iloc[0]), int(of_kind["run"].nunique())
        rest = [of_model.model for of_model in models[SPOKEN:]]
        others = f"{len(rest)} other models" if len(rest) > NAMED else listed(rest) if rest else ""
        lines.append(Raised(TITLES.get(str(kind), str(kind)), level, runs, models[:SPOKEN], others))
    return lines


def _of_model(alerts: pd.DataFrame, comparison: Comparison) -> OfModel:
    gravest = alerts[alerts["level"] == min(alerts["level"], key=lambda level: _place(LEVELS, level))]
    middle = records(gravest.sort_values("value", kind="stable"))[(len(gravest) - 1) // 2]
    of_model = set(comparison.runs.loc[comparison.runs["model"] == middle["model"], "run"])
    those = len(of_model.intersection(asked(comparison)))
    return OfModel(str(middle["model"]), int(alerts["run"].nunique()), those, str(middle["text"]), int(middle["seed"]))


def _place(known: Sequence[str], name: str) -> int:
    """Where a name stands among those that are known; after them where another version has made it."""
    return known.index(name) if name in known else len(known)


def asked(comparison: Comparison) -> list[str]:
    """The runs that were asked for alerts: those that ended, and were not recorded before there were any."""
    return [run for run in comparison.runs["run"] if "alerts" in comparison.store.metadata(run)]


def unjudged(comparison: Comparison) -> str:
    """Which kinds could not be judged in how many of these runs, for want of which probes; nothing where all could.

    A kind that a run's settings leave out is not said of it.
    """
    config = {run: comparison.store.metadata(run)["config"] for run in asked(comparison)}
    probes = {run: _section(of_run, "probe").keys() for run, of_run in config.items()}
    kinds: dict[tuple[str, ...], list[Kind]] = {}
    for kind, needed in NEEDS.items():
        wanted = [run for run, of_run in config.items() if _section(of_run, "alerts").get(kind, True) is not None]
        without = tuple(run for run in wanted if not probes[run] >= set(needed))
        if without:
            kinds.setdefault(without, []).append(kind)
    parts = []
    for runs, of_runs in kinds.items():
        of_kinds = dict.fromkeys(probe for kind in of_runs for probe in NEEDS[kind])
        wanting = [probe for probe in of_kinds if any(probe not in probes[run] for run in runs)]
        titles = listed([TITLES[kind].lower() + WHERE.get(kind, "") for kind in of_runs])
        parts.append(f"{titles} could not be judged in {number_of(len(runs), 'run')}, for want of {listed(wanting)}")
    return "; ".join(parts)


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    return section if isinstance(section, Mapping) else {}
