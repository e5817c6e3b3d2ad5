"""The attention scores side by side.

Question:  how do the attention scores compare in accuracy, in how sharply they look, and in whether they look where
           they have to?
Expect:    every score that compares query and slot learns to look at the symbol that is due. The location score, which
           sees the query alone, learned no good alignments in translation (Luong et al. 2015, arXiv:1508.04025,
           section 5.2); where the place follows from counting, as in reversal, it can.
Data:      the setting model.score; the runs' test scores; readings attention/entropy_share and alignment/needed of the
           first and the last snapshot; attention/map of each score's first seed, with the probe batch in words.

    python analysis/scores.py outputs/scores
"""

import sys

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.image import AxesImage

from retrograde.figures import question, theme
from retrograde.figures.comparison import AFTER, BEFORE, NUMBERS, Comparison, NothingToDraw, Tables, ends, listed
from retrograde.figures.statistics import Interval, interval, interval_in_words

SCORE = "config.model.score._target_"

LOCATION = "location"

KNOWN = ("dot", "scaled_dot", "general", "content", "additive", "concat", LOCATION)
"""From the plainest; the last one does not compare."""

ACCURACY, ENTROPY, NEEDED, EVEN = "test score", "entropy (share of even)", "weight on what is due", "weight before"
SHOWN = (ACCURACY, ENTROPY, NEEDED)

LOOKS = 2.0
"""Times the weight before training, which is an even spread's: from there on a score is said to look there."""


def load(comparison: Comparison) -> Tables:
    """``maps`` and ``labels`` of each score's first seed after training; ``numbers`` one row a run."""
    runs = comparison.runs
    if SCORE not in runs or runs[SCORE].nunique() < 2:
        raise NothingToDraw("no model's attention score is varied: model=seq2seq_luong model/score=dot,general does")
    runs = runs[runs[SCORE].notna()].copy()
    runs["kind"] = [_named(str(target)) for target in runs[SCORE]]
    order = [kind for kind in KNOWN if kind in set(runs["kind"])]
    order += sorted(set(runs["kind"]) - set(order))
    runs["kind"] = runs["kind"].astype(pd.CategoricalDtype(order))
    twice = runs.duplicated(["kind", "seed"])
    if twice.any():
        again = str(runs.loc[twice, "kind"].iloc[0])
        raise NothingToDraw(f"runs with the score {again} differ in more than the seed: compare one setting at a time")
    read = {name: ends(comparison.readings(name)) for name in ("attention/entropy_share", "alignment/needed")}
    numbers = pd.DataFrame(
        {"score": runs["kind"], "seed": runs["seed"], ACCURACY: runs.get("score"), "run": runs["run"]}
    )
    columns = (("attention/entropy_share", AFTER, ENTROPY), ("alignment/needed", AFTER, NEEDED),
               ("alignment/needed", BEFORE, EVEN))  # fmt: skip
    for name, when, column in columns:
        numbers[column] = numbers["run"].map(_across(read[name], when))
    numbers = numbers.astype({ACCURACY: float}).sort_values(["score", "seed"], ignore_index=True)
    numbers = numbers[["score", "seed", *SHOWN, EVEN, "run"]]
    maps, labels = _maps(comparison, numbers)
    return {"maps": maps, "labels": labels, NUMBERS: numbers}


def _named(target: str) -> str:
    """``retrograde.layers.scores.dot.Dot`` is ``dot``."""
    return target.split(".")[-2]


def _across(readings: pd.DataFrame, when: str) -> pd.Series:
    """Of the maps from target to source, by run: the mean over heads and layers."""
    found = readings[(readings["when"] == when) & readings["layer"].astype(str).str.startswith("cross")]
    return found.groupby("run")["value"].mean()


