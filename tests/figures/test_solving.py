"""Solve rates, steps to solve, interquartile means and probabilities of improvement: hand values and other code."""

import warnings
from itertools import product

import numpy as np
import pytest
from scipy import stats

from retrograde.figures.statistics import (
    FEWEST,
    HALF,
    LEVEL,
    WIDE,
    Estimate,
    improvement,
    interquartile_mean,
    not_told,
    solve_rate,
    steps_to_solve,
    too_few,
)


def ends(found: Estimate) -> tuple[float, float, float]:
    return float(found.value), float(found.low), float(found.high)


def test_a_solve_rate_has_wilsons_interval_by_hand():
    """All of n solved: the lower end is n / (n + z²), z² = 3.8415."""
    assert ends(solve_rate(3, 3)) == (1, pytest.approx(3 / 6.8415, abs=1e-5), 1)
    assert ends(solve_rate(0, 3)) == (0, pytest.approx(0, abs=1e-12), pytest.approx(3.8415 / 6.8415, abs=1e-5))
    assert solve_rate(1, 2).value == 0.5


def test_solve_rates_are_scipys_all_at_once():
    pairs = [(solved, runs) for runs in (1, 2, 5, 12, 300) for solved in range(0, runs + 1, max(1, runs // 7))]
    found = solve_rate(*np.array(pairs).T)
    for place, (solved, runs) in enumerate(pairs):
        expected = stats.binomtest(solved, runs).proportion_ci(LEVEL, method="wilson")
        assert (found.low[place], found.high[place]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_of_no_run_nothing_is_known_and_of_too_many_solved_nothing_is_made():
    nothing = solve_rate(0, 0)
    assert np.isnan(nothing.value) and (nothing.low, nothing.high) == pytest.approx((0, 1))
    with pytest.raises(ValueError, match="cannot have solved"):
        solve_rate(4, 3)


def test_steps_to_solve_by_hand():
    """Ten runs, solved at 1, 2, 3, 4, 6; censored at 5 and, four times, at 8.

    Unsolved: 0.9, 0.8, 0.7, 0.6; at 6 five are at risk, so 0.6 × 4/5 = 0.48: the first at most one half.
    """
    steps = np.array([1, 2, 3, 4, 5, 6, 8, 8, 8, 8])
    solved = np.array([1, 1, 1, 1, 0, 1, 0, 0, 0, 0], dtype=bool)
    assert steps_to_solve(steps, solved).value == 6


def test_the_median_is_not_reached_where_fewer_than_half_solve():
    found = steps_to_solve(np.array([10.0, 50, 50]), np.array([True, False, False]))
    assert ends(found) == (np.inf, 10, np.inf)
    assert steps_to_solve(np.array([10.0, 50]), np.array([True, False])).value == 10  # half of them do
    assert ends(steps_to_solve(np.array([50.0, 50]), np.array([False, False]))) == (np.inf, 50, np.inf)


def test_of_few_runs_the_interval_is_the_range():
    assert ends(steps_to_solve(np.array([30.0, 10, 20]), np.ones(3, bool))) == (20, 10, 30)


def test_a_run_that_never_will_solve_stays_at_risk_for_ever():
    """Censored at 15, two of five leave 4/5 × 1/2 unsolved after 20; at risk for ever, 3/5, and 2/5 after 30."""
    steps, solved = np.array([10.0, 20, 30, 15, 15]), np.array([True, True, True, False, False])
    assert steps_to_solve(steps, solved).value == 20
    assert steps_to_solve(np.where(solved, steps, np.inf), solved).value == 30


def test_half_of_the_runs_is_half_whatever_the_fractions_round_to():
    for runs in range(2, 60, 2):
        assert steps_to_solve(np.arange(runs) + 1.0, np.arange(runs) < runs / 2).value == runs / 2


@pytest.mark.parametrize("seed", range(20))
def test_steps_to_solve_are_scipys(seed):
    generator = np.random.default_rng(seed)
    runs = int(generator.integers(FEWEST, 60))
    steps, solved = generator.integers(1, 40, runs).astype(float), generator.random(runs) < 0.7
    found = steps_to_solve(steps, solved)
    curve = stats.ecdf(stats.CensoredData.right_censored(steps, ~solved)).sf
    with warnings.catch_warnings():  # where all have solved, it has no interval
        warnings.simplefilter("ignore", RuntimeWarning)
        limits = curve.confidence_interval(LEVEL, method="log-log")
    for end, one in ((found.value, curve), (found.low, limits.low), (found.high, limits.high)):
        below = one.quantiles[one.probabilities <= HALF]
        assert end == (below[0] if len(below) else np.inf)


def test_steps_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match="at least one run"):
        steps_to_solve(np.array([]), np.array([], dtype=bool))
    with pytest.raises(ValueError, match="a step at which it did"):
        steps_to_solve(np.array([np.inf]), np.array([True]))


def test_an_interquartile_mean_leaves_a_quarter_out_at_either_end():
    assert interquartile_mean([np.array([0.0, 1, 2, 100])]).value == 1.5
    assert interquartile_mean([np.array([0.0, 1]), np.array([2.0])]).value == 1  # of three, none is left out
    scores = np.random.default_rng(0).normal(size=(7, 9))
    assert interquartile_mean(list(scores)).value == pytest.approx(stats.trim_mean(scores.ravel(), 0.25))


def test_the_stratified_bootstrap_is_what_enumerating_every_draw_gives():
    """Two tasks with three seeds: 27 × 27 draws, all as likely; the interval is theirs within the noise of drawing."""
    one, other = np.array([0.0, 1, 5]), np.array([10.0, 12, 17])
    means = [stats.trim_mean([*a, *b], 0.25) for a, b in product(product(one, repeat=3), product(other, repeat=3))]
    found = interquartile_mean([one, other])
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=0.3)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=0.3)
    together = interquartile_mean([np.concatenate([one, other])])
    assert together.high - together.low > found.high - found.low  # tasks differ, and that is no uncertainty


def test_the_interval_of_an_interquartile_mean_covers_it_about_as_often_as_it_says():
    """200 experiments of 8 tasks with 5 seeds; the mean over what the tasks' middle half is, known by symmetry."""
    generator = np.random.default_rng(1)
    covered = []
    for number in range(200):
        found = interquartile_mean(list(generator.normal(size=(8, 5))), seed=number)
        covered.append(found.low <= 0 <= found.high)
    assert LEVEL - 0.07 < np.mean(covered) < LEVEL + 0.05


def test_what_cannot_vary_has_no_interval():
    assert np.isnan(interquartile_mean([np.arange(5.0)]).low)
    assert np.isnan(interquartile_mean([np.arange(9.0), np.arange(2.0)]).high)
    assert np.isnan(improvement([np.arange(9.0)], [np.arange(5.0)]).low)
    assert np.isfinite(improvement([np.arange(6.0)], [np.arange(6.0)]).low)


def test_improvement_by_hand():
    """Pairs (1, 0), (1, 1), (3, 0), (3, 1): above, tie, above, above."""
    assert improvement([np.array([1.0, 3])], [np.array([0.0, 1])]).value == 3.5 / 4
    assert improvement([np.array([1.0])] * 2, [np.array([0.0]), np.array([2.0])]).value == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_improvement_is_mann_and_whitneys_and_the_other_way_round_what_is_left(seed):
    generator = np.random.default_rng(seed)
    ours, theirs = generator.integers(0, 6, 9).astype(float), generator.integers(0, 6, 7).astype(float)
    found = improvement([ours], [theirs])
    assert found.value == pytest.approx(stats.mannwhitneyu(ours, theirs).statistic / 63)
    assert found.low <= found.value <= found.high
    assert improvement([theirs], [ours]).value == pytest.approx(1 - found.value)


def test_the_bootstrap_of_an_improvement_is_a_loop_over_draws():
    generator = np.random.default_rng(4)
    ours, theirs = generator.normal(0.4, size=8), generator.normal(size=10)
    drawn = []
    for _ in range(2000):
        one, other = generator.choice(ours, 8), generator.choice(theirs, 10)
        drawn.append(np.mean([(a > b) + (a == b) / 2 for a in one for b in other]))
    found = improvement([ours], [theirs])
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.04)


