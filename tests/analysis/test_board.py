"""The board of published results: presets and runs made up by hand, verdicts known beforehand."""

import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from fake_runs import STEPS, Fake, shallow, write_run
from retrograde.core.records import Reading
from retrograde.core.statistics import OF_A_SET

ROOT = Path(__file__).parents[2]
PAPERS = sorted((ROOT / "conf" / "study" / "paper").glob("*.yaml"))

HEAD = """\
# @package _global_
# Does an LSTM add where an Elman network fails?
# Source:    Somebody & Else 1997, A Journal 9(8), table 1
# Published: 5 trials, learning rate 0.1,
#            nothing else
# Open:      the batch, here 4
# Cost:      5 runs, 4 minutes on two cores
# Band:      written before the run
# Run:       retrograde study=paper/{stem}    (5 runs)
defaults:
  - override /task: adding

steps: 200
batch_size: 4

hydra:
  mode: MULTIRUN
  sweeper:
    params:
      model: {models}
      seed: {seeds}
    claims:
{claims}
"""

CLAIM = """\
      - says: {says}
        where: {{model: {model}}}
        of: {of}
        published: {published}
        band: {band}
        origin: 30 of 30 trials
{more}"""


def claim(
    says: str = "LSTM scores above 0.9",
    model: str = "lstm",
    of: str = "score",
    published: object = 1.0,
    band: str = "[0.9, 1.0]",
    more: str = "",
) -> str:
    return CLAIM.format(
        says=says, model=model, of=of, published=published, band=band, more=f"        {more}\n" if more else ""
    )


def preset(
    tmp_path: Path, *claims: str, models: str = "lstm", seeds: str = "0,1,2", stem: str = "else1997", head: str = HEAD
) -> Path:
    """A preset in a folder of such; the folder comes back."""
    folder = tmp_path / "paper"
    folder.mkdir(exist_ok=True)
    text = head.format(stem=stem, models=models, seeds=seeds, claims="".join(claims).rstrip("\n"))
    (folder / f"{stem}.yaml").write_text(text)
    return folder


def ran(model: str, seed: int, score: float | None = None, stem: str = "else1997", **more: object) -> Fake:
    """A finished run of the preset; what it is to say besides, by the key of run.json."""
    given = {} if score is None else {"score": score}
    return Fake(model, seed, f"paper/{stem}", config={"batch_size": 4}, more={**given, **more})


def board(script, tmp_path: Path, papers: Path, *fakes: Fake, drawn: bool = False) -> pd.DataFrame:
    """The table that is written with these runs; a figure takes a second, and most tests are not about it."""
    for fake in fakes:
        write_run(tmp_path / "outputs", fake)
    with pytest.MonkeyPatch.context() as patched:
        if not drawn:
            patched.setattr(script("board"), "picture", lambda *_: "")
        script("board").write(papers, tmp_path / "outputs", tmp_path / "board")
    return script("board").read_table(tmp_path / "board" / "board.csv")


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
def test_a_mean_is_reproduced_in_its_band_and_at_its_ends(script, tmp_path: Path, band: str, verdict: str):
    """Seeds of 0.7, 0.8 and 0.9: their mean is 0.8 in the end only up to rounding."""
    papers = preset(tmp_path, claim(band=band))
    (row,) = board(script, tmp_path, papers, *(ran("lstm", seed, 0.7 + 0.1 * seed) for seed in range(3))).to_dict(
        "records"
    )
    assert row["verdict"] == verdict
    assert (row["ours"], row["low"], row["high"], row["seeds"]) == ("0.8", "0.7", "0.9", "0.7;0.8;0.9")
    assert (row["models"], row["aggregate"], row["published"]) == ("lstm", "mean", "1")


def test_a_share_counts_the_runs_that_solved_and_no_diverged_one(script, tmp_path: Path):
    """2 of 4, of which Wilson says 15 to 85 %: one ended unsolved, one reached the score before it diverged."""
    papers = preset(tmp_path, claim(of="solved", band="[0.5, 0.6]"), seeds="0,1,2,3")
    ends = [ran("lstm", 0), ran("lstm", 1, solved=False), ran("lstm", 2, diverged_step=7), ran("lstm", 3)]
    (row,) = board(script, tmp_path, papers, *ends).to_dict("records")
    assert row["seeds"] == "1;0;0;1"
    assert (row["ours"], row["verdict"], row["diverged"]) == ("0.5", "reproduced", "1")
    assert [round(100 * float(row[end])) for end in ("low", "high")] == [15, 85]
    assert "1, 0, 0, 1; 1 diverged" in (tmp_path / "board" / "README.md").read_text()


