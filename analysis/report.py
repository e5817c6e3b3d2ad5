"""Every figure for which the runs hold data, as one page and as files.

    python analysis/report.py outputs/demo --to report
    python analysis/report.py wandb:entity/project/group --to report

    <to>/index.html        the page: complete in itself, nothing is fetched
    <to>/figures/          each figure as SVG, PDF and PNG, with what it was drawn from
    <to>/tables/           the numbers, as CSV and LaTeX; studies.csv has one row a study

A question is every script beside this one that defines load, draw, finding and caption; of a study, that of its own
name comes first. One that cannot be drawn, for whatever reason, is named with it, and the rest is written; those for
which no run holds the reading fold into one line. The exit code is 1 where a question failed and none was drawn, or no
run is fit to be compared. Runs that did not end as they should are shown with the reason, and what cannot be read is
named. The same runs give the same bytes.
"""

import ast
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, cast

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from retrograde.figures import alerts, overview, summary, theme
from retrograde.figures.asking import Outcome, ask
from retrograde.figures.comparison import (
    COUNTED,
    NUMBERS,
    STUDY,
    Comparison,
    comparisons,
    exceptions,
    listed,
    records,
    uncounted,
)
from retrograde.figures.provenance import card_in_words, lag_quantiles, number, trivial_rule
from retrograde.figures.question import Answer, Question, asked, compared, imported, parser, target
from retrograde.figures.save import without_headline, write_csv, write_numbers
from retrograde.figures.statistics import in_percent, solve_rate
from retrograde.record.sources import opened
from retrograde.record.store import FolderStore

HERE = Path(__file__).parent
CONF = HERE.parent / "conf" / "study"
INTERFACE = {"load", "draw", "finding", "caption"}

MOST_ROWS = 200
"""Of a table that the page shows; the file beside it has all."""

ENTRY = 70
"""Characters of an entry of the contents."""

EXCEPTIONS = 20
"""Runs that did not end as they should, which the page says at once; the others unfold."""

DECIMALS = re.compile(r"(\.\d\d)\d+")
"""Of a picture's coordinates, in points: a hundredth is less than any screen or printer shows."""

GROUNDS = {theme.INK: "--ink", theme.QUIET: "--quiet", theme.RULE: "--rule", theme.PAPER: "--paper"}
"""The page's own colours for what in a figure is not data."""


@dataclass(frozen=True)
class Section:
    """All that the page says of one comparison, of the runs of a study on one variant of a task."""

    comparison: Comparison
    verdict: str
    rows: list[summary.Row]
    doubts: list[str]
    baseline: str
    rule: str
    lag: str
    card: list[tuple[str, str]]
    exceptions: list[str]
    alerts: list[alerts.Raised]
    alert_rows: pd.DataFrame
    asked: int
    unjudged: str
    answers: list[Answer]
    not_drawn: list[tuple[str, str]]
    unrecorded: list[tuple[str, str]]


@dataclass(frozen=True)
class Head:
    """What a study is about, in the words of its own files; empty where these do not say.

    ``commands`` are the lines that run it, each with what it costs.
    """

    question: str = ""
    expected: str = ""
    commands: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Study:
    """All that the page says of one study: what its own script draws, its sections, and what is drawn across them."""

    name: str
    stem: str
    head: Head
    verdicts: list[tuple[str, str]]
    own: list[Answer]
    sections: list[Section]
    across: list[Answer]
    leads: overview.Leads | None
    not_drawn: list[tuple[str, str]]
    unrecorded: list[tuple[str, str]]

    @property
    def entries(self) -> list[str]:
        """The sections as the contents name them, cut as far as they stay apart."""
        whole = [f"{one.comparison.task}: {one.comparison.card['variant']}" for one in self.sections]
        cut = [textwrap.shorten(entry, ENTRY, placeholder=" …") for entry in whole]
        return cut if len(set(cut)) == len(cut) else whole

    @property
    def answers(self) -> list[Answer]:
        return [*self.own, *(given for one in self.sections for given in one.answers), *self.across]


