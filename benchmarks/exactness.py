"""How exact probes are: architectures × probes, the largest relative error of each against an oracle of its own.

    python benchmarks/exactness.py                        about 3 minutes on one core
    python benchmarks/exactness.py --models lstm mamba    some of it
    python benchmarks/exactness.py --json FILE            the table as numbers

Every architecture of ``conf/model`` that can be built here reads small batches in float64, away from its initial
weights: parity and adding, the reversal of strings, words from their neighbours, whichever it fits; stacks are also
two layers deep, in both directions where they can be. A cell is the worst of all of these, of all layers and
components, and of all statistics and coordinates of what the probe gives. "–" stands where a probe does not apply, or
where its oracle cannot tell. Layers of ``torch.nn`` follow, under ``retrograde.watch``.

What each column is held against is printed below the table; ``exact/`` has the oracles. None of them runs the sweep,
or anything else of what it judges. Most rest on loops of live autograd nodes, some on differences, whose own error is
printed. Errors are relative. Of a gradient at a state: the norm of the difference over the norm of the vector, or over
1e-6 of that of the whole state at that time where this is more; of norms, shares and statistics, each number by itself,
one that is a difference of others over 1e-6 of these at least. Differences, which cannot see what is much smaller than
the rest, are held to the largest gradient over time.

Then what is known on paper, and the range: a tanh net, swept in closed form, and a linear one, swept step by step,
whose gradients fall below 1e-200 on their way to the first state, in float32 beside float64.

The goals: 1e-10 for totals against live nodes, 1e-6 everywhere else, 1e-5 decades of range. Exits with 1 where one is
missed, and names it.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial, reduce
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn

from exact.case import Case, statistics, worse
from exact.columns import COLUMNS, Column
from exact.known import Answer, answers
from exact.watched import LAYERS, of_cell, of_layer
from measuring import SEED, factory, keep, listed, machine, one_line, prepare, say
from retrograde.core.choices import Unavailable, require_at_least, require_one_of
from retrograde.core.contracts import Probe, SequenceModel, Task
from retrograde.core.records import Batch
from retrograde.core.recurrence import Recurrence
from retrograde.core.snapshot import snapshot
from retrograde.core.statuses import FINITE, STATUSES
from retrograde.probes.state_gradient import StateGradient
from retrograde.tasks.adding import Adding
from retrograde.tasks.cloze import Cloze
from retrograde.tasks.parity import Parity
from retrograde.tasks.reverse import Reverse
from retrograde.train.configuration import config_folder, options
from retrograde.watching.watch import watch

WIDTH = 8
SAMPLES = 3

STEPS = 1000
DEEP = -200.0
"""Of the range: how long a net's sequence is, and below which decade its gradient has to fall for the row to count."""

DECADES = 1e-5
"""The largest difference of a log10 in float32 from float64."""

SURE = 1e-7
"""The largest error that differences may claim for themselves, of the largest gradient over time."""

TASKS: Sequence[Task] = (
    Parity(shortest=4, longest=8, test_longest=None, scored="all"),  # tokens, every position scored, lengths differ
    Adding(length=8),  # real numbers, one position scored
    Reverse(symbols=3, shortest=3, longest=5),  # from source to target, lengths differ on both sides
    Cloze(length=9, vocabulary=20),  # each word from its neighbours
)


@dataclass
class Row:
    """One architecture: the worst error of every column that applies, and what could not be computed, by title."""

    name: str
    errors: dict[str, float] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    claimed: float = 0.0
    spent: dict[str, float] = field(default_factory=dict)

    def missed(self) -> dict[str, str]:
        """The cells that miss their goal, each with what it reads."""
        goals = {column.title: column.goal for column in COLUMNS}
        worse = {title: f"{value:.1e}" for title, value in self.errors.items() if not value <= goals[title]}
        return worse | self.broken


