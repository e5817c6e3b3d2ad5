"""Cells that a loop calls once for every time, against the same loop without a watch, its states kept as nodes."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import retrograde
from watched import check_undisturbed, watched

pytestmark = pytest.mark.usefixtures("float64")

State = tuple[Tensor, ...]


class Looped(nn.Module):
    """A loop as users write it; ``kept`` has every state, ``cut`` reads detached ones."""

    def __init__(self, cell: nn.Module, hidden: int = 4) -> None:
        super().__init__()
        self.cell = cell
        self.head = nn.Linear(hidden, 2)
        self.cut = False
        self.kept: list[State] = []

    def forward(self, x: Tensor, begin: Any = None) -> Tensor:
        state, made, self.kept = begin, [], []
        for step in x.unbind(1):
            if self.cut and state is not None:
                state = tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
            state = self.cell(step, state)
            self.kept.append(state if isinstance(state, tuple) else (state,))
            made.append(self.head(self.kept[-1][0]))
        return torch.stack(made, 1)


class Leaky(nn.Module):
    """A cell that no library knows; it makes its first state itself."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.recurrent, self.act = nn.Linear(3, 4), nn.Linear(4, 4, bias=False), nn.Tanh()

    def forward(self, x: Tensor, h: Tensor | None) -> Tensor:
        return self.act(self.input(x) if h is None else self.input(x) + self.recurrent(h))


def loss_of(made: Tensor) -> Tensor:
    return (made * torch.arange(1.0, 1 + made.numel()).view_as(made).cos()).sin().sum()


def expected(model: Looped, forward: Callable[[], Tensor], cut: bool = False) -> list[Tensor]:
    """For every component the norms (sample, time), of live nodes."""
    model.cut = cut
    loss = loss_of(forward())
    model.cut = False
    parts = list(zip(*model.kept, strict=True))
    return [
        torch.stack(
            [
                g.norm(dim=-1)
                for g in torch.autograd.grad(loss, part, retain_graph=True, materialize_grads=True, allow_unused=True)
            ],
            1,
        )
        for part in parts
    ]


def table(frame: Any, column: str, component: str, layer: str = "cell", call: int = 0) -> Tensor:
    """(sample, time) of a component, not in log10."""
    chosen = frame[(frame.layer == layer) & (frame.component == component) & (frame.call == call) & (frame.time >= 0)]
    return 10 ** torch.tensor(chosen.pivot(index="sample", columns="time", values=column).to_numpy(dtype=float))


CELLS = {
    "rnn": (nn.RNNCell, ["hidden"]),
    "gru": (nn.GRUCell, ["hidden"]),
    "lstm": (nn.LSTMCell, ["hidden", "cell"]),
    "own": (lambda inputs, hidden: Leaky(), ["state"]),
}


@pytest.mark.parametrize("kind", CELLS)
def test_totals_and_direct_parts_are_those_of_live_nodes(kind: str) -> None:
    make, components = CELLS[kind]
    model, x = Looped(make(3, 4)), torch.randn(3, 6, 3)
    totals, directs = expected(model, lambda: model(x)), expected(model, lambda: model(x), cut=True)
    frame, flow = watched(model, lambda: loss_of(model(x)))
    for component, total, direct in zip(components, totals, directs, strict=True):
        torch.testing.assert_close(table(frame, "total", component), total, rtol=1e-10, atol=0)
        torch.testing.assert_close(table(frame, "direct", component), direct, rtol=1e-10, atol=0)
    assert flow.left_out == {}
    assert set(frame[frame.layer == "cell"].component) == set(components)


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_the_state_that_a_loop_begins_with_is_there_at_minus_one(kind: str) -> None:
    model, x = Looped(CELLS[kind][0](3, 4)), torch.randn(3, 6, 3)
    begin = tuple(torch.randn(3, 4) for _ in CELLS[kind][1])
    live = tuple(part.clone().requires_grad_() for part in begin)
    gradients = torch.autograd.grad(loss_of(model(x, live if kind == "lstm" else live[0])), live)
    frame, _ = watched(model, lambda: loss_of(model(x, begin if kind == "lstm" else begin[0])))
    for component, gradient in zip(CELLS[kind][1], gradients, strict=True):
        rows = frame[(frame.component == component) & (frame.time == -1)]
        torch.testing.assert_close(10 ** torch.tensor(rows.total.to_numpy()), gradient.norm(dim=-1), rtol=1e-10, atol=0)
        assert set(rows.direct_status) == {"zero"} and set(rows.carried) == {1.0}


