"""A preset's figure: its claims in rows, values on their bands, beside how far the gradient reached."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from retrograde.figures import theme
from retrograde.figures.comparison import listed
from retrograde.figures.papers.presets import SHARE
from retrograde.figures.papers.table import Row, grouped, number_in, numbers_in
from retrograde.figures.papers.words import ours_in_words, outcome_in_words, quantity_in_words
from retrograde.figures.provenance import number

CLAIM_WIDTH, CLAIM_LINES = 30, 3
"""Characters and lines of a claim beside its row; the page has all of it."""

UP, DOWN = -0.13, 0.27
"""Where in a row, which is 1 high, the seeds and their mean stand."""

HALF = 0.42
"""Of a row, what its band takes."""

DECADES = 2
"""Of one quantity, from which on its axis is logarithmic."""

RULES: dict[str, Any] = {"trivial": (0, (1, 1.2)), "shallow": (0, (4, 1.3, 1, 1.3))}
"""Dashes of the lines at which rules stand that learn nothing, or little."""

LAG: dict[str, Any] = {"color": theme.INK, "lw": 0.9, "dashes": (4, 2.5)}
PUBLISHED: dict[str, Any] = {"color": theme.INK, "lw": 1.8}


@theme.applied()
def draw(of: Sequence[Row]) -> Figure | None:
    """Claims in rows, one panel a quantity, beside the horizons by model; None where no claim has a value."""
    shown = [row for row in of if row["ours"]]
    if not shown:
        return None
    groups = grouped(shown, "quantity").values()
    horizons = list({row["models"]: row for row in shown if row["horizons_before"] or row["horizons_after"]}.values())
    names = pd.CategoricalDtype(list(dict.fromkeys(row["models"] for row in of)))
    looks = theme.looks(pd.Series([row["models"] for row in shown]).astype(names))
    height = sum(0.55 * len(group) + 0.45 for group in groups)
    height = max(height, 0.4 * len(horizons) + 0.45) + 1.1
    figure = Figure(figsize=(theme.WIDTH, height), layout="constrained")
    grid = figure.add_gridspec(
        len(groups),
        2 if horizons else 1,
        width_ratios=[1.75, 1] if horizons else [1],
        height_ratios=[0.55 * len(group) + 0.3 for group in groups],
    )
    for place, group in enumerate(groups):
        _draw_claims(figure.add_subplot(grid[place, 0]), group, looks)
    if horizons:
        _draw_horizons(figure.add_subplot(grid[:, 1]), horizons, looks, len(shown))
    _draw_legend(figure, shown, bool(horizons))
    theme.headline(figure, outcome_in_words(of))
    return figure


def _draw_claims(axes: Axes, of: Sequence[Row], looks: Mapping[str, theme.Look]) -> None:
    """Rows from above: band, published value, rules, every seed, and below these the mean with its interval."""
    low, high, logarithmic = _limits(of)
    if logarithmic:
        axes.set_xscale("log")
    axes.set_xlim(low, high)
    for place, row in enumerate(of):
        ends = number_in(row["band_low"]), number_in(row["band_high"])
        left, right = (
            edge if math.isnan(end) else min(max(end, low), high) for end, edge in zip(ends, (low, high), strict=True)
        )
        # a band of one value is a line; at least as wide as can be seen
        axes.add_patch(
            Rectangle((left, place - HALF), right - left, 2 * HALF, fc=theme.RULE, ec=theme.RULE, lw=1.2, zorder=1)
        )
        for name, dash in RULES.items():
            _draw_line(axes, _rule_at(row, name), place, HALF, color=theme.QUIET, lw=1.1, ls=dash, zorder=2)
        _draw_line(axes, number_in(row["published"]), place, HALF, **PUBLISHED, zorder=3)
        _draw_values(axes, place, row, looks[row["models"]], high)
        said = f"{ours_in_words(row)}\n{row['verdict']}".replace(", max", "\nmax")
        said = "\n".join(theme.wrapped(line, 26) for line in said.split("\n"))  # a margin of an inch and a half
        axes.text(1.03, place, said, transform=axes.get_yaxis_transform(), va="center", fontsize=theme.SMALL)
    _name_rows(axes, [_claim_in_lines(row) for row in of], quantity_in_words(of[0]))
    if not logarithmic:
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(round(value, 9))))


def _limits(of: Sequence[Row]) -> tuple[float, float, bool]:
    """Both ends of a quantity's axis, and whether it is logarithmic."""
    if of[0]["quantity"] == SHARE:
        return -0.06, 1.06, False
    told = [
        value
        for row in of
        for value in (
            *numbers_in(row["seeds"]),
            *(number_in(row[name]) for name in ("ours", "low", "high", "max", "published", "band_low", "band_high")),
            *(_rule_at(row, name) for name in RULES),
        )
        if math.isfinite(value)
    ]
    least, most = min(told), max(told)
    if least > 0 and most / least > 10**DECADES:
        return least / (most / least) ** 0.06, most * (most / least) ** 0.06, True
    room = 0.06 * (most - least) or 0.1 * abs(most) or 1.0
    return least - room, most + room, False


def _rule_at(row: Row, name: str) -> float:
    """Where a rule stands on the axis of a quantity: of a share of runs, it is none of them or all."""
    value = number_in(row[name])
    if row["quantity"] == SHARE and not math.isnan(value):
        return float(value >= number_in(row["solved_from"]))
    return value


def _draw_line(axes: Axes, at: float, place: int, half: float, **style: Any) -> None:
    """Upright in a row, where there is a value."""
    if not math.isnan(at):
        axes.plot([at] * 2, [place - half, place + half], **style)


