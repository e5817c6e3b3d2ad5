"""How figures look: one page width, one palette, one look per model.

A model's look follows from the categories of a table's ``model`` column, not from the rows that happen to be there: so
a model keeps its colour in every figure of a report, also in one that shows it alone. The colour is that of the
family, the text before the first bracket; settings that differ within a family (``lstm (forget_bias=0)``) change the
line style.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, LogFormatterMathtext, NullLocator

INK, QUIET, RULE, PAPER = "#1d252c", "#5d6872", "#d5dade", "#ffffff"
"""Text, secondary text, lines that carry no data, ground. The page swaps these four where the reader prefers dark."""

FAMILIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6a3f")
"""Okabe & Ito's colours, for every kind of colour vision; not their yellow and black, lost on one of the grounds."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (5, 1.5, 1.2, 1.5)), (0, (8, 2, 2, 2, 2, 2)))

SEQUENTIAL = "rocket_r"
"""Colour map of shares: paper for nothing, steadily darker with more; seaborn registers it."""

WIDTH = 7.2
"""Inches: the text width of a printed page, so that a label of 8 points stays one of 8 points."""

LEGEND = 7.5
"""Points of a legend's letters."""

SETTINGS = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same shapes on every machine
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": LEGEND,
    "figure.titlesize": 10,
    "figure.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.6,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "lines.solid_capstyle": "round",
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "savefig.facecolor": PAPER,
    "savefig.dpi": 200,
    "axes.titley": 1.0,  # where titles stand; else each drawing of a panel looks for what they could run into
    "text.hinting": "none",  # letters are as wide at every resolution, and what is laid out at one fits at all
    "svg.fonttype": "path",  # text as shapes: the picture needs no font of the reader's
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a name with two dollars in it is no formula, and nothing else is
}


@dataclass(frozen=True)
class Look:
    """How one model is drawn: colour for the family, dash for the setting, marker so that grey is enough."""

    colour: str
    dash: Any
    marker: str


@contextmanager
def applied() -> Iterator[None]:
    """The theme for a block, or, as a decorator, for a function; the process's own settings stay as they were."""
    settings: dict[Any, Any] = {**sns.axes_style("ticks"), **SETTINGS}
    with mpl.rc_context(settings):
        yield


def looks(model: pd.Series) -> dict[str, Look]:
    """The look of every category of a ``model`` column.

    >>> models = pd.CategoricalDtype(["gru", "lstm (hidden=4)", "lstm (hidden=8)"])
    >>> [look.colour for look in looks(pd.Series(["lstm (hidden=8)"]).astype(models)).values()]
    ['#0072b2', '#d55e00', '#d55e00']
    """
    names = [str(name) for name in model.cat.categories]
    families = list(dict.fromkeys(family(name) for name in names))
    members = {one: [name for name in names if family(name) == one] for one in families}
    chosen = {}
    for name in names:
        place, variant = families.index(family(name)), members[family(name)].index(name)
        again = place // len(FAMILIES)  # more families than colours: the dashes go on telling them apart
        chosen[name] = Look(
            FAMILIES[place % len(FAMILIES)],
            DASHES[(variant + again) % len(DASHES)],
            MARKERS[place % len(MARKERS)],
        )
    return chosen


def family(name: str) -> str:
    """The model without the settings that tell its variants apart."""
    return name.partition(" (")[0]


def present(model: pd.Series) -> list[str]:
    """The models that have rows, in the order of the categories."""
    return [str(name) for name in model.cat.categories if (model == name).any()]


def panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels, three to a row, four as two by two; ``height`` inches a row.

    Numbers stand along the last row and down the first column: the caller gives all panels one scale. Axes that
    matplotlib shares are asked for each other's limits at each line that is drawn, which for twenty is most of drawing.
    """
    columns = 2 if count == 4 else min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, rows * height + 0.9), layout="constrained")
    stacked: list[Axes] = []
    for place in range(count):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.tick_params(labelbottom=place + columns >= count, labelleft=place % columns == 0)
        stacked.append(axes)
    return figure, stacked


def label(panels: list[Axes], x: str, y: str) -> None:
    """Names the axes once: along the last row and down the first column; many small panels have no minor ticks."""
    for axes in panels:
        if len(panels) > 6:
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_minor_locator(NullLocator())
        place = axes.get_subplotspec()
        assert place is not None  # panels are subplots
        if place.is_last_row():
            axes.set_xlabel(x)
        if place.is_first_col():
            axes.set_ylabel(y)


def headline(figure: Figure, text: str) -> None:
    """The finding, over the figure's left edge, broken into lines that fit."""
    width = figure.get_figwidth()
    figure.suptitle(wrapped(text, int(84 * width / WIDTH)), x=0.085 / width, ha="left", linespacing=1.35)