def cases(name: str, probes: Mapping[str, Probe]) -> Iterator[Case]:
    """The architecture on every task that it fits; where it can be, two layers deep and in both directions as well."""
    make = factory(name, WIDTH)
    deeper = {"layers": 2, "bidirectional": True}
    for task in TASKS:
        for settings in ({}, deeper):
            if settings and not (isinstance(make, partial) and settings.keys() <= make.keywords.keys()):
                continue
            torch.manual_seed(SEED)
            model = away(make(task, **settings).eval())
            if task.kind not in model.kinds:
                continue
            batch = task.sample(SAMPLES, torch.Generator().manual_seed(SEED)).beside(model.like)
            yield Case(model, task, batch, probes)


def away(model: SequenceModel) -> SequenceModel:
    """The model away from its initial weights, which may sit on a kink: zero biases under a ReLU do."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def judged(name: str, probes: Mapping[str, Probe], columns: Sequence[Column]) -> Row:
    """The architecture's row. Raises Unavailable where this machine has not what it needs."""
    row = Row(name)
    for case in cases(name, probes):
        for column in columns:
            begun = time.process_time()
            try:
                found = column.check(case)
            except Exception as problem:  # a probe that fails on one architecture shall not hide the others
                row.broken[column.title] = f"{type(problem).__name__}: {one_line(problem)}"
                continue
            row.spent[column.title] = row.spent.get(column.title, 0.0) + time.process_time() - begun
            if found is not None:
                row.errors[column.title] = worse(found, row.errors.get(column.title, 0.0))
        row.claimed = reduce(worse, case.claimed, row.claimed)
    return row


def watched_rows() -> list[Row]:
    """Layers of ``torch.nn`` under ``retrograde.watch``; of the columns of ``state_gradient`` alone."""
    rows = []
    for each in LAYERS:
        torch.manual_seed(SEED)
        rows.append(Row(f"{each.name}, watched", of_layer(each)))
    torch.manual_seed(SEED)
    rows.append(Row("nn.LSTMCell, watched", of_cell()))
    return rows


@dataclass(frozen=True)
class Range:
    """What a float32 run reads of a gradient that leaves the format, beside float64: all in log10 of norms."""

    what: str
    lowest: float
    readings: int
    finite: int
    apart: float

    @property
    def missed(self) -> bool:
        return not (self.finite == self.readings and self.apart <= DECADES and self.lowest < DEEP)

    def __str__(self) -> str:
        apart = f"{self.apart:.0e} decades from float64, goal {DECADES:.0e}"
        verdict = "missed" if self.missed else "met"
        return f"{self.what}: {self.finite} of {self.readings} finite, down to 1e{self.lowest:.0f}; {apart}: {verdict}"


def ranges(length: int = STEPS) -> list[Range]:
    """Nets whose loss is at the end, and their first states' gradients: by the probe, of a tanh net by a watch too."""
    torch.manual_seed(SEED)
    task = Adding(length=length)
    model = factory("elman", 64)(task).float()
    batch = task.sample(4, torch.Generator().manual_seed(SEED)).beside(model.like)
    (layer,) = (part for part in model.modules() if isinstance(part, nn.RNN))
    readout = next(part for part in model.modules() if isinstance(part, nn.Linear))
    expected = by_hand(layer, readout, batch)
    found = [range_of_totals("state_gradient of a tanh net", model, task, batch, expected)]
    with watch(layer, per_sample=True) as flow:
        outputs, _ = layer(batch.inputs)
        (readout(outputs[:, -1]) - batch.targets[:, -1]).square().sum().backward()
    table = flow.frame(per_sample=True).sort_values(["sample", "time"])
    totals = torch.tensor(table.total.to_numpy()).view(len(batch), -1)
    statuses = (table.status != STATUSES[FINITE]).to_numpy().reshape(len(batch), -1)
    found.append(judged_range("retrograde.watch of the tanh net", totals, statuses, expected))
    linear = factory("linear_rnn", 64, ["model.radius=0.5"])(task).float()
    expected = by_hand_of_a_linear_net(linear, batch)
    return [*found, range_of_totals("state_gradient of a linear net", linear, task, batch, expected)]


