"""Position encodings against hand values, closed forms, and the published formulas one distance at a time."""

import math
import re

import pytest
import torch
from torch import Tensor

from retrograde.layers.positions import (
    T5,
    Alibi,
    Layout,
    Learned,
    NoPosition,
    Position,
    PositionFactory,
    Rope,
    Sinusoidal,
    rotated,
    sinusoidal,
    slopes,
)

pytestmark = pytest.mark.usefixtures("float64")

CAUSAL = Layout(width=8, heads=2, causal=True)
BOTH_SIDES = Layout(width=8, heads=2, causal=False)
NUMBER = torch.zeros((), dtype=torch.float64)


def biases(position: Position, length: int) -> Tensor:
    time = torch.arange(length)
    made = position.bias(time, time, NUMBER)
    assert made is not None
    return made


def test_sinusoidal_positions_by_hand() -> None:
    made = sinusoidal(3, 4, NUMBER)
    torch.testing.assert_close(made[0], torch.tensor([0.0, 1.0, 0.0, 1.0]))
    torch.testing.assert_close(made[2], torch.tensor([math.sin(2), math.cos(2), math.sin(2 / 100), math.cos(2 / 100)]))


def test_sinusoidal_positions_are_added_to_the_inputs() -> None:
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(Sinusoidal(CAUSAL).placed(x) - x, sinusoidal(3, 4, x).expand(2, 3, 4))


def test_rotary_positions_make_products_depend_on_distance_alone() -> None:
    query, key = (torch.randn(6).expand(1, 1, 9, 6) for _ in range(2))
    products = (rotated(query) @ rotated(key).mT)[0, 0]
    for distance in range(-8, 9):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert products[0, 0].item() == pytest.approx((query[0, 0, 0] @ key[0, 0, 0]).item())
    assert products[0, 0] != products[0, 1]


def test_rotation_is_a_product_with_complex_numbers_of_size_one() -> None:
    x = torch.randn(1, 2, 50, 8)
    angle = torch.arange(50)[:, None] * 10000 ** (-torch.arange(0, 8, 2) / 8)
    turned = torch.view_as_complex(x.unflatten(-1, (4, 2))) * torch.exp(1j * angle)
    torch.testing.assert_close(Rope(CAUSAL).turned(x), torch.view_as_real(turned).flatten(-2))


def test_rotation_keeps_the_norm() -> None:
    x = torch.randn(1, 2, 50, 8)
    torch.testing.assert_close(rotated(x).norm(dim=-1), x.norm(dim=-1))


def test_a_learned_position_is_the_row_of_its_table() -> None:
    position = Learned(CAUSAL, longest=5)
    x = torch.randn(2, 3, 8)
    placed = position.placed(x)
    for time in range(3):
        torch.testing.assert_close(placed[:, time], x[:, time] + position.vectors[time])
    (gradient,) = torch.autograd.grad(placed.sum(), position.vectors)
    assert gradient.tolist() == [[2.0] * 8] * 3 + [[0.0] * 8] * 2  # the sum over two samples; rows 3 and 4 are not used


def test_learned_positions_end_with_their_table() -> None:
    position = Learned(CAUSAL, longest=5)
    with pytest.raises(ValueError, match=r"^position\.longest must be at least 6, the length of a sequence; not 5$"):
        position.placed(torch.randn(2, 6, 8))


