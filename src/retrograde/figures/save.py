"""One way to write a figure: the picture, what it was drawn from, and the runs it shows.

    <folder>/figures/<stem>.svg .pdf .png     the picture
    <folder>/figures/<stem>.<table>.csv       what is drawn, complete
    <folder>/figures/<stem>.txt               caption, the task's card, where it comes from
    <folder>/figures/<stem>.runs.txt          the runs, one a line
    <folder>/tables/<stem>.csv .tex           the numbers to report

The same tables give the same bytes: no date is written, and names inside the SVG follow from the stem.
"""

from collections.abc import Iterable
from io import StringIO
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from retrograde.figures.comparison import NUMBERS, Tables
from retrograde.figures.provenance import number
from retrograde.figures.theme import applied

UNDATED = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


def save(figure: Figure, tables: Tables, stem: str, folder: Path, runs: Iterable[str], words: str) -> list[Path]:
    """Writes everything, ``words`` as the figure's text; the paths come back, the SVG first."""
    pictures = folder / "figures"
    pictures.mkdir(parents=True, exist_ok=True)
    written = []
    with applied(), mpl.rc_context({"svg.hashsalt": stem}):
        for kind, metadata in UNDATED.items():
            path = pictures / f"{stem}.{kind}"
            figure.savefig(path, format=kind, metadata=metadata)
            figure.set_layout_engine("none")  # laid out once: half of the time, and all three formats agree
            written.append(path)
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


def untitled(figure: Figure, stem: str) -> str:
    """The figure as SVG without its headline, for a page that says it in words; the figure loses the headline."""
    drawn = StringIO()
    with applied(), mpl.rc_context({"svg.hashsalt": stem}):
        figure.set_layout_engine("constrained")
        figure.suptitle("")
        figure.savefig(drawn, format="svg", metadata=UNDATED["svg"])
    return drawn.getvalue()


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
