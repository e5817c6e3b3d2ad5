"""Totals out of the fused layers of torch.nn, against a loop from the textbook whose every state is a live node.

The loop goes sample by sample and shares nothing with the code under test. Each state is read under another name by the
layer above, the loss and ``h_n`` than by the next step, so that what reaches it directly can be told from the rest.
"""

import copy
import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from retrograde.core.records import StateGradient
from retrograde.core.scaled import Scaled, log10_norm
from retrograde.core.statuses import CENSORED, FINITE, ZERO
from retrograde.layers import closed_form, compiled, fused, taps
from retrograde.layers.fused import with_totals
from retrograde.layers.taps import tapped

MODULES: dict[str, Callable[[], nn.RNNBase]] = {
    "tanh": lambda: nn.RNN(3, 5),
    "relu, two layers": lambda: nn.RNN(3, 5, 2, nonlinearity="relu"),
    "tanh, both ways, no bias": lambda: nn.RNN(3, 5, bidirectional=True, bias=False),
    "GRU": lambda: nn.GRU(3, 5),
    "GRU, two layers, both ways": lambda: nn.GRU(3, 5, 2, bidirectional=True),
    "GRU, no bias": lambda: nn.GRU(3, 5, bias=False),
    "LSTM": lambda: nn.LSTM(3, 5),
    "LSTM, two layers, both ways": lambda: nn.LSTM(3, 5, 2, bidirectional=True),
    "LSTM, no bias": lambda: nn.LSTM(3, 5, bias=False),
    "LSTM, projected": lambda: nn.LSTM(3, 5, proj_size=2),
    "LSTM, projected, two layers, both ways": lambda: nn.LSTM(3, 5, 2, bidirectional=True, proj_size=2),
}
LENGTHS = {"equal": [7, 7, 7], "sorted": [7, 5, 2], "unsorted": [3, 7, 1]}
TIME = 7
EXACT = 1e-12
"""Of the largest entry, in float64: sums of a few hundred products in another order."""

Totals = dict[str, StateGradient]


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest, float64: None) -> nn.RNNBase:
    return MODULES[request.param]()


@pytest.fixture(params=LENGTHS)
def lengths(request: pytest.FixtureRequest) -> list[int]:
    return LENGTHS[request.param]


