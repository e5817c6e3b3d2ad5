"""Training that stops being finite, noticed without asking at every step, and gone back to.

Whether loss and weights are finite is asked where the host waits for the device anyway: at logs, validations and
snapshots. Of that moment everything is kept from which training goes on: weights, optimiser, schedule, random numbers.
Where something is not finite at the next, the steps in between are taken again, each looked at, until the first after
which a weight, or on which the loss, is no number. The run ends with the weights before it.

A gradient that is not finite, but leaves the weights so (a scaler leaves that step out), is no such step.
"""

import math
from typing import Any

import pytorch_lightning as pl
import torch

from retrograde.core.contracts import Recorder
from retrograde.train.marks import finite, go_back, marked, not_finite, weights_of
from retrograde.train.module import Training
from retrograde.train.replay import Diverged, keep


class Divergence(pl.Callback):
    """Ends a run at its last finite step and keeps the step after it; has to come before whatever records steps."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)  # the one module that this project trains
        self.mark = marked(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Training)  # the one module that this project trains
        if not pl_module.waits(trainer.global_step):
            return
        if finite(pl_module):
            self.mark = marked(trainer, pl_module)
            return
        found = pl_module.diverged = self._first(trainer, pl_module)
        if found.batch is not None and trainer.is_global_zero:
            keep(pl_module.checkpoints.folder, found.step, pl_module.model.state_dict(), found.batch)
        self._record(pl_module, trainer.global_step, found)
        trainer.should_stop = True

    def _first(self, trainer: pl.Trainer, training: Training) -> Diverged:
        """The first bad step, with training left as it was before it."""
        noticed, losses = trainer.global_step, training.losses.tolist()
        go_back(trainer, training, self.mark)
        for step in range(self.mark.step + 1, noticed + 1):
            before, weights = marked(trainer, training), not_finite(weights_of(training))
            loss, gradients = step_again(trainer, training, step)
            updated = not_finite(weights_of(training))
            if updated or not math.isfinite(loss):
                drawn = training.current.batch
                go_back(trainer, training, before)
                return Diverged(step, loss, weights, gradients, updated, drawn)
        go_back(trainer, training, self.mark)
        every = training.job.trainer.log_every
        bad = [step for step in range(self.mark.step + 1, noticed + 1) if not math.isfinite(losses[(step - 1) % every])]
        return Diverged(bad[0] if bad else noticed, losses[((bad or [noticed])[0] - 1) % every])

    def _record(self, training: Training, step: int, found: Diverged) -> None:
        """The losses since the last log, up to the last finite one; and the one on the step that is left out."""
        since = step // training.job.trainer.log_every * training.job.trainer.log_every
        losses = training.losses[: step - since].tolist()
        if losses:
            self.recorder.metrics(step, {"train/loss": sum(losses) / len(losses)})
        self.recorder.metrics(found.step, {"train/loss": found.loss})


def step_again(trainer: pl.Trainer, training: Training, step: int) -> tuple[float, list[str]]:
    """The step as it is taken in training, in the run's precision: its loss, and whose gradients are not finite.

    These are looked at before clipping, which spreads what it finds over all of them.
    """
    gradients: list[str] = []
    member, training.member = training.member, None  # in company nobody else takes it
    training.before_clipping = lambda: gradients.extend(
        not_finite({name: p.grad for name, p in training.model.named_parameters()})
    )
    try:
        with torch.enable_grad():
            trainer.strategy.training_step(step, step)
    finally:
        training.before_clipping, training.member = None, member
    return float(training.over_ranks(training.current.loss)), gradients
