"""``retrograde``: the command that trains one run or a sweep of them."""

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from retrograde.record.folder import CLAIM, FAILED, FINISHED, Claimed, RunFolder, run_name
from retrograde.train.closing import alert_lines, closed_before, closing_line
from retrograde.train.configuration import common_keys, config_folder, options
from retrograde.train.errors import first_line, flags_first, in_one_line
from retrograde.train.jobs import Composer, Planned, settings_of, study_name
from retrograde.train.settings import check_against, check_keys, check_types, fits, takes
from retrograde.train.sweep import GROUP, IN_THIS_PROCESS, Group, SweepError, place

if TYPE_CHECKING:  # torch loads when a run begins
    from retrograde.core.contracts import SequenceModel, Task
    from retrograde.train.options import Identity, Job

FULL_ERROR = "HYDRA_FULL_ERROR"
INTERRUPTED = "retrograde: interrupted"
NO_FOLDER = ["hydra.run.dir=.", "hydra.output_subdir=null"]
"""What keeps Hydra from making a folder for a single run that is only planned."""

TRACEBACK_WANTED = os.environ.get(FULL_ERROR) == "1"


def main() -> None:
    """Errors reach a person as one line; with HYDRA_FULL_ERROR=1, as the traceback that they are."""
    OmegaConf.register_new_resolver("study_folder", study_folder, replace=True)
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
    settle()
    if TRACEBACK_WANTED:
        _command()
        return
    os.environ[FULL_ERROR] = "1"  # else Hydra prints the error itself, over many lines
    try:
        _command()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except SystemExit as end:
        # 1 and None are what Lightning makes of SIGINT and SIGTERM
        sys.exit(INTERRUPTED if end.code in (1, None) else end.code)
    except Exception as error:
        sys.exit(f"retrograde: {in_one_line(error, sys.argv[1:])}")


def settle() -> None:
    """Where nothing can be written at home, what libraries keep there goes to a temporary folder.

    W&B and matplotlib would each say so over several lines, or fail.
    """
    home = Path.home()
    if os.access(home, os.W_OK) and home.is_dir():
        return
    instead = Path(tempfile.gettempdir()) / f"retrograde-{os.getuid()}"
    for variable in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "MPLCONFIGDIR"):
        os.environ.setdefault(variable, str(instead / variable.lower()))
    for variable in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        os.environ.setdefault(variable, str(instead / "wandb"))
    print(f"retrograde: '{home}' cannot be written to: what libraries keep there goes to {instead}", file=sys.stderr)


def _command() -> None:
    require_one_study(sys.argv[1:])
    sys.argv[1:] = flags_first(spelled_out(sys.argv[1:]))
    if any(argument.lstrip("+").startswith("plan=") and argument != "plan=false" for argument in sys.argv[1:]):
        sys.argv += NO_FOLDER
    hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="train")(job)()


def require_one_study(arguments: Sequence[str]) -> None:
    """Raise ValueError for several: Hydra would take each for a setting of one run, and leave out what it sweeps."""
    for argument in arguments:
        if argument.startswith("study=") and OverridesParser.create().parse_override(argument).is_sweep_override():
            raise ValueError(f"'{argument}': one study at a time; give the command once for each")


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """``seeds=8`` as what it is short for, a sweep over so many seeds from that of the run on.

    >>> spelled_out(["model=gru", "seed=3", "seeds=2"])
    ['model=gru', '-m', 'seed=range(3,5)']

    Raises ValueError where it is no number, or ``seed`` is several already.
    """
    given = [argument for argument in arguments if argument.startswith("seeds=")]
    if not given:
        return list(arguments)
    count, first = given[-1].removeprefix("seeds="), "0"
    for argument in arguments:
        if argument.startswith("seed="):
            first = argument.removeprefix("seed=")
    if not count.isdecimal() or int(count) < 1:
        raise ValueError(f"seeds must be how many, a whole number of at least 1; not {count}")
    if not first.isdecimal():
        raise ValueError(f"seeds={count} begins with one seed, not with seed={first}")
    if any(argument.startswith("sweeper=") for argument in arguments):
        raise ValueError(
            f"seeds={count} asks for every seed, and a sweeper that searches for some: give it seed=… itself"
        )
    rest = [argument for argument in arguments if not argument.startswith(("seeds=", "seed="))]
    multirun = [] if {"-m", "--multirun"} & set(rest) else ["-m"]
    return [*rest, *multirun, f"seed=range({first},{int(first) + int(count)})"]


def study_folder(*, _root_: DictConfig) -> str:
    """The study's folder below ``outputs``."""
    if not isinstance(_root_.outputs, str):
        raise ValueError(f"outputs must be the name of a folder, not {_root_.outputs}")
    return study_name(_root_.hydra.runtime.choices)


def run_folder(*, _root_: DictConfig) -> str:
    """The run's name, from the settings alone."""
    choices = _root_.hydra.runtime.choices
    for group in ("model", "task"):
        if not isinstance(choices.get(group), str):
            raise ValueError(f"choose one {group}: {', '.join(options(group, config_folder()))}")
    return run_name(choices.model, choices.task, run_config(_root_))


