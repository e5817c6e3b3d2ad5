"""What a sweep costs beyond its training, and how long a person waits for the command.

    python benchmarks/sweep.py              about 4 minutes on two cores
    python benchmarks/sweep.py --jobs 3 --plan 200 --starts 1     a look at whether it runs

The machine should do nothing else. Beside the seconds on the clock stand those of the processor, which another process
stretches less.

- A job's overhead is what it takes from the moment that the job before it has ended, less its steps of training, its
  validations and its tests. The jobs are tiny, recorded by W&B offline and probed as by default; the first of them,
  for which everything is loaded, does not count. Its parts are timed where they are called: what one of them calls of
  another is counted for the inner one alone.
- A start is a process of the installed command, from its begin to its end; the median of several.
- A plan is of many jobs of few configurations, whose timing does not count.
"""

import argparse
import contextlib
import importlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measuring import Ratio, keep, machine

COMMAND = Path(sys.executable).parent / "retrograde"

TINY = ("width=8", "task.length=10", "steps=5", "trainer.threads=1", "trainer.accelerator=cpu", "progress=false")

OVERHEAD, HELP, CONFIGURATION, PLAN = "overhead of a job", "retrograde --help", "retrograde --cfg job", "a plan"

GOALS = {OVERHEAD: 0.8, HELP: 1.5, CONFIGURATION: 2.0, PLAN: 120.0}
"""Seconds."""

PARTS = {
    "composition": ["hydra._internal.config_loader_impl:ConfigLoaderImpl.load_sweep_config"],
    "job's folder and .hydra": ["hydra.core.utils:_save_config"],
    "W&B, opening": ["retrograde.record.view:WandbView.__init__"],
    "W&B, closing": ["retrograde.record.view:WandbView.close"],
    "provenance": ["retrograde.train.job:provenance"],
    "probes": ["retrograde.train.probing:Probing.fire"],
    "checkpoints": ["retrograde.train.checkpoints:Checkpoints.save"],
    "tables, merging": ["retrograde.record.tables:TableWriter.merge"],
    "alerts": ["retrograde.train.job:alerts"],
    "tests": ["retrograde.train.job:_tested"],
    "validation": ["retrograde.train.module:Training._validate"],
    "steps": ["retrograde.train.module:Training.training_step", "torch:Tensor.backward", "torch.optim:Adam.step"],
}
"""What is timed, by the name that it is called by."""

TRAINING = ("steps", "validation", "tests", "probes")
"""Parts that are the run itself: what they take is no overhead."""


