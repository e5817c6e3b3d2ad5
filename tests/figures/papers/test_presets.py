"""A preset's head and claims: what is read of them, and what is refused."""

from pathlib import Path

import pytest

from fake_papers import CONF, HEAD, PAPERS, claim, preset
from retrograde.figures.papers.presets import preset as read
from retrograde.figures.papers.presets import presets
from retrograde.figures.papers.rows import rows


def test_the_head_is_read_to_its_end(tmp_path: Path):
    (found,) = presets(preset(tmp_path, claim()), CONF)
    assert found.title == "Does an LSTM add where an Elman network fails?"
    assert found.head["Published"] == "5 trials, learning rate 0.1, nothing else"
    assert (found.head["Run"], found.head["Rules"], found.head["Tried"]) == ("retrograde study=paper/else1997", "", "")


def test_the_command_for_the_shallow_rules_is_of_the_same_study(tmp_path: Path):
    command = "retrograde study=paper/{stem} model=rule model.rule=bag seed=0"
    head = HEAD.replace("defaults:", f"# Rules:     {command}\ndefaults:")
    (found,) = presets(preset(tmp_path, claim(), head=head), CONF)
    assert found.head["Rules"] == command.format(stem="else1997")
    assert rows(found, None)[0]["rules"] == found.head["Rules"]
    with pytest.raises(ValueError, match="'Rules:' must hold study=paper/else1997"):
        presets(preset(tmp_path, claim(), head=head.replace("study=paper/{stem} model", "model")), CONF)


@pytest.mark.parametrize(
    ("stated", "why"),
    [
        (claim(model="gru"), "no run of the sweep has model=gru"),
        (claim().replace("model: lstm", "optimizer.lr: 0.1"), "no run of the sweep has optimizer.lr=0.1"),
        (claim().replace("model: lstm", "optimizer: adam"), "no run of the sweep has optimizer=adam"),
        (claim(of="skore"), "no quantity is called 'skore'"),
        (claim(of="solved_step"), "no quantity is called 'solved_step'"),
        (claim(band="[1.0, 0.9]"), "its band is upside down: 1.0 is above 0.9"),
        (claim(band="[null, null]"), "'band' must be two numbers, of which one may be null"),
        (claim(band="[0.9]"), "'band' must be two numbers"),
        (claim(of="score_by_length"), "'between' is for 'score_by_length', which needs it"),
        (claim(more="between: [1, 2]"), "'between' is for 'score_by_length'"),
        (claim(of="score_by_length", more="between: [2, 1]"), "the first and the last length"),
        (claim(more="as: best"), "'as' must be mean, median or max, not 'best'"),
        (claim(of="solved", more="as: median"), "a share of runs is a mean"),
        (claim(more="bend: [0, 1]"), "there is no 'bend'"),
        (claim(published="often"), "'published' must be a number or null"),
        (claim().replace("        origin: 30 of 30 trials\n", ""), "'origin' is missing"),
    ],
)
def test_a_claim_that_cannot_hold_is_refused(tmp_path: Path, stated: str, why: str):
    with pytest.raises(ValueError, match=r"else1997\.yaml: the claim 'LSTM scores above 0\.9': ") as refused:
        presets(preset(tmp_path, stated), CONF)
    assert why in str(refused.value)


@pytest.mark.parametrize("entry", ["Source", "Published", "Open", "Cost", "Band", "Run"])
def test_a_head_that_leaves_something_out_is_refused(tmp_path: Path, entry: str):
    head = HEAD.replace(f"# {entry}:", f"# {entry}s:")
    with pytest.raises(ValueError, match=r"else1997\.yaml: its head"):
        presets(preset(tmp_path, claim(), head=head), CONF)


@pytest.mark.parametrize("file", PAPERS, ids=lambda file: file.stem)
def test_every_paper_has_its_head_and_valid_claims(file: Path):
    assert read(file, CONF).claims
