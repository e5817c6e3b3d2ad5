"""The orthogonal network against a loop written from the paper, torch's own parametrisation, and closed forms."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal as parametrised

from retrograde.core.adjoint import Placed
from retrograde.core.records import Batch
from retrograde.core.recurrence import sequence
from retrograde.core.snapshot import gradient_flow
from retrograde.layers.recurrent import RecurrentModel
from retrograde.models.orthogonal_rnn import OrthogonalCell, mod_relu, orthogonal, orthogonal_rnn
from retrograde.tasks.adding import Adding

pytestmark = pytest.mark.usefixtures("float64")


def cell_of(model: RecurrentModel) -> OrthogonalCell:
    placed: Placed = model.stack.placed[0][0]
    assert isinstance(placed.recurrence, OrthogonalCell)
    return placed.recurrence


def drawn(task: Adding) -> Batch:
    return task.sample(3, torch.Generator().manual_seed(0))


def away(cell: OrthogonalCell) -> OrthogonalCell:
    """A matrix that is not made of blocks, and biases of both signs."""
    with torch.no_grad():
        cell.skew += torch.randn_like(cell.skew)
        cell.bias.uniform_(-0.3, 0.3)
    return cell


def written_out(x: Tensor, skew: Tensor, u: Tensor, bias: Tensor) -> Tensor:
    """Position by position, unit by unit where the equation is elementwise; exp by its series, with squaring."""
    size = len(skew)
    a = torch.stack([torch.stack([skew[i, j] if j < i else -skew[j, i] for j in range(size)]) for i in range(size)])
    a = a * (1 - torch.eye(size)) / 2**8
    w, term = torch.eye(size), torch.eye(size)
    for k in range(1, 20):
        term = term @ a / k
        w = w + term
    for _ in range(8):
        w = w @ w
    rows = []
    for sample in x:
        hidden, made = torch.zeros(size), []
        for value in sample:
            z = w @ hidden + u @ value
            hidden = torch.stack([(z[i].abs() + bias[i]).clamp(min=0) * (1 if z[i] > 0 else -1) for i in range(size)])
            made.append(hidden)
        rows.append(torch.stack(made))
    return torch.stack(rows)


def test_values_and_gradients_are_those_of_the_equations_written_out() -> None:
    cell = away(OrthogonalCell(3, 5, "henaff"))
    x, weights = torch.randn(2, 6, 3, requires_grad=True), torch.randn(2, 6, 5)
    made = sequence(cell, x)
    expected = written_out(x, cell.skew, cell.input, cell.bias)
    assert (made == 0).any() and (made != 0).any()  # units that are shut, and others
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-11)
    wanted = [x, cell.skew, cell.input, cell.bias]
    mine = torch.autograd.grad((made * weights).sum(), wanted)
    theirs = torch.autograd.grad((expected * weights).sum(), wanted)
    for gradient, reference in zip(mine, theirs, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-9)


def test_mod_relu_by_hand() -> None:
    z = torch.tensor([3.0, -3.0, 0.5, -0.5, 0.5, 0.0], requires_grad=True)
    bias = torch.tensor([-1.0, -1.0, -1.0, -1.0, 0.25, 0.25], requires_grad=True)
    made = mod_relu(z, bias)
    torch.testing.assert_close(made, torch.tensor([2.0, -2.0, 0.0, 0.0, 0.75, 0.0]))
    of_z, of_bias = torch.autograd.grad(made.sum(), [z, bias])
    torch.testing.assert_close(of_z, torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 0.0]))
    torch.testing.assert_close(of_bias, torch.tensor([1.0, -1.0, 0.0, 0.0, 1.0, 0.0]))


def test_the_matrix_is_torchs_own_orthogonal_parametrisation() -> None:
    entries = torch.randn(7, 7)
    linear = parametrised(nn.Linear(7, 7, bias=False), orthogonal_map="matrix_exp", use_trivialization=False)
    with torch.no_grad():
        linear.parametrizations.weight.original.copy_(entries)
    torch.testing.assert_close(orthogonal(entries), linear.weight, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("start", "low", "high"), [("henaff", -math.pi, math.pi), ("cayley", 0.0, 1.0)])
def test_the_matrix_starts_as_rotations_in_planes(start: str, low: float, high: float) -> None:
    cell = OrthogonalCell(2, 201, start)  # type: ignore[arg-type]  # one of the literals
    w = cell.weights()["recurrent"]
    rows = torch.arange(1, 201, 2)
    angles = cell.skew[rows, rows - 1]
    expected = torch.eye(201)
    expected[rows, rows] = expected[rows - 1, rows - 1] = angles.cos()
    expected[rows, rows - 1], expected[rows - 1, rows] = angles.sin(), -angles.sin()
    torch.testing.assert_close(w, expected, rtol=0, atol=1e-13)
    assert low <= angles.min() < low + 0.2 * (high - low) and high - 0.2 * (high - low) < angles.max() <= high


def test_the_matrix_stays_orthogonal_while_it_learns() -> None:
    task = Adding(length=8)
    model = orthogonal_rnn(task, hidden=9)
    before = cell_of(model).weights()["recurrent"].detach()
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(20):
        w = cell_of(model).weights()["recurrent"]
        torch.testing.assert_close(w.mT @ w, torch.eye(9), rtol=0, atol=1e-13)
        optimizer.zero_grad()
        batch = drawn(task)
        task.loss(model(batch), batch)[batch.scored].mean().backward()
        optimizer.step()
    w = cell_of(model).weights()["recurrent"]
    torch.testing.assert_close(w.mT @ w, torch.eye(9), rtol=0, atol=1e-13)
    assert (w - before).norm() > 0.5


def test_open_units_turn_the_gradient_and_keep_its_norm() -> None:
    """With b > 0 no unit is shut: dL/dh_t = (Wᵀ)^{T-1-t} dL/dh_{T-1}, 40 steps back as at the end."""
    task = Adding(length=41)
    model = orthogonal_rnn(task, hidden=6)
    with torch.no_grad():
        away(cell_of(model)).bias.fill_(0.1)
    total = gradient_flow(model, task, drawn(task)).gradients["0.forward.hidden"].total.value()
    w = cell_of(model).weights()["recurrent"].detach()
    for time in (-1, 0, 17, 39):
        turned = total[:, -1] @ torch.linalg.matrix_power(w, 40 - time)
        torch.testing.assert_close(total[:, time + 1], turned, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(total.norm(dim=-1), total[:, -1:].norm(dim=-1).expand(3, 42))


def test_a_width_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden must be at least 1, not 0"):
        OrthogonalCell(2, 0, "cayley")
