"""How large a state has to be that recalls so many pairs.

Question:  how large a state does it take to recall 4, 8 or 16 pairs, by architecture?
Expect:    what carries a state of fixed size needs a larger one for more pairs, since all of them are in it when the
           first is asked for; attention, which keeps everything, recalls them at every width (Arora et al. 2023,
           arXiv:2312.04927, figure 2, over widths of 64 to 512).
Data:      the runs' state_size and how they ended, their test scores; the settings task.pairs and width; the cards'
           thresholds and trivial rules.

    python analysis/recall.py outputs/recall
"""

import sys

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

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

PAIRS, WIDTH, LENGTH = "config.task.pairs", "config.width", "config.task.length"

TASK = "recall"


def load(comparison: Comparison) -> Tables:
    """``cells`` one row a model, number of pairs and width; ``needed`` one a model and number of pairs; ``numbers``."""
    runs = comparison.runs.reindex(
        columns=list(dict.fromkeys([*comparison.runs.columns, PAIRS, WIDTH, LENGTH, "state_size", "score"]))
    )
    runs = runs[(runs["task"] == TASK) & runs[PAIRS].notna()]
    if runs.empty:
        raise NothingToDraw("no run is on recall: task=recall")
    if runs[LENGTH].nunique() > 1:
        raise NothingToDraw("lengths differ beside pairs, so that either could be the cause: choose one task.length")
    if runs[PAIRS].nunique() < 2:
        raise NothingToDraw("the number of pairs is not varied: task.pairs=4,8,16 does")
    runs = runs.assign(architecture=[theme.family(str(model)) for model in runs["model"]])
    sizes = runs[runs["state_size"].notna()].groupby("architecture")["state_size"].nunique()
    if sizes.empty or sizes.max() < 2:
        raise NothingToDraw("no model's state is varied: width=16,32,64 with model=lstm does")
    numbers = pd.DataFrame(
        {
            "model": runs["model"],
            "seed": runs["seed"],
            "architecture": runs["architecture"],
            "pairs": runs[PAIRS].astype(int),
            "width": runs[WIDTH].astype(int),
            "state (numbers)": runs["state_size"].astype(float),
            "outcome": outcomes(runs),
            "test score": runs["score"].astype(float),
            "run": runs["run"],
        }
    ).sort_values(["architecture", "pairs", "width", "seed", "run"], ignore_index=True)
    numbers["counted"] = numbers["outcome"].isin(COUNTED)
    if not numbers["counted"].any():
        raise NothingToDraw("no run has come to its end yet")
    rules = []
    for pairs, of_pairs in numbers.groupby("pairs"):
        card = comparison.cards[of_pairs["run"].iloc[0]]
        best = trivial_rule(card)
        rules.append((pairs, np.nan if best is None else float(best["score"]), float(card["solved"])))
    return {
        "cells": _cells(numbers[numbers["counted"]]),
        "needed": _needed(numbers[numbers["counted"]]),
        "rules": pd.DataFrame(rules, columns=["pairs", "trivial", "solved from"]),
        NUMBERS: numbers,
    }


def _cells(numbers: pd.DataFrame) -> pd.DataFrame:
    """Solve rates with their intervals."""
    keys = ["architecture", "pairs", "width", "state (numbers)"]
    counted = numbers.assign(solved=numbers["outcome"] == "solved").groupby(keys, dropna=False)
    cells = counted.agg(runs=("solved", "size"), solved=("solved", "sum"), score=("test score", "median")).reset_index()
    rates = solve_rate(cells["solved"].to_numpy(), cells["runs"].to_numpy())
    return cells.assign(rate=rates.value, low=rates.low, high=rates.high)


