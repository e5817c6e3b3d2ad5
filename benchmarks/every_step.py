"""The part of overhead.py that needs no Trainer: totals at every training step, what others offer, Jacobians, growth.

Of ``torch.nn``'s LSTM, GRU and RNN, each with the same read-out, loss, clipping and optimiser on every side, from the
same weights and on the same batches: the module as it is, with the totals and norms of every state by the layer's own
backward, by ``retrograde.watch``, by a loop over cells that keeps every state's gradient, and with ``wandb.watch``. In
every round each side takes a short block of steps, beginning with another side each time, and ratios are formed within
the round.

That the sides compute the same is checked before: totals of the layer and norms of the watch against the loop's, and
losses after the first blocks.
"""

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import wandb
from torch import Tensor, nn

import retrograde
from measuring import SEED, Ratio, median_and_interval, say, seconds, visit
from retrograde.core.contracts import Probe, Task
from retrograde.core.records import StateGradient
from retrograde.core.scaled import log10_norm
from retrograde.core.snapshot import snapshot
from retrograde.layers.fused import with_totals
from retrograde.layers.recurrent import RecurrentModel
from retrograde.models.elman import elman
from retrograde.models.gru import gru
from retrograde.models.lstm import lstm
from retrograde.probes.jacobian import Jacobian
from retrograde.tasks.adding import Adding
from retrograde.train.fit import ADAM

CLIP = 1.0
WARM_UP = 2
"""Rounds thrown away."""

BLOCK = 2
"""Steps that a side takes in a round."""

GROWTH = 6
"""Lengths over which the cost in T is measured, each twice the one before, from a quarter of --length."""

PAIRS_A_ROUND = 3
"""Pairs for each round over all these lengths: a round takes as long as sixteen steps at --length."""

WANDB_CADENCE = 1000
"""The steps between two of ``wandb.watch``'s own logs where nobody says otherwise."""

TOLERANCE = 1e-4
"""Of the largest total over time: float32 along a few hundred steps; what autograd alone shows is off by over 0.3."""

SAME_LOSS = 1e-2
"""Relative difference of two sides' losses after one block: rounding grows, another network or stream shows."""

PLAIN = "plain"
LAYER = "totals and norms at every step, {}"
WATCH = "the same by retrograde.watch, {}"
LOOP = "a loop that keeps every state's gradient, {}"
HOOKS, LOGGING = "wandb.watch hooks", "wandb.watch(log='all') at every step, {}"
CADENCE = f"wandb.watch(log='all') every {WANDB_CADENCE:,} steps, its default, {{}}"
JACOBIANS = "exact Jacobian norms for all t, one sequence, {}"
EXPONENT = "power of T that a step with totals costs, {}"


@dataclass(frozen=True)
class Kind:
    """A layer of ``torch.nn``, the same as a model of ours, its cell as a function, and the goal of its totals."""

    name: str
    layer: Callable[..., nn.RNNBase]
    model: Callable[..., RecurrentModel]
    cell: Callable[..., Any]
    components: tuple[str, ...]
    goal: float


KINDS = (
    Kind("nn.GRU", nn.GRU, gru, torch.gru_cell, ("hidden",), 1.00),
    Kind("nn.RNN", nn.RNN, elman, torch.rnn_tanh_cell, ("hidden",), 1.00),
    Kind("nn.LSTM", nn.LSTM, lstm, torch.lstm_cell, ("hidden", "cell"), 1.15),
)
JACOBIAN_GOAL = 3.0
EXPONENT_GOAL = 1.05


