"""One way to write a figure: the picture, what it was drawn from, and the runs it shows.

    <folder>/figures/<stem>.svg .pdf .png     the picture
    <folder>/figures/<stem>.<table>.csv       what is drawn, complete
    <folder>/figures/<stem>.runs.txt          the runs, one a line
    <folder>/tables/<stem>.csv .tex           the numbers to report

The same tables give the same bytes: no date is written, and names inside the SVG follow from the stem.
"""

from collections.abc import Iterable
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


def save(figure: Figure, tables: Tables, stem: str, folder: Path, runs: Iterable[str]) -> list[Path]:
    """Writes everything; the paths come back, the SVG first."""
    pictures = folder / "figures"
    pictures.mkdir(parents=True, exist_ok=True)
    written = []
    with applied(), mpl.rc_context({"svg.hashsalt": stem}):
        for kind, metadata in UNDATED.items():
            path = pictures / f"{stem}.{kind}"
            figure.savefig(path, format=kind, metadata=metadata)
            written.append(path)
    for name, table in tables.items():
        if name == NUMBERS:
            written += write_numbers(table, stem, folder)
        else:
            written.append(write_csv(table, pictures / f"{stem}.{name}.csv"))
    listed = pictures / f"{stem}.runs.txt"
    listed.write_text("".join(f"{run}\n" for run in sorted(set(runs))), encoding="utf-8")
    return [*written, listed]


def write_numbers(table: pd.DataFrame, stem: str, folder: Path) -> list[Path]:
    """A small table as CSV and as LaTeX for the booktabs package."""
    target = folder / "tables"
    target.mkdir(parents=True, exist_ok=True)
    latex = target / f"{stem}.tex"
    texts = table.astype(object).map(_latex_number)
    latex.write_text(texts.to_latex(index=False, escape=True), encoding="utf-8")
    return [write_csv(table, target / f"{stem}.csv"), latex]


def write_csv(table: pd.DataFrame, path: Path) -> Path:
    table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
    return path


def _latex_number(value: object) -> str:
    """Plain characters, which every LaTeX engine reads."""
    return number(value).replace("−", "-").replace("∞", "inf").replace("–", "--")
