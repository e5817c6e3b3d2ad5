"""The range of eigenvalues on parity, on runs whose scores are given."""

from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from fake_runs import CARD, Fake, write_run
from retrograde.core.contracts import Baseline
from retrograde.figures.comparison import NUMBERS, NothingToDraw, comparisons
from retrograde.record.store import FolderStore

COIN = replace(CARD, baselines=(Baseline("a coin", 0.69, 0.5, "half are odd"),), solved=0.99)
LENGTHS = {"shortest": 1, "longest": 16, "test_longest": 64}


def runs(negative: bool, score: float, longer: float, model: str = "deltanet", seeds: int = 3, **more) -> list[Fake]:
    return [
        Fake(
            model,
            seed,
            task="parity",
            card=COIN,
            validation=(0.5, score),
            solved=score >= 0.99,
            more={"score": score, "longer": {"score": longer, "loss": 0.1}, **more},
            config={"seed": seed, "task": LENGTHS, "model": {"_target_": model, "negative_eigenvalues": negative}},
        )
        for seed in range(seeds)
    ]


def load(script, outputs: Path, *groups: list[Fake]):
    for fake in chain(*groups):
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs))
    return script("eigenvalues").load(comparison)


def test_what_comes_out_as_expected_is_said(script, tmp_path: Path):
    """4 of 4: 4 / (4 + 1.96²) = 51 % at least, so 0 of 4 at most 49 %."""
    tables = load(script, tmp_path, runs(True, 1.0, 0.995, seeds=4), runs(False, 0.9, 0.6, seeds=4))
    assert script("eigenvalues").finding(tables) == (
        "With eigenvalues in [−1, 1] parity is solved by 4 of 4 runs (51 to 100 %) on lengths 1 to 16 and by 4 of 4 "
        "runs (51 to 100 %) on 17 to 64, scoring 0.99 to 0.99; with eigenvalues in [0, 1] parity is solved by 0 of 4 "
        "runs (0 to 49 %) on lengths 1 to 16 and by 0 of 4 runs (0 to 49 %) on 17 to 64, scoring 0.60 to 0.60. On "
        "lengths trained on and on 17 to 64 as expected (intervals apart)"
    )


def test_what_does_not_is_said_too(script, tmp_path: Path):
    """Positive eigenvalues that solve short strings, negative ones that do not reach the threshold on long ones."""
    said = script("eigenvalues").finding(load(script, tmp_path, runs(True, 1.0, 0.97), runs(False, 0.99, 0.6)))
    assert "On lengths trained on [0, 1] solves it, which was not expected" in said
    assert "on 17 to 64 [−1, 1] does not solve it, which was expected, though every run of [−1, 1] scores above" in said


def test_a_part_of_the_seeds_is_a_part(script, tmp_path: Path):
    some = [*runs(True, 1.0, 1.0, seeds=2), *runs(True, 0.6, 0.5, seeds=3)[2:]]
    said = script("eigenvalues").finding(load(script, tmp_path, some, runs(False, 0.9, 0.6)))
    assert "by 2 of 3 runs (21 to 94 %)" in said
    assert said.endswith("in part as expected (intervals overlap)")


def test_divergence_counts_as_unsolved_and_failure_does_not_count(script, tmp_path: Path):
    diverged = runs(True, 0.5, 0.5, seeds=1, diverged_step=7)
    failed = [replace(runs(True, 1.0, 1.0)[2], status="failed", more={})]
    tables = load(script, tmp_path, diverged, runs(True, 1.0, 1.0)[1:2], failed, runs(False, 0.9, 0.6))
    eigenvalues = script("eigenvalues")
    assert eigenvalues.rates(tables, eigenvalues.NEGATIVE)["test score"][:2] == (1, 2)
    assert "1 of 6 runs were not tested" in eigenvalues.caption(tables)
    eigenvalues.draw(tables)


def test_every_panel_has_its_runs(script, tmp_path: Path):
    tables = load(
        script, tmp_path, *(runs(negative, 0.9, 0.6, model) for negative in (True, False) for model in ("b", "a"))
    )
    figure = script("eigenvalues").draw(tables)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b", "", ""]
    lines = [line for line in figure.axes[2].lines if len(line.get_xdata()) == 2 and line.get_marker() != "None"]
    assert [list(line.get_ydata()) for line in lines] == [[0.9, 0.6]] * 6
    assert tables[NUMBERS]["longer lengths"].unique().tolist() == ["17 to 64"]


def test_one_range_or_another_task_has_no_answer(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match="negative_eigenvalues"):
        load(script, tmp_path / "one", runs(True, 1.0, 1.0))
    with pytest.raises(NothingToDraw, match="parity"):
        load(script, tmp_path / "two", [replace(run, task="adding") for run in runs(True, 1.0, 1.0)])


def test_runs_of_which_none_was_tested_have_no_answer(script, tmp_path: Path):
    failed = [replace(run, status="failed", more={}) for negative in (True, False) for run in runs(negative, 1.0, 1.0)]
    with pytest.raises(NothingToDraw, match="tested"):
        load(script, tmp_path, failed)