class Net(nn.Module):
    """A layer and a read-out of its last output."""

    def __init__(self, layer: nn.RNNBase, outputs: int) -> None:
        super().__init__()
        self.layer = layer
        self.readout = nn.Linear(layer.hidden_size, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.readout(self.layer(inputs)[0][:, -1])


class Side:
    """One way to train the net, from the same weights and on the same batches as every other side."""

    def __init__(self, kind: Kind, task: Task, hidden: int, batch: int, device: str) -> None:
        torch.manual_seed(SEED)
        self.kind = kind
        self.net = Net(kind.layer(task.inputs.size, hidden, batch_first=True), task.outputs.size).to(device)
        self.optimizer = ADAM(self.net.parameters())
        self.task = task
        self.batch = batch
        self.stream = torch.Generator(device).manual_seed(SEED)

    def answer(self, inputs: Tensor) -> Tensor:
        """The net's output, in this side's way."""
        return self.net(inputs)

    def after(self, loss: Tensor) -> None:
        """What this side does when a step is over."""

    def loss(self) -> Tensor:
        """Of the next batch."""
        batch = self.task.sample(self.batch, self.stream)
        return nn.functional.mse_loss(self.answer(batch.inputs), batch.targets[:, -1])

    def train(self, steps: int) -> float:
        """The loss of the last step."""
        for _ in range(steps):
            loss = self.loss()
            loss.backward()
            nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.after(loss)
        return loss.item()


class Totals(Side):
    """With the totals of every state, and their norms, by the layer's own backward."""

    def __init__(self, kind: Kind, task: Task, hidden: int, batch: int, device: str) -> None:
        super().__init__(kind, task, hidden, batch, device)
        self.norms: dict[str, Tensor] = {}
        self.seen: dict[str, Tensor] | None = None

    def answer(self, inputs: Tensor) -> Tensor:
        outputs, _ = with_totals(self.net.layer, inputs, None, self.report)
        return self.net.readout(outputs[:, -1])

    def report(self, place: str, gradient: StateGradient, lengths: Tensor) -> None:
        self.norms[place], _ = log10_norm(gradient.total)
        if self.seen is not None:
            self.seen[place.rpartition(".")[2]] = gradient.total.value()


class Watched(Side):
    """Under ``retrograde.watch``, as anybody's loop would be."""

    def __init__(self, kind: Kind, task: Task, hidden: int, batch: int, device: str) -> None:
        super().__init__(kind, task, hidden, batch, device)
        self.watching = retrograde.watch(self.net, only=lambda name, module: name in ("", "layer"))


class Kept(Side):
    """By a loop over the cell in which the gradient of every state is kept, and the norms of all of them."""

    def __init__(self, kind: Kind, task: Task, hidden: int, batch: int, device: str) -> None:
        super().__init__(kind, task, hidden, batch, device)
        self.states: dict[str, list[Tensor]] = {}
        self.norms: dict[str, Tensor] = {}

    def answer(self, inputs: Tensor) -> Tensor:
        weights = list(self.net.layer.parameters())
        begin = inputs.new_zeros(len(inputs), self.net.layer.hidden_size)
        state = [begin.clone().requires_grad_() for _ in self.kind.components]
        self.states = {name: [value] for name, value in zip(self.kind.components, state, strict=True)}
        for x in inputs.unbind(1):
            made = self.kind.cell(x, state[0] if len(state) == 1 else state, *weights)
            state = [made] if isinstance(made, Tensor) else list(made)
            for name, value in zip(self.kind.components, state, strict=True):
                value.retain_grad()
                self.states[name].append(value)
        return self.net.readout(state[0])

    def totals(self) -> dict[str, Tensor]:
        """(batch, state, width) by component, from t = -1."""
        return {
            name: torch.stack([value.grad for value in kept if value.grad is not None], 1)
            for name, kept in self.states.items()
        }

    def after(self, loss: Tensor) -> None:
        self.norms = {name: total.norm(dim=2).log10() for name, total in self.totals().items()}


class WandbWatched(Side):
    """Under ``wandb.watch``, which logs every ``cadence`` steps; the loss is logged with it."""

    def __init__(
        self, kind: Kind, task: Task, hidden: int, batch: int, device: str, run: wandb.Run, cadence: int
    ) -> None:
        super().__init__(kind, task, hidden, batch, device)
        self.run = run
        self.cadence = cadence
        run.watch(self.net, log="all", log_freq=cadence)

    def after(self, loss: Tensor) -> None:
        if self.cadence == 1:
            self.run.log({"train/loss": loss.item()})


@dataclass
class Pairs:
    """Seconds of the probe and of a step, one entry a pair."""

    probe: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)


