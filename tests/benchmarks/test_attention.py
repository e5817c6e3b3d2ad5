"""The benchmark of attention at length: what is known of a cost is read from its seconds, and it runs to its end."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from retrograde.core.streamed import StreamedMap
from scripts import loaded, ran

bench = loaded("attention")


def test_ratios_and_powers_are_those_of_known_seconds() -> None:
    step = [1.0, 2.0, 1.5]
    lengths = [512, 1024, 2048, 4096]
    samples = bench.Samples(
        sides={
            bench.STEP: step,
            bench.STREAMED: [0.3 * one for one in step],
            bench.WITH_SNAPSHOT: [1.2 * one for one in step],
            bench.FULL: [0.9 * one for one in step],
        },
        growth={bench.STREAMED: {length: [one * length**1.9 for one in step] for length in lengths}},
        memory={bench.STREAMED: {length: 7 * length for length in lengths}},
    )
    rows = {row.name: row for row in bench.ratios(samples)}
    assert rows[bench.STREAMED].median == pytest.approx(0.3) and rows[bench.STREAMED].verdict == "met"
    assert rows[bench.WITH_SNAPSHOT].median == pytest.approx(1.2)
    assert rows[bench.TIME.format(bench.STREAMED)].median == pytest.approx(1.9)
    memory = rows[bench.MEMORY.format(bench.STREAMED)]
    assert memory.median == pytest.approx(1.0) and memory.verdict == "met" and memory.goal == 1.1


def test_the_full_map_is_written_out_by_its_definition() -> None:
    query, key = torch.randn(2, 1, 2, 5, 3, dtype=torch.float64)
    made = bench.full(StreamedMap(query, key, 0.5, causal=True))
    for row in range(5):
        weights = np.exp(0.5 * (query[0, 1, row] @ key[0, 1, : row + 1].T).numpy())
        np.testing.assert_allclose(made[0, 1, row, : row + 1].numpy(), weights / weights.sum())
        assert not made[0, 1, row, row + 1 :].any()


def test_maps_that_differ_end_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task, batch = bench.set_up(520, "cpu")
    on, probe = bench.snapshot(model, task, batch, 0), bench.Attention()
    assert bench.checked(probe, on) <= bench.TOLERANCE
    full = bench.full
    monkeypatch.setattr(bench, "full", lambda weights: full(replace(weights, scale=2 * weights.scale)))
    with pytest.raises(ValueError, match="streamed and full maps differ by"):
        bench.checked(probe, on)


def test_a_length_whose_maps_are_held_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^--length must be at least 513: shorter maps are held, not 512$"):
        bench.Options(length=512, pairs=1, threads=1, device="cpu")


@pytest.mark.heavy
def test_it_runs_to_its_end(tmp_path) -> None:
    kept = tmp_path / "kept.json"
    assert "streamed statistics" in ran(bench, "--length", 1040, "--pairs", 1, "--json", kept)
    result = json.loads(kept.read_text())
    assert result["benchmark"] == "attention" and len(result["ratios"]) == 8
    assert set(result["samples"]["growth"]["full maps"]) == {"130", "260", "520", "1040"}
