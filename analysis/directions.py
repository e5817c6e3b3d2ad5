"""How often recurrent networks err that read in one direction or in both, in one layer or in several.

Question:  does a network that reads in both directions, or in several layers, err less than one that reads forward in
           one, where every position is tagged and where a text gets one label?
Expect:    where every position is due, what follows it tells as much as what stands before it: both directions err
           less. Where the last position alone is due, the forward reading has seen all of the text there and a single
           layer's backward reading one token: with one layer there is nothing to gain. Of layers nothing is expected.
Data:      the settings model.bidirectional and model.layers; the runs' parameters and test scores; the cards' trivial
           rules.

    python analysis/directions.py outputs/directions
"""

import sys
from math import comb

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from retrograde.figures import question, theme
from retrograde.figures.comparison import NUMBERS, STUDY, Comparison, NothingToDraw, Tables, listed, outcomes
from retrograde.figures.provenance import number, seeds_each, trivial_rule
from retrograde.figures.statistics import interval, interval_in_words

OF = STUDY

BOTH_WAYS, LAYERS = "config.model.bidirectional", "config.model.layers"

ONE, BOTH = "one", "both"

LOOKS = {ONE: theme.Look(theme.FAMILIES[0], "-", "o"), BOTH: theme.Look(theme.FAMILIES[1], (0, (5, 1.6)), "D")}

LAST = "the last position"
"""What cards say is scored where a sequence gets one answer, when it has been read."""

FEWER, MORE, OPEN = "fewer", "more", "open"

SETTING = ["task", "model", "directions", "layers"]


def load(comparison: Comparison) -> Tables:
    """``numbers`` one row a run; ``rules`` the errors of every task's best trivial rule, and what is due in it."""
    wanted = [BOTH_WAYS, LAYERS, "score", "parameters"]
    runs = comparison.runs.reindex(columns=list(dict.fromkeys([*comparison.runs.columns, *wanted])))
    runs = runs[runs[BOTH_WAYS].notna() & runs[LAYERS].notna()]
    if runs[BOTH_WAYS].nunique() < 2:
        raise NothingToDraw("no model reads forward and in both directions: model=gru model.bidirectional=false,true")
    numbers = pd.DataFrame(
        {
            "task": runs["task"].astype(str),
            "model": [theme.family(str(model)) for model in runs["model"]],
            "directions": [BOTH if both else ONE for both in runs[BOTH_WAYS]],
            "layers": runs[LAYERS].astype(int),
            "seed": runs["seed"],
            "outcome": outcomes(runs),
            "test score": runs["score"].astype(float),
            "test errors": 1 - runs["score"].astype(float),
            "parameters": runs["parameters"],
            "run": runs["run"],
        }
    )
    if numbers["test score"].isna().all():
        raise NothingToDraw("no run that reads in one direction or both has been tested")
    if numbers.duplicated([*SETTING, "seed"]).any():
        raise NothingToDraw("runs of one task and model differ in more than directions, layers and seed")
    order = numbers["directions"].map([ONE, BOTH].index)
    numbers = numbers.assign(order=order).sort_values(["task", "model", "layers", "order", "seed"], ignore_index=True)
    rules = []
    for task, of_task in numbers.groupby("task"):
        card = comparison.cards[of_task["run"].iloc[0]]
        best = trivial_rule(card)
        known = (None, np.nan) if best is None else (str(best["rule"]), 1 - float(best["score"]))
        rules.append((task, *known, str(card["scored"]) == LAST, str(card["scored"])))
    columns = ["task", "rule", "errors", "at the end alone", "scored"]
    return {"rules": pd.DataFrame(rules, columns=columns), NUMBERS: numbers.drop(columns="order")}


def against(ours: pd.Series, theirs: pd.Series) -> str:
    """``fewer`` where each of our seeds errs less than each of theirs, ``more`` the other way round, else ``open``.

    A run without a score errs more than any that has one.
    """
    ours, theirs = ours.fillna(np.inf), theirs.fillna(np.inf)
    if ours.empty or theirs.empty:
        return OPEN
    if ours.max() < theirs.min():
        return FEWER
    return MORE if ours.min() > theirs.max() else OPEN


def pairs(numbers: pd.DataFrame) -> pd.DataFrame:
    """By task, model and layers: the median errors in one direction and in both, and which errs less."""
    rows = []
    for (task, model, layers), of_setting in numbers.groupby(["task", "model", "layers"]):
        of = {one: of_setting.loc[of_setting["directions"] == one, "test errors"] for one in (ONE, BOTH)}
        if len(of[ONE]) and len(of[BOTH]):
            seeds = [len(of[one]) for one in (ONE, BOTH)]
            rows.append((task, model, layers, *(of[one].median() for one in (ONE, BOTH)), *seeds,
                         against(of[BOTH], of[ONE])))  # fmt: skip
    columns = ["task", "model", "layers", ONE, BOTH, "seeds of one", "seeds of both", "both err"]
    return pd.DataFrame(rows, columns=columns)


