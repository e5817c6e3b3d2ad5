"""How the gradient changes from layer to layer, with and without the residual path and LayerNorm.

Question:  how does the gradient change from layer to layer without the residual path, and without LayerNorm?
Expect:    with the residual path the gradient reaches the lowest layer undiminished, whatever the norm; without it
           every layer takes its share, so that it falls by a constant factor a layer and a deep stack does not learn.
Data:      readings state_gradient/total of the first and the last snapshot; the settings model.residual and
           model.normalisation; how the runs ended.

    python analysis/depth.py outputs/depth
"""

import sys

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

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
from retrograde.figures.statistics import interval, interval_in_words

RESIDUAL, NORMALISATION = "config.model.residual", "config.model.normalisation"

LOOKS = {
    (True, True): theme.Look(theme.FAMILIES[0], "-", "o"),
    (True, False): theme.Look(theme.FAMILIES[5], (0, (5, 1.6)), "s"),
    (False, True): theme.Look(theme.FAMILIES[1], "-", "^"),
    (False, False): theme.Look(theme.FAMILIES[4], (0, (5, 1.6)), "D"),
}
"""By residual path and LayerNorm."""

NAMES = {
    (True, True): "both",
    (True, False): "path alone",
    (False, True): "LayerNorm alone",
    (False, False): "neither",
}

SLOPE = "at the start, decades a layer"
WHOLE = "{}, lowest layer against highest (decades)"

DEEPEST = -12
"""Decades below the highest layer at which the axis ends; what lies deeper is marked there."""

KEPT = -1.0
"""Decades over all layers down to which a gradient counts as kept."""


def load(comparison: Comparison) -> Tables:
    """``curves`` run, when, layers below the highest, gradient relative to it (log10); ``numbers`` one row a run."""
    wanted = [RESIDUAL, NORMALISATION, "solved_step", "score"]
    runs = comparison.runs.reindex(columns=list(dict.fromkeys([*comparison.runs.columns, *wanted])))
    runs = runs[runs[RESIDUAL].notna() & runs[NORMALISATION].notna()]
    if runs[RESIDUAL].nunique() < 2:
        raise NothingToDraw("no model has a residual path in one run and none in another: model.residual=true,false")
    readings = comparison.readings("state_gradient/total", statistic="mean")
    readings = readings[readings["run"].isin(list(runs["run"])) & (readings["component"] == "residual")]
    curves = _over_depth(ends(readings))
    if curves.empty or curves["below"].max() < 2 or not (curves["when"] == BEFORE).any():
        raise NothingToDraw("no run holds state_gradient/total at step 0 of a residual stream of two layers or more")
    runs = runs[runs["run"].isin(list(curves["run"]))]
    settings = runs[["run", "model", "seed"]].assign(
        place=[theme.family(str(model)) for model in runs["model"]],
        residual=runs[RESIDUAL].astype(bool),
        norm=runs[NORMALISATION].astype(bool),
    )
    curves = curves.merge(settings, on="run").sort_values(["place", "residual", "norm", "seed", "run", "when", "below"])
    changes = curves.groupby(["run", "when"])["relative"].last().unstack()
    numbers = settings.rename(columns={"place": "stack", "residual": "residual path", "norm": "LayerNorm"}).drop(
        columns="run"
    )
    numbers = numbers.assign(
        layers=runs["run"].map(curves.groupby("run")["below"].max()),
        **{
            SLOPE: runs["run"].map(
                {run: _slope(of_run) for run, of_run in curves[curves["when"] == BEFORE].groupby("run")}
            ),
            WHOLE.format("at the start"): runs["run"].map(changes[BEFORE]),
            WHOLE.format("after training"): runs["run"].map(changes[AFTER]) if AFTER in changes else np.nan,
            "outcome": outcomes(runs),
            "solved at step": runs["solved_step"].astype(float),
            "test score": runs["score"].astype(float),
            "run": runs["run"],
        },
    )
    order = ["stack", "residual path", "LayerNorm", "seed"]
    return {
        "curves": curves.reset_index(drop=True),
        NUMBERS: numbers.sort_values(order, ascending=[True, False, False, True], ignore_index=True),
    }


