"""Elman's network against the hand value of two steps, and torch.nn.RNN by name of its weights."""

import math

import pytest
import torch

from retrograde.models.elman import elman
from retrograde.tasks.temporal_order import TemporalOrder


def test_two_steps_by_hand() -> None:
    model = elman(TemporalOrder(length=10), hidden=1)
    cell = model.stack.placed[0][0].recurrence
    weights = {
        "input": torch.tensor([[0.5]]),
        "recurrent": torch.tensor([[-2.0]]),
        "input_bias": torch.tensor([0.1]),
        "recurrent_bias": torch.tensor([0.2]),
    }
    first = cell.step(weights, torch.tensor([[1.0]]), {"hidden": torch.tensor([[0.0]])})
    second = cell.step(weights, torch.tensor([[-1.0]]), first)
    h = math.tanh(0.5 + 0.1 + 0.2)
    torch.testing.assert_close(first["hidden"].item(), h, rtol=1e-6, atol=0)
    torch.testing.assert_close(second["hidden"].item(), math.tanh(-0.5 - 2 * h + 0.3), rtol=1e-6, atol=0)


def test_a_model_is_torch_nn_rnn_between_embedding_and_read_out() -> None:
    torch.manual_seed(0)
    task = TemporalOrder(length=10)
    model = elman(task, hidden=6, layers=2)
    batch = task.sample(3, torch.Generator().manual_seed(0))
    reference = torch.nn.RNN(task.inputs.size, 6, num_layers=2, batch_first=True)
    for depth, (placed,) in enumerate(model.stack.placed):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        for name, weight in zip(names, placed.recurrence.weights().values(), strict=True):
            getattr(reference, f"{name}_l{depth}").data.copy_(weight)
    one_hot = torch.nn.functional.one_hot(batch.inputs, task.inputs.size).float()
    torch.testing.assert_close(model(batch), model.readout(reference(one_hot)[0]))


def test_the_recurrent_matrix_starts_with_the_radius_that_is_asked_for_and_nothing_else_changes() -> None:
    task = TemporalOrder(length=10)
    torch.manual_seed(0)
    plain = elman(task, hidden=50).stack.placed[0][0].recurrence.weights()
    torch.manual_seed(0)
    scaled = elman(task, hidden=50, radius=0.95).stack.placed[0][0].recurrence.weights()
    assert torch.linalg.eigvals(scaled["recurrent"]).abs().max().item() == pytest.approx(0.95, rel=1e-5)
    torch.testing.assert_close(scaled["recurrent"] / plain["recurrent"], torch.full((50, 50), 0.95 / spectral(plain)))
    assert all(torch.equal(scaled[name], plain[name]) for name in plain if name != "recurrent")
    with pytest.raises(ValueError, match="radius must be at least 0"):
        elman(task, radius=-1.0)


def spectral(weights: dict[str, torch.Tensor]) -> float:
    return torch.linalg.eigvals(weights["recurrent"]).abs().max().item()
