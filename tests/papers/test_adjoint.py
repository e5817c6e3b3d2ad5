"""The sweep against a loop that keeps every state as a live autograd node, and against central differences.

Both loops are written here from the equations, without the code under test but for the cells' parameters.
"""

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from retrograde.core.adjoint import Placed
from retrograde.core.records import Ledger, State
from retrograde.core.recurrence import Recurrence, unroll
from retrograde.core.scaled import Scaled, log10_norm
from retrograde.core.statuses import CENSORED, FINITE
from retrograde.layers.cells import ElmanCell, GRUCell, LSTMCell
from retrograde.layers.recurrent import RecurrentStack
from retrograde.models.linear_rnn import LinearCell


class DelayCell(Recurrence):
    """Hidden state, the hidden state before it handed on as it is, and the last input handed on as it is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inputs = width
        shapes = {"W": (5, width), "U": (5, 5), "V": (5, 5), "R": (5, width)}
        self.matrices = torch.nn.ParameterDict({name: torch.randn(shape) / 3 for name, shape in shapes.items()})

    @property
    def components(self) -> dict[str, tuple[int, ...]]:
        return {"hidden": (5,), "previous": (5,), "last": (self.inputs,)}

    def weights(self) -> dict[str, Tensor]:
        return dict(self.matrices)

    def step(self, weights: Mapping[str, Tensor], x: Tensor, state: State) -> State:
        driven = x @ weights["W"].mT + state["hidden"] @ weights["U"].mT + state["last"] @ weights["R"].mT
        hidden = torch.tanh(driven + state["previous"] @ weights["V"].mT)
        return {"hidden": hidden, "previous": state["hidden"], "last": x}


class MatrixCell(Recurrence):
    """A decaying matrix of outer products, a trace that depends on no weight, and a read-out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inputs = width
        shapes = {"key": (5, width), "query": (5, width)}
        self.matrices = torch.nn.ParameterDict({name: torch.randn(shape) / 3 for name, shape in shapes.items()})

    @property
    def components(self) -> dict[str, tuple[int, ...]]:
        return {"hidden": (5,), "memory": (5, 5), "trace": (5,)}

    def weights(self) -> dict[str, Tensor]:
        return dict(self.matrices)

    def step(self, weights: Mapping[str, Tensor], x: Tensor, state: State) -> State:
        key = torch.tanh(x @ weights["key"].mT)
        memory = 0.9 * state["memory"] + key.unsqueeze(-1) * state["trace"].unsqueeze(-2)
        read = (memory @ (x @ weights["query"].mT).unsqueeze(-1)).squeeze(-1)
        return {"hidden": read, "memory": memory, "trace": 0.8 * state["trace"] + 0.3}


CELLS: dict[str, Callable[[int], Recurrence]] = {
    "linear_rnn": lambda width: LinearCell(width, 5, 1.1, "nonnormal"),
    "elman": lambda width: ElmanCell(width, 5),
    "elman_relu": lambda width: ElmanCell(width, 5, "relu"),
    "lstm": lambda width: LSTMCell(width, 5),
    "gru": lambda width: GRUCell(width, 5),
    "delay": DelayCell,
    "matrix": MatrixCell,
}
LENGTHS = torch.tensor([7, 5, 7, 3])
LIVE_NODES = 1e-10
DIFFERENCES = 1e-6


pytestmark = pytest.mark.usefixtures("float64")


