"""The powers of a matrix, on runs whose gradient keeps a known share of itself at every lag."""

from pathlib import Path

import numpy as np
import pytest

from fake_runs import Fake, write_run
from retrograde.core.records import Reading
from retrograde.figures.comparison import NUMBERS, NothingToDraw, comparisons
from retrograde.record.store import FolderStore


def linear(radius: float, matrix: str = "orthogonal", seed: int = 0, rate: float | None = None) -> Fake:
    """A linear recurrence whose gradient changes by ``rate`` a lag before training, and not at all after it."""
    rate = radius if rate is None else rate

    def slope(step: int) -> list[tuple[str, Reading]]:
        value = np.array(np.log10(rate) if step == 0 else 0.0)
        return [("lag_gradient", Reading("slope/0.forward.hidden", value, {}, "decades per lag"))]

    config = {"model": {"_target_": "linear_rnn", "radius": radius, "matrix": matrix}}
    return Fake("linear_rnn", seed, keeps=(rate, 1.0), config=config, also=slope)


def load(script, outputs: Path, *fakes: Fake):
    for fake in fakes:
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs))
    return script("powers").load(comparison)


def test_rates_are_those_before_training_beside_the_radius(script, tmp_path: Path):
    tables = load(script, tmp_path, linear(0.5), linear(2.0), linear(2.0, "nonnormal", rate=1.8))
    numbers = tables[NUMBERS]
    assert numbers["matrix"].tolist() == ["orthogonal", "orthogonal", "nonnormal"]
    np.testing.assert_allclose(10 ** numbers["slope (decades per lag)"], [0.5, 2.0, 1.8])
    np.testing.assert_allclose(10 ** numbers["theory (decades per lag)"], [0.5, 2.0, 2.0])
    curves = tables["curves"]
    of_half = curves[curves["radius"] == 0.5]
    np.testing.assert_allclose(np.diff(of_half["value"]), np.log10(0.5))


def test_what_comes_out_as_theory_says_is_said(script, tmp_path: Path):
    said = script("powers").finding(
        load(script, tmp_path, linear(0.5), linear(1.0), linear(2.0), linear(2.0, "nonnormal", rate=1.8))
    )
    assert "explodes above a spectral radius of 1 and vanishes below it in all 3 runs" in said
    assert "with orthogonal weights by exactly that radius" in said
    assert "with nonnormal ones by 0.90 times it" in said


def test_what_does_not_is_said_too(script, tmp_path: Path):
    """A radius of 2 whose gradient falls."""
    said = script("powers").finding(load(script, tmp_path, linear(0.5), linear(2.0, rate=0.9)))
    assert "in 1 of 2 runs" in said
    assert "exactly" not in said


def test_every_panel_has_its_runs(script, tmp_path: Path):
    tables = load(
        script, tmp_path, *(linear(radius, matrix) for radius in (0.5, 2.0) for matrix in ("normal", "orthogonal"))
    )
    figure = script("powers").draw(tables)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["orthogonal", "normal", "", ""]
    assert "1 seeds" not in script("powers").caption(tables)


def test_runs_of_one_radius_have_no_answer(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match=r"model\.radius"):
        load(script, tmp_path, linear(0.5, seed=0), linear(0.5, seed=1))
