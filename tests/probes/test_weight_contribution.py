"""weight_contribution against a loop in which every time uses a copy of the weights of its own, and by hand."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from members import TASKS, built, kinds, stems
from torch import Tensor

from retrograde.core.contracts import SequenceModel, Snapshot, Task
from retrograde.core.losses import sample_means
from retrograde.core.records import Batch, Reading, State
from retrograde.core.recurrence import Recurrence, clocked
from retrograde.core.snapshot import snapshot
from retrograde.core.statuses import CENSORED, FINITE, ZERO
from retrograde.layers.encoder_decoder import Attending, EncoderDecoder
from retrograde.layers.recurrent import RecurrentModel, RecurrentStack
from retrograde.layers.residual import ResidualModel
from retrograde.models.elman import elman
from retrograde.models.gru import gru
from retrograde.models.linear_rnn import linear_rnn
from retrograde.models.lstm import lstm
from retrograde.models.tcn import TCN
from retrograde.probes.weight_contribution import Read, WeightContribution, contributions, formed, outer_products
from retrograde.tasks.adding import Adding
from retrograde.tasks.copying import Copying
from retrograde.tasks.temporal_order import TemporalOrder

pytestmark = pytest.mark.usefixtures("float64")

Copies = dict[str, Tensor]


class OwnWeights:
    """In the place of something's ``weights``: every call hands out copies, which are kept."""

    def __init__(self, of: torch.nn.Module) -> None:
        self.original = of.weights
        self.given: list[Copies] = []
        of.weights = self.copies

    def copies(self) -> Copies:
        made = {
            name: weight.detach().clone().requires_grad_(weight.is_floating_point())
            for name, weight in self.original().items()
        }
        self.given.append(made)
        return made


class Loops:
    """A model's outputs for one sample by loops over time; for each recurrence the weights of each step and read."""

    def __init__(self, model: SequenceModel, batch: Batch) -> None:
        self.model = model
        self.cells: dict[str, OwnWeights] = {}
        self.stepped: dict[str, list[Copies]] = {}
        self.read: dict[str, list[Copies]] = {}
        if isinstance(model, EncoderDecoder):
            self.outputs = self._written(model, batch)
        elif isinstance(model, ResidualModel):
            x = model.entered(model.embedding(batch.inputs))
            for placed, block in zip(model.placed, model.chain, strict=True):
                x = block.leave(x, self._loop(placed.name, block.recurrence, block.enter(x)))
            self.outputs = model.readout(model.norm(x))
        else:
            assert isinstance(model, RecurrentModel)
            self.outputs = model.readout(self._stack(model.stack, model.embedding(batch.inputs)))

    def _stack(self, stack: RecurrentStack, x: Tensor) -> Tensor:
        for layer in stack.placed:
            made = []
            for placed in layer:
                y = self._loop(placed.name, placed.recurrence, x.flip(1) if placed.backward else x)
                made.append(y.flip(1) if placed.backward else y)
            x = torch.cat(made, -1)
        return x

    def _loop(self, name: str, cell: Recurrence, x: Tensor) -> Tensor:
        own = self.cells[name] = OwnWeights(cell)
        x, state, made = clocked(cell, x), cell.initial_state(x), []
        for each in x.unbind(1):
            state = cell.step(own.copies(), each, state)
            made.append(cell.read(own.copies(), each, state))
        self.stepped[name], self.read[name] = own.given[::2], own.given[1::2]
        return torch.stack(made, 1)

    def _written(self, model: EncoderDecoder, batch: Batch) -> Tensor:
        """A decoder's step and read use the same copies: what it has is read as it stands."""
        model.encoder.forward = lambda inputs, *rest: self._stack(model.encoder, inputs)
        placed = [each for layer in model.decoder.placed for each in layer]
        carried = model.begin(batch)
        self.cells |= {each.name: OwnWeights(each.recurrence) for each in placed}
        looks = None if model.attention is None else OwnWeights(model.attention)
        made = []
        assert batch.decoder_inputs is not None
        for tokens in batch.decoder_inputs.unbind(1):
            scores, carried = model.advance(carried, tokens)
            made.append(scores)
        for each in placed:
            assert type(each.recurrence).read is Recurrence.read
            self.stepped[each.name], self.read[each.name] = self.cells[each.name].given, []
        if model.before and looks is not None:
            lowest = placed[0].name
            self.stepped[lowest] = [
                {f"cell.{name}": copy for name, copy in own.items()} | of_look
                for own, of_look in zip(self.stepped[lowest], looks.given, strict=True)
            ]
        return torch.stack(made, 1)


