"""Scans on a device are those on a CPU, one kernel each way."""

from typing import Any

import pytest
import torch
from torch import Tensor

from retrograde.layers import scans
from retrograde.layers.scans import scan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

ROUNDING = {torch.float64: 1e-12, torch.complex128: 1e-12, torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Of the largest entry; in bfloat16 that of what is stored, while sums are in float32."""

SHAPES = {
    "everywhere": (3, -1, 70),
    "constant": (70,),
    "of a row": (3, -1, 7, 1),
    "of what is left": (3, 1, 1, 5, 1),
}

CASES = [(torch.float32, shape) for shape in SHAPES] + [(dtype, "of a row") for dtype in ROUNDING]
"""Few, because each is compiled by itself."""


def given(shape: str, dtype: torch.dtype, length: int) -> list[Tensor]:
    full = {1: (3, -1, 70), 3: (3, -1, 70), 4: (3, -1, 7, 10), 5: (3, -1, 7, 5, 2)}[len(SHAPES[shape])]
    decay, inputs = (torch.randn([length if n == -1 else n for n in s], dtype=dtype) for s in (SHAPES[shape], full))
    return [decay / (1 + decay.abs()), inputs, torch.randn_like(inputs[:, 0])]


def results(parts: list[Tensor], direct: Tensor, reverse: bool) -> tuple[Tensor, ...]:
    leaves = [part.clone().requires_grad_() for part in parts]
    made = scan(*leaves, reverse=reverse)
    return made, *torch.autograd.grad(made, leaves, direct)


@pytest.fixture(params=["kernel", "chunks"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "kernel":
        pytest.importorskip("triton", reason="Triton is not installed")
    else:
        monkeypatch.setattr(scans, "in_kernel", lambda value: False)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(("dtype", "shape"), CASES, ids=str)
@pytest.mark.parametrize("length", [33, 500])
def test_values_and_gradients_are_those_of_a_cpu(length: int, dtype: torch.dtype, shape: str, reverse: bool) -> None:
    torch.manual_seed(0)
    parts = given(shape, dtype, length)
    direct = torch.randn_like(parts[1])
    exact = torch.promote_types(dtype, torch.float64)
    expected = results([part.to(exact) for part in parts], direct.to(exact), reverse)
    made = results([part.cuda() for part in parts], direct.cuda(), reverse)
    for one, other in zip(made, expected, strict=True):
        assert one.dtype == dtype
        assert (one.cpu() - other).abs().max() <= ROUNDING[dtype] * other.abs().max()


@pytest.mark.usefixtures("form")
def test_it_can_be_differentiated_twice() -> None:
    parts: Any = [part.cuda().requires_grad_() for part in given("of a row", torch.float64, 3)]
    small = [part[:1, :, :2] if part.dim() == 4 else part[:1, :2] for part in parts]
    leaves = [part.detach().requires_grad_() for part in small]
    assert torch.autograd.gradcheck(scan, leaves)
    assert torch.autograd.gradgradcheck(scan, leaves)


def test_each_way_is_one_kernel() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    parts = [part.cuda() for part in given("everywhere", torch.float32, 200)]
    direct = torch.randn_like(parts[1])
    results(parts, direct, False)  # compiles
    leaves = [part.clone().requires_grad_() for part in parts]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        torch.autograd.grad(scan(*leaves), leaves, direct)
        torch.cuda.synchronize()
    kernels = [event.count for event in profile.key_averages() if event.key == "walk"]
    assert sum(kernels) == 2


def test_memory_of_a_gradient_is_that_of_its_results() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    decay, inputs = (torch.rand(8, 1000, 128, device="cuda", requires_grad=True) for _ in range(2))
    made = scan(decay, inputs)
    direct = torch.ones_like(made)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    of_both = torch.autograd.grad(made, [decay, inputs], direct)
    assert torch.cuda.max_memory_allocated() - before <= 2.1 * of_both[0].numel() * 4
