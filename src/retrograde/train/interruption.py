"""SIGINT and SIGTERM while a run is carried out: the step at hand is finished and kept before the run ends.

A second signal ends it at once, and so does the first where no step is being taken.
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


class Interrupted(SystemExit):
    """The run was asked to end; ``code`` is what a shell makes of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number
        self.signal = signal.Signals(number).name

    def __str__(self) -> str:
        return self.signal


def ended_by(number: int) -> type[Interrupted]:
    """The same as a class that takes nothing, as another thread can be made to raise it."""

    class EndedAtOnce(Interrupted):
        def __init__(self) -> None:
            super().__init__(number)

    EndedAtOnce.__name__ = Interrupted.__name__  # which run.json says
    return EndedAtOnce


class Interruption:
    """Whether this run was asked to end."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.stepping = False
        self.numbers: list[signal.Signals] = []

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """For as long as this lasts. Whoever has a handler of his own, such as a scheduler, keeps it."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        if threading.current_thread() is threading.main_thread():  # which alone may have handlers
            self.numbers = [number for number, handler in before.items() if handler in DEFAULTS]
        self.heed()
        try:
            yield
        finally:
            for number in self.numbers:
                signal.signal(number, before[number])

    def heed(self) -> None:
        """Once more within training, because Lightning has a handler that would end a run before it is kept."""
        for number in self.numbers:
            signal.signal(number, self._noted)

    @contextmanager
    def after_a_step(self) -> Iterator[None]:
        """Training: what is asked waits for the end of the step."""
        self.stepping = True
        try:
            yield
        finally:
            self.stepping = False
        if self.asked is not None:
            raise Interrupted(self.asked)

    def end(self, keep: Callable[[], None]) -> NoReturn:
        """The run ends here, with what ``keep`` saves."""
        assert self.asked is not None
        keep()
        raise Interrupted(self.asked)

    def _noted(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None or not self.stepping:
            raise Interrupted(number)
        self.asked = number
        print("retrograde: ends after this step; once more ends at once", file=sys.stderr, flush=True)
