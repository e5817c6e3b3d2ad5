"""The attention scores side by side, on runs whose weights are known."""

from pathlib import Path

import numpy as np
import pytest

from fake_runs import Fake, write_run
from retrograde.core.records import Reading
from retrograde.figures.comparison import NUMBERS, NothingToDraw, comparisons
from retrograde.record.store import FolderStore
from retrograde.record.tables import TableWriter, labels_table

SOURCE, TARGET = ("a", "b", "c"), ("c", "b", "a", "<eos>")


def looking(score: str, needed: float, seed: int = 0, accuracy: float = 0.9) -> Fake:
    """A model that puts a third on what is due before training, and ``needed`` after it."""

    def read(step: int) -> list[tuple[str, Reading]]:
        if step not in (0, 200):
            return []
        weight = needed if step else 1 / 3
        one = {"head": [0]}
        weights = np.full((1, 1, 4, 3), (1 - weight) / 2)
        weights[0, 0, range(3), (2, 1, 0)] = weight
        dims = {"sample": [0], "head": [0], "query": range(4), "key": range(3)}
        return [
            ("alignment", Reading("needed/cross0", np.array([weight]), one, "share")),
            ("attention", Reading("entropy_share/cross0", np.array([0.25 if step else 1.0]), one, "share")),
            ("attention", Reading("map/cross0", weights, dims, "share")),
        ]

    config = {"model": {"_target_": "seq2seq_luong", "score": {"_target_": f"layers.scores.{score}.{score.title()}"}}}
    return Fake("seq2seq_luong", seed, labels=SOURCE, more={"score": accuracy}, config=config, also=read)


def load(script, outputs: Path, *fakes: Fake):
    for fake in fakes:
        folder = write_run(outputs, fake)
        writer = TableWriter(folder.tables)
        writer.append("labels", labels_table(folder.run, [TARGET], np.ones((1, 4), dtype=bool), "target"))
        writer.merge()
    (comparison,), _ = comparisons(FolderStore(outputs))
    return script("scores").load(comparison)


def three(score: str, *needed: float) -> list[Fake]:
    return [looking(score, one, seed) for seed, one in enumerate(needed)]


def test_numbers_are_those_of_the_last_snapshot_in_the_order_of_the_scores(script, tmp_path: Path):
    numbers = load(script, tmp_path, looking("location", 0.4), looking("dot", 0.8))[NUMBERS]
    assert numbers["score"].tolist() == ["dot", "location"]
    np.testing.assert_allclose(numbers["weight on what is due"], [0.8, 0.4])
    np.testing.assert_allclose(numbers["weight before"], 1 / 3)
    np.testing.assert_allclose(numbers["entropy (share of even)"], 0.25)


def test_scores_that_look_there_are_as_theory_says(script, tmp_path: Path):
    tables = load(script, tmp_path, *three("dot", 0.7, 0.8, 0.9), *three("location", 0.4, 0.5, 0.6))
    assert script("scores").finding(tables) == (
        "dot (0.80) looks at the symbol that is due, as theory says; location (0.50), which failed in translation, "
        "fails there too (median weight, n = 3)"
    )
    weights = "the weight is dot 0.80 (0.70 to 0.90) and location 0.50 (0.40 to 0.60)."
    assert weights in script("scores").caption(tables)


def test_one_seed_that_looks_elsewhere_is_enough_to_doubt_its_score(script, tmp_path: Path):
    """Twice the third of before training is what has to be reached."""
    tables = load(script, tmp_path, *three("dot", 0.7, 0.8), *three("general", 0.66, 0.9), *three("location", 0.7, 0.8))
    said = script("scores").finding(tables)
    assert "; general (0.78) not for sure, against theory; location" in said
    assert said.endswith("looks there too (median weight, n = 2)")


def test_where_no_score_looks_that_is_said(script, tmp_path: Path):
    said = script("scores").finding(load(script, tmp_path, looking("dot", 0.4), looking("general", 0.5)))
    assert said.startswith("dot (0.40) and general (0.50) look at the symbol that is due not for sure, against theory")


def test_maps_have_the_tokens_on_their_axes(script, tmp_path: Path):
    figure = script("scores").draw(load(script, tmp_path, looking("dot", 0.7), looking("general", 0.6)))
    of_dot = next(axes for axes in figure.axes if axes.get_title(loc="center") == "dot")
    assert [label.get_text() for label in of_dot.get_xticklabels()] == list(SOURCE)
    assert [label.get_text() for label in of_dot.get_yticklabels()] == list(TARGET)
    np.testing.assert_allclose(of_dot.images[0].get_array()[0], [0.15, 0.15, 0.7])


def test_a_run_that_failed_has_no_number_and_hides_none(script, tmp_path: Path):
    failed = Fake("seq2seq_luong", 1, status="failed", config=looking("dot", 0.5).config)
    tables = load(script, tmp_path, looking("dot", 0.7), looking("general", 0.6), failed)
    assert tables[NUMBERS]["weight on what is due"].notna().tolist() == [True, False, True]
    assert "dot (0.70)" in script("scores").finding(tables)


def test_one_score_has_no_answer(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match="model/score=dot,general"):
        load(script, tmp_path, looking("dot", 0.7, 0), looking("dot", 0.7, 1))


def test_runs_that_differ_in_more_than_the_score_are_refused(script, tmp_path: Path):
    wider = looking("dot", 0.7)
    wider = Fake("seq2seq_luong", labels=SOURCE, config={"model": wider.config["model"], "width": 8}, also=wider.also)
    with pytest.raises(NothingToDraw, match="more than the seed"):
        load(script, tmp_path, looking("dot", 0.7), wider, looking("general", 0.7))