def range_of_totals(what: str, model: SequenceModel, task: Task, batch: Batch, expected: Tensor) -> Range:
    """What the probe reads of the hidden state, against log10 norms (sample, state)."""
    readings = {reading.name: reading for reading in StateGradient()(snapshot(model, task, batch, 0))}
    found = readings["total/0.forward.hidden"]
    natural = statistics(10 ** (expected - expected.amax(0)), torch.ones_like(expected, dtype=torch.bool))
    return judged_range(what, torch.as_tensor(found.values), found.status, natural.log10() + expected.amax(0))


def by_hand(layer: nn.RNN, readout: nn.Linear, batch: Batch) -> Tensor:
    """log10 ‖dL/dh_t‖ of a tanh net in float64, (sample, state) from t = -1."""
    w, u, b, c = (weight.detach().double() for weight in layer.parameters())
    states = [torch.zeros(len(batch), len(u))]
    for x in batch.inputs.double().unbind(1):
        states.append(torch.tanh(x @ w.T + states[-1] @ u.T + b + c))
    v, d = (weight.detach().double() for weight in readout.parameters())
    gradient = 2 * (states[-1] @ v.T + d - batch.targets[:, -1].double()) @ v
    return fallen(gradient, [1 - state.square() for state in states[1:]], u)


def by_hand_of_a_linear_net(model: SequenceModel, batch: Batch) -> Tensor:
    """The same of a linear one."""
    (cell,) = (part for part in model.modules() if isinstance(part, Recurrence))
    readout = next(part for part in model.modules() if isinstance(part, nn.Linear))
    w, u = (cell.weights()[name].detach().double() for name in ("input", "recurrent"))
    state = torch.zeros(len(batch), len(u))
    for x in batch.inputs.double().unbind(1):
        state = x @ w.T + state @ u.T
    v, d = (weight.detach().double() for weight in readout.parameters())
    gradient = 2 * (state @ v.T + d - batch.targets[:, -1].double()) @ v
    return fallen(gradient, [torch.ones_like(state)] * batch.inputs.shape[1], u)


def fallen(gradient: Tensor, slopes: Sequence[Tensor], recurrent: Tensor) -> Tensor:
    """log10 norms (sample, state) of a gradient handed back by every step, brought back to size 1 at each."""
    size = gradient.norm(dim=1)
    decades = [size.log10()]
    for slope in reversed(slopes):
        gradient = (slope * gradient / size.unsqueeze(1)) @ recurrent
        size = gradient.norm(dim=1)
        decades.append(decades[-1] + size.log10())
    return torch.stack(decades[::-1], 1)


def judged_range(what: str, values: Tensor, status: Any, expected: Tensor) -> Range:
    """``status`` is not FINITE, or true, where a value is no number or only a bound."""
    finite = torch.isfinite(values) & (torch.as_tensor(status) == FINITE)
    apart = float((values - expected).abs()[finite].max()) if finite.any() else math.inf
    return Range(what, float(expected.min()), values.numel(), int(finite.sum()), apart)


def all_probes() -> dict[str, Probe]:
    """Every probe of ``conf/probe`` that is no preset, with its default settings."""
    found = {}
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        for stem in options("probe", config_folder()):
            config = compose("train", overrides=[f"probe={stem}"]).probe
            if list(config or {}) == [stem]:
                found[stem] = instantiate(config[stem])
    return found


def table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """As a person reads it; a cell that misses its goal is marked."""
    width = max(len(row.name) for row in rows)
    sizes = {column.title: max(8, len(column.title)) for column in columns}
    lines = [" " * width + "".join(f"  {title:>{size}}" for title, size in sizes.items())]
    for row in rows:
        cells = [cell(row, title).rjust(size) for title, size in sizes.items()]
        lines.append("  ".join([row.name.ljust(width), *cells]).rstrip())
    return "\n".join(lines)


def cell(row: Row, title: str) -> str:
    if title in row.broken:
        return "broken!"
    if title not in row.errors:
        return "–"
    mark = "!" if title in row.missed() else ""
    return ("0" if row.errors[title] == 0 else f"{row.errors[title]:.0e}") + mark


