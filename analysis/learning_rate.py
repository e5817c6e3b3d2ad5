"""How wide the window of learning rates is in which each architecture solves the task.

Question:  over how many decades of learning rates does each architecture solve the task?
Expect:    attention over the widest window, state space models over the narrowest (arXiv:2508.19029); nothing is to be
           ranked over fewer than nine rates.
Data:      the test score of each run and how it ended; the setting optimizer.lr.

    python analysis/learning_rate.py outputs/learning_rate
"""

import re
import sys
import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from retrograde.figures import question, theme
from retrograde.figures.comparison import COUNTED, NUMBERS, Comparison, NothingToDraw, Tables, listed, outcomes, records
from retrograde.figures.provenance import number, seeds_each
from retrograde.figures.statistics import interval, interval_in_words, solve_rate
from retrograde.record.metadata import number_of

RATE = "config.optimizer.lr"

RESULTS = ("score", "solved_step")
"""Of runs that came to an end; where none did, nothing has them."""

FEWEST_RATES = 9
"""Below which a ranking may be one of the rates that were chosen."""

ATTENTION = ("transformer",)
STATE_SPACE = ("lru", "s4d", "mamba")
"""Families of which a claim is made, by how their names begin."""

LOWEST = -0.25
"""Score at which the axis ends; what lies below it, or is no number, is marked there."""

SHORT, LONG = 20, 28
"""Characters of a name that three panels beside each other have room for, and of a line above one of two."""

LINE, HEADLINE = 0.14, 0.19
"""Inches that a line of a name takes, and one of the headline."""


def load(comparison: Comparison) -> Tables:
    """``cells`` one row a model and rate; ``windows`` one row a model; ``numbers`` one row a run."""
    runs = comparison.runs
    rates = pd.to_numeric(runs.get(RATE, pd.Series(np.nan, runs.index)), errors="coerce")
    on_an_axis = np.isfinite(rates) & (rates > 0)
    if rates[on_an_axis].nunique() < 2:
        raise NothingToDraw("the learning rate is not varied: optimizer.lr=1e-4,1e-3,1e-2 does")
    runs = runs[on_an_axis].reindex(columns=list(dict.fromkeys([*runs.columns, *RESULTS])))
    if runs["score"].isna().all():
        raise NothingToDraw("no run has been tested yet")
    numbers = pd.DataFrame(
        {
            "model": runs["model"],
            "seed": runs["seed"],
            "network": [without_rate(str(model)) for model in runs["model"]],
            "learning rate": runs[RATE].astype(float),
            "ended": outcomes(runs),
            "test score": runs["score"].astype(float),
            "solved at step": runs["solved_step"].astype(float),
            "run": runs["run"],
        }
    ).sort_values(["network", "learning rate", "seed", "run"], ignore_index=True)
    cells = _cells(numbers)
    return {
        "cells": cells,
        "windows": _windows(numbers, cells),
        "lines": pd.DataFrame({"rule": ["solved"], "score": [float(comparison.card["solved"])]}),
        NUMBERS: numbers,
    }


def without_rate(model: str) -> str:
    """A model's name without the rate that tells its settings apart.

    >>> without_rate("lstm (lr=0.01)"), without_rate("lstm (hidden=8, lr=0.01)")
    ('lstm', 'lstm (hidden=8)')
    >>> without_rate("lstm (optimizer.lr=0.01, regularizer.lr=1)")
    'lstm (regularizer.lr=1)'
    """
    return re.sub(r"(, )?(?<![\w.])(optimizer\.)?lr=[^,)]*", "", model).replace("(, ", "(").replace(" ()", "")


def _cells(numbers: pd.DataFrame) -> pd.DataFrame:
    counted = numbers[numbers["ended"].isin(COUNTED)]
    solved = counted.assign(solved=counted["ended"] == "solved").groupby(["network", "learning rate"], sort=True)
    cells = solved.agg(runs=("solved", "size"), solved=("solved", "sum"), score=("test score", "median")).reset_index()
    rates = solve_rate(cells["solved"].to_numpy(), cells["runs"].to_numpy())
    return cells.assign(rate=rates.value, low=rates.low, high=rates.high)


