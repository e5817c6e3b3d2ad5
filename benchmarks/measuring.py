"""What benchmarks share: a step's time and memory, ratios with intervals, a model as its file says, the machine."""

import argparse
import json
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import SequenceModel, Task
from retrograde.train.configuration import config_folder
from retrograde.train.devices import device_in_words, processor
from retrograde.train.provenance import commit

SEED = 0

VISIT = 0.1, 5
"""Seconds and steps after which the next step to be measured has its turn."""

BRIEF = 0.05
"""Seconds: steps shorter than that are preceded by one that is not measured, which warms caches."""

RESAMPLES = 4000
"""Of the pairs, for an interval."""

Step = Callable[[], Any]
Factory = Callable[[Task], SequenceModel]


def factory(name: str, width: int, overrides: Iterable[str] = ()) -> Factory:
    """What the model's file stands for."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=[f"model={name}", f"width={width}", *overrides])
    return instantiate(config.model)


def with_gradients(module: nn.Module, step: Step) -> Step:
    """The step, with room for the gradients of parameters already there."""
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return step


def now(device: str) -> float:
    """Seconds on a clock, read when the device has nothing left to do."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(step: Step, device: str) -> float:
    start = now(device)
    step()
    return now(device) - start


def visit(step: Step, device: str) -> float:
    """The median seconds of some steps in a row."""
    taken = [seconds(step, device)]
    if taken[0] < BRIEF:
        taken.clear()
    while not taken or (sum(taken) < VISIT[0] and len(taken) < VISIT[1]):
        taken.append(seconds(step, device))
    return float(np.median(taken))


@dataclass(frozen=True)
class Ratio:
    """A cost as a multiple of another: the median over pairs, and the interval that it lies in."""

    name: str
    against: str
    median: float
    lower: float
    upper: float
    goal: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the goal is met; ``open`` where the interval holds it."""
        if self.goal is None:
            return ""
        return "met" if self.upper <= self.goal else "missed" if self.lower > self.goal else "open"


def median_and_interval(parts: Sequence[np.ndarray], weights: Sequence[float]) -> tuple[float, float, float]:
    """The weighted sum of the parts' medians over pairs, and its 95 % interval by resampling pairs."""
    pairs = len(parts[0])
    chosen = np.random.default_rng(SEED).integers(pairs, size=(RESAMPLES, pairs))
    combined = sum(weight * np.median(part[chosen], 1) for part, weight in zip(parts, weights, strict=True))
    value = sum(weight * float(np.median(part)) for part, weight in zip(parts, weights, strict=True))
    lower, upper = np.quantile(combined, [0.025, 0.975]).tolist()
    return value, min(lower, value), max(upper, value)  # with very few pairs quantiles round past the value


def ratio_table(rows: Sequence[Ratio]) -> str:
    """As a person reads it."""
    width, beside = max(len(row.name) for row in rows), max(len(row.against) for row in rows)
    lines = [f"{'':{width}}  {'ratio':>6}  {'95 % interval':>17}  {'against':{beside}}  goal"]
    for row in rows:
        interval = f"{row.lower:.3f} to {row.upper:.3f}"
        goal = "" if row.goal is None else f"≤ {row.goal:.2f} {row.verdict}"
        lines.append(f"{row.name:{width}}  {row.median:6.3f}  {interval:>17}  {row.against:{beside}}  {goal}".rstrip())
    return "\n".join(lines)


def peak_memory(step: Step, device: str) -> int:
    """The most bytes that the step holds at once, beyond those that were there before it."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    # the allocator's events alone: to record every operation as well takes four times as long
    torch._C._autograd._enable_record_function(False)
    try:
        with torch.autograd.profiler.profile(profile_memory=True) as profile:
            step()
    finally:
        torch._C._autograd._enable_record_function(True)
    results = profile.kineto_results
    assert results is not None  # the profile is over
    events = [(event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event[0])
    return max(0, int(np.cumsum([size for _, size in events]).max(initial=0)))


def require_sizes(sizes: Mapping[str, int], lengths: Sequence[int], shortest: int, device: str) -> None:
    """Raise ValueError where an option, named as on the command line, is too small, or the device is not there."""
    for name, value in sizes.items():
        require_at_least(f"--{name}", value, 1)
    for length in lengths:
        require_at_least("--lengths", length, shortest)
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine has no CUDA device; --device cpu works everywhere")


def command_line(about: str | None, lengths: Sequence[int]) -> argparse.ArgumentParser:
    """The options that every such benchmark has, ``lengths`` where none are given."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--lengths", nargs="*", type=int, default=lengths, help="T; %(default)s")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--width", type=int, default=64, help="of every model's hidden layer")
    parser.add_argument("--seconds", type=float, default=3.0, help="that a step, or counting its memory, may take")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--to", type=Path, help="a file to keep the result in")
    return parser


def given(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> tuple[dict[str, Any], Path | None]:
    """What the command line says, lists as tuples, and the file to keep the result in."""
    options: dict[str, Any] = vars(parser.parse_args(arguments))
    kept: Path | None = options.pop("to")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}, kept


def prepare(threads: int) -> None:
    """This process, for measuring and for other packages."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's notes about itself
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # transformers would look for kernels
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore")  # other packages' about themselves


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 160 else text[:157] + "..."


def listed(title: str, reasons: Mapping[str, str]) -> str:
    return "\n".join([title, *(f"  {name}: {reason}" for name, reason in reasons.items())])


def machine(device: str, threads: int, distributions: Iterable[str]) -> dict[str, Any]:
    """Where this was measured, with which of the packages, and when."""
    return {
        "device": device_in_words(torch.device(device)),
        "processor": processor(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": versions(distributions),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for name in sorted(distributions):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def closing(where: Mapping[str, Any], batch: int, width: int, started: float) -> str:
    """What stands below the tables: sizes, how long it took since ``started``, and where it was."""
    minutes = (time.perf_counter() - started) / 60
    return (
        f"batch {batch}, width {width}, float32; forward, loss and backward, no optimiser; {math.ceil(minutes)} min\n"
        f"{where['device']}; threads: {where['threads']}; torch {where['packages']['torch']}; {where['date']}"
    )


def keep(report: Mapping[str, Any], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=1) + "\n")
