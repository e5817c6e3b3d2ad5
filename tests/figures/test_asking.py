"""Questions that are asked by several processes: the same comes out as where one asks after the other."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure

from retrograde.figures import asking
from retrograde.figures.comparison import Comparison, NothingToDraw


def question(load):
    return SimpleNamespace(
        __name__="question", __doc__="Question:  what?\n", load=load, draw=lambda tables: Figure(),
        finding=lambda tables: f"drawn of {len(tables['numbers'])} runs", caption=lambda tables: "",
    )  # fmt: skip


def runs_of(comparison: Comparison):
    return {"numbers": comparison.runs[["run", "model"]].astype(str)}


def who_asks(comparison: Comparison):
    raise NothingToDraw(str(os.getpid()))


def mistaken(comparison: Comparison):
    raise RuntimeError("no such column")


def damaged(comparison: Comparison):
    run = str(comparison.runs["run"][0])
    (comparison.store.folders[run].tables / "metrics.parquet").write_bytes(b"nothing")
    return {"numbers": comparison.metrics()}


QUESTIONS = {stem: question(load) for stem, load in {"runs": runs_of, "mistaken": mistaken, "damaged": damaged}.items()}


@pytest.fixture(params=[1, 2])
def processes(request, monkeypatch) -> int:
    monkeypatch.setattr(asking, "RUNS_EACH", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(request.param)))
    return request.param


def test_what_comes_out_does_not_hang_on_how_many_ask(processes: int, comparison: Comparison, tmp_path: Path):
    other = {"runs": QUESTIONS["runs"]}
    first, second = asking.ask([(comparison, QUESTIONS), (comparison, other)], tmp_path / "report")
    assert [(one.stem, one.failed) for one in first] == [("runs", False), ("mistaken", True), ("damaged", False)]
    assert [one.stem for one in second] == ["runs"]
    assert first[0].answer is not None and first[0].answer.finding == "drawn of 3 runs"
    assert first[0].answer.files[0].is_file()
    assert first[1].answer is None and first[1].reason.startswith("RuntimeError: no such column (test_asking.py, line ")


def test_what_turned_out_damaged_is_known_once(processes: int, comparison: Comparison, tmp_path: Path):
    asking.ask([(comparison, {"damaged": QUESTIONS["damaged"]}), (comparison, QUESTIONS)], tmp_path)
    (said,) = comparison.store.unreadable.values()
    assert said.count("metrics.parquet") == 1


def test_questions_are_asked_by_other_processes_where_there_are_cores_and_runs(
    processes: int, comparison: Comparison, tmp_path: Path, monkeypatch
):
    asked = [(comparison, {f"question{number}": question(who_asks) for number in range(8)})]
    (outcomes,) = asking.ask(asked, tmp_path)
    assert ({one.reason for one in outcomes} == {str(os.getpid())}) is (processes == 1)
    monkeypatch.setattr(asking, "RUNS_EACH", 2)  # three runs are then too few for two
    (outcomes,) = asking.ask(asked, tmp_path)
    assert {one.reason for one in outcomes} == {str(os.getpid())}
