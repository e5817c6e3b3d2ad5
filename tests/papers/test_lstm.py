"""The LSTM against its gates computed one by one in plain Python, and its constant error carousel."""

import math

import torch

from retrograde.core.snapshot import gradient_flow
from retrograde.models.lstm import lstm
from retrograde.tasks.adding import Adding


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_one_step_by_hand() -> None:
    cell = lstm(Adding(length=4), hidden=1).stack.placed[0][0].recurrence
    weights = {
        "input": torch.tensor([[0.1], [0.2], [0.3], [0.4]]),  # input gate, forget gate, candidate, output gate
        "recurrent": torch.tensor([[0.5], [0.6], [0.7], [0.8]]),
        "input_bias": torch.tensor([0.01, 0.02, 0.03, 0.04]),
        "recurrent_bias": torch.zeros(4),
    }
    after = cell.step(weights, torch.tensor([[2.0]]), {"hidden": torch.tensor([[-1.0]]), "cell": torch.tensor([[3.0]])})
    i, f = sigmoid(0.2 - 0.5 + 0.01), sigmoid(0.4 - 0.6 + 0.02)
    g, o = math.tanh(0.6 - 0.7 + 0.03), sigmoid(0.8 - 0.8 + 0.04)
    c = f * 3.0 + i * g
    torch.testing.assert_close(after["cell"].item(), c, rtol=1e-6, atol=0)
    torch.testing.assert_close(after["hidden"].item(), o * math.tanh(c), rtol=1e-6, atol=0)


def test_forget_bias_is_the_sum_of_both_biases() -> None:
    weights = lstm(Adding(length=4), hidden=3, forget_bias=2.5).stack.placed[0][0].recurrence.weights()
    assert torch.equal((weights["input_bias"] + weights["recurrent_bias"])[3:6], torch.full((3,), 2.5))


def test_an_open_forget_gate_carries_the_cells_gradient_unchanged() -> None:
    """With the paths through the hidden state cut, dL/dc_t is the product of forget gates, here all 1."""
    task = Adding(length=40)
    model = lstm(task, hidden=4)
    with torch.no_grad():
        weights = model.stack.placed[0][0].recurrence.weights()
        weights["recurrent"].zero_()
        weights["input_bias"][4:8] = 1e3
    batch = task.sample(2, torch.Generator().manual_seed(0))
    gradient = gradient_flow(model, task, batch).gradients["0.forward.cell"]
    total = gradient.total.value()
    torch.testing.assert_close(total, total[:, -1:].expand_as(total))
