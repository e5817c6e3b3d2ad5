"""What a script in ``analysis/`` offers: a question, and how the runs answer it.

Its docstring opens with ``Question:``, ``Expect:`` and ``Data:``; ``main(script)`` makes it a command. A report finds
every script that defines these functions by itself. ``OF = STUDY`` in a script asks of all runs of a study at once, and
not of each variant of its tasks apart.
"""

import argparse
import importlib.util
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

from matplotlib.figure import Figure

from retrograde.figures import theme
from retrograde.figures.comparison import (
    LONGEST_REASON,
    VARIANT,
    Comparison,
    NothingToDraw,
    Tables,
    comparisons,
    in_short,
)
from retrograde.figures.provenance import card_in_one_line, card_in_words, endings, provenance
from retrograde.figures.save import headline_share, save
from retrograde.record.sources import REMOTE, opened

REPORT = "report"
"""Where a report goes by itself, below the runs that it is on."""


class Question(Protocol):
    """A module of that form. ``load`` raises NothingToDraw; the rest are functions of the tables that it gives."""

    __name__: str
    __doc__: str | None

    def load(self, comparison: Comparison) -> Tables: ...

    def draw(self, tables: Tables) -> Figure: ...

    def finding(self, tables: Tables) -> str:
        """The answer as one sentence, computed."""
        ...

    def caption(self, tables: Tables) -> str:
        """What is drawn and how to read it."""
        ...


def imported(path: Path) -> ModuleType:
    """A script as a module, wherever the process was started."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # it is a file of Python
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compared(question: Question) -> tuple[str, ...]:
    """What the runs share of which the question is asked."""
    return getattr(question, "OF", VARIANT)


def asked(docstring: str | None, entry: str = "Question") -> str:
    """The text of an entry of the docstring.

    >>> asked("Question:  how far?\\nExpect:    far,\\n           and farther.", "Expect")
    'far, and farther.'
    """
    found = re.search(rf"^{entry}:\s*(.*?)(?=^\w[\w ]*:|\n\s*\n|\Z)", docstring or "", re.DOTALL | re.MULTILINE)
    return " ".join(found.group(1).split()) if found else ""


@dataclass(frozen=True)
class Answer:
    """One question, answered for one comparison and written to files; ``headline`` is the headline's share of it."""

    stem: str
    question: str
    expected: str
    finding: str
    caption: str
    card: list[tuple[str, str]]
    provenance: list[tuple[str, str]]
    tables: Tables
    headline: float
    files: list[Path]


def answer(question: Question, stem: str, comparison: Comparison, folder: Path) -> Answer:
    """Loads, draws and saves; raises NothingToDraw where the runs hold nothing on it."""
    tables = question.load(comparison)
    runs = sorted({str(run) for table in tables.values() if "run" in table for run in table["run"].unique()})
    finding = question.finding(tables)
    caption = f"{question.caption(tables)} {endings(comparison)}".strip()
    card, made_with = card_in_words(comparison), provenance(comparison, runs)
    words = [f"{finding}.", caption, *(f"{term}: {meaning}" for term, meaning in [*card, *made_with])]
    name = f"{comparison.stem}-{stem}"
    figure = question.draw(tables)
    theme.margin(figure, card_in_one_line(comparison))
    theme.write_powers(figure)
    files = save(figure, tables, name, folder, runs, "\n\n".join(words))
    return Answer(
        stem=name,
        question=asked(question.__doc__) or stem,
        expected=asked(question.__doc__, "Expect"),
        finding=finding,
        caption=caption,
        card=card,
        provenance=made_with,
        tables=tables,
        headline=headline_share(figure),
        files=files,
    )


def failure(error: Exception, comparison: Comparison) -> str:
    """What went wrong with one question, and where, in one line without the folder's own place."""
    frames = list(traceback.extract_tb(error.__traceback__))
    place = ([frame for frame in frames if "site-packages" not in frame.filename] or frames)[-1]
    where = f"{Path(place.filename).name}, line {place.lineno}"
    said = in_short(str(error), LONGEST_REASON).replace(f"{comparison.store.root.resolve()}/", "")
    return f"{type(error).__name__}: {said} ({where})" if said else f"{type(error).__name__} ({where})"


def main(question: Question, arguments: Sequence[str] | None = None) -> int:
    """The command of one question: draws it for every comparison below a folder. Exit code 1 where nothing is drawn.

    A comparison that cannot be drawn, for whatever reason, is named with it and costs the others nothing.
    """
    stem = Path(sys.argv[0]).stem if question.__name__ == "__main__" else question.__name__
    options = parser(asked(question.__doc__)).parse_args(arguments)
    drawn = 0
    try:
        folder = target(options)
        with opened(options.source) as store:
            found, left_out = comparisons(store, compared(question))
            for comparison in found:
                try:
                    given = answer(question, stem, comparison, folder)
                except NothingToDraw as reason:
                    print(f"nothing to draw for {comparison.study}, {comparison.task}: {reason}", file=sys.stderr)
                    continue
                except Exception as error:
                    why = failure(error, comparison)
                    print(f"not drawn: {stem} for {comparison.study}, {comparison.task}: {why}", file=sys.stderr)
                    continue
                print(f"{given.finding}.", *given.files, sep="\n")
                drawn += 1
            for run, why in (left_out | store.unreadable).items():
                print(f"left out: {run}: {why.replace(f'{store.root.resolve()}/', '')}", file=sys.stderr)
    except ValueError as error:
        print(error, file=sys.stderr)
    return 0 if drawn else 1


def parser(description: str) -> argparse.ArgumentParser:
    """The arguments that every script has."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument(
        "source",
        metavar="SOURCE",
        help=f"a folder that holds runs, such as outputs/demo, or W&B's offline runs; {REMOTE}entity/project[/group]",
    )
    arguments.add_argument("--to", type=Path, help=f"where to write; SOURCE/{REPORT} where left out and it is a folder")
    return arguments


def target(options: argparse.Namespace) -> Path:
    """Where to write; raises ValueError where that is not said and does not follow from the source."""
    if options.to is not None:
        return Path(options.to)
    if options.source.startswith(REMOTE):
        raise ValueError(f"say where to write with --to: '{options.source}' is no folder")
    return Path(options.source) / REPORT
