"""Where in the sequence, and when in training, there is a gradient: a map of every run.

Question:  at which times of the sequence is there a gradient, at which steps of training?
Expect:    where gradients vanish, the early times stay pale at every step; in gated cells, once they are trained, and
           in attention from the start, the first time is about as dark as the last.
Data:      readings state_gradient/total of all snapshots: the mean over samples, of the lowest layer, or of the lowest
           of the encoder where there is one.

    python analysis/gradient_map.py outputs/demo

As an animation: analysis/gradient_film.py.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.markers import TICKLEFT
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator

from retrograde.figures import question, theme
from retrograde.figures.comparison import (
    COUNTED,
    NUMBERS,
    Comparison,
    NothingToDraw,
    NotRecorded,
    Tables,
    listed,
    outcome,
    records,
    uncounted,
)
from retrograde.figures.maps import spread
from retrograde.figures.provenance import number, seeds_each
from retrograde.figures.statistics import in_percent, solve_rate
from retrograde.record.metadata import number_of
from retrograde.record.tables import LOWEST

LAYERS = (LOWEST, "encoder0.")
"""How the names of the layers begin that are drawn; no model has both."""

MOST_MAPS, MOST_ROWS, MOST_COLUMNS = 20, 8, 6
"""Maps in a figure, models and seeds of which there are any."""

FEW_ROWS, FEW_COLUMNS = 5, 3
"""Models and seeds, where all would be more maps than that: each takes time to read and to draw."""

MOST_TIMES, MOST_STEPS = 160, 60
"""Of a map; of more, so many are drawn, evenly spread, the first and the last among them."""

DECADES = 12
"""That the colours reach over at most; where gradients span more, those that hold the most of them."""

NEAR = 2.0
"""Decades: the factor of 100 within which a gradient at the first time counts as one that arrives."""

FIRST, LAST = "first over last time at the first snapshot (log10)", "first over last time at the last snapshot (log10)"
ARRIVES = "within a factor 100 from step"

ODD: dict[str, tuple[str, str, str]] = {
    "zero": ("#e3ecf7", "--", "zero: no path to the loss"),
    "censored": ("#9fc1e6", "////", "censored: lost to the format"),
    "inf": ("#56b4e9", "xxxx", "infinite"),
    "nan": ("#0072b2", "....", "no number"),
}
"""What a value may be that has no place on the scale, the least first: colour, marks and words. Blue is not on it."""

ORDER = ("zero", "censored", "finite", "inf", "nan")
"""Which of a state's components counts: the largest, and one that is no number before all that are."""


def load(comparison: Comparison) -> Tables:
    """``maps`` run, step, time, value (log10), status; ``left_out`` model, seed; ``numbers`` one row a run drawn."""
    runs = chosen(comparison.runs)
    left_out = comparison.runs.loc[~comparison.runs["run"].isin(runs["run"]), ["model", "seed"]]
    try:
        table = replace(comparison, runs=runs).readings("state_gradient/total", statistic="mean")
    except NotRecorded as nothing:
        among = f", of the {len(runs)} that would be drawn" if len(left_out) else ""
        raise NotRecorded(f"{nothing}{among}") from None
    table = table[table["layer"].str.startswith(LAYERS)]
    if table.empty or table.groupby("run")["step"].nunique().max() < 2:
        raise NothingToDraw("no run holds state_gradient/total of its lowest layer at two snapshots or more")
    if table["time"].nunique() < 2:
        raise NothingToDraw("there is one time only: a map takes two")
    maps = _largest(table).astype({"model": comparison.runs["model"].dtype})
    return {"maps": thinned(maps), "left_out": left_out.reset_index(drop=True), NUMBERS: _numbers(maps, runs)}


