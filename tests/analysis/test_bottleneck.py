"""What one vector loses on long sources, on runs whose score by length is known."""

from pathlib import Path

import numpy as np
import pytest

from fake_runs import Fake, write_run
from retrograde.core.records import Reading
from retrograde.figures.comparison import NUMBERS, NothingToDraw, comparisons
from retrograde.record.store import FolderStore

LENGTHS = (3, 4, 5, 6, 7, 8)


def translator(model: str, last: float, seed: int = 0, state: int | None = None, lengths=LENGTHS) -> Fake:
    """A model whose score falls evenly from 1 at the shortest length to ``last`` at the longest."""

    def tested(step: int) -> list[tuple[str, Reading]]:
        scores = np.stack([np.linspace(1, last, len(lengths)), np.full(len(lengths), 50.0)])
        dims = {"statistic": ("mean", "count"), "length": lengths}
        return [("test", Reading("score_by_length/outputs", scores, dims, "score"))] if step == 200 else []

    return Fake(model, seed, more={"state_size": state}, also=tested)


def load(script, outputs: Path, *fakes: Fake):
    for fake in fakes:
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs))
    return script("bottleneck").load(comparison)


def theory(last: float = 0.5) -> list[Fake]:
    vector = [translator("seq2seq", last, seed, 64) for seed in range(3)]
    return [*vector, *(translator("seq2seq_luong", 1.0, seed) for seed in range(3))]


def test_lost_is_the_shortest_third_less_the_longest(script, tmp_path: Path):
    """From 1 to 0.5 in five equal steps of 0.1: (1 + 0.9)/2 less (0.6 + 0.5)/2."""
    numbers = load(script, tmp_path, *theory())[NUMBERS]
    of_vector = numbers[numbers["between"] == "one vector"]
    np.testing.assert_allclose(of_vector["score, shortest third of lengths"], 0.95)
    np.testing.assert_allclose(of_vector["score, longest third of lengths"], 0.55)
    np.testing.assert_allclose(numbers["lost"], [0.4, 0.4, 0.4, 0, 0, 0], atol=1e-12)


def test_what_comes_out_as_theory_says_is_said(script, tmp_path: Path):
    said = script("bottleneck").finding(load(script, tmp_path, *theory()))
    assert "seq2seq (one vector) 0.40 (0.40 to 0.40, n = 3)" in said
    assert "seq2seq_luong (attention) 0.00 (0.00 to 0.00, n = 3); as theory says" in said


def test_a_vector_that_holds_everything_is_said(script, tmp_path: Path):
    said = script("bottleneck").finding(load(script, tmp_path, *theory(last=0.95)))
    assert said.endswith("not as theory says: seq2seq's need not fall")


def test_one_seed_of_attention_that_falls_is_said(script, tmp_path: Path):
    said = script("bottleneck").finding(load(script, tmp_path, *theory(), translator("seq2seq_luong", 0.2, seed=3)))
    assert "(0.00 to 0.64, n = 4)" in said
    assert said.endswith("not as theory says: seq2seq_luong's may fall too")


def test_every_seed_and_every_median_is_drawn(script, tmp_path: Path):
    tables = load(script, tmp_path, *theory())
    (axes,) = script("bottleneck").draw(tables).axes
    over_lengths = [line for line in axes.lines if len(line.get_xdata()) == len(LENGTHS)]
    assert len(over_lengths) == 6 + 2
    assert axes.get_xlabel() == "source length (tokens)"
    assert "the range of the seeds" in script("bottleneck").caption(tables)


def test_without_both_kinds_there_is_no_answer(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match="every run has attention"):
        load(script, tmp_path, translator("seq2seq_luong", 1.0))


def test_one_length_has_no_answer(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match="fewer than three lengths"):
        load(script, tmp_path, translator("seq2seq", 1.0, state=64, lengths=(5,)))
