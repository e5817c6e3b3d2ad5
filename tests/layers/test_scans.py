"""The scan against the recurrence written out as a loop, real and complex, and what it costs."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from retrograde.layers import scans
from retrograde.layers.cells import ElmanCell
from retrograde.layers.gated_block import GatedBlock
from retrograde.layers.scans import as_complex, as_pairs, scan

pytestmark = pytest.mark.usefixtures("float64")

KINDS = {"real": torch.float64, "complex": torch.complex128}


def written_out(decay: Tensor, inputs: Tensor, initial: Tensor | None = None) -> Tensor:
    state = torch.zeros_like(inputs[:, 0]) if initial is None else initial
    states = []
    for a, b in zip(decay.expand_as(inputs).unbind(1), inputs.unbind(1), strict=True):
        state = a * state + b
        states.append(state)
    return torch.stack(states, 1)


@pytest.fixture(params=["in chunks", "in one walk"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways through time, whatever the width."""
    monkeypatch.setattr(scans, "WIDE", 0 if request.param == "in one walk" else math.inf)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("begun", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize("constant", [False, True], ids=["varying", "constant"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, 3, 9, 23, 40])
def test_the_scan_is_the_loop_in_values_and_gradients(length: int, kind: str, constant: bool, begun: bool) -> None:
    dtype = KINDS[kind]
    decay = torch.randn((3, 2) if constant else (2, length, 3, 2), dtype=dtype, requires_grad=True)
    inputs = torch.randn(2, length, 3, 2, dtype=dtype, requires_grad=True)
    initial = torch.randn(2, 3, 2, dtype=dtype, requires_grad=True)
    given = [decay, inputs, initial] if begun else [decay, inputs]
    made, expected = scan(*given), written_out(*given)
    torch.testing.assert_close(made, expected, rtol=1e-12, atol=1e-12)
    direction = torch.randn_like(made)
    ours, theirs = (torch.autograd.grad(value, given, direction) for value in (made, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("kind", KINDS)
def test_first_and_second_derivatives_are_finite_differences(kind: str) -> None:
    """Among decays that are exactly 0, too."""
    dtype = KINDS[kind]
    decay = torch.randn(1, 7, 2, dtype=dtype)
    decay[0, 3] = 0
    inputs, initial = torch.randn(1, 7, 2, dtype=dtype), torch.randn(1, 2, dtype=dtype)
    given = tuple(part.requires_grad_() for part in (decay, inputs, initial))
    assert torch.autograd.gradcheck(scan, given)
    assert torch.autograd.gradgradcheck(scan, given)


@pytest.mark.usefixtures("form")
def test_a_decay_of_zero_forgets_and_one_of_one_keeps() -> None:
    decay = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])[None, :, None].requires_grad_()
    inputs = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])[None, :, None].requires_grad_()
    made = scan(decay, inputs)
    assert made.flatten().tolist() == [1, 3, 4, 12, 28]
    of_decay, of_inputs = torch.autograd.grad(made[0, -1, 0], [decay, inputs])
    assert of_inputs.flatten().tolist() == [0, 0, 1, 1, 1]
    assert of_decay.flatten().tolist() == [0, 0, 3, 4, 12]


def test_decays_whose_products_leave_the_format_stay_numbers() -> None:
    decay = torch.full((1, 50, 1), 1e-30, dtype=torch.float32, requires_grad=True)
    inputs = torch.ones(1, 50, 1, dtype=torch.float32, requires_grad=True)
    made = scan(decay, inputs)
    assert (made == 1).all()
    for gradient in torch.autograd.grad(made.sum(), [decay, inputs]):
        assert torch.isfinite(gradient).all() and gradient.any()


@pytest.mark.usefixtures("form")
def test_half_precision_loses_no_more_than_its_own_rounding() -> None:
    """A sum of a thousand ones, which added up in bfloat16 would stop at 256."""
    made = scan(torch.ones(1, dtype=torch.bfloat16), torch.ones(1, 1000, 1, dtype=torch.bfloat16))
    assert made.dtype == torch.bfloat16
    assert made[0, -1, 0] == 1000


def test_a_real_decay_turns_no_complex_state() -> None:
    made = scan(torch.tensor([0.5]), torch.tensor([[[1 + 1j], [0j]]]))
    assert made.flatten().tolist() == [1 + 1j, 0.5 + 0.5j]


class Calls(TorchDispatchMode):
    """Counts the operations that are carried out."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.steps = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        self.steps += func.overloadpacket is torch.ops.aten.addcmul
        return func(*args, **(kwargs or {}))


def calls(length: int) -> int:
    decay, inputs = (torch.rand(1, length, 1, requires_grad=True) for _ in range(2))
    with Calls() as counted:
        scan(decay, inputs).sum().backward()
    return counted.count


def test_calls_grow_as_the_root_of_time() -> None:
    few, many = calls(256), calls(256 * 16)
    assert many < 4.2 * few
    assert many < 256 * 16 / 2


@pytest.mark.parametrize("backward", [False, True])
def test_a_time_that_is_wide_takes_one_walk(backward: bool) -> None:
    """On a CPU: as many steps as times, where chunks take three walks side by side."""
    counts = []
    for width in (scans.WIDE - 1, scans.WIDE):
        decay, inputs = torch.rand(2, 1, 100, width, requires_grad=True).unbind()
        with Calls() as counted:
            made = scan(decay, inputs)
        if backward:
            with Calls() as counted:
                made.sum().backward()
        counts.append(counted.steps)
    assert counts == [3 * 10 - 1, 100]


def test_what_is_kept_for_the_gradient_is_decays_and_states() -> None:
    decay, inputs = (torch.rand(2, 400, 3, requires_grad=True) for _ in range(2))
    kept: list[int] = []

    def keep(value: Tensor) -> Tensor:
        kept.append(value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        scan(decay, inputs)
    assert sum(kept) <= 2 * inputs.numel() + 2 * 3


def test_pairs_and_complex_numbers_are_one_thing() -> None:
    pairs = torch.randn(4, 3, 2)
    values = as_complex(pairs)
    assert torch.equal(values.real, pairs[..., 0]) and torch.equal(values.imag, pairs[..., 1])
    assert torch.equal(as_pairs(values, pairs.dtype), pairs)
    assert as_complex(pairs.bfloat16()).dtype == torch.complex64


def test_the_block_adds_what_its_gate_lets_through() -> None:
    """One channel by hand: 3 + w v σ(v) with v = GELU(2) = 2 Φ(2), Φ(2) = 0.97725."""
    block = GatedBlock(1, ElmanCell(1, 1), dropout=0.0)
    with torch.no_grad():
        block.mix.weight.copy_(torch.tensor([[0.5], [1.0]]))
        block.mix.bias.zero_()
    v = 2 * 0.9772498680518208
    expected = 3 + 0.5 * v / (1 + torch.exp(torch.tensor(-v)))
    torch.testing.assert_close(block.leave(torch.tensor([[[3.0]]]), torch.tensor([[[2.0]]]))[0, 0, 0], expected)
    assert not block.enter(torch.tensor([[[3.0]]])).any()  # a LayerNorm of one channel knows no difference


def test_the_block_drops_in_training_alone() -> None:
    block = GatedBlock(8, ElmanCell(8, 8), dropout=0.5)
    x, y = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    assert not torch.equal(block.leave(x, y), block.leave(x, y))
    assert torch.equal(block.eval().leave(x, y), block.leave(x, y))
    with pytest.raises(ValueError, match="dropout must lie in"):
        GatedBlock(8, ElmanCell(8, 8), dropout=1.0)
