"""How long the units of a gated or linear recurrence remember by themselves.

Question:  do units remember over the lags that the task asks to bridge, before and after training?
Expect:    gates of ordinary initialisation start with a few positions, those of a chrono initialisation and of state
           space models spread over the lags; a run that has solved the task has units as long as its median lag.
Data:      readings gates/time_constant and gates/median_time_constant of the first and the last snapshot; the card's
           lags; for chrono initialisation the setting model.t_max.

    python analysis/time_constants.py outputs/demo
"""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

from retrograde.figures import question, theme
from retrograde.figures.comparison import (
    AFTER,
    BEFORE,
    NUMBERS,
    Comparison,
    Tables,
    at_ends,
    ends,
    listed,
    outcomes,
    records,
)
from retrograde.figures.provenance import lag_quantiles, models_in_words, number, seeds_each, seeds_in_words
from retrograde.figures.statistics import interval, interval_in_words
from retrograde.record.metadata import number_of

CHRONO, LONGEST = "lstm_chrono", "config.model.t_max"
"""The model whose gates start by a law, and the setting of its longest time scale; unset, the longest lag plus one."""

SHORTEST = 0.1
"""Positions at which the axis begins: a unit of less keeps less than e^-10 of its state for one position."""

FARTHEST = 30
"""Times the longest lag at which the axis ends; for the task longer memory is all the same."""

PLACES = 300
"""Of the axis at which curves are drawn."""

DASHES = {BEFORE: (0, (3, 1.5)), AFTER: "-"}


def load(comparison: Comparison) -> Tables:
    """``units`` one row a unit, run and end of training; ``lags`` of the task; ``numbers`` one row a run.

    ``laws`` names the models whose gates start by chrono initialisation, each with its T_max.
    """
    medians = ends(comparison.readings("gates/median_time_constant"))
    steps = sorted(int(step) for step in medians["step"].unique())
    units = ends(comparison.readings("gates/time_constant", steps))
    columns = ["model", "seed", "run", "when", "step", "layer", "component", "unit", "value", "status"]
    units = units.sort_values(columns[:8], ignore_index=True)[columns]
    lags = pd.DataFrame(comparison.card["lags"], columns=["lag", "count"], dtype=int)
    return {
        "units": units,
        "lags": lags,
        "laws": _laws(comparison.runs[comparison.runs["run"].isin(units["run"])], lags),
        NUMBERS: _numbers(units, comparison.runs, comparison.card),
    }


def _laws(runs: pd.DataFrame, lags: pd.DataFrame) -> pd.DataFrame:
    """``model`` and ``t_max`` of those that start by chrono initialisation."""
    rows = []
    for run in records(runs.drop_duplicates("model")):
        if theme.family(str(run["model"])) == CHRONO:
            given = run.get(LONGEST)
            rows.append((run["model"], float(lags["lag"].max() + 1 if given is None or pd.isna(given) else given)))
    return pd.DataFrame(rows, columns=["model", "t_max"])


def law(positions: np.ndarray, t_max: float) -> np.ndarray:
    """The share of units longer than that, where only the bias ln u, u ~ U[1, T_max - 1], opens the forget gate.

    Then f = u / (1 + u), and -1 / ln f > t where u > 1 / (e^{1/t} - 1).
    """
    needed = 1 / np.expm1(1 / np.asarray(positions, dtype=float))
    return np.clip((t_max - 1 - needed) / max(t_max - 2, np.finfo(float).tiny), 0, 1)


def longer(values: pd.Series | np.ndarray, than: float | np.ndarray) -> np.ndarray:
    """The share of time constants longer than that; NaN where one is no number."""
    values = np.sort(np.asarray(values, dtype=float))
    shares = 1 - np.searchsorted(values, than, side="right") / len(values)
    return np.where(np.isnan(values[-1]), np.nan, shares)


