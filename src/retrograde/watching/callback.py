"""The watch as a callback of anybody's Lightning Trainer."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from retrograde.watching.flow import Flow
from retrograde.watching.watch import Choice, Sender, Watching, log_spaced

if TYPE_CHECKING:
    import wandb


AXIS = "trainer/global_step"


class Watch(pl.Callback):
    """Records the training batches of some optimiser steps, log-spaced unless ``when`` says otherwise; see ``watch``.

        watch = retrograde.Watch(wandb=True)
        Trainer(callbacks=[watch], …).fit(module)
        watch.flow.frame()

    ``step`` is the trainer's ``global_step`` before the batch. Where gradients are accumulated, the first batch of a
    step is recorded; its loss is as Lightning differentiates it, divided by their number. Forwards and backward passes
    of manual optimisation are numbered through within the batch. The loss scale of 16-bit precision is taken off.
    ``wandb=True`` logs to the trainer's WandbLogger; a run may be given instead. Of several processes, each records its
    own batches and the first one logs.
    """

    def __init__(
        self,
        *,
        when: Callable[[int], bool] | None = None,
        only: Choice = lambda name, module: True,
        batch_first: bool | None = None,
        per_sample: bool = False,
        wandb: "bool | wandb.Run" = False,
    ) -> None:
        self.when = log_spaced() if when is None else when
        self.only = only
        self.batch_first = batch_first
        self.per_sample = per_sample
        self.wandb = wandb
        self.flow = Flow(per_sample)
        self.watching: Watching | None = None
        self.last = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)  # other precisions have none
        sender = _sender(trainer, self.wandb) if self.wandb and trainer.is_global_zero else None
        self.watching = Watching(pl_module, self.when, self.only, self.batch_first, self.per_sample, scaler, sender)
        self.flow = self.watching.__enter__()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert self.watching is not None  # training has started
        step = trainer.global_step
        recorded = step != self.last and self.when(step)
        if recorded:
            self.last = step
        self.watching.begin(step, recorded)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self.watching is not None  # training has started
        self.watching.publish()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._leave()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._leave()

    def _leave(self) -> None:
        watching, self.watching = self.watching, None
        if watching is not None:
            watching.__exit__(None, None, None)


def _sender(trainer: pl.Trainer, wandb: "bool | wandb.Run") -> Sender:
    from retrograde.watching.publish import LiveSender

    if not isinstance(wandb, bool):
        return LiveSender(wandb, AXIS)
    # by name: of the two packages that Lightning comes in, another one's logger is no instance
    loggers: list[Any] = [logger for logger in trainer.loggers if type(logger).__name__ == "WandbLogger"]
    if not loggers:
        raise ValueError("retrograde.Watch(wandb=True) needs a WandbLogger in the Trainer, or give it a run")
    return LiveSender(loggers[0].experiment, AXIS)