def gradients(loss: Tensor, copies: list[Copies]) -> dict[str, Tensor]:
    """By weight, of each copy in turn."""
    names = [name for name, value in copies[0].items() if value.requires_grad]
    if not names:
        return {}
    made = torch.autograd.grad(
        loss, [copy[name] for copy in copies for name in names], retain_graph=True, allow_unused=True,
        materialize_grads=True,
    )  # fmt: skip
    return {name: torch.stack(made[at :: len(names)]) for at, name in enumerate(names)}


def sample_loss(model: SequenceModel, task: Task, batch: Batch, outputs: Tensor) -> Tensor:
    return sample_means(task.loss(outputs, batch), batch.scored).sum()


def moved(stem: str, task: Task) -> SequenceModel:
    """Away from where some begin, and carry nothing."""
    model = built(stem, task).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def check_against_loops(model: SequenceModel, task: Task) -> None:
    batch = task.sample(3, torch.Generator().manual_seed(2))
    sample = int(batch.lengths.argmin())
    alone = batch.select(torch.tensor([sample])).trimmed()
    courses = snapshot(model, task, batch, 0).courses
    made = {layer: contributions(course, sample) for layer, course in courses.items()}
    loss = sample_loss(model, task, alone, model(alone))
    cells = {layer: of_parameters(course.recurrence, loss) for layer, course in courses.items()}
    loops = Loops(model, alone)
    by_hand = sample_loss(model, task, alone, loops.outputs)
    torch.testing.assert_close(by_hand, loss)
    assert set(loops.stepped) == set(made)
    for layer, copies in loops.stepped.items():
        added = gradients(by_hand, copies)
        check_parameters(loops, layer, by_hand, added, cells[layer])
        assert set(made[layer]) >= {name for name, value in added.items() if value.any()}
        for name, mine in made[layer].items():
            expected = added[name].flatten(1)
            total = expected.sum(0)
            times = len(expected)
            if not total.any():  # what is scored is read before anything is carried to it
                assert not mine.share.any() and (mine.status != FINITE).all()
                continue
            norms = torch.where(mine.status == FINITE, 10**mine.norm, 0.0)[:times]
            torch.testing.assert_close(norms, expected.norm(dim=1), rtol=1e-8, atol=1e-12)
            torch.testing.assert_close(mine.share[:times], expected @ total / total.square().sum())
            torch.testing.assert_close(mine.share.sum(), torch.tensor(1.0))


def of_parameters(recurrence: Recurrence, loss: Tensor) -> Mapping[str, Tensor]:
    """The gradient of a cell's parameters through the training form."""
    parameters = dict((recurrence.cell if isinstance(recurrence, Attending) else recurrence).named_parameters())
    if not parameters:
        return {}
    found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
    return {name: made for name, made in zip(parameters, found, strict=True) if made is not None}


