"""Training from Python: the same training as from the command line; a run is named by the settings given here."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from retrograde.core.contracts import Probe, Regularizer, SequenceModel, Task
from retrograde.record.alerts import AlertSettings
from retrograde.record.folder import RunFolder, run_name
from retrograde.train.job import carry_out, require_same_source
from retrograde.train.load import Run, called, load
from retrograde.train.options import (
    Identity,
    Job,
    OptimizerFactory,
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
    if folder.is_finished():
        require_same_source(folder, task)
        return load(folder.path, trusted)
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
    carry_out(job, folder, identity, config, progress)
    return load(folder.path, trusted)


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
