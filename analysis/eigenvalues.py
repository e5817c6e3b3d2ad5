"""Whether a linear recurrence needs negative eigenvalues to tell odd from even.

Question:  do eigenvalues in [-1, 1] rather than [0, 1] let a linear recurrence learn parity, at any length?
Expect:    with eigenvalues in [0, 1] no run solves it, and on longer strings than those trained on it comes close to a
           coin; with eigenvalues in [-1, 1] runs solve it, also on longer strings (Grazzi et al. 2024, table 3: 0.02
           against 1.00 for DeltaNet, where 0 is a coin and the best of three runs counts).
Data:      metrics validation/score; the tests on trained lengths and on longer ones; the setting
           model.negative_eigenvalues.

    python analysis/eigenvalues.py outputs/eigenvalues
"""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from retrograde.figures import question, theme
from retrograde.figures.comparison import COUNTED, NUMBERS, Comparison, NothingToDraw, Tables, listed, outcomes, records
from retrograde.figures.provenance import number, seeds_each, trivial_rule
from retrograde.figures.statistics import LEVEL, Estimate, in_percent, interval, interval_in_words, solve_rate

RANGE = "config.model.negative_eigenvalues"
SHORTEST, LONGEST, TEST_LONGEST = (f"config.task.{name}" for name in ("shortest", "longest", "test_longest"))

TASK = "parity"

POSITIVE, NEGATIVE = "[0, 1]", "[−1, 1]"
"""Where the eigenvalues lie."""

COLOURS = {POSITIVE: "#d55e00", NEGATIVE: "#0072b2"}
DASHES = {POSITIVE: (0, (4, 1.6)), NEGATIVE: "-"}
MARKS = {POSITIVE: "s", NEGATIVE: "o"}

RESULTS = ("score", "longer.score", "solved_step")
"""Of runs that came to an end; where none did, nothing has them."""

TRAINED, LONGER = "test score", "score on longer strings"


def load(comparison: Comparison) -> Tables:
    """``curves`` run, step, value: validation scores; ``lines`` rule and score; ``numbers`` one row a run."""
    runs = comparison.runs
    if set(runs["task"]) != {TASK}:
        raise NothingToDraw(f"the question is asked of {TASK}: task={TASK} has it")
    if RANGE not in runs or runs[RANGE].nunique() < 2:
        raise NothingToDraw("the eigenvalues' range is not varied: model.negative_eigenvalues=false,true does")
    runs = runs.loc[runs[RANGE].notna()].reindex(columns=list(dict.fromkeys([*runs.columns, *RESULTS])))
    if runs["score"].isna().all():
        raise NothingToDraw("no run has been tested yet")
    network = [theme.family(str(model)) for model in runs["model"]]
    ranges = [NEGATIVE if negative else POSITIVE for negative in runs[RANGE].astype(bool)]
    ended = outcomes(runs)
    runs = runs.assign(network=network, eigenvalues=ranges, ended=ended)
    runs = runs.sort_values(["network", "eigenvalues", "seed", "run"], ignore_index=True)
    numbers = pd.DataFrame(
        {
            **{column: runs[column] for column in ("model", "seed", "network", "eigenvalues", "ended")},
            TRAINED: runs["score"],
            LONGER: runs["longer.score"],
            "solved at step": runs["solved_step"],
            "lengths": [_span(run, SHORTEST, LONGEST, 0) for run in records(runs)],
            "longer lengths": [_span(run, LONGEST, TEST_LONGEST, 1) for run in records(runs)],
            "run": runs["run"],
        }
    )
    numbers = numbers.astype({TRAINED: float, LONGER: float})
    metrics = comparison.metrics()
    shown = (metrics["split"] == "validation") & (metrics["quantity"] == "score")
    curves = metrics.loc[shown, ["run", "step", "value"]].merge(
        numbers[["run", "model", "seed", "network", "eigenvalues"]], on="run"
    )
    rule = trivial_rule(comparison.card)
    lines = [] if rule is None else [(str(rule["rule"]), float(rule["score"]))]
    lines.append(("solved", float(comparison.card["solved"])))
    return {
        "curves": curves.sort_values(["network", "eigenvalues", "run", "step"], ignore_index=True),
        "lines": pd.DataFrame(lines, columns=["rule", "score"]),
        NUMBERS: numbers,
    }


