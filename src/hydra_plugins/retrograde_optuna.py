"""A sweeper that lets Optuna choose what is tried next, by the scores of what was tried.

What Optuna knows lies in its storage, and what was tried in the folders of the runs. So a search that was stopped goes
on: with the trials that had not ended, then with new ones, until there are so many in all.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.retrograde_launcher import SweepLauncher, of_size
from hydra_plugins.retrograde_workers import needed
from retrograde.record.folder import config_hash
from retrograde.record.metadata import number_of
from retrograde.train.errors import first_line
from retrograde.train.jobs import Composer
from retrograde.train.sweep import SweepError

if TYPE_CHECKING:  # an optional package
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


class OptunaSweeper(Sweeper):
    """``conf/sweeper/optuna.yaml`` says what each setting is for."""

    def __init__(
        self,
        sampler: DictConfig,
        direction: Literal["maximize", "minimize"],
        n_trials: int,
        n_jobs: int,
        storage: str | None,
        study_name: str | None,
        params: Mapping[str, Any] | None,
        small: Mapping[str, Any] | None = None,
        claims: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.optuna = needed("optuna", "sweeper=optuna", "optuna", "optuna")
        if n_trials < 1 or n_jobs < 1:
            raise ValueError(f"n_trials and n_jobs must be at least 1, not {n_trials} and {n_jobs}")
        self.sampler = sampler
        self.direction = direction
        self.n_trials = n_trials
        self.n_jobs = n_jobs
        self.storage = storage
        self.study_name = study_name
        self.params = dict(params or {})
        self.small = small

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra calls it."""
        assert isinstance(hydra_context.config_loader, ConfigLoaderImpl)
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        assert isinstance(launcher, SweepLauncher)  # train.yaml chooses it
        self.launcher = launcher
        self.config = config
        self.params |= of_size(config, self.small)
        self.composer = Composer(hydra_context.config_loader, config)
        self.parser = OverridesParser.create(config_loader=hydra_context.config_loader)

    def sweep(self, arguments: list[str]) -> None:
        """As Hydra calls it, with what the command line sets or leaves open."""
        assert self.config is not None and isinstance(self.launcher, SweepLauncher)  # from setup
        given = self.parser.parse_overrides([f"{key}={value}" for key, value in self.params.items()] + arguments)
        latest = {override.get_key_element(): override for override in given}
        space = {
            key: _distribution(override, OmegaConf.select(self.config, key))
            for key, override in latest.items()
            if override.is_sweep_override()
        }
        fixed = [str(override.input_line) for override in latest.values() if not override.is_sweep_override()]
        if not space:
            raise ValueError(
                "sweeper=optuna has nothing to choose: leave a setting open, such as 'width=interval(8,64)'"
            )
        if self.config.plan is not False:
            self.launcher.launch([], 0)  # which says why this cannot be planned
        study = self._study(space, fixed)
        self.launcher.total = self.n_trials
        failed = 0
        left = [trial for trial in study.get_trials(deepcopy=False) if self._is_left(trial, space, fixed)]
        begun = len(study.get_trials(deepcopy=False)) - len(left)
        while begun < self.n_trials and (batch := left[: self.n_jobs] or self._asked(study, space)):
            del left[: len(batch)]
            chosen = {trial.number: self._overrides(trial.params, fixed) for trial in batch}
            failed += self._tried(study, chosen, begun)
            begun += len(batch)
        for line in self._lines(study):
            print(line, flush=True)
        if failed:
            raise SweepError(f"{failed} of {number_of(self.n_trials, 'trial')} failed")

    def _study(self, space: Mapping[str, "BaseDistribution"], fixed: Sequence[str]) -> "Study":
        """The one of this name in the storage, or a new one; its name, unless given, is that of what is searched."""
        self.optuna.logging.set_verbosity(self.optuna.logging.WARNING)
        settings = dict(text.partition("=")[::2] for text in fixed)
        open_ = {key: repr(distribution) for key, distribution in space.items()}
        content = {"direction": self.direction} | settings | open_
        try:
            study = self.optuna.create_study(
                study_name=self.study_name or f"search-{config_hash(content)}",
                storage=self.storage,
                direction=self.direction,
                load_if_exists=True,
            )
        except Exception as error:  # each database has one of its own
            raise ValueError(f"hydra.sweeper.storage: {first_line(error)}") from error
        if study.direction.name.lower() != self.direction:
            raise ValueError(
                f"hydra.sweeper.direction: '{study.study_name}' is there to {study.direction.name.lower()}"
            )
        sampler = OmegaConf.to_container(self.sampler, resolve=True)
        assert isinstance(sampler, dict)
        if sampler.get("seed") is not None:  # else it would begin again with what it tried first
            sampler["seed"] += len(study.get_trials(deepcopy=False))
        study.sampler = instantiate(sampler)
        return study

    def _asked(self, study: "Study", space: Mapping[str, "BaseDistribution"]) -> list[Any]:
        """New trials, so many at a time, and in all."""
        room = self.n_trials - len(study.get_trials(deepcopy=False))
        return [study.ask(dict(space)) for _ in range(min(self.n_jobs, room))]

    def _is_left(self, trial: "FrozenTrial", space: Mapping[str, Any], fixed: Sequence[str]) -> bool:
        """Whether an earlier launch began the trial, with these settings open, and nobody is at work on it."""
        if trial.state.is_finished() or trial.params.keys() != space.keys():
            return False
        return self.composer.planned(1, self._overrides(trial.params, fixed)).folder.owner() is None

    def _overrides(self, params: Mapping[str, Any], fixed: Sequence[str]) -> tuple[str, ...]:
        return *fixed, *(f"{key}={value}" for key, value in params.items())

    def _tried(self, study: "Study", chosen: Mapping[int, tuple[str, ...]], begun: int) -> int:
        """Launches trials and tells the study their scores; how many of them failed."""
        assert self.launcher is not None  # from setup
        different = list(dict.fromkeys(chosen.values()))
        try:
            returned = dict(zip(different, self.launcher.launch(different, begun), strict=True))
        except Exception:
            for number in chosen:
                study.tell(number, state=self.optuna.trial.TrialState.FAIL, skip_if_finished=True)
            raise
        failed = 0
        for number, overrides in chosen.items():
            score = _score(returned[overrides])
            state = None if score is not None else self.optuna.trial.TrialState.FAIL
            study.tell(number, score, state, skip_if_finished=True)  # another launch may have taken it over
            failed += score is None
        return failed

    def _lines(self, study: "Study") -> list[str]:
        """What was found, for a person."""
        states = [trial.state.name.lower() for trial in study.get_trials(deepcopy=False)]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        lines = [f"{number_of(len(states), 'trial')} of '{study.study_name}': {counts}"]
        if "complete" in states:
            settings = " ".join(f"{key}={value}" for key, value in study.best_params.items())
            lines.append(f"  best score {study.best_value:.4g}: {settings}")
        return lines


def _score(result: JobReturn) -> float | None:
    """None where the job failed, or its score is no number."""
    value = result.return_value if result.status == JobStatus.COMPLETED else None
    return None if value is None or value != value else float(value)


def _distribution(override: Override, now: Any) -> "BaseDistribution":
    """What a setting is chosen from: an interval, a range of evenly spaced whole numbers, or a list.

    Hydra reads the ends of an interval as fractions; a setting that is a whole number ``now`` stays one.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None and value.end is not None
        log = "log" in value.tags
        if type(now) is int:
            return IntDistribution(round(value.start), round(value.end), log=log)
        return FloatDistribution(value.start, value.end, log=log)
    if isinstance(value, RangeSweep) and not value.shuffle and isinstance(numbers := value.range(), range):
        return IntDistribution(min(numbers), max(numbers), step=abs(numbers.step))
    return CategoricalDistribution(list(override.sweep_string_iterator()))
