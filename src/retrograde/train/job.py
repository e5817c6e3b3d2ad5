"""One run, from a model and a task to a finished folder."""

import itertools
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch
from retrograde.record.alerts import alerts, in_words
from retrograde.record.folder import FAILED, FINISHED, INTERRUPTED, RunFolder
from retrograde.record.recorder import RunRecorder
from retrograde.record.secret import redact
from retrograde.record.store import FolderStore
from retrograde.record.tables import cut
from retrograde.record.view import WandbView, start_ahead
from retrograde.train.checkpoints import BEST, PREFIX, Checkpoints, Resumption, newest, write_aside
from retrograde.train.closing import changed
from retrograde.train.company import Company, Member, why_not
from retrograde.train.devices import device_in_words, device_kind, quiet, rank_outside, threads, trainer_of
from retrograde.train.divergence import Divergence
from retrograde.train.evaluation import batches, evaluate, examine
from retrograde.train.forms import Forms
from retrograde.train.interruption import Interruption
from retrograde.train.load import selected_weights
from retrograde.train.module import Training, window_metric
from retrograde.train.options import Identity, Job, Prepared
from retrograde.train.probing import Probing, probe_batch
from retrograde.train.progress import ProgressBar, wanted
from retrograde.train.provenance import provenance
from retrograde.train.ranks import call, first_rank, follow, leading, require_ranks, together
from retrograde.train.replay import replay
from retrograde.train.sweep import place

TESTS = "test", "longer"
"""The splits that are looked at when training is over."""


def carry_out(prepared: Prepared, progress: bool, member: Member | None = None) -> dict[str, Any]:
    """The run itself. What run.json says at the end comes back; an exception leaves it failed or interrupted.

    ``member`` is what it is in the company that it trains in, where there is one.
    """
    job, folder = prepared.job, prepared.folder
    require_ranks(job)
    rank = rank_outside()
    if rank is not None and not rank.is_first:
        follow(job, rank)
        return folder.read()
    interruption = Interruption() if member is None else member.interruption
    with (
        folder.claimed(),
        interruption.heeded(),
        threads(job.trainer.threads),
        torch.random.fork_rng(),
        leading(),
    ):
        if folder.is_finished():  # by another process, since this one looked
            return folder.read()
        # the caller's random numbers go on as if nothing had been
        torch.manual_seed(job.seed)
        result = _claimed(prepared, progress, interruption, member)
    where = place()
    if where is not None and where[0] < where[1] and job.recorder.mode != "disabled":
        start_ahead()
    return result


def carry_out_together(
    runs: Sequence[Prepared], progress: bool, if_faster: bool = False
) -> list[dict[str, Any] | BaseException]:
    """All of them in this process, their steps computed together; what each gave or raised.

    They differ in nothing but seed and learning rate. Why their steps cannot be computed together, or with
    ``if_faster`` that it would take longer, is said in one line; then they are carried out one after the other.
    """
    if len(runs) < 2:
        return [carry_out(run, progress) for run in runs]
    results: list[dict[str, Any]] = [{} for _ in runs]

    def work(at: int, member: Member) -> None:
        results[at] = carry_out(runs[at], progress and at == 0, member)  # a terminal has room for one bar

    said = why_not([run.job for run in runs], if_faster)
    if said is not None:
        print(f"these runs train one after the other: {said}", file=sys.stderr, flush=True)
        return [_in_turn(run, progress) for run in runs]
    with quiet(), threads(runs[0].job.trainer.threads):
        raised = Company(len(runs)).carry_out([partial(work, at) for at in range(len(runs))])
    return [result if error is None else error for result, error in zip(results, raised, strict=True)]


def _in_turn(run: Prepared, progress: bool) -> dict[str, Any] | BaseException:
    """What it gave or raised; who is asked to end ends the others as well."""
    try:
        return carry_out(run, progress)
    except Exception as error:
        return error


