"""RWKV-4 against its equations in a loop without any scaling, and the model in transformers."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from draws import check_uniform
from retrograde.core.recurrence import sequence, unroll
from retrograde.core.snapshot import gradient_flow
from retrograde.layers.residual import ResidualModel
from retrograde.models.rwkv import ShiftCell, TimeMixingCell, rwkv
from retrograde.tasks.copying import Copying
from retrograde.tasks.temporal_order import TemporalOrder

pytestmark = pytest.mark.usefixtures("float64")

TASK = TemporalOrder(length=10)
HIDDEN = 6


def away(model: Any) -> Any:
    """Away from the start, where much is zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return model


def time_mixing(weights: dict[str, Tensor], stream: Tensor) -> Tensor:
    """σ(r) ⊙ wkv at every time of one sample, every weighted mean summed up anew from the first time on."""
    w, u = torch.exp(weights["log_decay"]), weights["bonus"]
    keys: list[Tensor] = []
    values: list[Tensor] = []
    made = []
    last = torch.zeros(stream.shape[-1])
    for t, x in enumerate(stream):
        k, v, r = (
            weights[name] @ (weights[f"mix_{name}"] * x + (1 - weights[f"mix_{name}"]) * last)
            for name in ("key", "value", "receptance")
        )
        shares = [torch.exp(-(t - 1 - i) * w + keys[i]) for i in range(t)] + [torch.exp(u + k)]
        keys.append(k)
        values.append(v)
        wkv = sum(share * value for share, value in zip(shares, values, strict=True)) / sum(shares)
        made.append(wkv / (1 + torch.exp(-r)))
        last = x
    return torch.stack(made)


def channel_mixing(weights: dict[str, Tensor], stream: Tensor) -> Tensor:
    before = torch.cat([torch.zeros_like(stream[:1]), stream[:-1]])
    mixed = {
        name: stream * weights[f"mix_{name}"] + before * (1 - weights[f"mix_{name}"]) for name in ("key", "receptance")
    }
    key = (mixed["key"] @ weights["key.weight"].T).clamp(min=0) ** 2
    return key @ weights["value.weight"].T / (1 + torch.exp(-mixed["receptance"] @ weights["receptance.weight"].T))


def outputs(model: ResidualModel, tokens: Tensor) -> Tensor:
    """Of one sample, from the paper's equations."""
    x = model.project.weight[:, tokens].T + model.project.bias
    width = x.shape[-1:]
    for at, block in enumerate(model.blocks):
        weights = dict(block.named_parameters())
        if at == 0:
            x = layer_norm(x, width, weights["first.weight"], weights["first.bias"])
        n = layer_norm(x, width, weights["norm.weight"], weights["norm.bias"])
        if at % 2 == 0:
            own = {name.removeprefix("recurrence."): value for name, value in weights.items()}
            x = x + time_mixing(own, n) @ weights["combine.weight"].T
        else:
            x = x + channel_mixing(weights, n)
    return model.readout(layer_norm(x, width, model.norm.weight, model.norm.bias))


