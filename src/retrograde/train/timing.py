"""What the parts of a run take, in seconds and in bytes: taken from a few of each, in memory."""

import dataclasses
import io
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytorch_lightning as pl
import torch

from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch, Reading
from retrograde.record.tables import labels_table, metrics_table, reading_table
from retrograde.record.view import AS_LONG_AS_WIDE, log_spaced
from retrograde.train.checkpoints import PREFIX, Checkpoints
from retrograde.train.devices import now, quiet, threads, trainer_of
from retrograde.train.evaluation import at_once, batches, evaluate, examine
from retrograde.train.interruption import Interruption
from retrograde.train.job import fitting, require_longer
from retrograde.train.marks import marked
from retrograde.train.module import Training
from retrograde.train.options import Identity, Job
from retrograde.train.probing import Allowance, Probing, probe_batch, schedule
from retrograde.train.ranks import count

WARM_UP = 3
"""Steps that are not timed."""

MOST = 2.0
"""Seconds of steps, after which more would not tell more."""

TEST_BATCHES = 4
"""Of a test that takes longer than there is time, of which the rest is taken to be alike."""

NEVER = 10**9

CLOSING = {"disabled": 0.1, "offline": 0.5, "online": 2.0}
"""Seconds of a run that cannot be had without a run, by the recorder's mode: W&B's, and the record's last writing."""

FLUSH = 0.01
"""Seconds that the record takes to reach the disk, as it does before each checkpoint."""

NUMBER = 2e-5
"""Seconds that W&B takes for one."""

SCALAR, PICTURE, LOG = 60, 1500, 60_000
"""Bytes that W&B's log takes for a number, for a head's map and for a run without either."""

METRIC_ROW = 12
"""Bytes of a row of metrics."""

Step = Callable[[], Any]


