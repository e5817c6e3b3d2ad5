"""Training one model on one task: from settings to a finished run folder."""

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from retrograde.core.contracts import Probe, SequenceModel, Task
from retrograde.record.folder import FAILED, FINISHED, INTERRUPTED, RunFolder, config_hash, run_name
from retrograde.record.recorder import RunRecorder
from retrograde.record.view import Mode, WandbView
from retrograde.train.load import Run, load
from retrograde.train.module import OptimizerFactory, SchedulerFactory, Training, batches, evaluate
from retrograde.train.probing import Probing, probe_batch, schedule
from retrograde.train.progress import ProgressBar, wanted
from retrograde.train.provenance import provenance
from retrograde.train.settings import check_types, specification


@dataclass(frozen=True)
class TrainerSettings:
    """How training is carried out; ``conf/trainer/default.yaml`` says what each is for."""

    accelerator: str = "auto"
    devices: int = 1
    precision: str = "32-true"
    compile: bool = False
    clip: float | None = 1.0
    log_every: int = 50
    validate_every: int = 100
    validation_samples: int = 1024
    test_samples: int = 4096
    stop_when_solved: bool = True

    def __post_init__(self) -> None:
        for name in ("devices", "log_every", "validate_every", "validation_samples", "test_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name} must be at least 1, not {getattr(self, name)}")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"trainer.clip must be greater than 0, or null for none; not {self.clip}")
        known = ("auto", "cpu", "gpu", "cuda", "mps")
        if self.accelerator not in known:
            raise ValueError(f"trainer.accelerator must be one of {', '.join(known)}; not '{self.accelerator}'")
        present = torch.cuda.device_count() if self.accelerator in ("gpu", "cuda") else None
        if present is not None and present < self.devices:
            raise ValueError(
                f"trainer.accelerator={self.accelerator} trainer.devices={self.devices}: this machine has {present} "
                "CUDA devices; trainer.accelerator=cpu works everywhere"
            )
        if self.accelerator == "mps" and not torch.backends.mps.is_available():
            raise ValueError("trainer.accelerator=mps: this machine has none; trainer.accelerator=cpu works everywhere")


@dataclass(frozen=True)
class ProbingSettings:
    """When probes fire and on how much: ``samples`` sequences, ``per_decade`` times for each factor of ten in steps."""

    samples: int = 32
    per_decade: int = 4

    def __post_init__(self) -> None:
        if self.samples < 1 or self.per_decade < 1:
            raise ValueError(
                f"probing.samples and probing.per_decade must be at least 1, not {self.samples} and {self.per_decade}"
            )


@dataclass(frozen=True)
class RecorderSettings:
    """Where W&B's view of the run goes; ``disabled`` keeps the tables alone."""

    mode: Mode = "offline"
    project: str = "retrograde"
    entity: str | None = None


@dataclass(frozen=True)
class Identity:
    """What a run is called: the names of study, model and task."""

    study: str
    model: str
    task: str


ADAM = partial(torch.optim.Adam, lr=3e-3)


def fit(
    model: Callable[[Task], SequenceModel],
    task: Task,
    *,
    probes: Mapping[str, Probe] | None = None,
    seed: int = 0,
    steps: int = 2000,
    batch_size: int = 64,
    optimizer: OptimizerFactory = ADAM,
    scheduler: SchedulerFactory | None = None,
    trainer: TrainerSettings = TrainerSettings(),
    probing: ProbingSettings = ProbingSettings(),
    recorder: RecorderSettings = RecorderSettings(),
    study: str = "python",
    outputs: Path | str = "outputs",
    progress: bool = True,
) -> Run:
    """Train, probe, test and record one run; a run that is finished already is given back as it is.

    ``model`` is a factory, such as ``partial(lstm, hidden=32)``, so that the seed covers the initial weights.
    ``probes`` are the default ones where none are named; ``{}`` is none at all.
    """
    made_of = {"model": specification(model), "task": specification(task), "optimizer": specification(optimizer)}
    if scheduler is not None:
        made_of["scheduler"] = specification(scheduler)
    check_types(made_of)
    probes = default_probes() if probes is None else probes
    config = {
        "scheduler": None,
        **made_of,
        "probe": {name: _settings_of(probe) for name, probe in probes.items()},
        "seed": seed,
        "steps": steps,
        "batch_size": batch_size,
        "trainer": asdict(trainer),
        "probing": asdict(probing),
        "recorder": asdict(recorder),
        "study": study,
    }
    identity = Identity(study, _stem(made_of["model"]), _stem(made_of["task"]))
    folder = RunFolder(Path(outputs).resolve() / study / run_name(identity.model, identity.task, config))
    if folder.is_finished():
        return load(folder.path)
    job = Job(model, task, probes, seed, steps, batch_size, optimizer, scheduler, trainer, probing, recorder)
    carry_out(job, folder, identity, config, progress)
    return load(folder.path)


def default_probes() -> dict[str, Probe]:
    """The probes of ``conf/probe/default.yaml``."""
    from retrograde.train.configuration import probes_of  # Hydra is needed for this alone

    return probes_of("default")


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

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps and batch_size must be at least 1, not {self.steps} and {self.batch_size}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, as {self.seed} is")


