"""Attention against hand values, torch.nn.MultiheadAttention, and a loop over the queries of a window."""

import math
import re

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from retrograde.layers import attention as layer
from retrograde.layers.attention import MultiHeadAttention
from retrograde.layers.positions import T5, Alibi, Layout, NoPosition, Position, PositionFactory, Rope

pytestmark = pytest.mark.usefixtures("float64")

POSITIONS: list[PositionFactory] = [NoPosition, Rope, Alibi, T5]
LENGTHS = torch.tensor([7, 4, 1])
VISIBLE = (torch.arange(7) < LENGTHS[:, None])[:, None, None]


def gradients(outputs: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(5))
    return torch.autograd.grad((outputs * weights).sum(), inputs)


def same(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


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
    attention = MultiHeadAttention(4, 2, causal=False)
    visible = torch.tensor([[[[True, False, True], [True, True, False], [False, True, True]]]])
    _, weights = attention.trace(torch.randn(1, 3, 4), visible=visible)
    assert torch.equal(weights > 0, visible.expand(1, 2, 3, 3))


def test_a_mask_takes_away_from_what_causal_attention_sees() -> None:
    attention = MultiHeadAttention(4, 2)
    visible = torch.tensor([[[[True, False, True, True]]]])
    _, weights = attention.trace(torch.randn(1, 4, 4), visible=visible)
    assert torch.equal(weights > 0, (visible & torch.ones(4, 4).tril().bool()).expand(1, 2, 4, 4))


@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
@pytest.mark.parametrize("padded", [False, True], ids=["all real", "padded"])
def test_attention_equals_torchs_in_values_maps_and_gradients(cross: bool, padded: bool) -> None:
    ours = MultiHeadAttention(8, 2, causal=False)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    for parameter, source in zip(theirs.parameters(), ours.parameters(), strict=True):
        parameter.data.copy_(source)
    memory = torch.randn(3, 7, 8, requires_grad=True)
    x = torch.randn(3, 5, 8, requires_grad=True) if cross else memory
    visible = VISIBLE if padded else None
    expected, expected_weights = theirs(
        x, memory, memory, key_padding_mask=~VISIBLE[:, 0, 0] if padded else None, average_attn_weights=False
    )
    given = (x, memory) if cross else (x,)
    made = ours(*given, visible=visible)
    traced, weights = ours.trace(*given, visible=visible)
    same((made, traced, weights), (expected, expected, expected_weights))
    of_theirs = gradients(expected, *given, *theirs.parameters())
    same(gradients(made, *given, *ours.parameters()), of_theirs)
    same(gradients(traced, *given, *ours.parameters()), of_theirs)


def test_causal_attention_sees_all_of_a_memory() -> None:
    attention = MultiHeadAttention(4, 2, causal=True)
    x, memory = torch.randn(1, 3, 4), torch.randn(1, 5, 4)
    outputs, weights = attention.trace(x, memory)
    assert (weights > 0).all()
    torch.testing.assert_close(attention(x, memory), outputs)


@pytest.mark.parametrize("make", POSITIONS)
@pytest.mark.parametrize("masked", [False, True], ids=["all visible", "masked"])
@pytest.mark.parametrize("scaling", [True, False], ids=["scaled", "unscaled"])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both sides"])
def test_fused_and_opened_attention_agree_in_values_and_gradients(
    make: PositionFactory, masked: bool, scaling: bool, causal: bool
) -> None:
    attention = MultiHeadAttention(8, 2, causal=causal, scaling=scaling)
    position = make(Layout(8, 2, causal))
    x = torch.randn(3, 7, 8, requires_grad=True)
    visible = VISIBLE if masked else None
    fused = attention(x, visible=visible, position=position)
    opened, weights = attention.trace(x, visible=visible, position=position)
    inputs = (x, *attention.parameters(), *position.parameters())
    same((fused, *gradients(fused, *inputs)), (opened, *gradients(opened, *inputs)))
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 7), rtol=0, atol=1e-12)


def test_a_bias_is_added_to_the_scores() -> None:
    """Queries and keys of zeros leave nothing else."""
    attention = MultiHeadAttention(4, 2, causal=False)
    with torch.no_grad():
        attention.project.weight[:8] = 0
        attention.project.bias[:8] = 0
    _, weights = attention.trace(torch.randn(1, 3, 4), position=Alibi(Layout(4, 2, causal=False)))
    for head, slope in enumerate((2**-4, 2**-8)):
        row = [math.exp(-slope * distance) for distance in (1, 0, 1)]
        torch.testing.assert_close(weights[0, head, 1], torch.tensor(row) / sum(row))


def test_without_scaling_scores_are_larger_by_the_root_of_the_head_s_width() -> None:
    plain, scaled = MultiHeadAttention(8, 2, scaling=False), MultiHeadAttention(8, 2)
    scaled.load_state_dict(plain.state_dict())
    with torch.no_grad():
        scaled.project.weight[:8] *= math.sqrt(4)  # the rows that make queries; a head is 4 wide
        scaled.project.bias[:8] *= math.sqrt(4)
    x = torch.randn(2, 5, 8)
    same(plain.trace(x), scaled.trace(x))
    same((plain(x),), (scaled(x),))


@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
def test_a_query_that_sees_nothing_gets_a_row_that_sums_to_one(cross: bool) -> None:
    attention = MultiHeadAttention(4, 2, causal=False)
    x = torch.randn(2, 3, 4, requires_grad=True)
    visible = torch.tensor([[True, True, False], [False, False, False]])[:, None, None]
    given = (x, torch.randn(2, 3, 4)) if cross else (x,)
    outputs, weights = attention.trace(*given, visible=visible)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 3))
    assert not weights[0, :, :, 2].any()
    same((outputs, *gradients(outputs, x)), (made := attention(*given, visible=visible), *gradients(made, x)))