def test_a_total_is_the_central_difference_of_the_loss_over_a_changed_state() -> None:
    model, x, at = Looped(nn.GRUCell(3, 4)), torch.randn(1, 6, 3), 2

    def nudged(unit: int, by: float) -> float:
        state, loss = None, []
        for t, step in enumerate(x.unbind(1)):
            state = model.cell(step, state)
            state = state + by * nn.functional.one_hot(torch.tensor(unit), 4) * (t == at)
            loss.append(model.head(state))
        return loss_of(torch.stack(loss, 1)).item()

    slopes = torch.tensor([(nudged(unit, 1e-5) - nudged(unit, -1e-5)) / 2e-5 for unit in range(4)])
    frame, _ = watched(model, lambda: loss_of(model(x)))
    torch.testing.assert_close(table(frame, "total", "hidden")[0, at], slopes.norm(), rtol=1e-8, atol=0)


@pytest.mark.parametrize("kind", CELLS)
def test_outputs_gradients_and_random_numbers_are_bitwise_the_same_with_a_watch(kind: str) -> None:
    model, x = Looped(CELLS[kind][0](3, 4)), torch.randn(3, 6, 3)
    check_undisturbed(model, lambda: nn.functional.dropout(model(x)))


def test_hooks_that_a_user_puts_on_states_see_the_total_and_act_as_ever() -> None:
    model, x = Looped(nn.GRUCell(3, 4)), torch.randn(3, 6, 3)

    def step() -> tuple[list[Tensor], Tensor, list[Tensor]]:
        seen: list[Tensor] = []
        model.zero_grad()
        made = model(x)
        for (state,) in model.kept:
            state.register_hook(lambda g: seen.append(g) or g.clamp(-0.1, 0.1))  # type: ignore[func-returns-value]  # None
            state.retain_grad()
        loss_of(made).backward()
        return seen, model.kept[0][0].grad, [p.grad.clone() for p in model.parameters()]  # type: ignore[return-value, union-attr]  # kept

    plain = step()
    with retrograde.watch(model):
        others = step()
    for one, other in zip(plain, others, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0)


def test_a_direct_part_beside_a_carried_one_that_has_exploded_keeps_its_digits() -> None:
    """h_t = 100 h_{t-1}: by the first state 1e18 has been carried to a direct part of 1."""

    class Grows(nn.Module):
        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return 100 * h + x

    cell = Grows()

    def loss() -> Tensor:
        h, total = torch.zeros(2, 4, requires_grad=True), torch.zeros(())
        for _ in range(10):
            h = cell(torch.ones(2, 4), h)
            total = total + h[:, 0].sum()
        return total

    frame, _ = watched(nn.ModuleDict({"cell": cell}), loss)
    torch.testing.assert_close(table(frame, "direct", "state"), torch.ones(2, 10))
    assert table(frame, "total", "state")[0, 0] > 1e17


def test_what_vanishes_reads_censored_and_never_zero() -> None:
    cell = nn.RNNCell(1, 4, dtype=torch.float32)
    nn.init.eye_(cell.weight_hh)
    with torch.no_grad():
        cell.weight_hh.mul_(0.1)

    def loss() -> Tensor:
        h = None
        for _ in range(80):
            h = cell(torch.zeros(2, 1), h)
        return h.sum()  # type: ignore[union-attr]  # by then there is one

    torch.set_default_dtype(torch.float32)
    frame, _ = watched(nn.ModuleDict({"cell": cell}), loss)
    first, last = frame[frame.time == 0], frame[frame.time == 79]
    assert set(first.status) == {"censored"} and set(last.status) == {"finite"}
    assert set(first.total) == {math.log10(torch.finfo(torch.float32).smallest_normal)}


