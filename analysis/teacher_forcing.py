"""The exposure gap over the share of given tokens in training.

Question:  how far apart are a decoder's scores on given tokens and on its own, over the share of given tokens in
           training?
Expect:    with given tokens alone the gap is widest; the more of its own tokens the decoder reads in training, the
           narrower it gets (Bengio et al. 2015, arXiv:1506.03099), at the price of slower learning. That in between the
           objective is not consistent was held against it (Huszár 2015, arXiv:1511.05101).
Data:      the setting model.forcing; of the test, forced_score, the decoder reading the given target, and score, the
           decoder reading its own answers.

    python analysis/teacher_forcing.py outputs/teacher_forcing
"""

import sys

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from retrograde.figures import question, theme
from retrograde.figures.comparison import NUMBERS, Comparison, NothingToDraw, Tables, listed
from retrograde.figures.provenance import number, trivial_rule
from retrograde.figures.statistics import Interval, interval, interval_in_words

RATIO, FORCED_SCORE = "config.model.forcing", "test.forced_score"

GIVEN, FORCED, FREE, GAP = "share of given tokens", "score on given tokens", "score on its own tokens", "gap"

APART = 0.012
"""By which dots of the two scores stand beside their share, so that neither hides the other."""


def load(comparison: Comparison) -> Tables:
    """``numbers`` one row a run; ``chance`` the trivial rule; ``lost`` the runs without a test."""
    runs = comparison.runs
    if RATIO not in runs or runs[RATIO].nunique() < 2:
        raise NothingToDraw("the share of given tokens is not varied: model=seq2seq model.forcing=0,0.5,1 does")
    if FORCED_SCORE not in runs or runs[FORCED_SCORE].isna().all():
        raise NothingToDraw("no run was tested on given tokens: runs made before there was such a test have none")
    runs = runs[runs[RATIO].notna()]
    numbers = pd.DataFrame(
        {
            "model": pd.Categorical([theme.family(str(name)) for name in runs["model"]]),
            GIVEN: runs[RATIO].astype(float),
            "seed": runs["seed"],
            FORCED: runs[FORCED_SCORE].astype(float),
            FREE: runs["score"].astype(float),
            GAP: (runs[FORCED_SCORE] - runs["score"]).astype(float),
            "run": runs["run"],
        }
    )
    tested = numbers[GAP].notna()
    rule = trivial_rule(comparison.card)
    return {
        "chance": pd.DataFrame([] if rule is None else [(rule["rule"], rule["score"])], columns=["rule", "score"]),
        "lost": numbers.loc[~tested, ["model", GIVEN, "seed", "run"]].reset_index(drop=True),
        NUMBERS: numbers[tested].sort_values(["model", GIVEN, "seed"], ignore_index=True),
    }


def bands(numbers: pd.DataFrame, column: str) -> dict[float, Interval]:
    """The interval over seeds at each share of given tokens."""
    return {float(str(share)): interval(of_share[column].to_numpy()) for share, of_share in numbers.groupby(GIVEN)}


