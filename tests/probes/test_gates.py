"""Gates against the papers' equations, and the probe's numbers by hand; the identity of products: test_recurrences."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from retrograde.core.contracts import SequenceModel, Snapshot, Task
from retrograde.core.records import Batch, Course, Reading
from retrograde.core.snapshot import snapshot
from retrograde.core.statuses import FINITE, ZERO
from retrograde.models.antisymmetric_rnn import antisymmetric_rnn
from retrograde.models.clockwork_rnn import clockwork_rnn
from retrograde.models.elman import elman
from retrograde.models.gru import gru
from retrograde.models.gru_simple import gru_simple
from retrograde.models.lem import lem
from retrograde.models.lstm import lstm
from retrograde.models.lstm_1997 import lstm_1997
from retrograde.models.lstm_peephole import lstm_peephole
from retrograde.models.mingru import mingru
from retrograde.models.minlstm import minlstm
from retrograde.models.slstm import slstm
from retrograde.models.transformer import transformer
from retrograde.probes.gates import Gates, every, numbers, spaced
from retrograde.tasks.adding import Adding

pytestmark = pytest.mark.usefixtures("float64")

LAYER = "0.forward"


def readings(on: Snapshot, **settings: int) -> dict[str, Reading]:
    return {reading.name: reading for reading in Gates(**settings)(on)}


def taken(model: SequenceModel, task: Task, count: int = 4) -> Snapshot:
    return snapshot(model, task, task.sample(count, torch.Generator().manual_seed(0)), 0)


def somewhere(model: SequenceModel) -> SequenceModel:
    """Away from its initialisation, which may have zeros where a path could be missed."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def fixed(task: Task, forget_bias: float, hidden: int = 3) -> SequenceModel:
    """An LSTM whose gates hear nothing: input and output gate at 1/2, the forget gate where its bias sets it."""
    model = lstm(task, hidden=hidden)
    weights = model.stack.placed[0][0].recurrence.weights()
    with torch.no_grad():
        for weight in weights.values():
            weight.zero_()
        weights["input"][2 * hidden : 3 * hidden].normal_()  # the candidate
        weights["input_bias"][hidden : 2 * hidden] = forget_bias
    return model


# A gate is what the step computes with: what it opens can be rebuilt from it.

Gated = Callable[[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]], Tensor]


REBUILT: dict[str, tuple[Callable[..., SequenceModel], Gated]] = {
    "lstm": (lstm, lambda g, z, after: g["output"] * torch.tanh(after["cell"]) - after["hidden"]),
    "lstm_peephole": (lstm_peephole, lambda g, z, after: g["output"] * torch.tanh(after["cell"]) - after["hidden"]),
    "lstm_1997": (
        lstm_1997,
        lambda g, z, after: g["output"] * (2 * torch.sigmoid(after["cell"]) - 1) - after["hidden"],
    ),
    "slstm": (slstm, lambda g, z, after: g["output"] * after["cell"] / after["normaliser"] - after["hidden"]),
    "slstm normaliser": (
        slstm,
        lambda g, z, after: g["forget"] * z["normaliser"] + g["input"] - after["normaliser"],
    ),
}
"""What must be zero, of the gates and of the states before and after."""


@pytest.mark.parametrize("name", REBUILT)
def test_a_state_is_rebuilt_from_its_gates(name: str) -> None:
    factory, difference = REBUILT[name]
    task = Adding(length=7)
    model = somewhere(factory(task, hidden=4))
    (course,) = taken(model, task).courses.values()
    after = {key: value[:, 1:] for key, value in course.states.items()}
    gates = course.recurrence.gates(course.weights, course.inputs, course.before)
    zero = difference(gates, course.before, after)
    torch.testing.assert_close(zero, torch.zeros_like(zero), rtol=0, atol=1e-12)


CANDIDATES: dict[str, tuple[Callable[..., SequenceModel], Callable[[dict[str, Tensor]], Tensor], str]] = {
    "lstm": (lstm, lambda g: g["input"], "cell"),
    "lstm_peephole": (lstm_peephole, lambda g: g["input"], "cell"),
    "lstm_1997": (lstm_1997, lambda g: g["input"], "cell"),
    "gru": (gru, lambda g: 1 - g["update"], "hidden"),
    "gru_simple": (gru_simple, lambda g: g["update"], "hidden"),
    "mingru": (mingru, lambda g: g["update"], "hidden"),
    "minlstm": (minlstm, lambda g: g["input"] / (g["forget"] + g["input"]), "hidden"),
    "lem memory": (lem, lambda g: g["memory_rate"], "memory"),
    "lem hidden": (lem, lambda g: g["hidden_rate"], "hidden"),
    "antisymmetric_rnn": (
        lambda task, hidden: antisymmetric_rnn(task, hidden, gated=True),
        lambda g: 0.1 * g["update"],
        "hidden",
    ),
}
"""What lets the candidate in, and where."""


