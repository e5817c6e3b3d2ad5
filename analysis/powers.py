"""At which rate the gradient of a linear recurrence falls or rises, beside the powers of its weights.

Question:  does the gradient of a recurrence explode where ‖W‖ > 1 and vanish where ‖W‖ < 1, at the rate of W's powers?
Expect:    with orthogonal weights it changes by exactly the spectral radius at every lag; with a symmetric matrix its
           directions fade at rates of their own and the slowest is left; with Gaussian entries, which are not normal,
           it may grow first and takes the radius's rate only later.
Data:      readings lag_gradient/relative and lag_gradient/slope of the first snapshot, before training; the settings
           model.radius and model.matrix.

    python analysis/powers.py outputs/powers
"""

import sys

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator
from matplotlib.typing import ColorType

from retrograde.figures import question, theme
from retrograde.figures.comparison import BEFORE, NUMBERS, Comparison, NothingToDraw, Tables, ends, listed
from retrograde.figures.provenance import seeds_each
from retrograde.record.tables import LOWEST

RADIUS, MATRIX = "config.model.radius", "config.model.matrix"

EXACT = 1e-3
"""By which a factor may miss the radius and still be called the same; in decades, what counts as no change at all."""

KINDS = ("orthogonal", "normal", "nonnormal")
"""Of W, from the simplest."""

BELOW, ABOVE = "blend:#00436b,#7db8dc", "blend:#f0a878,#a33c00"
"""Colours of radii below and above 1; in grey they are told apart by their order from bottom to top."""


def load(comparison: Comparison) -> Tables:
    """``curves`` run, lag, relative (log10); ``numbers`` one row a run: the slope and what theory gives."""
    runs = comparison.runs
    if RADIUS not in runs or runs[RADIUS].nunique() < 2:
        raise NothingToDraw("no model's spectral radius is varied: model=linear_rnn model.radius=0.9,1,1.1 does")
    chosen = runs.loc[runs[RADIUS].notna(), ["run", RADIUS, MATRIX]].set_axis(["run", "radius", "matrix"], axis=1)
    chosen = chosen.astype({"radius": float})
    curves = _first(comparison.readings("lag_gradient/relative", [0], "mean")).merge(chosen, on="run")
    slopes = _first(comparison.readings("lag_gradient/slope", [0])).merge(chosen, on="run")
    if curves.empty or slopes.empty:
        raise NothingToDraw("no run holds lag_gradient/relative and lag_gradient/slope of step 0")
    slopes = slopes.assign(theory=np.log10(slopes["radius"]))
    numbers = pd.DataFrame(
        {
            "model": slopes["model"],
            "seed": slopes["seed"],
            "matrix": slopes["matrix"],
            "spectral radius": slopes["radius"],
            "slope (decades per lag)": slopes["value"],
            "theory (decades per lag)": slopes["theory"],
            "difference": slopes["value"] - slopes["theory"],
            "over all lags (decades)": _last(curves, slopes),
            "run": slopes["run"],
        }
    )
    columns = ["model", "seed", "run", "matrix", "radius", "lag", "value", "status"]
    return {
        "curves": _in_order(curves[columns], ["radius", "run", "lag"]),
        NUMBERS: _in_order(numbers, ["spectral radius", "seed"]),
    }