def _needed(numbers: pd.DataFrame) -> pd.DataFrame:
    """The smallest state with which a seed solves, over seeds; above the largest where it solves with none."""
    rows = []
    kept = numbers[numbers["state (numbers)"].notna()]
    for (architecture, pairs), chosen in kept.groupby(["architecture", "pairs"]):
        solved = chosen[chosen["outcome"] == "solved"].groupby("seed")["state (numbers)"].min()
        tried = chosen.groupby("seed")["state (numbers)"].max()
        sizes = solved.reindex(tried.index)
        found = steps_to_solve(sizes.fillna(tried).to_numpy(), sizes.notna().to_numpy())
        rows.append(
            {
                "architecture": architecture,
                "pairs": pairs,
                "state": float(found.value),
                "low": float(found.low) if sizes.notna().any() else np.inf,
                "high": float(found.high),
                "largest tried": float(tried.max()),
                "smallest tried": float(chosen["state (numbers)"].min()),
                "seeds": len(tried),
                "seeds that solve": int(sizes.notna().sum()),
            }
        )
    return pd.DataFrame(rows)


def finding(tables: Tables) -> str:
    """The states needed by number of pairs, whether they grow, and whether attention needs none."""
    needed, cells = tables["needed"], tables["cells"]
    counts = [int(pairs) for pairs in sorted(cells["pairs"].unique())]
    said = []
    for architecture, of_architecture in needed.groupby("architecture", sort=False):
        by_pairs = {int(row["pairs"]): row for row in records(of_architecture)}
        said.append(f"{architecture} {', '.join(_in_words(by_pairs[at]) if at in by_pairs else '–' for at in counts)}")
    states = f"Numbers in the smallest state that recalls {listed([str(at) for at in counts])} pairs: {'; '.join(said)}"
    return ". ".join(filter(None, [states, _growth(needed), _attention(cells)]))


def _in_words(row: dict[str, object]) -> str:
    """The median over seeds and its interval; above what was tried where it was not reached."""
    state, low, high, largest = (float(str(row[name])) for name in ("state", "low", "high", "largest tried"))
    if np.isinf(low):
        return f"more than {number(largest)}"
    ends = [f"more than {number(largest)}" if np.isinf(end) else number(end) for end in (state, low, high)]
    return ends[0] if ends[1] == ends[2] else f"{ends[0]} ({ends[1]} to {ends[2]})"


def _growth(needed: pd.DataFrame) -> str:
    """For which models the state needed for the most pairs lies above that for the fewest, beyond their intervals."""
    kinds: dict[str, list[str]] = {}
    for architecture, chosen in needed.groupby("architecture", sort=False):
        of = chosen.sort_values("pairs")
        few, most = of.iloc[0], of.iloc[-1]
        if few["pairs"] == most["pairs"]:
            kind = "nothing is said of"
        elif min(few["seeds"], most["seeds"]) < 2:
            kind = "one seed tells nothing of"
        elif most["low"] > few["high"]:
            kind = "as expected it grows with the pairs for"
        elif np.isinf(few["low"]):
            kind = "nothing is told, as no state tried is enough, for"
        elif most["high"] < few["low"]:
            kind = "against expectation it shrinks for"
        else:
            kind = "that it grows is not told, intervals overlap, for"
        kinds.setdefault(kind, []).append(str(architecture))
    words = "; ".join(f"{kind} {listed(names)}" for kind, names in kinds.items())
    return words[:1].upper() + words[1:]


