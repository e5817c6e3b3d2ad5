"""The LSTM of 1997 against its equations computed gate by gate, and its constant error carousel."""

import math

import pytest
import torch
from torch import Tensor

from retrograde.core.recurrence import sequence
from retrograde.core.snapshot import gradient_flow
from retrograde.models.lstm_1997 import CarouselCell, lstm_1997
from retrograde.tasks.adding import Adding

pytestmark = pytest.mark.usefixtures("float64")


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_one_step_by_hand() -> None:
    weights = {
        "input": torch.tensor([[0.1], [0.2], [0.3]]),  # input gate, output gate, what is offered
        "recurrent": torch.tensor([[0.5], [0.6], [0.7]]),
        "bias": torch.tensor([0.01, 0.02, 0.03]),
    }
    state = {"hidden": torch.tensor([[-1.0]]), "cell": torch.tensor([[3.0]])}
    after = CarouselCell(1, 1, 0.0, 0.0).step(weights, torch.tensor([[2.0]]), state)
    i, o = sigmoid(0.2 - 0.5 + 0.01), sigmoid(0.4 - 0.6 + 0.02)
    c = 3.0 + i * (4 * sigmoid(0.6 - 0.7 + 0.03) - 2)
    assert after["cell"].item() == pytest.approx(c, rel=1e-14)
    assert after["hidden"].item() == pytest.approx(o * (2 * sigmoid(c) - 1), rel=1e-14)


def test_the_network_is_the_loop_of_its_equations_in_values_and_gradients() -> None:
    """With the squashing functions as the paper writes them, 4/(1+e^-a) - 2 and 2/(1+e^-a) - 1, one sample a time."""
    cell = CarouselCell(3, 5, -1.0, 0.5)
    x = torch.randn(2, 7, 3, requires_grad=True)
    (wi, wo, wz), (ui, uo, uz) = cell.input.split(5), cell.recurrent.split(5)
    bi, bo, bz = cell.bias.split(5)
    rows: list[Tensor] = []
    for sample in x:
        h, c = torch.zeros(5), torch.zeros(5)
        for now in sample:
            i = 1 / (1 + torch.exp(-(wi @ now + ui @ h + bi)))
            o = 1 / (1 + torch.exp(-(wo @ now + uo @ h + bo)))
            c = c + i * (4 / (1 + torch.exp(-(wz @ now + uz @ h + bz))) - 2)
            h = o * (2 / (1 + torch.exp(-c)) - 1)
            rows.append(h)
    expected, made = torch.stack(rows).view(2, 7, 5), sequence(cell, x)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-13)
    out, variables = torch.randn(2, 7, 5), [x, *cell.parameters()]
    of_loop = torch.autograd.grad((expected * out).sum(), variables)
    for gradient, reference in zip(torch.autograd.grad((made * out).sum(), variables), of_loop, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-11, atol=1e-12)


def test_along_the_cell_alone_the_gradient_is_exactly_one() -> None:
    """With the gates deaf to the hidden state, dL/dc_t is one number for all times, carried back to the last bit.

    At the last time, where it enters through the hidden state, it is computed in another order.
    """
    task = Adding(length=200)
    model = lstm_1997(task, hidden=4)
    with torch.no_grad():
        model.stack.placed[0][0].recurrence.weights()["recurrent"].zero_()
    gradient = gradient_flow(model, task, task.sample(2, torch.Generator().manual_seed(0)))
    total = gradient.gradients["0.forward.cell"].total.value()
    assert total.shape == (2, 201, 4) and total[:, -1].all()
    assert torch.equal(total[:, :-1], total[:, :1].expand_as(total[:, :-1]))
    torch.testing.assert_close(total[:, -1], total[:, 0], rtol=1e-14, atol=0)


def test_gates_that_listen_to_the_hidden_state_bend_the_gradient() -> None:
    task = Adding(length=20)
    batch = task.sample(2, torch.Generator().manual_seed(0))
    total = gradient_flow(lstm_1997(task, hidden=4), task, batch).gradients["0.forward.cell"].total.value()
    assert (total[:, 0] - total[:, -1]).abs().max() > 0.01 * total[:, -1].abs().max()


def test_a_step_adds_at_most_two_to_the_cell_and_shows_at_most_one_of_it() -> None:
    cell = CarouselCell(1, 3, 50.0, 50.0)
    with torch.no_grad():
        cell.input[6:] = 1e3  # what is offered saturates; both gates stay open
        cell.input[:6] = 0.0
        cell.recurrent.zero_()
    made = cell.step(cell.weights(), torch.tensor([[1.0], [-1.0]]), cell.initial_state(torch.empty(2, 1)))
    torch.testing.assert_close(made["cell"], torch.tensor([[2.0], [-2.0]]).expand(2, 3))
    torch.testing.assert_close(made["hidden"], torch.tensor([[1.0], [-1.0]]).expand(2, 3) * math.tanh(1))


def test_gate_biases_start_as_asked() -> None:
    model = lstm_1997(Adding(length=4), hidden=3, input_gate_bias=-3.0, output_gate_bias=-1.0)
    bias = model.stack.placed[0][0].recurrence.weights()["bias"]
    assert bias.tolist() == [-3.0] * 3 + [-1.0] * 3 + [0.0] * 3
