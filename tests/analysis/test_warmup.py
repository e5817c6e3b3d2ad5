"""Warm-up, on runs that solve their task or not."""

from dataclasses import replace
from pathlib import Path

import pytest

from fake_runs import Fake, write_run
from retrograde.figures.comparison import NUMBERS, NothingToDraw, comparisons
from retrograde.record.store import FolderStore


def rated(
    model: str, rate: float, is_warmed: bool, solved: bool = True, seed: int = 0, status: str = "finished"
) -> Fake:
    config = {
        "model": {"_target_": model},
        "optimizer": {"lr": rate},
        "scheduler": {"start_factor": 0.01 if is_warmed else 1.0, "total_iters": 100},
    }
    more = {"solved_step": 150 if solved else None, "score": 0.97 if solved else 0.1} if status == "finished" else {}
    return Fake(model, seed, status=status, solved=solved, config=config, more=more)


def stack(model: str, solved_with: bool, solved_without: bool) -> list[Fake]:
    """At the lower rate all is solved, at the higher one what is said, with six seeds."""
    fakes = []
    for seed in range(6):
        for is_warmed, solved in ((True, solved_with), (False, solved_without)):
            fakes += [rated(model, 0.001, is_warmed, True, seed), rated(model, 0.01, is_warmed, solved, seed)]
    return fakes


def load(script, outputs: Path, *fakes: Fake):
    for fake in fakes:
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs))
    return script("warmup").load(comparison)


def test_pairs_differ_in_the_warm_up_alone(script, tmp_path: Path):
    numbers = load(script, tmp_path, *stack("transformer_postnorm", True, False))[NUMBERS]
    assert script("warmup").pairs(numbers) == (12, 6, 0)
    assert set(numbers["warm-up (steps)"]) == {0.0, 100.0}


@pytest.mark.parametrize(
    ("one", "other", "p"), [(0, 6, 2 / 64), (6, 0, 2 / 64), (1, 5, 14 / 64), (2, 2, 1.0), (0, 0, 1.0)]
)
def test_chance_of_unequal_counts_by_hand(script, one: int, other: int, p: float):
    assert script("warmup").by_chance(one, other) == p


def test_what_comes_out_as_theory_says_is_said(script, tmp_path: Path):
    fakes = [*stack("transformer_postnorm", True, False), *stack("transformer", True, True)]
    said = script("warmup").finding(load(script, tmp_path, *fakes))
    assert said.startswith("A warm-up does what theory says. In transformer it makes no difference that is shown")
    assert (
        "transformer_postnorm it helps: 12 of 12 runs solve the task with it (every seed at rate 0.001 and 0.01)"
        in said
    )
    assert "6 of 12 without (every seed at rate 0.001); of 12 pairs 6 are won by it and 0 lost (p = 0.031)" in said


def test_what_does_not_is_said_too(script, tmp_path: Path):
    fakes = [*stack("transformer_postnorm", True, True), *stack("transformer", False, True)]
    said = script("warmup").finding(load(script, tmp_path, *fakes))
    assert said.startswith("A warm-up does not do what theory says in transformer. In transformer it hurts")


def test_too_few_runs_show_nothing(script, tmp_path: Path):
    fakes = [
        rated("transformer_postnorm", 0.01, is_warmed, is_warmed, seed)
        for is_warmed in (True, False)
        for seed in (0, 1, 2)
    ]
    said = script("warmup").finding(load(script, tmp_path, *fakes))
    assert said.startswith(
        "What theory says of a warm-up is not shown. In transformer_postnorm it makes no difference that"
    )
    assert "of 3 pairs 3 are won by it and 0 lost (p = 0.25)" in said


def test_runs_that_did_not_finish_have_lost_nothing(script, tmp_path: Path):
    fakes = [
        rated("transformer_postnorm", 0.01, is_warmed, seed=seed, status="finished" if is_warmed else "running")
        for is_warmed in (True, False)
        for seed in range(6)
    ]
    tables = load(script, tmp_path, *fakes)
    said = script("warmup").finding(tables)
    assert said.startswith("What theory says of a warm-up is not shown.")
    assert "6 of 6 runs solve the task with it (every seed at rate 0.01), 0 of 0 without" in said
    assert said.endswith("of 0 pairs 0 are won by it and 0 lost (p = 1). Not counted: 6 running")
    figure = script("warmup").draw(tables)
    assert not [line for axes in figure.axes for line in axes.lines if line.get_marker() == "x"]
    assert script("warmup").caption(tables).endswith("Runs that did not finish are not drawn.")


def test_a_run_that_diverged_has_lost_its_pair(script, tmp_path: Path):
    diverged = rated("transformer", 0.01, False)
    diverged = replace(diverged, more={**diverged.more, "diverged_step": 170})
    said = script("warmup").finding(load(script, tmp_path, rated("transformer", 0.01, True), diverged))
    assert "0 of 1 without (every seed at no rate); of 1 pair 1 is won by it and 0 lost (p = 1)" in said


def test_no_stack_with_the_norm_last_and_too_few_pairs_show_nothing(script, tmp_path: Path):
    """Of the others a difference cannot be shown with fewer than six pairs, whatever comes out."""
    before = [rated("transformer", 0.01, is_warmed, seed=seed) for is_warmed in (True, False) for seed in range(6)]
    alone = script("warmup").finding(load(script, tmp_path / "alone", *before))
    fakes = [*stack("transformer_postnorm", True, False), *(fake for fake in before if fake.seed < 5)]
    few = script("warmup").finding(load(script, tmp_path / "few", *fakes))
    assert alone.startswith("What theory says of a warm-up is not shown") and "of 6 pairs" in alone
    assert few.startswith("What theory says of a warm-up is not shown") and "of 5 pairs" in few


def test_runs_of_which_none_has_finished_have_no_answer(script, tmp_path: Path):
    fakes = [rated("transformer", 0.01, is_warmed, status="running") for is_warmed in (True, False)]
    with pytest.raises(NothingToDraw, match="come to its end"):
        load(script, tmp_path, *fakes)


def test_every_panel_has_its_marks_and_unsolved_runs_a_cross(script, tmp_path: Path):
    fakes = [*stack("transformer_postnorm", True, False), *stack("transformer", True, True)]
    tables = load(script, tmp_path, *fakes)
    figure = script("warmup").draw(tables)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["transformer: norm before", "transformer_postnorm: norm after", "", ""]
    crosses = [line for line in figure.axes[3].lines if line.get_marker() == "x"]
    assert [len(line.get_xdata()) for line in crosses] == [6]
    assert "over the first 100 steps" in script("warmup").caption(tables)


def test_runs_that_all_warm_up_have_no_answer(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match=r"scheduler\.start_factor"):
        load(script, tmp_path, rated("transformer", 0.01, True), rated("transformer", 0.01, True, seed=1))
