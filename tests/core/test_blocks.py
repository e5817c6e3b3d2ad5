"""Blocks, read-outs, initial states and weights of one sample each, against a loop that keeps every state live."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from retrograde.core.adjoint import Layer, Placed, trace_stack
from retrograde.core.block import Block
from retrograde.core.records import Ledger, State
from retrograde.core.recurrence import Recurrence, clocked, sequence
from retrograde.core.scaled import log10_norm
from retrograde.core.statuses import CENSORED, FINITE
from retrograde.layers.cells import ElmanCell, LSTMCell
from retrograde.models.clockwork_rnn import ClockworkCell
from retrograde.models.linear_rnn import LinearCell
from retrograde.models.lru import lru
from retrograde.tasks.adding import Adding

pytestmark = pytest.mark.usefixtures("float64")

WIDTH, TIME, SAMPLES = 4, 7, 3


class Associative(Recurrence):
    """A matrix that fades and stores k v', read by q: the output is no component of the state."""

    def __init__(self, decay: float = 0.8) -> None:
        super().__init__()
        self.decay = decay
        self.key = nn.Parameter(torch.randn(3, WIDTH))
        self.query = nn.Parameter(torch.randn(3, WIDTH))

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"matrix": (3, WIDTH)}

    def weights(self) -> dict[str, Tensor]:
        return {"key": self.key, "query": self.query}

    def step(self, weights: Mapping[str, Tensor], x: Tensor, state: State) -> State:
        key = torch.tanh(x @ weights["key"].mT)
        return {"matrix": self.decay * state["matrix"] + key.unsqueeze(-1) * x.unsqueeze(-2)}

    def read(self, weights: Mapping[str, Tensor], x: Tensor, state: State) -> Tensor:
        return ((x @ weights["query"].mT).unsqueeze(-2) @ state["matrix"]).squeeze(-2)

    @property
    def width(self) -> int:
        return WIDTH


