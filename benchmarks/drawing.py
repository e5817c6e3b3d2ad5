"""What drawing a batch costs, as a share of a training step of a 128-unit LSTM on that batch.

    python benchmarks/drawing.py                    every task in conf/task, about a minute on two cores
    python benchmarks/drawing.py adding listops     some of them

A step is forward, backward and Adam of torch.nn.LSTM with a linear read-out, on the same device, in the same threads,
on batches of the same task. The read-out is capped at 128 outputs: where a task has more, a real step is dearer, and
drawing a smaller share of it than is said here. Drawing and stepping alternate, and the median of the ratios within
pairs is reported, with its 95 % bootstrap interval. What a task does once, such as encoding a text, is reported apart,
in seconds.

Goals: 30 % for ListOps and Pathfinder, 5 % for all others, be their sequences generated or drawn from a table of real
ones.
"""

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from measuring import Ratio, keep, machine, median_and_interval
from retrograde.core.choices import Unavailable
from retrograde.core.contracts import Task, Tokens
from retrograde.train.configuration import config_folder, options

BATCH, HIDDEN = 64, 128
DEAR = ("listops", "pathfinder")
GOAL, DEAR_GOAL = 0.05, 0.30
READOUT = 128
"""The most outputs, so that no vocabulary makes drawing look cheap."""


class Lstm(nn.Module):
    """Tokens or numbers to outputs at every position of the input."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        is_tokens = isinstance(task.inputs, Tokens)
        self.embedding = nn.Embedding(task.inputs.size, HIDDEN) if is_tokens else nn.Linear(task.inputs.size, HIDDEN)
        self.lstm = nn.LSTM(HIDDEN, HIDDEN, batch_first=True)
        self.readout = nn.Linear(HIDDEN, min(task.outputs.size, READOUT))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.readout(self.lstm(self.embedding(inputs))[0])


def measured(task: Task, device: torch.device, pairs: int) -> dict[str, Any]:
    """Ratio with its interval, milliseconds of both, and seconds of what is done once."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    generator = torch.Generator(device).manual_seed(0)
    begun = time.perf_counter()
    batch = task.sample(BATCH, generator)
    once = time.perf_counter() - begun
    model = Lstm(task).to(device)
    optimizer = torch.optim.Adam(model.parameters())
    ratios, draws, steps = [], [], []
    for pair in range(pairs + 3):
        wait()
        begun = time.perf_counter()
        batch = task.sample(BATCH, generator)
        wait()
        drawn = time.perf_counter()
        optimizer.zero_grad()
        model(batch.inputs).square().mean().backward()
        optimizer.step()
        wait()
        stepped = time.perf_counter()
        if pair >= 3:
            draws.append(drawn - begun)
            steps.append(stepped - drawn)
            ratios.append(draws[-1] / steps[-1])
    return {
        "length": batch.length,
        "ratio": median_and_interval([np.array(ratios)], [1.0]),
        "draw_ms": 1e3 * float(np.median(draws)),
        "step_ms": 1e3 * float(np.median(steps)),
        "first_draw_s": once,
    }


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("tasks", nargs="*", help="stems of conf/task; all where left out")
    arguments.add_argument("--device", default="cpu", type=torch.device)
    arguments.add_argument("--pairs", default=15, type=int)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    known = list(options("task", config_folder()))
    unknown = [name for name in given.tasks if name not in known]
    if unknown:
        sys.exit(f"drawing.py: unknown task '{unknown[0]}'; known: {', '.join(known)}")
    results: dict[str, Any] = {}
    failed = 0
    print(f"{'task':<20}{'length':>8}{'draw ms':>10}{'step ms':>10}  share of a step         first draw")
    for name in given.tasks or known:
        try:
            task = instantiate(OmegaConf.load(config_folder() / "task" / f"{name}.yaml"))
            found = measured(task, given.device, given.pairs)
        except Unavailable as error:
            print(f"{name:<20}not measured: {error}")
            continue
        goal = DEAR_GOAL if name in DEAR else GOAL
        ratio, low, high = found["ratio"]
        verdict = "" if ratio <= goal else f"   above {goal:.0%}"
        failed += ratio > goal
        print(
            f"{name:<20}{found['length']:>8}{found['draw_ms']:>10.2f}{found['step_ms']:>10.1f}"
            f"  {ratio:6.1%} [{low:.1%}, {high:.1%}]{found['first_draw_s']:>10.2f} s{verdict}",
            flush=True,
        )
        results[name] = {**found, "goal": goal}
    if given.json:
        where = machine(given.device.type, torch.get_num_threads(), ["torch", "retrograde"])
        ratios = [
            Ratio(f"drawing a batch of {name}", "a training step", median, lower, upper, found["goal"])
            for name, found in results.items()
            for median, lower, upper in [found["ratio"]]
        ]
        rows = {"ratios": [asdict(row) for row in ratios]}
        keep({"benchmark": "drawing", "machine": where, "pairs": given.pairs, "tasks": results, **rows}, given.json)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
