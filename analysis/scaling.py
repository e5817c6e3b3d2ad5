"""What becomes of attention where scores are not divided by √d, over the width d of a head.

Question:  without 1/√d, how do the entropy of attention, the gradient through its softmax, and learning change over d?
Expect:    at the start the scores' standard deviation is the same at every d where they are divided by √d, and grows as
           √d where they are not; so the entropy and the gradient through the softmax fall with d, as they do for scores
           drawn from a Gaussian of that deviation; where d is large, learning is slower or fails.
Data:      readings attention/map of the first snapshot and attention/entropy_share of the first and the last one; the
           settings model.scaling, model.heads and model.hidden; the step at which a run solved its task.

    python analysis/scaling.py outputs/scaling
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
    AFTER,
    BEFORE,
    COUNTED,
    NUMBERS,
    Comparison,
    NothingToDraw,
    Tables,
    ends,
    outcomes,
    uncounted,
)
from retrograde.figures.provenance import number, seeds_each
from retrograde.figures.statistics import in_percent, interval, interval_in_words, solve_rate

SCALING, HEADS, HIDDEN = "config.model.scaling", "config.model.heads", "config.model.hidden"

DIVIDED, PLAIN = "divided by √d", "not divided"
LOOKS = {
    DIVIDED: theme.Look(theme.FAMILIES[0], "-", "o"),
    PLAIN: theme.Look(theme.FAMILIES[1], "-", "s"),
}

DEVIATION, ENTROPY, GRADIENT = "deviation", "entropy", "gradient"
QUANTITIES = {
    DEVIATION: "standard deviation of the scores",
    ENTROPY: "entropy, share of even attention's",
    GRADIENT: "gradient through softmax, share of even attention's",
}
"""What is measured at the start, as columns of ``numbers`` call it."""

GROWTH = {DIVIDED: 0.0, PLAIN: 0.5}
"""The power of d with which theory lets the deviation grow."""

MISSED = 0.05
"""By which the seeds' interval of a power or a share may miss theory's and still be called the same."""

DRAWS = 500


def load(comparison: Comparison) -> Tables:
    """``numbers`` one row a run; ``theory`` d, scores, and the three quantities for Gaussian scores."""
    runs = comparison.runs.reindex(columns=list(dict.fromkeys([*comparison.runs.columns, SCALING, HEADS, HIDDEN])))
    runs = runs[runs[[SCALING, HEADS, HIDDEN]].notna().all(axis=1)]
    if runs[SCALING].nunique() < 2:
        raise NothingToDraw("no attention is with 1/√d in one run and without it in another: model.scaling=true,false")
    width = (runs[HIDDEN].astype(float) / runs[HEADS].astype(float)).astype(int)
    if width.nunique() < 2:
        raise NothingToDraw("the width of a head is not varied: model.heads=1,2,8 does")
    measured = _at_the_start(comparison)
    shares = ends(comparison.readings("attention/entropy_share"))
    entropy = shares.groupby(["run", "when"], observed=True)["value"].mean().unstack()
    result = runs.reindex(columns=["solved_step", "score", "steps"])
    numbers = pd.DataFrame(
        {
            "model": runs["model"],
            "seed": runs["seed"],
            "d": width,
            "scores": np.where(runs[SCALING].astype(bool), DIVIDED, PLAIN),
            QUANTITIES[DEVIATION]: runs["run"].map(measured[DEVIATION]),
            QUANTITIES[ENTROPY]: runs["run"].map(entropy[BEFORE]),
            QUANTITIES[GRADIENT]: runs["run"].map(measured[GRADIENT]),
            "entropy after training": runs["run"].map(entropy[AFTER]) if AFTER in entropy else np.nan,
            "outcome": outcomes(runs),
            "solved at step": result["solved_step"].astype(float),
            "steps": result["steps"].astype(float),
            "test score": result["score"].astype(float),
            "run": runs["run"],
        }
    )
    numbers = numbers[numbers[QUANTITIES[DEVIATION]].notna()]
    if numbers["d"].nunique() < 2 or not _shared(numbers):
        raise NothingToDraw("too few runs hold attention/map and attention/entropy_share of their first snapshot")
    numbers = numbers.sort_values(["scores", "d", "seed", "run"], ignore_index=True)
    return {"theory": _theory(numbers, int(measured["keys"].max())), NUMBERS: numbers}


def _at_the_start(comparison: Comparison) -> pd.DataFrame:
    """By run: the deviation of scores over a query's keys, the gradient through its softmax, and the number of keys.

    Softmax leaves of scores what they differ by: ln A_ij is the score less a number of the query's own. The means are
    over layers, heads, samples and queries with at least two keys, of the deviation as a root of a mean square. The
    model is causal, so that a query sees the keys up to its own.
    """
    maps = comparison.readings("attention/map", [0])
    queries = np.unique(maps["query"])
    if len(queries) > 1 and np.diff(queries).max() > 1:
        raise NothingToDraw("maps are stored as means of blocks, which hold no scores: probe.attention.longest=1024")
    maps = maps[(maps["key"] <= maps["query"]) & (maps["query"] > 0)]
    with np.errstate(divide="ignore"):
        maps = maps.assign(score=np.log(maps["value"]), square=maps["value"] ** 2)
    queried = maps.groupby(["run", "layer", "head", "sample", "query"], observed=True)
    each = queried.agg(variance=("score", "var"), squares=("square", "sum"), keys=("key", "size")).reset_index()
    each["gradient"] = (1 - each["squares"]) / (1 - 1 / each["keys"])
    of_run = each.groupby("run").agg(
        variance=("variance", lambda values: values.mean(skipna=False)),
        gradient=("gradient", "mean"),
        keys=("keys", "max"),
    )
    return of_run.assign(**{DEVIATION: np.sqrt(of_run["variance"])})


def _theory(numbers: pd.DataFrame, keys: int) -> pd.DataFrame:
    """For every d and both kinds of scores what follows from the deviation that divided scores have, their median."""
    divided = float(numbers.loc[numbers["scores"] == DIVIDED, QUANTITIES[DEVIATION]].median())
    low, high = int(numbers["d"].min()), int(numbers["d"].max())
    rows = []
    for d in np.unique([*np.geomspace(low, high, 25), *numbers["d"].astype(float)]):
        for scores, power in GROWTH.items():
            deviation = divided * d**power
            entropy, gradient = of_gaussian_scores(deviation, keys)
            rows.append({"d": d, "scores": scores, DEVIATION: deviation, ENTROPY: entropy, GRADIENT: gradient})
    return pd.DataFrame(rows)


def of_gaussian_scores(deviation: float, keys: int) -> tuple[float, float]:
    """Entropy, and gradient through softmax, of independent Gaussian scores, as shares of even attention's.

    The mean over queries that see 2 to ``keys`` keys; ``DRAWS`` draws from a fixed seed. The gradient is the trace of
    softmax's Jacobian, 1 - Σ_j A_j²: 0 where one key takes all.
    """
    scores = deviation * np.random.default_rng(0).standard_normal((DRAWS, keys))
    entropies, gradients = [], []
    for seen in range(2, keys + 1):
        weights = np.exp(scores[:, :seen] - scores[:, :seen].max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        logs = np.log(np.where(weights > 0, weights, 1.0))
        entropies.append(-(weights * logs).sum(1).mean() / np.log(seen))
        gradients.append((1 - (weights**2).sum(1).mean()) / (1 - 1 / seen))
    return float(np.mean(entropies)), float(np.mean(gradients))


def powers(numbers: pd.DataFrame, scores: str) -> np.ndarray:
    """The power of d with which the scores' deviation grows, by least squares in logarithms, a number a seed."""
    of_scores = numbers[numbers["scores"] == scores]
    found = []
    for _, of_seed in of_scores.groupby("seed"):
        if of_seed["d"].nunique() > 1:
            x, y = np.log(of_seed["d"].astype(float)), np.log(of_seed[QUANTITIES[DEVIATION]])
            found.append(float(np.polynomial.polynomial.polyfit(x, y, 1)[1]))
    return np.array(found)


