"""What it costs to train several seeds together, against one of them in its fastest form, and against all in turn.

    python benchmarks/seeds.py                          about 15 minutes on one core
    python benchmarks/seeds.py --pairs 3 --models gru   a look at whether it runs

The machine should do nothing else. One thread, unless --threads says otherwise.

A step is everything of a training step but its bookkeeping: drawing the batch, forward, loss, backward, clipping by
norm, Adam. A single seed takes it as a bare loop does, on the model's own objective, in every form but the loop that
its recurrence has (``taps`` are the kernel and more); the fastest in each pair counts, and torch's kernel, which is
what anyone would take otherwise, has rows of its own. Seeds together draw a batch each, from a stream each. Before
anything is measured, the losses of three steps together are held to those of the same steps alone.

All sides of a pair are measured right after one another, the first of them in turn, and ratios are formed within
pairs. The interval is the 95 % bootstrap interval of their median. Eight in turn are eight times a single step.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from measuring import (
    Ratio,
    Step,
    factory,
    keep,
    machine,
    median_and_interval,
    prepare,
    ratio_table,
    require_sizes,
    say,
    seconds,
    visit,
)
from retrograde.core.choices import require_one_of
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.ensemble import Ensemble, refusal
from retrograde.core.joint_optimizer import JointOptimizer
from retrograde.tasks.adding import Adding
from retrograde.train.company import in_each_form
from retrograde.train.options import AUTO

MODELS = "gru", "lstm", "elman", "transformer"

SIZES = {"small": (32, 32), "large": (64, 128)}
"""Batch and width."""

LENGTH = 100
CLIP = 1.0
RATE = 3e-3
STEPS = 3
SAME = 1e-3
"""Of the loss, in float32: how far it may be, after some steps together, from that after the same steps alone."""

GOALS = {("gru", "small", False): 2.0, ("gru", "large", True): 0.6}
"""By model and size, against one seed or all of them in turn, in its fastest form."""

TORCH = "fused"


@dataclass(frozen=True)
class Options:
    """What to measure, and how often."""

    models: tuple[str, ...]
    seeds: int
    pairs: int
    length: int
    threads: int
    device: str

    def __post_init__(self) -> None:
        sizes = {"seeds": self.seeds, "pairs": self.pairs, "threads": self.threads, "length": self.length}
        require_sizes(sizes, [], 1, self.device)
        for name in self.models:
            require_one_of("--models", name, MODELS)


class Single:
    """One seed's training."""

    def __init__(self, task: Task, model: SequenceModel, batch: int, seed: int, device: str) -> None:
        self.task, self.model, self.batch = task, model, batch
        self.optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
        self.stream = torch.Generator(device).manual_seed(seed)

    def step(self) -> Tensor:
        """The loss."""
        self.optimizer.zero_grad()
        loss = self.model.objective(self.task, self.task.sample(self.batch, self.stream))[0].mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        return loss.detach()


class Together:
    """All seeds' training."""

    def __init__(self, singles: Sequence[Single]) -> None:
        self.singles = singles
        self.ensemble = Ensemble([single.model for single in singles])
        self.optimizer = JointOptimizer(self.ensemble, [single.optimizer for single in singles])

    def step(self) -> Tensor:
        """The losses."""
        task = self.singles[0].task
        self.ensemble.zero_grad()
        batches = [task.sample(single.batch, single.stream) for single in self.singles]
        losses = self.ensemble.objective(task, batches).losses
        losses.sum().backward()
        self.ensemble.clip(CLIP)
        self.optimizer.step()
        return losses.detach()


def formed(model: SequenceModel, task: Task, batch: int) -> dict[str, SequenceModel]:
    """A copy of the model for every form that its recurrences have; where they have none, the model itself."""
    drawn = task.sample(batch, torch.Generator(model.like.device).manual_seed(0)).beside(model.like)
    found = in_each_form(model, task, drawn)
    return {name: each for name, each in found.items() if name != AUTO} or {"as it is": model}


def singles(name: str, task: Task, batch: int, width: int, options: Options) -> list[Single]:
    make = factory(name, width)
    found = []
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        found.append(Single(task, make(task).to(options.device), batch, seed, options.device))
    return found


def difference(together: Together, alone: Sequence[Single]) -> float:
    """The largest between losses together and alone, as a share of the loss, over a few steps from the same weights."""
    pairs = [(together.step(), torch.stack([one.step() for one in alone])) for _ in range(STEPS)]
    return max(float(((ours - theirs) / theirs).abs().max()) for ours, theirs in pairs)


def measured(name: str, size: str, options: Options) -> tuple[list[Ratio], dict[str, Any]]:
    """Both ratios, and the milliseconds behind them."""
    batch, width = SIZES[size]
    task = Adding(length=options.length)
    seeds = singles(name, task, batch, width, options)
    said = refusal([single.model for single in seeds], task)
    if said is not None:
        raise ValueError(f"{name}: {said}")
    together, alone = Together(seeds), singles(name, task, batch, width, options)
    apart = difference(together, alone)
    if not apart <= SAME:
        raise ValueError(
            f"{name}: after {STEPS} steps together losses are {apart:.1e} from those of the same steps alone"
        )
    forms = {
        form: Single(task, model, batch, 0, options.device).step
        for form, model in formed(alone[0].model, task, batch).items()
    }
    sides: dict[str, Step] = {**forms, "together": together.step}
    taken: dict[str, list[float]] = {side: [] for side in sides}
    for step in sides.values():
        seconds(step, options.device)
    for pair in range(options.pairs):
        order = list(sides)
        for side in order[pair % len(order) :] + order[: pair % len(order)]:
            taken[side].append(visit(sides[side], options.device))
    own = np.array(taken["together"])
    against = {"in its fastest form": np.min([taken[form] for form in forms], axis=0)}
    if TORCH in taken:
        against["in torch's kernel"] = np.array(taken[TORCH])
    rows = []
    label = f"{options.seeds} seeds of {name}, B={batch} H={width}"
    for which, one in against.items():
        for number, what in ((1, "one"), (options.seeds, f"{options.seeds} in turn, each")):
            median, lower, upper = median_and_interval([own / (number * one)], [1.0])
            goal = GOALS.get((name, size, number > 1)) if which == "in its fastest form" else None
            rows.append(Ratio(label, f"{what} {which}", median, lower, upper, goal))
    milliseconds = {side: 1e3 * float(np.median(values)) for side, values in taken.items()}
    return rows, {"model": name, "batch": batch, "width": width, "difference": apart, "milliseconds": milliseconds}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--models", nargs="*", default=MODELS, help="%(default)s")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=31)
    parser.add_argument("--length", type=int, default=LENGTH)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="a file to keep the result in")
    given = vars(parser.parse_args(arguments))
    file = given.pop("json")
    try:
        options = Options(**{**given, "models": tuple(given["models"])})
    except ValueError as error:
        sys.exit(f"seeds.py: {error}")
    prepare(options.threads)
    rows: list[Ratio] = []
    times = []
    for name in options.models:
        for size in SIZES:
            found, beside = measured(name, size, options)
            rows += found
            times.append(beside)
            say(f"{name}, {size}: " + ", ".join(f"{side} {ms:.1f} ms" for side, ms in beside["milliseconds"].items()))
    print(ratio_table(rows))
    if file is not None:
        where = machine(options.device, options.threads, ["torch", "retrograde"])
        ratios = [asdict(row) | {"verdict": row.verdict} for row in rows]
        keep(
            {"benchmark": "seeds", "machine": where, "options": asdict(options), "ratios": ratios, "times": times}, file
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
