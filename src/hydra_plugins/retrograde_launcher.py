"""What Hydra loads of this project: a sweeper that composes jobs fast, a launcher that sees each of them end.

The launcher launches through another one, Hydra's own or a plugin's: ``launcher=…`` chooses it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from retrograde.train.jobs import Composer, Planned
from retrograde.train.sweep import PLACE, SweepError, in_this_process, said_before, sweep, workers_end_first


class SweepLauncher(Launcher):
    """Launches what is left to do of a sweep through the launcher ``over``, by default in this process, one by one."""

    def __init__(self, over: Launcher | None = None) -> None:
        self.here = over is None
        self.launcher = BasicLauncher() if over is None else over

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra calls it."""
        assert isinstance(hydra_context.config_loader, ConfigLoaderImpl)
        self.composer = Composer(hydra_context.config_loader, config)
        self.launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        # a sweeper of another kind, which chooses what comes next by what has come, judges failures itself
        self.by_itself = config.hydra.sweeper._target_ == f"{StudySweeper.__module__}.{StudySweeper.__qualname__}"

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """As Hydra calls it."""
        total = initial_job_idx + len(job_overrides)
        jobs = [
            self.composer.planned(number, overrides)
            for number, overrides in enumerate(job_overrides, initial_job_idx + 1)
        ]

        def launch(chosen: Sequence[Planned]) -> Mapping[str, str | None]:
            every = [[*job.overrides, f"+hydra.job.env_set.{PLACE}='{job.number}/{total}'"] for job in chosen]
            with in_this_process() if self.here else workers_end_first(chosen):
                results = self.launcher.launch(every, initial_job_idx)
            return {job.folder.run: _reason(result) for job, result in zip(chosen, results, strict=True)}

        outcome = sweep(jobs, launch, lambda job: said_before(job, total), lambda line: print(line, flush=True))
        if self.by_itself:
            for line in outcome.lines():
                print(line, flush=True)
            if outcome.bad:
                raise SweepError(f"{outcome.bad} of {len(jobs)} runs did not finish")
        return [_returned(job) for job in jobs]


class StudySweeper(BasicSweeper):
    """Hydra's own, without its look at each job's configuration: the launcher composes all of them anyway."""

    def __init__(self, params: Any = None, max_batch_size: int | None = None) -> None:
        super().__init__(max_batch_size, params)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Left to the launcher."""


def _reason(result: JobReturn) -> str | None:
    return str(result._return_value) if result.status == JobStatus.FAILED else None


def _returned(job: Planned) -> JobReturn:
    """What a sweeper gets to know: the score."""
    if job.folder.is_finished():
        return JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED, _return_value=job.folder.read()["score"])
    error = SweepError(f"{job.folder.run} did not finish")
    return JobReturn(overrides=job.overrides, status=JobStatus.FAILED, _return_value=error)


for group, name, plugin in (("launcher", "in_process", SweepLauncher), ("sweeper", "study", StudySweeper)):
    ConfigStore.instance().store(
        group=f"hydra/{group}",
        name=name,
        node={"_target_": f"{plugin.__module__}.{plugin.__qualname__}"},
        provider="retrograde",
    )
