"""One run on several devices: a process for each, its rank, that takes its share of every batch.

Rank 0 is the run: it alone claims the folder, records, probes, saves and tests. The others take the same steps. All
draw the whole batch from the same stream, and each computes the gradient of its part; so the run is what it is on one
device, but for rounding, and for dropout, which every rank draws for itself.

Where ``torchrun`` has started the processes, on one node or on several, these are the ranks. Else rank 0 starts the
others on its machine for as long as it trains.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from torch import distributed

from retrograde.core.records import Reading
from retrograde.train.checkpoints import Checkpoints
from retrograde.train.devices import Rank, device_kind, quiet, rank_outside, threads, trainer_of
from retrograde.train.divergence import Divergence
from retrograde.train.forms import Forms
from retrograde.train.interruption import Interruption
from retrograde.train.module import Training
from retrograde.train.options import Job, TrainerSettings
from retrograde.train.probing import scheduled
from retrograde.train.streams import generator

LONGEST = timedelta(days=1)
"""That a rank waits for another, such as for the tests that rank 0 makes at the end."""

GRACE = 10.0
"""Seconds that the other ranks have to end, once rank 0 has taken its last step."""

END_SEEN = 2.0
"""Seconds within which the end of another rank is seen, once rank 0 has failed."""


def count(settings: TrainerSettings) -> int:
    """How many processes train one run."""
    return 1 if settings.devices == "shared" else settings.devices * settings.nodes


def require_ranks(job: Job) -> None:
    """Raise ValueError where the run cannot be divided as its settings say, or other processes are there for it."""
    ranks, settings = count(job.trainer), job.trainer
    outside = int(os.environ.get("WORLD_SIZE", 1))
    if outside > 1 and outside != ranks:
        raise ValueError(
            f"{outside} processes were started for a run on trainer.devices={settings.devices} of "
            f"trainer.nodes={settings.nodes}: give as many as there are"
        )
    if settings.nodes > 1 and outside == 1:
        raise ValueError(
            f"trainer.nodes={settings.nodes}: start the command on each of them by torchrun --nnodes={settings.nodes} "
            f"--nproc-per-node={settings.devices}"
        )
    if job.batch_size % ranks:
        raise ValueError(f"batch_size={job.batch_size} cannot be divided among {ranks} devices")


@contextmanager
def together(job: Job, address: Rank) -> Iterator[None]:
    """For as long as this lasts the other ranks take the steps that this process, rank 0, takes."""
    if count(job.trainer) == 1:
        yield
        return
    call(job.trainer)
    others = [] if rank_outside() is not None else _started(job, address)
    try:
        yield
        for process in others:
            process.join(GRACE)
    except Exception as error:
        ended = wait([process.sentinel for process in others], END_SEEN)  # its connection closes before its end is seen
        for process in others:
            if process.sentinel in ended:
                process.join()
        lost = [process.name for process in others if process.exitcode]
        if lost:
            raise RuntimeError(
                f"{' and '.join(lost)} of {count(job.trainer)} was lost; what it said is above"
            ) from error
        raise
    finally:
        for process in others:
            process.kill()
            process.join()
        if others and distributed.is_initialized():  # the next run of this process has other others
            distributed.destroy_process_group()


def first_rank(settings: TrainerSettings) -> Rank:
    """Of a run that this process begins; where there are others, they find it there."""
    return rank_outside() or Rank(port=0 if count(settings) == 1 else find_free_network_port())


def call(settings: TrainerSettings, train: bool = True) -> None:
    """Say to the ranks that were started outside whether there is something to train."""
    if rank_outside() is not None:
        _connect(settings)
        distributed.broadcast_object_list([train])


@contextmanager
def leading() -> Iterator[None]:
    """For as long as this lasts the ranks that were started outside are with this run; they wait for its end."""
    try:
        yield
        if distributed.is_initialized():
            distributed.barrier()
    finally:
        if distributed.is_initialized():  # else the others would wait for a run that failed
            distributed.destroy_process_group()


def follow(job: Job, rank: Rank) -> None:
    """Take the same steps as rank 0, in a process that was started outside, and wait until its run has ended."""
    said = [False]
    _connect(job.trainer)
    try:
        distributed.broadcast_object_list(said)
        if said[0]:
            _follow(job, rank)
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def _connect(settings: TrainerSettings) -> None:
    kind = device_kind(settings)
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", timeout=LONGEST)


def _started(job: Job, address: Rank) -> Sequence[BaseProcess]:
    context = multiprocessing.get_context("spawn")
    ranks = [Rank(local=local, port=address.port) for local in range(1, count(job.trainer))]
    started = [
        context.Process(target=_follow_alone, args=(job, rank), name=f"rank {rank.local}", daemon=True)
        for rank in ranks
    ]
    for process in started:
        process.start()
    return started


def _follow_alone(job: Job, rank: Rank) -> None:
    """In a process that rank 0 has started, which ends it, and alone is asked to end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _follow(job, rank)


def _end_with_parent() -> None:
    """Rank 0 that was killed ends nobody, and may be waited for without end."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this process was started by one
    wait([parent.sentinel])
    os._exit(1)


def _follow(job: Job, rank: Rank) -> None:
    with threads(job.trainer.threads), torch.random.fork_rng(), quiet():
        torch.manual_seed(job.seed)
        model = job.model(job.task)
        if job.trainer.truncate is not None:
            model.truncate(job.trainer.truncate)
        recorder = Unrecorded()
        training = Training(
            job, model, recorder, scheduled(job), Checkpoints(Path(os.devnull), recorder, dict), Interruption()
        )
        trainer = trainer_of(job.trainer, job.steps, [Divergence(recorder), Forms(job)], rank)
        name = f"rank {rank.node}.{rank.local}"
        torch.manual_seed(generator(name, job.seed).initial_seed())
        trainer.fit(training)


class Unrecorded:
    """A recorder that keeps nothing: what other ranks see is what rank 0 records."""

    def labels(self, labels: Sequence[Sequence[str]], scored: np.ndarray, side: str = "input") -> None: ...

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def readings(self, step: int, probe: str, readings: Iterable[Reading]) -> None: ...

    def flush(self) -> None: ...

    def flush_when_due(self) -> None: ...

    def close(self, status: str, summary: Mapping[str, Any]) -> None: ...