class Gated(Block):
    def __init__(self, decay: float = 0.8) -> None:
        super().__init__()
        self.recurrence = Associative(decay)
        self.norm = nn.LayerNorm(WIDTH)
        self.gate = nn.Linear(WIDTH, WIDTH)

    def enter(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def leave(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y * torch.sigmoid(self.gate(x))


class Looking(Recurrence):
    """Its next hidden state sees a memory that every sample has of its own: (batch, slots, width) among the weights."""

    def __init__(self, memory: Tensor, visible: Tensor) -> None:
        super().__init__()
        self.memory, self.visible = memory, visible

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (WIDTH,)}

    def weights(self) -> dict[str, Tensor]:
        return {"memory": self.memory, "visible": self.visible}

    def step(self, weights: Mapping[str, Tensor], x: Tensor, state: State) -> State:
        score = (weights["memory"] @ state["hidden"].unsqueeze(-1)).squeeze(-1)
        share = torch.softmax(score.masked_fill(~weights["visible"], -torch.inf), -1)
        return {"hidden": torch.tanh(x + (share.unsqueeze(-2) @ weights["memory"]).squeeze(-2))}


def test_a_residual_stack_has_the_totals_of_live_nodes() -> None:
    blocks = [Gated(), Gated()]
    x = torch.randn(SAMPLES, TIME, WIDTH, requires_grad=True)
    cotangent = torch.randn(SAMPLES, TIME, WIDTH)
    parameters = [parameter for block in blocks for parameter in block.parameters()]
    # the loop: time outside, layers inside, every state a node of the graph
    live: dict[tuple[int, int], Tensor] = {
        (depth, -1): torch.zeros(SAMPLES, 3, WIDTH, requires_grad=True) for depth in range(2)
    }
    loss = torch.zeros(())
    for time in range(TIME):
        value = x[:, time]
        for depth, block in enumerate(blocks):
            cell = block.recurrence
            entered = block.norm(value)
            key = torch.tanh(entered @ cell.key.T)
            live[depth, time] = 0.8 * live[depth, time - 1] + torch.einsum("bk,bv->bkv", key, entered)
            read = torch.einsum("bk,bkv->bv", entered @ cell.query.T, live[depth, time])
            value = value + read * torch.sigmoid(block.gate(value))
        loss = loss + (value * cotangent[:, time]).sum()
    expected = torch.autograd.grad(loss, [*live.values(), x, *parameters])

    ledger = Ledger()
    stack = [Layer([Placed(f"{depth}.forward", block.recurrence)], block) for depth, block in enumerate(blocks)]
    traced = trace_stack(stack, x, torch.full((SAMPLES,), TIME), ledger)
    made = torch.autograd.grad((traced.outputs * cotangent).sum(), [x, *parameters])
    for one, other in zip(made, expected[len(live) :], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    for (depth, time), total in zip(live, expected, strict=False):
        found = ledger.gradients[f"{depth}.forward.matrix"].total.value()[:, time + 1]
        torch.testing.assert_close(found, total, rtol=1e-10, atol=1e-12)

    value = x
    for block in blocks:
        value = block.leave(value, sequence(block.recurrence, block.enter(value)))
    torch.testing.assert_close(value, traced.outputs, rtol=0, atol=1e-12)


def test_the_direct_gradient_of_a_state_is_what_its_own_readout_says() -> None:
    block = Gated()
    x, cotangent = torch.randn(SAMPLES, TIME, WIDTH), torch.randn(SAMPLES, TIME, WIDTH)
    ledger = Ledger()
    traced = trace_stack([Layer([Placed("0.forward", block.recurrence)], block)], x, torch.full((3,), TIME), ledger)
    torch.autograd.grad((traced.outputs * cotangent).sum(), ledger.anchor)
    query = block.norm(x) @ block.recurrence.query.T
    expected = torch.einsum("btk,btv->btkv", query, cotangent * torch.sigmoid(block.gate(x)))
    direct = ledger.gradients["0.forward.matrix"].direct.value()
    torch.testing.assert_close(direct[:, 1:], expected)
    assert not direct[:, 0].any()


class Stepped(LSTMCell):
    """The same by its step: what is registered for the cell is not for a class of its own."""


class Copying(LSTMCell):
    """Its read-out is the hidden state and yet not that very tensor, so that the sweep differentiates it."""

    def read(self, weights: Mapping[str, Tensor], x: Tensor, state: State) -> Tensor:
        return state["hidden"].clone()


def test_a_component_given_as_it_stands_has_the_gradients_of_a_copy() -> None:
    x, cotangent = torch.randn(SAMPLES, TIME, WIDTH, requires_grad=True), torch.randn(SAMPLES, TIME, 5)
    cell, copying = Stepped(WIDTH, 5), Copying(WIDTH, 5)
    copying.load_state_dict(cell.state_dict())
    found = []
    for recurrence in (cell, copying):
        ledger = Ledger()
        traced = trace_stack([Layer([Placed("0.forward", recurrence)])], x, torch.full((SAMPLES,), TIME), ledger)
        loss = (traced.outputs * cotangent).sum() + traced.states["0.forward.cell"].square().sum()
        found.append(list(torch.autograd.grad(loss, [x, *recurrence.parameters()])))
        for gradient in ledger.gradients.values():
            found[-1] += [gradient.total.value(), gradient.direct.value()]
    for one, other in zip(*found, strict=True):
        assert one.any() and torch.equal(one, other)


def test_initial_states_and_a_memory_of_each_sample_get_their_gradients() -> None:
    memory = torch.randn(SAMPLES, 5, WIDTH, requires_grad=True)
    visible = torch.arange(5) < torch.tensor([[5], [3], [4]])
    start = torch.randn(SAMPLES, WIDTH, requires_grad=True)
    x = torch.randn(SAMPLES, TIME, WIDTH, requires_grad=True)
    cotangent = torch.randn(SAMPLES, TIME, WIDTH)
    state, loss, live = start, torch.zeros(()), []
    for time in range(TIME):
        score = torch.einsum("bsd,bd->bs", memory, state).masked_fill(~visible, -torch.inf)
        state = torch.tanh(x[:, time] + torch.einsum("bs,bsd->bd", torch.softmax(score, -1), memory))
        live.append(state)
        loss = loss + (state * cotangent[:, time]).sum()
    expected = torch.autograd.grad(loss, [start, memory, x, *live])

    ledger = Ledger()
    cell = Looking(memory, visible)
    traced = trace_stack(
        [Layer([Placed("0.forward", cell)])],
        x,
        torch.full((SAMPLES,), TIME),
        ledger,
        initial={"0.forward.hidden": start},
    )
    torch.testing.assert_close(traced.states["0.forward.hidden"][:, 0], start)
    made = torch.autograd.grad((traced.outputs * cotangent).sum(), [start, memory, x])
    for one, other in zip(made, expected, strict=False):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    total = ledger.gradients["0.forward.hidden"].total.value()
    torch.testing.assert_close(total[:, 1:], torch.stack(expected[3:], 1), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(sequence(cell, x, {"hidden": start}), traced.outputs)


def test_a_state_to_begin_with_that_no_recurrence_has_is_refused() -> None:
    block = Gated()
    with pytest.raises(ValueError, match=r"there is no state '0\.forward\.cell' to begin with; the states are 0\.f"):
        trace_stack(
            [Layer([Placed("0.forward", block.recurrence)], block)],
            torch.randn(1, 2, WIDTH),
            torch.tensor([2]),
            Ledger(),
            initial={"0.forward.cell": torch.zeros(1, 3)},
        )


def test_float32_totals_below_a_block_keep_their_size_far_outside_the_format() -> None:
    """The upper block fades to 1e-150 in float32; the lower one, which keeps nothing, reads exactly that."""
    norms = []
    torch.manual_seed(1)
    blocks = [Gated(0.0), Gated(0.01)]
    for block in blocks:
        block.leave = lambda x, y: y  # type: ignore[method-assign]  # no way past the recurrence
    x, cotangent = torch.randn(1, 80, WIDTH), torch.randn(WIDTH)  # a norm is blind to a constant one
    for dtype in (torch.float64, torch.float32):
        ledger = Ledger()
        stack = [Layer([Placed(f"{at}.forward", block.to(dtype).recurrence)], block) for at, block in enumerate(blocks)]
        traced = trace_stack(stack, x.to(dtype), torch.tensor([80]), ledger)
        torch.autograd.grad((traced.outputs[:, -1] * cotangent.to(dtype)).sum(), ledger.anchor)
        norm, status = log10_norm(ledger.gradients["0.forward.matrix"].total)
        assert (status[:, 1:] == FINITE).all()
        assert status[0, 0] in (CENSORED, 1)  # nothing is kept of the initial state
        norms.append(norm[:, 1:])
    assert norms[0].min() < -140
    torch.testing.assert_close(norms[1], norms[0], rtol=1e-5, atol=1e-3)


def test_what_is_too_small_to_be_handed_from_stack_to_stack_is_censored_and_not_zero() -> None:
    """A decoder that fades to 1e-100 begins with the encoder's end: what the encoder reads of it is lost, not zero."""
    torch.set_default_dtype(torch.float32)
    encoder, decoder = (LinearCell(2, 2, 0.01, "orthogonal") for _ in range(2))
    ledger = Ledger()
    lengths = torch.tensor([50, 50])
    below = trace_stack([Layer([Placed("encoder0.forward", encoder)])], torch.randn(2, 50, 2), lengths, ledger)
    above = trace_stack(
        [Layer([Placed("decoder0.forward", decoder)])],
        torch.randn(2, 50, 2),
        lengths,
        ledger,
        initial={"decoder0.forward.hidden": below.outputs[:, -1]},
    )
    # the first sample's loss is at its last position, the second's at its first
    torch.autograd.grad(above.outputs[0, -1].sum() + above.outputs[1, 0].sum(), ledger.anchor)
    norm, status = log10_norm(ledger.gradients["decoder0.forward.hidden"].total)
    assert norm[0, 0] < -90 and status[0, 0] == FINITE
    _, status = log10_norm(ledger.gradients["encoder0.forward.hidden"].total)
    assert (status[0] == CENSORED).all()
    assert status[1, -1] == FINITE


def test_in_training_a_trace_is_drawn_nothing_for_and_has_its_own_gradient() -> None:
    """Beside the model in eval mode; the mode stays what it was."""
    task = Adding(length=6)
    model = lru(task, hidden=4, layers=2, state=3, dropout=0.5)
    batch = task.sample(2, torch.Generator().manual_seed(0))
    expected = model.eval()(batch)
    direction = torch.randn_like(expected)
    parameters = list(model.parameters())
    of_forward = torch.autograd.grad((expected * direction).sum(), parameters)
    made = model.train().trace(batch).outputs
    assert all(module.training for module in model.modules())
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-12)
    of_trace = torch.autograd.grad((made * direction).sum(), parameters)
    for one, other in zip(of_trace, of_forward, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_clocks_count_in_half_precision_too() -> None:
    cell = ClockworkCell(2, 8, 4).to(torch.bfloat16)
    ticks = clocked(cell, torch.zeros(1, 600, 2, dtype=torch.bfloat16))[0, :, 2:]
    times = torch.arange(600)
    for module in range(4):
        assert torch.equal(ticks[:, module].bool(), times % 2**module == 0)


@pytest.mark.parametrize("make", [lambda: ElmanCell(WIDTH, WIDTH), Associative])  # in closed form, and step by step
@pytest.mark.parametrize("of_inputs", [True, False])
def test_a_gradient_of_the_gradient_is_refused(make: Callable[[], Recurrence], of_inputs: bool) -> None:
    """It would lack all that the sweep was made of."""
    cell = make()
    x = torch.randn(SAMPLES, TIME, WIDTH, requires_grad=of_inputs)
    traced = trace_stack([Layer([Placed("0.forward", cell)])], x, torch.full((SAMPLES,), TIME), Ledger())
    with pytest.raises(ValueError, match="create_graph"):
        torch.autograd.grad(traced.outputs.sum(), list(cell.parameters()), create_graph=True)
