"""Time constants against the task's lags, on units whose constants are given."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fake_runs import STEPS, Fake, asked_after, write_run
from retrograde.core.records import Reading
from retrograde.figures.comparison import NUMBERS, NothingToDraw, comparisons
from retrograde.record.store import FolderStore

BEFORE, AFTER = (1.0, 1.0, 2.0, 2.0), (0.0, 2.0, 5.0, math.inf)


def run(model: str, seed: int = 0, after=AFTER, before=BEFORE, **more) -> Fake:
    """A unit each; the card's median lag is 4. Between the first and the last step stands what must not be read."""

    def constants(step: int):
        values = np.array({STEPS[0]: before, STEPS[-1]: after}.get(step, (99.0,) * len(before)))
        yield "gates", Reading("time_constant/0.forward.cell", values, {"unit": range(len(values))}, "positions")
        yield "gates", Reading("median_time_constant/0.forward.cell", np.array(np.median(values)), {}, "positions")

    return Fake(model, seed, also=constants, **more)


def load(script, outputs: Path, *fakes: Fake):
    for fake in fakes:
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs))
    return script("time_constants").load(comparison)


def test_shares_by_hand(script, tmp_path: Path):
    """Longer than 4 are 5 and infinity, 2 of 4; one is zero, one infinite."""
    numbers = load(script, tmp_path, run("lstm"))[NUMBERS].iloc[0]
    assert numbers["task's lags, median"] == 4
    assert [numbers["longer, before"], numbers["longer, after"]] == [0, 0.5]
    assert [numbers["median, before (positions)"], numbers["median, after (positions)"]] == [1.5, 3.5]
    assert [numbers["zero, after"], numbers["infinite, after"], numbers["units"]] == [1, 1, 4]


def test_finding_has_median_and_range_over_seeds(script, tmp_path: Path):
    """Of the seeds' 50, 25 and 0 % the median is 25; the one with none has solved the task all the same."""
    seeds = [run("lstm", 0), run("lstm", 1, after=(1, 2, 3, 5)), run("lstm", 2, after=(1, 2, 3, 4))]
    assert script("time_constants").finding(load(script, tmp_path, *seeds)) == (
        "Units that remember longer than the task's median lag, 4 positions, before → after training, in %, 3 seeds: "
        "lstm 0 → 25 (0 to 50); against expectation lstm solved the task without such units (1 of the 3 runs that "
        "solved it)"
    )


def test_units_that_were_read_after_training_are_not_those_before_it(script, tmp_path: Path):
    tables = load(script, tmp_path, asked_after(run("lstm")))
    assert tables[NUMBERS]["units"].tolist() == [4]
    assert script("time_constants").finding(tables) == (
        "Units that remember longer than the task's median lag, 4 positions, after training, in %, 1 seed: lstm 50; "
        "every run that solved the task has such units, as expected (1 of 1)"
    )
    script("time_constants").draw(tables)


def test_what_is_as_expected_and_what_cannot_be_told_is_said(script, tmp_path: Path):
    said = script("time_constants").finding
    solved = load(script, tmp_path / "solved", run("lstm"), run("gru", solved=False, after=(1, 1, 1, 1)))
    assert said(solved).endswith("every run that solved the task has such units, as expected (1 of 1)")
    unsolved = load(script, tmp_path / "unsolved", run("gru", solved=False))
    assert "no run that was read after training has solved the task" in said(unsolved)


def test_a_constant_that_is_no_number_leaves_the_share_unknown(script, tmp_path: Path):
    time_constants = script("time_constants")
    tables = load(script, tmp_path, run("lstm", after=(1.0, 2.0, 3.0, math.nan)))
    assert math.isnan(tables[NUMBERS]["longer, after"].item())
    assert "lstm 0;" in time_constants.finding(tables)
    assert time_constants.oddities(tables[NUMBERS], tables["units"]) == "no number: 1 of 4 after"
    time_constants.draw(tables)


def test_the_law_of_chrono_initialisation_by_hand(script):
    """ln u opens the gate to u / (1 + u): u = 1 gives 1 / ln 2 = 1.44 positions, the least; T_max - 1 the most."""
    law = script("time_constants").law
    longest = 1 / math.log(1 + 1 / 9)
    np.testing.assert_allclose(law(np.array([1.44, longest * 1.001]), 10), [1, 0], atol=1e-3)
    draws = 1 / np.log1p(1 / np.random.default_rng(0).uniform(1, 9, 200_000))
    for positions in (2.0, 5.0, 8.0):
        assert law(np.array(positions), 10) == pytest.approx((draws > positions).mean(), abs=0.005)


def test_t_max_is_the_longest_lag_plus_one_where_it_is_not_set(script, tmp_path: Path):
    tables = load(script, tmp_path / "card", run("lstm_chrono"), run("lstm"))
    assert tables["laws"].to_dict("list") == {"model": ["lstm_chrono"], "t_max": [8.0]}
    config = {"model": {"_target_": "lstm_chrono", "t_max": 21}}
    assert load(script, tmp_path / "set", run("lstm_chrono", config=config))["laws"]["t_max"].tolist() == [21.0]


def test_curves_show_what_lies_beyond_the_axis(script, tmp_path: Path):
    """Of 4 units one is zero and one infinite: the curve goes from 75 % to 25 %, a triangle at either end."""
    time_constants = script("time_constants")
    tables = load(script, tmp_path, run("lstm"))
    axes = time_constants.draw(tables).axes[0]
    marks = {line.get_marker(): line.get_ydata().tolist() for line in axes.lines if line.get_marker() in "<>"}
    assert marks == {"<": [0.75], ">": [0.25]}
    assert "zero: 1 of 4 after; infinite: 1 of 4 after" in [text.get_text().replace("\n", " ") for text in axes.texts]


def test_no_lags_and_nothing_but_extremes_can_be_drawn(script, tmp_path: Path):
    time_constants = script("time_constants")
    tables = dict(load(script, tmp_path, run("lstm", after=(0.0, 0.0, math.inf, math.inf), before=(0.0,) * 4)))
    time_constants.draw(tables)
    tables[NUMBERS] = tables[NUMBERS].assign(**{"task's lags, median": math.nan})
    tables["lags"] = pd.DataFrame({"lag": [], "count": []}, dtype=int)
    assert time_constants.finding(tables) == (
        "Median time constant of a unit before → after training, in positions, 1 seed: lstm 0 → ∞"
    )
    time_constants.draw(tables)


def test_without_gates_there_is_nothing_to_draw(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match="gates/median_time_constant"):
        load(script, tmp_path, Fake("elman"))
