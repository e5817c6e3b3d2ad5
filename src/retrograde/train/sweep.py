"""A sweep: jobs that are launched until each has ended, however often that takes, and what became of them.

What is finished is not launched. A job whose worker was lost is launched again, and goes on from its checkpoint. One
that another launch is at work on is waited for, and taken over where that launch dies. Nothing is known of a job but
what its folder says, so all this holds for every launcher.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from retrograde.record.folder import FAILED, FINISHED, INTERRUPTED, RunFolder
from retrograde.train.closing import alert_lines, closing_line, other_code
from retrograde.train.jobs import Planned

PLACE = "RETROGRADE_PLACE"
"""Where a job finds which one of how many it is."""

ATTEMPTS = 3
"""How often a job is launched whose worker is lost each time."""

POLL = 0.5
"""Seconds between two looks at what another launch is at work on."""

GRACE = 30.0
"""Seconds that workers have, when the sweep is asked to end, to keep what they have."""

LOST = "lost"
CLAIMED = "claimed"


class SweepError(ValueError):
    """Some runs of a sweep did not finish."""


def place() -> tuple[int, int] | None:
    """Which job of a sweep this is, from 1, and of how many; None outside a sweep."""
    if PLACE not in os.environ:
        return None
    number, _, size = os.environ[PLACE].partition("/")
    return int(number), int(size)


IN_THIS_PROCESS = ContextVar("in_this_process", default=False)
"""Whether the process that launches also runs the jobs, so that who interrupts one means all of them."""


@contextmanager
def in_this_process() -> Iterator[None]:
    """For as long as this lasts, jobs run where they are launched."""
    token = IN_THIS_PROCESS.set(True)
    try:
        yield
    finally:
        IN_THIS_PROCESS.reset(token)


def said_before(job: Planned, total: int) -> str:
    """What is said of a job that is finished already; raises ValueError where its task would read other data now."""
    if job.folder.read_card().get("source") is not None:
        from hydra.utils import instantiate

        from retrograde.train.job import require_same_source

        require_same_source(job.folder, instantiate(job.settings["task"]))
    result = job.folder.read()
    line = f"[{job.number}/{total}] {closing_line(job.folder, result)} (finished already{other_code(result)})"
    return "\n".join([line, *alert_lines(result)])


@dataclass
class Outcome:
    """What became of the jobs, by the status of each."""

    before: list[Planned] = field(default_factory=list)
    ended: dict[str, list[Planned]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, status: str, job: Planned, reason: str | None = None) -> None:
        self.ended.setdefault(status, []).append(job)
        if reason:
            self.reasons[job.folder.run] = reason

    @property
    def bad(self) -> int:
        return sum(len(jobs) for status, jobs in self.ended.items() if status != FINISHED)

    def lines(self) -> list[str]:
        """The last lines of a sweep, from all of it to its failures one by one."""
        finished = self.ended.get(FINISHED, [])
        total = len(self.before) + sum(map(len, self.ended.values()))
        counts = [f"{len(finished)} finished"] if finished else []
        counts += [f"{len(self.before)} finished before"] if self.before else []
        counts += [f"{len(jobs)} {status}" for status, jobs in self.ended.items() if status != FINISHED]
        where = sorted({str(job.folder.path.parent) for jobs in [self.before, *self.ended.values()] for job in jobs})
        lines = [f"{total} runs: {', '.join(counts)}; {' '.join(where)}"]
        for status, jobs in self.ended.items():
            if status != FINISHED:
                lines += [f"  {status}: {self._line(job)}" for job in jobs]
        return lines

    def _line(self, job: Planned) -> str:
        reason = self.reasons.get(job.folder.run)
        return f"{job.folder.path}{f': {reason}' if reason else ''}"


Launch = Callable[[Sequence[Planned]], Mapping[str, str | None]]
"""Runs jobs, and says by run of those that it knows the end of why they failed, or None where they did not."""


def sweep(
    jobs: Sequence[Planned], launch: Launch, before: Callable[[Planned], str], say: Callable[[str], None]
) -> Outcome:
    """Launch jobs until each has ended; ``before`` has the words for one that is finished already.

    An interrupt ends the sweep, whose outcome so far is said.
    """
    outcome = Outcome()
    left = []
    for job in jobs:
        if not job.folder.is_finished():
            left.append(job)
            continue
        try:
            say(before(job))
            outcome.before.append(job)
        except ValueError as error:
            outcome.add(FAILED, job, str(error))
    attempts: dict[str, int] = {}
    try:
        while left:
            left = _round(left, launch, outcome, attempts, say)
    except BaseException:
        for job in left:
            outcome.add(status_of(job.folder) or "not begun", job)
        for line in outcome.lines():
            say(line)
        raise
    return outcome


def _round(
    left: Sequence[Planned], launch: Launch, outcome: Outcome, attempts: dict[str, int], say: Callable[[str], None]
) -> list[Planned]:
    """One launch of what is left; what has to be launched once more comes back."""
    free = [job for job in left if job.folder.owner() is None]
    if not free:
        say(f"waiting for {len(left)} runs that another process is at work on")
        while all(job.folder.owner() is not None for job in left):
            time.sleep(POLL)
        free = [job for job in left if job.folder.owner() is None]
    known: Mapping[str, str | None] = {}
    stopped: Exception | None = None
    unfinished = [job for job in free if not job.folder.is_finished()]
    if unfinished:
        try:
            known = launch(unfinished)
        except Exception as error:  # a launcher that lost a worker; what it was at work on is seen below
            stopped = error
    again, ended = [], 0
    for job in left:
        run = job.folder.run
        status = status_of(job.folder)
        if status == FINISHED:
            outcome.add(FINISHED, job)
        elif status == CLAIMED:
            again.append(job)
            continue
        elif known.get(run) is not None or status in (FAILED, INTERRUPTED):
            outcome.add(status or FAILED, job, known.get(run) or _reason(job.folder))
        elif status == LOST and attempts.get(run, 0) + 1 >= ATTEMPTS:
            outcome.add(LOST, job, f"its worker was lost {ATTEMPTS} times")
        else:
            attempts[run] = attempts.get(run, 0) + (status == LOST)
            ended += status == LOST
            again.append(job)
            continue
        ended += 1
    if stopped is not None and not ended:
        raise stopped
    return again


def status_of(folder: RunFolder) -> str | None:
    """What the folder says; lost where it says that the run goes on and nobody is at work on it. None: not begun."""
    if folder.owner() is not None:
        return CLAIMED
    if not (folder.path / "run.json").exists():
        return None
    try:
        status = folder.read()["status"]
    except (ValueError, KeyError):
        return FAILED
    return status if status in (FINISHED, FAILED, INTERRUPTED) else LOST


def _reason(folder: RunFolder) -> str | None:
    try:
        return folder.read().get("reason")
    except ValueError as error:
        return str(error)


@contextmanager
def workers_end_first(jobs: Sequence[Planned]) -> Iterator[None]:
    """For as long as this lasts, a request to end reaches the jobs' processes on this machine, and waits for them."""

    def passed_on(number: int, frame: Any) -> None:
        deadline = time.monotonic() + GRACE
        print("retrograde: runs end after their step", file=sys.stderr, flush=True)
        while (pids := _processes(jobs)) and time.monotonic() < deadline:
            for pid in pids - told:
                told.add(pid)
                os.kill(pid, signal.SIGTERM)
            time.sleep(0.1)
        raise KeyboardInterrupt

    told: set[int] = set()
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, passed_on) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _processes(jobs: Sequence[Planned]) -> set[int]:
    """Those on this machine, other than this one, that are at work on the jobs."""
    owners = [job.folder.owner() for job in jobs]
    here = socket.gethostname()
    return {owner[0] for owner in owners if owner is not None and owner[1] == here} - {0, os.getpid()}
