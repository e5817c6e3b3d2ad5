"""The first table of the page, from runs whose scores are known."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from fake_runs import CARD, Fake, shallow, write_run
from retrograde.figures.comparison import Comparison, comparisons
from retrograde.figures.summary import Row, doubts, per_model, per_run, score_in_words, steps_taken, verdict
from retrograde.record.store import FolderStore


def compared(outputs: Path, *fakes: Fake) -> Comparison:
    for fake in fakes:
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs))
    return comparison


def rows(outputs: Path, *fakes: Fake) -> list[Row]:
    comparison = compared(outputs, *fakes)
    return per_model(per_run(comparison), comparison)


def said(outputs: Path, *fakes: Fake) -> str:
    comparison = compared(outputs, *fakes)
    return verdict(per_model(per_run(comparison), comparison), comparison)


def test_scores_lie_on_a_line_from_a_little_below_the_best_rule_to_perfect(tmp_path: Path):
    (row,) = rows(tmp_path, Fake("gru", more={"score": 0.75}), shallow("bag", 0.5))
    assert row.line.seeds == [pytest.approx(100 * 0.29 / 0.54, abs=0.05)]
    assert row.line.baseline == pytest.approx(100 * 0.04 / 0.54, abs=0.05)


def test_beside_a_perfect_rule_the_line_begins_at_nothing(tmp_path: Path):
    (row,) = rows(tmp_path, Fake("gru", more={"score": 0.5}), shallow("bag", 1.0))
    assert row.line.seeds == [pytest.approx(100 * 0.58 / 1.08, abs=0.05)]
    assert row.line.baseline == 100


def test_a_rule_without_a_finite_score_is_no_place_to_begin(tmp_path: Path):
    card = replace(CARD, baselines=(replace(CARD.baselines[0], score=-math.inf),))
    (row,) = rows(tmp_path, Fake("gru", more={"score": 1.0}, card=card))
    assert (row.line.seeds, row.line.baseline) == ([100], pytest.approx(100 * 0.08 / 1.08, abs=0.05))


def test_a_model_has_its_solve_rate_and_its_steps_to_solve_with_their_intervals(tmp_path: Path):
    """Two of three solve, at 200 and 100; the third had 200 steps. At 100 two thirds are left, at 200 one third."""
    fakes = [Fake("gru", 0), Fake("gru", 1, more={"solved_step": 100}), Fake("gru", 2, solved=False)]
    (row,) = rows(tmp_path, *fakes)
    assert (row.solved, row.runs, row.rate) == (2, 3, "21 to 94 %")
    assert (row.steps, row.between) == ("200", "100 or more")


def test_steps_to_solve_are_not_reached_where_fewer_than_half_solve(tmp_path: Path):
    (row,) = rows(tmp_path, Fake("gru", 0), *(Fake("gru", seed, solved=False) for seed in (1, 2)))
    assert (row.steps, row.between) == ("not reached", "200 or more")
    (row,) = rows(tmp_path / "none", Fake("gru", 0, solved=False))
    assert (row.solved, row.steps, row.between) == (0, "not reached", "")


def test_a_run_that_diverged_stays_at_risk_and_one_that_failed_leaves(tmp_path: Path):
    """Solved at 10, 30 and 40, of five. Without the two that failed at 20, of 4/5 one half goes at 30: 2/5; with two
    that never will, a quarter, which leaves 3/5, and 2/5 only at 40."""
    solved = [Fake("gru", seed, more={"solved_step": step}) for seed, step in enumerate((10, 30, 40))]
    for name, more, expected in (
        ("diverged", {"diverged_step": 20, "solved": False, "steps": 20}, 40),
        ("failed", {"status": "failed", "steps": 20}, 30),
    ):
        others = [Fake("gru", seed, solved=False, more=more) for seed in (3, 4)]
        found = steps_taken(per_run(compared(tmp_path / name, *solved, *others)))
        assert found.value == expected
        assert (found.low, found.high) == (10, math.inf)


def test_few_seeds_are_warned_of_once_for_all_models_alike(tmp_path: Path):
    fakes = [Fake(model, seed, solved=model == "gru") for model in ("elman", "gru", "lstm") for seed in range(3)]
    assert doubts(rows(tmp_path, *fakes)) == [
        "3 seeds are few for a model's median: its interval is their range, which in 25 % of cases misses it",
        "elman and lstm: 0 of 3 solved is not told apart from a solve rate of one half (0 to 56 %)",
        "gru: 3 of 3 solved is not told apart from a solve rate of one half (44 to 100 %)",
    ]


def test_runs_that_did_not_finish_are_in_no_rate_and_are_told_of(tmp_path: Path):
    """One of two solves: the one that diverged did not."""
    fakes = [Fake("gru", 0), Fake("gru", 1, solved=False, more={"diverged_step": 7})]
    fakes += [Fake("gru", 2, status="running"), Fake("gru", 3, status="running"), Fake("gru", 4, status="failed")]
    (row,) = rows(tmp_path, *fakes)
    assert (row.solved, row.runs, row.rate) == (1, 2, "9 to 91 %")
    assert row.beside == "Not counted: 1 failed, 2 running"
    assert doubts([row])[0].startswith("2 seeds are few")


def test_of_runs_that_all_go_on_nothing_is_said(tmp_path: Path):
    fakes = [Fake("gru", seed, status="running") for seed in range(10)]
    (row,) = rows(tmp_path, *fakes)
    assert (row.solved, row.runs, row.rate, doubts([row])) == (0, 0, "", [])
    (comparison,), _ = comparisons(FolderStore(tmp_path))
    assert verdict([row], comparison) == "No run on adding has finished. Not counted: 10 running."


def test_the_verdict_is_of_finished_runs(tmp_path: Path):
    ended = [Fake("elman", solved=False), Fake("gru", 0), Fake("lstm", 0), Fake("lstm", 1, solved=False)]
    beside = [Fake("gru", 1, status="interrupted"), Fake("tcn", status="failed")]
    whole = "1 of 3 models solve adding with every seed: gru; lstm with some."
    assert said(tmp_path / "ended", *ended) == whole
    assert said(tmp_path / "beside", *ended, *beside) == (
        "1 of 3 models solve adding with every finished seed: gru; lstm with some. No run of tcn has finished. "
        "Not counted: 1 failed, 1 interrupted."
    )
    none = "No model solves adding. No run of tcn has finished. Not counted: 1 failed."
    assert said(tmp_path / "none", ended[0], beside[1]) == none


def test_an_infinite_score_is_written_as_in_every_table(tmp_path: Path):
    (row,) = rows(tmp_path, Fake("gru", solved=False, more={"score": -math.inf}))
    assert (row.scores, row.median) == (["−∞"], "−∞")
    assert score_in_words(-0.5) == "−0.500"


def test_enough_seeds_are_warned_of_with_nothing(tmp_path: Path):
    assert doubts(rows(tmp_path, *(Fake("gru", seed) for seed in range(6)))) == []


def test_of_many_seeds_the_first_scores_stand_in_digits_and_all_on_the_line(tmp_path: Path):
    (row,) = rows(tmp_path, *(Fake("gru", seed) for seed in range(15)))
    assert row.scores[-1] == "and 3 more" and len(row.scores) == 13
    assert len(row.line.seeds) == 15