def finding(tables: Tables) -> str:
    """What scores without 1/√d do to entropy and gradient, whether theory says so, and what learning says of it."""
    numbers = tables[NUMBERS]
    widest = _shared(numbers)[-1]
    of = {**_growth(numbers), **_left(tables, widest)}
    odd = {name: expected for name, (measured, expected) in of.items() if not _agrees(measured, expected)}

    def spread(name: str) -> str:
        found = interval(of[name][0])
        return f"{_spread(found.low, found.high)}{f' (theory says {odd[name]:.2g})' if name in odd else ''}"

    left = f"{spread(ENTROPY)} of the entropy and {spread(GRADIENT)} of the gradient"
    said = f"Without 1/√d scores grow as d to the power {spread(PLAIN)} and at d = {widest} leave {left}"
    said += f"; with it they grow as d to the power {spread(DIVIDED)}" if DIVIDED in odd else ""
    said = f"{said}{'' if odd else ', as theory says'}. {_learnt(numbers, widest)}"
    return ". ".join(filter(None, [said, uncounted(numbers["outcome"])]))


def _growth(numbers: pd.DataFrame) -> dict[str, tuple[np.ndarray, float]]:
    """The powers with which the scores of each kind grow, and those that theory says."""
    return {scores: (powers(numbers, scores), GROWTH[scores]) for scores in (PLAIN, DIVIDED)}