def finding(tables: Tables) -> str:
    """The gap at the largest and the smallest share, whether it narrows, and what the answers are worth at each."""
    numbers, parts = tables[NUMBERS], []
    for model in theme.present(numbers["model"]):
        of_model = numbers[numbers["model"] == model]
        gaps, free = bands(of_model, GAP), bands(of_model, FREE)
        if len(gaps) < 2:
            parts.append(f"{model} was tested at one share of given tokens alone")
            continue
        most, least = max(gaps), min(gaps)
        said = [
            f"{gaps[share].median:.2f} ({gaps[share].low:.2f} to {gaps[share].high:.2f}, "
            f"n = {(of_model[GIVEN] == share).sum()}) at a share of {number(share)}"
            for share in (most, least)
        ]
        widest = max(gaps, key=lambda share: float(gaps[share].median))
        if not gaps[most].low > gaps[least].high:
            verdict = "that it narrows is not shown, against theory"
        elif widest != most:
            verdict = f"it narrows, but is widest at {number(widest)} ({gaps[widest].median:.2f}), against theory"
        else:
            verdict = "it narrows, as theory says"
        worth = listed([f"{one.median:.2f} at {number(share)}" for share, one in free.items()])
        parts.append(f"{model}'s exposure gap is {' and '.join(said)}: {verdict}; on its own tokens it scores {worth}")
    return "; ".join(parts)


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A row a model: both scores over the share of given tokens, and the gap between them beside."""
    numbers = tables[NUMBERS]
    models = theme.present(numbers["model"])
    looks = theme.looks(numbers["model"])
    figure = Figure(figsize=(theme.WIDTH, 2.7 * len(models) + 1.3), layout="constrained")
    grid = figure.subplots(len(models), 2, squeeze=False, sharex=True, sharey="col", width_ratios=(3, 2))
    for (left, right), model in zip(grid, models, strict=True):
        of_model, colour = numbers[numbers["model"] == model], looks[model].colour
        _draw(left, of_model, FORCED, theme.QUIET, (0, (4, 1.5)), "s", -APART)
        _draw(left, of_model, FREE, colour, "-", "o", APART)
        for score in tables["chance"]["score"]:
            left.axhline(score, color=theme.QUIET, lw=0.8, dashes=(1.2, 2), zorder=0)
        right.axhline(0, color=theme.RULE, lw=0.8, zorder=0)
        _draw(right, of_model, GAP, theme.INK, "-", "D", 0.0)
        left.set_title(model, fontweight="bold", color=colour)
        left.set_ylabel("test score")
        right.set_ylabel("exposure gap (score)")
        left.set_ylim(min(0.0, numbers[FREE].min()), 1.03)
        right.set_ylim(min(-0.02, 1.1 * numbers[GAP].min()), max(0.05, 1.1 * numbers[GAP].max()))
    for axes in grid[-1]:
        axes.set_xlabel("share of given tokens in training")
        axes.xaxis.set_major_locator(FixedLocator(sorted(numbers[GIVEN].unique())))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _draw_legend(figure, looks[models[0]].colour if len(models) == 1 else theme.INK, tables["chance"])
    theme.headline(figure, finding(tables))
    return figure


def _draw(axes: Axes, numbers: pd.DataFrame, column: str, colour: str, dash: object, marker: str, shift: float) -> None:
    """Every seed as a faint dot, the medians joined, a stroke for the interval."""
    axes.plot(numbers[GIVEN] + shift, numbers[column], marker, color=colour, ms=3.5, alpha=0.4, mew=0)
    over_seeds = bands(numbers, column)
    shares = [share + shift for share in over_seeds]
    low, high = ([getattr(one, end) for one in over_seeds.values()] for end in ("low", "high"))
    axes.vlines(shares, low, high, color=colour, lw=1)
    medians = [one.median for one in over_seeds.values()]
    axes.plot(shares, medians, marker, color=colour, ls=dash, lw=1.6, ms=5, mec=theme.PAPER, mew=0.5)


def _draw_legend(figure: Figure, colour: str, chance: pd.DataFrame) -> None:
    handles = [
        Line2D([], [], color=theme.QUIET, ls=(0, (4, 1.5)), marker="s", ms=5, lw=1.6, label="reading the given target"),
        Line2D([], [], color=colour, marker="o", ms=5, lw=1.6, label="reading its own answers"),
        Line2D([], [], color=theme.INK, marker="D", ms=5, lw=1.6, label="exposure gap: the first less the second"),
    ]
    for rule, score in chance.itertuples(index=False):
        label = f"{rule}: {number(score)}"
        handles.append(Line2D([], [], color=theme.QUIET, lw=0.8, dashes=(1.2, 2), label=theme.wrapped(label, 50)))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, handlelength=3)


def caption(tables: Tables) -> str:
    """What the two scores are, what is drawn, and what is missing."""
    numbers, lost = tables[NUMBERS], tables["lost"]
    counts = numbers.groupby(["model", GIVEN], observed=True)["run"].nunique()
    seeds = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    missing = f" Without a test: {listed([str(run) for run in lost['run']])}." if len(lost) else ""
    return (
        "Two scores of the same answers' task on the test set, over the share of tokens that the decoder was given in "
        "training, one coin for every token: reading the given target, one position behind, and reading what it said "
        f"itself. The exposure gap is the first less the second, run by run. Faint marks are seeds, {seeds} at each "
        "share, set a little apart; larger ones are their medians, strokes "
        f"{interval_in_words(int(counts.max()))}; the dotted line is the trivial rule's score.{missing}"
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
