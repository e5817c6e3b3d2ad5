"""The peephole LSTM against its equations computed gate by gate, and against torch.nn.LSTM where nothing peeps."""

import math

import pytest
import torch
from torch import Tensor

from retrograde.core.recurrence import sequence
from retrograde.models.lstm_peephole import PeepholeCell, lstm_peephole
from retrograde.tasks.adding import Adding

pytestmark = pytest.mark.usefixtures("float64")


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_one_step_by_hand() -> None:
    """Input and forget gate look at the old cell, the output gate at the new one."""
    weights = {
        "input": torch.tensor([[0.1], [0.2], [0.3], [0.4]]),  # input gate, forget gate, candidate, output gate
        "recurrent": torch.tensor([[0.5], [0.6], [0.7], [0.8]]),
        "peephole": torch.tensor([[0.9], [-0.8], [0.7]]),  # input gate, forget gate, output gate
        "bias": torch.tensor([0.01, 0.02, 0.03, 0.04]),
    }
    state = {"hidden": torch.tensor([[-1.0]]), "cell": torch.tensor([[3.0]])}
    after = PeepholeCell(1, 1, 1.0).step(weights, torch.tensor([[2.0]]), state)
    i, f = sigmoid(0.2 - 0.5 + 0.9 * 3 + 0.01), sigmoid(0.4 - 0.6 - 0.8 * 3 + 0.02)
    c = f * 3.0 + i * math.tanh(0.6 - 0.7 + 0.03)
    o = sigmoid(0.8 - 0.8 + 0.7 * c + 0.04)
    assert after["cell"].item() == pytest.approx(c, rel=1e-14)
    assert after["hidden"].item() == pytest.approx(o * math.tanh(c), rel=1e-14)


def test_the_network_is_the_loop_of_its_equations_in_values_and_gradients() -> None:
    """Peepholes as the diagonal matrices that they are, one sample a time."""
    cell = PeepholeCell(3, 5, 1.0)
    x = torch.randn(2, 7, 3, requires_grad=True)
    (wi, wf, wg, wo), (ui, uf, ug, uo) = cell.input.split(5), cell.recurrent.split(5)
    bi, bf, bg, bo = cell.bias.split(5)
    pi, pf, po = (torch.diag(row) for row in cell.peephole)
    rows: list[Tensor] = []
    for sample in x:
        h, c = torch.zeros(5), torch.zeros(5)
        for now in sample:
            i = torch.sigmoid(wi @ now + ui @ h + pi @ c + bi)
            f = torch.sigmoid(wf @ now + uf @ h + pf @ c + bf)
            c = f * c + i * torch.tanh(wg @ now + ug @ h + bg)
            o = torch.sigmoid(wo @ now + uo @ h + po @ c + bo)
            h = o * torch.tanh(c)
            rows.append(h)
    expected, made = torch.stack(rows).view(2, 7, 5), sequence(cell, x)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-13)
    out, variables = torch.randn(2, 7, 5), [x, *cell.parameters()]
    of_loop = torch.autograd.grad((expected * out).sum(), variables)
    for gradient, reference in zip(torch.autograd.grad((made * out).sum(), variables), of_loop, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-11, atol=1e-12)


def test_without_peepholes_it_is_torch_nn_lstm() -> None:
    cell = PeepholeCell(3, 5, 1.0)
    reference = torch.nn.LSTM(3, 5, batch_first=True)
    with torch.no_grad():
        cell.peephole.zero_()
        for weight, given in zip(
            reference.parameters(), (cell.input, cell.recurrent, cell.bias, torch.zeros(20)), strict=True
        ):
            weight.copy_(given)
    x = torch.randn(2, 7, 3)
    torch.testing.assert_close(sequence(cell, x), reference(x)[0], rtol=0, atol=1e-13)


def test_gates_see_the_cell_behind_a_shut_output_gate() -> None:
    """Nothing of the cell shows in the hidden state, yet what the cell keeps depends on what it holds."""
    cell = PeepholeCell(1, 1, 0.0)
    with torch.no_grad():
        cell.recurrent.zero_()
        cell.input.zero_()
        cell.bias.zero_()
        cell.bias[3] = -1e3
        cell.peephole.copy_(torch.tensor([[0.0], [2.0], [0.0]]))
    state = {"hidden": torch.zeros(2, 1), "cell": torch.tensor([[1.0], [-1.0]])}
    after = cell.step(cell.weights(), torch.zeros(2, 1), state)
    assert not after["hidden"].any()
    assert after["cell"].flatten().tolist() == pytest.approx([sigmoid(2.0), -sigmoid(-2.0)])


def test_the_forget_gate_alone_starts_with_a_bias() -> None:
    model = lstm_peephole(Adding(length=4), hidden=3, forget_bias=2.5)
    bias = model.stack.placed[0][0].recurrence.weights()["bias"]
    assert bias.tolist() == [0.0] * 3 + [2.5] * 3 + [0.0] * 6


def test_the_network_is_that_of_torchrecurrent() -> None:
    peer = pytest.importorskip("torchrecurrent")
    cell = PeepholeCell(3, 5, 1.0)
    reference = peer.PeepholeLSTMCell(3, 5)
    with torch.no_grad():
        reference.weight_ih.copy_(cell.input)
        reference.weight_hh.copy_(cell.recurrent)
        reference.weight_ph.copy_(cell.peephole.flatten())
        reference.bias_ih.copy_(cell.bias)
        reference.bias_hh.zero_()
    x = torch.randn(2, 7, 3)
    state, rows = (torch.zeros(2, 5), torch.zeros(2, 5)), []
    for now in x.unbind(1):
        state = reference(now, state)
        rows.append(state[0])
    torch.testing.assert_close(sequence(cell, x), torch.stack(rows, 1), rtol=0, atol=1e-13)
