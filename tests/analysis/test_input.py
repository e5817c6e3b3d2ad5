"""What the first layer makes of words, on runs with known losses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fake_runs import Fake, write_run
from retrograde.figures.comparison import NUMBERS, NothingToDraw, comparisons
from retrograde.record.store import FolderStore

PLACES = {"OneHot": "embedding", "Learned": "embedding", "Pretrained": "pretrained"}


def reading(kind: str, losses: tuple[float, ...], seed: int = 0, test: float | None = None, **settings) -> Fake:
    """A run with these validation losses, at steps 100, 200 and so on; the last one is the test's too."""
    embedding = {"_target_": f"retrograde.layers.{PLACES[kind]}.{kind}", **settings}
    scores = tuple(1 - 6 * loss for loss in losses)  # as fake runs have it: the loss is (1 - score)/6
    more = {"loss": losses[-1] if test is None else test, "solved": False}
    return Fake(
        "gru", seed, validation=scores, more=more, config={"model": {"_target_": "gru", "embedding": embedding}}
    )


def pretrained(frozen: bool, losses: tuple[float, ...], seed: int = 0, path: str = "vectors.txt", **settings) -> Fake:
    return reading("Pretrained", losses, seed, path=path, frozen=frozen, **settings)


def as_theory_says() -> list[Fake]:
    """All reach 0.2: pretrained vectors at step 100, the others at 300 and 200; one-hot and learned end alike."""
    fakes = []
    for seed, less in enumerate((0.0, 0.01)):
        fakes.append(reading("OneHot", (0.5, 0.3, 0.2 - less), seed))
        fakes.append(reading("Learned", (0.4, 0.2, 0.195 - less), seed))
        fakes.append(pretrained(True, (0.2, 0.15, 0.14 - less), seed))
        fakes.append(pretrained(False, (0.2, 0.12, 0.1 - less), seed))
    return fakes


def load(script, outputs: Path, *fakes: Fake):
    for fake in fakes:
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs))
    return script("input").load(comparison)


def test_steps_are_those_to_the_loss_that_all_reach(script, tmp_path: Path):
    numbers = load(script, tmp_path, *as_theory_says())[NUMBERS]
    assert numbers["common loss (nats)"].tolist() == pytest.approx([0.2] * 8)
    steps = numbers.groupby("embedding", sort=False)["steps to the common loss"].apply(list).to_dict()
    assert steps == {
        "one-hot": [300, 300],
        "learned": [200, 200],
        "pretrained (frozen)": [100, 100],
        "pretrained (tuned)": [100, 100],
    }


def test_what_comes_out_as_theory_says_is_said(script, tmp_path: Path):
    said = script("input").finding(load(script, tmp_path, *as_theory_says()))
    assert "gru (n = 2) one-hot 0.20 (0.19 to 0.20; 300), learned 0.19 (0.18 to 0.20; 200)" in said
    assert "pretrained (frozen) 0.14 (0.13 to 0.14; 100)" in said
    assert said.endswith(": as theory says")


def test_what_does_not_is_said_too(script, tmp_path: Path):
    """One seed of pretrained vectors that is no sooner, frozen ones that end lower, one-hot words that end higher."""
    fakes = [reading("Learned", (0.4, 0.2)), reading("OneHot", (0.5, 0.3))]
    fakes += [pretrained(True, (0.3, 0.1)), pretrained(True, (0.4, 0.1), seed=1), pretrained(False, (0.3, 0.2))]
    said = script("input").finding(load(script, tmp_path, *fakes))
    assert said.endswith(
        "against theory one-hot ends above learned (gru); pretrained (frozen) is not sooner than learned (gru); "
        "pretrained (frozen) ends below pretrained (tuned) (gru)"
    )


def test_a_run_that_diverged_is_censored_and_sets_no_loss(script, tmp_path: Path):
    fakes = [reading("Learned", (0.4, 0.2)), reading("Learned", (0.4, 0.2), seed=1)]
    lost = reading("Learned", (0.9,), seed=2)
    lost = replace(lost, more=lost.more | {"diverged_step": 120, "loss": None, "score": None})
    tables = load(script, tmp_path, *fakes, lost, reading("OneHot", (0.3, 0.2)))
    numbers = tables[NUMBERS]
    assert numbers["common loss (nats)"].tolist() == pytest.approx([0.2] * 4)
    of_learned = numbers[numbers["embedding"] == "learned"]
    estimate = script("input").steps(of_learned)
    assert (estimate.value, estimate.low, estimate.high) == (200, 200, np.inf)
    assert np.isfinite([axes.get_ylim() for axes in script("input").draw(tables).axes]).all()


def test_files_are_told_apart_where_there_are_several(script, tmp_path: Path):
    fakes = [pretrained(True, (0.3, 0.2), path=f"made/{name}.txt") for name in ("cbow", "skipgram")]
    numbers = load(script, tmp_path, *fakes, reading("Learned", (0.4, 0.2)))[NUMBERS]
    assert numbers["embedding"].tolist() == ["learned", "pretrained (frozen) cbow", "pretrained (frozen) skipgram"]


def test_every_run_is_a_line_and_a_mark(script, tmp_path: Path):
    tables = load(script, tmp_path, *as_theory_says())
    left, right = script("input").draw(tables).axes
    validations = [line for line in left.lines if len(line.get_xdata()) == 3]
    assert len(validations) == 8 + 4  # runs and medians
    assert sum(len(line.get_xdata()) for line in right.lines if line.get_marker() in "os^D") == 8
    said = script("input").caption(tables)
    assert "2 seeds for each, every one drawn: 2 seeds are few for a median" in said
    assert "Parameters, median: one-hot 1,234, learned 1,234" in said


def test_losses_are_those_of_the_runs(script, tmp_path: Path):
    curves = load(script, tmp_path, *as_theory_says())["curves"]
    of_one_hot = curves[(curves["embedding"] == "one-hot") & (curves["seed"] == 0)]
    np.testing.assert_allclose(of_one_hot["value"], [0.5, 0.3, 0.2])
    assert of_one_hot["step"].tolist() == [100, 200, 300]


def test_one_embedding_has_no_answer(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match="model/embedding=onehot,learned"):
        load(script, tmp_path, reading("Learned", (0.4,)), reading("Learned", (0.4,), seed=1))


def test_runs_that_differ_in_more_have_none(script, tmp_path: Path):
    other = reading("Learned", (0.3,))
    other = replace(other, config=other.config | {"batch_size": 16})
    with pytest.raises(NothingToDraw, match="differ in more"):
        load(script, tmp_path, reading("OneHot", (0.4,)), reading("Learned", (0.4,)), other)
