"""The decaying memory in chunks against the recurrence written out, one sample and one head at a time."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from retrograde.layers.outer_products import by_head, outer_products

pytestmark = pytest.mark.usefixtures("float64")

KEYS, VALUES = 3, 4
DECAYS = {
    "kept": None,
    "one rate a head": (1, 2, 1, 1),
    "one rate a head and time": (2, 2, "length", 1),
    "a rate for each entry": (1, 2, 1, KEYS),
    "a rate for each entry and time": (2, 2, "length", KEYS),
}


def drawn(length: int, decay: str, steepest: float = 3.0) -> dict[str, Tensor]:
    """Random inputs of 2 samples and 2 heads, decays down to e^-steepest."""
    parts = {
        "query": torch.randn(2, 2, length, KEYS),
        "key": torch.randn(2, 2, length, KEYS),
        "value": torch.randn(2, 2, length, VALUES),
        "initial": torch.randn(2, 2, KEYS, VALUES),
    }
    shape = DECAYS[decay]
    if shape is not None:
        parts["log_decay"] = -steepest * torch.rand([length if size == "length" else int(size) for size in shape])
    return {name: part.requires_grad_() for name, part in parts.items()}


def written_out(parts: dict[str, Tensor]) -> Tensor:
    """y_t = S_tᵀ q_t with S_t = diag(α_t) S_{t-1} + k_t v_tᵀ."""
    samples, heads, length, keys = parts["query"].shape
    decay = parts.get("log_decay", torch.zeros(1, 1, 1, 1)).exp().expand(samples, heads, length, keys)
    outputs = []
    for sample in range(samples):
        for head in range(heads):
            state = parts["initial"][sample, head]
            for t in range(length):
                key, value = parts["key"][sample, head, t], parts["value"][sample, head, t]
                state = torch.diag(decay[sample, head, t]) @ state + torch.outer(key, value)
                outputs.append(parts["query"][sample, head, t] @ state)
    return torch.stack(outputs).view(samples, heads, length, -1)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize(("length", "chunk"), [(1, 8), (23, 1), (23, 8), (23, 32), (16, 8)])
def test_chunks_equal_the_recurrence_in_values_and_gradients(decay: str, length: int, chunk: int) -> None:
    parts = drawn(length, decay)
    made, expected = outer_products(**parts, chunk=chunk), written_out(parts)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    direction = torch.randn_like(made)
    ours, theirs = (torch.autograd.grad((value * direction).sum(), list(parts.values())) for value in (made, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


def test_three_times_by_hand() -> None:
    """Keys and values of width 1: S is 2, then 2/2 + 3 = 4, then 4/4 + 5 = 6, asked with 1, 10 and 100."""
    query, key, value = (
        torch.tensor(numbers).view(1, 1, 3, 1) for numbers in ([1.0, 10.0, 100.0], [1.0, 1.0, 5.0], [2.0, 3.0, 1.0])
    )
    decay = torch.tensor([0.9, 0.5, 0.25]).log().view(1, 1, 3, 1)
    made = outer_products(query, key, value, torch.zeros(1, 1, 1, 1), decay)
    torch.testing.assert_close(made.flatten(), torch.tensor([2.0, 40.0, 600.0]))


class Exponents(TorchFunctionMode):
    """The largest number that is exponentiated."""

    largest = -math.inf

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.exp, Tensor.exp):
            self.largest = max(self.largest, float(args[0].detach().max()))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("decay", list(DECAYS)[1:])
def test_decay_beyond_every_number_format_is_exact_and_nothing_positive_is_exponentiated(decay: str) -> None:
    """Rates up to e^-3000 a step: the sum of their logarithms in a chunk is far outside the range of exp."""
    parts = drawn(40, decay, 3000.0)
    with Exponents() as watched:
        made = outer_products(**parts)
    assert -math.inf < watched.largest <= 0
    torch.testing.assert_close(made, written_out(parts), rtol=0, atol=1e-9)
    for gradient in torch.autograd.grad(made.square().sum(), list(parts.values())):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("steep", [-1e3, -1e4, -1e6, -math.inf])
@pytest.mark.parametrize("decay", ["one rate a head and time", "a rate for each entry and time"])
def test_one_steep_decay_costs_the_others_of_its_chunk_no_precision(decay: str, steep: float) -> None:
    """In float32, all inputs positive, so that rounding is relative: against the loop in float64, to some 2^-21."""
    parts = {name: part.detach().abs().float() for name, part in drawn(40, decay).items()}
    parts["log_decay"] = torch.full_like(parts["log_decay"], -0.1)
    parts["log_decay"][:, :, 5], parts["log_decay"][1, :, 20, 0] = steep, steep
    single, double = (
        {name: part.to(dtype).requires_grad_() for name, part in parts.items()}
        for dtype in (torch.float32, torch.float64)
    )
    made, expected = outer_products(**single), written_out(double)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made.double(), expected, rtol=1e-6, atol=0)
    ours = torch.autograd.grad(made.sum(), list(single.values()))
    theirs = torch.autograd.grad(expected.sum(), list(double.values()))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("decay", DECAYS)
def test_half_precision_is_computed_in_single(decay: str) -> None:
    """Against the same rounded inputs in double: what is left is the rounding of the result, 2^-9 of its size."""
    rounded = {name: part.detach().bfloat16() for name, part in drawn(100, decay, 0.5).items()}
    made = outer_products(**rounded)
    assert made.dtype == torch.bfloat16
    expected = outer_products(**{name: part.double() for name, part in rounded.items()})
    torch.testing.assert_close(made.double(), expected, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("decay", DECAYS)
def test_memory_for_the_gradient_grows_linearly_in_time(decay: str) -> None:
    def saved(length: int) -> int:
        numbers = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal numbers
            numbers += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            outer_products(**drawn(length, decay))
        return numbers

    assert saved(2048) / saved(1024) == pytest.approx(2, rel=0.03)


def test_heads_stand_side_by_side() -> None:
    made = torch.arange(12.0).view(1, 2, 3, 2)
    assert by_head(made)[0].tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