def _maps(comparison: Comparison, numbers: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The probe batch's first sample as the first seed of each score sees it at the end, its own positions alone."""
    first = numbers.dropna(subset=[NEEDED, EVEN]).groupby("score", observed=True)["run"].first()
    if first.empty:
        raise NothingToDraw("no run was probed both at step 0 and at its end")
    maps = ends(comparison.readings("attention/map"))
    maps = maps[maps["run"].isin(first) & (maps["sample"] == 0) & (maps["when"] == AFTER)]
    maps = maps[maps["layer"].astype(str).str.startswith("cross")]
    score = pd.Series(first.index.astype(str), index=first.to_numpy())
    maps["score"] = maps["run"].map(score)
    mean = maps.groupby(["score", "query", "key"])["value"].mean().reset_index()
    labels = comparison.labels(str(first.iloc[0]))
    labels = labels[(labels["sample"] == 0) & (labels["label"] != "")]
    own = {side: set(of_side["time"]) for side, of_side in labels.groupby("side")}
    mean = mean[mean["query"].isin(own["target"]) & mean["key"].isin(own["input"])]
    return mean.reset_index(drop=True), labels[["side", "time", "label"]].reset_index(drop=True)


def finding(tables: Tables) -> str:
    """Which scores look at what is due, for sure or not, with the weight that each puts there."""
    numbers = tables[NUMBERS].dropna(subset=[NEEDED, EVEN])
    weights = _weights(numbers)
    even = numbers.groupby("score", observed=True)[EVEN].median()
    looks = {score: bool(over.low > LOOKS * even[score]) for score, over in weights.items()}
    named = {score: f"{score} ({over.median:.2f})" for score, over in weights.items()}
    sure = [named[score] for score in looks if score != LOCATION and looks[score]]
    blind = [named[score] for score in looks if score != LOCATION and not looks[score]]
    due = "the symbol that is due"
    parts = []
    if sure:
        parts.append(f"{listed(sure)} {'looks' if len(sure) == 1 else 'look'} at {due}, as theory says")
    if blind:
        there = "" if sure else f"{'looks' if len(blind) == 1 else 'look'} at {due} "
        parts.append(f"{listed(blind)} {there}not for sure, against theory")
    if LOCATION in looks:
        there = f"{'looks' if looks[LOCATION] else 'fails'} {'there' if parts else f'on {due}'} too"
        parts.append(f"{named[LOCATION]}, which failed in translation, {there}")
    runs = numbers.groupby("score", observed=True)["run"].nunique()
    n = f"{runs.min()}" if runs.min() == runs.max() else f"{runs.min()} to {runs.max()}"
    return f"{'; '.join(parts)} (median weight, n = {n})"


def _weights(numbers: pd.DataFrame) -> dict[str, Interval]:
    """By score, in their order, the weight on what is due."""
    return {
        str(score): interval(of_score[NEEDED].to_numpy())
        for score, of_score in numbers.dropna(subset=[NEEDED, EVEN]).groupby("score", observed=True)
    }


@theme.applied()
def draw(tables: Tables) -> Figure:
    """Above, each number by score with every seed; below, a map of each score with the tokens on the axes."""
    numbers, maps = tables[NUMBERS], tables["maps"]
    scores = [score for score in numbers["score"].cat.categories if (numbers["score"] == score).any()]
    drawn = [score for score in scores if (maps["score"] == score).any()]
    columns = min(len(drawn), 3 if len(drawn) in (5, 6) else 4)
    rows = -(-len(drawn) // columns)
    above = 0.28 * len(scores) + 0.7
    figure = Figure(figsize=(theme.WIDTH, above + 2.0 * rows + 1.5), layout="constrained")
    outer = GridSpec(2, 1, figure, height_ratios=(above, 2.0 * rows + 0.4))
    first: Axes | None = None
    beside = outer[0].subgridspec(1, len(SHOWN))
    for place, column in enumerate(SHOWN):
        axes = figure.add_subplot(beside[0, place], sharey=first)
        first = first or axes
        _draw_numbers(axes, numbers, scores, column)
        axes.tick_params(labelleft=place == 0)
    norm = PowerNorm(0.5, 0, 1)
    below = outer[1].subgridspec(rows, columns)
    image: AxesImage | None = None
    panels = []
    for place, score in enumerate(drawn):
        axes = figure.add_subplot(below[place // columns, place % columns])
        wide = maps[maps["score"] == score].pivot(index="query", columns="key", values="value")
        image = axes.imshow(wide.to_numpy(), cmap=theme.SEQUENTIAL, norm=norm, origin="upper", interpolation="nearest")
        axes.set_title(score, loc="center", fontweight="bold")
        _words(axes, tables["labels"], wide)
        axes.set_xlabel("source token" if place + columns >= len(drawn) else "")
        axes.set_ylabel("target token" if place % columns == 0 else "")
        panels.append(axes)
    assert image is not None  # load found maps
    bar = figure.colorbar(image, ax=panels, location="bottom", shrink=0.5, aspect=40, pad=0.02)
    bar.set_label("attention weight (square-root scale, one for all maps)")
    bar.outline.set_visible(False)
    theme.headline(figure, finding(tables))
    return figure


def _draw_numbers(axes: Axes, numbers: pd.DataFrame, scores: list[str], column: str) -> None:
    """Every run as a dot, the median as a stroke on the line of its interval; before training dashed, where known."""
    for place, score in enumerate(scores):
        values = numbers.loc[numbers["score"] == score, column].dropna().to_numpy()
        if not len(values):
            continue
        over_seeds = interval(values)
        axes.plot([over_seeds.low, over_seeds.high], [place, place], color=theme.FAMILIES[0], lw=1.2, alpha=0.6)
        axes.plot([over_seeds.median], [place], "|", color=theme.INK, ms=11, mew=1.6)
        axes.plot(values, np.full(len(values), place), "o", color=theme.FAMILIES[0], ms=4, mec=theme.PAPER, mew=0.5)
    if column == NEEDED:
        axes.axvline(numbers[EVEN].median(), color=theme.QUIET, lw=0.8, dashes=(5, 3), zorder=0)
        axes.set_title("dashed: before training", loc="right", fontsize=theme.SMALL, color=theme.QUIET)
    axes.set_yticks(range(len(scores)), scores)
    axes.set_ylim(len(scores) - 0.5, -0.5)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel(column)


def _words(axes: Axes, labels: pd.DataFrame, wide: pd.DataFrame) -> None:
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for axis, side, times in ((axes.xaxis, "input", wide.columns), (axes.yaxis, "target", wide.index)):
        of_side = labels[labels["side"] == side].set_index("time")["label"].astype(str)
        axis.set_ticks(range(len(times)), [of_side.get(time, "") for time in times], fontsize=6)


def caption(tables: Tables) -> str:
    """What the numbers are, of which snapshot, and what the maps show."""
    numbers = tables[NUMBERS]
    most = int(numbers.groupby("score", observed=True)["run"].nunique().max())
    weights = [
        f"{name} {over.median:.2f} ({over.low:.2f} to {over.high:.2f})" for name, over in _weights(numbers).items()
    ]
    return (
        "Above, by score: the test score of the answers that the model writes by itself, at the checkpoint that "
        "validation chose; at the last snapshot and on the probe batch, the entropy of the weights over that of an "
        "even spread, and the weight on the source symbol that each target symbol is, the mean over targets. Every dot "
        f"is a seed, the stroke their median, the line {interval_in_words(most)}; the weight is "
        f"{listed(weights)}. To look there for sure is to have all "
        f"of that above {LOOKS:g} times the weight of an even spread. Below, the weights of the first seed "
        "at its last snapshot for the probe batch's first sample, targets downward, the source to the right, each row "
        "summing to 1: a single seed, not an average."
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
