"""On which lengths what was learnt holds, over the lengths that it was learnt on.

Question:  up to which test length does what was learnt hold, over the length of training, by task and architecture?
Expect:    a model that carries a state of fixed size and solves a regular task has found its automaton, which knows no
           length; attention falls soon behind the lengths that it has seen (Delétang et al. 2022, arXiv:2207.02098:
           parity up to 40, tested to 500, recurrent networks and LSTM 100 %, attention 52 %, chance 50 %).
Data:      readings test/score_by_length and longer/score_by_length; the runs' state_size, which those have that carry a
           state of fixed size; the cards' thresholds and trivial rules.

    python analysis/lengths.py outputs/lengths
"""

import sys
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from retrograde.figures import question, theme
from retrograde.figures.comparison import NUMBERS, STUDY, Comparison, NothingToDraw, Tables, listed, outcomes
from retrograde.figures.provenance import number, seeds_each, trivial_rule
from retrograde.figures.statistics import in_percent, solve_rate

OF = STUDY

SPLITS = "test", "longer"

MOST_COLUMNS = 6
"""Test lengths that have a column each; where there are more, they are put together by doubling."""

FIXED, GROWING = "state of fixed size", "all that was read"
"""What a model carries from one position to the next."""

SOLVED = "solved"
"""How a run ends that has learnt its task; what becomes of the others on longer sequences says nothing."""

ROW = 0.6
"""Inches of a trained length's row."""

STRIPS = 0.68
"""The share of it in which each seed has a strip; below them stands the number."""


def load(comparison: Comparison) -> Tables:
    """``curves`` run, split, length, value, count; ``cells`` one row a run and column; ``numbers`` one row a run."""
    if comparison.runs.reindex(columns=["longer.score"]).isna().all(axis=None):
        raise NothingToDraw("no run was tested on longer sequences: task.test_longest=500 or task.test_length=100 does")
    curves = _curves(comparison)
    longer = set(curves.loc[curves["split"] == SPLITS[1], "run"])
    curves = curves[curves["run"].isin(longer)]
    learnt = curves[curves["split"] == SPLITS[0]].groupby("run")["length"].max()
    curves = curves.assign(trained=curves["run"].map(learnt)).dropna(subset=["trained"])
    if curves.empty:
        raise NothingToDraw("no run holds test/score_by_length and longer/score_by_length")
    curves = curves.astype({"trained": int})
    if curves.groupby("task")["trained"].nunique().max() < 2:
        raise NothingToDraw("each task was trained on one range of lengths: task.longest=20,40 varies it")
    rules = {run: trivial_rule(card) for run, card in comparison.cards.items()}
    trivial = {run: 0.0 if rule is None else float(rule["score"]) for run, rule in rules.items()}
    solved = {run: float(card["solved"]) for run, card in comparison.cards.items()}
    curves = curves.assign(solved_from=curves["run"].map(solved), trivial=curves["run"].map(trivial))
    curves = curves.sort_values(["task", "model", "trained", "seed", "run", "length"], ignore_index=True)
    cells = pd.concat([_cells(of_task) for _, of_task in curves.groupby("task", sort=False)], ignore_index=True)
    numbers = _numbers(cells, comparison)
    return {"curves": curves, "cells": cells, NUMBERS: numbers}


def _curves(comparison: Comparison) -> pd.DataFrame:
    """Scores by length of both tests, each with the number of sequences."""
    columns = ["model", "seed", "run", "length"]
    parts = []
    for split in SPLITS:
        table = comparison.readings(f"{split}/score_by_length")
        wide = table.pivot(index=columns, columns="statistic", values="value").reset_index().rename_axis(columns=None)
        parts.append(wide.rename(columns={"mean": "value"}).assign(split=split))
    curves = pd.concat(parts, ignore_index=True)
    curves = curves.astype({"model": comparison.runs["model"].dtype, "length": int})
    tasks = comparison.runs.set_index("run")["task"].astype(str)
    curves["task"] = curves["run"].map(tasks)
    curves["architecture"] = [theme.family(str(model)) for model in curves["model"]]
    return curves[["task", "model", "architecture", "seed", "run", "split", "length", "value", "count"]]


def columns_of(lengths: Sequence[int], trained: Sequence[int]) -> list[int]:
    """The longest length of each column: every length for itself, or else those trained on and their doublings.

    >>> columns_of([10, 20, 80], [10, 20])
    [10, 20, 80]
    >>> columns_of(range(1, 65), [8, 16])
    [8, 16, 32, 64]
    >>> columns_of(range(1, 101), [8, 16])
    [8, 16, 32, 64, 100]
    """
    if len(set(lengths)) <= MOST_COLUMNS:
        return sorted(set(lengths))
    ends, longest = sorted(set(trained)), max(lengths)
    while ends[-1] < longest:
        ends.append(min(2 * ends[-1], longest))
    return ends


