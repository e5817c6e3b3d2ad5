"""Which models learn the task, and how fast.

Question:  which models solve the task, and after how many steps?
Expect:    where the lags are long, gated cells and attention solve it, and a plain network stays with the trivial
           rules.
Data:      metrics validation/score, validation/loss and, where the task has one, validation/effective_window; the
           card's trivial rules and its threshold; the best shallow rule that was run; the test of the checkpoint that
           validation chose.

    python analysis/learning.py outputs/demo
"""

import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from retrograde.figures import question, theme
from retrograde.figures.comparison import (
    COUNTED,
    LONGEST_DRAWN,
    NUMBERS,
    Comparison,
    NothingToDraw,
    Tables,
    in_short,
    listed,
    outcomes,
    uncounted,
)
from retrograde.figures.provenance import number, seeds_in_words
from retrograde.figures.statistics import interval

Limits = tuple[float, float]

SPLIT = "validation"
SOLVED = "solved"
WINDOW = "effective_window"
SHALLOW = "shallow rule"

RESULTS = {
    "solved_step": "solved at step",
    "steps": "steps",
    "validation_score": "best validation score",
    "score": "test score",
    "loss": "test loss",
    "run": "run",
}
"""Columns of the runs that are reported, and what they are called."""


def load(comparison: Comparison) -> Tables:
    """``curves`` run, step, quantity, value; ``lines`` rules and threshold; ``numbers`` one row a run.

    ``window`` is what the effective window counts, where there is one.
    """
    metrics = comparison.metrics()
    shown = (metrics["split"] == SPLIT) & metrics["quantity"].isin(["score", "loss", WINDOW])
    curves = metrics[shown].sort_values(["model", "seed", "run", "quantity", "step"], ignore_index=True)
    if curves.empty:
        raise NothingToDraw("no run has been validated yet")
    runs = comparison.runs.reindex(columns=list(dict.fromkeys([*comparison.runs.columns, *RESULTS])))
    ended = outcomes(runs)
    numbers = runs[["model", "seed"]].assign(outcome=ended).join(runs[list(RESULTS)]).rename(columns=RESULTS)
    card = comparison.card
    lines = [(in_short(rule["rule"], LONGEST_DRAWN), rule["score"], rule["loss"]) for rule in card["baselines"]]
    best = comparison.rule_scores().head(1)
    lines += best.assign(rule=f"{SHALLOW}: " + best["rule"]).itertuples(index=False, name=None)
    return {
        "curves": curves,
        "lines": pd.DataFrame([*lines, (SOLVED, card["solved"], np.nan)], columns=["rule", "score", "loss"]),
        "window": pd.DataFrame({"unit": [card["window"]] if card.get("window") else []}),
        NUMBERS: numbers,
    }


def finding(tables: Tables) -> str:
    """Which models solve the task with how many seeds, how fast, and how the others compare with the trivial rule."""
    numbers, lines = tables[NUMBERS], tables["lines"]
    beside = uncounted(numbers["outcome"])
    solved, partly, unsolved, without = [], [], [], []
    for model in theme.present(numbers["model"]):
        of_model = numbers[(numbers["model"] == model) & numbers["outcome"].isin(COUNTED)]
        is_solved = of_model["outcome"] == SOLVED
        step = f"step {number(of_model.loc[is_solved, 'solved at step'].median())}"
        best = number(round(float(of_model["test score"].astype(float).max()), 3))
        if of_model.empty:
            without.append(model)
        elif is_solved.all():
            solved.append(f"{model} ({step})")
        elif is_solved.any():
            partly.append(f"{model} with {is_solved.sum()} of {len(of_model)} seeds ({step})")
        else:
            tested = of_model["test score"].notna().any()
            unsolved.append(f"{model} ({f'best seed {best}' if tested else 'diverged'})")
    rules = lines[lines["rule"] != SOLVED].sort_values(["score", "loss"], ascending=[False, True])
    trivial = ""
    if len(rules):
        score, name = number(round(float(rules["score"].iloc[0]), 3)), str(rules["rule"].iloc[0])
        kind = f"the best {SHALLOW}, {name.removeprefix(f'{SHALLOW}: ')}," if SHALLOW in name else "the trivial rule"
        trivial = f", where {kind} scores {score}"
    parts = []
    if solved:
        parts.append(f"solved with every {'finished ' if beside else ''}seed by {listed(solved)}")
    if partly:
        parts.append(f"solved by {listed(partly)}")
    if unsolved:
        parts.append(f"not solved by {listed(unsolved)}{trivial}")
    if without:
        parts.append(f"no run of {listed(without)} has finished")
    sentence = "; ".join(parts)
    return ". ".join(filter(None, [sentence[:1].upper() + sentence[1:], beside]))