@pytest.mark.parametrize(
    ("heads", "exponents"),
    [
        (1, [8]),
        (2, [4, 8]),
        (3, [4, 8, 2]),
        (4, [2, 4, 6, 8]),
        (6, [2, 4, 6, 8, 1, 3]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
    ],
)
def test_the_slopes_of_alibi_by_hand(heads: int, exponents: list[float]) -> None:
    """Beyond a power of two P: every second slope of 2P heads, whose exponents are multiples of 4/P."""
    torch.testing.assert_close(slopes(heads, NUMBER), torch.tensor([2.0**-exponent for exponent in exponents]))


def test_alibi_takes_slope_times_distance_from_both_sides() -> None:
    made = biases(Alibi(CAUSAL), 4)
    expected = [[[-(2.0**exponent) * abs(i - j) for j in range(4)] for i in range(4)] for exponent in (-4, -8)]
    torch.testing.assert_close(made, torch.tensor(expected))


def published_bucket(distance: int, buckets: int, furthest: int, causal: bool) -> int:
    """The formula in floating point, with what it needs to reach a whole number that it meets."""
    start = 0
    if not causal:
        buckets //= 2
        start = buckets if distance < 0 else 0
        distance = abs(distance)
    distance = max(distance, 0)
    exact = buckets // 2
    if distance < exact:
        return start + distance
    share = math.log(distance / exact) / math.log(furthest / exact)
    return start + min(exact + math.floor(share * (buckets - exact) + 1e-9), buckets - 1)


@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (8, 20), (4, 3), (64, 1000)])
@pytest.mark.parametrize("layout", [CAUSAL, BOTH_SIDES], ids=["causal", "both sides"])
def test_t5_looks_up_the_published_bucket_of_every_distance(layout: Layout, buckets: int, furthest: int) -> None:
    position = T5(layout, buckets, furthest)
    length = 300
    made = biases(position, length)
    for distance in range(1 - length, length):
        expected = position.values[published_bucket(distance, buckets, furthest, layout.causal)]
        diagonal = made.diagonal(-distance, 1, 2)  # query - key = distance
        torch.testing.assert_close(diagonal, expected[:, None].expand_as(diagonal), rtol=0, atol=0)


def test_the_buckets_of_t5_by_hand() -> None:
    """32 up to 128, causal: ln(n/16)/ln 8 · 16 is 0 at 16, 5.3 at 32, 10.7 at 64. Both sides: ln(n/8)/ln 16 · 8."""
    for layout, expected in (
        (CAUSAL, {0: 0, 1: 1, 15: 15, 16: 16, 32: 21, 64: 26, 127: 31, 128: 31, 999: 31, -5: 0}),
        (BOTH_SIDES, {0: 0, 7: 7, 8: 8, 15: 9, 16: 10, 31: 11, 32: 12, 64: 14, 128: 15, 999: 15, -1: 17, -16: 26}),
    ):
        position = T5(layout)
        time = torch.arange(1000)
        with torch.no_grad():
            position.values[:] = torch.arange(32.0)[:, None]
        made = {n: position.bias(time[max(n, 0)][None], time[max(-n, 0)][None], NUMBER) for n in expected}
        assert {n: int(value[0, 0, 0]) for n, value in made.items() if value is not None} == expected


@pytest.mark.parametrize("make", [Alibi, T5])
def test_a_bias_does_not_ask_from_where_times_count(make: PositionFactory) -> None:
    position = make(CAUSAL)
    query, key = torch.arange(7, 10), torch.arange(2, 10)
    assert torch.equal(position.bias(query, key, NUMBER), position.bias(query + 50, key + 50, NUMBER))


@pytest.mark.parametrize("make", [NoPosition, Sinusoidal, Learned, Rope, Alibi, T5])
def test_an_encoding_acts_at_one_of_the_three_places(make: PositionFactory) -> None:
    position = make(CAUSAL)
    x, heads, time = torch.randn(1, 5, 8), torch.randn(1, 2, 5, 4), torch.arange(5)
    acts = [
        not torch.equal(position.placed(x), x),
        not torch.equal(position.turned(heads), heads),
        position.bias(time, time, x) is not None,
    ]
    assert sum(acts) == (make is not NoPosition)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("make", [NoPosition, Sinusoidal, Learned, Rope, Alibi, T5])
def test_an_encoding_keeps_the_precision(make: PositionFactory, dtype: torch.dtype) -> None:
    position = make(CAUSAL).to(dtype)
    x, heads, time = torch.randn(1, 5, 8, dtype=dtype), torch.randn(1, 2, 5, 4, dtype=dtype), torch.arange(5)
    made = position.bias(time, time, x)
    assert position.placed(x).dtype == position.turned(heads).dtype == (x if made is None else made).dtype == dtype


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Rope(Layout(width=6, heads=2, causal=True)),
            "rope needs an even width per head: hidden 6 over 2 heads gives none",
        ),
        (lambda: Learned(CAUSAL, longest=0), "position.longest must be at least 1, not 0"),
        (lambda: T5(CAUSAL, buckets=7), "position.buckets must be a multiple of 2 and more than 0, not 7"),
        (lambda: T5(BOTH_SIDES, buckets=6), "position.buckets must be a multiple of 4 and more than 0, not 6"),
        (lambda: T5(CAUSAL, buckets=0), "position.buckets must be a multiple of 2 and more than 0, not 0"),
        (lambda: T5(CAUSAL, buckets=8, furthest=4), "position.furthest must be at least 5, not 4"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()
