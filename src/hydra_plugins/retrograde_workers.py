"""The launchers that start a sweep's jobs in processes of their own, each through a package that loads when asked for.

``conf/launcher`` says what their settings are for.
"""

import logging
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from retrograde.core.choices import Unavailable
from retrograde.record.folder import RunFolder
from retrograde.train.closing import closing_line
from retrograde.train.sweep import GRACE, PLACE, InWorker, SweepError, at_a_time

PAUSE = {"local": 0.2, "slurm": 1.0}
"""Seconds between two looks at the jobs that submitit has started."""


def needed(module: str, setting: str, package: str, extra: str) -> Any:
    """The module; raises Unavailable, with the way to get it, where it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise Unavailable(f"{setting} needs {package}: pip install 'retrograde[{extra}]'") from error


def joblib(n_jobs: int, batch_size: int, pre_dispatch: int | str) -> Launcher:
    """The launcher of hydra-joblib-launcher."""
    plugin = "hydra_plugins.hydra_joblib_launcher.joblib_launcher"
    found = needed(plugin, "launcher=joblib", "hydra-joblib-launcher", "joblib")
    return found.JoblibLauncher(n_jobs=n_jobs, batch_size=batch_size, pre_dispatch=pre_dispatch)


class RayLauncher(Launcher):
    """Jobs as tasks of a Ray cluster, started as hydra-ray-launcher starts them."""

    def __init__(self, init: Mapping[str, Any], remote: Mapping[str, Any]) -> None:
        self.ray = needed("ray", "launcher=ray", "hydra-ray-launcher", "ray")
        self.plugin = needed(
            "hydra_plugins.hydra_ray_launcher._launcher_util", "launcher=ray", "hydra-ray-launcher", "ray"
        )
        self.init = dict(init)
        self.remote = OmegaConf.create(dict(remote))

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra calls it."""
        assert isinstance(task_function, InWorker)
        self.hydra_context = hydra_context
        self.task_function = replace(task_function, heeds_interrupts=True)  # by which Ray cancels a task
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """As Hydra calls it."""
        if not self.ray.is_initialized():
            before = {asked: signal.getsignal(asked) for asked in (signal.SIGINT, signal.SIGTERM)}
            self.ray.init(**self.init)
            for asked, handler in before.items():  # Ray has one that would leave at once
                signal.signal(asked, handler)
        tasks: dict[Any, Sequence[str]] = {}
        returned: dict[Any, JobReturn] = {}
        try:
            for number, overrides in enumerate(job_overrides, initial_job_idx):
                tasks[self._task(overrides, number)] = overrides
            while left := [task for task in tasks if task not in returned]:
                for task in self.ray.wait(left)[0]:
                    returned[task] = self._result(task, tasks[task])
        except BaseException:
            left = [task for task in tasks if task not in returned]
            for task in left:
                self.ray.cancel(task)
            self.ray.wait(left, num_returns=len(left), timeout=GRACE)
            raise
        return [returned[task] for task in tasks]

    def _task(self, overrides: Sequence[str], number: int) -> Any:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = f"{config.hydra.job.name}_{number}"
            config.hydra.job.num = number
        return self.plugin.launch_job_on_ray(
            self.hydra_context, self.remote, config, self.task_function, Singleton.get_state()
        )

    def _result(self, task: Any, overrides: Sequence[str]) -> JobReturn:
        try:
            return said(self.ray.get(task))
        except self.ray.exceptions.RayTaskError as error:
            reason = SweepError(str(error).strip().splitlines()[-1])
            return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=reason)
        except self.ray.exceptions.RayError:  # the worker was lost; the run's folder says what became of it
            return JobReturn(overrides=overrides, status=JobStatus.UNKNOWN)


def said(result: JobReturn) -> JobReturn:
    """The result, after the line that its job has printed where nobody looks."""
    assert result.hydra_cfg is not None  # which every job leaves that was begun
    folder = RunFolder(Path(result.hydra_cfg.hydra.runtime.output_dir))
    if result.status == JobStatus.COMPLETED and folder.is_finished():  # and not another launch's, still at work
        line = closing_line(folder, folder.read())
        print(f"[{result.hydra_cfg.hydra.job.env_set[PLACE]}] {line}", flush=True)
    return result


