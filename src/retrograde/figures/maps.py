"""Maps from positions to positions with the tokens on their axes, and what falls on the inputs that a task marks.

Maps are tables of model, when, step, layer, head, query, key and value, of one sample; ``labels`` are that sample's
words, with ``marked``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from retrograde.figures import theme
from retrograde.figures.comparison import AFTER, Comparison, ends
from retrograde.figures.provenance import number

MARKED = "*"
"""How tasks end the label of an input that has to be found; alone it is a token."""

INPUT, TARGET = "input", "target"

ON_MARKED = "weight on marked inputs"

FEW = 3
"""Models up to which each is told apart in words."""

LARGEST, ROOM = 6.0, 4.4
"""Points of a token's label, and those that one needs at least; where there are fewer, times are shown."""

MOST_ROWS, MOST_HEADS = 12, 8
"""Of maps in a figure, and of heads in a row: more of them are too small to be read."""

WIDE, NARROW = 2.6, 1.7
"""Inches of a map's side at most, in up to two columns and in more."""


def labels_of(comparison: Comparison, first: pd.Series) -> pd.DataFrame:
    """The first sample of the probe batch in words, by model; ``first`` is a run of each."""
    named = [comparison.labels(str(run)).assign(model=str(model)) for model, run in first.items()]
    labels = pd.concat(named, ignore_index=True)
    labels = labels[(labels["sample"] == 0) & (labels["label"] != "")]
    labels["marked"] = labels["label"].str.endswith(MARKED) & (labels["label"] != MARKED)
    return labels[["model", "side", "time", "label", "scored", "marked"]].reset_index(drop=True)


def first_maps(comparison: Comparison, name: str, heads: pd.DataFrame) -> tuple[pd.Series, pd.DataFrame]:
    """The first seed's run of each model, and the first sample's maps of these runs before and after training.

    ``heads`` are readings of the same heads, which say what runs and steps there are.
    """
    first = heads.sort_values(["model", "seed", "run"]).groupby("model", observed=True)["run"].first()
    steps = sorted(int(step) for step in heads.loc[heads["run"].isin(first), "step"].unique())
    chosen = replace(comparison, runs=comparison.runs[comparison.runs["run"].isin(first)])
    maps = ends(chosen.readings(name, steps))
    maps = maps[maps["sample"] == 0]
    return first, maps.sort_values(["model", "run", "when", "layer", "head", "query", "key"], ignore_index=True)