@dataclass
class Samples:
    """Seconds, by kind: of blocks by side, one entry a round; of Jacobians; of steps with totals by length.

    ``difference`` is the largest between totals and those by hand.
    """

    sides: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    jacobians: dict[str, Pairs] = field(default_factory=dict)
    growth: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    difference: float = 0.0


def largest_difference(ours: dict[str, Tensor], by_hand: dict[str, Tensor]) -> float:
    """Between the totals, relative to the largest of its component; raises ValueError where it is not rounding."""
    worst = 0.0
    for name, total in by_hand.items():
        difference = float((ours[name] - total).abs().max() / total.abs().max())
        if not difference <= TOLERANCE:
            raise ValueError(
                f"the totals of '{name}' differ from those by hand by {difference:.1e} of the largest, more than "
                f"{TOLERANCE:.0e}: the two do not measure the same"
            )
        worst = max(worst, difference)
    return worst


def checked(kind: Kind, task: Task, hidden: int, batch: int, device: str) -> float:
    """The largest difference of one step's totals from those of the loop; raises ValueError where it is no rounding."""
    sizes = (kind, task, hidden, batch, device)
    kept, ours, watched = Kept(*sizes), Totals(*sizes), Watched(*sizes)
    kept.loss().backward()
    by_hand = kept.totals()
    ours.seen = {}
    ours.loss().backward()
    difference = largest_difference(ours.seen, by_hand)
    with watched.watching as flow:
        watched.loss().backward()
    table = flow.frame()
    table = table[(table.statistic == "mean") & table.layer.str.startswith("layer.")]
    seen = {
        name: torch.as_tensor(10 ** table[table.component == name].sort_values("time").total.to_numpy())
        for name in kind.components
    }
    means = {name: total.norm(dim=2).mean(0).double().cpu() for name, total in by_hand.items()}
    return max(difference, largest_difference(seen, means))


