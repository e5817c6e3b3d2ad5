"""The short form of ``make faults``."""

import pytest

from faults import compare

QUICK = ("steps=200", "trainer.validate_every=20")


@pytest.mark.parametrize(
    "launches", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.heavy)]
)
def test_a_sweep_that_is_killed_again_and_again_comes_to_the_same_end(launches: int) -> None:
    assert compare(2, launches, 3.0, 2, *QUICK) > 0