def _span(run: Mapping[str, Any], low: str, high: str, more: int) -> str:
    """From one setting to another, in words; empty where either is not set."""
    ends = [run.get(low), run.get(high)]
    if any(end is None or pd.isna(end) for end in ends):
        return ""
    first, last = (int(float(str(end))) for end in ends)
    return f"{first + more} to {last}"


def rates(tables: Tables, eigenvalues: str) -> dict[str, tuple[int, int, Estimate]]:
    """By test: how many runs of a range score as solved, of how many, and the rate with its interval."""
    numbers, solved = tables[NUMBERS], _threshold(tables)
    chosen = numbers[(numbers["eigenvalues"] == eigenvalues) & numbers["ended"].isin(COUNTED)]
    found = {}
    for test in (TRAINED, LONGER):
        tested = chosen[test].notna() | (chosen["ended"] == "diverged") & bool(numbers[test].notna().any())
        count, of = int((chosen.loc[tested, test] >= solved).sum()), int(tested.sum())
        found[test] = count, of, solve_rate(count, of)
    return found


def _threshold(tables: Tables) -> float:
    lines = tables["lines"]
    return float(lines.loc[lines["rule"] == "solved", "score"].iloc[0])


def finding(tables: Tables) -> str:
    """How many runs of either range solve it, what they score on longer strings, and whether that is as expected."""
    numbers = tables[NUMBERS]
    of_range = {eigenvalues: rates(tables, eigenvalues) for eigenvalues in (NEGATIVE, POSITIVE)}
    parts = [_of_range(tables, eigenvalues, found) for eigenvalues, found in of_range.items()]
    judged = [test for test in (TRAINED, LONGER) if all(found[test][1] for found in of_range.values())]
    if not judged:
        return f"{'; '.join(parts)}: no run of both ranges has been tested"
    where = {TRAINED: "on lengths trained on", LONGER: f"on {_lengths(numbers, 'longer lengths')}"}
    said: dict[str, list[str]] = {}
    for test in judged:
        said.setdefault(_judgement(tables, of_range, test), []).append(where[test])
    verdict = "; ".join(f"{listed(places)} {kind}" for kind, places in said.items())
    return f"{'; '.join(parts)}. {verdict[0].upper()}{verdict[1:]}"


def _lengths(numbers: pd.DataFrame, column: str) -> str:
    return listed([span for span in dict.fromkeys(numbers[column]) if span]) or "unknown"


def _of_range(tables: Tables, eigenvalues: str, found: dict[str, tuple[int, int, Estimate]]) -> str:
    """One range in words."""
    numbers = tables[NUMBERS]
    words = f"{'With' if eigenvalues == NEGATIVE else 'with'} eigenvalues in {eigenvalues} parity is solved by"
    for test, joined, where in (
        (TRAINED, "", f"lengths {_lengths(numbers, 'lengths')}"),
        (LONGER, " and by", f"{_lengths(numbers, 'longer lengths')}"),
    ):
        solved, of, rate = found[test]
        scores = numbers.loc[numbers["eigenvalues"] == eigenvalues, test].dropna()
        spread = f", scoring {scores.min():.2f} to {scores.max():.2f}" if test == LONGER else ""
        words += f"{joined} {solved} of {of} runs ({in_percent(rate)}) on {where}{spread}" if of else ""
    return words


