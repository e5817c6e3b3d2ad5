"""Models that this project did not write, against central differences of their own losses.

``torchrecurrent`` is among the requirements of the tests; the others are tried where they are installed:
pip install transformers uisrnn ur-lstm-torch torch-sentiment.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from watched import check_undisturbed, watched

pytestmark = [
    pytest.mark.usefixtures("float64"),
    # what a package does with torch of its time is not ours to mend
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

STEP = 1e-5


@contextmanager
def nudged(module: nn.Module, call: int, place: int | None, nudge: Tensor) -> Iterator[None]:
    """What the module gives in one of its calls (the ``place`` of a tuple) is changed by so much."""
    calls = 0

    def change(_: nn.Module, given: Any, made: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls - 1 != call:
            return made
        changed = list(made) if place is not None else [made]
        before = changed[place or 0]
        after = before + nudge
        if place is None:
            return after
        return tuple(after if part is before else swapped(part, before, after) for part in changed)

    handle = module.register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


def swapped(part: Any, before: Tensor, after: Tensor) -> Any:
    """A tensor that is given twice, as output and as state, is changed in both places."""
    if isinstance(part, tuple):
        return tuple(after if inner is before else inner for inner in part)
    return part


def central_difference(
    loss: Callable[[], Tensor], module: nn.Module, call: int, place: int | None, at: Tensor
) -> float:
    """The norm of the loss's slopes along the entries that ``at`` marks."""
    slopes = []
    for index in at.nonzero():
        sides = []
        for sign in (1, -1):
            nudge = torch.zeros(at.shape)
            nudge[tuple(index)] = sign * STEP
            with torch.no_grad(), nudged(module, call, place, nudge):
                sides.append(loss().item())
        slopes.append((sides[0] - sides[1]) / (2 * STEP))
    return float(np.linalg.norm(slopes))


def row(frame: Any, layer: str, component: str, sample: int, time: int, call: int = 0) -> float:
    (total,) = frame[
        (frame.layer == layer)
        & (frame.component == component)
        & (frame["sample"] == sample)
        & (frame.time == time)
        & (frame.call == call)
    ].total
    return float(10**total)


def marked(shape: tuple[int, ...], *index: Any) -> Tensor:
    at = torch.zeros(shape)
    at[index] = 1
    return at


def test_torchrecurrent_layers_whose_loop_keeps_states_in_a_stack() -> None:
    torchrecurrent = pytest.importorskip("torchrecurrent")
    model = nn.ModuleDict({"rnn": torchrecurrent.MGU(3, 4, num_layers=2, batch_first=True), "head": nn.Linear(4, 2)})
    model.double()
    x = torch.randn(2, 6, 3)

    def loss() -> Tensor:
        return model["head"](model["rnn"](x)[0]).sin().sum()

    frame, flow = watched(model, loss)
    assert flow.left_out == {}
    for layer in range(2):
        rows = frame[frame.layer == f"rnn.cells.{layer}"]
        assert set(rows.component) == {"state"} and sorted(set(rows.time)) == list(range(6))
        for time in (0, 3, 5):
            expected = central_difference(loss, model["rnn"].cells[layer], time, None, marked((2, 4), 1))
            assert row(frame, f"rnn.cells.{layer}", "state", 1, time) == pytest.approx(expected, rel=1e-7)
    # three parts meet at the last state, whose sum depends on their order
    check_undisturbed(model, lambda: model["head"](model["rnn"](x)[0]), tolerance=1e-14)


def test_torchrecurrent_layers_with_two_states() -> None:
    torchrecurrent = pytest.importorskip("torchrecurrent")
    model = nn.ModuleDict({"rnn": torchrecurrent.PeepholeLSTM(3, 4)}).double()
    x = torch.randn(5, 2, 3)

    def loss() -> Tensor:
        return model["rnn"](x)[0].sin().sum()

    frame, flow = watched(model, loss)
    for time in (0, 2, 4):
        expected = central_difference(loss, model["rnn"].cells[0], time, 0, marked((2, 4), 0))
        assert row(frame, "rnn.cells.0", "state.0", 0, time) == pytest.approx(expected, rel=1e-7)
    # the hidden state is made of the cell within a call: what is direct of the latter cannot be told
    assert set(frame[(frame.component == "state.1") & (frame.time < 4)].direct_status) == {"nan"}
    assert "makes one state of another" in flow.left_out["rnn.cells.0: direct"]


