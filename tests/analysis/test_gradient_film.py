"""The animation of the gradient over time, from gradients that are known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fake_gradients import compared, felt, vanishing
from fake_runs import STEPS


def test_a_frame_shows_the_latest_snapshot_and_who_has_ended(script, tmp_path: Path) -> None:
    fakes = [vanishing("elman"), felt("gru", 0, {0: (1.0,) * 5, 10: (2.0,) * 5})]
    tables = script("gradient_map").load(compared(tmp_path, *fakes))
    shown = script("gradient_film").at_step(tables["maps"], 200)
    assert shown.groupby("model", observed=True)["step"].first().to_dict() == {"elman": 200, "gru": 10}
    assert shown.groupby("model", observed=True)["ended"].all().to_dict() == {"elman": False, "gru": True}
    assert shown.loc[shown["model"] == "gru", "value"].tolist() == [2.0] * 5


def test_an_animation_has_a_frame_a_step_and_the_same_bytes_again(script, tmp_path: Path, capsys) -> None:
    outputs = tmp_path / "outputs"
    compared(outputs, vanishing("elman"))
    paths = [tmp_path / "new" / "flow.gif", tmp_path / "again.gif"]
    for path in paths:
        assert script("gradient_film").main([str(outputs), str(path)]) == 0
    assert f"{paths[0]}: 3 frames" in capsys.readouterr().out
    with Image.open(paths[0]) as made:
        assert made.n_frames == len(STEPS) and made.info["duration"] == 500
        assert made.size[0] == round(7.2 * 140)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_lines_are_what_the_snapshot_holds_and_what_lies_beyond_is_marked(script, tmp_path: Path) -> None:
    module = script("gradient_film")
    (axes,) = module.theme.panels(1, 2.0)[1]
    rows = [(0, -1.0, "finite"), (1, -30.0, "finite"), (2, np.inf, "inf"), (3, np.nan, "nan")]
    of_model = pd.DataFrame(rows, columns=["time", "value", "status"]).assign(run="r", ended=False)
    module._draw_lines(axes, of_model, "black", (-4.0, 0.0))
    line, below, above, unknown = axes.lines
    np.testing.assert_array_equal(line.get_ydata(), [-1.0, np.nan, np.nan, np.nan])
    assert [list(marks.get_xdata()) for marks in (below, above, unknown)] == [[1], [2], [3]]
    assert (list(below.get_ydata()), list(above.get_ydata())) == ([-4.0], [0.0])


@pytest.mark.parametrize("name", ["flow.avi", "flow"])
def test_another_ending_is_refused_in_one_line(script, tmp_path: Path, capsys, name: str) -> None:
    assert script("gradient_film").main([str(tmp_path), name]) == 1
    said = capsys.readouterr().err
    assert said == f"'{name}' does not say what is to be written: an animation ends in .gif or .mp4\n"


def test_a_film_without_ffmpeg_names_it(script, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert script("gradient_film").main([str(tmp_path), "flow.mp4"]) == 1
    assert "'flow.mp4' needs the program ffmpeg" in capsys.readouterr().err
