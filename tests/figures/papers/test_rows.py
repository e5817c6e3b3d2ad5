"""From runs to rows: verdicts that are known beforehand."""

import math
from pathlib import Path

import numpy as np
import pytest

from fake_papers import CONF, claim, preset, ran, rows_of
from fake_runs import STEPS, Fake, shallow
from retrograde.core.records import Reading
from retrograde.core.statistics import OF_A_SET
from retrograde.figures.papers.page import page
from retrograde.figures.papers.presets import presets


@pytest.mark.parametrize(
    ("band", "verdict"),
    [
        ("[0.9, 1.0]", "not reproduced"),
        ("[0.7, 0.9]", "reproduced"),
        ("[0.8, 0.9]", "reproduced"),
        ("[null, 0.8]", "reproduced"),
        ("[0.8001, null]", "not reproduced"),
        ("[null, 0.7]", "not reproduced"),
    ],
)
def test_a_mean_is_reproduced_in_its_band_and_at_its_ends(tmp_path: Path, band: str, verdict: str):
    """Seeds of 0.7, 0.8 and 0.9: their mean is 0.8 in the end only up to rounding."""
    papers = preset(tmp_path, claim(band=band))
    (row,) = rows_of(tmp_path, papers, *(ran("lstm", seed, 0.7 + 0.1 * seed) for seed in range(3)))
    assert row["verdict"] == verdict
    assert (row["ours"], row["low"], row["high"], row["seeds"]) == ("0.8", "0.7", "0.9", "0.7;0.8;0.9")
    assert (row["models"], row["aggregate"], row["published"]) == ("lstm", "mean", "1")


def test_a_share_counts_the_runs_that_solved_and_no_diverged_one(tmp_path: Path):
    """2 of 4, of which Wilson says 15 to 85 %: one ended unsolved, one reached the score before it diverged."""
    papers = preset(tmp_path, claim(of="solved", band="[0.5, 0.6]"), seeds="0,1,2,3")
    ends = [ran("lstm", 0), ran("lstm", 1, solved=False), ran("lstm", 2, diverged_step=7), ran("lstm", 3)]
    (row,) = rows_of(tmp_path, papers, *ends)
    assert row["seeds"] == "1;0;0;1"
    assert (row["ours"], row["verdict"], row["diverged"]) == ("0.5", "reproduced", "1")
    assert [round(100 * float(row[end])) for end in ("low", "high")] == [15, 85]
    assert "1, 0, 0, 1; 1 diverged" in page([row])


def test_sequences_are_a_median_in_which_an_unsolved_run_is_infinite(tmp_path: Path):
    """Batches of 4: solved at steps 100 and 300, which are 400 and 1,200 sequences, and never."""
    papers = preset(tmp_path, claim(of="sequences", published=1000, band="[500, 2000]"))
    steps = [ran("lstm", 0, solved_step=300), ran("lstm", 1, solved_step=100), ran("lstm", 2, solved=False)]
    (row,) = rows_of(tmp_path, papers, *steps)
    assert (row["aggregate"], row["seeds"]) == ("median", "1200;400;inf")
    assert (row["ours"], row["low"], row["high"], row["verdict"]) == ("1200", "400", "inf", "reproduced")
    assert "(400 to ∞)" in page([row])


def test_a_score_that_is_no_number_leaves_no_mean_and_reproduces_nothing(tmp_path: Path):
    papers = preset(tmp_path, claim(band="[null, 0.9]"))
    runs = [ran("lstm", 0, 0.1), ran("lstm", 1, math.nan, diverged_step=3), ran("lstm", 2, 0.4)]
    (row,) = rows_of(tmp_path, papers, *runs)
    assert (row["seeds"], row["ours"], row["verdict"]) == ("0.1;nan;0.4", "nan", "not reproduced")
    assert "| – | 0.1, –, 0.4; 1 diverged |" in page([row])


def test_a_maximum_decides_and_stands_beside_the_mean(tmp_path: Path):
    papers = preset(tmp_path, claim(more="as: max", band="[0.88, 0.92]"))
    (row,) = rows_of(tmp_path, papers, *(ran("lstm", seed, 0.7 + 0.1 * seed) for seed in range(3)))
    assert (row["ours"], row["max"], row["verdict"]) == ("0.8", "0.9", "reproduced")
    assert "| 0.80 (0.70 to 0.90), max 0.90 |" in page([row])


@pytest.mark.parametrize("status", ["failed", "running", "interrupted", None])
def test_a_run_that_is_missing_or_not_finished_leaves_no_verdict(tmp_path: Path, status: str | None):
    papers = preset(tmp_path, claim())
    last = [] if status is None else [Fake("lstm", 2, "paper/else1997", status=status, config={"batch_size": 4})]
    (row,) = rows_of(tmp_path, papers, ran("lstm", 0), ran("lstm", 1), *last)
    assert (row["verdict"], row["ours"], row["figure"]) == ("not finished: 2 of 3 runs", "", "")


