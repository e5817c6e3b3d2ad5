"""DeltaNet against its equations in a loop over samples, times and heads, and what one layer of it can learn."""

import math

import pytest
import torch
from torch import Tensor

from retrograde.layers.residual import ResidualModel
from retrograde.models.deltanet import DeltaNetBlock, deltanet
from retrograde.tasks.temporal_order import TemporalOrder

pytestmark = pytest.mark.usefixtures("float64")

TASK = TemporalOrder(length=10)


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    return gain * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def outputs(model: ResidualModel, tokens: list[int], heads: int, strongest: float) -> Tensor:
    """Of one sample, time by time, from the paper's equations."""
    stream = [model.project.weight[:, token] + model.project.bias for token in tokens]
    width = len(stream[0]) // heads
    for block in model.blocks:
        weights = dict(block.named_parameters())
        memory = [torch.zeros(width, width) for _ in range(heads)]
        projected = []
        after = []
        for x in stream:
            n = rms_norm(x, weights["norm.weight"])
            projected.append(weights["project.weight"] @ n)
            taps = weights["recurrence.filter"]
            recent = range(max(0, len(projected) - taps.shape[1]), len(projected))
            convolved = sum(taps[:, taps.shape[1] - len(projected) + i] * projected[i] for i in recent)
            q, k, v = silu(convolved).chunk(3)
            strength = strongest * torch.sigmoid(weights["strength.weight"] @ n)
            read = []
            for head in range(heads):
                own = slice(head * width, (head + 1) * width)
                key = k[own] / (k[own].square().sum() + 1e-6).sqrt()
                query = q[own] / (q[own].square().sum() + 1e-6).sqrt()
                kept = torch.eye(width) - strength[head] * torch.outer(key, key)
                memory[head] = memory[head] @ kept + strength[head] * torch.outer(v[own], key)
                read.append(rms_norm(memory[head] @ query, weights["head_norm.weight"]))
            x = x + weights["combine.weight"] @ torch.cat(read)
            gate, value = (weights["feedforward.1.enter.weight"] @ rms_norm(x, weights["feedforward.0.weight"])).chunk(
                2
            )
            after.append(x + weights["feedforward.1.leave.weight"] @ (silu(gate) * value))
        stream = after
    return torch.stack([model.readout(rms_norm(x, model.norm.weight)) for x in stream])


@pytest.mark.parametrize("negative_eigenvalues", [False, True])
def test_it_computes_the_papers_equations_in_values_and_gradients(negative_eigenvalues: bool) -> None:
    model = deltanet(TASK, hidden=6, layers=2, heads=2, negative_eigenvalues=negative_eigenvalues)
    batch = TASK.sample(2, torch.Generator().manual_seed(0))
    made = model(batch)
    strongest = 2.0 if negative_eigenvalues else 1.0
    expected = torch.stack([outputs(model, tokens, 2, strongest) for tokens in batch.inputs.tolist()])
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    parameters = list(model.parameters())
    direction = torch.randn_like(made)
    ours, theirs = (torch.autograd.grad((value * direction).sum(), parameters) for value in (made, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("negative_eigenvalues", "least"), [(False, 0.0), (True, -1.0)])
def test_the_states_transition_has_the_eigenvalues_asked_for(negative_eigenvalues: bool, least: float) -> None:
    """Along the key, with the strongest and the weakest write that the logistic function allows."""
    block = deltanet(TASK, hidden=4, layers=1, heads=1, negative_eigenvalues=negative_eigenvalues).chain[0]
    with torch.no_grad():
        block.strength.weight.copy_(torch.tensor([[1e3, 0, 0, 0]]))
    x = torch.tensor([[[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]])
    strongest, weakest = block.enter(x)[0, :, -1].tolist()
    assert math.isclose(1 - strongest, least, abs_tol=1e-12) and math.isclose(1 - weakest, 1, abs_tol=1e-12)


def test_it_starts_as_published() -> None:
    """Taps as torch.nn.Conv1d's for each channel, uniform on ± 1/√4; norms that change nothing."""
    block = deltanet(TASK, hidden=256, layers=1, heads=4).chain[0]
    assert isinstance(block, DeltaNetBlock)
    taps = block.recurrence.filter
    assert taps.shape == (3 * 256, 4)
    assert 0.49 < taps.max() <= 0.5 and -0.5 <= taps.min() < -0.49
    assert taps.std().item() == pytest.approx(12**-0.5, rel=0.03)
    assert torch.equal(block.norm.weight, torch.ones(256)) and torch.equal(block.head_norm.weight, torch.ones(64))


def test_without_a_convolution_there_is_no_window() -> None:
    model = deltanet(TASK, hidden=4, layers=1, heads=2, convolution=1)
    assert model.state_size == 2 * 2 * 2
    assert deltanet(TASK, hidden=4, layers=1, heads=2).state_size == 2 * 2 * 2 + 12 * 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "multiple of heads: 8 is not one of 3"),
        ({"heads": 0}, "heads must be at least 1, not 0"),
        ({"convolution": 0}, "convolution must be at least 1, not 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deltanet(TASK, hidden=8, **settings)
