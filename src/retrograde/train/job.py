"""One run, from a model and a task to a finished folder."""

import logging
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from retrograde.core.contracts import SequenceModel, Task
from retrograde.record.folder import FAILED, FINISHED, INTERRUPTED, RunFolder
from retrograde.record.recorder import RunRecorder
from retrograde.record.view import WandbView
from retrograde.train.load import selected_weights
from retrograde.train.module import Training, batches, evaluate
from retrograde.train.options import Identity, Job
from retrograde.train.probing import Probing, probe_batch, schedule
from retrograde.train.progress import ProgressBar, wanted
from retrograde.train.provenance import provenance


def carry_out(
    job: Job,
    folder: RunFolder,
    identity: Identity,
    config: Mapping[str, Any],
    progress: bool,
    number: int | None = None,
) -> dict[str, Any]:
    """The run itself. What run.json says at the end comes back; an exception leaves it failed or interrupted."""
    with folder.claimed(), torch.random.fork_rng():  # the caller's random numbers go on as if nothing had been
        torch.manual_seed(job.seed)
        return _claimed(job, folder, identity, config, progress, number)


def _claimed(
    job: Job, folder: RunFolder, identity: Identity, config: Mapping[str, Any], progress: bool, number: int | None
) -> dict[str, Any]:
    model = fitting(job.model(job.task), job.task, identity)
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
        "config_hash": folder.run.rpartition("-")[2],
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
        (folder.path / "traceback.txt").write_text(traceback.format_exc())
        recorder.close(status, {"reason": f"{type(error).__name__}: {error}", "duration": time.monotonic() - started})
        raise
    summary["duration"] = time.monotonic() - started
    recorder.close(FINISHED, summary)
    return {**metadata, **summary}


def fitting(model: SequenceModel, task: Task, identity: Identity) -> SequenceModel:
    """The model; ValueError where it is not made for tasks of this kind."""
    if task.kind not in model.kinds:
        kinds = " and ".join(model.kinds)
        raise ValueError(f"{identity.model} is made for {kinds} tasks, and {identity.task} is of kind {task.kind}")
    return model


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
    target_labels, scored = job.task.target_labels(batch), batch.scored.numpy()
    if target_labels is None:
        recorder.labels(job.task.labels(batch), scored)
    else:
        recorder.labels(job.task.labels(batch), np.zeros(batch.inputs.shape[:2], dtype=bool))
        recorder.labels(target_labels, scored, side="target")
    settings = job.trainer
    training = Training(job, model, recorder, scheduled, folder.checkpoints)
    probing = Probing(job.probes, batch, scheduled, recorder)
    callbacks: list[pl.Callback] = [probing]
    if wanted(progress):
        callbacks.append(ProgressBar(title, job.steps, number))
    with _quiet():
        trainer = pl.Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            precision=settings.precision,  # type: ignore[arg-type]  # Lightning checks it, and names the choices
            max_steps=job.steps,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            callbacks=callbacks,
        )
        trainer.fit(training)
    return _summary(job, training, probing, recorder)


def _summary(job: Job, training: Training, probing: Probing, recorder: RunRecorder) -> dict[str, Any]:
    """The test of the checkpoint that validation chose, and the numbers of a run that a table shows."""
    weights, selected = selected_weights(training.checkpoints)
    training.model.load_state_dict(weights)
    test = batches(job.task, "test", job.trainer.test_samples, job.batch_size)
    loss, score = evaluate(training.model, job.task, test)
    recorder.metrics(selected, {"test/loss": loss, "test/score": score})
    diverged = training.first_nonfinite is not None
    return {
        "score": score,
        "loss": loss,
        "validation_score": training.best_score,
        "solved": score >= job.task.card.solved,
        "solved_step": training.solved_step,
        "steps": training.global_step,
        "selected_step": selected,
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
    reach = ""
    if result["horizon"] is not None:
        reach = f"; gradient horizon {result['horizon']:.0f} lags at step {result['steps']}"
    line = (
        f"{result['model']} on {result['task']}, seed {result['seed']}: score {result['score']:.3f} "
        f"({result['baseline_rule']} {result['baseline']:.3f}), {verdict}{reach}; {folder.path}"
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
        warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated.*")  # Lightning 2.6 on torch 2.13
        try:
            yield
        finally:
            log.setLevel(level)
