"""How far a training step is from the least that this machine could take for it.

    python benchmarks/floors.py                   a minute or two
    python benchmarks/floors.py --device cuda

The floor of a step is the largest of three times, each counted for what the step has to do and divided by what the
machine does in one operation that does nothing else, measured here:

    arithmetic    operations of all matrix products, forward and back, over those per second of a large product
    bytes         what has to be written and read once, over the bytes per second of a large copy
    latency       on a GPU 2 T microseconds, where times follow one another: what one of its multiprocessors needs for a
                  small time is estimated at 1 µs, forward and back each

Operations and bytes are counted by hand for recurrences (B sequences, T times, I inputs, H units, G gates):

    2 B T G H (I + H) operations forward, twice as many back
    B T (I + (G + 1) H) numbers written, and read again on the way back

and by torch's own counter for attention, of which no bytes are counted. The step is that of ``train/module.py``:
forward, loss, backward and the clipped step of Adam, each recurrence in its first form.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from measuring import SEED, Factory, Ratio, keep, machine, median_and_interval, ratio_table, seconds
from retrograde.models.elman import elman
from retrograde.models.gru import gru
from retrograde.models.lstm import lstm
from retrograde.models.transformer import transformer
from retrograde.tasks.adding import Adding
from retrograde.train.fit import ADAM

GATES = {"elman": 1, "gru": 3, "lstm": 4}

SQUARE = 2048
"""Of the matrix product that the machine's arithmetic is measured by."""

COPIED = 2**28
"""Bytes of the copy."""

PER_TIME = 1e-6
"""Seconds of one time in one direction on a GPU."""


@dataclass(frozen=True)
class Rates:
    """What the machine does in a second, and the seconds that one time takes it at least."""

    operations: float
    bytes: float
    time: float


@dataclass(frozen=True)
class Sizes:
    """Of every step."""

    batch: int = 64
    length: int = 400
    hidden: int = 128


def rates(device: str) -> Rates:
    """By the best of some tries, since a floor is what cannot be undercut."""
    square = torch.randn(SQUARE, SQUARE, device=device)
    long = torch.empty(COPIED // 4, device=device)
    other = torch.zeros_like(long)
    product = min(seconds(lambda: square @ square, device) for _ in range(8))
    copy = min(seconds(lambda: long.copy_(other), device) for _ in range(8))
    return Rates(2 * SQUARE**3 / product, 2 * COPIED / copy, PER_TIME if device == "cuda" else 0.0)


def floor(name: str, sizes: Sizes, inputs: int, counted: float, of: Rates) -> tuple[float, str]:
    """Seconds, and which of the three they are; ``counted`` are the operations where none are known by hand."""
    times, moved = 0.0, 0.0
    if name in GATES:
        gates, steps = GATES[name], sizes.batch * sizes.length
        counted = 3 * 2 * steps * gates * sizes.hidden * (inputs + sizes.hidden)
        moved = 2 * 4 * steps * (inputs + (gates + 1) * sizes.hidden)
        times = 2 * sizes.length * of.time
    found = {"arithmetic": counted / of.operations, "bytes": moved / of.bytes, "latency": times}
    bound = max(found, key=lambda one: found[one])
    return found[bound], bound


def step_seconds(make: Factory, sizes: Sizes, rounds: int, device: str) -> tuple[list[float], int, float]:
    """Of a training step, by round; how wide the inputs are; and what torch counts of its operations."""
    torch.manual_seed(SEED)
    task = Adding(length=sizes.length)
    model = make(task).to(device)
    optimizer = ADAM(model.parameters())
    batch = task.sample(sizes.batch, torch.Generator(device).manual_seed(SEED))

    def step() -> None:
        optimizer.zero_grad()
        model.objective(task, batch)[0].mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    step()
    with FlopCounterMode(display=False) as counter:
        step()
    return [seconds(step, device) for _ in range(rounds)], task.inputs.size, float(counter.get_total_flops())


def measured(sizes: Sizes, rounds: int, device: str) -> tuple[Rates, list[Ratio]]:
    """The machine's rates, and each step over its floor."""
    of = rates(device)
    makes: dict[str, Factory] = {
        "elman": partial(elman, hidden=sizes.hidden),
        "gru": partial(gru, hidden=sizes.hidden),
        "lstm": partial(lstm, hidden=sizes.hidden),
        "transformer": partial(transformer, hidden=sizes.hidden, layers=1),
    }
    rows = []
    for name, make in makes.items():
        taken, inputs, counted = step_seconds(make, sizes, rounds, device)
        least, bound = floor(name, sizes, inputs, counted, of)
        found = median_and_interval([np.array(taken) / least], [1.0])
        rows.append(Ratio(f"{name}: a training step in the kernel's form", f"its floor by {bound}", *found))
    return of, rows


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--length", type=int, default=Sizes.length)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="a file to keep the result in")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    given = parsed(arguments)
    if min(given.rounds, given.length) < 2:
        print("--rounds and --length must be at least 2", file=sys.stderr)
        return 1
    if given.device == "cuda" and not torch.cuda.is_available():
        print("--device cuda: this machine has no CUDA device; --device cpu works everywhere", file=sys.stderr)
        return 1
    sizes = Sizes(length=given.length)
    of, rows = measured(sizes, given.rounds, given.device)
    print(ratio_table(rows))
    print(
        f"\nbatch {sizes.batch}, {sizes.hidden} units, T={sizes.length}, float32; a large product runs at "
        f"{of.operations / 1e9:,.0f} billion operations a second, a copy at {of.bytes / 1e9:.0f} GB/s"
    )
    if given.json:
        where = machine(given.device, torch.get_num_threads(), ["torch"])
        kept = {"machine": where, "settings": asdict(sizes), "rates": asdict(of)}
        keep({"benchmark": "floors", **kept, "ratios": [asdict(row) for row in rows]}, given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
