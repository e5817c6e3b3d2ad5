"""What a training step takes in each form of a layer, over the plain module of ``torch.nn`` in the same bare loop.

    python benchmarks/forms.py                       about 15 minutes on two cores
    python benchmarks/forms.py --pairs 2 --quick     a look at whether it runs

GRU, Elman and LSTM, wide and long (H=128, B=64, T=400), and small (H=32, B=32, T=100). A step is forward, loss,
backward, clipping and Adam; every side has the same first weights, batches and read-out, and that all train the same
network is checked by their losses. In every round each side takes a block of steps, beginning with another side each
time, and ratios are formed within the round; the interval is the 95 % bootstrap interval of their median.

Beside the ratios stands the form that ``trainer.form=auto`` chooses here, by a timing of its own.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from every_step import BLOCK, KINDS, PLAIN, WARM_UP, Kind, Side, agree
from measuring import Ratio, keep, machine, median_and_interval, ratio_table, require_sizes, say, seconds
from retrograde.core.contracts import Task
from retrograde.core.recurrence import Recurrence, forms, sequence
from retrograde.tasks.adding import Adding
from retrograde.train.forms import Call, fastest

STEPS = 10_000
"""Of the training that ``auto`` chooses for."""


@dataclass(frozen=True)
class Size:
    """Of layer, batch and sequence, and the steps of a block."""

    hidden: int
    batch: int
    length: int
    block: int

    def __str__(self) -> str:
        return f"H={self.hidden} B={self.batch} T={self.length}"


SIZES = (Size(128, 64, 400, BLOCK), Size(32, 32, 100, 10))
QUICK = (Size(8, 4, 20, BLOCK), Size(4, 2, 10, BLOCK))


class Formed(Side):
    """The same layer in one of its forms."""

    def __init__(self, kind: Kind, task: Task, size: Size, device: str, form: str) -> None:
        super().__init__(kind, task, size.hidden, size.batch, device)
        self.recurrence = recurrence_of(kind, task, size)
        self.recurrence.fused = self.net.layer
        self.recurrence.form = form

    def answer(self, inputs: Tensor) -> Tensor:
        return self.net.readout(sequence(self.recurrence, inputs)[:, -1])


def recurrence_of(kind: Kind, task: Task, size: Size) -> Recurrence:
    return kind.model(task, hidden=size.hidden).stack.placed[0][0].recurrence


def sides(kind: Kind, size: Size, device: str) -> dict[str, Side]:
    """The plain module, and every form that the layer has here; raises ValueError where two train different nets."""
    task = Adding(size.length)
    names = forms(recurrence_of(kind, task, size), torch.zeros(size.batch, size.length, 2, device=device))
    made: dict[str, Side] = {PLAIN: Side(kind, task, size.hidden, size.batch, device)}
    made |= {name: Formed(kind, task, size, device, name) for name in names}
    agree(kind, made)
    return made


def measured(kind: Kind, size: Size, pairs: int, device: str) -> dict[str, list[float]]:
    """Seconds of a block of each side, in rounds."""
    made = sides(kind, size, device)
    found: dict[str, list[float]] = {name: [] for name in made}
    names = list(made)
    for place in range(WARM_UP + pairs):
        turn = place % len(names)
        for name in names[turn:] + names[:turn]:
            found[name].append(seconds(partial(made[name].train, size.block), device))
        say(f"{kind.name} {size}: round {place + 1} of {WARM_UP + pairs}, plain {found[PLAIN][-1]:.2f} s")
    return {name: values[WARM_UP:] for name, values in found.items()}


def chosen(kind: Kind, size: Size, device: str) -> str:
    """What a run of ``STEPS`` steps would take."""
    task = Adding(size.length)
    recurrence = recurrence_of(kind, task, size).to(device)
    inputs = task.sample(size.batch, torch.Generator(device).manual_seed(0)).inputs
    said = torch.zeros(size.batch, size.length, size.hidden, device=device)
    said[:, -1] = 1.0 / size.batch
    call = Call([""], recurrence, inputs, None, forms(recurrence, inputs), said)
    passes = {name: partial(call.seconds, form) for name, form in call.forms.items() if form.timed}
    return fastest(passes, size.length, STEPS).form


def ratios(kind: Kind, size: Size, samples: dict[str, list[float]]) -> list[Ratio]:
    plain = np.array(samples[PLAIN])
    return [
        Ratio(f"{kind.name} {size}, {name}", f"plain {kind.name}", *median_and_interval([values / plain], [1.0]))
        for name, values in samples.items()
        if name != PLAIN
    ]


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--pairs", type=int, default=30, help="rounds that count")
    parser.add_argument("--quick", action="store_true", help="tiny layers, to see whether it runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="a file to keep the result in")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    try:
        require_sizes({"pairs": options.pairs, "threads": options.threads}, (), 1, options.device)
        torch.set_num_threads(options.threads)
        rows: list[Ratio] = []
        kept: list[dict[str, Any]] = []
        for size in QUICK if options.quick else SIZES:
            for kind in KINDS:
                samples = measured(kind, size, options.pairs, options.device)
                found = ratios(kind, size, samples)
                best = chosen(kind, size, options.device)
                rows += found
                kept.append({"layer": kind.name, **asdict(size), "auto": best, "samples": samples})
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    where = machine(options.device, options.threads, ("torch",))
    print(ratio_table(rows))
    for one in kept:
        print(f"{one['layer']} H={one['hidden']} B={one['batch']} T={one['length']}: auto takes '{one['auto']}'")
    print(f"{where['device']}; threads: {options.threads}; torch {where['packages']['torch']}; {where['date']}")
    if options.json is not None:
        settings = {"pairs": options.pairs, "steps": STEPS}
        together = {"results": kept, "ratios": [asdict(row) for row in rows]}
        keep({"benchmark": "forms", "machine": where, "settings": settings, **together}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
