"""What attention looks at.

Question:  what does attention look at, before and after training?
Expect:    evenly at everything before training; afterwards the scored position looks at the inputs that it needs.
Data:      readings attention/map (the stored samples' first) and attention/entropy_share, distance and confidence, of
           the first and the last snapshot of each model's first seed; the probe batch in words.

    python analysis/attention_maps.py outputs/demo
"""

import sys

import pandas as pd
from matplotlib.figure import Figure

from retrograde.figures import question, theme
from retrograde.figures.comparison import AFTER, BEFORE, NUMBERS, Comparison, Tables, ends
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
    span,
)
from retrograde.figures.provenance import number

PER_HEAD = {"entropy_share": "entropy (share of even)", "distance": "distance (positions)", "confidence": "confidence"}


def load(comparison: Comparison) -> Tables:
    """``maps`` model, when, layer, head, query, key, value; ``labels`` of that sample; ``numbers`` one row a head."""
    heads = pd.concat(
        [ends(comparison.readings(f"attention/{name}")).assign(quantity=name) for name in PER_HEAD], ignore_index=True
    )
    first, maps = first_maps(comparison, "attention/map", heads)
    heads = heads[heads["run"].isin(first)]
    labels = labels_of(comparison, first)
    return {
        "maps": readable(maps)[["model", "when", "step", "layer", "head", "query", "key", "value"]],
        "labels": labels,
        NUMBERS: _numbers(heads, maps, labels),
    }


def _numbers(heads: pd.DataFrame, maps: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """A row per head, a column per quantity and end of training."""
    found = [heads, on_marked(maps, labels)]
    table = pd.concat(found, ignore_index=True).astype({"model": maps["model"].dtype})
    names = {"on_marked": ON_MARKED, **PER_HEAD}
    table["column"] = table["quantity"].map(names) + ", " + table["when"]
    wide = table.pivot(index=["model", "seed", "layer", "head", "run"], columns="column", values="value")
    order = [f"{name}, {when}" for name in names.values() for when in (BEFORE, AFTER)]
    wide = wide[[column for column in order if column in wide]].reset_index().rename_axis(columns=None)
    return wide[[column for column in wide if column != "run"] + ["run"]]


def finding(tables: Tables) -> str:
    """What the head that looks most at the marked inputs puts there; where none are marked, how sharp heads are.

    In words of each model where these are few, else over all of them.
    """
    numbers = tables[NUMBERS]
    marked = f"{ON_MARKED}, {AFTER}"
    parts = []
    looking = []
    for model in theme.present(numbers["model"]):
        of_model = numbers[numbers["model"] == model]
        if marked in of_model and of_model[marked].notna().any():
            best = of_model.sort_values(marked, na_position="first").iloc[-1]
            before = of_model.reindex(columns=[f"{ON_MARKED}, {BEFORE}"]).max().item()
            looking.append((100 * before, 100 * best[marked]))
            parts.append(
                f"{model}: after training head {best['head']} of layer {best['layer']} puts {100 * best[marked]:.0f} % "
                f"of the scored position's attention on the marked inputs{at_most([100 * before])}"
            )
        else:
            values = [number(round(value, 2)) for value in _entropies(of_model)]
            parts.append(f"{model}: a head's median entropy is {' → '.join(values)} of an even spread's")
    if len(parts) <= FEW:
        return "; ".join(parts)
    if looking:
        said = most_in_words(looking, "attention")
        return f"{said[0].upper()}{said[1:]}"
    entropies = zip(*(_entropies(of_model) for _, of_model in numbers.groupby("model", observed=True)), strict=True)
    spread = " → ".join(span(of_end, 2) for of_end in entropies)
    return f"Over {len(parts)} models a head's median entropy is {spread} of an even spread's"


def _entropies(numbers: pd.DataFrame) -> list[float]:
    """The median over heads, before and after training, as far as there is either."""
    columns = [f"{PER_HEAD['entropy_share']}, {when}" for when in (BEFORE, AFTER)]
    return [float(numbers[column].median()) for column in columns if column in numbers]


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A row per layer before training, then one per layer after it; a column per head; model under model."""
    figure = drawn(tables["maps"], tables["labels"], "attention weight (square-root scale, one for all maps)")
    theme.headline(figure, finding(tables))
    return figure


def caption(tables: Tables) -> str:
    """What is drawn, of which seed, and how to read it."""
    numbers = tables[NUMBERS].drop_duplicates("model")
    seeds = ", ".join(f"{model} seed {seed}" for model, seed in zip(numbers["model"], numbers["seed"], strict=True))
    marked = " Inputs that the task marks are named in bold." if tables["labels"]["marked"].any() else ""
    return (
        "Attention weights of the probe batch's first sample, queries downward, keys to the right, each row summing "
        f"to 1; {seeds}, the first seed, not an average. Shared colour scale, by the square root, so that an even "
        f"spread over many positions stays visible.{marked} A map stored in blocks shows each block's sum of weights."
        f"{shown(tables['maps'], tables[NUMBERS])}"
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
