"""One LightningModule for any model on any task."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from retrograde.core.contracts import Recorder, SequenceModel, Task
from retrograde.core.losses import sample_means
from retrograde.core.records import Batch, Update
from retrograde.train.streams import FIXED, generator

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
SchedulerFactory = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]


@dataclass
class StepRecord:
    """The update that a probed step makes, gathered while the step runs; see ``records.Update``."""

    raw: dict[str, Tensor] = field(default_factory=dict)
    used: dict[str, Tensor] = field(default_factory=dict)
    before: dict[str, Tensor] = field(default_factory=dict)


class Training(pl.LightningModule):
    """Draws its batches on the device, steps, and hands scalars to the recorder at the logging cadence alone.

    Between two logs nothing leaves the device: a call to ``self.log`` or ``.item()`` at every step would cost more
    than a small model's step.
    """

    def __init__(
        self,
        model: SequenceModel,
        task: Task,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None,
        recorder: Recorder,
        seed: int,
        steps: int,
        batch_size: int,
        clip: float | None,
        log_every: int,
        validation_samples: int,
        compile: bool,
        probed: frozenset[int],
    ) -> None:
        super().__init__()
        self.model = model
        self.run_model: Callable[[Batch], Tensor] = torch.compile(model) if compile else model
        self.task = task
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.recorder = recorder
        self.seed = seed
        self.steps = steps
        self.batch_size = batch_size
        self.clip = clip
        self.log_every = log_every
        self.validation_samples = validation_samples
        self.probed = probed
        self.update: StepRecord | None = None
        self.first_nonfinite: int | None = None
        self.solved_step: int | None = None
        self.best_score = -torch.inf

    def train_dataloader(self) -> DataLoader[int]:
        """A count of steps: batches are drawn in the step itself, on the device, from a seeded generator."""
        return DataLoader(Steps(self.steps), batch_size=None)

    def val_dataloader(self) -> DataLoader[int]:
        """A count as well: the batches are kept on the device, where Lightning need not know what they are."""
        return DataLoader(range(len(self.validation)), batch_size=None)  # type: ignore[arg-type]  # a range will do

    @property
    def like(self) -> Tensor:
        """A parameter, whose device and precision batches take."""
        return next(self.model.parameters())

    def on_fit_start(self) -> None:
        drawn = batches(self.task, "validation", self.validation_samples, self.batch_size)
        self.validation = [batch.beside(self.like) for batch in drawn]
        self.stream = generator(f"train:{self.global_rank}", self.seed, self.device)
        self.losses = torch.zeros(self.log_every, device=self.device)
        self.clipped = torch.zeros((), device=self.device)
        self.clipped_steps = 0
        self.norm = torch.zeros((), device=self.device)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.model.parameters())
        if self.make_scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_scheduler(optimizer), "interval": "step"},
        }

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        drawn = self.task.sample(self.batch_size, self.stream).beside(self.like)
        outputs = self.run_model(drawn)
        loss = mean_loss(self.task, outputs, drawn)
        self.losses[batch_idx % self.log_every] = loss.detach()
        if (batch_idx + 1) % self.log_every == 0:
            self.last_score = mean_score(self.task, outputs.detach(), drawn)
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's place between backward and step: the gradient is measured and clipped by its norm."""
        step = self.global_step + 1
        probed = step in self.probed
        if self.clip is None and not probed and step % self.log_every:
            return
        parameters = {name: p for name, p in self.model.named_parameters() if p.grad is not None}
        if probed:
            self.update = StepRecord(raw=_gradients(parameters), before=_copies(parameters))
        self.norm = nn.utils.clip_grad_norm_(parameters.values(), torch.inf if self.clip is None else self.clip)
        if self.clip is not None:
            self.clipped += self.norm > self.clip
        self.clipped_steps += 1
        if self.update is not None and probed:
            self.update.used = _gradients(parameters)

    def take_update(self) -> Update | None:
        """What the step just taken did, where it was one to be probed; the counts begin anew."""
        record, self.update = self.update, None
        if record is None:
            return None
        now = dict(self.model.named_parameters())
        change = {name: now[name].detach() - before for name, before in record.before.items()}
        clipped = float(self.clipped) / self.clipped_steps
        self.clipped.zero_()
        self.clipped_steps = 0
        return Update(record.raw, record.used, change, clipped)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = batch_idx + 1
        if step % self.log_every and step != self.steps:
            return
        count = (step - 1) % self.log_every + 1
        losses = self.losses[:count].tolist()
        values = {"train/loss": sum(losses) / count, "train/gradient_norm": float(self.norm)}
        values["train/learning_rate"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        if step % self.log_every == 0:
            values["train/score"] = float(self.last_score)
        self.recorder.metrics(step, values | device_metrics(self.device))
        bad = [at for at, loss in enumerate(losses) if not torch.isfinite(torch.tensor(loss))]
        if bad:
            self.first_nonfinite = step - count + 1 + bad[0]
            self.trainer.should_stop = True

    def on_validation_epoch_start(self) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64)

    def validation_step(self, number: int, batch_idx: int) -> None:
        batch = self.validation[number]
        self.sums += evaluation_sums(self.task, self.run_model(batch), batch)

    def on_validation_epoch_end(self) -> None:
        loss, score = (self.sums[:2] / self.sums[2]).tolist()
        self.recorder.metrics(self.global_step, {"validation/loss": loss, "validation/score": score})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # every rank evaluates the same batches
            self.log_dict({"validation/loss": loss, "validation/score": score}, batch_size=1)
        self.best_score = max(self.best_score, score)
        if score >= self.task.card.solved and self.solved_step is None:
            self.solved_step = self.global_step