@dataclass(frozen=True)
class Options:
    """How many jobs are run, are planned, and how often the command is started."""

    jobs: int
    plan: int
    starts: int

    def __post_init__(self) -> None:
        for name, least in (("jobs", 2), ("plan", 1), ("starts", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} must be at least {least}, not {getattr(self, name)}")


class Clock:
    """Seconds, on the clock and of the processor, of what is called within it, each by its own name alone."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)
        self.open: list[list[float]] = []

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            self.open.append([0.0, 0.0])
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                taken = time.perf_counter() - wall, time.process_time() - cpu
                inner = self.open.pop()
                self.wall[name] += taken[0] - inner[0]
                self.cpu[name] += taken[1] - inner[1]
                if self.open:
                    self.open[-1][0] += taken[0]
                    self.open[-1][1] += taken[1]

        return called

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """For as long as this lasts, all parts are timed."""
        before = []
        for name, places in PARTS.items():
            for place in places:
                module, _, path = place.partition(":")
                *owners, last = path.split(".")
                owner: Any = importlib.import_module(module)
                for step in owners:
                    owner = getattr(owner, step)
                before.append((owner, last, getattr(owner, last)))
                setattr(owner, last, self.timed(name, getattr(owner, last)))
        try:
            yield
        finally:
            for owner, last, function in reversed(before):
                setattr(owner, last, function)


@dataclass(frozen=True)
class Waited:
    """Seconds on the clock, and of the processor."""

    wall: float
    cpu: float


def swept(jobs: int, folder: Path) -> tuple[Waited, dict[str, Waited]]:
    """A job's overhead in a sweep, and the parts of a job, as means over all jobs but the first."""
    from retrograde.train import app

    clock = Clock()
    ends: list[tuple[float, float, dict[str, float], dict[str, float]]] = []
    carried_out = app._carried_out

    def noted(config: Any) -> Any:
        ended = carried_out(config)
        ends.append((time.perf_counter(), time.process_time(), dict(clock.wall), dict(clock.cpu)))
        return ended

    app._carried_out = noted
    given = sys.argv
    sys.argv = ["retrograde", "-m", *TINY, f"seed=range({jobs})", f"outputs={folder}"]
    try:
        with clock.watching(), contextlib.redirect_stdout(io.StringIO()):
            app.main()
    finally:
        app._carried_out, sys.argv = carried_out, given
    if len(ends) != jobs:
        raise ValueError(f"{len(ends)} of {jobs} jobs ended")
    (wall, cpu, walls, cpus), (last_wall, last_cpu, last_walls, last_cpus) = ends[0], ends[-1]
    count = jobs - 1
    parts = {
        name: Waited(
            (last_walls.get(name, 0.0) - walls.get(name, 0.0)) / count,
            (last_cpus.get(name, 0.0) - cpus.get(name, 0.0)) / count,
        )
        for name in PARTS
    }
    whole = Waited((last_wall - wall) / count, (last_cpu - cpu) / count)
    parts["everything else"] = Waited(
        whole.wall - sum(part.wall for part in parts.values()), whole.cpu - sum(part.cpu for part in parts.values())
    )
    beyond = Waited(
        whole.wall - sum(parts[name].wall for name in TRAINING), whole.cpu - sum(parts[name].cpu for name in TRAINING)
    )
    return beyond, parts


def started(arguments: Sequence[str], folder: Path) -> Waited:
    """The installed command, once."""
    begun, before = time.perf_counter(), os.times()
    done = subprocess.run([COMMAND, *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"retrograde {' '.join(arguments)}: {done.stderr.strip()}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Waited(time.perf_counter() - begun, cpu)


def median(waits: Sequence[Waited]) -> Waited:
    return Waited(statistics.median(one.wall for one in waits), statistics.median(one.cpu for one in waits))


def planned(jobs: int, folder: Path) -> Waited:
    """A plan of so many jobs, of four models and 25 widths, but for timing their steps."""
    from retrograde.train import app, plan

    given, estimated = sys.argv, plan.estimated
    seeds = -(-jobs // 100)
    axes = ["model=elman,lstm,gru,transformer", "width=range(8,208,8)", f"seed=range({seeds})"]
    sys.argv = ["retrograde", "-m", "plan=true", *axes, f"outputs={folder}"]
    plan.estimated = lambda *arguments: iter(())
    begun, cpu = time.perf_counter(), time.process_time()
    try:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            app.main()
    finally:
        plan.estimated, sys.argv = estimated, given
    taken = Waited(time.perf_counter() - begun, time.process_time() - cpu)
    if not said.getvalue().startswith(f"{100 * seeds} runs: {100 * seeds} new"):
        raise ValueError(f"the plan was of something else: {said.getvalue()[:100]}")
    return taken


def table(rows: dict[str, Waited], parts: dict[str, Waited]) -> str:
    """As a person reads it."""
    width = max(map(len, [*rows, *parts])) + 2
    lines = [f"{'seconds':{width}}  {'clock':>8}  {'processor':>9}  goal"]
    for name, row in rows.items():
        verdict = "met" if row.wall <= GOALS[name] else "missed"
        lines.append(f"{name:{width}}  {row.wall:8.3f}  {row.cpu:9.3f}  ≤ {GOALS[name]:.1f} {verdict}")
        if name == OVERHEAD:
            lines += [f"  {part:{width - 2}}  {one.wall:8.3f}  {one.cpu:9.3f}" for part, one in parts.items()]
    return "\n".join(lines)


def parsed(arguments: Sequence[str] | None) -> tuple[Options, Path | None]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--jobs", type=int, default=12, help="of the sweep, the first of which does not count")
    parser.add_argument("--plan", type=int, default=10_000, help="jobs that are planned, in hundreds")
    parser.add_argument("--starts", type=int, default=5, help="of the command")
    parser.add_argument("--json", type=Path, help="a file to keep the result in")
    given = vars(parser.parse_args(arguments))
    kept = given.pop("json")
    return Options(**given), kept


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        options, kept = parsed(arguments)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            rows = {
                HELP: median([started(["--help"], folder) for _ in range(options.starts)]),
                CONFIGURATION: median([started(["--cfg", "job"], folder) for _ in range(options.starts)]),
                PLAN: planned(options.plan, folder / "plan"),
            }
            rows[OVERHEAD], parts = swept(options.jobs, folder / "sweep")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    result: dict[str, Any] = {
        "benchmark": "sweep",
        "machine": machine("cpu", 1, ("torch", "pytorch-lightning", "hydra-core", "wandb")),
        "load": os.getloadavg(),
        "settings": asdict(options),
        "seconds": {name: {**asdict(row), "goal": GOALS[name]} for name, row in rows.items()},
        "parts": {name: asdict(part) for name, part in parts.items()},
        "ratios": [
            asdict(Ratio(f"{name}, in s", "", row.wall, row.wall, row.wall, GOALS[name])) for name, row in rows.items()
        ],
    }
    shown = result["machine"]
    print(table(rows, parts))
    print(
        f"\n{options.jobs - 1} jobs of 5 steps; the parts are of all of a job, of which {', '.join(TRAINING)} are no "
        f"overhead\na plan of {options.plan} jobs, but for timing their steps; {options.starts} starts of the command\n"
        f"{shown['device']}; load {result['load'][0]:.1f}; torch {shown['packages']['torch']}; {shown['date']}"
    )
    if kept is not None:
        keep(result, kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
