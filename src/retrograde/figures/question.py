"""What a script in ``analysis/`` offers: a question, and how the runs answer it.

Its docstring opens with ``Question:``, ``Expect:`` and ``Data:``; ``main(script)`` makes it a command. A report finds
every script that defines these functions by itself.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from matplotlib.figure import Figure

from retrograde.figures.comparison import Comparison, NothingToDraw, Tables, comparisons
from retrograde.figures.save import save
from retrograde.record.store import FolderStore


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


def asked(docstring: str | None, entry: str = "Question") -> str:
    """The text of an entry of the docstring.

    >>> asked("Question:  how far?\\nExpect:    far,\\n           and farther.", "Expect")
    'far, and farther.'
    """
    found = re.search(rf"^{entry}:\s*(.*?)(?=^\w[\w ]*:|\n\s*\n|\Z)", docstring or "", re.DOTALL | re.MULTILINE)
    return " ".join(found.group(1).split()) if found else ""


def runs_of(tables: Tables) -> list[str]:
    """The runs that any of the tables names, sorted."""
    return sorted({str(run) for table in tables.values() if "run" in table for run in table["run"]})


def main(question: Question, arguments: Sequence[str] | None = None) -> int:
    """The command of one question: draws it for every comparison below a folder. Exit code 1 where there is none."""
    stem = Path(sys.argv[0]).stem if question.__name__ == "__main__" else question.__name__
    parser = argparse.ArgumentParser(description=asked(question.__doc__))
    parser.add_argument("outputs", type=Path, help="a folder that holds runs, such as outputs/demo")
    parser.add_argument("--to", type=Path, help="where to write; OUTPUTS/report where left out")
    options = parser.parse_args(arguments)
    try:
        found, left_out = comparisons(FolderStore(options.outputs))
        drawn = 0
        for run, reason in left_out.items():
            print(f"left out: {run}: {reason}", file=sys.stderr)
        for comparison in found:
            try:
                tables = question.load(comparison)
            except NothingToDraw as reason:
                print(f"nothing to draw for {comparison.study}, {comparison.task}: {reason}", file=sys.stderr)
                continue
            print(question.finding(tables))
            for path in save(
                question.draw(tables),
                tables,
                f"{comparison.stem}-{stem}",
                options.to or options.outputs / "report",
                runs_of(tables),
            ):
                print(path)
            drawn += 1
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0 if drawn else 1
