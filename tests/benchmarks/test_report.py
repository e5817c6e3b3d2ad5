"""The report benchmark runs on two sizes, its copies are runs like any other, and its verdicts are what was seen."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fake_runs import Fake, write_run
from retrograde.record.store import FolderStore
from scripts import FOLDER, loaded

report = loaded("report")


def test_copies_are_runs_with_all_tables_of_the_original(tmp_path: Path) -> None:
    original = write_run(tmp_path / "original", Fake("lstm"))
    report.copies(original.path, tmp_path / "copies", 103, together=False)
    store = FolderStore(tmp_path / "copies")
    runs = store.runs()
    assert store.unreadable == {} and len(runs) == 103
    assert runs.groupby("study")["model"].nunique().to_dict() == {"study-00": 20, "study-01": 1}
    names = runs["run"].tolist()
    assert len(store.metrics(names[:1])) == len(FolderStore(tmp_path / "original").metrics())
    assert store.unreadable == {}


def test_together_they_are_of_one_study(tmp_path: Path) -> None:
    original = write_run(tmp_path / "original", Fake("lstm"))
    report.copies(original.path, tmp_path / "copies", 41, together=True)
    runs = FolderStore(tmp_path / "copies").runs()
    assert runs["study"].nunique() == 1 and runs.groupby("model").size().max() == 3


def test_exponents_and_verdicts_by_hand() -> None:
    assert report.exponent({100: 2.0, 1000: 20.0}) == pytest.approx(1)
    assert math.isnan(report.exponent({100: 2.0}))
    assert report.verdict(100, {"seconds": 15.0, "peak_bytes": 1e9}).endswith("met")
    assert report.verdict(100, {"seconds": 15.1, "peak_bytes": 1e9}).endswith("missed")
    assert report.verdict(1000, {"seconds": 1.0, "peak_bytes": 2.1e9}).endswith("missed")
    assert report.verdict(7, {"seconds": 1e9, "peak_bytes": 1e12}) == ""


def test_too_few_runs_are_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--runs", "0"]) == 1
    assert capsys.readouterr().err == "--runs must be at least 1, not 0\n"


@pytest.mark.slow
def test_it_measures_a_report(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    command = [sys.executable, FOLDER / "report.py", "--runs", "2", "4", "--json", file]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "WANDB_MODE": "offline"})
    assert done.returncode in (0, 1), done.stderr
    result = json.loads(file.read_text())
    assert set(result["reports"]) == {"2", "4"}
    assert all(one["peak_bytes"] > 5e7 and one["seconds"] > 0.1 for one in result["reports"].values())
