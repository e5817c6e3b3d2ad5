"""Layers without a recurrence: gradients at what they give, and what attention looks at."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import retrograde
from retrograde.core.maps import pooled
from retrograde.watching import attention as maps_of
from watched import check_undisturbed, watched

pytestmark = pytest.mark.usefixtures("float64")


def totals(frame: Any, layer: str, call: int = 0) -> Tensor:
    """(sample, time) or (sample,), not in log10."""
    rows = frame[(frame.layer == layer) & (frame.call == call)]
    if rows.time.isna().all():
        return 10 ** torch.tensor(rows.sort_values("sample").total.to_numpy())
    return 10 ** torch.tensor(rows.pivot(index="sample", columns="time", values="total").to_numpy(dtype=float))


def encoder(batch_first: bool = True, dropout: float = 0.0, norm_first: bool = True) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout, batch_first=batch_first, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def kept(model: nn.Module, run: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a run, and what every module gave, as nodes."""
    made: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda m, given, out, name=name: made.__setitem__(name, out))
        for name, module in model.named_modules()
    ]
    loss = run()
    for handle in handles:
        handle.remove()
    return loss, made


@pytest.mark.parametrize("batch_first", [True, False, None])
def test_residual_streams_of_transformer_layers_have_the_gradients_of_nodes(batch_first: bool | None) -> None:
    model = encoder(batch_first is True)
    x = torch.randn(3, 5, 8) if batch_first else torch.randn(5, 3, 8)

    def run() -> Tensor:
        return model(x).sin().sum()

    loss, made = kept(model, run)
    frame, flow = watched(model, run, batch_first=batch_first)
    for layer in ("layers.0", "layers.1", "layers.0.linear1", "layers.1.norm2"):
        (gradient,) = torch.autograd.grad(loss, made[layer], retain_graph=True)
        expected = gradient.norm(dim=-1) if batch_first else gradient.norm(dim=-1).T
        torch.testing.assert_close(totals(frame, layer), expected, rtol=1e-10, atol=0)
    assert flow.left_out == {}
    rows = frame[frame.layer == "layers.0"]
    assert (rows.total == rows.direct).all() and (rows.carried == 0).all()


def test_a_total_is_the_central_difference_of_the_loss_over_a_changed_activation() -> None:
    model = encoder()
    x = torch.randn(2, 4, 8)

    def loss(nudge: Tensor) -> float:
        handle = model.layers[0].register_forward_hook(lambda module, given, made: made + nudge)
        with torch.no_grad():
            value = model(x).sin().sum().item()
        handle.remove()
        return value

    slopes = []
    for unit in range(8):
        nudge = torch.zeros(2, 4, 8)
        nudge[1, 2, unit] = 1e-5
        slopes.append((loss(nudge) - loss(-nudge)) / 2e-5)
    frame, _ = watched(model, lambda: model(x).sin().sum())
    torch.testing.assert_close(totals(frame, "layers.0")[1, 2], torch.tensor(slopes).norm(), rtol=1e-8, atol=0)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_outputs_gradients_and_random_numbers_are_bitwise_the_same_with_a_watch(dropout: float) -> None:
    model, x = encoder(dropout=dropout), torch.randn(3, 5, 8)
    check_undisturbed(model, lambda: model(x))


