"""Windows of attention over the source's length, on runs whose score and weights are known."""

from pathlib import Path

import numpy as np
import pytest

from fake_runs import Fake, write_run
from retrograde.core.records import Reading
from retrograde.figures.comparison import NUMBERS, NothingToDraw, comparisons
from retrograde.record.store import FolderStore
from retrograde.record.tables import TableWriter, labels_table

LENGTHS = (4, 5, 6, 7, 8, 9)
SOURCE, TARGET = ("a", "b", "c", "d", "e", "f"), ("f", "e", "d", "c", "b", "a", "<eos>")
SLOTS = 8
"""Of the stored map: the source's six, and padding."""


def looking(window: str, last: float, read: int, seed: int = 0, task: str = "reverse", lengths=LENGTHS) -> Fake:
    """A model whose score falls from 1 to ``last``, and whose targets read so many positions and, unseen, padding."""

    def readings(step: int) -> list[tuple[str, Reading]]:
        if step != 200:
            return []
        scores = np.stack([np.linspace(1, last, len(lengths)), np.full(len(lengths), 50.0)])
        by_length = {"statistic": ("mean", "count"), "length": lengths}
        weights = np.zeros((1, 1, len(TARGET), SLOTS))
        weights[..., :read] = 1 / read
        weights[..., -1] = 0.5
        over = {"sample": [0], "head": [0], "query": range(len(TARGET)), "key": range(SLOTS)}
        return [
            ("test", Reading("score_by_length/outputs", scores, by_length, "score")),
            ("attention", Reading("map/cross0", weights, over, "share")),
        ]

    of_window = {"_target_": f"layers.windows.{window}.Window"} | ({"reach": 1} if "local" in window else {})
    config = {"model": {"_target_": "seq2seq_luong", "window": of_window}, "task": {"symbols": 8}}
    return Fake("seq2seq_luong", seed, task=task, labels=SOURCE, config=config, also=readings)


def load(script, outputs: Path, *fakes: Fake):
    for fake in fakes:
        folder = write_run(outputs, fake)
        writer = TableWriter(folder.tables)
        writer.append("labels", labels_table(folder.run, [TARGET], np.ones((1, len(TARGET)), dtype=bool), "target"))
        writer.merge()
    (comparison,), _ = comparisons(FolderStore(outputs))
    return script("windows").load(comparison)


def theory(local: float = 0.4) -> list[Fake]:
    return [looking("global_", 1.0, 6), looking("local_m", local, 3), looking("hard", 0.8, 1)]


def test_numbers_are_of_the_longest_third_and_of_own_positions_alone(script, tmp_path: Path):
    """From 1 to 0.4 in five equal steps of 0.12: (1 + 0.88)/2 less (0.52 + 0.4)/2."""
    numbers = load(script, tmp_path, *theory())[NUMBERS]
    assert numbers["window"].tolist() == ["global", "local_m", "hard"]
    np.testing.assert_allclose(numbers["lost"], [0, 0.48, 0.16], atol=1e-12)
    np.testing.assert_allclose(numbers["ms a step, all included"], 62.5)


def test_positions_read_leave_padding_out(script, tmp_path: Path):
    reads = load(script, tmp_path, *theory())["reads"]
    assert dict(zip(reads["window"], reads["value"], strict=True)) == {"global": 6, "local_m": 3, "hard": 1}
    assert set(reads["length"]) == {6}


def test_theory_of_a_window_at_the_targets_place_by_hand(script):
    """Five symbols of ten kinds, reach 0: the middle one is seen, four are guesses, <eos> is known."""
    assert script("windows").reversal(5, 0, 10) == pytest.approx((1 + 0.4 + 1) / 6)
    assert script("windows").reversal(3, 2, 10) == 1


def test_theory_bounds_what_is_read(script, tmp_path: Path):
    theory_ = load(script, tmp_path, *theory())["theory"]
    at_nine = theory_[theory_["length"] == 9].set_index("window")["read at most"]
    assert at_nine.to_dict() == {"global": 9, "local_m": 3, "hard": 1}


def test_what_comes_out_as_theory_says_is_said(script, tmp_path: Path):
    """Reach 1: of 4, 5, 8 and 9 symbols 2, 1, 2 and 1 are seen; so 0.65 and 0.42 come to 0.42 and 0.30."""
    tables = load(script, tmp_path, *theory())
    said = script("windows").finding(tables)
    assert "local_m falls (0.48 to 0.48; theory 0.17)" in said
    assert said.endswith(": as theory says (score lost from short to long ones, n = 1)")
    assert "local_m 0.48" in script("windows").caption(tables)


def test_a_window_that_loses_nothing_is_said(script, tmp_path: Path):
    said = script("windows").finding(load(script, tmp_path, *theory(local=1.0)))
    assert "local_m holds" in said
    assert ": not as theory says of local_m (" in said


def test_of_another_task_nothing_is_expected_of_the_window_at_the_targets_place(script, tmp_path: Path):
    fakes = looking("global_", 1.0, 6, task="sort"), looking("local_m", 1.0, 3, task="sort")
    assert ": as theory says (" in script("windows").finding(load(script, tmp_path, *fakes))


def test_both_panels_have_every_seed(script, tmp_path: Path):
    figure = script("windows").draw(load(script, tmp_path, *theory(), looking("hard", 0.5, 1, seed=1)))
    left, right = figure.axes
    faint = [line for line in left.lines if line.get_alpha()]
    assert len(faint) == 4
    assert right.get_ylabel() == "source positions read by a target"


def test_one_window_has_no_answer(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match="model/window=global,hard"):
        load(script, tmp_path, looking("hard", 1.0, 1))
