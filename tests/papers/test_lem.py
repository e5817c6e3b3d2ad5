"""Long expressive memory against a loop written from the paper, and both halves of torchrecurrent's cell."""

import math

import pytest
import torch
from torch import Tensor

from draws import check_uniform
from retrograde.core.recurrence import sequence, unroll
from retrograde.models.lem import MemoryCell

pytestmark = pytest.mark.usefixtures("float64")


def written_out(cell: MemoryCell, x: Tensor, dt: float) -> tuple[Tensor, Tensor]:
    """Sample by sample and unit by unit: (y, z), each (batch, time, hidden)."""
    v1, v2, vz, vy = cell.input.split(4)
    b1, b2, bz, by = cell.bias.split(4)
    w1, w2, wz = cell.recurrent.split(4)
    wy = cell.memory
    ys, zs = [], []
    for sample in x:
        y, z = [torch.zeros(())] * 4, [torch.zeros(())] * 4
        for u in sample:
            old = torch.stack(y)
            new_z = []
            for i in range(4):
                rate = dt / (1 + torch.exp(-(w1[i].dot(old) + v1[i].dot(u) + b1[i])))
                new_z.append((1 - rate) * z[i] + rate * torch.tanh(wz[i].dot(old) + vz[i].dot(u) + bz[i]))
            z, fresh = new_z, torch.stack(new_z)
            new_y = []
            for i in range(4):
                rate = dt / (1 + torch.exp(-(w2[i].dot(old) + v2[i].dot(u) + b2[i])))
                new_y.append((1 - rate) * y[i] + rate * torch.tanh(wy[i].dot(fresh) + vy[i].dot(u) + by[i]))
            y = new_y
            ys.append(torch.stack(y))
            zs.append(fresh)
    return torch.stack(ys).view(len(x), -1, 4), torch.stack(zs).view(len(x), -1, 4)


@pytest.mark.parametrize("dt", [1.0, 0.3])
def test_values_and_gradients_are_those_of_the_equations_written_out(dt: float) -> None:
    cell = MemoryCell(3, 4, dt)
    x = torch.randn(2, 5, 3, requires_grad=True)
    y, z = written_out(cell, x, dt)
    states = unroll(cell, x)
    torch.testing.assert_close(states["hidden"][:, 1:], y, rtol=0, atol=1e-13)
    torch.testing.assert_close(states["memory"][:, 1:], z, rtol=0, atol=1e-13)
    weights, wanted = torch.randn_like(y), [x, *cell.parameters()]
    mine = torch.autograd.grad((sequence(cell, x) * weights).sum(), wanted)
    theirs = torch.autograd.grad((y * weights).sum(), wanted)
    for gradient, reference in zip(mine, theirs, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-11, atol=1e-11)


def test_one_step_by_hand() -> None:
    def sigmoid(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    cell = MemoryCell(1, 1, 0.5)
    weights = {
        "input": torch.tensor([[0.1], [0.2], [0.3], [0.4]]),  # rate of z, rate of y, z, y
        "recurrent": torch.tensor([[0.5], [0.6], [0.7]]),
        "memory": torch.tensor([[0.8]]),
        "bias": torch.tensor([0.01, 0.02, 0.03, 0.04]),
    }
    made = cell.step(
        weights, torch.tensor([[2.0]]), {"hidden": torch.tensor([[-1.0]]), "memory": torch.tensor([[3.0]])}
    )
    slow, fast = 0.5 * sigmoid(0.2 - 0.5 + 0.01), 0.5 * sigmoid(0.4 - 0.6 + 0.02)
    z = (1 - slow) * 3 + slow * math.tanh(0.6 - 0.7 + 0.03)
    y = (1 - fast) * -1 + fast * math.tanh(0.8 * z + 0.8 + 0.04)
    assert made["memory"].item() == pytest.approx(z, rel=1e-14)
    assert made["hidden"].item() == pytest.approx(y, rel=1e-14)


def test_shut_rates_keep_both_states() -> None:
    cell = MemoryCell(2, 3, 1.0)
    with torch.no_grad():
        cell.bias[:6] = -1e3
    initial = {name: torch.randn(2, 3) for name in ("hidden", "memory")}
    states = unroll(cell, torch.randn(2, 30, 2), initial=initial)
    for name, value in initial.items():
        assert torch.equal(states[name][:, -1], value)


def test_torchrecurrents_cell_computes_the_same_but_for_the_memory_that_the_output_reads() -> None:
    """Its y reads the memory from before the step. So its z is ours, and its y is ours where it is given the new z."""
    package = pytest.importorskip("torchrecurrent")
    cell, theirs = MemoryCell(3, 4, 0.7), package.LEMCell(3, 4, dt=0.7)
    v1, v2, vz, vy = cell.input.split(4)
    b1, b2, bz, by = cell.bias.split(4)
    w1, w2, wz = cell.recurrent.split(4)
    own = {
        "weight_ih": torch.cat([v2, v1, vz, vy]),  # the rate of y stands first
        "bias_ih": torch.cat([b2, b1, bz, by]),
        "weight_hh": torch.cat([w2, w1, wz]),
        "weight_ch": cell.memory,
    }
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.copy_(own.get(name, torch.zeros_like(parameter)))
    x, state = torch.randn(5, 3), {name: torch.randn(5, 4) for name in ("hidden", "memory")}
    made = cell.step(cell.weights(), x, state)
    y_of_old, z = theirs(x, (state["hidden"], state["memory"]))
    y_of_new, _ = theirs(x, (state["hidden"], z))
    torch.testing.assert_close(made["memory"], z, rtol=0, atol=1e-13)
    torch.testing.assert_close(made["hidden"], y_of_new, rtol=0, atol=1e-13)
    assert (made["hidden"] - y_of_old).abs().max() > 1e-3


@pytest.mark.parametrize("dt", [0.0, 1.5])
def test_a_rate_out_of_range_is_refused(dt: float) -> None:
    with pytest.raises(ValueError, match=rf"dt must lie in \(0, 1\], not {dt}"):
        MemoryCell(2, 3, dt)


def test_weights_start_as_in_the_authors_code() -> None:
    """All uniform within 1/√hidden, those of the input and the biases too."""
    cell = MemoryCell(50, 400, 1.0)
    for weight in (cell.input, cell.recurrent, cell.memory, cell.bias):
        check_uniform(weight, -0.05, 0.05)
