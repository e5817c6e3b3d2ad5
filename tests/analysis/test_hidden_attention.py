"""Maps of layers without attention: which readings they are made of, and what is said of them."""

from pathlib import Path

import numpy as np
import pytest

from fake_runs import LENGTH, STEPS, Fake, asked_after, write_run
from retrograde.core.records import Reading
from retrograde.core.statistics import STATISTICS
from retrograde.figures.comparison import NUMBERS, NothingToDraw, comparisons
from retrograde.record.store import FolderStore


def run(model: str, seed: int = 0, heads: int = 1, by_channel: bool = False, after=(1, 5), **more) -> Fake:
    """Even over the past before training; after it the last query looks at the positions of ``after`` alone."""

    def looked(step: int):
        shares = np.tril(np.ones((LENGTH, LENGTH)))
        if step:
            shares[-1] = np.isin(np.arange(LENGTH), after)
        shares = np.tile(shares / shares.sum(1, keepdims=True), (1, heads, 1, 1))
        positions = range(LENGTH)
        dims = {"sample": [0], "head": range(heads), "query": positions, "key": positions}
        yield "hidden_attention", Reading("map/0.forward", shares, dims, "share")
        for name, unit in (("distance", "positions"), ("entropy", "nats")):
            value = 2.0 + seed if step == STEPS[-1] else 1.0
            over = {"statistic": STATISTICS} if by_channel else {"head": range(heads)}
            values = np.array([value, 7.0, 8.0, 9.0]) if by_channel else np.full(heads, value)
            yield "hidden_attention", Reading(f"{name}/0.forward", values, over, unit)

    return Fake(model, seed, also=looked, **more)


def load(script, outputs: Path, *fakes: Fake):
    for fake in fakes:
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs))
    return script("hidden_attention").load(comparison)


def test_weight_on_marked_inputs_and_distances_over_seeds_by_hand(script, tmp_path: Path):
    """2 of 8 inputs are marked: 25 % of an even spread. Distances after training are 2 and 3, of either head."""
    tables = load(script, tmp_path, run("deltanet", 0, heads=2), run("deltanet", 1, heads=2))
    numbers = tables[NUMBERS]
    assert numbers["distance (positions), after"].tolist() == [2, 2, 3, 3]
    first = numbers[numbers["seed"] == 0]
    np.testing.assert_allclose(first["weight on marked inputs, before"], 0.25)
    np.testing.assert_allclose(first["weight on marked inputs, after"], 1.0)
    assert numbers.loc[numbers["seed"] == 1, "weight on marked inputs, after"].isna().all()  # its map is not drawn
    assert script("hidden_attention").finding(tables) == (
        "A head looks so many positions away, before → after training, 2 seeds: deltanet 1 → 2.5 (2 to 3); deltanet: "
        "head 0 of layer 0.forward puts 100 % of the scored position's weight on the marked inputs (seed 0), before "
        "it any head at most 25 %; as expected more than before training in deltanet"
    )


def test_maps_that_were_asked_for_after_training_are_compared_with_none(script, tmp_path: Path):
    tables = load(script, tmp_path / "alone", asked_after(run("mamba", by_channel=True)))
    assert script("hidden_attention").finding(tables) == (
        "A head looks so many positions away, after training, 1 seed: mamba 2; mamba: layer 0.forward puts 100 % of "
        "the scored position's weight on the marked inputs (seed 0)"
    )
    figure = script("hidden_attention").draw(tables)
    assert [axes.get_title(loc="center") for axes in figure.axes if axes.images] == ["after\n(step 200)"]
    beside = load(script, tmp_path / "beside", asked_after(run("mamba")), run("s4d"))
    said = script("hidden_attention").finding(beside)
    assert said.endswith("as expected more than before training in s4d") and "nan" not in said


def test_of_many_models_ranges_are_told(script, tmp_path: Path):
    fakes = [run(f"m{place}", after=(1, 5) if place else (6, 7)) for place in range(10)]
    assert script("hidden_attention").finding(load(script, tmp_path, *fakes)) == (
        "A head looks so many positions away, before → after training, 1 seed: 1 → 2, the medians of 10 models; after "
        "training the head that looks most at the marked inputs puts 0 to 100 % of the scored position's weight there, "
        "before it any head at most 25 %; of each of 10 models; as expected more than before training in m1, m2, m3, "
        "m4, m5, m6, m7, m8 and 1 other, against expectation no more in m0"
    )


def test_of_channels_the_mean_counts(script, tmp_path: Path):
    tables = load(script, tmp_path, run("mamba", by_channel=True), run("deltanet", heads=2))
    numbers = tables[NUMBERS]
    of_channels = numbers[numbers["heads"] == "mean over channels"]
    assert of_channels["model"].astype(str).tolist() == ["mamba"]
    assert of_channels["distance (positions), after"].tolist() == [2.0]
    assert "The heads of mamba are channels" in script("hidden_attention").caption(tables)
    assert "mamba: layer 0.forward puts 100 %" in script("hidden_attention").finding(tables)


def test_looking_elsewhere_is_against_expectation(script, tmp_path: Path):
    said = script("hidden_attention").finding(load(script, tmp_path, run("s4d", by_channel=True, after=(6, 7))))
    assert said.endswith("against expectation no more in s4d")


def test_without_marks_there_are_distances_alone(script, tmp_path: Path):
    """A star that stands alone is a token."""
    tables = load(script, tmp_path, run("mamba", labels=tuple("ab*cdb*?")))
    assert not tables["labels"]["marked"].any()
    assert script("hidden_attention").finding(tables) == (
        "A head looks so many positions away, before → after training, 1 seed: mamba 1 → 2"
    )


def test_one_head_has_before_and_after_side_by_side(script, tmp_path: Path):
    tables = load(script, tmp_path, run("mamba", by_channel=True))
    figure = script("hidden_attention").draw(tables)
    maps = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title(loc="center") for axes in maps] == ["before\n(step 0)", "after\n(step 200)"]
    np.testing.assert_allclose(maps[1].images[0].get_array()[-1], np.isin(np.arange(LENGTH), (1, 5)) / 2)
    assert [label.get_text() for label in maps[0].get_yticklabels()] == list(Fake("mamba").labels)
    assert len({(axes.images[0].norm.vmin, axes.images[0].norm.vmax) for axes in maps}) == 1


def test_models_of_several_heads_and_of_one_share_a_figure(script, tmp_path: Path):
    tables = load(script, tmp_path, run("mamba", by_channel=True), run("deltanet", heads=3))
    figure = script("hidden_attention").draw(tables)
    titles = [axes.get_title(loc="center") for axes in figure.axes if axes.images]
    assert titles == ["head 0", "head 1", "head 2", "", "", "", "before\n(step 0)", "after\n(step 200)"]


def test_without_the_probe_it_is_said_how_to_ask(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match="retrograde-probe RUN hidden_attention"):
        load(script, tmp_path, Fake("lstm"))
