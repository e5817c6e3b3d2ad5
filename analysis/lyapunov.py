"""How fast changes of the state grow or fade, direction by direction.

Question:  does a change of the state grow or fade, and along how many directions, before and after training?
Expect:    before training every direction fades, the fastest forgotten within a few positions; training brings the
           largest exponent nearer to 0, where a change is kept. Above 0 a model whose state is bounded
           is chaotic.
Data:      readings lyapunov/finite, asymptotic and maximum of the first and the last snapshot.

    retrograde-probe outputs/demo/RUN lyapunov
    python analysis/lyapunov.py outputs/demo
"""

import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

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
from retrograde.figures.provenance import models_in_words, number, seeds_each, seeds_in_words
from retrograde.figures.statistics import interval, interval_in_words

FINITE, ASYMPTOTIC = "finite", "asymptotic"
"""Over one sample, and over many times: as the probe calls them."""

TITLES = {FINITE: "finite time: over one sample", ASYMPTOTIC: "asymptotic: over many times"}

LARGEST = f"largest {ASYMPTOTIC}, {{}}"
"""The column that is told in words, by end of training."""

NEUTRAL = 1e-3
"""Nats per time, to either side of 0: over 1,000 times, which the probe follows, such a change grows by less than e."""

LINEAR = 0.1
"""Nats per time, to either side of 0, within which the axis is linear."""

DASHES = {BEFORE: (0, (3, 1.5)), AFTER: "-"}


def load(comparison: Comparison) -> Tables:
    """``exponents`` run, when, kind, layer, sample, index, of, value, status; ``numbers`` one row a run.

    ``of`` is how many exponents there are, as many as the layer's state has numbers.
    """
    try:
        largest = ends(comparison.readings("lyapunov/maximum"))
    except NotRecorded as none:
        raise NotRecorded(f"{none}, which is recorded where it is asked for: retrograde-probe RUN lyapunov") from none
    steps = sorted(int(step) for step in largest["step"].unique())
    parts = [ends(comparison.readings(f"lyapunov/{kind}", steps)).assign(kind=kind) for kind in (FINITE, ASYMPTOTIC)]
    columns = ["model", "seed", "run", "when", "step", "kind", "layer", "sample", "index", "value", "status"]
    exponents = pd.concat(parts, ignore_index=True).astype({"model": largest["model"].dtype})
    exponents = exponents.sort_values(columns[:9], ignore_index=True)[columns]
    exponents.insert(9, "of", exponents.groupby(["run", "layer", "kind"])["index"].transform("max") + 1)
    return {"exponents": exponents, NUMBERS: _numbers(exponents)}


def _numbers(exponents: pd.DataFrame) -> pd.DataFrame:
    """By run the largest exponent of any layer, of either kind: a stack's are those of its layers together."""
    rows = []
    for (model, seed, run), of_run in exponents.groupby(["model", "seed", "run"], observed=True):
        row: dict[str, object] = {"model": model, "seed": seed}
        for kind in (ASYMPTOTIC, FINITE):
            for when in (BEFORE, AFTER):
                values = of_run.loc[(of_run["kind"] == kind) & (of_run["when"] == when), "value"].to_numpy()
                row[f"largest {kind}, {when}"] = values.max() if len(values) else np.nan  # NaN where any is
        row["exponents"] = int(of_run.drop_duplicates("layer")["of"].sum())
        rows.append(row | {"step after": int(of_run["step"].max()), "run": run})
    return pd.DataFrame(rows).astype({"model": exponents["model"].dtype})


def finding(tables: Tables) -> str:
    """The largest exponents before and after training, which lie above 0, and whether training kept more."""
    numbers = tables[NUMBERS]
    models = theme.present(numbers["model"])
    sizes = [int(size) for size in sorted(set(numbers.groupby("model", observed=True)["run"].nunique()))]
    whens = at_ends(numbers, LARGEST)
    said = models_in_words(numbers, [LARGEST.format(when) for when in whens], _short)
    parts = [f"Largest asymptotic exponent {' → '.join(whens)} training, nats per time, {seeds_each(sizes)}: {said}"]
    parts += [_growing(numbers, models, whens[-1]), _nearer(numbers)]
    return "; ".join(part for part in parts if part)


def _short(value: float) -> str:
    return number(float(f"{value:.2g}"))


