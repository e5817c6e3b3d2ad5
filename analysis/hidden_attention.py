"""What layers without attention look at: the matrix that a linear recurrence or a long convolution applies.

Question:  which inputs does a layer without attention pass on to a position, before and after training?
Expect:    before training the recent past, fading with distance; afterwards the scored position looks more at the
           inputs that it needs.
Data:      readings hidden_attention/map, distance and entropy of the first and the last snapshot, maps of each model's
           first seed; the probe batch in words.

    retrograde-probe outputs/demo/RUN hidden_attention
    python analysis/hidden_attention.py outputs/demo
"""

import sys

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from retrograde.figures import question, theme
from retrograde.figures.comparison import (
    AFTER,
    BEFORE,
    NUMBERS,
    Comparison,
    NotRecorded,
    Tables,
    at_ends,
    ends,
    listed,
    listed_in_short,
)
from retrograde.figures.maps import (
    FEW,
    ON_MARKED,
    at_most,
    drawn,
    first_maps,
    labels_of,
    most_in_words,
    on_marked,
    readable,
    shown,
)
from retrograde.figures.provenance import models_in_words, number, seeds_each
from retrograde.figures.statistics import interval_in_words

PER_HEAD = {"distance": "distance (positions)", "entropy": "entropy (nats)"}

HEADS = "heads"
CHANNELS, SINGLE = "mean over channels", "one by one"
"""Whether a layer's heads are so many that they are told as their mean alone."""


def load(comparison: Comparison) -> Tables:
    """``maps`` model, when, layer, head, query, key, value; ``labels`` of that sample; ``numbers`` one row a head."""
    try:
        heads = pd.concat([_heads(comparison, name) for name in PER_HEAD], ignore_index=True)
    except NotRecorded as none:
        asked = "retrograde-probe RUN hidden_attention"
        raise NotRecorded(f"{none}, which is recorded where it is asked for: {asked}") from none
    first, maps = first_maps(comparison, "hidden_attention/map", heads)
    labels = labels_of(comparison, first)
    return {
        "maps": readable(maps)[["model", "when", "step", "layer", "head", "query", "key", "value"]],
        "labels": labels,
        NUMBERS: _numbers(heads, maps, labels),
    }


def _heads(comparison: Comparison, name: str) -> pd.DataFrame:
    """A quantity by head; of a layer whose heads are its channels their mean, as head 0."""
    table = comparison.readings(f"hidden_attention/{name}")
    table = ends(table.reindex(columns=list(dict.fromkeys([*table.columns, "head", "statistic"]))))
    of_channels = table["head"].isna()
    table = table[~of_channels | (table["statistic"] == "mean")]
    kinds = np.where(table["head"].isna(), CHANNELS, SINGLE)
    return table.assign(quantity=name, head=table["head"].fillna(0).astype(int), **{HEADS: kinds})


