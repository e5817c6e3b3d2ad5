"""The encoder against torch.nn.TransformerEncoder with its padding mask, and the symmetries of attention."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from retrograde.core.records import Batch
from retrograde.layers.positions import T5, Alibi, NoPosition, PositionFactory, Sinusoidal
from retrograde.layers.transformer import Transformer
from retrograde.models.transformer_encoder import transformer_encoder
from retrograde.tasks.adding import Adding
from retrograde.tasks.temporal_order import TemporalOrder

pytestmark = pytest.mark.usefixtures("float64")

TASK = Adding(length=10)
LENGTHS = torch.tensor([10, 6, 1])
REAL = torch.arange(10) < LENGTHS[:, None]


def drawn() -> Batch:
    return replace(TASK.sample(3, torch.Generator().manual_seed(0)), lengths=LENGTHS)


def encoder(position: PositionFactory = Sinusoidal) -> Transformer:
    return transformer_encoder(TASK, hidden=8, layers=2, heads=2, feedforward=16, position=position).eval()


def test_it_equals_torchs_encoder_with_a_padding_mask_in_values_and_gradients() -> None:
    model, batch = encoder(), drawn()
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    theirs = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    copied = []
    with torch.no_grad():
        for block, layer in zip(model.stack.blocks, theirs.layers, strict=True):
            parts = (layer.norm1, layer.self_attn, layer.norm2, layer.linear1, layer.linear2)
            parameters = [parameter for part in parts for parameter in part.parameters()]
            for their, our in zip(parameters, block.parameters(), strict=True):
                our.add_(0.1 * torch.randn_like(our))  # norms are no identity then
                their.copy_(our)
            copied += parameters
    start = model.stack.position.placed(model.project(batch.inputs))
    expected = model.readout(theirs(start, src_key_padding_mask=~REAL))
    made, traced = model(batch), model.trace(batch).outputs
    cotangent = torch.randn_like(made) * REAL[..., None]
    reference = torch.autograd.grad((expected * cotangent).sum(), [model.project.weight, *copied])
    for outputs in (made, traced):
        torch.testing.assert_close(outputs[REAL], expected[REAL], rtol=1e-10, atol=1e-10)
        ours = torch.autograd.grad((outputs * cotangent).sum(), [model.project.weight, *model.stack.parameters()])
        for one, other in zip(ours, reference, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_padding_changes_nothing_at_real_positions_nor_in_any_gradient() -> None:
    model, batch = encoder(), drawn()
    other = replace(batch, inputs=torch.where(REAL[..., None], batch.inputs, 100 * torch.randn_like(batch.inputs)))
    made = []
    for given in (batch, other):
        outputs = model(given)[REAL]
        made.append((outputs, *torch.autograd.grad(outputs.square().sum(), list(model.parameters()))))
    for one, two in zip(*made, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("position", [Sinusoidal, Alibi, T5])
def test_every_query_looks_at_all_real_positions_and_at_no_padding(position: PositionFactory) -> None:
    for weights in encoder(position).trace(drawn()).maps.values():
        assert torch.equal(weights > 0, REAL[:, None, None].expand(3, 2, 10, 10))
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 10), rtol=0, atol=1e-12)


def test_a_sample_of_padding_alone_is_finite() -> None:
    model, batch = encoder(), replace(drawn(), lengths=torch.tensor([10, 6, 0]))
    outputs, trace = model(batch), model.trace(batch)
    torch.testing.assert_close(outputs, trace.outputs)
    assert outputs.isfinite().all()
    torch.testing.assert_close(trace.maps["0"].sum(-1), torch.ones(3, 2, 10), rtol=0, atol=1e-12)


def outputs_of_tokens(position: PositionFactory, order: Tensor) -> tuple[Tensor, Tensor]:
    """What the encoder makes of tokens, put in that order afterwards, and what it makes of them in that order."""
    task = TemporalOrder(length=10)
    model = transformer_encoder(task, hidden=8, layers=2, heads=2, feedforward=16, position=position).eval()
    batch = replace(task.sample(3, torch.Generator().manual_seed(0)), lengths=torch.tensor([10, 10, 10]))
    return model(batch)[:, order], model(replace(batch, inputs=batch.inputs[:, order]))


def test_without_positions_the_order_of_the_inputs_is_the_order_of_the_outputs() -> None:
    before, after = outputs_of_tokens(NoPosition, torch.randperm(10))
    torch.testing.assert_close(after, before)


def test_a_symmetric_bias_cannot_tell_before_from_after() -> None:
    """Reversed inputs give reversed outputs with alibi; buckets for each side tell them apart."""
    before, after = outputs_of_tokens(Alibi, torch.arange(9, -1, -1))
    torch.testing.assert_close(after, before)
    before, after = outputs_of_tokens(T5, torch.arange(9, -1, -1))
    assert (after - before).abs().max() > 1e-3


def test_it_sees_the_future_and_says_so() -> None:
    model, batch = encoder(), drawn()
    inputs = batch.inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(replace(batch, inputs=inputs))[0, 0].sum(), inputs)
    assert (gradient[0].abs().sum(-1) > 0).all()
    assert not model.causal
