"""How far back the gradient reaches after training, over how far back the task asks for.

Question:  do those runs solve their task whose gradient reaches as far back as the task asks for?
Expect:    a run whose horizon is shorter than the task's lag seldom solves it; one that reaches so far often does, for
           to feel the input that matters is needed and not enough.
Data:      readings lag_gradient/horizon of the last snapshot, of the lowest layer; the lags on the tasks' cards; how
           the runs ended.

    python analysis/horizon.py outputs/reach
"""

import sys
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from retrograde.figures import question, theme
from retrograde.figures.comparison import (
    AFTER,
    COUNTED,
    NUMBERS,
    STUDY,
    Comparison,
    NothingToDraw,
    Tables,
    ends,
    listed,
    outcomes,
)
from retrograde.figures.provenance import lag_quantiles, number
from retrograde.figures.statistics import Estimate, in_percent, solve_rate
from retrograde.record.metadata import number_of
from retrograde.record.tables import LOWEST

OF = STUDY

LAG, HORIZON = "task's lags, 90 %", "horizon after (lags)"

REACHES, FALLS_SHORT = "reaches the lag", "falls short of it"

MOST_PANELS = 9
"""Architectures that have a panel each; where there are more, all runs are in one."""

MOST_LAGS = 8
"""That are named along the axis one by one."""

WIDE = 4
"""The longest over the shortest lag from which on both axes are logarithmic."""

SOLVED, UNSOLVED, UNFINISHED = "solved", "not solved", "not finished"
ENDS = {
    SOLVED: ("solved",),
    UNSOLVED: ("unsolved", "diverged"),
    UNFINISHED: ("failed", "interrupted", "running"),
}
"""How runs end, and the words for it."""

BAND = 0.6
"""Over how much of the way to the neighbouring lags runs are laid side by side."""


def load(comparison: Comparison) -> Tables:
    """``numbers`` one row a run; the horizon is NaN where it is none, or no snapshot after training began has it."""
    asked = {run: lag_quantiles(card).get("90 %") for run, card in comparison.cards.items()}
    if all(lag is None for lag in asked.values()):
        raise NothingToDraw("the tasks' cards name no lag to bridge")
    table = comparison.readings("lag_gradient/horizon")
    table = table[table["layer"].str.startswith(LOWEST)]
    if table.empty:
        raise NothingToDraw("from a target to its source there is no lag; source_gradient has what reaches it")
    last = ends(table)
    last = last[last["when"] == AFTER].groupby("run").agg(horizon=("value", _furthest), step=("step", "max"))
    runs = comparison.runs.reindex(columns=list(dict.fromkeys([*comparison.runs.columns, "diverged_step", "solved"])))
    runs = runs[runs["run"].map(asked).notna()]
    if not runs["run"].isin(last.index).any():
        raise NothingToDraw("no run on a task with a lag has lag_gradient/horizon of a snapshot after training began")
    numbers = pd.DataFrame(
        {
            "task": runs["task"].astype(str),
            "model": runs["model"],
            "architecture": [theme.family(str(model)) for model in runs["model"]],
            "seed": runs["seed"],
            LAG: runs["run"].map(asked).astype(float),
            HORIZON: runs["run"].map(last["horizon"]).astype(float),
            "step": runs["run"].map(last["step"]),
            "outcome": outcomes(runs),
            "run": runs["run"],
        }
    )
    return {NUMBERS: numbers.sort_values(["model", LAG, "seed", "run"], ignore_index=True)}


def _furthest(values: pd.Series) -> float:
    """Of a state's components the one that reaches furthest; NaN where none has a horizon."""
    return float(values.max())


def reach(numbers: pd.DataFrame) -> pd.DataFrame:
    """Runs that came to their end and have a horizon, by whether it reaches the lag: how many, and how many solved."""
    counted = numbers[numbers["outcome"].isin(COUNTED) & numbers[HORIZON].notna()]
    of_kind = np.where(counted[HORIZON] >= counted[LAG], REACHES, FALLS_SHORT)
    table = counted.assign(solved=counted["outcome"] == "solved").groupby(of_kind)["solved"].agg(["sum", "size"])
    return table.reindex([REACHES, FALLS_SHORT], fill_value=0).rename(columns={"sum": "solved", "size": "runs"})


