"""Every figure for which the runs hold data, as one page and as files.

    python analysis/report.py outputs/demo --to report
    python analysis/report.py wandb:entity/project/group --to report

    <to>/index.html        the page: complete in itself, nothing is fetched
    <to>/figures/          each figure as SVG, PDF and PNG, with what it was drawn from
    <to>/tables/           the numbers, as CSV and LaTeX

A question is every script beside this one that defines load, draw, finding and caption. One that cannot be drawn, for
whatever reason, is named with it, and the rest is written; the exit code is 1 where a question failed and none was
drawn, or no run is fit to be compared. Runs that did not end as they should are shown with the reason, and what cannot
be read is named. The same runs give the same bytes.
"""

import ast
import importlib.util
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from retrograde.figures import alerts, summary, theme
from retrograde.figures.comparison import NUMBERS, Comparison, NothingToDraw, comparisons, exceptions, records
from retrograde.figures.provenance import card_in_words, lag_quantiles, number, trivial_rule
from retrograde.figures.question import Answer, Question, answer, failure, parser, target
from retrograde.figures.save import untitled, write_csv, write_numbers
from retrograde.record.sources import opened
from retrograde.record.store import FolderStore

HERE = Path(__file__).parent
INTERFACE = {"load", "draw", "finding", "caption"}

GROUNDS = {theme.INK: "--ink", theme.QUIET: "--quiet", theme.RULE: "--rule", theme.PAPER: "--paper"}
"""The page's own colours for what in a figure is not data."""


@dataclass(frozen=True)
class Section:
    """All that the page says of one comparison; ``failed`` are the questions that were not drawn by mistake."""

    comparison: Comparison
    verdict: str
    rows: list[summary.Row]
    baseline: str
    rule: str
    lag: str
    card: list[tuple[str, str]]
    exceptions: list[str]
    alerts: list[alerts.Raised]
    alert_rows: pd.DataFrame
    asked: int
    answers: list[Answer]
    not_drawn: list[tuple[str, str]]
    failed: list[str]


def questions(folder: Path = HERE) -> dict[str, Question]:
    """The scripts that offer the interface, by stem; others are not even imported."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        defined = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        if defined >= INTERFACE:
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None and spec.loader is not None  # a file that was just read
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            found[path.stem] = cast(Question, module)
    return found


def section(comparison: Comparison, asked: dict[str, Question], folder: Path) -> Section:
    """Draws everything that the comparison holds data for, and writes it; what covers most models comes first."""
    answers, not_drawn, failed = [], [], []
    for stem, question in asked.items():
        try:
            answers.append(answer(question, stem, comparison, folder))
        except NothingToDraw as reason:
            not_drawn.append((stem, str(reason)))
        except Exception as error:
            not_drawn.append((stem, failure(error, comparison)))
            failed.append(stem)
    runs = summary.per_run(comparison)
    write_numbers(runs, f"{comparison.stem}-summary", folder)
    rows = summary.per_model(runs, comparison)
    raised = alerts.per_alert(comparison)
    write_csv(raised.drop(columns="value"), folder / "tables" / f"{comparison.stem}-alerts.csv")
    best = trivial_rule(comparison.card)
    rules = comparison.rule_scores()
    lags = lag_quantiles(comparison.card)
    return Section(
        comparison=comparison,
        verdict=summary.verdict(rows, comparison),
        rows=rows,
        baseline="" if best is None else f"{number(best['score'])} ({best['rule']})",
        rule=" · ".join(f"{number(rule['score'])} ({rule['rule']})" for rule in records(rules.head(1))),
        lag=number(lags["90 %"]) if lags else "",
        card=card_in_words(comparison),
        exceptions=exceptions(comparison.runs),
        alerts=alerts.per_kind(raised, comparison),
        alert_rows=raised,
        asked=alerts.asked(comparison),
        answers=sorted(answers, key=lambda given: (-given.tables[NUMBERS]["model"].nunique(), given.stem)),
        not_drawn=not_drawn,
        failed=failed,
    )


def inlined(svg: str, stem: str, words: str) -> Markup:
    """An SVG file as part of a page: named for those who cannot see it, in the page's colours, with ids of its own.

    Ids that nothing refers to go: matplotlib gives two equal pictures the same one.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda found: found.group() if found.group(1) in used else "", body)
    body = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{stem}-", body)
    for colour, name in GROUNDS.items():
        body = body.replace(colour, f"var({name})")
    box = re.search(r'viewBox="[^"]*"', body)
    assert box is not None  # matplotlib writes one
    opening = f'<svg role="img" aria-label="{escape(words)}" {box.group()} xmlns="http://www.w3.org/2000/svg" '
    opening += 'xmlns:xlink="http://www.w3.org/1999/xlink">'
    return Markup(re.sub(r"<svg[^>]*>", lambda _: opening, body, count=1))


def reported(table: pd.DataFrame) -> dict[str, Any]:
    """A table as the page shows it; the runs' names stand in the provenance."""
    shown = table.drop(columns="run", errors="ignore")
    numeric = [pd.api.types.is_numeric_dtype(shown[column]) for column in shown]
    rows = [[number(value) for value in row] for row in shown.astype(object).itertuples(index=False)]
    return {"columns": list(zip(shown.columns, numeric, strict=True)), "rows": rows}


def page(sections: list[Section], left_out: dict[str, str], studies: list[str], folder: Path) -> str:
    """The HTML; everything that comes from runs is escaped."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    pictures = {
        given.stem: inlined(untitled(given.figure, given.stem), given.stem, f"{given.finding}.")
        for one in sections
        for given in one.answers
    }
    files = {
        given.stem: [path.relative_to(folder).as_posix() for path in given.files]
        for one in sections
        for given in one.answers
    }
    return environment.get_template("report.html.jinja").render(
        sections=sections, left_out=left_out, pictures=pictures, files=files, reported=reported, NUMBERS=NUMBERS,
        studies=studies,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("A page of every figure for which the runs hold data.").parse_args(arguments)
    try:
        folder = target(options)
        with opened(options.source) as store:
            return written(store, folder)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


def written(store: FolderStore, folder: Path) -> int:
    """Writes all of it and says what is not drawn; the exit code comes back. Raises ValueError for no such runs."""
    found, left_out = comparisons(store)
    asked = questions()
    folder.mkdir(parents=True, exist_ok=True)
    sections = [section(comparison, asked, folder) for comparison in found]
    root = f"{store.root.resolve()}/"
    left_out |= store.unreadable  # tables that turned out damaged while drawing
    left_out = {run: reason.replace(root, "") for run, reason in sorted(left_out.items())}
    for one in sections:
        for stem, reason in one.not_drawn:
            print(f"not drawn: {stem} for {one.comparison.study}, {one.comparison.task}: {reason}")
    for run, reason in left_out.items():
        print(f"left out: {run}: {reason}")
    index = folder / "index.html"
    index.write_text(page(sections, left_out, store.runs()["study"].unique().tolist(), folder), encoding="utf-8")
    print(index)
    mistaken = any(one.failed for one in sections) or not sections
    return 1 if mistaken and not any(one.answers for one in sections) else 0


if __name__ == "__main__":
    sys.exit(main())