def chosen(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that are drawn: all where they are few, else the first seeds of models spread evenly over their list.

    By place, not by result: nothing that came out decides what is shown.
    """
    models = theme.present(runs["model"])
    seeds = min(int(runs.groupby("model", observed=True).size().max()), MOST_COLUMNS)
    if len(models) * seeds > MOST_MAPS:
        seeds = min(seeds, FEW_COLUMNS)
        models = spread(models, FEW_ROWS if seeds == FEW_COLUMNS else MOST_ROWS)
    models = spread(models, MOST_ROWS)
    return runs[runs["model"].isin(models)].groupby("model", observed=True).head(seeds)


def thinned(maps: pd.DataFrame) -> pd.DataFrame:
    """As many times, and of each run as many of its snapshots, as can be told apart."""
    maps = maps[maps["time"].isin(spread(sorted(maps["time"].unique()), MOST_TIMES))]
    of_runs = maps.groupby("run")["step"].unique()
    kept = [(run, step) for run, steps in of_runs.items() for step in spread(sorted(steps), MOST_STEPS)]
    return maps.merge(pd.DataFrame(kept, columns=["run", "step"]), on=["run", "step"])


def _largest(table: pd.DataFrame) -> pd.DataFrame:
    """One row a run, step and time: of its components and directions, the one with the largest gradient."""
    rank = table["status"].map({status: place for place, status in enumerate(ORDER)}).to_numpy()
    run = table["run"].factorize()[0]
    order = np.lexsort((table["value"], rank, table["time"], table["step"], run))
    columns = ["model", "seed", "run", "step", "time", "value", "status"]
    ordered = table.iloc[order][columns]
    where = np.stack([run, table["step"], table["time"]])[:, order]
    is_last = np.append((where[:, 1:] != where[:, :-1]).any(0), True)
    return ordered[is_last].reset_index(drop=True)


def _numbers(maps: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Of each run that is drawn, also of one without readings: how the first time compares with the last."""
    of_runs = dict(list(maps.groupby("run", sort=False)))
    rows = []
    for run in records(runs.reindex(columns=["model", "seed", "run", "status", "diverged_step", "solved", "score"])):
        row = {"model": run["model"], "seed": run["seed"], "outcome": outcome(run), "test score": run["score"]}
        of_run = of_runs.get(run["run"])
        ratio = pd.Series(dtype=float) if of_run is None else arriving(of_run)
        row |= {"snapshots": len(ratio), "last snapshot": ratio.index.max() if len(ratio) else np.nan}
        row |= {"times": 0 if of_run is None else of_run["time"].nunique()}
        row |= {FIRST: ratio.iloc[0], LAST: ratio.iloc[-1]} if len(ratio) else {FIRST: np.nan, LAST: np.nan}
        rows.append({**row, ARRIVES: arrives(ratio), "run": run["run"]})
    return pd.DataFrame(rows).astype({"model": maps["model"].dtype, "test score": float})


def arriving(of_run: pd.DataFrame) -> pd.Series:
    """By step, in decades: the gradient at the first input's state over that at the last with any; NaN where none is.

    What is lost or nothing at the first time is minus infinity; what is not finite at either is no number.
    """
    of_run = of_run[of_run["time"] >= 0]
    felt = of_run.loc[of_run["status"] == "finite", "time"]
    if felt.empty:
        return pd.Series(np.nan, of_run["step"].unique())
    first = of_run[of_run["time"] == of_run["time"].min()].set_index("step")
    last = of_run[of_run["time"] == felt.max()].set_index("step")
    start = first["value"].mask(first["status"].isin(["zero", "censored"]), -np.inf).where(first["status"] != "inf")
    return start - last["value"].where(last["status"] == "finite")


def arrives(ratio: pd.Series) -> float:
    """The first step from which on, up to the last snapshot, the ratio is within ``NEAR``; NaN where it never is.

    >>> arrives(pd.Series([-1.0, -5.0, -1.9, 0.3], [0, 1, 10, 100]))
    10.0
    """
    far = np.flatnonzero(~(ratio.abs() <= NEAR))
    after = 0 if len(far) == 0 else far[-1] + 1
    return float(ratio.index[after]) if after < len(ratio) else np.nan


def finding(tables: Tables) -> str:
    """From which step on the gradient at the first time is about that at the last: of which models, how many seeds."""
    drawn = tables[NUMBERS][tables[NUMBERS]["snapshots"] > 0]
    numbers, beside = drawn[drawn["outcome"].isin(COUNTED)], uncounted(drawn["outcome"])
    if numbers.empty:
        return f"No run that is drawn has finished. {beside}"
    said: dict[tuple[str, int, int], list[str]] = {}
    for model, of_model in numbers.groupby("model", observed=True):
        steps, seeds = of_model[ARRIVES].dropna(), len(of_model)
        if steps.empty:
            kind, words = "never in", str(model)
        elif steps.max() == 0:
            kind, words = "from step 0 on in", str(model)
        else:
            low, high = number(steps.min()), number(steps.max())
            kind, words = "later in", f"{model} (from step {low if low == high else f'{low} to {high}'} on)"
        said.setdefault((kind, len(steps), seeds), []).append(words)
    kinds = ["from step 0 on in", "later in", "never in"]
    parts = []
    for (kind, count, seeds), models in sorted(
        said.items(), key=lambda entry: (kinds.index(entry[0][0]), -entry[0][1])
    ):
        each = "each with " if len(models) > 1 else "with "
        rate = in_percent(solve_rate(count, seeds))
        parts.append(f"{kind} {listed(models)}, {each}{count} of {number_of(seeds, 'seed')} ({rate})")
    of_all = not set(tables["left_out"]["model"]) <= set(drawn["model"])
    scope = f"of the {number_of(drawn['model'].nunique(), 'model')} drawn, " if of_all else ""
    start = f"{scope}the gradient at the first time stays within a factor 100 of that at the last"
    return ". ".join(filter(None, [f"{start[0].upper()}{start[1:]}: {'; '.join(parts)}", beside]))


def scale(values: np.ndarray) -> tuple[float, float]:
    """The ends of the colours in decades: all finite values, or the ``DECADES`` that hold the most of them.

    >>> scale(np.array([-3.5, -1.2, 0.4]))
    (-4.0, 1.0)
    """
    ordered = np.sort(values)
    low, high = np.floor(ordered[0]), np.ceil(ordered[-1])
    if high - low > DECADES:
        held = np.searchsorted(ordered, np.floor(ordered) + DECADES, "right") - np.searchsorted(
            ordered, np.floor(ordered)
        )
        low = np.floor(ordered[held.argmax()])
        high = min(low + DECADES, high)
    return float(low), float(max(high, low + 1))


def is_logarithmic(steps: pd.Series) -> bool:
    """Whether snapshots lie closer together at the beginning, as they do by default."""
    each = np.unique(steps)
    return bool(np.median(each) < each[-1] / 4)


def placed(steps: Any, logarithmic: bool) -> np.ndarray:
    """Where steps lie on the axis."""
    steps = np.asarray(steps, dtype=float)
    return np.log10(1 + steps) if logarithmic else steps


def edges(places: Sequence[float] | np.ndarray) -> np.ndarray:
    """Where cells begin and end: halfway to the neighbours, and as far again at both ends.

    >>> edges([0, 1, 3]).tolist()
    [-0.5, 0.5, 2.0, 4.0]
    """
    places = np.asarray(places, dtype=float)
    if len(places) == 1:
        return np.array([places[0] - 0.5, places[0] + 0.5])
    between = (places[1:] + places[:-1]) / 2
    return np.concatenate([[2 * places[0] - between[0]], between, [2 * places[-1] - between[-1]]])


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A row a model, a map a seed: time to the right, training upward, one scale of colours."""
    maps, numbers = tables["maps"], tables[NUMBERS]
    models = theme.present(numbers.loc[numbers["snapshots"] > 0, "model"])
    columns = int(numbers.groupby("model", observed=True).size().max())
    finite = maps.loc[maps["status"] == "finite", "value"].to_numpy()
    low, high = scale(finite) if len(finite) else (-1.0, 0.0)
    norm, colours = Normalize(low, high, clip=True), mpl.colormaps[theme.SEQUENTIAL]
    # finer than a screen, since the cells are dots in every format
    figure = Figure(figsize=(theme.WIDTH, 1.5 + 1.15 * len(models)), dpi=200, layout="constrained")
    grid = figure.subplots(len(models), columns, squeeze=False)
    logarithmic = is_logarithmic(maps["step"])
    of_runs = dict(list(maps.groupby("run", sort=False)))
    looks = theme.looks(numbers["model"])
    right = edges(np.unique(maps["time"]))
    top = edges(placed(np.unique(maps["step"]), logarithmic))
    for model, row in zip(models, grid.tolist(), strict=True):
        runs = records(numbers[numbers["model"] == model])
        for place, axes in enumerate(row):
            axes.set_xlim(right[0], right[-1])
            axes.set_ylim(top[0], top[-1])
            if place >= len(runs):
                axes.set_axis_off()
                continue
            # the first title leaves an empty line over it, for the model's name
            said = f"{chr(10) * (place == 0)}seed {runs[place]['seed']}, {runs[place]['outcome']}"
            axes.set_title(said, fontsize=7, color=theme.QUIET)
            if runs[place]["run"] in of_runs:
                _draw_map(axes, of_runs[runs[place]["run"]], norm, logarithmic)
            else:
                axes.text(0.5, 0.5, "nothing recorded", transform=axes.transAxes, ha="center", color=theme.QUIET)
            _label(axes, maps, logarithmic)
        named = row[0].annotate(
            model, (0, 1), (0, 15), xycoords="axes fraction", textcoords="offset points",
            fontsize=8.5, fontweight="bold", color=looks[model].colour,
        )  # fmt: skip
        named.set_in_layout(False)
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    beyond = extend[bool((finite < low).any()), bool((finite > high).any())]
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=grid, location="right", aspect=40, pad=0.015, extend=beyond)
    bar.set_label("‖dL/dz‖ (loss per state)")
    bar.set_ticks([power for power in MaxNLocator(8, integer=True).tick_values(low, high) if low <= power <= high])
    bar.ax.yaxis.set_major_formatter(lambda value, _: theme.power(value))
    bar.outline.set_visible(False)
    _draw_legend(figure, maps["status"])
    theme.headline(figure, finding(tables))
    return figure


def _draw_map(axes: Axes, of_run: pd.DataFrame, norm: Normalize, logarithmic: bool) -> None:
    """A cell for each time and snapshot, as far as the run has any."""
    values = of_run.pivot(index="step", columns="time", values="value")
    x, y = edges(values.columns.to_numpy()), edges(placed(values.index, logarithmic))
    kinds = np.full(values.shape, "finite")
    if (of_run["status"] != "finite").any():
        kinds = of_run.pivot(index="step", columns="time", values="status").to_numpy()
    shown = np.ma.masked_invalid(np.where(kinds == "finite", values, np.nan))
    axes.pcolormesh(x, y, shown, cmap=theme.SEQUENTIAL, norm=norm, rasterized=True, antialiased=False)
    for status, (colour, marks, _) in ODD.items():
        cells = [
            [(x[left], y[row]), (x[end], y[row]), (x[end], y[row + 1]), (x[left], y[row + 1])]
            for row in range(len(kinds))
            for left, end in _stretches(kinds[row] == status)
        ]
        if cells:
            axes.add_collection(
                PolyCollection(cells, facecolor=colour, hatch=marks, edgecolor=theme.INK, linewidth=0), autolim=False
            )


def _stretches(holds: np.ndarray) -> list[tuple[int, int]]:
    """Where it holds without a gap: first place and the one after the last.

    >>> _stretches(np.array([True, True, False, True]))
    [(0, 2), (3, 4)]
    """
    changes = np.flatnonzero(np.diff(holds.astype(int), prepend=0, append=0)).tolist()
    return list(zip(changes[::2], changes[1::2], strict=True))


def _label(axes: Axes, maps: pd.DataFrame, logarithmic: bool) -> None:
    """Numbers along the outer maps; a small tick for every snapshot."""
    place = axes.get_subplotspec()
    assert place is not None  # maps are subplots
    axes.xaxis.set_major_locator(NullLocator())
    axes.yaxis.set_major_locator(NullLocator())
    if place.is_last_row():
        first, last = int(maps["time"].min()), int(maps["time"].max())
        axes.set_xticks([time for time in MaxNLocator(4, integer=True).tick_values(0, last) if first <= time <= last])
        axes.set_xlabel("time (position)")
    if place.is_first_col():
        steps = np.unique(maps["step"])
        if logarithmic:
            ticks = [0, *(10**power for power in range(1, 12) if 10**power <= steps[-1])]
        else:
            ticks = [step for step in MaxNLocator(4, integer=True).tick_values(0, steps[-1]) if step <= steps[-1]]
        axes.set_yticks(placed(ticks, logarithmic), [number(step) for step in ticks])
        # one line of marks, since each tick is a few artists
        at = axes.get_yaxis_transform()
        axes.plot(
            np.zeros(len(steps)), placed(steps, logarithmic), lw=0, marker=TICKLEFT, ms=1.8, mew=0.4,
            color=theme.QUIET, transform=at, clip_on=False,
        )  # fmt: skip
        axes.set_ylabel("training step")


def _draw_legend(figure: Figure, statuses: pd.Series) -> None:
    """What has no place on the scale of colours, where there is any."""
    found = set(statuses)
    handles = [
        Patch(facecolor=colour, hatch=marks, edgecolor=theme.INK, linewidth=0.4, label=words)
        for status, (colour, marks, words) in ODD.items()
        if status in found
    ]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, handleheight=1.2)


def caption(tables: Tables) -> str:
    """What a cell is, what is not on the scale, what is left out, and how the finding was counted."""
    maps, numbers, left_out = tables["maps"], tables[NUMBERS], tables["left_out"]
    sizes = sorted({int(size) for size in numbers.groupby("model", observed=True).size()})
    finite = maps.loc[maps["status"] == "finite", "value"].to_numpy()
    parts = [
        "Norm of the loss's total gradient at the state after each input (time −1: at the initial state), mean of the "
        "probe batch's samples, on one logarithmic scale of colours for all maps. Nothing is divided by anything: as "
        "the loss falls, so does its gradient. It is the lowest layer's; for a model without recurrence that is its "
        "embedded input, for an encoder-decoder its encoder. Of several components, such as an LSTM's hidden and "
        "cell, or directions, the largest counts, cell by cell.",
        f"Each row of cells is a snapshot at its true step ({_spacing(maps)}; small ticks) and reaches halfway to the "
        f"next; nothing is smoothed.{_thinned(maps, numbers)} Blank is what was not recorded, such as after a run's "
        "end.",
        *_beyond(finite),
        f"{seeds_each(sizes)} per model, each a map.",
    ]
    if len(left_out):
        drawn = numbers["model"].nunique()
        models = sorted(set(left_out["model"].astype(str)) - set(numbers["model"].astype(str)))
        which = f"{drawn} models, evenly spread over the list of {drawn + len(models)}, and of each " if models else ""
        parts.append(
            f"{number_of(len(left_out), 'run')} left out: drawn are {which}the first seeds, whatever came out of them."
        )
        if models:
            parts.append(f"The other models: {listed(models)}.")
    parts.append(
        "The first time is that of the first input, the last one the last at which there is any gradient. Percentages "
        "are Wilson's interval at 95 % for the share of seeds, steps the range over seeds."
    )
    return " ".join(parts)


def _thinned(maps: pd.DataFrame, numbers: pd.DataFrame) -> str:
    """How many times and snapshots are drawn, where these are not all, as a sentence."""
    times, steps = (int(maps.groupby("run")[dim].nunique().max()) for dim in ("time", "step"))
    counts = ((times, "times", numbers["times"].max()), (steps, "snapshots of a run", numbers["snapshots"].max()))
    said = [f"{drawn} of {number(of)} {what}" for drawn, what, of in counts if drawn < of]
    return f" Drawn are {listed(said)}, evenly spread; the finding is of all." if said else ""


def _spacing(maps: pd.DataFrame) -> str:
    steps = np.unique(maps["step"])
    if is_logarithmic(maps["step"]):
        return f"{len(steps)} from {number(steps[0])} to {number(steps[-1])}, on the scale of log(1 + step)"
    return f"{len(steps)} from {number(steps[0])} to {number(steps[-1])}, on an even scale"


def _beyond(finite: np.ndarray) -> list[str]:
    """How many values have the colours' ends, in one sentence; none where all are between them."""
    if not len(finite):
        return []
    low, high = scale(finite)
    counts = [(int((finite < low).sum()), f"below 1e{low:g}"), (int((finite > high).sum()), f"above 1e{high:g}")]
    said = [f"{number(count)} of {number(len(finite))} values lie {where}" for count, where in counts if count]
    return [f"{listed(said)} and have the colour of that end."] if said else []


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
