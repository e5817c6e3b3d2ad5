"""The exponentially gated cell against a loop without stabiliser, the xlstm package, and what scaling leaves alone."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from draws import check_gaussian
from retrograde.core.records import Ledger
from retrograde.core.recurrence import sequence, unroll
from retrograde.layers.recurrent import RecurrentStack
from retrograde.models.slstm import ScalarLSTMCell

pytestmark = pytest.mark.usefixtures("float64")

HIDDEN, HEADS = 6, 2


def away(forget: Any) -> ScalarLSTMCell:
    """A cell whose heads mix and whose gates are far enough from 0 for the maximum to fall on either side."""
    cell = ScalarLSTMCell(3, HIDDEN, HEADS, forget)
    with torch.no_grad():
        cell.recurrent.normal_()
        cell.bias.copy_(1.5 * torch.randn(4 * HIDDEN))
    return cell


def written_out(cell: ScalarLSTMCell, x: Tensor, forget: str) -> dict[str, list[Tensor]]:
    """The equations before stabilisation, 8 to 14, with R as one block-diagonal matrix per gate; lists over time."""
    size = HIDDEN // HEADS
    blocks = cell.recurrent.view(HEADS, 4, size, size)
    mixing = [torch.block_diag(*blocks[:, gate]) for gate in range(4)]
    h, c, n = (torch.zeros(len(x), HIDDEN) for _ in range(3))
    nodes: dict[str, list[Tensor]] = {"hidden": [], "cell": [], "normaliser": []}
    for u in x.unbind(1):
        raw = [
            u @ w.T + h @ r.T + b
            for w, r, b in zip(cell.input.split(HIDDEN), mixing, cell.bias.split(HIDDEN), strict=True)
        ]
        i, f = torch.exp(raw[0]), 1 / (1 + torch.exp(-raw[1])) if forget == "sigmoid" else torch.exp(raw[1])
        c = f * c + i * torch.tanh(raw[2])
        n = f * n + i
        h = c / n / (1 + torch.exp(-raw[3]))
        for name, value in zip(nodes, (h, c, n), strict=True):
            nodes[name].append(value)
    return nodes


@pytest.mark.parametrize("forget", ["sigmoid", "exponential"])
def test_values_and_gradients_are_those_without_stabiliser(forget: str) -> None:
    cell = away(forget)
    x = torch.randn(2, 7, 3, requires_grad=True)
    nodes = written_out(cell, x, forget)
    states = {name: value[:, 1:] for name, value in unroll(cell, x).items()}
    expected = torch.stack(nodes["hidden"], 1)
    torch.testing.assert_close(states["hidden"], expected, rtol=0, atol=1e-12)
    scale = states["stabiliser"].exp()
    torch.testing.assert_close(scale * states["cell"], torch.stack(nodes["cell"], 1), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(scale * states["normaliser"], torch.stack(nodes["normaliser"], 1), rtol=1e-11, atol=0)
    weights, wanted = torch.randn_like(expected), [x, *cell.parameters()]
    mine = torch.autograd.grad((sequence(cell, x) * weights).sum(), wanted)
    theirs = torch.autograd.grad((expected * weights).sum(), wanted)
    for gradient, reference in zip(mine, theirs, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("forget", ["sigmoid", "exponential"])
def test_totals_are_those_without_stabiliser_in_its_scale(forget: str) -> None:
    """dL/dc = e^m dL/dC where C = e^m c; and dL/dm = c dL/dc + n dL/dn, because L knows m through C and N alone."""
    stack = RecurrentStack(lambda width: away(forget), 3, 1, False, 0.0)
    cell = stack.placed[0][0].recurrence
    assert isinstance(cell, ScalarLSTMCell)
    x, weights = torch.randn(2, 7, 3), torch.randn(2, 7, HIDDEN)
    ledger = Ledger()
    traced = stack.trace(x, torch.tensor([7, 7]), ledger)
    torch.autograd.grad((traced.outputs * weights).sum(), ledger.anchor)
    total = {key.split(".")[-1]: value.total.value()[:, 1:] for key, value in ledger.gradients.items()}
    state = {key.split(".")[-1]: value[:, 1:] for key, value in traced.states.items()}
    nodes = written_out(cell, x, forget)
    loss = (torch.stack(nodes["hidden"], 1) * weights).sum()
    for name, scale in (
        ("hidden", 1.0),
        ("cell", state["stabiliser"].exp()),
        ("normaliser", state["stabiliser"].exp()),
    ):
        live = torch.stack(torch.autograd.grad(loss, nodes[name], retain_graph=True), 1)
        torch.testing.assert_close(total[name], scale * live, rtol=1e-9, atol=1e-11)
    of_both = state["cell"] * total["cell"] + state["normaliser"] * total["normaliser"]
    torch.testing.assert_close(total["stabiliser"], of_both, rtol=1e-9, atol=1e-12)
    assert total["stabiliser"].abs().max() > 1e-3


def test_one_step_by_hand() -> None:
    """One unit, log i = 2 and f = σ(0) = 1/2, from c = 1, n = 2, m = 1."""
    cell = ScalarLSTMCell(1, 1, 1, "sigmoid")
    weights = {
        "input": torch.zeros(4, 1),
        "recurrent": torch.zeros(1, 4, 1),
        "bias": torch.tensor([2.0, 0.0, 0.5, -1.0]),
    }
    state = {"hidden": 0.3, "cell": 1.0, "normaliser": 2.0, "stabiliser": 1.0}
    made = cell.step(weights, torch.ones(1, 1), {name: torch.tensor([[value]]) for name, value in state.items()})
    f = 0.5 * math.exp(1 - 2)
    c, n = f * 1 + math.tanh(0.5), f * 2 + 1
    expected = {"hidden": c / n / (1 + math.e), "cell": c, "normaliser": n, "stabiliser": 2.0}
    assert {name: value.item() for name, value in made.items()} == pytest.approx(expected, rel=1e-14)


def test_gates_far_outside_the_format_leave_finite_states() -> None:
    """log i around ±500: e^500 is no float32, and the cell remembers the largest input as if no other had been."""
    torch.set_default_dtype(torch.float32)
    cell = ScalarLSTMCell(1, 1, 1, "exponential")
    with torch.no_grad():
        cell.input.copy_(torch.tensor([[500.0], [0.0], [1.0], [0.0]]))
        cell.bias.zero_()
    x = torch.tensor([0.1, 1.0, -1.0, 0.5, 0.2]).view(1, 5, 1).requires_grad_()
    made = sequence(cell, x)
    of_x = torch.autograd.grad(made.sum(), x)[0]
    torch.testing.assert_close(made.flatten()[1:], torch.full((4,), math.tanh(1.0) / 2))
    assert torch.isfinite(of_x).all()


@pytest.mark.parametrize("forget", ["sigmoid", "exponential"])
@pytest.mark.parametrize("bias", [-110.0, -300.0, 110.0])
def test_however_little_is_let_in_the_mean_is_that_of_the_logarithms(forget: Any, bias: float) -> None:
    """log i far below log f from the first time on: with R = 0, h = σ(õ) Σ_j s_j tanh(z̃_j), s a softmax over times."""
    torch.set_default_dtype(torch.float32)
    cell = ScalarLSTMCell(3, HIDDEN, HEADS, forget)
    with torch.no_grad():
        cell.bias[:HIDDEN] = bias
    x = torch.randn(2, 20, 3, requires_grad=True)
    made = sequence(cell, x)
    w, b = cell.input.detach().double(), cell.bias.detach().double()
    exact = x.detach().double().requires_grad_()
    log_input, f, z, o = (exact @ w.T + b).chunk(4, -1)
    forgotten = (f if forget == "exponential" else -torch.log1p(torch.exp(-f))).cumsum(1)
    logits = forgotten.unsqueeze(2) - forgotten.unsqueeze(1) + log_input.unsqueeze(1)  # batch, t, j, hidden
    later = torch.ones(20, 20).triu(1).bool()[None, :, :, None]
    shares = logits.masked_fill(later, -torch.inf).softmax(2)
    expected = torch.sigmoid(o) * (shares * torch.tanh(z).unsqueeze(1)).sum(2)
    torch.testing.assert_close(made.double(), expected, rtol=0, atol=1e-4)  # log i is right to 300 · 6e-8 a time
    direction = torch.randn_like(made)
    (ours,), (theirs,) = (
        torch.autograd.grad((form * direction).sum(), of) for form, of in ((made, x), (expected, exact))
    )
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-3)


def test_half_precision_is_as_good_at_the_end_as_at_the_beginning() -> None:
    """In 8 bits the stabiliser would swallow log f. A bfloat16 is right to one part in 256 or so."""
    cell = ScalarLSTMCell(3, HIDDEN, HEADS, "sigmoid").bfloat16()
    x = torch.randn(2, 400, 3).bfloat16()
    states = unroll(cell, x)
    assert states["hidden"].dtype == torch.bfloat16
    assert {states[name].dtype for name in ("cell", "normaliser", "stabiliser")} == {torch.float32}
    expected = sequence(cell.double(), x.double())
    assert (states["hidden"][:, 1:].double() - expected).norm() < 0.01 * expected.norm()


def test_an_encoder_sets_what_is_read_alone() -> None:
    """The cell that stands behind e^m = 0 is not."""
    cell = away("sigmoid")
    assert cell.begun == ("hidden",)
    state = cell.initial_state(torch.zeros(2, 3))
    x = torch.randn(2, 3)
    other, same = ({**state, name: torch.randn(2, HIDDEN)} for name in ("hidden", "cell"))
    made, of_hidden, of_cell = (cell.step(cell.weights(), x, given)["hidden"] for given in (state, other, same))
    assert torch.equal(made, of_cell) and not torch.equal(made, of_hidden)


def test_heads_do_not_read_one_another() -> None:
    cell = away("sigmoid")
    initial = {name: torch.randn(1, HIDDEN).abs() for name in cell.components}
    changed = {name: value.clone() for name, value in initial.items()}
    changed["hidden"][0, 0] += 1  # the first unit of the first head
    before, after = (cell.step(cell.weights(), torch.ones(1, 3), state)["hidden"][0] for state in (initial, changed))
    assert (before != after).tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize("forget", ["sigmoid", "exponential"])
def test_both_forget_gates_start_at_the_same_values(forget: Any) -> None:
    bias = ScalarLSTMCell(3, 8, 2, forget).bias[8:16]
    log_gate = torch.nn.functional.logsigmoid(bias) if forget == "sigmoid" else bias
    expected = torch.sigmoid(torch.tensor([5 - 12 * (k / 3) ** 0.3 for k in range(4)] * 2))
    torch.testing.assert_close(log_gate.exp(), expected)


def test_the_other_weights_start_as_in_the_package() -> None:
    """W Gaussian with variance 2 / (5 width), R and the other biases zero."""
    cell = ScalarLSTMCell(200, 40, 4, "sigmoid")
    check_gaussian(cell.input, 2 / 1000)
    assert not cell.recurrent.any()
    assert not cell.bias.view(4, 40)[[0, 2, 3]].any()


def test_the_xlstm_package_computes_the_same() -> None:
    package = pytest.importorskip("xlstm.blocks.slstm.src.vanilla")
    cell = away("sigmoid")
    x = torch.randn(2, 7, 3, requires_grad=True)
    states, _, _ = package.slstm_forward(
        (x @ cell.input.T).transpose(0, 1),
        torch.zeros(4, 2, HIDDEN),
        cell.recurrent,
        cell.bias,
        package.slstm_pointwise_function_registry["slstm"],
    )
    theirs = states[0, 1:].transpose(0, 1)
    made = sequence(cell, x)
    torch.testing.assert_close(made, theirs, rtol=0, atol=1e-12)
    weights = torch.randn_like(made)
    wanted = [x, *cell.parameters()]
    for gradient, reference in zip(
        torch.autograd.grad((made * weights).sum(), wanted),
        torch.autograd.grad((theirs * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-10)


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden must be a multiple of heads; 6 is none of 4"):
        ScalarLSTMCell(3, 6, 4, "sigmoid")
