"""The settings that a run is carried out with; ``conf/trainer`` and ``conf/recorder`` say what each is for."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from retrograde.core.contracts import Probe, Regularizer, SequenceModel, Task
from retrograde.record.alerts import AlertSettings
from retrograde.record.folder import RunFolder
from retrograde.record.view import Mode

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
SchedulerFactory = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]

AUTO = "auto"
"""In place of a form's name: the fastest, by a timing before training."""


@dataclass(frozen=True)
class TrainerSettings:
    """How training is carried out; ``conf/trainer/default.yaml`` says what each is for."""

    accelerator: str = "auto"
    devices: int | Literal["shared"] = 1
    nodes: int = 1
    strategy: str = "auto"
    threads: int | None = None
    precision: str = "32-true"
    compile: bool = False
    form: str = AUTO
    clip: float | None = 1.0
    clip_by: Literal["norm", "value"] = "norm"
    truncate: int | None = None
    log_every: int = 50
    validate_every: int = 100
    validation_samples: int = 1024
    test_samples: int = 4096
    longer_samples: int = 512
    stop_when_solved: bool = True

    def __post_init__(self) -> None:
        for name in ("log_every", "validate_every", "validation_samples", "test_samples", "longer_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name} must be at least 1, not {getattr(self, name)}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"trainer.threads must be at least 1, or null for torch's own; not {self.threads}")
        if self.compile and self.form != AUTO:
            raise ValueError(
                f"form={self.form} and trainer.compile=true: the compiler makes a form of its own; choose one of both"
            )
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"trainer.clip must be greater than 0, or null for none; not {self.clip}")
        if self.truncate is not None and self.truncate < 1:
            raise ValueError(f"trainer.truncate must be at least 1, or null for never; not {self.truncate}")
        if self.clip_by not in ("norm", "value"):
            raise ValueError(f"trainer.clip_by must be norm or value, not '{self.clip_by}'")
        known = ("auto", "cpu", "gpu", "cuda", "mps")
        if self.accelerator not in known:
            raise ValueError(f"trainer.accelerator must be one of {', '.join(known)}; not '{self.accelerator}'")
        if self.devices != "shared" and self.devices < 1:
            raise ValueError(f"trainer.devices must be at least 1, or shared; not {self.devices}")
        if self.nodes < 1 or (self.devices == "shared" and self.nodes > 1):
            raise ValueError(f"trainer.nodes must be at least 1, and 1 where devices are shared; not {self.nodes}")
        if self.accelerator in ("gpu", "cuda") and not torch.cuda.device_count():
            raise ValueError(
                f"trainer.accelerator={self.accelerator}: this machine has no CUDA device; "
                "trainer.accelerator=cpu works everywhere"
            )
        if self.accelerator == "mps" and not torch.backends.mps.is_available():
            raise ValueError("trainer.accelerator=mps: this machine has none; trainer.accelerator=cpu works everywhere")


@dataclass(frozen=True)
class ProbingSettings:
    """When probes fire, on how much, and what share of training's time they may take; see ``conf/train.yaml``."""

    samples: int = 32
    per_decade: int = 4
    steps: list[int] | None = None
    share: float | None = 0.02

    def __post_init__(self) -> None:
        if self.samples < 1 or self.per_decade < 1:
            raise ValueError(
                f"probing.samples and probing.per_decade must be at least 1, not {self.samples} and {self.per_decade}"
            )
        if self.share is not None and self.share <= 0:
            raise ValueError(f"probing.share must be greater than 0, or null for no limit; not {self.share}")
        for step in self.steps or []:
            if step < 0:
                raise ValueError(f"probing.steps must be whole numbers from 0, not {step!r}")


@dataclass(frozen=True)
class RecorderSettings:
    """Where W&B's view of a run goes, and how long it may keep the run waiting; ``disabled`` keeps the tables alone."""

    mode: Mode = "offline"
    project: str = "retrograde"
    entity: str | None = None
    init_timeout: float = 30.0
    finish_timeout: float = 60.0

    def __post_init__(self) -> None:
        for name in ("init_timeout", "finish_timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"recorder.{name} must be greater than 0 seconds, not {getattr(self, name)}")


@dataclass(frozen=True)
class Identity:
    """What a run is called: the names of study, model and task."""

    study: str
    model: str
    task: str


@dataclass
class Job:
    """Everything that one run needs, made ready."""

    model: Callable[[Task], SequenceModel]
    task: Task
    probes: Mapping[str, Probe]
    seed: int
    steps: int
    batch_size: int
    optimizer: OptimizerFactory
    scheduler: SchedulerFactory | None
    trainer: TrainerSettings
    probing: ProbingSettings
    recorder: RecorderSettings
    regularizer: Regularizer | None = None
    alerts: AlertSettings = AlertSettings()

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps and batch_size must be at least 1, not {self.steps} and {self.batch_size}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, as {self.seed} is")


@dataclass
class Prepared:
    """A run that can be carried out: where, under what name, and with the settings that its record shall have."""

    job: Job
    folder: RunFolder
    identity: Identity
    config: Mapping[str, Any]