def by_loop(attention: MultiHeadAttention, x: Tensor, window: int, position: Position) -> Tensor:
    """Query by query, head by head, over the keys of its window alone."""
    length, width = x.shape[1:]
    each = width // attention.heads
    query, key, value = (part.unflatten(-1, (attention.heads, each)) for part in attention.project(x).chunk(3, -1))
    query, key = (position.turned(part.transpose(1, 2)).transpose(1, 2) for part in (query, key))
    time = torch.arange(length)
    bias = position.bias(time, time, x)
    rows = []
    for t in range(length):
        past = slice(max(0, t - window + 1), t + 1)
        heads = []
        for head in range(attention.heads):
            scores = (key[:, past, head] @ query[:, t, head, :, None])[..., 0] / math.sqrt(each)
            if bias is not None:
                scores = scores + bias[head, t, past]
            shares = scores.exp() / scores.exp().sum(-1, keepdim=True)
            heads.append((shares[..., None] * value[:, past, head]).sum(1))
        rows.append(attention.combine(torch.cat(heads, -1)))
    return torch.stack(rows, 1)


@pytest.mark.parametrize("make", POSITIONS)
@pytest.mark.parametrize(("length", "window"), [(9, 1), (9, 4), (8, 4), (7, 3), (5, 4), (4, 4), (3, 9), (1, 1)])
def test_a_window_equals_a_loop_over_its_queries(make: PositionFactory, length: int, window: int) -> None:
    attention = MultiHeadAttention(4, 2, window=window)
    position = make(Layout(4, 2, causal=True))
    x = torch.randn(2, length, 4, requires_grad=True)
    inputs = (x, *attention.parameters(), *(parameter for parameter in position.parameters()))
    expected = by_loop(attention, x, window, position)
    made = attention(x, position=position)
    traced, weights = attention.trace(x, position=position)
    same((made, traced), (expected, expected))
    of_loop = gradients(expected, *inputs)
    same(gradients(made, *inputs), of_loop)
    same(gradients(traced, *inputs), of_loop)
    distance = torch.arange(length)[:, None] - torch.arange(length)
    assert torch.equal(weights > 0, ((distance >= 0) & (distance < window)).expand(2, 2, length, length))


@pytest.mark.parametrize("make", POSITIONS)
def test_blocks_of_a_window_equal_the_whole_map_under_its_mask(make: PositionFactory) -> None:
    local, full = MultiHeadAttention(8, 2, window=5), MultiHeadAttention(8, 2)
    full.load_state_dict(local.state_dict())
    position = make(Layout(8, 2, causal=True))
    x = torch.randn(2, 33, 8, requires_grad=True)
    band = torch.ones(33, 33, dtype=torch.bool).triu(-4)[None, None]
    made, expected = local(x, position=position), full(x, visible=band, position=position)
    inputs = [x, *position.parameters()]
    same((made, *gradients(made, *inputs)), (expected, *gradients(expected, *inputs)))


class Largest(TorchDispatchMode):
    """The most numbers that any one tensor holds which an operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return made


@pytest.mark.parametrize("make", [Alibi, T5])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both sides"])
@pytest.mark.parametrize("visible", [None, VISIBLE, torch.rand(3, 2, 7, 7) < 0.3], ids=["all", "padded", "by query"])
def test_a_bias_of_a_few_rows_at_a_time_is_the_bias_of_all(
    make: PositionFactory, causal: bool, visible: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = MultiHeadAttention(8, 2, causal=causal)
    position = make(Layout(8, 2, causal))
    x = torch.randn(3, 7, 8, requires_grad=True)
    inputs = (x, *attention.parameters(), *position.parameters())
    expected = attention(x, visible=visible, position=position)
    monkeypatch.setattr(layer, "LONGEST_HELD", 6)
    monkeypatch.setattr(layer, "ROWS", 3)
    made = attention(x, visible=visible, position=position)
    same((made, *gradients(made, *inputs)), (expected, *gradients(expected, *inputs)))


def largest(attention: MultiHeadAttention, position: Position, length: int) -> int:
    x = torch.randn(1, length, 8, requires_grad=True)
    with Largest() as watch:
        attention(x, position=position).sum().backward()
    return watch.numbers


@pytest.mark.parametrize(
    ("window", "make", "growth"),
    [(None, NoPosition, 2), (None, Rope, 2), (None, Alibi, 4), (8, NoPosition, 2), (8, Alibi, 2), (8, T5, 2)],
)
def test_memory_grows_with_the_length_unless_a_bias_is_added_to_all_scores(
    window: int | None, make: PositionFactory, growth: int
) -> None:
    attention = MultiHeadAttention(8, 2, window=window)
    position = make(Layout(8, 2, causal=True))
    assert largest(attention, position, 512) == growth * largest(attention, position, 256)


@pytest.mark.parametrize("make", [Alibi, T5])
def test_memory_of_a_long_sequence_grows_with_its_length_also_with_a_bias(
    make: PositionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer, "ROWS", 16)
    attention = MultiHeadAttention(8, 2)
    position = make(Layout(8, 2, causal=True))
    # a last block of 8 rows, and one of 16: the whole map would be four times as large
    assert largest(attention, position, 1200) < 2.1 * largest(attention, position, 600)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiHeadAttention(64, 5), "the width must be a multiple of heads: 64 is not one of 5"),
        (lambda: MultiHeadAttention(8, 2, window=0), "window must be at least 1, not 0"),
        (
            lambda: MultiHeadAttention(8, 2, causal=False, window=3),
            "a window reaches back from the query: window 3 needs causal attention",
        ),
    ],
)
def test_attention_that_cannot_be_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()
