"""When probes fire, what that may cost, and the callback that fires them."""

import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl

from retrograde.core.choices import LeftOut
from retrograde.core.contracts import Recorder, SequenceModel, Task
from retrograde.core.records import Batch, Update
from retrograde.core.snapshot import snapshot
from retrograde.record.tables import LOWEST
from retrograde.train.module import Training
from retrograde.train.options import Job
from retrograde.train.streams import FIXED, generator

SNAPSHOT = "snapshot"
"""What the seconds of a snapshot itself are counted under, beside those of each probe."""


def schedule(steps: int, per_decade: int, chosen: Sequence[int] | None = None) -> frozenset[int]:
    """Before the first step, after the first, and then evenly in the logarithm, ``per_decade`` for each factor of ten.

    ``chosen`` steps stand in for those in between. The last step is always among them.
    """
    if chosen is not None:
        return frozenset({0, 1, steps} | {step for step in chosen if step <= steps})
    if per_decade < 1:
        raise ValueError(f"probing.per_decade must be at least 1, not {per_decade}")
    spaced = set()
    exponent = 0
    while (step := round(10 ** (exponent / per_decade))) < steps:
        spaced.add(step)
        exponent += 1
    return frozenset({0, steps} | spaced)


def scheduled(job: Job) -> frozenset[int]:
    """The steps on which a run is probed, as far as time allows; none where it has no probes."""
    return schedule(job.steps, job.probing.per_decade, job.probing.steps) if job.probes else frozenset()


def probe_batch(task: Task, samples: int) -> Batch:
    """The batch that every model of a study is probed on; none is trained on it."""
    return task.sample(samples, generator("probe", FIXED), "validation")


class Allowance:
    """Keeps the firings of a run to a share of its training time, by leaving some of them out.

    What may be spent by the k-th of K scheduled firings is k/K of ``share`` times the training time that the whole run
    is going to take, as its steps so far foretell, less what the last firing costs: so the thinning is even over the
    schedule. The start, the first step and the last are never left out.
    """

    def __init__(self, share: float | None, scheduled: frozenset[int], steps: int) -> None:
        self.share = share
        self.scheduled = sorted(scheduled)
        self.steps = steps
        self.firings: list[float] = []
        self.left_out: list[int] = []

    @property
    def spent(self) -> float:
        """Seconds of all firings."""
        return sum(self.firings)

    def allows(self, step: int, trained: float) -> bool:
        """Whether to fire at a scheduled step before the last, after ``trained`` seconds of training alone."""
        if self.share is None or step <= 1 or not self.firings:
            return True
        cost = min(self.firings)  # the first is slower than any other will be
        budget = self.share * trained / step * self.steps
        place = (self.scheduled.index(step) + 1) / len(self.scheduled)
        if self.spent + cost <= (budget - cost) * place:
            return True
        self.left_out.append(step)
        return False


@contextmanager
def noting(notes: dict[str, None]) -> Iterator[None]:
    """Keep what probes say that they leave out, each sentence once, in place of a warning with its line of code."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LeftOut)
        yield
    for warning in caught:
        if issubclass(warning.category, LeftOut):
            notes[str(warning.message)] = None
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


class Probing(pl.Callback):
    """Fires all probes on the scheduled steps and at the end of training, outside the training step.

    ``clock`` counts the run's own seconds.
    """

    def __init__(
        self, job: Job, batch: Batch, recorder: Recorder, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.clock = clock
        self.probes = job.probes
        self.batch = batch
        self.scheduled = scheduled(job)
        self.allowance = Allowance(job.probing.share, self.scheduled, job.steps)
        self.recorder = recorder
        self.last = -1
        self.horizons: dict[int, float] = {}  # by step, but where no gradient is finite
        self.seconds: dict[str, float] = defaultdict(float)
        self.notes: dict[str, None] = {}
        self.begun = self.clock()
        self.ended = self.begun

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)  # the one module that this project trains
        if self.last < 0:  # else the run goes on from a checkpoint
            self.fire(pl_module.model, pl_module.task, trainer.global_step, None)
            self.begun = self.clock() - self.allowance.spent

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step in self.scheduled and (step == max(self.scheduled) or self.allowance.allows(step, self._trained())):
            self._fire(pl_module, step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._fire(pl_module, trainer.global_step)
        self.ended = self.clock()

    def fire(self, model: SequenceModel, task: Task, step: int, update: Update | None) -> None:
        """One snapshot, read by every probe and recorded."""
        self.last = step
        if not self.probes:
            return
        begun = self.clock()
        self.batch = self.batch.beside(model.like)
        taken = snapshot(model, task, self.batch, step, update)
        self._count(SNAPSHOT, begun)
        for name, probe in self.probes.items():
            before = self.clock()
            with noting(self.notes):
                readings = list(probe(taken))
            self.recorder.readings(step, name, readings)
            self._count(name, before)
            horizons = [reading for reading in readings if reading.name.startswith("horizon/")]
            lowest = [float(r.values) for r in horizons if r.name.removeprefix("horizon/").startswith(LOWEST)]
            if found := [value for value in lowest if not math.isnan(value)]:
                # the components of a state are one memory: it reaches as far as the best of those that can be told
                self.horizons[step] = max(found)
        self.allowance.firings.append(self.clock() - begun)

    @property
    def account(self) -> dict[str, Any]:
        """What probing cost: seconds in all and by probe, the share of training without it, and what was left out."""
        trained = self.ended - self.begun - self.allowance.spent
        return {
            "spent": self.allowance.spent,
            "share": self.allowance.spent / trained if trained > 0 else None,
            "firings": len(self.allowance.firings),
            "left_out": self.allowance.left_out,
            "seconds": dict(self.seconds),
            "notes": list(self.notes),
        }

    def state_dict(self) -> dict[str, Any]:
        """What has been measured and spent so far, for a checkpoint."""
        return {
            "last": self.last,
            "horizons": self.horizons,
            "firings": self.allowance.firings,
            "left_out": self.allowance.left_out,
            "seconds": dict(self.seconds),
            "notes": list(self.notes),
            "trained": self._trained(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From there, as if it had been measured and spent in this process."""
        self.last = state_dict["last"]
        self.horizons = state_dict["horizons"]
        self.allowance.firings = state_dict["firings"]
        self.allowance.left_out = state_dict["left_out"]
        self.seconds.update(state_dict["seconds"])
        self.notes = dict.fromkeys(state_dict["notes"])
        self.ended = self.clock()
        self.begun = self.ended - self.allowance.spent - state_dict["trained"]

    def _fire(self, training: pl.LightningModule, step: int) -> None:
        assert isinstance(training, Training)  # the one module that this project trains
        if step != self.last:
            self.fire(training.model, training.task, step, training.take_update())

    def _trained(self) -> float:
        return self.clock() - self.begun - self.allowance.spent

    def _count(self, name: str, since: float) -> None:
        self.seconds[name] += self.clock() - since
