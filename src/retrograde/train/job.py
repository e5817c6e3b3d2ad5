"""One run, from a model and a task to a finished folder."""

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from retrograde.core.contracts import Probe, SequenceModel, Task
from retrograde.record.folder import FAILED, FINISHED, INTERRUPTED, RunFolder, config_hash
from retrograde.record.recorder import RunRecorder
from retrograde.record.view import WandbView
from retrograde.train.module import OptimizerFactory, SchedulerFactory, Training, batches, evaluate
from retrograde.train.options import Identity, ProbingSettings, RecorderSettings, TrainerSettings
from retrograde.train.probing import Probing, probe_batch, schedule
from retrograde.train.progress import ProgressBar, wanted
from retrograde.train.provenance import provenance


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
    loss, score = evaluate(training.model, job.task, test)
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