def test_a_seed_fixes_both_bootstraps_and_the_global_generator_is_left_alone():
    before = np.random.get_state()[1].copy()
    scores = [np.random.default_rng(one).normal(size=6) for one in range(3)]
    for summary in (interquartile_mean, lambda strata, seed: improvement(strata, [one + 0.3 for one in strata], seed)):
        assert ends(summary(scores, seed=1)) == ends(summary(scores, seed=1)) != ends(summary(scores, seed=2))
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_scores_that_are_none_are_refused():
    with pytest.raises(ValueError, match="at least one score"):
        interquartile_mean([])
    with pytest.raises(ValueError, match="no number"):
        interquartile_mean([np.array([np.nan])])
    with pytest.raises(ValueError, match="2 tasks cannot be compared with scores on 1"):
        improvement([np.ones(1)] * 2, [np.ones(1)])


def test_too_few_seeds_are_said_to_be_and_enough_are_not():
    assert "in 6 % of cases misses it" in too_few(5, "a median")
    assert too_few(0, "a median") == "0 seeds are too few for a median: it has no interval"
    for runs in range(1, 40):
        for solved in range(runs + 1):
            rate = solve_rate(solved, runs)
            assert bool(not_told(solved, runs)) == (rate.high - rate.low > WIDE)
            if not_told(solved, runs):
                assert rate.low < 0.5 < rate.high
