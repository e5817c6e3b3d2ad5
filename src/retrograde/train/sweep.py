"""A sweep: jobs that are launched until each has ended, however often that takes, and what became of them.

What is finished is not launched. A job whose worker was lost is launched again, and goes on from its checkpoint. One
that another launch is at work on is waited for, and taken over where that launch dies. Nothing is known of a job but
what its folder says, so all this holds for every launcher.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException

from retrograde.record.folder import (
    CLAIMED,
    FAILED,
    FINISHED,
    INTERRUPTED,
    LOST,
    NAME,
    NOT_BEGUN,
    RunFolder,
    status_of,
)
from retrograde.record.metadata import number_of
from retrograde.train.closing import closed_before
from retrograde.train.errors import first_line
from retrograde.train.jobs import Planned

PLACE = "RETROGRADE_PLACE"
"""Where a job finds which one of how many it is."""

ATTEMPTS = 3
"""How often a job is launched whose worker is lost each time; the last time alone, since with some launchers, joblib
among them, the loss of one worker takes the others with it."""

POLL = 0.5
"""Seconds between two looks at what another launch is at work on."""

GRACE = 30.0
"""Seconds that workers have, when the sweep is asked to end, to keep what they have."""

END = signal.SIGUSR1
"""By which the launching process asks a worker to end its job and to begin no other."""


class SweepError(ValueError):
    """Some runs of a sweep did not finish."""


def place() -> tuple[int, int] | None:
    """Which job of a sweep this is, from 1, and of how many; None outside a sweep."""
    if PLACE not in os.environ:
        return None
    number, _, size = os.environ[PLACE].partition("/")
    return int(number), int(size)


def at_a_time(n_jobs: int) -> int:
    """How many runs side by side that is: below 0 it counts from the number of cores, as joblib counts."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return n_jobs if n_jobs > 0 else max(1, cores + 1 + n_jobs)


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


@dataclass
class Group:
    """Jobs that are carried out as one, and why some of them failed."""

    jobs: Sequence[Planned]
    total: int
    reasons: dict[str, str] = field(default_factory=dict)


WORTH_A_TRIAL = 100
"""Steps from which on jobs are tried together."""

GROUP: ContextVar[Group | None] = ContextVar("group", default=None)
"""What the job that is launched now stands for, where it is more than itself."""


def grouped(jobs: Sequence[Planned], most: int) -> list[list[Planned]]:
    """Jobs that differ in nothing but seed and learning rate, ``most`` to a group, in the order of their first ones.

    One of a few steps is by itself: it is over before it is known whether others would help it.
    """
    alike: dict[str, list[list[Planned]]] = {}
    groups: list[list[Planned]] = []
    for job in jobs:
        rest = {name: value for name, value in job.settings.items() if name != "seed"}
        optimizer = rest.get("optimizer")
        if isinstance(optimizer, Mapping):
            rest["optimizer"] = {name: value for name, value in optimizer.items() if name != "lr"}
        named = NAME.fullmatch(job.folder.run)
        key = json.dumps([named["stem"] if named else job.folder.run, rest], sort_keys=True, default=str)
        of_kind = alike.setdefault(key, [])
        if not of_kind or len(of_kind[-1]) >= most or not _is_worth_it(job):
            of_kind.append([])
            groups.append(of_kind[-1])
        of_kind[-1].append(job)
    return [sorted(group, key=_rate) for group in groups]  # neighbours with one rate are stepped as one


def _rate(job: Planned) -> str:
    optimizer = job.settings.get("optimizer")
    return str(optimizer.get("lr")) if isinstance(optimizer, Mapping) else ""


def _is_worth_it(job: Planned) -> bool:
    steps = job.settings.get("steps")
    return isinstance(steps, int) and steps >= WORTH_A_TRIAL


def said_before(job: Planned, total: int) -> str:
    """What is said of a job that is finished already.

    Raises ValueError where its task would read other data now, or its record is not a finished run's.
    """
    require_same_data(job)
    result = job.folder.read()
    with a_whole_record(job.folder):
        return f"[{job.number}/{total}] {closed_before(job.folder, result, job.settings)}"


