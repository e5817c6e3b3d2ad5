"""One LightningModule for any model on any task."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from retrograde.core.contracts import Recorder, SequenceModel, Task
from retrograde.core.records import Batch, Update
from retrograde.core.recurrence import differentiated_twice
from retrograde.train.checkpoints import BEST, LAST, Checkpoints, Resumption, State
from retrograde.train.evaluation import batches, evaluate, mean_score
from retrograde.train.interruption import Interruption
from retrograde.train.marks import at_step, finite, go_back
from retrograde.train.options import Job
from retrograde.train.replay import Diverged
from retrograde.train.streams import generator

if TYPE_CHECKING:  # which uses this module
    from retrograde.train.company import Member

ROUND = 0.25
"""Seconds of steps after which Lightning, and with it a progress bar, has its turn."""


@dataclass(slots=True)
class Current:
    """The step being taken, or the last that was: apart from the module, which takes long to set an attribute."""

    step: int = field(init=False)
    batch: Batch = field(init=False)
    loss: Tensor = field(init=False)  # with what a regulariser adds


@dataclass
class StepRecord:
    """The update that one step makes, gathered while it runs; see ``records.Update``."""

    step: int
    raw: dict[str, Tensor] = field(default_factory=dict)
    used: dict[str, Tensor] = field(default_factory=dict)
    before: dict[str, Tensor] = field(default_factory=dict)


class Training(pl.LightningModule):
    """Draws its batches on the device, steps, and hands scalars to the recorder at the logging cadence alone.

    Between two logs nothing leaves the device: a call to ``self.log`` or ``.item()`` at every step would cost more
    than a small model's step. So would Lightning's own loop: what it takes for a step is a round of steps, up to the
    next at which something is recorded, or for a quarter of a second. ``pauses`` are further steps at which one ends.
    """

    def __init__(
        self,
        job: Job,
        model: SequenceModel,
        recorder: Recorder,
        probed: frozenset[int],
        checkpoints: Checkpoints,
        interruption: Interruption,
        resumption: Resumption | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.job = job
        self.model = model
        self.objective = torch.compile(model.objective) if job.trainer.compile else model.objective
        self.task = job.task
        self.recorder = recorder
        self.probed = probed
        self.checkpoints = checkpoints
        self.interruption = interruption
        self.resumption = resumption
        self.pauses: frozenset[int] = frozenset()
        self.before_clipping: Callable[[], None] | None = None
        self.member: Member | None = None
        self.update: StepRecord | None = None
        self.diverged: Diverged | None = None
        self.solved_step: int | None = None
        self.best_score: float | None = None
        self.validated: int | None = None

    def train_dataloader(self) -> DataLoader[int]:
        """For each round the last step it may take: batches are drawn in the step itself, from a seeded generator.

        The loader's own generator keeps it from drawing on the one that dropout draws on.
        """
        return DataLoader(Rounds(self.job.steps), batch_size=None, generator=torch.Generator())

    def on_fit_start(self) -> None:
        self.resumption = self.trainer.strategy.broadcast(self.resumption)
        drawn = batches(self.task, "validation", self.job.trainer.validation_samples, self.job.batch_size)
        self.validation = [batch.beside(self.model.like) for batch in drawn]
        size = self.job.batch_size // self.trainer.world_size
        self.share = torch.arange(size, device=self.device) + self.trainer.global_rank * size
        self.stream = generator("train", self.job.seed, self.device)
        precise = torch.promote_types(self.model.like.dtype, torch.float32)
        self.losses = torch.zeros(self.job.trainer.log_every, device=self.device, dtype=precise)
        self.clipped = torch.zeros((), device=self.device)
        self.clipped_steps = 0
        self.norm = torch.zeros((), device=self.device)
        self.current = Current()
        self.sizes: list[Tensor] = []  # of gradients, by what clips them; in this round
        self.beside = self.model.like.device, self.model.like.dtype
        self.parameters_by_name = dict(self.model.named_parameters())
        (self.optimizer,), self.schedules = self.trainer.optimizers, self.trainer.lr_scheduler_configs
        strategy, precision = self.trainer.strategy, self.trainer.precision_plugin
        self.alone = isinstance(strategy, SingleDeviceStrategy)
        self.plain = self.alone and not isinstance(precision, MixedPrecision)
        self.penalty: Tensor | None = None
        self.rate = math.nan
        if self.resumption is not None:
            go_back(self.trainer, self, self.resumption.mark)
            self.proceed(self.resumption.training)

    def on_train_start(self) -> None:
        self.interruption.heed()

    def progress(self) -> State:
        """What has been counted and found so far, beside the moment itself."""
        return {
            "solved_step": self.solved_step,
            "best_score": self.best_score,
            "validated": self.validated,
            "diverged": None if self.diverged is None else self.diverged.plain(),
            "losses": self.losses,
            "clipped": self.clipped,
            "clipped_steps": self.clipped_steps,
        }

    def proceed(self, progress: State) -> None:
        """From there."""
        diverged = progress["diverged"]
        self.diverged = None if diverged is None else Diverged(**diverged).with_batch(self.checkpoints.folder)
        for name, value in progress.items():
            if name != "diverged":
                setattr(self, name, value.to(self.model.like.device) if isinstance(value, Tensor) else value)

    def configure_optimizers(self) -> Any:
        optimizer = self.job.optimizer(self.model.parameters())
        if self.job.scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.job.scheduler(optimizer), "interval": "step"},
        }

    def training_step(self, end: int, round: int) -> None:
        """A round of steps, by itself or in the company that it trains in."""
        if self.member is None or not self.member.round(end):
            self.round_alone(end)

    def round_alone(self, end: int) -> None:
        """On several devices one step, which is all that Lightning's way of sharing them allows."""
        pace, step, losses = self.pace(end), self.global_step, list[Tensor]()
        while True:
            step += 1
            losses.append(self._step(step))
            if pace.over(step) or not self.alone:
                break
        sizes = torch.stack(self.sizes) if self.sizes else None
        self.sizes.clear()
        self.count(step, self.over_ranks(torch.stack(losses)), sizes)

    def pace(self, end: int) -> "Pace":
        """Of a round that begins now."""
        return Pace(self, end, time.monotonic())

    def count(self, step: int, losses: Tensor, sizes: Tensor | None) -> None:
        """What a round that ends with this step has found, of every step; no round goes beyond a log."""
        first = (step - len(losses)) % self.job.trainer.log_every
        self.losses[first : first + len(losses)] = losses
        if sizes is not None and self.job.trainer.clip is not None:
            self.clipped += (sizes > self.job.trainer.clip).sum()
            self.clipped_steps += len(sizes)
        at_step(self.trainer, step)

    def draw(self) -> Batch:
        """The next batch."""
        self.current.batch = batch = self.task.sample(self.job.batch_size, self.stream).to(*self.beside)
        return batch

    def _step(self, step: int) -> Tensor:
        """One step; the loss alone, without what a regulariser adds, comes back."""
        for parameter in self.parameters_by_name.values():  # the optimizer's own zero_grad takes longer than a draw
            parameter.grad = None
        drawn = self.draw()
        part = drawn if self.alone else drawn.select(self.share)
        losses, outputs = self.objective(self.task, part)
        loss = losses.mean()
        current, alone = self.current, loss.detach()
        current.step, current.loss = step, alone
        if self._logs(step):
            self.log_score(outputs, part)
        if self.job.regularizer is not None:
            loss = self._regularized(loss, drawn, step)
            current.loss = loss.detach()
        if self.plain:
            loss.backward()
            self.on_before_optimizer_step(self.optimizer)
            self.optimizer.step()
        else:
            with torch.autocast(self.device.type, enabled=False):
                self.manual_backward(loss)
                self.trainer.strategy.optimizer_step(self.optimizer, lambda: None)
        self.advance_schedules()
        return alone

    def log_score(self, outputs: Tensor | None, batch: Batch) -> None:
        """Of the batch that was trained on, by what the loss was taken of, if it was taken of outputs."""
        if outputs is None:
            with torch.no_grad():
                outputs = self.model(batch)
        self.last_score = self.over_ranks(mean_score(self.task, outputs.detach(), batch))

    def advance_schedules(self) -> None:
        """The learning rate of the next step."""
        for config in self.schedules:
            config.scheduler.step()  # type: ignore[call-arg]  # none of ours wants to know a metric

    def over_ranks(self, value: Tensor) -> Tensor:
        """The mean over the processes that train this run, each of which has its share of the batch."""
        return self.trainer.strategy.reduce(value.detach().clone(), reduce_op="mean")

    def _regularized(self, loss: Tensor, drawn: Batch, step: int) -> Tensor:
        """The loss with what the regulariser adds; in full precision, since it differentiates through gradients."""
        assert self.job.regularizer is not None
        with torch.autocast(self.device.type, enabled=False), differentiated_twice():
            added = self.job.regularizer(self.model, self.task, drawn, step)
        if added is None:
            return loss
        self.penalty = added.detach()
        return loss + added

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Between backward and step: the gradient is measured and clipped."""
        if self.before_clipping is not None:
            self.before_clipping()
        step, clip = self.current.step, self.job.trainer.clip
        measured = self.measures(step)
        if clip is None and not measured:
            return
        parameters = [p for p in self.parameters_by_name.values() if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if measured:
            self.before_clip(step, norm)
        if clip is not None and self.job.trainer.clip_by == "norm":
            nn.utils.clip_grads_with_norm_(parameters, clip, norm)
            self.sizes.append(norm)
        elif clip is not None:
            self.sizes.append(torch.stack([gradient.abs().amax() for gradient in gradients]).amax())
            nn.utils.clip_grad_value_(parameters, clip)
        if measured:
            self.after_clip(step)

    def before_clip(self, step: int, norm: Tensor) -> None:
        """Of a step that is measured: the rate, the gradient's norm and, where probes want it, all of it."""
        self.rate, self.norm = self.optimizer.param_groups[0]["lr"], norm
        if self._keeps(step):
            parameters = {name: p for name, p in self.parameters_by_name.items() if p.grad is not None}
            self.update = StepRecord(step, raw=_gradients(parameters), before=_copies(parameters))

    def after_clip(self, step: int) -> None:
        """The gradient that is used."""
        if self.update is not None and self.update.step == step:
            self.update.used = _gradients(self.parameters_by_name)

    def measures(self, step: int) -> bool:
        """Whether anybody wants to know of this step's gradient."""
        return self._logs(step) or self._keeps(step)

    def _keeps(self, step: int) -> bool:
        return step in self.probed or self._validates(step)  # after a validation the run may end, and is probed then

    def waits(self, step: int) -> bool:
        """Whether the host waits for the device after this step anyway, because something is recorded."""
        return self._logs(step) or self._validates(step) or step in self.probed

    def _logs(self, step: int) -> bool:
        return step % self.job.trainer.log_every == 0 or step == self.job.steps

    def _validates(self, step: int) -> bool:
        return step % self.job.trainer.validate_every == 0 or step == self.job.steps

    def take_update(self) -> Update | None:
        """What the step just taken did, where that was kept; the count of clipped steps begins anew."""
        record, self.update = self.update, None
        if record is None or record.step != self.global_step:
            return None
        now = dict(self.model.named_parameters())
        change = {name: now[name].detach() - before for name, before in record.before.items()}
        clipped = float(self.clipped) / max(self.clipped_steps, 1)  # of none where nothing clips
        self.clipped.zero_()
        self.clipped_steps = 0
        return Update(record.raw, record.used, change, clipped)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = self.global_step
        if self.diverged is not None:  # the run has ended before that step
            return
        if self._logs(step):
            self._log(step)
        if self._validates(step) and self._validate(step):
            self.checkpoints.save(self, BEST)
        elif self.waits(step):  # where everything was seen to be finite
            self.checkpoints.save_when_due(self)
        self.recorder.flush_when_due()
        if self.interruption.asked is not None and not self.trainer.should_stop and step < self.job.steps:
            self.interruption.end(lambda: self.checkpoints.save(self, LAST) if finite(self) else None)

    def on_train_end(self) -> None:
        if self.diverged is not None and self.validated != self.global_step and self._validate(self.global_step):
            self.checkpoints.save(self, BEST)
        self.checkpoints.save(self, LAST, ended=True)

    def _log(self, step: int) -> None:
        count = (step - 1) % self.job.trainer.log_every + 1
        losses = self.losses[:count].tolist()
        values = {
            "train/loss": sum(losses) / count,
            "train/score": float(self.last_score),
            "train/gradient_norm": float(self.norm),
            "train/learning_rate": self.rate,
            **({} if self.penalty is None else {"train/regularizer": float(self.penalty)}),
            **window_metric(self.task, "train", sum(losses) / count),
        }
        self.recorder.metrics(step, values | device_metrics(self.device))

    def _validate(self, step: int) -> bool:
        """Loss and score on the validation set, and whether it is the best so far; a solved task ends the run."""
        seen = evaluate(self.model, self.task, self.validation) if self.trainer.is_global_zero else (math.nan, math.nan)
        loss, score = self.trainer.strategy.broadcast(seen)
        self.validated = step
        self.model.train()
        values = {"validation/loss": loss, "validation/score": score}
        self.recorder.metrics(step, values | window_metric(self.task, "validation", loss))
        best = self.best_score is None or math.isnan(self.best_score) or score > self.best_score
        if best:
            self.best_score = score
        if score >= self.task.card.solved:
            self.solved_step = step if self.solved_step is None else self.solved_step
            self.trainer.should_stop = self.trainer.should_stop or self.job.trainer.stop_when_solved
        return best


@dataclass(frozen=True)
class Pace:
    """Where a round of steps ends."""

    training: Training
    end: int
    begun: float

    def over(self, step: int) -> bool:
        """With what is recorded, with what is asked for, or when its time is over."""
        training = self.training
        return (
            step >= self.end
            or training.waits(step)
            or step in training.pauses
            or time.monotonic() - self.begun > ROUND
            or training.interruption.asked is not None
        )


class Rounds(IterableDataset[int]):
    """A number again and again; iterable, so that no sampler is put between several processes and their own streams."""

    def __init__(self, end: int) -> None:
        self.end = end

    def __iter__(self) -> Iterator[int]:
        return itertools.repeat(self.end)


def window_metric(task: Task, split: str, loss: float) -> dict[str, float]:
    """The loss as an effective window, where the task knows what that is."""
    window = task.effective_window(loss)
    return {} if window is None else {f"{split}/effective_window": window}


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
