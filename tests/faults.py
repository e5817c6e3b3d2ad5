"""Real sweeps, killed with -9 at random moments and launched again until they are done.

    python tests/faults.py --jobs 40                     what ``make faults`` does
    python tests/faults.py --jobs 40 --launches 2        two launches of the same sweep at a time

Raises AssertionError where a job was done twice, a finished run changed, a file could not be read, more than a flush
was lost, or the tables differ from those of a sweep that nobody disturbed.
"""

import argparse
import multiprocessing
import os
import random
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from retrograde.record.folder import FINISHED, RunFolder
from retrograde.record.store import FolderStore
from retrograde.train import app

LOST_AT_MOST = 10.0
"""Seconds of its record that a killed run may lack."""

SETTINGS = (
    *("model=gru", "model.hidden=8", "task.length=30", "steps=1500", "batch_size=16", "recorder.mode=disabled"),
    *("probe=[state_gradient,parameters]", "probing.share=null", "trainer.threads=1", "progress=false"),
    *("form=fused", "together=1"),  # forms and company differ in rounding, and what is compared here is bits
    *("trainer.log_every=10", "trainer.validate_every=50", "trainer.stop_when_solved=false"),
    *("trainer.validation_samples=64", "trainer.test_samples=64"),
)


CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["retrograde.train.app", "retrograde.train.job"])  # which take seconds to import


class Launched:
    """The command with these arguments, in a session of its own, so that a kill takes its workers with it."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self.log = folder / f"launch-{time.monotonic_ns()}.log"
        self.process = CONTEXT.Process(target=command, args=(arguments, self.log))
        self.process.start()

    @property
    def over(self) -> bool:
        return not self.process.is_alive()

    def kill(self) -> None:
        with suppress(ProcessLookupError):  # it has no session yet, or has ended
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.kill()
        self.process.join()

    def wait(self) -> None:
        """Raises AssertionError, with all that was said, where it did not end well."""
        self.process.join()
        assert self.process.exitcode == 0, self.log.read_text()


def command(arguments: list[str], log: Path) -> None:
    """``retrograde`` in a process of its own."""
    os.setsid()
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["retrograde", *arguments]
    app.main()


@dataclass
class Sweep:
    """One sweep of so many seeds, below a folder."""

    outputs: Path
    jobs: int
    settings: tuple[str, ...] = ()
    finished: dict[str, bytes] = field(default_factory=dict)

    def launch(self) -> "Launched":
        seeds = f"seed={','.join(map(str, range(self.jobs)))}"
        return Launched(["-m", *SETTINGS, *self.settings, seeds, f"outputs={self.outputs}"], self.outputs)

    def folders(self) -> list[RunFolder]:
        return [RunFolder(file.parent) for file in sorted(self.outputs.glob("*/*/run.json"))]

    def inspect(self, now: float) -> None:
        """Everything can be read, nothing that was finished has changed, and no running record is behind."""
        for folder in self.folders():
            said = folder.read()
            content = (folder.path / "run.json").read_bytes()
            assert self.finished.get(folder.run, content) == content, f"{folder.run} was done twice"
            if said["status"] == FINISHED:
                self.finished[folder.run] = content
        if self.folders():
            store = FolderStore(self.outputs)
            for name in store.tables():
                store.readings(name)
            assert len(store.metrics()) or not self.finished
            assert not store.unreadable, store.unreadable
        for folder in self.folders():
            written = [file.stat().st_mtime for file in folder.tables.glob("**/*.parquet")]
            began = (folder.path / "card.json").stat().st_mtime
            if folder.run not in self.finished and folder.run in self.running:
                behind = now - max([began, *written])
                assert behind < LOST_AT_MOST, f"{folder.run} lost {behind:.0f} s of its record"

    def killed(self, launches: list[Launched]) -> None:
        self.running = {folder.run for folder in self.folders() if folder.owner() is not None}
        now = time.time()
        for launch in launches:
            launch.kill()
        self.inspect(now)


def tables(outputs: Path) -> dict[str, pd.DataFrame]:
    """Everything that was recorded, run by run."""
    store = FolderStore(outputs)
    named = {name: store.readings(name) for name in store.tables()}
    return {"metrics": store.metrics(), "labels": store.labels(), **named}


def disturbed(sweep: Sweep, launches: int, shortest: float, longest: float, chance: random.Random) -> int:
    """Launch and kill, each time after so many seconds, until one launch comes to its end; how often it was killed."""
    kills = 0
    while True:
        running = [sweep.launch() for _ in range(launches)]
        deadline = time.monotonic() + chance.uniform(shortest, longest)
        while time.monotonic() < deadline and not all(one.over for one in running):
            time.sleep(0.02)
        if all(one.over for one in running):
            for one in running:
                one.wait()
            sweep.inspect(time.time())
            return kills
        sweep.killed(running)
        kills += 1
        longest *= 1.1  # so that it ends however slow the machine is


def compare(jobs: int, launches: int, longest: float, seed: int, *settings: str) -> int:
    """A disturbed sweep against one that nobody disturbed; how often it was killed.

    The first kill comes before half of the time that so many launches would take, so that there is one on any machine.
    """
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        begun = time.monotonic()
        Sweep(Path(one), jobs, settings).launch().wait()
        half = (time.monotonic() - begun) / launches / 2
        sweep = Sweep(Path(other), jobs, settings)
        kills = disturbed(sweep, launches, 0.1, min(longest, half), random.Random(seed))
        assert len(sweep.finished) == jobs
        expected, found = tables(Path(one)), tables(Path(other))
        assert expected.keys() == found.keys()
        for name, table in expected.items():
            pd.testing.assert_frame_equal(table, found[name], check_exact=True)
        return kills


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--launches", type=int, default=1, help="of the same sweep at the same time")
    parser.add_argument("--longest", type=float, default=8.0, help="seconds until a kill, at most, to begin with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--launcher", help="such as joblib")
    given = parser.parse_args()
    begun = time.monotonic()
    settings = [] if given.launcher is None else [f"launcher={given.launcher}"]
    times = compare(given.jobs, given.launches, given.longest, given.seed, *settings)
    print(
        f"{given.jobs} jobs, {given.launches} launches at a time: killed {times} times in "
        f"{time.monotonic() - begun:.0f} s; every job done once, every table that of a sweep that nobody disturbed"
    )
