"""The oscillators against a loop written from the paper, torchrecurrent's cell, and the oscillator's own energy."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from draws import check_uniform
from retrograde.core.recurrence import sequence, unroll
from retrograde.models.cornn import OscillatorCell

pytestmark = pytest.mark.usefixtures("float64")

DT, GAMMA, EPSILON = 0.3, 2.0, 0.7


def cell_with(damping: Any) -> OscillatorCell:
    return OscillatorCell(3, 4, DT, GAMMA, EPSILON, damping)


def written_out(cell: OscillatorCell, x: Tensor, damping: str) -> tuple[Tensor, Tensor]:
    """Sample by sample and unit by unit: (y, z), each (batch, time, hidden)."""
    w, fast, v, b = cell.recurrent, cell.velocity, cell.input, cell.bias
    positions, velocities = [], []
    for sample in x:
        y, z = torch.zeros(4), torch.zeros(4)
        for u in sample:
            force = torch.stack([torch.tanh(w[i].dot(y) + fast[i].dot(z) + v[i].dot(u) + b[i]) for i in range(4)])
            if damping == "explicit":
                z = z + DT * force - DT * GAMMA * y - DT * EPSILON * z
            else:
                z = (z + DT * force - DT * GAMMA * y) / (1 + DT * EPSILON)
            y = y + DT * z
            positions.append(y)
            velocities.append(z)
    return torch.stack(positions).view(len(x), -1, 4), torch.stack(velocities).view(len(x), -1, 4)


@pytest.mark.parametrize("damping", ["explicit", "implicit"])
def test_values_and_gradients_are_those_of_the_equations_written_out(damping: str) -> None:
    cell = cell_with(damping)
    x = torch.randn(2, 6, 3, requires_grad=True)
    y, z = written_out(cell, x, damping)
    states = unroll(cell, x)
    torch.testing.assert_close(states["hidden"][:, 1:], y, rtol=0, atol=1e-13)
    torch.testing.assert_close(states["velocity"][:, 1:], z, rtol=0, atol=1e-13)
    weights, wanted = torch.randn_like(y), [x, *cell.parameters()]
    mine = torch.autograd.grad((sequence(cell, x) * weights).sum(), wanted)
    theirs = torch.autograd.grad((y * weights).sum(), wanted)
    for gradient, reference in zip(mine, theirs, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-11, atol=1e-11)


def test_one_step_by_hand() -> None:
    cell = OscillatorCell(1, 1, 0.5, 2.0, 3.0, "explicit")
    weights = {
        "input": torch.tensor([[0.5]]),
        "recurrent": torch.tensor([[-1.0]]),
        "velocity": torch.tensor([[0.25]]),
        "bias": torch.tensor([0.1]),
    }
    state = {"hidden": torch.tensor([[0.2]]), "velocity": torch.tensor([[0.4]])}
    made = cell.step(weights, torch.tensor([[2.0]]), state)
    z = 0.4 + 0.5 * math.tanh(1.0 - 0.2 + 0.1 + 0.1) - 0.5 * 2 * 0.2 - 0.5 * 3 * 0.4
    assert made["velocity"].item() == pytest.approx(z, rel=1e-14)
    assert made["hidden"].item() == pytest.approx(0.2 + 0.5 * z, rel=1e-14)


def test_without_drive_and_damping_the_oscillator_keeps_its_energy() -> None:
    """y'' = -γ y: the scheme conserves z² + γ y² - Δt γ y z exactly, over any number of steps."""
    cell = OscillatorCell(1, 1, 0.3, 2.0, 0.0, "explicit")
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
    initial = {"hidden": torch.tensor([[1.0]]), "velocity": torch.tensor([[0.5]])}
    states = unroll(cell, torch.zeros(1, 500, 1), initial=initial)
    y, z = states["hidden"], states["velocity"]
    energy = z**2 + 2.0 * y**2 - 0.3 * 2.0 * y * z
    torch.testing.assert_close(energy, energy[:, :1].expand_as(energy), rtol=1e-11, atol=0)
    assert y.min() < -0.9 and y.max() > 0.9


def test_a_unit_time_step_makes_it_a_plain_network() -> None:
    cell = OscillatorCell(3, 4, 1.0, 1.0, 1.0, "explicit")
    x = torch.randn(2, 5, 3)
    states = unroll(cell, x)
    before = {name: value[:, :-1] for name, value in states.items()}
    driven = before["hidden"] @ cell.recurrent.T + before["velocity"] @ cell.velocity.T + x @ cell.input.T + cell.bias
    torch.testing.assert_close(states["hidden"][:, 1:], driven.tanh(), rtol=0, atol=1e-14)


def test_torchrecurrents_cell_computes_the_same() -> None:
    package = pytest.importorskip("torchrecurrent")
    cell = cell_with("explicit")
    theirs = package.coRNNCell(3, 4, dt=DT, gamma=GAMMA, epsilon=EPSILON)
    own = {"weight_ih": cell.input, "weight_hh": cell.recurrent, "weight_ch": cell.velocity, "bias_ih": cell.bias}
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.copy_(own.get(name, torch.zeros_like(parameter)))
    x = torch.randn(2, 6, 3)
    state, made = None, []
    for value in x.unbind(1):
        state = theirs(value, state)
        made.append(state[0])
    torch.testing.assert_close(sequence(cell, x), torch.stack(made, 1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("dt", [0.0, 1.5])
def test_a_time_step_out_of_range_is_refused(dt: float) -> None:
    with pytest.raises(ValueError, match=rf"dt must lie in \(0, 1\], not {dt}"):
        OscillatorCell(2, 3, dt, 1.0, 1.0, "explicit")


def test_weights_start_as_in_the_authors_code() -> None:
    """One dense layer of [x, z, y]: uniform within 1/√(width + 2 hidden), its bias too."""
    cell = OscillatorCell(500, 1000, 0.5, 1.0, 1.0, "explicit")
    for weight in (cell.input, cell.recurrent, cell.velocity, cell.bias):
        check_uniform(weight, -0.02, 0.02)  # 2500 wide
