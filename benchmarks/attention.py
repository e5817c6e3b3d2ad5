"""What looking at attention costs on a long sequence, as multiples of one training step, and how it grows.

    python benchmarks/attention.py                              about 4 minutes on one core
    python benchmarks/attention.py --length 1024 --pairs 3      a look at whether it runs

The machine should do nothing else. One sequence of tokens (copying, every position of the input read) through the
causal Transformer of ``conf/model/transformer.yaml`` with four heads of 64, float32. The sides take turns, beginning
with another one in every round, and ratios are formed within the round:

- a training step: forward, loss, backward and Adam, with fused attention;
- the streamed statistics: the probe ``attention`` as it is by default, of a snapshot that is there already: the pooled
  map, and of every query entropy, confidence, mean distance and the weights on two keys, for every head of all layers;
- the probe with the snapshot that it reads: fused forward, and the gradient at all activations;
- the same numbers of full maps, which are made of the same queries and keys and held one layer at a time.

**Growth** is measured on one layer's queries and keys alone, over four lengths, each twice the one before. An exponent
is the slope of log seconds, or log bytes, over log T; each round gives its own of time. Memory is the most that a side
holds at once beyond what was there before it, counted from the allocator's own events; to what streaming takes, the
queries and keys are added that are kept for it. That of a whole snapshot is counted with all default probes.

That both sides read the same is checked before.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from measuring import (
    SEED,
    Ratio,
    factory,
    keep,
    machine,
    median_and_interval,
    peak_memory,
    prepare,
    ratio_table,
    require_sizes,
    say,
    seconds,
)
from retrograde.core.contracts import Probe, SequenceModel, Snapshot
from retrograde.core.records import Batch
from retrograde.core.snapshot import snapshot
from retrograde.core.streamed import LONGEST_HELD, StreamedMap
from retrograde.probes.attention import Attention
from retrograde.tasks.copying import Copying
from retrograde.train.configuration import config_folder
from retrograde.train.fit import ADAM

HEADS, EACH = 4, 64
"""Heads, and how wide each is."""

RECALL = 6
"""Symbols to be copied."""

WARM_UP = 1
"""Rounds thrown away."""

GROWTH = 4
"""Lengths over which growth is measured, the longest --length."""

PAIRS_A_ROUND = 3
"""Pairs for each round over all these lengths."""

TOLERANCE = 1e-5
"""Relative difference of readings of the two sides: float32 along a row."""

STEP, STREAMED, WITH_SNAPSHOT, FULL = "a training step", "streamed statistics", "probe with snapshot", "full maps"
TIME, MEMORY = "power of T, time of {}", "power of T, memory of {}"
DEFAULT_PROBES = "a snapshot with all default probes"

STREAMED_GOAL, MEMORY_GOAL = 0.5, 1.10


@dataclass(frozen=True)
class Options:
    """Sizes and repetitions."""

    length: int
    pairs: int
    threads: int
    device: str

    def __post_init__(self) -> None:
        require_sizes({"pairs": self.pairs, "threads": self.threads}, [], 1, self.device)
        shortest = LONGEST_HELD + 1
        if self.length < shortest:
            raise ValueError(f"--length must be at least {shortest}: shorter maps are held, not {self.length}")

    @property
    def lengths(self) -> list[int]:
        """From an eighth of it, each twice the one before: 512 to 4,096."""
        return [self.length // 2**power for power in reversed(range(GROWTH))]


@dataclass
class Samples:
    """Seconds of each side, one entry a round; of one layer by side and length; bytes by side and length."""

    sides: dict[str, list[float]] = field(default_factory=dict)
    growth: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    memory: dict[str, dict[int, int]] = field(default_factory=dict)
    difference: float = 0.0


def set_up(length: int, device: str) -> tuple[SequenceModel, Copying, Batch]:
    """The model, its task and one sequence of that length."""
    torch.manual_seed(SEED)
    task = Copying(length=length - 2 * RECALL, recall=RECALL)
    model = factory("transformer", HEADS * EACH)(task).to(device)
    batch = task.sample(1, torch.Generator().manual_seed(SEED)).beside(model.like)
    assert batch.length == length
    return model, task, batch


class Training:
    """Steps on one batch."""

    def __init__(self, model: SequenceModel, task: Copying, batch: Batch) -> None:
        self.model, self.task, self.batch = model, task, batch
        self.optimizer = ADAM(model.parameters())

    def step(self) -> None:
        losses, _ = self.model.objective(self.task, self.batch)
        losses.mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def full(weights: StreamedMap) -> Tensor:
    """The causal map written out, T² weights at once."""
    scores = weights.query @ weights.key.mT * weights.scale
    length = weights.shape[2]
    later = torch.ones(length, length, dtype=torch.bool, device=weights.device).triu(1)
    return torch.softmax(scores.masked_fill_(later, -torch.inf), -1)


def of_layer(on: Snapshot, layer: str, weights: Tensor | StreamedMap) -> Snapshot:
    """The snapshot with one map alone."""
    return replace(on, trace=replace(on.trace, maps={layer: weights}))


def read(probe: Probe, on: Snapshot) -> dict[str, np.ndarray]:
    return {reading.name: reading.values for reading in probe(on)}


def read_full(probe: Probe, on: Snapshot) -> dict[str, np.ndarray]:
    """What the probe reads of full maps, layer by layer."""
    found: dict[str, np.ndarray] = {}
    for layer, weights in on.trace.maps.items():
        assert isinstance(weights, StreamedMap)  # the sequence is long
        found |= read(probe, of_layer(on, layer, full(weights)))
    return found


def checked(probe: Probe, on: Snapshot) -> float:
    """The largest relative difference between what both sides read; raises ValueError where it is no rounding."""
    ours, theirs = read(probe, on), read_full(probe, on)
    worst = 0.0
    for name, values in theirs.items():
        difference = float(np.abs(ours[name] - values).max() / np.abs(values).max())
        if not difference <= TOLERANCE:
            raise ValueError(f"{name}: streamed and full maps differ by {difference:.1e} of the largest value")
        worst = max(worst, difference)
    return worst


def in_turn(sides: dict[str, Callable[[], Any]], rounds: int, device: str, what: str) -> dict[str, list[float]]:
    """Seconds of every side, round by round, each beginning with another one."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for place in range(WARM_UP + rounds):
        turn = place % len(names)
        for name in names[turn:] + names[:turn]:
            found[name].append(seconds(sides[name], device))
        say(f"{what}: round {place + 1} of {WARM_UP + rounds}")
    return {name: values[WARM_UP:] for name, values in found.items()}


