"""Hyena against its equations with convolutions summed directly, and its filters as functions of time."""

import math

import pytest
import torch
from torch import Tensor, nn

from retrograde.models.hyena import Hyena, HyenaOperator, LongFilter, causal_convolution
from retrograde.tasks.temporal_order import TemporalOrder

pytestmark = pytest.mark.usefixtures("float64")


def summed(x: Tensor, taps: Tensor) -> Tensor:
    """(h * x)_t = Σ_{i≤t} h_i x_{t-i}."""
    return torch.stack([sum(taps[i] * x[:, t - i] for i in range(t + 1)) for t in range(x.shape[1])], 1)


@pytest.mark.parametrize("length", [1, 2, 13, 32])
def test_the_transform_convolves_as_the_sum_does_in_values_and_gradients(length: int) -> None:
    x, taps = torch.randn(2, length, 3, requires_grad=True), torch.randn(length, 3, requires_grad=True)
    made, expected = causal_convolution(x, taps), summed(x, taps)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    direction = torch.randn_like(made)
    ours, theirs = (torch.autograd.grad((value * direction).sum(), [x, taps]) for value in (made, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def filters(weights: dict[str, Tensor], time: int, width: int, bands: int, scale: float, shift: float) -> Tensor:
    """h at one time, (order, width), from the paper's equations."""
    feature = [time / scale]
    feature += [math.cos(2 * math.pi * k * time / scale) for k in range(1, bands + 1)]
    feature += [math.sin(2 * math.pi * k * time / scale) for k in range(1, bands + 1)]
    value = torch.tensor(feature)
    for layer in range(3):
        value = weights[f"maps.{layer}.weight"] @ value + weights[f"maps.{layer}.bias"]
        value = torch.sin(weights["frequency"] * value)
    value = (weights["last.weight"] @ value).view(-1, width)
    slow, fast = math.log(100) / 1.5, math.log(100) / 0.3
    rates = torch.tensor([slow + (fast - slow) * channel / (width - 1) for channel in range(width)])
    return (torch.exp(-rates * time / scale) + shift) * value


@pytest.mark.parametrize("order", [1, 2, 3])
def test_an_operator_computes_the_papers_recurrence_in_values_and_gradients(order: int) -> None:
    operator = HyenaOperator(4, order, filter_width=5, bands=3, length_scale=7, frequency=3.0, shift=0.1)
    x = torch.randn(2, 11, 4)
    made = operator(x)
    weights = dict(operator.filters.named_parameters())
    projected = operator.project(x)
    taps = operator.short.weight[:, 0]
    past = [torch.zeros_like(projected[:, 0])] * 2 + list(projected.unbind(1))
    short = torch.stack([sum(taps[:, i] * past[t + i] for i in range(3)) for t in range(11)], 1) + operator.short.bias
    *gates, value = short.split(4, -1)
    long = torch.stack([filters(weights, t, 4, 3, 7, 0.1) for t in range(11)])
    for n, gate in enumerate(gates):
        value = gate * (summed(value, long[:, n]) + weights["through"][n] * value)
    expected = operator.combine(value)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    parameters = list(operator.parameters())
    direction = torch.randn_like(made)
    ours, theirs = (torch.autograd.grad((result * direction).sum(), parameters) for result in (made, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_blocks_are_those_of_a_pre_norm_transformer_with_the_operator_for_attention() -> None:
    task = TemporalOrder(length=10)
    model = Hyena(task, hidden=4, layers=2, feedforward=6, filter_width=5)
    batch = task.sample(2, torch.Generator().manual_seed(0))
    weights = dict(model.named_parameters())

    def norm(x: Tensor, name: str) -> Tensor:
        return nn.functional.layer_norm(x, (4,), weights[f"{name}.weight"], weights[f"{name}.bias"])

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    x = linear(nn.functional.one_hot(batch.inputs, task.inputs.size).double(), "project")
    for depth in range(2):
        x = x + model.operators[depth][1](norm(x, f"operators.{depth}.0"))
        inner = linear(norm(x, f"feedforwards.{depth}.0"), f"feedforwards.{depth}.1")
        x = x + linear(nn.functional.gelu(inner), f"feedforwards.{depth}.3")
    torch.testing.assert_close(model(batch), linear(norm(x, "norm"), "readout"), rtol=0, atol=1e-9)


def test_a_longer_sequence_continues_the_filters_of_a_shorter_one() -> None:
    long_filter = LongFilter(3, 2, 5, bands=4, length_scale=10, frequency=10.0, shift=0.0)
    torch.testing.assert_close(long_filter(40)[:, :6], long_filter(6), rtol=0, atol=1e-12)


def test_the_window_leaves_a_hundredth_after_its_channels_length() -> None:
    """With a network that gives 1 everywhere: the slowest channel at 1.5 length scales, the fastest at 0.3."""
    long_filter = LongFilter(2, 1, 1, bands=1, length_scale=100, frequency=1.0, shift=0.0)
    with torch.no_grad():
        for each in long_filter.maps:
            each.weight.zero_()
            each.bias.fill_(math.pi / 2)
        long_filter.last.weight.fill_(1.0)
    taps = long_filter(151)[0]
    torch.testing.assert_close(taps[150, 0].item(), 0.01)
    torch.testing.assert_close(taps[30, 1].item(), 0.01)


def test_filters_are_those_of_single_precision_whatever_the_models() -> None:
    """2,000 times, of which bfloat16 could tell 256 apart: all that is lost is in the weights."""
    half = LongFilter(3, 1, 5, bands=2, length_scale=500, frequency=10.0, shift=0.0).bfloat16()
    made = half(2000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(half(2000), made)
    torch.testing.assert_close(made.double(), half.double()(2000), rtol=1e-3, atol=1e-5)


def test_half_precision_is_transformed_in_single() -> None:
    x, taps = torch.randn(2, 300, 3).bfloat16(), (torch.randn(300, 3) / 20).bfloat16()
    made = causal_convolution(x, taps)
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.double(), summed(x.double(), taps.double()), rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("setting", ["order", "bands", "length_scale", "filter_width"])
def test_settings_that_do_not_fit_are_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be at least 1, not 0"):
        Hyena(TemporalOrder(length=10), **{setting: 0})
