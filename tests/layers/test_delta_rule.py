"""The delta rule in chunks against the recurrence written out, one sample and one head at a time."""

import math

import pytest
import torch
from torch import Tensor

from retrograde.core.recurrence import sequence, unroll
from retrograde.layers.delta_rule import DeltaRuleCell, delta_rule
from retrograde.layers.feedforward import SwiGLU

pytestmark = pytest.mark.usefixtures("float64")

LENGTH = 23


def drawn(length: int = LENGTH, keys: int = 3, values: int = 4) -> dict[str, Tensor]:
    """Random inputs of 2 samples and 2 heads: keys of length one, strengths up to 2, decays down to e^-3."""
    parts = {
        "query": torch.randn(2, length, 2, keys),
        "key": torch.nn.functional.normalize(torch.randn(2, length, 2, keys), dim=-1),
        "value": torch.randn(2, length, 2, values),
        "strength": 2 * torch.rand(2, length, 2),
        "log_decay": -3 * torch.rand(2, length, 2),
        "initial": torch.randn(2, 2, values, keys),
    }
    return {name: part.requires_grad_() for name, part in parts.items()}


def written_out(parts: dict[str, Tensor], decays: bool) -> Tensor:
    """y_t = S_t q_t with S_t = α_t S_{t-1} (I - β_t k_t k_tᵀ) + β_t v_t k_tᵀ."""
    samples, length, heads, _ = parts["query"].shape
    outputs = []
    for sample in range(samples):
        for head in range(heads):
            state = parts["initial"][sample, head]
            for t in range(length):
                k, v = parts["key"][sample, t, head], parts["value"][sample, t, head]
                beta = parts["strength"][sample, t, head]
                alpha = parts["log_decay"][sample, t, head].exp() if decays else 1.0
                state = alpha * state @ (torch.eye(len(k)) - beta * torch.outer(k, k)) + beta * torch.outer(v, k)
                outputs.append(state @ parts["query"][sample, t, head])
    return torch.stack(outputs).view(samples, heads, length, -1).transpose(1, 2)


