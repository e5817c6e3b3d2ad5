"""Which runs stand in one figure, and under which name."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from fake_runs import CARD, Fake, shallow, write_run
from retrograde.figures import theme
from retrograde.figures.comparison import (
    AFTER,
    BEFORE,
    NothingToDraw,
    comparisons,
    ends,
    exceptions,
    model_names,
    outcome,
    slug,
    uncounted,
)
from retrograde.record.store import FolderStore


def test_another_length_is_another_comparison(tmp_path: Path):
    write_run(tmp_path, Fake("gru"))
    write_run(tmp_path, Fake("gru", card=replace(CARD, variant="T = 100"), config={"task": {"length": 100}}))
    found, left_out = comparisons(FolderStore(tmp_path))
    assert [one.card["variant"] for one in found] == ["T = 100", CARD.variant]
    assert [one.stem for one in found] == ["demo-adding", "demo-adding-2"]
    assert left_out == {}


def test_settings_that_differ_make_models_and_numbers_sort_by_size(tmp_path: Path):
    for hidden in (16, 8):
        for seed in (0, 1):
            write_run(tmp_path, Fake("lstm", seed, config={"model": {"hidden": hidden}}))
    write_run(tmp_path, Fake("gru"))
    (found,), _ = comparisons(FolderStore(tmp_path))
    assert list(found.runs["model"].cat.categories) == ["gru", "lstm (hidden=8)", "lstm (hidden=16)"]
    assert found.runs["model"].value_counts()["lstm (hidden=8)"] == 2


def test_shallow_rules_stand_beside_what_learns(tmp_path: Path):
    for fake in (Fake("gru"), shallow("window", 0.3), shallow("window", 0.1, k=2), shallow("bag", 0.2)):
        write_run(tmp_path, fake)
    (found,), _ = comparisons(FolderStore(tmp_path))
    assert found.runs["model"].tolist() == ["gru"]
    scores = found.rule_scores()
    assert scores["rule"].tolist() == ["last 10 steps", "bag", "last 2 steps"]
    assert scores["score"].tolist() == [0.3, 0.2, 0.1]
    assert found.metrics()["model"].unique().tolist() == ["gru"]


def test_a_model_that_learns_may_call_its_settings_as_a_rule_does(tmp_path: Path):
    for k in (4, 8):
        write_run(tmp_path, Fake("mine", config={"model": {"k": k, "rule": "delta"}}))
        write_run(tmp_path, shallow("bag", 0.1, k=k))
    (found,), _ = comparisons(FolderStore(tmp_path))
    assert found.runs["model"].tolist() == ["mine (k=4)", "mine (k=8)"]
    assert found.rule_scores()["rule"].tolist() == ["bag"]


def test_rules_change_no_look_of_a_model_that_learns(tmp_path: Path):
    for model in ("gru", "tcn", "transformer"):
        write_run(tmp_path, Fake(model))
    (without,), _ = comparisons(FolderStore(tmp_path))
    for rule in ("constant", "position", "last_token", "first_token", "bag", "window"):
        write_run(tmp_path, shallow(rule, 0.1))
    (beside,), _ = comparisons(FolderStore(tmp_path))
    looks = theme.looks(beside.runs["model"])
    assert len(looks) == 9
    assert theme.looks(without.runs["model"]).items() <= looks.items()


def test_rules_alone_are_compared_with_one_another(tmp_path: Path):
    for fake in (shallow("constant", 0.0), shallow("depth_1", 0.6)):
        write_run(tmp_path, fake)
    (found,), _ = comparisons(FolderStore(tmp_path))
    assert found.runs["model"].tolist() == ["rule: constant", "rule: depth 1"]
    assert found.rules.empty and found.rule_scores().empty


def test_what_is_asked_of_a_run_and_how_it_is_recorded_make_no_model():
    run = {
        "model": "gru",
        "config.seed": 0,
        "config.probe.attention.samples": 1,
        "config.recorder.mode": "online",
        "config.trainer.accelerator": "cpu",
        "config.trainer.validate_every": 50,
        "config.trainer.test_samples": 64,
        "config.probing.samples": 8,
    }
    other = {key: value * 2 for key, value in run.items() if key != "model"}
    assert model_names([run, run | other]) == ["gru", "gru"]
    clipped = [run | {"config.trainer.clip": clip} for clip in (1.0, 0.5)]
    assert model_names(clipped) == ["gru (clip=1)", "gru (clip=0.5)"]


def named(tmp_path: Path, *configs: dict) -> list[str]:
    """The models' names of runs with these settings, of one model."""
    for config in configs:
        write_run(tmp_path, Fake("elman", config=config))
    (found,), _ = comparisons(FolderStore(tmp_path))
    return list(found.runs["model"].cat.categories)


def test_nothing_is_called_null_and_a_number_as_it_is_written(tmp_path: Path):
    clips = [{"trainer": {"clip": clip}} for clip in (None, 1.0, 1e30)]
    assert named(tmp_path, *clips) == ["elman (clip=1)", "elman (clip=1e+30)", "elman (clip=null)"]


WARMUP = {"_target_": "retrograde.train.schedules.transformer_warmup", "_partial_": True, "width": 8, "warmup": 4000}


