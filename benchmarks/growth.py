"""How every architecture's training step grows with the sequence, in time and in memory.

    python benchmarks/growth.py                              about 9 minutes on one core
    python benchmarks/growth.py --models lstm mamba          some of it

The machine should do nothing else. One thread, unless --threads says otherwise.

A step is forward, loss and backward, without an optimiser; gradients are added to those that are there. All models of
``conf/model`` that fit read the same batches: copying with every position scored, for encoder-decoders the reversal of
strings of an eighth of the length, because they step through it twice in Python. Each is built as its file says, at the
width given. Steps are repeated in rounds over all models and lengths, and the median counts. Where a step takes longer
than --seconds, the next length is left out, and the table says so.

**Memory** is the most that a step holds at once beyond what was there before it: what is kept for the backward pass and
what that pass needs itself; no parameters, no gradients of parameters. It is counted from the allocator's own events,
and so exact. Because that is slow where there are many, it stops before the length at which it would take --seconds.

**Exponents** are least squares of log time and log memory over log T on the last four lengths measured: 1 is linear, 2
quadratic. Each round gives its own exponent of time, because its lengths met the machine in one state; their median
counts, and their range is shown. The goals: at most 1.10 for both where a model carries a state of fixed size, at most
1.15 for memory where it keeps everything, as attention does, whose maps the fused form never holds. A goal is missed
where every round misses it, and open where the median alone does.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from measuring import (
    SEED,
    Factory,
    Ratio,
    Step,
    closing,
    command_line,
    factory,
    given,
    keep,
    listed,
    machine,
    one_line,
    peak_memory,
    prepare,
    require_sizes,
    say,
    seconds,
    visit,
    with_gradients,
)
from retrograde.core.choices import Unavailable, require_one_of
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch
from retrograde.core.recurrence import Recurrence, own_forms
from retrograde.tasks.copying import Copying
from retrograde.tasks.reverse import Reverse
from retrograde.train.configuration import config_folder, options

LENGTHS = 128, 256, 512, 1024, 2048, 4096
REFERENCE = 1024
"""The length whose time and memory the table shows; the longest where it was not asked for."""

FITTED = 4
"""Lengths that an exponent is fitted to, the longest; three are needed."""

SHORTER = 8
"""By how much the sequences of encoder-decoders are shorter."""

LINEAR, FUSED = 1.10, 1.15
"""The largest exponents meant: of a model whose state does not grow, and of the memory of one whose state does."""

FAMILIES = {
    "kernel": "recurrences in torch's kernel",
    "parallel": "recurrences by scan, chunks or convolution",
    "loop": "recurrences step by step",
    "attention": "attention",
    "other": "convolutions, and what is not opened",
    "encoder-decoder": f"encoder-decoders, source and target of length T/{SHORTER}",
}


@dataclass(frozen=True)
class Options:
    """What to measure, at which sizes and for how long."""

    models: tuple[str, ...]
    lengths: tuple[int, ...]
    batch: int
    width: int
    seconds: float
    rounds: int
    threads: int
    device: str

    def __post_init__(self) -> None:
        sizes = {"batch": self.batch, "width": self.width, "rounds": self.rounds, "threads": self.threads}
        require_sizes(sizes, self.lengths, SHORTER, self.device)
        for name in self.models:
            require_one_of("--models", name, options("model", config_folder()))


@dataclass
class Point:
    """A model at one length. Memory is in bytes, None where it was not counted; of seconds there is one a round."""

    length: int
    step: Step
    memory: int | None = None
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))


@dataclass
class Growth:
    """A model at all lengths; ``carries`` is the size of its state, None where that grows with time."""

    name: str
    family: str
    carries: int | None
    points: list[Point] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def exponents(self) -> dict[str, list[float]]:
        """By quantity, in rising order: of time one a round, of memory one; none where lengths are too few."""
        rounds = zip(*(point.seconds for point in self.points), strict=True)
        of_time = [exponent([point.length for point in self.points], seconds) for seconds in rounds]
        counted = [point for point in self.points if point.memory is not None]
        of_memory = exponent([point.length for point in counted], [point.memory or 0 for point in counted])
        return {
            "time": sorted(value for value in of_time if value is not None),
            "memory": [] if of_memory is None else [of_memory],
        }

    @property
    def verdicts(self) -> dict[str, str]:
        """Of each quantity with a goal: met, missed, or open where rounds disagree."""
        return {
            quantity: "met" if np.median(found) <= goal else "missed" if found[0] > goal else "open"
            for quantity, goal in self.goals.items()
            if (found := self.exponents()[quantity])
        }

    @property
    def goals(self) -> dict[str, float]:
        """The largest exponents meant, by quantity; none for what is measured at lengths of its own."""
        if self.family == "encoder-decoder":
            return {}
        return {"memory": FUSED} if self.carries is None else {"time": LINEAR, "memory": LINEAR}

    def at(self, length: int) -> Point:
        """The point of that length, or the longest below it."""
        return [point for point in self.points if point.length <= length or point is self.points[0]][-1]


def tasks(length: int) -> list[Task]:
    """One task for each kind of model that is measured."""
    shorter = max(3, length // SHORTER)  # of fewer symbols there are too few strings
    return [Copying(length=length - 4, recall=2), Reverse(symbols=8, shortest=shorter, longest=shorter)]


def fitting(make: Factory, length: int) -> tuple[SequenceModel, Task]:
    """The model and the first task that it fits. Raises Unavailable where there is none."""
    torch.manual_seed(SEED)
    first, *others = tasks(length)
    model = make(first)
    for task in (first, *others):
        if task.kind in model.kinds:
            torch.manual_seed(SEED)
            return make(task), task
    raise Unavailable(f"it is made for tasks of kind {', '.join(model.kinds)}, and none of those is measured here")


def family(model: SequenceModel, task: Task, batch: Batch) -> str:
    """By how the model goes through time, as the model itself shows it."""
    recurrences = [part for part in model.modules() if isinstance(part, Recurrence)]
    if task.kind == "transduce":
        return "encoder-decoder"
    if any(isinstance(part, nn.RNNBase) for part in model.modules()):
        return "kernel"
    if recurrences:
        loop = own_forms.dispatch(object)
        return "loop" if any(own_forms.dispatch(type(part)) is loop for part in recurrences) else "parallel"
    return "attention" if model.trace(batch).maps else "other"


def training_step(model: SequenceModel, task: Task, batch: Batch) -> Step:
    def step() -> None:
        losses, _ = model.objective(task, batch)
        losses.mean().backward()

    return with_gradients(model, step)


def exponent(lengths: Sequence[int], values: Sequence[float]) -> float | None:
    """The slope of log value over log length on the last lengths, which rise; None where they are fewer than three."""
    if len(lengths) < 3:
        return None
    return float(np.polyfit(np.log(lengths[-FITTED:]), np.log(values[-FITTED:]), 1)[0])


def surveyed(name: str, make: Factory, settings: Options) -> Growth:
    """The model at every length that it manages, with its memory; not timed yet."""
    growth: Growth | None = None
    counting = 0.0  # seconds that counting the last length's memory took
    before = 0
    for length in sorted(settings.lengths):
        try:
            model, task = fitting(make, length)
            model = model.to(settings.device)
            batch = task.sample(settings.batch, torch.Generator().manual_seed(SEED)).to(settings.device)
            step = training_step(model, task, batch)
            if growth is None:
                growth = Growth(name, family(model, task, batch), model.state_size)
                step()  # pays for what is imported and made once
            first = seconds(step, settings.device)
        except (RuntimeError, MemoryError) as error:
            if growth is None or not growth.points:
                raise
            growth.notes.append(f"no T={length}: {one_line(error)}")
            break
        point = Point(batch.length, step)
        growth.points.append(point)
        if before == 0 or (counting > 0 and counting * length / before < settings.seconds):
            start = time.perf_counter()
            point.memory = peak_memory(step, settings.device)
            counting = time.perf_counter() - start
        elif counting > 0:
            growth.notes.append(f"memory up to T={growth.points[-2].length}")
            counting = 0.0
        before = length
        if first > settings.seconds and length < max(settings.lengths):
            growth.notes.append(f"ends at T={point.length}, where a step took {first:.1f} s")
            break
    assert growth is not None  # there is at least one length
    return growth


def grown(settings: Options) -> tuple[list[Growth], dict[str, str]]:
    """All models that can be measured, by family, and why the others cannot."""
    growths, left_out = [], {}
    for name in settings.models if settings.lengths else ():
        try:
            growths.append(surveyed(name, factory(name, settings.width), settings))
            shown = ", ".join(str(point.length) for point in growths[-1].points)
            say(f"{name}: T = {shown}")
        except Unavailable as error:
            left_out[name] = str(error)
        except Exception as error:  # a model that is broken shall not keep the others from being measured
            left_out[name] = f"broken: {one_line(error)}"
    growths.sort(key=lambda growth: (list(FAMILIES).index(growth.family), growth.name))
    for place in range(settings.rounds if growths else 0):
        say(f"round {place + 1} of {settings.rounds}")
        for growth in growths:
            for point in growth.points:
                point.seconds.append(visit(point.step, settings.device))
    return growths, left_out


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def middle(values: Sequence[float], digits: int = 2) -> str:
    """The median."""
    return number(float(np.median(values)) if values else None, digits)


def growth_table(growths: Sequence[Growth], settings: Options) -> str:
    """A row a model, family by family: exponents, and time and memory at one length."""
    shown = REFERENCE if REFERENCE in settings.lengths else max(settings.lengths)
    width = max(len(growth.name) for growth in growths)
    lines = [
        f"{'T to the power':{width}}  {'time':>5}  {'in rounds':>12}  {'memory':>6}  {'fitted to T':>12}  "
        f"{'at T':>5}  {'ms':>8}  {'MiB':>8}"
    ]
    for name, meaning in FAMILIES.items():
        members = [growth for growth in growths if growth.family == name]
        if members:
            lines += ["", meaning]
        for growth in members:
            point = growth.at(shown // SHORTER if name == "encoder-decoder" else shown)
            found = growth.exponents()
            spread = f"{found['time'][0]:.2f} to {found['time'][-1]:.2f}" if found["time"] else "–"
            fitted = [point.length for point in growth.points][-FITTED:]
            span = f"{fitted[0]}…{fitted[-1]}" if len(fitted) >= 3 else "too few"
            memory = None if point.memory is None else point.memory / 2**20
            notes = [f"{quantity} {verdict}" for quantity, verdict in growth.verdicts.items() if verdict != "met"]
            row = f"{growth.name:{width}}  {middle(found['time']):>5}  {spread:>12}  {middle(found['memory']):>6}"
            row += f"  {span:>12}  {point.length:>5}  {1000 * point.median:8.1f}  {number(memory, 1):>8}"
            lines.append(f"{row}  {'; '.join(notes + growth.notes)}".rstrip())
    return "\n".join(lines)


def growth_summary(growths: Sequence[Growth]) -> str:
    """Which goals are met, and by how much the others are missed."""
    fixed, growing = "the state does not grow", "the state grows"
    lines = []
    for quantity, goal, where in (("time", LINEAR, fixed), ("memory", LINEAR, fixed), ("memory", FUSED, growing)):
        judged = [
            growth
            for growth in growths
            if (growth.carries is None) == (where == growing) and quantity in growth.verdicts
        ]
        met = [growth for growth in judged if growth.verdicts[quantity] == "met"]
        line = f"{quantity} ≤ T^{goal:.2f} where {where}: met by {len(met)} of {len(judged)}"
        for verdict in ("missed", "open"):
            others = [growth for growth in judged if growth.verdicts[quantity] == verdict]
            if others:
                named = (f"{growth.name} {middle(growth.exponents()[quantity], 3)}" for growth in others)
                line += f"; {verdict}: {', '.join(named)}"
        lines.append(line)
    return "\n".join(lines)


def report(settings: Options, growths: Sequence[Growth], left_out: dict[str, str]) -> dict[str, Any]:
    """All that is kept of a run, every measurement included."""
    return {
        "benchmark": "growth",
        "machine": machine(settings.device, settings.threads, ["torch"]),
        "settings": asdict(settings),
        "growth": [
            {
                "name": growth.name,
                "family": growth.family,
                "state_size": growth.carries,
                "exponents": growth.exponents(),
                "goals": growth.goals,
                "verdicts": growth.verdicts,
                "notes": growth.notes,
                "points": [
                    {
                        "length": point.length,
                        "median": point.median,
                        "memory": point.memory,
                        "seconds": point.seconds,
                    }
                    for point in growth.points
                ],
            }
            for growth in growths
        ],
        "left_out": {"models": left_out},
        "ratios": [asdict(row) for row in steepest(growths)],
    }


def steepest(growths: Sequence[Growth]) -> list[Ratio]:
    """Of each family the model that grows most, in time and in memory: the exponent, and its range over rounds."""
    rows = []
    for family in FAMILIES:
        for quantity in ("time", "memory"):
            found = {
                growth.name: np.array(growth.exponents()[quantity]) * 1.0
                for growth in growths
                if growth.family == family and growth.exponents()[quantity]
            }
            if found:
                name = max(found, key=lambda one: float(np.median(found[one])))
                goal = next(growth.goals.get(quantity) for growth in growths if growth.name == name)
                middle, low, high = (float(of(found[name])) for of in (np.median, np.min, np.max))
                what = f"power of T that {quantity} grows with, the steepest of family {family}: {name}"
                rows.append(Ratio(what, "", middle, low, high, goal))
    return rows


def parsed(arguments: Sequence[str] | None) -> tuple[Options, Path | None]:
    parser = command_line(__doc__, LENGTHS)
    everything = list(options("model", config_folder()))
    parser.add_argument("--models", nargs="*", default=everything, help="whose growth to measure; all")
    parser.add_argument("--rounds", type=int, default=5, help="over all models and lengths")
    chosen, kept = given(parser, arguments)
    return Options(**chosen), kept


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        settings, kept = parsed(arguments)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    prepare(settings.threads)
    started = time.perf_counter()
    growths, left_out = grown(settings)
    parts = [growth_table(growths, settings), growth_summary(growths)] if growths else []
    if left_out:
        parts.append(listed("not measured", left_out))
    result = report(settings, growths, left_out)
    parts.append(closing(result["machine"], settings.batch, settings.width, started))
    print("\n\n".join(parts))
    if kept is not None:
        keep(result, kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