@pytest.mark.parametrize("decays", [False, True], ids=["kept", "decaying"])
@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_chunks_equal_the_recurrence_in_values_and_gradients(chunk: int, decays: bool) -> None:
    parts = drawn()
    made = delta_rule(**{**parts, "log_decay": parts["log_decay"] if decays else None}, chunk=chunk)
    expected = written_out(parts, decays)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    direction = torch.randn_like(made)
    leaves = [part for name, part in parts.items() if decays or name != "log_decay"]
    ours, theirs = (torch.autograd.grad((value * direction).sum(), leaves) for value in (made, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("decays", [False, True], ids=["kept", "decaying"])
@pytest.mark.parametrize("convolution", [1, 4])
def test_the_fast_form_of_a_cell_is_its_loop(convolution: int, decays: bool) -> None:
    cell = DeltaRuleCell(6, 4, 2, convolution, decays)
    x = torch.cat([torch.randn(3, 70, 16), torch.rand(3, 70, 2), -torch.rand(3, 70, 2 * decays)], -1).requires_grad_()
    initial = {name: torch.randn(3, *shape, requires_grad=True) for name, shape in cell.components.items()}
    made = sequence(cell, x, initial)
    states = {name: value[:, 1:] for name, value in unroll(cell, x, initial=initial).items()}
    expected = cell.read(cell.weights(), x, states)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    leaves = [x, *initial.values(), *cell.weights().values()]
    direction = torch.randn_like(made)
    ours, theirs = (torch.autograd.grad((value * direction).sum(), leaves) for value in (made, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(sequence(cell, x), sequence(cell, x, cell.initial_state(x)), rtol=0, atol=0)


def test_a_step_takes_one_set_of_weights_for_each_seed() -> None:
    cells = [DeltaRuleCell(4, 4, 2, 3, decays=True) for _ in range(3)]
    x = torch.randn(3, 5, 16)
    states = [{name: torch.randn(5, *shape) for name, shape in cells[0].components.items()} for _ in cells]
    together = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    weights = {"filter": torch.stack([cell.filter for cell in cells])}
    after = cells[0].step(weights, x, together)
    for seed, cell in enumerate(cells):
        for name, value in cell.step(cell.weights(), x[seed], states[seed]).items():
            torch.testing.assert_close(after[name][seed], value)


def test_full_strength_makes_the_memory_answer_a_key_with_the_new_value_and_leaves_others_alone() -> None:
    """S k₁ = v₁ before; writing v at k₀ with β = 1 gives S k₀ = v, and S k₁ is what it was, as k₀ ⊥ k₁."""
    key, other = torch.tensor([0.6, 0.8]), torch.tensor([-0.8, 0.6])
    before = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    value = torch.tensor([7.0, -5.0])
    for asked, answer in ((key, value), (other, before @ other)):
        parts = (part.view(1, 1, 1, 2) for part in (asked, key, value))
        made = delta_rule(*parts, torch.ones(1, 1, 1), None, before.view(1, 1, 2, 2))
        torch.testing.assert_close(made.flatten(), answer)


def test_a_strength_of_two_reflects_so_that_the_sign_of_a_memory_counts_parity() -> None:
    marks = torch.tensor([1.0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1])
    key = torch.ones(1, len(marks), 1, 1)
    made = delta_rule(key, key, 0 * key, 2 * marks.view(1, -1, 1), None, torch.ones(1, 1, 1, 1))
    assert made.flatten().tolist() == [(-1) ** int(count) for count in marks.cumsum(0)]


def test_decay_beyond_every_number_format_stays_finite() -> None:
    parts = drawn(40)
    steep = (1000 * parts["log_decay"]).detach().requires_grad_()
    made = delta_rule(**{**parts, "log_decay": steep})
    torch.testing.assert_close(made, written_out({**parts, "log_decay": steep}, True), rtol=0, atol=1e-9)
    (gradient,) = torch.autograd.grad(made.square().sum(), steep)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("steep", [-1e3, -1e4, -1e6, -math.inf])
def test_one_steep_decay_costs_the_others_of_its_chunk_no_precision(steep: float) -> None:
    """In float32 against the loop in float64, relative to the largest number, since a write may cancel another."""
    parts = {name: part.detach().float() for name, part in drawn(40).items()}
    parts["strength"] = parts["strength"] / 2
    parts["log_decay"] = torch.full_like(parts["log_decay"], -0.1)
    parts["log_decay"][:, 5], parts["log_decay"][1, 20, 0] = steep, steep
    single, double = (
        {name: part.to(dtype).requires_grad_() for name, part in parts.items()}
        for dtype in (torch.float32, torch.float64)
    )
    made, expected = delta_rule(**single), written_out(double, True)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made.double(), expected, rtol=0, atol=1e-6 * expected.abs().max().item())
    ours = torch.autograd.grad(made.sum(), list(single.values()))
    theirs = torch.autograd.grad(expected.sum(), list(double.values()))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-6 * other.abs().max().item())


def test_half_precision_is_solved_in_single() -> None:
    """Against the same rounded inputs in double: what is left is the rounding of the result, 2^-9 of its size."""
    rounded = {name: part.detach().bfloat16() for name, part in drawn(200).items()}
    made = delta_rule(**rounded)
    assert made.dtype == torch.bfloat16
    expected = delta_rule(**{name: part.double() for name, part in rounded.items()})
    torch.testing.assert_close(made.double(), expected, rtol=2**-8, atol=1e-5)


def test_memory_for_the_gradient_grows_linearly_in_time() -> None:
    def saved(length: int) -> int:
        numbers = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal numbers
            numbers += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            delta_rule(**drawn(length))
        return numbers

    assert saved(1024) / saved(512) == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("decays", [False, True], ids=["kept", "decaying"])
def test_its_filter_starts_as_that_of_a_convolution_of_each_channel(decays: bool) -> None:
    """Uniform on ± 1/√4: the standard deviation is 1/√12."""
    taps = DeltaRuleCell(1000, 1000, 2, 4, decays).filter
    assert 0.49 < taps.max() <= 0.5 and -0.5 <= taps.min() < -0.49
    assert taps.std().item() == pytest.approx(12**-0.5, rel=0.02)


def test_widths_that_heads_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="width of the keys must be a multiple of heads: 6 is not one of 4"):
        DeltaRuleCell(6, 8, 4, 4, decays=False)


def test_swiglu_by_hand() -> None:
    layer = SwiGLU(3)
    assert layer.leave.in_features == 8
    x = torch.tensor([1.0, -2.0, 0.5])
    expected = torch.zeros(3)
    for unit in range(8):
        gate, value = layer.enter.weight[unit] @ x, layer.enter.weight[8 + unit] @ x
        expected = expected + layer.leave.weight[:, unit] * value * gate / (1 + torch.exp(-gate))
    torch.testing.assert_close(layer(x), expected)
