"""Panels that stand side by side are there to be compared: whatever each holds, all have one scale."""

from pathlib import Path

import numpy as np
import pytest

from fake_runs import Fake, write_run
from retrograde.core.records import Reading
from retrograde.figures.comparison import comparisons
from retrograde.figures.question import compared
from retrograde.record.store import FolderStore


def fake(model: str, keeps: float, constant: float) -> Fake:
    def constants(step: int):
        yield "gates", Reading("time_constant/0.forward.cell", np.full(2, constant), {"unit": range(2)}, "positions")
        yield "gates", Reading("median_time_constant/0.forward.cell", np.array(constant), {}, "positions")

    return Fake(model, keeps=(keeps, keeps), also=constants)


@pytest.mark.parametrize("stem", ["reach", "horizon", "time_constants"])
def test_all_panels_have_one_scale(script, tmp_path: Path, stem: str) -> None:
    for one in (fake("elman", 0.1, 0.5), fake("gru", 0.9, 40.0), fake("lstm", 0.4, 3.0)):
        write_run(tmp_path, one)
    question = script(stem)
    (comparison,), _ = comparisons(FolderStore(tmp_path), compared(question))
    axes = question.draw(question.load(comparison)).axes
    assert len(axes) == 3
    assert len({(one.get_xlim(), one.get_ylim(), one.get_xscale(), one.get_yscale()) for one in axes}) == 1
