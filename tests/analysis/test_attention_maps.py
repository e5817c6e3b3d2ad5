"""Attention maps: what falls on the marked inputs, by hand, and how the maps are laid out."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fake_runs import LENGTH, Fake, write_run
from retrograde.figures.comparison import AFTER, BEFORE, NUMBERS, NothingToDraw, comparisons
from retrograde.record.store import FolderStore


def load(script, outputs: Path, *fakes: Fake):
    for fake in fakes:
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs))
    return script("attention_maps").load(comparison)


def test_weight_on_marked_inputs_by_hand(script, tmp_path: Path):
    """Two of eight inputs are marked: 2/8 of an even spread; all of it once the last query looks there alone."""
    tables = load(script, tmp_path, Fake("transformer", heads=2))
    numbers = tables[NUMBERS]
    np.testing.assert_allclose(numbers[f"weight on marked inputs, {BEFORE}"], 0.25)
    np.testing.assert_allclose(numbers[f"weight on marked inputs, {AFTER}"], 1.0)
    assert script("attention_maps").finding(tables) == (
        "transformer: after training head 1 of layer 1 puts 100 % of the scored position's attention on the marked "
        "inputs, before it 25 %"
    )


def test_a_block_counts_as_a_whole(script):
    """Blocks of two: the scored time 3 lies in the block at 2, the marked time 1 in the block at 0."""
    rows = [(query, key, value) for query, key, value in ((0, 0, 1.0), (0, 2, 0.0), (2, 0, 0.7), (2, 2, 0.3))]
    maps = pd.DataFrame(rows, columns=["query", "key", "value"]).assign(
        model="t", seed=0, run="r", when=AFTER, step=1, layer="0", head=0
    )
    labels = pd.DataFrame(
        {"model": "t", "side": "input", "time": range(4), "scored": [0, 0, 0, 1], "marked": [0, 1, 0, 0]}
    )
    labels = labels.astype({"scored": bool, "marked": bool})
    assert script("attention_maps").on_marked(maps, labels)["value"].item() == 0.7


def test_a_marked_input_that_no_map_shows_counts_for_nothing(script):
    """A map of the positions 2 and 3 alone: the marked times 0 and 9 are outside, 3 is in."""
    rows = [(2, 2, 1.0), (2, 3, 0.0), (3, 2, 0.4), (3, 3, 0.6)]
    maps = pd.DataFrame(rows, columns=["query", "key", "value"]).assign(
        model="t", seed=0, run="r", when=AFTER, step=1, layer="0", head=0
    )
    labels = pd.DataFrame({"model": "t", "side": "input", "time": [0, 3, 9], "scored": [False, True, False]})
    labels["marked"] = True
    assert script("attention_maps").on_marked(maps, labels)["value"].item() == 0.6


def test_without_marks_the_finding_is_how_sharp_heads_are(script, tmp_path: Path):
    tables = load(script, tmp_path, Fake("transformer", heads=2, labels=tuple("abcabc?d")))
    assert script("attention_maps").finding(tables) == (
        "transformer: a head's median entropy is 1 → 0.4 of an even spread's"
    )


def test_maps_share_one_scale_with_the_first_query_on_top(script, tmp_path: Path):
    tables = load(script, tmp_path, Fake("transformer", heads=2))
    figure = script("attention_maps").draw(tables)
    images = [image for axes in figure.axes for image in axes.images]
    assert len(images) == 2 * 2 * 2  # snapshots, layers, heads
    assert {(image.norm.vmin, image.norm.vmax) for image in images} == {(0.0, 1.0)}
    assert all(axes.yaxis_inverted() for axes in figure.axes if axes.images)
    last = images[-1].get_array()
    np.testing.assert_allclose(last[-1], np.isin(np.arange(LENGTH), (1, 5)) / 2)


def test_only_the_first_seed_and_models_with_attention_are_shown(script, tmp_path: Path):
    tables = load(script, tmp_path, Fake("transformer", 0, heads=2), Fake("transformer", 1, heads=2), Fake("gru", 0))
    assert set(tables["maps"]["model"]) == {"transformer"}
    assert set(tables[NUMBERS]["seed"]) == {0}
    assert "transformer seed 0" in script("attention_maps").caption(tables)


def test_marked_labels_are_bold(script, tmp_path: Path):
    figure = script("attention_maps").draw(load(script, tmp_path, Fake("transformer", heads=1)))
    labels = {label.get_text(): label.get_fontweight() for label in figure.axes[-2].get_xticklabels()}
    assert [text for text, weight in labels.items() if weight == "bold"] == ["0.20*", "0.60*"]


def test_no_attention_is_nothing_to_draw(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match="attention"):
        load(script, tmp_path, Fake("gru"))
