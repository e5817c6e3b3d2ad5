"""What the learning curves claim, from runs whose numbers are known."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from fake_runs import CARD, Fake, shallow, write_run
from retrograde.figures.comparison import NUMBERS, NothingToDraw, comparisons
from retrograde.record.store import FolderStore


def load(script, outputs: Path, *fakes: Fake):
    for fake in fakes:
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs))
    return script("learning").load(comparison)


def median_line(axes):
    return max(axes.lines, key=lambda line: line.get_linewidth() if len(line.get_xdata()) > 1 else 0)


def test_finding_tells_all_some_and_none(script, tmp_path: Path):
    tables = load(
        script,
        tmp_path,
        Fake("elman", 0, solved=False),
        Fake("gru", 0, more={"solved_step": 100}),
        Fake("gru", 1, more={"solved_step": 300}),
        Fake("lstm", 0),
        Fake("lstm", 1, solved=False),
        Fake("tcn", 0, status="failed"),
    )
    assert script("learning").finding(tables) == (
        "Solved with every finished seed by gru (step 200); solved by lstm with 1 of 2 seeds (step 200); not solved by "
        "elman (best seed 0.02), where the trivial rule scores 0; no run of tcn has finished. Not counted: 1 failed"
    )


def test_what_did_not_finish_is_no_seed_that_did_not_solve(script, tmp_path: Path):
    fakes = [Fake("gru", 0), Fake("gru", 1, status="running"), Fake("gru", 2, status="failed")]
    assert script("learning").finding(load(script, tmp_path, *fakes)) == (
        "Solved with every finished seed by gru (step 200). Not counted: 1 failed, 1 running"
    )


def test_a_model_that_diverged_has_not_solved_the_task(script, tmp_path: Path):
    diverged = Fake("gru", solved=False, more={"diverged_step": 7, "score": None, "solved_step": None})
    said = script("learning").finding(load(script, tmp_path, Fake("lstm"), diverged))
    assert said.startswith("Solved with every seed by lstm (step 200); not solved by gru (diverged), where")


def test_a_seed_that_stopped_as_solved_keeps_its_last_value_in_the_median(script, tmp_path: Path):
    tables = load(
        script,
        tmp_path,
        Fake("gru", 0, validation=(0.5, 0.95)),
        Fake("gru", 1, validation=(0.1, 0.2, 0.3, 0.96)),
        Fake("gru", 2, validation=(0.3, 0.4, 0.99)),
    )
    line = median_line(script("learning").draw(tables).axes[0])
    assert line.get_xdata().tolist() == [100, 200, 300, 400]
    np.testing.assert_allclose(line.get_ydata(), [0.3, 0.4, 0.95, 0.96])


def test_a_failed_run_is_drawn_with_a_cross_and_has_no_part_in_the_median(script, tmp_path: Path):
    tables = load(
        script,
        tmp_path,
        Fake("gru", 0, solved=False, validation=(0.1, 0.2)),
        Fake("gru", 1, status="failed", validation=(0.7,)),
    )
    axes = script("learning").draw(tables).axes[0]
    np.testing.assert_allclose(median_line(axes).get_ydata(), [0.1, 0.2])
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    assert (cross.get_xdata().item(), cross.get_ydata().item()) == (100, 0.7)


def test_what_is_not_finite_or_beyond_the_axis_is_counted(script, tmp_path: Path):
    tables = load(script, tmp_path, Fake("gru", 0, solved=False, validation=(0.1, math.nan, -math.inf, -40.0, 0.2)))
    axes = script("learning").draw(tables).axes[0]
    said = [text.get_text().replace("\n", " ") for text in axes.texts]
    assert "gru: 1 inf, 1 nan, 1 beyond the axis" in said


def test_trivial_rule_and_threshold_are_drawn_and_named(script, tmp_path: Path):
    tables = load(script, tmp_path, Fake("gru"))
    above, below = script("learning").draw(tables).axes
    assert {text.get_text() for text in above.texts if text.get_text()} == {"always 1\n0", "solved\n0.94"}
    assert {text.get_text() for text in below.texts if text.get_text()} == {"always 1\n0.1667"}


def test_marks_of_one_step_can_be_counted(script, tmp_path: Path):
    tables = load(script, tmp_path, *(Fake("gru", seed) for seed in range(3)))
    axes = script("learning").draw(tables).axes[0]
    marks = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "None"]
    assert len(set(marks)) == 3
    assert min(marks) == 0.94


def test_numbers_report_validation_and_test_apart(script, tmp_path: Path):
    numbers = load(script, tmp_path, Fake("gru", 1, more={"validation_score": 0.99}))[NUMBERS]
    assert numbers[["outcome", "solved at step", "best validation score", "test score"]].to_numpy().tolist() == [
        ["solved", 200, 0.99, 0.96]
    ]


def test_a_run_that_has_not_been_validated_gives_nothing_to_draw(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match="validated"):
        load(script, tmp_path, Fake("gru", status="running", validation=()))


def test_a_model_is_measured_by_the_best_shallow_rule_that_was_run(script, tmp_path: Path):
    tables = load(script, tmp_path, Fake("elman", solved=False), shallow("window", 0.3), shallow("bag", 0.1))
    assert script("learning").finding(tables) == (
        "Not solved by elman (best seed 0.02), where the best shallow rule, last 10 steps, scores 0.3"
    )
    assert set(tables["curves"]["model"]) == {"elman"}
    above, _ = script("learning").draw(tables).axes
    assert "shallow rule:\nlast 10 steps\n0.3" in {text.get_text() for text in above.texts}


def test_names_of_lines_that_lie_close_do_not_cover_one_another(script, tmp_path: Path):
    tables = load(script, tmp_path, Fake("elman", solved=False), shallow("bag", 0.001))
    figure = script("learning").draw(tables)
    figure.canvas.draw()
    boxes = sorted(
        (text.get_window_extent() for text in figure.axes[0].texts if text.get_text()), key=lambda box: box.y0
    )
    assert len(boxes) == 3
    assert all(above.y0 >= below.y1 for below, above in pairwise(boxes))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("seeds", [1, 2, 6])
def test_a_run_of_which_nothing_is_finite_is_drawn_and_counted(script, tmp_path: Path, value, seeds):
    card = replace(CARD, window="last steps seen", baselines=(replace(CARD.baselines[0], loss=math.inf),))
    fakes = [Fake("gru", seed, card=card, solved=False, validation=(value, value)) for seed in range(seeds)]
    figure = script("learning").draw(load(script, tmp_path, *fakes))
    figure.savefig(tmp_path / "figure.svg")
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert math.isfinite(low) and math.isfinite(high) and low < high
        (note,) = [text.get_text() for text in axes.texts if text.get_text().startswith("gru: ")]
        assert f"{2 * seeds} {'nan' if math.isnan(value) else 'inf'}" in note


def test_a_rule_of_infinite_loss_is_named_where_no_axis_can_show_it(script, tmp_path: Path):
    worse = replace(CARD.baselines[0], rule="always 2", loss=math.inf)
    tables = load(script, tmp_path, Fake("gru", card=replace(CARD, baselines=(*CARD.baselines, worse))))
    _, below = script("learning").draw(tables).axes
    assert {text.get_text() for text in below.texts} == {"always 1\n0.1667", "always 2: ∞"}
    assert below.get_ylim()[1] == pytest.approx(1.4 * 0.9 / 6, rel=0.2)


@pytest.mark.parametrize(
    ("scores", "limits"),
    [
        ((-0.5, -0.25), (-4.2, 0.2)),  # windows of -4 and -2 steps: all of them, the right way round
        ((-50.0, 0.5), (-0.4, 4.22)),  # -400 steps beside 4: a tenth below
        ((0.25, 0.5), (-0.2, 4.2)),
        ((0.0, 0.0), (-0.05, 1.05)),
    ],
)
def test_an_effective_window_far_below_nothing_does_not_squash_the_rest(script, tmp_path: Path, scores, limits):
    card = replace(CARD, window="last steps seen")
    tables = load(script, tmp_path, Fake("gru", card=card, solved=False, validation=scores))
    axes = script("learning").draw(tables).axes[2]
    assert axes.get_ylim() == pytest.approx(limits)
    said = [text.get_text() for text in axes.texts if "beyond the axis" in text.get_text()]
    assert said == (["gru: 1 beyond the axis"] if min(scores) < -1 else [])


def test_the_caption_says_which_rules_are_dashed(script, tmp_path: Path):
    caption = script("learning").caption
    trivial = caption(load(script, tmp_path / "without", Fake("gru")))
    both = caption(load(script, tmp_path / "with", Fake("gru"), shallow("bag", 0.1)))
    assert "the task's trivial rules and the score" in trivial and "shallow" not in trivial
    assert "the task's trivial rules, the best shallow rule that was run and the score" in both


def test_the_effective_window_is_a_curve_of_its_own(script, tmp_path: Path):
    card = replace(CARD, window="last steps seen")
    tables = load(script, tmp_path, Fake("gru", card=card, validation=(0.25, 0.5)))
    axes = script("learning").draw(tables).axes
    assert len(axes) == 3 and axes[2].get_ylabel() == "effective window\n(last steps seen)"
    np.testing.assert_allclose(median_line(axes[2]).get_ydata(), [2, 4])
