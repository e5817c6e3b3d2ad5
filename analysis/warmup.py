"""What a warm-up of the learning rate changes, with the norm before each sublayer and after it.

Question:  what does a warm-up of the learning rate change, with the norm before and after each sublayer?
Expect:    with the norm after the sublayer, as in 2017, a deep stack learns at high rates only if the rate warms up;
           with the norm before it, as well without (Xiong et al. 2020).
Data:      the settings scheduler.start_factor, 1 for no warm-up, scheduler.total_iters and optimizer.lr; the runs'
           scores in the test and the steps at which they solved their task.

    python analysis/warmup.py outputs/warmup
"""

import sys
from math import comb
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from retrograde.figures import question, theme
from retrograde.figures.comparison import (
    COUNTED,
    NUMBERS,
    Comparison,
    NothingToDraw,
    Tables,
    listed,
    outcomes,
    uncounted,
)
from retrograde.figures.provenance import number, seeds_each
from retrograde.record.metadata import number_of

START, OVER, RATE = "config.scheduler.start_factor", "config.scheduler.total_iters", "config.optimizer.lr"

WITH, WITHOUT = "with warm-up", "without"
LOOKS = {WITH: theme.Look(theme.FAMILIES[0], "-", "o"), WITHOUT: theme.Look(theme.FAMILIES[1], "-", "s")}

NORM_LAST = ("transformer_postnorm",)
"""The models of which a warm-up is expected to decide whether they learn: those with the norm after each sublayer."""

CHANCE = 0.05
"""Below this probability of chance alone a difference is said to be one."""


def load(comparison: Comparison) -> Tables:
    """``numbers`` one row a run: its stack, its rate, whether it warmed up, and what came of it."""
    wanted = [START, OVER, RATE, "solved_step", "score", "steps"]
    runs = comparison.runs.reindex(columns=list(dict.fromkeys([*comparison.runs.columns, *wanted])))
    runs = runs[runs[START].notna() & runs[RATE].notna()]
    is_warmed = runs[START].astype(float) < 1
    if is_warmed.nunique() < 2:
        raise NothingToDraw("no rate warms up in one run and not in another: scheduler.start_factor=1,0.01")
    ended = pd.Series(outcomes(runs), runs.index)
    if not ended.isin(COUNTED).any():
        raise NothingToDraw("no run has come to its end yet")
    numbers = pd.DataFrame(
        {
            "model": runs["model"],
            "seed": runs["seed"],
            "stack": [theme.family(str(model)) for model in runs["model"]],
            "learning rate": runs[RATE].astype(float),
            "rate": np.where(is_warmed, WITH, WITHOUT),
            "warm-up (steps)": runs[OVER].astype(float).where(is_warmed, 0.0),
            "outcome": ended,
            "solved at step": runs["solved_step"].astype(float),
            "steps": runs["steps"].astype(float),
            "test score": runs["score"].astype(float),
            "run": runs["run"],
        }
    )
    return {NUMBERS: numbers.sort_values(["stack", "rate", "learning rate", "seed", "run"], ignore_index=True)}


def pairs(numbers: pd.DataFrame) -> tuple[int, int, int]:
    """Of runs that differ in the warm-up alone: the pairs, those that only the one with it solves, only the other."""
    solved = numbers.assign(solved=numbers["outcome"] == "solved")
    both = solved.pivot_table(index=["learning rate", "seed"], columns="rate", values="solved", aggfunc="all").dropna()
    if both.shape[1] < 2:
        return 0, 0, 0
    with_, without = both[WITH].astype(bool), both[WITHOUT].astype(bool)
    return len(both), int((with_ & ~without).sum()), int((without & ~with_).sum())


def by_chance(one: int, other: int) -> float:
    """The two-sided probability of counts at least as unequal where both sides are equally likely (sign test).

    >>> by_chance(0, 6)
    0.03125
    """
    total = one + other
    tail = sum(comb(total, count) for count in range(min(one, other) + 1)) / 2**total
    return float(min(1.0, 2 * tail))


def finding(tables: Tables) -> str:
    """For each stack how many runs solve the task with and without warm-up, and whether that is as theory says.

    It is where a warm-up helps every stack with the norm last, and of no other one, with enough pairs, is a difference
    shown.
    """
    numbers = _counted(tables)
    said, agrees, against = [], [], []
    for stack, of_stack in numbers.groupby("stack"):
        paired, only_with, only_without = pairs(of_stack)
        p = by_chance(only_with, only_without)
        differs = p < CHANCE
        helps = differs and only_with > only_without
        is_expected = stack in NORM_LAST
        agrees.append(helps if is_expected else not differs and by_chance(0, paired) < CHANCE)
        against += [str(stack)] if differs and not (helps and is_expected) else []
        verdict = "helps" if helps else "hurts" if differs else "makes no difference that is shown"
        counts = [_solved(of_stack[of_stack["rate"] == rate]) for rate in (WITH, WITHOUT)]
        said.append(
            f"{stack} it {verdict}: {counts[0]} runs solve the task with it (every seed {_up_to(of_stack, WITH)}), "
            f"{counts[1]} without (every seed {_up_to(of_stack, WITHOUT)}); of {number_of(paired, 'pair')} "
            f"{only_with} {'is' if only_with == 1 else 'are'} won by it and {only_without} lost (p = {p:.2g})"
        )
    verdict = "What theory says of a warm-up is not shown"
    if all(agrees) and numbers["stack"].isin(NORM_LAST).any():
        verdict = "A warm-up does what theory says"
    elif against:
        verdict = f"A warm-up does not do what theory says in {listed(against)}"
    beside = uncounted(tables[NUMBERS]["outcome"])
    return ". ".join(filter(None, [f"{verdict}. In {'. In '.join(said)}", beside]))


