"""Sweeps through launchers that start processes of their own."""

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from retrograde.record.folder import RunFolder
from retrograde.record.store import FolderStore

NEEDED = {
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "submitit_local": "submitit",
    "slurm": "submitit",
    "ray": "hydra_plugins.hydra_ray_launcher",
}
"""The packages of launchers."""

RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
"""What the clusters of one session of tests are started and found with; nothing of it lies in a home directory."""

FOUR = ("model=gru,elman", "seed=0,1")
SETTINGS = (
    *("width=8", "task.length=20", "batch_size=16", "probe=state_gradient", "probing.share=null"),
    *("trainer.threads=1", "trainer.log_every=10", "trainer.validate_every=20", "trainer.stop_when_solved=false"),
    *("trainer.validation_samples=32", "trainer.test_samples=32", "recorder.mode=disabled", "progress=false"),
)
SHORT, LONG = "steps=5", "steps=1500"
PATIENCE = 240.0


@dataclass
class Sweep:
    """A sweep that runs, or has ended."""

    process: subprocess.Popen[str]
    outputs: Path

    def ended(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, output

    def runs(self) -> list[RunFolder]:
        return [RunFolder(file.parent) for file in sorted(self.outputs.glob("*/*/run.json"))]

    def at_work(self) -> dict[str, int]:
        """The processes of the runs that have a checkpoint to go on from, by run."""
        kept = [run for run in self.runs() if (run.checkpoints / "best.ckpt").exists()]
        owners = {run.run: run.owner() for run in kept}
        return {run: owner[0] for run, owner in owners.items() if owner is not None and owner[0]}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Everything that was recorded."""
        store = FolderStore(self.outputs)
        return {"metrics": store.metrics(), "labels": store.labels()} | {
            name: store.readings(name) for name in store.tables()
        }

    def wait_for_one_at_work(self) -> dict[str, int]:
        wait_for(lambda: self.at_work() or self.process.poll() is not None)
        assert self.process.poll() is None, self.ended()[1]
        return self.at_work()

    def left_over(self) -> list[str]:
        """Processes that this sweep has started and that have not ended."""
        listed = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
        found = []
        for line in listed.splitlines():
            process = line.split()[0]
            try:
                environment = Path(f"/proc/{process}/environ").read_bytes()
            except OSError:
                continue
            if f"STARTED_BY_TEST={self.outputs}".encode() in environment.split(b"\0"):
                found.append(line)
        return found


def present(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False


def available(launcher: str) -> None:
    """Skips the test where the launcher's package, or its SLURM, is not there."""
    if not present(NEEDED[launcher]):
        pytest.skip(f"launcher={launcher} needs {NEEDED[launcher]}")
    if launcher == "slurm":
        try:
            subprocess.run(["sinfo"], check=True, capture_output=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            pytest.skip("launcher=slurm needs a SLURM that answers")


def assert_equal(one: Sweep, other: Sweep) -> None:
    expected, found = one.tables(), other.tables()
    assert expected.keys() == found.keys()
    for name, table in expected.items():
        pd.testing.assert_frame_equal(table, found[name], check_exact=True)


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