def _numbers(units: pd.DataFrame, runs: pd.DataFrame, card: Mapping[str, Any]) -> pd.DataFrame:
    """By run: the share longer than the task's median lag, the median, and how many are zero and infinite."""
    needed = lag_quantiles(card).get("median", np.nan)
    ended = dict(zip(runs["run"], outcomes(runs), strict=True))
    parts = {key: of_snapshot.to_numpy() for key, of_snapshot in units.groupby(["run", "when"])["value"]}
    last = units.groupby("run")["step"].max()
    rows = []
    for model, seed, run in units[["model", "seed", "run"]].drop_duplicates().itertuples(index=False):
        row: dict[str, object] = {"model": model, "seed": seed, "ended": ended[run]}
        row["units"] = max(len(parts[run, when]) for when in (BEFORE, AFTER) if (run, when) in parts)
        row["task's lags, median"] = needed
        for when in (BEFORE, AFTER):
            values = parts.get((run, when), np.empty(0))
            there = len(values) > 0
            row[f"longer, {when}"] = float(longer(values, needed)) if there and np.isfinite(needed) else np.nan
            row[f"median, {when} (positions)"] = float(np.median(values)) if there else np.nan
            row[f"zero, {when}"] = int((values == 0).sum())
            row[f"infinite, {when}"] = int(np.isinf(values).sum())
        rows.append(row | {"step after": int(last[run]), "run": run})
    return pd.DataFrame(rows).astype({"model": units["model"].dtype})


def finding(tables: Tables) -> str:
    """The share of units that remember longer than the median lag, and whether runs that solved the task have such."""
    numbers = tables[NUMBERS]
    needed = numbers["task's lags, median"].iloc[0]
    sizes = sorted(set(numbers.groupby("model", observed=True)["run"].nunique()))
    seeds = seeds_each([int(size) for size in sizes])
    column, times = ("median, {} (positions)", 1) if np.isnan(needed) else ("longer, {}", 100)
    whens = at_ends(numbers, column)
    at = f"{' → '.join(whens)} training"
    said = models_in_words(numbers, [column.format(when) for when in whens], lambda value: _short(times * value))
    if np.isnan(needed):
        return f"Median time constant of a unit {at}, in positions, {seeds}: {said}"
    return (
        f"Units that remember longer than the task's median lag, {number(needed)} positions, {at}, in %, {seeds}: "
        f"{said}; {_verdict(numbers)}"
    )


def _short(value: float) -> str:
    return number(float(f"{value:.2g}"))


def _verdict(numbers: pd.DataFrame) -> str:
    """Whether those that solved the task have units as long as its median lag."""
    solved = numbers[(numbers["ended"] == "solved") & numbers[f"longer, {AFTER}"].notna()]
    if solved.empty:
        return "no run that was read after training has solved the task, which would ask for such units"
    having = solved[f"longer, {AFTER}"] > 0
    if having.all():
        return f"every run that solved the task has such units, as expected ({len(solved)} of {len(solved)})"
    without = listed(theme.present(solved.loc[~having, "model"]))
    return (
        f"against expectation {without} solved the task without such units ({int((~having).sum())} of the "
        f"{number_of(len(solved), 'run')} that solved it)"
    )


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A panel a model: the share of units that remember longer, by how long; the same share of the task's lags."""
    units, lags, numbers = tables["units"], tables["lags"], tables[NUMBERS]
    models = theme.present(units["model"])
    looks = theme.looks(units["model"])
    laws = dict(tables["laws"].itertuples(index=False, name=None))
    figure, panels = theme.panels(len(models), 2.1)
    x = np.geomspace(*_span(units["value"], lags, laws), PLACES)
    needed = numbers["task's lags, median"].iloc[0]
    for model, axes in zip(models, panels, strict=True):
        axes.set_xscale("log")
        axes.set_xlim(x[0], x[-1])
        axes.set_ylim(0, 1.02)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if x[-1] < 1000 * x[0] else (1,), numticks=9))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
        if needed > x[0]:
            axes.axvline(needed, color=theme.QUIET, linewidth=0.7, dashes=(2, 2))
        if len(lags):
            shares = longer(np.repeat(lags["lag"], lags["count"]), x)
            axes.fill_between(x, shares, color=theme.RULE, linewidth=0, step="post")
        of_model = units[units["model"] == model]
        for when in (BEFORE, AFTER):
            colour = looks[model].colour if when == AFTER else theme.QUIET
            _draw_curves(axes, of_model[of_model["when"] == when], x, colour, DASHES[when])
        if model in laws:
            axes.plot(x, law(x, laws[model]), color=theme.INK, linewidth=1.2, ls=(0, (1, 1.4)))
        axes.set_title(model, fontweight="bold", color=looks[model].colour)
        theme.note(axes, oddities(numbers[numbers["model"] == model], of_model), (0.04, 0.04))
    theme.label(panels, "time constant (positions)", "units that are longer")
    _draw_legend(figure, len(lags) > 0, len(laws) > 0)
    theme.headline(figure, finding(tables))
    return figure