@pytest.mark.parametrize("name", CANDIDATES)
def test_what_a_gate_lets_in_is_the_candidate_of_the_papers_equation(name: str) -> None:
    """(after - kept · before) / gate, against the candidate by the paper's equation from the raw weights."""
    factory, opened, component = CANDIDATES[name]
    task = Adding(length=7)
    model = somewhere(factory(task, hidden=4))
    (course,) = taken(model, task).courses.values()
    arguments = course.weights, course.inputs, course.before
    gates, kept = course.recurrence.gates(*arguments), course.recurrence.kept(*arguments)
    let_in = course.states[component][:, 1:] - kept[component] * course.before[component]
    torch.testing.assert_close(let_in / opened(gates), candidate(name, course, gates))


def candidate(name: str, course: Course, gates: dict[str, Tensor]) -> Tensor:
    w, x, z = course.weights, course.inputs, course.before
    hidden = z["hidden"]

    def rows(weight: str, at: int, of: int) -> Tensor:
        return w[weight].chunk(of, 0)[at]

    if name == "gru":
        from_hidden = hidden @ rows("recurrent", 2, 3).T + rows("recurrent_bias", 2, 3)
        return torch.tanh(x @ rows("input", 2, 3).T + rows("input_bias", 2, 3) + gates["reset"] * from_hidden)
    if name == "lstm":
        from_hidden = hidden @ rows("recurrent", 2, 4).T + rows("recurrent_bias", 2, 4)
        return torch.tanh(x @ rows("input", 2, 4).T + rows("input_bias", 2, 4) + from_hidden)
    if name == "antisymmetric_rnn":
        turned = hidden @ w["recurrent"].T - 0.15 * hidden
        return torch.tanh(turned + x @ rows("input", 0, 2).T + rows("bias", 0, 2))
    if name == "lem hidden":
        memory = course.states["memory"][:, 1:]
        return torch.tanh(memory @ w["memory"].T + x @ rows("input", 3, 4).T + rows("bias", 3, 4))
    at, of = {
        "lstm_peephole": (2, 4),
        "lstm_1997": (2, 3),
        "gru_simple": (0, 2),
        "mingru": (1, 2),
        "minlstm": (2, 3),
        "lem memory": (2, 4),
    }[name]
    driven = x @ rows("input", at, of).T + rows("bias", at, of)
    if name in ("mingru", "minlstm"):
        return driven
    driven = driven + hidden @ rows("recurrent", at, 3 if name == "lem memory" else of).T
    return 4 * torch.sigmoid(driven) - 2 if name == "lstm_1997" else torch.tanh(driven)


# The probe's numbers by hand.


