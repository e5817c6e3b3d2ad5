"""The benchmark of growth fits what it says, knows every model's family, and runs to its end."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retrograde.core.choices import Unavailable
from scripts import loaded, ran

pytestmark = pytest.mark.heavy
"""The whole script is run, small."""

bench = loaded("growth")

SMALL = bench.Options(
    models=(), lengths=(16, 32, 64), batch=2, width=32, seconds=5.0, rounds=1, threads=1, device="cpu"
)


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5, 2.0])
def test_the_exponent_of_a_power_of_the_length_is_that_power(power: float) -> None:
    lengths = [128, 256, 512, 1024, 2048]
    assert bench.exponent(lengths, [7.0 * length**power for length in lengths]) == pytest.approx(power)


def test_the_exponent_is_that_of_the_last_four_lengths() -> None:
    lengths = [64, 128, 256, 512, 1024, 2048]
    assert bench.exponent(lengths, [9.0, 9.0] + [length**2.0 for length in lengths[2:]]) == pytest.approx(2.0)


def test_two_lengths_have_no_exponent() -> None:
    assert bench.exponent([64, 128], [1.0, 2.0]) is None


def in_two_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query @ key.mT).softmax(-1) @ value


def test_memory_sees_maps_of_attention_and_none_where_it_is_fused() -> None:
    lengths = [512, 1024, 2048]  # shorter ones do not fill the fused form's workspace

    def grown(fused: bool) -> float | None:
        counted = []
        for length in lengths:
            x = torch.randn(1, 1, length, 8, requires_grad=True)

            def step(x: Tensor = x) -> None:
                whole = nn.functional.scaled_dot_product_attention if fused else in_two_products
                whole(x, x, x).sum().backward()

            counted.append(bench.peak_memory(step, "cpu"))
        return bench.exponent(lengths, counted)

    assert grown(fused=False) > 1.8
    assert grown(fused=True) < 1.15


def growth(carries: int | None, powers: list[float], memory: float, family: str = "loop") -> Any:
    """A model whose time grows with each of the powers, a round for each, and whose memory grows with one."""
    return bench.Growth(
        "any",
        family,
        carries,
        [
            bench.Point(length, lambda: None, round(1000 * length**memory), [length**power for power in powers])
            for length in (512, 1024, 2048, 4096)
        ],
    )


def test_a_model_that_carries_a_fixed_state_is_meant_to_be_linear_in_time_and_memory() -> None:
    assert growth(64, [1.0, 1.05, 1.08], 1.0).verdicts == {"time": "met", "memory": "met"}
    assert growth(64, [1.0, 1.05, 1.6], 1.0).verdicts["time"] == "met"  # one round that was disturbed
    assert growth(64, [1.0, 1.2, 1.3], 1.0).verdicts["time"] == "open"
    assert growth(64, [1.2, 1.2, 1.3], 1.2).verdicts == {"time": "missed", "memory": "missed"}


def test_a_model_that_keeps_everything_is_meant_to_be_linear_in_memory_alone() -> None:
    assert growth(None, [2.0, 2.0], 1.02, "attention").verdicts == {"memory": "met"}
    assert growth(None, [2.0, 2.0], 1.9, "attention").verdicts == {"memory": "missed"}


def test_encoder_decoders_have_exponents_and_no_goal() -> None:
    pair = growth(64, [1.5], 1.5, "encoder-decoder")
    assert pair.verdicts == {} and pair.exponents()["time"] == pytest.approx([1.5])


def test_the_summary_names_what_misses_a_goal() -> None:
    fine, slow = growth(64, [1.0], 1.0), growth(64, [1.5], 1.0)
    fine.name, slow.name = "fine", "slow"
    first, second, third = bench.growth_summary([fine, slow]).splitlines()
    assert first.endswith("met by 1 of 2; missed: slow 1.500")
    assert second.endswith("met by 2 of 2")
    assert third.endswith("met by 0 of 0")


def test_models_that_are_broken_or_unavailable_do_not_keep_others_from_being_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = bench.factory

    def factory(name: str, width: int) -> Any:
        if name == "gru":
            raise SyntaxError("invalid syntax")
        if name == "fla":
            raise Unavailable("it needs what is not here")
        return whole(name, width)

    monkeypatch.setattr(bench, "factory", factory)
    growths, left_out = bench.grown(replace(SMALL, models=("gru", "fla", "lstm", "cbow")))
    assert [one.name for one in growths] == ["lstm"]
    assert left_out["gru"] == "broken: invalid syntax"
    assert left_out["fla"] == "it needs what is not here"
    assert "cloze" in left_out["cbow"]


def test_a_model_whose_step_takes_too_long_ends_at_that_length_and_says_so() -> None:
    impatient = replace(SMALL, seconds=1e-9)
    found = bench.surveyed("lstm", bench.factory("lstm", SMALL.width), impatient)
    assert [point.length for point in found.points] == [16]
    assert found.points[0].memory is not None
    assert found.notes == ["ends at T=16, where a step took 0.0 s"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    file = tmp_path_factory.mktemp("growth") / "results" / "growth.json"
    models = ["lstm", "lem", "mingru", "transformer", "tcn", "seq2seq", "cbow"]
    sizes = ["--lengths", 16, 32, 64, "--batch", 2, "--width", 8, "--rounds", 2]
    printed = ran(bench, "--models", *models, "--to", file, *sizes)
    return printed, json.loads(file.read_text())


def test_a_run_measures_every_model_in_its_family(run: tuple[str, dict[str, Any]]) -> None:
    _, result = run
    assert {one["name"]: one["family"] for one in result["growth"]} == {
        "lstm": "kernel",
        "mingru": "parallel",
        "lem": "loop",
        "transformer": "attention",
        "tcn": "other",
        "seq2seq": "encoder-decoder",
    }
    for one in result["growth"]:
        lengths = [3, 4, 8] if one["name"] == "seq2seq" else [16, 32, 64]
        assert [point["length"] for point in one["points"]] == lengths
        assert all(len(point["seconds"]) == 2 and point["memory"] > 0 for point in one["points"])
        assert len(one["exponents"]["time"]) == 2 and len(one["exponents"]["memory"]) == 1
    assert list(result["left_out"]["models"]) == ["cbow"]


def test_a_run_says_where_it_was_made(run: tuple[str, dict[str, Any]]) -> None:
    _, result = run
    assert {"device", "threads", "packages", "commit", "date"} <= set(result["machine"])
    assert result["settings"]["width"] == 8


def test_the_output_has_a_row_for_every_model_and_a_line_for_every_goal(run: tuple[str, dict[str, Any]]) -> None:
    printed, result = run
    lines = printed.splitlines()
    for one in result["growth"]:
        assert any(line.startswith(f"{one['name']}  ") for line in lines)
    for goal in ("time ≤ T^1.10", "memory ≤ T^1.10", "memory ≤ T^1.15"):
        assert any(line.startswith(goal) for line in lines)
    assert "no optimiser" in printed and "threads: 1" in printed


def test_a_wrong_name_is_answered_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--models", "lstn"]) == 1
    answer = capsys.readouterr().err
    assert "did you mean" in answer and "'lstm'" in answer and answer.count("\n") == 1


def test_a_wrong_size_is_answered_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--rounds", "0"]) == 1
    assert capsys.readouterr().err == "--rounds must be at least 1, not 0\n"
