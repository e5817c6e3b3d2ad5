"""One direction and both, on runs with known errors."""

from dataclasses import replace
from pathlib import Path

import pytest

from fake_runs import CARD, Fake, write_run
from retrograde.core.contracts import Baseline
from retrograde.figures.comparison import NUMBERS, NothingToDraw, comparisons
from retrograde.record.store import FolderStore

COMMONEST = Baseline("the most frequent kind", 0.8, 0.7, "by hand")
TAGGED, CLASSIFIED = "tag_code", "classify_text"
CARDS = {
    TAGGED: replace(CARD, variant="kinds", scored="all positions", baselines=(COMMONEST,)),
    CLASSIFIED: replace(CARD, variant="languages", baselines=(replace(COMMONEST, score=0.1),)),
}


def read(task: str, both: bool, score: float | None, seed: int = 0, layers: int = 1, **changes) -> Fake:
    """A run whose test gave ``score``."""
    more = {} if score is None else {"score": score, "solved": False}
    config = {"model": {"_target_": "gru", "bidirectional": both, "layers": layers}}
    status = "failed" if score is None else "finished"
    settings = {"task": task, "card": CARDS[task], "config": config, "more": more, "status": status, **changes}
    return Fake("gru", seed, **settings)


def as_theory_says() -> list[Fake]:
    """Tagging: 10 and 12 % forward, 5 and 6 % in both; classification: 20 and 30 %, 25 and 35 %."""
    fakes = []
    for seed, (forward, both) in enumerate([(0.9, 0.95), (0.88, 0.94)]):
        fakes += [read(TAGGED, False, forward, seed), read(TAGGED, True, both, seed)]
    for seed, (forward, both) in enumerate([(0.8, 0.75), (0.7, 0.65)]):
        fakes += [read(CLASSIFIED, False, forward, seed), read(CLASSIFIED, True, both, seed)]
    return fakes


def load(script, outputs: Path, *fakes: Fake):
    for fake in fakes:
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs), script("directions").OF)
    return script("directions").load(comparison)


def test_errors_are_what_scores_leave(script, tmp_path: Path):
    tables = load(script, tmp_path, *as_theory_says())
    numbers = tables[NUMBERS]
    assert numbers["directions"].tolist() == ["one", "one", "both", "both"] * 2
    assert numbers["test errors"].tolist() == pytest.approx([0.2, 0.3, 0.25, 0.35, 0.1, 0.12, 0.05, 0.06])
    rules = tables["rules"].set_index("task")
    assert rules["errors"].to_dict() == pytest.approx({TAGGED: 0.3, CLASSIFIED: 0.9})
    assert rules["at the end alone"].to_dict() == {TAGGED: False, CLASSIFIED: True}


def test_medians_stand_in_pairs(script, tmp_path: Path):
    table = script("directions").pairs(load(script, tmp_path, *as_theory_says())[NUMBERS]).set_index("task")
    assert table["one"].to_dict() == pytest.approx({TAGGED: 0.11, CLASSIFIED: 0.25})
    assert table["both"].to_dict() == pytest.approx({TAGGED: 0.055, CLASSIFIED: 0.3})
    assert table["both err"].to_dict() == {TAGGED: "fewer", CLASSIFIED: "open"}


def test_what_comes_out_as_theory_says_is_said(script, tmp_path: Path):
    said = script("directions").finding(load(script, tmp_path, *as_theory_says()))
    assert said == (
        "Both directions err less on classify_text in 0 of 1 settings (1 layer: 25 % (20 to 30 %, n = 2) to 30 % "
        "(25 to 35 %, n = 2)), on tag_code in 1 of 1 settings (1 layer: 11 % (10 to 12 %, n = 2) to 5.5 % (5 to 6 %, "
        "n = 2)): as theory says"
    )


def test_what_does_not_is_said_too(script, tmp_path: Path):
    """One seed in both directions that errs as much as one forward, and a label told better from behind."""
    fakes = [read(TAGGED, False, 0.9), read(TAGGED, True, 0.95), read(TAGGED, True, 0.9, seed=1)]
    fakes += [read(CLASSIFIED, both, 0.5 + 0.1 * both) for both in (False, True)]
    said = script("directions").finding(load(script, tmp_path, *fakes))
    assert said.endswith("against theory gru less on classify_text with 1 layer, gru not on tag_code with 1 layer")


def test_a_label_that_two_layers_tell_better_is_no_surprise(script, tmp_path: Path):
    """The upper layer reads forward over what the lower one read backward."""
    fakes = [read(CLASSIFIED, both, 0.5 + 0.1 * both, layers=2) for both in (False, True)]
    said = script("directions").finding(load(script, tmp_path, *fakes))
    assert said.endswith(
        "in 1 of 1 settings (2 layers: 50 % (50 to 50 %, n = 1) to 40 % (40 to 40 %, n = 1)): as theory says"
    )


def test_further_layers_are_counted(script, tmp_path: Path):
    fakes = [read(TAGGED, both, 0.9 + 0.05 * both, layers=1) for both in (False, True)]
    fakes += [read(TAGGED, False, 0.92, layers=3), read(TAGGED, True, 0.91, layers=3)]
    said = script("directions").finding(load(script, tmp_path, *fakes))
    assert said.endswith("with 3 layers errors are fewer than with 1 in 1 and more in 1 of 2 comparisons")
    assert "on tag_code in 1 of 2 settings, more in 1 (1 layer: 10 % (10 to 10 %, n = 1) to 5 %" in said


def test_a_run_that_failed_errs_more_than_any_other_and_is_drawn(script, tmp_path: Path):
    fakes = [read(TAGGED, False, 0.9), read(TAGGED, True, 0.95), read(TAGGED, True, None, seed=1)]
    tables = load(script, tmp_path, *fakes)
    assert "against theory gru not on tag_code" in script("directions").finding(tables)
    (axes,) = script("directions").draw(tables).axes
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert [line.get_ydata().tolist() for line in crosses] == [[axes.get_ylim()[1]]]


def test_every_seed_is_a_mark_and_no_error_is_one_too(script, tmp_path: Path):
    tables = load(script, tmp_path, *as_theory_says(), read(TAGGED, True, 1.0, seed=2))
    figure = script("directions").draw(tables)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "classify_text: due at the end alone",
        "tag_code: due along the sequence",
    ]
    marks = {
        marker: sum(len(line.get_xdata()) for line in figure.axes[1].lines if line.get_marker() == marker)
        for marker in "oDv"
    }
    assert marks == {"o": 2, "D": 2, "v": 1}


def test_the_caption_says_what_few_seeds_leave_to_chance(script, tmp_path: Path):
    """Of four values in two pairs, 2 of the 6 divisions are in order."""
    said = script("directions").caption(load(script, tmp_path, *as_theory_says()))
    assert "with 2 seeds each happens one way or the other in 33 % of comparisons" in said
    assert "Models have 1,234 parameters" in said


def test_one_direction_has_no_answer(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match=r"model\.bidirectional=false,true"):
        load(script, tmp_path, read(TAGGED, False, 0.9), read(TAGGED, False, 0.9, layers=2))


def test_runs_that_differ_in_more_have_none(script, tmp_path: Path):
    other = read(TAGGED, True, 0.9)
    other = replace(other, config=other.config | {"batch_size": 16})
    with pytest.raises(NothingToDraw, match="differ in more"):
        load(script, tmp_path, read(TAGGED, False, 0.9), read(TAGGED, True, 0.9), other)