@contextmanager
def a_whole_record(folder: RunFolder) -> Iterator[None]:
    """Raise ValueError, naming the file, for what a finished run's record lacks or has in another form."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder.path / 'run.json'} is no finished run's: {type(error).__name__}: {error}") from error


def require_same_data(job: Planned) -> None:
    """Raise ValueError where the task of a finished job would read other data now, or none."""
    if job.folder.read_card().get("source") is None:
        return
    from hydra.utils import instantiate

    from retrograde.train.job import require_same_source

    try:
        task = instantiate(job.settings["task"])
    except InstantiationException as error:
        raise ValueError(f"task: {first_line(error.__cause__ or error)}") from error
    require_same_source(job.folder, task)


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
        lines = [f"{number_of(total, 'run')}: {', '.join(counts)}; {' '.join(where)}"]
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
        try:
            if not job.folder.is_finished():
                left.append(job)
                continue
            say(before(job))
            outcome.before.append(job)
        except ValueError as error:  # other data, or a record that cannot be read: the others go on
            outcome.add(FAILED, job, str(error))
    attempts: dict[str, int] = {}
    try:
        while left:
            left = _round(left, launch, outcome, attempts, say)
    except BaseException:
        for job in left:
            status = status_of(job.folder) or NOT_BEGUN
            outcome.add(status, job, _reason(job.folder) if status == FAILED else None)
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
        say(f"waiting for {number_of(len(left), 'run')} that another process is at work on")
        while all(job.folder.owner() is not None for job in left):
            time.sleep(POLL)
        free = [job for job in left if job.folder.owner() is None]
    known: dict[str, str | None] = {}
    stopped: Exception | None = None
    unfinished = [job for job in free if status_of(job.folder) != FINISHED]
    suspect = [job for job in unfinished if attempts.get(job.folder.run) == ATTEMPTS - 1]
    together = [job for job in unfinished if job not in suspect]
    written = {job.folder.run: _written(job.folder) for job in unfinished}
    for part in [together] * bool(together) + [[job] for job in suspect]:
        try:
            known |= launch(part)
        except Exception as error:  # a launcher that lost a worker; what it was at work on is seen below
            stopped = error
    again, ended = [], 0
    for job in left:
        run = job.folder.run
        status = status_of(job.folder)
        if status == FINISHED:
            outcome.add(FINISHED, job)
        elif status == CLAIMED or (status == INTERRUPTED and run not in written):
            again.append(job)
            continue
        elif known.get(run) is not None or (
            status in (FAILED, INTERRUPTED) and written.get(run) != _written(job.folder)  # and not of an earlier sweep
        ):
            outcome.add(status or FAILED, job, known.get(run) or _reason(job.folder))
        else:
            lost = status == LOST or run in known  # of those that had not begun yet only the latter is known to be lost
            attempts[run] = attempts.get(run, 0) + lost
            ended += lost
            if attempts[run] < ATTEMPTS:
                again.append(job)
            else:
                outcome.add(LOST, job, f"its worker was lost {ATTEMPTS} times")
            continue
        ended += 1
    if stopped is not None and not ended:
        raise stopped
    return again


def _written(folder: RunFolder) -> int | None:
    """When the folder last said something; None where it never did."""
    try:
        return (folder.path / "run.json").stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _reason(folder: RunFolder) -> str | None:
    try:
        return folder.read().get("reason")
    except ValueError as error:
        return str(error)


@dataclass(frozen=True)
class InWorker:
    """A job as it is run in a worker, a process that a launcher has started.

    The launching process alone is interrupted from the keyboard, and asks its workers with END. SIGTERM ends the one
    job, whatever handler the launcher's package has for it. A worker that was asked to end begins no other job.
    """

    job: Callable[[Any], Any]
    heeds_interrupts: bool = False
    """Whether SIGINT means this job, because it does not come from the keyboard."""

    def __call__(self, config: Any) -> Any:
        if _ASKED.is_set():
            raise SweepError("not begun: the sweep was asked to end")
        if threading.current_thread() is not threading.main_thread():
            return self.job(config)  # no signal arrives here
        interrupted = signal.default_int_handler if self.heeds_interrupts else signal.SIG_IGN
        handlers = {END: _end, signal.SIGINT: interrupted, signal.SIGTERM: signal.SIG_DFL}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            return self.job(config)
        finally:
            for number, handler in before.items():
                if number != END:  # which may be on its way still
                    signal.signal(number, handler)


_ASKED = threading.Event()


def _end(number: int, frame: Any) -> None:
    """In a worker."""
    _ASKED.set()
    if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:  # else no job is at work that could be kept
        signal.raise_signal(signal.SIGTERM)


@contextmanager
def workers_end_first(jobs: Sequence[Planned]) -> Iterator[None]:
    """For as long as this lasts, a request to end reaches the jobs' processes on this machine, and waits for them.

    Processes elsewhere hear of it from the launcher that has started them, and are waited for after that. A second
    request does not wait.
    """

    def passed_on(number: int, frame: Any) -> None:
        asked.append(number)
        if len(asked) > 1:
            raise KeyboardInterrupt
        deadline = time.monotonic() + GRACE
        print("retrograde: runs end after their step", file=sys.stderr, flush=True)
        while (workers := _workers(jobs)) and time.monotonic() < deadline:
            for process in workers - told:
                told.add(process)
                with suppress(ProcessLookupError):
                    os.kill(process, END)
            time.sleep(0.1)
        raise KeyboardInterrupt

    asked: list[int] = []
    told: set[int] = set()
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, passed_on) for number in numbers}
    try:
        yield
    except BaseException:
        if len(asked) == 1 and not told:
            deadline = time.monotonic() + GRACE
            while any(job.folder.owner() is not None for job in jobs) and time.monotonic() < deadline:
                time.sleep(POLL)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _workers(jobs: Sequence[Planned]) -> set[int]:
    """The processes that this one has started, itself or through others, and that are at work on the jobs."""
    owners = [job.folder.owner() for job in jobs]
    here = socket.gethostname()
    candidates = {owner[0] for owner in owners if owner is not None and owner[1] == here}
    return {process for process in candidates - {0, os.getpid()} if os.getpid() in _ancestors(process)}


def _ancestors(process: int) -> Iterator[int]:
    """Those that have started the process, the nearest first; none where it has ended."""
    while process > 1:
        process = _parent(process)
        yield process


def _parent(process: int) -> int:
    """Who has started it; 0 where it has ended."""
    if sys.platform != "linux":  # which says so without ps, that a container may lack
        asked = subprocess.run(["ps", "-o", "ppid=", "-p", str(process)], capture_output=True, text=True, check=False)
        return int(asked.stdout or 0)
    try:
        said = Path(f"/proc/{process}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(said.rpartition(b")")[2].split()[1])  # behind its name, which may hold anything
