"""The interval over seeds: hand values, a fixed seed, and that it covers what it claims to."""

import numpy as np
import pytest

from retrograde.figures.statistics import FEWEST, LEVEL, interval, interval_in_words, mean_interval


def test_three_seeds_give_their_range():
    three = interval(np.array([[1.0, 10.0], [3.0, 30.0], [2.0, 20.0]]))
    assert three.median.tolist() == [2, 20]
    assert three.low.tolist() == [1, 10]
    assert three.high.tolist() == [3, 30]
    assert interval_in_words(3) == "the range of the seeds"


def test_one_seed_is_its_own_interval():
    one = interval(np.array([[4.0]]))
    assert one.low == one.median == one.high == 4


def test_no_seed_is_refused():
    with pytest.raises(ValueError, match="at least one seed"):
        interval(np.empty((0, 3)))


def test_a_seed_fixes_the_bootstrap_and_another_changes_it():
    values = np.random.default_rng(0).normal(size=(9, 40))
    same, again, other = interval(values, seed=1), interval(values, seed=1), interval(values, seed=2)
    np.testing.assert_array_equal(same.low, again.low)
    np.testing.assert_array_equal(same.high, again.high)
    assert (same.low != other.low).any() or (same.high != other.high).any()


def test_bootstrap_does_not_touch_the_global_generator():
    before = np.random.get_state()[1].copy()
    interval(np.random.default_rng(0).normal(size=(8, 3)))
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_bootstrap_ends_are_order_statistics_known_exactly():
    """A resampled median of n odd values is at most x_(k) with a binomial probability: the quantile follows by hand.

    n = 7: the resampled median is ≤ x_(k) where at least 4 of 7 draws are; for k = 1 that is 0.0101, for k = 2 it is
    0.0962. So the 2.5 % end is x_(2), and by symmetry the 97.5 % end x_(6).
    """
    values = np.arange(1.0, 8.0)[:, None]
    seven = interval(values)
    assert (seven.low.item(), seven.median.item(), seven.high.item()) == (2, 4, 6)


def test_bootstrap_covers_the_true_median_about_as_often_as_it_says():
    """1,000 experiments of 10 seeds; a percentile bootstrap is a little off its level at that size."""
    values = np.random.default_rng(3).exponential(size=(10, 1000))
    found = interval(values)
    covered = ((found.low <= np.log(2)) & (np.log(2) <= found.high)).mean()
    assert LEVEL - 0.04 < covered < LEVEL + 0.04


def test_range_of_three_covers_the_median_in_three_of_four_cases():
    values = np.random.default_rng(4).normal(size=(3, 4000))
    found = interval(values)
    covered = ((found.low <= 0) & (found.high >= 0)).mean()
    assert abs(covered - 0.75) < 0.03  # four standard errors


@pytest.mark.parametrize("seeds", [3, FEWEST])
def test_a_missing_seed_is_not_averaged_away(seeds):
    values = np.ones((seeds, 2))
    values[0, 1] = np.nan
    found = interval(values)
    for end in (found.median, found.low, found.high):
        assert end[0] == 1
        assert np.isnan(end[1])


def test_zeros_on_a_logarithmic_scale_keep_their_place():
    assert interval(np.array([[-np.inf], [-3.0], [-1.0]])).median.item() == -3


def test_a_mean_of_few_seeds_lies_between_their_ends():
    few = mean_interval(np.array([1.0, 2.0, 6.0]))
    assert (few.value, few.low, few.high) == (3, 1, 6)


def test_a_mean_of_many_seeds_has_the_width_that_theory_says():
    """Of n values with standard deviation s the mean has s/√n, and 95 % of a normal distribution lie within 1.96."""
    values = np.random.default_rng(0).normal(size=400)
    many = mean_interval(values)
    assert many.value == values.mean()
    half = 1.96 * values.std() / 20
    np.testing.assert_allclose([many.low, many.high], [values.mean() - half, values.mean() + half], atol=0.1 * half)


def test_a_mean_of_a_seed_without_a_number_is_none():
    for seeds in (3, 9):
        assert np.isnan(mean_interval(np.array([np.nan, *range(seeds)])).high)
        assert mean_interval(np.array([np.inf, *range(seeds)])).value == np.inf
    with pytest.raises(ValueError, match="at least one seed"):
        mean_interval(np.empty(0))
