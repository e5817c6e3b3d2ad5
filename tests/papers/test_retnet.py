"""Retention in the paper's three forms, the parallel one written here in complex numbers and absolute times."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, group_norm, layer_norm

from retrograde.core.recurrence import sequence, unroll
from retrograde.layers.residual import ResidualModel
from retrograde.models.retnet import RetentionCell, log_decay, retnet
from retrograde.tasks.temporal_order import TemporalOrder

pytestmark = pytest.mark.usefixtures("float64")

TASK = TemporalOrder(length=10)


def complex_pairs(x: Tensor) -> Tensor:
    return torch.complex(x[..., 0::2], x[..., 1::2])


def turns(length: int, width: int) -> Tensor:
    """Θ_n = e^{inθ}, (time, width / 2)."""
    theta = 10000.0 ** (-torch.arange(0, width, 2) / width)
    return torch.polar(torch.ones(length, width // 2), torch.arange(float(length))[:, None] * theta)


def parallel(query: Tensor, key: Tensor, value: Tensor, head: int) -> Tensor:
    """(Q Θ)(K Θ)* ⊙ D V with D_{nm} = γ^{n-m}, (time, width) of one head; eq. 5."""
    length, width = query.shape
    theta = turns(length, width)
    scores = ((complex_pairs(query) * theta) @ (complex_pairs(key) * theta).conj().T).real
    distance = torch.arange(length)[:, None] - torch.arange(length)
    decay = torch.where(distance < 0, 0.0, (1 - 2.0 ** (-5 - head)) ** distance.clamp(min=0))
    return (scores * decay) @ value


def chunkwise(query: Tensor, key: Tensor, value: Tensor, head: int, chunk: int) -> Tensor:
    """Eq. 7, with the state in complex numbers."""
    length, width = query.shape
    gamma, theta = 1 - 2.0 ** (-5 - head), turns(length, width)
    query, key = complex_pairs(query) * theta, (complex_pairs(key) * theta).conj()
    state = torch.zeros(width // 2, value.shape[1], dtype=torch.complex128)
    made = []
    for start in range(0, length, chunk):
        q, k, v = (part[start : start + chunk] for part in (query, key, value))
        size = len(q)
        distance = torch.arange(size)[:, None] - torch.arange(size)
        decay = torch.where(distance < 0, 0.0, gamma ** distance.clamp(min=0))
        across = (q @ state) * gamma ** (torch.arange(size)[:, None] + 1)
        made.append(((q @ k.T).real * decay) @ v + across.real)
        state = gamma**size * state + k.T @ (v * gamma ** torch.arange(size - 1, -1, -1)[:, None] + 0j)
    return torch.cat(made)


def outputs(model: ResidualModel, tokens: Tensor, heads: int) -> Tensor:
    """Of one sample, from the paper's equations."""
    hidden = model.readout.in_features
    x = model.project.weight[:, tokens].T + model.project.bias
    for block in model.blocks:
        weights = dict(block.named_parameters())
        n = layer_norm(x, (hidden,), weights["norm.weight"], weights["norm.bias"])
        query, key, value = ((n @ weights[f"{name}.weight"].T).chunk(heads, -1) for name in ("query", "key", "value"))
        scale = (hidden // heads) ** -0.5
        read = torch.cat([parallel(query[h], scale * key[h], value[h], h) for h in range(heads)], -1)
        normed = group_norm(read, heads, weights["head_norm.weight"], weights["head_norm.bias"])
        gate = n @ weights["gate.weight"].T
        x = x + (normed * gate * torch.sigmoid(gate)) @ weights["combine.weight"].T
        n = layer_norm(x, (hidden,), weights["feedforward.0.weight"], weights["feedforward.0.bias"])
        inner = gelu(n @ weights["feedforward.1.weight"].T + weights["feedforward.1.bias"])
        x = x + inner @ weights["feedforward.3.weight"].T + weights["feedforward.3.bias"]
    return model.readout(layer_norm(x, (hidden,), model.norm.weight, model.norm.bias))


def test_it_computes_the_papers_equations_in_values_and_gradients() -> None:
    model = retnet(TASK, hidden=8, layers=2, heads=2)
    batch = TASK.sample(2, torch.Generator().manual_seed(0))
    made = model(batch)
    expected = torch.stack([outputs(model, tokens, 2) for tokens in batch.inputs])
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    parameters = list(model.parameters())
    direction = torch.randn_like(made)
    ours, theirs = (torch.autograd.grad((value * direction).sum(), parameters) for value in (made, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_parallel_recurrent_and_chunkwise_form_agree_in_values_and_gradients() -> None:
    """The recurrent form turns the state step by step; the others turn q and k by their absolute times."""
    cell = RetentionCell(8, 6, 2)
    x = torch.randn(1, 70, 22, requires_grad=True)
    states = {name: value[:, 1:] for name, value in unroll(cell, x).items()}
    parts = [part.chunk(2, -1) for part in x[0].split([8, 8, 6], -1)]
    heads = [[part[head] for part in parts] for head in range(2)]
    forms = [
        torch.cat([parallel(*head, at) for at, head in enumerate(heads)], -1),
        torch.cat([chunkwise(*head, at, 16) for at, head in enumerate(heads)], -1),
        cell.read({}, x, states)[0],
        sequence(cell, x)[0],
    ]
    direction = torch.randn_like(forms[0])
    gradients = [torch.autograd.grad((form * direction).sum(), x, retain_graph=True)[0] for form in forms]
    for form, gradient in zip(forms[1:], gradients[1:], strict=True):
        torch.testing.assert_close(form, forms[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-8, atol=1e-8)


def test_the_chunked_form_goes_on_from_an_initial_state() -> None:
    cell = RetentionCell(4, 6, 2)
    x = torch.randn(3, 50, 14, requires_grad=True)
    initial = {"memory": torch.randn(3, 2, 2, 3, requires_grad=True)}
    states = {name: value[:, 1:] for name, value in unroll(cell, x, initial=initial).items()}
    made, expected = sequence(cell, x, initial), cell.read({}, x, states)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    direction = torch.randn_like(made)
    leaves = [x, initial["memory"]]
    ours, theirs = (torch.autograd.grad((value * direction).sum(), leaves) for value in (made, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_what_one_key_wrote_is_found_turned_and_faded_by_hand() -> None:
    """One head of one pair: k = (1, 0), v = 1; two steps later q = (1, 0) finds γ² cos 2 of it, and (0, 1) γ² sin 2."""
    cell = RetentionCell(2, 1, 1)
    for query, found in (([1.0, 0.0], math.cos(2)), ([0.0, 1.0], -math.sin(2))):
        x = torch.zeros(1, 3, 5)
        x[0, 0] = torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0])
        x[0, 2, :2] = torch.tensor(query)
        assert sequence(cell, x)[0, 2].item() == pytest.approx((31 / 32) ** 2 * found, rel=1e-12)


def test_heads_forget_at_the_published_rates() -> None:
    rates = 1 - log_decay(4, torch.zeros(())).exp()
    torch.testing.assert_close(rates, torch.tensor([1 / 32, 1 / 64, 1 / 128, 1 / 256]), rtol=1e-12, atol=0)
    assert log_decay(4, torch.zeros((), dtype=torch.bfloat16)).exp().max() < 1


def test_heads_of_an_odd_width_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden must be a multiple of twice the heads; 12 is none of 8"):
        retnet(TASK, hidden=12)
