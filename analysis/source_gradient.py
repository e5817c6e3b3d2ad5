"""What of each target reaches each position of its source.

Question:  which source positions does each target position feel, before and after training?
Expect:    through one vector, the source's end first; with attention, after training, the position that is looked at.
Data:      readings source_gradient/norm of the encoder's top layer, all its components and directions together, of the
           first and the last snapshot of each model's first seed; attention/map of its last layer between the two
           sequences, the mean over heads, where there is one; the probe batch in words.

    python analysis/source_gradient.py outputs/single
"""

import re
import sys

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from retrograde.figures import question, theme
from retrograde.figures.comparison import AFTER, BEFORE, NUMBERS, Comparison, NothingToDraw, Tables, ends, listed

ATTENTION = "attention, after"
AT_END, LOOKED = "felt most at the source's end, after", "felt most where looked at most, after"
SHOWN = (BEFORE, AFTER, ATTENTION)


def load(comparison: Comparison) -> Tables:
    """``maps`` model, shown, target, time, value: each row relative to its largest; ``labels`` as recorded."""
    norms = ends(comparison.readings("source_gradient/norm"))
    first = norms.sort_values(["model", "seed", "run"]).groupby("model", observed=True)["run"].first()
    norms = norms[norms["run"].isin(first)]
    labels = pd.concat([comparison.labels(str(run)).assign(model=str(model)) for model, run in first.items()])
    labels = labels[(labels["sample"] == 0) & (labels["label"] != "")].reset_index(drop=True)
    lengths = labels[labels["side"] == "input"].groupby("model")["time"].max() + 1
    norms = norms[(norms["time"] >= 0) & (norms["time"] < norms["model"].astype(str).map(lengths))]
    maps = pd.concat([_of_top_layer(norms), _attended(comparison, first, lengths)], ignore_index=True)
    maps["model"] = maps["model"].astype(norms["model"].dtype)
    maps["value"] /= maps.groupby(["model", "shown", "target"], observed=True)["value"].transform("max")
    maps = maps.sort_values(["model", "shown", "target", "time"], ignore_index=True)
    return {"maps": maps, "labels": labels[["model", "side", "time", "label"]], NUMBERS: _numbers(maps, norms)}


def _of_top_layer(norms: pd.DataFrame) -> pd.DataFrame:
    """The norm over everything that the encoder's top layer holds at a time, relative to the largest of its row."""
    depth = norms["layer"].astype(str).str.extract(r"^encoder(\d+)\.")[0].astype(int)
    top = norms[depth == depth.groupby(norms["model"].astype(str)).transform("max")]
    row = ["model", "when", "target"]
    relative = top["value"] - top.groupby(row, observed=True)["value"].transform("max")
    squares = top.assign(value=10 ** (2 * relative)).groupby([*row, "time"], observed=True)["value"].sum()
    return np.sqrt(squares).reset_index().rename(columns={"when": "shown"})


def _attended(comparison: Comparison, first: pd.Series, lengths: pd.Series) -> pd.DataFrame:
    """The last map from target to source after training; no row for a model without."""
    try:
        maps = ends(comparison.readings("attention/map"))
    except NothingToDraw:
        return pd.DataFrame(columns=["model", "shown", "target", "time", "value"])
    maps = maps[maps["run"].isin(first) & (maps["sample"] == 0) & (maps["when"] == AFTER)]
    maps = maps[maps["layer"].astype(str).str.match(r"cross\d+$")]
    depth = maps["layer"].astype(str).str.extract(r"(\d+)$")[0].astype(int)
    maps = maps[depth == depth.groupby(maps["model"].astype(str)).transform("max")]
    maps = maps[maps["key"] < maps["model"].astype(str).map(lengths)]
    mean = maps.groupby(["model", "query", "key"], observed=True)["value"].mean().reset_index()
    return mean.rename(columns={"query": "target", "key": "time"}).assign(shown=ATTENTION)


