"""Chrono initialisation of an LSTM's gates against a forget bias of 1, at growing T.

Question:  do gates that start at the task's time scales let an LSTM bridge longer lags than a forget bias of 1?
Expect:    at short T both solve the task, about as fast; the longer T is, the more steps the forget bias of 1 takes in
           those of chrono initialisation, or does not solve it at all (Tallec & Ollivier 2018: about 7 times as many on
           adding at T = 750; on copying at T = 500 and 2000 it stays with the trivial rule).
Data:      how each run ended and at which step, its test score; the settings task.length and model.forget_bias.

    python analysis/forget_bias.py outputs/forget_bias
"""

import sys
from dataclasses import replace
from itertools import cycle, pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from retrograde.figures import question, theme
from retrograde.figures.comparison import (
    COUNTED,
    NUMBERS,
    STUDY,
    Comparison,
    NothingToDraw,
    Tables,
    listed,
    outcomes,
    records,
)
from retrograde.figures.provenance import number, seeds_each, trivial_rule
from retrograde.figures.statistics import (
    FEWEST,
    LEVEL,
    in_percent,
    interval,
    interval_in_words,
    solve_rate,
    steps_to_solve,
)

OF = STUDY

LENGTH, BIAS = "config.task.length", "config.model.forget_bias"

RESULTS = ("score", "solved_step", "steps")
"""Of runs that came to an end; where none did, nothing has them."""

CONSTANT, CHRONO = "lstm", "lstm_chrono"


def load(comparison: Comparison) -> Tables:
    """``cells`` one row a model and length: solve rate, steps to solve; ``lines`` rule and score; ``numbers`` runs."""
    runs = comparison.runs
    family = pd.Series([theme.family(str(model)) for model in runs["model"]], runs.index)
    runs = runs.assign(family=family)[family.isin([CONSTANT, CHRONO])]
    if set(runs["family"]) != {CONSTANT, CHRONO}:
        raise NothingToDraw(f"the two initialisations are not both there: model={CONSTANT},{CHRONO} has them")
    if LENGTH not in runs or runs[LENGTH].nunique() < 2:
        raise NothingToDraw("the task's length is not varied: task.length=25,50,100 does")
    if runs["task"].nunique() > 1:
        raise NothingToDraw(f"lengths of several tasks are no one axis: {listed(sorted(set(runs['task'])))}")
    runs = runs.reindex(columns=list(dict.fromkeys([*runs.columns, *RESULTS, BIAS])))
    names = [CHRONO if one == CHRONO else _constant(bias) for one, bias in zip(runs["family"], runs[BIAS], strict=True)]
    if runs["score"].isna().all():
        raise NothingToDraw("no run has been tested yet")
    ended = outcomes(runs)
    numbers = pd.DataFrame(
        {
            "model": runs["model"],
            "seed": runs["seed"],
            "start": ["chrono" if name == CHRONO else name for name in names],
            "T": runs[LENGTH].astype(int),
            "ended": ended,
            "test score": runs["score"].astype(float),
            "solved at step": runs["solved_step"].astype(float),
            "steps": runs["steps"].astype(float),
            "run": runs["run"],
        }
    ).sort_values(["start", "T", "seed", "run"], ignore_index=True)
    rule = trivial_rule(comparison.card)
    lines = [] if rule is None else [(str(rule["rule"]), float(rule["score"]))]
    lines.append(("solved", float(comparison.card["solved"])))
    return {
        "cells": _cells(numbers),
        "lines": pd.DataFrame(lines, columns=["rule", "score"]),
        NUMBERS: numbers,
    }


def _constant(bias: float | None) -> str:
    return "forget bias" if pd.isna(bias) else f"bias {float(bias):g}"


