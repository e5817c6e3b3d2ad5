"""What exactness.py asks of probes where the answer is known on paper."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from exact.case import error
from measuring import SEED, factory
from retrograde.core.contracts import Probe, Snapshot
from retrograde.core.snapshot import snapshot
from retrograde.core.statuses import ZERO
from retrograde.probes.lyapunov import Lyapunov
from retrograde.tasks.adding import Adding
from retrograde.watching.watch import watch

WIDTH = 6
LENGTH = 40


@dataclass(frozen=True)
class Answer:
    """A question with the largest error of what was found; absolute where the answer is 0."""

    what: str
    error: float
    goal: float = 1e-6

    @property
    def missed(self) -> bool:
        return not self.error <= self.goal

    def __str__(self) -> str:
        return f"{self.what}: {self.error:.0e}, goal {self.goal:.0e}: {'missed' if self.missed else 'met'}"


def taken(name: str, *overrides: str) -> Snapshot:
    """A model on the adding problem, in float64."""
    torch.manual_seed(SEED)
    task = Adding(length=LENGTH)
    model = factory(name, WIDTH, overrides)(task).eval()
    return snapshot(model, task, task.sample(2, torch.Generator().manual_seed(SEED)).beside(model.like), 0)


def exponents(on: Snapshot, probe: Probe) -> tuple[Tensor, Tensor]:
    """Finite ones of the first sample, and which of them are -∞."""
    (reading,) = (each for each in probe(on) if each.name == "finite/0.forward")
    assert reading.status is not None
    return torch.as_tensor(reading.values[0]), torch.as_tensor(reading.status[0]) == ZERO


def answers() -> list[Answer]:
    spectrum = Lyapunov(length=1, warmup=0)
    found = []
    for radius in (1.0, 0.8):
        on = taken("linear_rnn", f"model.radius={radius}", "model.matrix=orthogonal")
        totals = on.gradients["0.forward.hidden"].total.value().norm(dim=2)
        back = radius ** torch.arange(LENGTH, -1, -1.0)
        found.append(
            Answer(
                f"h = {radius} Q h, Q orthogonal: dL/dh over time",
                error(totals / totals[:, -1:], back.expand_as(totals)),
            )
        )
        values, _ = exponents(on, spectrum)
        apart = float((values - math.log(radius)).abs().max())
        found.append(Answer(f"h = {radius} Q h, Q orthogonal: exponents are ln {radius}", apart))
    on = taken("lru")
    values, _ = exponents(on, spectrum)
    course = on.courses["0.forward"]
    (eigenvalues,) = course.recurrence.transitions(course.weights).values()
    expected = eigenvalues.abs().log().repeat_interleave(2).sort(descending=True).values  # real and imaginary part
    found.append(Answer("diagonal recurrence: exponents are ln |λ|, each twice", error(values, expected)))
    found.append(
        Answer("LSTM, W_hh = 0: n exponents by f along the way and o at its end, n are -∞", lstm_alone(spectrum))
    )
    found.append(Answer("two steps of a net by hand, total ≠ direct", two_steps()))
    return found


def lstm_alone(spectrum: Probe) -> float:
    """Without recurrent weights the cell is carried by its forget gate and the hidden state by nothing.

    A change of the cell at the start is Π f of it in the cell at the end, and o (1 - tanh² c) times that beside it.
    """
    model = taken("lstm").model
    (layer,) = (part for part in model.modules() if isinstance(part, nn.LSTM))
    weights, recurrent, *biases = layer.parameters()
    with torch.no_grad():
        recurrent.zero_()
    task = Adding(length=LENGTH)
    on = snapshot(model, task, task.sample(1, torch.Generator().manual_seed(SEED)).beside(model.like), 0)
    values, nothing = exponents(on, spectrum)
    driven = (on.batch.inputs[0] @ weights.T + biases[0] + biases[1]).detach()
    enter, forget, _, leave = (part.sigmoid() for part in driven.chunk(4, 1))
    candidate = driven.chunk(4, 1)[2].tanh()
    cell = torch.zeros(WIDTH)
    for time in range(LENGTH):
        cell = forget[time] * cell + enter[time] * candidate[time]
    beside = leave[-1] * (1 - cell.tanh().square())
    expected = forget.log().mean(0) + (1 + beside.square()).log() / (2 * LENGTH)
    expected = expected.sort(descending=True).values
    if nothing.tolist() != [False] * WIDTH + [True] * WIDTH:
        return math.inf
    return error(values[:WIDTH], expected)


def two_steps() -> float:
    """h_1 = tanh(0), h_2 = tanh(ln 3 + h_1 / 2) = 4/5, L = h_1 + h_2: both are worth 1 directly.

    In all, h_1 is worth 1 + (1 - 16/25) / 2 = 59/50, and the state before it half of that.
    """
    layer = nn.RNN(1, 1, batch_first=True)
    with torch.no_grad():
        for weight, value in zip(layer.parameters(), (1.0, 0.5, 0.0, 0.0), strict=True):
            weight.fill_(value)
    with watch(layer, per_sample=True) as flow:
        layer(torch.tensor([[[0.0], [math.log(3)]]]))[0].sum().backward()
    table = flow.frame(per_sample=True).sort_values("time")
    total = error(10 ** table.total.to_numpy(), torch.tensor([0.59, 1.18, 1.0]))
    return max(total, error(10 ** table.direct.to_numpy(), torch.tensor([0.0, 1.0, 1.0])))