def finding(tables: Tables) -> str:
    """Where both directions err less, where theory had it otherwise, and what further layers change."""
    numbers, rules = tables[NUMBERS], tables["rules"].set_index("task")
    table, said, surprises = pairs(numbers), [], []
    if table.empty:
        return "No number of layers was run in one direction and in both, so that nothing can be compared"
    several = numbers["model"].nunique() > 1
    for task, of_task in table.groupby("task", sort=False):
        counts = of_task["both err"].value_counts()
        fewest = int(of_task["layers"].min())
        medians = [
            f"{f'{model} ' * several}{_errors(of_setting, ONE)} to {_errors(of_setting, BOTH)}"
            for model, of_setting in numbers[(numbers["task"] == task) & (numbers["layers"] == fewest)].groupby("model")
            if of_setting["directions"].nunique() > 1
        ]
        more = f", more in {counts[MORE]}" if MORE in counts else ""
        said.append(
            f"on {task} in {counts.get(FEWER, 0)} of {len(of_task)} settings{more} ({_layers(fewest)}: "
            f"{', '.join(medians)})"
        )
        for layers in map(int, np.unique(of_task["layers"])):
            of_layers = of_task[of_task["layers"] == layers]
            gains = of_layers["both err"] == FEWER
            expected = not rules["at the end alone"][task]
            if not expected and layers > 1:
                continue  # the layers above read forward over what the lowest read backward
            odd = of_layers.loc[gains != expected, "model"].tolist()
            if odd:
                surprises.append(f"{listed(odd)} {'not' if expected else 'less'} on {task} with {_layers(layers)}")
    verdict = "as theory says" if not surprises else f"against theory {', '.join(surprises)}"
    return f"Both directions err less {', '.join(said)}: {verdict}{_of_layers(numbers)}"


def _errors(numbers: pd.DataFrame, directions: str) -> str:
    """Of runs with a score the median and its interval, and how many they are."""
    known = numbers.loc[numbers["directions"] == directions, "test errors"].dropna().to_numpy()
    if not len(known):
        return "not tested"
    over = interval(known)
    middle, low, high = (percent(float(end)) for end in (over.median, over.low, over.high))
    return f"{middle} ({low.removesuffix(' %')} to {high}, n = {len(known)})"


def _layers(count: int) -> str:
    return f"{count} layer{'s' * (count != 1)}"


def _of_layers(numbers: pd.DataFrame) -> str:
    """How often the most layers err less than the fewest; empty where there is one number of layers alone."""
    results = []
    for _, of_setting in numbers.groupby(["task", "model", "directions"]):
        fewest, most = of_setting["layers"].min(), of_setting["layers"].max()
        if most > fewest:
            errors = of_setting.set_index("layers")["test errors"]
            results.append(against(errors[[most]], errors[[fewest]]))
    if not results:
        return ""
    fewest, most = numbers["layers"].min(), numbers["layers"].max()
    return (
        f"; with {most} layers errors are fewer than with {fewest} in {results.count(FEWER)} and more in "
        f"{results.count(MORE)} of {len(results)} comparisons"
    )


