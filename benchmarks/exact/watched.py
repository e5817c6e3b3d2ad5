"""``retrograde.watch`` on recurrent layers of ``torch.nn``, held against loops written here from the equations.

Each layer is two deep, in both directions, begins with states that are given, and reads sequences of unequal length,
padded and packed; a cell is called in a loop. The loss is the sum of each sample's own, made of the outputs and of the
last states. The loops run sample by sample, without padding, every state a live node of autograd.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from exact.case import FLOOR, error, worse
from exact.differences import derivative
from retrograde.watching.watch import watch

INPUTS, HIDDEN, PROJECTED = 3, 5, 4
LENGTHS = torch.tensor([6, 3, 5])

State = dict[str, Tensor]
Place = tuple[str, str, int, int]
"""Layer and direction, component, sample and time."""


@dataclass(frozen=True)
class Watched:
    """A layer by the name of its row, and how it is made."""

    name: str
    make: Callable[[bool], nn.RNNBase]


LAYERS: Sequence[Watched] = (
    Watched("nn.RNN", lambda first: nn.RNN(INPUTS, HIDDEN, 2, batch_first=first, bidirectional=True)),
    Watched(
        "nn.RNN, relu",
        lambda first: nn.RNN(INPUTS, HIDDEN, 2, nonlinearity="relu", batch_first=first, bidirectional=True),
    ),
    Watched("nn.GRU", lambda first: nn.GRU(INPUTS, HIDDEN, 2, batch_first=first, bidirectional=True)),
    Watched("nn.LSTM", lambda first: nn.LSTM(INPUTS, HIDDEN, 2, batch_first=first, bidirectional=True)),
    Watched(
        "nn.LSTM, projected",
        lambda first: nn.LSTM(INPUTS, HIDDEN, 2, batch_first=first, bidirectional=True, proj_size=PROJECTED),
    ),
)


class InALoop(nn.Module):
    """A cell that is called once for every time."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(INPUTS, HIDDEN)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs = []
        for now in x.unbind(1):
            hidden, cell = self.cell(now, (hidden, cell))
            outputs.append(hidden)
        return torch.stack(outputs, 1), hidden, cell


@dataclass(frozen=True)
class Nodes:
    """What one set of loops has made: nodes by place, outputs and last states, (batch, …) and (layer, batch, …)."""

    states: dict[Place, Tensor]
    outputs: Tensor
    last: list[Tensor]


def equations(module: nn.Module, suffix: str, x: Tensor, state: State) -> State:
    """One step from the documentation of ``torch.nn``."""
    from_input = x @ getattr(module, "weight_ih" + suffix).T + getattr(module, "bias_ih" + suffix)
    from_hidden = state["hidden"] @ getattr(module, "weight_hh" + suffix).T + getattr(module, "bias_hh" + suffix)
    project = getattr(module, "weight_hr" + suffix, None)
    if isinstance(module, nn.RNN):
        f = torch.relu if module.nonlinearity == "relu" else torch.tanh
        return {"hidden": f(from_input + from_hidden)}
    if isinstance(module, nn.GRU):
        (ri, zi, ni), (rh, zh, nh) = from_input.chunk(3, -1), from_hidden.chunk(3, -1)
        r, z = (ri + rh).sigmoid(), (zi + zh).sigmoid()
        return {"hidden": (1 - z) * (ni + r * nh).tanh() + z * state["hidden"]}
    i, f, g, o = (from_input + from_hidden).chunk(4, -1)
    cell = f.sigmoid() * state["cell"] + i.sigmoid() * g.tanh()
    hidden = o.sigmoid() * cell.tanh()
    return {"hidden": hidden if project is None else hidden @ project.T, "cell": cell}


