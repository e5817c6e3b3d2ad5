"""Questions asked of comparisons, several at once where there are cores and runs enough.

Nearly all that a report takes is drawing, which is Python: so it is done by processes. They are forks, which have the
runs and the questions already, and only on Linux, the one system where a fork of a process with threads is safe enough;
elsewhere one question is asked after the other. What comes out is the same, in the same order.
"""

import gc
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from retrograde.figures.comparison import NUMBERS, Comparison, NothingToDraw, NotRecorded
from retrograde.figures.question import Answer, Question, answer, failure

RUNS_EACH = 50
"""For fewer runs than this a further process costs more than it brings."""

MOST = 4
"""Processes: each holds what it draws, up to some 300 MB."""

Asking = tuple[Comparison, Mapping[str, Question]]
"""A comparison, and the questions asked of it by stem."""

Show = Callable[[Answer], str]
"""What is to be made of an answer by the process that drew it."""


@dataclass(frozen=True)
class Outcome:
    """What came of one question: an answer, or the reason why there is none, and whether that is a mistake.

    Of an answer's tables it has the numbers alone. ``shown`` is what was made of it where it was drawn. ``unrecorded``:
    for want of a reading that no run holds. ``unreadable`` are files of runs that turned out damaged meanwhile, by run.
    """

    stem: str
    answer: Answer | None
    shown: str
    reason: str
    failed: bool
    unrecorded: bool
    unreadable: Mapping[str, str]


def ask(asking: Sequence[Asking], folder: Path, show: Show = lambda given: "") -> list[list[Outcome]]:
    """Draws everything that each comparison holds data for, and writes it; what came of it, by comparison."""
    jobs = [(at, stem) for at, (_, questions) in enumerate(asking) for stem in questions]
    processes = _processes(asking, len(jobs))
    with _rarely_collected():
        if processes == 1:
            found = [_one(asking, folder, show, job) for job in jobs]
        else:
            fork = multiprocessing.get_context("fork")
            with ProcessPoolExecutor(processes, fork, _begin, (asking, folder, show)) as pool:
                found = list(pool.map(_of_begun, jobs))
    outcomes: list[list[Outcome]] = [[] for _ in asking]
    for (at, _), outcome in zip(jobs, found, strict=True):
        asking[at][0].store.note(outcome.unreadable)
        outcomes[at].append(outcome)
    return outcomes


def _processes(asking: Sequence[Asking], jobs: int) -> int:
    if sys.platform != "linux":
        return 1
    runs = len({str(run) for comparison, _ in asking for run in comparison.runs["run"]})
    return max(1, min(len(os.sched_getaffinity(0)), MOST, jobs, runs // RUNS_EACH))


@contextmanager
def _rarely_collected() -> Iterator[None]:
    """Python looks for cycles among a figure's hundred thousand objects a hundred times as rarely."""
    before = gc.get_threshold()
    gc.set_threshold(100 * before[0], *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


begun: tuple[Sequence[Asking], Path, Show]
"""In a process of the pool: what it was forked with, so that nothing has to be sent to it but a number and a stem."""


def _begin(asking: Sequence[Asking], folder: Path, show: Show) -> None:
    global begun
    begun = asking, folder, show


def _of_begun(job: tuple[int, str]) -> Outcome:
    return _one(*begun, job)


def _one(asking: Sequence[Asking], folder: Path, show: Show, job: tuple[int, str]) -> Outcome:
    at, stem = job
    comparison, questions = asking[at]
    given, shown, reason, failed, unrecorded = None, "", "", False, False
    try:
        whole = answer(questions[stem], stem, comparison, folder)
        given, shown = replace(whole, tables={NUMBERS: whole.tables[NUMBERS]}), show(whole)
    except NothingToDraw as nothing:
        reason, unrecorded = str(nothing), isinstance(nothing, NotRecorded)
    except Exception as error:
        reason, failed = failure(error, comparison), True
    return Outcome(stem, given, shown, reason, failed, unrecorded, comparison.store.unreadable)
