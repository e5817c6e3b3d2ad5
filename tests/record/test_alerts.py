"""What readings warn of: tables with made-up numbers in, sentences out; and what is measured too little to say."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_runs import CARD
from retrograde.core.contracts import Card
from retrograde.core.records import Reading
from retrograde.core.statistics import STATISTICS
from retrograde.core.statuses import CENSORED, FINITE, INF, NAN, ZERO
from retrograde.record.alerts import Alert, AlertSettings, alerts
from retrograde.record.folder import RunFolder
from retrograde.record.store import FolderStore
from retrograde.record.tables import TableWriter, metrics_table, reading_table

NEEDS_40 = replace(CARD, lags=((10, 1), (40, 8), (60, 1)))
UNKNOWN = replace(CARD, lags=())
LSTM = {"model": {"_target_": "lstm", "forget_bias": 1.0}, "optimizer": {"lr": 0.01}, "regularizer": None}

Snapshots = Mapping[int, list[tuple[str, Reading]]]


def recorded(
    folder: Path, snapshots: Snapshots, card: Card = NEEDS_40, config: Mapping[str, Any] = LSTM, **more: Any
) -> tuple[FolderStore, str]:
    """A run with these readings at these steps."""
    run = RunFolder(folder / "run")
    run.path.mkdir()
    run.write_card(card)
    writer = TableWriter(run.tables)
    for step, readings in snapshots.items():
        for probe, reading in readings:
            quantity, table = reading_table(run.run, step, reading)
            writer.append(f"readings/{probe}/{quantity}", table)
    if "metrics" in more:
        writer.append("metrics", metrics_table(run.run, more.pop("metrics")))
    writer.merge()
    identity = {"run": run.run, "study": "s", "model": "lstm", "task": "adding", "seed": 0, "status": "finished"}
    run.write({**identity, "config": dict(config), **more})
    return FolderStore(run.path), run.run


def number(name: str, value: float, probe: str = "health") -> tuple[str, Reading]:
    return probe, Reading(name, np.array(value), {}, "share")


def over_lag(
    decades: float, key: str = "0.forward.hidden", lags: int = 60, status: int = FINITE, initial: bool = True
) -> list[tuple[str, Reading]]:
    """A gradient that falls (or grows) by so many decades each lag, with its summary, as the probes record it."""
    mean = decades * np.arange(lags + 1.0)
    values = np.tile(mean, (len(STATISTICS), 1))
    values[1:] = 7.0  # quantiles, which nothing here may be judged by
    statuses = np.full(values.shape, FINITE)
    statuses[:, 20:] = status
    where = {"statistic": STATISTICS, "lag": range(lags + 1)}
    times = range(-1 if initial else 0, lags)
    over_time = {"statistic": STATISTICS, "time": times}
    half_life = math.inf if decades >= 0 else math.log10(2) / -decades
    return [
        ("lag_gradient", Reading(f"norm/{key}", values, where, "log10", statuses)),
        ("lag_gradient", Reading(f"relative/{key}", values, where, "log10 share", statuses)),
        number(f"slope/{key}", decades, "lag_gradient"),
        number(f"half_life/{key}", half_life, "lag_gradient"),
        ("state_gradient", Reading(f"total/{key}", np.zeros((len(STATISTICS), len(times))), over_time, "log10")),
    ]


def said(found: tuple[FolderStore, str], settings: AlertSettings | None = None) -> list[str]:
    return [alert.text for alert in alerts(*found, settings)]


def only(found: tuple[FolderStore, str]) -> Alert:
    (alert,) = alerts(*found)
    return alert


def test_a_gradient_that_vanishes_is_told_with_its_rate_and_with_what_the_task_asks_for(tmp_path: Path) -> None:
    hidden, cell = over_lag(-0.2), over_lag(-0.1, "0.forward.cell")
    found = recorded(tmp_path, {0: hidden + cell, 10: hidden + cell})
    alert = only(found)
    assert alert.text == (
        "layer 0, cell state: the gradient falls by half every 3 lags; the task asks for 40, where 0.0001 of it is "
        "left (at every snapshot). Try a larger model.forget_bias (it is 1), model=lstm_chrono or regularizer=omega."
    )
    assert (alert.kind, alert.level, alert.layer, alert.component) == ("vanishing", "warning", "0.forward", "cell")
    assert (alert.first, alert.last, alert.at_end, alert.value) == (0, 10, True, -4.0)


def test_a_memory_reaches_as_far_as_the_best_of_its_components(tmp_path: Path) -> None:
    assert said(recorded(tmp_path, {10: over_lag(-0.2) + over_lag(-0.01, "0.forward.cell")})) == []


def test_what_arrives_below_reaches_the_input_whatever_is_above(tmp_path: Path) -> None:
    good, bad = -0.01, -0.5
    found = recorded(tmp_path, {0: over_lag(bad) + over_lag(good, "1.forward.hidden"), 10: over_lag(good)})
    assert only(found).layer == "0.forward" and only(found).last == 0
    (tmp_path / "above").mkdir()
    assert said(recorded(tmp_path / "above", {10: over_lag(good) + over_lag(bad, "1.forward.hidden")})) == []


def test_one_percent_left_is_the_limit_and_a_setting(tmp_path: Path) -> None:
    found = recorded(tmp_path, {10: over_lag(-0.0499)})
    assert said(found) == []
    assert len(said(found, AlertSettings(vanishing=0.0102))) == 1
    assert said(found, AlertSettings(vanishing=None)) == []


def test_where_the_task_knows_no_lags_there_is_a_rate_and_no_advice(tmp_path: Path) -> None:
    alert = only(recorded(tmp_path, {10: over_lag(-0.1)}, UNKNOWN))
    assert alert.text == (
        "layer 0, hidden state: the gradient falls by half every 3 lags, and at lag 60 1e-06 of it is left; how far "
        "back the task asks to reach is not known (at step 10)."
    )
    assert alert.level == "info"


def test_what_was_not_measured_as_far_as_the_task_asks_is_not_judged(tmp_path: Path) -> None:
    assert said(recorded(tmp_path, {10: over_lag(-0.2, lags=39)})) == []


def test_a_layer_without_recurrence_is_not_judged_by_lag(tmp_path: Path) -> None:
    """The state of one position need not matter to another: attention above reaches what is below it."""
    assert said(recorded(tmp_path, {10: over_lag(-0.5, initial=False), 20: over_lag(0.5, initial=False)})) == []


@pytest.mark.parametrize(
    ("status", "words"),
    [(CENSORED, "where less of it is left than the format holds"), (ZERO, "where nothing of it arrives")],
)
def test_what_has_left_the_format_or_has_no_path_is_said_so(tmp_path: Path, status: int, words: str) -> None:
    assert words in only(recorded(tmp_path, {10: over_lag(-0.5, status=status)})).text


@pytest.mark.parametrize("status", [NAN, INF])
def test_nothing_is_said_of_what_is_no_number(tmp_path: Path, status: int) -> None:
    assert said(recorded(tmp_path, {10: over_lag(-0.5, status=status)})) == []


def test_a_gradient_that_is_lost_without_a_rate_has_none_in_words(tmp_path: Path) -> None:
    lost = [part for part in over_lag(-0.5) if not part[1].name.startswith(("half_life", "slope"))]
    text = only(recorded(tmp_path, {10: [*lost, number("half_life/0.forward.hidden", math.inf, "lag_gradient")]})).text
    assert text.startswith(
        "layer 0, hidden state: the task asks for a gradient over 40 lags, where 1e-20 of it is left"
    )
    assert "inf" not in text


def test_a_gradient_that_explodes_is_told_by_its_slope(tmp_path: Path) -> None:
    config = {"model": {"radius": 1.5}, "trainer": {"clip": None}}
    alert = only(recorded(tmp_path, {10: over_lag(0.05) + over_lag(0.1, "1.forward.hidden")}, config=config))
    assert alert.text == (
        "layer 1, hidden state: the gradient doubles every 3 lags, 1e+06 times its size over the 60 measured "
        "(at step 10). Try trainer.clip=1, model.radius=1 (it is 1.5) or a smaller learning rate."
    )
    assert alert.kind == "exploding"


def test_growth_below_the_limit_is_none(tmp_path: Path) -> None:
    found = recorded(tmp_path, {10: over_lag(1.99 / 60)})
    assert said(found) == [] and len(said(found, AlertSettings(exploding=90.0))) == 1


def test_growth_beyond_every_format_has_a_number(tmp_path: Path) -> None:
    assert "5e+999 times" in only(recorded(tmp_path, {10: over_lag(16.662)})).text


def test_a_gated_cell_is_for_what_was_seen_to_have_no_gates(tmp_path: Path) -> None:
    def advice(name: str, probes: Mapping[str, Any], gates: bool) -> str:
        (tmp_path / name).mkdir()
        seen = [number("gate/0.forward.forget", 0.5, "gates")] if gates else []
        config = {"model": {}, "probe": probes}
        return only(recorded(tmp_path / name, {10: over_lag(-0.2) + seen}, config=config)).text

    assert advice("looked", {"gates": {}}, gates=False).endswith(
        "Try a gated cell (model=lstm) or model=orthogonal_rnn."
    )
    assert "Try" not in advice("seen", {"gates": {}}, gates=True)
    assert "Try" not in advice("unknown", {}, gates=False)


def test_a_model_is_not_advised_against_itself_nor_one_that_does_not_fit(tmp_path: Path) -> None:
    config = {"model": {}, "probe": {"gates": {}}}
    alert = only(recorded(tmp_path, {10: over_lag(-0.2)}, config=config, model="orthogonal_rnn"))
    assert alert.text.endswith("Try a gated cell (model=lstm).")
    (tmp_path / "pair").mkdir()
    grown = over_lag(0.2, "encoder0.forward.hidden")
    text = only(recorded(tmp_path / "pair", {10: grown}, config=config)).text
    assert text.endswith("Try trainer.clip=1 or a smaller learning rate.")


def test_a_gradient_that_training_cuts_is_not_for_the_model_alone_to_mend(tmp_path: Path) -> None:
    def text(truncate: int) -> str:
        (tmp_path / str(truncate)).mkdir()
        config = {"trainer": {"truncate": truncate}}
        return only(recorded(tmp_path / str(truncate), {10: over_lag(-0.2)}, config=config)).text

    assert text(5).endswith("Try a larger trainer.truncate (it is 5).")
    assert "Try" not in text(40)


def test_a_memory_that_was_not_measured_may_be_what_remembers(tmp_path: Path) -> None:
    """The loss does not see its numerator at lag 0, so nothing is known relative to that; what arrives later counts."""
    here = over_lag(-0.2)
    unseen = [part for part in over_lag(-0.01, "0.forward.numerator") if part[1].name.startswith("norm")]
    assert said(recorded(tmp_path, {10: here + unseen})) == []
    (tmp_path / "lost").mkdir()
    lost = [part for part in over_lag(-0.2, "0.forward.cell", status=ZERO) if part[1].name.startswith("norm")]
    assert len(said(recorded(tmp_path / "lost", {10: here + lost}))) == 1


def test_a_solved_task_needs_no_advice(tmp_path: Path) -> None:
    alert = only(recorded(tmp_path, {10: over_lag(-0.2)}, solved=True))
    assert alert.level == "info" and "Try" not in alert.text


def test_an_alert_says_when_it_held_and_what_holds_at_the_end_comes_first(tmp_path: Path) -> None:
    good, bad = over_lag(0.0), over_lag(-0.2)
    clean, dead = [number("dead/0.forward.hidden", 0.0)], [number("dead/0.forward.hidden", 0.25)]
    steps = {0: bad + clean, 1: bad + dead, 10: good + clean, 100: bad + dead, 1000: good + dead}
    first, second = alerts(*recorded(tmp_path, steps))
    assert (first.kind, first.first, first.last, first.at_end) == ("dead", 100, 1000, True)
    assert "25% of its units are 0 for every sample at every time (since step 100). Try a smaller" in first.text
    assert (second.kind, second.first, second.last, second.at_end) == ("vanishing", 100, 100, False)
    assert second.text.endswith("(at step 100, not later).")


def test_dead_and_saturated_states_are_told_by_component(tmp_path: Path) -> None:
    readings = [
        number("dead/0.forward.hidden", 0.19),
        number("dead/1.backward.hidden", 0.2),
        number("saturated/0.forward.hidden", 0.625),
    ]
    config = {"probe": {"health": {"saturated": 0.9}}, "optimizer": {"lr": 0.5}}
    assert said(recorded(tmp_path, {10: readings}, config=config)) == [
        "layer 1, reading backward, hidden state: 20% of its units are 0 for every sample at every time (at step 10). "
        "Try a smaller optimizer.lr (it is 0.5).",
        "layer 0, hidden state: 62% of its entries lie beyond ±0.9, where tanh is flat (at step 10). "
        "Try a smaller optimizer.lr (it is 0.5).",
    ]


def test_what_training_has_not_done_a_smaller_rate_does_not_mend(tmp_path: Path) -> None:
    dead = [number("dead/0.forward.hidden", 0.4)]
    assert said(recorded(tmp_path, {0: dead, 10: dead})) == [
        "layer 0, hidden state: 40% of its units are 0 for every sample at every time (at every snapshot)."
    ]


def heads(layer: str, shares: list[float], cross: bool = False) -> list[tuple[str, Reading]]:
    dims = {"head": range(len(shares))}
    made = [("attention", Reading(f"entropy_share/{layer}", np.array(shares), dims, "share"))]
    return made if cross else [*made, ("attention", Reading(f"distance/{layer}", np.array(shares), dims, "positions"))]


def test_attention_has_collapsed_where_every_head_of_a_layer_has(tmp_path: Path) -> None:
    some, all_of_them = heads("0", [0.01, 0.4]), heads("1", [0.01, 0.04])
    config = {"model": {"scaling": False, "normalisation": True}, "scheduler": None}
    alert = only(recorded(tmp_path, {10: [*some, *all_of_them, *heads("2", [0.01, math.nan])]}, config=config))
    assert alert.text == (
        "layer 1: each of its 2 heads looks at hardly more than one key, with at most 4.0% of the entropy that it "
        "could have (at step 10). Try model.scaling=true, scheduler=warmup or a smaller learning rate."
    )


def test_a_decoder_may_look_at_one_word_of_its_source(tmp_path: Path) -> None:
    assert said(recorded(tmp_path, {10: heads("cross", [0.0], cross=True)})) == []


def clipped(share: float, norm: float) -> list[tuple[str, Reading]]:
    norms = Reading("gradient/parameters", np.log10([99.0, norm]), {"parameter": ["w", "all"]}, "log10")
    return [number("clipped/steps", share, "parameters"), ("parameters", norms)]


def test_clipping_counts_steps_and_not_snapshots(tmp_path: Path) -> None:
    """Nine of ten steps before step 10, 60 of 90 after it: 69 of 100."""
    config = {"trainer": {"clip": 0.5, "clip_by": "norm"}, "optimizer": {"lr": 0.1}}
    found = recorded(tmp_path, {0: [], 10: clipped(0.9, 3.0), 100: clipped(60 / 90, 2.0)}, config=config)
    assert said(found) == [
        "69% of 100 steps were clipped by trainer.clip=0.5; at step 100 the gradient's norm was 2 (at every snapshot). "
        "Try a larger trainer.clip or a smaller optimizer.lr (it is 0.1)."
    ]
    assert said(found, AlertSettings(clipping=0.7)) == []


def test_clipping_of_the_first_steps_alone_is_none(tmp_path: Path) -> None:
    config = {"trainer": {"clip": 1.0}}
    assert said(recorded(tmp_path, {10: clipped(1.0, 3.0), 100: clipped(0.0, 0.1)}, config=config)) == []


def test_a_run_is_too_short_to_be_clipped_on_most_steps(tmp_path: Path) -> None:
    config = {"trainer": {"clip": 1.0}}
    assert said(recorded(tmp_path, {1: clipped(1.0, 3.0), 99: clipped(1.0, 3.0)}, config=config)) == []


def counted(name: str, nan: float, inf: float, first: str, time: float) -> list[tuple[str, Reading]]:
    kinds = Reading(name, np.array([nan, inf]), {"kind": ("nan", "inf")}, "states")
    return [("health", kinds), number(f"{first}/{name.partition('/')[2]}", time)]


def test_numbers_that_are_none_on_the_probe_batch_are_told_by_their_first_place(tmp_path: Path) -> None:
    readings = [
        *counted("nonfinite/inputs", 0, 0, "first_nonfinite", math.nan),
        *counted("nonfinite/0.forward.hidden", 3, 12, "first_nonfinite", 17),
        *counted("nonfinite/outputs", 2, 0, "first_nonfinite", 19),
        *counted("gradient_nonfinite/0.forward.hidden", 0, 4, "gradient_first", 5),
        *counted("gradient_nonfinite/1.forward.hidden", 0, 2, "gradient_first", 9),
    ]
    config = {"trainer": {"clip": None}}
    forward, backward = said(recorded(tmp_path, {10: readings}, config=config))
    assert forward.startswith(
        "on the probe batch, layer 0, hidden state is 3 times NaN and 12 times infinite, first at time 17"
    )
    assert backward.startswith(
        "on the probe batch, the gradient at layer 1, hidden state is 2 times infinite, first at time 9"
    )


def test_a_validation_that_is_no_number_is_told_with_its_step(tmp_path: Path) -> None:
    rows = [(5, "train/loss", math.nan), (5, "validation/loss", 0.2), (10, "validation/loss", math.inf)]
    assert said(recorded(tmp_path, {}, config={}, metrics=rows))[0].startswith(
        "the validation loss is inf (at step 10)"
    )


PLACE = {"step": 41, "loss": math.nan, "parameters": ["a", "b", "c"], "kept": "checkpoints/nonfinite.pt"}
AT = {"value": "inf", "layer": "0.forward", "component": "hidden", "time": 23, "sample": 5}


@pytest.mark.parametrize(
    ("nonfinite", "words"),
    [
        (PLACE | AT | {"what": "state"}, "layer 0, hidden state is infinite, first at time 23 (sample 5)"),
        (PLACE | AT | {"what": "gradient"}, "the gradient at layer 0, hidden state is infinite, first at time 23"),
        (PLACE | AT | {"what": "outputs", "layer": "", "component": ""}, "an output is infinite, first at time 23"),
        (PLACE | {"what": "gradient"}, "the gradient of a and 2 others is not finite"),
        (PLACE | {"what": "update"}, "a gradient that is finite makes an update that is not, of a and 2 others"),
        (PLACE | {"what": "weight", "parameters": ["a"]}, "a holds something that is no number before it"),
        (PLACE | {"what": "loss"}, "the training loss is nan, while the model by itself"),
        ({"step": 41, "loss": math.inf, "what": None}, "the training loss is inf, and was not so again"),
    ],
)
def test_the_step_that_ended_a_run_comes_first_with_its_place(tmp_path: Path, nonfinite: Any, words: str) -> None:
    config = {"trainer": {"clip": None}, "optimizer": {"lr": 5.0}}
    found = recorded(tmp_path, {10: over_lag(-0.2)}, config=config, nonfinite=nonfinite)
    alert, *others = alerts(*found)
    assert alert.text.startswith(f"step 41: {words}") and alert.level == "error" and alert.at_end
    assert "; the run ends before that step. Try trainer.clip=1 or a smaller optimizer.lr (it is 5)." in alert.text
    assert [other.kind for other in others] == ["vanishing"]
    assert "nonfinite" not in {alert.kind for alert in alerts(*found, AlertSettings(nonfinite=False))}


def test_what_is_not_finite_from_the_start_is_for_the_model_to_mend(tmp_path: Path) -> None:
    config = {"model": {"radius": 2.0}, "trainer": {"clip": None}, "optimizer": {"lr": 5.0}}
    nonfinite = PLACE | AT | {"what": "state", "step": 1}
    assert only(recorded(tmp_path, {}, config=config, nonfinite=nonfinite)).text.endswith(
        "; the run ends before that step. Try model.radius=1 (it is 2)."
    )


def test_a_run_without_readings_has_no_alerts(tmp_path: Path) -> None:
    assert alerts(*recorded(tmp_path, {})) == []


def test_what_run_json_is_going_to_say_counts_before_it_does(tmp_path: Path) -> None:
    found = recorded(tmp_path, {10: over_lag(-0.2)})
    assert "Try" not in alerts(*found, metadata={"solved": True, "config": LSTM})[0].text


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"dead": 0.0}, "alerts.dead is a share"), ({"exploding": 1.0}, "alerts.exploding is a factor above 1")],
)
def test_a_threshold_without_a_meaning_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlertSettings(**settings)
