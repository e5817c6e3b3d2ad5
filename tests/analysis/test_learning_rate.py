"""Windows of learning rates, on runs that solve at known ones."""

from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fake_runs import Fake, write_run
from retrograde.figures import theme
from retrograde.figures.comparison import NothingToDraw, comparisons
from retrograde.record.store import FolderStore

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


def swept(model: str, *solving: tuple[float, float], rates=RATES, **more) -> list[Fake]:
    """A run a rate and seed; each seed solves from one rate to another."""
    return [
        Fake(
            model,
            seed,
            solved=low <= rate <= high,
            more=more if rate == max(rates) else {},
            config={"seed": seed, "optimizer": {"lr": rate}},
        )
        for seed, (low, high) in enumerate(solving)
        for rate in rates
    ]


def load(script, outputs: Path, *groups: list[Fake]):
    for fake in chain(*groups):
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs))
    return script("learning_rate").load(comparison)


def test_windows_by_hand(script, tmp_path: Path):
    """Two of three seeds solve from 1e-3 to 1e-2: one decade; the next rates that fail are 2 decades apart."""
    tables = load(script, tmp_path, swept("gru", (1e-3, 1e-2), (1e-3, 1e-1), (1e-2, 1e-2)))
    window = tables["windows"].iloc[0]
    assert window[["from", "to", "decades", "open"]].tolist() == [1e-3, 1e-2, 1.0, False]
    np.testing.assert_allclose(window[["most", "narrowest seed", "widest seed"]].astype(float), [2, 0, 2], atol=1e-6)
    assert tables["cells"]["solved"].tolist() == [0, 0, 2, 2, 3, 1, 1, 0, 0]


def test_a_window_is_unbroken_and_open_where_the_rates_end(script):
    widest = script("learning_rate").widest
    rates = np.array([0.001, 0.01, 0.1, 1.0, 10.0])
    broken = widest(rates, np.array([True, False, True, True, True]))
    assert (broken["from"], broken["to"], broken["decades"], broken["most"], broken["open"]) == (0.1, 10, 2, 3, True)
    assert np.isnan(widest(rates, np.zeros(5, dtype=bool))["decades"])


def test_what_comes_out_as_expected_is_said(script, tmp_path: Path):
    tables = load(
        script, tmp_path, swept("gru", *[(1e-3, 1e-2)] * 2), swept("lru", *[(1e-2, 1e-2)] * 2),
        swept("transformer", *[(1e-4, 1e-2)] * 2),
    )  # fmt: skip
    assert script("learning_rate").finding(tables) == (
        "Learning rates at which most seeds solve the task: transformer at least 2.0 decades (0.0001 to 0.01); gru 1.0 "
        "decades (0.001 to 0.01); lru 0.01 alone. As expected, transformer has the widest (in every seed). As "
        "expected, lru has the narrowest (in every seed)"
    )


def test_what_does_not_is_said_too(script, tmp_path: Path):
    said = script("learning_rate").finding(
        load(script, tmp_path, swept("elman", (2, 3)), swept("gru", (1e-4, 1.0)), swept("transformer", (1e-3, 1e-2)))
    )
    assert "elman none" in said
    assert said.endswith("Against expectation, transformer has not the widest")


def test_seeds_that_solve_at_no_rate_are_the_narrowest_in_whatever_order(script, tmp_path: Path):
    """Of three seeds of attention one solves at no rate: its window is not the widest in every seed."""
    none, wide = (2, 3), (1e-4, 1e-1)
    for name, solving in (("first", (none, wide, wide)), ("last", (wide, wide, none))):
        tables = load(script, tmp_path / name, swept("gru", *[(1e-3, 1e-2)] * 3), swept("transformer", *solving))
        window = tables["windows"].set_index("network").loc["transformer"]
        assert np.isnan(window["narrowest seed"]) and window["widest seed"] == 3
        assert script("learning_rate").finding(tables).endswith("transformer has the widest (seeds overlap)")