def test_states_that_the_loss_does_not_know_of_are_zero() -> None:
    model, x = Looped(nn.LSTMCell(3, 4)), torch.randn(2, 6, 3)
    frame, _ = watched(model, lambda: model(x)[:, 2].sum())
    frame = frame[frame.layer == "cell"]
    late = frame[frame.time > 2]
    assert len(late) == 2 * 3 * 2 and set(late.status) == {"zero"}
    assert set(frame[frame.time <= 2].status) == {"finite"}


def test_where_the_loop_changes_its_state_the_total_is_right_and_the_parts_are_none() -> None:
    cell, x, mask = nn.GRUCell(3, 4), torch.randn(2, 5, 3), torch.tensor([1.0, 0.5])[:, None]
    kept: list[Tensor] = []

    def loss() -> Tensor:
        h = torch.zeros(2, 4)
        kept.clear()
        for step in x.unbind(1):
            made = cell(step, h)
            kept.append(made)
            h = mask * made
        return loss_of(torch.stack(kept, 1))

    total = torch.stack([g.norm(dim=-1) for g in torch.autograd.grad(loss(), kept)], 1)
    frame, flow = watched(nn.ModuleDict({"cell": cell}), loss)
    torch.testing.assert_close(table(frame, "total", "hidden"), total, rtol=1e-10, atol=0)
    assert set(frame[frame.time.between(0, 3)].direct_status) == {"nan"}
    assert frame[frame.time.between(0, 3)].carried.isna().all()
    assert set(frame[frame.time == 4].direct_status) == {"finite"}
    assert "changes the state" in flow.left_out["cell: direct"]


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("kind", ["lstm", "own"])
def test_where_one_of_two_states_is_changed_no_direct_part_is_made_up(place: int, kind: str) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.LSTMCell(3, 4)

        def forward(self, x: Tensor, state: State) -> State:
            h, c = self.inner(x, state)
            return 2 * h, 2 * c

    cell, x = nn.LSTMCell(3, 4) if kind == "lstm" else Pair(), torch.randn(2, 5, 3)
    kept: list[State] = []

    def loss() -> Tensor:
        state: State = (torch.zeros(2, 4), torch.zeros(2, 4))
        kept.clear()
        for step in x.unbind(1):
            made = cell(step, state)
            kept.append(made)
            state = tuple(0.5 * part if at == place else part for at, part in enumerate(made))
        return loss_of(torch.stack([h for h, _ in kept], 1))

    # a module of unknown kind is told by what it is handed back: its other result is an output
    names = {"lstm": ("hidden", "cell"), "own": ("state", "output.1") if place else ("output", "state")}[kind]
    frame, flow = watched(nn.ModuleDict({"cell": cell}), loss, only=lambda name, module: name == "cell")
    for at, name in enumerate(names):
        value = loss()
        gradients = torch.autograd.grad(value, [s[at] for s in kept], allow_unused=True, materialize_grads=True)
        expected = torch.stack([gradient.norm(dim=-1) for gradient in gradients], 1)
        torch.testing.assert_close(table(frame, "total", name), expected, rtol=1e-10, atol=0)
        early = frame[(frame.component == name) & frame.time.between(0, 3)]
        if at == place or (kind == "lstm" and not place):
            assert set(early.direct_status) == {"nan"}, name
    assert "changes the state" in flow.left_out["cell: direct"]