def measured(options: Options) -> Samples:
    """All that is compared here."""
    device, probe = options.device, Attention()
    model, task, batch = set_up(options.length, device)
    training = Training(model, task, batch)
    taken = snapshot(model, task, batch, 0)
    samples = Samples(difference=checked(probe, taken))
    samples.sides = in_turn(
        {
            STEP: training.step,
            STREAMED: partial(read, probe, taken),
            WITH_SNAPSHOT: lambda: read(probe, snapshot(model, task, batch, 0)),
            FULL: partial(read_full, probe, taken),
        },
        options.pairs,
        device,
        "ratios",
    )
    layers: dict[str, Callable[[], Any]] = {}
    for length in options.lengths:
        on = one_layer(length, device)
        for name, side in ((STREAMED, partial(read, probe, on)), (FULL, partial(read_full, probe, on))):
            layers[f"{name} {length}"] = side
            kept = held_for(on) if name == STREAMED else 0
            samples.memory.setdefault(name, {})[length] = peak_memory(side, device) + kept
    found = in_turn(layers, max(1, options.pairs // PAIRS_A_ROUND), device, "growth")
    for name in (STREAMED, FULL):
        samples.growth[name] = {length: found[f"{name} {length}"] for length in options.lengths}
    samples.memory[DEFAULT_PROBES] = {
        length: snapshot_memory(length, device) for length in options.lengths if length > LONGEST_HELD
    }
    return samples


def one_layer(length: int, device: str) -> Snapshot:
    """One layer's queries and keys of that length, streamed whatever the length."""
    model, task, batch = set_up(length, device)
    query, key = torch.randn(2, 1, HEADS, length, EACH, device=device)
    taken = snapshot(model, task, batch, 0)
    return of_layer(taken, "0", StreamedMap(query, key, EACH**-0.5, causal=True))


def held_for(on: Snapshot) -> int:
    """Bytes of the queries and keys that are kept to stream the maps."""
    streamed = [weights for weights in on.trace.maps.values() if isinstance(weights, StreamedMap)]
    assert len(streamed) == len(on.trace.maps)
    parts = [part for weights in streamed for part in (weights.query, weights.key)]
    return sum(part.numel() * part.element_size() for part in parts)


def snapshot_memory(length: int, device: str) -> int:
    """The most bytes of a snapshot and all that the default probes make of it."""
    model, task, batch = set_up(length, device)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        probes = instantiate(compose("train", overrides=["model=transformer"]).probe)

    def taken() -> None:
        on = snapshot(model, task, batch, 0)
        for probe in probes.values():
            for _ in probe(on):
                pass

    return peak_memory(taken, device)


def exponents(found: dict[int, list[float]]) -> np.ndarray:
    """Of every round: the slope of the logarithm over log T."""
    over = np.log(list(found))
    return np.array([np.polyfit(over, np.log(one), 1)[0] for one in zip(*found.values(), strict=True)])


def ratios(samples: Samples) -> list[Ratio]:
    """Every row of the table, each with its interval; what is counted has none."""
    step = np.array(samples.sides[STEP])
    goals = {STREAMED: STREAMED_GOAL, WITH_SNAPSHOT: None, FULL: None}
    rows = [
        Ratio(name, STEP, *median_and_interval([np.array(samples.sides[name]) / step], [1.0]), goal)
        for name, goal in goals.items()
    ]
    for name, growth in samples.growth.items():
        over = f"T {min(growth)} to {max(growth)}, one layer"
        rows.append(Ratio(TIME.format(name), over, *median_and_interval([exponents(growth)], [1.0])))
    for name, counted in samples.memory.items():
        power = float(exponents({length: [float(size)] for length, size in counted.items()})[0])
        over = f"T {min(counted)} to {max(counted)}"
        rows.append(Ratio(MEMORY.format(name), over, power, power, power, None if name == FULL else MEMORY_GOAL))
    return rows


def memory_table(samples: Samples) -> str:
    """MiB by side and length."""
    lengths = sorted({length for counted in samples.memory.values() for length in counted})
    width = max(map(len, samples.memory))
    lines = [f"{'MiB at T':{width}}  " + "".join(f"{length:>9}" for length in lengths)]
    for name, counted in samples.memory.items():
        sizes = (f"{counted[length] / 2**20:9.1f}" if length in counted else " " * 9 for length in lengths)
        lines.append(f"{name:{width}}  " + "".join(sizes))
    return "\n".join(line.rstrip() for line in lines)


def report(options: Options, samples: Samples, rows: Sequence[Ratio]) -> dict[str, Any]:
    """All that is kept of a run, every measurement included."""
    return {
        "benchmark": "attention",
        "machine": machine(options.device, options.threads, ["torch"]),
        "load": os.getloadavg(),
        "settings": asdict(options),
        "ratios": [{**asdict(row), "verdict": row.verdict} for row in rows],
        "samples": asdict(samples),
    }


def parsed(arguments: Sequence[str] | None) -> tuple[Options, Path | None]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--length", type=int, default=4096, help="T, the longest")
    parser.add_argument("--pairs", type=int, default=30, help="rounds over all sides")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="a file to keep the result in")
    given = vars(parser.parse_args(arguments))
    kept = given.pop("json")
    return Options(**given), kept


def main(arguments: Sequence[str] | None = None) -> int:
    started = time.perf_counter()
    try:
        options, kept = parsed(arguments)
        prepare(options.threads)
        samples = measured(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    rows = ratios(samples)
    result = report(options, samples, rows)
    shown = result["machine"]
    print(ratio_table(rows))
    print(
        f"\n{memory_table(samples)}\n\n{options.pairs} rounds; {HEADS} heads of {EACH}, one sequence, float32; a "
        f"training step takes {1000 * float(np.median(samples.sides[STEP])):.0f} ms\n"
        f"readings of streamed and full maps differ by {samples.difference:.0e} at most\n"
        f"{shown['device']}; threads: {shown['threads']}; load {result['load'][0]:.1f}; torch "
        f"{shown['packages']['torch']}; {shown['date']}; {(time.perf_counter() - started) / 60:.1f} min"
    )
    if kept is not None:
        keep(result, kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