@contextmanager
def offline_run() -> Iterator[wandb.Run]:
    """W&B's global run, which is what ``wandb.watch`` logs to; its files are thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        settings = wandb.Settings(console="off", silent=True)
        run = wandb.init(project="retrograde", mode="offline", dir=folder, settings=settings)
        try:
            yield run
        finally:
            run.finish()


def measured(pairs: int, hidden: int, batch: int, length: int, device: str) -> Samples:
    """All that is compared here, round by round."""
    samples = Samples()
    for kind in KINDS:
        samples.difference = max(samples.difference, checked(kind, Adding(length), hidden, batch, device))
        samples.sides[kind.name] = measured_sides(kind, pairs, hidden, batch, length, device)
        samples.jacobians[kind.name] = measured_jacobians(kind, pairs, hidden, batch, length, device)
        rounds = max(1, pairs // PAIRS_A_ROUND)
        samples.growth[kind.name] = measured_growth(kind, rounds, hidden, batch, lengths(length), device)
    return samples


def measured_sides(kind: Kind, pairs: int, hidden: int, batch: int, length: int, device: str) -> dict[str, list[float]]:
    """Seconds of a block of each side, in rounds."""
    sizes = (kind, Adding(length), hidden, batch, device)
    with ExitStack() as open_until_the_end:
        watched = Watched(*sizes)
        open_until_the_end.enter_context(watched.watching)
        sides: dict[str, Side] = {PLAIN: Side(*sizes), LAYER: Totals(*sizes), WATCH: watched, LOOP: Kept(*sizes)}
        if kind.name == "nn.LSTM":  # what it costs does not depend on the kind but for the number of weights
            run = open_until_the_end.enter_context(offline_run())
            sides |= {
                HOOKS: WandbWatched(*sizes, run, 10**9),
                LOGGING: WandbWatched(*sizes, run, 1),
            }
        agree(kind, sides)
        found: dict[str, list[float]] = {name: [] for name in sides}
        names = list(sides)
        for place in range(WARM_UP + pairs):
            turn = place % len(names)
            for name in names[turn:] + names[:turn]:
                found[name].append(seconds(partial(sides[name].train, BLOCK), device))
            say(f"{kind.name}: round {place + 1} of {WARM_UP + pairs}, plain {found[PLAIN][-1]:.2f} s")
    return {name: values[WARM_UP:] for name, values in found.items()}


def agree(kind: Kind, sides: dict[str, Side]) -> None:
    """Raise ValueError where two sides train different nets."""
    losses = {name: side.train(BLOCK) for name, side in sides.items()}
    for name, loss in losses.items():
        if not math.isclose(loss, losses[PLAIN], rel_tol=SAME_LOSS):
            raise ValueError(
                f"{kind.name}: after {BLOCK} steps the loss of '{name}' is {loss}, the plain module's {losses[PLAIN]}: "
                "not the same network"
            )


def measured_jacobians(kind: Kind, pairs: int, hidden: int, batch: int, length: int, device: str) -> Pairs:
    """Seconds of the probe on one sequence, its own sweep included, and of a step of the plain module, in turn."""
    torch.manual_seed(SEED)
    task = Adding(length)
    plain = Side(kind, task, hidden, batch, device)
    model = kind.model(task, hidden=hidden).to(device)
    one = task.sample(1, torch.Generator().manual_seed(SEED)).beside(model.like)
    taken = snapshot(model, task, one, 0)
    probe: Probe = Jacobian(samples=1)
    found = Pairs()
    for _ in range(WARM_UP + pairs):
        found.probe.append(seconds(lambda: list(probe(taken)), device))
        found.step.append(seconds(partial(plain.train, 1), device))
    return Pairs(found.probe[WARM_UP:], found.step[WARM_UP:])


def lengths(length: int) -> list[int]:
    """From a quarter of it, each twice the one before: 100 to 3,200 for 400."""
    return [max(4, length // 4) * 2**power for power in range(GROWTH)]


def measured_growth(
    kind: Kind, rounds: int, hidden: int, batch: int, over: Sequence[int], device: str
) -> dict[int, list[float]]:
    """Seconds of a training step with totals at every length, in rounds over all of them."""
    sides = {length: Totals(kind, Adding(length), hidden, batch, device) for length in over}
    found: dict[int, list[float]] = {length: [] for length in over}
    for side in sides.values():
        side.train(1)
    for place in range(rounds):
        for length, side in sides.items():
            found[length].append(visit(partial(side.train, 1), device))
        say(f"{kind.name}: growth, round {place + 1} of {rounds}")
    return found


def exponents(found: dict[int, list[float]]) -> np.ndarray:
    """Of every round, whose lengths met the machine in one state: the slope of log seconds over log T."""
    over = np.log(list(found))
    return np.array([np.polyfit(over, np.log(one), 1)[0] for one in zip(*found.values(), strict=True)])


def ratios(samples: Samples) -> list[Ratio]:
    """Every row of the table, each with its interval."""
    rows = []
    for kind in KINDS:
        found = {
            name: np.array(values) / samples.sides[kind.name][PLAIN]
            for name, values in samples.sides[kind.name].items()
        }
        jacobians = samples.jacobians[kind.name]
        growth = samples.growth[kind.name]
        plain, share = f"plain {kind.name}", 1 / WANDB_CADENCE
        parts: list[tuple[str, str, list[np.ndarray], list[float], float | None]] = [
            (LAYER, plain, [found[LAYER]], [1.0], kind.goal),
            (WATCH, plain, [found[WATCH]], [1.0], None),
            (LOOP, plain, [found[LOOP]], [1.0], None),
        ]
        if LOGGING in found:
            parts.append((LOGGING, plain, [found[LOGGING]], [1.0], None))
            parts.append((CADENCE, plain, [found[HOOKS], found[LOGGING]], [1 - share, share], None))
        steps = np.array(jacobians.probe) / np.array(jacobians.step)
        parts.append((JACOBIANS, f"{plain} step", [steps], [1.0], JACOBIAN_GOAL))
        over = f"T {min(growth)} to {max(growth)}"
        parts.append((EXPONENT, over, [exponents(growth)], [1.0], EXPONENT_GOAL))
        rows += [
            Ratio(name.format(kind.name), against, *median_and_interval(values, weights), goal)
            for name, against, values, weights, goal in parts
        ]
    return rows
