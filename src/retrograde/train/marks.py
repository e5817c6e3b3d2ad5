"""A moment of training: all that the next steps follow from, to go back to within a run or in another process."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

if TYPE_CHECKING:  # which uses this module
    from retrograde.train.module import Training


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

    @property
    def device(self) -> str:
        """The kind of device that it was on, on which alone its random numbers go on."""
        return next((device for device in self.random if device != "cpu"), "cpu")


def marked(trainer: pl.Trainer, training: "Training") -> Mark:
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


def go_back(trainer: pl.Trainer, training: "Training", mark: Mark) -> None:
    """Training as it was at the mark, for whoever asks for its step as well.

    Raises ValueError where the mark is of another training, as one that other code has left may be.
    """
    (optimizer,) = trainer.optimizers
    try:
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
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{training.checkpoints.folder} is of another model or optimizer than this run, of step {mark.step}: "
            "launched once more it begins anew"
        ) from error
    at_step(trainer, mark.step)


def at_step(trainer: pl.Trainer, step: int) -> None:
    """Lightning counts steps itself."""
    trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed = step


def finite(training: "Training") -> bool:
    """Whether the losses since the last log, and the weights as they are, are all numbers. The host waits for it."""
    losses = torch.isfinite(training.losses).all()
    norm = nn.utils.get_total_norm([weight.detach() for weight in training.model.parameters()])
    # numbers alone may have a norm beyond the format, so what it finds is looked at one by one
    return bool((losses & torch.isfinite(norm)).item()) or (
        bool(losses.item()) and not not_finite(weights_of(training))
    )


def not_finite(tensors: Mapping[str, Tensor | None]) -> list[str]:
    """The names of those that hold something that is no number."""
    return [name for name, value in tensors.items() if value is not None and not torch.isfinite(value).all()]


def weights_of(training: "Training") -> dict[str, Tensor | None]:
    """By name."""
    return {name: parameter.detach() for name, parameter in training.model.named_parameters()}


def _of_device(device: torch.device) -> dict[str, Tensor]:
    """The state of the device's own generator, where it has one apart from the CPU's."""
    return {} if device.type == "cpu" else {device.type: torch.get_device_module(device.type).get_rng_state()}
