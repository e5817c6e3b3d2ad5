"""Totals out of cuDNN are those of the closed form on a CPU."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from retrograde.core.records import StateGradient
from retrograde.layers.fused import with_totals

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

MODULES: dict[str, Callable[[], nn.RNNBase]] = {
    "tanh": lambda: nn.RNN(3, 8, 2, bidirectional=True),
    "relu": lambda: nn.RNN(3, 8, nonlinearity="relu", bias=False),
    "GRU": lambda: nn.GRU(3, 8, 2, bidirectional=True),
    "LSTM": lambda: nn.LSTM(3, 8, 2, bidirectional=True),
    "LSTM, projected": lambda: nn.LSTM(3, 8, 2, bidirectional=True, proj_size=4),
}
ROUNDING = 1e-10
"""Of the largest entry, in float64: sums of a few hundred products in another order."""


def told(module: nn.RNNBase, x: Tensor, lengths: list[int] | None, hx: Any) -> tuple[Tensor, dict[str, StateGradient]]:
    gradients: dict[str, StateGradient] = {}
    given = x if lengths is None else pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    outputs, last = with_totals(module, given, hx, lambda place, gradient, _: gradients.__setitem__(place, gradient))
    made = outputs if isinstance(outputs, Tensor) else outputs.data
    ends = [last] if isinstance(last, Tensor) else last
    (made.square().sum() + sum(part.sin().sum() for part in ends)).backward()
    return made.detach(), gradients


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("lengths", [None, [5, 20, 1, 13]], ids=["equal", "packed"])
@pytest.mark.parametrize("kind", MODULES)
def test_totals_and_gradients_are_those_of_the_cpu(kind: str, lengths: list[int] | None, training: bool) -> None:
    here = MODULES[kind]().train(training)
    there = copy.deepcopy(here).cuda()
    x = torch.randn(20, 4, 3)
    layers = here.num_layers * (2 if here.bidirectional else 1)
    begin = [torch.randn(layers, 4, here.proj_size or here.hidden_size), torch.randn(layers, 4, here.hidden_size)]
    hx = tuple(begin) if isinstance(here, nn.LSTM) else begin[0]
    moved = tuple(part.cuda() for part in begin) if isinstance(here, nn.LSTM) else begin[0].cuda()
    expected, gradients = told(here, x, lengths, hx)
    made, found = told(there, x.cuda(), lengths, moved)
    assert (made.cpu() - expected).abs().max() <= ROUNDING
    assert found.keys() == gradients.keys()
    for place, gradient in gradients.items():
        for one, other in ((gradient.total, found[place].total), (gradient.direct, found[place].direct)):
            assert (other.value().cpu() - one.value()).abs().max() <= ROUNDING * one.value().abs().max(), place
            assert torch.equal(other.reached.cpu(), one.reached)
        assert found[place].times == gradient.times
    for parameter, other in zip(here.parameters(), there.parameters(), strict=True):
        assert parameter.grad is not None and other.grad is not None
        assert (other.grad.cpu() - parameter.grad).abs().max() <= ROUNDING * parameter.grad.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", MODULES)
def test_half_precisions_have_the_module_s_values_and_totals_in_float32(kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = MODULES[kind]().cuda().to(dtype)
    x = torch.randn(20, 4, 3).cuda().to(dtype)
    made, gradients = told(module, x, None, None)
    torch.testing.assert_close(made, module(x)[0], rtol=0.02, atol=0.02)
    assert all(gradient.total.mantissa.dtype == torch.float32 for gradient in gradients.values())
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in module.parameters())
