"""What Hydra loads of this project: a sweeper that composes jobs fast, a launcher that sees each of them end.

The launcher launches through another one, Hydra's own or a plugin's: ``launcher=…`` chooses it.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from retrograde.record.metadata import number_of
from retrograde.train.app import plan_sweep
from retrograde.train.jobs import Composer, Planned, study_name
from retrograde.train.sweep import (
    GROUP,
    PLACE,
    Group,
    InWorker,
    SweepError,
    grouped,
    in_this_process,
    said_before,
    sweep,
    workers_end_first,
)


class SweepLauncher(Launcher):
    """Launches what is left to do of a sweep through the launcher ``over``, by default in this process, one by one."""

    def __init__(self, over: Launcher | None = None) -> None:
        self.here = over is None
        self.launcher = BasicLauncher() if over is None else over
        self.total: int | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra calls it."""
        assert isinstance(hydra_context.config_loader, ConfigLoaderImpl)
        self.composer = Composer(hydra_context.config_loader, config)
        work = task_function if self.here else InWorker(task_function)
        self.launcher.setup(hydra_context=hydra_context, task_function=work, config=config)
        # a sweeper of another kind, which chooses what comes next by what has come, judges failures itself
        self.by_itself = config.hydra.sweeper._target_ == f"{StudySweeper.__module__}.{StudySweeper.__qualname__}"

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """As Hydra calls it."""
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise ValueError("a sweep starts the processes of its runs itself: launch it without torchrun")
        asked = [
            self.composer.planned(number, overrides)
            for number, overrides in enumerate(job_overrides, initial_job_idx + 1)
        ]
        once = {job.folder.path: job for job in asked}  # 0.1 and 0.10 are one run
        jobs = [replace(job, number=number) for number, job in enumerate(once.values(), initial_job_idx + 1)]
        total = self.total or initial_job_idx + len(jobs)
        if self.composer.master.get("plan", False) is not False:
            if not self.by_itself:
                raise ValueError("plan: what this sweeper tries next hangs on what comes of it; it cannot be planned")
            plan_sweep(self.composer, jobs)
            return []

        def launch(chosen: Sequence[Planned]) -> Mapping[str, str | None]:
            if not self.here:
                with workers_end_first(chosen):
                    return alone(chosen)
            known: dict[str, str | None] = {}
            with in_this_process():
                for group in grouped(chosen, together(self.composer.master)):
                    if len(group) == 1:
                        known |= alone(group)
                        continue
                    as_one = Group(group, total)
                    token = GROUP.set(as_one)
                    try:
                        alone(group[:1])
                    finally:
                        GROUP.reset(token)
                    known |= {job.folder.run: as_one.reasons.get(job.folder.run) for job in group}
            return known

        def alone(chosen: Sequence[Planned]) -> Mapping[str, str | None]:
            every = [[*job.overrides, f"+hydra.job.env_set.{PLACE}='{job.number}/{total}'"] for job in chosen]
            results = self.launcher.launch(every, initial_job_idx)
            return {job.folder.run: _reason(result) for job, result in zip(chosen, results, strict=True)}

        outcome = sweep(jobs, launch, lambda job: said_before(job, total), lambda line: print(line, flush=True))
        if self.by_itself:
            for line in outcome.lines():
                print(line, flush=True)
            if outcome.bad:
                raise SweepError(f"{outcome.bad} of {number_of(len(jobs), 'run')} did not finish")
        return [_returned(job) for job in asked]


class StudySweeper(BasicSweeper):
    """Hydra's own, without its look at each job's configuration: the launcher composes all of them anyway.

    ``small`` are the values that ``size=small`` puts in the place of a study's own; ``claims`` are what the study's
    source says comes out, which ``analysis/board.py`` reads and no sweep.
    """

    def __init__(
        self,
        params: Mapping[str, Any] | None = None,
        small: Mapping[str, Any] | None = None,
        claims: Sequence[Mapping[str, Any]] | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__(max_batch_size, dict(params or {}))
        self.small = small

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra calls it."""
        self.params |= of_size(config, self.small)
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        """Hydra's own; a plan is of all jobs at once, and leaves no multirun.yaml."""
        assert self.config is not None and self.launcher is not None and self.hydra_context is not None
        if self.config.get("plan", False) is False:
            return super().sweep(arguments)
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        return self.launcher.launch(self.split_arguments(overrides, None)[0], 0)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Left to the launcher."""


def together(config: DictConfig) -> int:
    """How many runs may compute their steps together; raises ValueError where that is no number of them."""
    most = config.get("together")
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise ValueError(f"together must be a whole number of at least 1, which is each by itself; not {most!r}")
    return most


def of_size(config: DictConfig, small: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the size that was asked for sets; raises ValueError where the study has no such."""
    if config.size == "full":
        return {}
    if config.size != "small":
        raise ValueError(f"size must be full or small, not {config.size!r}")
    if not small:
        study = study_name(config.hydra.runtime.choices)
        raise ValueError(f"size=small is of studies that say what it is, and '{study}' does not")
    return {str(key): value for key, value in small.items()}


def _reason(result: JobReturn) -> str | None:
    return str(result._return_value) if result.status == JobStatus.FAILED else None


def _returned(job: Planned) -> JobReturn:
    """What a sweeper that searches gets to know: the score of validation, since the test is not there to choose by."""
    if job.folder.is_finished():
        score = job.folder.read()["validation_score"]
        return JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED, _return_value=score)
    error = SweepError(f"{job.folder.run} did not finish")
    return JobReturn(overrides=job.overrides, status=JobStatus.FAILED, _return_value=error)


for group, name, plugin in (("launcher", "in_process", SweepLauncher), ("sweeper", "study", StudySweeper)):
    ConfigStore.instance().store(
        group=f"hydra/{group}",
        name=name,
        node={"_target_": f"{plugin.__module__}.{plugin.__qualname__}"},
        provider="retrograde",
    )