def _claimed(prepared: Prepared, progress: bool, interruption: Interruption, member: Member | None) -> dict[str, Any]:
    job, folder, identity, config = prepared.job, prepared.folder, prepared.identity, prepared.config
    clock = time.perf_counter if member is None else member.clock
    model = fitting(job.model(job.task), job.task, identity)
    card = job.task.card
    device = device_kind(job.trainer)
    attempt: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **provenance(),
        "hardware": device_in_words(torch.device(device)),
    }
    earlier, resumption, notes = _resumed(folder, device)
    if resumption is not None:
        attempt |= {"from_step": resumption.mark.step, "from_seconds": resumption.seconds}
        attempt |= {"unread": list(resumption.unread)} if resumption.unread else {}
    attempts = [*earlier, attempt]
    behind = [
        f"gone on with from step {each['from_step']:,}, since {each['unread'][0]} cannot be gone on from"
        for each in attempts
        if "unread" in each
    ]
    changes = [changed(one, other) for one, other in itertools.pairwise(attempts)]
    notes += dict.fromkeys(behind)
    notes += [f"begun by code {change[0]}, gone on with by {change[1]}" for change in changes if change]
    forms = [] if resumption is None else folder.read().get("forms", [])
    begun = clock() - (0.0 if resumption is None else resumption.seconds)
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
        "learns": model.learns,
        "config_hash": folder.run.rpartition("-")[2],
        **attempt,
        "attempts": attempts,
        "forms": forms,
        "notes": notes,
        "config": dict(config),
    }
    view = None
    if job.recorder.mode != "disabled":
        view = WandbView(
            folder.path,
            metadata,
            job.recorder.mode,
            job.recorder.project,
            job.recorder.entity,
            identity.study,
            job.recorder.init_timeout,
            job.recorder.finish_timeout,
        )
    recorder = RunRecorder(folder, metadata, view)
    try:
        summary = _train(
            job,
            model,
            recorder,
            folder,
            f"{identity.model} on {identity.task}",
            progress,
            interruption,
            resumption,
            member,
        )
        recorder.flush()
        found = alerts(FolderStore(folder.path), folder.run, job.alerts, {**metadata, **summary})
    except BaseException as error:
        redact(error)
        status = INTERRUPTED if isinstance(error, (KeyboardInterrupt, SystemExit)) else FAILED
        with suppress(
            OSError
        ):  # a full disk takes the end of the record too; what ended the run is raised all the same
            (folder.path / "traceback.txt").write_text(traceback.format_exc())
            recorder.close(status, {"reason": f"{type(error).__name__}: {error}", "duration": clock() - begun})
        raise
    summary["alerts"] = [asdict(alert) for alert in found]
    summary["duration"] = clock() - begun
    recorder.close(FINISHED, summary)
    return {**recorder.metadata, **summary}


def _resumed(folder: RunFolder, device: str) -> tuple[list[dict[str, Any]], Resumption | None, list[str]]:
    """Earlier attempts, the moment to go on from and what is to be noted; the folder emptied where there is none."""
    notes = []
    if folder.is_interrupted():
        try:
            resumption = newest(folder.checkpoints, device)
            earlier = folder.read().get("attempts", [])
            cut(folder.tables, resumption.recorded, TESTS)  # a damaged table cannot be completed
            return earlier, resumption, []
        except ValueError as error:
            notes = [f"begun anew, since {error}"]
            print(f"{folder.path}: {notes[0]}", file=sys.stderr, flush=True)
    folder.clear()
    return [], None, notes


def fitting(model: SequenceModel, task: Task, identity: Identity) -> SequenceModel:
    """The model; ValueError where it is not made for tasks of this kind."""
    if task.kind not in model.kinds:
        kinds = " and ".join(model.kinds)
        raise ValueError(f"{identity.model} is made for {kinds} tasks, and {identity.task} is of kind {task.kind}")
    return model


def require_same_source(folder: RunFolder, task: Task) -> None:
    """Raise ValueError where a finished run was of other data than the task would read now.

    A run is named by its settings, in which a file has a name and no content.
    """
    then = folder.read_card().get("source")
    if then is None:
        return
    now = task.describe().get("source")
    if now is None or now.sha256 != then["sha256"]:
        found = "none" if now is None else f"{now.name} {now.version}, sha256 {now.sha256[:16]}…"
        raise ValueError(
            f"{folder.path} is a finished run on {then['name']} {then['version']}, sha256 {then['sha256'][:16]}…, and "
            f"what is there now is {found}: choose another outputs=FOLDER, or remove that folder"
        )


def require_longer(model: SequenceModel, task: Task) -> None:
    """Raise what the model has against the sequences of the second, longer test before it is trained."""
    if task.longer is not None:
        with torch.no_grad():
            model.eval()(task.longer.sample(1, torch.Generator().manual_seed(0), "test").beside(model.like))
            model.train()