def equations(cell: Recurrence, x: Tensor, state: State, added: State) -> State:
    """One step from the textbook; ``added`` joins each component as soon as there is one."""
    if isinstance(cell, LinearCell):
        return {"hidden": state["hidden"] @ cell.recurrent.T + x @ cell.input.T + added["hidden"]}
    if isinstance(cell, DelayCell):
        w, u, v, r = (cell.weights()[name] for name in "WUVR")
        driven = x @ w.T + state["hidden"] @ u.T + state["previous"] @ v.T + state["last"] @ r.T
        previous = state["hidden"] + added["previous"]
        return {"hidden": driven.tanh() + added["hidden"], "previous": previous, "last": x + added["last"]}
    if isinstance(cell, MatrixCell):
        key, query = cell.weights()["key"], cell.weights()["query"]
        memory = 0.9 * state["memory"] + torch.outer((key @ x).tanh(), state["trace"]) + added["memory"]
        trace = 0.8 * state["trace"] + 0.3 + added["trace"]
        return {"hidden": memory @ (query @ x) + added["hidden"], "memory": memory, "trace": trace}
    w, u, b, c = cell.weights().values()
    from_input, from_hidden = x @ w.T + b, state["hidden"] @ u.T + c
    if isinstance(cell, ElmanCell):
        return {"hidden": cell.nonlinearity(from_input + from_hidden) + added["hidden"]}
    if isinstance(cell, LSTMCell):
        i, f, g, o = (from_input + from_hidden).split(5, -1)
        memory = f.sigmoid() * state["cell"] + i.sigmoid() * g.tanh() + added["cell"]
        return {"hidden": o.sigmoid() * memory.tanh() + added["hidden"], "cell": memory}
    (ri, zi, ni), (rh, zh, nh) = from_input.split(5, -1), from_hidden.split(5, -1)
    r, z = (ri + rh).sigmoid(), (zi + zh).sigmoid()
    return {"hidden": (1 - z) * (ni + r * nh).tanh() + z * state["hidden"] + added["hidden"]}