def _draw_values(axes: Axes, place: int, row: Row, look: theme.Look, edge: float) -> None:
    """Seeds side by side, upwards: those that agree would hide one another. What is infinite is at the edge."""

    def draw_mark(value: float, at: float, marker: str, **style: Any) -> None:
        beyond = value == math.inf
        style = {"color": look.colour, "mfc": "none" if beyond else look.colour, "mew": 0.8, "clip_on": False, **style}
        axes.plot([min(value, edge)], [at], ">" if beyond else marker, **style)

    seeds = numbers_in(row["seeds"])
    for value, at in zip(seeds, _side_by_side(place + UP, len(seeds), 0.17), strict=True):
        draw_mark(value, at, look.marker, markersize=3.2, alpha=0.75, zorder=4)
    below = place + DOWN
    if len(seeds) > 1:
        ends = [min(number_in(row[end]), edge) for end in ("low", "high")]
        axes.plot(ends, [below] * 2, color=look.colour, lw=1.4, zorder=4)
    draw_mark(number_in(row["ours"]), below, "D", markersize=4.5, zorder=5)
    if row["max"]:
        draw_mark(number_in(row["max"]), below, "*", markersize=8, zorder=5)


def _side_by_side(at: float, count: int, half: float) -> np.ndarray:
    return at + (np.linspace(-half, half, count) if count > 1 else np.zeros(1))


def _claim_in_lines(row: Row) -> str:
    lines = theme.wrapped(row["says"], CLAIM_WIDTH).split("\n")
    if len(lines) > CLAIM_LINES:
        lines = [*lines[: CLAIM_LINES - 1], f"{lines[CLAIM_LINES - 1]} …"]
    return "\n".join(lines)


def _name_rows(axes: Axes, names: Sequence[str], quantity: str) -> None:
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names, fontsize=theme.SMALL)
    axes.tick_params("y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(quantity)
    axes.xaxis.set_minor_locator(NullLocator())


def _draw_horizons(axes: Axes, of: Sequence[Row], looks: Mapping[str, theme.Look], beside: int) -> None:
    """Each seed's horizon before and after training, and the lag that the task asks to bridge.

    Rows are no higher than those ``beside`` them, of which there are so many.
    """
    cells = [row[name] for row in of for name in ("horizons_before", "horizons_after", "lag")]
    told = [value for one in cells for value in numbers_in(one) if math.isfinite(value)]
    positive = [value for value in told if value > 0]
    most = max(told, default=1.0) or 1.0
    logarithmic = bool(positive) and most / min(positive) > 10**DECADES
    if logarithmic:
        axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(-0.3 if logarithmic else -0.04 * most, most * (2 if logarithmic else 1.06))
    for place, row in enumerate(of):
        look = looks[row["models"]]
        before, after = (numbers_in(row[f"horizons_{when}"]) for when in ("before", "after"))
        heights = _side_by_side(place, max(len(before), len(after)), 0.28)
        if before and after:
            for start, end, at in zip(before, after, heights, strict=True):
                axes.plot([start, end], [at] * 2, color=look.colour, lw=0.6, alpha=0.5, zorder=2)
        style: dict[str, Any] = {"color": look.colour, "ls": "none", "mew": 0.8, "clip_on": False}
        if before:  # a ring about the other where they agree
            axes.plot(before, heights, look.marker, mfc=theme.PAPER, markersize=5.0, zorder=3, **style)
        if after:
            axes.plot(after, heights, look.marker, mfc=look.colour, markersize=3.0, zorder=4, **style)
        _draw_line(axes, number_in(row["lag"]), place, 0.5, **LAG, zorder=1)
    _name_rows(axes, [theme.wrapped(row["models"], 16) for row in of], "horizon (lags)")
    middle, half = (len(of) - 1) / 2, max(len(of), beside) / 2
    axes.set_ylim(middle + half, middle - half)
    if not logarithmic:
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def _draw_legend(figure: Figure, of: Sequence[Row], has_horizons: bool) -> None:
    def mark(label: str, marker: str, **style: Any) -> Line2D:
        style = {"color": theme.QUIET, "ls": "none", "marker": marker, "ms": 4, **style}
        return Line2D([], [], label=label, **style)

    kinds = listed(sorted({"median" if row["aggregate"] == "median" else "mean" for row in of}))
    handles: list[Artist] = [Patch(color=theme.RULE, label="band of acceptance")]
    if any(row["published"] for row in of):
        handles.append(Line2D([], [], label="published", **PUBLISHED))
    handles += [mark("a seed", "o", ms=3.2), mark(f"{kinds}, interval over seeds", "D", ls="-", lw=1.4)]
    if any(row["max"] for row in of):
        handles.append(mark("maximum", "*", ms=8))
    if any("inf" in row["seeds"] for row in of):
        handles.append(mark("never (∞)", ">", mfc="none"))
    for name, kind in (("trivial", "trivial rule"), ("shallow", "best shallow rule")):
        named = sorted({row[f"{name}_rule"] for row in of if row[name]})
        if named:
            first, *more = theme.wrapped(named[0], 34).split("\n")  # the page has all of it
            label = f"{kind}: {first}{' …' if more else ''}" if len(named) == 1 else f"{kind}s"
            handles.append(Line2D([], [], label=label, color=theme.QUIET, lw=1.1, ls=RULES[name]))
    if has_horizons:
        handles.append(mark("gradient's horizon before training", "o", ms=5.0, mfc=theme.PAPER))
        handles.append(mark("gradient's horizon after training", "o", ms=3.0))
        if any(row["lag"] for row in of):
            handles.append(Line2D([], [], label="the task's lags, 90 %", **LAG))
    labels = [str(handle.get_label()) for handle in handles]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=theme.columns(labels, 4), frameon=False, handlelength=2.4
    )
