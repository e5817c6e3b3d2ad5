"""Attention with and without 1/√d, on runs whose second query looks at two keys with known weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fake_runs import Fake, write_run
from retrograde.core.records import Reading
from retrograde.figures.comparison import NUMBERS, NothingToDraw, comparisons
from retrograde.record.store import FolderStore

WIDTH = 64


def attentive(d: int, is_divided: bool, apart: float, seed: int = 0, solved: int | None = 100) -> Fake:
    """One layer of heads of width ``d``, whose second query has two scores that lie ``apart``."""
    heads = WIDTH // d
    share = 1 / (1 + np.exp(-apart))
    weights = np.array([[1.0, 0.0], [share, 1 - share]])
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share)) / np.log(2)

    def also(step: int) -> list[tuple[str, Reading]]:
        dims = {"sample": [0], "head": range(heads), "query": range(2), "key": range(2)}
        left = entropy if step == 0 else 0.25
        return [
            ("attention", Reading("map/0", np.tile(weights, (1, heads, 1, 1)), dims, "share")),
            ("attention", Reading("entropy_share/0", np.full(heads, left), {"head": range(heads)}, "share")),
        ]

    model = {"_target_": "transformer", "hidden": WIDTH, "heads": heads, "scaling": is_divided}
    more = {"solved_step": solved}
    return Fake("transformer", seed, config={"model": model}, also=also, solved=solved is not None, more=more)


def as_theory_says(d: int, is_divided: bool, seed: int = 0, solved: int | None = 100) -> Fake:
    return attentive(d, is_divided, 0.2 if is_divided else 0.2 * d**0.5, seed, solved)


def load(script, outputs: Path, *fakes: Fake):
    for fake in fakes:
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs))
    return script("scaling").load(comparison)


def test_scores_are_read_from_the_weights(script, tmp_path: Path):
    """Weights of 3/4 and 1/4 are of scores ln 3 apart: deviation ln 3/√2, trace (1 - 10/16)/(1 - 1/2)."""
    fakes = [attentive(d, divided, 0.0 if divided else np.log(3)) for d in (4, 16) for divided in (False, True)]
    numbers = load(script, tmp_path, *fakes)[NUMBERS].query("d == 4").sort_values("scores", ascending=False)
    deviation = numbers["standard deviation of the scores"]
    np.testing.assert_allclose(deviation, [np.log(3) / 2**0.5, 0], atol=1e-9, rtol=1e-6)
    np.testing.assert_allclose(numbers["gradient through softmax, share of even attention's"], [0.75, 1.0], rtol=1e-6)
    by_hand = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25)) / np.log(2)
    np.testing.assert_allclose(numbers["entropy, share of even attention's"], [by_hand, 1.0], rtol=1e-6)
    assert numbers["entropy after training"].tolist() == [0.25, 0.25]


def test_theory_of_two_keys_is_the_mean_over_their_difference(script):
    """Scores of deviation s differ by a Gaussian of deviation s√2; integrated on a grid in place of drawn."""
    x = np.linspace(-8, 8, 20001)
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    share = 1 / (1 + np.exp(-1.5 * 2**0.5 * x))
    gradient = np.trapezoid(density * 4 * share * (1 - share), x)
    assert script("scaling").of_gaussian_scores(1.5, 2)[1] == pytest.approx(gradient, abs=0.04)
    assert script("scaling").of_gaussian_scores(0.0, 5) == pytest.approx((1.0, 1.0))


def test_what_comes_out_as_theory_says_is_said(script, tmp_path: Path):
    fakes = [as_theory_says(d, divided, seed) for d in (4, 16) for divided in (True, False) for seed in (0, 1)]
    tables = load(script, tmp_path, *fakes)
    said, caption = script("scaling").finding(tables), script("scaling").caption(tables)
    assert said.startswith("Without 1/√d scores grow as d to the power 0.50 and at d = 16 leave ")
    assert (
        "of the gradient, as theory says. That learning suffers is not shown: 2 of 2 seeds solve the task, 2 of" in said
    )
    assert "Power of d: 0.50 (as theory says 0.5), with 1/√d 0.00 (as theory says 0)." in caption
    assert "solved without by 2 of 2 seeds (34 to 100 %), step 100; with 1/√d by 2 of 2 seeds" in caption


def test_what_does_not_is_said_too(script, tmp_path: Path):
    """Scores that stay as they are without 1/√d."""
    fakes = [attentive(d, divided, 0.2) for d in (4, 16) for divided in (True, False)]
    said = script("scaling").finding(load(script, tmp_path, *fakes))
    assert "to the power 0.00 (theory says 0.5)" in said
    assert "as theory says" not in said


def test_learning_is_said_to_suffer_where_no_interval_is_shared(script, tmp_path: Path):
    fakes = [as_theory_says(4, divided) for divided in (True, False)]
    fakes += [as_theory_says(16, True, seed) for seed in range(5)]
    fakes += [as_theory_says(16, False, seed, solved=None) for seed in range(5)]
    tables = load(script, tmp_path, *fakes)
    assert "Learning fails: 0 of 5 seeds solve the task, 5 of 5 with it" in script("scaling").finding(tables)


@pytest.mark.parametrize("solved", [150, None])
def test_learning_suffers_where_each_seed_takes_longer_or_fails(script, tmp_path: Path, solved: int | None):
    fakes = [as_theory_says(4, divided) for divided in (True, False)]
    fakes += [as_theory_says(16, True, seed, 50) for seed in range(3)]
    fakes += [as_theory_says(16, False, seed, solved) for seed in range(3)]
    said = script("scaling").finding(load(script, tmp_path, *fakes))
    late = "3 of 3 seeds solve the task, 3 of 3 with it, each that does later than all with it"
    counts = late if solved else "0 of 3 seeds solve the task, 3 of 3 with it"
    assert f"Learning suffers: {counts} (by chance 1 in 20)" in said


def test_runs_that_did_not_finish_have_not_failed_to_learn(script, tmp_path: Path):
    fakes = [as_theory_says(4, divided) for divided in (True, False)]
    fakes += [as_theory_says(16, divided, seed) for divided in (True, False) for seed in range(5)]
    fakes[7:] = [replace(fake, status="running", more={}) for fake in fakes[7:]]
    tables = load(script, tmp_path, *fakes)
    said = script("scaling").finding(tables)
    assert said.endswith("is not shown: 0 of 0 seeds solve the task, 5 of 5 with it. Not counted: 5 running")
    assert "solved without by 0 of 0 seeds" in script("scaling").caption(tables)


def test_every_panel_has_its_marks_and_unsolved_runs_a_cross(script, tmp_path: Path):
    fakes = [as_theory_says(d, divided, solved=None if d == 16 else 50) for d in (4, 16) for divided in (True, False)]
    tables = load(script, tmp_path, *fakes)
    figure = script("scaling").draw(tables)
    assert len(figure.axes) == 4
    crosses = [line for line in figure.axes[3].lines if line.get_marker() == "x"]
    assert [line.get_ydata().tolist() for line in crosses] == [[200], [200]]
    assert "1 seed for each d" in script("scaling").caption(tables)


def test_runs_without_both_settings_have_no_answer(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match=r"model\.scaling=true,false"):
        load(script, tmp_path, as_theory_says(4, True), as_theory_says(16, True))


def test_runs_of_one_width_have_no_answer(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match=r"model\.heads"):
        load(script, tmp_path, as_theory_says(4, True), as_theory_says(4, False))