def test_sequences_are_a_median_in_which_an_unsolved_run_is_infinite(script, tmp_path: Path):
    """Batches of 4: solved at steps 100 and 300, which are 400 and 1,200 sequences, and never."""
    papers = preset(tmp_path, claim(of="sequences", published=1000, band="[500, 2000]"))
    steps = [ran("lstm", 0, solved_step=300), ran("lstm", 1, solved_step=100), ran("lstm", 2, solved=False)]
    (row,) = board(script, tmp_path, papers, *steps).to_dict("records")
    assert (row["aggregate"], row["seeds"]) == ("median", "1200;400;inf")
    assert (row["ours"], row["low"], row["high"], row["verdict"]) == ("1200", "400", "inf", "reproduced")
    assert "(400 to ∞)" in (tmp_path / "board" / "README.md").read_text()


def test_a_score_that_is_no_number_leaves_no_mean_and_reproduces_nothing(script, tmp_path: Path):
    papers = preset(tmp_path, claim(band="[null, 0.9]"))
    runs = [ran("lstm", 0, 0.1), ran("lstm", 1, math.nan, diverged_step=3), ran("lstm", 2, 0.4)]
    (row,) = board(script, tmp_path, papers, *runs).to_dict("records")
    assert (row["seeds"], row["ours"], row["verdict"]) == ("0.1;nan;0.4", "nan", "not reproduced")
    page = (tmp_path / "board" / "README.md").read_text()
    assert "| – | 0.1, –, 0.4; 1 diverged |" in page


def test_a_maximum_decides_and_stands_beside_the_mean(script, tmp_path: Path):
    papers = preset(tmp_path, claim(more="as: max", band="[0.88, 0.92]"))
    (row,) = board(script, tmp_path, papers, *(ran("lstm", seed, 0.7 + 0.1 * seed) for seed in range(3))).to_dict(
        "records"
    )
    assert (row["ours"], row["max"], row["verdict"]) == ("0.8", "0.9", "reproduced")
    assert "| 0.80 (0.70 to 0.90), max 0.90 |" in (tmp_path / "board" / "README.md").read_text()


@pytest.mark.parametrize("status", ["failed", "running", "interrupted", None])
def test_a_run_that_is_missing_or_not_finished_leaves_no_verdict(script, tmp_path: Path, status: str | None):
    papers = preset(tmp_path, claim())
    last = [] if status is None else [Fake("lstm", 2, "paper/else1997", status=status, config={"batch_size": 4})]
    (row,) = board(script, tmp_path, papers, ran("lstm", 0), ran("lstm", 1), *last, drawn=True).to_dict("records")
    assert (row["verdict"], row["ours"], row["figure"]) == ("not finished: 2 of 3 runs", "", "")


def test_each_claim_counts_the_runs_of_its_own_settings(script, tmp_path: Path):
    claims = claim(), claim(says="Elman fails", model="elman", band="[null, 0.5]"), claim(says="both", model="lstm")
    both = claims[2].replace("where: {model: lstm}", "where: {}")
    papers = preset(tmp_path, *claims[:2], both, models="lstm,elman", seeds="range(0, 2)")
    table = board(script, tmp_path, papers, ran("lstm", 0), ran("lstm", 1), ran("elman", 0, 0.1))
    assert table["verdict"].tolist() == ["reproduced", "not finished: 1 of 2 runs", "not finished: 3 of 4 runs"]
    assert table["models"].tolist() == ["lstm", "elman", "lstm and elman"]


def test_a_preset_without_runs_says_what_they_would_cost(script, tmp_path: Path):
    papers = preset(tmp_path, claim())
    (row,) = board(script, tmp_path, papers).to_dict("records")
    assert row["verdict"] == "not run: 5 runs, 4 minutes on two cores"
    text = (papers / "else1997.yaml").read_text().replace("5 runs, 4 minutes on two cores", "not run: 3 hours on a GPU")
    (papers / "else1997.yaml").write_text(text)
    (row,) = board(script, tmp_path, papers).to_dict("records")
    assert row["verdict"] == "not run: 3 hours on a GPU"
    assert not list((tmp_path / "board").glob("*.png"))


