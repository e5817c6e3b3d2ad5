"""The board keeps what was measured by commit, and says what has become worse."""

import json
from pathlib import Path
from typing import Any

import pytest

from scripts import loaded

board = loaded("board")


def result(commit: str, ratio: float, goal: float | None = 1.0, benchmark: str = "loop", spread: float = 0.1) -> Any:
    row = {"name": "a step", "against": "a raw loop", "median": ratio, "goal": goal}
    row |= {"lower": ratio * (1 - spread), "upper": ratio * (1 + spread)}
    where = {"device": "Some CPU, 2 cores", "commit": commit, "date": "2026-01-01", "packages": {"torch": "2.13.0"}}
    return {"benchmark": benchmark, "machine": where, "ratios": [row]}


def written(tmp_path: Path, *results: Any) -> tuple[dict[str, Any], str]:
    """What the board keeps, and its page."""
    for number, one in enumerate(results):
        file = tmp_path / f"{number}.json"
        file.write_text(json.dumps(one))
        assert board.main([str(file), "--to", str(tmp_path / "to")]) == 0
    return (
        json.loads((tmp_path / "to" / "some-cpu-2-cores.json").read_text()),
        (tmp_path / "to" / "some-cpu-2-cores.md").read_text(),
    )


def test_each_commit_is_an_entry_and_what_was_measured_again_counts(tmp_path: Path) -> None:
    kept, _ = written(
        tmp_path, result("one", 0.5), result("two", 0.6), result("two", 0.7), result("two", 9, benchmark="forms")
    )
    assert [entry["commit"] for entry in kept["history"]] == ["one", "two"]
    medians = {name: row["median"] for name, row in kept["history"][-1]["rows"].items()}
    assert medians == {"loop: a step / a raw loop": 0.7, "forms: a step / a raw loop": 9}


@pytest.mark.parametrize(("now", "said"), [(0.57, False), (0.58, True), (0.4, False)])
def test_more_than_fifteen_percent_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], now: float, said: bool
) -> None:
    _, page = written(tmp_path, result("one", 0.5), result("two", now))
    words = "worse: loop: a step / a raw loop: 0.58, 16% more than the 0.5 of one, 2026-01-01"
    assert (words in capsys.readouterr().out) == said
    assert ("16% more than the 0.5 of one" in page) == said


def test_the_last_measurement_is_the_one_compared_with(tmp_path: Path) -> None:
    """Between them lies a commit at which something else was measured."""
    _, page = written(tmp_path, result("one", 0.5), result("two", 1.0, benchmark="forms"), result("three", 1.0))
    assert "100% more than the 0.5 of one" in page


def test_a_goal_is_missed_by_the_whole_interval(tmp_path: Path) -> None:
    """1.05 lies in an interval that holds 1, 1.2 in none."""
    for name in ("near", "far"):
        (tmp_path / name).mkdir()
    _, near = written(tmp_path / "near", result("one", 1.05))
    _, far = written(tmp_path / "far", result("one", 1.2))
    assert "**Goals missed:** none." in near and "| open |" in near
    assert "a step / a raw loop: 1.2, where 1 is meant" in far and "| missed |" in far


def test_the_figures_are_there_with_the_second_commit(tmp_path: Path) -> None:
    written(tmp_path, result("one", 0.5))
    assert not (tmp_path / "to" / "some-cpu-2-cores-history.svg").exists()
    _, page = written(tmp_path, result("two", 0.6))
    for name in ("ratios", "history"):
        assert "<svg" in (tmp_path / "to" / f"some-cpu-2-cores-{name}.svg").read_text()
        assert f"some-cpu-2-cores-{name}.svg" in page


def test_a_result_without_ratios_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "old.json"
    file.write_text(json.dumps({"machine": {}}))
    assert board.main([str(file), "--to", str(tmp_path)]) == 1
    assert "keeps no ratios" in capsys.readouterr().err
