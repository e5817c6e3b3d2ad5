"""The page: the same runs give the same bytes, nothing is dropped, nothing that comes from runs is markup."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from fake_runs import Fake, write_run
from retrograde.figures import asking
from retrograde.figures.comparison import STUDY, NothingToDraw

pytestmark = pytest.mark.heavy

REPORT = Path(__file__).parents[2] / "analysis" / "report.py"


WHERE = {"kind": "vanishing", "layer": "0.forward", "component": "hidden", "value": 1.0, "first": 0, "last": 10}
VANISHING = {**WHERE, "level": "warning", "text": "layer 0: <i>half</i> every 3 lags.", "at_end": True}
BEFORE = {**WHERE, "level": "info", "text": "layer 1: as much, not later.", "at_end": False}


def report(script, capsys, *arguments: object) -> tuple[int, str, str]:
    code = script("report").main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory, script) -> tuple[Path, Path]:
    """Runs of every kind, and the report on them."""
    outputs, to = tmp_path_factory.mktemp("outputs"), tmp_path_factory.mktemp("to")
    write_run(outputs, Fake("elman", 0, solved=False, keeps=(0.3, 0.3), more={"alerts": [VANISHING, BEFORE]}))
    write_run(outputs, Fake("lstm", 0, components=("hidden", "cell")))
    write_run(outputs, Fake("lstm", 1, components=("hidden", "cell"), solved=False))
    write_run(outputs, Fake("transformer", 0, heads=2, components=("residual",)))
    write_run(outputs, Fake("<script>alert(1)</script>", 0, status="failed", more={"reason": "<b>&bold</b>"}))
    write_run(outputs, Fake("gru", 0, more={"diverged_step": 7, "reason": "not finite at step 7", "solved": False}))
    torn = write_run(outputs, Fake("gru", 1))
    (torn.path / "run.json").write_text("{")
    assert script("report").main([str(outputs), "--to", str(to)]) == 0
    return outputs, to


@pytest.fixture(scope="module")
def page(made) -> str:
    return (made[1] / "index.html").read_text(encoding="utf-8")


def test_the_same_runs_give_the_same_bytes_in_another_process(made, tmp_path: Path):
    outputs, to = made
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "PYTHONWARNINGS": "error"}
    arguments = [sys.executable, str(REPORT), str(outputs), "--to", str(tmp_path / "again")]
    finished = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert finished.stdout.splitlines()[-1] == str(tmp_path / "again" / "index.html")
    first, again = contents(to), contents(tmp_path / "again")
    assert first.keys() == again.keys()
    assert [name for name in first if first[name] != again[name]] == []


def test_several_processes_draw_the_same_bytes(made, script, tmp_path: Path, monkeypatch):
    outputs, to = made
    monkeypatch.setattr(asking, "RUNS_EACH", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})
    assert script("report").main([str(outputs), "--to", str(tmp_path / "again")]) == 0
    first, again = contents(to), contents(tmp_path / "again")
    assert first.keys() == again.keys()
    assert [name for name in first if first[name] != again[name]] == []


def test_every_figure_comes_as_files_with_its_tables(made):
    names = set(contents(made[1]))
    for stem in ("reach", "learning", "attention_maps"):
        for kind in ("svg", "pdf", "png", "txt", "runs.txt"):
            assert f"figures/demo-adding-{stem}.{kind}" in names
        assert {f"tables/demo-adding-{stem}.csv", f"tables/demo-adding-{stem}.tex"} <= names
    assert {"tables/demo-adding-summary.csv", "tables/demo-adding-summary.tex", "index.html"} <= names


def test_the_page_fetches_nothing(page):
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", page)
    assert "@import" not in page and "<link" not in page and "<script" not in page
    assert not re.search(r"url\((?!#)", page)


def test_every_link_leads_somewhere(page, made):
    identifiers = set(re.findall(r'\bid="([^"]+)"', page))
    for target in re.findall(r'href="([^"]+)"', page):
        if target.startswith("#"):
            assert target[1:] in identifiers
        elif not target.startswith("data:"):
            assert (made[1] / target).is_file()


def test_identifiers_are_unique(page):
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))


class Elements(HTMLParser):
    """Checks that what is opened is closed, and gathers text."""

    VOID = ("meta", "br", "img", "input", "link", "hr")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_well_formed(page):
    elements = Elements(page)
    assert elements.open == []
    assert page.count("<h1") == 1


def test_what_comes_from_runs_is_text_and_never_markup(page):
    assert "<script" not in page and "<b>&" not in page
    text = "".join(Elements(page).words)
    assert "<script>alert(1)</script>, seed 0, failed: <b>&bold</b>" in text


def test_runs_that_failed_diverged_or_cannot_be_read_are_listed(page):
    text = "".join(Elements(page).words)
    assert "gru, seed 0, diverged: not finite at step 7" in text
    assert "run.json cannot be read" in text


def test_what_readings_warn_of_is_counted_and_said_in_the_runs_own_words(page, made):
    text = " ".join("".join(Elements(page).words).split())
    assert (
        "What the readings warn of Vanishing gradient in 1 of 1 run elman 1 of 1, here seed 0 layer 0: <i>half" in text
    )
    assert text.count("layer 1: as much, not later.") == 1  # among all of them
    assert "layer 1: as much" in (made[1] / "tables" / "demo-adding-alerts.csv").read_text()


def test_a_page_of_runs_that_warn_of_nothing_says_so_once_they_were_asked(tmp_path, script, capsys):
    names = ("state_gradient", "lag_gradient", "attention", "parameters", "health")
    probes = {name: {"_target_": name} for name in names}
    write_run(tmp_path / "all", Fake("lstm", 0, more={"alerts": []}, config={"probe": probes}))
    assert report(script, capsys, tmp_path / "all")[0] == 0
    assert "No alert holds at the end of the run." in (tmp_path / "all" / "report" / "index.html").read_text()
    del probes["health"]
    for seed in (0, 1):
        write_run(tmp_path / "some", Fake("lstm", seed, more={"alerts": []}, config={"probe": probes}))
    assert report(script, capsys, tmp_path / "some")[0] == 0
    said = (
        "No alert of the kinds that could be judged holds at the end of any of the 2 runs; dead units and saturated "
        "states could not be judged in 2 runs, for want of health."
    )
    assert said in (tmp_path / "some" / "report" / "index.html").read_text()


def test_unreadable_runs_are_named_below_the_outputs_not_by_machine(page, made):
    assert str(made[0]) not in page


def test_summary_says_who_solved_beside_the_trivial_rule(page):
    text = " ".join("".join(Elements(page).words).split())
    verdict = "1 of 4 models solve adding with every finished seed: transformer; lstm with some. No run of <script>"
    assert verdict in text
    assert "<script>alert(1)</script> – Not counted: 1 failed none" in text
    assert "lstm 1 of 2 9 to 91 % 0.970 · 0.020 0.495 200 200 or more 6 → 7" in text
    assert "Trivial rule 0 (always 1) asked: 7" in text
    assert "Validation selects each run’s checkpoint" in text


def test_who_leads_as_far_and_what_has_no_score_is_said(tmp_path: Path, script, capsys):
    for fake in (Fake("gru"), Fake("lstm"), Fake("elman", more={"diverged_step": 7, "score": None})):
        write_run(tmp_path, fake)
    assert report(script, capsys, tmp_path)[0] == 0
    text = " ".join("".join(Elements((tmp_path / "report" / "index.html").read_text()).words).split())
    assert "How probably does a run of elman score above one of another model?" in text
    assert "as a mean over the variants; that of gru and lstm is as high. 1 run without a score, as where one" in text


def test_of_several_variants_the_verdict_is_of_finished_runs(tmp_path: Path, script, capsys):
    for task in ("adding", "copying"):
        for fake in (Fake("gru", task=task), Fake("gru", 1, task=task, status="running")):
            write_run(tmp_path, fake)
    assert report(script, capsys, tmp_path)[0] == 0
    text = " ".join("".join(Elements((tmp_path / "report" / "index.html").read_text()).words).split())
    assert "2 of 2 runs on 2 variants solve their task: a rate of 34 to 100 %. Not counted: 2 running." in text


def test_figures_are_named_by_their_findings(page):
    named = re.findall(r'<svg role="img" aria-label="([^"]+)"', page)
    assert len(set(named)) == len(named) == page.count('<article id="') == 4
    assert any(name.startswith("After training the gradient reaches 7 lags back") for name in named)


def test_what_most_models_answer_comes_first(page):
    order = [page.index(f'<article id="demo-adding-{stem}"') for stem in ("learning", "reach", "attention_maps")]
    assert order == sorted(order)


def test_a_question_is_any_script_with_the_interface(script, tmp_path: Path):
    functions = "\n".join(f"def {name}(*_): ..." for name in ("load", "draw", "finding", "caption"))
    (tmp_path / "new.py").write_text(f'"""Question: what is new?"""\n{functions}\n')
    (tmp_path / "tool.py").write_text("raise SystemExit('a tool must not even be imported')\ndef load(): ...\n")
    assert list(script("report").questions(tmp_path)) == ["new"]


def test_what_the_runs_do_not_hold_is_said(script, capsys, tmp_path: Path):
    write_run(tmp_path / "outputs", Fake("gru", validation=()))
    code, out, _ = report(script, capsys, tmp_path / "outputs", "--to", tmp_path / "to")
    assert code == 0
    assert "not drawn: attention_maps" not in out  # nobody misses a map of attention where there is none
    (folded,) = re.findall(r"^not drawn, as no run holds the readings: (.*); the page says which$", out, re.MULTILINE)
    assert {"attention_maps", "lyapunov"} <= set(folded.split(", "))
    page = (tmp_path / "to/index.html").read_text(encoding="utf-8")
    assert f"<summary>Not drawn, as no run holds the readings: {folded}</summary>" in page
    assert "<code>attention_maps</code>: no run holds the reading attention/entropy_share" in page
    assert "retrograde-probe RUN lyapunov" in page
    assert "not drawn: learning for demo, adding: no run has been validated yet" in out
    assert "no run has been validated yet" in page
    assert out.splitlines()[-1] == str(tmp_path / "to/index.html")


def test_a_run_that_has_only_begun_is_shown_as_unfinished(script, capsys, tmp_path: Path):
    folder = write_run(tmp_path / "outputs", Fake("gru", status="running"))
    for file in folder.tables.rglob("*.parquet"):
        file.unlink()
    code, out, _ = report(script, capsys, tmp_path / "outputs")
    assert code == 0
    page = Path(out.splitlines()[-1]).read_text(encoding="utf-8")
    assert "gru, seed 0, is not finished" in page


@pytest.mark.parametrize("stem", ["report", "reach", "learning", "attention_maps"])
def test_folders_without_runs_end_in_one_line(script, capsys, tmp_path: Path, stem):
    (tmp_path / "empty").mkdir()
    half = tmp_path / "half" / "run-1"
    half.mkdir(parents=True)
    (half / "run.json").write_text('{"run": "ru')
    call = (
        script(stem).main if stem == "report" else lambda arguments: script(stem).question.main(script(stem), arguments)
    )
    for name, message in (
        ("missing", "is not a folder"),
        ("empty", "there is no run.json below it"),
        ("half", "run.json cannot be read"),
    ):
        assert call([str(tmp_path / name)]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert len(said.err.splitlines()) == 1
        assert message in said.err and name in said.err


def test_a_place_that_cannot_be_written_to_is_one_line(script, capsys, tmp_path: Path) -> None:
    write_run(tmp_path / "outputs", Fake("gru"))
    (tmp_path / "file").touch()
    code, out, error = report(script, capsys, tmp_path / "outputs", "--to", tmp_path / "file" / "report")
    assert (code, out) == (1, "")
    assert error == f"[Errno 20] Not a directory: '{tmp_path}/file/report'\n"


def test_a_torn_table_costs_its_run_that_table_and_is_named(script, capsys, tmp_path: Path):
    folder = write_run(tmp_path / "outputs", Fake("gru"))
    write_run(tmp_path / "outputs", Fake("gru", seed=1))
    (folder.tables / "metrics.parquet").write_bytes(b"PAR1")
    code, out, _ = report(script, capsys, tmp_path / "outputs", "--to", tmp_path / "to")
    assert code == 0
    assert f"left out: {folder.run}: " in out
    assert "metrics.parquet cannot be read" in (tmp_path / "to" / "index.html").read_text()


def broken(*_: object) -> None:
    """A question with a mistake in it."""
    raise KeyError("no such column")


def test_a_question_that_cannot_be_drawn_costs_the_others_nothing(script, capsys, tmp_path: Path, monkeypatch):
    report_script = script("report")
    asked = report_script.questions()
    learning = asked["learning"]

    def draw(tables):
        if len(tables["numbers"]) == 2:
            raise ValueError("Axis limits cannot be NaN or Inf")
        return learning.draw(tables)

    partly = SimpleNamespace(**{**vars(learning), "draw": draw})
    wrong = SimpleNamespace(**{**vars(learning), "load": broken})
    monkeypatch.setattr(report_script, "questions", lambda: {"learning": partly, "mistaken": wrong})
    write_run(tmp_path / "outputs", Fake("gru", task="adding"))
    for seed in range(2):
        write_run(tmp_path / "outputs", Fake("gru", seed, task="copying"))
    code, out, _ = report(script, capsys, tmp_path / "outputs", "--to", tmp_path / "to")
    assert code == 0
    why = "not drawn: learning for demo, copying: ValueError: Axis limits cannot be NaN or Inf (test_report.py, line "
    assert why in out
    assert "not drawn: mistaken for demo, adding: KeyError: 'no such column' (test_report.py, line " in out
    assert "not drawn: learning for demo, adding" not in out
    page = (tmp_path / "to/index.html").read_text(encoding="utf-8")
    assert "Axis limits cannot be NaN or Inf" in page
    assert '<article id="demo-adding-learning"' in page and '<article id="demo-copying-learning"' not in page


def test_a_report_in_which_every_question_failed_is_written_and_is_no_success(
    script, capsys, tmp_path: Path, monkeypatch
):
    report_script = script("report")
    wrong = SimpleNamespace(**{**vars(script("learning")), "load": broken})
    monkeypatch.setattr(report_script, "questions", lambda: {"mistaken": wrong})
    write_run(tmp_path / "outputs", Fake("gru"))
    code, out, _ = report(script, capsys, tmp_path / "outputs", "--to", tmp_path / "to")
    assert code == 1
    assert out.splitlines()[-1] == str(tmp_path / "to/index.html")
    assert "no such column" in (tmp_path / "to/index.html").read_text(encoding="utf-8")


def test_a_script_goes_on_after_a_comparison_that_it_cannot_draw(script, capsys, tmp_path: Path):
    learning = script("learning")

    def load(comparison):
        return broken() if comparison.task == "adding" else learning.load(comparison)

    for task in ("adding", "copying"):
        write_run(tmp_path, Fake("gru", task=task))
    partly = SimpleNamespace(**{**vars(learning), "load": load, "__name__": "learning"})
    assert learning.question.main(partly, [str(tmp_path), "--to", str(tmp_path / "to")]) == 0
    said = capsys.readouterr()
    assert said.err.startswith(
        "not drawn: learning for demo, adding: KeyError: 'no such column' (test_report.py, line "
    )
    assert (tmp_path / "to/figures/demo-copying-learning.svg").is_file()
    wrong = SimpleNamespace(**{**vars(learning), "load": broken})
    assert learning.question.main(wrong, [str(tmp_path), "--to", str(tmp_path / "to")]) == 1


def test_a_script_prints_its_finding_and_where_it_wrote(script, capsys, tmp_path: Path):
    write_run(tmp_path, Fake("gru"))
    reach = script("reach")
    assert reach.question.main(reach, [str(tmp_path), "--to", str(tmp_path / "to")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("After training the gradient reaches 7 lags back")
    assert all(Path(line).is_file() for line in lines[1:])
    assert str(tmp_path / "to/figures/demo-adding-reach.svg") in lines


def test_tasks_apart_are_sections_apart(script, capsys, tmp_path: Path):
    write_run(tmp_path / "outputs", Fake("gru", task="adding"))
    write_run(tmp_path / "outputs", Fake("gru", task="copying"))
    code, out, _ = report(script, capsys, tmp_path / "outputs", "--to", tmp_path / "to")
    assert code == 0
    page = Path(out.splitlines()[-1]).read_text(encoding="utf-8")
    assert '<section id="demo-adding"' in page and '<section id="demo-copying"' in page
    (folded,) = re.findall(r"^not drawn, as no run holds the readings: (.*); the page says which$", out, re.MULTILINE)
    assert "attention_maps (2 times)" in folded.split(", ")


def test_a_study_opens_with_its_question_its_verdict_and_its_own_figure(script, capsys, tmp_path: Path):
    for seed in range(2):
        write_run(tmp_path / "outputs", Fake("gru", seed, study="reach"))
    assert report(script, capsys, tmp_path / "outputs", "--to", tmp_path / "to")[0] == 0
    page = (tmp_path / "to/index.html").read_text(encoding="utf-8")
    text = " ".join("".join(Elements(page).words).split())
    assert "Study reach How many steps back does the loss gradient reach, before and after training?" in text
    assert "Run by retrograde study=reach (18 runs; size=small: 12 runs, about 2 minutes on two cores)." in text
    places = [
        page.index(part)
        for part in ('class="verdict">After training', '<article id="reach-adding-reach"', '<section id="reach-adding"',
                     '<article id="reach-adding-learning"')
    ]  # fmt: skip
    assert places == sorted(places)
    assert page.count('<article id="reach-adding-reach"') == 1
    question = "How many steps back does the loss gradient reach, before and after training?"
    assert text.count(question) == 1 + 1  # in the contents and as the heading, not again over the figure
    assert text.count("After training the gradient reaches") == 1


def test_what_the_tables_columns_mean_is_said_once(script, capsys, tmp_path: Path):
    for task in ("adding", "copying"):
        write_run(tmp_path / "outputs", Fake("gru", task=task))
    assert report(script, capsys, tmp_path / "outputs", "--to", tmp_path / "to")[0] == 0
    page = (tmp_path / "to/index.html").read_text(encoding="utf-8")
    assert page.count("Validation selects each run’s checkpoint") == 1
    assert page.count('id="page:reading"') == page.count('href="#page:reading"') == 1


def test_the_contents_cut_what_stays_apart(script):
    def entries(*variants: str) -> list[str]:
        sections = [SimpleNamespace(comparison=SimpleNamespace(task="t", card={"variant": one})) for one in variants]
        return script("report").Study.entries.fget(SimpleNamespace(sections=sections))

    long = "word " * 30
    assert entries(f"one {long}", f"two {long}")[1] == f"t: two {long}"[:68].rsplit(" ", 1)[0] + " …"
    assert entries(f"{long} one", f"{long} two") == [f"t: {long} one", f"t: {long} two"]


def across(asked: dict, stem: str) -> dict:
    """The questions, and one that is asked of whole studies."""
    learning = asked["learning"]
    whole = SimpleNamespace(**{**vars(learning), "OF": STUDY, "__doc__": "Question: what of both?\nExpect: much."})
    return {stem: whole, "learning": learning}


def test_a_question_of_the_whole_study_is_drawn_once(script, capsys, tmp_path: Path, monkeypatch):
    report_script = script("report")
    asked = across(report_script.questions(), "demo")
    monkeypatch.setattr(report_script, "questions", lambda: asked)
    for task in ("adding", "copying"):
        write_run(tmp_path / "outputs", Fake("gru", task=task))
    assert report(script, capsys, tmp_path / "outputs", "--to", tmp_path / "to")[0] == 0
    page = (tmp_path / "to/index.html").read_text(encoding="utf-8")
    assert '<article id="demo-demo"' in page and '<article id="demo-adding-demo"' not in page
    assert page.index('<article id="demo-demo"') < page.index('<section id="demo-adding"')
    assert (tmp_path / "to/figures/demo-demo.svg").is_file()
    assert page.count("Expected:</b> much.") == 1


def test_studies_whose_names_run_together_keep_their_files_apart(script, capsys, tmp_path: Path, monkeypatch):
    """The study 'demo-adding' as a whole, and the variant 'adding' of 'demo', would be called the same."""
    report_script = script("report")
    asked = across(report_script.questions(), "both")
    monkeypatch.setattr(report_script, "questions", lambda: asked)
    write_run(tmp_path / "outputs", Fake("gru", study="demo", task="adding"))
    write_run(tmp_path / "outputs", Fake("lstm", study="demo-adding", task="x"))
    assert report(script, capsys, tmp_path / "outputs", "--to", tmp_path / "to")[0] == 0
    page = (tmp_path / "to/index.html").read_text(encoding="utf-8")
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    assert "lstm" in (tmp_path / "to/figures/demo-adding-2-both.runs.txt").read_text()


def test_another_studys_question_that_finds_nothing_is_not_missed(script, capsys, tmp_path: Path):
    """Neither is told of an attention map in a study without attention, that of a study only in its own."""
    report_script = script("report")

    def nothing(comparison):
        raise NothingToDraw("no gradients here")

    reach = SimpleNamespace(**{**vars(script("reach")), "load": nothing})
    for study, said in (("demo", False), ("reach", True)):
        write_run(tmp_path / study, Fake("gru", study=study))
        (comparison,) = report_script.comparisons(report_script.FolderStore(tmp_path / study))[0]
        (outcomes,) = report_script.ask([(comparison, {"reach": reach})], tmp_path)
        given = report_script.sorted_out(comparison, outcomes)
        assert given.not_drawn == ([("reach", "no gradients here")] if said else [])


def test_a_study_whose_own_reading_nobody_recorded_says_so(script, capsys, tmp_path: Path):
    write_run(tmp_path / "outputs", Fake("gru", study="horizon"))
    for table in (tmp_path / "outputs").rglob("lag_gradient*"):
        shutil.rmtree(table)
    _, out, _ = report(script, capsys, tmp_path / "outputs", "--to", tmp_path / "to")
    assert "not drawn: horizon for horizon: no run holds the reading lag_gradient/horizon" in out


def test_all_studies_stand_in_one_table_on_the_page_and_as_a_file(page, made):
    text = " ".join("".join(Elements(page).words).split())
    assert "demo 5 6 1 diverged, 1 failed 2 of 5 12 to 77 %" in text
    lines = (made[1] / "tables/studies.csv").read_text().splitlines()
    assert len(lines) == 2 and lines[1].startswith("demo,1,5,6,2,2,1,1,0,0,")


def test_long_tables_are_cut_on_the_page_and_whole_in_the_file(script):
    table = pd.DataFrame({"model": ["gru"] * 250, "value": range(250), "run": "r"})
    shown = script("report").reported(table)
    assert (len(shown["rows"]), shown["more"]) == (200, 50)
    assert [name for name, _ in shown["columns"]] == ["model", "value"]


def test_a_pictures_coordinates_are_cut_and_its_scales_are_not(script):
    svg = '<svg viewBox="0 0 9 9"><path d="M 1.23456 2"/><g transform="scale(0.015625)"/><use x="1.98765"/></svg>'
    cut = script("report").inlined(svg, "stem", "words")
    assert 'd="M 1.23 2"' in cut and "scale(0.015625)" in cut and 'x="1.98"' in cut
