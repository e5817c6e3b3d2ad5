"""The transformer against torch.nn.TransformerEncoderLayer, and attention and positions against hand values."""

import math

import pytest
import torch
from torch import nn

from retrograde.layers.attention import MultiHeadAttention
from retrograde.layers.positions import rotated, sinusoidal
from retrograde.models.transformer import Transformer
from retrograde.tasks.adding import Adding

pytestmark = pytest.mark.usefixtures("float64")


def test_blocks_equal_torchs_pre_norm_layers_in_values_and_gradients() -> None:
    task = Adding(length=12)
    model = Transformer(task, hidden=8, layers=2, heads=2, feedforward=16).eval()
    batch = task.sample(3, torch.Generator().manual_seed(0))
    layers = []
    for block in model.blocks:
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        norm, first, _, second = block.feedforward
        pairs = [
            (layer.self_attn.in_proj_weight, block.attention.project.weight),
            (layer.self_attn.in_proj_bias, block.attention.project.bias),
            (layer.self_attn.out_proj.weight, block.attention.combine.weight),
            (layer.self_attn.out_proj.bias, block.attention.combine.bias),
            (layer.norm1.weight, block.attention_norm.weight),
            (layer.norm1.bias, block.attention_norm.bias),
            (layer.norm2.weight, norm.weight),
            (layer.norm2.bias, norm.bias),
            (layer.linear1.weight, first.weight),
            (layer.linear1.bias, first.bias),
            (layer.linear2.weight, second.weight),
            (layer.linear2.bias, second.bias),
        ]
        for theirs, ours in pairs:
            theirs.data.copy_(ours)
        layers.append(layer)
    time = torch.arange(12.0)[:, None]
    wavelength = 10000 ** (torch.arange(0, 8, 2) / 8)
    position = torch.stack([torch.sin(time / wavelength), torch.cos(time / wavelength)], -1).reshape(12, 8)
    start = model.project(batch.inputs) + position
    value = start
    for layer in layers:
        value = layer(value, src_mask=nn.Transformer.generate_square_subsequent_mask(12), is_causal=True)
    expected = model.readout(model.norm(value))
    made = model(batch)
    torch.testing.assert_close(made, expected, rtol=1e-10, atol=1e-10)
    ours, theirs = (
        torch.autograd.grad(outputs.square().sum(), [model.project.weight, model.readout.weight], retain_graph=True)
        for outputs in (made, expected)
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_attention_weighs_two_keys_by_the_logistic_function_of_their_difference() -> None:
    """One head of width 1 over tokens 0 and 1, all projections the identity: the second query gives 1 : e."""
    attention = MultiHeadAttention(1, 1)
    with torch.no_grad():
        attention.project.weight.fill_(1.0)
        attention.project.bias.zero_()
        attention.combine.weight.fill_(1.0)
        attention.combine.bias.zero_()
    x = torch.tensor([[[0.0], [1.0]]])
    outputs, weights = attention.trace(x)
    share = 1 / (1 + math.exp(-1))
    torch.testing.assert_close(weights[0, 0], torch.tensor([[1.0, 0.0], [1 - share, share]]))
    torch.testing.assert_close(outputs[0, 1].item(), share)
    torch.testing.assert_close(attention(x), outputs)


def test_attention_sees_what_a_mask_lets_it_see() -> None:
    attention = MultiHeadAttention(4, 2)
    visible = torch.tensor([[[[True, False, True], [True, True, False], [False, True, True]]]])
    outputs, weights = attention.trace(torch.randn(1, 3, 4), visible)
    assert not weights[:, :, ~visible[0, 0]].any()
    assert outputs.shape == (1, 3, 4)


def test_sinusoidal_positions_by_hand() -> None:
    made = sinusoidal(3, 4, torch.zeros(()))
    torch.testing.assert_close(made[0], torch.tensor([0.0, 1.0, 0.0, 1.0]))
    torch.testing.assert_close(made[2], torch.tensor([math.sin(2), math.cos(2), math.sin(2 / 100), math.cos(2 / 100)]))


def test_rotary_positions_make_products_depend_on_distance_alone() -> None:
    query, key = torch.randn(6), torch.randn(6)
    many = (vector.expand(1, 1, 9, 6) for vector in (query, key))
    products = torch.matmul(*(rotated(vector) if at == 0 else rotated(vector).mT for at, vector in enumerate(many)))[
        0, 0
    ]
    for distance in range(-8, 9):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert products[0, 0].item() == pytest.approx((query @ key).item())
    assert products[0, 0] != products[0, 1]


def test_rotation_keeps_the_norm() -> None:
    x = torch.randn(1, 2, 50, 8)
    torch.testing.assert_close(rotated(x).norm(dim=-1), x.norm(dim=-1))
