"""Accuracy and cost of global, local and hard attention over the source's length.

Question:  how do accuracy and the number of source positions read depend on the source's length, for global, local
           and hard attention?
Expect:    global attention is right at every length and reads all of the source; a local window reads at most 2D + 1
           positions, D its reach, hard attention one. A window around the target's own position (local_m) loses what
           lies outside it, in reversal all but D + 1 symbols; a predicted one (local_p) follows them (Luong et al.
           2015, arXiv:1508.04025, section 3.2). Hard attention learns by REINFORCE, and slower (Xu et al. 2015,
           arXiv:1502.03044).
Data:      the settings model.window and its reach; reading test/score_by_length; attention/map of the last snapshot,
           with the probe batch in words, for the positions read; the runs' duration and steps.

    python analysis/windows.py outputs/windows
"""

import sys
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from retrograde.figures import question, theme
from retrograde.figures.comparison import NUMBERS, Comparison, NothingToDraw, Tables, listed
from retrograde.figures.provenance import number
from retrograde.figures.statistics import interval, interval_in_words

WINDOW, REACH, SYMBOLS = "config.model.window._target_", "config.model.window.reach", "config.task.symbols"

GLOBAL, LOCAL_M, LOCAL_P, HARD = KNOWN = ("global", "local_m", "local_p", "hard")

REVERSAL = "reverse"
"""The task of which theory says what a window around the target's own position sees."""

FALLS = 0.1
"""Of the score: a loss from the shortest third of lengths to the longest from which on it is said to fall."""

LONG, LOST, READ, MILLISECONDS = "score, longest third of lengths", "lost", "positions read", "ms a step, all included"


def load(comparison: Comparison) -> Tables:
    """``curves`` score by length; ``reads`` positions by length; ``theory`` of both; ``numbers`` one row a run."""
    runs = comparison.runs
    if WINDOW not in runs or runs[WINDOW].nunique() < 2:
        raise NothingToDraw("no model's window is varied: model=seq2seq_luong model/window=global,hard does")
    runs = runs[runs[WINDOW].notna()].reset_index(drop=True)
    named = [_named(str(target)) for target in runs[WINDOW]]
    order = [kind for kind in KNOWN if kind in named]
    kinds = pd.CategoricalDtype([*order, *sorted(set(named) - set(order))])
    runs["window"] = pd.Series(named, runs.index).astype(kinds)
    if runs.duplicated(["window", "seed"]).any():
        raise NothingToDraw("runs with one window differ in more than the seed: compare one setting at a time")
    keys = runs[["run", "window"]]
    scores = comparison.readings("test/score_by_length", statistic="mean").merge(keys, on="run")
    curves = scores[["window", "seed", "run", "length", "value"]].sort_values(
        ["window", "seed", "length"], ignore_index=True
    )
    if curves["length"].nunique() < 3:
        raise NothingToDraw("sources of fewer than three lengths were tested: task=reverse has many")
    reads = _reads(comparison, keys)
    return {
        "curves": curves,
        "reads": reads,
        "theory": _theory(runs, np.sort(curves["length"].unique())),
        NUMBERS: _numbers(runs, curves, reads),
    }


def _named(target: str) -> str:
    """``retrograde.layers.windows.global_.Global`` is ``global``."""
    return target.split(".")[-2].rstrip("_")


def _reads(comparison: Comparison, keys: pd.DataFrame) -> pd.DataFrame:
    """By run and source length: at how many positions a target's weight is above zero, the mean over its targets."""
    maps = comparison.readings("attention/map").drop(columns="model").merge(keys, on="run")
    maps = maps[maps["step"] == maps.groupby("run")["step"].transform("max")]
    maps = maps[maps["layer"].astype(str).str.startswith("cross")]
    rows = []
    for run, of_run in maps.groupby("run"):
        labels = comparison.labels(str(run))
        labels = labels[labels["label"] != ""]
        own = {side: of_side.groupby("sample")["time"].count() for side, of_side in labels.groupby("side")}
        lengths = of_run["sample"].map(own["input"])
        real = (of_run["key"] < lengths) & (of_run["query"] < of_run["sample"].map(own["target"]))
        counts = of_run[real].assign(length=lengths, read=of_run["value"] > 0)
        by_query = counts.groupby(["window", "seed", "run", "length", "sample", "head", "query"], observed=True)["read"]
        read = by_query.sum().groupby(["window", "seed", "run", "length"], observed=True).mean()
        rows.append(read.rename("value").reset_index())
    if not rows:
        raise NothingToDraw("no run holds maps from a target to its source")
    table = pd.concat(rows, ignore_index=True).astype({"window": keys["window"].dtype, "length": int})
    return table.sort_values(["window", "seed", "length"], ignore_index=True)