def _over_depth(readings: pd.DataFrame) -> pd.DataFrame:
    """The gradient at the whole stream before each layer and after the last: the root of its squares over times.

    log10, relative to the highest layer's; -inf where it is nothing at every time, NaN where it is a number nowhere.
    """
    size = readings["value"].where(readings["status"].isin(["finite", "inf"]))
    size = size.where(~readings["status"].isin(["zero", "censored"]), -np.inf)
    table = readings.assign(size=size, depth=readings["layer"].str.extract(r"^(\d+)", expand=False).astype(int))
    over = table.groupby(["run", "when", "step", "depth"])["size"].agg(_together).reset_index()
    top = over.groupby(["run", "when"])["depth"].transform("max")
    over["below"] = top - over["depth"]
    highest = over[over["below"] == 0].set_index(["run", "when"])["size"]
    with np.errstate(invalid="ignore"):
        over["relative"] = over["size"] - highest.reindex(pd.MultiIndex.from_frame(over[["run", "when"]])).to_numpy()
    return over.sort_values(["run", "when", "below"], ignore_index=True)


def _together(sizes: pd.Series) -> float:
    """log10 of the root of the sum of squares, of log10 values; scaled, so that small ones are no zeros."""
    largest = sizes.max(skipna=False)
    if not np.isfinite(largest):
        return float(largest)
    return float(largest + 0.5 * np.log10((10 ** (2 * (sizes - largest))).sum()))


def _slope(curve: pd.DataFrame) -> float:
    """Decades a layer towards the input, by least squares; NaN where a layer has no finite number."""
    if not np.isfinite(curve["relative"]).all():
        return np.nan
    return float(np.polynomial.polynomial.polyfit(curve["below"].astype(float), curve["relative"], 1)[1])


def finding(tables: Tables) -> str:
    """What share of the gradient each setting keeps over all layers at the start, and which of them learn."""
    numbers = tables[NUMBERS]
    change = WHOLE.format("at the start")
    layers = int(numbers["layers"].max())
    groups = dict(list(numbers.groupby("residual path")))
    without, with_ = groups[False], groups[True]
    lost = int((without[change] < KEPT).sum())
    kept = int((with_[change] >= KEPT).sum())
    verdict = (
        f"At the start the gradient fades over {layers} layers without residual path and does not with it"
        if lost == len(without) and kept == len(with_)
        else f"At the start the gradient fades over {layers} layers in {lost} of {len(without)} runs "
        f"without residual path, {len(with_) - kept} of {len(with_)} with it"
    )
    parts: list[str] = []
    for (has_path, has_norm), of_setting in numbers.groupby(["residual path", "LayerNorm"]):
        counted = of_setting.loc[of_setting["outcome"].isin(COUNTED), "outcome"]
        learn = f"{int((counted == 'solved').sum())} of {len(counted)}" if len(counted) else "none finished"
        learn += " learn" if (has_path, has_norm) == (True, True) else ""
        parts.insert(0, f"{NAMES[bool(has_path), bool(has_norm)]} {_share(of_setting[change])} ({learn})")
    said = [verdict, f"The lowest gets: {', '.join(parts)}", uncounted(numbers["outcome"])]
    return ". ".join(filter(None, said))


def details(tables: Tables) -> str:
    """What the lowest layer gets after training and, without the residual path, the factor a layer at the start."""
    said: list[str] = []
    for (has_path, has_norm), of_setting in tables[NUMBERS].groupby(["residual path", "LayerNorm"]):
        after = of_setting[WHOLE.format("after training")].dropna()
        slopes = of_setting[SLOPE].dropna()
        parts = [_share(after)] if len(after) else []
        parts += [f"{_share(slopes)} a layer at the start"] if len(slopes) and not has_path else []
        if parts:
            said.insert(0, f"{NAMES[bool(has_path), bool(has_norm)]} {', '.join(parts)}")
    return f"After training the lowest layer gets: {'; '.join(said)}."


def _share(decades: pd.Series) -> str:
    """The range of the seeds' shares, in words."""
    ends_ = [_power(value) for value in (decades.min(skipna=False), decades.max(skipna=False))]
    return ends_[0] if ends_[0] == ends_[1] else "–".join(ends_)