def _cells(curves: pd.DataFrame) -> pd.DataFrame:
    """Of one task: the mean over the sequences of each run's columns."""
    ends = columns_of(curves["length"].tolist(), curves["trained"].tolist())
    column = np.searchsorted(ends, curves["length"])
    table = curves.assign(column=column, sum=curves["value"] * curves["count"])
    keys = ["task", "model", "architecture", "seed", "run", "trained", "solved_from", "trivial", "column"]
    cells = table.groupby(keys, observed=True, sort=False).agg(
        sum=("sum", lambda values: values.sum(skipna=False)), count=("count", "sum"),
        shortest=("length", "min"), longest=("length", "max"),
    ).reset_index()  # fmt: skip
    cells["score"] = cells["sum"] / cells["count"]
    cells["column_end"] = [ends[at] for at in cells["column"]]
    return cells.drop(columns="sum").sort_values([*keys[:6], "column"], ignore_index=True)


def _numbers(cells: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """Of each run: the score on lengths like those trained on, on the longest, and the length up to which it holds."""
    runs = comparison.runs.set_index("run").reindex(columns=["state_size", "score"])
    ended = dict(zip(comparison.runs["run"].astype(str), outcomes(comparison.runs), strict=True))
    rows = []
    for run, of_run in cells.groupby("run", sort=False):
        first, last = of_run.iloc[0], of_run.iloc[-1]
        holds = 0
        if ended[str(run)] == SOLVED:
            beyond = of_run[of_run["column_end"] > first["trained"]]
            fallen = beyond[~(beyond["score"] >= first["solved_from"])]
            kept = beyond if fallen.empty else beyond[beyond["column"] < fallen["column"].min()]
            holds = int(max([first["trained"], *kept["longest"]]))
        rows.append(
            {
                "task": first["task"],
                "model": first["model"],
                "architecture": first["architecture"],
                "carries": GROWING if pd.isna(runs["state_size"][run]) else FIXED,
                "seed": first["seed"],
                "trained up to": first["trained"],
                "test score": runs["score"][run],
                "outcome": ended[str(run)],
                "longest tested": last["longest"],
                "score on longest": last["score"],
                "holds up to": holds,
                "holds on longest": holds >= last["longest"],
                "run": run,
            }
        )
    return pd.DataFrame(rows).astype({"model": cells["model"].dtype})


def finding(tables: Tables) -> str:
    """Of the runs that solve their task: how many still do on the longest sequences, and whether theory has it so."""
    numbers = tables[NUMBERS]
    solving = numbers[numbers["holds up to"] > 0]
    times = numbers["longest tested"] / numbers["trained up to"]
    low, high = (f"{end:.3g}" for end in (times.min(), times.max()))
    beyond = f"{low} times" if low == high else f"{low} to {high} times"
    said = []
    for architecture, of_architecture in numbers.groupby("architecture", sort=False):
        chosen = solving[solving["architecture"] == architecture]
        none = f"none of {len(of_architecture)} solves its task"
        said.append(f"{architecture}{f': {none}' if chosen.empty else f' {_kept(chosen)}'}")
    return (
        f"Of the runs that solve their task these still do on the longest sequences, {beyond} as long as those "
        f"trained on: {', '.join(said)}. {_verdict(solving, numbers)}"
    )


def _kept(solving: pd.DataFrame) -> str:
    kept = int(solving["holds on longest"].sum())
    return f"{kept} of {len(solving)} ({in_percent(solve_rate(kept, len(solving)))})"


def _verdict(solving: pd.DataFrame, numbers: pd.DataFrame) -> str:
    """Whether a state of fixed size holds more often than attention does; open where the intervals overlap."""
    missing = [kind for kind in (FIXED, GROWING) if kind not in set(numbers["carries"])]
    if missing:
        return f"No run carries {'a ' * (missing[0] == FIXED)}{missing[0]}, so that nothing is compared"
    of_kind = {kind: solving[solving["carries"] == kind] for kind in (FIXED, GROWING)}
    idle = [kind for kind, chosen in of_kind.items() if chosen.empty]
    if idle:
        one = " or ".join(idle)
        return f"Of runs that carry {one} none solves its task, so that the two are not compared"
    rates = {kind: solve_rate(int(chosen["holds on longest"].sum()), len(chosen)) for kind, chosen in of_kind.items()}
    words = f"{_kept(of_kind[FIXED])} against {_kept(of_kind[GROWING])}"
    if rates[FIXED].low > rates[GROWING].high:
        return f"As expected a state of fixed size holds more often than attention: {words}"
    if rates[FIXED].high < rates[GROWING].low:
        return f"Against expectation a state of fixed size holds less often than attention: {words}"
    return f"Whether a state of fixed size holds more often than attention is not told: {words}, which overlap"


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A row a task, a column a model: trained length downward, test length to the right, a strip for every seed."""
    cells = tables["cells"]
    tasks, models = sorted(cells["task"].unique()), _models(cells)
    rows = [cells.loc[cells["task"] == task, "trained"].nunique() for task in tasks]
    figure = Figure(figsize=(theme.WIDTH, 2.3 + sum(0.45 + ROW * count for count in rows)), layout="constrained")
    grid = figure.subplots(len(tasks), len(models), squeeze=False, height_ratios=rows)
    colours, share = mpl.colormaps[theme.SEQUENTIAL], Normalize(0, 1, clip=True)
    for row, task in zip(grid.tolist(), tasks, strict=True):
        of_task = cells[cells["task"] == task]
        for axes, model in zip(row, models, strict=True):
            _draw_grid(axes, of_task, of_task[of_task["architecture"] == model], colours, share)
            axes.tick_params(labelleft=axes.get_subplotspec().is_first_col())
            if axes.get_subplotspec().is_first_row():
                axes.set_title(model, fontweight="bold")
        row[0].set_ylabel(f"{task}\ntrained up to")
    for axes in grid[-1]:
        axes.set_xlabel("test length, up to")
    bar = figure.colorbar(ScalarMappable(share, colours), ax=grid, location="right", aspect=40, pad=0.02, shrink=0.9)
    bar.set_label("score, from the trivial rule (0) to perfect (1)")
    bar.outline.set_visible(False)
    handles = [
        Line2D([], [], color=theme.INK, lw=1.6, label="beyond the lengths trained on, to the right"),
        Line2D([], [], lw=0, marker="$0.9$", ms=13, color=theme.INK, mew=0, label="median score of the seeds"),
        Line2D([], [], lw=0, marker="$-$", ms=6, color=theme.QUIET, mew=0, label="not tested"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    theme.headline(figure, finding(tables))
    return figure


def _models(cells: pd.DataFrame) -> list[str]:
    """Those that carry a state and attention alike, in the order of the categories."""
    return list(dict.fromkeys(theme.family(model) for model in theme.present(cells["model"])))


def _draw_grid(
    axes: Axes, of_task: pd.DataFrame, cells: pd.DataFrame, colours: mpl.colors.Colormap, share: Normalize
) -> None:
    """The cells of one task and model; rows and columns are those of the task."""
    trained = sorted(map(int, of_task["trained"].unique()))
    ends = of_task.groupby("column")["column_end"].first()
    places = {column: place for place, column in enumerate(ends.index)}
    for place, length in enumerate(trained):
        of_row = cells[cells["trained"] == length]
        runs = list(dict.fromkeys(of_row["run"]))
        for column, at in places.items():
            cell = of_row[of_row["column"] == column].set_index("run")
            middle = float(cell["score"].median(skipna=False)) if len(cell) else np.nan
            words = "–" if np.isnan(middle) else f"{middle:.2f}"
            axes.text(at + 0.5, place + (1 + STRIPS) / 2, words, ha="center", va="center", fontsize=6, zorder=5)
            if np.isnan(middle):
                continue
            scaled = (cell["score"] - cell["trivial"]) / (1 - cell["trivial"])
            strip = np.linspace(place, place + STRIPS, len(runs) + 1)
            values = share(scaled.reindex(runs).to_numpy(dtype=float))[:, None]
            axes.pcolormesh([at, at + 1], strip, values, cmap=colours, vmin=0, vmax=1)
    _draw_border(axes, trained, ends.tolist())
    axes.set_xlim(0, len(ends))
    axes.set_ylim(len(trained), 0)
    axes.set_xticks(np.arange(len(ends)) + 0.5, [str(end) for end in ends])
    axes.set_yticks(np.arange(len(trained)) + 0.5, [str(length) for length in trained])
    axes.tick_params(length=0)


def _draw_border(axes: Axes, trained: Sequence[int], ends: Sequence[int]) -> None:
    """The steps between what was trained on and what is longer."""
    x, y = [], []
    for place, length in enumerate(trained):
        edge = sum(end <= length for end in ends)
        x += [edge, edge]
        y += [place, place + 1]
    rim = [withStroke(linewidth=2.8, foreground=theme.PAPER)]
    axes.plot(x, y, color=theme.INK, lw=1.6, solid_capstyle="butt", zorder=4, clip_on=False, path_effects=rim)


def caption(tables: Tables) -> str:
    """What a cell, a strip and the border are, what holding means, and what the interval is."""
    cells, numbers = tables["cells"], tables[NUMBERS]
    sizes = sorted({int(size) for size in numbers.groupby(["task", "architecture", "trained up to"])["run"].nunique()})
    each = seeds_each(sizes)
    rules = {
        task: sorted({round(float(score), 4) for score in of_task["trivial"]})
        for task, of_task in cells.groupby("task", sort=True)
    }
    trivial = "; ".join(f"{task!s} {listed([number(score) for score in scores])}" for task, scores in rules.items())
    tested = cells.groupby(["run", "column"])["count"].sum()
    return (
        "Score of the checkpoint that validation chose, over the lengths that were trained on, downward, and those of "
        "the test, to the right; each column reaches from the one before to the length below it, the strips of "
        f"a cell are its {each}, from the top in the order of their numbers, and below them stands their median. "
        f"Right of the thick line sequences are longer than any trained on. Between {number(tested.min())} and "
        f"{number(tested.max())} sequences a cell and run. Colour runs from the trivial rule's score at the lengths "
        f"trained on ({trivial}) to 1. A run that solves its task by its test score holds up to the longest column "
        "before the first in which its score is below the task's threshold. Intervals are Wilson's at 95 % for the "
        "share of runs; runs of several tasks and lengths are counted together, though seeds alone are alike."
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