def _numbers(maps: pd.DataFrame, norms: pd.DataFrame) -> pd.DataFrame:
    """Per model: how often the position felt most is the source's last, and how often the one looked at most."""
    rows = []
    seeds = norms.groupby("model", observed=True)[["seed", "run"]].first()
    for model in theme.present(maps["model"]):
        peak = {}
        for shown in SHOWN:
            of_shown = maps[(maps["model"] == model) & (maps["shown"] == shown)]
            if len(of_shown):
                wide = of_shown.pivot(index="target", columns="time", values="value")
                peak[shown] = pd.Series(wide.to_numpy().argmax(1), index=wide.index)
                last = wide.shape[1] - 1
        row = {"model": model, "seed": seeds.loc[model, "seed"]}
        for shown in (BEFORE, AFTER):
            if shown in peak:
                row[f"felt most at the source's end, {shown}"] = float((peak[shown] == last).mean())
        if ATTENTION in peak and AFTER in peak:
            both = peak[AFTER].index.intersection(peak[ATTENTION].index)
            row[LOOKED] = float((peak[AFTER][both] == peak[ATTENTION][both]).mean())
        rows.append({**row, "run": seeds.loc[model, "run"]})
    table = pd.DataFrame(rows)
    return table[[*[column for column in table if column != "run"], "run"]].astype({"model": maps["model"].dtype})


def finding(tables: Tables) -> str:
    """Where each model's targets feel the source most after training."""
    numbers = tables[NUMBERS]
    looking = numbers[LOOKED].notna() if LOOKED in numbers else pd.Series(False, index=numbers.index)
    parts = [
        (f"the source's end for {_of_targets(numbers[~looking], AT_END)}", not looking.all()),
        (f"the one that attention looks at most for {_of_targets(numbers[looking], LOOKED)}", looking.any()),
    ]
    said = ", ".join(text for text, applies in parts if applies)
    return f"after training the source position that a target feels most is {said}"


def _of_targets(numbers: pd.DataFrame, column: str) -> str:
    if column not in numbers:
        return "models that were not probed at the end"
    return listed([f"{100 * row[column]:.0f} % of {row['model']}'s targets" for row in numbers.to_dict("records")])


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A row per model; the gradient before and after training, and attention beside it where there is any."""
    maps, labels = tables["maps"], tables["labels"]
    models = theme.present(maps["model"])
    columns = [shown for shown in SHOWN if (maps["shown"] == shown).any()]
    side = min(2.1, theme.WIDTH / (len(columns) + 0.6))
    figure = Figure(
        figsize=(max(4.5, len(columns) * side + 1.2), len(models) * (side + 0.2) + 1.4), layout="constrained"
    )
    grid = figure.subplots(len(models), len(columns), squeeze=False)
    norm = PowerNorm(0.5, 0, 1)
    image: AxesImage | None = None
    for row, model in enumerate(models):
        words = labels[labels["model"] == model]
        for column, shown in enumerate(columns):
            axes = grid[row][column]
            of_panel = maps[(maps["model"] == model) & (maps["shown"] == shown)]
            if row == 0:
                axes.set_title(shown if shown == ATTENTION else f"gradient, {shown}", loc="center")
            if of_panel.empty:
                axes.set_axis_off()
                continue
            wide = of_panel.pivot(index="target", columns="time", values="value")
            image = axes.imshow(
                wide.to_numpy(), cmap=theme.SEQUENTIAL, norm=norm, origin="upper", interpolation="nearest"
            )
            _words(axes, words, wide, left=column == 0)
        grid[row][0].set_ylabel(f"{re.sub(r' ', chr(10), model, count=1)}\n\ntarget")
    for axes in grid[-1]:
        axes.set_xlabel("source")
    assert image is not None  # load found maps
    bar = figure.colorbar(image, ax=grid, location="bottom", shrink=0.5, aspect=40, pad=0.02)
    bar.set_label("relative to the row's largest (square-root scale)")
    bar.outline.set_visible(False)
    theme.headline(figure, finding(tables))
    return figure


def _words(axes: Axes, words: pd.DataFrame, wide: pd.DataFrame, left: bool) -> None:
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for axis, side, times, shown in (
        (axes.xaxis, "input", wide.columns, True),
        (axes.yaxis, "target", wide.index, left),
    ):
        of_side = words[words["side"] == side].set_index("time")["label"].astype(str)
        axis.set_ticks(range(len(times)), [of_side.get(time, "") if shown else "" for time in times], fontsize=6)


def caption(tables: Tables) -> str:
    """What is drawn, of which seed, and how to read it."""
    numbers = tables[NUMBERS]
    seeds = ", ".join(f"{model} seed {seed}" for model, seed in zip(numbers["model"], numbers["seed"], strict=True))
    return (
        "The total gradient of each target position's own loss (downward) at the state of the encoder's top layer at "
        "each source position (to the right), all components and directions together, each row over its largest; "
        "attention likewise, the mean over heads. "
        f"The probe batch's first sample; {seeds}, the first seed, not an average."
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