@dataclass(frozen=True)
class Asked:
    """What some questions gave: answers by stem, and why the others did not; ``failed`` are those by mistake.

    ``unrecorded`` are those for which no run holds the reading, but for the study's own.
    """

    answers: dict[str, Answer]
    not_drawn: list[tuple[str, str]]
    unrecorded: list[tuple[str, str]]
    failed: list[str]


def questions(folder: Path = HERE) -> dict[str, Question]:
    """The scripts that offer the interface, by stem; others are not even imported."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        defined = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        if defined >= INTERFACE:
            found[path.stem] = cast(Question, imported(path))
    return found


def heads(questions: Mapping[str, Question]) -> dict[str, Head]:
    """What each study is about, by name: from the script of that name, and from the head of its configuration."""
    texts = {}
    for path in sorted(CONF.glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        texts[path.stem] = "\n".join(line[2:] for line in lines if line.startswith("# "))
    found = {}
    for stem in sorted({*texts, *questions}):
        script = questions[stem].__doc__ if stem in questions else ""
        said = {entry: asked(script, entry) or asked(texts.get(stem), entry) for entry in ("Question", "Expect")}
        found[stem] = Head(said["Question"], said["Expect"], commands(texts.get(stem, "")))
    return found


def commands(head: str) -> tuple[tuple[str, str], ...]:
    """The commands that the head of a study's configuration gives a cost in brackets, each with it.

    >>> commands("Run:  retrograde study=a         (9 runs; minutes)\\n      retrograde study=a size=small  (3 runs)")
    (('retrograde study=a', '9 runs; minutes'), ('retrograde study=a size=small', '3 runs'))
    """
    entry = re.search(r"^Run:(.*?)(?=^\w[\w ]*:|\Z)", head, re.DOTALL | re.MULTILINE)
    lines = re.sub(r" *\\\n +", " ", entry.group(1) if entry else "")  # one command on two lines
    return tuple(re.findall(r"^ *(\S.*?) +\((.*)\)$", lines, re.MULTILINE))


def sorted_out(comparison: Comparison, outcomes: Sequence[Outcome]) -> Asked:
    """What came of the questions asked of a comparison."""
    given = Asked({}, [], [], [])
    for one in outcomes:
        if one.answer is not None:
            given.answers[one.stem] = one.answer
        # else another study's question, which nobody asks of this one
        elif one.failed or one.stem == comparison.study or not (CONF / f"{one.stem}.yaml").is_file():
            unrecorded = one.unrecorded and one.stem != comparison.study
            (given.unrecorded if unrecorded else given.not_drawn).append((one.stem, one.reason))
        if one.failed:
            given.failed.append(one.stem)
    return given


def section(comparison: Comparison, given: Asked, runs: pd.DataFrame, folder: Path) -> Section:
    """What there is to say of a comparison; of its answers, those that cover most models come first."""
    write_numbers(runs, f"{comparison.stem}-summary", folder)
    rows = summary.per_model(runs, comparison)
    raised = alerts.per_alert(comparison)
    write_csv(raised.drop(columns="value"), folder / "tables" / f"{comparison.stem}-alerts.csv")
    best = trivial_rule(comparison.card)
    rules = comparison.rule_scores()
    lags = lag_quantiles(comparison.card)
    others = [one for stem, one in given.answers.items() if stem != comparison.study]
    return Section(
        comparison=comparison,
        verdict=summary.verdict(rows, comparison),
        rows=rows,
        doubts=summary.doubts(rows),
        baseline="" if best is None else f"{number(best['score'])} ({best['rule']})",
        rule=" · ".join(f"{number(rule['score'])} ({rule['rule']})" for rule in records(rules.head(1))),
        lag=number(lags["90 %"]) if lags else "",
        card=card_in_words(comparison),
        exceptions=exceptions(comparison.runs),
        alerts=alerts.per_kind(raised, comparison),
        alert_rows=raised,
        asked=len(alerts.asked(comparison)),
        unjudged=alerts.unjudged(comparison),
        answers=sorted(others, key=_most_models),
        not_drawn=given.not_drawn,
        unrecorded=given.unrecorded,
    )


def _most_models(given: Answer) -> tuple[int, str]:
    return -given.tables[NUMBERS]["model"].nunique(), given.stem


def study(
    whole: Comparison, across: Asked, variants: Sequence[Comparison], given: Sequence[Asked], head: Head, folder: Path
) -> tuple[Study, dict[str, object]]:
    """A study, and its row among studies; ``whole`` are its runs on all variants at once.

    ``across`` is what came of the questions asked of all of them, ``given`` of those asked of each variant.
    """
    runs = [summary.per_run(one) for one in variants]
    sections = [section(*parts, folder) for parts in zip(variants, given, runs, strict=True)]
    own = [
        (", ".join(one.variants), part.answers[whole.study])
        for one, part in zip(variants, given, strict=True)
        if whole.study in part.answers
    ]
    if whole.study in across.answers:
        own.insert(0, ("", across.answers[whole.study]))
    several = len(own) > 1
    verdicts = [(name if several else "", f"{one.finding}.") for name, one in own] or [("", solved(sections, runs))]
    row = overview.per_study(whole.study, list(zip(variants, runs, strict=True)))
    others = [one for stem, one in across.answers.items() if stem != whole.study]
    made = Study(
        name=whole.study,
        stem=whole.stem,
        head=head,
        verdicts=verdicts,
        own=[one for _, one in own],
        sections=sections,
        across=sorted(others, key=_most_models),
        leads=overview.leads(runs),
        not_drawn=across.not_drawn,
        unrecorded=across.unrecorded,
    )
    return made, row


def solved(sections: Sequence[Section], runs: Sequence[pd.DataFrame]) -> str:
    """How much of a study is solved, in a sentence or two; ``runs`` are the sections' own."""
    if len(sections) == 1:
        return sections[0].verdict
    ended = pd.concat(runs)["outcome"]
    solved, counted = int((ended == "solved").sum()), int(ended.isin(COUNTED).sum())
    said = f"No run on {len(sections)} variants has finished"
    if counted:
        rate = in_percent(solve_rate(solved, counted))
        said = f"{solved} of {counted} runs on {len(sections)} variants solve their task: a rate of {rate}"
    return " ".join(f"{part}." for part in (said, uncounted(ended)) if part)


