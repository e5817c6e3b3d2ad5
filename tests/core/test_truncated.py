"""Truncated back-propagation through time, against loops that stop the gradient by hand."""

from functools import partial

import pytest
import torch
from members import TASKS, built, kinds, stems
from torch import Tensor

from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.losses import sample_means
from retrograde.core.records import Batch, State
from retrograde.core.recurrence import Recurrence, clocked
from retrograde.core.truncated import truncated
from retrograde.layers.encoder_decoder import EncoderDecoder
from retrograde.layers.recurrent import RecurrentModel
from retrograde.layers.residual import ResidualModel
from retrograde.layers.scores.additive import Additive
from retrograde.layers.windows.global_ import Global
from retrograde.models.clockwork_rnn import clockwork_rnn
from retrograde.models.elman import elman
from retrograde.models.gru import gru
from retrograde.models.linear_rnn import LinearCell
from retrograde.models.lstm import lstm
from retrograde.models.seq2seq_bahdanau import seq2seq_bahdanau
from retrograde.models.tcn import TCN
from retrograde.tasks.adding import Adding
from retrograde.tasks.copying import Copying
from retrograde.tasks.reverse import Reverse

pytestmark = pytest.mark.usefixtures("float64")

ALIGNED = [stem for stem in stems("model") if "aligned" in kinds(stem)]
WRITING = [stem for stem in stems("model") if "transduce" in kinds(stem) and "aligned" not in kinds(stem)]
COPYING = Copying(length=6, symbols=3, recall=2)  # ten positions, all of them scored


def drawn(task: Task) -> Batch:
    return task.sample(3, torch.Generator().manual_seed(1))


def gradients(model: SequenceModel, task: Task, batch: Batch, outputs: Tensor) -> list[Tensor]:
    loss = sample_means(task.loss(outputs, batch), batch.scored).sum()
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True))


def check_same(model: SequenceModel, task: Task, batch: Batch, expected: Tensor) -> None:
    """Values and every parameter's gradient; those of the uncut model differ, or nothing would be tested."""
    cut = model(batch)
    torch.testing.assert_close(cut, expected, rtol=0, atol=1e-9)
    made, by_hand = (gradients(model, task, batch, outputs) for outputs in (cut, expected))
    for one, other in zip(made, by_hand, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)
    assert any((one - other).abs().max() > 1e-6 for one, other in zip(made, uncut(model, task, batch), strict=True))


def uncut(model: SequenceModel, task: Task, batch: Batch) -> list[Tensor]:
    length, model.truncation = model.truncation, None
    try:
        return gradients(model, task, batch, model(batch))
    finally:
        model.truncation = length


def stopped(state: State) -> State:
    return {name: value.detach() for name, value in state.items()}


def one_time(recurrence: Recurrence, x: Tensor, time: int, state: State) -> tuple[Tensor, State]:
    """What is read after one input (batch, 1, width), and the state."""
    x, weights = clocked(recurrence, x, start=time)[:, 0], recurrence.weights()
    state = recurrence.step(weights, x, state)
    return recurrence.read(weights, x, state).unsqueeze(1), state


def through_all_layers(model: RecurrentModel | ResidualModel, batch: Batch, length: int) -> Tensor:
    """The outputs by one loop over time, every layer within it, every state stopped at each ``length`` times."""
    inputs = model.embedding(batch.inputs)
    if isinstance(model, ResidualModel):
        inputs = model.entered(inputs)
        cells = [block.recurrence for block in model.chain]
    else:
        cells = [layer[0].recurrence for layer in model.stack.placed]
    states = [cell.initial_state(inputs) for cell in cells]
    made = []
    for time, x in enumerate(inputs.split(1, 1)):
        if time % length == 0:
            states = [stopped(state) for state in states]
        for depth, cell in enumerate(cells):
            if isinstance(model, ResidualModel):
                block = model.chain[depth]
                y, states[depth] = one_time(cell, block.enter(x), time, states[depth])
                x = block.leave(x, y)
            else:
                x, states[depth] = one_time(cell, x, time, states[depth])
        made.append(x)
    top = torch.cat(made, 1)
    return model.readout(model.norm(top) if isinstance(model, ResidualModel) else top)


@pytest.mark.parametrize("stem", ALIGNED)
def test_a_model_of_recurrences_is_cut_as_a_loop_that_stops_every_state_by_hand(stem: str) -> None:
    model = built(stem, COPYING).eval()
    if not model.recurrent:
        pytest.skip("has no recurrence")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # where some begin, nothing is carried
    assert isinstance(model, RecurrentModel | ResidualModel)
    batch = drawn(COPYING)
    model.truncate(4)  # ten times: two whole pieces and a rest
    check_same(model, COPYING, batch, through_all_layers(model, batch, 4))


