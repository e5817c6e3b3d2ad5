"""Training that stops being finite, noticed without asking at every step, and gone back to.

Whether loss and weights are finite is asked where the host waits for the device anyway: at logs, validations and
snapshots. Of that moment everything is kept from which training goes on: weights, optimiser, schedule, random numbers.
Where something is not finite at the next, the steps in between are taken again, each looked at, until the first after
which a weight, or on which the loss, is no number. The run ends with the weights before it.

A gradient that is not finite, but leaves the weights so (a scaler leaves that step out), is no such step.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from retrograde.core.contracts import Recorder
from retrograde.train.module import Training
from retrograde.train.replay import Diverged, keep


@dataclass(frozen=True)
class Mark:
    """A moment that training can go back to: after ``step``."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    schedulers: list[dict[str, Any]]
    precision: dict[str, Any]
    drawn: Tensor
    random: dict[str, Tensor]


class Divergence(pl.Callback):
    """Ends a run at its last finite step and keeps the step after it; has to come before whatever records steps."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.found: Diverged | None = None

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
        self.found = self._first(trainer, pl_module)
        if self.found.batch is not None:
            keep(pl_module.checkpoints, self.found.step, pl_module.model.state_dict(), self.found.batch)
        self._record(pl_module, trainer.global_step)
        pl_module.first_nonfinite = self.found.step
        trainer.should_stop = True

    def _first(self, trainer: pl.Trainer, training: Training) -> Diverged:
        """The first bad step, with training left as it was before it."""
        noticed, losses = trainer.global_step, training.losses.tolist()
        go_back(trainer, training, self.mark)
        for step in range(self.mark.step + 1, noticed + 1):
            before, weights = marked(trainer, training), not_finite(_weights(training))
            loss, gradients = step_again(trainer, training, step)
            updated = not_finite(_weights(training))
            if updated or not math.isfinite(loss):
                drawn = training.drawn
                go_back(trainer, training, before)
                return Diverged(step, loss, weights, gradients, updated, drawn)
        go_back(trainer, training, self.mark)
        every = training.job.trainer.log_every
        bad = [step for step in range(self.mark.step + 1, noticed + 1) if not math.isfinite(losses[(step - 1) % every])]
        return Diverged(bad[0] if bad else noticed, losses[((bad or [noticed])[0] - 1) % every])

    def _record(self, training: Training, step: int) -> None:
        """The losses since the last log, up to the last finite one; and the one on the step that is left out."""
        assert self.found is not None
        since = step // training.job.trainer.log_every * training.job.trainer.log_every
        losses = training.losses[: step - since].tolist()
        if losses:
            self.recorder.metrics(step, {"train/loss": sum(losses) / len(losses)})
        self.recorder.metrics(self.found.step, {"train/loss": self.found.loss})


def finite(training: Training) -> bool:
    """Whether the losses since the last log, and the weights as they are, are all numbers. The host waits for it."""
    losses = torch.isfinite(training.losses).all()
    norm = nn.utils.get_total_norm([weight.detach() for weight in training.model.parameters()])
    # numbers alone may have a norm beyond the format, so what it finds is looked at one by one
    return bool((losses & torch.isfinite(norm)).item()) or (bool(losses.item()) and not not_finite(_weights(training)))


def not_finite(tensors: Mapping[str, Tensor | None]) -> list[str]:
    """The names of those that hold something that is no number."""
    return [name for name, value in tensors.items() if value is not None and not torch.isfinite(value).all()]


def _weights(training: Training) -> dict[str, Tensor | None]:
    return {name: parameter.detach() for name, parameter in training.model.named_parameters()}


def marked(trainer: pl.Trainer, training: Training) -> Mark:
    """A copy of everything that the next steps follow from."""
    (optimizer,) = trainer.optimizers
    return Mark(
        training.global_step,
        {name: value.clone() for name, value in training.model.state_dict().items()},
        copy.deepcopy(optimizer.state_dict()),
        [copy.deepcopy(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs],
        copy.deepcopy(trainer.precision_plugin.state_dict()),
        training.stream.get_state(),
        {"cpu": torch.get_rng_state()} | _of_device(training.device),
    )


def go_back(trainer: pl.Trainer, training: Training, mark: Mark) -> None:
    """Training as it was at the mark, for whoever asks for its step as well."""
    (optimizer,) = trainer.optimizers
    training.model.load_state_dict(mark.weights)
    optimizer.load_state_dict(copy.deepcopy(mark.optimizer))
    for config, state in zip(trainer.lr_scheduler_configs, mark.schedulers, strict=True):
        config.scheduler.load_state_dict(copy.deepcopy(state))
    trainer.precision_plugin.load_state_dict(copy.deepcopy(mark.precision))
    training.stream.set_state(mark.drawn)
    torch.set_rng_state(mark.random["cpu"])
    for device, generator in mark.random.items():
        if device != "cpu":
            torch.get_device_module(device).set_rng_state(generator)
    _at(trainer, mark.step)


def step_again(trainer: pl.Trainer, training: Training, step: int) -> tuple[float, list[str]]:
    """The step as Lightning takes it, in the run's precision: its loss, and whose gradients are not finite.

    These are looked at before clipping, which spreads what it finds over all of them.
    """
    (optimizer,) = trainer.optimizers
    gradients: list[str] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = trainer.strategy.training_step(step - 1, step - 1)
        assert isinstance(loss, Tensor)  # what ``Training`` gives
        trainer.strategy.backward(loss, optimizer)
        gradients.extend(not_finite({name: p.grad for name, p in training.model.named_parameters()}))
        return loss.detach()

    with torch.enable_grad():
        loss = trainer.strategy.optimizer_step(optimizer, closure)
    for config in trainer.lr_scheduler_configs:
        config.scheduler.step()  # type: ignore[call-arg]  # none of ours wants to know a metric
    _at(trainer, step)
    return float(loss), gradients


def _at(trainer: pl.Trainer, step: int) -> None:
    """Lightning counts steps itself."""
    trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step


def _of_device(device: torch.device) -> dict[str, Tensor]:
    """The state of the device's own generator, where it has one apart from the CPU's."""
    return {} if device.type == "cpu" else {device.type: torch.get_device_module(device.type).get_rng_state()}