def test_a_choice_is_named_and_not_what_comes_with_it(tmp_path: Path):
    """The scheduler's width is no width of the model's."""
    runs = [
        {"scheduler": None, "optimizer": {"lr": 0.003}, "width": 8},
        {"scheduler": WARMUP, "optimizer": {"lr": 1.0}, "width": 8},
    ]
    assert named(tmp_path, *runs) == ["elman (scheduler=none, lr=0.003)", "elman (scheduler=transformer_warmup, lr=1)"]


def test_optimizers_go_by_name_with_what_is_varied_of_each(tmp_path: Path):
    adam = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.003}
    sgd = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.003, "momentum": 0.0}
    assert named(tmp_path / "two", {"optimizer": adam}, {"optimizer": sgd}) == [
        "elman (optimizer=adam)",
        "elman (optimizer=sgd)",
    ]
    three = [{"optimizer": one} for one in (adam, sgd, sgd | {"momentum": 0.9})]
    assert named(tmp_path / "three", *three) == [
        "elman (optimizer=adam)",
        "elman (optimizer=sgd, momentum=0)",
        "elman (optimizer=sgd, momentum=0.9)",
    ]


def test_settings_that_end_alike_are_told_apart(tmp_path: Path):
    runs = [{"width": width, "scheduler": WARMUP | {"width": width}} for width in (8, 16)]
    assert named(tmp_path, *runs) == [
        "elman (width=8, scheduler.width=8)",
        "elman (width=16, scheduler.width=16)",
    ]


def test_categories_are_the_models_of_the_whole_store(tmp_path: Path):
    write_run(tmp_path, Fake("gru", study="one"))
    write_run(tmp_path, Fake("elman", study="two"))
    found, _ = comparisons(FolderStore(tmp_path))
    assert [list(one.runs["model"].cat.categories) for one in found] == [["elman", "gru"]] * 2


def test_runs_that_cannot_be_read_are_named_with_the_reason(tmp_path: Path):
    write_run(tmp_path, Fake("gru"))
    torn, without_card = write_run(tmp_path, Fake("lstm")), write_run(tmp_path, Fake("elman"))
    (torn.path / "run.json").write_text('{"run": ')
    (without_card.path / "card.json").unlink()
    (found,), left_out = comparisons(FolderStore(tmp_path))
    assert list(found.runs["model"]) == ["elman", "gru"]  # the card is that of the other run on the task
    assert set(left_out) == {torn.run, without_card.run}
    assert "run.json cannot be read" in left_out[torn.run]
    assert "card.json cannot be read" in left_out[without_card.run]


def test_a_missing_reading_says_which(comparison):
    with pytest.raises(NothingToDraw, match="no run holds the reading attention/map"):
        comparison.readings("attention/map")


def test_readings_carry_model_and_seed(comparison):
    table = comparison.readings("lag_gradient/horizon", [0])
    assert table["model"].dtype == comparison.runs["model"].dtype
    assert table[["model", "seed", "component"]].astype(str).to_numpy().tolist() == [
        ["elman", "0", "hidden"],
        ["lstm", "0", "hidden"],
        ["lstm", "0", "cell"],
        ["lstm", "1", "hidden"],
        ["lstm", "1", "cell"],
    ]


def test_ends_are_step_0_and_each_runs_own_last_step():
    """d and e were asked after training: nothing of them is before it."""
    table = pd.DataFrame({"run": list("aaabbcdee"), "step": [0, 5, 9, 0, 4, 0, 9, 5, 9]})
    found = ends(table)
    assert found[["run", "step", "when"]].to_numpy().tolist() == [
        ["a", 0, BEFORE],
        ["a", 9, AFTER],
        ["b", 0, BEFORE],
        ["b", 4, AFTER],
        ["c", 0, BEFORE],
        ["d", 9, AFTER],
        ["e", 9, AFTER],
    ]


def test_outcome_tells_divergence_from_failure():
    assert outcome({"status": "finished", "solved": True, "diverged_step": None}) == "solved"
    assert outcome({"status": "finished", "solved": False, "diverged_step": float("nan")}) == "unsolved"
    assert outcome({"status": "finished", "solved": False, "diverged_step": 7}) == "diverged"
    assert outcome({"status": "failed"}) == "failed"


def test_outcomes_that_do_not_tell_are_counted_apart():
    assert uncounted(["solved", "unsolved", "diverged"]) == ""
    assert (
        uncounted(["running", "failed", "interrupted", "running"]) == "Not counted: 1 failed, 1 interrupted, 2 running"
    )


def test_every_run_that_did_not_end_well_is_named(tmp_path: Path):
    write_run(tmp_path, Fake("gru", status="failed"))
    write_run(tmp_path, Fake("lstm", status="running"))
    write_run(tmp_path, Fake("elman", more={"diverged_step": 12, "reason": "not finite at step 12"}))
    write_run(tmp_path, Fake("tcn"))
    (found,), _ = comparisons(FolderStore(tmp_path))
    assert exceptions(found.runs) == [
        "elman, seed 0, diverged: not finite at step 12",
        "gru, seed 0, failed: RuntimeError: out of patience",
        "lstm, seed 0, is not finished: nobody is at work on it",
    ]


@pytest.mark.parametrize(
    ("name", "file"), [("a/b c", "a_b_c"), ("../..", "runs"), ("<b>&", "b"), ("gru-1.5", "gru-1.5")]
)
def test_slug_is_safe_as_a_file_name(name, file):
    assert slug(name) == file