def readable(maps: pd.DataFrame) -> pd.DataFrame:
    """As many maps as can be read in one figure; ``shown`` says which.

    Models and layers are spread evenly over all of them, in their order; of a layer's heads those are kept that put the
    most on one position, as a mean over queries, at the last step.
    """
    ends = 1 if maps["head"].nunique() == 1 else maps["when"].nunique()  # a head alone has both in one row
    of_model = maps.groupby("model", observed=True)["layer"].unique()
    layers = {model: spread(sorted(of_model[model]), MOST_ROWS // ends) for model in theme.present(maps["model"])}
    each = max(map(len, layers.values())) * ends
    parts = []
    for model in spread(list(layers), max(1, MOST_ROWS // each)):
        for layer in layers[model]:
            of_layer = maps[(maps["model"] == model) & (maps["layer"] == layer)]
            last = of_layer[of_layer["step"] == of_layer["step"].max()]
            sharpest = last.groupby(["head", "query"])["value"].max().groupby("head").mean()
            heads = sharpest.sort_values(ascending=False, kind="stable").index[:MOST_HEADS]
            parts.append(of_layer[of_layer["head"].isin(heads)])
    return pd.concat(parts, ignore_index=True).astype({"model": maps["model"].dtype})


def shown(maps: pd.DataFrame, numbers: pd.DataFrame) -> str:
    """Which of the models, layers and heads of ``numbers`` have maps, as a sentence; empty where all have."""
    said = []
    there, all_models = maps["model"].nunique(), numbers["model"].nunique()
    if there < all_models:
        said.append(f"{there} of {all_models} models, spread evenly over their order")
    numbers = numbers[numbers["model"].isin(maps["model"].unique())]
    there, all_layers = (int(one.groupby("model", observed=True)["layer"].nunique().max()) for one in (maps, numbers))
    if there < all_layers:
        said.append(f"{there} of {all_layers} layers, spread evenly")
    there, all_heads = (int(one.groupby(["model", "layer"], observed=True)["head"].nunique().max())
                        for one in (maps, numbers))  # fmt: skip
    if there < all_heads:
        said.append(f"of up to {all_heads} heads of a layer the {there} that put most on one position in the end")
    return f" Shown are {'; '.join(said)}; the table has all." if said else ""


def spread(values: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the values, evenly spread, the first and the last among them.

    >>> spread([0, 1, 2, 3, 4, 5], 3)
    [0, 2, 5]
    """
    if len(values) <= most:
        return list(values)
    return [values[place] for place in np.linspace(0, len(values) - 1, most).round().astype(int)]


def sides(layer: str) -> tuple[str, str]:
    """Whose positions the queries and the keys of a layer's maps are: of an encoder-decoder's they differ."""
    return (
        TARGET if layer.startswith(("decoder", "cross")) else INPUT,
        TARGET if layer.startswith("decoder") else INPUT,
    )


def on_marked(maps: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """The share of its weight that the scored position puts on marked inputs, by head; mean over scored positions.

    No row where the task marks none. Where a map was stored in blocks, a block counts as a whole.
    """
    kept = ["model", "seed", "run", "when", "step", "layer", "head"]
    parts = []
    for (model, layer), of_model in maps.groupby(["model", "layer"], observed=True):
        words = labels[labels["model"] == model]
        scored, marked = (
            _blocks(of_model[axis], words.loc[words[name] & (words["side"] == side), "time"])
            for name, axis, side in zip(("scored", "marked"), ("query", "key"), sides(str(layer)), strict=True)
        )
        if len(marked):
            chosen = of_model[of_model["query"].isin(scored) & of_model["key"].isin(marked)]
            by_query = chosen.groupby([*kept, "query"], observed=True)["value"].sum()
            parts.append(by_query.groupby(kept, observed=True).mean().reset_index())
    if not parts:
        return pd.DataFrame(columns=[*kept, "value", "quantity"])
    return pd.concat(parts, ignore_index=True).assign(quantity="on_marked")


def span(values: Sequence[float], digits: int = 0) -> str:
    """From the least to the most."""
    low, high = (number(round(float(end), digits)) for end in (np.nanmin(values), np.nanmax(values)))
    return low if low == high else f"{low} to {high}"


def at_most(before: Sequence[float]) -> str:
    """What any head of each model put there before training, in percent, as a clause; empty where none was read."""
    return "" if np.isnan(before).all() else f", before it any head at most {span(before)} %"


def most_in_words(looking: Sequence[tuple[float, float]], weight: str) -> str:
    """Of many models: what any head puts on marked inputs before training at most, and after it the one that does most.

    Both in percent; ``weight`` is what the scored position's is called.
    """
    before, after = zip(*looking, strict=True)
    return (
        f"after training the head that looks most at the marked inputs puts {span(after)} % of the scored position's "
        f"{weight} there{at_most(before)}; of each of {len(looking)} models"
    )


def _blocks(starts: pd.Series, times: pd.Series) -> np.ndarray:
    """The beginnings of the blocks that these times lie in; times before the first and beyond the last are in none."""
    known = np.sort(starts.unique())
    last = known[-1] + (known[-1] - known[-2] if len(known) > 1 else 1)
    inside = times[(times >= known[0]) & (times < last)]
    return known[np.searchsorted(known, inside, side="right") - 1]


@dataclass(frozen=True)
class Row:
    """Maps that stand side by side: the heads of a layer before or after training, or its only head at both."""

    model: str
    layer: str
    name: str
    cells: Sequence[tuple[str, int]]
    titles: Sequence[str]


def rows_of(maps: pd.DataFrame) -> list[Row]:
    """Model under model; of each first the rows before training, then those after it, layer by layer."""
    several = maps["model"].nunique() > 1
    rows = []
    for model in theme.present(maps["model"]):
        of_model = maps[maps["model"] == model].drop_duplicates(["when", "layer", "head"])
        found = of_model[["when", "layer"]].drop_duplicates().itertuples(index=False, name=None)
        steps = {when: number(step) for when, step in of_model.groupby("when", observed=True)["step"].first().items()}
        name = f"{theme.wrapped(model, 18)}\n" if several else ""
        one_head = of_model["head"].nunique() == 1
        for when, layer in sorted(found, key=lambda row: (not one_head and row[0] == AFTER, row[1], row[0] == AFTER)):
            of_layer = of_model[(of_model["layer"] == layer) & (of_model["when"] == when)]
            heads = sorted(int(head) for head in of_layer["head"])
            if not one_head:
                words = f"{name}layer {layer}, {when}\n(step {steps[when]})"
                rows.append(
                    Row(model, layer, words, [(when, head) for head in heads], [f"head {one}" for one in heads])
                )
            elif rows and (rows[-1].model, rows[-1].layer) == (model, layer):
                before = rows.pop()
                cells, titles = [*before.cells, (when, heads[0])], [*before.titles, f"{when}\n(step {steps[when]})"]
                rows.append(Row(model, layer, before.name, cells, titles))
            else:
                rows.append(
                    Row(model, layer, f"{name}layer {layer}", [(when, heads[0])], [f"{when}\n(step {steps[when]})"])
                )
    return rows


def drawn(maps: pd.DataFrame, labels: pd.DataFrame, bar: str) -> Figure:
    """The maps on one colour scale by the square root, which ``bar`` names; queries downward, keys to the right."""
    rows = rows_of(maps)
    columns = max(len(row.cells) for row in rows)
    side = min(
        WIDE if columns <= 2 else NARROW, (theme.WIDTH - 1) / columns if columns <= 2 else theme.WIDTH / (columns + 0.6)
    )
    figure = Figure(
        figsize=(min(theme.WIDTH, max(4.5, columns * side + 1.2)), len(rows) * (side + 0.12) + 1.5),
        layout="constrained",
    )
    grid = figure.subplots(len(rows), columns, squeeze=False)
    norm = PowerNorm(0.5, 0, float(maps["value"].max()))
    above: Sequence[str] = ()
    image: AxesImage | None = None
    for place, row in enumerate(rows):
        of_row = maps[(maps["model"] == row.model) & (maps["layer"] == row.layer)]
        words = labels[labels["model"] == row.model]
        below = rows[place + 1] if place + 1 < len(rows) else None
        last = (
            below is None or len(below.cells) != len(row.cells) or sides(below.layer)[1] != sides(row.layer)[1]
        )  # another axis of keys begins
        for column, axes in enumerate(grid[place]):
            if column >= len(row.cells):
                axes.set_axis_off()
                continue
            when, head = row.cells[column]
            image = _draw_map(axes, of_row[(of_row["when"] == when) & (of_row["head"] == head)], norm)
            queries, keys = (words[words["side"] == side_] for side_ in sides(row.layer))
            _label(axes.xaxis, keys, side, shown=last)
            _label(axes.yaxis, queries, side, shown=column == 0)
            if list(row.titles) != list(above):
                axes.set_title(row.titles[column], loc="center")
            axes.set_xlabel("key time" if last else "")
        above = row.titles
        grid[place][0].set_ylabel(f"{row.name}\n\nquery time", linespacing=1.2, fontsize=7)
    assert image is not None  # there are maps
    shown = figure.colorbar(image, ax=grid, location="bottom", shrink=0.5, aspect=40, pad=0.02)
    shown.set_label(bar)
    shown.outline.set_visible(False)
    return figure


def _draw_map(axes: Axes, of_head: pd.DataFrame, norm: PowerNorm) -> AxesImage:
    wide = of_head.pivot(index="query", columns="key", values="value")
    (top, bottom), (left, right) = (_ends(starts.to_numpy()) for starts in (wide.index, wide.columns))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes.imshow(wide.to_numpy(), cmap=theme.SEQUENTIAL, norm=norm, origin="upper", interpolation="nearest",
                       extent=(left, right, bottom, top))  # fmt: skip


def _ends(starts: np.ndarray) -> tuple[float, float]:
    """Where the first block begins and the last one ends."""
    return float(starts[0] - 0.5), float(starts[-1] + (starts[1] - starts[0] if len(starts) > 1 else 1) - 0.5)


def _label(axis: Axis, words: pd.DataFrame, side: float, shown: bool) -> None:
    """Labels where they fit; else times at round places, giving way to the labels of marked inputs, which are bold."""
    texts = {int(time): str(label) for time, label in zip(words["time"], words["label"], strict=True)}
    marked = [int(time) for time in words.loc[words["marked"], "time"]]
    last = max(texts, default=0)  # without labels, where they cannot be read
    points = 72 * side / (last + 1)
    if points < ROOM:
        room = last / 12
        round_times = range(0, last + 1, max(5, round(last / 5 / 5) * 5))
        plain = {time: str(time) for time in round_times if all(abs(time - mark) > room for mark in marked)}
        texts = plain | {mark: texts[mark] for mark in marked}
        points = LARGEST
    times = sorted(texts)
    axis.set_ticks(times, [texts[time] if shown else "" for time in times], fontsize=min(LARGEST, points))
    for time, label in zip(times, axis.get_ticklabels(), strict=True):
        label.set_rotation(90 if isinstance(axis, XAxis) else 0)
        if time in marked:
            label.set_fontweight("bold")
            label.set_color(theme.INK)