def _train(
    job: Job,
    model: SequenceModel,
    recorder: RunRecorder,
    folder: RunFolder,
    title: str,
    progress: bool,
    interruption: Interruption,
    resumption: Resumption | None,
    member: Member | None,
) -> dict[str, Any]:
    batch = probe_batch(job.task, job.probing.samples)
    if resumption is None:
        _label(job.task, batch, recorder)
    settings = job.trainer
    if settings.truncate is not None:
        model.truncate(settings.truncate)
    probing = Probing(job, batch, recorder, time.perf_counter if member is None else member.clock)
    before = 0.0 if resumption is None else resumption.seconds
    checkpoints = Checkpoints(folder.checkpoints, recorder, probing.state_dict, before, probing.clock)
    training = Training(job, model, recorder, probing.scheduled, checkpoints, interruption, resumption)
    if resumption is not None:
        probing.load_state_dict(resumption.probing)
    if member is not None:
        recorder.note(together=len(member.company.members))
    forms = Forms(job, folder.path.parent / "forms", recorder.metadata["forms"], recorder.note)
    callbacks: list[pl.Callback] = [Divergence(recorder), probing, forms]
    if wanted(progress):
        callbacks.append(ProgressBar(title, job.steps))
    with quiet():
        first = first_rank(settings)
        trainer = trainer_of(settings, job.steps, callbacks, first)
        device = trainer.strategy.root_device
        require_longer(model.to(device), job.task)
        if resumption is not None and resumption.ended:
            training.proceed(resumption.training)
            model.load_state_dict(resumption.mark.weights)
            steps = resumption.mark.step
            call(settings, train=False)
        elif model.learns:
            company = nullcontext() if member is None else member.stepping(training)
            with interruption.after_a_step(), together(job, first), company:
                trainer.fit(training)
            steps = training.global_step
    model.to(device)  # from which Lightning takes it when training ends
    if not model.learns:
        call(settings, train=False)
        probing.fire(model, job.task, 0, None)
        return (
            _as_it_stands(job, model, recorder, folder)
            | _tested(job, model, recorder, folder)
            | {"probing": probing.account}
        )
    nonfinite = None
    if (found := training.diverged) is not None:  # the weights are those of the last finite step
        place = None if found.batch is None else replay(model, job.task, found.batch, found.step).first
        nonfinite = found.described(place)
    return _tested(job, model, recorder, folder) | {
        "validation_score": training.best_score,
        "solved_step": training.solved_step,
        "steps": steps,
        "horizon": probing.horizons.get(steps),
        "horizon_start": probing.horizons.get(0),
        "probing": probing.account,
        "diverged_step": None if found is None else found.step,
        "nonfinite": nonfinite,
        "reason": None if nonfinite is None else in_words(nonfinite),
    }


def _label(task: Task, batch: Batch, recorder: RunRecorder) -> None:
    """The probe batch in words."""
    target_labels, scored = task.target_labels(batch), batch.scored.numpy()
    if target_labels is None:
        recorder.labels(task.labels(batch), scored)
    else:
        recorder.labels(task.labels(batch), np.zeros(batch.inputs.shape[:2], dtype=bool))
        recorder.labels(target_labels, scored, side="target")


def _as_it_stands(job: Job, model: SequenceModel, recorder: RunRecorder, folder: RunFolder) -> dict[str, Any]:
    """What is there of a model that has nothing to train: its validation, and a checkpoint like any other's."""
    weights = {f"{PREFIX}{name}": value for name, value in model.state_dict().items()}
    write_aside({"state_dict": weights, "global_step": 0}, folder.checkpoints / BEST)
    loss, score = evaluate(
        model, job.task, batches(job.task, "validation", job.trainer.validation_samples, job.batch_size)
    )
    values = {"validation/loss": loss, "validation/score": score}
    recorder.metrics(0, values | window_metric(job.task, "validation", loss))
    return {
        "validation_score": score,
        "solved_step": 0 if score >= job.task.card.solved else None,
        "steps": 0,
        "horizon": None,
        "horizon_start": None,
        "diverged_step": None,
        "nonfinite": None,
        "reason": None,
    }


def _tested(job: Job, model: SequenceModel, recorder: RunRecorder, folder: RunFolder) -> dict[str, Any]:
    """The test of the checkpoint that validation chose, and of the same on longer sequences where the task has such."""
    weights, selected = selected_weights(folder.checkpoints)
    model.load_state_dict(weights)
    test, longer = TESTS
    tests = {test: (job.task, job.trainer.test_samples)}
    if job.task.longer is not None:
        tests[longer] = (job.task.longer, job.trainer.longer_samples)
    summary: dict[str, Any] = {"selected_step": selected}
    for name, (task, samples) in tests.items():
        result = examine(model, task, batches(task, "test", samples, job.batch_size))
        values = {"loss": result.loss, "score": result.score, **result.measures}
        recorder.metrics(selected, {f"{name}/{quantity}": value for quantity, value in values.items()})
        recorder.readings(selected, name, result.readings)
        summary[name] = values
    score = summary["test"]["score"]
    return summary | {"score": score, "loss": summary["test"]["loss"], "solved": score >= job.task.card.solved}
