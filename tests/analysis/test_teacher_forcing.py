"""The exposure gap, on runs whose two scores are known."""

from pathlib import Path

import numpy as np
import pytest

from fake_runs import Fake, write_run
from retrograde.figures.comparison import NUMBERS, NothingToDraw, comparisons
from retrograde.record.store import FolderStore


def decoder(share: float, forced: float, free: float, seed: int = 0, **fields) -> Fake:
    """A model trained on that share of given tokens, with its two scores."""
    more = {"score": free, "test": {"score": free, "forced_score": forced}} if not fields else {}
    config = {"model": {"_target_": "seq2seq", "forcing": share}}
    return Fake("seq2seq", seed, more=more, config=config, **fields)


def load(script, outputs: Path, *fakes: Fake):
    for fake in fakes:
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs))
    return script("teacher_forcing").load(comparison)


def theory() -> list[Fake]:
    given = [decoder(1.0, 0.9, 0.6 - 0.1 * seed, seed) for seed in range(3)]
    return [*given, *(decoder(0.0, 0.7, 0.7 - 0.05 * seed, seed) for seed in range(3))]


def test_gap_is_given_less_own_in_order_of_the_share(script, tmp_path: Path):
    numbers = load(script, tmp_path, *theory())[NUMBERS]
    assert numbers["share of given tokens"].tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(numbers["gap"], [0, 0.05, 0.1, 0.3, 0.4, 0.5], atol=1e-12)


def test_a_gap_that_narrows_is_as_theory_says(script, tmp_path: Path):
    said = script("teacher_forcing").finding(load(script, tmp_path, *theory()))
    assert "0.40 (0.30 to 0.50, n = 3) at a share of 1 and 0.05 (0.00 to 0.10, n = 3) at a share of 0" in said
    assert "it narrows, as theory says; on its own tokens it scores 0.65 at 0 and 0.50 at 1" in said


def test_one_seed_whose_gap_stays_is_enough_to_doubt(script, tmp_path: Path):
    said = script("teacher_forcing").finding(load(script, tmp_path, *theory(), decoder(0.0, 0.7, 0.2, 3)))
    assert "that it narrows is not shown, against theory" in said


def test_a_gap_that_is_widest_in_between_is_said(script, tmp_path: Path):
    said = script("teacher_forcing").finding(load(script, tmp_path, *theory(), decoder(0.5, 0.8, 0.1)))
    assert "it narrows, but is widest at 0.5 (0.70), against theory" in said


def test_both_scores_and_the_gap_are_drawn_with_every_seed(script, tmp_path: Path):
    figure = script("teacher_forcing").draw(load(script, tmp_path, *theory()))
    left, right = figure.axes
    assert sum(len(line.get_xdata()) for line in left.lines if line.get_alpha()) == 12
    assert sum(len(line.get_xdata()) for line in right.lines if line.get_alpha()) == 6
    assert left.get_xlabel() == "share of given tokens in training"


def test_a_run_that_failed_is_named(script, tmp_path: Path):
    tables = load(script, tmp_path, *theory(), decoder(0.5, 0, 0, 0, status="failed"))
    (run,) = tables["lost"]["run"]
    assert f"Without a test: {run}" in script("teacher_forcing").caption(tables)


def test_one_share_has_no_answer(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match=r"model\.forcing"):
        load(script, tmp_path, decoder(1.0, 0.9, 0.6, 0), decoder(1.0, 0.9, 0.6, 1))


def test_runs_without_a_test_on_given_tokens_have_none(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match="no run was tested on given tokens"):
        load(script, tmp_path, *(decoder(share, 0, 0, status="failed") for share in (0.0, 1.0)))