def _left(tables: Tables, d: int) -> dict[str, tuple[np.ndarray, float]]:
    """Of undivided scores at a width: entropy and gradient, as shares of even attention's, and those of theory."""
    theory = tables["theory"]
    expected = theory[(theory["d"] == d) & (theory["scores"] == PLAIN)]
    plain = _at(tables[NUMBERS], PLAIN, d)
    return {one: (plain[QUANTITIES[one]].to_numpy(), float(expected[one].iloc[0])) for one in (ENTROPY, GRADIENT)}


def details(tables: Tables) -> str:
    """All that the finding rests on, beside what theory says."""
    numbers = tables[NUMBERS]
    widest = _shared(numbers)[-1]
    plain, divided = (_compared(*one) for one in _growth(numbers).values())
    kept = [
        f"{words} {_compared(*measured)}, with 1/√d {_at(numbers, DIVIDED, widest)[QUANTITIES[one]].median():.2f}"
        for (one, measured), words in zip(_left(tables, widest).items(), ("entropy", "gradient"), strict=True)
    ]
    return f"Power of d: {plain}, with 1/√d {divided}. At d = {widest}: {'; '.join(kept)}; {_solved(numbers, widest)}."


def _agrees(measured: np.ndarray, expected: float) -> bool:
    """Whether theory's value lies within the interval over seeds, give or take ``MISSED``."""
    found = interval(measured)
    return bool(found.low - MISSED <= expected <= found.high + MISSED)


def _compared(measured: np.ndarray, expected: float) -> str:
    found, verdict = interval(measured), "as theory says" if _agrees(measured, expected) else "theory says"
    return f"{_spread(found.low, found.high)} ({verdict} {expected:.2g})"


def _shared(numbers: pd.DataFrame) -> list[int]:
    """The widths for which there are runs of both kinds, in order."""
    of_kind = [set(numbers.loc[numbers["scores"] == scores, "d"]) for scores in LOOKS]
    return sorted(map(int, set.intersection(*of_kind)))


def _at(numbers: pd.DataFrame, scores: str, d: int) -> pd.DataFrame:
    return numbers[(numbers["scores"] == scores) & (numbers["d"] == d)]


def _spread(low: Any, high: Any) -> str:
    ends_ = [f"{float(value) + 0.0:.2f}".replace("-0.00", "0.00") for value in (low, high)]
    return ends_[0] if ends_[0] == ends_[1] else f"{ends_[0]} to {ends_[1]}"


