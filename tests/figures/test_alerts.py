"""Alerts of many runs, as the runs recorded them: counted by kind and model, none left out."""

from pathlib import Path
from typing import Any

from fake_runs import Fake, write_run
from retrograde.figures.alerts import OfModel, Raised, asked, per_alert, per_kind, unjudged
from retrograde.figures.comparison import Comparison, comparisons
from retrograde.record.alerts import NEEDS
from retrograde.record.store import FolderStore


def alert(kind: str, text: str, value: float = 1.0, level: str = "warning", at_end: bool = True) -> dict[str, Any]:
    place = {"layer": "0.forward", "component": "hidden", "first": 0, "last": 200}
    return {"kind": kind, "level": level, "text": text, "value": value, "at_end": at_end, **place}


def compared(outputs: Path, runs: dict[tuple[str, int], list[dict[str, Any]] | None]) -> Comparison:
    for (model, seed), alerts in runs.items():
        write_run(outputs, Fake(model, seed, more={} if alerts is None else {"alerts": alerts}))
    ((one,), _) = comparisons(FolderStore(outputs))
    return one


def test_a_hundred_runs_with_one_alert_are_one_sentence_with_a_count(tmp_path: Path) -> None:
    """The sentence is that of the run in the middle, by the number that the alert is about."""
    runs = {("elman", seed): [alert("vanishing", f"seed {seed}", value=-float(seed))] for seed in range(100)}
    comparison = compared(tmp_path, runs)
    assert per_kind(per_alert(comparison), comparison) == [
        Raised("Vanishing gradient", "warning", 100, [OfModel("elman", 100, 100, "seed 50", 50)], "")
    ]
    assert len(asked(comparison)) == 100


def test_kinds_come_by_weight_and_models_with_their_counts(tmp_path: Path) -> None:
    runs = {
        ("lstm", 0): [alert("clipping", "clipped")],
        ("lstm", 1): [alert("nonfinite", "NaN", level="error"), alert("vanishing", "lost", at_end=False)],
        ("gru", 0): [alert("saturated", "below"), alert("saturated", "above", value=2.0)],
        ("irnn", 0): [],
        ("rule", 0): None,  # recorded before there were alerts
    }
    comparison = compared(tmp_path, runs)
    table = per_alert(comparison)
    lines = per_kind(table, comparison)
    assert [(line.title, line.runs) for line in lines] == [
        ("Numbers that are none", 1),
        ("Saturated states", 1),
        ("Clipping on most steps", 1),
    ]
    assert lines[0].models == [OfModel("lstm", 1, 2, "NaN", 1)]
    assert lines[1].models == [OfModel("gru", 1, 1, "below", 0)]  # two alerts of one run
    assert table["text"].to_list() == ["NaN", "above", "below", "clipped", "lost"]
    assert len(asked(comparison)) == 4


def test_a_model_has_as_many_runs_as_were_asked(tmp_path: Path) -> None:
    runs = {("gru", 0): [alert("vanishing", "lost")], ("gru", 1): [], ("gru", 2): None}
    comparison = compared(tmp_path, runs)
    (line,) = per_kind(per_alert(comparison), comparison)
    assert (line.runs, line.models[0].runs, line.models[0].asked, len(asked(comparison))) == (1, 1, 2, 2)


EVERY = ("state_gradient", "lag_gradient", "attention", "parameters", "health")


def probed(outputs: Path, *probes: tuple[str, ...]) -> Comparison:
    """A run with each of these sets of probes, and no alert."""
    for seed, names in enumerate(probes):
        config = {"probe": {name: {"_target_": name} for name in names}}
        write_run(outputs, Fake("lstm", seed, more={"alerts": []}, config=config))
    ((one,), _) = comparisons(FolderStore(outputs))
    return one


def test_what_no_probe_was_asked_about_is_not_taken_for_sound(tmp_path: Path) -> None:
    assert unjudged(probed(tmp_path / "every", EVERY)) == ""
    assert unjudged(probed(tmp_path / "some", EVERY, EVERY[1:], EVERY[1:4])) == (
        "exploding gradient and vanishing gradient could not be judged in 2 runs, for want of state_gradient; "
        "dead units and saturated states could not be judged in 1 run, for want of health"
    )
    assert unjudged(probed(tmp_path / "none", ())) == (
        "exploding gradient, vanishing gradient, dead units, saturated states, collapsed attention (of models that "
        "attend) and clipping on most steps could not be judged in 1 run, for want of lag_gradient, state_gradient, "
        "health, attention and parameters"
    )


def test_a_kind_that_was_not_wanted_is_not_missed(tmp_path: Path) -> None:
    config = {"probe": {"health": {}}, "alerts": {**dict.fromkeys(NEEDS, 0.5), "collapsed": None, "clipping": None}}
    write_run(tmp_path, Fake("lstm", 0, more={"alerts": []}, config=config))
    ((one,), _) = comparisons(FolderStore(tmp_path))
    assert unjudged(one) == (
        "exploding gradient and vanishing gradient could not be judged in 1 run, for want of lag_gradient and "
        "state_gradient"
    )


def test_what_ended_a_run_is_said_before_what_followed_from_it(tmp_path: Path) -> None:
    after = [alert("nonfinite", f"{count} times NaN", value=count) for count in (2.0, 3.0, 9.0)]
    comparison = compared(tmp_path, {("lstm", 0): [alert("nonfinite", "step 4", 4.0, level="error"), *after]})
    (line,) = per_kind(per_alert(comparison), comparison)
    assert line.level == "error" and line.models == [OfModel("lstm", 1, 1, "step 4", 0)]


def test_of_many_models_a_few_have_a_sentence_and_the_others_a_name_or_a_number(tmp_path: Path) -> None:
    names = [f"m{number}" for number in range(13)]
    comparison = compared(tmp_path / "some", {(name, 0): [alert("dead", name)] for name in names[:6]})
    (line,) = per_kind(per_alert(comparison), comparison)
    assert [of_model.text for of_model in line.models] == names[:4] and line.others == "m4 and m5"
    comparison = compared(tmp_path / "many", {(name, 0): [alert("dead", name)] for name in names})
    (line,) = per_kind(per_alert(comparison), comparison)
    assert line.runs == 13 and line.others == "9 other models"


def test_runs_without_alerts_make_an_empty_table(tmp_path: Path) -> None:
    comparison = compared(tmp_path, {("lstm", 0): []})
    assert per_alert(comparison).empty and per_kind(per_alert(comparison), comparison) == []
