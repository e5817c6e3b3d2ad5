import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

import retrograde
from retrograde import ProbingSettings, RecorderSettings, Run, TrainerSettings
from retrograde.models.lstm import lstm
from retrograde.tasks.adding import Adding
from retrograde.train import app

SMALL = TrainerSettings(accelerator="cpu", log_every=5, validate_every=5, validation_samples=32, test_samples=32)
EVERY_SNAPSHOT = ProbingSettings(share=None)  # so that what is recorded does not hang on the machine's speed
NO_VIEW = RecorderSettings(mode="disabled")

Fit = Callable[..., Run]


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """An LSTM of width 8 on adding over 10 steps, 20 steps long, in a folder of its own; settings by name."""

    def fitted(**settings: object) -> Run:
        everything = {
            "model": partial(lstm, hidden=8),
            "task": Adding(length=10),
            "steps": 20,
            "trainer": SMALL,
            "probing": EVERY_SNAPSHOT,
            "recorder": NO_VIEW,
            "outputs": tmp_path_factory.mktemp("outputs"),
            **settings,
        }
        return retrograde.fit(everything.pop("model"), everything.pop("task"), **everything)

    return fitted


@pytest.fixture(scope="session")
def finished(small_run: Fit) -> Run:
    """A run with the default probes that nobody changes."""
    return small_run()


@dataclass(frozen=True)
class Ended:
    """How a command ended. ``code`` is the exit status; what ``sys.exit`` was told is part of ``error``."""

    code: int
    output: str
    error: str

    @property
    def message(self) -> str:
        """What stands on the error stream, which is one line."""
        lines = self.error.splitlines()
        assert len(lines) == 1, self.error
        return lines[0]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ended]]:
    """``retrograde`` with these arguments, in this process."""
    monkeypatch.setenv(app.FULL_ERROR, "0")  # main() sets it; this gives it back
    monkeypatch.setattr(app, "TRACEBACK_WANTED", False)

    def ended(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["retrograde", *arguments])
        capfd.readouterr()
        code = 0
        try:
            app.main()
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            GlobalHydra.instance().clear()
        return Ended(code, *capfd.readouterr())

    yield ended


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Lightning ignores SIGINT once it has seen one; a person at the keyboard wants it back."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def bin_folder() -> Path:
    """Where the commands are installed."""
    return Path(sys.executable).parent
