import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from launched import FOUR, RAY, SETTINGS, Sweep
from retrograde.train import app

Launched = Callable[..., Sweep]


@pytest.fixture(scope="session")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Launched:
    """The command with these arguments, at work in a folder of its own or in ``outputs``."""

    def launch(*arguments: str, outputs: Path | None = None) -> Sweep:
        folder = tmp_path_factory.mktemp("outputs") if outputs is None else outputs
        command = [sys.executable, "-c", "from retrograde.train.app import main; main()", "-m"]
        process = subprocess.Popen(
            [*command, *SETTINGS, *arguments, f"outputs={folder}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            cwd=folder,
            env={**os.environ, **RAY, "STARTED_BY_TEST": str(folder)},
        )
        return Sweep(process, folder)

    return launch


@pytest.fixture(scope="session")
def in_process(launched: Launched) -> Callable[[str], Sweep]:
    """The sweep of so many steps that ran in one process, undisturbed; made once."""
    made: dict[str, Sweep] = {}

    def sweep(steps: str) -> Sweep:
        if steps not in made:
            made[steps] = launched(*FOUR, steps)
            code, output = made[steps].ended()
            assert code == 0, output
        return made[steps]

    return sweep


@dataclass(frozen=True)
class Ended:
    """How a command ended in this process; what ``sys.exit`` was told is part of ``error``."""

    code: int
    output: str
    error: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """``retrograde`` with these arguments, in this process."""
    monkeypatch.setenv(app.FULL_ERROR, "0")  # main() sets it; this gives it back
    monkeypatch.setattr(app, "TRACEBACK_WANTED", False)

    def ended(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["retrograde", *arguments])
        capfd.readouterr()
        code: object = 0
        try:
            app.main()
        except SystemExit as end:
            code = end.code
        finally:
            GlobalHydra.instance().clear()
        output, error = capfd.readouterr()
        return Ended(int(bool(code)), output, error + (f"{code}\n" if isinstance(code, str) else ""))

    return ended
