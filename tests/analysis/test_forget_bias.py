"""Chrono initialisation against a constant bias, on runs that solve at known steps."""

from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from fake_runs import Fake, write_run
from retrograde.figures.comparison import STUDY, NothingToDraw, comparisons
from retrograde.record.store import FolderStore


def runs(model: str, length: int, *solved_at: int | None, bias: float = 1.0) -> list[Fake]:
    """One seed for each step at which it is to be solved; None for one that ends unsolved after 200."""
    start = {"forget_bias": bias} if model == "lstm" else {"t_max": None}
    return [
        Fake(
            model,
            seed,
            solved=step is not None,
            more={"solved_step": step, "steps": 200 if step is None else step},
            config={"seed": seed, "task": {"length": length}, "model": {"_target_": model, **start}},
        )
        for seed, step in enumerate(solved_at)
    ]


def load(script, outputs: Path, *groups: list[Fake]):
    for fake in chain(*groups):
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs), STUDY)
    return script("forget_bias").load(comparison)


def test_steps_of_runs_that_did_not_solve_are_censored(script, tmp_path: Path):
    """Of 10, 20 and more than 200 the median is 20; of 30 and two above it is not reached."""
    tables = load(
        script, tmp_path, runs("lstm_chrono", 20, 10, 20, None), runs("lstm_chrono", 40, 5, 5, 5),
        runs("lstm", 20, 30, None, None), runs("lstm", 40, 10, 10, 10),
    )  # fmt: skip
    cells = tables["cells"].set_index(["start", "T"])
    assert cells.loc[("chrono", 20), "steps to solve"] == 20
    assert cells.loc[("chrono", 20), ["steps, low", "steps, high"]].tolist() == [10, np.inf]
    assert np.isinf(cells.loc[("bias 1", 20), "steps to solve"])
    np.testing.assert_allclose(cells.loc[("bias 1", 20), ["low", "high"]].tolist(), [0.0615, 0.7923], atol=1e-4)
    assert "bias 1 takes over 10.0 and 2.0 times the steps" in script("forget_bias").finding(tables)


def test_what_comes_out_as_expected_is_said(script, tmp_path: Path):
    tables = load(
        script, tmp_path, runs("lstm_chrono", 20, *[50] * 4), runs("lstm_chrono", 40, *[40] * 4),
        runs("lstm", 20, *[100] * 4), runs("lstm", 40, *[None] * 4),
    )  # fmt: skip
    assert script("forget_bias").finding(tables) == (
        "At T = 20 and 40 bias 1 takes 2.0 and over 5.0 times the steps that chrono takes to solve the task; 4 and 4 "
        "of 4 runs solve it with chrono, 4 and 0 with bias 1. As expected, chrono's lead grows with T, as far as "
        "unsolved runs tell (at T = 40: 40 to 40 steps against over 200, intervals apart)"
    )


@pytest.mark.parametrize(
    ("chrono", "said"),
    [
        ((50, 150), "Against expectation chrono does not lead at the longest T"),
        ((25, 80), "but against expectation its lead does not grow throughout"),
        ((50, None), "nothing can be said of its lead"),
    ],
)
def test_what_does_not_is_said_too(script, tmp_path: Path, chrono, said):
    short, long = chrono
    tables = load(
        script, tmp_path, runs("lstm_chrono", 20, short), runs("lstm_chrono", 40, long), runs("lstm", 20, 100),
        runs("lstm", 40, 100),
    )  # fmt: skip
    assert said in script("forget_bias").finding(tables)


def test_a_lead_that_is_only_known_to_be_at_least_so_large_neither_shrinks_nor_grows(script, tmp_path: Path):
    """Four times the steps at T = 20, and at T = 40 at least twice as many."""
    tables = load(
        script, tmp_path, runs("lstm_chrono", 20, 25), runs("lstm_chrono", 40, 100), runs("lstm", 20, 100),
        runs("lstm", 40, None),
    )  # fmt: skip
    said = script("forget_bias").finding(tables)
    assert "too few runs solve the task there to tell whether its lead grows" in said


def test_equal_leads_do_not_grow(script, tmp_path: Path):
    tables = load(
        script, tmp_path, runs("lstm_chrono", 20, 50, 50), runs("lstm_chrono", 40, 80, 80),
        runs("lstm", 20, 100, 100), runs("lstm", 40, 160, 160),
    )  # fmt: skip
    said = script("forget_bias").finding(tables)
    assert "takes 2.0 and 2.0 times" in said and "its lead does not grow throughout" in said


def test_one_shared_length_and_one_seed_tell_of_no_growth_and_have_no_interval(script, tmp_path: Path):
    """Chrono at T = 20 and 40, a constant bias at 20 alone."""
    chrono = [runs("lstm_chrono", 20, 50), runs("lstm_chrono", 40, 80)]
    said = script("forget_bias").finding(load(script, tmp_path / "one", *chrono, runs("lstm", 20, 100)))
    assert said.endswith(
        "Chrono leads at this T, and whether its lead grows takes another (at T = 20: 50 to 50 steps against 100 to "
        "100, one seed each)"
    )
    more = script("forget_bias").finding(load(script, tmp_path / "more", *chrono, runs("lstm", 20, 100, 110)))
    assert more.endswith("(at T = 20: 50 to 50 steps against 100 to 110, one seed with chrono)")


def test_every_run_is_drawn_and_failures_are_not_counted(script, tmp_path: Path):
    failed = [replace(runs("lstm", 40, 1, 1, 1, 1)[3], status="failed", more={})]
    tables = load(
        script, tmp_path, runs("lstm_chrono", 20, 5, 6, 7), runs("lstm_chrono", 40, 5, 6, 7), runs("lstm", 20, 9, 9, 9),
        runs("lstm", 40, 9, None, None), failed,
    )  # fmt: skip
    forget_bias = script("forget_bias")
    left, right = forget_bias.draw(tables).axes
    marked = [line for line in right.lines if line.get_linestyle() == "None"]
    assert sum(len(line.get_xdata()) for line in marked if line.get_marker() == "^") == 2
    assert sum(len(line.get_xdata()) for line in marked if line.get_marker() != "^") == 10
    assert (left.get_ylabel(), right.get_ylabel()) == ("test score", "steps to solve")
    assert tables["cells"]["runs"].tolist() == [3, 3, 3, 3]
    assert "1 that did not end" in forget_bias.caption(tables)


def test_one_start_or_one_length_has_no_answer(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match="lstm_chrono"):
        load(script, tmp_path / "one", runs("lstm", 20, 1), runs("lstm", 40, 1))
    with pytest.raises(NothingToDraw, match=r"task\.length"):
        load(script, tmp_path / "two", runs("lstm", 20, 1), runs("lstm_chrono", 20, 1))


def test_runs_of_which_none_was_tested_have_no_answer(script, tmp_path: Path):
    failed = [replace(run, status="failed", more={}) for model in ("lstm", "lstm_chrono") for run in runs(model, 20, 1)]
    with pytest.raises(NothingToDraw, match="tested"):
        load(script, tmp_path, failed, [replace(run, status="failed", more={}) for run in runs("lstm", 40, 1)])