class SubmititLauncher(Launcher):
    """Jobs as processes of this machine, or as an array of SLURM.

    A job that SLURM pre-empts, or that runs out of time, keeps what it has and is queued again.
    """

    def __init__(
        self,
        cluster: Literal["local", "slurm"],
        folder: str,
        requeues: int,
        parameters: Mapping[str, Any],
        n_jobs: int = -1,
    ) -> None:
        if type(n_jobs) is not int or n_jobs == 0:
            raise ValueError(f"n_jobs must be a whole number other than 0, not {n_jobs!r}")
        self.cluster = cluster
        self.folder = folder
        self.requeues = requeues
        self.n_jobs = n_jobs
        content = OmegaConf.to_container(parameters, resolve=True) if OmegaConf.is_config(parameters) else parameters
        assert isinstance(content, Mapping)
        self.parameters = {str(name): value for name, value in content.items() if value is not None}
        option = {"local": "submitit_local", "slurm": "slurm"}[cluster]
        needed("submitit", f"launcher={option}", "submitit", "submitit")
        if cluster == "slurm" and shutil.which("srun") is None:
            raise Unavailable("launcher=slurm needs SLURM's commands, srun and sbatch, and finds none on the path")

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra calls it."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """As Hydra calls it."""
        import submitit

        logging.getLogger("submitit").setLevel(logging.ERROR)  # which warns of a SLURM that keeps no accounts
        executor = submitit.AutoExecutor(self.folder, cluster=self.cluster, slurm_max_num_timeout=self.requeues)
        executor.update_parameters(**self.parameters)
        given = [
            ([*overrides], number, Singleton.get_state())
            for number, overrides in enumerate(job_overrides, initial_job_idx)
        ]
        jobs: list[Any] = []
        returned: dict[int, JobReturn] = {}
        try:
            if self.cluster == "slurm":
                jobs += executor.map_array(self, *zip(*given, strict=True))
            while True:
                for place, job in enumerate(jobs):
                    if place not in returned and job.done():
                        returned[place] = self._result(job, given[place][0])
                if len(returned) == len(given):
                    return [returned[place] for place in range(len(given))]
                room = at_a_time(self.n_jobs) - (len(jobs) - len(returned))  # submitit itself starts all at once
                jobs += [executor.submit(self, *one) for one in given[len(jobs) :][: max(0, room)]]
                time.sleep(PAUSE[self.cluster])
        except BaseException:
            for job in jobs:
                job.cancel(check=False)
            while self.cluster == "local" and not all(job.done() for job in jobs):
                time.sleep(PAUSE["local"])
            raise

    def _result(self, job: Any, overrides: Sequence[str]) -> JobReturn:
        """Of one that has ended."""
        from submitit.core.utils import FailedJobError, UncompletedJobError

        try:
            return said(job.results()[0])
        except UncompletedJobError:  # the worker was lost; what became of its run stands in the run's folder
            return JobReturn(overrides=overrides, status=JobStatus.UNKNOWN)
        except FailedJobError as error:
            trace = str(error).partition("-\n")[2].partition("\n-")[0].strip().splitlines()
            reason = SweepError(f"{trace[-1] if trace else error}; {job.paths.stderr}")
            return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=reason)

    def __call__(self, overrides: list[str], number: int, singletons: dict[type, Singleton]) -> JobReturn:
        """One job, in its own process."""
        import submitit

        Singleton.set_state(singletons)
        setup_globals()
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = submitit.JobEnvironment().job_id
            config.hydra.job.num = number
        with _kept_before_the_end(submitit.JobEnvironment()._usr_sig()):
            result = run_job(
                hydra_context=self.hydra_context,
                task_function=self.task_function,
                config=config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
            stopped = result.status == JobStatus.FAILED and isinstance(result._return_value.__cause__, SystemExit)
            if stopped and self.cluster == "slurm":
                sys.exit(1)  # without a result, since SLURM starts what it has pre-empted once more
        return result

    def checkpoint(self, *arguments: Any) -> Any:
        """What submitit hands to SLURM when a job is queued again: the same, which goes on by itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)


@contextmanager
def _kept_before_the_end(number: signal.Signals) -> Iterator[None]:
    """For as long as this lasts, submitit's handler, which ends the process, comes after the run has kept all."""
    handler = signal.getsignal(number)
    assert callable(handler)  # submitit's own
    asked: list[FrameType | None] = []

    def keep(number: int, frame: FrameType | None) -> None:
        if asked or signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:  # there is no run yet that would heed it
            handler(number, frame)
        asked.append(frame)
        signal.raise_signal(signal.SIGTERM)

    signal.signal(number, keep)
    try:
        yield
    except SystemExit:
        if asked:
            handler(number, asked[0])
        raise
    finally:
        signal.signal(number, handler)