def _windows(numbers: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The median run's window of each network, how wide it may be at most, and how wide those of its seeds are."""
    rows = []
    counted = numbers[numbers["ended"].isin(COUNTED)]
    for network, of_network in cells.groupby("network", sort=False):
        rates = of_network["learning rate"].to_numpy()
        window = widest(rates, (of_network["rate"] > 0.5).to_numpy())
        seeds = []
        for _, of_seed in counted[counted["network"] == network].groupby("seed"):
            of_seed = of_seed.sort_values("learning rate")
            own = widest(of_seed["learning rate"].to_numpy(), (of_seed["ended"] == "solved").to_numpy())
            seeds.append(own["decades"])
        # one that solves at no rate is narrower than any other
        edges = {"narrowest seed": np.min(seeds), "widest seed": np.fmax.reduce(seeds)}
        rows.append({"network": network, **window, **edges, "rates": len(rates), "seeds": len(seeds)})
    return pd.DataFrame(rows)


def widest(rates: np.ndarray, solved: np.ndarray) -> dict[str, Any]:
    """The widest unbroken stretch of rates, in their order, that solve; ``most`` reaches to the next ones that do not.

    One rate alone has a width of 0 decades, none at all NaN. At an end of what was tried ``open`` says that nothing
    bounds it.

    >>> widest(np.array([0.001, 0.01, 0.1, 1.0]), np.array([False, True, True, False]))["decades"]
    1.0
    """
    best: tuple[int, int] | None = None
    start = None
    for place, good in enumerate([*solved, False]):
        if good and start is None:
            start = place
        if not good and start is not None:
            if best is None or rates[place - 1] / rates[start] > rates[best[1]] / rates[best[0]]:
                best = start, place - 1
            start = None
    if best is None:
        return {"from": np.nan, "to": np.nan, "decades": np.nan, "most": np.nan, "open": False}
    low, high = best
    below, above = rates[max(low - 1, 0)], rates[min(high + 1, len(rates) - 1)]
    return {
        "from": float(rates[low]),
        "to": float(rates[high]),
        "decades": float(np.round(np.log10(rates[high] / rates[low]), 6)),
        "most": float(np.round(np.log10(above / below), 6)),
        "open": bool(low == 0 or high == len(rates) - 1),
    }


def finding(tables: Tables) -> str:
    """Each network's window, from the widest; whether attention's is the widest, state space models' the narrowest."""
    windows = tables["windows"].sort_values("decades", ascending=False, kind="stable", na_position="last")
    said = [_in_words(window) for window in records(windows)]
    parts = [f"Learning rates at which most seeds solve the task: {'; '.join(said)}"]
    few = int(windows["rates"].min())
    if few < FEWEST_RATES:
        rates = f"{number_of(few, 'rate')} {'is' if few == 1 else 'are'}"
        parts.append(f"{rates} too few to rank ({FEWEST_RATES} at least)")
    elif len(windows) > 1:
        parts += filter(None, [_verdict(windows, ATTENTION, +1), _verdict(windows, STATE_SPACE, -1)])
    return ". ".join(part[0].upper() + part[1:] for part in parts)


def _in_words(window: dict[str, Any]) -> str:
    """A network's window with its ends."""
    if np.isnan(window["decades"]):
        return f"{window['network']} none"
    ends = f"{number(window['from'])} to {number(window['to'])}"
    least = "at least " if window["open"] else ""
    if window["decades"] == 0:
        return f"{window['network']} {number(window['from'])} alone"
    return f"{window['network']} {least}{window['decades']:.1f} decades ({ends})"


def _verdict(windows: pd.DataFrame, kind: tuple[str, ...], sign: int) -> str:
    """Whether that kind's windows are all wider (or narrower) than the others'; apart where no seed says otherwise."""
    of_kind = windows["network"].str.startswith(kind)
    if of_kind.all() or not of_kind.any():
        return ""
    widths = windows.fillna(dict.fromkeys(["decades", "narrowest seed", "widest seed"], -1))  # none is below any other
    ours, others = widths[of_kind], widths[~of_kind]
    holds = (
        ours["decades"].min() > others["decades"].max() if sign > 0 else ours["decades"].max() < others["decades"].min()
    )
    word = "widest" if sign > 0 else "narrowest"
    who = listed([str(one) for one in ours["network"]])
    have = "have" if len(ours) > 1 else "has"
    if not holds:
        return f"against expectation, {who} {have} not the {word}"
    edges = (ours["narrowest seed"].min(), others["widest seed"].max())
    if sign < 0:
        edges = (others["narrowest seed"].min(), ours["widest seed"].max())
    return f"as expected, {who} {have} the {word} ({'in every seed' if edges[0] > edges[1] else 'seeds overlap'})"


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A panel a network: test scores over the rate, every seed; the window shaded; below, all windows side by side."""
    numbers, windows = tables[NUMBERS], tables["windows"]
    networks = list(windows["network"])
    columns = min(len(networks), 3 if max(map(len, networks)) <= SHORT else 2)
    rows = -(-len(networks) // columns)
    names = ["\n".join(textwrap.wrap(network, LONG, break_on_hyphens=False)) for network in networks]
    lines = max(name.count("\n") + 1 for name in names)
    panel = 2.3 + LINE * (lines - 1)
    height = 0.5 + max(0.4, LINE * (lines + 1)) * len(networks)
    figure = Figure(figsize=(theme.WIDTH, panel * rows + height + 1.6), layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[panel] * rows + [height])
    families = theme.looks(numbers["model"])
    looks = {theme.family(model): look for model, look in families.items()}
    solved = float(tables["lines"]["score"].iloc[0])
    first: Axes | None = None
    for place, network in enumerate(networks):
        axes = figure.add_subplot(grid[place // columns, place % columns], sharex=first, sharey=first)
        first = first or axes
        window = windows[windows["network"] == network].iloc[0]
        _draw_scores(axes, numbers[numbers["network"] == network], looks[theme.family(network)], window)
        axes.axhline(solved, color=theme.QUIET, lw=0.7, dashes=(5, 3), zorder=1)
        axes.set_title(names[place], fontweight="bold")
        axes.tick_params(labelleft=place % columns == 0)
        axes.set_xlabel("learning rate")
        if place % columns == 0:
            axes.set_ylabel("test score")
    assert first is not None  # there is a network
    first.set_xscale("log")
    first.set_ylim(LOWEST, 1.08)
    beside = figure.add_subplot(grid[rows, :])
    _draw_windows(beside, windows, looks, numbers["learning rate"])
    beside.set_yticks(range(len(names)), names)
    _draw_legend(figure, solved, numbers)
    theme.headline(figure, finding(tables))
    beyond = figure.get_suptitle().count("\n") - 2  # for three lines there is room
    figure.set_figheight(figure.get_figheight() + HEADLINE * max(beyond, 0))
    return figure


def _draw_scores(axes: Axes, numbers: pd.DataFrame, look: theme.Look, window: pd.Series) -> None:
    """Every run, crosses for those that diverged, triangles below the axis; the median with its interval."""
    if np.isfinite(window["decades"]):
        edge = 10**0.06
        axes.axvspan(window["from"] / edge, window["to"] * edge, color=theme.RULE, alpha=0.6, lw=0, zorder=0)
    score, rate = numbers["test score"], numbers["learning rate"]
    diverged = numbers["ended"] == "diverged"
    other = ~numbers["ended"].isin(COUNTED)
    low = ~diverged & ~other & ~(score >= LOWEST)
    shown = ~diverged & ~other & ~low
    if shown.any():  # a line without a point would count in the layout
        axes.plot(rate[shown], score[shown], look.marker, color=look.colour, ms=3.5, alpha=0.6, mew=0)
    for chosen, mark in ((low, "v"), (diverged, "x"), (other, "+")):
        if not chosen.any():
            continue
        spread = 1.12 ** numbers[chosen].groupby("learning rate").cumcount()
        axes.plot(rate[chosen] * spread, np.full(chosen.sum(), LOWEST), mark, color=look.colour, ms=4.5, mfc="none",
                  clip_on=False)  # fmt: skip
    whole = {at: cell.to_numpy() for at, cell in score.where(~diverged, -np.inf).groupby(rate) if not cell.isna().any()}
    middle = {at: interval(cell) for at, cell in whole.items()}
    drawn = [max(float(one.median), LOWEST) for one in middle.values()]
    axes.plot(list(middle), drawn, color=look.colour, lw=1.6)
    low_end, high_end = ([max(float(getattr(one, end)), LOWEST) for one in middle.values()] for end in ("low", "high"))
    axes.fill_between(list(middle), low_end, high_end, color=look.colour, alpha=0.12, linewidth=0)


def _draw_windows(axes: Axes, windows: pd.DataFrame, looks: dict[str, theme.Look], rates: pd.Series) -> None:
    """A bar a network from the lowest to the highest rate that most seeds solve, and its width in words."""
    for y, window in enumerate(records(windows)):
        look = looks[theme.family(str(window["network"]))]
        words, left, colour = "none", float(rates.min()), theme.QUIET
        if np.isfinite(window["decades"]):
            left, colour = window["from"], look.colour
            axes.plot([left, window["to"]], [y + 0.12] * 2, "o-", color=colour, lw=4, ms=5)
            seeds = [window["narrowest seed"], window["widest seed"]]
            own = " to ".join(dict.fromkeys("none" if np.isnan(one) else f"{one:.1f}" for one in seeds))
            bounds = "at least" if window["open"] else f"at most {window['most']:.1f}, at least"
            words = f"{bounds} {window['decades']:.1f} decades (single seeds: {own})"
        right = np.log10(left / rates.min()) > 0.55 * np.log10(rates.max() / rates.min())
        place = (window["to"], "right") if right else (left, "left")
        axes.text(place[0], y - 0.22, words, ha=place[1], va="center", fontsize=theme.SMALL, color=theme.INK)
    axes.set_xscale("log")
    axes.set_xlim(rates.min() / 1.5, rates.max() * 1.5)
    axes.set_ylim(len(windows) - 0.5, -0.5)
    axes.set_xlabel("learning rates at which most seeds solve the task")
    for rate in sorted(rates.unique()):
        axes.axvline(rate, color=theme.RULE, lw=0.5, zorder=0)


def _draw_legend(figure: Figure, solved: float, numbers: pd.DataFrame) -> None:
    marks = {"o": "a seed", "v": "below the axis"}
    marks |= {"x": "diverged"} if (numbers["ended"] == "diverged").any() else {}
    marks |= {"+": "did not end"} if not numbers["ended"].isin(COUNTED).all() else {}
    handles: list[Any] = [
        Line2D(
            [], [], ls="", marker=mark, color=theme.QUIET, mfc=theme.QUIET if mark == "o" else "none", ms=4, label=words
        )
        for mark, words in marks.items()
    ]
    handles += [
        Line2D([], [], color=theme.QUIET, lw=1.6, label="median of the seeds"),
        Patch(color=theme.RULE, label="most seeds solve it"),
        Line2D([], [], color=theme.QUIET, lw=0.7, dashes=(5, 3), label=f"solved: {number(solved)}"),
    ]
    columns = len(handles) if len(handles) < 7 else 4
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, handlelength=1.6)


def caption(tables: Tables) -> str:
    """What is drawn, what a window is and how well its ends are known, and what the interval is."""
    cells, numbers = tables["cells"], tables[NUMBERS]
    sizes = sorted({int(size) for size in cells["runs"]})
    each = seeds_each(sizes)
    words = listed(sorted({interval_in_words(size) for size in sizes if size > 1})) or "absent with one seed"
    beside = int((~numbers["ended"].isin(COUNTED)).sum())
    kept = f" {beside} that did not end are not counted." if beside else ""
    return (
        f"Test score of the checkpoint that validation chose over the learning rate, {each} for each network and rate, "
        f"every one drawn; the line is their median, the band {words}. Diverged runs count as unsolved and as lowest. "
        "A window is the widest unbroken stretch of rates that were tried at which more than half of the seeds solved "
        "the task; its width is that from the first to the last of them, at most that between the next rates that were "
        "tried and failed, and open where it ends with the rates. Beside it the widths of single seeds' windows, the "
        f"narrowest and the widest.{kept}"
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