def legend(columns: Sequence[Column], unjudged: Sequence[str]) -> str:
    """What each column is held against, and which probes have none."""
    width = max(len(column.title) for column in columns)
    lines = [
        f"{column.title:{width}}  {column.probe + ': ' if column.probe else ''}{column.oracle}" for column in columns
    ]
    if unjudged:
        lines.append(f"not here: {', '.join(unjudged)}")
    return "\n".join(lines)


def report(
    rows: Sequence[Row],
    columns: Sequence[Column],
    known: Sequence[Answer],
    found: Sequence[Range],
    left_out: Mapping[str, str],
    threads: int,
) -> dict[str, Any]:
    """All that is kept of a run."""
    return {
        "benchmark": "exactness",
        "machine": machine("cpu", threads, ["torch"]),
        "columns": [{"title": c.title, "probe": c.probe, "oracle": c.oracle, "goal": c.goal} for c in columns],
        "rows": [
            {
                "name": row.name,
                "errors": row.errors,
                "missed": row.missed(),
                "differences": row.claimed,
                "seconds": row.spent,
            }
            for row in rows
        ],
        "differences": max((row.claimed for row in rows), default=0.0),
        "known": [{**asdict(each), "missed": each.missed} for each in known],
        "range": [{**asdict(each), "missed": each.missed} for each in found],
        "left_out": dict(left_out),
    }


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    everything = list(options("model", config_folder()))
    parser.add_argument("--models", nargs="*", default=everything, help="architectures; all, and torch.nn's layers")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="a file to keep the result in")
    given = parser.parse_args(arguments)
    require_at_least("--threads", given.threads, 1)
    for name in given.models:
        require_one_of("--models", name, everything)
    given.everything = given.models == everything
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        given = parsed(arguments)
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 1
    prepare(given.threads)
    torch.set_default_dtype(torch.float64)
    started = time.perf_counter()
    probes = all_probes()
    rows, left_out = [], {}
    for name in given.models:
        try:
            rows.append(judged(name, probes, COLUMNS))
            say(f"{name}: {sum(rows[-1].spent.values()):.1f} s")
        except Unavailable as problem:
            left_out[name] = str(problem)
    known: list[Answer] = []
    found: list[Range] = []
    if given.everything:
        rows += watched_rows()
        known = answers()
        found = ranges()
    result = report(rows, COLUMNS, known, found, left_out, given.threads)
    unjudged = sorted(probes.keys() - {column.probe for column in COLUMNS})
    parts = [table(rows, COLUMNS), legend(COLUMNS, unjudged)]
    parts.append(
        f"differences themselves claim an error of at most {result['differences']:.0e} of the largest, goal {SURE:.0e}"
    )
    if known:
        parts.append("\n".join(["known on paper", *(f"  {answer}" for answer in known)]))
    if found:
        parts.append(
            "\n".join([f"nets over {STEPS} steps in float32, the loss at the end", *(f"  {each}" for each in found)])
        )
    if left_out:
        parts.append(listed("not measured", left_out))
    missed = {f"{row.name}, {title}": what for row in rows for title, what in row.missed().items()}
    missed |= {answer.what: f"{answer.error:.1e}" for answer in known if answer.missed}
    missed |= {f"range, {each.what}": "see above" for each in found if each.missed}
    missed |= {f"{row.name}, differences": f"{row.claimed:.1e}" for row in rows if not row.claimed <= SURE}
    where, minutes = result["machine"], (time.perf_counter() - started) / 60
    parts.append(
        f"float64, {SAMPLES} samples, width {WIDTH}; {minutes:.1f} min\n"
        f"{where['device']}; threads: {given.threads}; torch {where['packages']['torch']}; {where['date']}"
    )
    parts.append(listed("missed", missed) if missed else "every goal is met")
    print("\n\n".join(parts))
    if given.json is not None:
        keep(result, given.json)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
