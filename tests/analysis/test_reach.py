"""The reach of the gradient, on curves small enough to follow: each lag keeps a known share of the one before."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fake_runs import LENGTH, Fake, write_run
from retrograde.figures.comparison import AFTER, BEFORE, NUMBERS, NothingToDraw, comparisons
from retrograde.record.store import FolderStore

LAGS = np.arange(LENGTH + 1)


def load(script, outputs: Path, *fakes: Fake):
    for fake in fakes:
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs))
    return script("reach").load(comparison)


def test_horizons_by_hand(script, tmp_path: Path):
    """0.5^k keeps 1 % up to lag 6 (0.0156), 0.3^k up to lag 3 (0.027), 0.9^k over all 8 lags (0.43)."""
    tables = load(script, tmp_path, Fake("gru", 0, keeps=(0.5, 0.9)), Fake("gru", 1, keeps=(0.3, 0.9)))
    numbers = tables[NUMBERS]
    assert numbers["horizon before (lags)"].tolist() == [6, 3]
    assert numbers["horizon after (lags)"].tolist() == [8, 8]
    assert numbers["task's lags, median"].tolist() == [4, 4]
    assert numbers["task's lags, 90 %"].tolist() == [7, 7]
    middle = script("reach").medians(numbers)
    assert middle.loc["gru"].to_dict() == {BEFORE: 4.5, AFTER: 8}


def test_curves_are_relative_to_lag_zero(script, tmp_path: Path):
    curves = load(script, tmp_path, Fake("gru", keeps=(0.5, 0.9)))["curves"]
    before = curves[curves["when"] == BEFORE]
    np.testing.assert_allclose(before["relative"], LAGS * math.log10(0.5), atol=1e-12)
    assert before["value"].iloc[0] == -1


def test_of_several_components_the_one_counts_that_kept_most(script):
    reach = script("reach")
    rows = [
        ("hidden", 0, -1.0), ("hidden", 1, -1.5), ("hidden", 2, -9.0),
        ("cell", 0, -3.0), ("cell", 1, -4.0), ("cell", 2, -4.5),
    ]  # fmt: skip
    norms = pd.DataFrame(rows, columns=["component", "lag", "value"]).assign(
        model="lstm", seed=0, run="r", when=AFTER, step=9, layer="0.forward", status="finite"
    )
    curves = reach._furthest(norms)
    assert curves["component"].tolist()[1:] == ["hidden", "cell"]
    np.testing.assert_allclose(curves["relative"], [0, -0.5, -1.5])


def test_the_curves_horizon_is_the_probes(script, tmp_path: Path):
    tables = load(script, tmp_path, Fake("lstm", components=("hidden", "cell"), keeps=(0.4, 0.7)))
    for when in (BEFORE, AFTER):
        curve = tables["curves"][tables["curves"]["when"] == when]
        kept = curve.loc[curve["relative"] >= -2, "lag"].max()
        assert kept == tables[NUMBERS][f"horizon {when} (lags)"].item()


def test_a_run_that_goes_on_is_not_after_training(script, tmp_path: Path):
    ended, going = Fake("gru", 0, keeps=(0.5, 0.9)), Fake("gru", 1, status="running", keeps=(0.5, 0.3))
    finding = script("reach").finding(load(script, tmp_path, ended, going))
    assert finding.endswith("in gru with every seed. Not counted: 1 running")
    alone = script("reach").finding(load(script, tmp_path / "alone", going))
    assert alone == "No run that is drawn has finished. Not counted: 1 running"


BROKEN = Fake(
    "irnn",
    gradient=(-1, -2, -4, -14, -20, -math.inf, math.inf, math.nan, math.nan),
    statuses=("finite", "finite", "finite", "finite", "censored", "zero", "inf", "nan", "nan"),
)


def test_what_is_not_finite_is_counted_and_marked(script, tmp_path: Path):
    reach = script("reach")
    tables = load(script, tmp_path, BROKEN)
    assert reach.oddities(tables["curves"], -8) == (
        "zero: 1 after; censored: 1 after; inf: 1 after; nan: 2 after; below 1e-8: 1 after"
    )
    axes = reach.draw(tables).axes[0]
    marks = {line.get_marker(): line.get_xdata().tolist() for line in axes.lines if line.get_marker() in "v^"}
    assert marks == {"v": [3, 4, 5], "^": [6]}
    assert any("nan: 2 after" in text.get_text().replace("\n", " ") for text in axes.texts)


def test_a_gradient_that_is_zero_at_lag_zero_has_no_relative_size(script, tmp_path: Path):
    gone = Fake("elman", gradient=(-math.inf,) + (-3.0,) * LENGTH, statuses=("zero",) + ("finite",) * LENGTH)
    tables = load(script, tmp_path, gone)
    assert "without a size at lag 0: 8 after" in script("reach").oddities(tables["curves"], -8)
    script("reach").draw(tables)


def test_finding_counts_seeds_and_tells_what_was_so_before(script, tmp_path: Path):
    tables = load(
        script,
        tmp_path,
        Fake("elman", 0, keeps=(0.3, 0.3)),
        Fake("gru", 0, keeps=(0.3, 0.9)),
        Fake("irnn", 0, keeps=(0.3, 0.9)),
        Fake("irnn", 1, keeps=(0.3, 0.3)),
        Fake("transformer", 0, keeps=(0.9, 0.9)),
    )
    assert script("reach").finding(tables) == (
        "After training the gradient reaches 7 lags back, which covers 90 % of the task's: in gru and transformer with "
        "every seed (transformer already before it); in irnn with 1 of 2 seeds (median 5.5); not in elman (median 3)"
    )


def test_the_caption_says_of_which_positions_the_loss_is(script, tmp_path: Path):
    tables = load(script, tmp_path, Fake("gru"))
    assert tables["scored"]["positions"].tolist() == [1]
    several = {**tables, "scored": pd.DataFrame({"sample": [0, 1], "positions": [1, 3]})}
    assert "back from the scored one, mean of the probe batch's samples, relative" in script("reach").caption(tables)
    assert "of the loss at one scored position alone" in script("reach").caption(several)


def test_runs_without_the_probe_give_nothing_to_draw(script, tmp_path: Path):
    folder = write_run(tmp_path, Fake("gru"))
    (folder.tables / "readings/lag_gradient/horizon.parquet").unlink()
    (comparison,), _ = comparisons(FolderStore(tmp_path))
    with pytest.raises(NothingToDraw, match="lag_gradient/horizon"):
        script("reach").load(comparison)


def test_the_figure_says_what_it_found(script, tmp_path: Path):
    tables = load(script, tmp_path, Fake("gru"), Fake("elman"))
    figure = script("reach").draw(tables)
    assert figure.get_suptitle().replace("\n", " ") == script("reach").finding(tables)
    assert [axes.get_title("left") for axes in figure.axes] == ["elman", "gru"]
    assert [axes.get_title("right") for axes in figure.axes] == ["6 → 8 lags"] * 2