def _span(values: pd.Series, lags: pd.DataFrame, laws: Mapping[str, float]) -> tuple[float, float]:
    """Where the axis begins and ends: it holds all units, or as much as tells them apart."""
    inside = np.array([1.0, *values[np.isfinite(values) & (values > 0)]])
    longest = max([float(lags["lag"].max()) if len(lags) else 0.0, *laws.values(), 1.0])
    high = inside.max() if len(lags) == 0 else min(inside.max(), FARTHEST * longest)
    return max(SHORTEST, min(0.8 * inside.min(), 1)), 1.25 * max(high, longest)


def _draw_curves(axes: Axes, units: pd.DataFrame, x: np.ndarray, colour: str, dash: object) -> None:
    """Every run faintly, the median over seeds with its interval; what is beyond the axis is a mark on its end."""
    runs = [longer(of_run, x) for _, of_run in units.groupby("run", sort=True)["value"]]
    curves = [curve for curve in runs if not np.isnan(curve).any()]
    for curve in curves:
        axes.plot(x, curve, color=colour, linewidth=0.7, alpha=0.4, ls=dash)
        if curve[-1] > 0:
            axes.plot(x[-1:], curve[-1:], ">", color=colour, markersize=4, clip_on=False)
        if curve[0] < 1:
            axes.plot(x[:1], curve[:1], "<", color=colour, markersize=4, clip_on=False)
    if not curves:
        return
    over_seeds = interval(np.array(curves))
    axes.plot(x, over_seeds.median, color=colour, linewidth=1.8, ls=dash)
    if len(curves) > 1:
        axes.fill_between(x, over_seeds.low, over_seeds.high, color=colour, alpha=0.12, linewidth=0)


def oddities(numbers: pd.DataFrame, units: pd.DataFrame) -> str:
    """How many of a model's units forget at once, never forget, or have no number, in words; mostly empty."""
    kinds = {
        "zero": {when: int(numbers[f"zero, {when}"].sum()) for when in (BEFORE, AFTER)},
        "infinite": {when: int(numbers[f"infinite, {when}"].sum()) for when in (BEFORE, AFTER)},
        "no number": {when: int(units.loc[units["when"] == when, "value"].isna().sum()) for when in (BEFORE, AFTER)},
    }
    of = {when: int((units["when"] == when).sum()) for when in (BEFORE, AFTER)}
    parts = []
    for kind, counts in kinds.items():
        said = [f"{count} of {of[when]} {when}" for when, count in counts.items() if count]
        if said:
            parts.append(f"{kind}: {', '.join(said)}")
    return "; ".join(parts)


def _draw_legend(figure: Figure, has_lags: bool, has_law: bool) -> None:
    handles: list[Artist] = [
        Line2D([], [], color=theme.QUIET, linewidth=1.8, ls=DASHES[BEFORE], label="before training"),
        Line2D([], [], color=theme.INK, linewidth=1.8, label="after training"),
    ]
    if has_law:
        handles.append(Line2D([], [], color=theme.INK, linewidth=1.2, ls=(0, (1, 1.4)), label="chrono's law"))
    if has_lags:
        handles += [
            Patch(color=theme.RULE, label="lags of the task that are longer"),
            Line2D([], [], color=theme.QUIET, linewidth=0.7, dashes=(2, 2), label="their median"),
        ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, handlelength=2.2)


def caption(tables: Tables) -> str:
    """What a time constant is, what is drawn of whom, and what the interval is."""
    units, numbers = tables["units"], tables[NUMBERS]
    sizes = sorted(set(numbers.groupby("model", observed=True)["run"].nunique()))
    brackets = listed(sorted({interval_in_words(int(size)) for size in sizes if size > 1}))
    spread = f" In the finding, medians over seeds; in brackets {brackets}, after training." if brackets else ""
    chrono = (
        " Chrono's law is that of its forget biases alone, ln U[1, T_max − 1]; inputs and states move gates off it."
        if len(tables["laws"])
        else ""
    )
    parts = listed(sorted(set(units["layer"] + "." + units["component"])))
    return (
        "Time constant of a unit: −1 / ln f̄, the positions after which its own path has left 1/e of what it holds, f̄ "
        "the mean factor by which it is carried on (forget or update gate; |λ| of a state space model) over samples "
        "and times of the probe batch. What other units carry for it is not in it, and over 4.6 time constants 1 % is "
        "left. A curve is the share of units that are longer than the position on the axis, of all that were read of "
        f"{parts}; it begins below 100 % where units are shorter than the axis, and ends above 0 where they are longer "
        f"or never forget, both marked by a triangle.{chrono} The share of the task's lags that are longer is shaded. "
        f"{seeds_in_words(units)}{spread}"
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
