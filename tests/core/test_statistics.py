"""Statistics over samples against numpy on plain numbers, and by hand where numbers end."""

import math

import numpy as np
import torch

from retrograde.core.records import Batch
from retrograde.core.scaled import Scaled, log10_norm, power_of_two
from retrograde.core.statistics import (
    linear_statistics,
    log10_joint,
    log10_statistics,
    plain_status,
    present,
    signed_statistics,
    status_of,
)
from retrograde.core.statuses import CENSORED, FINITE, INF, NAN, ZERO

MEAN, Q10, Q50, Q90 = range(4)


def log10(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def everyone(values: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(values, dtype=torch.bool)


def test_mean_and_quantiles_are_those_of_the_plain_numbers() -> None:
    generator = np.random.default_rng(0)
    plain = generator.lognormal(size=(31, 4))
    values = torch.from_numpy(np.log10(plain))
    made, status = log10_statistics(values, torch.zeros(31, 4, dtype=torch.int8), everyone(values))
    np.testing.assert_allclose(10 ** made[MEAN].numpy(), plain.mean(0))
    np.testing.assert_allclose(10 ** made[1:].numpy(), np.quantile(plain, [0.1, 0.5, 0.9], axis=0))
    assert (status == FINITE).all()


def test_the_mean_of_numbers_beyond_every_format_is_exact() -> None:
    values = log10(5000.0, 5000.0 + math.log10(3))
    made, _ = log10_statistics(values, torch.zeros_like(values, dtype=torch.int8), everyone(values))
    torch.testing.assert_close(made[MEAN].item(), 5000 + math.log10(2))


def test_samples_that_do_not_count_change_nothing() -> None:
    values = log10(0.0, 1.0, math.nan)
    counts = torch.tensor([[True], [True], [False]])
    made, status = log10_statistics(values, torch.tensor([[FINITE], [FINITE], [NAN]]), counts)
    torch.testing.assert_close(made[MEAN].item(), math.log10(5.5))
    assert made[Q90].item() == 1.0 and status[Q90].item() == FINITE


def test_what_is_not_finite_shows_in_the_statistics_it_enters() -> None:
    values = log10(0.0, math.inf, math.nan)
    made, status = log10_statistics(values, torch.tensor([[FINITE], [INF], [NAN]]), everyone(values))
    assert status[:, 0].tolist() == [NAN, FINITE, INF, NAN]
    assert made[Q10].item() == 0.0


def test_zeros_lower_the_mean_and_keep_their_status_as_quantiles() -> None:
    values = log10(0.0, -math.inf, -math.inf)
    made, status = log10_statistics(values, torch.tensor([[FINITE], [ZERO], [ZERO]]), everyone(values))
    torch.testing.assert_close(made[MEAN].item(), math.log10(1 / 3))
    assert status[:, 0].tolist() == [FINITE, ZERO, ZERO, FINITE]


def test_a_mean_is_censored_where_censored_samples_could_matter() -> None:
    bound = torch.tensor([[FINITE], [CENSORED]])
    near, far = log10(-36.0, -37.0), log10(0.0, -37.0)
    assert log10_statistics(near, bound, everyone(near))[1][MEAN].item() == CENSORED
    assert log10_statistics(far, bound, everyone(far))[1][MEAN].item() == FINITE


def test_linear_statistics_are_numpys() -> None:
    plain = np.random.default_rng(0).normal(size=(11, 3))
    made = linear_statistics(torch.from_numpy(plain), torch.ones(11, 3, dtype=torch.bool)).numpy()
    np.testing.assert_allclose(made, [plain.mean(0), *np.quantile(plain, [0.1, 0.5, 0.9], axis=0)])


def test_states_of_padding_do_not_count_and_initial_ones_do() -> None:
    batch = Batch(torch.zeros(2, 3, 1), torch.zeros(2, 3, 1), torch.ones(2, 3, dtype=torch.bool), torch.tensor([3, 1]))
    forward = [[True, True, True, True], [True, True, False, False]]
    backward = [[True, True, True, True], [True, False, False, True]]
    assert present(batch, range(-1, 3)).tolist() == forward
    assert present(batch, range(0, 4)).tolist() == backward


def test_norms_are_scaled_before_squaring() -> None:
    """Squares of 1e-30 and of 1e30 leave float32; the norms do not."""
    values = torch.tensor([[[3e-30, 4e-30], [3e30, 4e30]]])
    norms, status = log10_norm(Scaled.of(values))
    torch.testing.assert_close(norms[0], torch.tensor([math.log10(5e-30), math.log10(5e30)], dtype=torch.float64))
    assert (status == FINITE).all()


def test_norms_say_what_they_are_when_they_are_no_number() -> None:
    values = torch.tensor([[[0.0], [1e-42], [math.inf], [math.nan], [-math.inf]]])
    norms, status = log10_norm(Scaled.of(values))
    assert status[0].tolist() == [ZERO, CENSORED, INF, NAN, INF]
    torch.testing.assert_close(norms[0, 1].item(), math.log10(torch.finfo(torch.float32).smallest_normal))


def test_powers_of_two_reach_across_the_whole_format() -> None:
    smallest, exponent = torch.tensor([2.0**-126, 0.0]), torch.tensor([250, 1000])
    assert power_of_two(smallest, exponent).tolist() == [2.0**124, 0.0]
    assert power_of_two(torch.tensor([2.0**-1000], dtype=torch.float64), torch.tensor([2000])).item() == 2.0**1000


def test_an_infinity_stays_one_whatever_it_is_scaled_by_or_added_to() -> None:
    infinities = torch.tensor([math.inf, -math.inf])
    assert power_of_two(infinities, torch.tensor([-300, -300])).tolist() == [math.inf, -math.inf]
    assert power_of_two(torch.tensor([math.nan]), torch.tensor([-300])).isnan().all()
    reached = torch.ones(1, 1, dtype=torch.bool)
    infinite = Scaled(infinities[:1].view(1, 1, 1), torch.zeros(1, 1, dtype=torch.int32), reached)
    large = Scaled(torch.ones(1, 1, 1), torch.full((1, 1), 300, dtype=torch.int32), reached)
    assert (infinite + large).value().item() == math.inf


def test_of_numbers_of_either_sign_only_those_that_count_are_in_mean_and_quantiles() -> None:
    values = torch.tensor([[3.0, 1.0], [-1.0, 2.0], [100.0, math.nan]], dtype=torch.float64)
    counts = torch.tensor([[True, True], [True, True], [False, True]])
    made, status = signed_statistics(values, plain_status(values), counts)
    assert made[MEAN, 0] == 1.0 and made[Q10, 0] == -1.0 and made[Q90, 0] == 3.0
    assert torch.isnan(made[MEAN, 1]) and made[Q50, 1] == 2.0
    assert status[MEAN].tolist() == [FINITE, NAN] and status[Q50].tolist() == [FINITE, FINITE]


def test_a_signed_mean_is_zero_or_censored_where_it_is_made_of_nothing_else() -> None:
    values = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 4.0]], dtype=torch.float64)
    status = torch.tensor([[ZERO, ZERO, CENSORED], [ZERO, CENSORED, FINITE]], dtype=torch.int8)
    made, found = signed_statistics(values, status, everyone(values))
    assert made[MEAN].tolist() == [0.0, 0.0, 2.0]
    assert found[MEAN].tolist() == [ZERO, CENSORED, FINITE]
    assert found[Q10].tolist() == [ZERO, ZERO, CENSORED]


def test_norms_side_by_side_make_the_norm_of_all() -> None:
    """3 and 4 make 5, also 400 decades away; a true zero adds nothing, and two of them are one."""
    values = torch.tensor([[3.0, 3.0, 0.0, 0.0], [4.0, 4.0, 2.0, 0.0]], dtype=torch.float64).log10()
    values[:, 1] -= 400
    joint, status = log10_joint(values, status_of(values))
    torch.testing.assert_close(
        joint, torch.tensor([5.0, 5.0, 2.0, 0.0], dtype=torch.float64).log10() - torch.tensor([0.0, 400.0, 0.0, 0.0])
    )
    assert status.tolist() == [FINITE, FINITE, FINITE, ZERO]


def test_a_censored_norm_counts_where_it_might_be_seen() -> None:
    values = torch.tensor([[-10.0, -10.0], [-38.0, -11.0]], dtype=torch.float64)
    status = torch.tensor([[FINITE, FINITE], [CENSORED, CENSORED]], dtype=torch.int8)
    assert log10_joint(values, status)[1].tolist() == [FINITE, CENSORED]
