"""Attention to a sliding window against torch.nn.TransformerEncoderLayer under a mask that is a band."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from retrograde.models.transformer_local import transformer_local
from retrograde.tasks.adding import Adding

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("length", [20, 21])
@pytest.mark.parametrize("window", [1, 4, 7, 20, 30])
def test_blocks_equal_torchs_layers_under_a_band_in_values_and_gradients(window: int, length: int) -> None:
    task = Adding(length=length)
    model = transformer_local(task, hidden=8, layers=2, heads=2, feedforward=16, window=window).eval()
    batch = task.sample(3, torch.Generator().manual_seed(0))
    distance = torch.arange(length)[:, None] - torch.arange(length)
    hidden = (distance < 0) | (distance >= window)
    ours, theirs = [model.project.weight], [model.project.weight]
    value = model.stack.position.placed(model.project(batch.inputs))
    for block in model.stack.blocks:
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        parts = (layer.norm1, layer.self_attn, layer.norm2, layer.linear1, layer.linear2)
        parameters = [parameter for part in parts for parameter in part.parameters()]
        for their, our in zip(parameters, block.parameters(), strict=True):
            their.data.copy_(our)
        theirs += parameters
        ours += list(block.parameters())
        value = layer(value, src_mask=hidden)
    expected = model.readout(model.stack.norm(value))
    cotangent = torch.randn_like(expected)
    reference = torch.autograd.grad((expected * cotangent).sum(), theirs)
    for made in (model(batch), model.trace(batch).outputs):
        torch.testing.assert_close(made, expected, rtol=1e-10, atol=1e-10)
        for one, other in zip(torch.autograd.grad((made * cotangent).sum(), ours), reference, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    for weights in model.trace(batch).maps.values():
        assert torch.equal(weights > 0, ~hidden.expand(3, 2, length, length))


def test_an_output_sees_a_window_s_reach_for_every_layer() -> None:
    task = Adding(length=20)
    model = transformer_local(task, hidden=8, layers=3, heads=2, feedforward=16, window=4).eval()
    batch = task.sample(1, torch.Generator().manual_seed(0))
    inputs = batch.inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(replace(batch, inputs=inputs))[0, -1].sum(), inputs)
    reach = 1 + 3 * (4 - 1)
    assert (gradient[0].abs().sum(-1) > 0).tolist() == [False] * (20 - reach) + [True] * reach


def test_it_carries_keys_and_values_of_a_window_less_the_query() -> None:
    """Two layers of width 8, three earlier positions each, a key and a value for each."""
    model = transformer_local(Adding(length=20), hidden=8, layers=2, heads=2, window=4)
    assert model.state_size == 2 * 3 * 2 * 8
    assert model.causal


def test_a_window_must_hold_the_query() -> None:
    with pytest.raises(ValueError, match=r"^window must be at least 1, not 0$"):
        transformer_local(Adding(length=20), window=0)
