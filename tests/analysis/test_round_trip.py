"""The short form of ``python tests/round_trip.py outputs/demo``, and that it finds what differs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import round_trip
from round_trip import differing, reports

TRAIN = "from retrograde.train.app import main; main()"
SHORT = (
    *("study=demo", "model=gru,transformer", "seed=0,1", "steps=20", "task.length=10", "width=8", "batch_size=8"),
    *("trainer.validate_every=10", "trainer.validation_samples=16", "trainer.test_samples=16", "trainer.threads=1"),
    "progress=false",
)
FIGURES = {".svg", ".pdf", ".png", ".csv", ".tex", ".txt", ".html"}


@pytest.mark.heavy
def test_the_demo_synced_and_read_back_gives_the_same_bytes(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    command = [sys.executable, "-c", TRAIN, *SHORT, f"outputs={tmp_path / 'outputs'}"]
    subprocess.run(command, env=environment, check=True, capture_output=True)  # W&B is offline unless it is asked for
    made = reports(tmp_path / "outputs" / "demo", tmp_path / "made")
    for stem in ("learning", "reach", "attention_maps"):
        assert f"figures/demo-adding-{stem}.pdf" in made["folder"]
    assert {Path(name).suffix for name in made["folder"]} == FIGURES
    assert differing(made["folder"], made["copies"]) == []
    assert differing(made["folder"], made["wandb"]) == []


def test_a_file_that_is_missing_or_not_the_same_differs() -> None:
    one = {"same": b"1", "other": b"2", "gone": b"3"}
    assert differing(one, {"same": b"1", "other": b"3", "more": b"4"}) == ["gone", "more", "other"]


def test_what_differs_is_named_and_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = {"index.html": b"1", "figures/a.svg": b"2"}
    made = {"folder": page, "copies": page, "wandb": {**page, "figures/a.svg": b"3"}}
    monkeypatch.setattr(round_trip, "reports", lambda *_: made)
    assert round_trip.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "folder: 2 files: 1 .html, 1 .svg",
        "copies: 2 files, of which 0 differ",
        "wandb: 2 files, of which 1 differ",
        "  figures/a.svg",
    ]
    monkeypatch.setattr(round_trip, "reports", lambda *_: dict.fromkeys(made, page))
    assert round_trip.main([str(tmp_path)]) == 0
