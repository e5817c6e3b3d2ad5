"""Accuracy over the source's length, through one vector and with attention.

Question:  how does an encoder-decoder's accuracy depend on the source's length, with one vector in between and with
           attention?
Expect:    through one vector it falls as sources grow, with attention it does not (Bahdanau et al. 2014,
           arXiv:1409.0473, figure 2).
Data:      reading test/score_by_length, of the answers that a model writes by itself; whether a run has a state_size,
           which it has where all that its decoder knows of the source is a fixed number of numbers; the card's trivial
           rules.

    python analysis/bottleneck.py outputs/bottleneck
"""

import sys

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame  # by name: pandas looks for a package called as this script, and is refused

from retrograde.figures import question, theme
from retrograde.figures.comparison import NUMBERS, Comparison, NothingToDraw, Tables, listed
from retrograde.figures.provenance import number, seeds_in_words, trivial_rule
from retrograde.figures.statistics import interval, interval_in_words

FALLS = 0.1
"""Of the score: a loss from the shortest third of lengths to the longest from which on it is said to fall."""

VECTOR, ATTENTION = "one vector", "attention"

SHORT, LONG, LOST = "score, shortest third of lengths", "score, longest third of lengths", "lost"


def load(comparison: Comparison) -> Tables:
    """``curves`` run, length, value, count; ``chance`` the trivial rule; ``numbers`` one row a run."""
    by_length = comparison.readings("test/score_by_length")
    columns = ["model", "seed", "run", "length"]
    curves = by_length.pivot(index=columns, columns="statistic", values="value").reset_index()
    curves = curves.rename(columns={"mean": "value"}).rename_axis(columns=None)
    curves = curves.sort_values(columns, ignore_index=True).astype({"model": by_length["model"].dtype, "length": int})
    if curves["length"].nunique() < 3:
        raise NothingToDraw("sources of fewer than three lengths were tested: task=reverse has many")
    state = comparison.runs.set_index("run").reindex(columns=["state_size"])["state_size"]
    curves["between"] = np.where(state.reindex(curves["run"]).isna(), ATTENTION, VECTOR)
    if curves["between"].nunique() < 2:
        raise NothingToDraw(
            f"every run has {curves['between'].iloc[0]} between source and target: "
            "model=seq2seq,seq2seq_bahdanau has both"
        )
    rule = trivial_rule(comparison.card)
    chance = DataFrame([] if rule is None else [(rule["rule"], rule["score"])], columns=["rule", "score"])
    return {"curves": curves, "chance": chance, NUMBERS: _numbers(curves)}


def _numbers(curves: DataFrame) -> DataFrame:
    """Mean score of the shortest and of the longest third of lengths, each length as much as any other."""
    lengths = np.sort(curves["length"].unique())
    third = max(len(lengths) // 3, 1)
    thirds = {SHORT: lengths[:third], LONG: lengths[-third:]}
    keys = ["model", "between", "seed", "run"]
    means = {
        name: curves[curves["length"].isin(chosen)].groupby(keys, observed=True)["value"].mean()
        for name, chosen in thirds.items()
    }
    table = DataFrame(means).reset_index().sort_values(["model", "seed", "run"], ignore_index=True)
    table[LOST] = table[SHORT] - table[LONG]
    return table[["model", "between", "seed", SHORT, LONG, LOST, "run"]]


def finding(tables: Tables) -> str:
    """What each model loses on long sources, with its interval, and whether that is what theory says."""
    numbers = tables[NUMBERS]
    said, surprises = [], []
    for model in theme.present(numbers["model"]):
        of_model = numbers[numbers["model"] == model]
        ends = interval(of_model[LOST].to_numpy())
        between = of_model["between"].iloc[0]
        low, high = float(ends.low), float(ends.high)
        said.append(f"{model} ({between}) {ends.median:.2f} ({low:.2f} to {high:.2f}, n = {len(of_model)})")
        if between == VECTOR and not low > FALLS:
            surprises.append(f"{model}'s need not fall")
        if between == ATTENTION and not high <= FALLS:
            surprises.append(f"{model}'s may fall too")
    verdict = "as theory says" if not surprises else f"not as theory says: {listed(surprises)}"
    return f"Score lost from short to long sources: {listed(said)}; {verdict}"


@theme.applied()
def draw(tables: Tables) -> Figure:
    """Score over source length: every seed faintly, each model's median with its interval, the trivial rule dashed."""
    curves, chance = tables["curves"], tables["chance"]
    looks = theme.looks(curves["model"])
    figure = Figure(figsize=(theme.WIDTH, 4.0), layout="constrained")
    axes = figure.subplots()
    handles = []
    for model in theme.present(curves["model"]):
        of_model, look = curves[curves["model"] == model], looks[model]
        wide = of_model.pivot(index="length", columns="run", values="value")
        for run in wide:
            axes.plot(wide.index, wide[run], color=look.colour, lw=0.7, alpha=0.5, ls=look.dash)
        over_seeds = interval(wide.to_numpy().T)
        axes.plot(wide.index, over_seeds.median, color=look.colour, lw=1.8, ls=look.dash, marker=look.marker, ms=4)
        if wide.shape[1] > 1:
            axes.fill_between(wide.index, over_seeds.low, over_seeds.high, color=look.colour, alpha=0.12, lw=0)
        name = f"{model}: {of_model['between'].iloc[0]}"
        handles.append(Line2D([], [], color=look.colour, lw=1.8, ls=look.dash, marker=look.marker, ms=4, label=name))
    for rule, score in chance.itertuples(index=False):
        axes.axhline(score, color=theme.QUIET, lw=0.8, dashes=(5, 3), zorder=1)
        handles.append(Line2D([], [], color=theme.QUIET, lw=0.8, dashes=(5, 3), label=f"{rule}: {number(score)}"))
    axes.set_ylim(min(0.0, curves["value"].min()), 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("source length (tokens)")
    axes.set_ylabel("test score")
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, handlelength=3)
    theme.headline(figure, finding(tables))
    return figure


def caption(tables: Tables) -> str:
    """What is drawn, on how many sequences, and what the numbers of the finding are."""
    curves, numbers = tables["curves"], tables[NUMBERS]
    counts = curves["count"]
    several = numbers.groupby("model", observed=True)["run"].nunique()
    return (
        "Score on the test set by the length of the source, of the answers that the model writes by itself, reading "
        f"its own tokens. Between {number(counts.min())} and {number(counts.max())} sequences a length and run. "
        f"{seeds_in_words(curves)} Dashed is the trivial rule's score over all lengths. What is lost is the "
        "mean score of the shortest third of the lengths less that of the longest; in brackets behind its median "
        f"stands {interval_in_words(int(several.max()))}. It is said to fall where that lies above {FALLS:g}, and not "
        "to where it does not reach beyond."
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