def _counted(tables: Tables) -> pd.DataFrame:
    numbers = tables[NUMBERS]
    return numbers[numbers["outcome"].isin(COUNTED)]


def _solved(numbers: pd.DataFrame) -> str:
    return f"{(numbers['outcome'] == 'solved').sum()} of {len(numbers)}"


def _up_to(numbers: pd.DataFrame, rate: str) -> str:
    """The rates at which every seed solves the task, in words."""
    of_rate = numbers[numbers["rate"] == rate]
    rates = [number(lr) for lr, of in of_rate.groupby("learning rate") if (of["outcome"] == "solved").all()]
    return f"at rate {listed(rates)}" if rates else "at no rate"


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A column a stack: test score over the rate, and below it the steps to solve the task."""
    numbers = _counted(tables)
    stacks = sorted(numbers["stack"].unique())
    figure = Figure(figsize=(theme.WIDTH, 5.6), layout="constrained")
    grid = figure.subplots(2, len(stacks), sharex=True, sharey="row", squeeze=False)
    low = min(0.0, *numbers["test score"].clip(lower=-0.3).fillna(0.0)) - 0.05
    most = numbers[["solved at step", "steps"]].max().max()
    for (above, below), stack in zip(grid.T.tolist(), stacks, strict=True):
        of_stack = numbers[numbers["stack"] == stack]
        for rate, aside in zip(LOOKS, (0.93, 1.07), strict=True):
            of_rate = of_stack[of_stack["rate"] == rate]
            x = of_rate["learning rate"] * aside ** (1 + 0.7 * of_rate.groupby("learning rate").cumcount())
            is_inside = of_rate["test score"] >= low
            _draw(above, x, of_rate["test score"], is_inside, low, LOOKS[rate], of_rate["learning rate"], aside)
            is_solved = of_rate["outcome"] == "solved"
            _draw(
                below,
                x,
                of_rate["solved at step"],
                is_solved,
                1.08 * most,
                LOOKS[rate],
                of_rate["learning rate"],
                aside,
            )
        above.set_title(f"{stack}: norm {'after' if stack in NORM_LAST else 'before'}", fontweight="bold")
        below.set_xlabel("learning rate, once warm")
        above.set_ylim(low, 1.05)
        below.set_ylim(0, 1.12 * most)
    grid[0, 0].set_ylabel("test score")
    grid[1, 0].set_ylabel("steps to solve the task")
    axes = grid[0, 0]
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted(numbers["learning rate"].unique())))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, ms=4.5, lw=1.2, label=rate)
        for rate, look in LOOKS.items()
    ]
    handles.append(
        Line2D([], [], color=theme.QUIET, marker="x", ms=5, lw=0, label="not solved, or no score above the axis")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    theme.headline(figure, finding(tables))
    return figure


def _draw(
    axes: Axes,
    x: pd.Series,
    y: pd.Series,
    shown: pd.Series,
    edge: float,
    look: theme.Look,
    rates: pd.Series,
    aside: float,
) -> None:
    """Every seed as a mark, as a cross at the edge where there is nothing to show, and the median of what there is."""
    style: dict[str, Any] = {"color": look.colour, "clip_on": False, "zorder": 4}
    if shown.any():
        axes.plot(x[shown], y[shown], look.marker, ms=4, mec=theme.PAPER, mew=0.4, **style)
    if (~shown).any():
        axes.plot(x[~shown], np.full((~shown).sum(), edge), "x", ms=4.5, **style)
    medians = y.where(shown).groupby(rates).agg(lambda values: values.median(skipna=False))
    axes.plot(medians.index * aside, medians, color=look.colour, lw=1.0, alpha=0.6)


def caption(tables: Tables) -> str:
    """What is drawn, what the two kinds of runs differ in, and the test of the difference."""
    numbers = _counted(tables)
    seeds = sorted(map(int, numbers.groupby(["stack", "rate", "learning rate"])["run"].nunique().unique()))
    each = seeds_each(seeds)
    kept = " Runs that did not finish are not drawn." if len(numbers) < len(tables[NUMBERS]) else ""
    over = sorted(numbers.loc[numbers["rate"] == WITH, "warm-up (steps)"].unique())
    return (
        f"With warm-up the learning rate rises in a straight line over the first {listed([number(n) for n in over])} "
        "steps to the one below the axis and stays there; without, it is that from the first step on, and nothing else "
        "differs. Above, the score on the test set of the checkpoint that validation chose; below, the steps until "
        "validation first reached the task's threshold, a cross for a seed that did not solve the task or diverged. "
        "A warm-up is said to help where pairs of runs that differ in it alone are won by it in a sign test, "
        f"p < {CHANCE:g}. {each} for each, every one a mark; lines are medians, broken where a seed has none; there is "
        f"no band.{kept}"
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