def finding(tables: Tables) -> str:
    """How many runs solve their task whose horizon reaches the lag, against the others, and what that tells."""
    counts = reach(tables[NUMBERS])
    solved, runs = ({kind: int(counts[column][kind]) for kind in counts.index} for column in ("solved", "runs"))
    rates = {kind: solve_rate(solved[kind], runs[kind]) for kind in counts.index}
    reaching, short = "no run's gradient reaches the task's lag after training", "none falls short of it"
    if runs[REACHES]:
        of = f"{solved[REACHES]} of {number_of(runs[REACHES], 'run')} ({in_percent(rates[REACHES])})"
        reaching = f"{of} solve the task if their gradient reaches its lag after training"
    if runs[FALLS_SHORT]:
        of = f"{solved[FALLS_SHORT]} of {number_of(runs[FALLS_SHORT], 'run')} ({in_percent(rates[FALLS_SHORT])})"
        short = f"against {of} if it falls short" if runs[REACHES] else f"{of} solve the task"
    sentence = f"{reaching}, {short}"
    return f"{sentence[0].upper()}{sentence[1:]}. {_verdict(counts, rates[REACHES], rates[FALLS_SHORT])}"


def _verdict(counts: pd.DataFrame, reaching: Estimate, short: Estimate) -> str:
    """Whether the two differ; open where one has no run, or their intervals overlap."""
    if not counts["runs"].all():
        return "There is nothing to compare it with"
    if reaching.low > short.high:
        return "As expected those that reach it solve more often"
    if reaching.high < short.low:
        return "Against expectation those that reach it solve less often"
    return "Whether those that reach it solve more often is not told: the intervals overlap"


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A panel an architecture: horizon over lag, a mark for each run, and where the two are equal."""
    numbers = tables[NUMBERS]
    families = list(dict.fromkeys(theme.family(model) for model in theme.present(numbers["model"])))
    colours = {theme.family(name): look.colour for name, look in theme.looks(numbers["model"]).items()}
    together = len(families) > MOST_PANELS
    titles = [f"all {len(families)} architectures"] if together else families
    colours |= {title: theme.FAMILIES[0] for title in titles if together}
    figure, panels = theme.panels(len(titles), 3.6 if len(titles) == 1 else 2.3)
    lags = np.sort(numbers[LAG].unique())
    logarithmic = bool(lags[0] >= 1 and lags[-1] >= WIDE * lags[0])
    for title, axes in zip(titles, panels, strict=True):
        _scale(axes, numbers, lags, logarithmic)
        of_panel = numbers if together else numbers[numbers["architecture"] == title]
        axes.set_title(title, fontweight="bold", color=colours[title])
        _draw_lags(axes, lags, set(of_panel[LAG]), logarithmic)
        missing = int(of_panel[HORIZON].isna().sum())
        of_panel = of_panel.dropna(subset=HORIZON)
        place = beside(of_panel[LAG], lags, logarithmic)
        for end, style in marks(colours[title]).items():
            ended = of_panel["outcome"].isin(ENDS[end])
            if ended.any():  # the layout would make room for a line of no points at the figure's corner
                axes.plot(place[ended], of_panel.loc[ended, HORIZON], lw=0, clip_on=False, zorder=4, **style)
        theme.note(axes, f"without a horizon: {number_of(missing, 'run')}" if missing else "", (0.03, 0.9))
    theme.label(panels, "lag that the task asks for", "horizon (lags)")
    _draw_legend(figure, numbers)
    theme.headline(figure, finding(tables))
    return figure


def marks(colour: str) -> dict[str, dict[str, Any]]:
    """How runs are drawn by their end: apart in shape and filling too."""
    return {
        SOLVED: {"marker": "o", "color": colour, "ms": 5, "mec": theme.PAPER, "mew": 0.4},
        UNSOLVED: {"marker": "x", "color": theme.INK, "ms": 4.5, "mew": 1.1},
        UNFINISHED: {"marker": "^", "color": theme.QUIET, "mfc": "none", "ms": 4.5, "mew": 0.8},
    }


def _along(lags: Any, logarithmic: bool) -> np.ndarray:
    """Where lags lie on an axis, up to a factor."""
    lags = np.asarray(lags, dtype=float)
    return np.log2(lags) if logarithmic else lags


def _gap(lags: np.ndarray, logarithmic: bool) -> float:
    """The least way between two lags along the axis; of a single one its own size."""
    along = _along(lags, logarithmic)
    return float(np.diff(along).min()) if len(lags) > 1 else max(float(lags[0]), 1.0)


def _at(along: Any, logarithmic: bool) -> np.ndarray:
    return 2.0 ** np.asarray(along) if logarithmic else np.asarray(along, dtype=float)


def beside(lag: pd.Series, lags: np.ndarray, logarithmic: bool) -> pd.Series:
    """Where runs are drawn: those with the same lag side by side about it, in their order.

    >>> beside(pd.Series([10.0, 10.0, 20.0]), np.array([10.0, 20.0]), False).tolist()
    [8.5, 11.5, 20.0]
    """
    number_in, size = lag.groupby(lag).cumcount(), lag.groupby(lag).transform("size")
    aside = BAND * _gap(lags, logarithmic) * ((number_in + 0.5) / size - 0.5)
    return pd.Series(_at(_along(lag, logarithmic) + aside, logarithmic), lag.index)


def _draw_lags(axes: Axes, lags: np.ndarray, asked: set[float], logarithmic: bool) -> None:
    """Where horizon and lag are equal: a line for all, and a level across the runs of each lag that is asked for."""
    along, half = _along(lags, logarithmic), _gap(lags, logarithmic) / 2
    whole = _at(np.linspace(along[0] - half, along[-1] + half, 50), logarithmic)
    axes.plot(whole, whole, color=theme.QUIET, lw=0.8, dashes=(4, 3), zorder=1)
    for lag, place in zip(lags, along, strict=True):
        if lag in asked:
            across = _at([place - BAND * half, place + BAND * half], logarithmic)
            axes.plot(across, [lag, lag], color=theme.QUIET, lw=1.2, zorder=2)


def _scale(axes: Axes, numbers: pd.DataFrame, lags: np.ndarray, logarithmic: bool) -> None:
    """The same for both axes; where it is logarithmic it is even between 0 and 1."""
    along, half = _along(lags, logarithmic), _gap(lags, logarithmic) / 2
    highest = 1.08 * float(np.nanmax([*numbers[HORIZON], *lags]))
    if logarithmic:
        axes.set_xscale("log", base=2)
        axes.set_yscale("symlog", base=2, linthresh=1)
        axes.yaxis.set_major_formatter(lambda value, _: number(value))
        axes.yaxis.set_minor_locator(NullLocator())
    low, high = _at([along[0] - half, along[-1] + half], logarithmic)
    axes.set_xlim(low, high)
    axes.set_ylim(0, max(highest, high))
    axes.xaxis.set_major_locator(FixedLocator(lags.tolist()) if len(lags) <= MOST_LAGS else MaxNLocator(5))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: number(value))


def _draw_legend(figure: Figure, numbers: pd.DataFrame) -> None:
    handles = [
        Line2D([], [], lw=0, label=end, **style)
        for end, style in marks(theme.QUIET).items()
        if numbers.loc[numbers[HORIZON].notna(), "outcome"].isin(ENDS[end]).any()
    ]
    handles.append(Line2D([], [], color=theme.QUIET, lw=0.8, dashes=(4, 3), label="horizon = lag"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def caption(tables: Tables) -> str:
    """What a mark is, what is counted, and what the interval is."""
    numbers = tables[NUMBERS]
    steps = f"step {number(numbers['step'].min())} to {number(numbers['step'].max())}"
    unfinished = int(numbers["outcome"].isin(ENDS[UNFINISHED]).sum())
    without = int((numbers[HORIZON].isna() & numbers["outcome"].isin(COUNTED)).sum())
    left = [
        f"{number_of(count, 'run')} {why}"
        for count, why in ((unfinished, "that did not finish"), (without, "without a horizon"))
        if count
    ]
    return (
        "Every mark is a run: the largest lag at which the gradient of its last snapshot keeps 1 % of its size at lag "
        "0, in the lowest layer and the component that reaches furthest, over the lag within which 90 % of what its "
        f"task asks to bridge lies ({steps}). A horizon ends with the sequence. Runs with the same lag lie side by "
        "side about it, in the order of models and seeds: their distance from it says nothing, and the short level is "
        f"where their horizon equals the lag. {number_of(len(numbers), 'run')}"
        f"{f', of which {listed(left)} are not counted' if left else ''}. Intervals are Wilson's at 95 %; runs of "
        "several models and lags are counted together, though seeds alone are alike."
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