def test_it_computes_the_papers_equations_in_values_and_gradients() -> None:
    model = away(rwkv(TASK, hidden=HIDDEN, layers=2, expansion=3))
    batch = TASK.sample(2, torch.Generator().manual_seed(0))
    made = model(batch)
    expected = torch.stack([outputs(model, tokens) for tokens in batch.inputs])
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    parameters = list(model.parameters())
    direction = torch.randn_like(made)
    ours, theirs = (torch.autograd.grad((value * direction).sum(), parameters) for value in (made, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_loop_and_scan_are_the_equations_without_scaling() -> None:
    cell = away(TimeMixingCell(HIDDEN, 1, 3))
    x = torch.randn(1, 50, HIDDEN, requires_grad=True)
    forms = [time_mixing(cell.weights(), x[0])[None], unroll(cell, x)["hidden"][:, 1:], sequence(cell, x)]
    direction = torch.randn_like(forms[0])
    wanted = [x, *cell.parameters()]
    gradients = [torch.autograd.grad((form * direction).sum(), wanted) for form in forms]
    for form, of_form in zip(forms[1:], gradients[1:], strict=True):
        torch.testing.assert_close(form, forms[0], rtol=0, atol=1e-9)
        for one, other in zip(of_form, gradients[0], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("cell", [TimeMixingCell(HIDDEN, 0, 1), ShiftCell(HIDDEN)], ids=["time", "channels"])
def test_the_fast_form_goes_on_from_an_initial_state(cell: TimeMixingCell | ShiftCell) -> None:
    cell = away(cell.double())
    x = torch.randn(3, 40, HIDDEN, requires_grad=True)
    initial = {name: torch.rand(3, *shape, requires_grad=True) for name, shape in cell.components.items()}
    made, expected = sequence(cell, x, initial), unroll(cell, x, initial=initial)[cell.output][:, 1:]
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    direction = torch.randn_like(made)
    leaves = [x, *(value for name, value in initial.items() if name != cell.output), *cell.parameters()]
    ours, theirs = (torch.autograd.grad((value * direction).sum(), leaves) for value in (made, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_the_totals_of_numerator_and_denominator_make_up_that_of_the_exponent() -> None:
    """Scaling a and b by e^-δ while p grows by δ changes nothing: dL/dp = a dL/da + b dL/db."""
    task = Copying(length=4, symbols=3, recall=2)
    model = away(rwkv(task, hidden=HIDDEN, layers=2))
    flow = gradient_flow(model, task, task.sample(2, torch.Generator().manual_seed(0)))
    for block in "02":
        total, state = (
            {name: get(f"{block}.forward.{name}") for name in ("numerator", "denominator", "exponent")}
            for get in (lambda key: flow.gradients[key].total.value(), lambda key: flow.trace.states[key])
        )
        of_both = sum(state[name] * total[name] for name in ("numerator", "denominator"))
        torch.testing.assert_close(total["exponent"], of_both, rtol=1e-9, atol=1e-12)
        assert total["exponent"].abs().max() > 1e-4


def test_a_mean_of_two_values_by_hand() -> None:
    """One channel, no mixing: k = v = x, σ(r) = 1/2; the present weighs e^{u+k}, the past e^k, fading by e^-w."""
    cell = TimeMixingCell(1, 0, 1)
    w, u = 0.5, 0.3
    values = {"log_decay": math.log(w), "bonus": u, "key": 1.0, "value": 1.0, "receptance": 0.0}
    with torch.no_grad():
        for name, parameter in cell.named_parameters():
            parameter.fill_(values.get(name, 1.0))
    made = sequence(cell, torch.tensor([[[2.0], [1.0], [-1.0]]])).flatten()
    first, second, third = math.exp(2), math.exp(1), math.exp(-1)
    now, last = math.exp(u) * second, math.exp(u) * third
    fading = math.exp(-w) * first
    expected = [2.0, (2 * first + now) / (first + now), (2 * fading + second - last) / (fading + second + last)]
    torch.testing.assert_close(2 * made, torch.tensor(expected))


def test_keys_far_outside_the_format_leave_finite_values_and_gradients() -> None:
    """Keys between -500 and 500 in float32: the mean is that of the largest share, as if no other value had been."""
    torch.set_default_dtype(torch.float32)
    cell = TimeMixingCell(1, 0, 1)
    values = {"log_decay": 0.0, "bonus": 0.0, "key": 100.0, "value": 1.0, "receptance": 0.0}
    with torch.no_grad():
        for name, parameter in cell.named_parameters():
            parameter.fill_(values.get(name, 1.0))
    x = torch.tensor([-5.0, -4.0, 5.0, -3.0, 1.0, 4.0]).view(1, 6, 1).requires_grad_()
    for made in (sequence(cell, x), unroll(cell, x)["hidden"][:, 1:]):
        torch.testing.assert_close(2 * made.flatten(), torch.tensor([-5.0, -4.0, 5.0, 5.0, 5.0, 5.0]))
        for gradient in torch.autograd.grad(made.sum(), [x, *cell.parameters()]):
            assert gradient.isfinite().all()


def test_a_step_takes_one_set_of_weights_for_each_seed() -> None:
    cells = [away(TimeMixingCell(HIDDEN, 0, 1)) for _ in range(3)]
    x = torch.randn(3, 5, HIDDEN)
    states = [{name: torch.rand(5, *shape) for name, shape in cells[0].components.items()} for _ in cells]
    together = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    weights = {name: torch.stack([cell.weights()[name] for cell in cells]) for name in cells[0].weights()}
    after = cells[0].step(weights, x, together)
    for seed, cell in enumerate(cells):
        for name, value in cell.step(cell.weights(), x[seed], states[seed]).items():
            torch.testing.assert_close(after[name][seed], value)


def test_a_layer_is_two_blocks_and_starts_as_published() -> None:
    model = rwkv(TASK, hidden=4, layers=2)
    assert [type(block).__name__ for block in model.chain] == ["TimeMixing", "ChannelMixing"] * 2
    last = model.chain[2].recurrence
    assert isinstance(last, TimeMixingCell)
    torch.testing.assert_close(last.log_decay, torch.tensor([-5 + 8 * (h / 3) ** 2.0 for h in range(4)]))
    torch.testing.assert_close(last.bonus, torch.tensor([math.log(0.3) + zigzag for zigzag in (0.0, 0.5, -0.5, 0.0)]))
    torch.testing.assert_close(last.mix_value, torch.tensor([(h / 4) ** 0.5 + 0.3 for h in range(4)]))
    torch.testing.assert_close(last.mix_key, torch.tensor([(h / 4) ** 0.5 for h in range(4)]))
    torch.testing.assert_close(last.mix_receptance, torch.tensor([(h / 4) ** 0.25 for h in range(4)]))
    channels = dict(model.chain[3].named_parameters())
    torch.testing.assert_close(channels["mix_key"], torch.tensor([(h / 4) ** 0.5 for h in range(4)]))
    torch.testing.assert_close(channels["mix_receptance"], torch.tensor([(h / 4) ** 0.5 for h in range(4)]))
    silent = [last.key, last.receptance, dict(model.chain[2].named_parameters())["combine.weight"]]
    silent += [channels["value.weight"], channels["receptance.weight"]]
    assert not any(weight.any() for weight in silent)
    check_uniform(TimeMixingCell(400, 0, 2).value, -0.05, 0.05)
    check_uniform(dict(rwkv(TASK, hidden=400).chain[1].named_parameters())["key.weight"], -0.05, 0.05)


def test_transformers_computes_the_same_model() -> None:
    """Theirs works out wkv in float32."""
    theirs = pytest.importorskip("transformers.models.rwkv.modeling_rwkv")
    settings = theirs.RwkvConfig(
        vocab_size=TASK.inputs.size, hidden_size=8, num_hidden_layers=2, intermediate_size=32, rescale_every=0
    )
    other = theirs.RwkvModel(settings).train()
    model = away(rwkv(TASK, hidden=8, layers=2))
    with torch.no_grad():
        other.embeddings.weight.copy_(model.project.weight.T + model.project.bias)
        for layer, block in enumerate(other.blocks):
            time, channels = (dict(model.chain[2 * layer + at].named_parameters()) for at in (0, 1))
            pairs: dict[str, Tensor] = {
                "attention.time_decay": time["recurrence.log_decay"],
                "attention.time_first": time["recurrence.bonus"],
                "attention.output.weight": time["combine.weight"],
                **{
                    f"attention.time_mix_{name}": time[f"recurrence.mix_{name}"]
                    for name in ("key", "value", "receptance")
                },
                **{f"attention.{name}.weight": time[f"recurrence.{name}"] for name in ("key", "value", "receptance")},
                **{f"feed_forward.time_mix_{name}": channels[f"mix_{name}"] for name in ("key", "receptance")},
                **{
                    f"feed_forward.{name}.weight": channels[f"{name}.weight"] for name in ("key", "receptance", "value")
                },
                **{f"ln1.{part}": time[f"norm.{part}"] for part in ("weight", "bias")},
                **{f"ln2.{part}": channels[f"norm.{part}"] for part in ("weight", "bias")},
            }
            if layer == 0:
                pairs |= {f"pre_ln.{part}": time[f"first.{part}"] for part in ("weight", "bias")}
            own = dict(block.named_parameters())
            assert set(own) == set(pairs)
            for name, value in pairs.items():
                own[name].copy_(value.view_as(own[name]))
        other.ln_out.weight.copy_(model.norm.weight)
        other.ln_out.bias.copy_(model.norm.bias)
    batch = TASK.sample(3, torch.Generator().manual_seed(0))
    expected = model.readout(other(input_ids=batch.inputs, use_cache=False).last_hidden_state)
    torch.testing.assert_close(model(batch), expected, rtol=0, atol=1e-5)


def test_no_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="layers must be at least 1, not 0"):
        rwkv(TASK, layers=0)


def test_half_precision_is_as_good_at_the_end_as_at_the_beginning() -> None:
    """In 8 bits the exponent would swallow slow decays. A bfloat16 is right to one part in 256 or so."""
    cell = TimeMixingCell(HIDDEN, 0, 2)
    with torch.no_grad():
        cell.key.normal_(std=0.2)
    half = cell.bfloat16()
    x = torch.randn(2, 400, HIDDEN).bfloat16()
    states = unroll(half, x)
    assert {name: value.dtype for name, value in states.items()} == {
        **dict.fromkeys(("hidden", "last"), torch.bfloat16),
        **dict.fromkeys(("numerator", "denominator", "exponent"), torch.float32),
    }
    made = [states["hidden"][:, 1:].double(), sequence(half, x).double()]
    expected = sequence(cell.double(), x.double())
    for form in made:
        assert (form - expected).norm() < 0.01 * expected.norm()