@theme.applied()
def draw(tables: Tables) -> Figure:
    """Score above, loss below, and below that the effective window, over steps.

    Every seed is drawn faintly, each model's median in its colour.
    """
    curves, lines, numbers = tables["curves"], tables["lines"], tables[NUMBERS]
    looks = theme.looks(curves["model"])
    models = theme.present(curves["model"])
    ended = numbers.set_index("run")["outcome"]
    units = tables["window"]["unit"].tolist()
    ratios = (3, 2, *(2 for _ in units))
    figure = Figure(figsize=(theme.WIDTH, 5.2 + 1.7 * len(units)), layout="constrained")
    above, below, *lowest = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios)
    for axes, quantity in ((above, "score"), (below, "loss"), *((panel, WINDOW) for panel in lowest)):
        of_quantity = curves[curves["quantity"] == quantity]
        limits = _limits(of_quantity["value"], lines.get(quantity, pd.Series(dtype=float)), quantity)
        # before anything is drawn: else each line asks what it changes of the axes
        axes.set_xlim(0, max(curves["step"].max(), 1) * 1.02)
        axes.set_ylim(*limits)
        if quantity == "loss":
            axes.set_yscale("log")
        for model in models:
            is_counted = quantity == "score" and ended[numbers.loc[numbers["model"] == model, "run"]].eq(SOLVED).any()
            look = replace(looks[model], marker="") if is_counted else looks[model]
            _draw_model(axes, of_quantity[of_quantity["model"] == model], ended, look, limits)
        if quantity in lines:
            _draw_lines(axes, lines.loc[np.isfinite(lines[quantity]), ["rule", quantity]].sort_values(quantity))
        axes.set_ylabel(f"{SPLIT} {quantity}" if quantity in lines else f"effective window\n({units[0]})")
        odd = [oddities(of_quantity, limits), *_lines_off(lines, quantity)]
        theme.note(axes, "; ".join(filter(None, odd)), (0.02, 0.85 if quantity == WINDOW else 0.04))
    (below, *lowest)[-1].set_xlabel("step")
    _draw_solved(above, numbers, looks, float(lines.loc[lines["rule"] == SOLVED, "score"].iloc[0]))
    handles = [
        Line2D([], [], color=looks[model].colour, linewidth=1.8, label=model, **_marker(looks[model]))
        for model in models
    ]
    for handle, model in zip(handles, models, strict=True):
        handle.set_linestyle(looks[model].dash)
    columns = theme.columns(list(map(str, models)), 5)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, handlelength=3)
    theme.headline(figure, finding(tables))
    return figure


def _marker(look: theme.Look) -> dict[str, Any]:
    return {
        "marker": look.marker, "markersize": 5, "markeredgecolor": theme.PAPER, "markeredgewidth": 0.6,
        "linestyle": "none", "zorder": 5,
    }  # fmt: skip


def _draw_solved(axes: Axes, numbers: pd.DataFrame, looks: dict[str, theme.Look], threshold: float) -> None:
    """A mark for each seed at its step; those that coincide are stacked, so that they can be counted."""
    low, high = axes.get_ylim()
    solved = numbers.dropna(subset="solved at step")
    at_step = solved.groupby("solved at step")["model"]
    heights = at_step.cumcount() / at_step.transform("size").clip(lower=5) * 0.13 * (high - low)
    for model, step, height in zip(solved["model"], solved["solved at step"], heights, strict=True):
        look = looks[str(model)]
        axes.plot([step], [threshold + height], color=look.colour, clip_on=False, **_marker(look))


def _limits(values: pd.Series, lines: pd.Series, quantity: str) -> tuple[float, float]:
    """The axis: scores from a little below the worst trivial rule, losses as far as they are finite and positive.

    An effective window's axis holds 0. A loss can be worse than a constant's and the window then far below nothing: the
    axis goes down by no more than a tenth of what it goes up, unless it does not go up. An axis on which nothing is
    finite is drawn all the same, from 0, or a tenth, to 1.
    """
    finite, known = values[np.isfinite(values)], lines[np.isfinite(lines)]
    if quantity == WINDOW:
        low, high = min([0.0, *finite]), max([0.0, *finite])
        high = high if low < high else 1.0
        lowest = -0.1 * high if high > 0 else -math.inf
        room = 0.05 * (high - max(low, lowest))
        return max(low - room, lowest), high + room
    if quantity == "score":
        worst = min([1.0, *known])
        room = max(0.15, 0.5 * (1 - worst))
        return max(min([worst, *finite]), worst - room) - 0.05, 1.05
    drawn, ruled = finite[finite > 0].tolist(), known[known > 0].tolist()
    if not drawn and not ruled:
        return 0.1, 1.0
    return min(drawn + ruled) / 1.4, min(max(drawn + ruled), 100 * max(ruled, default=math.inf)) * 1.4


