"""The gradient over depth, on runs whose gradient keeps a known share of itself at every layer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fake_runs import Fake, asked_after, write_run
from retrograde.core.records import Reading
from retrograde.core.statistics import STATISTICS
from retrograde.figures.comparison import NUMBERS, NothingToDraw, comparisons
from retrograde.record.store import FolderStore

LAYERS, TIMES = 4, 3


def deep(keeps: float, residual: bool, norm: bool = True, seed: int = 0, solved: int | None = 100, model="transformer"):
    """A stack whose gradient at three positions is ``keeps`` to the power of the layers above, at every step."""

    def also(step: int) -> list[tuple[str, Reading]]:
        readings = []
        for depth in range(LAYERS + 1):
            with np.errstate(divide="ignore"):
                size = (LAYERS - depth) * np.log10(np.float64(keeps)) if depth < LAYERS else 0.0
            values = np.full((len(STATISTICS), TIMES), size)
            values[0, 1:] = -np.inf if depth == LAYERS else size  # the last position alone is scored
            status = np.where(np.isneginf(values), 1, 0).astype(np.int8)
            dims = {"statistic": STATISTICS, "time": range(TIMES)}
            reading = Reading(f"total/{depth}.forward.residual", values, dims, "log10 loss per state", status)
            readings.append(("state_gradient", reading))
        return readings

    config = {"model": {"_target_": model, "residual": residual, "normalisation": norm}}
    return Fake(model, seed, config=config, also=also, solved=solved is not None, more={"solved_step": solved})


def load(script, outputs: Path, *fakes: Fake):
    for fake in fakes:
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs))
    return script("depth").load(comparison)


def test_gradient_is_that_of_all_positions_beside_the_highest_layer(script, tmp_path: Path):
    """Below the highest layer three positions have what one has there: √3 times its size."""
    tables = load(script, tmp_path, deep(0.1, False), deep(1.0, True))
    lowest = tables[NUMBERS].set_index("residual path")["at the start, lowest layer against highest (decades)"]
    np.testing.assert_allclose(lowest[False], -LAYERS + 0.5 * np.log10(3))
    np.testing.assert_allclose(lowest[True], 0.5 * np.log10(3))
    curve = tables["curves"].query("when == 'before' and not residual")["relative"]
    np.testing.assert_allclose(np.diff(curve)[1:], -1.0)


def test_what_comes_out_as_theory_says_is_said(script, tmp_path: Path):
    fakes = [deep(0.1, False, norm, solved=None) for norm in (True, False)] + [
        deep(1.0, True, norm) for norm in (True, False)
    ]
    tables = load(script, tmp_path, *fakes)
    said, caption = script("depth").finding(tables), script("depth").caption(tables)
    assert said.startswith("At the start the gradient fades over 4 layers without residual path and does not with it")
    assert "The lowest gets: both 1.7 (1 of 1 learn), " in said
    slope = -1 + 0.5 * np.log10(3) * 2 / 10  # of 0, a - 1, a - 2, a - 3, a - 4 over 0 … 4 by least squares
    assert "LayerNorm alone 0.00017 (0 of 1)" in said
    assert f"LayerNorm alone 0.00017, {10**slope:.2g} a layer at the start" in caption


def test_without_the_start_there_is_nothing_to_draw(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match="at step 0"):
        load(script, tmp_path, asked_after(deep(0.1, False)), asked_after(deep(1.0, True)))


def test_what_does_not_is_said_too(script, tmp_path: Path):
    said = script("depth").finding(load(script, tmp_path, deep(0.9, False), deep(0.1, True)))
    assert "fades over 4 layers in 0 of 1 runs without residual path, 1 of 1 with it" in said


def test_what_did_not_finish_has_a_gradient_and_has_not_failed_to_learn(script, tmp_path: Path):
    running = replace(deep(1.0, True, seed=1), status="running", more={})
    failed = replace(deep(0.1, False), status="failed", more={})
    said = script("depth").finding(load(script, tmp_path, deep(1.0, True), running, failed))
    assert said.startswith("At the start the gradient fades over 4 layers without residual path and does not with it")
    assert said.endswith(
        "both 1.7 (1 of 1 learn), LayerNorm alone 0.00017 (none finished). Not counted: 1 failed, 1 running"
    )


def test_a_gradient_of_nothing_is_marked_and_not_dropped(script, tmp_path: Path):
    tables = load(script, tmp_path, deep(0.0, False), deep(1.0, True))
    assert "LayerNorm alone nothing (1 of 1" in script("depth").finding(tables)
    figure = script("depth").draw(tables)
    below = [line for line in figure.axes[0].lines if line.get_marker() == "v"]
    assert [line.get_xdata().tolist() for line in below] == [[1, 2, 3, 4]]


def test_every_panel_has_its_runs(script, tmp_path: Path):
    fakes = [
        deep(keeps, residual, seed=seed, model=model)
        for keeps, residual in ((0.5, False), (1.0, True))
        for seed in (0, 1)
        for model in ("transformer", "transformer_postnorm")
    ]
    tables = load(script, tmp_path, *fakes)
    figure = script("depth").draw(tables)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "transformer, before training",
        "transformer, after training",
        "transformer_postnorm, before training",
        "transformer_postnorm, after training",
    ]
    assert "2 seeds for each setting" in script("depth").caption(tables)


def test_runs_that_all_have_the_path_have_no_answer(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match=r"model\.residual=true,false"):
        load(script, tmp_path, deep(1.0, True), deep(1.0, True, seed=1))