def loops(module: nn.RNNBase, x: Tensor, begin: Sequence[Tensor], lengths: Tensor, cut: str | None) -> Nodes:
    """A stack in both directions, x (batch, time, width); the states of direction ``cut`` do not reach later ones."""
    components = ("hidden", "cell")[: len(begin)]
    nodes: dict[Place, Tensor] = {}
    last: list[list[list[Tensor]]] = [[] for _ in components]
    for depth in range(module.num_layers):
        sides = []
        for direction, suffix in enumerate(("", "_reverse")):
            where = f"{depth}.{('forward', 'backward')[direction]}"
            rows, ends = [], []
            for sample, length in enumerate(lengths.tolist()):
                at = 2 * depth + direction
                state = {name: part[at, sample].clone() for name, part in zip(components, begin, strict=True)}
                order = range(length - 1, -1, -1) if direction else range(length)
                nodes.update({(where, name, sample, x.shape[1] if direction else -1): state[name] for name in state})
                made: dict[int, Tensor] = {}
                for t in order:
                    before = {name: value.detach() for name, value in state.items()} if where == cut else state
                    state = equations(module, f"_l{depth}{suffix}", x[sample, t], before)
                    nodes.update({(where, name, sample, t): state[name] for name in state})
                    made[t] = state["hidden"]
                zero = torch.zeros_like(state["hidden"])
                rows.append(torch.stack([made.get(t, zero) for t in range(x.shape[1])]))
                ends.append(state)
            sides.append(torch.stack(rows))
            for part, name in zip(last, components, strict=True):
                part.append([end[name] for end in ends])
        x = torch.cat(sides, -1)
    return Nodes(nodes, x, [torch.stack([torch.stack(ends) for ends in part]) for part in last])


def cell_loops(module: InALoop, x: Tensor, begin: Sequence[Tensor], cut: bool) -> Nodes:
    """The same of a cell, which reads all of every sample."""
    nodes: dict[Place, Tensor] = {}
    rows, ends = [], []
    for sample in range(len(x)):
        state = {"hidden": begin[0][sample].clone(), "cell": begin[1][sample].clone()}
        nodes.update({("cell", name, sample, -1): state[name] for name in state})
        outputs = []
        for t, now in enumerate(x[sample]):
            before = {name: value.detach() for name, value in state.items()} if cut else state
            state = equations(module.cell, "", now, before)
            nodes.update({("cell", name, sample, t): state[name] for name in state})
            outputs.append(state["hidden"])
        rows.append(torch.stack(outputs))
        ends.append(state)
    return Nodes(nodes, torch.stack(rows), [torch.stack([end[name] for end in ends]) for name in ("hidden", "cell")])


def losses(outputs: Tensor, last: Iterable[Tensor]) -> Tensor:
    """Each sample's own, (batch,), curved so that directions of states count."""
    batch = len(outputs)
    made = [outputs.reshape(batch, -1)]
    made += [(part if part.ndim == 2 else part.transpose(0, 1)).reshape(batch, -1) for part in last]
    every = torch.cat(made, 1)
    return (every.sin() * torch.arange(1, every.shape[1] + 1).sqrt()).sum(1)


def called(module: nn.RNNBase, x: Tensor, begin: Sequence[Tensor], packed: bool) -> tuple[Tensor, list[Tensor]]:
    """Outputs (batch, time, width) and last states of the layer; unpacked, it is given sequences of full length."""
    hx = begin[0] if len(begin) == 1 else tuple(begin)
    given: Tensor | PackedSequence = x if module.batch_first else x.transpose(0, 1)
    if packed:
        given = pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    output, after = module(given, hx)
    if packed:
        output, _ = pad_packed_sequence(output, batch_first=True)
    elif not module.batch_first:
        output = output.transpose(0, 1)
    return output, [after] if isinstance(after, Tensor) else list(after)


def seen(module: nn.Module, run: Callable[[], Tensor]) -> dict[str, dict[Place, float]]:
    """What a watch reads while the loss that ``run`` gives is differentiated; norms, not their logarithms."""
    with watch(module, per_sample=True, batch_first=True) as flow:
        run().sum().backward()
    module.zero_grad(set_to_none=True)
    table = flow.frame(per_sample=True)
    table = table[table.component != "output"]
    layers = table.layer.str.removeprefix(f"{type(module).__name__}.")
    places = list(zip(layers, table.component, table["sample"], table.time.astype(int), strict=True))
    return {
        "total": dict(zip(places, (10**table.total).tolist(), strict=True)),
        "direct": dict(zip(places, (10**table.direct).tolist(), strict=True)),
        "carried": dict(zip(places, table.carried.tolist(), strict=True)),
    }