@pytest.mark.parametrize("make", [elman, gru, lstm, clockwork_rnn])
def test_each_direction_is_cut_in_the_order_in_which_it_reads(make: object) -> None:
    """Sample by sample, each of its own length: a backward direction counts from the sample's end."""
    task = Adding(length=20, markers="first_ten")
    model = make(task, hidden=4, layers=2, bidirectional=True)  # type: ignore[operator]  # a factory
    batch = drawn(task)
    assert len(set(batch.lengths.tolist())) > 1
    outputs = torch.zeros(len(batch), batch.length, task.outputs.size)
    for sample, length in enumerate(batch.lengths.tolist()):
        x = model.embedding(batch.inputs[sample : sample + 1, :length])
        for layer in model.stack.placed:
            made = []
            for placed in layer:
                state, read = placed.recurrence.initial_state(x), []
                for time, each in enumerate((x.flip(1) if placed.backward else x).split(1, 1)):
                    state = stopped(state) if time % 8 == 0 else state
                    y, state = one_time(placed.recurrence, each, time, state)
                    read.append(y)
                made.append(torch.cat(read[::-1] if placed.backward else read, 1))
            x = torch.cat(made, -1)
        outputs[sample, :length] = model.readout(x)[0]
    model.truncate(8)
    expected = outputs.where(batch.scored.unsqueeze(-1), model(batch).detach())
    check_same(model, task, batch, expected)


@pytest.mark.parametrize("stem", WRITING)
def test_a_decoder_is_cut_as_the_loop_over_its_own_steps(stem: str) -> None:
    """The source is shorter than a piece. The gradient still reaches the encoder, from the first piece alone."""
    task = Reverse(symbols=3, shortest=5, longest=5)
    model = built(stem, task).eval()
    if not model.recurrent:
        pytest.skip("has no recurrence")
    assert isinstance(model, EncoderDecoder)
    batch = drawn(task)
    assert batch.decoder_inputs is not None
    carried, made = model.begin(batch), []
    states = {key for layer in model.decoder.placed for placed in layer for key in placed.keys}
    for time, tokens in enumerate(batch.decoder_inputs.unbind(1)):
        if time == 5:
            carried = {key: value.detach() if key in states else value for key, value in carried.items()}
        scores, carried = model.advance(carried, tokens)
        made.append(scores)
    assert time == 5
    model.truncate(5)
    check_same(model, task, batch, torch.stack(made, 1))


def test_an_encoder_is_cut_as_well() -> None:
    """With the decoder uncut, of two target positions, only the encoder's last piece of three learns from its end."""
    task = Reverse(symbols=3, shortest=7, longest=7)
    make = partial(gru, hidden=4)
    model = seq2seq_bahdanau(task, make, make, Additive, Global)
    batch = drawn(task)
    embedded = model.source_embedding(batch.inputs).requires_grad_()
    read = model.encoder(embedded, batch.lengths, 3)
    (felt,) = torch.autograd.grad(read[:, -1].sum(), embedded)
    assert not felt[:, :6].any() and felt[:, 6].all(-1).any()
    model.truncate(3)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(gradients(model, task, batch, model(batch)), uncut(model, task, batch))


@pytest.mark.parametrize("stem", ALIGNED + WRITING)
def test_pieces_as_long_as_the_sequence_change_nothing_at_all(stem: str) -> None:
    task = TASKS[3] if stem in WRITING else COPYING
    model = built(stem, task).eval()
    if not model.recurrent:
        pytest.skip("has no recurrence")
    batch = drawn(task)
    model.truncate(batch.targets.shape[1])
    for one, other in zip(gradients(model, task, batch, model(batch)), uncut(model, task, batch), strict=True):
        assert torch.equal(one, other)


def test_what_was_before_the_last_cut_counts_as_a_constant() -> None:
    """h_t = w h_{t-1} + 1 over four times in pieces of two: dh_3/dw = h_2 + w h_1, and not the whole of it."""
    cell = LinearCell(1, 1, radius=0.5, matrix="normal")
    with torch.no_grad():
        cell.input.fill_(1.0)
        cell.recurrent.fill_(0.5)
    h = [1.0, 1.5, 1.75, 1.875]
    for length, expected in ((2, h[2] + 0.5 * h[1]), (1, h[2]), (4, h[2] + 0.5 * (h[1] + 0.5 * h[0]))):
        read = truncated(cell, torch.ones(1, 4, 1), length)
        assert read.flatten().tolist() == h
        (gradient,) = torch.autograd.grad(read[0, -1, 0], cell.recurrent)
        assert float(gradient) == expected


def test_a_trace_is_never_cut() -> None:
    model = lstm(COPYING, hidden=4)
    batch = drawn(COPYING)
    whole = gradients(model, COPYING, batch, model.trace(batch).outputs)
    model.truncate(2)
    for one, other in zip(gradients(model, COPYING, batch, model.trace(batch).outputs), whole, strict=True):
        assert torch.equal(one, other)


def test_what_cannot_be_truncated_says_so_in_one_line() -> None:
    model = TCN(COPYING, hidden=4, layers=1)
    with pytest.raises(ValueError, match=r"^TCN has no recurrence to truncate$"):
        model.truncate(4)
    model.truncate(None)
    with pytest.raises(ValueError, match="gradients are truncated to must be at least 1, not 0"):
        lstm(COPYING, hidden=4).truncate(0)