@pytest.fixture(params=["closed form", "compiled", "taps"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The ways to the totals; taps are for devices that the tests do not have, and as exact on this one."""
    if request.param == "compiled":
        request.getfixturevalue("cpp")
        monkeypatch.setattr(compiled, "FEWEST", 1)  # several blocks
    else:
        without_compiler(monkeypatch)
    if request.param == "closed form":
        monkeypatch.setattr(closed_form, "LONGEST", 3)  # several chunks
    if request.param == "taps":
        monkeypatch.setattr(fused, "closed", tapped)
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if request.param == "compiled" else threads)
    yield str(request.param)
    torch.set_num_threads(threads)


def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "why_not", lambda: "another way is asked for")


@pytest.fixture(params=["closed form", "compiled"])
def ranging(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the ways that have powers of two, and read what is far below a format."""
    if request.param == "closed form":
        without_compiler(monkeypatch)
    else:
        request.getfixturevalue("cpp")


@dataclass
class Live:
    """What the loop gives; nodes by place, sample and state in the order of time."""

    outputs: list[Tensor]
    last: list[Tensor]
    total: dict[tuple[str, int, int], Tensor]
    read: dict[tuple[str, int, int], Tensor]


def loop(module: nn.RNNBase, x: list[Tensor], begin: list[Tensor]) -> Live:
    """Sample by sample; ``begin`` as the module takes it."""
    live = Live(list(x), [], {}, {})
    ends: list[list[list[Tensor]]] = []
    directions = 2 if module.bidirectional else 1
    for layer in range(module.num_layers):
        made: list[list[Tensor]] = []
        for direction in range(directions):
            suffix = f"_l{layer}" + ("_reverse" if direction else "")
            weights = {
                name.removesuffix(suffix): part for name, part in module.named_parameters() if name.endswith(suffix)
            }
            name = f"{layer}.{('forward', 'backward')[direction]}"
            rows, last = [], []
            for sample, inputs in enumerate(live.outputs):
                state = [part[layer * directions + direction, sample] for part in begin]
                times = range(len(inputs))
                start = TIME if direction else -1
                keep(live, name, sample, start, state, [None] * len(state))
                given: dict[int, Tensor] = {}
                for t in reversed(times) if direction else times:
                    state, shown = equations(module.mode, weights, inputs[t], state)
                    keep(live, name, sample, t, state, shown)
                    given[t] = shown[0]
                rows.append(torch.stack([given[t] for t in times]))
                last.append(shown)
            made.append(rows)
            ends.append(last)
        live.outputs = [torch.cat(parts, -1) for parts in zip(*made, strict=True)]
    live.last = [
        torch.stack([torch.stack([sample[part] for sample in each]) for each in ends]) for part in range(len(begin))
    ]
    return live


def keep(live: Live, name: str, sample: int, time: int, state: list[Tensor], shown: list[Any]) -> None:
    for component, total, read in zip(("hidden", "cell"), state, shown, strict=False):
        live.total[f"{name}.{component}", sample, time] = total
        if read is not None:
            live.read[f"{name}.{component}", sample, time] = read


def equations(mode: str, w: Mapping[str, Tensor], x: Tensor, state: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """A step from the textbook; and the state under other names, for whatever is no step."""
    hidden = state[0]
    from_input, from_hidden = w["weight_ih"] @ x, w["weight_hh"] @ hidden
    if "bias_ih" in w:
        from_input, from_hidden = from_input + w["bias_ih"], from_hidden + w["bias_hh"]
    if mode == "LSTM":
        i, f, g, o = (from_input + from_hidden).chunk(4)
        cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        if "weight_hr" in w:
            hidden = w["weight_hr"] @ hidden
        return [hidden, cell], [hidden * 1, cell * 1]
    if mode == "GRU":
        (ri, zi, ni), (rh, zh, nh) = from_input.chunk(3), from_hidden.chunk(3)
        r, z = (ri + rh).sigmoid(), (zi + zh).sigmoid()
        made = (1 - z) * (ni + r * nh).tanh() + z * hidden
    else:
        made = (from_input + from_hidden).tanh() if mode == "RNN_TANH" else (from_input + from_hidden).relu()
    return [made], [made * 1]


def begun(module: nn.RNNBase, batch: int) -> list[Tensor]:
    widths = [module.proj_size or module.hidden_size, module.hidden_size][: 2 if module.mode == "LSTM" else 1]
    number = module.num_layers * (2 if module.bidirectional else 1)
    return [torch.randn(number, batch, width, requires_grad=True) for width in widths]


def as_given(begin: list[Tensor]) -> Any:
    return begin[0] if len(begin) == 1 else tuple(begin)


def parts(hx: Any) -> list[Tensor]:
    return [hx] if isinstance(hx, Tensor) else list(hx)


def rows(outputs: Tensor | PackedSequence, lengths: list[int]) -> list[Tensor]:
    """The outputs of each sample."""
    padded = pad_packed_sequence(outputs)[0] if isinstance(outputs, PackedSequence) else outputs
    return [padded[:length, sample] for sample, length in enumerate(lengths)]


def loss(outputs: list[Tensor], last: list[Tensor]) -> Tensor:
    """Reads outputs at some times and every last state, all of them differently."""
    generator = torch.Generator().manual_seed(1)
    every = [part[::2] for part in outputs] + last
    return torch.stack([(part * torch.randn(part.shape, generator=generator)).sum() for part in every]).sum()


def inputs(lengths: list[int]) -> tuple[Tensor, Tensor | PackedSequence]:
    x = torch.randn(TIME, len(lengths), 3, requires_grad=True)
    if set(lengths) == {TIME}:
        return x, x
    ordered = lengths == sorted(lengths, reverse=True)
    return x, pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=ordered)


def told(module: nn.RNNBase, given: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any, Totals, list[Tensor]]:
    gradients: Totals = {}
    lengths: list[Tensor] = []

    def report(place: str, gradient: StateGradient, of: Tensor) -> None:
        assert place not in gradients
        gradients[place] = gradient
        lengths.append(of)

    outputs, last = with_totals(module, given, hx, report)
    return outputs, last, gradients, lengths


def assert_same(made: Tensor, expected: Tensor) -> None:
    made, expected = made.detach(), expected.detach()
    assert made.shape == expected.shape
    assert (made - expected).abs().max() <= EXACT * expected.abs().max()


def test_totals_and_direct_gradients_equal_those_of_live_nodes(
    module: nn.RNNBase, lengths: list[int], way: str
) -> None:
    x, given = inputs(lengths)
    begin = begun(module, len(lengths))
    outputs, last, gradients, known = told(module, given, as_given(begin))
    loss(rows(outputs, lengths), parts(last)).backward()
    live = loop(module, [x[:length, sample] for sample, length in enumerate(lengths)], begin)
    value = loss(live.outputs, live.last)
    total = torch.autograd.grad(value, list(live.total.values()), retain_graph=True, materialize_grads=True)
    read = torch.autograd.grad(value, list(live.read.values()), retain_graph=True, materialize_grads=True)
    of_total, of_read = dict(zip(live.total, total, strict=True)), dict(zip(live.read, read, strict=True))
    compared = 0
    for place, gradient in gradients.items():
        shown, direct = gradient.total.value(), gradient.direct.value()
        for sample, length in enumerate(lengths):
            for at, time in enumerate(gradient.times):
                key = place, sample, time
                if key in of_total:
                    largest = float(shown.abs().max())
                    assert (shown[sample, at] - of_total[key]).abs().max() <= EXACT * largest, key
                    expected = of_read.get(key, torch.zeros_like(shown[sample, at]))
                    if place.endswith("cell") and key in of_read:
                        hidden = of_read[place.replace("cell", "hidden"), sample, time]
                        nodes = live.total[place.replace("cell", "hidden"), sample, time], live.total[key]
                        through = torch.autograd.grad(nodes[0], nodes[1], hidden, retain_graph=True)[0]
                        expected = expected + through
                    assert (direct[sample, at] - expected).abs().max() <= EXACT * largest, key
                    compared += 1
                else:
                    assert length <= time
                    assert not shown[sample, at].any() and not direct[sample, at].any()
                    assert not gradient.total.reached[sample, at]
    assert compared == len(of_total)
    assert all(each.tolist() == lengths for each in known)


def test_values_and_gradients_are_those_of_the_module(module: nn.RNNBase, lengths: list[int], way: str) -> None:
    x, given = inputs(lengths)
    begin = begun(module, len(lengths))
    for hx in (None, as_given(begin)):
        learned = [x, *module.parameters(), *([] if hx is None else begin)]
        found = []
        for outputs, last in (module(given, hx), told(module, given, hx)[:2]):
            value = loss(rows(outputs, lengths), parts(last))
            found.append((outputs, last, torch.autograd.grad(value, learned, retain_graph=True)))
        (outputs, last, gradients), (ours, our_last, ours_gradients) = found
        if isinstance(outputs, PackedSequence):
            assert_same(ours.data, outputs.data)
            for one, other in zip(outputs[1:], ours[1:], strict=True):
                assert (one is None and other is None) or torch.equal(one, other)
        else:
            assert_same(ours, outputs)
        for one, other in zip([*parts(our_last), *ours_gradients], [*parts(last), *gradients], strict=True):
            assert_same(one, other)


def test_only_the_last_states_may_be_used(module: nn.RNNBase, way: str) -> None:
    x = torch.randn(TIME, 2, 3)
    found = []
    for _, last in (module(x), told(module, x)[:2]):
        found.append(torch.autograd.grad(loss([], parts(last)), list(module.parameters()), materialize_grads=True))
    for one, other in zip(*found, strict=True):
        assert_same(other, one)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_any_layout_that_the_module_takes(kind: Any, way: str) -> None:
    module = kind(3, 4, batch_first=True, bidirectional=True)
    x = torch.randn(2, 6, 3)
    whole, last, gradients, _ = told(module, x)
    assert_same(whole, module(x)[0])
    whole.square().sum().backward()
    for sample in range(2):
        begin = as_given([torch.zeros(2, 4)] * len(parts(last)))
        for hx in (None, begin):
            outputs, end, alone, lengths = told(module, x[sample], hx)
            assert_same(outputs, module(x[sample])[0])
            assert [part.shape for part in parts(end)] == [part.shape for part in parts(module(x[sample])[1])]
            outputs.square().sum().backward()
            assert [each.tolist() for each in lengths] == [[6]] * len(lengths)
            for place, gradient in alone.items():
                assert_same(gradient.total.value()[0], gradients[place].total.value()[sample])


def test_places_are_told_from_the_top_layer_and_their_times_are_those_of_the_core(float64: None, way: str) -> None:
    module = nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2)
    outputs, _, gradients, _ = told(module, torch.randn(5, 2, 3))
    outputs.sum().backward()
    assert list(gradients) == [
        f"{layer}.{direction}.{component}"
        for layer in (1, 0)
        for direction in ("forward", "backward")
        for component in ("hidden", "cell")
    ]
    for place, gradient in gradients.items():
        assert gradient.times == (range(0, 6) if "backward" in place else range(-1, 5))
        assert gradient.total.value().shape == (2, 6, 2 if "hidden" in place else 4)


def test_a_single_step_of_a_single_sample(module: nn.RNNBase, way: str) -> None:
    x = torch.randn(1, 1, 3)
    outputs, _, gradients, _ = told(module, x)
    assert_same(outputs, module(x)[0])
    made = torch.autograd.grad(outputs.sum(), list(module.parameters()), materialize_grads=True)
    expected = torch.autograd.grad(module(x)[0].sum(), list(module.parameters()), materialize_grads=True)
    for one, other in zip(made, expected, strict=True):
        assert_same(one, other)
    assert all(gradient.total.value().shape[:2] == (1, 2) for gradient in gradients.values())


def test_a_frozen_module_is_told_of_as_any_other(module: nn.RNNBase, way: str) -> None:
    x = torch.randn(TIME, 2, 3)
    found = []
    for frozen in (False, True):
        outputs, _, gradients, _ = told(module.requires_grad_(not frozen), x)
        outputs.square().sum().backward()
        found.append(gradients)
    assert found[0].keys() == found[1].keys()
    for place, gradient in found[0].items():
        assert torch.equal(gradient.total.value(), found[1][place].total.value())


def test_a_second_way_back_tells_the_same(module: nn.RNNBase, way: str) -> None:
    outputs, _, gradients, _ = told(module, torch.randn(TIME, 2, 3))
    value = outputs.square().sum()
    value.backward(retain_graph=True)
    once = dict(gradients)
    gradients.clear()
    value.backward()
    for place, gradient in once.items():
        assert torch.equal(gradient.total.value(), gradients[place].total.value())


def test_a_gradient_of_the_gradient_is_refused(module: nn.RNNBase, way: str) -> None:
    outputs = told(module, torch.randn(TIME, 2, 3))[0]
    with pytest.raises(ValueError, match="create_graph"):
        torch.autograd.grad(outputs.sum(), list(module.parameters()), create_graph=True)


def test_what_a_checkpoint_computes_again_is_told_of_once(module: nn.RNNBase, way: str) -> None:
    x = torch.randn(TIME, 2, 3, requires_grad=True)
    calls: list[Totals] = []

    def outputs(x: Tensor) -> Tensor:
        made, _, gradients, _ = told(module, x)
        calls.append(gradients)
        return made

    found = []
    for made in (outputs(x), checkpoint(outputs, x, use_reentrant=False)):
        found.append(torch.autograd.grad(made.square().sum(), [x, *module.parameters()]))
    for one, other in zip(*found, strict=True):
        assert_same(other, one)
    kept, computed_again, *_ = calls  # what is computed for the second time has no way back of its own
    for place, gradient in kept.items():
        assert torch.equal(gradient.total.value(), computed_again[place].total.value())


@pytest.mark.parametrize("kind", [closed_form.Run, compiled.Along])
def test_totals_are_let_go_of_layer_by_layer(
    kind: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a layer is swept nothing is left of the layers above but what their weights and first states are told."""
    alive: list[weakref.ref[Tensor]] = []

    swept_by = kind.sweep

    def sweep(*given: Any) -> closed_form.Swept:
        assert not any(total() is not None for total in alive)
        swept = swept_by(*given)
        alive.extend(weakref.ref(total) for total in swept.gradients.total.values())
        return swept

    if kind is closed_form.Run:
        without_compiler(monkeypatch)
    else:
        request.getfixturevalue("cpp")
    monkeypatch.setattr(kind, "sweep", sweep)
    with_totals(nn.LSTM(3, 4, 3), torch.randn(TIME, 2, 3), None, lambda *_: None)[0].sum().backward()
    assert len(alive) == 6


class Waits(TorchDispatchMode):
    """Counts how often a number is asked of a tensor, for which a device would have to be waited for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_the_way_forward_waits_for_no_device(module: nn.RNNBase, way: str) -> None:
    with Waits() as waits:
        told(module, torch.randn(TIME, 2, 3))
    assert waits.count == 0


def test_taps_ask_the_kernel_for_no_gradient_of_frozen_weights(
    module: nn.RNNBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    kernel = taps._kernel

    def noting(stack: Any, x: Tensor, begin: Any, weights: list[Tensor]) -> list[Tensor]:
        asked.extend(weight.requires_grad for weight in weights)
        return kernel(stack, x, begin, weights)

    monkeypatch.setattr(taps, "_kernel", noting)
    monkeypatch.setattr(fused, "closed", tapped)
    for frozen in (True, False):
        asked.clear()
        told(module.requires_grad_(not frozen), torch.randn(TIME, 2, 3))
        assert set(asked) == {not frozen}


def test_a_module_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="not of RNNBase"):
        with_totals(nn.RNNBase("GRU", 2, 2), torch.zeros(1, 1, 2), None, lambda *_: None)


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(2, 2, 5), torch.zeros(0, 2, 3), torch.zeros(2, 2, 2, 3)])
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_what_the_module_refuses_is_refused_as_it_does(kind: Any, wrong: Tensor) -> None:
    module = kind(3, 4)
    for call in (module, partial(told, module)):
        with pytest.raises((RuntimeError, ValueError), match=r"RNN|LSTM|GRU|input"):
            call(wrong)