def test_runs_with_other_settings_are_none_of_the_presets(script, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A trial of a few steps, or another seed, lies in the same folder."""
    papers = preset(tmp_path, claim(), seeds="0")
    short = Fake("lstm", 0, "paper/else1997", config={"batch_size": 4, "steps": 10}, more={"score": 0.1})
    (row,) = board(script, tmp_path, papers, ran("lstm", 0, 0.95), short, ran("lstm", 8, 0.2)).to_dict("records")
    assert (row["ours"], row["runs"]) == ("0.95", "1 of 1")
    said = capsys.readouterr().err
    assert "else1997.yaml sets another steps" in said and "its seed is not in the sweep" in said


def test_options_of_a_group_are_told_apart_by_what_they_make(script, tmp_path: Path):
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
    table = board(script, tmp_path, papers, *runs)
    assert table["ours"].tolist() == ["0.95", "0.1"]
    assert table["models"].tolist() == ["elman (regularizer=omega, clip=1)", "elman (regularizer=null, clip=null)"]
    text = file.read_text()
    file.write_text(text.replace("null,omega", "null,alpha").replace("regularizer: omega", "regularizer: alpha"))
    with pytest.raises(ValueError, match=r"else1997\.yaml: there is no regularizer=alpha"):
        script("board").presets(papers)
    probes = "regularizer: 'null,omega'", "probe: 'none,default'"
    file.write_text(text.replace(*probes).replace("regularizer: omega", "probe: none"))
    with pytest.raises(ValueError, match="no run says which 'probe' it had: name one of its settings"):
        script("board").presets(papers)


def test_more_runs_than_the_sweep_has_are_refused(script, tmp_path: Path):
    papers = preset(tmp_path, claim(), seeds="0")
    other = Fake("lstm", 0, "paper/else1997", config={"batch_size": 4, "width": 9})
    with pytest.raises(ValueError, match=r"else1997\.yaml.* is of 1 run, and .* holds 2"):
        board(script, tmp_path, papers, ran("lstm", 0), other)


def test_scores_by_length_are_a_mean_over_lengths_of_both_tests(script, tmp_path: Path):
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
    (row,) = board(script, tmp_path, papers, fake).to_dict("records")
    assert (row["ours"], row["verdict"], row["quantity"]) == ("0.5", "reproduced", "score_by_length 4 to 8")
    papers = preset(tmp_path, claim(of="score_by_length", more="between: [20, 30]", band="[0.5, null]"), seeds="0")
    with pytest.raises(ValueError, match=r"else1997\.yaml.* no run was tested at a length of 20 to 30"):
        board(script, tmp_path, papers)


def test_what_stands_beside_comes_from_card_rules_and_readings(script, tmp_path: Path):
    papers = preset(tmp_path, claim(), claim(of="sequences", band="[null, 900]"), seeds="0,1")
    rule = shallow("window", 0.4)
    rule = Fake("rule", 0, "paper/else1997", more=rule.more, config=rule.config, validation=rule.validation)
    runs = [ran("lstm", 0, horizon=9.0), ran("lstm", 1, horizon_start=2.0)]
    score, sequences = board(script, tmp_path, papers, *runs, rule).to_dict("records")
    assert (score["trivial_rule"], score["trivial"], score["solved_from"]) == ("always 1", "0", "0.94")
    assert (score["shallow_rule"], score["shallow"]) == ("last 10 steps", "0.4")
    assert (score["lag"], score["horizons_before"], score["horizons_after"]) == ("7", "6;2", "9;7")
    assert (score["horizon_before"], score["horizon_after"], score["cost"]) == ("4", "8", "25")
    assert (sequences["trivial"], sequences["shallow"], sequences["lag"]) == ("", "", "7")
    page = (tmp_path / "board" / "README.md").read_text()
    assert "lstm 4 → 8, as far as the 7 that the task asks for." in page
    assert "trivial rule 'always 1', score 0, best shallow rule 'last 10 steps', score 0.4" in page


def test_the_same_runs_give_the_same_bytes_and_the_page_is_made_of_the_table(script, tmp_path: Path):
    papers = preset(tmp_path, claim(), claim(of="sequences", band="[null, 900]"), seeds="0,1")
    board(script, tmp_path, papers, ran("lstm", 0), ran("lstm", 1), drawn=True)
    first = {file.name: file.read_bytes() for file in (tmp_path / "board").iterdir()}
    assert sorted(first) == ["README.md", "board.csv", "else1997.png"]
    assert (
        script("board").page(script("board").read_table(tmp_path / "board" / "board.csv")).encode()
        == first["README.md"]
    )
    script("board").write(papers, tmp_path / "outputs", tmp_path / "board")
    assert {file.name: file.read_bytes() for file in (tmp_path / "board").iterdir()} == first


def test_rows_and_figures_of_absent_runs_stay(script, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    papers = preset(tmp_path, claim(), seeds="0")
    before = board(script, tmp_path, papers, ran("lstm", 0), drawn=True)
    picture = (tmp_path / "board" / "else1997.png").read_bytes()
    shutil.rmtree(tmp_path / "outputs" / "paper" / "else1997")
    preset(tmp_path, claim(), seeds="0", stem="more1998")
    after = board(script, tmp_path, papers, ran("lstm", 0, stem="more1998"))
    assert after["preset"].tolist() == ["else1997", "more1998"]
    pd.testing.assert_frame_equal(after[:1], before)
    assert (tmp_path / "board" / "else1997.png").read_bytes() == picture
    assert "kept as it was" not in capsys.readouterr().err
    preset(tmp_path, claim(band="[0.1, 1.0]"), seeds="0")
    again = board(script, tmp_path, papers)
    pd.testing.assert_frame_equal(again, after)
    assert "kept as it was: else1997, whose claims are others now" in capsys.readouterr().err
    (papers / "else1997.yaml").unlink()
    assert board(script, tmp_path, papers)["preset"].tolist() == ["more1998"]
    assert not (tmp_path / "board" / "else1997.png").exists()


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
def test_a_claim_that_cannot_hold_is_refused(script, tmp_path: Path, stated: str, why: str):
    with pytest.raises(ValueError, match=r"else1997\.yaml: the claim 'LSTM scores above 0\.9': ") as refused:
        script("board").presets(preset(tmp_path, stated))
    assert why in str(refused.value)


@pytest.mark.parametrize("entry", ["Source", "Published", "Open", "Cost", "Band", "Run"])
def test_a_head_that_leaves_something_out_is_refused(script, tmp_path: Path, entry: str):
    head = HEAD.replace(f"# {entry}:", f"# {entry}s:")
    with pytest.raises(ValueError, match=r"else1997\.yaml: its head"):
        script("board").presets(preset(tmp_path, claim(), head=head))


def test_a_measure_that_no_run_has_is_refused(script, tmp_path: Path):
    papers = preset(tmp_path, claim(of="longer.score"), seeds="0")
    with pytest.raises(ValueError, match=r"else1997\.yaml.* no run has a number for 'longer\.score'"):
        board(script, tmp_path, papers, ran("lstm", 0))


def test_the_head_is_read_to_its_end(script, tmp_path: Path):
    (read,) = script("board").presets(preset(tmp_path, claim()))
    assert read.title == "Does an LSTM add where an Elman network fails?"
    assert read.head["Published"] == "5 trials, learning rate 0.1, nothing else"
    assert (read.head["Run"], read.head["Tried"]) == ("retrograde study=paper/else1997", "")


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
def test_values_have_the_digits_that_seeds_support(script, seeds: str, ours: str, low: str, said: str):
    row = {"seeds": seeds, "ours": ours, "max": "", "quantity": "score", "band_low": low, "band_high": ""}
    assert script("board").rounded(float(ours), script("board").decimals(row)) == said


def test_verdicts_are_counted_and_lead_to_their_sections(script, tmp_path: Path):
    papers = preset(tmp_path, claim(), claim(says="Elman | fails", model="elman"), models="lstm,elman", seeds="0")
    preset(tmp_path, claim(), stem="more1998")
    board(script, tmp_path, papers, ran("lstm", 0), ran("elman", 0, 0.1))
    page = (tmp_path / "board" / "README.md").read_text()
    assert "**3 claims of 2 presets: 1 reproduced, 1 not reproduced, 1 not run.**" in page
    assert "| [not reproduced](#else1997) |" in page and '<a id="else1997"></a>' in page
    assert "Elman \\| fails" in page
    assert "**Again:** `retrograde study=paper/else1997`, then `python analysis/board.py`." in page


def test_the_figure_says_the_outcome_and_has_a_panel_a_quantity(script, tmp_path: Path):
    papers = preset(tmp_path, claim(), claim(of="sequences", band="[null, 900]"), seeds="0,1")
    rows = board(script, tmp_path, papers, ran("lstm", 0), ran("lstm", 1, solved=False)).to_dict("records")
    figure = script("board").draw(rows)
    assert figure.get_suptitle().replace("\n", " ") == script("board").outcome_in_words(rows)
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels == ["test score", "sequences seen until solved", "gradient's horizon (lags)"]
    without = [{**row, "horizons_before": "", "horizons_after": ""} for row in rows]
    assert len(script("board").draw(without).axes) == 2


def test_no_label_of_a_figure_lies_on_another(script):
    """Six claims of three quantities, words as long as they come."""
    says = "An Elman network never learns the outer symbol within 500,000 sequences, however it is tuned"
    kinds = {
        "solved": {"seeds": "1;1;0", "ours": "0.666667", "low": "0.2", "high": "0.9", "band_low": "0.8"},
        "sequences": {"seeds": "700;9100;inf", "ours": "9100", "low": "700", "high": "inf", "band_high": "8440"},
        "score": {"seeds": "0.91;0.92;0.98", "ours": "0.94", "low": "0.91", "high": "0.98", "band_low": "0.95"},
    }
    names = "lstm_1997", "orthogonal_rnn (length=100)"
    rows = [
        dict.fromkeys(script("board").COLUMNS, "")
        | {"source": "Hochreiter & Schmidhuber 1997, table 1", "says": says, "models": name, "quantity": quantity}
        | {"aggregate": "max", "max": "0.98", "published": "1", "verdict": "not reproduced", "lag": "1000"}
        | {"horizons_before": "3;4;5", "horizons_after": "100;900;990", "trivial": "0", "trivial_rule": "always 1"}
        | {"shallow": "0.3", "shallow_rule": "last 10 steps", "solved_from": "0.94"}
        | given
        for quantity, given in kinds.items()
        for name in names
    ]
    figure = script("board").draw(rows)
    FigureCanvasAgg(figure).draw()
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    assert len(boxes) > 30
    for place, (one, box) in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width, one
        for other, another in boxes[:place]:
            assert not box.overlaps(another), (one, other)


def test_a_wide_range_is_drawn_over_decades(script, tmp_path: Path):
    papers = preset(tmp_path, claim(of="sequences", published=10, band="[5, 20]"), seeds="0")
    rows = board(script, tmp_path, papers, ran("lstm", 0, solved_step=1000)).to_dict("records")
    assert script("board").draw(rows).axes[0].get_xscale() == "log"


@pytest.mark.parametrize("file", PAPERS, ids=lambda file: file.stem)
def test_every_paper_has_its_head_and_valid_claims(script, file: Path):
    assert script("board").preset(file).claims


def test_the_page_of_the_project_is_made_of_its_table(script):
    folder = ROOT / "docs" / "board"
    table = script("board").read_table(folder / "board.csv")
    assert script("board").page(table) == (folder / "README.md").read_text(encoding="utf-8")
    assert {f"{stem}.yaml" for stem in table["preset"]} <= {file.name for file in PAPERS}
    assert {file.name for file in folder.glob("*.png")} == set(table["figure"]) - {""}


def test_what_is_wrong_is_said_in_one_line(script, tmp_path: Path, monkeypatch, capsys):
    papers = preset(tmp_path, claim(band="[1.0, 0.9]"))
    monkeypatch.setattr(script("board"), "PAPERS", papers)
    assert script("board").main(["--to", str(tmp_path / "to")]) == 1
    assert "else1997.yaml: the claim" in capsys.readouterr().err
    assert not (tmp_path / "to" / "README.md").exists()