def _attention(cells: pd.DataFrame) -> str:
    """Whether what keeps everything recalls at every width and number of pairs."""
    chosen = cells[cells["state (numbers)"].isna()]
    if chosen.empty:
        return "No model that keeps everything is among them"
    solved, runs = int(chosen["solved"].sum()), int(chosen["runs"].sum())
    who = listed(sorted(map(str, chosen["architecture"].unique())))
    counted = f"{solved} of {runs} runs ({in_percent(solve_rate(solved, runs))})"
    if solved == runs:
        return f"As expected {who}, which keeps everything, recalls them at every width: {counted}"
    if (chosen["rate"] > 0.5).all():
        return f"{who}, which keeps everything, does at every width in most seeds: {counted}"
    failing = chosen[~(chosen["rate"] > 0.5)]
    cases = [f"{row['pairs']} pairs at width {row['width']}" for row in records(failing)]
    more = f" and {len(cases) - 3} more cases" if len(cases) > 3 else ""
    where = f"{', '.join(cases[:3])}{more}"
    return f"Against expectation {who}, which keeps everything, fails in most seeds on {where}: {counted}"


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A panel a number of pairs: every run's score over its state, attention beside; below, the state needed."""
    numbers, rules = tables[NUMBERS], tables["rules"]
    counts = [int(pairs) for pairs in sorted(numbers["pairs"].unique())]
    looks = _looks(numbers["model"])
    figure = Figure(figsize=(theme.WIDTH, 6.0), layout="constrained")
    grid = figure.add_gridspec(2, len(counts), height_ratios=[1.15, 1])
    states = numbers["state (numbers)"].dropna()
    aside = float(states.max()) * 4
    first: Axes | None = None
    for place, pairs in enumerate(counts):
        axes = figure.add_subplot(grid[0, place], sharex=first, sharey=first)
        first = first or axes
        _draw_scores(axes, numbers[(numbers["pairs"] == pairs) & numbers["counted"]], looks, aside)
        rule = rules[rules["pairs"] == pairs].iloc[0]
        axes.axhline(rule["solved from"], color=theme.QUIET, lw=0.7, dashes=(1, 1.5), zorder=1)
        axes.axhline(rule["trivial"], color=theme.INK, lw=0.7, dashes=(4, 3), zorder=1)
        axes.set_title(f"{pairs} pairs", fontweight="bold")
        axes.set_xlabel("state (numbers)")
        axes.tick_params(labelleft=place == 0)
    assert first is not None  # two numbers of pairs at least
    first.set_ylabel("test score")
    first.set_ylim(-0.03, 1.05)
    _power_axis(
        first, float(states.min()), float(states.max()), aside if numbers["state (numbers)"].isna().any() else None
    )
    _draw_needed(figure.add_subplot(grid[1, :]), tables["needed"], looks)
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, ms=4.5, lw=1.3, label=name)
        for name, look in looks.items()
        if (numbers["architecture"] == name).any()
    ]
    handles.append(Line2D([], [], color=theme.QUIET, lw=0.7, dashes=(1, 1.5), label="solved"))
    handles.append(
        Line2D([], [], color=theme.INK, lw=0.7, dashes=(4, 3), label="best trivial rule; below, in proportion")
    )
    columns = theme.columns([str(handle.get_label()) for handle in handles], 4)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    theme.headline(figure, finding(tables))
    return figure


def _looks(models: pd.Series) -> dict[str, theme.Look]:
    """A family's look is that of its first variant."""
    found: dict[str, theme.Look] = {}
    for model, look in theme.looks(models).items():
        found.setdefault(theme.family(model), theme.Look(look.colour, "-", look.marker))
    return found