def _learnt(numbers: pd.DataFrame, d: int) -> str:
    """Whether fewer seeds solve the task without 1/√d or, where that cannot be told, whether each takes longer."""
    times = {scores: _times(numbers, scores, d) for scores in (PLAIN, DIVIDED)}
    solved = {scores: int(np.isfinite(of).sum()) for scores, of in times.items()}
    if not any(solved.values()):
        return "Of learning nothing is shown: no run solves the task there"
    rates = {scores: solve_rate(solved[scores], len(of)) for scores, of in times.items()}
    counts = f"{solved[PLAIN]} of {len(times[PLAIN])} seeds solve the task, "
    counts += f"{solved[DIVIDED]} of {len(times[DIVIDED])} with it"
    if rates[PLAIN].high < rates[DIVIDED].low:
        return f"Learning fails: {counts}"
    if times[PLAIN].min() > times[DIVIDED].max():
        orders = comb(sum(map(len, times.values())), len(times[PLAIN]))
        late = ", each that does later than all with it" if solved[PLAIN] else ""
        return f"Learning suffers: {counts}{late} (by chance 1 in {orders})"
    return f"That learning suffers is not shown: {counts}"


def _times(numbers: pd.DataFrame, scores: str, d: int) -> pd.Series:
    """The steps that each finished run took to solve the task, infinite where it did not."""
    runs = _at(numbers, scores, d)
    runs = runs[runs["outcome"].isin(COUNTED)]
    return runs["solved at step"].where(runs["outcome"] == "solved").fillna(np.inf)


def _solved(numbers: pd.DataFrame, d: int) -> str:
    """How many seeds solve the task at a width and when, or the scores that they come to where none does."""
    kinds = {PLAIN: "without", DIVIDED: "with 1/√d"}
    times = {scores: _times(numbers, scores, d) for scores in kinds}
    if not any(np.isfinite(of).any() for of in times.values()):
        medians = {scores: _at(numbers, scores, d)["test score"].median() for scores in kinds}
        return f"median test score {', '.join(f'{number(round(medians[one], 3))} {kinds[one]}' for one in kinds)}"
    said = []
    for scores, words in kinds.items():
        steps = times[scores][np.isfinite(times[scores])]
        rate = solve_rate(len(steps), len(times[scores]))
        at = f", step {_steps(steps)}" if len(steps) else ""
        said.append(f"{words} by {len(steps)} of {len(times[scores])} seeds ({in_percent(rate)}){at}")
    return f"solved {'; '.join(said)}"


def _steps(steps: pd.Series) -> str:
    low, high = number(steps.min()), number(steps.max())
    return low if low == high else f"{low} to {high}"


