"""The page: numbers as they may be said, and where verdicts lead."""

from pathlib import Path

import pytest

from fake_papers import HEAD, claim, preset, ran, rows_of
from retrograde.figures.papers.page import page
from retrograde.figures.papers.words import decimals, rounded


@pytest.mark.parametrize(
    ("seeds", "ours", "low", "said"),
    [
        ("8400;9100;7300", "8266.67", "", "8,300"),  # a standard error of 524 leaves hundreds
        ("0.951;0.962;0.958", "0.957", "", "0.957"),
        ("0.5;0.5", "0.5", "", "0.500"),
        ("0.0123", "0.0123", "", "0.012"),
        ("200;9100;7300", "5533", "", "6,000"),
        ("0.6;0.9892", "0.7946", "0.8", "0.79"),  # 0.8 would be inside its band
    ],
)
def test_values_have_the_digits_that_seeds_support(seeds: str, ours: str, low: str, said: str):
    row = {"seeds": seeds, "ours": ours, "max": "", "quantity": "score", "band_low": low, "band_high": ""}
    assert rounded(float(ours), decimals(row)) == said


def test_verdicts_are_counted_and_lead_to_their_sections(tmp_path: Path):
    papers = preset(tmp_path, claim(), claim(says="Elman | fails", model="elman"), models="lstm,elman", seeds="0")
    preset(tmp_path, claim(), stem="more1998")
    said = page(rows_of(tmp_path, papers, ran("lstm", 0), ran("elman", 0, 0.1)))
    assert "**3 claims of 2 presets: 1 reproduced, 1 not reproduced, 1 not run.**" in said
    assert "| [not reproduced](#else1997) |" in said and '<a id="else1997"></a>' in said
    assert "Elman \\| fails" in said
    assert "**Again:** `retrograde study=paper/else1997`, then `python analysis/board.py`." in said


def test_the_command_for_shallow_rules_stands_between_the_runs_and_the_board(tmp_path: Path):
    head = HEAD.replace("defaults:", "# Rules:     retrograde study=paper/else1997 model=rule\ndefaults:")
    papers = preset(tmp_path, claim(), seeds="0", head=head)
    said = page(rows_of(tmp_path, papers, ran("lstm", 0)))
    runs, rules = "retrograde study=paper/else1997", "retrograde study=paper/else1997 model=rule"
    assert f"**Again:** `{runs}`, for the shallow rules `{rules}`, then `python analysis/board.py`." in said


def test_what_was_not_run_is_a_line_with_its_cost_and_its_command_and_has_no_section(tmp_path: Path):
    papers = preset(tmp_path, claim(), seeds="0")
    preset(tmp_path, claim(), claim(says="another"), stem="more1998")
    said = page(rows_of(tmp_path, papers, ran("lstm", 0)))
    (line,) = [line for line in said.splitlines() if "more1998" in line]
    assert line.startswith("| [Does an LSTM add where an Elman network fails?](../../conf/study/paper/more1998.yaml) |")
    assert line.endswith("| 2 | 5 runs, 4 minutes on two cores | `retrograde study=paper/more1998` |")
    assert said.index("## Not run") < said.index('<a id="else1997"></a>')