def run_config(config: DictConfig) -> dict[str, Any]:
    """The settings of a run, without Hydra's own."""
    study = study_name(config.hydra.runtime.choices if "hydra" in config else HydraConfig.get().runtime.choices)
    content = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    return settings_of(content, study, common_keys())


def job(config: DictConfig) -> float | None:
    """One run, in the folder that Hydra has made for it, and its score; None where another process is at work on it."""
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        if not in_sweep and config.get("size", "full") != "full":
            raise ValueError(f"size={config.size} is of studies: choose one with study=…, see retrograde-list studies")
        if config.get("plan", False) is not False:
            _planned(config, in_sweep)
            return None
        group = GROUP.get()
        if group is not None:
            _carried_out_together(config, group)
            return None
        line, score = _carried_out(config)
    except (KeyboardInterrupt, SystemExit) as error:
        if not in_sweep or IN_THIS_PROCESS.get():
            raise
        raise SweepError(f"interrupted by {error}") from error  # the launching process hears of it, and goes on
    except Exception as error:
        if in_sweep and isinstance(error, Claimed):
            return None
        if TRACEBACK_WANTED:
            raise
        message = in_one_line(error, sys.argv[1:])
        if not in_sweep:
            _leave_nothing()
            sys.exit(f"retrograde: {message}")  # past Hydra, which would add lines of its own
        print(f"retrograde: {message}", file=sys.stderr, flush=True)  # at once, since the sweep goes on
        _record_failure(RunFolder(Path(HydraConfig.get().runtime.output_dir)), run_config(config), message)
        raise SweepError(message) from error
    if is_first():
        print(line, flush=True)
    return score


def is_first() -> bool:
    """Of the processes of one run, as torchrun counts them."""
    return os.environ.get("RANK", "0") == "0"


def _leave_nothing() -> None:
    """Of a command that was refused before it became a run, what Hydra has put down is no run either."""
    folder, own = RunFolder(Path(HydraConfig.get().runtime.output_dir)), HydraConfig.get().output_subdir
    if own is None or not folder.path.is_dir() or folder.owner() is not None:
        return
    if {path.name for path in folder.path.iterdir()} <= {own, CLAIM}:
        shutil.rmtree(folder.path)


def _record_failure(folder: RunFolder, settings: dict[str, Any], reason: str) -> None:
    """Of a job that failed before it became a run: what is known of it, so that it is not missed among the others."""
    if (folder.path / "run.json").exists() and folder.read()["status"] in (FAILED, FINISHED):
        return
    choices = HydraConfig.get().runtime.choices
    who = {"run": folder.run, "study": settings["study"], "model": choices["model"], "task": choices["task"]}
    folder.write({**who, "seed": settings["seed"], "status": FAILED, "reason": reason, "config": settings})


def _planned(config: DictConfig, in_sweep: bool) -> None:
    """What the run would be."""
    from retrograde.train.plan import plan, wanted

    every = wanted(config.plan) == "all"
    if in_sweep:
        raise ValueError(f"plan={config.plan} is asked of a whole sweep, not of some of its runs")
    settings, choices = run_config(config), HydraConfig.get().runtime.choices
    place = Path(config.outputs).resolve() / settings["study"]
    folder = RunFolder(place / run_name(str(choices["model"]), str(choices["task"]), settings))
    plan([Planned(1, (), folder, settings)], lambda job: _ready(config, settings, choices)[:2], 1, every, say)


def plan_sweep(composer: Composer, jobs: Sequence[Planned]) -> None:
    """What the jobs of a sweep would be."""
    from retrograde.train.plan import plan, wanted, workers_of

    def make(job: Planned) -> "tuple[Job, Identity]":
        config = composer.loader.load_sweep_config(composer.master, list(job.overrides))
        return _ready(config, job.settings, config.hydra.runtime.choices)[:2]

    every = wanted(composer.master.plan) == "all"
    plan(jobs, make, workers_of(composer.master, len(jobs)), every, say)


def say(line: str) -> None:
    """At once, also into a file."""
    print(line, flush=True)


def _carried_out(config: DictConfig) -> tuple[str, float]:
    from retrograde.train.job import carry_out, require_same_source
    from retrograde.train.options import Prepared

    settings = run_config(config)
    choices = HydraConfig.get().runtime.choices
    folder = RunFolder(Path(HydraConfig.get().runtime.output_dir))
    where = place()
    prefix = f"[{where[0]}/{where[1]}] " if where else ""
    if folder.is_finished():
        require_same_source(folder, _made(settings["task"], "task"))
        result = folder.read()
        return f"{prefix}{closed_before(folder, result, settings)}", result["score"]
    run, identity, settings = _ready(config, settings, choices)
    result = carry_out(Prepared(run, folder, identity, settings), settings["progress"])
    return "\n".join([f"{prefix}{closing_line(folder, result)}", *alert_lines(result)]), result["score"]


