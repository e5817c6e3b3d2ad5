"""Learning rates by hand."""

import pytest
import torch

from retrograde.train.schedules import transformer_warmup


def test_the_warm_up_rate_is_the_papers() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=2.0)
    scheduler = transformer_warmup(optimizer, width=16, warmup=10)
    rates = []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    expected = [2.0 * 16**-0.5 * min(n**-0.5, n * 10**-1.5) for n in range(1, 41)]
    assert rates == pytest.approx(expected)
    assert rates.index(max(rates)) == 9


def test_no_warm_up_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scheduler\.warmup must be at least 1, not 0"):
        transformer_warmup(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), width=4, warmup=0)
