"""The scan against the recurrence written out as a loop, real and complex, and what it costs."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from retrograde.layers import scans
from retrograde.layers.cells import ElmanCell
from retrograde.layers.gated_block import GatedBlock
from retrograde.layers.scans import as_complex, as_pairs, rectified_scan, scan

pytestmark = pytest.mark.usefixtures("float64")

KINDS = {"real": torch.float64, "complex": torch.complex128}


SHAPES = {"at every time": (2, -1, 3, 2), "constant": (3, 2), "of a row": (1, -1, 3, 1), "of a sample": (2, 1, 1, 1)}
"""Of decays beside inputs of shape (2, time, 3, 2)."""

TIGHT: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-11}
"""In float64: a few dozen products in another order."""


def written_out(decay: Tensor, inputs: Tensor, initial: Tensor | None = None, reverse: bool = False) -> Tensor:
    state = torch.zeros_like(inputs[:, 0]) if initial is None else initial
    states = []
    steps = list(zip(decay.expand_as(inputs).unbind(1), inputs.unbind(1), strict=True))
    for a, b in reversed(steps) if reverse else steps:
        state = a * state + b
        states.append(state)
    return torch.stack(states[::-1] if reverse else states, 1)


@pytest.fixture(params=["in chunks", "in one walk"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways through time, whatever the width and the length."""
    monkeypatch.setattr(scans, "WIDE", 0 if request.param == "in one walk" else math.inf)
    monkeypatch.setattr(scans, "SHORT", 0)


def given(shape: str, length: int, dtype: torch.dtype) -> list[Tensor]:
    """Decays, inputs and a state to begin with, one entry of the decays exactly 0 and one 1."""
    decay = torch.randn([length if size == -1 else size for size in SHAPES[shape]], dtype=dtype)
    decay.view(-1)[0], decay.view(-1)[-1] = 0, 1
    inputs, initial = torch.randn(2, length, 3, 2, dtype=dtype), torch.randn(2, 3, 2, dtype=dtype)
    return [part.requires_grad_() for part in (decay, inputs, initial)]


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("begun", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, 9, 40])
def test_the_scan_is_the_loop_in_values_and_gradients(
    length: int, kind: str, shape: str, begun: bool, reverse: bool
) -> None:
    parts = given(shape, length, KINDS[kind])
    parts = parts if begun else parts[:2]
    made, expected = scan(*parts, reverse=reverse), written_out(*parts, reverse=reverse)
    torch.testing.assert_close(made, expected, **TIGHT)
    direction = torch.randn_like(made)
    theirs = torch.autograd.grad(expected, parts, direction)
    for again in (False, True):  # with and without a graph of the gradient itself
        ours = torch.autograd.grad(made, parts, direction, retain_graph=True, create_graph=again)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, **TIGHT)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_decays_near_one_add_up_over_thousands_of_times(reverse: bool) -> None:
    """Σ a^k = (1 - a^T) / (1 - a), of which a = 1 - 1e-6 leaves 1 - 1e-6 (T-1) / 2 and a little more at T = 2,000."""
    length, one = 2000, 1 - 1e-6
    made = scan(torch.tensor([one]), torch.ones(1, length, 1), reverse=reverse)
    expected = -math.expm1(length * math.log1p(-1e-6)) / 1e-6
    assert made[0, 0 if reverse else -1, 0].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.usefixtures("form")
def test_time_may_lie_first_in_memory() -> None:
    decay, inputs, initial = given("at every time", 40, torch.float64)
    behind = [part.detach().transpose(0, 1).contiguous().transpose(0, 1) for part in (decay, inputs)]
    made = scan(*behind, initial.detach(), reverse=True)
    assert made.stride() == behind[1].stride()
    torch.testing.assert_close(made, written_out(*behind, initial.detach(), reverse=True), **TIGHT)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("kind", KINDS)
def test_first_and_second_derivatives_are_finite_differences(kind: str) -> None:
    """Among decays that are exactly 0, too."""
    dtype = KINDS[kind]
    decay = torch.randn(1, 7, 2, dtype=dtype)
    decay[0, 3] = 0
    inputs, initial = torch.randn(1, 7, 2, dtype=dtype), torch.randn(1, 2, dtype=dtype)
    given = tuple(part.requires_grad_() for part in (decay, inputs, initial))
    for reverse in (False, True):
        assert torch.autograd.gradcheck(lambda *parts: scan(*parts, reverse=reverse), given)  # noqa: B023
        assert torch.autograd.gradgradcheck(lambda *parts: scan(*parts, reverse=reverse), given)  # noqa: B023


