"""What heads specialise on, on runs whose weights are known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fake_runs import Fake, write_run
from retrograde.core.records import Reading
from retrograde.figures.comparison import NUMBERS, NothingToDraw, comparisons
from retrograde.record.store import FolderStore

TOKENS = ("a", "b", "c", "a")
"""The last one recalls: a came up at 0, what followed it stands at 1."""


def looking(previous: tuple[float, ...], induction: tuple[float, ...], seed: int = 0, **fields) -> Fake:
    """A transformer of two layers, its heads putting these weights on the previous token and on what followed."""

    def read(step: int) -> list[tuple[str, Reading]]:
        heads = len(previous)
        maps = np.zeros((2, 1, heads, 4, 4))
        maps[:, ..., 0, 0] = 1
        for layer, (at_one, at_three) in enumerate(((previous, (0.1,) * heads), ((0.0,) * heads, induction))):
            maps[layer, 0, :, 1, 0] = at_one if step else 0.5
            maps[layer, 0, :, 3, 1] = at_three if step else 0.25
        dims = {"sample": [0], "head": range(heads), "query": range(4), "key": range(4)}
        return [("attention", Reading(f"map/{layer}", maps[layer], dims, "share")) for layer in (0, 1)]

    config = {"model": {"_target_": "transformer", "heads": len(previous)}}
    labels = fields.pop("labels", TOKENS)
    return Fake("transformer", seed, labels=labels, config=config, also=read, **fields)


def load(script, outputs: Path, *fakes: Fake):
    for fake in fakes:
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs))
    return script("heads").load(comparison)


ONE, TWO = looking((0.6,), (0.7,)), looking((0.9, 0.1), (0.05, 0.95))


def test_recalling_positions_by_hand(script):
    labels = pd.DataFrame({"sample": 0, "time": range(6), "label": list("abacab"), "scored": [False] * 4 + [True] * 2})
    places = script("heads").recalls(labels)
    assert places.to_numpy().tolist() == [[0, 4, 2, 3], [0, 5, 1, 2]]


def test_strongest_heads_and_their_layers_others(script, tmp_path: Path):
    numbers = load(script, tmp_path, ONE, TWO)[NUMBERS]
    np.testing.assert_allclose(numbers["the previous token, strongest head"], [0.6, 0.9])
    np.testing.assert_allclose(numbers["the previous token, other heads"], [np.nan, 0.1])
    np.testing.assert_allclose(numbers["what followed before, strongest head"], [0.7, 0.95])
    np.testing.assert_allclose(numbers["what followed before, other heads"], [np.nan, 0.05])


def test_heads_that_divide_the_work_are_as_theory_says(script, tmp_path: Path):
    tables = load(script, tmp_path, ONE, TWO)
    assert script("heads").finding(tables) == (
        "Heads divide the work, as theory says: the strongest is ahead of its layer's others on the previous token by "
        "0.80 with 2 heads, on what followed before by 0.90 with 2 (n = 1)"
    )
    assert "0.60 and 0.70 with 1; 0.90 and 0.95 with 2." in script("heads").caption(tables)


def test_one_seed_whose_heads_are_alike_is_enough_to_doubt(script, tmp_path: Path):
    alike = looking((0.5, 0.5), (0.05, 0.95), seed=1)
    said = script("heads").finding(load(script, tmp_path, ONE, TWO, alike))
    assert said.startswith("Heads divide the work in 1 of 2 cases (theory: in all): ")
    assert "on the previous token by 0.00 to 0.80 with 2 heads, " in said


def test_heads_that_are_all_alike_are_against_theory(script, tmp_path: Path):
    said = script("heads").finding(load(script, tmp_path, ONE, looking((0.5, 0.5), (0.7, 0.7))))
    assert said.startswith("Heads do not divide the work, against theory: ")


def test_every_head_is_a_mark_and_maps_have_tokens(script, tmp_path: Path):
    figure = script("heads").draw(load(script, tmp_path, ONE, TWO, looking((0.8, 0.2), (0.1, 0.9), seed=1)))
    one, two = figure.axes[:2]
    assert [sum(len(line.get_xdata()) for line in axes.lines) for axes in (one, two)] == [2, 8]
    of_one = figure.axes[4]
    assert [label.get_text() for label in of_one.get_xticklabels()] == list(TOKENS)
    assert of_one.get_xticklabels()[3].get_fontweight() == "bold"


def test_a_run_that_failed_has_no_numbers(script, tmp_path: Path):
    failed = Fake("transformer", 1, status="failed", config=TWO.config)
    numbers = load(script, tmp_path, ONE, TWO, failed)[NUMBERS]
    assert numbers["the previous token, strongest head"].isna().tolist() == [False, False, True]


def test_one_number_of_heads_has_no_answer(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match=r"model\.heads=1,4"):
        load(script, tmp_path, ONE, looking((0.6,), (0.7,), seed=1))


def test_unequal_parameters_are_refused(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match="1,234 to 2,000 parameters"):
        load(script, tmp_path, ONE, looking((0.9, 0.1), (0.05, 0.95), more={"parameters": 2000}))


def test_tokens_that_never_repeat_have_no_answer(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match="no scored position repeats"):
        load(script, tmp_path, *(looking(one, one, labels=tuple("abcd")) for one in ((0.6,), (0.6, 0.5))))