def test_a_user_s_own_loop_over_a_torchrecurrent_cell() -> None:
    torchrecurrent = pytest.importorskip("torchrecurrent")
    cell = torchrecurrent.MGUCell(3, 4).double()
    x = torch.randn(2, 5, 3)

    def loss() -> Tensor:
        state, total = None, torch.zeros(())
        for step in x.unbind(1):
            state = cell(step, state)
            total = total + state.sin().sum()
        return total

    frame, _ = watched(nn.ModuleDict({"cell": cell}), loss)
    for time in range(5):
        expected = central_difference(loss, cell, time, None, marked((2, 4), 1))
        assert row(frame, "cell", "state", 1, time) == pytest.approx(expected, rel=1e-7)


def gpt2(**settings: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    sizes = {"n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 11, "n_positions": 16}
    config = transformers.GPT2Config(**sizes, attn_implementation="eager", **settings)
    return transformers.GPT2LMHeadModel(config).double().eval()


def test_a_small_random_gpt2_has_the_gradients_of_its_residual_stream() -> None:
    model, tokens = gpt2(), torch.randint(11, (2, 6))

    def loss() -> Tensor:  # in double precision, which that of the package is not
        return nn.functional.cross_entropy(
            model(tokens, use_cache=False).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
        )

    frame, flow = watched(model, loss)
    for layer in range(2):
        block = model.transformer.h[layer]
        for sample, time in ((0, 0), (1, 3)):
            expected = central_difference(loss, block, 0, None, marked((2, 6, 8), sample, time))
            name = f"transformer.h.{layer}"
            assert row(frame, name, "output", sample, time) == pytest.approx(expected, rel=1e-6)
    maps = {map_.layer: map_.weights for map_ in flow.maps()}
    with torch.no_grad():
        attentions = model(tokens, output_attentions=True).attentions
    assert set(maps) == {"transformer.h.0.attn", "transformer.h.1.attn"}
    np.testing.assert_allclose(maps["transformer.h.1.attn"], attentions[1][0], atol=1e-6)
    check_undisturbed(model, lambda: model(tokens, use_cache=False).logits)


def test_a_hugging_face_attention_that_returns_no_weights_is_named_and_the_rest_is_measured() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(**sizes, vocab_size=11, attn_implementation="sdpa")
    model, tokens = transformers.BertForSequenceClassification(config).double().eval(), torch.randint(11, (3, 6))
    frame, flow = watched(model, lambda: model(tokens, labels=torch.tensor([0, 1, 0])).loss)
    named = [layer for layer, reason in flow.left_out.items() if "returns no weights" in reason]
    assert named and all("attention" in layer for layer in named)
    rows = frame[frame.layer == "bert.encoder.layer.1.output.LayerNorm"]
    assert len(rows) == 3 * 6 and flow.maps() == []


def test_a_hugging_face_model_with_gradient_checkpointing_reads_as_without() -> None:
    model, tokens = gpt2(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0).train(), torch.randint(11, (2, 6))
    frames = []
    for again in (False, True):
        if again:
            model.gradient_checkpointing_enable()
        frame, _ = watched(model, lambda: model(tokens, labels=tokens, use_cache=False).loss)
        rows = frame[frame.layer.isin(["transformer.h.0", "transformer.h.1", "transformer.h.0.mlp.c_fc", "lm_head"])]
        frames.append(rows.sort_values(["layer", "call", "sample", "time"]).reset_index(drop=True))
    assert list(frames[0].layer) == list(frames[1].layer) and set(frames[1].backward) == {0}
    np.testing.assert_allclose(frames[1].total, frames[0].total, rtol=1e-10)


def test_a_packaged_gru_with_packed_sequences() -> None:
    """The network of uisrnn."""
    core = pytest.importorskip("uisrnn.uisrnn").CoreRNN(3, 4, 2, 2).double()
    lengths = torch.tensor([5, 3, 2])
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(5, 3, 3), lengths)
    begin = torch.randn(2, 3, 4, requires_grad=True)

    def loss() -> Tensor:
        return core(packed, begin)[0].sin().sum()

    (gradient,) = torch.autograd.grad(loss(), begin)
    frame, flow = watched(core, loss)
    for layer in range(2):
        for sample in range(3):
            found = row(frame, f"gru.{layer}.forward", "hidden", sample, -1)
            assert found == pytest.approx(gradient[layer, sample].norm().item(), rel=1e-9)
    times = frame[frame.layer == "gru.0.forward"].groupby("sample").time.max()
    assert times.to_list() == [4, 2, 1] and flow.left_out == {}


def test_a_packaged_lstm_variant_that_gives_its_hidden_state_twice() -> None:
    """UR-LSTM: a cell that returns (h, (h, c)), in a layer that keeps its own loop."""
    model = pytest.importorskip("ur_lstm").URLSTM(3, 4, 2, batch_first=True).double()
    x = torch.randn(2, 5, 3)

    def loss() -> Tensor:
        return model(x)[0].sin().sum()

    frame, _ = watched(model, loss)
    for layer in range(2):
        for time in (0, 2, 4):
            expected = central_difference(loss, model.layers[layer], time, 0, marked((2, 4), 1))
            assert row(frame, f"layers.{layer}", "state.0", 1, time) == pytest.approx(expected, rel=1e-7)
    check_undisturbed(model, lambda: model(x)[0])


@contextmanager
def nudged_within(lstm: nn.LSTM, time: int, component: str, nudge: Tensor) -> Iterator[None]:
    """The state (sample, width) that an LSTM (time, sample, width) has at one time is changed by so much.

    It runs up to there, and on from there; t = -1 is the state that it begins with. A changed cell opens into the
    hidden state of the same time, h = o tanh c.
    """
    own = lstm.forward

    def in_two_parts(x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden = cell = x.new_zeros(1, x.shape[1], lstm.hidden_size)
        outputs = []
        if time >= 0:
            before, (hidden, cell) = own(x[: time + 1])
            outputs.append(before[:-1])
        if component == "cell":
            gate = hidden / cell.tanh() if time >= 0 else 0.0
            cell = cell + nudge
            hidden = gate * cell.tanh()
        else:
            hidden = hidden + nudge
        if time >= 0:
            outputs.append(hidden)
        if time + 1 < len(x):
            after, (hidden, cell) = own(x[time + 1 :], (hidden, cell))
            outputs.append(after)
        return torch.cat(outputs), (hidden, cell)

    vars(lstm)["forward"] = in_two_parts
    try:
        yield
    finally:
        del vars(lstm)["forward"]


@pytest.mark.parametrize("component", ["hidden", "cell"])
def test_a_packaged_recurrent_classifier_against_central_differences_of_its_states(component: str) -> None:
    """The sentiment classifier of torch-sentiment: an embedding with dropout in place, an LSTM, two linear layers."""
    model = pytest.importorskip("torch_sentiment.rnn.model").RNN(4, 6, torch.randn(11, 5)).double().eval()
    tokens, labels = torch.randint(11, (4, 6)), torch.tensor([0.0, 1.0, 1.0, 0.0])

    def loss() -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(model(tokens), labels)

    def slope(time: int, sample: int, unit: int) -> float:
        sides = []
        for sign in (1, -1):
            nudge = sign * STEP * marked((1, 5, 6), 0, sample, unit)
            with torch.no_grad(), nudged_within(model.lstm, time, component, nudge):
                sides.append(loss().item())
        return (sides[0] - sides[1]) / (2 * STEP)

    frame, flow = watched(model, loss)
    assert not any(layer.startswith("lstm") for layer in flow.left_out)
    # it hands its LSTM the samples as times, and the embedding's entries as the batch
    for time in range(-1, 4):
        for sample in (0, 4):
            expected = float(np.linalg.norm([slope(time, sample, unit) for unit in range(6)]))
            found = row(frame, "lstm.0.forward", component, sample, time)
            assert found == pytest.approx(expected, rel=1e-6)


def test_a_packaged_classifier_with_dropout_in_place_is_left_undisturbed() -> None:
    model = pytest.importorskip("torch_sentiment.rnn.model").RNN(4, 6, torch.randn(11, 5)).double()
    tokens = torch.randint(11, (4, 6))
    check_undisturbed(model, lambda: model(tokens), tolerance=1e-12)
