"""Lyapunov spectra, on exponents that are given."""

import math
from pathlib import Path

import numpy as np
import pytest

from fake_runs import STEPS, Fake, asked_after, write_run
from retrograde.core.records import Reading
from retrograde.core.statuses import CENSORED, FINITE, NAN, STATUSES, ZERO
from retrograde.figures.comparison import NUMBERS, NothingToDraw, comparisons
from retrograde.record.store import FolderStore

UNIT = "nats per time"


def kinds(values: np.ndarray, censored: int) -> np.ndarray:
    """What each exponent is; the last ``censored`` finite ones are known by an upper bound."""
    found = np.select([np.isnan(values), np.isneginf(values)], [NAN, ZERO], FINITE).astype(np.int8)
    finite = np.flatnonzero(found == FINITE)
    found[finite[len(finite) - censored :]] = CENSORED
    return found


def run(
    model: str, seed: int = 0, before=(-0.5, -1.0), after=(-0.1, -1.0), layers=("0.forward",), censored: int = 0
) -> Fake:
    """The second layer's exponents lie 1 below the first's; over one sample all lie 0.2 above the asymptotic ones."""

    def spectrum(step: int):
        for place, layer in enumerate(layers):
            values = np.array({STEPS[0]: before, STEPS[-1]: after}.get(step, (9.0, 9.0))) - place
            status = kinds(values, censored)
            index = range(len(values))
            yield "lyapunov", Reading(f"asymptotic/{layer}", values, {"index": index}, UNIT, status)
            over_one = Reading(
                f"finite/{layer}", values[None] + 0.2, {"sample": [0], "index": index}, UNIT, status[None]
            )
            yield "lyapunov", over_one
            yield "lyapunov", Reading(f"maximum/{layer}", values[0], {}, UNIT, status[0])

    return Fake(model, seed, also=spectrum)


def load(script, outputs: Path, *fakes: Fake):
    for fake in fakes:
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs))
    return script("lyapunov").load(comparison)


def test_the_largest_of_any_layer_counts_and_kinds_stay_apart(script, tmp_path: Path):
    numbers = load(script, tmp_path, run("lru", layers=("0.forward", "1.forward")))[NUMBERS].iloc[0]
    assert [numbers["largest asymptotic, before"], numbers["largest asymptotic, after"]] == [-0.5, -0.1]
    assert [numbers["largest finite, before"], numbers["largest finite, after"]] == pytest.approx([-0.3, 0.1])
    assert numbers["exponents"] == 4


def test_who_lies_above_0_is_said_plainly(script, tmp_path: Path):
    """elman grows in two of three seeds; gru keeps a change, to within what 1,000 times tell."""
    elman = [run("elman", seed, after=(after, -1.0)) for seed, after in enumerate((0.3, 0.2, -0.6))]
    gru = [run("gru", seed, after=(5e-4, -1.0)) for seed in range(3)]
    assert script("lyapunov").finding(load(script, tmp_path, *elman, *gru)) == (
        "Largest asymptotic exponent before → after training, nats per time, 3 seeds: elman −0.5 → 0.2 (−0.6 to 0.3), "
        "gru −0.5 → 0.0005 (0.0005 to 0.0005); above 0 after training, chaos where the state is bounded: elman with 2 "
        "of 3 seeds; not told apart from 0: gru with every seed; training brings it nearer to 0 with every seed, as "
        "expected, in gru, against expectation not in elman (2 of 3)"
    )


def test_none_above_0_and_no_number_are_said(script, tmp_path: Path):
    tables = load(script, tmp_path, run("gru"), run("irnn", after=(math.nan, math.nan)))
    said = script("lyapunov").finding(tables)
    assert "irnn −0.5 → –; none is above 0 after training; unknown: irnn with its one seed" in said
    script("lyapunov").draw(tables)


def test_what_was_at_0_before_training_is_not_brought_there(script, tmp_path: Path):
    kept = run("linear_attention", before=(0.0, -1.0), after=(0.0, -1.0))
    assert script("lyapunov").finding(load(script, tmp_path, kept)).endswith("linear_attention with its one seed")


def test_where_nothing_is_known_nothing_is_claimed(script, tmp_path: Path):
    nothing = (math.nan, math.nan)
    assert script("lyapunov").finding(load(script, tmp_path, run("irnn", before=nothing, after=nothing))) == (
        "Largest asymptotic exponent before → after training, nats per time, 1 seed: irnn – → –; unknown: irnn with "
        "its one seed"
    )