def _draw_model(axes: Axes, curves: pd.DataFrame, ended: pd.Series, look: theme.Look, limits: Limits) -> None:
    """Each run faintly, with a cross where one ended early; the median and interval of those that did not.

    A run that was stopped because it had solved the task keeps its last value in the median.
    """
    early = ended.isin(["diverged", "failed", "interrupted", "running"])
    for run, of_run in curves.groupby("run", sort=True):
        axes.plot(of_run["step"], of_run["value"], color=look.colour, linewidth=0.7, alpha=0.4, ls=look.dash)
        if early[run]:
            last = of_run[np.isfinite(of_run["value"])].tail(1)
            axes.plot(last["step"], last["value"].clip(*limits), "x", color=look.colour, markersize=5)
    wide = curves.pivot(index="step", columns="run", values="value")
    stopped = wide.columns[ended[wide.columns] == SOLVED]
    wide[stopped] = wide[stopped].ffill()
    whole = wide[wide.columns[~early[wide.columns]]].dropna()
    if whole.empty:
        return
    over_seeds = interval(whole.to_numpy().T)
    axes.plot(
        whole.index,
        over_seeds.median,
        color=look.colour,
        linewidth=1.8,
        ls=look.dash,
        marker=look.marker,
        markevery=[-1],  # tells lines apart in grey, and shows a lone validation
        markersize=4,
    )
    if whole.shape[1] > 1:
        axes.fill_between(whole.index, over_seeds.low, over_seeds.high, color=look.colour, alpha=0.1, linewidth=0)


def _lines_off(lines: pd.DataFrame, quantity: str) -> list[str]:
    """What stands for the rules that no axis can show."""
    if quantity not in lines:
        return []
    off = lines[np.isinf(lines[quantity])]
    return [f"{rule}: {number(value)}" for rule, value in zip(off["rule"], off[quantity], strict=True)]


def _draw_lines(axes: Axes, lines: pd.DataFrame) -> None:
    """The rules and the threshold, from low to high, each named at its right end without covering another's name."""
    figure = axes.get_figure(root=True)
    assert figure is not None  # they are drawn on one
    line = theme.SMALL * 1.5 / (axes.get_window_extent().height * 72 / figure.dpi)  # in shares
    top = -1.0
    for rule, value in lines.itertuples(index=False):
        axes.axhline(value, color=theme.QUIET, linewidth=0.7, dashes=(5, 3), zorder=1)
        name = f"{theme.wrapped(rule, 16)}\n{number(value)}"
        half = line * (name.count("\n") + 1) / 2
        middle = max((axes.transData + axes.transAxes.inverted()).transform((0, value))[1], top + half)
        top = middle + half
        axes.annotate(name, (1, middle), (3, 0), xycoords="axes fraction", textcoords="offset points", va="center",
                      fontsize=theme.SMALL, color=theme.QUIET)  # fmt: skip


def oddities(curves: pd.DataFrame, limits: Limits) -> str:
    """How many points are infinite, no number, or beyond the axis, by model, in words; mostly empty."""
    parts = []
    for model in theme.present(curves["model"]):
        values = curves.loc[curves["model"] == model, "value"]
        counts = {
            "inf": int(np.isinf(values).sum()),
            "nan": int(values.isna().sum()),
            "beyond the axis": int((np.isfinite(values) & ~values.between(*limits)).sum()),
        }
        found = [f"{count} {name}" for name, count in counts.items() if count]
        if found:
            parts.append(f"{model}: {', '.join(found)}")
    return "; ".join(parts)


def caption(tables: Tables) -> str:
    """What is drawn, what the marks are, and what the interval is."""
    has_shallow = tables["lines"]["rule"].str.startswith(f"{SHALLOW}: ").any()
    rules = f"the task's trivial rules, the best {SHALLOW} that was run" if has_shallow else "the task's trivial rules"
    return (
        f"Score and loss on the {SPLIT} set, as logged, not smoothed. {seeds_in_words(tables['curves'])} "
        f"Dashed lines are {rules} and the score from which on it counts as solved; a mark on that "
        "line is a seed at the validation that first reached it, marks of one step being stacked; training stops "
        "there, and such a seed keeps its last value in the median. A mark that ends a median is its model's, as in "
        "the legend. A cross ends a run that diverged, failed or is not finished; it has no part in the median. "
        f"{SPLIT.capitalize()} selects the checkpoint; the test scores in the table are of that checkpoint."
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