@pytest.mark.usefixtures("form")
def test_a_decay_of_zero_forgets_and_one_of_one_keeps() -> None:
    decay = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])[None, :, None].requires_grad_()
    inputs = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])[None, :, None].requires_grad_()
    made = scan(decay, inputs)
    assert made.flatten().tolist() == [1, 3, 4, 12, 28]
    of_decay, of_inputs = torch.autograd.grad(made[0, -1, 0], [decay, inputs])
    assert of_inputs.flatten().tolist() == [0, 0, 1, 1, 1]
    assert of_decay.flatten().tolist() == [0, 0, 3, 4, 12]


def test_a_device_without_triton_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies on a CPU asks nothing."""
    scans._triton_is_there.cache_clear()
    monkeypatch.setattr(scans, "find_spec", lambda name: None)
    assert not scans.in_kernel(torch.ones(1))
    on_cuda: Any = SimpleNamespace(is_cuda=True)
    with pytest.warns(UserWarning, match="Triton is not installed"):
        assert not scans.in_kernel(on_cuda)
    assert not scans.in_kernel(on_cuda)
    scans._triton_is_there.cache_clear()


def test_a_scan_between_rectifiers_is_the_loop() -> None:
    """Twice differentiable, like the loop; units are shut at some times."""
    decay, inputs, initial = torch.rand(4) + 0.5, torch.randn(2, 9, 4), torch.rand(2, 4)
    given = [part.requires_grad_() for part in (decay, inputs, initial)]
    made, state, expected = rectified_scan(*given), initial, []
    for b in inputs.unbind(1):
        state = torch.relu(decay * state + b)
        expected.append(state)
    loop = torch.stack(expected, 1)
    assert 0 < (loop == 0).sum() < loop.numel()
    torch.testing.assert_close(made, loop, **TIGHT)
    direction = torch.randn_like(loop)
    ours, theirs = (torch.autograd.grad(value, given, direction, retain_graph=True) for value in (made, loop))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **TIGHT)
    assert torch.autograd.gradcheck(rectified_scan, given)
    assert torch.autograd.gradgradcheck(rectified_scan, given)


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


class Made(TorchDispatchMode):
    """Counts the numbers of tensors that get memory of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0
        self.seen: set[int] = set()
        self.kept: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {part.untyped_storage().data_ptr() for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor)}
        made = func(*args, **(kwargs or {}))
        for part in tree_leaves(made):
            if isinstance(part, Tensor) and part.untyped_storage().data_ptr() not in given | self.seen:
                self.seen.add(part.untyped_storage().data_ptr())
                self.kept.append(part)  # so that no later one can take its place
                self.numbers += part.untyped_storage().nbytes() // part.element_size()
        return made


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
    """On a CPU: as many steps as times, where chunks take two walks side by side and one from chunk to chunk."""
    counts = []
    for width in (scans.WIDE // 8 - 1, scans.WIDE // 8):
        decay, inputs = torch.rand(2, 1, 101, width, requires_grad=True).unbind()
        with Calls() as counted:
            made = scan(decay, inputs)
        if backward:
            with Calls() as counted:
                made.sum().backward()
        counts.append(counted.steps)
    left_over = 0 if backward else 1
    assert counts == [9 + 10 + 10 + left_over, 101 - backward]


def test_a_few_times_take_one_walk() -> None:
    with Calls() as counted:
        scan(torch.rand(1, scans.SHORT, 1), torch.rand(1, scans.SHORT, 1))
    assert counted.steps == scans.SHORT


def test_a_gradient_copies_neither_decays_nor_states() -> None:
    """Beside its results a backward pass of 2,500 times holds no more than what stands between chunks."""
    decay, inputs = torch.rand(2, 1, 2500, 8, requires_grad=True).unbind()
    made = scan(decay, inputs)
    direct = torch.ones_like(made)
    with Made() as counted:
        torch.autograd.grad(made, [decay, inputs], direct)
    assert counted.numbers <= 2 * inputs.numel() + 10 * 8 * 50


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
