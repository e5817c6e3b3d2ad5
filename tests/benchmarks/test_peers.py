"""The benchmark beside peers compares equals, leaves out what it cannot compare, and runs to its end."""

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from scripts import FOLDER, loaded

pytestmark = pytest.mark.heavy
"""The whole script is run, small."""

bench = loaded("peers")

SMALL = bench.Options(models=(), lengths=(16,), batch=2, width=32, seconds=5.0, threads=1, device="cpu")


@pytest.mark.parametrize(("ratio", "verdict"), [(0.8, "faster"), (1.0, "as fast"), (1.04, "as fast"), (1.2, "slower")])
def test_a_layer_is_slower_only_beyond_what_the_same_code_differs_by(ratio: float, verdict: str) -> None:
    theirs = [1.0, 2.0, 1.5, 1.2]
    made = bench.Comparison("any", "other", 64, "equal", [ratio * one for one in theirs], theirs)
    assert made.verdict == verdict
    assert made.ratio() == pytest.approx((ratio, ratio, ratio))


SAME = [peer for peer in bench.PEERS if not peer.differs]


@pytest.mark.parametrize("peer", SAME, ids=lambda peer: f"{peer.model}-{peer.layer}")
def test_what_is_said_to_be_the_same_layer_has_the_same_values_and_gradients(peer: Any) -> None:
    if peer.missing:
        pytest.skip(peer.missing)
    assert bench.checked(peer, SMALL).startswith("equal")


def test_every_peer_belongs_to_a_model() -> None:
    known = bench.options("model", bench.config_folder())
    assert {peer.model for peer in bench.PEERS} <= set(known)


def spoilt(peer: Any, value: float) -> Any:
    """The peer with one weight of its own."""

    def make(model: Any, length: int) -> tuple[nn.Module, nn.Module]:
        ours, theirs = peer.make(model, length)
        with torch.no_grad():
            next(theirs.parameters())[3, 3] += value
        return ours, theirs

    return replace(peer, make=make)


@pytest.mark.parametrize("value", [0.5, torch.nan])
def test_another_weight_ends_the_comparison(value: float) -> None:
    lstm = next(peer for peer in bench.PEERS if peer.model == "lstm")
    with pytest.raises(ValueError, match="do not compute the same"):
        bench.checked(spoilt(lstm, value), SMALL)


def test_peers_that_are_missing_or_broken_do_not_keep_others_from_being_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lstm = next(peer for peer in bench.PEERS if peer.model == "lstm")
    absent = replace(lstm, layer="absent", package="no_such_package", distribution="no-such")
    monkeypatch.setattr(bench, "PEERS", [absent, replace(spoilt(lstm, 0.5), layer="broken"), lstm])
    comparisons, left_out = bench.beside_peers(replace(SMALL, models=("lstm",)))
    assert [(one.layer, one.length) for one in comparisons] == [("torch.nn.LSTM", 16)]
    assert left_out["lstm / absent"] == "not installed: pip install no-such"
    assert left_out["lstm / broken"].startswith("not compared: values differ")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    file = tmp_path_factory.mktemp("peers") / "results" / "peers.json"
    sizes = ["--lengths", "16", "--batch", "2", "--width", "8"]
    command = [sys.executable, FOLDER / "peers.py", "--models", "lstm", "--to", file, *sizes]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(file.read_text())


def test_a_run_says_where_it_was_made_and_keeps_every_pair(run: tuple[str, dict[str, Any]]) -> None:
    _, result = run
    assert {"device", "threads", "packages", "commit", "date"} <= set(result["machine"])
    assert result["settings"]["width"] == 8
    (made,) = result["peers"]
    assert (made["model"], made["layer"], made["length"], made["values"]) == ("lstm", "torch.nn.LSTM", 16, "equal")
    assert made["lower"] <= made["ratio"] <= made["upper"]
    assert len(made["ours"]) == len(made["theirs"]) >= 3
    assert made["memory"][0] == made["memory"][1] > 0


def test_the_output_has_a_row_for_every_peer_and_a_line_for_the_goal(run: tuple[str, dict[str, Any]]) -> None:
    printed, _ = run
    lines = printed.splitlines()
    for start in ("lstm  torch.nn.LSTM  ", "none slower than its peer"):
        assert any(line.startswith(start) for line in lines)
    assert "no optimiser" in printed and "threads: 1" in printed


def test_a_wrong_name_is_answered_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--models", "lstn"]) == 1
    answer = capsys.readouterr().err
    assert "did you mean" in answer and "'lstm'" in answer and answer.count("\n") == 1


def test_a_wrong_size_is_answered_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--batch", "0"]) == 1
    assert capsys.readouterr().err == "--batch must be at least 1, not 0\n"