def _power(decades: float) -> str:
    if not np.isfinite(decades):
        return number(decades) if np.isnan(decades) or decades > 0 else "nothing"
    return number(float(f"{10**decades:.2g}"))


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A row a stack, at the start and after training: the gradient from the highest layer down to the input."""
    curves = tables["curves"]
    places = sorted(curves["place"].unique())
    whens = [when for when in (BEFORE, AFTER) if (curves["when"] == when).any()]
    figure = Figure(figsize=(theme.WIDTH, 1.7 + 2.2 * len(places)), layout="constrained")
    grid = figure.subplots(len(places), len(whens), sharex=True, sharey=True, squeeze=False)
    finite = curves["relative"][np.isfinite(curves["relative"])]
    low, high = max(DEEPEST, float(np.floor(finite.min()))), float(np.ceil(finite.max() + 0.2))
    for row, place in zip(grid.tolist(), places, strict=True):
        for axes, when in zip(row, whens, strict=True):
            chosen = curves[(curves["place"] == place) & (curves["when"] == when)]
            axes.axhline(0, color=theme.INK, lw=0.7, dashes=(4, 3), zorder=1)
            for (residual, norm), look in LOOKS.items():
                _draw_curves(axes, chosen[(chosen["residual"] == residual) & (chosen["norm"] == norm)], look, low, high)
            axes.set_title(f"{place}, {when} training", fontweight="bold")
    first = grid[0, 0]
    first.set_ylim(low, high)
    first.set_xlim(0, curves["below"].max())
    first.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    first.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    first.yaxis.set_major_formatter(lambda value, _: theme.power(value))
    theme.label(grid.ravel().tolist(), "layers below the highest", "gradient, relative\nto the highest layer")
    handles = [
        Line2D(
            [], [], color=look.colour, ls=look.dash, marker=look.marker, ms=4.5, mec=theme.PAPER, mew=0.4, lw=1.6,
            label=f"{'residual path' if residual else 'no path'}, {'LayerNorm' if norm else 'no LayerNorm'}",
        )
        for (residual, norm), look in LOOKS.items()
        if ((curves["residual"] == residual) & (curves["norm"] == norm)).any()
    ]  # fmt: skip
    handles.append(
        Line2D([], [], color=theme.INK, lw=0.7, dashes=(4, 3), label="theory of the residual path: unchanged")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, handlelength=3)
    theme.headline(figure, finding(tables))
    return figure


def _draw_curves(axes: Axes, curves: pd.DataFrame, look: theme.Look, low: float, high: float) -> None:
    """Every run faintly, the median with its interval, and a triangle for what lies beyond the axis."""
    if curves.empty:
        return
    for _, of_run in curves.groupby("run"):
        inside = of_run["relative"].where(of_run["relative"].between(low, high))
        axes.plot(of_run["below"], inside, color=look.colour, lw=0.7, alpha=0.4, ls=look.dash)
    for beyond, edge, marker in ((curves["relative"] < low, low, "v"), (curves["relative"] > high, high, "^")):
        if beyond.any():
            places = curves.loc[beyond, "below"].unique()
            axes.plot(places, np.full(len(places), edge), marker, color=look.colour, ms=3.5, clip_on=False)
    whole = curves.pivot(index="below", columns="run", values="relative").dropna(axis="columns")
    if whole.shape[1] == 0:
        return
    over = interval(whole.to_numpy().T)
    median = np.where((over.median >= low) & (over.median <= high), over.median, np.nan)
    axes.plot(
        whole.index, median, color=look.colour, ls=look.dash, lw=1.6, marker=look.marker, ms=4, mec=theme.PAPER, mew=0.4
    )
    if whole.shape[1] > 1:
        band = (np.clip(end, low, high) for end in (over.low, over.high))
        axes.fill_between(whole.index, *band, color=look.colour, alpha=0.12, lw=0)


def caption(tables: Tables) -> str:
    """What is drawn, of which step, and what the interval is."""
    curves, numbers = tables["curves"], tables[NUMBERS]
    seeds = sorted(map(int, numbers.groupby(["stack", "residual path", "LayerNorm"])["run"].nunique().unique()))
    each = seeds_each(seeds)
    band = "" if seeds[-1] == 1 else f", the band is {interval_in_words(seeds[-1])}"
    last = curves.loc[curves["when"] == AFTER, "step"]
    after = "" if last.empty else f"after training, step {number(last.min())} to {number(last.max())}, "
    return (
        "Norm of the loss's gradient at the whole residual stream before a layer, or after the highest: the root of "
        "its squares over positions, each the mean of the probe batch's samples, relative to its size after the "
        f"highest layer. Before training, step 0, {after}each run's last snapshot. The input is at the right. "
        "Triangles stand for what lies beyond the axis or is zero. The norm stands before each sublayer in "
        "transformer, after it in transformer_postnorm. A gradient is said to fade where less than "
        f"{10**KEPT:g} of it reaches the lowest layer. {each} for each setting, thin lines; thick are medians{band}. "
        f"{details(tables)}"
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
