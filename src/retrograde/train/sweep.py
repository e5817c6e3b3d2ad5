"""What the jobs of a sweep know of each other."""

import os

SIZE = "RETROGRADE_SWEEP_SIZE"
"""How many jobs the sweep has; set by the launching process, inherited by its workers."""


class SweepError(ValueError):
    """Some runs of a sweep failed."""


def place(number: int | None) -> tuple[int, int] | None:
    """Which job this is, from 1, and of how many; None outside a sweep, or in one of unknown size."""
    if number is None or SIZE not in os.environ:
        return None
    return number + 1, int(os.environ[SIZE])