def _cells(numbers: pd.DataFrame) -> pd.DataFrame:
    """Where nobody diverged or was cut off, the steps are censored at the end of the run."""
    rows = []
    counted = numbers[numbers["ended"].isin(COUNTED)]
    for (start, length), cell in counted.groupby(["start", "T"], sort=False):
        solved = (cell["ended"] == "solved").to_numpy()
        steps = np.where(solved, cell["solved at step"], np.where(cell["ended"] == "diverged", np.inf, cell["steps"]))
        rate, needed = solve_rate(solved.sum(), len(cell)), steps_to_solve(steps, solved)
        rows.append(
            {
                "start": start, "T": length, "runs": len(cell), "solved": int(solved.sum()),
                "rate": float(rate.value), "low": float(rate.low), "high": float(rate.high),
                "steps to solve": float(needed.value), "steps, low": float(needed.low),
                "steps, high": float(needed.high), "score": cell["test score"].median(),
                "given up at": cell["steps"].max(),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def finding(tables: Tables) -> str:
    """By T: how many runs solve it from either start, how many times the steps one needs; whether that grows."""
    cells = tables["cells"]
    starts = [start for start in dict.fromkeys(cells["start"]) if start != "chrono"]
    return ". ".join(_against(cells, start) for start in starts)


def _against(cells: pd.DataFrame, start: str) -> str:
    chrono, constant = (cells[cells["start"] == one].set_index("T") for one in ("chrono", start))
    lengths = sorted(set(chrono.index) & set(constant.index))
    if not lengths:
        return f"Chrono and {start} share no T"
    pairs = {length: (chrono.loc[length], constant.loc[length]) for length in lengths}
    at = listed([str(length) for length in lengths])
    times = listed([_times(*pair) for pair in pairs.values()])
    solved = [listed([f"{pair[side]['solved']:g}" for pair in pairs.values()]) for side in (0, 1)]
    sizes = sorted({int(one["runs"]) for pair in pairs.values() for one in pair})
    of = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    ours, theirs = pairs[lengths[-1]]
    apart = ours["steps, high"] < theirs["steps, low"] or ours["steps, low"] > theirs["steps, high"]
    told = f"intervals {'apart' if apart else 'overlap'}"
    if single := [name for name, one in (("chrono", ours), (start, theirs)) if one["runs"] == 1]:
        told = "one seed each" if len(single) == 2 else f"one seed with {single[0]}"
    return (
        f"At T = {at} {start} takes {times} times the steps that chrono takes to solve the task; {solved[0]} of {of} "
        f"runs solve it with chrono, {solved[1]} with {start}. {_verdict(list(pairs.values()))} (at T = {lengths[-1]}: "
        f"{_span(ours)} steps against {_span(theirs)}, {told})"
    )


def _span(cell: pd.Series) -> str:
    """From where to where the median of the steps may lie."""
    low, high = cell["steps, low"], cell["steps, high"]
    top = f"over {number(cell['given up at'])}" if np.isinf(high) else number(high)
    return top if low == cell["given up at"] and np.isinf(high) else f"{number(low)} to {top}"


def _verdict(pairs: list[tuple[pd.Series, pd.Series]]) -> str:
    """Whether chrono's lead is there at the longest T and grows towards it, as far as can be told."""
    factors = [_factor(ours, theirs) for ours, theirs in pairs]
    open_ended = [bool(np.isinf(theirs["steps to solve"])) for _, theirs in pairs]
    if np.isnan(factors).any():
        return "Where most seeds do not solve it with chrono either, nothing can be said of its lead"
    if factors[-1] <= 1:
        return "Against expectation chrono does not lead at the longest T"
    if len(pairs) < 2:
        return "Chrono leads at this T, and whether its lead grows takes another"
    rises = [later > earlier for earlier, later in pairwise(factors)]
    if any(not rise and not bound for rise, bound in zip(rises, open_ended[1:], strict=True)):
        return "Chrono leads at the longest T, but against expectation its lead does not grow throughout"
    if not all(rises):
        return "Chrono leads at the longest T, and too few runs solve the task there to tell whether its lead grows"
    return f"As expected, chrono's lead grows with T{', as far as unsolved runs tell' if any(open_ended) else ''}"


def _factor(ours: pd.Series, theirs: pd.Series) -> float:
    """How many times the steps of chrono the other needs, or at least; NaN where chrono's median run does not solve."""
    if np.isinf(ours["steps to solve"]):
        return np.nan
    needed = theirs["given up at"] if np.isinf(theirs["steps to solve"]) else theirs["steps to solve"]
    return float(needed / ours["steps to solve"])


def _times(ours: pd.Series, theirs: pd.Series) -> str:
    factor = _factor(ours, theirs)
    more = "over " if np.isinf(theirs["steps to solve"]) else ""
    return "unknown" if np.isnan(factor) else f"{more}{factor:.1f}"


@theme.applied()
def draw(tables: Tables) -> Figure:
    """Test scores over T at the left, steps to solve over T at the right; every seed, medians with their intervals."""
    numbers, cells, lines = tables[NUMBERS], tables["cells"], tables["lines"]
    figure = Figure(figsize=(theme.WIDTH, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    starts = list(dict.fromkeys(numbers["start"]))
    of_model = theme.looks(numbers["model"])
    looks = {
        start: replace(of_model[str(numbers.loc[numbers["start"] == start, "model"].iloc[0])], dash=dash)
        for start, dash in zip(starts, cycle(theme.DASHES), strict=False)  # told apart in grey
    }
    for place, start in enumerate(starts):
        shift = 1.03 ** (2 * place - (len(starts) - 1))  # side by side, on a logarithmic axis
        runs, of_start = numbers[numbers["start"] == start], cells[cells["start"] == start].sort_values("T")
        _draw_scores(left, runs, shift, looks[start])
        _draw_steps(right, runs, of_start, shift, looks[start])
    for rule, score in lines.itertuples(index=False):
        left.axhline(score, color=theme.QUIET, lw=0.7, dashes=(5, 3), zorder=1)
        left.annotate(theme.wrapped(f"{rule} {number(score)}", 14), (1, score), (3, 0), va="center", color=theme.QUIET,
                      xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=theme.SMALL)  # fmt: skip
    lengths = sorted(numbers["T"].unique())
    for axes in (left, right):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(lengths))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: number(value))
        axes.set_xlabel("T, the task's length")
    right.set_yscale("log")
    right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    right.yaxis.set_minor_locator(NullLocator())
    right.yaxis.set_major_formatter(lambda value, _: number(value))
    left.set_ylabel("test score")
    right.set_ylabel("steps to solve")
    handles = [
        Line2D([], [], color=look.colour, ls=look.dash, marker=look.marker, ms=4, label=start)
        for start, look in looks.items()
    ]
    handles.append(Line2D([], [], color=theme.QUIET, ls="", marker="^", ms=5, mfc="none", label="ended unsolved"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, handlelength=3)
    theme.headline(figure, finding(tables))
    return figure


def _draw_scores(axes: Axes, runs: pd.DataFrame, shift: float, look: theme.Look) -> None:
    """Every run, and the median over seeds with its interval."""
    axes.plot(runs["T"] * shift, runs["test score"], look.marker, color=look.colour, ms=3.5, alpha=0.6, mew=0)
    tested = runs.dropna(subset=["test score"])
    middle = {length: interval(cell.to_numpy()) for length, cell in tested.groupby("T")["test score"]}
    x = np.array(list(middle)) * shift
    axes.plot(x, [one.median for one in middle.values()], color=look.colour, ls=look.dash, lw=1.6)
    for place, one in zip(x, middle.values(), strict=True):
        axes.plot([place] * 2, [one.low, one.high], color=look.colour, lw=1)


def _draw_steps(axes: Axes, runs: pd.DataFrame, cells: pd.DataFrame, shift: float, look: theme.Look) -> None:
    """Every run where it solved the task, or a triangle where it ended without; the median where it was reached."""
    solved = runs[runs["ended"] == "solved"]
    if len(solved):  # a line without a point would count in the layout
        axes.plot(
            solved["T"] * shift, solved["solved at step"], look.marker, color=look.colour, ms=3.5, alpha=0.6, mew=0
        )
    unsolved = runs[(runs["ended"] != "solved") & runs["steps"].notna()]
    for _, cell in unsolved.groupby("T"):
        spread = shift * 1.025 ** np.arange(len(cell))  # those that ended at the same step are all seen
        axes.plot(cell["T"] * spread, cell["steps"], "^", color=look.colour, ms=5, mfc="none", clip_on=False)
    reached = cells[np.isfinite(cells["steps to solve"])]
    axes.plot(reached["T"] * shift, reached["steps to solve"], color=look.colour, ls=look.dash, lw=1.6)
    for _, cell in reached.iterrows():
        high = min(cell["steps, high"], cell["given up at"])
        axes.plot([cell["T"] * shift] * 2, [cell["steps, low"], high], color=look.colour, lw=1)


def caption(tables: Tables) -> str:
    """What is drawn, what a median of censored steps is, and what the intervals are."""
    cells, numbers = tables["cells"], tables[NUMBERS]
    sizes = sorted({int(size) for size in cells["runs"]})
    each = seeds_each(sizes)
    words = listed(sorted({interval_in_words(size) for size in sizes if size > 1})) or "none with one seed"
    of_steps = "their range, in which those that did not solve are above" if sizes[0] < FEWEST else "by Greenwood"
    longest = cells[cells["T"] == cells["T"].max()]
    rates = listed(
        [f"{cell['start']} {in_percent(solve_rate(cell['solved'], cell['runs']))}" for cell in records(longest)]
    )
    beside = int((~numbers["ended"].isin(COUNTED)).sum())
    kept = f" {beside} that did not end are drawn as far as they got and not counted." if beside else ""
    return (
        f"{each} for each start and T, every one drawn. At the left, test scores of the checkpoint that validation "
        f"chose; lines join medians, the bar is {words}. At the right, the steps until validation reached the card's "
        "score; a triangle is a run that ended unsolved, which has needed more than that. The median of steps takes "
        f"those as censored (Kaplan & Meier) and is drawn where it was reached; its bar is {of_steps}. Solve rates at "
        f"T = {cells['T'].max()}, by Wilson's {LEVEL:.0%} interval: {rates}. Chrono: forget biases ln U[1, T_max − 1], "
        f"input biases their negatives, T_max the task's longest lag plus one.{kept}"
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