def _in_order(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    kinds = table["matrix"].map({kind: place for place, kind in enumerate(KINDS)})
    return table.assign(kind=kinds).sort_values(["kind", *columns], ignore_index=True).drop(columns="kind")


def _first(readings: pd.DataFrame) -> pd.DataFrame:
    """Of the layer nearest to the input, before training."""
    found = ends(readings[readings["layer"].str.startswith(LOWEST)])
    return found[found["when"] == BEFORE]


def _last(curves: pd.DataFrame, slopes: pd.DataFrame) -> np.ndarray:
    """The gradient at the longest lag, relative to lag 0, of the runs in their order."""
    longest = curves.sort_values("lag").groupby("run")["value"].last()
    return longest.reindex(slopes["run"]).to_numpy()


def finding(tables: Tables) -> str:
    """Whether the sign is that of theory, and by which factor a lag the gradient changes, by matrix."""
    numbers = tables[NUMBERS]
    theory, slope = numbers["theory (decades per lag)"], numbers["slope (decades per lag)"]
    away = theory.abs() > EXACT
    right = int((np.sign(slope[away]) == np.sign(theory[away])).sum())
    runs = f"all {right}" if right == away.sum() else f"{right} of {away.sum()}"
    rates = []
    for matrix, of_matrix in numbers.groupby("matrix", sort=False):
        low, high = (10**end for end in of_matrix["difference"].agg(["min", "max"]))
        exact = max(abs(low - 1), abs(high - 1))
        rates.append(
            f"with {matrix} weights by exactly that radius (to {exact:.0e})"
            if exact < EXACT
            else f"with {matrix} ones by {in_two_decimals(low, high)} times it"
        )
    return (
        f"Before training the gradient explodes above a spectral radius of 1 and vanishes below it in {runs} runs; at "
        f"every lag it changes {', '.join(rates)}"
    )


def in_two_decimals(low: float, high: float) -> str:
    """A range, or the one number that its ends round to."""
    ends_ = list(dict.fromkeys([f"{low:.2f}", f"{high:.2f}"]))
    return " to ".join(ends_)


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A panel a matrix: the gradient over lag for each radius, with theory dashed; below, the slopes beside theory."""
    curves, numbers = tables["curves"], tables[NUMBERS]
    matrices = list(dict.fromkeys(curves["matrix"]))
    figure = Figure(figsize=(theme.WIDTH, 5.2), layout="constrained")
    colours = _colours(numbers["spectral radius"])
    grid = figure.subplots(2, len(matrices), sharex="row", sharey="row", squeeze=False)
    top, bottom = grid.tolist()
    for above, below, matrix in zip(top, bottom, matrices, strict=True):
        _draw_curves(above, curves[curves["matrix"] == matrix], colours)
        _draw_slopes(below, numbers[numbers["matrix"] == matrix], colours)
        above.set_title(str(matrix), fontweight="bold")
    top[0].set_ylabel("gradient relative to lag 0")
    top[0].yaxis.set_major_locator(MaxNLocator(6, integer=True))
    top[0].yaxis.set_major_formatter(lambda value, _: theme.power(value))
    bottom[0].set_ylabel("factor a lag, measured")
    for axis in (bottom[0].xaxis, bottom[0].yaxis):
        axis.set_major_locator(FixedLocator(np.log10(list(colours)).tolist()))
        axis.set_major_formatter(lambda value, _: f"{10**value:g}")
    for above, below in zip(top, bottom, strict=True):
        above.set_xlabel("lag (positions back)")
        below.set_xlabel("spectral radius of W")
        below.tick_params(axis="x", rotation=45)
    _draw_legend(figure, colours)
    theme.headline(figure, finding(tables))
    return figure


def _colours(radii: pd.Series) -> dict[float, ColorType]:
    """Blue below 1 and red above it, the stronger the further from it."""
    below, above = (sorted(float(radius) for radius in radii[side].unique()) for side in (radii < 1, radii > 1))
    colours: dict[float, ColorType] = dict(zip(below, sns.color_palette(BELOW, len(below)), strict=True))
    colours |= {1.0: theme.QUIET} if (radii == 1).any() else {}
    return colours | dict(zip(above, sns.color_palette(ABOVE, len(above)), strict=True))


def _draw_curves(axes: Axes, curves: pd.DataFrame, colours: dict[float, ColorType]) -> None:
    """Every run, and the powers of the radius."""
    for radius, colour in colours.items():
        for _, of_run in curves[curves["radius"] == radius].groupby("run"):
            values = of_run["value"].where(np.isfinite(of_run["value"]))
            axes.plot(of_run["lag"], values, color=colour, linewidth=1.1)
    lags = np.array([0, curves["lag"].max()])
    for radius in colours:
        axes.plot(lags, lags * np.log10(radius), color=theme.INK, lw=0.6, dashes=(4, 3), zorder=3)


def _draw_slopes(axes: Axes, numbers: pd.DataFrame, colours: dict[float, ColorType]) -> None:
    """Every run's slope over the radius; on the diagonal the two are the same."""
    ends_ = np.log10([min(colours), max(colours)])
    axes.plot(ends_, ends_, color=theme.INK, lw=0.6, dashes=(4, 3))
    axes.axhline(0, color=theme.RULE, lw=0.6, zorder=0)
    axes.axvline(0, color=theme.RULE, lw=0.6, zorder=0)
    for radius, colour in colours.items():
        slopes = numbers.loc[numbers["spectral radius"] == radius, "slope (decades per lag)"]
        x = np.full(len(slopes), np.log10(radius))
        axes.plot(x, slopes, "o", color=colour, ms=4.5, mec=theme.INK, mew=0.4)


def _draw_legend(figure: Figure, colours: dict[float, ColorType]) -> None:
    handles = [Line2D([], [], color=colour, lw=2, label=f"{radius:g}") for radius, colour in colours.items()]
    handles.append(Line2D([], [], color=theme.INK, lw=0.6, dashes=(4, 3), label="theory: radius to the lag"))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, title="spectral radius of W"
    )


def caption(tables: Tables) -> str:
    """What is drawn, of which step, and what theory is."""
    numbers = tables[NUMBERS]
    seeds = sorted(map(int, numbers.groupby(["matrix", "spectral radius"])["run"].nunique().unique()))
    each = seeds_each(seeds)
    matrices = listed([str(one) for one in dict.fromkeys(numbers["matrix"])])
    return (
        "Norm of the loss's total gradient at the hidden state that lies the given number of positions back from the "
        "scored one, mean of the probe batch's samples, relative to its size at lag 0, at step 0, in linear "
        f"recurrences h_t = W h_{{t−1}} + U x_t with {matrices} W. Dashed is ρ to the power of the lag for spectral "
        "radius ρ. Below: the factor by which each curve changes a lag, of a straight line through its logarithm by "
        f"least squares over all lags, beside ρ; on the dashed line they are equal. {each} for each radius and matrix, "
        "every one drawn; there is no band."
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