@dataclass(frozen=True)
class Cost:
    """Of one configuration: seconds of a run's parts; bytes of a checkpoint, of tables and of W&B's log by snapshot."""

    setup: float
    step: float
    validation: float
    saving: float
    firing: float
    test: float
    checkpoint: int
    fixed: int
    snapshot: int
    logged: int
    recorded: bool
    probed: bool
    learns: bool

    def seconds(self, settings: Mapping[str, Any], after: int = 0, ended: bool = False) -> float:
        """Of a run with these settings that goes on after a step, or only has its tests left."""
        if ended or not self.learns:
            firings = 1 if self.probed and not ended else 0
            return self.setup + self.test + firings * self.firing + (0 if ended else self.validation)
        steps, every = settings["steps"], settings["trainer"]["validate_every"]
        validations = -(-steps // every) - after // every
        firings = sum(step > after or (step == after == 0) for step in self.fired(settings))
        training = (steps - after) * self.step + validations * (self.validation + self.saving)  # each may be the best
        return self.setup + training + firings * self.firing + self.saving + self.test

    def fired(self, settings: Mapping[str, Any]) -> list[int]:
        """The steps at which probes fire, within the share of training's time that they may take."""
        if not self.probed:
            return []
        if not self.learns:
            return [0]
        steps, every, probing = settings["steps"], settings["trainer"]["validate_every"], settings["probing"]
        scheduled = schedule(steps, probing["per_decade"], probing["steps"])
        allowance = Allowance(probing["share"], scheduled, steps)
        fired = []
        for step in sorted(scheduled):
            trained = step * self.step + step // every * self.validation
            if step in (0, steps) or allowance.allows(step, trained):
                allowance.firings.append(self.firing)
                fired.append(step)
        return fired

    def disk(self, settings: Mapping[str, Any]) -> float:
        """Bytes of a run with these settings, when it has ended."""
        snapshots = len(self.fired(settings))
        steps, trainer = settings["steps"] if self.learns else 0, settings["trainer"]
        rows = 5 * (steps // trainer["log_every"] + 1) + 3 * (steps // trainer["validate_every"] + 1)
        tables = self.fixed + snapshots * self.snapshot + METRIC_ROW * rows
        checkpoints = (2 if self.learns else 1) * self.checkpoint
        if not self.recorded:
            return checkpoints + tables
        return checkpoints + 2 * tables + LOG + snapshots * self.logged + SCALAR * rows  # the tables travel with it


@dataclass
class Weigher:
    """In a recorder's place: what comes is made into tables, as there, and weighed.

    A snapshot weighs what the last one adds to a table that holds another: the words in it are the same.
    """

    tables: dict[str, list[pa.Table]] = field(default_factory=lambda: defaultdict(list))
    last: int = -1
    logged: int = 0

    def labels(
        self, labels: Sequence[Sequence[str]], scored: np.ndarray, side: Literal["input", "target"] = "input"
    ) -> None:
        self.tables[f"labels {side}"].append(labels_table("run", labels, scored, side))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.tables["metrics"] = [metrics_table("run", [(step, name, value) for name, value in values.items()])]

    def readings(self, step: int, probe: str, readings: Iterable[Reading]) -> None:
        if step != self.last:
            self.last, self.logged = step, 0
        tables: dict[str, list[pa.Table]] = defaultdict(list)
        for reading in readings:
            quantity, table = reading_table("run", step, reading)
            tables[f"{probe}/{quantity}"].append(table)
            self.logged += shown(reading)
        for name, parts in tables.items():
            self.tables[name].append(_together(parts))

    def flush(self) -> None: ...

    def flush_when_due(self) -> None: ...

    def close(self, status: str, summary: Mapping[str, Any]) -> None: ...

    @property
    def fixed(self) -> int:
        """Bytes of all tables but for their rows."""
        return sum(_weight(tables[:1]) for tables in self.tables.values()) - self.snapshot

    @property
    def snapshot(self) -> int:
        """Bytes of a snapshot's rows."""
        return sum(self._added(tables) for name, tables in self.tables.items() if "/" in name)

    @staticmethod
    def _added(tables: Sequence[pa.Table]) -> int:
        if len(tables) < 2:
            return max(0, _weight(tables) - _weight([tables[0].slice(0, 0)]))
        return max(0, _weight(tables[:2]) - _weight(tables[:1]))


def _together(tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="default").unify_dictionaries().combine_chunks()


def _weight(tables: Sequence[pa.Table]) -> int:
    sink = pa.BufferOutputStream()
    pq.write_table(_together(tables), sink, compression="zstd")
    return int(sink.getvalue().size)


def shown(reading: Reading) -> int:
    """Bytes of what W&B shows of a reading."""
    dims = tuple(reading.dims)
    if not dims:
        return SCALAR
    if dims in (("statistic", "time"), ("statistic", "lag")):
        return SCALAR * len(log_spaced(max(1, reading.values.shape[1] - 1)))
    if len(dims) == 1:
        return 0 if dims[0] in AS_LONG_AS_WIDE else SCALAR * reading.values.size
    return PICTURE * reading.values.shape[1] // 4 if dims[-2:] == ("query", "key") else 0  # every fourth is drawn


class Unkept:
    """In the place of checkpoints: one is made in memory at the end, to be weighed."""

    def __init__(self) -> None:
        self.folder = Path("nowhere")
        self.size = 0
        self.seconds = 0.0

    def save_when_due(self, training: Training) -> None: ...

    def save(self, training: Training, name: str, ended: bool = False) -> None:
        begun = now(training.device)
        self.size = checkpoint_size({**vars(marked(training.trainer, training)), "training": training.progress()})
        self.seconds = now(training.device) - begun + FLUSH


def checkpoint_size(content: Mapping[str, Any]) -> int:
    """Bytes of a file with this content."""
    sink = io.BytesIO()
    torch.save(dict(content), sink)
    return sink.getbuffer().nbytes


def timed(make: Callable[[], tuple[Job, Identity]], allowance: float) -> Cost:
    """What a configuration's parts take, in about so many seconds; one of each where that is less.

    Raises whatever the run would.
    """
    begun = time.perf_counter()
    job, identity = make()
    with threads(job.trainer.threads), torch.random.fork_rng():
        torch.manual_seed(job.seed)
        model = fitting(job.model(job.task), job.task, identity)
        return _timed(job, model, allowance, begun)


def _timed(job: Job, model: SequenceModel, allowance: float, begun: float) -> Cost:
    if job.trainer.truncate is not None:
        model.truncate(job.trainer.truncate)
    weigher = Weigher()
    batch = probe_batch(job.task, job.probing.samples)
    weigher.labels(job.task.labels(batch), np.zeros(batch.inputs.shape[:2], dtype=bool))
    # one rank of several is like another
    alone = dataclasses.replace(job.trainer, devices=1, nodes=1, validate_every=NEVER, stop_when_solved=False)
    endless = dataclasses.replace(job, steps=NEVER, batch_size=job.batch_size // count(job.trainer), trainer=alone)
    unkept = Unkept()
    # it has all that training asks of checkpoints
    training = Training(endless, model, weigher, frozenset(), cast("Checkpoints", unkept), Interruption())
    probing = Probing(job, batch, weigher)
    watch = Stopwatch(probing, min(MOST, allowance / 2))
    with quiet():
        trainer = trainer_of(endless.trainer, NEVER, [watch])
        device = trainer.strategy.root_device
        require_longer(model.to(device), job.task)
        if model.learns:
            trainer.fit(training)
            setup = watch.ready - begun
        else:
            setup = time.perf_counter() - begun
    model.to(device)
    if model.learns:
        validation = training.validation
    else:
        validation = batches(job.task, "validation", job.trainer.validation_samples, job.batch_size)
        watch.fire(model, job.task, 0)
        unkept.size = checkpoint_size({f"{PREFIX}{name}": value for name, value in model.state_dict().items()})
    rest = min(MOST, max(0.0, allowance - (time.perf_counter() - begun)) / 3)
    validated = _by_batch(lambda some: evaluate(model, job.task, some), validation, rest, device)
    test = _tested(job.task, model, job.trainer.test_samples, job.batch_size, rest, device)
    if job.task.longer is not None:
        test += _tested(job.task.longer, model, job.trainer.longer_samples, job.batch_size, rest, device)
    return Cost(
        setup=setup + CLOSING[job.recorder.mode],
        step=watch.step,
        validation=validated,
        saving=unkept.seconds,
        firing=watch.firing + NUMBER * weigher.logged / SCALAR,
        test=test,
        checkpoint=unkept.size,
        fixed=weigher.fixed,
        snapshot=weigher.snapshot,
        logged=weigher.logged,
        recorded=job.recorder.mode != "disabled",
        probed=bool(job.probes),
        learns=model.learns,
    )


class Stopwatch(pl.Callback):
    """Two snapshots and the steps between them, for ``seconds`` or one step; the second snapshot counts."""

    def __init__(self, probing: Probing, seconds: float) -> None:
        self.probing = probing
        self.seconds = seconds
        self.ready = self.since = 0.0
        self.first = 0
        self.step = self.firing = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)  # the one module that this project trains
        self.ready = now(pl_module.device)
        pl_module.pauses = frozenset({WARM_UP})
        self.fire(pl_module.model, pl_module.task, 0)
        self.since = now(pl_module.device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Training)  # the one module that this project trains
        taken = time.perf_counter() - self.since
        if pl_module.probed:
            begun = now(pl_module.device)
            self.probing.fire(pl_module.model, pl_module.task, trainer.global_step, pl_module.take_update())
            self.firing = now(pl_module.device) - begun
            trainer.should_stop = True
        elif trainer.global_step == WARM_UP and taken < self.seconds:
            self.since = now(pl_module.device)
            self.first = WARM_UP
        elif taken >= self.seconds:
            self.step = (now(pl_module.device) - self.since) / (trainer.global_step - self.first)
            pl_module.probed = frozenset({trainer.global_step + 1})

    def fire(self, model: SequenceModel, task: Task, step: int) -> None:
        begun = now(model.like.device)
        self.probing.fire(model, task, step, None)
        self.firing = now(model.like.device) - begun


def _by_batch(
    work: Callable[[Sequence[Batch]], Any], given: Sequence[Batch], seconds: float, device: torch.device
) -> float:
    """Seconds for all batches, which where the first foretells more than ``seconds`` is that one's times their number.

    The first is taken twice, since a shape is slower when it is new.
    """
    work(given[:1])
    begun = now(device)
    work(given[:1])
    foretold = (now(device) - begun) * len(given)
    if foretold > seconds:
        return foretold
    begun = now(device)
    work(given)
    return now(device) - begun


def _tested(
    task: Task, model: SequenceModel, samples: int, batch_size: int, seconds: float, device: torch.device
) -> float:
    """Seconds of the whole test, of which a part is enough where that foretells more than ``seconds``.

    A large set takes longer to draw than its share of a small one says.
    """
    available = task.available("test")
    whole = samples if available is None else min(samples, available)
    (one,) = batches(task, "test", 1, batch_size)
    part = min(whole, TEST_BATCHES * at_once(one, batch_size))
    foretold = _examined(task, model, part, batch_size, device) * whole / part
    return foretold if foretold > seconds else _examined(task, model, whole, batch_size, device)


def _examined(task: Task, model: SequenceModel, samples: int, batch_size: int, device: torch.device) -> float:
    begun = now(device)
    examine(model, task, batches(task, "test", samples, batch_size))
    return now(device) - begun