def test_gates_at_their_biases_read_these_constants() -> None:
    """f = σ(3) = 0.953 at every time: open, and e-folding over -1 / ln f = 20.6 positions."""
    task = Adding(length=10)
    made = readings(taken(fixed(task, 3.0), task))
    forget = 1 / (1 + math.exp(-3))
    np.testing.assert_allclose(made[f"gate/{LAYER}.forget"].values, forget)
    np.testing.assert_allclose(made[f"gate/{LAYER}.input"].values, 0.5)
    assert list(made[f"gate/{LAYER}.forget"].dims["time"]) == list(range(10))
    np.testing.assert_array_equal(made[f"saturated/{LAYER}.forget"].values, [[0, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(made[f"saturated_share/{LAYER}.output"].values, [0, 0])
    np.testing.assert_allclose(made[f"time_constant/{LAYER}.cell"].values, -1 / math.log(forget))
    np.testing.assert_allclose(made[f"median_time_constant/{LAYER}.cell"].values, -1 / math.log(forget))
    path = made[f"forget_path/{LAYER}.cell"]
    assert list(path.dims["lag"]) == list(range(11))
    np.testing.assert_allclose(path.values, np.tile(np.arange(11) * math.log10(forget), (4, 1)), atol=1e-12)


def test_units_are_measured_each_by_itself() -> None:
    """A shut unit, one in between and an open one; the median of their time constants is the middle one's."""
    task = Adding(length=6)
    model = fixed(task, 0.0)
    with torch.no_grad():
        model.stack.placed[0][0].recurrence.weights()["input_bias"][3:6] = torch.tensor([-4.0, 0.0, 4.0])
    made = readings(taken(model, task))
    np.testing.assert_array_equal(made[f"saturated/{LAYER}.forget"].values, [[1, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(made[f"saturated_share/{LAYER}.forget"].values, [1 / 3, 1 / 3])
    np.testing.assert_allclose(made[f"median_time_constant/{LAYER}.cell"].values, 1 / math.log(2))
    shares = 1 / (1 + np.exp([4.0, 0.0, -4.0]))
    path = made[f"forget_path/{LAYER}.cell"].values[:, 5]
    np.testing.assert_allclose(path[0], np.log10(np.mean(shares**5)))
    np.testing.assert_allclose(path[1:], 5 * np.log10(shares))


@pytest.mark.parametrize(
    ("biases", "median"),
    [
        ([2.0, 0.0, -4.0, 60.0], (1 / math.log(2) + 1 / math.log1p(math.exp(-2))) / 2),
        ([60.0, 0.0, 60.0, 0.0], math.inf),
        ([60.0, 60.0, 60.0, 0.0], math.inf),
    ],
)
def test_of_an_even_number_of_units_the_median_lies_between_two(biases: list[float], median: float) -> None:
    """σ(60) is 1 in float64: such a unit never forgets."""
    task = Adding(length=6)
    model = fixed(task, 0.0, hidden=4)
    with torch.no_grad():
        model.stack.placed[0][0].recurrence.weights()["input_bias"][4:8] = torch.tensor(biases)
    made = readings(taken(model, task))
    np.testing.assert_allclose(made[f"median_time_constant/{LAYER}.cell"].values, median)


def test_a_cell_that_never_forgets_has_an_infinite_time_constant() -> None:
    task = Adding(length=6)
    made = readings(taken(lstm_1997(task, hidden=3), task))
    assert (made[f"time_constant/{LAYER}.cell"].values == math.inf).all()
    np.testing.assert_allclose(made[f"forget_path/{LAYER}.cell"].values, 0.0, atol=1e-15)


def test_a_product_below_every_format_is_a_number() -> None:
    """σ(-3)^200 = 1e-264.7, and in float32."""
    task = Adding(length=200)
    torch.set_default_dtype(torch.float32)
    made = readings(taken(fixed(task, -3.0), task))[f"forget_path/{LAYER}.cell"]
    assert made.status is not None and (made.status == FINITE).all()
    np.testing.assert_allclose(made.values[:, -1], -200 * math.log10(1 + math.exp(3)), rtol=1e-6)


def test_a_factor_below_the_format_is_made_again_and_is_no_zero() -> None:
    """In float32 σ(-120) is 0; it is e^-120."""
    task = Adding(length=5)
    torch.set_default_dtype(torch.float32)
    made = readings(taken(fixed(task, -120.0), task))[f"forget_path/{LAYER}.cell"]
    assert made.status is not None and (made.status == FINITE).all()
    np.testing.assert_allclose(made.values[:, 1], -120 / math.log(10), rtol=1e-6)


def test_a_module_that_runs_keeps_nothing_and_one_that_rests_keeps_all() -> None:
    """Periods 1, 2, 4, 8: at t = 8 all run; at t = 7 they have rested for 0, 1, 3 and 7 inputs."""
    for length, kept in ((9, [0, 0, 0, 0]), (8, [0, 1, 3, 7])):
        task = Adding(length=length)
        made = readings(taken(clockwork_rnn(task, hidden=4), task, count=1), units=4)
        path = made[f"forget_path/{LAYER}.hidden"]
        assert path.status is not None
        share = np.array([sum(lag <= last for last in kept) / 4 for lag in path.dims["lag"]])
        np.testing.assert_allclose(10 ** path.values[0], share, atol=1e-12)
        assert (path.status[0] == np.where(share > 0, FINITE, ZERO)).all()


def test_lags_lead_back_from_every_samples_own_end_and_padding_counts_nowhere() -> None:
    """The forget gate is heard at the markers alone; padding is set to what would open it wide."""
    task = Adding(length=20, markers="first_ten")
    model = fixed(task, 0.0)
    with torch.no_grad():
        model.stack.placed[0][0].recurrence.weights()["input"][3:6, 1] = 2.0
    batch = task.sample(6, torch.Generator().manual_seed(0))
    assert batch.lengths.min() < batch.lengths.max()
    batch.inputs[torch.arange(batch.length) >= batch.lengths[:, None]] = 100.0
    made = readings(snapshot(model, task, batch, 0))
    forget = torch.sigmoid(2 * batch.inputs[..., 1]).numpy()
    alone = [row[:length] for row, length in zip(forget, batch.lengths, strict=True)]
    path = made[f"forget_path/{LAYER}.cell"]
    for lag, value in zip(path.dims["lag"], path.values[0], strict=True):
        products = [np.prod(row[len(row) - lag :]) for row in alone if lag <= len(row)]
        np.testing.assert_allclose(10**value, np.mean(products))
    np.testing.assert_allclose(made[f"time_constant/{LAYER}.cell"].values, -1 / math.log(np.concatenate(alone).mean()))
    last = int(batch.lengths.max()) - 1
    gate = made[f"gate/{LAYER}.forget"]
    assert gate.dims["time"][-1] == last
    for time, value in zip(gate.dims["time"], gate.values[0], strict=True):
        np.testing.assert_allclose(value, np.mean([row[time] for row in alone if time < len(row)]))
    right = np.mean(np.concatenate(alone) > 0.9)
    np.testing.assert_allclose(made[f"saturated/{LAYER}.forget"].values[1], right)


def test_a_backward_direction_is_read_in_time_and_followed_in_its_own_order() -> None:
    task = Adding(length=20, markers="first_ten")
    model = lstm(task, hidden=3, bidirectional=True)
    batch = task.sample(5, torch.Generator().manual_seed(0))
    flipped = replace(batch, inputs=in_reading_order(batch))
    one = readings(snapshot(model, task, batch, 0))
    model.stack.placed[0][0].recurrence.load_state_dict(model.stack.placed[0][1].recurrence.state_dict())
    other = readings(snapshot(model, task, flipped, 0))  # what was backward reads forward
    path = "forget_path/0.{}.cell"
    np.testing.assert_allclose(one[path.format("backward")].values, other[path.format("forward")].values)
    (course,) = [course for name, course in snapshot(model, task, batch, 0).courses.items() if "backward" in name]
    forget = course.recurrence.gates(course.weights, course.inputs, course.before)["forget"].mean(2)
    for row, length in zip(forget, batch.lengths.tolist(), strict=True):
        row[:length] = row[:length].flip(0).clone()
    read = torch.arange(batch.length) < batch.lengths[:, None]
    expected = (forget * read).sum(0) / read.sum(0)
    gate = one["gate/0.backward.forget"]
    np.testing.assert_allclose(gate.values[0], expected[list(gate.dims["time"])].detach())


def in_reading_order(batch: Batch) -> Tensor:
    inputs = batch.inputs.clone()
    for row, length in enumerate(batch.lengths.tolist()):
        inputs[row, :length] = batch.inputs[row, :length].flip(0)
    return inputs


def test_numbers_that_are_none_are_kept() -> None:
    task = Adding(length=6)
    on = taken(lstm(task, hidden=3), task)
    on.courses[LAYER].states["hidden"][1, 3] = math.nan
    made = readings(on)
    gate = made[f"gate/{LAYER}.forget"].values[0]
    assert np.isnan(gate[3]) and np.isfinite(np.delete(gate, 3)).all()
    assert np.isnan(made[f"saturated/{LAYER}.forget"].values).all()
    path = made[f"forget_path/{LAYER}.cell"].values[0]
    assert np.isfinite(path[:3]).all() and np.isnan(path[3:]).all()


def test_more_times_and_units_than_wanted_are_thinned_to_the_last() -> None:
    assert numbers(every(10, 10)) == list(range(10))
    assert numbers(every(10, 4)) == [1, 5, 9]
    assert numbers(every(1, 5)) == [0]
    task = Adding(length=10)
    made = readings(taken(lstm(task, hidden=6), task), times=4, units=3)
    assert list(made[f"gate/{LAYER}.forget"].dims["time"]) == [1, 5, 9]
    assert list(made[f"time_constant/{LAYER}.cell"].dims["unit"]) == [1, 3, 5]
    whole = readings(taken(lstm(task, hidden=6), task))
    assert list(whole[f"time_constant/{LAYER}.cell"].dims["unit"]) == list(range(6))


def test_lags_grow_by_an_eighth_of_an_octave_and_hold_every_power_of_two() -> None:
    assert spaced(0) == [0]
    assert spaced(20) == [*range(17), 18, 20]
    assert {1 << power for power in range(11)} <= set(spaced(1500)) and spaced(1500)[-1] == 1500


def test_what_has_neither_gates_nor_a_path_of_its_own_yields_nothing() -> None:
    task = Adding(length=6)
    for model in (elman(task, hidden=3), transformer(task, 8, 1, 2, 8)):
        assert not readings(taken(model, task))


def test_settings_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 1, not 64, 0 and 128"):
        Gates(samples=0)
