"""Attention maps: what falls on the marked inputs, by hand, and how the maps are laid out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fake_runs import LENGTH, Fake, write_run
from retrograde.figures.comparison import AFTER, BEFORE, NUMBERS, NothingToDraw, comparisons
from retrograde.figures.maps import readable, shown
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
        "inputs, before it any head at most 25 %"
    )


def test_before_training_the_head_counts_that_looked_most_then(script, tmp_path: Path):
    """Chosen by what it does afterwards, a head would be worse before it by that alone."""
    tables = dict(load(script, tmp_path, Fake("transformer", heads=2)))
    weight = "weight on marked inputs, {}".format
    tables[NUMBERS] = tables[NUMBERS].assign(**{weight(BEFORE): [0.9, 0.1, 0.1, 0.1]})
    assert script("attention_maps").finding(tables).endswith("inputs, before it any head at most 90 %")
    unknown = {**tables, NUMBERS: tables[NUMBERS].drop(columns=weight(BEFORE))}
    assert (
        script("attention_maps")
        .finding(unknown)
        .endswith("100 % of the scored position's attention on the marked inputs")
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


def test_of_many_maps_those_are_drawn_that_can_be_read(script):
    """16 models of 3 layers and 12 heads at both ends: 6 rows a model, so 2 of them, and 8 of the heads.

    A head puts 0.1 more than its lower neighbour on one position, but for the highest, which is even.
    """
    models = [f"m{number:02d}" for number in range(16)]
    rows = [
        (model, when, step, layer, head, query, key, share if key == 0 else 1 - share)
        for model in models
        for when, step in ((BEFORE, 0), (AFTER, 9))
        for layer in ("0", "1", "2")
        for head in range(12)
        for share in [0.5 if when == BEFORE or head == 11 else 0.51 + head / 25]
        for query in (0, 1)
        for key in (0, 1)
    ]
    maps = pd.DataFrame(rows, columns=["model", "when", "step", "layer", "head", "query", "key", "value"])
    maps["model"] = maps["model"].astype("category")
    chosen = readable(maps)
    assert sorted(chosen["model"].unique()) == ["m00", "m15"]
    assert sorted(chosen["layer"].unique()) == ["0", "1", "2"]
    assert sorted(chosen["head"].unique()) == list(range(3, 11))
    assert len(chosen) == 2 * 2 * 3 * 8 * 4
    assert shown(chosen, maps) == (
        " Shown are 2 of 16 models, spread evenly over their order; of up to 12 heads of a layer the 8 that put most "
        "on one position in the end; the table has all."
    )
    few = maps[(maps["model"] == "m00") & (maps["head"] < 8)].astype({"model": str}).astype({"model": "category"})
    assert len(readable(few)) == len(few)
    assert shown(readable(few), few) == ""


def test_many_models_are_told_in_one_sentence(script, tmp_path: Path):
    runs = [Fake("transformer", config={"model": {"dropout": share}}, heads=2) for share in (0.0, 0.1, 0.2, 0.3)]
    assert script("attention_maps").finding(load(script, tmp_path / "marked", *runs)) == (
        "After training the head that looks most at the marked inputs puts 100 % of the scored position's attention "
        "there, before it any head at most 25 %; of each of 4 models"
    )
    plain = [replace(run, labels=tuple("abcabc?d")) for run in runs]
    assert script("attention_maps").finding(load(script, tmp_path / "plain", *plain)) == (
        "Over 4 models a head's median entropy is 1 → 0.4 of an even spread's"
    )
