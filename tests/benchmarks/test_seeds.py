"""The benchmark of seeds runs to its end, small, and refuses what it cannot compare."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts import loaded

bench = loaded("seeds")


@pytest.mark.heavy
def test_it_measures_and_keeps_what_it_says(
    tmp_path: Path, cpp: None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(bench, "SIZES", {"small": (2, 4), "large": (3, 4)})
    monkeypatch.setattr(bench, "prepare", lambda threads: None)
    file = tmp_path / "seeds.json"
    arguments = [
        "--models",
        "gru",
        "transformer",
        "--pairs",
        "2",
        "--seeds",
        "2",
        "--length",
        "10",
        "--json",
        str(file),
    ]
    bench.main(arguments)
    kept = json.loads(file.read_text())
    assert [row["goal"] for row in kept["ratios"]] == [2.0, *[None] * 4, 0.6, *[None] * 6]
    for one, in_turn in zip(kept["ratios"][::2], kept["ratios"][1::2], strict=True):
        assert in_turn["median"] == pytest.approx(one["median"] / 2)
    assert list(kept["times"][0]["milliseconds"]) == [bench.TORCH, "compiled", "chunked", "together"]
    assert list(kept["times"][-1]["milliseconds"]) == ["as it is", "together"]
    assert all(each["difference"] < 1e-4 for each in kept["times"])
    assert "2 seeds of gru, B=2 H=4" in capsys.readouterr().out


def test_a_loss_that_is_another_is_seen() -> None:
    options = bench.Options(("gru",), seeds=2, pairs=1, length=10, threads=1, device="cpu")
    task = bench.Adding(length=10)
    here, there = (bench.singles("gru", task, 2, 4, options) for _ in range(2))
    with torch.no_grad():
        next(there[1].model.parameters()).mul_(1.5)
    assert bench.difference(bench.Together(here), there) > bench.SAME


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(SystemExit, match="--models must be one of gru, lstm, elman, transformer"):
        bench.main(["--models", "cnn"])
