"""What attention knows of order, with and without a position encoding, and what of it holds on longer sequences.

Question:  which tasks fall without a position encoding, and with which encoding does what is learnt hold on longer
           sequences?
Expect:    attention over all positions does not change when they are shuffled: without an encoding it scores on a
           task of order what counting gives, and on adding, which asks for no order, as much as with one. A causal mask
           gives some order of itself. On longer sequences encodings of distance hold better than those of position.
Data:      the runs' scores in the test and in the test on longer sequences, the cards' thresholds and trivial rules,
           and the setting model.position.

    python analysis/order.py outputs/order
"""

import sys

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from retrograde.figures import question, theme
from retrograde.figures.comparison import (
    COUNTED,
    NUMBERS,
    STUDY,
    Comparison,
    NothingToDraw,
    Tables,
    listed,
    outcomes,
    uncounted,
)
from retrograde.figures.provenance import number, seeds_each, trivial_rule
from retrograde.figures.statistics import solve_rate

OF = STUDY

POSITION, LENGTH, LONGER = "config.model.position._target_", "config.task.length", "config.task.test_length"

NAMES = {
    "NoPosition": "none",
    "Sinusoidal": "sinusoidal",
    "Learned": "learned",
    "Rope": "rope",
    "Alibi": "alibi",
    "T5": "t5",
}
"""What the encodings are called on the command line, in the order in which they are drawn."""

NONE = "none"
PLACE, DISTANCE = ("sinusoidal", "learned"), ("rope", "alibi", "t5")
"""The encodings that tell each position apart, and those that tell how far two are from each other."""

SEES_ALL = ("transformer_encoder", "transformer_seq2seq")
"""The models whose attention is not causal, or not all of it."""

MARGIN = 0.05
"""By which every seed with an encoding has to score above every seed without for the difference to count."""

TRAINED, BEYOND = theme.Look(theme.FAMILIES[0], "-", "o"), theme.Look(theme.FAMILIES[1], "-", "D")


def load(comparison: Comparison) -> Tables:
    """``numbers`` one row a run; ``rules`` the best trivial rule and the threshold of every task."""
    wanted = [POSITION, LENGTH, LONGER, "score", "longer.score", "solved_step"]
    runs = comparison.runs.reindex(columns=list(dict.fromkeys([*comparison.runs.columns, *wanted])))
    runs = runs[runs[POSITION].notna()]
    named = runs[POSITION].map(lambda target: NAMES.get(name := str(target).rpartition(".")[2], name))
    if NONE not in set(named) or named.nunique() < 2:
        raise NothingToDraw("no model is without a position encoding and with one: model/position=none,sinusoidal")
    thresholds = runs["run"].map(lambda run: float(comparison.cards[run]["solved"]))
    numbers = pd.DataFrame(
        {
            "model": runs["model"],
            "seed": runs["seed"],
            "task": runs["task"].astype(str),
            "attention": [_attention(str(model)) for model in runs["model"]],
            "position": named,
            "outcome": outcomes(runs),
            "test score": runs["score"].astype(float),
            "score on longer": runs["longer.score"].astype(float),
            "solved from": thresholds,
            "length": runs[LENGTH],
            "longer length": runs[LONGER],
            "run": runs["run"],
        }
    )
    order = {name: place for place, name in enumerate(NAMES.values())}
    numbers = numbers.assign(place=numbers["position"].map(lambda name: order.get(name, len(order))))
    numbers = numbers.sort_values(["attention", "task", "place", "seed", "run"], ignore_index=True)
    if numbers["test score"].isna().all():
        raise NothingToDraw("no run with a position encoding or without has been tested")
    rules = []
    for task, of_task in numbers.groupby("task"):
        best = trivial_rule(comparison.cards[of_task["run"].iloc[0]])
        rules.append(
            {
                "task": task,
                "rule": None if best is None else str(best["rule"]),
                "score": np.nan if best is None else float(best["score"]),
                "solved from": float(of_task["solved from"].iloc[0]),
            }
        )
    return {"rules": pd.DataFrame(rules), NUMBERS: numbers.drop(columns="place")}


def _attention(model: str) -> str:
    """Whether a model's attention is causal, and which model it is."""
    stem = theme.family(model)
    return f"attention over all positions ({stem})" if stem in SEES_ALL else f"causal attention ({stem})"


def falls(numbers: pd.DataFrame) -> str:
    """Of the runs of one task and one kind of attention: ``falls``, ``holds``, or ``open`` where it cannot be said.

    It falls where with some encoding every seed scores higher than every seed without one, by more than ``MARGIN``. It
    holds where every seed solves it without one. A run without a score counts as one that scores nothing.
    """
    scores = {name: of["test score"].fillna(-np.inf) for name, of in numbers.groupby("position")}
    if NONE not in scores or len(scores) < 2:
        return "open"
    without = scores.pop(NONE)
    if any(of.min() > without.max() + MARGIN for of in scores.values()):
        return "falls"
    return "holds" if (without >= numbers["solved from"].iloc[0]).all() else "open"


