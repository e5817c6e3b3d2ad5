"""Maps of the gradient over time and training, from gradients that are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection, QuadMesh

from fake_gradients import TIMES, compared, felt, vanishing
from fake_runs import STEPS, Fake
from retrograde.core.records import Reading
from retrograde.core.statistics import STATISTICS
from retrograde.figures.comparison import NUMBERS, NothingToDraw


def load(script, outputs: Path, *fakes: Fake):
    return script("gradient_map").load(compared(outputs, *fakes))


def test_a_map_holds_the_largest_component_of_the_lowest_layer(script, tmp_path: Path) -> None:
    maps = load(script, tmp_path, vanishing("lstm", arrives=200))["maps"]
    assert len(maps) == len(STEPS) * len(TIMES)
    assert maps.loc[maps["step"] == 0, "value"].tolist() == [-4, -3, -2, -1, 0]
    assert maps.loc[maps["step"] == 200, "value"].tolist() == [0] * 5


def test_an_infinite_component_counts_before_a_finite_one(script) -> None:
    rows = [("hidden", 5.0, "finite"), ("cell", np.inf, "inf")]
    table = pd.DataFrame(rows, columns=["component", "value", "status"])
    table = table.assign(model="m", seed=0, run="r", step=0, time=0)
    assert script("gradient_map")._largest(table)["status"].tolist() == ["inf"]
    lost = table.assign(status=["censored", "zero"], value=[-300.0, -np.inf])
    assert script("gradient_map")._largest(lost)["status"].tolist() == ["censored"]


def test_the_finding_names_the_step_from_which_the_gradient_arrives(script, tmp_path: Path) -> None:
    """Three decades between the first and the last input; the initial state is not the first input's."""
    fakes = [vanishing("elman", seed) for seed in range(2)]
    fakes += [vanishing("gru", 0, arrives=10), vanishing("gru", 1, arrives=200)]
    fakes += [vanishing("transformer", seed, arrives=0) for seed in range(2)]
    said = script("gradient_map").finding(load(script, tmp_path, *fakes))
    assert said == (
        "The gradient at the first time stays within a factor 100 of that at the last: from step 0 on in transformer, "
        "with 2 of 2 seeds (34 to 100 %); later in gru (from step 10 to 200 on), with 2 of 2 seeds (34 to 100 %); "
        "never in elman, with 0 of 2 seeds (0 to 66 %)"
    )


def test_of_runs_that_did_not_finish_none_has_lost_its_gradient_for_good(script, tmp_path: Path) -> None:
    gradient_map = script("gradient_map")
    going_on = [replace(vanishing("gru", seed), status="running") for seed in range(3)]
    said = gradient_map.finding(load(script, tmp_path / "beside", vanishing("elman"), *going_on))
    assert said.endswith("never in elman, with 0 of 1 seed (0 to 79 %). Not counted: 3 running")
    alone = load(script, tmp_path / "alone", *going_on)
    assert gradient_map.finding(alone) == "No run that is drawn has finished. Not counted: 3 running"
    gradient_map.draw(alone)


def test_a_gradient_that_arrives_and_is_lost_again_does_not_stay(script) -> None:
    arrives = script("gradient_map").arrives
    assert np.isnan(arrives(pd.Series([0.0, 0.0, -3.0], [0, 10, 200])))
    assert arrives(pd.Series([np.nan, -2.0, 2.0], [0, 10, 200])) == 10
    assert np.isnan(arrives(pd.Series([0.0, np.nan], [0, 10])))


def test_what_is_lost_does_not_arrive_and_what_is_infinite_is_not_compared(script) -> None:
    rows = [(0, 0, -300.0, "censored"), (0, 1, 0.0, "finite"), (9, 0, np.inf, "inf"), (9, 1, 0.0, "finite")]
    ratio = script("gradient_map").arriving(pd.DataFrame(rows, columns=["step", "time", "value", "status"]))
    assert ratio[0] == -np.inf and np.isnan(ratio[9])


def test_every_run_is_a_map_on_one_scale_with_its_true_steps(script, tmp_path: Path) -> None:
    fakes = [vanishing("elman", 0), vanishing("elman", 1), vanishing("gru", 0, arrives=10)]
    figure = script("gradient_map").draw(load(script, tmp_path, *fakes))
    meshes = [mesh for axes in figure.axes[:4] for mesh in axes.collections if isinstance(mesh, QuadMesh)]
    assert len(meshes) == 3
    assert {(mesh.norm.vmin, mesh.norm.vmax) for mesh in meshes} == {(-4.0, 0.0)}
    across = np.log10(1 + np.array(STEPS))
    edges = meshes[0].get_coordinates()[:, 0, 1]
    np.testing.assert_allclose(edges[1:-1], (across[1:] + across[:-1]) / 2)
    np.testing.assert_allclose(meshes[0].get_coordinates()[0, :, 0], np.arange(-1.5, 4))


