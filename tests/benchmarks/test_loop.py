"""The loop's benchmark runs, says what it promises, and would notice another network."""

import json
from pathlib import Path

import pytest

from scripts import loaded

loop = loaded("loop")


def test_a_median_in_its_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(loop, "BLOCK", 4)
    assert loop.main(["--pairs=3", "--json", str(tmp_path / "loop.json")]) == 0
    result = json.loads((tmp_path / "loop.json").read_text())
    (added,) = result["ratios"]
    assert added["lower"] <= added["median"] <= added["upper"]
    assert [len(taken) for taken in result["samples"].values()] == [3, 3]
    assert f"≤ 60 {loop.Ratio(**added).verdict}" in capsys.readouterr().out


def test_another_network_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop, "BLOCK", 4)
    monkeypatch.setattr(loop.Bare, "begin_as", lambda bare, training: None)
    with pytest.raises(ValueError, match="not the same network"):
        loop.measured(1, tmp_path)