def carry_out(
    job: Job,
    folder: RunFolder,
    identity: Identity,
    config: Mapping[str, Any],
    progress: bool,
    number: int | None = None,
) -> dict[str, Any]:
    """The run itself. What run.json says at the end comes back; an exception leaves it failed or interrupted."""
    torch.manual_seed(job.seed)
    model = job.model(job.task)
    if job.task.kind not in model.kinds:
        fitting = " and ".join(model.kinds)
        raise ValueError(
            f"{identity.model} is made for {fitting} tasks, and {identity.task} is of kind {job.task.kind}"
        )
    card = job.task.card
    folder.clear()
    folder.write_card(card)
    metadata = {
        "run": folder.run,
        **asdict(identity),
        "seed": job.seed,
        "baseline": card.baseline.score,
        "baseline_loss": card.baseline.loss,
        "baseline_rule": card.baseline.rule,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "state_size": model.state_size,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "config_hash": config_hash(config),
        **provenance(),
        "config": dict(config),
    }
    view = None
    if job.recorder.mode != "disabled":
        view = WandbView(
            folder.path, metadata, job.recorder.mode, job.recorder.project, job.recorder.entity, identity.study
        )
    recorder = RunRecorder(folder, metadata, view)
    started = time.monotonic()
    try:
        summary = _train(job, model, recorder, folder, f"{identity.model} on {identity.task}", progress, number)
    except BaseException as error:
        status = INTERRUPTED if isinstance(error, (KeyboardInterrupt, SystemExit)) else FAILED
        recorder.close(status, {"reason": f"{type(error).__name__}: {error}", "duration": time.monotonic() - started})
        raise
    summary["duration"] = time.monotonic() - started
    recorder.close(FINISHED, summary)
    return {**metadata, **summary}


def _train(
    job: Job,
    model: SequenceModel,
    recorder: RunRecorder,
    folder: RunFolder,
    title: str,
    progress: bool,
    number: int | None,
) -> dict[str, Any]:
    scheduled = schedule(job.steps, job.probing.per_decade) if job.probes else frozenset()
    batch = probe_batch(job.task, job.probing.samples)
    recorder.labels(job.task.labels(batch), batch.scored.numpy())
    settings = job.trainer
    training = Training(
        model,
        job.task,
        job.optimizer,
        job.scheduler,
        recorder,
        job.seed,
        job.steps,
        job.batch_size,
        settings.clip,
        settings.log_every,
        settings.validation_samples,
        settings.compile,
        scheduled,
    )
    probing = Probing(job.probes, batch, scheduled, recorder)
    best = ModelCheckpoint(
        folder.checkpoints,
        "best",
        monitor="validation/score",
        mode="max",
        save_last=True,
        enable_version_counter=False,
        save_on_train_epoch_end=False,
    )
    callbacks: list[pl.Callback] = [best, probing]
    if settings.stop_when_solved:
        # patience is for a score that no longer rises; only being solved ends a run early
        callbacks.append(
            EarlyStopping(
                "validation/score",
                mode="max",
                patience=job.steps,
                stopping_threshold=job.task.card.solved,
                check_finite=False,
                check_on_train_epoch_end=False,
                verbose=False,
            )
        )
    if wanted(progress):
        callbacks.append(ProgressBar(title, job.steps, number))
    with _quiet():
        trainer = pl.Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            precision=settings.precision,  # type: ignore[arg-type]  # Lightning checks it, and names the choices
            max_steps=job.steps,
            val_check_interval=min(settings.validate_every, job.steps),
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=callbacks,
        )
        trainer.fit(training)
    return _summary(job, training, probing, Path(best.best_model_path), recorder)


def _summary(job: Job, training: Training, probing: Probing, best: Path, recorder: RunRecorder) -> dict[str, Any]:
    """The test of the checkpoint that validation chose, and the numbers of a run that a table shows."""
    checkpoint = torch.load(best, weights_only=True, map_location=training.device)
    restored = {
        name.removeprefix("model."): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("model.")
    }
    training.model.load_state_dict(restored)
    test = batches(job.task, "test", job.trainer.test_samples, job.batch_size)
    loss, score = evaluate(training.model, job.task, test, training.device)
    recorder.metrics(checkpoint["global_step"], {"test/loss": loss, "test/score": score})
    diverged = training.first_nonfinite is not None
    return {
        "score": score,
        "loss": loss,
        "validation_score": training.best_score,
        "solved": score >= job.task.card.solved,
        "solved_step": training.solved_step,
        "steps": training.global_step,
        "selected_step": checkpoint["global_step"],
        "horizon": probing.horizons[-1] if probing.horizons else None,
        "horizon_start": probing.horizons[0] if probing.horizons else None,
        "diverged_step": training.first_nonfinite,
        "reason": f"the training loss is not finite at step {training.first_nonfinite}" if diverged else None,
    }


def closing_line(folder: RunFolder, result: Mapping[str, Any]) -> str:
    """What a person wants to know when a run ends, in one line."""
    verdict = "solved" if result["solved"] else "not solved"
    if result["solved"] and result["solved_step"] is not None:
        verdict += f" at step {result['solved_step']}"
    reach = "not probed" if result["horizon"] is None else f"{result['horizon']:.0f} steps"
    line = (
        f"{result['model']} on {result['task']}, seed {result['seed']}: score {result['score']:.3f} "
        f"({result['baseline_rule']} {result['baseline']:.3f}), {verdict}; gradient horizon {reach}; {folder.path}"
    )
    return f"{line} ({result['reason']})" if result["reason"] else line


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's notices are about loaders and loggers that this project does without."""
    log = logging.getLogger("pytorch_lightning")
    level = log.level
    log.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
        warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated.*")  # Lightning 2.6 on torch 2.13
        try:
            yield
        finally:
            log.setLevel(level)


def _settings_of(probe: Probe) -> dict[str, Any]:
    """A probe's settings are its attributes: it keeps no other state."""
    return {"_target_": f"{type(probe).__module__}.{type(probe).__qualname__}", **vars(probe)}


def _stem(made_of: Mapping[str, Any]) -> str:
    """``retrograde.models.lstm.lstm`` is called by its file, as everywhere."""
    return made_of["_target_"].split(".")[-2]
