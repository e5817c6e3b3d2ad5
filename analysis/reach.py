"""How far back the loss gradient reaches.

Question:  how many steps back does the loss gradient reach, before and after training?
Expect:    Elman loses it within about 20 steps; gated cells, once trained, keep it over all the lags that the task asks
           to bridge; attention has it everywhere from the start.
Data:      readings lag_gradient/relative and lag_gradient/horizon of the first and the last snapshot; the card's lags.

    python analysis/reach.py outputs/demo
"""

import sys

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
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
    listed,
    outcomes,
    uncounted,
)
from retrograde.figures.provenance import lag_quantiles, number, seeds_in_words
from retrograde.figures.statistics import interval
from retrograde.record.tables import LOWEST

KEPT = 0.01
"""The horizon's threshold, as in the probe: the share of its size at lag 0 that a gradient must keep."""

DEEPEST = -8
"""Decades below lag 0 at which the axis ends; what lies deeper is marked there."""

DASHES = {BEFORE: (0, (3, 1.5)), AFTER: "-"}


def load(comparison: Comparison) -> Tables:
    """``curves`` run, when, lag, relative; ``lags`` of the task; ``scored`` positions by sample; ``numbers`` runs.

    A state with several components (an LSTM's hidden and cell) is one memory: at each lag the component counts that
    kept most of its own size at lag 0. The curve's horizon is then that of the component that reaches furthest.
    """
    horizons = ends(_lowest(comparison.readings("lag_gradient/horizon")))
    if horizons.empty:
        raise NothingToDraw("from a target to its source there is no lag; source_gradient has what reaches it")
    steps = sorted(int(step) for step in horizons["step"].unique())
    norms = _lowest(comparison.readings("lag_gradient/relative", steps, "mean"))
    curves = _furthest(ends(norms))
    curves = curves[curves["run"].isin(horizons["run"])].reset_index(drop=True)  # where both can be read
    if curves.empty:
        raise NothingToDraw("no run holds both lag_gradient/relative and lag_gradient/horizon")
    lags = pd.DataFrame(comparison.card["lags"], columns=["lag", "count"], dtype=int)
    return {
        "curves": curves,
        "lags": lags,
        "scored": _scored(comparison, curves["run"].iloc[0]),
        NUMBERS: _numbers(horizons, curves, comparison),
    }


def _scored(comparison: Comparison, run: str) -> pd.DataFrame:
    """How many positions of each sample of the probe batch are scored."""
    labels = comparison.labels(run)
    return labels.groupby("sample")["scored"].sum().reset_index(name="positions")


def _lowest(readings: pd.DataFrame) -> pd.DataFrame:
    """The layer nearest to the input, in whichever direction it runs."""
    return readings[readings["layer"].str.startswith(LOWEST)]


def _furthest(norms: pd.DataFrame) -> pd.DataFrame:
    """One curve a run and snapshot: log10 relative to lag 0, of the component that kept most; NaN where none can."""
    snapshot = ["run", "when", "layer", "component"]
    at_zero = norms.loc[norms["lag"] == 0, [*snapshot, "value"]].rename(columns={"value": "zero"})
    curves = norms.merge(at_zero, on=snapshot, how="left")
    curves["relative"] = (curves["value"] - curves["zero"]).where(np.isfinite(curves["zero"]))
    curves = curves.sort_values(["model", "seed", "run", "when", "lag", "relative"], na_position="first")
    columns = ["model", "seed", "run", "when", "step", "layer", "component", "lag", "value", "relative", "status"]
    return curves.groupby(["run", "when", "lag"], sort=False).tail(1)[columns].reset_index(drop=True)


