"""Training from Python: the same training as from the command line; a run is named by the settings given here."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from retrograde.core.contracts import Probe, Regularizer, SequenceModel, Task
from retrograde.record.alerts import AlertSettings
from retrograde.record.folder import RunFolder, run_name
from retrograde.train.job import carry_out, carry_out_together, require_same_source
from retrograde.train.load import Run, called, load
from retrograde.train.options import (
    Identity,
    Job,
    OptimizerFactory,
    Prepared,
    ProbingSettings,
    RecorderSettings,
    SchedulerFactory,
    TrainerSettings,
)
from retrograde.train.settings import check_types, specification

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
    regularizer: Regularizer | None = None,
    trainer: TrainerSettings = TrainerSettings(),
    probing: ProbingSettings = ProbingSettings(),
    recorder: RecorderSettings = RecorderSettings(),
    alerts: AlertSettings = AlertSettings(),
    study: str = "python",
    outputs: Path | str = "outputs",
    progress: bool = True,
) -> Run:
    """Train, probe, test and record one run; a run that is finished already is given back as it is.

    ``model`` is a factory, such as ``partial(lstm, hidden=32)``, so that the seed covers the initial weights.
    ``probes`` are the default ones where none are named; ``{}`` is none at all.
    """
    prepared, trusted = _prepared(**locals())
    folder = prepared.folder
    if folder.is_finished():
        require_same_source(folder, task)
    else:
        carry_out(prepared, progress)
    return load(folder.path, trusted)


def fit_seeds(
    model: Callable[[Task], SequenceModel], task: Task, seeds: Iterable[int], *, progress: bool = True, **settings: Any
) -> list[Run]:
    """A run for each seed, as ``fit`` would make it, their steps computed together; ``settings`` are those of ``fit``.

    Runs that are finished are given back as they are. What one of them raises is raised when all have ended.
    """
    made = [_prepared(model, task, **settings, seed=seed) for seed in seeds]
    left = [prepared for prepared, _ in made if not prepared.folder.is_finished()]
    for prepared, _ in made:
        if prepared not in left:
            require_same_source(prepared.folder, task)
    for result in carry_out_together(left, progress):
        if isinstance(result, BaseException):
            raise result
    return [load(prepared.folder.path, trusted) for prepared, trusted in made]


def _prepared(*given: Any, **settings: Any) -> tuple[Prepared, list[str]]:
    """What ``fit`` makes of its arguments, those that are left out at their defaults."""
    arguments = signature(fit).bind(*given, **settings)
    arguments.apply_defaults()
    return _made(**{name: value for name, value in arguments.arguments.items() if name != "progress"})


def _made(
    model: Callable[[Task], SequenceModel],
    task: Task,
    *,
    probes: Mapping[str, Probe] | None,
    seed: int,
    steps: int,
    batch_size: int,
    optimizer: OptimizerFactory,
    scheduler: SchedulerFactory | None,
    regularizer: Regularizer | None,
    trainer: TrainerSettings,
    probing: ProbingSettings,
    recorder: RecorderSettings,
    alerts: AlertSettings,
    study: str,
    outputs: Path | str,
) -> tuple[Prepared, list[str]]:
    """The run, and the packages whose classes its settings name."""
    made_of = {"model": specification(model), "task": specification(task), "optimizer": specification(optimizer)}
    if scheduler is not None:
        made_of["scheduler"] = specification(scheduler)
    check_types(made_of)
    probes = default_probes() if probes is None else probes
    config = {
        "scheduler": None,
        "regularizer": None if regularizer is None else _settings_of(regularizer),
        **made_of,
        "probe": {name: _settings_of(probe) for name, probe in probes.items()},
        "seed": seed,
        "steps": steps,
        "batch_size": batch_size,
        "trainer": asdict(trainer),
        "probing": asdict(probing),
        "recorder": asdict(recorder),
        "alerts": asdict(alerts),
        "study": study,
    }
    identity = Identity(study, _stem(made_of["model"]), _stem(made_of["task"]))
    folder = RunFolder(Path(outputs).resolve() / study / run_name(identity.model, identity.task, config))
    trusted = [
        name.partition(".")[0] for name in called([made_of["model"], made_of["task"]], folder.run)
    ]  # by giving it
    job = Job(
        model=model,
        task=task,
        probes=probes,
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer,
        scheduler=scheduler,
        trainer=trainer,
        probing=probing,
        recorder=recorder,
        regularizer=regularizer,
        alerts=alerts,
    )
    return Prepared(job, folder, identity, config), trusted


def default_probes() -> dict[str, Probe]:
    """The probes of ``conf/probe/default.yaml``."""
    from retrograde.train.configuration import probes_of  # Hydra is needed for this alone

    return probes_of("default")


def _settings_of(part: Probe | Regularizer) -> dict[str, Any]:
    """A probe's and a regulariser's settings are its attributes: it keeps no other state."""
    return {"_target_": f"{type(part).__module__}.{type(part).__qualname__}", **vars(part)}


def _stem(made_of: Mapping[str, Any]) -> str:
    """``retrograde.models.lstm.lstm`` is called by its file, as everywhere."""
    return made_of["_target_"].split(".")[-2]