def _theory(runs: pd.DataFrame, lengths: np.ndarray) -> pd.DataFrame:
    """What can be said before: positions read at most, and in reversal what a window at the target's place sees."""
    rows = []
    settings = runs.reindex(columns=["window", "task", REACH, SYMBOLS]).drop_duplicates()
    for window, task, reach, symbols in settings.itertuples(index=False):
        for length in lengths:
            most = {GLOBAL: length, HARD: 1}.get(str(window), np.nan)
            if str(window) in (LOCAL_M, LOCAL_P):
                most = min(length, 2 * reach + 1)
            expected = np.nan
            if str(window) == LOCAL_M and task == REVERSAL:
                expected = reversal(int(length), float(reach), float(symbols))
            rows.append((str(window), int(length), most, expected))
    return pd.DataFrame(rows, columns=["window", "length", "read at most", "score"])


def reversal(length: int, reach: float, symbols: float) -> float:
    """The score where every symbol within the window is right, every other a guess, and <eos> known.

    >>> reversal(4, 1, 2)  # of four targets the middle two
    0.8
    """
    target = np.arange(length)
    seen = int((np.abs(length - 1 - 2 * target) <= reach).sum())
    return (seen + (length - seen) / symbols + 1) / (length + 1)


def _numbers(runs: pd.DataFrame, curves: pd.DataFrame, reads: pd.DataFrame) -> pd.DataFrame:
    lengths = np.sort(curves["length"].unique())
    third = max(len(lengths) // 3, 1)
    means: Mapping[str, pd.Series] = {
        name: curves[curves["length"].isin(chosen)].groupby("run")["value"].mean()
        for name, chosen in (("short", lengths[:third]), (LONG, lengths[-third:]))
    }
    long_reads = reads[reads["length"].isin(lengths[-third:])].groupby("run")["value"].mean()
    table = runs[["window", "seed", "run"]].copy()
    table[LONG] = table["run"].map(means[LONG])
    table[LOST] = table["run"].map(means["short"]) - table[LONG]
    table[READ] = table["run"].map(long_reads)
    spent = runs.reindex(columns=["duration", "steps"]).astype(float)
    table[MILLISECONDS] = 1000 * spent["duration"] / spent["steps"]
    table = table[["window", "seed", LONG, LOST, READ, MILLISECONDS, "run"]]
    return table.sort_values(["window", "seed"], ignore_index=True)


def finding(tables: Tables) -> str:
    """Which windows lose score on long sources, how much, and whether that is what theory says."""
    numbers, said, surprises, counts = tables[NUMBERS], [], [], set()
    for window in theme.present(numbers["window"]):
        known = numbers[numbers["window"] == window].dropna(subset=LOST)
        if known.empty:
            said.append(f"{window} was not tested")
            continue
        counts.add(len(known))
        lost = interval(known[LOST].to_numpy())
        expected = expected_loss(tables["theory"], window)
        theory = "" if np.isnan(expected) else f"; theory {expected:.2f}"
        how = "holds" if lost.high <= FALLS else "falls" if lost.low > FALLS else "may fall"
        said.append(f"{window} {how} ({lost.low:.2f} to {lost.high:.2f}{theory})")
        if (window in (GLOBAL, LOCAL_P) and how != "holds") or (
            window == LOCAL_M and expected > FALLS and how != "falls"
        ):
            surprises.append(window)
    verdict = "as theory says" if not surprises else f"not as theory says of {listed(surprises)}"
    n = " to ".join(str(count) for count in sorted({min(counts), max(counts)})) if counts else "0"
    return f"On long sources {', '.join(said)}: {verdict} (score lost from short to long ones, n = {n})"


def expected_loss(theory: pd.DataFrame, window: str) -> float:
    """What theory has a window lose from the shortest third of lengths to the longest; NaN where it does not say."""
    scores = theory[theory["window"] == window].sort_values("length")["score"].to_numpy()
    third = max(len(scores) // 3, 1)
    return float(np.mean(scores[:third]) - np.mean(scores[-third:])) if len(scores) else np.nan


@theme.applied()
def draw(tables: Tables) -> Figure:
    """Score over source length, and positions read over it; theory dashed in the window's own colour."""
    curves, theory = tables["curves"], tables["theory"]
    windows = [str(one) for one in curves["window"].cat.categories if (curves["window"] == one).any()]
    looks = theme.looks(curves["window"])
    figure = Figure(figsize=(theme.WIDTH, 4.3), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    for window in windows:
        look = looks[window]
        of_theory = theory[theory["window"] == window].sort_values("length")
        for axes, table, column in ((left, curves, "score"), (right, tables["reads"], "read at most")):
            _draw_window(axes, table[table["window"] == window], look)
            axes.plot(of_theory["length"], of_theory[column], color=look.colour, lw=1, dashes=(4, 2), zorder=1)
    left.set_ylim(min(0.0, curves["value"].min()), 1.03)
    left.set_ylabel("test score")
    right.set_ylim(0, None)
    right.set_ylabel("source positions read by a target")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("source length (tokens)")
    handles = [
        Line2D([], [], color=looks[one].colour, lw=1.8, ls=looks[one].dash, marker=looks[one].marker, ms=4, label=one)
        for one in windows
    ]
    handles.append(Line2D([], [], color=theme.INK, lw=1, dashes=(4, 2), label="theory"))
    columns = theme.columns([str(handle.get_label()) for handle in handles], len(handles))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, handlelength=3)
    theme.headline(figure, finding(tables))
    return figure


def _draw_window(axes: Axes, table: pd.DataFrame, look: theme.Look) -> None:
    """Every seed faintly, their median with its interval where all have a value."""
    for _, of_run in table.groupby("run"):
        axes.plot(of_run["length"], of_run["value"], color=look.colour, lw=0.7, alpha=0.5)
    wide = table.pivot(index="length", columns="run", values="value").dropna(axis="columns")
    if wide.shape[1] == 0:
        return
    over_seeds = interval(wide.to_numpy().T)
    axes.plot(wide.index, over_seeds.median, color=look.colour, lw=1.8, ls=look.dash, marker=look.marker, ms=4)
    if wide.shape[1] > 1:
        axes.fill_between(wide.index, over_seeds.low, over_seeds.high, color=look.colour, alpha=0.12, lw=0)


def caption(tables: Tables) -> str:
    """What is drawn, what theory is, what time was taken, and what the numbers of the finding are."""
    numbers = tables[NUMBERS]
    most = int(numbers.groupby("window", observed=True)["run"].nunique().max())
    times = numbers.groupby("window", observed=True)[MILLISECONDS].median().dropna()
    took = listed([f"{window} {number(round(time, 1))} ms" for window, time in times.items()])
    time = (
        f" A training step took {took} of wall-clock time, validation and probes included, the median over seeds: all "
        "scores are computed before the window chooses among them, so that it saves reads alone."
        if took
        else ""
    )
    known = numbers.dropna(subset=LOST).groupby("window", observed=True)[[LOST, READ]].median()
    lost = listed([f"{window} {row[LOST]:.2f}" for window, row in known.iterrows()])
    read = listed([f"{window} {row[READ]:.1f}" for window, row in known.dropna().iterrows()])
    return (
        "Left: score on the test set by the source's length, of the answers that the model writes by itself. Right: "
        "the source positions to which a target gives any weight at the last snapshot, the mean over the targets of "
        "the probe batch's stored samples. Thin lines are seeds, the thick one is their median, the band "
        f"{interval_in_words(most)}. Dashed on the right is the most that a window lets through; on the left the score "
        "of a window at the target's place (local_m) in reversal, where what it sees is right and the rest a guess. "
        f"What is lost is the mean score of the shortest third of lengths less that of the longest, in the median over "
        f"seeds {lost}; a window "
        f"falls where all of its interval lies above {FALLS:g}. Of the longest sources a target reads {read} "
        f"positions.{time}"
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
