"""What attention looks at.

Question:  what does attention look at, before and after training?
Expect:    evenly at everything before training; afterwards the scored position looks at the inputs that it needs.
Data:      readings attention/map (the stored samples' first) and attention/entropy_share, distance and confidence, of
           the first and the last snapshot of each model's first seed; the probe batch in words.

    python analysis/attention_maps.py outputs/demo
"""

import sys
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from retrograde.figures import question, theme
from retrograde.figures.comparison import AFTER, BEFORE, NUMBERS, Comparison, Tables, ends
from retrograde.figures.provenance import number

PER_HEAD = {"entropy_share": "entropy (share of even)", "distance": "distance (positions)", "confidence": "confidence"}

MARKED = "*"
"""How tasks end the label of an input that has to be found."""

INPUT, TARGET = "input", "target"

EVERY_LABEL = 16
"""Positions up to which each has its label; longer sequences show times, and labels at marked inputs alone."""


def load(comparison: Comparison) -> Tables:
    """``maps`` model, when, layer, head, query, key, value; ``labels`` of that sample; ``numbers`` one row a head."""
    heads = pd.concat(
        [ends(comparison.readings(f"attention/{name}")).assign(quantity=name) for name in PER_HEAD], ignore_index=True
    )
    first = heads.sort_values(["model", "seed", "run"]).groupby("model", observed=True)["run"].first()
    heads = heads[heads["run"].isin(first)]
    maps = ends(comparison.readings("attention/map", sorted(int(step) for step in heads["step"].unique())))
    maps = maps[maps["run"].isin(first) & (maps["sample"] == 0)]
    maps = maps.sort_values(["model", "run", "when", "layer", "head", "query", "key"], ignore_index=True)
    named = [comparison.labels(str(run)).assign(model=str(model)) for model, run in first.items()]
    labels = pd.concat(named, ignore_index=True)
    labels = labels[(labels["sample"] == 0) & (labels["label"] != "")]
    labels["marked"] = labels["label"].str.endswith(MARKED)
    return {
        "maps": maps[["model", "when", "step", "layer", "head", "query", "key", "value"]],
        "labels": labels[["model", "side", "time", "label", "scored", "marked"]].reset_index(drop=True),
        NUMBERS: _numbers(heads, maps, labels),
    }


def sides(layer: str) -> tuple[str, str]:
    """Whose positions the queries and the keys of a layer's maps are: of an encoder-decoder's they differ."""
    return (
        TARGET if layer.startswith(("decoder", "cross")) else INPUT,
        TARGET if layer.startswith("decoder") else INPUT,
    )


