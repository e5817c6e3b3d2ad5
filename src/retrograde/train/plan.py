"""What a launch would do, without doing it: its jobs, what is there of each, and what is left in time and on disk.

Every configuration that differs in more than the seed is built as a job builds it and takes a few steps, a validation,
two snapshots and a part of its tests; how many of each a run has follows from its settings. Where there are more
configurations than there is time, those that are the least alike have their turn first, and the others are taken for
the nearest of these. Nothing is written: tables and checkpoints are made in memory, to be weighed.
"""

import heapq
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig, OmegaConf

from retrograde.record.folder import CLAIMED, FAILED, FINISHED, status_of
from retrograde.record.metadata import number_of
from retrograde.train.closing import other_code
from retrograde.train.jobs import Planned
from retrograde.train.sweep import a_whole_record, at_a_time, require_same_data

if TYPE_CHECKING:  # torch loads when something is timed
    from retrograde.train.options import Identity, Job
    from retrograde.train.timing import Cost

LISTED = 20
"""Jobs, and configurations, that are listed where not all of them are asked for."""

SECONDS = 60.0
"""That timing may take, all configurations together."""

NO_MATTER = (
    *("seed", "steps", "study", "outputs", "progress", "launcher", "alerts", "plan", "trainer.stop_when_solved"),
    *("trainer.log_every", "trainer.validate_every", "probing.steps", "probing.per_decade", "probing.share"),
)
"""Settings that do not change what a step, a validation or a snapshot takes; how many there are is counted."""

KINDS = {"model._target_": 8.0, "task._target_": 8.0}
"""How far apart two configurations are that differ in these; 1 for any other, or factor of two."""

Make = Callable[[Planned], "tuple[Job, Identity]"]
"""Makes ready what a job needs, as the job itself would."""

BEFORE, ELSEWHERE, REFUSED = "finished before", "of another process", "to fail"
RESUMED, AGAIN, NEW = "to go on", "to run again", "new"


@dataclass(frozen=True)
class Standing:
    """What is there of a job: in a word to count by, in words, and the step from which it would go on."""

    job: Planned
    word: str
    words: str
    step: int = 0
    ended: bool = False

    @property
    def left(self) -> bool:
        """Whether this launch would run it."""
        return self.word in (RESUMED, AGAIN, NEW)


def wanted(value: Any) -> Literal["some", "all"] | None:
    """What ``plan=`` asks for: a list of some jobs or of all; None where the jobs are to be run."""
    if value is not True and value is not False and value != "all":
        raise ValueError(f"plan must be true, false or all, not {value!r}")
    return "all" if value == "all" else "some" if value else None


def plan(
    jobs: Sequence[Planned],
    make: Make,
    workers: int,
    every: bool,
    say: Callable[[str], None],
    seconds: float = SECONDS,
) -> None:
    """Say what a launch of these jobs would do, by ``workers`` at a time; timing takes so many seconds at most."""
    standings = [standing(job) for job in jobs]
    for line in listed(standings, every):
        say(line)
    left = [one for one in standings if one.left]
    if not left:
        return
    for line in estimated(left, make, workers, every, seconds):
        say(line)


def standing(job: Planned) -> Standing:
    """What the job's folder says, and so what a launch would do with it."""
    status = status_of(job.folder)
    if status == CLAIMED:
        owner = job.folder.owner()
        who = "" if owner is None else f", {owner[0]} on {owner[1]}"  # it may have ended just now
        return Standing(job, ELSEWHERE, f"another process is at work on it{who}")
    if status is None:
        return Standing(job, NEW, "new")
    try:
        if status == FINISHED:
            require_same_data(job)
            with a_whole_record(job.folder):
                return Standing(job, BEFORE, f"finished before{other_code(job.folder.read())}")
        if status == FAILED:
            reason = job.folder.read().get("reason") or "for a reason that is not recorded"
            return Standing(job, AGAIN, f"runs again, since it failed: {_short(reason)}")
    except ValueError as error:  # with which the launch fails as well
        return Standing(job, REFUSED, f"would fail: {_short(error)}")
    return _resumed(job)


