"""Horizons over lags, on runs whose horizons and ends are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fake_runs import CARD, Fake, write_run
from retrograde.figures.comparison import NUMBERS, STUDY, NothingToDraw, comparisons
from retrograde.record.store import FolderStore

LAG, HORIZON = "task's lags, 90 %", "horizon after (lags)"


def far(lag: int):
    """The card of a variant that asks for one lag."""
    return replace(CARD, variant=f"lag {lag}", lags=((lag, 1),))


def load(script, outputs: Path, *fakes: Fake):
    for fake in fakes:
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs), STUDY)
    return script("horizon").load(comparison)


def mixed(reaching: int, short: int, solved: bool = True) -> list[Fake]:
    """Horizon 8 and, by a gradient that keeps a third a lag, 4; the lag is 6."""
    made = [Fake("gru", seed, card=far(6), solved=solved) for seed in range(reaching)]
    return made + [Fake("elman", seed, card=far(6), keeps=(0.5, 1 / 3), solved=not solved) for seed in range(short)]


def test_the_last_snapshot_gives_the_horizon_and_the_card_the_lag(script, tmp_path: Path) -> None:
    fakes = [Fake("elman", keeps=(0.9, 1 / 3), card=far(4)), Fake("elman", keeps=(0.9, 0.9), card=far(6), seed=1)]
    numbers = load(script, tmp_path, *fakes)[NUMBERS]
    assert numbers[HORIZON].tolist() == [4, 8]
    assert numbers[LAG].tolist() == [4, 6]
    assert numbers["step"].tolist() == [200, 200]


def test_a_horizon_equal_to_the_lag_reaches_it(script) -> None:
    rows = [(6.0, "solved"), (6.5, "diverged"), (5.0, "unsolved"), (np.nan, "solved"), (7.0, "failed")]
    numbers = pd.DataFrame(rows, columns=[HORIZON, "outcome"]).assign(**{LAG: 6.0})
    counts = script("horizon").reach(numbers)
    assert counts.loc["reaches the lag"].tolist() == [1, 2]
    assert counts.loc["falls short of it"].tolist() == [0, 1]


def test_what_comes_out_as_expected_is_said_with_intervals(script, tmp_path: Path) -> None:
    said = script("horizon").finding(load(script, tmp_path, *mixed(5, 5)))
    assert said == (
        "5 of 5 runs (57 to 100 %) solve the task if their gradient reaches its lag after training, "
        "against 0 of 5 runs (0 to 43 %) if it falls short. As expected those that reach it solve more often"
    )


def test_what_does_not_is_said_too(script, tmp_path: Path) -> None:
    said = script("horizon").finding(load(script, tmp_path, *mixed(5, 5, solved=False)))
    assert said.endswith("Against expectation those that reach it solve less often")


@pytest.mark.parametrize(
    ("reaching", "short", "words"),
    [(1, 1, "is not told"), (2, 0, "none falls short of it. There is nothing"), (0, 2, "No run's gradient reaches")],
)
def test_few_runs_tell_nothing(script, tmp_path: Path, reaching: int, short: int, words: str) -> None:
    assert words in script("horizon").finding(load(script, tmp_path, *mixed(reaching, short)))


def test_every_run_has_a_mark_and_the_unsolved_another_one(script, tmp_path: Path) -> None:
    fakes = [*mixed(2, 3), Fake("lstm", card=far(3), status="failed")]
    tables = load(script, tmp_path, *fakes)
    figure = script("horizon").draw(tables)
    marks = {"o": 0, "x": 0, "^": 0}
    for axes in figure.axes:
        for line in axes.lines:
            if line.get_marker() in marks:
                marks[line.get_marker()] += len(line.get_xdata())
    assert marks == {"o": 2, "x": 3, "^": 1}
    assert "6 runs, of which 1 run that did not finish are not counted" in script("horizon").caption(tables)


def test_runs_with_one_lag_lie_side_by_side_on_both_sides_of_it(script, tmp_path: Path) -> None:
    tables = load(script, tmp_path, *[Fake("gru", seed, card=far(6)) for seed in range(3)])
    (axes,) = script("horizon").draw(tables).axes
    (marks,) = (line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()))
    assert marks.get_xdata()[1] == pytest.approx(6) and len(set(marks.get_xdata())) == 3
    low, high = axes.get_xlim()
    assert low < min(marks.get_xdata()) and max(marks.get_xdata()) < high


def test_lags_far_apart_lie_on_logarithmic_axes(script, tmp_path: Path) -> None:
    tables = load(script, tmp_path, *[Fake("gru", lag, card=far(lag)) for lag in (1, 4, 64)])
    (axes,) = script("horizon").draw(tables).axes
    assert axes.get_xscale() == "log" and axes.get_yscale() == "symlog"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4", "64"]


def test_many_architectures_share_a_panel(script, tmp_path: Path) -> None:
    tables = load(script, tmp_path, *[Fake(f"model{place}", card=far(6)) for place in range(10)])
    (axes,) = script("horizon").draw(tables).axes
    assert axes.get_title("left") == "all 10 architectures"


def test_a_run_without_a_horizon_is_counted_apart(script, tmp_path: Path) -> None:
    broken = Fake("gru", 1, card=far(6), gradient=(float("nan"),) * 9, statuses=("nan",) * 9)
    tables = load(script, tmp_path, Fake("gru", card=far(6)), broken)
    assert tables[NUMBERS][HORIZON].isna().tolist() == [False, True]
    (axes,) = script("horizon").draw(tables).axes
    assert "without a horizon: 1 run" in [text.get_text() for text in axes.texts]


def test_a_run_of_which_no_snapshot_has_a_horizon_is_counted_apart(script, tmp_path: Path) -> None:
    """Of five runs one was never read and one is not finished, which is said once of it."""
    fakes = [Fake("gru", seed, card=far(6)) for seed in range(4)]
    folders = [write_run(tmp_path, fake) for fake in (*fakes, Fake("elman", card=far(6), status="failed"))]
    for folder in folders[-2:]:
        (folder.tables / "readings/lag_gradient/horizon.parquet").unlink()
    tables = load(script, tmp_path)
    said = "5 runs, of which 1 run that did not finish and 1 run without a horizon are not counted"
    assert said in script("horizon").caption(tables)
    assert script("horizon").finding(tables).startswith("3 of 3 runs")
    figure = script("horizon").draw(tables)
    notes = [text.get_text() for axes in figure.axes for text in axes.texts if text.get_text()]
    assert notes == ["without a horizon: 1 run"] * 2
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["solved", "horizon = lag"]


def test_tasks_without_a_lag_have_nothing_to_draw(script, tmp_path: Path) -> None:
    with pytest.raises(NothingToDraw, match="name no lag"):
        load(script, tmp_path, Fake("gru", card=replace(CARD, lags=())))
