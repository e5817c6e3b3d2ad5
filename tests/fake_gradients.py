"""Runs whose gradients over time are known."""

from pathlib import Path

import numpy as np

from fake_runs import STEPS, Fake, write_run
from retrograde.core.records import Reading
from retrograde.core.statistics import STATISTICS
from retrograde.core.statuses import STATUSES
from retrograde.figures.comparison import Comparison, comparisons
from retrograde.record.store import FolderStore

TIMES = range(-1, 4)


def felt(model: str, seed: int, by_step: dict[int, tuple[float, ...]], statuses: tuple[str, ...] = (), **more) -> Fake:
    """A run with these norms over time (log10) at each step, and at the last one with these statuses."""

    def also(step: int):
        if step not in by_step:
            return []
        codes = [STATUSES.index(name) for name in statuses] if statuses and step == STEPS[-1] else [0] * len(TIMES)
        four = (len(STATISTICS), 1)
        over = {"statistic": STATISTICS, "time": TIMES}
        values = np.tile(by_step[step], four) + np.arange(len(STATISTICS))[:, None]  # only the mean is to be drawn
        status = np.tile(np.array(codes, dtype=np.int8), four)
        return [
            ("state_gradient", Reading("total/0.forward.hidden", values, over, "log10 loss per state", status)),
            ("state_gradient", Reading("total/0.forward.cell", values - 1, over, "log10 loss per state", status)),
            ("state_gradient", Reading("total/1.forward.hidden", values + 9, over, "log10 loss per state", status)),
        ]

    return Fake(model, seed, also=also, **more)


def vanishing(model: str, seed: int = 0, arrives: int | None = None, **more) -> Fake:
    """A gradient that loses a decade a time, up to a step from which on it loses nothing."""
    flat, falls = (0.0,) * 5, (-4.0, -3.0, -2.0, -1.0, 0.0)
    return felt(model, seed, {s: flat if arrives is not None and s >= arrives else falls for s in STEPS}, **more)


def compared(outputs: Path, *fakes: Fake) -> Comparison:
    for fake in fakes:
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs))
    return comparison
