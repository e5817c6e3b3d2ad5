"""The launcher of this process, in the package where Hydra looks for plugins: its own, which counts the jobs."""

import os
from collections.abc import Sequence

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus

from retrograde.train.sweep import SIZE, SweepError


class InProcessLauncher(BasicLauncher):
    """One job after the other. A failed job does not keep the others from running."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        os.environ[SIZE] = str(initial_job_idx + len(job_overrides))
        results = super().launch(job_overrides, initial_job_idx)
        failed = sum(result.status == JobStatus.FAILED for result in results)
        if failed:
            # raised here, because Hydra would print the first job's failure once more and none of the others
            raise SweepError(f"{failed} of {len(results)} runs failed; what stands above says why")
        return results


ConfigStore.instance().store(
    group="hydra/launcher",
    name="in_process",
    node={"_target_": f"{InProcessLauncher.__module__}.{InProcessLauncher.__qualname__}"},
    provider="retrograde",
)