def _resumed(job: Planned) -> Standing:
    from retrograde.train.checkpoints import newest
    from retrograde.train.devices import device_kind
    from retrograde.train.options import TrainerSettings

    given = {key: value for key, value in job.settings["trainer"].items() if not key.startswith("_")}
    try:
        found = newest(job.folder.checkpoints, device_kind(TrainerSettings(**given)))
    except ValueError as error:
        return Standing(job, AGAIN, f"runs again, since {error}")
    place = "its test" if found.ended else f"step {found.mark.step} of {job.settings['steps']}"
    return Standing(job, RESUMED, f"goes on from {place}", found.mark.step, found.ended)


def listed(standings: Sequence[Standing], every: bool) -> Iterator[str]:
    """All that is there of the jobs, in numbers, and the jobs one by one."""
    counts = {word: sum(one.word == word for one in standings) for word in dict.fromkeys(s.word for s in standings)}
    places = sorted({str(one.job.folder.path.parent) for one in standings})
    told = ", ".join(f"{count} {word}" for word, count in counts.items())
    yield f"{number_of(len(standings), 'run')}: {told}; {' '.join(places)}"
    shown = [one for place, one in enumerate(standings) if every or place < LISTED or one.word == REFUSED]
    for one in shown:
        yield f"  [{one.job.number}/{len(standings)}] {one.job.folder.run} {one.words}"
    if len(shown) < len(standings):
        yield f"  and {len(standings) - len(shown)} more; plan=all lists them all"


@dataclass
class Configuration:
    """Runs that take the same time but for their numbers of steps."""

    settings: dict[str, Any]
    runs: list[Standing]
    cost: "Cost | None" = None
    failure: str | None = None
    timed: bool = False


def estimated(
    left: Sequence[Standing], make: Make, workers: int, every: bool, seconds: float = SECONDS
) -> Iterator[str]:
    """Time and disk of what is left, configuration by configuration and in all."""
    configurations = configured(left)
    begun = time.perf_counter()
    loaded = time_them(configurations, make, seconds)
    taken = time.perf_counter() - begun
    for one in configurations if every else configurations[:LISTED]:
        yield f"  {_label(one, left)}: {_told(one)}"
    if not every and len(configurations) > LISTED:
        yield f"  and {len(configurations) - LISTED} other configurations"
    durations = [
        one.cost.seconds(run.job.settings, run.step, run.ended)
        for one in configurations
        if one.cost is not None and one.failure is None
        for run in one.runs
    ]
    disk = sum(one.cost.disk(run.job.settings) for one in configurations if one.cost for run in one.runs)
    failing = sum(len(one.runs) for one in configurations if one.failure)
    if durations:
        wall = loaded + wall_time(durations, workers)
        how = "one after the other" if workers == 1 else f"{workers} at a time"
        alone = "" if len(durations) == 1 else f" {how}"
        yield f"left: {number_of(len(durations), 'run')}, about {in_words(wall)}{alone}, {in_bytes(disk)}"
        if any(one.runs[0].job.settings["trainer"]["stop_when_solved"] for one in configurations):
            yield "  a run whose task is solved ends earlier than that"
    if failing:
        yield f"{number_of(failing, 'run')} would fail as said above"
    timed = [one for one in configurations if one.timed]
    others = [one for one in configurations if not one.timed]
    nearest = number_of(sum(len(one.runs) for one in others), "run")
    yield f"  timed {number_of(len(timed), 'configuration')} in {in_words(taken)}" + (
        f"; {nearest} of {number_of(len(others), 'other')} taken for the nearest" if others else ""
    )


def configured(left: Sequence[Standing]) -> list[Configuration]:
    """The runs by what bears on the time of a step, in the order of their first."""
    found: dict[str, Configuration] = {}
    for one in left:
        settings = bearing(one.job.settings)
        found.setdefault(repr(sorted(settings.items())), Configuration(settings, [])).runs.append(one)
    return list(found.values())


