"""The encoder-decoder against torch.nn.Transformer with copied weights, and its answers against its own words."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from encoder_decoders import learned
from retrograde.core.records import Batch
from retrograde.core.snapshot import gradient_flow
from retrograde.layers.decoding import Writing
from retrograde.layers.positions import sinusoidal
from retrograde.layers.transformer import Around
from retrograde.models.transformer_seq2seq import TransformerEncoderDecoder
from retrograde.tasks.reverse import Reverse

pytestmark = pytest.mark.usefixtures("float64")

TASK = Reverse(symbols=3, shortest=2, longest=4)


def model(norm_first: bool = False) -> TransformerEncoderDecoder:
    return TransformerEncoderDecoder(TASK, 8, 2, heads=2, feedforward=12, norm_first=norm_first).eval()


def batch() -> Batch:
    return TASK.sample(4, torch.Generator().manual_seed(0))


def copied(made: TransformerEncoderDecoder, norm_first: bool) -> tuple[nn.TransformerEncoder, nn.TransformerDecoder]:
    """torch's layers with our weights."""
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=norm_first)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    layer = nn.TransformerDecoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=norm_first)
    decoder = nn.TransformerDecoder(layer, 2)

    def attention(theirs: nn.MultiheadAttention, own: nn.Module) -> None:
        state = own.state_dict()
        weights = {name.rpartition(".")[2]: value for name, value in state.items()}
        assert set(state) == {"project.weight", "project.bias", "combine.weight", "combine.bias"}, weights
        theirs.in_proj_weight.data.copy_(state["project.weight"])
        theirs.in_proj_bias.data.copy_(state["project.bias"])
        theirs.out_proj.weight.data.copy_(state["combine.weight"])
        theirs.out_proj.bias.data.copy_(state["combine.bias"])

    def norm(theirs: nn.LayerNorm, around: Around) -> None:
        theirs.load_state_dict(around.norm.state_dict())

    for theirs, own in zip(encoder.layers, made.encoder.blocks, strict=True):
        attention(theirs.self_attn, own.attention)
        norm(theirs.norm1, own.around_attention)
        norm(theirs.norm2, own.around_feedforward)
    for theirs, own in zip(decoder.layers, made.decoder.blocks, strict=True):
        attention(theirs.self_attn, own.attention)
        attention(theirs.multihead_attn, own.cross)
        norm(theirs.norm1, own.around_attention)
        norm(theirs.norm2, own.around_cross)
        norm(theirs.norm3, own.around_feedforward)
    for theirs, own in zip(
        [*encoder.layers, *decoder.layers], [*made.encoder.blocks, *made.decoder.blocks], strict=True
    ):
        theirs.linear1.load_state_dict(own.feedforward[0].state_dict())
        theirs.linear2.load_state_dict(own.feedforward[2].state_dict())
    return encoder.eval(), decoder.eval()


def by_torch(made: TransformerEncoderDecoder, given: Batch, norm_first: bool) -> tuple[Tensor, Tensor]:
    """The outputs, and the embedded source they were computed from."""
    encoder, decoder = copied(made, norm_first)
    source = made.project_source(torch.eye(3)[given.inputs])
    source = source + sinusoidal(source.shape[1], 8, source)
    target = made.project_target(torch.eye(5)[given.decoder_inputs])
    target = target + sinusoidal(target.shape[1], 8, target)
    padding = torch.arange(given.length) >= given.lengths[:, None]
    memory = made.encoder.norm(encoder(source, src_key_padding_mask=padding))
    ahead = nn.Transformer.generate_square_subsequent_mask(target.shape[1]).bool()
    read = decoder(target, memory, tgt_mask=ahead, memory_key_padding_mask=padding)
    return made.readout(made.decoder.norm(read)), source


@pytest.mark.parametrize("norm_first", [False, True])
def test_outputs_and_the_sources_gradient_are_those_of_torchs_encoder_and_decoder(norm_first: bool) -> None:
    made, given = model(norm_first), batch()
    expected, source = by_torch(made, given, norm_first)
    outputs = made(given)
    torch.testing.assert_close(outputs[given.scored], expected[given.scored], rtol=0, atol=1e-12)
    flow = gradient_flow(made, TASK, given)
    losses = (TASK.loss(expected, given) * given.scored).sum(1) / given.scored.sum(1)
    (gradient,) = torch.autograd.grad(losses.sum(), source)
    total = flow.gradients["encoder0.forward.residual"].total.value()
    torch.testing.assert_close(total, gradient, rtol=1e-10, atol=1e-13)


def test_maps_lead_where_they_say() -> None:
    made, given = model(), batch()
    trace = made.trace(given)
    assert set(trace.maps) == {"encoder0", "encoder1", "decoder0", "decoder1", "cross0", "cross1"}
    assert trace.cross == {"cross0", "cross1"}
    source, target = given.length, given.targets.shape[1]
    assert trace.maps["encoder0"].shape[2:] == (source, source)
    assert trace.maps["decoder0"].shape[2:] == (target, target)
    assert trace.maps["cross0"].shape[2:] == (target, source)
    padding = (torch.arange(source) >= given.lengths[:, None])[:, None, None]
    assert not trace.maps["cross1"].masked_select(padding).any()
    assert not trace.maps["decoder1"].triu(1).any()


@pytest.mark.parametrize("norm_first", [False, True])
def test_answers_are_the_models_own(norm_first: bool) -> None:
    made, given = model(norm_first), batch()
    answers = made.answers(given, made(given))
    started = torch.cat([given.decoder_inputs[:, :1], answers.argmax(-1)[:, :-1]], 1)
    torch.testing.assert_close(made(replace(given, decoder_inputs=started)), answers, rtol=0, atol=1e-12)
    made.writing = Writing(decoding="beam", beams=1)
    assert torch.equal(made.answers(given, answers).argmax(-1)[:, 0], answers.argmax(-1)[:, 0])


def test_it_learns_to_reverse_strings_of_five() -> None:
    torch.set_default_dtype(torch.float32)
    task = Reverse(symbols=4, shortest=5, longest=5)
    made = TransformerEncoderDecoder(task, 32, 2, heads=4, feedforward=64)
    assert learned(made, task, steps=500, rate=3e-3) >= 0.99
