"""truncation by hand, against loops that are cut by hand, and where nothing is cut."""

import numpy as np
import pytest
import torch
from torch import Tensor

from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.losses import sample_means
from retrograde.core.records import Batch, Reading
from retrograde.core.snapshot import snapshot
from retrograde.models.elman import elman
from retrograde.models.gru import gru
from retrograde.models.linear_rnn import linear_rnn
from retrograde.models.lru import lru
from retrograde.models.lstm import lstm
from retrograde.models.seq2seq import seq2seq
from retrograde.models.tcn import TCN
from retrograde.probes.truncation import Truncation, lengths
from retrograde.tasks.adding import Adding
from retrograde.tasks.copying import Copying
from retrograde.tasks.reverse import Reverse
from retrograde.tasks.temporal_order import TemporalOrder

pytestmark = pytest.mark.usefixtures("float64")


def drawn(task: Task, count: int = 3) -> Batch:
    return task.sample(count, torch.Generator().manual_seed(1))


def readings(model: SequenceModel, task: Task, batch: Batch, samples: int = 32) -> dict[str, Reading]:
    return {reading.name: reading for reading in Truncation(samples)(snapshot(model, task, batch, 0))}


def by_hand(model: SequenceModel, task: Task, batch: Batch, length: int) -> dict[str, Tensor]:
    """The gradient by a loop over time whose hidden state is stopped."""
    cell = model.stack.placed[0][0].recurrence  # type: ignore[union-attr, index]  # a recurrent model
    x = model.embedding(batch.inputs)  # type: ignore[operator]  # a module
    hidden, made = torch.zeros(len(batch), 4), []
    for time in range(x.shape[1]):
        hidden = hidden.detach() if time % length == 0 else hidden
        hidden = cell.step(cell.weights(), x[:, time], {"hidden": hidden})["hidden"]
        made.append(hidden)
    outputs = model.readout(torch.stack(made, 1))  # type: ignore[operator]  # a module
    loss = sample_means(task.loss(outputs, batch), batch.scored).mean()
    parameters = dict(model.named_parameters())
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def test_lengths_are_powers_of_two_and_the_whole() -> None:
    for length, expected in ((10, [1, 2, 4, 8, 10]), (8, [1, 2, 4, 8]), (1, [1])):
        task = Adding(length=max(length, 2))
        batch = drawn(task)
        batch = Batch(batch.inputs[:, :length], batch.targets[:, :length], batch.scored[:, :length], batch.lengths)
        assert lengths(batch) == expected


def test_cosine_and_error_are_those_of_loops_that_stop_the_state() -> None:
    task = Copying(length=5, symbols=3, recall=2)
    model, batch = elman(task, hidden=4), drawn(task)
    made = readings(model, task, batch)
    cosine, error = made["cosine/parameters"], made["error/parameters"]
    assert list(cosine.dims["length"]) == [1, 2, 4, 8, 9]
    full = by_hand(model, task, batch, 9)
    assert list(cosine.dims["parameter"]) == [*full, "all"]
    for column, length in enumerate(cosine.dims["length"]):
        cut = by_hand(model, task, batch, length)
        pairs = [(cut[name].flatten(), full[name].flatten()) for name in full]
        pairs.append((torch.cat([one for one, _ in pairs]), torch.cat([other for _, other in pairs])))
        for row, (one, other) in enumerate(pairs):
            expected = torch.nn.functional.cosine_similarity(one, other, 0).item()
            np.testing.assert_allclose(cosine.values[row, column], expected, rtol=1e-9)
            np.testing.assert_allclose(error.values[row, column], ((one - other).norm() / other.norm()), atol=1e-9)
    assert error.values[-1, 0] > 0.01


@pytest.mark.parametrize("make", [elman, gru, lstm, lru])
def test_from_the_sequences_length_on_nothing_is_lost_at_all(make: object) -> None:
    task = TemporalOrder(length=10)
    made = readings(make(task, 4), task, drawn(task))  # type: ignore[operator]  # a factory
    assert (made["cosine/parameters"].values[:, -1] == 1).all()
    assert (made["error/parameters"].values[:, -1] == 0).all()
    assert (made["error/parameters"].values[-1, :-1] > 0).all()