def _numbers(horizons: pd.DataFrame, curves: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """Horizons before and after by run, what kept the gradient longest, and the task's lags beside them."""
    lags = lag_quantiles(comparison.card)
    table = curves[["model", "seed", "run"]].drop_duplicates("run", ignore_index=True).set_index("run")
    for when in (BEFORE, AFTER):
        at_end = horizons[horizons["when"] == when].sort_values(["value", "component"], ascending=[False, True])
        furthest = at_end.drop_duplicates("run").set_index("run")  # one that is no number comes last
        table[f"horizon {when} (lags)"] = furthest["value"]
        table[f"kept {when} by"] = furthest["component"].where(furthest["value"].notna()).astype(object)
        table[f"kept {when} by"] = table[f"kept {when} by"].fillna("–")
    table["outcome"] = pd.Series(outcomes(comparison.runs), comparison.runs["run"])
    table["step after"] = horizons.groupby("run")["step"].max()
    table["longest lag measured"] = curves.groupby("run")["lag"].max()
    table["task's lags, median"] = lags.get("median", np.nan)
    table["task's lags, 90 %"] = lags.get("90 %", np.nan)
    return table.reset_index().loc[:, [*(column for column in table), "run"]]


def medians(numbers: pd.DataFrame) -> pd.DataFrame:
    """Median horizon over seeds, one row a model, columns before and after."""
    columns = {f"horizon {when} (lags)": when for when in (BEFORE, AFTER)}
    return numbers.groupby("model", observed=True)[list(columns)].median().rename(columns=columns)


def finding(tables: Tables) -> str:
    """Which models' gradients cover the task's lags after training, with how many seeds, and which did before."""
    drawn = tables[NUMBERS]
    numbers, beside = drawn[drawn["outcome"].isin(COUNTED)], uncounted(drawn["outcome"])
    if numbers.empty:
        return f"No run that is drawn has finished. {beside}"
    middle = medians(numbers)
    needed = numbers["task's lags, 90 %"].iloc[0]
    if np.isnan(needed):
        reach = [f"{model} {number(row[BEFORE])} → {number(row[AFTER])}" for model, row in middle.iterrows()]
        said = f"Median gradient horizon before → after training, in lags: {', '.join(reach)}"
        return ". ".join(filter(None, [said, beside]))
    always, partly, never, from_start = [], [], [], []
    for model, of_model in numbers.groupby("model", observed=True):
        covers = {when: of_model[f"horizon {when} (lags)"] >= needed for when in (BEFORE, AFTER)}
        reached = int(covers[AFTER].sum())
        at = f"median {number(middle[AFTER][model])}"
        if reached == len(of_model):
            always.append(str(model))
            from_start += [str(model)] if covers[BEFORE].all() else []
        elif reached:
            partly.append(f"{model} with {reached} of {len(of_model)} seeds ({at})")
        else:
            never.append(f"{model} ({at})")
    parts = []
    if always:
        who = "" if len(from_start) == len(always) else f"{listed(from_start)} "
        already = f" ({who}already before it)" if from_start else ""
        parts.append(f"in {listed(always)} with every seed{already}")
    if partly:
        parts.append(f"in {listed(partly)}")
    if never:
        parts.append(f"not in {listed(never)}")
    reaches = f"the gradient reaches {number(needed)} lags back, which covers 90 % of the task's"
    return ". ".join(filter(None, [f"After training {reaches}: {'; '.join(parts)}", beside]))


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A panel a model: gradient by lag before and after training, the task's lags in a strip at the bottom."""
    curves, lags = tables["curves"], tables["lags"]
    models = theme.present(curves["model"])
    looks = theme.looks(curves["model"])
    figure, panels = theme.panels(len(models), 2.2)
    depth = _depth(curves["relative"])
    top = float(np.ceil(curves["relative"].where(np.isfinite(curves["relative"])).max() + 0.1))
    strip = depth - 0.2 * (top - depth) if len(lags) else depth
    middle = medians(tables[NUMBERS])
    powers = [power for power in MaxNLocator(6, integer=True).tick_values(depth, top) if depth <= power <= top]
    for model, axes in zip(models, panels, strict=True):
        axes.set_xlim(-0.5, curves["lag"].max() + 0.5)
        axes.set_ylim(strip, top)
        axes.set_yticks(powers)
        axes.yaxis.set_major_formatter(lambda value, _: theme.power(value))
        of_model = curves[curves["model"] == model]
        axes.axhline(np.log10(KEPT), color=theme.QUIET, linewidth=0.6, dashes=(2, 2))
        for when in (BEFORE, AFTER):
            colour = looks[model].colour if when == AFTER else theme.QUIET
            _draw_curves(axes, of_model[of_model["when"] == when], colour, DASHES[when], depth, top)
        axes.fill_between(*_strip(lags, strip, 0.8 * (depth - strip)), strip, color=theme.RULE, linewidth=0)
        horizons = " → ".join(number(middle.loc[model, when]) for when in (BEFORE, AFTER))
        axes.set_title(model, fontweight="bold", color=looks[model].colour)
        axes.set_title(f"{horizons} lags", loc="right")
        theme.note(axes, oddities(of_model, depth), (0.03, 0.22))
    theme.label(panels, "lag (positions back)", "gradient relative to lag 0")
    _draw_legend(figure, len(lags) > 0)
    theme.headline(figure, finding(tables))
    return figure


def _depth(relative: pd.Series) -> float:
    """Where the axis ends: below all that is drawn, or at ``DEEPEST``."""
    lowest = relative.where(np.isfinite(relative)).min()
    return float(max(DEEPEST, np.floor(min(lowest, np.log10(KEPT) - 1))))


def _draw_curves(axes: Axes, curves: pd.DataFrame, colour: str, dash: object, depth: float, top: float) -> None:
    """Every run faintly, the median with its interval, and on the edges a mark for what lies beyond them."""
    for _, of_run in curves.groupby("run", sort=True):
        axes.plot(of_run["lag"], _inside(of_run["relative"], depth), color=colour, linewidth=0.7, alpha=0.4, ls=dash)
    below = curves.loc[(curves["relative"] < depth) | curves["status"].isin(["zero", "censored"]), "lag"]
    above = curves.loc[curves["status"] == "inf", "lag"]
    for lags, edge, marker in ((below, depth, "v"), (above, top, "^")):
        if len(lags):
            axes.plot(lags, np.full(len(lags), edge), marker, color=colour, markersize=3, clip_on=False)
    whole = curves.pivot(index="lag", columns="run", values="relative").dropna(axis="columns")
    if whole.shape[1] == 0:
        return
    over_seeds = interval(whole.to_numpy().T)
    axes.plot(whole.index, _inside(over_seeds.median, depth), color=colour, linewidth=1.8, ls=dash)
    if whole.shape[1] > 1:
        low, high = (np.clip(end, depth, top) for end in (over_seeds.low, over_seeds.high))
        axes.fill_between(whole.index, low, high, color=colour, alpha=0.12, linewidth=0)


def _strip(lags: pd.DataFrame, bottom: float, height: float) -> tuple[np.ndarray, np.ndarray]:
    """The outline of a bar for every lag: in one shape, because many bars in each panel take most of the drawing."""
    counts = np.bincount(lags["lag"], weights=lags["count"], minlength=1)
    edges = np.arange(len(counts))[:, None] + [-0.5, 0.5]
    return edges.ravel(), np.repeat(bottom + height * counts / max(counts.max(), 1), 2)


def _inside(relative: pd.Series | np.ndarray, depth: float) -> np.ndarray:
    """NaN, which is not drawn, in place of what lies below the axis or is infinite."""
    values = np.asarray(relative, dtype=float)
    return np.where((values >= depth) & (values < np.inf), values, np.nan)


def oddities(curves: pd.DataFrame, depth: float) -> str:
    """How many of a model's points are no number, and how many lie below the axis, in words; mostly empty."""
    finite = curves["status"] == "finite"
    kinds = {name: curves["status"] == name for name in ("zero", "censored", "inf", "nan")}
    kinds[f"below 1e{depth:g}"] = finite & (curves["relative"] < depth)
    kinds["without a size at lag 0"] = finite & curves["relative"].isna()
    parts = []
    for kind, found in kinds.items():
        counts = [f"{count} {when}" for when in (BEFORE, AFTER) if (count := (found & (curves["when"] == when)).sum())]
        if counts:
            parts.append(f"{kind}: {', '.join(counts)}")
    return "; ".join(parts)


def _draw_legend(figure: Figure, has_lags: bool) -> None:
    handles: list[Artist] = [
        Line2D([], [], color=theme.QUIET, linewidth=1.8, ls=DASHES[BEFORE], label="before training"),
        Line2D([], [], color=theme.INK, linewidth=1.8, label="after training"),
        Line2D([], [], color=theme.QUIET, linewidth=0.6, dashes=(2, 2), label="1 %: the horizon's threshold"),
    ]
    if has_lags:
        handles.append(Patch(color=theme.RULE, label="lags that the task asks to bridge"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, handlelength=2.4)


def caption(tables: Tables) -> str:
    """What is drawn, at which steps, and what the interval is."""
    curves = tables["curves"]
    steps = {when: curves.loc[curves["when"] == when, "step"] for when in (BEFORE, AFTER)}
    at = [f"{when} is step {_span(of_when)}" for when, of_when in steps.items() if len(of_when)]
    measured = (
        "the loss's total gradient at the state that lies the given number of positions back from the scored one, mean "
        "of the probe batch's samples"
    )
    if (tables["scored"]["positions"] != 1).any():
        measured = (
            "the total gradient, of the loss at one scored position alone, at the state that lies the given number of "
            "positions back from it, mean over a few samples of the probe batch and a few scored positions of each, "
            "the last among them"
        )
    return (
        f"Norm of {measured}, relative to its size at lag 0; lowest layer (for a model without recurrence: its "
        "embedded input). Of a state with several components, such as an LSTM's hidden and cell, the "
        "one counts that kept most. The horizon, over each panel as median before → after, is the largest lag that "
        f"keeps 1 %. Here {', '.join(at)}: the last snapshot of each run. {seeds_in_words(curves)} "
        "Triangles stand for what is zero, censored, infinite or beyond the axis, and are counted in the panel; a run "
        "with a point that is no number has no part in the median."
    )


def _span(steps: pd.Series) -> str:
    low, high = number(steps.min()), number(steps.max())
    return low if low == high else f"{low} to {high}"


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