@pytest.mark.parametrize("states", [1, 3])
def test_an_lstm_begins_with_two_states(states: int) -> None:
    with pytest.raises(ValueError, match=f"two states.*; {states} were given"):
        fused._check(nn.LSTM(3, 4), torch.zeros(2, 2, 3), [torch.zeros(1, 2, 4)] * states, batched=True)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_dropout_acts_between_layers_and_its_gradient_is_that_of_what_it_left(kind: Any, way: str) -> None:
    """Under one seed the loss is a function of what the layers begin with, and has its central differences."""
    module = kind(3, 4, 2, dropout=0.5)
    x = torch.randn(6, 2, 3)
    begin = begun(module, 2)

    def value(hx: list[Tensor]) -> tuple[Tensor, Totals]:
        torch.manual_seed(3)
        outputs, _, gradients, _ = told(module, x, as_given(hx))
        return outputs.square().sum(), gradients

    made, gradients = value(begin)
    made.backward()
    for at, begins in enumerate(begin):
        direction = torch.randn_like(begins)
        step = 1e-6
        up, down = (value([*begin[:at], begins + sign * step * direction, *begin[at + 1 :]])[0] for sign in (1, -1))
        component = ("hidden", "cell")[at]
        first = torch.stack([gradients[f"{layer}.forward.{component}"].total.value()[:, 0] for layer in range(2)])
        predicted = (first * direction).sum()
        assert math.isclose((up - down).item() / (2 * step), float(predicted), rel_tol=1e-6)
    module.eval()
    assert_same(told(module, x)[0], module(x)[0])
    module.train()
    module.dropout = 1.0
    assert_same(told(module, x)[0], module(x)[0])


