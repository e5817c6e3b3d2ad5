"""Blocks, stack and model against their equations written out head by head, and torch.nn.TransformerDecoderLayer."""

import math
import re
from collections.abc import Callable
from functools import partial

import members
import model_contract as contract
import pytest
import torch
from torch import Tensor, nn

from retrograde.core.records import Batch
from retrograde.layers.positions import T5, Alibi, Layout, Learned, NoPosition, PositionFactory, Rope, Sinusoidal
from retrograde.layers.transformer import BlockSettings, DecoderBlock, Transformer
from retrograde.models.transformer import transformer
from retrograde.models.transformer_encoder import transformer_encoder
from retrograde.models.transformer_local import transformer_local
from retrograde.models.transformer_postnorm import transformer_postnorm
from retrograde.tasks.adding import Adding
from retrograde.tasks.copying import Copying

pytestmark = pytest.mark.usefixtures("float64")

Make = Callable[..., Transformer]

STEMS: dict[str, Make] = {
    "transformer": transformer,
    "transformer_postnorm": transformer_postnorm,
    "transformer_encoder": transformer_encoder,
    "transformer_local": partial(transformer_local, window=3),
}
POSITIONS: dict[str, PositionFactory] = {
    "sinusoidal": Sinusoidal,
    "learned": Learned,
    "rope": Rope,
    "alibi": Alibi,
    "t5": T5,
    "none": NoPosition,
}
TASK = Adding(length=20, markers="first_ten")  # lengths differ
SMALL = {"hidden": 8, "layers": 2, "heads": 2, "feedforward": 12}


def drawn() -> Batch:
    return TASK.sample(3, torch.Generator().manual_seed(1))


def normalised(x: Tensor, norm: nn.Module, normalisation: bool) -> Tensor:
    if not normalisation:
        return x
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def attended(block: nn.Module, x: Tensor, seen: Tensor, heads: int, scaling: bool) -> Tensor:
    """A sum over heads, each with its own rows of the projections and its own columns of the last one."""
    each = x.shape[-1] // heads
    weights, biases = block.attention.project.weight.chunk(3), block.attention.project.bias.chunk(3)
    made = block.attention.combine.bias
    for head in range(heads):
        own = slice(head * each, (head + 1) * each)
        query, key, value = (x @ w[own].T + b[own] for w, b in zip(weights, biases, strict=True))
        scores = query @ key.transpose(1, 2)
        if scaling:
            scores = scores / math.sqrt(each)
        shares = torch.where(seen, scores.exp(), 0.0)
        shares = shares / shares.sum(-1, keepdim=True)
        made = made + shares @ value @ block.attention.combine.weight[:, own].T
    return made


def by_hand(
    stem: str, model: Transformer, batch: Batch, heads: int, scaling: bool, residual: bool, normalisation: bool
) -> Tensor:
    time = torch.arange(batch.length)
    distance = time[:, None] - time
    seen = {
        "transformer_encoder": (time < batch.lengths[:, None])[:, None],
        "transformer_local": (distance >= 0) & (distance < 3),
    }.get(stem, distance >= 0)
    wavelength = 10000 ** (torch.arange(0, 8, 2) / 8)
    x = batch.inputs @ model.project.weight.T + model.project.bias
    x = x + torch.stack([torch.sin(time[:, None] / wavelength), torch.cos(time[:, None] / wavelength)], -1).flatten(-2)
    first = stem in ("transformer", "transformer_local")
    for block in model.stack.blocks:
        for around, sublayer in (
            (block.around_attention, lambda x, block=block: attended(block, x, seen, heads, scaling)),
            (
                block.around_feedforward,
                lambda x, ff=block.feedforward: (x @ ff[0].weight.T + ff[0].bias).relu() @ ff[2].weight.T + ff[2].bias,
            ),
        ):
            made = sublayer(normalised(x, around.norm, normalisation) if first else x)
            x = x + made if residual else made
            x = x if first else normalised(x, around.norm, normalisation)
    if first:
        x = normalised(x, model.stack.norm, normalisation)
    return x @ model.readout.weight.T + model.readout.bias