def test_a_read_out_is_what_is_learnt_without_looking_back() -> None:
    task = Copying(length=5, symbols=3, recall=2)
    made = readings(lstm(task, hidden=4), task, drawn(task))
    names = list(made["error/parameters"].dims["parameter"])
    for name in ("readout.weight", "readout.bias"):
        np.testing.assert_allclose(made["error/parameters"].values[names.index(name)], 0, atol=1e-12)


def test_of_one_weight_the_bias_is_the_sum_that_is_left_out() -> None:
    """h_t = w h_{t-1} + 1 over four times, w = ½: dh_3/dw = h_2 + w h_1 + w² h_0 = 2.75, of which K = 2 keeps 2.5."""
    task = Adding(length=4)
    model = linear_rnn(task, hidden=1)
    cell = model.stack.placed[0][0].recurrence
    with torch.no_grad():
        cell.recurrent.fill_(0.5)
        cell.input.fill_(1.0)
    batch = drawn(task, 1)
    batch.inputs[:] = torch.tensor([1.0, 0.0])
    made = readings(model, task, batch)
    at = [name.endswith("recurrent") for name in made["error/parameters"].dims["parameter"]].index(True)
    np.testing.assert_allclose(made["error/parameters"].values[at], [1 / 2.75, 0.25 / 2.75, 0], rtol=1e-12)
    np.testing.assert_allclose(made["cosine/parameters"].values[at], 1, rtol=1e-12)
    with torch.no_grad():  # h_0 = h_1 = 1, h_2 = 1 again: 1 + w h_1 + w² h_0, w = -1 and x_1, x_2 two
        cell.recurrent.fill_(-1.0)
    batch.inputs[0, :, 0] = torch.tensor([1.0, 2.0, 2.0, 2.0])
    made = readings(model, task, batch)
    np.testing.assert_allclose(made["error/parameters"].values[at], [0, 1, 0], atol=1e-12)  # 1 against 1 - 1 + 1, and 0


def test_the_model_is_left_as_it_was_truncated() -> None:
    task = Adding(length=6)
    model = gru(task, hidden=4)
    model.truncate(2)
    as_it_is = readings(model, task, drawn(task))
    assert model.truncation == 2
    model.truncate(None)
    for name, reading in readings(model, task, drawn(task)).items():
        np.testing.assert_array_equal(reading.values, as_it_is[name].values)
    assert model.truncation is None


def test_an_encoder_decoder_is_cut_on_both_sides() -> None:
    task = Reverse(symbols=3, shortest=3, longest=5)
    model = seq2seq(task, lambda side: gru(side, 4), lambda side: gru(side, 4))
    error = readings(model, task, drawn(task))["error/parameters"]
    names = list(error.dims["parameter"])
    for side in ("encoder", "decoder"):
        of_side = [at for at, name in enumerate(names) if name.startswith(side) and "weight_hh" in name]
        assert (error.values[of_side, 0] > 0.01).all()
    assert (error.values[-1, -1] == 0).all()


def test_parameters_that_nothing_reads_have_no_cosine() -> None:
    task = Adding(length=6)
    model = elman(task, hidden=4)
    model.unread = torch.nn.Parameter(torch.ones(2))
    made = readings(model, task, drawn(task))["cosine/parameters"]
    at = list(made.dims["parameter"]).index("unread")
    assert np.isnan(made.values[at]).all() and np.isfinite(np.delete(made.values, at, 0)).all()


def test_what_has_no_recurrence_or_learns_nothing_has_no_truncated_gradient() -> None:
    task = Adding(length=6)
    assert not readings(TCN(task, hidden=4, layers=1), task, drawn(task))
    model = elman(task, hidden=4).requires_grad_(False)
    assert not readings(model, task, drawn(task))
    with pytest.raises(ValueError, match="samples must be at least 1"):
        Truncation(samples=0)


def test_only_the_first_samples_are_asked() -> None:
    task = Adding(length=6)
    model, batch = elman(task, hidden=4), drawn(task)
    alone = readings(model, task, batch.select(torch.tensor([0, 1])))["error/parameters"].values
    np.testing.assert_array_equal(readings(model, task, batch, samples=2)["error/parameters"].values, alone)