def _numbers(heads: pd.DataFrame, maps: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """A row per head, a column per quantity and end of training."""
    found = [heads, on_marked(maps, labels)]
    table = pd.concat(found, ignore_index=True).astype({"model": maps["model"].dtype})
    names = {"on_marked": "weight on marked inputs", **PER_HEAD}
    table["column"] = table["quantity"].map(names) + ", " + table["when"]
    wide = table.pivot(index=["model", "seed", "layer", "head", "run"], columns="column", values="value")
    order = [f"{name}, {when}" for name in names.values() for when in (BEFORE, AFTER)]
    wide = wide[[column for column in order if column in wide]].reset_index().rename_axis(columns=None)
    return wide[[column for column in wide if column != "run"] + ["run"]]


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


def _blocks(starts: pd.Series, times: pd.Series) -> np.ndarray:
    """The beginnings of the blocks that these times lie in."""
    known = np.sort(starts.unique())
    return known[np.searchsorted(known, times, side="right") - 1]


def finding(tables: Tables) -> str:
    """Where the head that looks most at the marked inputs puts its weight; else how sharp heads have become."""
    numbers = tables[NUMBERS]
    parts = []
    for model in theme.present(numbers["model"]):
        of_model = numbers[numbers["model"] == model]
        name = "weight on marked inputs"
        if f"{name}, {AFTER}" in of_model and of_model[f"{name}, {AFTER}"].notna().any():
            best = of_model.sort_values(f"{name}, {AFTER}", na_position="first").iloc[-1]
            before, after = (best[f"{name}, {when}"] for when in (BEFORE, AFTER))
            parts.append(
                f"{model}: after training head {best['head']} of layer {best['layer']} puts {100 * after:.0f} % of the "
                f"scored position's attention on the marked inputs, before it {100 * before:.0f} %"
            )
        else:
            name = PER_HEAD["entropy_share"]
            columns = [f"{name}, {when}" for when in (BEFORE, AFTER) if f"{name}, {when}" in of_model]
            values = [number(round(of_model[column].median(), 2)) for column in columns]
            parts.append(f"{model}: a head's median entropy is {' → '.join(values)} of an even spread's")
    return "; ".join(parts)


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A row per layer before training, then one per layer after it; a column per head; model under model."""
    maps = tables["maps"]
    found = maps[["model", "when", "layer"]].drop_duplicates().itertuples(index=False, name=None)
    rows = sorted(found, key=lambda row: (theme.present(maps["model"]).index(row[0]), row[1] == AFTER, row[2]))
    columns = int(maps["head"].max()) + 1
    side = min(1.7, theme.WIDTH / (columns + 0.6))
    figure = Figure(
        figsize=(min(theme.WIDTH, max(4.5, columns * side + 1.2)), len(rows) * (side + 0.12) + 1.5),
        layout="constrained",
    )
    grid = figure.subplots(len(rows), columns, squeeze=False)
    norm = PowerNorm(0.5, 0, float(maps["value"].max()))
    several = maps["model"].nunique() > 1
    image: AxesImage | None = None
    for place, (model, when, layer) in enumerate(rows):
        of_row = maps[(maps["model"] == model) & (maps["when"] == when) & (maps["layer"] == layer)]
        words = tables["labels"][tables["labels"]["model"] == model]
        for head, axes in enumerate(grid[place]):
            of_head = of_row[of_row["head"] == head]
            if of_head.empty:
                axes.set_axis_off()
                continue
            image = _draw_map(axes, of_head, norm)
            queries, keys = (words[words["side"] == side] for side in sides(layer))
            _label(axes.xaxis, keys, shown=place == len(rows) - 1 or sides(rows[place + 1][2])[1] != sides(layer)[1])
            _label(axes.yaxis, queries, shown=head == 0)
            if place == 0:
                axes.set_title(f"head {head}", loc="center")
        step = number(of_row["step"].iloc[0])
        name = f"{model}\n" if several else ""
        grid[place][0].set_ylabel(f"{name}layer {layer}, {when}\n(step {step})\n\nquery time", linespacing=1.2)
    for axes in grid[-1]:
        axes.set_xlabel("key time")
    assert image is not None  # load found maps
    bar = figure.colorbar(image, ax=grid, location="bottom", shrink=0.5, aspect=40, pad=0.02)
    bar.set_label("attention weight (square-root scale, one for all maps)")
    bar.outline.set_visible(False)
    theme.headline(figure, finding(tables))
    return figure


def _draw_map(axes: Axes, of_head: pd.DataFrame, norm: PowerNorm) -> AxesImage:
    wide = of_head.pivot(index="query", columns="key", values="value")
    bottom, right = (_end(starts.to_numpy()) for starts in (wide.index, wide.columns))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes.imshow(wide.to_numpy(), cmap=theme.SEQUENTIAL, norm=norm, origin="upper", interpolation="nearest",
                       extent=(-0.5, right, bottom, -0.5))  # fmt: skip


def _end(starts: np.ndarray) -> float:
    """Where the last block ends."""
    return float(starts[-1] + (starts[1] - starts[0] if len(starts) > 1 else 1) - 0.5)


def _label(axis: Axis, words: pd.DataFrame, shown: bool) -> None:
    """Labels where they fit; else times at round places, giving way to the labels of marked inputs, which are bold."""
    texts = {int(time): str(label) for time, label in zip(words["time"], words["label"], strict=True)}
    marked = [int(time) for time in words.loc[words["marked"], "time"]]
    last = max(texts, default=0)  # without labels, where they cannot be read
    if last >= EVERY_LABEL:
        room = last / 12
        round_times = range(0, last + 1, max(5, round(last / 5 / 5) * 5))
        plain = {time: str(time) for time in round_times if all(abs(time - mark) > room for mark in marked)}
        texts = plain | {mark: texts[mark] for mark in marked}
    times = sorted(texts)
    turned: dict[str, Any] = {"rotation": 90} if isinstance(axis, XAxis) else {}
    axis.set_ticks(times, [texts[time] if shown else "" for time in times], fontsize=6, **turned)
    for time, label in zip(times, axis.get_ticklabels(), strict=True):
        if time in marked:
            label.set_fontweight("bold")
            label.set_color(theme.INK)


def caption(tables: Tables) -> str:
    """What is drawn, of which seed, and how to read it."""
    numbers = tables[NUMBERS].drop_duplicates("model")
    seeds = ", ".join(f"{model} seed {seed}" for model, seed in zip(numbers["model"], numbers["seed"], strict=True))
    marked = " Inputs that the task marks are named in bold." if tables["labels"]["marked"].any() else ""
    return (
        "Attention weights of the probe batch's first sample, queries downward, keys to the right, each row summing "
        f"to 1; {seeds}, the first seed, not an average. Shared colour scale, by the square root, so that an even "
        f"spread over many positions stays visible.{marked} A map stored in blocks shows each block's sum of weights."
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
