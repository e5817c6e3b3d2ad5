"""One run on several devices is what it is on one, but for rounding; here the devices are processes of a CPU."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pandas as pd
import pytest
import torch
from torch import Tensor

from retrograde import Run, TrainerSettings
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch
from retrograde.models.linear_rnn import linear_rnn
from retrograde.probes.parameters import Parameters
from retrograde.probes.state_gradient import StateGradient
from retrograde.record.folder import FAILED, INTERRUPTED, RunFolder
from retrograde.record.store import FolderStore
from retrograde.tasks.adding import Adding
from retrograde.train.interruption import Interrupted

if TYPE_CHECKING:  # the fixture is found by its name
    from conftest import Ended

Fit = Callable[..., Run]

ONE = TrainerSettings(
    accelerator="cpu",
    threads=1,
    precision="64-true",
    log_every=5,
    validate_every=5,
    validation_samples=32,
    test_samples=32,
    stop_when_solved=False,
)
PROBES = {"state_gradient": StateGradient(), "parameters": Parameters()}


def on(devices: int, **settings: object) -> TrainerSettings:
    return TrainerSettings(**{**vars(ONE), "devices": devices, **settings})


class Bell:
    """A regularizer that adds the square of the weights and, once, in this process alone, rings in a step."""

    due: ClassVar[tuple[int, Callable[[], object]] | None] = None

    def __call__(self, model: SequenceModel, task: Task, batch: Batch, step: int) -> Tensor | None:
        if Bell.due is not None and step == Bell.due[0]:
            ring, Bell.due = Bell.due[1], None
            ring()
        return 1e-3 * sum(weight.square().sum() for weight in model.parameters())


def require_close(one: Path, other: Path) -> None:
    """All that was recorded, to ten digits."""
    first, second = FolderStore(one), FolderStore(other)
    assert first.tables() == second.tables() != []
    for name in first.tables():
        pd.testing.assert_frame_equal(first.readings(name), second.readings(name), rtol=1e-10, atol=1e-10)
    pd.testing.assert_frame_equal(first.metrics(), second.metrics(), rtol=1e-10, atol=1e-10)


def only_run(outputs: Path) -> RunFolder:
    (file,) = outputs.glob("**/run.json")
    return RunFolder(file.parent)


@pytest.mark.heavy
def test_two_devices_give_the_run_of_one_even_when_interrupted(
    small_run: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, sizes = SequenceModel.objective, []

    def watched(model: SequenceModel, task: Task, batch: Batch) -> tuple[Tensor, Tensor | None]:
        sizes.append(len(batch))
        return objective(model, task, batch)

    monkeypatch.setattr(SequenceModel, "objective", watched)
    one = small_run(trainer=ONE, probes=PROBES, regularizer=Bell())
    assert set(sizes) == {64}
    sizes.clear()
    Bell.due = 12, lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted):
        small_run(trainer=on(2), probes=PROBES, regularizer=Bell(), outputs=tmp_path)
    assert only_run(tmp_path).read()["status"] == INTERRUPTED
    assert not multiprocessing.active_children()
    two = small_run(trainer=on(2), probes=PROBES, regularizer=Bell(), outputs=tmp_path)
    assert [attempt.get("from_step") for attempt in two.metadata["attempts"]] == [None, 12]
    assert two.folder.run == one.folder.run
    assert set(sizes) == {32}, "each computes its share"
    require_close(one.folder.path, two.folder.path)
    assert two.metadata["score"] == pytest.approx(one.metadata["score"], rel=1e-10)
    assert not torch.distributed.is_initialized()


@pytest.mark.heavy
def test_they_find_the_same_step_that_is_no_number(small_run: Fit) -> None:
    settings = {
        "model": partial(linear_rnn, hidden=8, radius=1.5),
        "task": Adding(length=30),
        "optimizer": partial(torch.optim.SGD, lr=1e3),
        "probes": {},
    }
    one, two = (small_run(**settings, trainer=on(devices, clip=None)) for devices in (1, 2))
    assert one.metadata["diverged_step"] == two.metadata["diverged_step"] is not None
    assert (two.folder.checkpoints / "nonfinite.pt").exists()


@pytest.mark.heavy
def test_a_rank_that_is_lost_is_named(small_run: Fit, tmp_path: Path) -> None:
    Bell.due = 12, lambda: [process.kill() for process in multiprocessing.active_children()]
    with pytest.raises(RuntimeError, match="rank 1 of 2 was lost"):
        small_run(trainer=on(2), probes={}, regularizer=Bell(), outputs=tmp_path)
    assert only_run(tmp_path).read()["status"] == FAILED


@pytest.mark.heavy
def test_processes_of_torchrun_on_two_nodes_are_the_ranks(
    tmp_path: Path, bin_folder: Path, command: Callable[..., "Ended"]
) -> None:
    settings = (
        *("model=gru", "width=8", "task.length=10", "steps=20", "batch_size=16", "recorder.mode=disabled"),
        *("probe=state_gradient", "probing.share=null", "trainer.accelerator=cpu", "trainer.threads=1"),
        *("trainer.precision=64-true", "trainer.log_every=5", "trainer.validate_every=5"),
        *("trainer.validation_samples=32", "trainer.test_samples=32"),
    )
    one, two = tmp_path / "one", tmp_path / "two"
    assert command(*settings, f"outputs={one}").code == 0
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port = asked.getsockname()[1]
    torchrun = (
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
        *("--master-addr=127.0.0.1", f"--master-port={port}", "--no-python"),
    )
    given = (bin_folder / "retrograde", *settings, "trainer.nodes=2", f"outputs={two}")
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    nodes = [subprocess.Popen([*torchrun, f"--node-rank={node}", *given], **piped) for node in range(2)]
    said = [process.communicate(timeout=120)[0] for process in nodes]
    assert [process.returncode for process in nodes] == [0, 0], said
    assert ["score" in words for words in said] == [True, False], said
    require_close(one, two)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trainer": on(3)}, "batch_size=64 cannot be divided among 3 devices"),
        ({"trainer": on(2, nodes=2)}, "start the command on each of them by torchrun --nnodes=2 --nproc-per-node=2"),
        ({"trainer": on(1, strategy="fsdp")}, "strategy"),
    ],
)
def test_what_cannot_be_divided(small_run: Fit, settings: dict[str, TrainerSettings], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_run(**settings)
