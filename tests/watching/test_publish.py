"""What a person finds in W&B of a watch, read back from the log by W&B's own reader."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import wandb
from torch import Tensor, nn

import retrograde
from retrograde.watching.publish import STEP, scalars


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    """The environment is read once per process, so a set-up left by another test would win over ours."""
    wandb.teardown()
    yield
    wandb.teardown()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rnn(x)[0]
        return self.attention(x, x, x, need_weights=False)[0]


def opened(path: Path) -> wandb.Run:
    return wandb.init(
        dir=str(path), mode="offline", reinit="create_new", settings=wandb.Settings(console="off", silent=True)
    )


def history(path: Path) -> list[dict[str, Any]]:
    wandb.teardown()
    (directory,) = path.glob("wandb/offline-run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(directory)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    rows = [json.loads(line) for line in printed.splitlines()]
    return [row["history"]["item"] for row in rows if row["type"] == "history"]


def test_a_loop_that_logs_its_loss_keeps_its_rows_and_finds_the_watch_in_them(tmp_path: Path) -> None:
    """With steps of its own, which W&B would drop if the watch had begun rows between them."""
    model, x = Recurrent(), torch.randn(4, 20, 3)
    with opened(tmp_path) as run:
        with retrograde.watch(model, wandb=run) as flow:
            for step in range(4):
                loss = model(x).pow(2).mean()
                loss.backward()
                run.log({"loss": loss.item()}, step=step)
        directory = Path(run.dir)
    rows = history(tmp_path)
    assert [row["_step"] for row in rows if "loss" in row] == [0, 1, 2, 3]
    ours = [row for row in rows if STEP in row]
    assert [row[STEP] for row in ours] == [0, 1, 2, 3]
    frame = flow.frame()
    means = frame[(frame.layer == "rnn.0.forward") & (frame.statistic == "mean") & (frame.step == 2)].set_index("time")
    lags = {int(key.rpartition("_")[2]) for key in ours[2] if key.startswith("watch/total/rnn.0.forward.hidden/lag_")}
    assert lags == {0, 1, 2, 4, 8, 16}
    assert ours[2]["watch/total/rnn.0.forward.hidden/lag_8"] == pytest.approx(means.total[11])
    assert ours[2]["watch/carried/rnn.0.forward.hidden/lag_8"] == pytest.approx(means.carried[11])
    assert not [key for key in ours[2] if key.startswith("watch/direct/attention")]  # all of it is
    heads = flow.attention()
    entropy = heads[(heads.step == 2) & (heads["head"] == 1)].entropy.item()
    assert ours[2]["watch/entropy/attention/1"] == pytest.approx(entropy)
    stored = pd.read_parquet(directory / "retrograde" / "watch.parquet")
    np.testing.assert_array_equal(stored.total, frame.total)
    assert (directory / "retrograde" / "attention.parquet").exists()


def test_lags_count_from_what_a_direction_reads_last() -> None:
    """Of a backward one that is time 0, and the state that it begins with is the longest lag, as of a forward one."""
    model, x = nn.GRU(3, 4, bidirectional=True, batch_first=True), torch.randn(2, 8, 3)
    with retrograde.watch(model) as flow:
        model(x)[0].pow(2).mean().backward()
    frame = flow.frame()
    logged = scalars(flow.blocks, [])
    for direction, times in (("forward", {0: 7, 1: 6, 4: 3, 8: -1}), ("backward", {0: 0, 1: 1, 4: 4, 8: 8})):
        rows = frame[(frame.layer == f"GRU.0.{direction}") & (frame.statistic == "mean")].set_index("time")
        for lag, time in times.items():
            assert logged[f"watch/total/GRU.0.{direction}.hidden/lag_{lag}"] == rows.total[time]


def test_a_loop_that_logs_nothing_or_seldom_loses_nothing(tmp_path: Path) -> None:
    model, x = Recurrent(), torch.randn(2, 5, 3)
    with opened(tmp_path) as run, retrograde.watch(model, wandb=run):
        for step in range(6):
            model(x).pow(2).mean().backward()
            if step == 3:
                run.log({"epoch": 0}, step=0)
    rows = history(tmp_path)
    assert [row[STEP] for row in rows if STEP in row] == list(range(6))
    assert [row["_step"] for row in rows if "epoch" in row] == [0]


def test_a_block_for_every_step_sends_as_one_around_the_loop_does(tmp_path: Path) -> None:
    model, x = Recurrent(), torch.randn(2, 5, 3)
    with opened(tmp_path) as run:
        for step in range(3):
            with retrograde.watch(model, wandb=run):
                loss = model(x).pow(2).mean()
                loss.backward()
            run.log({"loss": loss.item()}, step=step)
        directory = Path(run.dir)
    rows = history(tmp_path)
    assert [(row["_step"], STEP in row) for row in rows if "loss" in row] == [(0, True), (1, True), (2, True)]
    assert len(list((directory / "retrograde").glob("watch*.parquet"))) == 3
