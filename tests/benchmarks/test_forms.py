"""What is compared computes the same, and ratios are formed within a round."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts import loaded

bench = loaded("forms")

TINY = bench.Size(5, 4, 12, 2)


@pytest.mark.parametrize("kind", bench.KINDS, ids=lambda kind: kind.name)
def test_every_form_trains_the_same_network(cpp: None, kind: Any) -> None:
    assert list(bench.sides(kind, TINY, "cpu")) == ["plain", "fused", "compiled", "chunked", "taps", "loop"]


def test_each_side_trains_in_its_own_form(cpp: None) -> None:
    made = bench.sides(bench.KINDS[0], TINY, "cpu")
    assert {name: side.recurrence.form for name, side in made.items() if name != "plain"} == {
        name: name for name in ("fused", "compiled", "chunked", "taps", "loop")
    }
    assert all(side.recurrence.weights()["input"] is side.net.layer.weight_ih_l0 for side in list(made.values())[1:])


def test_another_network_ends_the_benchmark() -> None:
    made = bench.sides(bench.KINDS[0], TINY, "cpu")
    with torch.no_grad():
        made["chunked"].net.readout.bias += 1.0
    with pytest.raises(ValueError, match="not the same network"):
        bench.agree(bench.KINDS[0], made)


def test_ratios_are_formed_within_a_round() -> None:
    samples = {"plain": [1.0, 2.0, 4.0], "chunked": [0.5, 1.5, 2.0]}
    (row,) = bench.ratios(bench.KINDS[0], TINY, samples)
    assert (row.name, row.against, row.median) == ("nn.GRU H=5 B=4 T=12, chunked", "plain nn.GRU", 0.5)
    assert row.lower == 0.5 and row.upper == 0.75


def test_it_runs_and_keeps_every_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(bench, "QUICK", (TINY,))
    kept = tmp_path / "forms.json"
    assert bench.main(["--quick", "--pairs", "2", "--threads", "1", "--json", str(kept)]) == 0
    results = json.loads(kept.read_text())["results"]
    assert [one["layer"] for one in results] == ["nn.GRU", "nn.RNN", "nn.LSTM"]
    assert all(len(values) == 2 for one in results for values in one["samples"].values())
    assert "auto takes" in capsys.readouterr().out


def test_sizes_that_are_none_are_refused(capsys: Any) -> None:
    assert bench.main(["--pairs", "0"]) == 1
    assert capsys.readouterr().err.startswith("--pairs must be at least 1")
