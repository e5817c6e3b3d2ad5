"""One way to write a figure: the picture, what it was drawn from, and the runs it shows.

    <folder>/figures/<stem>.svg .pdf .png     the picture
    <folder>/figures/<stem>.<table>.csv       what is drawn, complete
    <folder>/figures/<stem>.txt               caption, the task's card, where it comes from
    <folder>/figures/<stem>.runs.txt          the runs, one a line
    <folder>/tables/<stem>.csv .tex           the numbers to report

The same tables give the same bytes: no date is written, and names inside the SVG follow from the stem.
"""

import html
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from fontTools import subset
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from retrograde.figures.comparison import NUMBERS, Tables
from retrograde.figures.provenance import number
from retrograde.figures.theme import applied

UNDATED = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


COLOURS = 256
"""Of a picture, so that all of them together stay small: text and lines need fewer, a heat map as many."""


def save(figure: Figure, tables: Tables, stem: str, folder: Path, runs: Iterable[str], words: str) -> list[Path]:
    """Writes everything, ``words`` as the figure's text; the paths come back, the SVG first."""
    pictures = folder / "figures"
    pictures.mkdir(parents=True, exist_ok=True)
    written = [pictures / f"{stem}.{kind}" for kind in UNDATED]
    vector, pages, dots = (str(path) for path in written)
    with applied(), mpl.rc_context({"svg.hashsalt": stem}):
        # by the canvases themselves: savefig draws a figure that has a layout twice, and three formats six times
        layout = figure.get_layout_engine()
        if layout is not None:
            layout.execute(figure)
        figure.set_layout_engine("none")
        figure.set_facecolor(mpl.rcParams["savefig.facecolor"])
        FigureCanvasSVG(figure).print_svg(vector, metadata=UNDATED["svg"])
        with _letters_alone():
            FigureCanvasPdf(figure).print_pdf(pages, metadata=UNDATED["pdf"])
        figure.set_dpi(mpl.rcParams["savefig.dpi"])
        FigureCanvasAgg(figure).print_png(dots, metadata=UNDATED["png"], pil_kwargs={"compress_level": 3})
    for name, table in tables.items():
        if name == NUMBERS:
            written += write_numbers(table, stem, folder)
        else:
            written.append(write_csv(table, pictures / f"{stem}.{name}.csv"))
    beside = {f"{stem}.txt": f"{words}\n", f"{stem}.runs.txt": "".join(f"{run}\n" for run in sorted(set(runs)))}
    for name, text in beside.items():
        (pictures / name).write_text(text, encoding="utf-8")
        written.append(pictures / name)
    return written


@contextmanager
def _letters_alone() -> Iterator[None]:
    """Fonts are embedded without their tables of how letters combine: matplotlib has placed each letter itself.

    They take most of the time that a small picture as PDF does.
    """

    class Options(subset.Options):  # type: ignore[misc]  # fontTools says nothing of types
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            self.drop_tables += ["GDEF", "GPOS", "GSUB"]

    whole = subset.Options
    subset.Options = Options
    try:
        yield
    finally:
        subset.Options = whole


def headline_share(figure: Figure) -> float:
    """How much of the height of a figure that was saved its headline takes, from the top; 0 where it has none."""
    heads = [text for text in figure.texts if text.get_text() and text.get_text() == figure.get_suptitle()]
    if not heads:
        return 0.0
    bottom = heads[0].get_window_extent().y0 / figure.bbox.height
    return float(min(max(1 - bottom, 0.0), 1.0))


def without_headline(svg: str, share: float) -> str:
    """The picture without that share of its height at the top, for a page that says the headline in words."""
    box = re.search(r'viewBox="0 0 (\S+) (\S+)"', svg)
    assert box is not None  # matplotlib writes one
    width, height = float(box[1]), float(box[2])
    cut = f'viewBox="0 {height * share:.2f} {width:g} {height * (1 - share):.2f}"'
    return svg[: box.start()] + cut + svg[box.end() :]


def shrunk(source: Path, headline: float, target: Path) -> None:
    """A small copy of a PNG for a page: without that share of its height at the top, in few colours."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as picture:
        below = picture.convert("RGB").crop((0, round(picture.height * headline), picture.width, picture.height))
    below.quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)


def escaped(text: str) -> str:
    """Text as Markdown shows it, letter by letter."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(text, quote=False))


def sentence(text: str) -> str:
    """With a capital at its beginning and a full stop, where it has neither.

    >>> sentence("why not?"), sentence("because")
    ('Why not?', 'Because.')
    """
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def write_numbers(table: pd.DataFrame, stem: str, folder: Path) -> list[Path]:
    """A small table as CSV and as LaTeX for the booktabs package."""
    target = folder / "tables"
    target.mkdir(parents=True, exist_ok=True)
    latex = target / f"{stem}.tex"
    texts = table.astype(object).map(_latex_number)
    latex.write_text(texts.to_latex(index=False, escape=True), encoding="utf-8")
    return [write_csv(table, target / f"{stem}.csv"), latex]


def write_csv(table: pd.DataFrame, path: Path) -> Path:
    """Six digits, one kind of line end on every system."""
    table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
    return path


def _latex_number(value: object) -> str:
    """Plain characters, which every LaTeX engine reads."""
    return number(value).replace("−", "-").replace("∞", "inf").replace("–", "--")