def of_nodes(nodes: Nodes) -> dict[Place, Tensor]:
    """The gradient at every node."""
    total = losses(nodes.outputs, nodes.last).sum()
    found = torch.autograd.grad(total, list(nodes.states.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(nodes.states, found, strict=True))


def compared(
    found: dict[str, dict[Place, float]], whole: dict[Place, Tensor], directs: dict[Place, Tensor]
) -> dict[str, float]:
    """The worst error of each quantity; raises ValueError where a watch has seen other places than there are."""
    if found["total"].keys() != directs.keys():
        raise ValueError(f"a watch has seen {len(found['total'])} states, and there are {len(directs)}")
    places = list(directs)
    total, direct = (torch.stack([part[place].norm() for place in places]) for part in (whole, directs))
    rest = torch.stack([(whole[place] - directs[place]).norm() for place in places])
    share = torch.where(rest == 0, 0.0, rest / (direct + rest))
    ours = {name: torch.tensor([values[place] for place in places]) for name, values in found.items()}
    return {
        "total": error(ours["total"], total),
        "direct": error(ours["direct"], direct),
        "carried": error(ours["carried"], share, floor=FLOOR),
    }


def of_layer(watched: Watched) -> dict[str, float]:
    """The worst errors of one kind of layer, padded and packed, and of what it begins with by differences."""
    largest: dict[str, float] = {}
    for packed in (False, True):
        module = watched.make(packed)
        lengths = LENGTHS if packed else torch.full_like(LENGTHS, int(LENGTHS.max()))
        x = torch.randn(len(LENGTHS), int(LENGTHS.max()), INPUTS)
        sizes = [module.proj_size or HIDDEN] + [HIDDEN] * isinstance(module, nn.LSTM)
        begin = [torch.randn(4, len(LENGTHS), size, requires_grad=True) for size in sizes]

        def run(
            begin: Sequence[Tensor] = begin, module: nn.RNNBase = module, x: Tensor = x, packed: bool = packed
        ) -> Tensor:
            return losses(*called(module, x, begin, packed))

        whole = of_nodes(loops(module, x, begin, lengths, None))
        places = dict.fromkeys(place[0] for place in whole)
        directs = {
            place: gradient
            for cut in places
            for place, gradient in of_nodes(loops(module, x, begin, lengths, cut)).items()
            if place[0] == cut
        }
        found = seen(module, run)
        errors = compared(found, whole, directs)
        errors["total ±"] = begun(run, begin, found["total"], x.shape[1])
        largest = {name: worse(value, largest.get(name, 0.0)) for name, value in errors.items()}
    return largest


def begun(
    run: Callable[[Sequence[Tensor]], Tensor], begin: Sequence[Tensor], found: dict[Place, float], length: int
) -> float:
    """The initial states' gradients by differences, number by number, relative to the largest."""
    components = ("hidden", "cell")[: len(begin)]
    ours, expected = [], []
    for part, component in enumerate(components):
        layers, samples, size = begin[part].shape
        for at in range(layers):
            squares = torch.zeros(samples)
            for unit in range(size):

                def changed(step: float, part: int = part, at: int = at, unit: int = unit) -> Tensor:
                    moved = [value.detach().clone() for value in begin]
                    moved[part][at, :, unit] += step
                    with torch.no_grad():
                        return run(moved)

                squares += derivative(changed).value.square()
            where, time = (f"{at // 2}.backward", length) if at % 2 else (f"{at // 2}.forward", -1)
            ours += [found[where, component, sample, time] for sample in range(samples)]
            expected += squares.sqrt().tolist()
    return error(torch.tensor(ours), torch.tensor(expected), floor=max(expected))


def of_cell() -> dict[str, float]:
    """The worst errors of a cell in a loop."""
    module = InALoop()
    x = torch.randn(len(LENGTHS), 5, INPUTS)
    begin = [torch.randn(len(LENGTHS), HIDDEN, requires_grad=True) for _ in range(2)]

    def run() -> Tensor:
        outputs, *last = module(x, *begin)
        return losses(outputs, last)

    whole, directs = (of_nodes(cell_loops(module, x, begin, cut)) for cut in (False, True))
    return compared(seen(module, run), whole, directs)
