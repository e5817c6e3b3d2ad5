"""The linear recurrence against the closed form h_t = Σ_k W^k U x_{t-k}, and its matrices."""

import pytest
import torch

from draws import check_gaussian
from retrograde.models.linear_rnn import LinearCell, linear_rnn, recurrent_matrix
from retrograde.tasks.temporal_order import TemporalOrder


def test_outputs_are_the_convolution_with_the_powers_of_the_matrix() -> None:
    torch.manual_seed(0)
    task = TemporalOrder(length=10)
    model = linear_rnn(task, hidden=4, radius=1.1, matrix="nonnormal").double()
    batch = task.sample(2, torch.Generator().manual_seed(0))
    u, w = model.stack.placed[0][0].recurrence.weights().values()
    x = torch.nn.functional.one_hot(batch.inputs, task.inputs.size).double()
    for t in range(batch.length):
        hidden = sum(x[:, t - k] @ u.T @ torch.linalg.matrix_power(w, k).T for k in range(t + 1))
        torch.testing.assert_close(model(batch)[:, t], model.readout(hidden))


@pytest.mark.parametrize("matrix", ["orthogonal", "normal", "nonnormal"])
@pytest.mark.parametrize("radius", [0.9, 1.0, 1.1])
def test_the_spectral_radius_is_the_one_asked_for(matrix: str, radius: float) -> None:
    torch.manual_seed(0)
    made = recurrent_matrix(12, radius, matrix).double()  # type: ignore[arg-type]  # one of the literals
    assert torch.linalg.eigvals(made).abs().max().item() == pytest.approx(radius, rel=1e-5)
    departure = (made @ made.T - made.T @ made).norm() / made.norm() ** 2
    assert (departure < 1e-6) == (matrix != "nonnormal")
    if matrix == "orthogonal":
        torch.testing.assert_close(made @ made.T, radius**2 * torch.eye(12).double(), rtol=0, atol=1e-5)


def test_the_input_weights_keep_the_variance_of_what_comes_in() -> None:
    torch.manual_seed(0)
    check_gaussian(LinearCell(400, 100, 1.0, "orthogonal").input, 1 / 400)


def test_the_orthogonal_matrix_is_drawn_evenly_from_all() -> None:
    """Under Haar's measure the trace has mean 0 and variance 1, for every size; for plain QR its mean is far below."""
    torch.manual_seed(0)
    traces = torch.stack([recurrent_matrix(6, 1.0, "orthogonal").trace() for _ in range(2000)])
    error = 5 / 2000**0.5
    assert abs(traces.mean()) < error
    assert abs(traces.square().mean() - 1) < error * 2**0.5  # the fourth moment is 3, as a Gaussian's