def check_parameters(loops: Loops, layer: str, loss: Tensor, added: dict[str, Tensor], expected: Mapping) -> None:
    """What all steps add, and all reads, is the gradient of the parameters that the weights are made of."""
    own = loops.cells[layer]
    cell = own.original.__self__
    total = {name.removeprefix("cell."): value.sum(0) for name, value in added.items()}
    if loops.read[layer]:
        of_reads = gradients(loss, loops.read[layer])
        total = {name: value + of_reads[name].sum(0) for name, value in total.items()}
    weights = {name: weight for name, weight in own.original().items() if weight.requires_grad}
    if not weights:
        return
    parameters = dict(cell.named_parameters())
    found = torch.autograd.grad(
        list(weights.values()), list(parameters.values()), [total[name] for name in weights], allow_unused=True
    )
    for name, one in zip(parameters, found, strict=True):
        if name in expected:
            assert one is not None
            torch.testing.assert_close(one, expected[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("stem", [stem for stem in stems("model") if "cloze" not in kinds(stem)])
def test_what_all_times_add_is_the_parameters_gradient_and_each_is_measured_alone(stem: str) -> None:
    task = TASKS[3] if "aligned" not in kinds(stem) else TemporalOrder(length=10)
    model = moved(stem, task)
    if not model.recurrent:
        assert not list(WeightContribution()(snapshot(model, task, drawn(task), 0)))
        return
    check_against_loops(model, task)


def test_layers_and_directions_are_measured_each_in_its_own_order() -> None:
    task = TemporalOrder(length=10)
    check_against_loops(lstm(task, hidden=4, layers=2, bidirectional=True), task)


def drawn(task: Task, count: int = 3) -> Batch:
    return task.sample(count, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("make", [elman, gru, lstm])
def test_outer_products_that_are_known_are_those_that_are_formed(make: object) -> None:
    task = Copying(length=5, symbols=3, recall=2)
    on = snapshot(make(task, hidden=4), task, drawn(task), 0)  # type: ignore[operator]  # a factory
    read = Read.of(on.courses["0.forward"], 1)
    known, made = outer_products(read), formed(read, list(read.weights))
    assert set(known) == set(made) == {"input", "recurrent", "input_bias", "recurrent_bias"}
    for name, one in known.items():
        begin = 1 if name == "recurrent" else 0  # before the first input the state is zero
        torch.testing.assert_close(one.norm[begin:], made[name].norm[begin:])
        torch.testing.assert_close(one.share, made[name].share)
    assert known["recurrent"].status[0] == ZERO and made["recurrent"].status[0] == CENSORED
    assert not known["recurrent"].share[0] and not made["recurrent"].share[0]


def by_name(on: Snapshot, samples: int = 4) -> dict[str, Reading]:
    return {reading.name: reading for reading in WeightContribution(samples)(on)}


def test_over_three_times_the_powers_of_one_weight_are_shared_out() -> None:
    """h_t = w h_{t-1} + 1, y = h_2 + 0, loss (y - target)²: dL/dw = δ (h_1 + w h_0), of which time 2 adds δ h_1."""
    task = Adding(length=3)
    model = linear_rnn(task, hidden=1)
    with torch.no_grad():
        model.stack.placed[0][0].recurrence.recurrent.fill_(0.5)
        model.stack.placed[0][0].recurrence.input.fill_(1.0)
        model.readout.weight.fill_(1.0)
        model.readout.bias.zero_()
    batch = drawn(task, 1)
    batch.inputs[:] = torch.tensor([1.0, 0.0])
    h0, h1, h2 = 1.0, 1.5, 1.75
    delta = 2 * (h2 - batch.targets[0, -1, 0].item())
    made = by_name(snapshot(model, task, batch, 0))
    norm, share = made["norm/0.forward.recurrent"], made["share/0.forward.recurrent"]
    np.testing.assert_allclose(10 ** norm.values[0, 1:], np.abs([delta * 0.5 * h0, delta * h1]), rtol=1e-12)
    np.testing.assert_allclose(share.values[0], np.array([0.0, 0.5 * h0, h1]) / (0.5 * h0 + h1), rtol=1e-12)
    assert list(norm.dims["time"]) == [0, 1, 2]
    assert norm.unit == "log10 loss per weight" and share.unit == "signed share"  # a plain one is drawn from 0 to 1


def test_statistics_are_over_the_first_samples_and_their_own_times() -> None:
    task = Adding(length=20, markers="first_ten")
    model = elman(task, hidden=4, bidirectional=True)
    batch = task.sample(3, torch.Generator().manual_seed(4))
    made = by_name(snapshot(model, task, batch, 0), samples=2)
    lengths = batch.lengths[:2].tolist()
    assert lengths[0] != lengths[1]
    for direction in ("forward", "backward"):
        course = snapshot(model, task, batch, 0).courses[f"0.{direction}"]
        norms = [10 ** contributions(course, sample)["input"].norm for sample in (0, 1)]
        in_time = [
            (norm[:length].flip(0) if direction == "backward" else norm[:length])
            for norm, length in zip(norms, lengths, strict=True)
        ]
        reading = made[f"norm/0.{direction}.input"]
        assert list(reading.dims["time"]) == list(range(max(lengths)))
        for time in (0, 5, min(lengths) - 1):
            expected = (in_time[0][time] + in_time[1][time]) / 2
            np.testing.assert_allclose(10 ** reading.values[0, time], expected.item(), rtol=1e-9)
        longest = in_time[int(lengths[1] > lengths[0])]
        np.testing.assert_allclose(10 ** reading.values[0, -1], longest[-1].item(), rtol=1e-9)


def test_far_beyond_the_format_every_time_has_a_number() -> None:
    """A scalar that halves for 1,500 times: time t adds δ 2^{t-T+1} h_{t-1}, and in float32 all of it is read."""
    task = Adding(length=1500)
    model = linear_rnn(task, hidden=1)
    with torch.no_grad():
        model.stack.placed[0][0].recurrence.recurrent.fill_(0.5)
    batch = drawn(task, 1)
    on = snapshot(model.float(), task, batch.beside(model.readout.weight), 0)
    made = by_name(on)["norm/0.forward.recurrent"]
    hidden = on.trace.states["0.forward.hidden"][0, 1:, 0].double().abs().log10()
    delta = on.gradients["0.forward.hidden"].total.value()[0, -1, 0].double().abs().log10()
    expected = delta + torch.arange(-1498, 1) * np.log10(2) + hidden[:-1]
    assert expected.min() < -440
    np.testing.assert_allclose(made.values[0, 1:], expected.numpy(), atol=1e-5)
    assert made.status is not None and (made.status[0, 1:] == FINITE).all()


def test_a_cell_whose_outer_products_are_known_has_that_range_as_well() -> None:
    """A tanh net in float32 against itself in float64, which holds what falls below 1e-200."""
    task = Adding(length=400)
    model = elman(task, hidden=4)
    with torch.no_grad():
        for weight in model.stack.placed[0][0].recurrence.weights().values():
            weight *= 0.3
    batch = drawn(task, 2)
    precise = by_name(snapshot(model, task, batch, 0))
    rough = by_name(snapshot(model.float(), task, batch.beside(model.readout.weight), 0))
    for name in ("norm/0.forward.recurrent", "norm/0.forward.input", "norm/0.forward.recurrent_bias"):
        assert precise[name].values[0, 1] < -200
        np.testing.assert_allclose(rough[name].values[:, 1:], precise[name].values[:, 1:], atol=1e-4)
    share = rough["share/0.forward.recurrent"]
    assert share.status is not None and (share.status[:, -200:] == FINITE).all()
    assert 0 < np.abs(share.values[0, 200]) < 1e-50


def test_an_explosion_is_read_at_every_time() -> None:
    task = Adding(length=250)
    model = linear_rnn(task, hidden=4, radius=1.3).float()
    made = by_name(snapshot(model, task, drawn(task).beside(model.readout.weight), 0))["norm/0.forward.input"]
    assert np.isfinite(made.values).all() and made.values[0, 0] > 38


def test_a_model_without_recurrence_has_nothing_to_read() -> None:
    task = Adding(length=6)
    assert not by_name(snapshot(TCN(task, hidden=4, layers=1), task, drawn(task), 0))
    with pytest.raises(ValueError, match="samples must be at least 1"):
        WeightContribution(samples=0)


def test_loops_are_plain_states() -> None:
    """Of the reference itself: a copy for each step, and one more for each read."""
    task = Adding(length=6)
    model = elman(task, hidden=3)
    loops = Loops(model, drawn(task, 1))
    assert len(loops.stepped["0.forward"]) == len(loops.read["0.forward"]) == 6
    state: State = {"hidden": torch.zeros(1, 3)}
    assert set(state) == set(model.stack.placed[0][0].recurrence.components)