def inlined(svg: str, stem: str, words: str) -> Markup:
    """An SVG file as part of a page: named for those who cannot see it, in the page's colours, with ids of its own.

    Ids that nothing refers to go: matplotlib gives two equal pictures the same one.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda found: found.group() if found.group(1) in used else "", body)
    body = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{stem}-", body)
    body = re.sub(r' (?:d|x|y)="[^"]*"', lambda found: DECIMALS.sub(r"\1", found.group()), body)
    for colour, name in GROUNDS.items():
        body = body.replace(colour, f"var({name})")
    box = re.search(r'viewBox="[^"]*"', body)
    assert box is not None  # matplotlib writes one
    opening = f'<svg role="img" aria-label="{escape(words)}" {box.group()} xmlns="http://www.w3.org/2000/svg" '
    opening += 'xmlns:xlink="http://www.w3.org/1999/xlink">'
    return Markup(re.sub(r"<svg[^>]*>", lambda _: opening, body, count=1))


def reported(table: pd.DataFrame) -> dict[str, Any]:
    """A table as the page shows it; the runs' names stand in the provenance, and what is left out is counted."""
    shown = table.drop(columns="run", errors="ignore")
    numeric = [pd.api.types.is_numeric_dtype(shown[column]) for column in shown]
    first = shown.head(MOST_ROWS).astype(object)
    rows = [[number(value) for value in row] for row in first.itertuples(index=False)]
    return {"columns": list(zip(shown.columns, numeric, strict=True)), "rows": rows, "more": len(shown) - len(rows)}