def test_a_spectrum_that_was_asked_for_after_training_is_no_earlier_one(script, tmp_path: Path):
    lyapunov = script("lyapunov")
    tables = load(script, tmp_path / "alone", asked_after(run("gru")))
    assert lyapunov.finding(tables) == (
        "Largest asymptotic exponent after training, nats per time, 1 seed: gru −0.1; none is above 0 after training"
    )
    lyapunov.draw(tables)
    beside = load(script, tmp_path / "beside", asked_after(run("gru")), run("lstm"))
    assert "gru – → −0.1, lstm −0.5 → −0.1" in lyapunov.finding(beside)


def test_before_training_alone_nothing_is_said_of_after(script, tmp_path: Path):
    tables = dict(load(script, tmp_path, run("gru", before=(0.4, 0.1))))
    tables[NUMBERS] = tables[NUMBERS].assign(**{"largest asymptotic, after": math.nan})
    assert script("lyapunov").finding(tables) == (
        "Largest asymptotic exponent before training, nats per time, 1 seed: gru 0.4; above 0 before training, chaos "
        "where the state is bounded: gru with its one seed"
    )


def test_exponents_stand_at_their_relative_rank(script, tmp_path: Path):
    """Of two exponents the first stands at 1/4, the second at 3/4, whatever the size of another model's state."""
    tables = load(script, tmp_path, run("gru"), run("lstm", before=(-0.5,) * 4, after=(-0.1, -0.2, -0.3, -0.4)))
    figure = script("lyapunov").draw(tables)
    finite, asymptotic = figure.axes[:2]
    thick = [line for line in asymptotic.lines if line.get_linewidth() == 1.8]
    assert [list(line.get_xdata()) for line in thick] == [[0.25, 0.75]] * 2
    assert [list(line.get_ydata()) for line in thick] == [[-0.5, -1.0], [-0.1, -1.0]]
    after = [line for line in finite.lines if line.get_linewidth() == 1.8][1]
    np.testing.assert_allclose(after.get_ydata(), [0.1, -0.8])
    wide = [line for line in figure.axes[3].lines if line.get_linewidth() == 1.8][1]
    np.testing.assert_allclose(wide.get_xdata(), [0.125, 0.375, 0.625, 0.875])


def test_what_is_not_known_is_marked_and_counted(script, tmp_path: Path):
    lyapunov = script("lyapunov")
    tables = load(script, tmp_path, run("rwkv", after=(-0.1, -30.0, -math.inf), before=(-0.5,) * 3, censored=1))
    asymptotic = tables["exponents"].loc[lambda table: table["kind"] == "asymptotic"]
    assert set(asymptotic["status"]) == {STATUSES[FINITE], STATUSES[CENSORED], STATUSES[ZERO]}
    assert lyapunov.oddities(asymptotic) == "−∞: 1 after; at most as drawn: 1 before, 1 after"
    axes = lyapunov.draw(tables).axes[1]
    marks = [line.get_xdata().tolist() for line in axes.lines if line.get_marker() == "v"]
    np.testing.assert_allclose(np.concatenate(marks), [5 / 6, 5 / 6, 0.5])  # before bound, after nothing, after bound


def test_nothing_left_in_one_run_is_below_the_others_and_in_most_of_them_no_line(script, tmp_path: Path):
    """The median of -∞, -1 and -2 is -2; of -∞, -∞ and -1 it is -∞."""
    after = ((-0.1, -math.inf, -math.inf), (-0.1, -1.0, -math.inf), (-0.1, -2.0, -1.0))
    fakes = [run("lru", seed, before=(-0.5,) * 3, after=values) for seed, values in enumerate(after)]
    axes = script("lyapunov").draw(load(script, tmp_path, *fakes)).axes[1]
    line = [line for line in axes.lines if line.get_linewidth() == 1.8][1]
    np.testing.assert_array_equal(line.get_ydata(), [-0.1, -2.0, np.nan])
    band = axes.collections[-1].get_paths()[0].vertices
    assert np.isfinite(band).all() and band[:, 1].min() == pytest.approx(axes.get_ylim()[0])


def test_a_decoder_has_no_asymptotic_spectrum_and_the_panel_says_why(script, tmp_path: Path):
    decoder = run("seq2seq", layers=("encoder0.forward", "decoder0.forward"))
    tables = dict(load(script, tmp_path, decoder))
    exponents = tables["exponents"]
    of_decoder = (exponents["layer"] == "decoder0.forward") & (exponents["kind"] == "asymptotic")
    tables["exponents"] = exponents[~of_decoder]
    texts = [text.get_text() for text in script("lyapunov").draw(tables).axes[1].texts]
    assert any("a decoder begins" in text.replace("\n", " ") for text in texts)


def test_without_the_probe_it_is_said_how_to_ask(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match="retrograde-probe RUN lyapunov"):
        load(script, tmp_path, Fake("gru"))