def test_each_claim_counts_the_runs_of_its_own_settings(tmp_path: Path):
    claims = claim(), claim(says="Elman fails", model="elman", band="[null, 0.5]"), claim(says="both", model="lstm")
    both = claims[2].replace("where: {model: lstm}", "where: {}")
    papers = preset(tmp_path, *claims[:2], both, models="lstm,elman", seeds="range(0, 2)")
    table = rows_of(tmp_path, papers, ran("lstm", 0), ran("lstm", 1), ran("elman", 0, 0.1))
    assert [row["verdict"] for row in table] == ["reproduced", "not finished: 1 of 2 runs", "not finished: 3 of 4 runs"]
    assert [row["models"] for row in table] == ["lstm", "elman", "lstm and elman"]


def test_a_preset_without_runs_says_what_they_would_cost(tmp_path: Path):
    papers = preset(tmp_path, claim())
    (row,) = rows_of(tmp_path, papers)
    assert row["verdict"] == "not run: 5 runs, 4 minutes on two cores"
    text = (papers / "else1997.yaml").read_text().replace("5 runs, 4 minutes on two cores", "not run: 3 hours on a GPU")
    (papers / "else1997.yaml").write_text(text)
    (row,) = rows_of(tmp_path, papers)
    assert row["verdict"] == "not run: 3 hours on a GPU"