def dropped(dropout: float) -> nn.RNNBase:
    """The upper layer gives what it gets: what dropout makes of its input, 400 times side by side."""
    module = nn.RNN(1, 400, 2, nonlinearity="relu", bias=False, dropout=dropout, dtype=torch.float64)
    for name, part in module.named_parameters():
        part.data.zero_()
        if name == "weight_ih_l0":
            part.data.fill_(1.0)
        if name == "weight_ih_l1":
            part.data.copy_(torch.eye(400))
    return module


def test_the_gradient_of_dropout_is_as_precise_as_the_module(way: str) -> None:
    """The outputs are linear in the inputs, ones; the default type is float32, in which 1 / 0.7 is another number."""
    x = torch.ones(5, 4, 1, dtype=torch.float64, requires_grad=True)
    outputs = told(dropped(0.3), x)[0]
    outputs.sum().backward()
    assert x.grad is not None
    assert_same(x.grad, outputs.sum(-1, keepdim=True))


def test_dropout_leaves_the_share_that_it_should_at_the_size_that_it_should(float64: None, way: str) -> None:
    """Ones, of which a half is left, doubled."""
    given = told(dropped(0.5), torch.ones(5, 4, 1))[0]
    assert set(given.unique().tolist()) == {0.0, 2.0}
    assert abs(given.mean() - 1) < 0.1  # eight thousand draws: nine standard deviations


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_half_precisions_have_the_module_s_values_and_totals_in_float32(kind: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = kind(3, 8, 2).to(dtype)
    x = torch.randn(40, 4, 3).to(dtype)
    outputs, last, gradients, _ = told(module, x)
    expected, expected_last = module(x)
    # an LSTM goes in pieces, between which its cell is rounded, where a processor's kernel may keep it as it is
    rounding = 4 * torch.finfo(dtype).eps if kind is nn.LSTM else 0.0
    for made, its in ((outputs, expected), *zip(parts(last), parts(expected_last), strict=True)):
        torch.testing.assert_close(made, its, rtol=rounding, atol=rounding)
    outputs[-1].float().sum().backward()
    assert all(part.grad is not None and part.grad.dtype == dtype for part in module.parameters())
    whole, _, precise, _ = told(copy.deepcopy(module).float(), x.float())
    whole[-1].sum().backward()
    for place, gradient in gradients.items():
        assert gradient.total.mantissa.dtype == torch.float32
        difference = gradient.total.value() - precise[place].total.value()
        assert difference.abs().max() <= 0.05 * precise[place].total.value().abs().max()


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_under_autocast_values_are_those_of_the_module(kind: Any) -> None:
    torch.manual_seed(0)
    module = kind(3, 8, 2, bidirectional=True)
    x = torch.randn(20, 4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, _, gradients, _ = told(module, x)
        assert torch.equal(outputs, module(x)[0])
        value = outputs.float().sum()
        value.backward()
    assert all(gradient.total.mantissa.dtype == torch.float32 for gradient in gradients.values())
    assert all(part.grad is not None and part.grad.isfinite().all() for part in module.parameters())


def readings(module: nn.RNNBase, x: Tensor, cotangent: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    outputs, _, gradients, _ = told(module, x.to(module.weight_ih_l0.dtype))
    (outputs * cotangent).sum().backward()
    return {place: log10_norm(gradient.total) for place, gradient in gradients.items()}


@pytest.mark.parametrize("length", [300, 1000])
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_what_vanishes_is_read_in_float32_as_in_float64(kind: Any, length: int, ranging: None) -> None:
    """Loss at the last time alone; for the tanh network of 1,000 steps the gradient ends below 1e-200."""
    torch.manual_seed(0)
    module = kind(2, 16, 2)
    x = torch.randn(length, 3, 2)
    cotangent = torch.zeros(length, 3, 16)
    cotangent[-1] = torch.randn(3, 16)
    single, double = readings(module, x, cotangent), readings(copy.deepcopy(module).double(), x, cotangent)
    for place, (norm, status) in single.items():
        assert (status == FINITE).all(), place
        assert (norm - double[place][0]).abs().max() <= 1e-4
    if kind is nn.RNN and length == 1000:
        assert single["1.forward.hidden"][0].min() < -200


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_what_is_said_in_numbers_below_the_normal_ones_is_heard(kind: Any, ranging: None) -> None:
    torch.manual_seed(0)
    module, x = kind(2, 4), torch.randn(6, 3, 2)
    cotangent = torch.full((6, 3, 4), 1e-39)
    single, double = readings(module, x, cotangent), readings(copy.deepcopy(module).double(), x, cotangent)
    for place, (norm, status) in single.items():
        assert (status == FINITE).all()
        assert (norm - double[place][0]).abs().max() <= 1e-4


def test_a_state_of_another_precision_is_refused_as_the_module_does() -> None:
    module, x = nn.LSTM(3, 4).double(), torch.randn(5, 2, 3, dtype=torch.float64)
    begin = torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)
    for call in (lambda: module(x, begin), lambda: told(module, x, begin)):
        with pytest.raises(RuntimeError):
            call()


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_a_direct_gradient_of_another_size_joins_what_has_vanished(kind: Any, ranging: None) -> None:
    """Small at the end, large at the beginning, tiny in the middle: each has to be read where it counts."""
    torch.manual_seed(0)
    module = kind(2, 16)
    x = torch.randn(400, 3, 2)
    cotangent = torch.zeros(400, 3, 16)
    cotangent[-1, 0], cotangent[200], cotangent[0] = 1e-3, 1e-30, 1e3
    single, double = readings(module, x, cotangent), readings(copy.deepcopy(module).double(), x, cotangent)
    for place, (norm, status) in single.items():
        reached = double[place][1] == FINITE
        assert (status[reached] == FINITE).all()
        assert (norm - double[place][0])[reached].abs().max() <= 1e-4
        assert torch.equal(status == ZERO, double[place][1] == ZERO)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_what_vanishes_between_two_chunks_is_not_lost(kind: Any, ranging: None) -> None:
    """The loss is at the first time of the upper chunk: the first step down, by 1e17, is its last."""
    at = closed_form.LONGEST
    module = kind(1, 4)
    for part in module.weight_hh_l0.data.split(4):
        part.copy_(1e-17 * torch.eye(4))
    if kind is not nn.RNN:
        module.bias_ih_l0.data[4:8] = -60.0  # the gate that would keep the state is shut
    cotangent = torch.zeros(2 * at, 2, 4)
    cotangent[at] = 1e-28
    x = torch.randn(2 * at, 2, 1)
    single, double = readings(module, x, cotangent), readings(copy.deepcopy(module).double(), x, cotangent)
    for place, (norm, status) in single.items():
        reached = double[place][1] == FINITE
        assert reached[:, : at + 2].all() and (status[reached] == FINITE).all()
        assert (norm - double[place][0])[reached].abs().max() <= 1e-4


@pytest.mark.parametrize(("shrinking", "most"), [(1.0, 1.0), (16.0, 1.25), (math.inf, 1.0)])
def test_a_sweep_goes_twice_through_little_of_what_vanishes_fast(
    shrinking: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    back = closed_form._ElmanChunk.back

    def counted(chunk: Any, at: int, *given: Any) -> None:
        steps.append(at)
        back(chunk, at, *given)

    without_compiler(monkeypatch)
    monkeypatch.setattr(closed_form._ElmanChunk, "back", counted)
    torch.manual_seed(0)
    module = nn.RNN(2, 16)
    module.weight_hh_l0.data.div_(shrinking)
    told(module, torch.randn(640, 3, 2))[0][-1].sum().backward()
    assert 640 <= len(steps) <= 640 * most


def test_a_sweep_goes_far_again_when_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient keeps its size but where a loss of another size joins it, in one of 20 chunks."""
    pieces: list[slice] = []
    passed = closed_form._Sweep._passed

    def counted(sweep: Any, chunk: Any, first: int, piece: slice, *given: Any) -> bool:
        pieces.append(piece)
        return passed(sweep, chunk, first, piece, *given)

    without_compiler(monkeypatch)
    monkeypatch.setattr(closed_form._Sweep, "_passed", counted)
    module = nn.RNN(1, 4, nonlinearity="relu")
    module.weight_hh_l0.data.copy_(torch.eye(4))
    module.bias_ih_l0.data.fill_(1.0)  # no unit is ever off
    cotangent = torch.zeros(640, 2, 4)
    cotangent[-1], cotangent[310] = 1e-35, 1.0
    readings(module, torch.zeros(640, 2, 1), cotangent)
    assert 20 < len(pieces) < 2 * 20


def test_where_chunks_begin_is_found_once_for_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the time is quadratic in the length."""
    found: list[int] = []
    bounds = closed_form._bounds

    def counted(*given: Any) -> list[tuple[int, int]]:
        found.append(1)
        return bounds(*given)

    without_compiler(monkeypatch)
    monkeypatch.setattr(closed_form, "LONGEST", 1)
    monkeypatch.setattr(closed_form, "_bounds", counted)
    told(nn.GRU(3, 4), torch.randn(50, 2, 3))[0].sum().backward()
    assert len(found) == 2  # on either way


def test_the_projection_of_a_frozen_module_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    unscaled: list[Tensor] = []
    monkeypatch.setattr(closed_form.Scale, "unscaled", lambda _, value: unscaled.append(value) or value)
    module = nn.LSTM(3, 5, proj_size=2, dtype=torch.float64)
    for frozen in (False, True):
        unscaled.clear()
        told(module.requires_grad_(not frozen), torch.randn(TIME, 2, 3, dtype=torch.float64))[0].sum().backward()
        assert bool(unscaled) != frozen


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # which oneDNN does not have
@pytest.mark.parametrize("kind", ["tanh", "GRU", "LSTM", "LSTM, projected"])
def test_weights_take_the_plain_value_of_what_has_vanished(kind: str) -> None:
    """Read at the end from both layers, the lower one's last state beside what has vanished on its way from above."""
    torch.manual_seed(0)
    sizes = {"num_layers": 2} | ({"proj_size": 4} if kind == "LSTM, projected" else {})
    module = {"tanh": nn.RNN, "GRU": nn.GRU}.get(kind, nn.LSTM)(2, 16, **sizes)
    for name, part in module.named_parameters():
        if "weight_hh" in name:
            part.data.div_(4)  # fast enough for several powers of two
    x = torch.randn(200, 3, 2, requires_grad=True)
    found = []
    for each in (module, copy.deepcopy(module).double()):
        outputs, last, gradients, _ = told(each, x.to(each.weight_ih_l0.dtype))
        value = outputs[-1].sum() + sum(part.square().sum() for part in parts(last))
        found.append((torch.autograd.grad(value, [x, *each.parameters()]), gradients))
    (single, in_single), (double, in_double) = found
    for one, other in zip(single, double, strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()
    for place, gradient in in_single.items():
        norm, status = log10_norm(gradient.total)
        assert (status == FINITE).all()
        assert (norm - log10_norm(in_double[place].total)[0]).abs().max() <= 1e-4
        assert norm.min() < -40


def test_a_last_state_alone_reaches_what_led_to_it(float64: None, way: str) -> None:
    """Of the lower layer: nothing comes from above, and yet there is a path."""
    module = nn.LSTM(3, 4, 2)
    _, (hidden, cell), gradients, _ = told(module, torch.randn(5, 2, 3))
    (hidden[0].sum() + cell[0].sum()).backward()
    for place, gradient in gradients.items():
        assert bool(gradient.total.reached.all()) == place.startswith("0"), place
        assert bool(gradient.total.reached.any()) == place.startswith("0"), place
        assert gradient.direct.reached[:, -1].all() == place.startswith("0"), place


def test_below_a_layer_whose_gradient_underflows_there_is_no_true_zero(way: str) -> None:
    """Taps lose it, and say so: the upper backward layer alone is not reached, but where the loss is."""
    torch.manual_seed(0)
    module = nn.RNN(2, 4, 2, bidirectional=True)
    for name, part in module.named_parameters():
        if "weight_hh" in name:
            part.data.div_(16)
    outputs, _, gradients, _ = told(module, torch.randn(60, 1, 2))
    outputs[-1].sum().backward()
    for place, gradient in gradients.items():
        zero = log10_norm(gradient.total)[1] == ZERO
        assert zero.sum() == (59 if place == "1.backward.hidden" else 0), place


def test_what_padding_grows_to_is_nobody_s(way: str) -> None:
    """h_t = 3 h_{t-1} leaves float32 behind the end of the shorter sample, long before that of the longer."""
    module = nn.RNN(1, 1, nonlinearity="relu", bias=False)
    module.weight_ih_l0.data.fill_(1.0)
    x = torch.zeros(150, 2, 1)
    x[0, 1] = 1.0
    given = pack_padded_sequence(x, torch.tensor([150, 3]), enforce_sorted=False)
    module.weight_hh_l0.data.fill_(3.0)
    outputs, _, gradients, _ = told(module, given)
    pad_packed_sequence(outputs)[0][2].sum().backward()
    assert module.weight_hh_l0.grad is not None
    assert module.weight_hh_l0.grad.item() == 6.0  # h_2 = w² x_0, of the shorter sample
    assert gradients["0.forward.hidden"].total.value()[1, :5, 0].tolist() == [27.0, 9.0, 3.0, 1.0, 0.0]


def test_where_no_path_leads_to_the_loss_there_is_a_true_zero_and_no_other(float64: None, way: str) -> None:
    module = nn.RNN(1, 2, nonlinearity="relu")
    module.bias_ih_l0.data.fill_(-100.0)  # nothing passes through the units
    module.bias_hh_l0.data.zero_()
    outputs, _, gradients, _ = told(module, torch.ones(6, 1, 1))
    outputs[3].sum().backward()
    norm, status = log10_norm(gradients["0.forward.hidden"].total)
    assert status[0].tolist() == [CENSORED] * 4 + [FINITE] + [ZERO] * 2
    assert norm[0, -1] == -math.inf


def test_an_explosion_is_told_and_its_weights_are_not_repaired() -> None:
    """h_t = 2 h_{t-1}: the total at t = -1 after 200 steps is 2^200, which float32 does not hold."""
    module = nn.RNN(1, 1, nonlinearity="relu", bias=False)
    module.weight_hh_l0.data.fill_(2.0)
    module.weight_ih_l0.data.fill_(1.0)
    outputs, _, gradients, _ = told(module, torch.full((200, 1, 1), 1e-30))
    outputs[-1].sum().backward()
    norm, status = log10_norm(gradients["0.forward.hidden"].total)
    assert (status == FINITE).all()
    steps = 199 - torch.tensor(list(gradients["0.forward.hidden"].times), dtype=torch.float64)
    torch.testing.assert_close(norm[0], steps * math.log10(2.0), rtol=1e-12, atol=1e-12)
    assert module.weight_ih_l0.grad is not None and not module.weight_ih_l0.grad.isfinite().all()


def test_nothing_stays_behind_when_the_loss_has_gone_back(float64: None) -> None:
    """What the layer kept for its way back is freed by it, as autograd frees its own."""
    module = nn.LSTM(3, 4)
    outputs = told(module, torch.randn(5, 2, 3))[0]
    outputs.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        outputs.sum().backward()


@pytest.mark.usefixtures("float64")
def test_norms_of_a_plain_and_of_a_scaled_gradient_agree() -> None:
    value = torch.randn(2, 3, 4)
    plain, _ = log10_norm(Scaled.of(value))
    torch.testing.assert_close(plain, value.norm(dim=-1).log10())