def test_against_a_network_that_solves_at_no_rate_every_window_is_wider(script, tmp_path: Path):
    tables = load(script, tmp_path, swept("gru", *[(2, 3)] * 2), swept("transformer", *[(1e-3, 1e-2)] * 2))
    assert script("learning_rate").finding(tables).endswith("transformer has the widest (in every seed)")
    assert np.isnan(tables["windows"].set_index("network").loc["gru", "widest seed"])


def test_few_rates_are_not_ranked(script, tmp_path: Path):
    few = RATES[2:5]
    said = script("learning_rate").finding(
        load(script, tmp_path, swept("gru", (1e-3, 1e-3), rates=few), swept("transformer", (1e-4, 1.0), rates=few))
    )
    assert said.endswith("3 rates are too few to rank (9 at least)")


def test_settings_beside_the_rate_are_networks_of_their_own(script):
    without_rate = script("learning_rate").without_rate
    assert without_rate("lstm (lr=0.01)") == "lstm"
    assert without_rate("lstm (hidden=8, lr=1e-05)") == "lstm (hidden=8)"
    assert without_rate("lstm (lr=0.01, clip=1)") == "lstm (clip=1)"
    assert without_rate("lstm") == "lstm"


def test_divergence_is_marked_and_every_panel_has_its_runs(script, tmp_path: Path):
    tables = load(
        script, tmp_path, swept("gru", (1e-3, 1.0), (1e-3, 1.0), diverged_step=3, score=np.nan),
        swept("transformer", (1e-3, 1e-2), (1e-3, 1e-2)),
    )  # fmt: skip
    axes = script("learning_rate").draw(tables).axes
    assert [one.get_title(loc="left") for one in axes] == ["gru", "transformer", ""]
    crosses = [line for line in axes[0].lines if line.get_marker() == "x"]
    assert sum(len(line.get_xdata()) for line in crosses) == 2
    assert tables["windows"].set_index("network").loc["gru", "to"] == 0.3


@pytest.mark.parametrize("words", ["a note of some words", "n" * 60])
def test_long_names_stay_within_their_panels(script, tmp_path: Path, words: str):
    """Also where a value is one long word that no line has room for."""
    settings = [{"trainer": {"clip": clip}, "note": f"{words} {place}"} for place, clip in enumerate([None, 1, 2, 3])]
    groups = [
        [replace(fake, config=fake.config | of_group) for fake in swept("gru", (1e-3, 1e-1))] for of_group in settings
    ]
    tables = load(script, tmp_path, *groups)
    with theme.applied():
        figure = script("learning_rate").draw(tables)
        theme.write_powers(figure)
        FigureCanvasAgg(figure).draw()
        *panels, beside = figure.axes
        for axes in panels:
            (title,) = (text for text in (axes.title, axes._left_title) if text.get_text())
            assert title.get_window_extent().x1 <= axes.get_window_extent().x1
        names = [label.get_window_extent() for label in beside.get_yticklabels()]
        assert min(name.x0 for name in names) >= 0
        assert all(below.y1 < above.y0 for above, below in pairwise(names))
        assert max(axes.get_tightbbox().y1 for axes in panels) < figure._suptitle.get_window_extent().y0


def test_what_did_not_end_is_marked_and_not_counted(script, tmp_path: Path):
    failed = Fake("gru", 7, status="failed", config={"seed": 7, "optimizer": {"lr": 1e-3}})
    tables = load(script, tmp_path, swept("gru", (1e-3, 1e-2)), [failed])
    assert tables["cells"]["runs"].tolist() == [1] * len(RATES)
    axes = script("learning_rate").draw(tables).axes[0]
    assert [len(line.get_xdata()) for line in axes.lines if line.get_marker() in "v+"] == [1]
    assert "1 that did not end" in script("learning_rate").caption(tables)


def test_one_rate_has_no_answer(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match=r"optimizer\.lr"):
        load(script, tmp_path, swept("gru", (1e-3, 1.0), rates=(1e-3,)))


def test_runs_of_which_none_was_tested_have_no_answer(script, tmp_path: Path):
    failed = [Fake("gru", status="failed", config={"optimizer": {"lr": rate}}) for rate in RATES]
    with pytest.raises(NothingToDraw, match="tested"):
        load(script, tmp_path, failed)
