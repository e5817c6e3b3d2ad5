"""Gated DeltaNet against its equations in a loop, and its kernel against the form that transformers computes."""

import pytest
import torch
from torch import Tensor

from retrograde.layers.delta_rule import delta_rule
from retrograde.layers.residual import ResidualModel
from retrograde.models.gated_deltanet import GatedDeltaNetBlock, gated_deltanet
from retrograde.tasks.temporal_order import TemporalOrder

pytestmark = pytest.mark.usefixtures("float64")

TASK = TemporalOrder(length=10)


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    return gain * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def outputs(model: ResidualModel, tokens: list[int], heads: int, expansion: int) -> Tensor:
    """Of one sample, time by time, from the paper's equations."""
    stream = [model.project.weight[:, token] + model.project.bias for token in tokens]
    hidden = len(stream[0])
    keys, values = hidden // heads, expansion * hidden // heads
    for block in model.blocks:
        weights = dict(block.named_parameters())
        memory = [torch.zeros(values, keys) for _ in range(heads)]
        projected, after = [], []
        for x in stream:
            n = rms_norm(x, weights["norm.weight"])
            projected.append(weights["project.weight"] @ n)
            taps = weights["recurrence.filter"]
            recent = range(max(0, len(projected) - taps.shape[1]), len(projected))
            convolved = sum(taps[:, taps.shape[1] - len(projected) + i] * projected[i] for i in recent)
            q, k, v = silu(convolved).split([hidden, hidden, expansion * hidden])
            beta = torch.sigmoid(weights["strength.weight"] @ n)
            step = torch.log(1 + torch.exp(weights["decay.weight"] @ n + weights["step_bias"]))
            alpha = torch.exp(-step * torch.exp(weights["log_rate"]))
            read = []
            for head in range(heads):
                key, query = (part[head * keys : (head + 1) * keys] for part in (k, q))
                key, query = (part / (part.square().sum() + 1e-6).sqrt() for part in (key, query))
                value = v[head * values : (head + 1) * values]
                kept = alpha[head] * (torch.eye(keys) - beta[head] * torch.outer(key, key))
                memory[head] = memory[head] @ kept + beta[head] * torch.outer(value, key)
                read.append(rms_norm(memory[head] @ query, weights["head_norm.weight"]))
            gated = torch.cat(read) * silu(weights["gate.weight"] @ n)
            x = x + weights["combine.weight"] @ gated
            gate, value = (weights["feedforward.1.enter.weight"] @ rms_norm(x, weights["feedforward.0.weight"])).chunk(
                2
            )
            after.append(x + weights["feedforward.1.leave.weight"] @ (silu(gate) * value))
        stream = after
    return torch.stack([model.readout(rms_norm(x, model.norm.weight)) for x in stream])


def test_it_computes_the_papers_equations_in_values_and_gradients() -> None:
    model = gated_deltanet(TASK, hidden=6, layers=2, heads=2, expansion=2)
    batch = TASK.sample(2, torch.Generator().manual_seed(0))
    made = model(batch)
    expected = torch.stack([outputs(model, tokens, 2, 2) for tokens in batch.inputs.tolist()])
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    parameters = list(model.parameters())
    direction = torch.randn_like(made)
    ours, theirs = (torch.autograd.grad((value * direction).sum(), parameters) for value in (made, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("form", ["torch_recurrent_gated_delta_rule", "torch_chunk_gated_delta_rule"])
def test_the_rule_is_that_of_transformers(form: str) -> None:
    """Theirs works in float32 and divides the query by the root of its width."""
    theirs = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    query, key, value = (torch.randn(2, 100, 3, width, dtype=torch.float32) for width in (8, 8, 6))
    query, key = (torch.nn.functional.normalize(part, dim=-1) for part in (query, key))
    strength, log_decay = torch.rand(2, 100, 3, dtype=torch.float32), -torch.rand(2, 100, 3, dtype=torch.float32)
    leaves = [part.requires_grad_() for part in (query, key, value, strength, log_decay)]
    made = delta_rule(*leaves, torch.zeros(2, 3, 6, 8, dtype=torch.float32))
    expected, _ = getattr(theirs, form)(query * 8**0.5, key, value, log_decay, strength)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
    direction = torch.randn_like(made)
    ours, others = (torch.autograd.grad((result * direction).sum(), leaves) for result in (made, expected))
    for one, other in zip(ours, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_it_starts_as_the_authors_code_does() -> None:
    """e^a uniform on (0, 16], softplus(d) log-uniform on [0.001, 0.1], taps uniform on ± 1/√4; 512 heads."""
    block = gated_deltanet(TASK, hidden=512, layers=1, heads=512, expansion=1).chain[0]
    assert isinstance(block, GatedDeltaNetBlock)
    rate, step = block.log_rate.exp(), torch.nn.functional.softplus(block.step_bias)
    assert 0 < rate.min() < 0.5 and 15.5 < rate.max() <= 16
    assert rate.mean().item() == pytest.approx(8, rel=0.1)
    assert 0.001 - 1e-9 <= step.min() < 0.0011 and 0.09 < step.max() <= 0.1 + 1e-9
    assert step.log().mean().exp().item() == pytest.approx(0.01, rel=0.25)
    taps = block.recurrence.filter
    assert 0.49 < taps.abs().max() <= 0.5
    assert taps.std().item() == pytest.approx(12**-0.5, rel=0.03)
    decay = -block.enter(torch.zeros(1, 1, 512))[0, 0, -512:]  # where the input says nothing
    torch.testing.assert_close(decay, rate * step)


def test_values_are_as_much_wider_as_asked_for() -> None:
    assert gated_deltanet(TASK, hidden=4, layers=1, heads=2, expansion=3, convolution=1).state_size == 2 * 6 * 2
    with pytest.raises(ValueError, match="expansion must be at least 1, not 0"):
        gated_deltanet(TASK, expansion=0)