def finding(tables: Tables) -> str:
    """Which tasks fall without an encoding, by kind of attention, and whether distance holds on longer sequences."""
    numbers = _counted(tables)
    kinds = {str(kind): str(kind).partition(" (")[0] for kind in numbers["attention"]}
    sentences = []
    for attention, of_kind in numbers.groupby("attention"):
        said: dict[str, list[str]] = {"falls": [], "holds": [], "open": []}
        for task, of_task in of_kind.groupby("task"):
            name = str(task)
            without = of_task.loc[of_task["position"] == NONE, "test score"]
            how = falls(of_task)
            said[how].append(f"{name} (to {_short(without.median())})" if how == "falls" else name)
        words = {"falls": "falls on", "holds": "holds on", "open": "shows nothing on"}
        parts = [f"{words[how]} {listed(tasks)}" for how, tasks in said.items() if tasks]
        if len(said["holds"]) == numbers["task"].nunique() > 1:
            parts = ["holds on both" if numbers["task"].nunique() == 2 else "holds on all"]
        is_told_apart = len(set(kinds.values())) == len(kinds)
        who = kinds[str(attention)] if is_told_apart else str(attention)
        sentences.append(f"{who} {listed(parts)}")
    parts = [f"Without encoding {'; '.join(sentences)}", _generalises(numbers), uncounted(tables[NUMBERS]["outcome"])]
    return ". ".join(filter(None, parts))


def _counted(tables: Tables) -> pd.DataFrame:
    numbers = tables[NUMBERS]
    return numbers[numbers["outcome"].isin(COUNTED)]


def details(tables: Tables) -> str:
    """Median scores by kind of attention, task and encoding, beside a trivial rule's; and who holds on longer ones."""
    numbers, rules = _counted(tables), tables["rules"].set_index("task")
    said = []
    for (attention, task), of_task in numbers.groupby(["attention", "task"]):
        medians = of_task.groupby("position", sort=False)["test score"].median()
        others = ", ".join(f"{name} {_short(score)}" for name, score in medians.items() if name != NONE)
        without = of_task.loc[of_task["position"] == NONE, "test score"]
        known = [f"{NONE} {_without(without, float(rules['score'][str(task)]))}", others]
        said.append(f"{attention} on {task}: {'; '.join(filter(None, known))}")
    solved = _solved(numbers)
    kept = [f"{name} {of.sum()} of {len(of)}" for name, of in solved.groupby("position", sort=False)["kept"]]
    longer = f" Solved, and on longer sequences too: {', '.join(kept)}." if kept else ""
    return f"Medians: {'. '.join(said)}.{longer}"


def _without(scores: pd.Series, trivial: float) -> str:
    """The median score without an encoding, and the best trivial rule's, where there is one."""
    median = _short(scores.median())
    if np.isnan(trivial):
        return median
    is_trivial = len(scores) > 0 and bool((scores <= trivial + MARGIN).all())
    return f"{median}, {'no better than' if is_trivial else 'beside'} a trivial rule's {_short(trivial)}"


def _short(score: float) -> str:
    return number(round(float(score), 2))


def _solved(numbers: pd.DataFrame) -> pd.DataFrame:
    """The runs that solve their task at the trained length; ``kept`` says which solve it on longer sequences too."""
    solved = numbers[numbers["score on longer"].notna() & (numbers["test score"] >= numbers["solved from"])]
    return solved.assign(kept=solved["score on longer"] >= solved["solved from"])