def test_an_output_that_is_not_handed_on_is_zero_where_the_loss_does_not_read_it() -> None:
    class Output(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.RNNCell(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor, h: Tensor | None) -> State:
            h = self.inner(x, h)
            return torch.sin(self.head(h)), 1.0 * h

    cell, x = Output(), torch.randn(2, 5, 3)

    def loss() -> Tensor:
        h, read = None, []
        for step in x.unbind(1):
            y, h = cell(step, h)
            read.append(y.sum())
        return (torch.stack(read) * torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0])).sum()

    frame, _ = watched(nn.ModuleDict({"cell": cell}), loss, only=lambda name, module: name == "cell")
    outputs, states = (frame[frame.component == name] for name in ("output", "state"))
    assert set(outputs[outputs.time < 4].status) == {"zero"} and set(outputs[outputs.time == 4].status) == {"finite"}
    assert set(states[states.time < 4].status) == {"finite"}


def test_a_batch_whose_sequences_end_one_after_the_other_has_rows_for_those_that_go_on() -> None:
    """A packed sequence by hand: fewer samples at every time."""
    cell, x, sizes = nn.GRUCell(3, 4), torch.randn(3, 4, 3), [3, 2, 2, 1]
    kept: list[Tensor] = []

    def loss() -> Tensor:
        h, total = torch.zeros(3, 4), torch.zeros(())
        kept.clear()
        for t, size in enumerate(sizes):
            h = cell(x[:size, t], h[:size])
            kept.append(h)
            total = total + h.sin().sum()
        return total

    gradients = torch.autograd.grad(loss(), kept)
    frame, _ = watched(nn.ModuleDict({"cell": cell}), loss)
    for t, gradient in enumerate(gradients):
        rows = frame[frame.time == t].sort_values("sample")
        torch.testing.assert_close(10 ** torch.tensor(rows.total.to_numpy()), gradient.norm(dim=-1), rtol=1e-10, atol=0)


def test_a_cell_shared_by_two_layers_has_two_strands() -> None:
    cell, x = nn.GRUCell(4, 4), torch.randn(2, 5, 4)
    kept: list[tuple[Tensor, Tensor]] = []

    def loss() -> Tensor:
        lower = upper = None
        kept.clear()
        for step in x.unbind(1):
            lower = cell(step, lower)
            upper = cell(lower, upper)
            kept.append((lower, upper))
        return loss_of(torch.stack([upper for _, upper in kept], 1))

    made = loss()
    totals = [
        torch.stack([g.norm(dim=-1) for g in torch.autograd.grad(made, part, retain_graph=True)], 1)
        for part in zip(*kept, strict=True)
    ]
    frame, _ = watched(nn.ModuleDict({"cell": cell}), loss)
    for call, total in enumerate(totals):
        torch.testing.assert_close(table(frame, "total", "hidden", call=call), total, rtol=1e-10, atol=0)


def test_a_state_from_which_two_loops_go_on_has_what_both_carry() -> None:
    cell, x = nn.GRUCell(3, 4), torch.randn(2, 6, 3)
    kept: list[Tensor] = []

    def loss() -> Tensor:
        first = cell(x[:, 0])
        one = cell(x[:, 1], first)
        two = cell(x[:, 3], cell(x[:, 2], first))
        kept[:] = [first, one, two]
        return one.sin().sum() + two.cos().sum() + first.pow(2).sum()

    total = torch.autograd.grad(loss(), kept)[0].norm(dim=-1)
    frame, _ = watched(nn.ModuleDict({"cell": cell}), loss)
    torch.testing.assert_close(table(frame, "total", "hidden")[:, 0], total, rtol=1e-10, atol=0)
    torch.testing.assert_close(table(frame, "direct", "hidden")[:, 0], 2 * kept[0].detach().norm(dim=-1))
    assert {(row.call, row.time) for row in frame.itertuples()} == {(0, 0), (0, 1), (1, 1), (1, 2)}


