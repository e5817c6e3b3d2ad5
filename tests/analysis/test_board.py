"""The board of published results, as it is written: which rows and pictures stay, and that all of it is one table's."""

import re
import shutil
from pathlib import Path

import pytest

from fake_papers import CONF, PAPERS, claim, preset, ran
from fake_runs import Fake, write_run
from retrograde.figures.papers import table
from retrograde.figures.papers.page import page
from retrograde.figures.papers.presets import presets
from retrograde.figures.papers.rows import rows as made


def board(script, tmp_path: Path, papers: Path, *fakes: Fake) -> list[dict[str, str]]:
    """The rows that are written with these runs, and with those that were there."""
    for fake in fakes:
        write_run(tmp_path / "outputs", fake)
    script("board").write(papers, tmp_path / "outputs", tmp_path / "board")
    return table.read(tmp_path / "board" / "board.csv")


def test_the_same_runs_give_the_same_bytes_and_the_page_is_made_of_the_table(script, tmp_path: Path):
    papers = preset(tmp_path, claim(), claim(of="sequences", band="[null, 900]"), seeds="0,1")
    preset(tmp_path, claim(), stem="more1998")
    rows = board(script, tmp_path, papers, ran("lstm", 0), ran("lstm", 1))
    first = {file.name: file.read_bytes() for file in (tmp_path / "board").iterdir()}
    assert sorted(first) == ["README.md", "board.csv", "else1997.png"]
    assert page(rows).encode() == first["README.md"]
    board(script, tmp_path, papers)
    assert {file.name: file.read_bytes() for file in (tmp_path / "board").iterdir()} == first


def test_rows_and_figures_of_absent_runs_stay(script, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    papers = preset(tmp_path, claim(), seeds="0")
    before = board(script, tmp_path, papers, ran("lstm", 0))
    picture = (tmp_path / "board" / "else1997.png").read_bytes()
    shutil.rmtree(tmp_path / "outputs" / "paper" / "else1997")
    preset(tmp_path, claim(), seeds="0", stem="more1998")
    after = board(script, tmp_path, papers, ran("lstm", 0, stem="more1998"))
    assert [row["preset"] for row in after] == ["else1997", "more1998"]
    assert after[:1] == before
    assert (tmp_path / "board" / "else1997.png").read_bytes() == picture
    assert "kept as it was" not in capsys.readouterr().err
    preset(tmp_path, claim(band="[0.1, 1.0]"), seeds="0")
    assert board(script, tmp_path, papers) == after
    assert "kept as it was: else1997, which asks for other runs now" in capsys.readouterr().err
    (papers / "else1997.yaml").unlink()
    assert [row["preset"] for row in board(script, tmp_path, papers)] == ["more1998"]
    assert not (tmp_path / "board" / "else1997.png").exists()


def test_runs_that_are_not_all_here_do_not_take_the_place_of_finished_rows(script, tmp_path: Path, capsys):
    papers = preset(tmp_path, claim(), seeds="0,1")
    before = board(script, tmp_path, papers, ran("lstm", 0))
    assert [row["verdict"] for row in before] == ["not finished: 1 of 2 runs"]
    finished = board(script, tmp_path, papers, ran("lstm", 1))
    assert finished != before
    assert capsys.readouterr().err == ""
    (lost,) = (tmp_path / "outputs" / "paper" / "else1997").glob("*-s1*")
    shutil.rmtree(lost)
    assert board(script, tmp_path, papers) == finished
    assert (tmp_path / "board" / "else1997.png").exists()
    assert "kept as it was: else1997, of which not all runs are here" in capsys.readouterr().err
    preset(tmp_path, claim(band="[0.1, 1.0]"), seeds="0,1")
    assert [row["verdict"] for row in board(script, tmp_path, papers)] == ["not finished: 1 of 2 runs"]


def test_words_of_a_head_are_renewed_and_other_settings_are_named(script, tmp_path: Path, capsys):
    papers = preset(tmp_path, claim(), seeds="0")
    (before,) = board(script, tmp_path, papers, ran("lstm", 0))
    shutil.rmtree(tmp_path / "outputs" / "paper" / "else1997")
    file = papers / "else1997.yaml"
    file.write_text(file.read_text().replace("the batch, here 4", "all else"))
    (renewed,) = board(script, tmp_path, papers)
    assert renewed == before | {"open": "all else"}
    assert capsys.readouterr().err == ""
    file.write_text(file.read_text().replace("steps: 200", "steps: 99").replace("all else", "nothing"))
    assert board(script, tmp_path, papers) == [renewed]
    assert "kept as it was: else1997, which asks for other runs now: run it again" in capsys.readouterr().err


def test_pictures_of_others_stay(script, tmp_path: Path):
    papers = preset(tmp_path, claim(), seeds="0")
    (tmp_path / "board").mkdir()
    (tmp_path / "board" / "holiday.png").write_bytes(b"sea")
    board(script, tmp_path, papers, ran("lstm", 0))
    assert (tmp_path / "board" / "holiday.png").exists()


def test_the_page_of_the_project_is_made_of_its_table():
    folder = CONF.parent / "docs" / "board"
    rows = table.read(folder / "board.csv")
    assert page(rows) == (folder / "README.md").read_text(encoding="utf-8")
    stated = {(row["preset"], row["says"]): row for one in presets(PAPERS[0].parent, CONF) for row in made(one, None)}
    said = (*table.STATED, *table.CLAIMED)
    assert [(row["preset"], row["says"]) for row in rows] == list(stated)
    for row in rows:
        of_preset = stated[row["preset"], row["says"]]
        assert {name: row[name] for name in said} == {name: of_preset[name] for name in said}, row["preset"]
    (counted,) = re.findall(r"\*\*(.* claims of .*)\.\*\*", page(rows))
    assert counted in (CONF.parent / "README.md").read_text(encoding="utf-8"), "README.md counts otherwise"
    assert {file.name for file in folder.glob("*.png")} == {row["figure"] for row in rows} - {""}


def test_what_is_wrong_is_said_in_one_line(script, tmp_path: Path, monkeypatch, capsys):
    papers = preset(tmp_path, claim(band="[1.0, 0.9]"))
    monkeypatch.setattr(script("board"), "PAPERS", papers)
    assert script("board").main(["--to", str(tmp_path / "to")]) == 1
    assert "else1997.yaml: the claim" in capsys.readouterr().err
    assert not (tmp_path / "to" / "README.md").exists()
