"""influence against whole Jacobians by autograd, theoretical fields, and closed forms."""

import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from members import TASKS, built, kinds, stems
from torch import Tensor

from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch, Reading
from retrograde.core.snapshot import snapshot
from retrograde.core.statuses import CENSORED, FINITE, ZERO
from retrograde.layers.embedding import Learned
from retrograde.models.cbow import CBOW
from retrograde.models.elman import elman
from retrograde.models.linear_rnn import linear_rnn
from retrograde.models.lstm import lstm
from retrograde.models.rule import rule
from retrograde.models.seq2seq import seq2seq
from retrograde.models.skipgram import SkipGram
from retrograde.models.tcn import TCN
from retrograde.probes.influence import Influence, projected, relative_error
from retrograde.tasks.adding import Adding
from retrograde.tasks.copying import Copying
from retrograde.tasks.reverse import Reverse
from retrograde.tasks.temporal_order import TemporalOrder

pytestmark = pytest.mark.usefixtures("float64")


def drawn(task: Task, count: int = 2) -> Batch:
    return task.sample(count, torch.Generator().manual_seed(1))


def readings(probe: Influence, model: SequenceModel, task: Task, batch: Batch) -> dict[str, Reading]:
    return {reading.name: reading for reading in probe(snapshot(model, task, batch, 0))}


def jacobian(model: SequenceModel, batch: Batch, positions: list[int]) -> Tensor:
    """(position, output, time, width) of a batch of one, through the training form."""
    read: list[Tensor] = []
    name = "source_embedding" if batch.target_lengths is not None else "embedding"
    if isinstance(model, CBOW | SkipGram):
        name = "input"
    hook = model.get_submodule(name).register_forward_hook(lambda *args: opened(read, args[2]))
    outputs = model(batch)
    hook.remove()
    rows = [
        torch.stack([torch.autograd.grad(entry, read[0], retain_graph=True)[0][0] for entry in outputs[0, at]])
        for at in positions
    ]
    return torch.stack(rows)


def opened(read: list[Tensor], embedded: Tensor) -> Tensor:
    read.append(embedded.detach().requires_grad_())
    return read[0]


def places(length: int, positions: int) -> list[int]:
    return [math.ceil(length * each / positions) - 1 for each in range(1, positions + 1)]


def check_norms(model: SequenceModel, task: Task, positions: int = 2) -> None:
    """Mean norms over lags, the mean lag and the spread, from each sample's own Jacobian."""
    batch = drawn(task)
    made = readings(Influence(samples=2, positions=positions, projections=100), model, task, batch)
    norms, means, spreads = defaultdict(list), defaultdict(list), defaultdict(list)
    for sample in range(2):
        alone = batch.select(torch.tensor([sample])).trimmed()
        source = alone.length if alone.target_lengths is not None else 0
        asked = places(int(alone.lengths if alone.target_lengths is None else alone.target_lengths), positions)
        felt = jacobian(model, alone, asked).pow(2).sum((1, 3)).sqrt()
        for place, at in enumerate(asked):
            lags = torch.tensor([source + at - time for time in range(alone.length)])
            for lag, norm in zip(lags.tolist(), felt[place].tolist(), strict=True):
                norms[lag].append(norm)
            share = felt[place].square() / felt[place].square().sum()
            means[place].append((share * lags).sum().item())
            spreads[place].append(np.sqrt((share * (lags - means[place][-1]) ** 2).sum().item()))
    reading = made["norm/inputs"]
    assert list(reading.dims["lag"]) == sorted(norms)
    expected = [np.mean(norms[lag]) for lag in sorted(norms)]
    np.testing.assert_allclose(10 ** reading.values[0], expected, rtol=1e-7, atol=1e-14)
    assert list(made["spread/inputs"].dims["place"]) == [(at + 1) / positions for at in range(positions)]
    np.testing.assert_allclose(made["mean_lag/inputs"].values[0], [np.mean(means[at]) for at in range(positions)])
    np.testing.assert_allclose(
        made["spread/inputs"].values[0], [np.mean(spreads[at]) for at in range(positions)], atol=1e-7
    )
    assert made["error/inputs"].values == 0


@pytest.mark.parametrize("stem", stems("model"))
def test_norms_are_those_of_the_whole_jacobian_of_the_training_form(stem: str) -> None:
    task = Adding(length=6) if "aligned" in kinds(stem) else TASKS[3 if "transduce" in kinds(stem) else 4]
    model = built(stem, task).eval()
    if not model.learns:
        assert not readings(Influence(), model, task, drawn(task))
        return
    check_norms(model, task)


def test_both_directions_and_learned_vectors_are_measured_alike() -> None:
    task = TemporalOrder(length=10)
    check_norms(lstm(task, hidden=4, layers=2, bidirectional=True, embedding=lambda space: Learned(space, 5)), task)