def test_a_cell_that_gives_its_state_twice_is_told_of_once() -> None:
    """As (output, state), the output being a part of the state."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(7, 4)

        def forward(self, x: Tensor, state: tuple[Tensor]) -> tuple[Tensor, tuple[Tensor]]:
            h = torch.tanh(self.inner(torch.cat([x, *state], -1)))
            return h, (h,)

    cell, x, kept = Twice(), torch.randn(2, 5, 3), []

    def loss() -> Tensor:
        state = (torch.zeros(2, 4),)
        kept.clear()
        for step in x.unbind(1):
            out, state = cell(step, state)
            kept.append(out)
        return loss_of(torch.stack(kept, 1))

    total = torch.stack([g.norm(dim=-1) for g in torch.autograd.grad(loss(), kept)], 1)
    frame, _ = watched(nn.ModuleDict({"cell": cell}), loss)
    assert set(frame[frame.layer == "cell"].component) == {"state"}
    torch.testing.assert_close(table(frame, "total", "state"), total, rtol=1e-10, atol=0)


def test_a_module_that_is_handed_results_of_several_of_its_calls_is_named() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return torch.tanh(x + h @ self.weight)

    cell, x = Own(), torch.randn(2, 3, 4)

    def loss() -> Tensor:
        lower = upper = torch.zeros(2, 4)
        for step in x.unbind(1):
            lower = cell(step, lower)
            upper = cell(lower, upper)
        return upper.sum()

    with pytest.warns(UserWarning, match="leaves out cell: it is handed results of several"):
        frame, _ = watched(nn.ModuleDict({"cell": cell}), loss)
    assert set(frame.component) == {"output"} and frame.time.isna().all()


def test_every_differentiation_counts_once() -> None:
    """``retain_grad`` and ``autograd.grad`` fire hooks too; each pass is a ``backward`` of its own."""
    model, x = Looped(nn.LSTMCell(3, 4)), torch.randn(2, 4, 3)
    totals = expected(model, lambda: model(x))
    with retrograde.watch(model, per_sample=True) as flow:
        made = model(x)
        states = [state[0] for state in model.kept]
        for state in states:
            state.retain_grad()
        torch.autograd.grad(loss_of(made), states, retain_graph=True)
        loss_of(made).backward(retain_graph=True)
        (3 * made[:, 0].sum()).backward()
    frame = flow.frame(per_sample=True)
    assert set(frame.step) == {0} and set(frame.backward) == {0, 1, 2}
    for backward in (0, 1):
        found = table(frame[frame.backward == backward], "total", "hidden")
        torch.testing.assert_close(found, totals[0], rtol=1e-10, atol=0)
    assert set(frame[(frame.backward == 2) & (frame.time > 0)].status) == {"zero"}


def test_gradients_of_gradients_are_the_same_with_a_watch() -> None:
    model, x = Looped(nn.GRUCell(3, 4)), torch.randn(2, 4, 3, requires_grad=True)

    def penalised() -> list[Tensor]:
        model.zero_grad()
        (slope,) = torch.autograd.grad(loss_of(model(x)), x, create_graph=True)
        slope.pow(2).sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    plain = penalised()
    with retrograde.watch(model) as flow:
        others = penalised()
    torch.testing.assert_close(others, plain, rtol=0, atol=0)
    assert set(flow.frame().backward) == {0, 1}


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_loop_inside_a_checkpoint_is_told_of_once(reentrant: bool) -> None:
    model, x = Looped(nn.LSTMCell(3, 4)), torch.randn(2, 5, 3, requires_grad=True)
    whole = nn.ModuleDict({"loop": model, "rnn": nn.GRU(2, 4, batch_first=True)})

    def loss(again: bool) -> Tensor:
        made = checkpoint(model, x, use_reentrant=reentrant) if again else model(x)
        return whole["rnn"](made)[0].sin().sum()

    plain, _ = watched(whole, lambda: loss(False))
    gradients = [p.grad.clone() for p in whole.parameters() if p.grad is not None]
    whole.zero_grad()
    frame, _ = watched(whole, lambda: loss(True))
    rows = ["layer", "component", "time", "sample"]
    plain, frame = (f[f.layer != "Looped"].sort_values(rows).reset_index(drop=True) for f in (plain, frame))
    assert list(frame.layer.unique()) == list(plain.layer.unique())
    torch.testing.assert_close(torch.tensor(frame.total), torch.tensor(plain.total))
    assert set(frame.backward) == {0}
    torch.testing.assert_close([p.grad for p in whole.parameters() if p.grad is not None], gradients)


def test_a_kernel_that_gives_hidden_and_cell_at_once_reads_as_one_that_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on CUDA, where autograd does not bring the hidden state's gradient to the cell."""
    model, x = Looped(nn.LSTMCell(3, 4)), torch.randn(3, 6, 3)
    totals, directs = expected(model, lambda: model(x)), expected(model, lambda: model(x), cut=True)

    class AtOnce(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor]:
            ctx.save_for_backward(*given)
            return steps(*given)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                given = [value.detach().requires_grad_() for value in ctx.saved_tensors]
                return torch.autograd.grad(steps(*given), given, gradients)

    def steps(x: Tensor, h: Tensor, c: Tensor, wi: Tensor, wh: Tensor, bi: Tensor, bh: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = (x @ wi.T + bi + h @ wh.T + bh).chunk(4, -1)
        cell = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell

    monkeypatch.setattr(torch._VF, "lstm_cell", lambda x, hx, *weights: AtOnce.apply(x, *hx, *weights), raising=False)
    frame, _ = watched(model, lambda: loss_of(model(x)))
    for component, total, direct in zip(("hidden", "cell"), totals, directs, strict=True):
        torch.testing.assert_close(table(frame, "total", component), total, rtol=1e-10, atol=0)
        torch.testing.assert_close(table(frame, "direct", component), direct, rtol=1e-10, atol=0)


def test_a_direct_part_below_the_rounding_of_what_it_is_a_difference_from_reads_censored() -> None:
    """The loss reads the last state alone: nothing is direct before, and no digit of the difference counts."""
    model, x = Looped(nn.LSTMCell(3, 4)), torch.randn(3, 6, 3)
    frame, _ = watched(model, lambda: model(x)[:, -1].sin().sum())
    early = frame[(frame.layer == "cell") & (frame.time < 5)]
    assert set(early[early.component == "hidden"].direct_status) == {"zero"}
    assert set(early[early.component == "cell"].direct_status) <= {"censored", "zero"}
    assert (early.direct < early.total - 13).all()


def test_truncated_backpropagation_is_a_strand_for_each_stretch() -> None:
    model, x = Looped(nn.GRUCell(3, 4)), torch.randn(2, 9, 3)
    with retrograde.watch(model) as flow:
        state = None
        for part in x.split(3, 1):
            loss_of(model(part, state)).backward()
            state = model.kept[-1][0].detach()
    frame = flow.frame()
    assert set(frame.step) == {0, 1, 2}
    assert set(frame[(frame.step > 0) & frame.time.notna()].time) == {-1, 0, 1, 2}


def test_a_model_that_is_called_once_for_every_time_is_one_step() -> None:
    """The loop lies outside the model, and the loss is differentiated at its end."""
    cell, x = nn.LSTMCell(3, 4), torch.randn(2, 5, 3)
    kept: list[State] = []

    def loss() -> Tensor:
        state = None
        kept.clear()
        for step in x.unbind(1):
            state = cell(step, state)
            kept.append(state)
        return loss_of(torch.stack([h for h, _ in kept], 1))

    total = torch.stack([g.norm(dim=-1) for g in torch.autograd.grad(loss(), [h for h, _ in kept])], 1)
    frame, _ = watched(cell, loss)
    torch.testing.assert_close(table(frame, "total", "hidden", layer="LSTMCell"), total, rtol=1e-10, atol=0)
