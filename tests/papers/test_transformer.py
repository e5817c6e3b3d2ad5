"""The transformer against torch.nn.TransformerEncoderLayer, norm first and causal."""

import pytest
import torch
from torch import nn

from retrograde.models.transformer import transformer
from retrograde.tasks.adding import Adding

pytestmark = pytest.mark.usefixtures("float64")


def test_blocks_equal_torchs_pre_norm_layers_in_values_and_gradients() -> None:
    task = Adding(length=12)
    model = transformer(task, hidden=8, layers=2, heads=2, feedforward=16).eval()
    batch = task.sample(3, torch.Generator().manual_seed(0))
    layers = []
    for block in model.stack.blocks:
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        norm, ff = block.around_feedforward.norm, block.feedforward
        pairs = [
            (layer.self_attn.in_proj_weight, block.attention.project.weight),
            (layer.self_attn.in_proj_bias, block.attention.project.bias),
            (layer.self_attn.out_proj.weight, block.attention.combine.weight),
            (layer.self_attn.out_proj.bias, block.attention.combine.bias),
            (layer.norm1.weight, block.around_attention.norm.weight),
            (layer.norm1.bias, block.around_attention.norm.bias),
            (layer.norm2.weight, norm.weight),
            (layer.norm2.bias, norm.bias),
            (layer.linear1.weight, ff[0].weight),
            (layer.linear1.bias, ff[0].bias),
            (layer.linear2.weight, ff[2].weight),
            (layer.linear2.bias, ff[2].bias),
        ]
        for theirs, ours in pairs:
            theirs.data.copy_(ours)
        layers.append(layer)
    time = torch.arange(12.0)[:, None]
    wavelength = 10000 ** (torch.arange(0, 8, 2) / 8)
    position = torch.stack([torch.sin(time / wavelength), torch.cos(time / wavelength)], -1).reshape(12, 8)
    value = model.project(batch.inputs) + position
    for layer in layers:
        value = layer(value, src_mask=nn.Transformer.generate_square_subsequent_mask(12), is_causal=True)
    expected = model.readout(model.stack.norm(value))
    made = model(batch)
    torch.testing.assert_close(made, expected, rtol=1e-10, atol=1e-10)
    ours, theirs = (
        torch.autograd.grad(outputs.square().sum(), [model.project.weight, model.readout.weight], retain_graph=True)
        for outputs in (made, expected)
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_maps_are_lower_triangular_and_nothing_bounds_what_is_carried_on() -> None:
    task = Adding(length=12)
    model = transformer(task, hidden=8, layers=2, heads=2, feedforward=16).eval()
    maps = model.trace(task.sample(3, torch.Generator().manual_seed(0))).maps
    assert set(maps) == {"0", "1"}
    for weights in maps.values():
        assert torch.equal(weights > 0, torch.ones(12, 12, dtype=torch.bool).tril().expand(3, 2, 12, 12))
    assert model.causal
    assert model.state_size is None