def bearing(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every single setting that time may hang on, by its full name; of a fraction only whether it is 0.

    A learning rate, or a share of dropout, makes nothing slower.
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if name in NO_MATTER:
            continue
        if isinstance(value, Mapping):
            found |= bearing(value, f"{name}.")
        else:
            found[name] = bool(value) if isinstance(value, float) else value
    return found


def time_them(configurations: Sequence[Configuration], make: Make, seconds: float) -> float:
    """Give every configuration its cost; the seconds that loading all that a first run needs has taken come back."""
    begun = time.perf_counter()
    from retrograde.train.timing import timed

    loaded = time.perf_counter() - begun
    begun = time.perf_counter()
    warm = False
    for place, one in enumerate(unlike(configurations)):
        left = seconds - (time.perf_counter() - begun)
        if left <= 0 and any(other.cost for other in configurations):
            break
        allowance = left / (len(configurations) - place)
        one.timed = True
        job = one.runs[0].job
        try:
            if not warm:  # the first of a process pays for all
                timed(partial(make, job), 0.0)
                warm = True
            one.cost = timed(partial(make, job), allowance)
        except Exception as error:  # whatever it is, the run would end with it
            one.failure = _short(error)
    known = [one for one in configurations if one.cost is not None]
    for one in configurations:
        if not one.timed and known:
            one.cost = min(known, key=lambda other: distance(one.settings, other.settings)).cost
    return loaded


def unlike(configurations: Sequence[Configuration]) -> Iterator[Configuration]:
    """All of them, the one with the most runs first, and then always the one that is furthest from those before it."""
    left = sorted(configurations, key=lambda one: -len(one.runs))
    apart = [math.inf] * len(left)
    while left:
        place = max(range(len(left)), key=apart.__getitem__)
        chosen = left.pop(place)
        apart.pop(place)
        yield chosen
        apart = [min(d, distance(chosen.settings, one.settings)) for d, one in zip(apart, left, strict=True)]


def distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """How unlike two configurations are: numbers by their ratio, everything else by whether it is the same."""
    if one is other:
        return 0.0
    differing = {key for key, _ in one.items() ^ other.items()} if _hashable(one, other) else one.keys() | other.keys()
    return sum(_apart(key, one.get(key), other.get(key)) for key in differing)


def _hashable(*settings: Mapping[str, Any]) -> bool:
    return not any(isinstance(value, list) for one in settings for value in one.values())


def _apart(key: str, one: Any, other: Any) -> float:
    if one == other:
        return 0.0
    if all(isinstance(value, int) and value > 0 for value in (one, other)):
        return abs(math.log2(one / other))
    return KINDS.get(key, 1.0)


def wall_time(durations: Iterable[float], workers: int) -> float:
    """Seconds until the last run has ended, each begun in its turn by the first worker that is free."""
    free = [0.0] * workers
    for duration in durations:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def workers_of(config: DictConfig, jobs: int) -> int:
    """How many runs the chosen launcher carries out at a time."""
    over = OmegaConf.select(config, "hydra.launcher.over")
    if over is None:
        return 1
    given = OmegaConf.select(over, "n_jobs") or OmegaConf.select(over, "parameters.slurm_array_parallelism")
    return min(at_a_time(-1 if given is None else int(given)), jobs)


def in_words(seconds: float) -> str:
    """A duration as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def in_bytes(size: float) -> str:
    """A size as a person says it."""
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.3g} {unit}"
    return f"{size / 1000:.3g} TB"


def _told(one: Configuration) -> str:
    number = number_of(len(one.runs), "run")
    if one.failure is not None:
        return f"{number} would fail: {one.failure}"
    if one.cost is None:
        return f"{number}, not timed"
    longest = max(one.cost.seconds(run.job.settings) for run in one.runs)
    size = in_bytes(max(one.cost.disk(run.job.settings) for run in one.runs))
    step = f"{1000 * one.cost.step:.3g} ms a step, " if one.cost.learns else ""
    return f"{step}{in_words(longest)} and {size} a run, {number}{'' if one.timed else ', taken for the nearest'}"


def _label(one: Configuration, left: Sequence[Standing]) -> str:
    """Model and task, and what its first job sets otherwise than others do."""
    job = one.runs[0].job
    stem = job.folder.run.rpartition("-s")[0]
    shared = set(left[0].job.overrides).intersection(*(run.job.overrides for run in left))
    told = [text for text in job.overrides if text not in shared and text.partition("=")[0] not in UNTOLD]
    return " ".join([stem, *told])


UNTOLD = ("seed", "model", "task")


def _short(error: object) -> str:
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= 200 else f"{line[:197]}..."
