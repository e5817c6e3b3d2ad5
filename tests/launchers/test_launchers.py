"""Every launcher does the same work; what one of its workers does not end is done by another."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launched import FOUR, LONG, NEEDED, RAY, SHORT, answers, assert_equal, available, kill, present, wait_for
from retrograde.record.folder import INTERRUPTED

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
    assert set(status.values()) == {INTERRUPTED}
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