def _generalises(numbers: pd.DataFrame) -> str:
    """Whether runs that solve their task solve longer sequences rather with encodings of distance or of position."""
    if numbers["score on longer"].isna().all():
        return "No run was tested on longer sequences"
    solved = _solved(numbers)
    if solved.empty:
        return "No run solves its task, so that longer sequences show nothing"
    distance, place = (solved.loc[solved["position"].isin(names), "kept"] for names in (DISTANCE, PLACE))
    if distance.empty or place.empty:
        return f"{solved['kept'].sum()} of {len(solved)} runs that solve their task do so on longer sequences"
    of_distance, of_place = (solve_rate(int(one.sum()), len(one)) for one in (distance, place))
    better = "are not shown to hold better"
    if of_distance.low > of_place.high or of_distance.high < of_place.low:
        better = "hold better" if of_distance.low > of_place.high else "hold worse"
    shares = " against ".join(f"{100 * one.low:.0f} to {100 * one.high:.0f}" for one in (of_distance, of_place))
    return f"On longer sequences encodings of distance {better} than of position ({shares} %)"


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A row a kind of attention, a column a task: the score by encoding, at the trained length and on longer ones."""
    numbers, rules = tables[NUMBERS], tables["rules"].set_index("task")
    kinds, tasks = sorted(numbers["attention"].unique()), sorted(numbers["task"].unique())
    positions = [name for name in NAMES.values() if name in set(numbers["position"])]
    positions += sorted(set(numbers["position"]) - set(positions))
    figure = Figure(figsize=(theme.WIDTH, 1.6 + 2.1 * len(kinds)), layout="constrained")
    grid = figure.subplots(len(kinds), len(tasks), sharex=True, sharey="col", squeeze=False)
    for row, kind in zip(grid.tolist(), kinds, strict=True):
        for axes, task in zip(row, tasks, strict=True):
            chosen = numbers[(numbers["attention"] == kind) & (numbers["task"] == task)]
            floor = min(0.0, float(rules["score"].fillna(0)[task])) - 0.1
            _draw_rules(axes, rules.loc[task])
            _draw_scores(axes, chosen, "test score", positions, -0.14, TRAINED, floor)
            _draw_scores(axes, chosen, "score on longer", positions, 0.14, BEYOND, floor)
            axes.set_ylim(floor, 1.05)
            axes.set_xlim(-0.5, len(positions) - 0.5)
            axes.set_xticks(range(len(positions)), positions, rotation=35, ha="right", rotation_mode="anchor")
            if axes.get_subplotspec().is_first_row():
                axes.set_title(task, fontweight="bold")
        row[0].set_ylabel(f"{theme.wrapped(kind, 24)}\nscore")
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, ms=4.5, lw=0, label=words)
        for look, words in ((TRAINED, "length of training"), (BEYOND, "longer sequences"))
    ]
    handles.append(Line2D([], [], color=theme.INK, lw=0.7, dashes=(4, 3), label="best trivial rule"))
    handles.append(Line2D([], [], color=theme.QUIET, lw=0.7, dashes=(1, 1.5), label="solved"))
    handles.append(Line2D([], [], color=theme.QUIET, marker="v", ms=4.5, lw=0, label="below the axis, or not tested"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, columnspacing=1.2)
    theme.headline(figure, finding(tables))
    return figure


def _draw_rules(axes: Axes, rule: pd.Series) -> None:
    axes.axhline(rule["solved from"], color=theme.QUIET, lw=0.7, dashes=(1, 1.5), zorder=1)
    if not np.isnan(rule["score"]):
        axes.axhline(rule["score"], color=theme.INK, lw=0.7, dashes=(4, 3), zorder=1)


def _draw_scores(
    axes: Axes, numbers: pd.DataFrame, column: str, positions: list[str], aside: float, look: theme.Look, floor: float
) -> None:
    """Every seed as a mark beside the others, the median as a bar; a triangle for what the axis cannot show."""
    if column == "score on longer" and numbers[column].isna().all():
        return
    for place, position in enumerate(positions):
        values = numbers.loc[numbers["position"] == position, column]
        if values.empty:
            continue
        x = place + aside + 0.05 * (np.arange(len(values)) - (len(values) - 1) / 2)
        inside = (values >= floor).to_numpy()
        for marks, marker, height in (
            (inside, look.marker, values[inside]),
            (~inside, "v", np.full(sum(~inside), floor)),
        ):
            if marks.any():
                axes.plot(x[marks], height, marker, color=look.colour, ms=4, mec=theme.PAPER, mew=0.4, clip_on=False)
        middle = float(values.median(skipna=False))
        if middle >= floor:
            axes.plot([x[0] - 0.08, x[-1] + 0.08], [middle, middle], color=look.colour, lw=1.2, alpha=0.7)


def caption(tables: Tables) -> str:
    """What is drawn, which attention is causal, and what the lengths are."""
    numbers = tables[NUMBERS]
    seeds = sorted(map(int, numbers.groupby(["attention", "task", "position"])["run"].nunique().unique()))
    each = seeds_each(seeds)
    lengths = [
        f"{task}: {number(length)}, then {number(longer)}"
        for task, length, longer in numbers[["task", "length", "longer length"]].drop_duplicates().values.tolist()
    ]
    causal = listed(sorted({str(kind) for kind in numbers["attention"]}))
    return (
        "Score on the test set of the checkpoint that validation chose, and of the same checkpoint on longer "
        f"sequences, by position encoding. Models: {causal}. A causal mask alone tells a query how many keys it "
        "sees, attention over all positions without an encoding tells nothing. "
        f"Lengths of training and of the longer test are, by task, {'; '.join(lengths)}. Dashed is the best of the "
        "trivial rules on the task's card, dotted the score from which on it counts as solved. A task is said to fall "
        "where with some encoding every seed scores higher than every seed without one, by more than "
        f"{MARGIN:g}. Intervals of shares of runs are Wilson's, 95 %. {each} for each, every one a mark; bars "
        f"are medians, there is no band. {details(tables)}"
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
