"""The ReLU network against the hand value of two steps, a loop of the equation, and torch.nn.RNN."""

import pytest
import torch
from torch import Tensor

from retrograde.models.elman_relu import elman_relu
from retrograde.tasks.adding import Adding
from retrograde.tasks.temporal_order import TemporalOrder

pytestmark = pytest.mark.usefixtures("float64")


def test_two_steps_by_hand() -> None:
    """The first step drives the unit to 0.8, the second below zero, where it is silent."""
    cell = elman_relu(Adding(length=4), hidden=1).stack.placed[0][0].recurrence
    weights = {
        "input": torch.tensor([[0.5]]),
        "recurrent": torch.tensor([[-2.0]]),
        "input_bias": torch.tensor([0.1]),
        "recurrent_bias": torch.tensor([0.2]),
    }
    first = cell.step(weights, torch.tensor([[1.0]]), {"hidden": torch.tensor([[0.0]])})
    second = cell.step(weights, torch.tensor([[1.0]]), first)
    torch.testing.assert_close(first["hidden"].item(), 0.8)
    assert second["hidden"].item() == 0.0  # 0.5 + 0.3 - 1.6 < 0


def test_the_network_is_the_loop_of_its_equation_and_torch_nn_rnn() -> None:
    """Both with the same weights, in values and in every gradient."""
    task = TemporalOrder(length=10)
    model = elman_relu(task, hidden=6)
    batch = task.sample(3, torch.Generator().manual_seed(0))
    x = torch.nn.functional.one_hot(batch.inputs, task.inputs.size).double()
    parameters = list(model.stack.parameters())
    w, u, b, c = parameters
    reference = torch.nn.RNN(task.inputs.size, 6, nonlinearity="relu", batch_first=True)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    for name, weight in zip(names, parameters, strict=True):
        getattr(reference, name).data.copy_(weight)
    hidden, looped = torch.zeros(3, 6), []
    for t in range(batch.length):
        hidden = (x[:, t] @ w.T + b + hidden @ u.T + c).clamp(min=0)
        looped.append(hidden)
    out = torch.randn(3, batch.length, task.outputs.size)

    def gradients(outputs: Tensor, given: list[Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad((outputs * out).sum(), given)

    expected = model.readout(torch.stack(looped, 1))
    of_torch = model.readout(reference(x)[0])
    of_loop = gradients(expected, parameters)
    in_torch = gradients(of_torch, [getattr(reference, name) for name in names])
    for made in (model(batch), model.trace(batch).outputs):
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(made, of_torch, rtol=0, atol=1e-12)
        for gradient, one, other in zip(gradients(made, parameters), of_loop, in_torch, strict=True):
            torch.testing.assert_close(gradient, one, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-12)


def test_the_jacobian_is_the_matrix_without_the_rows_of_silent_units() -> None:
    cell = elman_relu(Adding(length=4), hidden=8).stack.placed[0][0].recurrence
    weights, x, before = cell.weights(), torch.randn(1, 2), torch.rand(1, 8)

    def after(hidden: Tensor) -> Tensor:
        return cell.step(weights, x, {"hidden": hidden})["hidden"]

    active = (after(before) > 0).squeeze(0)
    assert 0 < active.sum() < 8
    jacobian = torch.autograd.functional.jacobian(after, before)[0, :, 0]
    torch.testing.assert_close(jacobian, weights["recurrent"].detach() * active[:, None])
