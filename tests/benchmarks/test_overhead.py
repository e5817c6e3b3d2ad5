"""The overhead benchmark runs, says what it promises, and would notice totals that are not the totals."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retrograde.core.snapshot import gradient_flow
from retrograde.models.lstm import lstm
from retrograde.tasks.adding import Adding
from scripts import loaded, ran

pytestmark = pytest.mark.heavy
"""The whole script is run, small."""

LAYERS = {"nn.GRU": 1.00, "nn.RNN": 1.00, "nn.LSTM": 1.15}
SMALL = ["--pairs=3", "--block=2", "--hidden=6", "--batch=4", "--length=12", "--threads=1"]


overhead = loaded("overhead")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    file = tmp_path_factory.mktemp("overhead") / "results" / "overhead.json"
    printed = ran(overhead, *SMALL, "--json", file)
    return printed, json.loads(file.read_text())


def test_every_ratio_lies_in_its_interval(run: tuple[str, dict[str, Any]]) -> None:
    _, result = run
    ratios = {row["name"]: row for row in result["ratios"]}
    of_the_run = [
        "training without probes",
        "training with default probes",
        "one firing of the default probes",
        "state_gradient alone, probe batch",
        "the same totals by hand, probe batch",
        "state_gradient alone, training batch",
        "the same totals by hand, training batch",
    ]
    assert list(ratios)[: len(of_the_run)] == of_the_run
    assert all(row["lower"] <= row["median"] <= row["upper"] for row in ratios.values())
    goals = {name: row["goal"] for name, row in ratios.items() if row["goal"] is not None}
    assert goals == {
        "training without probes": 1.10,
        "training with default probes": 1.02,
        **{f"totals and norms at every step, {name}": goal for name, goal in LAYERS.items()},
        **{f"exact Jacobian norms for all t, one sequence, {name}": 3.0 for name in LAYERS},
        **{f"power of T that a step with totals costs, {name}": 1.05 for name in LAYERS},
    }
    assert "wandb.watch(log='all') every 1,000 steps, its default, nn.LSTM" in ratios
    assert "a loop that keeps every state's gradient, nn.GRU" in ratios


def test_the_result_says_where_it_was_measured_and_keeps_every_pair(run: tuple[str, dict[str, Any]]) -> None:
    _, result = run
    assert {"device", "threads", "packages", "commit", "date"} <= set(result["machine"])
    assert {"torch", "pytorch-lightning", "wandb"} == set(result["machine"]["packages"])
    assert result["settings"]["length"] == 12
    samples = result["samples"]
    assert {len(values) for values in (samples["ours"], samples["bare"], samples["firing"])} == {3}
    assert all(len(values) == 3 for values in samples["single"].values())
    sides = result["every_step"]["sides"]
    assert set(sides) == set(LAYERS)
    assert all(len(values) == 3 for side in sides.values() for values in side.values())


def test_the_table_shows_every_ratio_and_the_goals(run: tuple[str, dict[str, Any]]) -> None:
    printed, result = run
    for row in result["ratios"]:
        line = next(line for line in printed.splitlines() if line.startswith(f"{row['name']}  "))
        assert f"{row['median']:.3f}" in line
        assert row["goal"] is None or f"≤ {row['goal']:.2f} {row['verdict']}" in line


def totals_of_both() -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(0)
    task = Adding(length=12)
    model = lstm(task, hidden=6)
    batch = task.sample(4, torch.Generator().manual_seed(0))
    gradients = gradient_flow(model, task, batch).gradients
    network = next(part for part in model.modules() if isinstance(part, nn.LSTM))
    direct = {key.rpartition(".")[2]: gradient.direct.value() for key, gradient in gradients.items()}
    return overhead.totals(gradients), direct, overhead.totals_by_hand(network, model.readout, batch)


def test_totals_by_hand_are_ours() -> None:
    ours, _, by_hand = totals_of_both()
    assert set(ours) == set(by_hand) == {"hidden", "cell"}
    assert overhead.largest_difference(ours, by_hand) < 1e-5  # float32 along twelve steps


@pytest.mark.parametrize("name", ["hidden", "cell"])
def test_direct_gradients_in_place_of_totals_end_the_benchmark(name: str) -> None:
    ours, direct, by_hand = totals_of_both()
    with pytest.raises(ValueError, match=f"totals of '{name}' differ from those by hand"):
        overhead.largest_difference({**ours, name: direct[name]}, by_hand)


def test_totals_that_are_no_numbers_end_the_benchmark() -> None:
    ours, _, by_hand = totals_of_both()
    with pytest.raises(ValueError, match="differ from those by hand by nan"):
        overhead.largest_difference({**ours, "cell": ours["cell"] * torch.nan}, by_hand)


def test_a_known_overhead_is_read() -> None:
    bare = [1.0, 2.0, 1.5, 0.5, 3.0]
    samples = overhead.Samples([1.05 * block for block in bare], bare, [2.0 * block / 10 for block in bare])
    without, with_probes, firing = overhead.ratios(samples, block=10)
    assert without.median == pytest.approx(1.05) and without.lower == pytest.approx(without.upper)
    assert firing.median == pytest.approx(2.0)
    assert with_probes.against == "without probes"
    assert with_probes.median == pytest.approx(1 + 2.0 / 1.05 * overhead.firings() / 2000)


@pytest.mark.parametrize(("median", "verdict"), [(1.0, "met"), (1.1, "open"), (1.2, "missed")])
def test_a_goal_is_met_where_the_whole_interval_meets_it(median: float, verdict: str) -> None:
    assert overhead.Ratio("any", "bare loop", median, median - 0.05, median + 0.05, 1.1).verdict == verdict


def test_a_wrong_size_is_answered_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert overhead.main([*SMALL, "--pairs=0"]) == 1
    assert capsys.readouterr().err == "--pairs must be at least 1, not 0\n"


def test_denormal_numbers_are_flushed_where_one_thread_computes(capsys: pytest.CaptureFixture[str]) -> None:
    assert overhead.main([*SMALL, "--flush", "--threads=2"]) == 1
    assert capsys.readouterr().err == "--flush is said to one thread alone: --threads 1\n"
    options, _ = overhead.parsed([*SMALL, "--flush", "--threads=1"])
    small = torch.tensor([1e-39])
    try:
        overhead.flush_denormals(options)
        assert float(small * 0.5) == 0
    finally:
        torch.set_flush_denormal(False)
    assert float(small * 0.5) > 0