@pytest.mark.parametrize(
    "changed",
    [{}, {"heads": 1}, {"heads": 4}, {"scaling": False}, {"residual": False}, {"normalisation": False}],
    ids=str,
)
@pytest.mark.parametrize("stem", STEMS)
def test_a_model_computes_its_equations_with_each_switch_on_and_off(stem: str, changed: dict[str, int | bool]) -> None:
    model = STEMS[stem](TASK, **{**SMALL, **changed}).eval()
    batch = drawn()
    settings = {"heads": 2, "scaling": True, "residual": True, "normalisation": True, **changed}
    real = torch.arange(batch.length) < batch.lengths[:, None]
    expected = by_hand(stem, model, batch, **settings)  # type: ignore[arg-type]  # a mixed bag of settings
    cotangent = torch.randn_like(expected) * real[..., None]
    parameters = list(model.parameters())
    reference = torch.autograd.grad((expected * cotangent).sum(), parameters)
    for made in (model(batch), model.trace(batch).outputs):
        torch.testing.assert_close(made[real], expected[real], rtol=1e-9, atol=1e-9)
        for one, other in zip(torch.autograd.grad((made * cotangent).sum(), parameters), reference, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("stem", ["transformer", "transformer_encoder", "transformer_local"])
def test_the_contract_holds_with_every_position(stem: str, position: str) -> None:
    model = STEMS[stem](TASK, **SMALL, position=POSITIONS[position]).eval()
    contract.check_trace_computes_the_outputs(model, TASK, drawn())
    contract.check_padding_changes_nothing(model, TASK, drawn())
    contract.check_every_parameter_learns(model, TASK, drawn())
    contract.check_maps_are_attention(model, TASK, drawn())
    if model.causal:
        contract.check_outputs_do_not_see_the_future(model, TASK, drawn())


def test_every_position_of_the_configurations_is_one_of_these() -> None:
    task = Copying(length=4, symbols=3, recall=2)
    assert members.stems("model/position") == sorted(POSITIONS)
    for stem, make in POSITIONS.items():
        model = members.model("transformer_encoder", task, f"model/position={stem}")
        assert isinstance(model, Transformer)
        assert type(model.stack.position) is make
        assert not model.causal


@pytest.mark.parametrize("make", [Alibi, T5])
def test_a_position_is_told_whether_attention_is_causal(make: PositionFactory) -> None:
    told: list[Layout] = []

    def watched(layout: Layout) -> NoPosition:
        told.append(layout)
        return NoPosition(layout)

    for stem in STEMS.values():
        stem(TASK, **SMALL, position=watched)
    assert told == [Layout(8, 2, causal) for causal in (True, True, False, True)]


def test_layers_share_the_table_of_t5() -> None:
    model = transformer(TASK, **SMALL, position=T5)
    assert [name for name, _ in model.named_parameters() if "position" in name] == ["stack.position.values"]


def test_states_are_the_stream_before_the_first_block_and_after_each() -> None:
    model = transformer(TASK, **SMALL).eval()
    batch = drawn()
    trace = model.trace(batch)
    assert list(trace.states) == [f"{depth}.forward.residual" for depth in range(3)]
    assert list(trace.maps) == ["0", "1"]
    x = trace.states["0.forward.residual"]
    torch.testing.assert_close(x, model.stack.position.placed(model.project(batch.inputs)))
    for depth, block in enumerate(model.stack.blocks):
        x = block(x, model.stack.position)
        torch.testing.assert_close(x, trace.states[f"{depth + 1}.forward.residual"])
    torch.testing.assert_close(model.readout(model.stack.norm(x)), trace.outputs)


@pytest.mark.parametrize("norm_first", [True, False], ids=["norm first", "norm after"])
def test_a_decoder_block_equals_torchs_in_values_maps_and_gradients(norm_first: bool) -> None:
    block = DecoderBlock(BlockSettings(8, 2, 12, norm_first=norm_first))
    layer = nn.TransformerDecoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=norm_first)
    parts = [layer.norm1, layer.self_attn, layer.norm2, layer.multihead_attn, layer.norm3, layer.linear1, layer.linear2]
    theirs = [parameter for part in parts for parameter in part.parameters()]
    with torch.no_grad():
        for their, our in zip(theirs, block.parameters(), strict=True):
            our.add_(0.1 * torch.randn_like(our))  # norms are no identity then
            their.copy_(our)
    x, memory = torch.randn(3, 6, 8, requires_grad=True), torch.randn(3, 5, 8, requires_grad=True)
    real = torch.arange(5) < torch.tensor([5, 2, 1])[:, None]
    kept: list[Tensor] = []
    attend = layer.multihead_attn.forward

    def opened(*args: Tensor, **settings: bool) -> tuple[Tensor, Tensor]:
        made, weights = attend(*args, **{**settings, "need_weights": True}, average_attn_weights=False)
        kept.append(weights)
        return made, weights

    layer.multihead_attn.forward = opened  # type: ignore[assignment]  # to see the map, which the layer throws away
    later = nn.Transformer.generate_square_subsequent_mask(6)
    expected = layer(x, memory, tgt_mask=later, memory_key_padding_mask=~real, tgt_is_causal=True)
    position, visible = NoPosition(Layout(8, 2, causal=True)), real[:, None, None]
    made = block(x, memory, position, visible)
    traced, weights, cross = block.trace(x, memory, position, visible)
    torch.testing.assert_close(cross, kept[0])
    assert torch.equal(weights > 0, torch.ones(6, 6, dtype=torch.bool).tril().expand(3, 2, 6, 6))
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 6))
    cotangent = torch.randn_like(expected)
    reference = torch.autograd.grad((expected * cotangent).sum(), [x, memory, *theirs])
    for outputs in (made, traced):
        torch.testing.assert_close(outputs, expected, rtol=1e-9, atol=1e-9)
        ours = torch.autograd.grad((outputs * cotangent).sum(), [x, memory, *block.parameters()])
        for one, other in zip(ours, reference, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_decoder_block_turns_queries_of_itself_alone() -> None:
    """Positions are of the target: the map to the memory does not change where there is one target and no order."""
    block = DecoderBlock(BlockSettings(8, 2, 12))
    x, memory = torch.randn(1, 1, 8), torch.randn(1, 5, 8)
    layout = Layout(8, 2, causal=True)
    _, _, plain = block.trace(x, memory, NoPosition(layout))
    for make in (Rope, Alibi, T5):
        _, _, cross = block.trace(x, memory, make(layout))
        torch.testing.assert_close(cross, plain)


def test_dropout_acts_in_training_alone() -> None:
    model = transformer(TASK, **SMALL, dropout=0.5)
    batch = drawn()
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    torch.testing.assert_close(model(batch), model.trace(batch).outputs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 0}, "hidden must be at least 1, not 0"),
        ({"layers": 0}, "layers must be at least 1, not 0"),
        ({"heads": 0}, "heads must be at least 1, not 0"),
        ({"feedforward": 0}, "feedforward must be at least 1, not 0"),
        ({"dropout": 1.0}, "dropout must lie in [0, 1), not 1.0"),
        ({"heads": 3}, "the width must be a multiple of heads: 8 is not one of 3"),
        ({"heads": 8, "position": Rope}, "rope needs an even width per head: hidden 8 over 8 heads gives none"),
    ],
    ids=str,
)
def test_a_transformer_that_cannot_be_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        transformer(TASK, **{**SMALL, **settings})
