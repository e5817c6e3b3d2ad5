"""What is compared at every step computes the same, and what is known of a cost is read from its seconds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from retrograde.core.records import StateGradient
from retrograde.tasks.adding import Adding
from scripts import loaded

bench = loaded("every_step")

SIZES: dict[str, Any] = {"hidden": 5, "batch": 4, "device": "cpu"}


@pytest.mark.parametrize("kind", bench.KINDS, ids=lambda kind: kind.name)
def test_totals_and_watched_norms_are_those_of_the_loop(kind: Any) -> None:
    assert bench.checked(kind, Adding(length=12), **SIZES) < 1e-5  # float32 along twelve steps


@pytest.mark.parametrize("kind", bench.KINDS, ids=lambda kind: kind.name)
def test_direct_gradients_in_place_of_totals_end_the_benchmark(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    report: Callable[..., None] = bench.Totals.report

    def of_direct(self: Any, place: str, gradient: StateGradient, lengths: Tensor) -> None:
        report(self, place, StateGradient(gradient.direct, gradient.direct, gradient.times), lengths)

    monkeypatch.setattr(bench.Totals, "report", of_direct)
    with pytest.raises(ValueError, match="differ from those by hand"):
        bench.checked(kind, Adding(length=12), **SIZES)


def test_another_network_ends_the_benchmark() -> None:
    kind = bench.KINDS[0]
    plain, other = (bench.Side(kind, Adding(length=12), **SIZES) for _ in range(2))
    with torch.no_grad():
        other.net.readout.bias += 1.0
    with pytest.raises(ValueError, match="not the same network"):
        bench.agree(kind, {bench.PLAIN: plain, bench.LAYER: other})


def test_the_power_of_a_known_growth_is_read() -> None:
    rounds = np.array([1.0, 2.0, 0.5])
    found = {length: list(rounds * length**1.5) for length in bench.lengths(400)}
    assert list(found) == [100, 200, 400, 800, 1600, 3200]
    np.testing.assert_allclose(bench.exponents(found), 1.5)


def test_the_default_cadence_is_a_thousandth_of_logging_and_the_hooks() -> None:
    plain = [1.0, 2.0, 1.5]
    sides = {
        name: [factor * one for one in plain]
        for name, factor in (
            (bench.PLAIN, 1.0),
            (bench.LAYER, 0.9),
            (bench.WATCH, 1.1),
            (bench.LOOP, 1.3),
            (bench.HOOKS, 1.0),
            (bench.LOGGING, 3.0),
        )
    }
    samples = bench.Samples(
        sides={kind.name: sides for kind in bench.KINDS},
        jacobians={kind.name: bench.Pairs([2.0, 4.0, 3.0], plain) for kind in bench.KINDS},
        growth={kind.name: {100: plain, 200: [2 * one for one in plain]} for kind in bench.KINDS},
    )
    rows = {row.name: row for row in bench.ratios(samples)}
    assert rows[bench.CADENCE.format("nn.LSTM")].median == pytest.approx(1.002)
    assert rows[bench.LAYER.format("nn.GRU")].median == pytest.approx(0.9)
    assert rows[bench.LAYER.format("nn.GRU")].verdict == "met" and rows[bench.LAYER.format("nn.GRU")].goal == 1.0
    assert rows[bench.LAYER.format("nn.LSTM")].goal == 1.15
    assert rows[bench.JACOBIANS.format("nn.RNN")].median == pytest.approx(2.0)
    assert rows[bench.EXPONENT.format("nn.RNN")].median == pytest.approx(1.0)