def _numbers(heads: pd.DataFrame, maps: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """A row per head of every run, a column per quantity and end of training; weights where there are maps."""
    of_maps = on_marked(maps, labels)
    known = heads[["run", "layer", "head", HEADS]].drop_duplicates()
    table = pd.concat([heads.drop(columns=HEADS), of_maps], ignore_index=True).merge(known, on=["run", "layer", "head"])
    names = {"on_marked": ON_MARKED, **PER_HEAD}
    table["column"] = table["quantity"].map(names) + ", " + table["when"]
    index = ["model", "seed", "layer", "head", HEADS, "run"]
    wide = table.astype({"model": maps["model"].dtype}).pivot(index=index, columns="column", values="value")
    order = [f"{name}, {when}" for name in names.values() for when in (BEFORE, AFTER)]
    wide = wide[[column for column in order if column in wide]].reset_index().rename_axis(columns=None)
    wide = wide.sort_values(["model", "seed", "run", "layer", "head"], ignore_index=True)
    return wide[[column for column in wide if column != "run"] + ["run"]]


def finding(tables: Tables) -> str:
    """How far away heads look, and what the one that looks most at the marked inputs puts there."""
    numbers = tables[NUMBERS]
    models = theme.present(numbers["model"])
    sizes = [int(size) for size in sorted(set(numbers.groupby("model", observed=True)["run"].nunique()))]
    column = f"{PER_HEAD['distance']}, {{}}"
    whens = at_ends(numbers, column)
    names = [column.format(when) for when in whens]
    per_run = numbers.reindex(columns=["model", "run", *names]).groupby(["model", "run"], observed=True).mean()
    said = models_in_words(per_run.reset_index(), names, _short)
    parts = [f"A head looks so many positions away, {' → '.join(whens)} training, {seeds_each(sizes)}: {said}"]
    weights = {model: _most_marked(numbers[numbers["model"] == model]) for model in models}
    found = {model: weight for model, weight in weights.items() if weight is not None}
    if len(found) > FEW:
        parts.append(most_in_words([shares for _, shares in found.values()], "weight"))
    else:
        parts += [f"{model}: {words}" for model, (words, _) in found.items()]
    kinds = {
        "as expected more than before training in": [
            model for model, (_, (most, best)) in found.items() if best > most
        ],
        "against expectation no more in": [model for model, (_, (most, best)) in found.items() if best <= most],
    }
    told = ", ".join(f"{kind} {listed_in_short(names)}" for kind, names in kinds.items() if names)
    return "; ".join([*parts, told] if told else parts)


def _short(value: float) -> str:
    return number(round(value, 1))


def _most_marked(numbers: pd.DataFrame) -> tuple[str, tuple[float, float]] | None:
    """Which head looks most at the marked inputs after training; what any did before it at most, and what it does.

    Both in percent; NaN where none was read before.
    """
    before, after = (f"{ON_MARKED}, {when}" for when in (BEFORE, AFTER))
    if after not in numbers or numbers[after].isna().all():
        return None
    best = numbers.sort_values(after, ascending=False, kind="stable").iloc[0]
    head = f"head {best['head']} of " if best[HEADS] == SINGLE else ""
    words = (
        f"{head}layer {best['layer']} puts {100 * best[after]:.0f} % of the scored position's weight on the marked "
        f"inputs (seed {best['seed']})"
    )
    most = 100 * numbers.reindex(columns=[before]).max().item()
    return words + at_most([most]), (most, 100 * best[after])


@theme.applied()
def draw(tables: Tables) -> Figure:
    """As attention: a row a layer, heads side by side, or the one map before and after training; model under model."""
    figure = drawn(
        tables["maps"], tables["labels"], "share of a row's absolute weights (square-root scale, one for all)"
    )
    theme.headline(figure, finding(tables))
    return figure


def caption(tables: Tables) -> str:
    """What is drawn, of which seed, what became of signs and channels, and how to read it."""
    numbers = tables[NUMBERS]
    by_seed = numbers.drop_duplicates("model")
    seeds = ", ".join(f"{model} seed {seed}" for model, seed in zip(by_seed["model"], by_seed["seed"], strict=True))
    sizes = [int(size) for size in sorted(set(numbers.groupby("model", observed=True)["run"].nunique()))]
    brackets = listed(sorted({interval_in_words(size) for size in sizes if size > 1}))
    spread = f" Distances in the finding: medians over seeds; in brackets {brackets}, of the last." if brackets else ""
    channels = theme.present(numbers.loc[numbers[HEADS] == CHANNELS, "model"])
    means = (
        f" The heads of {listed(channels)} are channels of one value each; shown and counted is their mean."
        if channels
        else ""
    )
    marked = " Inputs that the task marks are named in bold." if tables["labels"]["marked"].any() else ""
    return (
        "The matrix from each position to each that a layer applies to its values, queries downward, keys rightward, "
        f"of the probe batch's first sample; {seeds}, the first seed, not an average. Its entries have signs; shown "
        "are their sizes, each row over its sum. What is made of an input before it is written, such as by a short "
        f"convolution, and what never was in the state are not in it.{means} Shared colour scale, by the square root."
        f"{marked} A map stored in blocks shows each block's sum of weights.{spread}"
        f"{shown(tables['maps'], numbers)}"
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