class Steps(IterableDataset[int]):
    """Counts training steps; iterable, so that no sampler is put between several processes and their own streams."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.steps))


def batches(task: Task, name: str, samples: int, batch_size: int) -> list[Batch]:
    """The evaluation set of that name: the same for every run of the task, drawn on the CPU."""
    stream = generator(name, FIXED)
    sizes = [min(batch_size, samples - start) for start in range(0, samples, batch_size)]
    return [task.sample(size, stream) for size in sizes]


def mean_loss(task: Task, outputs: Float[Tensor, "batch time size"], batch: Batch) -> Float[Tensor, ""]:
    """Mean over the batch of each sample's mean loss."""
    return sample_means(task.loss(outputs, batch), batch.scored).mean()


def mean_score(task: Task, outputs: Float[Tensor, "batch time size"], batch: Batch) -> Float[Tensor, ""]:
    """Mean over the batch of each sample's score."""
    return sample_means(task.score(outputs, batch), batch.scored).mean()


def evaluation_sums(task: Task, outputs: Tensor, batch: Batch) -> Float[Tensor, "3"]:
    """Loss and score summed over samples, and the number of samples."""
    loss = sample_means(task.loss(outputs, batch).double(), batch.scored).sum()
    score = sample_means(task.score(outputs, batch).double(), batch.scored).sum()
    return torch.stack([loss, score, torch.tensor(float(len(batch)), dtype=torch.float64, device=loss.device)]).cpu()


def evaluate(model: SequenceModel, task: Task, evaluation: Iterable[Batch]) -> tuple[float, float]:
    """Mean loss and score."""
    model.eval()
    parameter = next(model.parameters())
    with torch.no_grad():
        moved = (batch.beside(parameter) for batch in evaluation)
        sums = torch.stack([evaluation_sums(task, model(batch), batch) for batch in moved]).sum(0)
    loss, score = (sums[:2] / sums[2]).tolist()
    return loss, score


def device_metrics(device: torch.device) -> dict[str, float]:
    """Memory in bytes, and utilisation of a GPU in percent; nothing on a CPU, whose share W&B samples by itself."""
    if device.type != "cuda":
        return {}
    return {
        "device/memory": float(torch.cuda.memory_allocated(device)),
        "device/memory_peak": float(torch.cuda.max_memory_allocated(device)),
        "device/utilisation": float(torch.cuda.utilization(device)),
    }


def _gradients(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: p.grad.detach().clone() for name, p in parameters.items() if p.grad is not None}


def _copies(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in parameters.items()}
