"""What is written beside a picture, and that the same input gives the same bytes."""

import re
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from retrograde.figures import theme
from retrograde.figures.comparison import NUMBERS
from retrograde.figures.save import save, untitled

TABLES = {
    "curves": pd.DataFrame({"lag": [0, 1], "value": [1 / 3, float("-inf")]}),
    NUMBERS: pd.DataFrame({"model": ["a_b & <c>"], "share of 90 %": [float("nan")], "score": [0.123456]}),
}


@theme.applied()
def drawn() -> Figure:
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [1, 2])
    axes.fill_between([0, 1], [0, 1], [2, 3], alpha=0.2)
    axes.imshow([[0, 1], [2, 3]])
    theme.headline(figure, "the finding")
    return figure


def test_everything_lies_beside_the_picture(tmp_path: Path):
    written = save(drawn(), TABLES, "stem", tmp_path, ["run-b", "run-a", "run-b"], "in words")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in written) == [
        "figures/stem.curves.csv",
        "figures/stem.pdf",
        "figures/stem.png",
        "figures/stem.runs.txt",
        "figures/stem.svg",
        "figures/stem.txt",
        "tables/stem.csv",
        "tables/stem.tex",
    ]
    assert (tmp_path / "figures/stem.runs.txt").read_text() == "run-a\nrun-b\n"
    assert (tmp_path / "figures/stem.curves.csv").read_text() == "lag,value\n0,0.333333\n1,-inf\n"


def test_latex_is_escaped(tmp_path: Path):
    save(drawn(), TABLES, "stem", tmp_path, [], "")
    latex = (tmp_path / "tables/stem.tex").read_text()
    assert r"model & share of 90 \% & score \\" in latex
    assert r"a\_b \& <c> & -- & 0.1235 \\" in latex


def test_the_same_input_gives_the_same_bytes_without_a_date(tmp_path: Path):
    for folder in ("one", "two"):
        save(drawn(), TABLES, "stem", tmp_path / folder, ["run"], "words")
    for path in sorted((tmp_path / "one").rglob("*.*")):
        content = path.read_bytes()
        assert content == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes(), path
        assert not re.search(rb"CreationDate|ModDate|<dc:date>|tIME", content), path


def test_the_pages_picture_has_lost_its_headline_alone():
    figure = drawn()
    with_headline = figure.get_suptitle()
    svg = untitled(figure, "stem")
    assert (with_headline, figure.get_suptitle()) == ("the finding", "")
    assert "the finding" not in svg
    assert svg.count("<image") == 1
