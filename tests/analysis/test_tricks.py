"""Tricks against vanishing gradients, on runs that solve up to a known length."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from fake_runs import Fake, write_run
from retrograde.figures.comparison import NUMBERS, STUDY, NothingToDraw, comparisons
from retrograde.record.store import FolderStore

LENGTHS = (10, 20, 40)


def going_to(model: str, longest: int, clip: float | None = 1.0, seeds: int = 3, lengths=LENGTHS) -> list[Fake]:
    """Runs of every length, of which all seeds solve those up to ``longest``."""
    return [
        Fake(
            model,
            seed,
            solved=length <= longest,
            config={"seed": seed, "task": {"length": length}, "trainer": {"clip": clip}, "optimizer": {"lr": 0.01}},
        )
        for length in lengths
        for seed in range(seeds)
    ]


def load(script, outputs: Path, *groups: list[Fake]):
    for fake in chain(*groups):
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs), STUDY)
    return script("tricks").load(comparison)


def test_rates_by_length_by_hand(script, tmp_path: Path):
    """3 of 3: 3 / (3 + 1.96²) = 0.4385 at least; 0 of 3: 1.96² / (3 + 1.96²) = 0.5615 at most."""
    tricks = script("tricks")
    cells = load(script, tmp_path, going_to("elman", 10), going_to("lstm", 40))["cells"]
    assert cells[["network", "length"]].apply(tuple, axis=1).tolist() == [
        ("elman", 10), ("elman", 20), ("elman", 40), ("lstm", 10), ("lstm", 20), ("lstm", 40)
    ]  # fmt: skip
    assert cells["rate"].tolist() == [1, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(cells["low"][:2], [0.4385, 0], atol=1e-4)
    np.testing.assert_allclose(cells["high"][:2], [1, 0.5615], atol=1e-4)
    assert tricks.longest(cells, "elman", "1") == 10
    assert tricks.longest(cells, "lstm", "1") == 40


def test_a_length_counts_only_with_all_shorter_ones(script, tmp_path: Path):
    """Two of three seeds are most of them, not all; a length solved beyond one that is not does not count."""
    tricks = script("tricks")
    odd = [
        *going_to("lstm", 10, lengths=(10,), seeds=2),
        *going_to("lstm", 0, lengths=(20,)),
        *going_to("lstm", 40)[6:],
    ]
    odd.append(Fake("lstm", 2, solved=False, config={"seed": 2, "task": {"length": 10}, "trainer": {"clip": 1.0}}))
    cells = load(script, tmp_path, going_to("elman", 10), odd)["cells"]
    assert cells.loc[cells["network"] == "lstm", "solved"].tolist() == [2, 0, 3]
    assert tricks.longest(cells, "lstm", "1") == 10
    assert tricks.longest(cells, "lstm", "1", 1 - 1e-9) == 0


def test_what_comes_out_as_expected_is_said(script, tmp_path: Path):
    tables = load(
        script, tmp_path, going_to("elman", 10, seeds=5), going_to("elman_relu", 20, seeds=5),
        going_to("irnn", 40, seeds=5), going_to("lstm", 40, seeds=5),
    )  # fmt: skip
    said = script("tricks").finding(tables)
    assert said == (
        "Longest length, of 10, 20 and 40, that most seeds solve: rectified units 10 → 20 (elman_relu); "
        "identity weights 20 → 40 (irnn); gates 10 → 40 (lstm) (intervals apart)"
    )


def test_what_does_not_is_said_too(script, tmp_path: Path):
    """ReLU that does harm, gates of which one kind does nothing, clipping that helps the plain network alone."""
    tables = load(
        script, tmp_path, going_to("elman", 20), going_to("elman_relu", 10), going_to("lstm", 20), going_to("gru", 40),
        going_to("elman", 10, clip=None), going_to("lstm", 20, clip=None),
    )  # fmt: skip
    said = script("tricks").finding(tables)
    assert "gradients clipped at 1" in script("tricks").caption(tables)
    assert "rectified units 20 → 10 (elman_relu, against expectation)" in said
    assert "gates 20 → 20 (lstm, against expectation) and 20 → 40 (gru) (intervals overlap)" in said
    assert "dentity" not in said
    assert said.endswith("Clipping extends it in elman (intervals overlap)")


def test_what_solves_all_that_was_tried_cannot_go_further(script, tmp_path: Path):
    said = script("tricks").finding(load(script, tmp_path, going_to("elman", 40), going_to("lstm", 40)))
    assert said == "Longest length, of 10, 20 and 40, that most seeds solve: gates 40 → 40 (lstm, the longest tried)"


def test_intervals_are_said_with_each_where_some_are_apart(script, tmp_path: Path):
    tables = load(
        script, tmp_path, going_to("elman", 10, seeds=5), going_to("elman_relu", 20, seeds=5),
        going_to("lstm", 40, seeds=1),
    )  # fmt: skip
    said = script("tricks").finding(tables)
    assert "(elman_relu, intervals apart); gates 10 → 40 (lstm, intervals overlap)" in said


def test_failures_are_shown_and_not_counted_and_divergence_counts_as_unsolved(script, tmp_path: Path):
    others = [
        Fake("lstm", 7, status="failed", config={"seed": 7, "task": {"length": 40}}),
        Fake("lstm", 8, more={"diverged_step": 3}, config={"seed": 8, "task": {"length": 40}}),
    ]
    tables = load(script, tmp_path, going_to("elman", 10), going_to("lstm", 40), others)
    cells, numbers = tables["cells"], tables[NUMBERS]
    unclipped = cells[cells["clipping"] == "none"]
    assert unclipped[["runs", "solved"]].to_numpy().tolist() == [[1, 0]]
    assert sorted(set(numbers["ended"])) == ["diverged", "failed", "solved", "unsolved"]
    caption = script("tricks").caption(tables)
    assert "1 that did not end are drawn and not counted" in caption
    assert "at the learning rate 0.01" in caption
    script("tricks").draw(tables)


def test_every_run_has_a_mark(script, tmp_path: Path):
    tables = load(script, tmp_path, going_to("elman", 10), going_to("lstm", 40), going_to("lstm", 20, clip=None))
    (axes,) = script("tricks").draw(tables).axes
    marks = [line for line in axes.lines if line.get_marker() == "o"]
    assert len(marks) == 3 * 3 * 3
    assert sum(line.get_markerfacecolor() != "#ffffff" for line in marks) == 3 + 9 + 6
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == ["elman   clipped at 1", "lstm   clipped at 1", "no clipping"]
    assert [text.get_text() for text in axes.texts[:6]] == ["10", "10", "40", "40", "20", "20"]


def test_runs_of_one_length_or_without_the_plain_network_have_no_answer(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match=r"task\.length"):
        load(script, tmp_path / "one", going_to("elman", 10, lengths=(10,)), going_to("lstm", 10, lengths=(10,)))
    with pytest.raises(NothingToDraw, match="elman"):
        load(script, tmp_path / "two", going_to("irnn", 10), going_to("lstm", 10))


def test_runs_of_which_none_has_ended_have_no_answer(script, tmp_path: Path):
    failed = [
        Fake(model, status="failed", config={"task": {"length": length}})
        for model in ("elman", "lstm")
        for length in LENGTHS
    ]
    with pytest.raises(NothingToDraw, match="end"):
        load(script, tmp_path, failed)
