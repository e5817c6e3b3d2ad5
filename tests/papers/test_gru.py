"""The GRU against its gates computed one by one in plain Python, and its two limits."""

import math

import torch

from retrograde.models.gru import gru
from retrograde.tasks.adding import Adding


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_one_step_by_hand() -> None:
    cell = gru(Adding(length=4), hidden=1).stack.placed[0][0].recurrence
    weights = {
        "input": torch.tensor([[0.1], [0.2], [0.3]]),  # reset, update, candidate
        "recurrent": torch.tensor([[0.5], [0.6], [0.7]]),
        "input_bias": torch.tensor([0.01, 0.02, 0.03]),
        "recurrent_bias": torch.tensor([0.0, 0.0, 0.9]),
    }
    after = cell.step(weights, torch.tensor([[2.0]]), {"hidden": torch.tensor([[-1.0]])})["hidden"].item()
    r, z = sigmoid(0.2 - 0.5 + 0.01), sigmoid(0.4 - 0.6 + 0.02)
    n = math.tanh(0.6 + 0.03 + r * (-0.7 + 0.9))
    torch.testing.assert_close(after, (1 - z) * n + z * -1.0, rtol=1e-6, atol=0)


def test_an_update_gate_at_one_keeps_the_state() -> None:
    cell = gru(Adding(length=4), hidden=3).stack.placed[0][0].recurrence
    weights = dict(cell.weights())
    weights["input_bias"] = torch.tensor([0.0] * 3 + [1e3] * 3 + [0.0] * 3)
    state = {"hidden": torch.randn(2, 3)}
    torch.testing.assert_close(cell.step(weights, torch.randn(2, 2), state)["hidden"], state["hidden"])
