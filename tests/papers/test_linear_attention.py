"""Linear attention against its quadratic form with a mask, written from the paper without any state."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from retrograde.core.recurrence import sequence, unroll
from retrograde.layers.residual import ResidualModel
from retrograde.models.linear_attention import LinearAttentionCell, linear_attention
from retrograde.tasks.temporal_order import TemporalOrder

pytestmark = pytest.mark.usefixtures("float64")

TASK = TemporalOrder(length=10)


def phi(x: Tensor) -> Tensor:
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())


def quadratic(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Every query against every key not later than itself, (time, width) of one head."""
    weights = (phi(query) @ phi(key).T).tril()
    return weights @ value / (weights.sum(-1, keepdim=True) + 1e-6)


def outputs(model: ResidualModel, tokens: Tensor, heads: int) -> Tensor:
    """Of one sample, from the paper's equations."""
    hidden, length = model.readout.in_features, len(tokens)
    time = torch.arange(float(length))[:, None]
    wavelength = 10000 ** (torch.arange(0, hidden, 2) / hidden)
    position = torch.stack([torch.sin(time / wavelength), torch.cos(time / wavelength)], -1).reshape(length, hidden)
    of_tokens, of_positions = model.project.weight.split([TASK.inputs.size, hidden], 1)
    x = of_tokens[:, tokens].T + position @ of_positions.T + model.project.bias
    for block in model.blocks:
        weights = dict(block.named_parameters())
        n = layer_norm(x, (hidden,), weights["norm.weight"], weights["norm.bias"])
        projected = n @ weights["project.weight"].T + weights["project.bias"]
        query, key, value = (part.split(hidden // heads, -1) for part in projected.split(hidden, -1))
        mixed = torch.cat([quadratic(q, k, v) for q, k, v in zip(query, key, value, strict=True)], -1)
        x = x + mixed @ weights["combine.weight"].T + weights["combine.bias"]
        n = layer_norm(x, (hidden,), weights["feedforward.0.weight"], weights["feedforward.0.bias"])
        inner = (n @ weights["feedforward.1.weight"].T + weights["feedforward.1.bias"]).clamp(min=0)
        x = x + inner @ weights["feedforward.3.weight"].T + weights["feedforward.3.bias"]
    return model.readout(layer_norm(x, (hidden,), model.norm.weight, model.norm.bias))


def test_it_computes_the_papers_equations_in_values_and_gradients() -> None:
    model = linear_attention(TASK, hidden=6, layers=2, heads=3, feedforward=7)
    batch = TASK.sample(2, torch.Generator().manual_seed(0))
    made = model(batch)
    expected = torch.stack([outputs(model, tokens, 3) for tokens in batch.inputs])
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    parameters = list(model.parameters())
    direction = torch.randn_like(made)
    ours, theirs = (torch.autograd.grad((value * direction).sum(), parameters) for value in (made, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_quadratic_recurrent_and_chunked_form_agree_in_values_and_gradients() -> None:
    cell = LinearAttentionCell(6, 2)
    x = torch.randn(2, 70, 18, requires_grad=True)
    states = {name: value[:, 1:] for name, value in unroll(cell, x).items()}
    parts = x.unflatten(-1, (3, 2, 3))
    by_mask = torch.stack(
        [torch.cat([quadratic(*parts[sample, :, :, head].unbind(1)) for head in range(2)], -1) for sample in range(2)]
    )
    forms = [by_mask, cell.read({}, x, states), sequence(cell, x)]
    direction = torch.randn_like(by_mask)
    gradients = [torch.autograd.grad((form * direction).sum(), x)[0] for form in forms]
    for form, gradient in zip(forms[1:], gradients[1:], strict=True):
        torch.testing.assert_close(form, forms[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-8, atol=1e-8)


def test_the_chunked_form_goes_on_from_an_initial_state() -> None:
    cell = LinearAttentionCell(4, 2)
    x = torch.randn(3, 50, 12, requires_grad=True)
    initial = {name: torch.rand(3, *shape, requires_grad=True) for name, shape in cell.components.items()}
    states = {name: value[:, 1:] for name, value in unroll(cell, x, initial=initial).items()}
    made, expected = sequence(cell, x, initial), cell.read({}, x, states)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    direction = torch.randn_like(made)
    leaves = [x, *initial.values()]
    ours, theirs = (torch.autograd.grad((value * direction).sum(), leaves) for value in (made, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_two_keys_are_weighed_by_their_features_by_hand() -> None:
    """Width 1, q = 0: φ(q) = 1; keys 1 and -1 weigh 2 and 1/e."""
    x = torch.tensor([[[0.0, 1.0, 10.0], [0.0, -1.0, -5.0]]])
    made = sequence(LinearAttentionCell(1, 1), x).flatten()
    weight = math.exp(-1)
    expected = [2 * 10 / (2 + 1e-6), (2 * 10 - 5 * weight) / (2 + weight + 1e-6)]
    torch.testing.assert_close(made, torch.tensor(expected))


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden must be a multiple of heads; 6 is none of 4"):
        linear_attention(TASK, hidden=6)