def _growing(numbers: pd.DataFrame, models: Sequence[str], when: str) -> str:
    """Whose largest exponent lies above 0, and whose cannot be told from it."""
    above: list[str] = []
    neutral: list[str] = []
    unknown: list[str] = []
    for model in models:
        values = numbers.loc[numbers["model"] == model, LARGEST.format(when)]
        for found, kind in (
            (values > NEUTRAL, above),
            (values.abs() <= NEUTRAL, neutral),
            (values.isna(), unknown),
        ):
            if found.any():
                every = "every seed" if len(values) > 1 else "its one seed"
                kind.append(f"{model} with {every if found.all() else f'{int(found.sum())} of {len(values)} seeds'}")
    if above:
        said = [f"above 0 {when} training, chaos where the state is bounded: {listed_in_short(above)}"]
    else:
        said = [f"none is above 0 {when} training"] if numbers[LARGEST.format(when)].notna().any() else []
    said += [f"not told apart from 0: {listed_in_short(neutral)}"] if neutral else []
    return "; ".join([*said, f"unknown: {listed_in_short(unknown)}"] if unknown else said)


def _nearer(numbers: pd.DataFrame) -> str:
    """Whether training brings the largest exponent nearer to 0, as expected, in runs where it was not there before."""
    table = numbers.dropna(subset=[LARGEST.format(when) for when in (BEFORE, AFTER)])
    before, after = (table[LARGEST.format(when)].abs() for when in (BEFORE, AFTER))
    table = table[(before > NEUTRAL) | (after > NEUTRAL)]
    nearer = table.assign(nearer=(after < before) | (after <= NEUTRAL)).groupby("model", observed=True)["nearer"]
    counts = {model: (int(nearer.sum()[model]), int(nearer.count()[model])) for model in theme.present(table["model"])}
    kinds = {
        "as expected, in": [model for model, (some, of) in counts.items() if some == of],
        "against expectation not in": [
            f"{model} ({some} of {of})" for model, (some, of) in counts.items() if some < of
        ],
    }
    said = [f"{kind} {listed_in_short(names)}" for kind, names in kinds.items() if names]
    return f"training brings it nearer to 0 with every seed, {', '.join(said)}" if said else ""


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A row a model and layer, exponents by their rank before and after training; finite time, then asymptotic."""
    exponents = tables["exponents"]
    looks = theme.looks(exponents["model"])
    found = exponents[["model", "layer"]].drop_duplicates().itertuples(index=False, name=None)
    rows = sorted(found, key=lambda row: (theme.present(exponents["model"]).index(row[0]), row[1]))
    several = exponents.groupby("model", observed=True)["layer"].nunique()
    figure = Figure(figsize=(theme.WIDTH, 1.5 * len(rows) + 1.5), layout="constrained")
    grid = figure.subplots(len(rows), 2, sharex=True, sharey=True, squeeze=False)
    floor, top = _span(exponents["value"])
    for line, (model, layer) in zip(grid, rows, strict=True):
        of_row = exponents[(exponents["model"] == model) & (exponents["layer"] == layer)]
        for axes, kind in zip(line, (FINITE, ASYMPTOTIC), strict=True):
            of_panel = of_row[of_row["kind"] == kind]
            axes.axhspan(0, top, color=theme.RULE, alpha=0.55, linewidth=0)
            axes.axhline(0, color=theme.INK, linewidth=0.7)
            for when in (BEFORE, AFTER):
                colour = looks[model].colour if when == AFTER else theme.QUIET
                _draw_spectra(axes, of_panel[of_panel["when"] == when], colour, DASHES[when], floor)
            said = "not recorded: a decoder begins with what its encoder says" if of_panel.empty else ""
            theme.note(axes, said or oddities(of_panel), (0.38, 0.8))
        name = f"{model}, layer {layer}" if several[model] > 1 else model
        line[0].set_title(name, fontweight="bold", color=looks[model].colour)
        line[0].set_ylabel("exponent (nats per time)", fontsize=7)
    for axes, kind in zip(grid[0], (FINITE, ASYMPTOTIC), strict=True):
        axes.annotate(TITLES[kind], (0, 1), (0, 22), xycoords="axes fraction", textcoords="offset points", fontsize=8.5)
    for axes in grid[-1]:
        axes.set_xlabel("rank of the exponent, as a share of all")
    first = grid[0][0]
    first.set_yscale("symlog", linthresh=LINEAR)
    first.set_ylim(floor, top)
    first.set_xlim(0, 1)
    first.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    first.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    first.yaxis.set_major_locator(FixedLocator(_ticks(floor, top)))
    first.yaxis.set_minor_locator(NullLocator())
    first.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value).replace("-", "−")))
    _draw_legend(figure)
    theme.headline(figure, finding(tables))
    return figure


def _span(values: pd.Series) -> tuple[float, float]:
    """Where the axis begins and ends: it holds all that is finite, and something to either side of 0."""
    inside = values[np.isfinite(values)]
    low, high = (inside.min(), inside.max()) if len(inside) else (0.0, 0.0)
    return 1.3 * min(low, -LINEAR), 1.3 * max(high, LINEAR)


def _ticks(floor: float, top: float) -> list[float]:
    """0, and powers of ten to either side, as many as can be told apart."""
    sizes = [LINEAR * 10**power for power in range(8)]
    sizes = sizes[:: 1 + sum(size < max(-floor, top) for size in sizes) // 4]
    return [tick for size in sizes for tick in (-size, size) if floor <= tick <= top] + [0.0]


def _draw_spectra(axes: Axes, exponents: pd.DataFrame, colour: str, dash: object, floor: float) -> None:
    """Every run's every sample faintly, the median over runs of their means; a mark for what is no number there."""
    if exponents.empty:
        return
    finite = exponents["value"].where(np.isfinite(exponents["value"]))
    drawn = exponents.assign(rank=(exponents["index"] + 0.5) / exponents["of"], finite=finite)
    for _, of_sample in drawn.groupby(["run", "sample"], sort=True, dropna=False):
        axes.plot(of_sample["rank"], of_sample["finite"], color=colour, linewidth=0.7, alpha=0.5, ls=dash)
    nothing, bound = drawn[np.isneginf(drawn["value"])], drawn[drawn["status"] == "censored"]
    for marked, at in ((nothing, np.full(len(nothing), floor)), (bound, bound["value"])):
        if len(marked):
            axes.plot(marked["rank"], at, "v", color=colour, markersize=2.5, mew=0, alpha=0.6, clip_on=False)
    # what is -inf in one run lies below the others, and counts
    means = drawn.groupby(["rank", "run"], observed=True)["value"].agg(lambda values: values.mean(skipna=False))
    wide = means.unstack()
    over_seeds = interval(wide.to_numpy().T)
    middle = np.where(np.isfinite(over_seeds.median), over_seeds.median, np.nan)
    axes.plot(wide.index, middle, color=colour, linewidth=1.8, ls=dash)
    if wide.shape[1] > 1:
        low, high = (np.maximum(end, floor) for end in (over_seeds.low, over_seeds.high))
        axes.fill_between(wide.index, low, high, color=colour, alpha=0.12, linewidth=0)