def _power_axis(axes: Axes, low: float, high: float, aside: float | None) -> None:
    """Powers of four, and a place of its own for what keeps everything."""
    axes.set_xscale("log", base=2)
    powers = 2.0 ** np.arange(np.floor(np.log2(low)), np.ceil(np.log2(high)) + 1)
    powers = powers[:: max(1, -(-len(powers) // 5))]
    places, words = list(powers), [f"{power:g}" for power in powers]
    if aside is not None:
        places, words = [*places, aside], [*words, "all"]
    axes.set_xlim(low / 1.6, (high if aside is None else aside) * 1.6)
    axes.set_xticks(places, words)
    axes.xaxis.set_minor_locator(NullLocator())


def _draw_scores(axes: Axes, numbers: pd.DataFrame, looks: dict[str, theme.Look], aside: float) -> None:
    """Every run a mark, the median over seeds with its interval; what keeps everything stands aside, by width."""
    for architecture, chosen in numbers.groupby("architecture", sort=False):
        look = looks[str(architecture)]
        kept = chosen["state (numbers)"].isna().all()
        widths = sorted(chosen["width"].unique())
        steps = 1.12 ** (np.arange(len(widths)) - (len(widths) - 1) / 2)
        middle = []
        for width, step in zip(widths, steps, strict=True):
            at = chosen[chosen["width"] == width]
            scores = at["test score"].fillna(0).to_numpy()
            x = aside * step if kept else float(at["state (numbers)"].iloc[0])
            axes.plot(np.full(len(scores), x), scores, look.marker, color=look.colour, ms=3.5, alpha=0.55, mew=0)
            found = interval(scores)
            middle.append((x, float(found.median), float(found.low), float(found.high)))
        x_, median, low, high = map(np.array, zip(*sorted(middle), strict=True))
        axes.plot(x_, median, color=look.colour, lw=1.5)
        axes.fill_between(x_, low, high, color=look.colour, alpha=0.12, lw=0)


def _draw_needed(axes: Axes, needed: pd.DataFrame, looks: dict[str, theme.Look]) -> None:
    """The state needed over the number of pairs, with its interval; an arrow where it may be more than was tried."""
    architectures = list(dict.fromkeys(needed["architecture"]))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_ylim(needed["smallest tried"].min() / 1.5, needed["largest tried"].max() * 2)
    arrow = {"arrowstyle": "->", "lw": 1.0, "shrinkA": 0, "shrinkB": 0}
    for place, architecture in enumerate(architectures):
        look = looks[str(architecture)]
        of = needed[needed["architecture"] == architecture].sort_values("pairs")
        x = of["pairs"].to_numpy() * 1.03 ** (place - (len(architectures) - 1) / 2)
        largest = of["largest tried"].to_numpy()
        state, low, high = (np.minimum(of[name].to_numpy(), largest) for name in ("state", "low", "high"))
        open_ = np.isinf(of["state"].to_numpy())
        axes.plot(x, state, color=look.colour, lw=1.3)
        axes.vlines(x, low, high, color=look.colour, lw=2.5, alpha=0.35)
        if not open_.all():
            axes.plot(x[~open_], state[~open_], look.marker, color=look.colour, ms=5, lw=0)
        if open_.any():
            axes.plot(x[open_], state[open_], look.marker, color=look.colour, mfc=theme.PAPER, ms=5, lw=0)
        for at, top, ends in zip(x, largest, of["high"], strict=True):
            if np.isinf(ends):
                axes.annotate("", (at, top * 1.7), (at, top * 1.12), arrowprops=arrow | {"color": look.colour})
    pairs = np.array(sorted(needed["pairs"].unique()), dtype=float)
    solved = needed[np.isfinite(needed["state"])]
    if len(solved):
        scale = float(np.exp(np.log(solved["state"] / solved["pairs"]).median()))
        axes.plot(pairs, scale * pairs, color=theme.INK, lw=0.7, dashes=(4, 3), zorder=1)
    axes.set_xticks(pairs, [f"{at:g}" for at in pairs])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(pairs[0] / 1.25, pairs[-1] * 1.25)
    axes.set_xlabel("pairs")
    axes.set_ylabel("smallest state that\nrecalls them (numbers)")
    axes.set_title("open marks: more than the largest state tried", color=theme.QUIET)


def caption(tables: Tables) -> str:
    """What is drawn, what a state is, and which intervals they are."""
    cells, numbers, needed = tables["cells"], tables[NUMBERS], tables["needed"]
    sizes = sorted({int(size) for size in cells["runs"]})
    each = seeds_each(sizes)
    bands = listed(sorted({interval_in_words(size) for size in sizes if size > 1})) or "absent with one seed"
    few = int(needed["seeds"].min()) < FEWEST
    ends = "its interval the range of the seeds" if few else f"its interval by Greenwood's variance at {LEVEL:.0%}"
    beside = int((~numbers["counted"]).sum())
    kept = f" {beside} that did not end are not counted." if beside else ""
    return (
        "Test score of the checkpoint that validation chose, over the numbers that a model carries from one position "
        f"to the next, in all its layers, {each} for each model, width and number of pairs, every one a mark; lines "
        f"are medians, the bands {bands}. Models that keep everything they have read stand at the right, by width. "
        "Below: the smallest of the states tried with which a seed solves its task, by Kaplan and Meier's median over "
        "seeds, those that solve with none counted as needing more than the largest; "
        f"{ends}. The dashed line there is in proportion to the pairs, through the middle of what was found.{kept}"
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
