"""What is written beside a picture, and that the same input gives the same bytes."""

import re
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from retrograde.figures import theme
from retrograde.figures.comparison import NUMBERS
from retrograde.figures.save import headline_share, save, without_headline

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


def test_the_pages_picture_has_lost_its_headline_alone(tmp_path: Path):
    """The headline is two lines of 10 points, at the top of 3.5 inches or so; the panel stands whole below the cut."""
    figure = drawn()
    theme.headline(figure, "the finding, long enough for two lines of the headline, which is what many findings are")
    written = save(figure, TABLES, "stem", tmp_path, [], "")
    share = headline_share(figure)
    height = figure.get_figheight() * 72
    assert 2 * 10 < share * height < 45
    panel = figure.axes[0].get_tightbbox()
    assert panel.y1 / figure.bbox.height < 1 - share
    whole = written[0].read_text()
    cut = without_headline(whole, share)
    box = re.search(r'viewBox="0 (\S+) (\S+) (\S+)"', cut)
    assert float(box[1]) + float(box[3]) == pytest.approx(height, abs=0.02)
    assert cut.count("<image") == whole.count("<image") == 1
    assert without_headline(whole, 0.0).count("viewBox") == 1


def test_a_figure_without_a_headline_is_shown_whole(tmp_path: Path):
    figure = Figure(layout="constrained")
    figure.subplots().plot([0, 1])
    save(figure, TABLES, "stem", tmp_path, [], "")
    assert headline_share(figure) == 0


def test_the_three_formats_agree_on_the_layout(tmp_path: Path):
    """A figure laid out once: the panel lies at the same place in points and in pixels."""
    figure = drawn()
    written = save(figure, TABLES, "stem", tmp_path, [], "")
    width, height = figure.get_size_inches()
    assert written[2].read_bytes()[16:24] == b"".join(round(200 * size).to_bytes(4, "big") for size in (width, height))
    pages = re.search(rb"/MediaBox \[ 0 0 (\S+) (\S+) \]", written[1].read_bytes())
    assert [float(size) for size in pages.groups()] == pytest.approx([72 * width, 72 * height])
