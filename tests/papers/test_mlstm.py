"""The matrix LSTM against a loop without stabiliser, the xlstm package, and what scaling leaves alone."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from model_contract import check_totals_are_finite_differences
from torch import Tensor, nn
from torch.nn.functional import group_norm, layer_norm

from draws import check_gaussian, check_uniform
from retrograde.core.recurrence import sequence, unroll
from retrograde.core.snapshot import gradient_flow
from retrograde.layers.residual import ResidualModel
from retrograde.models.mlstm import MatrixLSTMCell, fraction, mlstm
from retrograde.tasks.copying import Copying
from retrograde.tasks.temporal_order import TemporalOrder

pytestmark = pytest.mark.usefixtures("float64")

TASK = TemporalOrder(length=10)
INNER, HEADS, BLOCK = 8, 2, 4


def away(model: nn.Module) -> Any:
    """Away from the start: gates that read, on either side of their maximum, and |n · q| on either side of 1."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("query", "key", "value", "filter")):
                parameter.copy_(0.8 * torch.randn_like(parameter))
            elif name.endswith(("input_gate", "forget_gate", "forget_bias", "input_bias")):
                parameter.copy_(0.6 * torch.randn_like(parameter))
    return model


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def written_out(weights: dict[str, Tensor], stream: list[Tensor], heads: int, forget: str) -> tuple[list[Tensor], bool]:
    """[y; c] of one sample at every time from the equations before stabilisation; and whether 1 was ever exceeded."""
    query, key, value = (torch.block_diag(*weights[name]) for name in ("query", "key", "value"))
    inner = len(stream[0])
    size = inner // heads
    memory = [torch.zeros(size, size) for _ in range(heads)]
    normaliser = [torch.zeros(size) for _ in range(heads)]
    made, above = [], []
    taps = weights["filter"].shape[1]
    for t, u in enumerate(stream):
        window = range(max(0, t - taps + 1), t + 1)
        c = silu(sum(weights["filter"][:, taps - 1 - t + i] * stream[i] for i in window) + weights["filter_bias"])
        q, k, v = query @ c, key @ c, value @ u
        together = torch.cat([q, k, v])
        i = torch.exp(weights["input_gate"] @ together + weights["input_bias"])
        raw = weights["forget_gate"] @ together + weights["forget_bias"]
        f = torch.exp(raw) if forget == "exponential" else 1 / (1 + torch.exp(-raw))
        read = []
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            memory[head] = f[head] * memory[head] + i[head] * torch.outer(v[own], k[own]) / math.sqrt(size)
            normaliser[head] = f[head] * normaliser[head] + i[head] * k[own] / math.sqrt(size)
            below = (normaliser[head] @ q[own]).abs()
            above.append(bool(below > 1))
            read.append(memory[head] @ q[own] / below.clamp(min=1))
        made.append(torch.cat([*read, c]))
    return made, any(above) and not all(above)


def outputs(model: ResidualModel, tokens: list[int], heads: int, forget: str) -> Tensor:
    """Of one sample, from the paper's equations."""
    x = torch.stack([model.project.weight[:, token] + model.project.bias for token in tokens])
    for block in model.blocks:
        weights = dict(block.named_parameters())
        own = {name.removeprefix("recurrence."): value for name, value in weights.items()}
        n = layer_norm(x, x.shape[-1:], weights["norm.weight"])
        u, z = (n @ weights["enlarge.weight"].T).chunk(2, -1)
        y, c = torch.stack(written_out(own, list(u), heads, forget)[0]).chunk(2, -1)
        normed = group_norm(y, heads, weights["head_norm.weight"], weights["head_norm.bias"])
        x = x + ((normed + weights["skip"] * c) * silu(z)) @ weights["reduce.weight"].T
    return model.readout(layer_norm(x, x.shape[-1:], model.norm.weight))