def _judgement(tables: Tables, of_range: dict[str, dict[str, tuple[int, int, Estimate]]], test: str) -> str:
    """Whether the two ranges differ in a test as expected, in words."""
    negative, positive = (of_range[eigenvalues][test] for eigenvalues in (NEGATIVE, POSITIVE))
    if positive[0]:
        return "[0, 1] solves it, which was not expected"
    if not negative[0]:
        numbers = tables[NUMBERS]
        scores = {one: numbers.loc[numbers["eigenvalues"] == one, test] for one in (NEGATIVE, POSITIVE)}
        above = scores[NEGATIVE].min() > scores[POSITIVE].max()
        every = ", though every run of [−1, 1] scores above every one of [0, 1]" if above else ""
        return f"[−1, 1] does not solve it, which was expected{every}"
    apart = "intervals apart" if negative[2].low > positive[2].high else "intervals overlap"
    some = "" if negative[0] == negative[1] else "in part "
    return f"{some}as expected ({apart})"


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A column a network: validation over steps above, the tests on trained and on longer strings below."""
    numbers, curves, lines = tables[NUMBERS], tables["curves"], tables["lines"]
    networks = list(dict.fromkeys(numbers["network"]))
    figure = Figure(figsize=(theme.WIDTH, 4.9), layout="constrained")
    grid = figure.subplots(2, len(networks), sharey=True, sharex="row", squeeze=False)
    top, bottom = grid.tolist()
    for above, below, network in zip(top, bottom, networks, strict=True):
        of_network = numbers[numbers["network"] == network]
        for eigenvalues in (POSITIVE, NEGATIVE):
            chosen = curves[(curves["network"] == network) & (curves["eigenvalues"] == eigenvalues)]
            _draw_curves(above, chosen, eigenvalues)
            _draw_tests(below, of_network[of_network["eigenvalues"] == eigenvalues], eigenvalues)
        for axes in (above, below):
            for score in lines["score"]:
                axes.axhline(score, color=theme.QUIET, lw=0.7, dashes=(5, 3), zorder=1)
        above.set_title(network, fontweight="bold")
        above.set_xlabel("step")
        below.set_xlim(-0.35, 1.35)
        below.set_xticks([0, 1], [f"{kind}:\n{_lengths(numbers, column)}" for kind, column in
                                  (("lengths trained on", "lengths"), ("longer", "longer lengths"))])  # fmt: skip
    for axes in (top[-1], bottom[-1]):
        for rule, score in lines.itertuples(index=False):
            axes.annotate(theme.wrapped(f"{rule} {number(score)}", 14), (1, score), (3, 0), va="center",
                          xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=theme.SMALL,
                          color=theme.QUIET)  # fmt: skip
    top[0].set_ylabel("validation score")
    bottom[0].set_ylabel("test score")
    handles = [
        Line2D([], [], color=COLOURS[one], ls=DASHES[one], marker=MARKS[one], ms=4, label=f"eigenvalues in {one}")
        for one in (POSITIVE, NEGATIVE)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, handlelength=3)
    theme.headline(figure, finding(tables))
    return figure


def _draw_curves(axes: Axes, curves: pd.DataFrame, eigenvalues: str) -> None:
    """Every run faintly, the median of those that are there at a step with its interval."""
    look: dict[str, Any] = {"color": COLOURS[eigenvalues], "ls": DASHES[eigenvalues]}
    for _, of_run in curves.groupby("run"):
        axes.plot(of_run["step"], of_run["value"], lw=0.7, alpha=0.45, **look)
    whole = curves.pivot(index="step", columns="run", values="value").dropna()
    if whole.empty:
        return
    over_seeds = interval(whole.to_numpy().T)
    axes.plot(whole.index, over_seeds.median, lw=1.8, marker=MARKS[eigenvalues], markevery=[-1], ms=4, **look)
    if whole.shape[1] > 1:
        axes.fill_between(whole.index, over_seeds.low, over_seeds.high, color=look["color"], alpha=0.12, linewidth=0)


def _draw_tests(axes: Axes, numbers: pd.DataFrame, eigenvalues: str) -> None:
    """A line a run from its test on trained lengths to that on longer ones."""
    for _, run in numbers.iterrows():
        scores = [run[TRAINED], run[LONGER]]
        kept = [place for place, score in enumerate(scores) if np.isfinite(score)]
        axes.plot(kept, [scores[place] for place in kept], color=COLOURS[eigenvalues], ls=DASHES[eigenvalues],
                  marker=MARKS[eigenvalues], ms=4.5, mec=theme.PAPER, mew=0.5, lw=0.9)  # fmt: skip


def caption(tables: Tables) -> str:
    """What is drawn, of which checkpoint, and what the intervals are."""
    numbers = tables[NUMBERS]
    sizes = sorted({int(size) for size in numbers.groupby(["network", "eigenvalues"])["run"].nunique()})
    each = seeds_each(sizes)
    bands = listed(sorted({interval_in_words(size) for size in sizes if size > 1}))
    band = f", the band {bands}" if bands else ""
    untested = int(numbers[TRAINED].isna().sum())
    missing = f" {untested} of {len(numbers)} runs were not tested." if untested else ""
    return (
        f"{each} for each network and range, every one drawn. Above, validation scores on strings as long as those "
        f"trained on, as logged; the thick line is the median of the seeds{band}. Below, the tests of the checkpoint "
        "that validation chose, the first with the best score; a line is a run. Solved is the card's threshold, on "
        f"longer strings too; rates are given with Wilson's {LEVEL:.0%} interval. The trivial rule's score is that on "
        "trained lengths. The range is that of the eigenvalue along "
        f"the key, 1 − β: β lies in (0, 1) or in (0, 2).{missing}"
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