def page(
    studies: list[Study],
    rows: list[overview.OfStudy],
    pictures: Mapping[str, Markup],
    left_out: dict[str, str],
    folder: Path,
) -> str:
    """The HTML; everything that comes from runs is escaped."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    answers = [given for one in studies for given in one.answers]
    return environment.get_template("report.html.jinja").render(
        studies=studies,
        rows=rows,
        left_out=left_out,
        title=listed([one.name for one in studies]) if len(studies) <= 3 else f"{len(studies)} studies",
        pictures=pictures,
        files={given.stem: [path.relative_to(folder).as_posix() for path in given.files] for given in answers},
        reported=reported,
        NUMBERS=NUMBERS,
        EXCEPTIONS=EXCEPTIONS,
        MOST_ROWS=MOST_ROWS,
    )


def picture(given: Answer) -> Markup:
    """The figure as part of the page, which says its headline in words."""
    svg = given.files[0].read_text(encoding="utf-8")
    return inlined(without_headline(svg, given.headline), given.stem, f"{given.finding}.")


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
    folder.mkdir(parents=True, exist_ok=True)
    variants, left_out = comparisons(store)
    stems = {one.stem.casefold() for one in variants}
    asking = questions()
    about = heads(asking)
    wholes = [_apart(whole, stems) for whole in comparisons(store, STUDY)[0]]
    of_studies = {stem: one for stem, one in asking.items() if compared(one) == STUDY}
    of_variants = {stem: one for stem, one in asking.items() if compared(one) != STUDY}
    # what takes long first, so that no core is left waiting in the end
    asked_of = [*((one, of_variants) for one in variants), *((one, of_studies) for one in wholes)]
    outcomes = ask(asked_of, folder, picture)
    pictures = {one.answer.stem: Markup(one.shown) for came in outcomes for one in came if one.answer is not None}
    given = {one.stem: sorted_out(one, came) for (one, _), came in zip(asked_of, outcomes, strict=True)}
    studies, rows = [], []
    for whole in wholes:
        of_whole = [one for one in variants if one.study == whole.study]
        parts = [given[one.stem] for one in of_whole]
        made, row = study(whole, given[whole.stem], of_whole, parts, about.get(whole.study, Head()), folder)
        studies.append(made)
        rows.append(row)
    failed = any(came.failed for came in given.values())
    left_out |= store.unreadable  # tables that turned out damaged while drawing
    left_out = {run: reason.replace(f"{store.root.resolve()}/", "") for run, reason in sorted(left_out.items())}
    for of_study in studies:
        for stem, reason in of_study.not_drawn:
            print(f"not drawn: {stem} for {of_study.name}: {reason}")
        for one in of_study.sections:
            for stem, reason in one.not_drawn:
                print(f"not drawn: {stem} for {one.comparison.study}, {one.comparison.task}: {reason}")
    if unrecorded := not_recorded(studies):
        print(f"not drawn, as no run holds the readings: {unrecorded}; the page says which")
    for run, reason in left_out.items():
        print(f"left out: {run}: {reason}")
    if rows:
        write_numbers(pd.DataFrame(rows), "studies", folder)
    words = [overview.in_words(row, one.stem) for row, one in zip(rows, studies, strict=True)]
    index = folder / "index.html"
    index.write_text(page(studies, words, pictures, left_out, folder), encoding="utf-8")
    print(index)
    return 1 if (failed or not studies) and not any(one.answers for one in studies) else 0


def not_recorded(studies: Sequence[Study]) -> str:
    """The questions for which no run holds the reading, and in how many parts of the page where it has several."""
    parts = [part for one in studies for part in (one.unrecorded, *(each.unrecorded for each in one.sections))]
    missing = Counter(stem for part in parts for stem, _ in part)
    often = {stem: "once" if times == 1 else f"{times} times" for stem, times in sorted(missing.items())}
    several = sum(len(one.sections) for one in studies) > 1
    return ", ".join(f"{stem} ({times})" if several else stem for stem, times in often.items())


def _apart(whole: Comparison, stems: set[str]) -> Comparison:
    """The study under a stem that no variant has: a study may be called as another's variant is."""
    again = (f"{whole.stem}-{number}" for number in count(2))
    return replace(whole, stem=next(stem for stem in chain([whole.stem], again) if stem.casefold() not in stems))


if __name__ == "__main__":
    sys.exit(main())