def oddities(exponents: pd.DataFrame) -> str:
    """How many exponents are −∞, known by an upper bound alone, or no number; mostly empty."""
    names = {"zero": "−∞", "censored": "at most as drawn", "inf": "∞", "nan": "no number"}
    parts = []
    for status, name in names.items():
        found = exponents["status"] == status
        counts = [
            f"{count} {when}" for when in (BEFORE, AFTER) if (count := (found & (exponents["when"] == when)).sum())
        ]
        if counts:
            parts.append(f"{name}: {', '.join(counts)}")
    return "; ".join(parts)


def _draw_legend(figure: Figure) -> None:
    handles: list[Artist] = [
        Line2D([], [], color=theme.QUIET, linewidth=1.8, ls=DASHES[BEFORE], label="before training"),
        Line2D([], [], color=theme.INK, linewidth=1.8, label="after training"),
        Line2D([], [], color=theme.INK, linewidth=0.7, label="0: a change is kept; above, shaded, it grows"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, handlelength=2.4)


def caption(tables: Tables) -> str:
    """What an exponent is, what tells the two kinds apart, and what the interval is."""
    numbers = tables[NUMBERS]
    sizes = [int(size) for size in sorted(set(numbers.groupby("model", observed=True)["run"].nunique()))]
    brackets = listed(sorted({interval_in_words(size) for size in sizes if size > 1}))
    spread = f" In the finding, medians over seeds; in brackets {brackets}, of the last." if brackets else ""
    return (
        "Lyapunov exponents of each recurrence over its full state, its inputs given, the largest first: along the "
        "i-th direction of n, drawn at (i − ½) / n, a change grows by e^λ at each time. Finite time: over one sample "
        "of the probe batch, from its initial state to its end, which is what a gradient across it meets. Asymptotic: "
        "over many times after others in which the directions settle, the samples' inputs one behind the other. Chaos "
        f"is read off these, above {number(NEUTRAL)}; nearer to 0 than that they are not told apart from it. In a "
        "state without bounds, such as a linear recurrence's, an exponent above 0 is growth without chaos. "
        f"The axis is linear within ±{number(LINEAR)}, logarithmic beyond. A triangle marks what is −∞, along which "
        f"nothing is left, and what is known to be no larger than drawn. {seeds_in_words(numbers)}{spread}"
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
