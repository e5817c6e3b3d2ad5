"""Published results, rerun: what a paper says comes out, and what came out here.

    python analysis/board.py [--outputs outputs] [--to docs/board]

Reads every preset of a paper, conf/study/paper/<stem>.yaml, and its runs below <outputs>/paper/<stem>/, and writes

    <to>/board.csv      a row a claim, with everything that the page says
    <to>/README.md      the page, made of that table alone
    <to>/<stem>.png     a preset's figure: values and bands, and how far the gradient reached

A preset says in the comments at its head what is rerun and what is not known of it, and under hydra.sweeper.claims what
the paper claims, each with a band of acceptance. Rows and figure of a preset stay as they are where there are no runs
below <outputs>, or not all of those that they are made of: so a board grows preset by preset on different machines. The
same runs give the same bytes.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from retrograde.figures import theme
from retrograde.figures.papers import table
from retrograde.figures.papers.drawing import draw
from retrograde.figures.papers.page import page
from retrograde.figures.papers.presets import presets
from retrograde.figures.papers.rows import gathered, rows
from retrograde.figures.papers.words import outcome_in_words
from retrograde.figures.save import save, shrunk

HERE = Path(__file__).parent
CONF = HERE.parent / "conf"
PAPERS = CONF / "study" / "paper"
TABLE, PAGE = "board.csv", "README.md"


def write(papers: Path, outputs: Path, to: Path) -> Path:
    """Writes table, figures and page; the page comes back. Raises ValueError for a preset that says something wrong."""
    before = table.read(to / TABLE)
    made: list[dict[str, str]] = []
    to.mkdir(parents=True, exist_ok=True)
    for one in presets(papers, CONF):
        runs = gathered(one, outputs)
        now = rows(one, runs)
        known = kept(before, now)
        if runs is not None and not known:
            name = picture(now, one.stem, to)
            now = [row | {"figure": name} for row in now]
            print(f"{outcome_in_words(now)}.")
        made += known or now
    table.write(made, to / TABLE)
    for old in {row["figure"] for row in before} - {row["figure"] for row in made} - {""}:
        (to / old).unlink(missing_ok=True)
    (to / PAGE).write_text(page(made), encoding="utf-8")
    return to / PAGE


def kept(before: Sequence[dict[str, str]], now: Sequence[table.Row]) -> list[dict[str, str]]:
    """The rows that a board has of a preset, where they say more than those that its runs would make now."""
    known = [row for row in before if row["preset"] == now[0]["preset"] and table.is_measured(row)]
    if not known or all(map(table.is_finished, now)):
        return []
    claims, claimed = ([[row[name] for name in table.CLAIMED] for row in of] for of in (now, known))
    begun = any(map(table.is_measured, now))
    if begun and (claims != claimed or not all(map(table.is_finished, known))):
        return []
    if claims != claimed:
        print(f"kept as it was: {now[0]['preset']}, which asks for other runs now: run it again", file=sys.stderr)
        return known
    if begun:
        print(f"kept as it was: {now[0]['preset']}, of which not all runs are here", file=sys.stderr)
    said = [{name: row[name] for name in table.STATED} for row in now]
    return [row | words for row, words in zip(known, said, strict=True)]


def picture(of: Sequence[table.Row], stem: str, to: Path) -> str:
    """Writes a preset's figure; its name comes back, empty where there is nothing to draw."""
    figure = draw(of)
    if figure is None:
        return ""
    theme.write_powers(figure)
    with tempfile.TemporaryDirectory() as temporary:
        files = save(figure, {}, stem, Path(temporary), [], outcome_in_words(of))
        (drawn,) = (path for path in files if path.suffix == ".png")
        shrunk(drawn, 0.0, to / f"{stem}.png")
    return f"{stem}.png"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Published results, rerun: a table, a page and figures.")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="where runs lie; outputs if left out")
    parser.add_argument("--to", type=Path, default=HERE.parent / "docs" / "board", help="docs/board if left out")
    options = parser.parse_args(arguments)
    try:
        print(write(PAPERS, options.outputs, options.to))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