def _carried_out_together(config: DictConfig, group: Group) -> None:
    """The jobs of a group, of which ``config`` is the first; what became of each is said as if it were by itself."""
    from retrograde.train.job import carry_out_together
    from retrograde.train.options import Prepared

    choices = HydraConfig.get().runtime.choices
    ready: list[tuple[Planned, Prepared]] = []
    for job in group.jobs:
        own = config.copy()
        OmegaConf.update(own, "seed", job.settings["seed"])
        if "lr" in job.settings["optimizer"]:
            OmegaConf.update(own, "optimizer.lr", job.settings["optimizer"]["lr"])
        try:
            run, identity, settings = _ready(own, job.settings, choices)
            _leave_configuration(own, job)
        except Exception as error:
            _failed(job, group, error)
        else:
            ready.append((job, Prepared(run, job.folder, identity, settings)))
    interrupted: BaseException | None = None
    for (job, _), result in zip(
        ready, carry_out_together([run for _, run in ready], config.progress, if_faster=True), strict=True
    ):
        if isinstance(result, (KeyboardInterrupt, SystemExit)):
            interrupted = result
        elif isinstance(result, BaseException):
            if not isinstance(result, Claimed):  # else another process is at work on it
                _failed(job, group, result)
        else:
            closing = f"[{job.number}/{group.total}] {closing_line(job.folder, result)}"
            say("\n".join([closing, *alert_lines(result)]))
    if interrupted is not None:
        raise interrupted


def _failed(job: Planned, group: Group, error: BaseException) -> None:
    """Say and record it; the others go on."""
    message = in_one_line(error, sys.argv[1:])
    print(f"retrograde: {message}", file=sys.stderr, flush=True)
    _record_failure(job.folder, job.settings, message)
    group.reasons[job.folder.run] = message


def _leave_configuration(config: DictConfig, job: Planned) -> None:
    """What Hydra leaves in the folder of a job that it launches."""
    place = job.folder.path / ".hydra"
    place.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, place / "config.yaml")
    OmegaConf.save(OmegaConf.create(list(job.overrides)), place / "overrides.yaml")


def _ready(config: DictConfig, settings: dict[str, Any], choices: Any) -> "tuple[Job, Identity, dict[str, Any]]":
    """Everything that a run with these settings needs, and the settings with the width that a budget leaves."""
    from retrograde.train.fit import fit
    from retrograde.train.options import Identity, Job, ProbingSettings

    if not fits(settings["width"], int) or settings["width"] < 1:
        raise ValueError(f"width must be a whole number of at least 1, not {settings['width']!r}")
    check_types(settings)
    check_keys(settings["probing"], takes(ProbingSettings), "probing.")
    check_against(ProbingSettings, settings["probing"], "probing.")
    check_against(fit, settings)
    task = _made(settings["task"], "task")
    identity = Identity(settings["study"], str(choices["model"]), str(choices["task"]))
    settings = sized(config, settings, task, identity)
    run = Job(
        model=_made(settings["model"], "model"),
        task=task,
        probes={name: _made(probe, f"probe.{name}") for name, probe in settings.get("probe", {}).items()},
        seed=settings["seed"],
        steps=settings["steps"],
        batch_size=settings["batch_size"],
        optimizer=_made(settings["optimizer"], "optimizer"),
        scheduler=None if settings["scheduler"] is None else _made(settings["scheduler"], "scheduler"),
        trainer=_made(settings["trainer"], "trainer"),
        probing=ProbingSettings(**settings["probing"]),
        recorder=_made(settings["recorder"], "recorder"),
        alerts=_made(settings["alerts"], "alerts"),
        regularizer=None if settings["regularizer"] is None else _made(settings["regularizer"], "regularizer"),
    )
    return run, identity, settings


def sized(config: DictConfig, settings: dict[str, Any], task: "Task", identity: "Identity") -> dict[str, Any]:
    """The settings with the width that the budget leaves, where there is a budget.

    The run's name is that of the settings as they were given.
    """
    if settings["budget"] is None:
        return settings
    import torch

    from retrograde.train.job import fitting

    def of_width(width: int) -> dict[str, Any]:
        resized = config.copy()
        resized.width = width
        return run_config(resized)

    def build(width: int) -> "SequenceModel":
        with torch.random.fork_rng():  # the caller's random numbers go on as if nothing had been tried
            return _made(of_width(width)["model"], "model")(task)

    fitting(build(settings["width"]), task, identity)

    return of_width(_made(settings["budget"], "budget").width(task, build))


def _made(part: Any, name: str) -> Any:
    """What a part of the settings stands for; an error in making it names the part.

    One by one: inside a larger mapping Hydra would turn a task, a dataclass, back into a configuration.
    """
    from hydra.utils import instantiate

    if not isinstance(part, dict) or "_target_" not in part:
        raise ValueError(f"{name} must be a group of settings with a _target_, not {part!r}")
    try:
        return instantiate(part)
    except InstantiationException as error:
        message = first_line(error.__cause__ or error)
        raise ValueError(message if message.startswith(name) else f"{name}: {message}") from error
