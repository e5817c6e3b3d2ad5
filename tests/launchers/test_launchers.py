"""Every launcher does the same work; what one of its workers does not end is done by another."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
from hydra.core.utils import JobReturn

from hydra_plugins import retrograde_workers as workers
from launched import FOUR, LONG, NEEDED, RAY, SHORT, answers, assert_equal, available, kill, present, wait_for
from retrograde.record.folder import INTERRUPTED, RUNNING

SLURM = "hydra.launcher.over.parameters"
SMALL = {"slurm": (f"{SLURM}.cpus_per_task=1", f"{SLURM}.mem_gb=1")}
"""What a launcher is told so that two jobs find a place on the smallest machine."""


@pytest.mark.parametrize("launcher", NEEDED)
def test_the_tables_are_those_of_the_launcher_in_this_process(launcher: str, launched, in_process) -> None:
    available(launcher)
    sweep = launched(*FOUR, SHORT, f"launcher={launcher}", *SMALL.get(launcher, ()))
    code, output = sweep.ended()
    assert code == 0, output
    for number in range(1, 5):
        assert re.search(rf"\[{number}/4\] \w+ on adding, seed [01]: score", output), output
    assert output.splitlines()[-1] == f"4 runs: 4 finished; {sweep.outputs / 'single'}"
    assert_equal(in_process(SHORT), sweep)
    wait_for(lambda: not sweep.left_over(), 20)  # Ray's own processes take a while


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_a_job_whose_worker_is_killed_is_launched_again(launcher: str, launched, in_process) -> None:
    available(launcher)
    sweep = launched(*FOUR, LONG, f"launcher={launcher}")
    (lost, worker), *_ = sweep.wait_for_one_at_work().items()
    kill(worker)
    code, output = sweep.ended()
    assert code == 0, output
    assert output.splitlines()[-1] == f"4 runs: 4 finished; {sweep.outputs / 'single'}"
    (run,) = (run for run in sweep.runs() if run.run == lost)
    assert [bool(attempt.get("from_step")) for attempt in run.read()["attempts"]] == [False, True]
    assert_equal(in_process(LONG), sweep)
    wait_for(lambda: not sweep.left_over(), 20)  # Ray's own processes take a while


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_sigterm_to_the_launching_process_keeps_what_there_is_and_ends_all(launcher: str, launched) -> None:
    available(launcher)
    sweep = launched(*FOUR, "steps=200000", f"launcher={launcher}")
    before = sweep.wait_for_one_at_work()
    sweep.process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    code, output = sweep.ended()
    assert time.monotonic() - begun < 25
    assert code != 0
    assert "retrograde: runs end after their step" in output
    status = {run.run: run.read()["status"] for run in sweep.runs()}
    assert {status[run] for run in before} == {INTERRUPTED}
    # submitit kills one that is only just beginning; the next launch begins it anew
    assert set(status.values()) <= ({INTERRUPTED, RUNNING} if launcher == "submitit_local" else {INTERRUPTED})
    assert all((run.checkpoints / "last.ckpt").exists() for run in sweep.runs() if run.run in before)
    assert re.search(r"^4 runs: .*interrupted", output, re.MULTILINE), output
    wait_for(lambda: not sweep.left_over(), 20)  # Ray's own processes take a while


def test_ray_starts_its_tasks_on_a_cluster_that_is_there(launched, in_process) -> None:
    available("ray")
    port = 26379
    command = [Path(sys.executable).parent / "ray", "start", "--head", f"--port={port}", "--block", "--num-cpus=2"]
    cluster = subprocess.Popen(
        [*command, "--include-dashboard=false", "--node-ip-address=127.0.0.1"],
        env={**os.environ, **RAY},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: answers(port))
        sweep = launched(*FOUR, SHORT, "launcher=ray", f"hydra.launcher.over.init.address=127.0.0.1:{port}")
        code, output = sweep.ended()
        assert code == 0, output
        assert_equal(in_process(SHORT), sweep)
        endless = launched(*FOUR, "steps=200000", "launcher=ray", f"hydra.launcher.over.init.address=127.0.0.1:{port}")
        before = endless.wait_for_one_at_work()
        endless.process.send_signal(signal.SIGTERM)
        code, output = endless.ended()
        assert code != 0
        assert {run.read()["status"] for run in endless.runs() if run.run in before} == {INTERRUPTED}, output
        assert not endless.at_work()
        assert cluster.poll() is None
    finally:
        cluster.terminate()
        cluster.wait(60)


@pytest.mark.parametrize("launcher", NEEDED)
def test_a_launcher_whose_package_is_missing_says_so_in_one_line(launcher: str, launched) -> None:
    if present(NEEDED[launcher]):
        pytest.skip(f"{NEEDED[launcher]} is installed")
    package, extra = {
        "joblib": ("hydra-joblib-launcher", "joblib"),
        "submitit_local": ("submitit", "submitit"),
        "slurm": ("submitit", "submitit"),
        "ray": ("hydra-ray-launcher", "ray"),
    }[launcher]
    code, output = launched(*FOUR, SHORT, f"launcher={launcher}").ended()
    assert code == 1
    assert output == f"retrograde: launcher={launcher} needs {package}: pip install 'retrograde[{extra}]'\n"


@pytest.mark.parametrize(("cluster", "n_jobs", "most"), [("local", 2, 2), ("local", 9, 5), ("slurm", 1, 5)])
def test_processes_of_this_machine_are_so_many_at_a_time(
    cluster: Literal["local", "slurm"], n_jobs: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """submitit itself, which something stands in for here, starts all at once, and of SLURM's jobs that is asked."""
    at_work: set[str] = set()
    seen: list[int] = []

    class Started:
        def __init__(self, name: str) -> None:
            self.name = name
            self.looks = 0
            at_work.add(name)

        def done(self) -> bool:
            self.looks += 1
            seen.append(len(at_work))
            if self.looks > ord(self.name) % 3:
                at_work.discard(self.name)
            return self.name not in at_work

    class Executor:
        def __init__(self, folder: str, **settings: object) -> None: ...

        def update_parameters(self, **settings: object) -> None: ...

        def submit(self, work: object, overrides: list[str], number: int, state: object) -> Started:
            return Started(overrides[0])

        def map_array(self, work: object, *given: Sequence) -> list[Started]:
            return [self.submit(work, *one) for one in zip(*given, strict=True)]

    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(AutoExecutor=Executor))
    monkeypatch.setattr(workers.shutil, "which", lambda name: name)
    monkeypatch.setattr(workers, "PAUSE", {"local": 0.0, "slurm": 0.0})
    monkeypatch.setattr(
        workers.SubmititLauncher, "_result", lambda self, job, overrides: JobReturn(_return_value=job.name)
    )
    launcher = workers.SubmititLauncher(cluster, "nowhere", 0, {}, n_jobs)
    returned = launcher.launch([[name] for name in "abcde"], 0)
    assert [result._return_value for result in returned] == list("abcde")
    assert max(seen) == most
    assert not at_work


def test_no_processes_at_a_time_are_refused_in_one_line(command, tmp_path: Path) -> None:
    ended = command("-m", "launcher=submitit_local", "hydra.launcher.over.n_jobs=0", f"outputs={tmp_path}")
    assert ended.code == 1
    assert ended.error == "retrograde: hydra.launcher.over: n_jobs must be a whole number other than 0, not 0\n"
