"""The post-norm transformer against torch.nn.TransformerEncoderLayer in torch's own, the 2017, order."""

import pytest
import torch
from torch import nn

from retrograde.models.transformer_postnorm import transformer_postnorm
from retrograde.tasks.adding import Adding

pytestmark = pytest.mark.usefixtures("float64")


def test_blocks_equal_torchs_post_norm_layers_in_values_and_gradients() -> None:
    task = Adding(length=12)
    model = transformer_postnorm(task, hidden=8, layers=2, heads=2, feedforward=16).eval()
    batch = task.sample(3, torch.Generator().manual_seed(0))
    ours, theirs = [model.project.weight], [model.project.weight]
    value = model.stack.position.placed(model.project(batch.inputs))
    for block in model.stack.blocks:
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=False)
        parts = (layer.norm1, layer.self_attn, layer.norm2, layer.linear1, layer.linear2)
        parameters = [parameter for part in parts for parameter in part.parameters()]
        with torch.no_grad():
            for their, our in zip(parameters, block.parameters(), strict=True):
                our.add_(0.1 * torch.randn_like(our))  # norms are no identity then
                their.copy_(our)
        theirs += parameters
        ours += list(block.parameters())
        value = layer(value, src_mask=nn.Transformer.generate_square_subsequent_mask(12), is_causal=True)
    expected = model.readout(value)  # no norm after the last block's own
    made = model(batch)
    torch.testing.assert_close(made, expected, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn_like(made)
    for one, other in zip(
        torch.autograd.grad((made * cotangent).sum(), ours),
        torch.autograd.grad((expected * cotangent).sum(), theirs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_the_stream_after_a_block_is_normalised() -> None:
    task = Adding(length=12)
    model = transformer_postnorm(task, hidden=8, layers=2, heads=2, feedforward=16).eval()
    trace = model.trace(task.sample(3, torch.Generator().manual_seed(0)))
    for depth in (1, 2):
        stream = trace.states[f"{depth}.forward.residual"]
        torch.testing.assert_close(stream.mean(-1), torch.zeros(3, 12), rtol=0, atol=1e-12)
        torch.testing.assert_close(stream.square().mean(-1), torch.ones(3, 12), rtol=0, atol=1e-3)  # the norm's epsilon
    assert model.causal
