"""The antisymmetric network against loops of its equations, and the stability that it is named for."""

import math

import pytest
import torch
from torch import Tensor

from retrograde.core.recurrence import sequence
from retrograde.models.antisymmetric_rnn import AntisymmetricCell, antisymmetric_rnn
from retrograde.tasks.adding import Adding

pytestmark = pytest.mark.usefixtures("float64")


def triangle(cell: AntisymmetricCell) -> Tensor:
    """W, entry by entry, row by row above the diagonal."""
    entries = iter(cell.triangle)
    zero = torch.zeros(())
    rows = [[next(entries) if i < j else zero for j in range(cell.hidden)] for i in range(cell.hidden)]
    return torch.stack([torch.stack(row) for row in rows])


def test_one_step_by_hand() -> None:
    """W = [[0, 2], [0, 0]], so W - Wᵀ - γ I = [[-0.5, 2], [-2, -0.5]]."""
    cell = AntisymmetricCell(1, 2, 0.1, 0.5, 1.0, False)
    with torch.no_grad():
        cell.triangle.copy_(torch.tensor([2.0]))
        cell.input.copy_(torch.tensor([[1.0], [3.0]]))
        cell.bias.copy_(torch.tensor([0.01, 0.02]))
    after = cell.step(cell.weights(), torch.tensor([[0.2]]), {"hidden": torch.tensor([[0.3, -0.4]])})
    first = 0.3 + 0.1 * math.tanh(-0.15 - 0.8 + 0.2 + 0.01)
    second = -0.4 + 0.1 * math.tanh(-0.6 + 0.2 + 0.6 + 0.02)
    assert after["hidden"].flatten().tolist() == pytest.approx([first, second], rel=1e-14)


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_the_network_is_the_loop_of_its_equations_in_values_and_gradients(gated: bool) -> None:
    cell = AntisymmetricCell(3, 5, 0.3, 0.2, 2.0, gated)
    with torch.no_grad():
        cell.bias.normal_()
    x = torch.randn(2, 7, 3, requires_grad=True)
    w = triangle(cell)
    matrix = w - w.T - 0.2 * torch.eye(5)
    rows: list[Tensor] = []
    for sample in x:
        h = torch.zeros(5)
        for now in sample:
            change = torch.tanh(matrix @ h + cell.input[:5] @ now + cell.bias[:5])
            if gated:
                change = torch.sigmoid(matrix @ h + cell.input[5:] @ now + cell.bias[5:]) * change
            h = h + 0.3 * change
            rows.append(h)
    expected, made = torch.stack(rows).view(2, 7, 5), sequence(cell, x)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-13)
    out, variables = torch.randn(2, 7, 5), [x, *cell.parameters()]
    of_loop = torch.autograd.grad((expected * out).sum(), variables)
    for gradient, reference in zip(torch.autograd.grad((made * out).sum(), variables), of_loop, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("diffusion", [0.0, 0.3])
def test_the_equation_behind_it_neither_grows_nor_forgets_but_by_diffusion(diffusion: float) -> None:
    """Its Jacobian, taken from the step as (dh_t/dh_{t-1} - I) / ε: eigenvalues with real part 0, or in [-γ, 0)."""
    cell = AntisymmetricCell(2, 12, 0.05, diffusion, 3.0, False)
    weights, x, before = cell.weights(), torch.randn(1, 2), torch.randn(1, 12)

    def after(hidden: Tensor) -> Tensor:
        return cell.step(weights, x, {"hidden": hidden})["hidden"]

    step = torch.autograd.functional.jacobian(after, before)[0, :, 0]
    eigenvalues = torch.linalg.eigvals((step - torch.eye(12)) / 0.05)
    assert eigenvalues.imag.abs().max() > 0.5
    if diffusion == 0:
        assert eigenvalues.real.abs().max() < 1e-12
    else:
        assert -diffusion - 1e-12 <= eigenvalues.real.min() and eigenvalues.real.max() < -1e-3
    # the forward Euler step itself: 1 + ε λ, outside the unit circle where λ is imaginary
    torch.testing.assert_close(
        torch.linalg.eigvals(step).abs().sort().values, (1 + 0.05 * eigenvalues).abs().sort().values
    )
    if diffusion == 0:
        assert torch.linalg.eigvals(step).abs().max() > 1


def test_the_recurrent_matrix_is_antisymmetric() -> None:
    recurrent = AntisymmetricCell(2, 12, 0.1, 0.1, 1.0, False).weights()["recurrent"]
    assert recurrent.any()
    assert torch.equal(recurrent, -recurrent.mT)


def test_parameters_are_as_many_as_the_paper_counts() -> None:
    """Table 2: 36k plain and 37k gated, for three colours, 256 units and, on top, ten classes."""
    for gated, thousands in ((False, 36), (True, 37)):
        cell = AntisymmetricCell(3, 256, 0.1, 0.1, 1.0, gated)
        readout = 256 * 10 + 10
        assert round((sum(parameter.numel() for parameter in cell.parameters()) + readout) / 1000) == thousands


def test_weights_start_as_in_the_papers_appendix() -> None:
    """N(0, 1/width) and N(0, σ_w²/hidden) by their standard deviations, each from thousands of numbers."""
    for gated, rows in ((False, 100), (True, 200)):
        cell = AntisymmetricCell(40, 100, 0.1, 0.1, 4.0, gated)
        assert cell.input.shape == (rows, 40) and not cell.bias.any()
        assert cell.input.std().item() == pytest.approx(40**-0.5, rel=0.05)
        assert cell.triangle.std().item() == pytest.approx(4 / 10, rel=0.05)


def test_settings_out_of_range_are_refused() -> None:
    task = Adding(length=4)
    with pytest.raises(ValueError, match="step_size must be positive, not 0"):
        antisymmetric_rnn(task, step_size=0.0)
    with pytest.raises(ValueError, match="diffusion must be at least 0"):
        antisymmetric_rnn(task, diffusion=-0.1)


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_the_network_is_that_of_torchrecurrent(gated: bool) -> None:
    peer = pytest.importorskip("torchrecurrent")
    cell = AntisymmetricCell(3, 5, 0.3, 0.2, 2.0, gated)
    made = peer.GatedAntisymmetricRNNCell if gated else peer.AntisymmetricRNNCell
    reference = made(3, 5, epsilon=0.3, gamma=0.2)
    with torch.no_grad():
        cell.bias.normal_()
        # gate first there
        order = [*range(5, 10), *range(5)] if gated else list(range(5))
        reference.weight_ih.copy_(cell.input[order])
        reference.weight_hh.copy_(triangle(cell))
        reference.bias_ih.copy_(cell.bias[order])
        reference.bias_hh.zero_()
    x = torch.randn(2, 7, 3)
    hidden, rows = torch.zeros(2, 5), []
    for now in x.unbind(1):
        hidden = reference(now, hidden)
        rows.append(hidden)
    torch.testing.assert_close(sequence(cell, x), torch.stack(rows, 1), rtol=0, atol=1e-13)