def loop(stack: RecurrentStack, x: Tensor, added: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs, and each state as its own node, keyed ``layer.direction.component/time``."""
    nodes: dict[str, Tensor] = {}
    for layer in stack.placed:
        made = [one_direction(placed, x, nodes, added or {}) for placed in layer]
        x = torch.cat(made, -1)
    return x, nodes


def one_direction(placed: Placed, x: Tensor, nodes: dict[str, Tensor], added: dict[str, Tensor]) -> Tensor:
    """Sample by sample, so that each begins at its own end where the direction is backward."""
    cell = placed.recurrence
    rows = []
    for sample, length in enumerate(LENGTHS.tolist()):

        def extra(time: int, sample: int = sample) -> State:
            at = time if placed.backward else time + 1
            return {
                name: added[key][sample, at] if (key := f"{placed.name}.{name}") in added else torch.zeros(shape)
                for name, shape in cell.components.items()
            }

        order = range(length - 1, -1, -1) if placed.backward else range(length)
        start = x.shape[1] if placed.backward else -1
        state = {name: (torch.zeros_like(value) + value).requires_grad_() for name, value in extra(start).items()}
        keep(nodes, placed.name, sample, start, state)
        outputs = {}
        for t in order:
            state = equations(cell, x[sample, t], state, extra(t))
            keep(nodes, placed.name, sample, t, state)
            outputs[t] = state["hidden"]
        rows.append(torch.stack([outputs.get(t, torch.zeros(5)) for t in range(x.shape[1])]))
    return torch.stack(rows)


def keep(nodes: dict[str, Tensor], name: str, sample: int, time: int, state: State) -> None:
    nodes.update({f"{name}.{component}/{sample}/{time}": value for component, value in state.items()})


@pytest.fixture(params=CELLS)
def cell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[(1, False), (2, False), (1, True), (2, True)], ids=["one", "stacked", "both ways", "both"])
def stack(request: pytest.FixtureRequest, cell: str) -> RecurrentStack:
    layers, bidirectional = request.param
    return RecurrentStack(CELLS[cell], 3, layers, bidirectional, 0.0)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 7, 3)


def cotangent(outputs: Tensor) -> Tensor:
    """A read-out at some positions of every sample, never beyond its end."""
    scored = (torch.arange(7) < LENGTHS[:, None]) & (torch.arange(7) % 3 != 1)
    return torch.randn_like(outputs) * scored[..., None]


def swept(stack: RecurrentStack, x: Tensor, weights: Tensor) -> Ledger:
    ledger = Ledger()
    traced = stack.trace(x, LENGTHS, ledger)
    torch.autograd.grad((traced.outputs * weights).sum(), ledger.anchor)
    return ledger


def test_totals_equal_live_nodes(stack: RecurrentStack, x: Tensor) -> None:
    outputs, nodes = loop(stack, x.requires_grad_())
    weights = cotangent(outputs)
    live = torch.autograd.grad(
        (outputs * weights).sum(), list(nodes.values()), allow_unused=True, materialize_grads=True
    )
    expected = dict(zip(nodes, live, strict=True))
    ledger = swept(stack, x, weights)
    compared = 0
    for key, gradient in ledger.gradients.items():
        total = gradient.total.value()
        largest = total.abs().max()
        for at, time in enumerate(gradient.times):
            for sample in range(4):
                if (name := f"{key}/{sample}/{time}") in expected:
                    assert (total[sample, at] - expected[name]).abs().max() <= LIVE_NODES * largest, name
                    compared += 1
    assert compared == len(nodes)


def test_totals_equal_central_differences_of_the_loop(stack: RecurrentStack, x: Tensor) -> None:
    outputs, _ = loop(stack, x)
    weights = cotangent(outputs)
    step = 1e-6
    for key, gradient in swept(stack, x, weights).gradients.items():
        total = gradient.total.value()
        for at in (0, 2, len(gradient.times) - 1):
            direction = torch.zeros_like(total)
            direction[:, at] = torch.randn_like(direction[:, at])
            with torch.no_grad():
                up, down = (
                    (loop(stack, x, {key: sign * step * direction})[0] * weights).sum((1, 2)) for sign in (1, -1)
                )
            time = gradient.times[at]
            real = (time < LENGTHS) | (time == 7)  # not padding; 7 is where backward starts
            predicted = (total * direction).flatten(1).sum(1)
            error = ((up - down) / (2 * step) - predicted).abs()[real]
            assert error.max() <= DIFFERENCES * total.abs().max(), f"{key} at {gradient.times[at]}"


def test_fused_and_stepped_sequences_agree_in_values_and_gradients(stack: RecurrentStack, x: Tensor) -> None:
    x.requires_grad_()
    parameters = [x, *stack.parameters()]
    fused, stepped = stack(x, LENGTHS), loop(stack, x)[0]
    real = torch.arange(7) < LENGTHS[:, None]
    torch.testing.assert_close(fused[real], stepped[real], rtol=0, atol=1e-12)
    weights = cotangent(fused)
    made, expected, traced = (
        torch.autograd.grad((outputs * weights).sum(), parameters)
        for outputs in (fused, stepped, stack.trace(x, LENGTHS, Ledger()).outputs)
    )
    for one, other, third in zip(made, expected, traced, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(third, other, rtol=1e-10, atol=1e-12)


def test_a_step_broadcasts_over_leading_axes_of_states_and_of_weights(cell: str) -> None:
    """Two seeds of weights, each with its own batch, equal the two alone."""
    one, two = CELLS[cell](3), CELLS[cell](3)
    x = torch.randn(2, 4, 3)
    state = {name: torch.randn(2, 4, *shape) for name, shape in one.components.items()}
    together = {name: torch.stack([weight, two.weights()[name]]) for name, weight in one.weights().items()}
    made = one.step(together, x, state)
    for seed, alone in enumerate((one, two)):
        expected = alone.step(alone.weights(), x[seed], {name: value[seed] for name, value in state.items()})
        for name in state:
            torch.testing.assert_close(made[name][seed], expected[name])


def test_total_and_direct_differ_by_what_later_states_hand_back() -> None:
    """Two steps by hand: h_0 = w x_0, h_1 = w h_0 + …, L = h_0 + h_1. Directly ∂L/∂h_0 = 1; in total 1 + w."""
    stack = RecurrentStack(lambda width: LinearCell(width, 1, 0.5, "orthogonal"), 1, 1, False, 0.0)
    w = stack.placed[0][0].recurrence.weights()["recurrent"].item()
    ledger = Ledger()
    traced = stack.trace(torch.ones(1, 2, 1), torch.tensor([2]), ledger)
    torch.autograd.grad(traced.outputs.sum(), ledger.anchor)
    gradient = ledger.gradients["0.forward.hidden"]
    assert gradient.times == range(-1, 2)
    torch.testing.assert_close(gradient.total.value().flatten(), torch.tensor([w + w * w, 1 + w, 1.0]))
    torch.testing.assert_close(gradient.direct.value().flatten(), torch.tensor([0.0, 1.0, 1.0]))


@pytest.mark.parametrize("cell", ["linear_rnn", "elman", "elman_relu", "lstm", "gru"])
def test_total_is_direct_where_the_recurrence_is_cut(cell: str) -> None:
    stack = RecurrentStack(CELLS[cell], 3, 1, False, 0.0)
    recurrence = stack.placed[0][0].recurrence
    with torch.no_grad():
        recurrence.weights()["recurrent"].zero_()
        if isinstance(recurrence, LSTMCell):  # forget nothing across steps: the forget gate shut
            recurrence.weights()["input_bias"][5:10] = -1e3
        if isinstance(recurrence, GRUCell):  # the update gate shut
            recurrence.weights()["input_bias"][5:10] = -1e3
    ledger = swept(stack, torch.randn(4, 7, 3), cotangent(torch.zeros(4, 7, 5)))
    for gradient in ledger.gradients.values():
        total, direct = gradient.total.value(), gradient.direct.value()
        assert total.any()
        torch.testing.assert_close(total, direct, rtol=0, atol=1e-15)


def test_linear_totals_are_powers_of_the_matrix() -> None:
    stack = RecurrentStack(lambda width: LinearCell(width, 5, 1.1, "nonnormal"), 3, 1, False, 0.0)
    matrix = stack.placed[0][0].recurrence.weights()["recurrent"]
    ledger = Ledger()
    traced = stack.trace(torch.randn(2, 9, 3), torch.tensor([9, 9]), ledger)
    last = torch.randn(2, 5)
    torch.autograd.grad((traced.outputs[:, -1] * last).sum(), ledger.anchor)
    total = ledger.gradients["0.forward.hidden"].total.value()
    for at, time in enumerate(range(-1, 9)):
        torch.testing.assert_close(total[:, at], last @ torch.linalg.matrix_power(matrix, 8 - time))


def test_an_orthogonal_recurrence_keeps_the_norm_to_its_radius() -> None:
    stack = RecurrentStack(lambda width: LinearCell(width, 6, 0.9, "orthogonal"), 3, 1, False, 0.0)
    ledger = Ledger()
    traced = stack.trace(torch.randn(2, 50, 3), torch.tensor([50, 50]), ledger)
    torch.autograd.grad(traced.outputs[:, -1].sum(), ledger.anchor)
    norms, _ = log10_norm(ledger.gradients["0.forward.hidden"].total)
    slopes = norms.diff(dim=1)
    torch.testing.assert_close(slopes, torch.full_like(slopes, -torch.log10(torch.tensor(0.9)).item()))


@pytest.mark.parametrize("radius", [0.02, 50.0], ids=["vanishing", "exploding"])
def test_float32_totals_keep_their_size_far_outside_the_format(radius: float) -> None:
    """A thousand steps of a rotation: 1e-1699 and 1e+1699 at the far end, each with its true log10."""
    torch.set_default_dtype(torch.float32)
    stack = RecurrentStack(lambda width: LinearCell(width, 4, radius, "orthogonal"), 2, 1, False, 0.0)
    ledger = Ledger()
    traced = stack.trace(torch.zeros(1, 1000, 2), torch.tensor([1000]), ledger)
    torch.autograd.grad(traced.outputs[:, -1].sum(), ledger.anchor)
    norms, status = log10_norm(ledger.gradients["0.forward.hidden"].total)
    assert (status == FINITE).all()
    steps = torch.arange(1000, -1, -1, dtype=torch.float64)
    expected = steps * torch.log10(torch.tensor(radius, dtype=torch.float64)) + torch.log10(torch.tensor(2.0))
    torch.testing.assert_close(norms[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gated", [False, True], ids=["elman", "lstm"])
def test_float32_totals_of_a_stack_agree_with_float64_below_1e_100(gated: bool) -> None:
    """Two layers: the lower one forgets at once, so its gradient is the upper one's, which has long left float32."""
    reference: list[Tensor] = []
    torch.manual_seed(3)
    stack = RecurrentStack(lambda width: LSTMCell(width, 8) if gated else ElmanCell(width, 8), 3, 2, False, 0.0)
    with torch.no_grad():
        for layer in stack.placed:
            layer[0].recurrence.weights()["recurrent"].mul_(0.7)
        lower = stack.placed[0][0].recurrence.weights()
        lower["recurrent"].zero_()
        if gated:
            lower["input_bias"][8:16] = -50.0  # the forget gate shut
    x = torch.randn(2, 700 if gated else 400, 3)
    for dtype in (torch.float64, torch.float32):
        ledger = Ledger()
        traced = stack.to(dtype).trace(x.to(dtype), torch.tensor([x.shape[1]] * 2), ledger)
        torch.autograd.grad(traced.outputs[:, -1].sum(), ledger.anchor)
        for key in ("0.forward.hidden", "1.forward.hidden"):
            norms, status = log10_norm(ledger.gradients[key].total)
            assert (status[:, 1:] == FINITE).all()  # the initial state of the lower layer reaches nothing
            reference.append(norms[:, 1:])
    assert reference[0].min() < -100
    torch.testing.assert_close(reference[2], reference[0], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(reference[3], reference[1], rtol=1e-5, atol=1e-4)


def test_what_is_below_the_format_is_censored_and_what_has_no_path_is_zero() -> None:
    """A saturated tanh lets nothing through in float32, yet there is a path; after the read-out at 1 there is none."""
    torch.set_default_dtype(torch.float32)
    stack = RecurrentStack(lambda width: ElmanCell(width, 2), 1, 1, False, 0.0)
    with torch.no_grad():
        stack.placed[0][0].recurrence.weights()["input"].fill_(100.0)
    ledger = Ledger()
    traced = stack.trace(torch.ones(1, 3, 1), torch.tensor([3]), ledger)
    torch.autograd.grad(traced.outputs[:, 1].sum(), ledger.anchor)
    norms, status = log10_norm(ledger.gradients["0.forward.hidden"].total)
    assert status[0].tolist() == [CENSORED, CENSORED, FINITE, 1]
    assert norms[0, 0] < -30 and torch.isneginf(norms[0, 3])


def test_scaled_numbers_add_across_scales() -> None:
    one = Scaled(torch.tensor([[[3.0]]]), torch.tensor([[2000]], dtype=torch.int32), torch.tensor([[True]]))
    other = Scaled(torch.tensor([[[1.0]]]), torch.tensor([[2001]], dtype=torch.int32), torch.tensor([[True]]))
    norms, status = log10_norm(one + other)
    assert norms.item() == pytest.approx(2000 * math.log10(2) + math.log10(5))
    assert status.item() == FINITE
    assert log10_norm(one - one)[1].item() == CENSORED


def test_the_reference_loop_is_the_one_of_the_equations(cell: str, x: Tensor) -> None:
    recurrence = CELLS[cell](3)
    states = unroll(recurrence, x)
    nothing = {name: torch.zeros(shape) for name, shape in recurrence.components.items()}
    for sample in range(4):
        state = nothing
        for t in range(7):
            state = equations(recurrence, x[sample, t], state, nothing)
            for name, value in state.items():
                torch.testing.assert_close(states[name][sample, t + 1], value)