def percent(share: float) -> str:
    """
    >>> percent(0.0512), percent(0.00213), percent(float("nan"))
    ('5.1 %', '0.21 %', '–')
    """
    return f"{number(float(f'{100 * share:.2g}'))} %" if np.isfinite(share) else number(np.nan)


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A row a model, a column a task: the share of errors by layers, in one direction and in both."""
    numbers, rules = tables[NUMBERS], tables["rules"].set_index("task")
    models, tasks = sorted(numbers["model"].unique()), sorted(numbers["task"].unique())
    layers = sorted(numbers["layers"].unique())
    figure = Figure(figsize=(theme.WIDTH, 1.7 + 2.3 * len(models)), layout="constrained")
    grid = figure.subplots(len(models), len(tasks), sharex=True, sharey="col", squeeze=False)
    limits = {task: _limits(numbers[numbers["task"] == task], rules["errors"][task]) for task in tasks}
    for row, model in zip(grid.tolist(), models, strict=True):
        for axes, task in zip(row, tasks, strict=True):
            axes.set_yscale("log")
            axes.set_ylim(*limits[task])
            chosen = numbers[(numbers["task"] == task) & (numbers["model"] == model)]
            axes.axhline(rules["errors"][task], color=theme.INK, lw=0.7, dashes=(4, 3), zorder=1)
            for directions, aside in ((ONE, -0.12), (BOTH, 0.12)):
                _draw_errors(axes, chosen[chosen["directions"] == directions], directions, layers, aside)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
            axes.set_xlim(-0.5, len(layers) - 0.5)
            axes.set_xticks(range(len(layers)), [str(one) for one in layers])
            place = axes.get_subplotspec()
            if place.is_first_row():
                due = "at the end alone" if rules["at the end alone"][task] else "along the sequence"
                axes.set_title(f"{task}: due {due}", fontweight="bold")
            if place.is_last_row():
                axes.set_xlabel("layers")
        row[0].set_ylabel(f"{model}\ntest errors (share)" if len(models) > 1 else "test errors (share)")
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, ms=4.5, ls=look.dash, lw=1.2, label=words)
        for look, words in ((LOOKS[ONE], "one direction"), (LOOKS[BOTH], "both directions"))
    ]
    handles.append(Line2D([], [], color=theme.INK, lw=0.7, dashes=(4, 3), label="best trivial rule"))
    for marker, words, any_ in (
        ("v", "no error", (numbers["test errors"] <= 0).any()),
        ("x", "not tested", numbers["test errors"].isna().any()),
    ):
        if any_:
            handles.append(Line2D([], [], color=theme.QUIET, marker=marker, ms=4.5, lw=0, label=words))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, handlelength=3)
    theme.headline(figure, finding(tables))
    return figure


def _limits(numbers: pd.DataFrame, rule: float) -> tuple[float, float]:
    """Of the axis: all errors that a logarithm has, and the rule."""
    drawn = [error for error in (*numbers["test errors"], rule) if error > 0]
    return (min(drawn) / 1.4, max(drawn) * 1.1) if drawn else (1e-3, 1.0)


def _draw_errors(axes: Axes, numbers: pd.DataFrame, directions: str, layers: list[int], aside: float) -> None:
    """Every seed as a mark beside the others, and a line through the medians."""
    look, (low, high) = LOOKS[directions], axes.get_ylim()
    medians = numbers.groupby("layers")["test errors"].median()
    places = [layers.index(one) + aside for one in medians.index]
    axes.plot(places, medians.where(medians > 0), color=look.colour, ls=look.dash, lw=1.2, alpha=0.8)
    for at_layers in np.unique(numbers["layers"]):
        errors = numbers.loc[numbers["layers"] == at_layers, "test errors"].to_numpy()
        x = layers.index(at_layers) + aside + 0.05 * (np.arange(len(errors)) - (len(errors) - 1) / 2)
        missing, none = np.isnan(errors), errors <= 0
        for chosen, marker, height, edge in (
            (~missing & ~none, look.marker, errors, theme.PAPER),
            (none, "v", np.full(len(errors), low), theme.PAPER),
            (missing, "x", np.full(len(errors), high), look.colour),
        ):
            if chosen.any():
                axes.plot(x[chosen], height[chosen], marker, color=look.colour, ms=4.5, mec=edge, mew=0.6,
                          clip_on=False, zorder=4)  # fmt: skip


def caption(tables: Tables) -> str:
    """What is drawn, how large the models are, what is due, and how far few seeds carry the comparison."""
    numbers, rules = tables[NUMBERS], tables["rules"]
    seeds = sorted(map(int, numbers.groupby(SETTING)["run"].nunique().unique()))
    each = seeds_each(seeds)
    sizes = numbers["parameters"].dropna().astype(float)
    size = f"{number(sizes.min())} to {number(sizes.max())}" if sizes.nunique() > 1 else number(sizes.max())
    scored = "; ".join(f"{row.task}: {row.scored}" for row in rules.itertuples())
    chance = 2 / comb(2 * seeds[0], seeds[0])
    return (
        "Share of the scored positions that the checkpoint which validation chose gets wrong on the test set, on a "
        f"log axis, by direction and layers. Scored are, by task, {scored}. Dashed is the best of the trivial rules on "
        f"the task's card. Models have {size} parameters. A network is said to err less where every one of its seeds "
        f"errs less than every seed of the other, which of two alike with {seeds[0]} seed{'s' * (seeds[0] != 1)} each "
        f"happens one way or the other in {percent(chance)} of comparisons. {each} for each, every one a mark; lines "
        f"are medians, there is no band; the finding's ends are {interval_in_words(seeds[-1])}."
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
