"""Gated linear attention against its equations in a loop, written with a diagonal matrix for the gate."""

import pytest
import torch
from torch import Tensor

from retrograde.core.recurrence import sequence, unroll
from retrograde.layers.residual import ResidualModel
from retrograde.models.gla import GatedLinearAttentionCell, gla
from retrograde.tasks.temporal_order import TemporalOrder

pytestmark = pytest.mark.usefixtures("float64")

TASK = TemporalOrder(length=10)


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    return gain * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def outputs(model: ResidualModel, tokens: list[int], heads: int, temperature: float) -> Tensor:
    """Of one sample, time by time, from the paper's equations."""
    stream = [model.project.weight[:, token] + model.project.bias for token in tokens]
    hidden = len(stream[0])
    keys, values = hidden // 2 // heads, hidden // heads
    for block in model.blocks:
        weights = dict(block.named_parameters())
        memory = [torch.zeros(keys, values) for _ in range(heads)]
        after = []
        for x in stream:
            n = rms_norm(x, weights["norm.weight"])
            query, key, value = (weights[f"{name}.weight"] @ n for name in ("query", "key", "value"))
            low = weights["forget.0.weight"] @ n
            gate = torch.sigmoid(weights["forget.1.weight"] @ low + weights["forget.1.bias"]) ** (1 / temperature)
            read = []
            for head in range(heads):
                own, wide = slice(head * keys, (head + 1) * keys), slice(head * values, (head + 1) * values)
                memory[head] = torch.diag(gate[own]) @ memory[head] + torch.outer(key[own], value[wide])
                read.append(rms_norm(memory[head].T @ query[own] / keys**0.5, weights["head_norm.weight"]))
            swish = silu(weights["gate.weight"] @ n + weights["gate.bias"])
            x = x + weights["combine.weight"] @ (torch.cat(read) * swish)
            n = rms_norm(x, weights["feedforward.0.weight"])
            opened, inner = (weights["feedforward.1.enter.weight"] @ n).chunk(2)
            after.append(x + weights["feedforward.1.leave.weight"] @ (silu(opened) * inner))
        stream = after
    return torch.stack([model.readout(rms_norm(x, model.norm.weight)) for x in stream])


@pytest.mark.parametrize("temperature", [16.0, 0.05])
def test_it_computes_the_papers_equations_in_values_and_gradients(temperature: float) -> None:
    """At the published temperature, and at one that closes the gates to about e^-14 a step."""
    model = gla(TASK, hidden=8, layers=2, heads=2, rank=3, temperature=temperature)
    batch = TASK.sample(2, torch.Generator().manual_seed(0))
    made = model(batch)
    expected = torch.stack([outputs(model, tokens, 2, temperature) for tokens in batch.inputs.tolist()])
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    parameters = list(model.parameters())
    direction = torch.randn_like(made)
    ours, theirs = (torch.autograd.grad((value * direction).sum(), parameters) for value in (made, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_the_chunked_form_is_the_loop_from_an_initial_state_too() -> None:
    cell = GatedLinearAttentionCell(6, 4, 2)
    x = torch.cat([torch.randn(3, 70, 12), -torch.rand(3, 70, 6), torch.randn(3, 70, 4)], -1).requires_grad_()
    initial = {"memory": torch.randn(3, 2, 3, 2, requires_grad=True)}
    states = {name: value[:, 1:] for name, value in unroll(cell, x, initial=initial).items()}
    made, expected = sequence(cell, x, initial), cell.read({}, x, states)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    direction = torch.randn_like(made)
    leaves = [x, initial["memory"]]
    ours, theirs = (torch.autograd.grad((value * direction).sum(), leaves) for value in (made, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_rows_of_the_memory_fade_apart_by_hand() -> None:
    """Keys of width 2, α = (1/2, 1/4): of k = (1, 1), v = 8 the rows keep 4 and 2 a step later, and 2 and 1/2 then."""
    cell = GatedLinearAttentionCell(2, 1, 1)
    decay = torch.tensor([0.5, 0.25]).log()
    rows = [torch.cat([torch.ones(2), decay, torch.zeros(1)]) for _ in range(2)]
    key = [torch.ones(2), torch.zeros(2), torch.zeros(2)]
    x = torch.stack(
        [torch.cat([torch.zeros(2), key[0], decay, torch.tensor([8.0])])]
        + [torch.cat([row[:2], key[1], row[2:]]) for row in rows]
    )[None]
    made = sequence(cell, x).flatten()
    torch.testing.assert_close(made, torch.tensor([0.0, 6.0, 2.5]))


def test_an_input_that_says_nothing_leaves_the_gate_at_the_sixteenth_root_of_a_half() -> None:
    block = gla(TASK, hidden=8, layers=1, heads=2).chain[0]
    with torch.no_grad():
        for parameter in block.forget.parameters():  # type: ignore[union-attr, operator]
            parameter.zero_()
    log_decay = block.enter(torch.randn(1, 1, 8))[..., 8:12]
    torch.testing.assert_close(log_decay.exp(), torch.full((1, 1, 4), 0.5 ** (1 / 16)))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hidden": 12, "heads": 4}, "width of the keys must be a multiple of heads; 6 is none of 4"),
        ({"hidden": 7}, "hidden must be even"),
        ({"rank": 0}, "rank must be at least 1, not 0"),
        ({"temperature": 0.0}, "temperature must be greater than 0, not 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        gla(TASK, **settings)  # type: ignore[arg-type]  # meant to be wrong