@pytest.mark.parametrize("forget", ["sigmoid", "exponential"])
def test_it_computes_the_papers_equations_in_values_and_gradients(forget: Any) -> None:
    model = away(mlstm(TASK, hidden=4, layers=2, heads=HEADS, forget=forget))
    batch = TASK.sample(2, torch.Generator().manual_seed(0))
    made = model(batch)
    expected = torch.stack([outputs(model, tokens, HEADS, forget) for tokens in batch.inputs.tolist()])
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    parameters = list(model.parameters())
    direction = torch.randn_like(made)
    ours, theirs = (torch.autograd.grad((value * direction).sum(), parameters) for value in (made, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("forget", ["sigmoid", "exponential"])
def test_loop_and_chunks_are_the_equations_without_stabiliser(forget: Any) -> None:
    cell = away(MatrixLSTMCell(INNER, INNER, HEADS, 4, BLOCK, forget))
    x = torch.randn(1, 50, INNER, requires_grad=True)
    rows, both_sides = written_out(dict(cell.named_parameters()), list(x[0]), HEADS, forget)
    assert both_sides
    states = {name: value[:, 1:] for name, value in unroll(cell, x).items()}
    forms = [torch.stack(rows)[None], cell.read(cell.weights(), x, states), sequence(cell, x)]
    direction = torch.randn_like(forms[0])
    wanted = [x, *cell.parameters()]
    gradients = [torch.autograd.grad((form * direction).sum(), wanted) for form in forms]
    for form, of_form in zip(forms[1:], gradients[1:], strict=True):
        torch.testing.assert_close(form, forms[0], rtol=0, atol=1e-9)
        for one, other in zip(of_form, gradients[0], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("forget", ["sigmoid", "exponential"])
@pytest.mark.parametrize("convolution", [1, 4])
def test_the_chunked_form_goes_on_from_an_initial_state(forget: Any, convolution: int) -> None:
    cell = away(MatrixLSTMCell(INNER, INNER, HEADS, convolution, BLOCK, forget))
    x = torch.randn(3, 40, INNER, requires_grad=True)
    initial = {name: torch.randn(3, *shape, requires_grad=True) for name, shape in cell.components.items()}
    states = {name: value[:, 1:] for name, value in unroll(cell, x, initial=initial).items()}
    made, expected = sequence(cell, x, initial), cell.read(cell.weights(), x, states)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    direction = torch.randn_like(made)
    leaves = [x, *initial.values(), *cell.parameters()]
    ours, theirs = (torch.autograd.grad((value * direction).sum(), leaves) for value in (made, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_the_totals_of_memory_and_normaliser_make_up_that_of_the_stabiliser() -> None:
    """Scaling C and n by e^-δ while m grows by δ changes nothing: dL/dm = Σ C dL/dC + n · dL/dn, at every time."""
    task = Copying(length=4, symbols=3, recall=2)
    model = away(mlstm(task, hidden=4, layers=2, heads=HEADS))
    batch = task.sample(2, torch.Generator().manual_seed(0))
    flow = gradient_flow(model, task, batch)
    for layer in "01":
        total, state = (
            {name: get(f"{layer}.forward.{name}") for name in ("memory", "normaliser", "stabiliser")}
            for get in (lambda key: flow.gradients[key].total.value(), lambda key: flow.trace.states[key])
        )
        of_both = (state["memory"] * total["memory"]).sum((-1, -2)) + (state["normaliser"] * total["normaliser"]).sum(
            -1
        )
        torch.testing.assert_close(total["stabiliser"], of_both, rtol=1e-9, atol=1e-12)
        assert total["stabiliser"].abs().max() > 1e-4


def test_totals_are_central_differences_where_the_normaliser_matters() -> None:
    """The contract's own check, where |n · q| is on either side of 1 and the normaliser has a gradient too."""
    task = Copying(length=4, symbols=3, recall=2)
    model = away(mlstm(task, hidden=4, layers=2, heads=HEADS))
    check_totals_are_finite_differences(model, task, task.sample(3, torch.Generator().manual_seed(1)))


def test_one_step_by_hand() -> None:
    """Width 1, u = 2, no convolution but a factor; log i = 1 and f = σ(0) = 1/2 from C = 3, n = 1, m = 0."""
    cell = MatrixLSTMCell(1, 1, 1, 1, 1, "sigmoid")
    values = {"filter": 1.0, "filter_bias": 0.0, "query": 2.0, "key": 0.5, "value": 3.0}
    values |= {"input_gate": 0.0, "input_bias": 1.0, "forget_gate": 0.0, "forget_bias": 0.0}
    weights = {name: torch.full_like(part, values[name]) for name, part in cell.weights().items()}
    state = {"memory": 3.0, "normaliser": 1.0, "stabiliser": 0.0, "window": 9.0}
    before = {name: torch.full((1, *shape), state[name]) for name, shape in cell.components.items()}
    x = torch.tensor([[2.0]])
    after = cell.step(weights, x, before)
    c = 2 / (1 + math.exp(-2))
    kept, key = 0.5 * math.exp(-1), 0.5 * c
    expected = {"memory": kept * 3 + key * 6, "normaliser": kept + key, "stabiliser": 1.0, "window": 2.0}
    assert {name: value.item() for name, value in after.items()} == pytest.approx(expected, rel=1e-14)
    y = expected["memory"] * 2 * c / max(expected["normaliser"] * 2 * c, math.exp(-1))
    assert cell.read(weights, x, after)[0].tolist() == pytest.approx([y, c], rel=1e-14)


def test_the_fraction_is_the_papers_on_both_sides_of_its_maximum_and_of_zero() -> None:
    found, weight, m = torch.randn(200, 3), torch.randn(200), 2 * torch.randn(200)
    expected = found / torch.maximum(weight.abs(), torch.exp(-m)).unsqueeze(-1)
    torch.testing.assert_close(fraction(found, weight, m), expected)


@pytest.mark.parametrize("bias", [300.0, -300.0])
def test_gates_far_outside_the_format_leave_finite_values_and_gradients(bias: float) -> None:
    """e^300 is no float32, and e^-300 nothing: with it C and n scale together, without it nothing is remembered."""
    torch.set_default_dtype(torch.float32)
    cell = MatrixLSTMCell(INNER, INNER, HEADS, 4, BLOCK, "exponential")
    with torch.no_grad():
        cell.input_bias.fill_(bias)
        cell.forget_bias.fill_(bias / 10)
    x = torch.randn(2, 40, INNER, requires_grad=True)
    states = {name: value[:, 1:] for name, value in unroll(cell, x).items()}
    for made in (cell.read(cell.weights(), x, states), sequence(cell, x)):
        assert made.isfinite().all()
        assert made[..., :INNER].any() == (bias > 0)
        for gradient in torch.autograd.grad(made.square().sum(), [x, *cell.parameters()]):
            assert gradient.isfinite().all()


@pytest.mark.parametrize(("scale", "bias"), [(0.0, 100.0), (0.0, 200.0), (100.0, 0.0)])
def test_gates_far_apart_read_what_their_logarithms_say(scale: float, bias: float) -> None:
    """In float32, loop and chunks, against Σ_j e^{l_j} (k_j·q) v_j / max(|Σ_j e^{l_j} k_j·q|, 1) of logarithms l."""
    torch.set_default_dtype(torch.float32)
    cell = away(MatrixLSTMCell(INNER, INNER, HEADS, 4, BLOCK, "exponential"))
    with torch.no_grad():
        for name in ("input_gate", "forget_gate", "input_bias"):
            getattr(cell, name).mul_(scale)
        cell.forget_bias.fill_(bias)
    x = torch.randn(2, 40, INNER, requires_grad=True)
    states = {name: value[:, 1:] for name, value in unroll(cell, x).items()}
    forms = [cell.read(cell.weights(), x, states)[..., :INNER], sequence(cell, x)[..., :INNER]]

    weights = {name: weight.detach().double() for name, weight in cell.weights().items()}
    exact = x.detach().double()
    windows = torch.cat([torch.zeros(2, 3, INNER).double(), exact], 1).unfold(1, 4, 1)
    mixed = torch.nn.functional.silu((windows * weights["filter"]).sum(-1) + weights["filter_bias"])
    query, key, value, log_input, log_forget = cell.parts(weights, exact, mixed)
    forgotten = log_forget.cumsum(1)
    logits = (forgotten.unsqueeze(2) - forgotten.unsqueeze(1) + log_input.unsqueeze(1)).masked_fill(
        torch.ones(40, 40).triu(1).bool()[None, :, :, None], -torch.inf
    )
    largest = logits.amax(2, keepdim=True)
    shares = torch.exp(logits - largest) * torch.einsum("bthd,bjhd->btjh", query, key)
    below = torch.maximum(shares.sum(2).abs(), torch.exp(-largest.squeeze(2)))
    expected = (torch.einsum("btjh,bjhd->bthd", shares, value) / below.unsqueeze(-1)).flatten(2)
    for made in forms:
        # where keys and query are nearly orthogonal the fraction amplifies the rounding: so of the whole
        assert (made.double() - expected).norm() < 1e-3 * expected.norm()
        for gradient in torch.autograd.grad(made.sum(), [x, *cell.parameters()]):
            assert gradient.isfinite().all()


def test_half_precision_forgets_in_the_loop_as_in_chunks() -> None:
    """In 8 bits the stabiliser would swallow log f, and nothing fade. A bfloat16 is right to one part in 256 or so."""
    cell = MatrixLSTMCell(INNER, INNER, HEADS, 4, BLOCK, "sigmoid").bfloat16()
    x = torch.randn(2, 400, INNER).bfloat16()
    states = {name: value[:, 1:] for name, value in unroll(cell, x).items()}
    assert {states[name].dtype for name in ("memory", "normaliser", "stabiliser")} == {torch.float32}
    forms = [cell.read(cell.weights(), x, states), sequence(cell, x)]
    assert {made.dtype for made in forms} == {torch.bfloat16}
    expected = sequence(cell.double(), x.double())[..., :INNER]
    for made in forms:
        assert (made[..., :INNER].double() - expected).norm() < 0.015 * expected.norm()


def test_it_starts_as_in_the_package() -> None:
    """Gates that read nothing yet; W_up and W_qkv with variance 2 / (5 hidden), W_down with 4 / (layers² hidden)."""
    model = mlstm(TASK, hidden=100, layers=3, heads=4)
    for block in model.chain:
        parts = dict(block.named_parameters())
        assert not parts["recurrence.input_gate"].any() and not parts["recurrence.forget_gate"].any()
        assert parts["recurrence.forget_bias"].tolist() == [3.0, 4.0, 5.0, 6.0]
        assert (parts["skip"] == 1).all()
        check_gaussian(parts["enlarge.weight"], 2 / 500)
        check_gaussian(parts["reduce.weight"], 4 / (9 * 100))
        for name in ("query", "key", "value"):
            check_gaussian(parts[f"recurrence.{name}"], 2 / 500)
    many = MatrixLSTMCell(8000, 100, 2000, 4, 4, "exponential")
    check_gaussian(many.input_bias, 0.01)
    torch.testing.assert_close(torch.sigmoid(torch.linspace(3, 6, 2000)), many.forget_bias.exp())
    check_uniform(many.filter, -0.5, 0.5)
    check_uniform(many.filter_bias, -0.5, 0.5)


def test_a_step_takes_one_set_of_weights_for_each_seed() -> None:
    cells = [away(MatrixLSTMCell(INNER, INNER, HEADS, 4, BLOCK, "sigmoid")) for _ in range(3)]
    x = torch.randn(3, 5, INNER)
    states = [{name: torch.randn(5, *shape) for name, shape in cells[0].components.items()} for _ in cells]
    together = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    weights = {name: torch.stack([cell.weights()[name] for cell in cells]) for name in cells[0].weights()}
    after = cells[0].step(weights, x, together)
    read = cells[0].read(weights, x, after)
    for seed, cell in enumerate(cells):
        alone = cell.step(cell.weights(), x[seed], states[seed])
        for name, value in alone.items():
            torch.testing.assert_close(after[name][seed], value)
        torch.testing.assert_close(read[seed], cell.read(cell.weights(), x[seed], alone))


def test_the_xlstm_package_computes_the_same_block() -> None:
    """In its parallel form, without the 1e-6 that theirs adds to the lower part of the fraction."""
    layers = pytest.importorskip("xlstm.blocks.mlstm.layer")
    block = mlstm(TASK, hidden=32, layers=1).chain[0]
    theirs = layers.mLSTMLayer(layers.mLSTMLayerConfig(embedding_dim=32, context_length=30))
    theirs.mlstm_cell.backend_fn = partial(theirs.mlstm_cell.backend_fn, eps=0.0)
    own = dict(block.named_parameters())
    with torch.no_grad():
        own["recurrence.input_gate"].normal_()
        own["recurrence.forget_gate"].normal_()
    pairs = {
        "proj_up.weight": own["enlarge.weight"],
        "proj_down.weight": own["reduce.weight"],
        "learnable_skip": own["skip"],
        "conv1d.conv.weight": own["recurrence.filter"].unsqueeze(1),
        "conv1d.conv.bias": own["recurrence.filter_bias"],
        "mlstm_cell.outnorm.weight": own["head_norm.weight"] - 1,  # theirs is 1 + weight, without a bias
        **{f"{name[0]}_proj.weight": own[f"recurrence.{name}"] for name in ("query", "key", "value")},
        **{f"mlstm_cell.{name[0]}gate.weight": own[f"recurrence.{name}_gate"] for name in ("input", "forget")},
        **{f"mlstm_cell.{name[0]}gate.bias": own[f"recurrence.{name}_bias"] for name in ("input", "forget")},
    }
    assert set(pairs) == set(dict(theirs.named_parameters()))
    x = torch.randn(2, 30, 32, requires_grad=True)
    n = layer_norm(x, (32,), own["norm.weight"])
    expected = x + torch.func.functional_call(theirs, pairs, (n,))
    made = block.leave(x, sequence(block.recurrence, block.enter(x)))
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    direction = torch.randn_like(made)
    leaves = [x, *(parameter for name, parameter in own.items() if name != "head_norm.bias")]
    ours, others = (torch.autograd.grad((value * direction).sum(), leaves) for value in (made, expected))
    for one, other in zip(ours, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hidden": 6, "heads": 5}, "expansion · hidden must be a multiple of heads; 12 is none of 5"),
        ({"hidden": 6, "block": 5}, "expansion · hidden must be a multiple of block; 12 is none of 5"),
        ({"convolution": 0}, "convolution must be at least 1, not 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        mlstm(TASK, **settings)