def test_what_is_no_number_keeps_its_place_and_is_named(script, tmp_path: Path) -> None:
    odd = felt(
        "elman", 0, {step: (-np.inf, -300.0, np.inf, np.nan, 0.0) if step == 200 else (0.0,) * 5 for step in STEPS},
        ("zero", "censored", "inf", "nan", "finite"),
    )  # fmt: skip
    figure = script("gradient_map").draw(load(script, tmp_path, odd))
    (legend,) = figure.legends
    assert [text.get_text().split(":")[0] for text in legend.get_texts()] == [
        "zero",
        "censored",
        "infinite",
        "no number",
    ]
    cells = [one for one in figure.axes[0].collections if isinstance(one, PolyCollection)]
    assert [one.get_paths()[0].get_extents().x0 for one in cells] == [-1.5, -0.5, 0.5, 1.5]
    assert len({tuple(one.get_facecolor()[0]) for one in cells}) == 4


def test_a_run_without_readings_is_shown_as_such(script, tmp_path: Path) -> None:
    tables = load(script, tmp_path, vanishing("gru"), Fake("gru", 1, status="failed"))
    assert tables[NUMBERS]["snapshots"].tolist() == [len(STEPS), 0]
    figure = script("gradient_map").draw(tables)
    assert [text.get_text() for text in figure.axes[1].texts] == ["nothing recorded"]
    assert "with 0 of 1 seed" in script("gradient_map").finding(tables)


def test_of_many_models_some_are_drawn_by_their_place_and_the_others_named(script, tmp_path: Path) -> None:
    fakes = [vanishing(f"m{place}", seed) for place in range(10) for seed in range(3)]
    tables = load(script, tmp_path, *fakes)
    drawn = sorted(tables[NUMBERS]["model"].astype(str).unique())
    assert drawn == ["m0", "m2", "m4", "m7", "m9"]
    assert script("gradient_map").finding(tables).startswith("Of the 5 models drawn, the gradient")
    said = script("gradient_map").caption(tables)
    assert (
        "15 runs left out: drawn are 5 models, evenly spread over the list of 10, and of each the first seeds" in said
    )
    assert "The other models: m1, m3, m5, m6 and m8" in said


def test_colours_reach_over_the_decades_that_hold_most(script) -> None:
    scale = script("gradient_map").scale
    assert scale(np.array([-300.0, -3.5, -2.0, 0.4])) == (-4.0, 1.0)
    assert scale(np.array([-3.0, -2.0, 300.0])) == (-3.0, 9.0)
    assert scale(np.array([-2.0, -1.5])) == (-2.0, -1.0)
    assert scale(np.array([0.0, 0.0])) == (0.0, 1.0)


def test_the_finding_is_of_all_times_and_each_run_keeps_its_own_last_snapshot(script) -> None:
    """Of 400 times only the first input's gradient is lost: no time that is drawn but the initial state's is near."""
    module, rows = script("gradient_map"), []
    for run, last in (("a", 70), ("b", 71)):
        rows += [(run, step, time) for step in range(last + 1) for time in (-1, 0, 1, 399)]
        rows += [(run, last, time) for time in range(2, 399)]
    maps = pd.DataFrame(rows, columns=["run", "step", "time"]).assign(value=0.0, status="finite")
    maps.loc[maps["time"] == 0, "value"] = -9.0
    kept = module.thinned(maps)
    assert kept.groupby("run")["step"].agg(["min", "max", "nunique"]).to_numpy().tolist() == [[0, 70, 60], [0, 71, 60]]
    assert kept["time"].nunique() == 160 and 0 not in set(kept["time"])
    numbers = pd.DataFrame({"times": [400, 401], "snapshots": [71, 72]})
    assert module._thinned(kept, numbers) == (
        " Drawn are 160 of 401 times and 60 of 72 snapshots of a run, evenly spread; the finding is of all."
    )
    assert module._thinned(maps, numbers) == ""


def test_of_a_long_sequence_the_first_input_counts(script, tmp_path: Path) -> None:
    """Of 1,001 times the drawn ones go from -1 to 5; the gradient is lost at 0 alone."""

    def also(step: int):
        values = np.zeros((len(STATISTICS), 1001))
        values[:, 1] = -9.0
        over = {"statistic": STATISTICS, "time": range(-1, 1000)}
        yield "state_gradient", Reading("total/0.forward.hidden", values, over, "log10 loss per state")

    tables = load(script, tmp_path, Fake("gru", also=also))
    assert tables["maps"]["time"].nunique() == 160
    assert tables[NUMBERS]["first over last time at the last snapshot (log10)"].tolist() == [-9]
    assert "never in gru" in script("gradient_map").finding(tables)
    assert "Drawn are 160 of 1,001 times, evenly spread" in script("gradient_map").caption(tables)


def test_a_single_snapshot_is_no_map(script, tmp_path: Path) -> None:
    with pytest.raises(NothingToDraw, match="two snapshots or more"):
        load(script, tmp_path, felt("gru", 0, {0: (0.0,) * 5}))


def test_runs_without_the_reading_have_nothing_to_draw(script, tmp_path: Path) -> None:
    with pytest.raises(NothingToDraw, match="state_gradient/total"):
        load(script, tmp_path, Fake("gru"))