def test_a_convolution_sees_its_theoretical_field_and_nothing_beyond() -> None:
    """Two convolutions of three taps, dilated 1 and 2: 1 + 2 · 2 · (2² - 1) = 13 inputs, of which this net uses all."""
    task = Adding(length=30)
    model = TCN(task, hidden=16, layers=2, kernel=3)
    made = readings(Influence(positions=1), model, task, drawn(task))["norm/inputs"]
    assert made.status is not None
    field = 1 + 2 * (3 - 1) * (2**2 - 1)
    assert made.dims["lag"] == list(range(30))
    assert (made.status[:, :field] == FINITE).all()
    assert (made.status[:, field:] == ZERO).all()


def test_a_causal_model_does_not_see_what_comes_later() -> None:
    task = Copying(length=6, symbols=3, recall=2)
    made = readings(Influence(), elman(task, hidden=4), task, drawn(task))["norm/inputs"]
    future = np.array(made.dims["lag"]) < 0
    assert made.status is not None
    assert future.any() and (made.status[:, future] == ZERO).all()
    assert (made.status[:, ~future] == FINITE).all()


def test_of_a_linear_recurrence_the_influence_falls_as_the_powers_of_its_matrix() -> None:
    """∂y_i/∂x_j = V W^{i-j} U; one unit halving: mean lag Σ k 4^-k / Σ 4^-k = 1/3, variance 4/9, far from the start."""
    task = Adding(length=60)
    model = linear_rnn(task, hidden=1)
    cell = model.stack.placed[0][0].recurrence
    with torch.no_grad():
        cell.recurrent.fill_(0.5)
    made = readings(Influence(), model, task, drawn(task))
    lags = np.array(made["norm/inputs"].dims["lag"])
    size = math.log10(abs(model.readout.weight.item()) * cell.input.norm().item())
    past = lags >= 0
    np.testing.assert_allclose(made["norm/inputs"].values[0, past], size - lags[past] * math.log10(2), atol=1e-9)
    np.testing.assert_allclose(made["mean_lag/inputs"].values, 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(made["spread/inputs"].values, 2 / 3, rtol=1e-6)


def test_what_the_format_loses_is_censored() -> None:
    task = Adding(length=60)
    model = linear_rnn(task, hidden=4, radius=0.1).float()
    made = readings(Influence(positions=1), model, task, drawn(task).beside(model.readout.weight))["norm/inputs"]
    assert made.status is not None
    assert (made.status[:, :30] == FINITE).all() and (made.status[:, 50:] == CENSORED).all()


def test_random_directions_have_the_right_square_on_average_and_the_error_that_is_said() -> None:
    """Of a matrix of rank one, for which the error is largest."""
    size, projections = 40, 5
    directions = projected(size, projections, 4000)
    torch.testing.assert_close(
        directions @ directions.mT, (size / projections) * torch.eye(projections).expand(4000, -1, -1)
    )
    column = torch.randn(size)
    squares = (directions @ column).square().sum(1) / column.square().sum()
    error = relative_error(size, projections)
    assert abs(squares.mean() - 1) < 5 * error / math.sqrt(4000)
    assert squares.std().item() == pytest.approx(error, rel=0.1)
    assert torch.equal(projected(4, 8, 2), torch.eye(4).expand(2, -1, -1)) and relative_error(4, 8) == 0


def test_large_outputs_are_asked_along_a_few_directions_and_the_mean_is_near() -> None:
    """Twenty symbols asked exactly and along four directions, averaged over twenty positions: within four errors."""
    task = Copying(length=5, symbols=18, recall=2)
    model, batch = elman(task, hidden=8), drawn(task, 4)
    size = task.outputs.size
    exact = readings(Influence(4, 5, size), model, task, batch)["norm/inputs"]
    made = readings(Influence(4, 5, 4), model, task, batch)
    assert float(made["error/inputs"].values) == pytest.approx(math.sqrt(2 * (size - 4) / (4 * (size + 2))))
    lag = list(exact.dims["lag"]).index(0)
    ratio = 10 ** (made["norm/inputs"].values[0, lag] - exact.values[0, lag])
    assert ratio != 1 and abs(ratio - 1) < 4 * float(made["error/inputs"].values) / 2 / math.sqrt(20)


def test_a_targets_distance_runs_over_the_source() -> None:
    task = Reverse(symbols=3, shortest=4, longest=4)
    model = seq2seq(task, lambda side: elman(side, 4), lambda side: elman(side, 4))
    made = readings(Influence(positions=1), model, task, drawn(task))["norm/inputs"]
    assert made.dims["lag"] == [5, 6, 7, 8]  # the last of five targets is written at 8, the source's times are 0 to 3


def test_a_rule_reads_no_vectors_and_settings_are_checked() -> None:
    task = Adding(length=6)
    assert not readings(Influence(), rule(task), task, drawn(task))
    for name in ("samples", "positions", "projections"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            Influence(**{name: 0})