def test_runs_with_other_settings_are_none_of_the_presets(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A trial of a few steps, or another seed, lies in the same folder."""
    papers = preset(tmp_path, claim(), seeds="0")
    short = Fake("lstm", 0, "paper/else1997", config={"batch_size": 4, "steps": 10}, more={"score": 0.1})
    (row,) = rows_of(tmp_path, papers, ran("lstm", 0, 0.95), short, ran("lstm", 8, 0.2))
    assert (row["ours"], row["runs"]) == ("0.95", "1 of 1")
    said = capsys.readouterr().err
    assert "else1997.yaml sets another steps" in said and "its seed is not in the sweep" in said


def test_options_of_a_group_are_told_apart_by_what_they_make(tmp_path: Path):
    """Ω or none, clipped or not, as Pascanu et al. 2013: both are settings of one model."""
    one, other = (
        claim(band=band).replace("model: lstm", where)
        for band, where in (
            ("[0.9, null]", "regularizer: omega, trainer.clip: 1.0"),
            ("[null, 0.2]", "regularizer: null, trainer.clip: null"),
        )
    )
    papers = preset(tmp_path, one, other)
    file = papers / "else1997.yaml"
    axes = "      regularizer: 'null,omega'\n      trainer.clip: 'null,1.0'\n      seed: 0"
    text = file.read_text().replace("      model: lstm\n      seed: 0,1,2", axes)
    file.write_text(text.replace("/task: adding", "/task: adding\n  - override /model: elman"))
    omega = {"_target_": "retrograde.regularizers.omega.Omega", "weight": 2.0}
    runs = [
        Fake("elman", 0, "paper/else1997", config=config, more={"score": score})
        for config, score in (
            ({"batch_size": 4, "regularizer": None, "trainer": {"clip": None}}, 0.1),
            ({"batch_size": 4, "regularizer": None, "trainer": {"clip": 1.0}}, 0.3),
            ({"batch_size": 4, "regularizer": omega, "trainer": {"clip": None}}, 0.5),
            ({"batch_size": 4, "regularizer": omega, "trainer": {"clip": 1.0}}, 0.95),
        )
    ]
    table = rows_of(tmp_path, papers, *runs)
    assert [row["ours"] for row in table] == ["0.95", "0.1"]
    assert [row["models"] for row in table] == [
        "elman (regularizer=omega, clip=1)",
        "elman (regularizer=null, clip=null)",
    ]
    text = file.read_text()
    file.write_text(text.replace("null,omega", "null,alpha").replace("regularizer: omega", "regularizer: alpha"))
    with pytest.raises(ValueError, match=r"else1997\.yaml: there is no regularizer=alpha"):
        presets(papers, CONF)
    probes = "regularizer: 'null,omega'", "probe: 'none,default'"
    file.write_text(text.replace(*probes).replace("regularizer: omega", "probe: none"))
    with pytest.raises(ValueError, match="no run says which 'probe' it had: sweep over one of its settings"):
        presets(papers, CONF)


def test_two_runs_of_one_seed_are_refused_and_do_not_stand_for_another(tmp_path: Path):
    papers = preset(tmp_path, claim(), seeds="0,1")
    other = Fake("lstm", 0, "paper/else1997", config={"batch_size": 4, "width": 9})
    with pytest.raises(ValueError, match=r"else1997\.yaml.* holds two runs of model=lstm and seed=0: remove one"):
        rows_of(tmp_path, papers, ran("lstm", 0), other)


def test_what_is_not_finite_reproduces_nothing(tmp_path: Path):
    """A loss of at least 0.1 is what a constant makes; a run that diverged is no such constant."""
    papers = preset(tmp_path, claim(of="loss", band="[0.1, null]"), seeds="0,1")
    (row,) = rows_of(tmp_path, papers, ran("lstm", 0, loss=math.inf), ran("lstm", 1, loss=0.0001))
    assert (row["ours"], row["verdict"]) == ("inf", "not reproduced")


def test_a_measure_that_no_run_has_is_refused(tmp_path: Path):
    papers = preset(tmp_path, claim(of="longer.score"), seeds="0")
    with pytest.raises(ValueError, match=r"else1997\.yaml.* no run has a number for 'longer\.score'"):
        rows_of(tmp_path, papers, ran("lstm", 0))


def test_scores_by_length_are_a_mean_over_lengths_of_both_tests(tmp_path: Path):
    """Of lengths 4 to 8: 0.6 at 4; at 6 from 10 sequences 0.4 and from 30 ones 0.8, which is 0.7; 0.2 at 8."""

    def tested(step: int) -> list[tuple[str, Reading]]:
        def curve(lengths: list[int], means: list[float], counts: list[int]) -> Reading:
            over = {"statistic": OF_A_SET, "length": lengths}
            return Reading("score_by_length/outputs", np.array([means, counts]), over, "score")

        if step != STEPS[-1]:
            return []
        return [
            ("test", curve([2, 4, 6], [1.0, 0.6, 0.4], [10, 10, 10])),
            ("longer", curve([6, 8, 10], [0.8, 0.2, 0.0], [30, 30, 30])),
        ]

    papers = preset(tmp_path, claim(of="score_by_length", more="between: [4, 8]", band="[0.5, null]"), seeds="0")
    fake = Fake("lstm", 0, "paper/else1997", config={"batch_size": 4}, also=tested)
    (row,) = rows_of(tmp_path, papers, fake)
    assert (row["ours"], row["verdict"], row["quantity"]) == ("0.5", "reproduced", "score_by_length 4 to 8")
    papers = preset(tmp_path, claim(of="score_by_length", more="between: [20, 30]", band="[0.5, null]"), seeds="0")
    with pytest.raises(ValueError, match=r"else1997\.yaml.* no run was tested at a length of 20 to 30"):
        rows_of(tmp_path, papers)


def test_what_stands_beside_comes_from_card_rules_and_readings(tmp_path: Path):
    papers = preset(tmp_path, claim(), claim(of="sequences", band="[null, 900]"), seeds="0,1")
    rule = shallow("window", 0.4)
    rule = Fake("rule", 0, "paper/else1997", more=rule.more, config=rule.config, validation=rule.validation)
    runs = [ran("lstm", 0, horizon=9.0), ran("lstm", 1, horizon_start=2.0)]
    score, sequences = rows_of(tmp_path, papers, *runs, rule)
    assert (score["trivial_rule"], score["trivial"], score["solved_from"]) == ("always 1", "0", "0.94")
    assert (score["shallow_rule"], score["shallow"]) == ("last 10 steps", "0.4")
    assert (score["lag"], score["horizons_before"], score["horizons_after"]) == ("7", "6;2", "9;7")
    assert (score["horizon_before"], score["horizon_after"], score["cost"]) == ("4", "8", "25")
    assert (sequences["trivial"], sequences["shallow"], sequences["lag"]) == ("", "", "7")
    said = page([score, sequences])
    assert "lstm 4 → 8, as far as the 7 that the task asks for." in said
    assert "trivial rule 'always 1', score 0, best shallow rule 'last 10 steps', score 0.4" in said


@pytest.mark.parametrize(
    ("torch", "more", "said"),
    [
        ("2.13.0+cpu", {}, "CPU"),
        ("2.13.0+cpu", {"hardware": "Some CPU, 2 cores"}, "Some CPU, 2 cores"),
        ("2.13.0+cu130", {}, "not recorded"),
    ],
)
def test_what_runs_were_computed_on_is_said(tmp_path: Path, torch: str, more: dict[str, str], said: str) -> None:
    runs = [ran("lstm", seed, 0.95, versions={"torch": torch}, **more) for seed in (0, 1, 2)]
    (row,) = rows_of(tmp_path, preset(tmp_path, claim()), *runs)
    assert row["hardware"] == said
