"""The memory cell against its equations with [c, x] side by side, and against torch.nn.GRU with an open reset gate."""

import math

import pytest
import torch
from torch import Tensor

from retrograde.core.recurrence import sequence
from retrograde.core.snapshot import gradient_flow
from retrograde.models.gru_simple import UpdateGateCell, gru_simple
from retrograde.tasks.adding import Adding

pytestmark = pytest.mark.usefixtures("float64")


def test_one_step_by_hand() -> None:
    weights = {
        "input": torch.tensor([[0.1], [0.2]]),  # candidate, update gate
        "recurrent": torch.tensor([[0.5], [0.6]]),
        "bias": torch.tensor([0.01, 0.02]),
    }
    after = UpdateGateCell(1, 1).step(weights, torch.tensor([[2.0]]), {"hidden": torch.tensor([[-1.0]])})
    gate = 1 / (1 + math.exp(-(0.4 - 0.6 + 0.02)))
    expected = gate * math.tanh(0.2 - 0.5 + 0.01) + (1 - gate) * -1.0
    assert after["hidden"].item() == pytest.approx(expected, rel=1e-14)


def test_the_network_is_the_loop_of_its_equations_in_values_and_gradients() -> None:
    """One matrix for [c, x], one sample a time."""
    cell = UpdateGateCell(3, 5)
    x = torch.randn(2, 7, 3, requires_grad=True)
    candidate, update = torch.cat([cell.recurrent, cell.input], 1).split(5)
    candidate_bias, update_bias = cell.bias.split(5)
    rows: list[Tensor] = []
    for sample in x:
        c = torch.zeros(5)
        for now in sample:
            both = torch.cat([c, now])
            gate = torch.sigmoid(update @ both + update_bias)
            c = gate * torch.tanh(candidate @ both + candidate_bias) + (1 - gate) * c
            rows.append(c)
    expected, made = torch.stack(rows).view(2, 7, 5), sequence(cell, x)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-13)
    out, variables = torch.randn(2, 7, 5), [x, *cell.parameters()]
    of_loop = torch.autograd.grad((expected * out).sum(), variables)
    for gradient, reference in zip(torch.autograd.grad((made * out).sum(), variables), of_loop, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-11, atol=1e-12)


def test_it_is_torch_nn_gru_with_an_open_reset_gate() -> None:
    """torch's z is 1 - Γ, so its weights are those of Γ with the other sign."""
    cell = UpdateGateCell(3, 5)
    reference = torch.nn.GRU(3, 5, batch_first=True)
    (wc, wu), (uc, uu), (bc, bu) = (part.split(5) for part in (cell.input, cell.recurrent, cell.bias))
    with torch.no_grad():
        reference.weight_ih_l0.copy_(torch.cat([torch.zeros(5, 3), -wu, wc]))
        reference.weight_hh_l0.copy_(torch.cat([torch.zeros(5, 5), -uu, uc]))
        reference.bias_ih_l0.copy_(torch.cat([torch.full((5,), 1e3), -bu, bc]))
        reference.bias_hh_l0.zero_()
    x = torch.randn(2, 7, 3)
    torch.testing.assert_close(sequence(cell, x), reference(x)[0], rtol=0, atol=1e-13)


def test_a_shut_gate_keeps_the_cell_and_its_gradient() -> None:
    task = Adding(length=40)
    model = gru_simple(task, hidden=4)
    cell = model.stack.placed[0][0].recurrence
    with torch.no_grad():
        cell.weights()["bias"][4:] = -1e3
    state = {"hidden": torch.randn(2, 4)}
    assert torch.equal(cell.step(cell.weights(), torch.randn(2, 2), state)["hidden"], state["hidden"])
    batch = task.sample(2, torch.Generator().manual_seed(0))
    total = gradient_flow(model, task, batch).gradients["0.forward.hidden"].total.value()
    assert total[:, -1].all()
    assert torch.equal(total, total[:, -1:].expand_as(total))