def columns(labels: Sequence[str], most: int) -> int:
    """Columns of a legend that fit beside each other, ``most`` at most: what is wider than the figure is cut off it.

    >>> columns(["elman", "gru", "lstm"], 5), columns(["lstm (width=16, hidden=16, bidirectional=True)"] * 4, 5)
    (3, 2)
    """
    room = 72 * WIDTH / LEGEND
    widths = [LETTER * len(label) + BESIDE for label in labels]
    for count in range(min(most, len(labels)), 1, -1):
        if sum(max(part) for part in np.array_split(widths, count)) <= room:  # as matplotlib divides them
            return count
    return 1


LETTER, BESIDE = 0.62, 6.0
"""In units of those: a letter's width in the mean, and what a line, its distances and the next column's take."""

SMALL = 6.5
"""Points of small print."""


@applied()
def margin(figure: Figure, text: str) -> None:
    """Small print along the figure's lower edge, below its legends."""
    width = figure.get_figwidth()
    lines = wrapped(text, int(150 * width / WIDTH))
    line = SMALL * 1.4
    height, above = line * (lines.count("\n") + 1), 0
    for legend in figure.legends:
        # the layout puts both at the edge, and leaves room for the higher one: so the legend is lifted over the print,
        # and the print begins with as many empty lines as the legend is high
        size = float(legend.get_texts()[0].get_fontsize())
        legend.borderaxespad += height / size
        rows = -(-len(legend.get_texts()) // legend._ncols)  # type: ignore[attr-defined]  # of public names it has none
        above = max(above, round((1.6 * size * rows + size) / line))
    figure.supxlabel("\n" * above + lines, x=0.085 / width, ha="left", fontsize=SMALL, color=QUIET, linespacing=1.4)


RAISED = str.maketrans("-\N{MINUS SIGN}.0123456789", "⁻⁻·⁰¹²³⁴⁵⁶⁷⁸⁹")


def power(exponent: float) -> str:
    """Ten to that.

    >>> power(-12)
    '10⁻¹²'
    """
    return "10" + f"{exponent:g}".translate(RAISED)


class Raised(Formatter):
    """What another formatter says of ticks, a formula's exponent in raised digits."""

    def __init__(self, formatter: Formatter) -> None:
        self.formatter = formatter

    def set_axis(self, axis: Any) -> None:
        super().set_axis(axis)
        self.formatter.set_axis(axis)

    def set_locs(self, locs: Any) -> None:
        self.formatter.set_locs(locs)

    def __call__(self, x: float, pos: int | None = None) -> str:
        said = self.formatter(x, pos).removeprefix("$\\mathdefault{").removesuffix("}$").replace("\\times", "×")
        return re.sub(r"\^\{([^}]*)\}", lambda found: found[1].translate(RAISED), said)


def write_powers(figure: Figure) -> None:
    """Logarithmic axes have powers for ticks: matplotlib sets them as formulas, which nothing here is."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            for get, put in (
                (axis.get_major_formatter, axis.set_major_formatter),
                (axis.get_minor_formatter, axis.set_minor_formatter),
            ):
                if isinstance(get(), LogFormatterMathtext):
                    put(Raised(get()))


def note(axes: Axes, text: str, place: tuple[float, float]) -> None:
    """Small print in a panel, ``place`` its lower left corner in shares of the axes."""
    shown = axes.annotate(wrapped(text, 40), place, xycoords="axes fraction", fontsize=SMALL, color=QUIET)
    shown.set_in_layout(False)


def wrapped(text: str, width: int) -> str:
    """Lines of at most ``width`` characters.

    >>> wrapped("one two three", 8)
    'one two\\nthree'
    """
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of two colours' relative luminances, 1 to 21."""

    def luminance(colour: str) -> float:
        channels = np.array(mpl.colors.to_rgb(colour))
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