def test_without_gradients_the_fast_path_is_taken_as_ever() -> None:
    """A hook on any module inside would switch it off, and padded positions would come out otherwise."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dtype=torch.float32)
    model = nn.TransformerEncoder(layer, 2).eval()
    x, padding = torch.randn(2, 5, 8, dtype=torch.float32), torch.arange(5) >= torch.tensor([[3], [5]])
    with torch.no_grad(), pytest.warns(UserWarning, match="nested tensors"):
        plain = model(x, src_key_padding_mask=padding)
    with torch.no_grad(), retrograde.watch(model):
        assert torch.equal(model(x, src_key_padding_mask=padding), plain)


CAUSAL = nn.Transformer.generate_square_subsequent_mask(5)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(
    "settings", [{}, {"kdim": 6, "vdim": 3}, {"bias": False}, {"add_zero_attn": True}, {"add_bias_kv": True}]
)
def test_maps_are_the_weights_that_the_module_gives_when_asked(batch_first: bool, settings: dict[str, Any]) -> None:
    module = nn.MultiheadAttention(8, 2, batch_first=batch_first, **settings)
    query, key, value = (
        torch.randn(5, 3, 8),
        torch.randn(5, 3, settings.get("kdim", 8)),
        torch.randn(5, 3, settings.get("vdim", 8)),
    )
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 4:] = True
    given = [part.transpose(0, 1) if batch_first else part for part in (query, key, value)]
    _, weights = module(*given, key_padding_mask=padding, attn_mask=CAUSAL > -1, average_attn_weights=False)
    model = nn.ModuleDict({"attention": module})
    with retrograde.watch(model) as flow:
        module(*given, key_padding_mask=padding, attn_mask=CAUSAL > -1, need_weights=False)[0].sum().backward()
    (map_,) = flow.maps()
    np.testing.assert_allclose(map_.weights, weights[0].detach(), atol=1e-6)
    numbers = flow.attention()
    entropy = torch.special.entr(weights).sum(-1).mean((0, 2))
    np.testing.assert_allclose(numbers.entropy, entropy.detach(), rtol=1e-10)
    np.testing.assert_allclose(numbers.confidence, weights.amax(-1).mean((0, 2)).detach(), rtol=1e-10)
    assert numbers.distance.isna().all()  # queries and keys are not of one sequence


def test_head_numbers_of_self_attention_by_hand() -> None:
    """Uniform weights over the past: query i looks at i + 1 keys, i / 2 behind on average; its previous has 1/(i+1)."""
    module = nn.MultiheadAttention(4, 2, batch_first=True)
    nn.init.zeros_(module.in_proj_weight)
    x = torch.randn(2, 5, 4)
    padding = torch.arange(5) >= torch.tensor([[5], [3]])
    with retrograde.watch(nn.ModuleDict({"attention": module})) as flow:
        mask = CAUSAL < 0
        module(x, x, x, attn_mask=mask, key_padding_mask=padding, is_causal=True, need_weights=False)[
            0
        ].sum().backward()
    row = flow.attention().iloc[0]
    queries = [0, 1, 2, 3, 4, 0, 1, 2]  # those of the second sample that are no padding
    assert row.entropy == pytest.approx(np.mean([math.log(i + 1) for i in queries]))
    assert row.entropy_share == pytest.approx(1.0)
    assert row.confidence == pytest.approx(np.mean([1 / (i + 1) for i in queries]))
    assert row.distance == pytest.approx(np.mean([i / 2 for i in queries]))
    assert row.previous_token == pytest.approx(np.mean([1 / (i + 1) for i in queries if i]))


@pytest.mark.parametrize("masked", [None, "one", "each"])
def test_a_map_that_is_formed_in_parts_and_pooled_is_that_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, masked: str | None
) -> None:
    module, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(3, 11, 8)
    mask = {None: None, "one": torch.rand(11, 11), "each": torch.rand(6, 11, 11)}[masked]
    model = nn.ModuleDict({"attention": module})

    def numbers() -> Any:
        with retrograde.watch(model) as flow:
            module(x, x, x, attn_mask=mask, need_weights=False)[0].sum().backward()
        return flow.attention(), flow.maps()[0]

    whole, _ = numbers()
    monkeypatch.setattr(maps_of, "AT_ONCE", 2 * 11 * 4)
    monkeypatch.setattr(maps_of, "LONGEST", 4)
    parts, map_ = numbers()
    np.testing.assert_allclose(parts.iloc[:, 4:].to_numpy(float), whole.iloc[:, 4:].to_numpy(float), rtol=1e-12)
    _, weights = module(x, x, x, attn_mask=mask, average_attn_weights=False)
    expected, (rows, columns) = pooled(weights[:1], 4)
    np.testing.assert_allclose(map_.weights, expected[0].detach(), atol=1e-6)
    assert list(map_.queries) == [0, rows, 2 * rows, 3 * rows] and list(map_.keys) == [
        0,
        columns,
        2 * columns,
        3 * columns,
    ]


def test_a_decoder_layer_has_a_map_of_itself_and_one_of_its_memory() -> None:
    model = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 1)
    target, memory = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
    frame, flow = watched(model, lambda: model(target, memory, tgt_mask=CAUSAL, tgt_is_causal=True).sum())
    shapes = {map_.layer: map_.weights.shape for map_ in flow.maps()}
    assert shapes == {"layers.0.self_attn": (2, 5, 5), "layers.0.multihead_attn": (2, 5, 7)}
    assert flow.attention().set_index("layer").distance.isna().groupby(level=0).all().to_dict() == {
        "layers.0.self_attn": False,
        "layers.0.multihead_attn": True,
    }
    assert totals(frame, "layers.0").shape == (2, 5)


def test_an_attention_without_a_batch_axis_is_one_sample() -> None:
    module, x = nn.MultiheadAttention(8, 2), torch.randn(5, 8)
    frame, flow = watched(nn.ModuleDict({"attention": module}), lambda: module(x, x, x, need_weights=False)[0].sum())
    assert flow.maps()[0].weights.shape == (2, 5, 5)
    assert totals(frame, "attention").shape == (1, 5)


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv1d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv(x)).transpose(1, 2))


def test_a_convolution_has_time_behind_its_channels_and_what_cannot_be_told_has_none() -> None:
    model, x = Convolved(), torch.randn(2, 3, 6)
    made: list[Tensor] = []
    handle = model.conv.register_forward_hook(lambda module, given, out: made.append(out))
    loss = (lambda out: out.sin().sum())(model.head(torch.relu(model.conv(x)).transpose(1, 2)))
    handle.remove()
    (gradient,) = torch.autograd.grad(loss, made[0])
    frame, flow = watched(model, lambda: model(x).sin().sum())
    torch.testing.assert_close(totals(frame, "conv"), gradient.norm(dim=1), rtol=1e-10, atol=1e-12)
    assert totals(frame, "act").shape == (2,) and "act: time" in flow.left_out
    assert totals(frame, "head").shape == (2, 6)


def test_a_result_whose_batch_cannot_be_told_is_named_and_the_rest_is_measured() -> None:
    class Flattened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(x).flatten(0, 1))

    model, x = Flattened(), torch.randn(2, 5, 3)
    frame, flow = watched(model, lambda: model(x).sum(), batch_first=True)
    assert flow.left_out == {"head": "its result (10, 2): does not begin with the batch of 2"}
    assert set(frame.layer) == {"inner"}


def test_as_many_samples_as_times_ask_for_a_word_where_a_layer_has_time_first() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.TransformerEncoderLayer(8, 2, 16))
    x = torch.randn(5, 5, 3)
    frame, flow = watched(model, lambda: model(x).sin().sum())
    assert "say batch_first=" in flow.left_out["0"]
    told, flow = watched(model, lambda: model(x).sin().sum(), batch_first=False)
    assert flow.left_out == {} and set(told.layer) > set(frame.layer)


class Summing(nn.Module):
    """Sums over time between two layers of which neither knows its batch axis."""

    def __init__(self, time: int, pooled: bool) -> None:
        super().__init__()
        self.time, self.pooled = time, pooled
        self.up, self.down = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.down(self.up(x).tanh().cumsum(self.time))
        return made.select(self.time, -1) if self.pooled else made


@pytest.mark.parametrize("pooled", [True, False])
def test_a_model_in_which_nothing_tells_the_batch_from_the_times_is_named(pooled: bool) -> None:
    model, x = Summing(0, pooled), torch.randn(7, 4, 3)
    _, flow = watched(model, lambda: model(x).sin().sum())
    assert "say batch_first=" in flow.left_out["batch_first"]
    loss, made = kept(model, lambda: model(x).sin().sum())
    (gradient,) = torch.autograd.grad(loss, made["up"])
    frame, flow = watched(model, lambda: model(x).sin().sum(), batch_first=False)
    torch.testing.assert_close(totals(frame, "up"), gradient.norm(dim=-1).T, rtol=1e-10, atol=0)
    assert flow.left_out == {}


def test_a_model_whose_result_has_the_batch_alone_needs_no_word() -> None:
    for x in (torch.randn(4, 7, 3), torch.randn(7, 4, 3)):
        model = Summing(1, pooled=True)
        _, flow = watched(model, lambda model=model, x=x: model(x).sin().sum())
        assert flow.left_out == {}
    model = Summing(1, pooled=False)
    _, flow = watched(model, lambda: model(x).sin().sum())
    assert set(flow.left_out) == {"batch_first"}
    _, flow = watched(model, lambda: model(x).sin().sum(), batch_first=True)
    assert flow.left_out == {}


def test_two_calls_before_one_backward_pass_are_two_calls_of_one_step() -> None:
    """And a forward that no gradient reaches is as if it had not been."""
    model, x, y = nn.Sequential(nn.Linear(3, 2)), torch.randn(2, 3), torch.randn(2, 3)
    with retrograde.watch(model) as flow:
        model(x)
        (model(x).pow(2).sum() + 3 * model(y).sum()).backward()
        model(x).sum().backward()
    frame = flow.frame()
    assert frame.groupby("step").call.unique().map(sorted).to_dict() == {0: [0, 1], 1: [0]}


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_are_told_of_once(reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.inner, self.head = nn.Linear(3, 8), encoder(dropout=0.2), nn.Linear(8, 2)
            self.again = False

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            return self.head(checkpoint(self.inner, x, use_reentrant=reentrant) if self.again else self.inner(x))

    model, x, frames, gradients = Checkpointed(), torch.randn(2, 5, 3), [], []
    for model.again in (False, True):
        torch.manual_seed(5)
        model.zero_grad()
        frames.append(watched(model, lambda: model(x).sin().sum())[0])
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    plain, again = (f.sort_values(["layer", "sample", "time"]).reset_index(drop=True) for f in frames)
    again = again[again.layer.isin(set(plain.layer))].reset_index(drop=True)
    assert list(again.layer) == list(plain.layer) and set(again.backward) == {0} and set(again.call) == {0}
    torch.testing.assert_close(torch.tensor(again.total), torch.tensor(plain.total))
    torch.testing.assert_close(gradients[1], gradients[0])


def test_a_frozen_model_is_served() -> None:
    model, x = encoder(), torch.randn(2, 5, 8)
    learnt, _ = watched(model, lambda: model(x).sin().sum())
    model.zero_grad()
    model.requires_grad_(False)
    frozen, flow = watched(model, lambda: model(x).sin().sum())
    both = learnt.merge(frozen, on=["layer", "sample", "time"])
    assert set(both.layer) >= {"layers.0", "layers.1", "layers.0.linear1"}
    np.testing.assert_allclose(both.total_y, both.total_x)
    assert len(flow.maps()) == 2
    assert all(parameter.grad is None for parameter in model.parameters())


def test_tied_layers_over_depth_are_calls_not_times() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = self.block(x)
            return x

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return x + torch.tanh(self.inner(x))

    model, x = Tied(), torch.randn(2, 4, 3)
    frame, flow = watched(model, lambda: model(x).sin().sum(), batch_first=True)
    assert [totals(frame, "block", call).shape for call in range(3)] == [(2, 4)] * 3
    assert flow.left_out == {}