@theme.applied()
def draw(tables: Tables) -> Figure:
    """Deviation, entropy and gradient at the start over d, with theory dashed, and the steps to solve the task."""
    numbers, theory = tables[NUMBERS], tables["theory"]
    figure = Figure(figsize=(theme.WIDTH, 5.6), layout="constrained")
    (first, second), (third, fourth) = figure.subplots(2, 2)
    for axes, quantity in ((first, DEVIATION), (second, ENTROPY), (third, GRADIENT)):
        for scores, look in LOOKS.items():
            of_scores = theory[theory["scores"] == scores]
            axes.plot(of_scores["d"], of_scores[quantity], color=theme.INK, lw=0.7, dashes=(4, 3), zorder=3)
            _draw_seeds(axes, numbers[numbers["scores"] == scores], QUANTITIES[quantity], look)
    first.set_yscale("log", base=2)
    first.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    first.yaxis.set_minor_locator(NullLocator())
    first.set_ylabel("deviation of scores (nats)")
    first.set_title("scores at the start", fontweight="bold")
    second.set_ylabel("share of even attention's")
    second.set_title("entropy at the start", fontweight="bold")
    third.set_ylabel("share of even attention's")
    third.set_title("gradient through softmax at the start", fontweight="bold")
    for axes in (second, third):
        axes.set_ylim(0, 1.05)
    _draw_learning(fourth, numbers)
    for axes in (first, second, third, fourth):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(sorted(numbers["d"].unique())))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("d (width of a head)")
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, ms=4.5, lw=1.4, label=scores)
        for scores, look in LOOKS.items()
    ]
    handles.append(Line2D([], [], color=theme.INK, lw=0.7, dashes=(4, 3), label="theory: Gaussian scores"))
    handles.append(Line2D([], [], color=theme.QUIET, marker="x", ms=5, lw=0, label="not solved by its last step"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    theme.headline(figure, finding(tables))
    return figure


def _draw_seeds(axes: Axes, numbers: pd.DataFrame, column: str, look: theme.Look) -> None:
    """Every seed as a mark, the median as a line, the interval as a band."""
    axes.plot(numbers["d"], numbers[column], look.marker, color=look.colour, ms=4, mec=theme.PAPER, mew=0.4, zorder=4)
    by_d = {float(d): numbers.loc[numbers["d"] == d, column].to_numpy() for d in np.unique(numbers["d"])}
    over = {d: interval(of_d[:, None]) for d, of_d in by_d.items()}
    axes.plot(list(over), [one.median[0] for one in over.values()], color=look.colour, lw=1.4)
    low, high = ([getattr(one, end)[0] for one in over.values()] for end in ("low", "high"))
    axes.fill_between(list(over), low, high, color=look.colour, alpha=0.12, lw=0)


def _draw_learning(axes: Axes, numbers: pd.DataFrame) -> None:
    """The step at which each seed solved the task; a cross at its last step where it did not."""
    axes.set_title("learning", fontweight="bold")
    axes.set_ylabel("steps to solve the task")
    for (scores, look), aside in zip(LOOKS.items(), (0.92, 1.08), strict=True):
        of_scores = numbers[numbers["scores"] == scores]
        place = of_scores.groupby("d").cumcount() * 0.04  # seeds that took as long lie side by side
        solved = of_scores[of_scores["solved at step"].notna()]
        unsolved = of_scores[of_scores["solved at step"].isna()]
        style: dict[str, Any] = {"color": look.colour, "clip_on": False, "zorder": 4}
        if len(solved):
            axes.plot(
                solved["d"] * (aside + place[solved.index]),
                solved["solved at step"],
                look.marker,
                ms=4.5,
                mec=theme.PAPER,
                mew=0.4,
                **style,
            )
        if len(unsolved):
            axes.plot(unsolved["d"] * (aside + place[unsolved.index]), unsolved["steps"], "x", ms=5, **style)
        medians = of_scores.groupby("d")["solved at step"].agg(lambda steps: steps.median(skipna=False))
        axes.plot(medians.index * aside, medians, color=look.colour, lw=1.0, alpha=0.6)
    axes.set_ylim(0, 1.1 * numbers[["solved at step", "steps"]].max().max())


def caption(tables: Tables) -> str:
    """What is drawn, of which step, what theory is, and the interval."""
    numbers = tables[NUMBERS]
    seeds = sorted(map(int, numbers.groupby(["scores", "d"])["run"].nunique().unique()))
    each = seeds_each(seeds)
    band = "" if seeds[-1] == 1 else f", the band is {interval_in_words(seeds[-1])}"
    return (
        "Causal self-attention with heads of width d, their number times d being the model's width. At step 0, as "
        "means over layers, heads, samples and queries with two keys or more: the standard deviation of a query's "
        "scores over the keys that it sees, read from the logarithm of its weights; their entropy over ln(number of "
        "keys); and the trace of softmax's Jacobian, 1 − Σ A², over what it is for even weights: 0 where one key takes "
        "all, and no gradient passes. Dashed is theory: independent Gaussian scores whose deviation is the median of "
        "the divided scores' over all d, times √d where they are not divided. Lower right: steps until validation "
        "first reached the task's threshold; a seed that never did counts as one that takes longest, and there is no "
        "median with one. The interval of the share of seeds that solve it is Wilson's, 95 %. "
        f"{each} for each d, every one a mark; lines are medians{band}. {details(tables)}"
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
