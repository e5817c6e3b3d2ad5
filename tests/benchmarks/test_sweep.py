"""The sweep benchmark runs, and takes a job apart without counting anything twice."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from scripts import FOLDER, loaded

pytestmark = pytest.mark.heavy
"""The whole script is run, small."""

SCRIPT = FOLDER / "sweep.py"

sweep = loaded("sweep")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    file = tmp_path_factory.mktemp("sweep") / "sweep.json"
    small = ["--jobs=3", "--plan=100", "--starts=1", "--json", file]
    environment = {**os.environ, "WANDB_MODE": "offline"}
    done = subprocess.run([sys.executable, SCRIPT, *small], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(file.read_text())


def test_a_job_is_the_sum_of_its_parts(run: tuple[str, dict[str, Any]]) -> None:
    _, result = run
    overhead, parts = result["seconds"][sweep.OVERHEAD]["wall"], result["parts"]
    assert all(part["wall"] > 0 for part in parts.values()), parts
    assert overhead == pytest.approx(sum(part["wall"] for name, part in parts.items() if name not in sweep.TRAINING))


def test_every_goal_is_shown_with_what_was_seen(run: tuple[str, dict[str, Any]]) -> None:
    printed, result = run
    assert {name: row["goal"] for name, row in result["seconds"].items()} == sweep.GOALS
    for name, row in result["seconds"].items():
        line = next(line for line in printed.splitlines() if line.startswith(f"{name}  "))
        assert f"{row['wall']:.3f}" in line and line.endswith(("met", "missed"))


def test_what_a_part_calls_of_another_counts_for_the_other() -> None:
    clock = sweep.Clock()
    inner = clock.timed("inner", lambda: time.sleep(0.05))
    clock.timed("outer", lambda: (time.sleep(0.01), inner()))()
    assert clock.wall["inner"] >= 0.05
    assert 0.01 <= clock.wall["outer"] < 0.05


@pytest.mark.parametrize("option", ["--jobs=1", "--plan=0", "--starts=0"])
def test_what_is_too_small_is_refused_in_one_line(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main([option]) == 1
    assert capsys.readouterr().err.startswith(option.partition("=")[0])


def test_the_command_is_the_installed_one() -> None:
    assert Path(sweep.COMMAND).exists()
