"""Lyapunov spectra of recurrences whose answers are known, and against determinants and products of Jacobians."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from retrograde.core.choices import LeftOut
from retrograde.core.contracts import Snapshot, Task
from retrograde.core.records import Reading
from retrograde.core.recurrence import Recurrence
from retrograde.core.snapshot import snapshot
from retrograde.models.elman import elman
from retrograde.models.elman_relu import elman_relu
from retrograde.models.gru import gru
from retrograde.models.linear_attention import linear_attention
from retrograde.models.linear_rnn import linear_rnn
from retrograde.models.lstm import lstm
from retrograde.models.transformer import transformer
from retrograde.probes.lyapunov import Lyapunov, kaplan_yorke, resolution
from retrograde.tasks.adding import Adding
from step_jacobians import jacobians

KEY = "0.forward"
TASK = Adding(length=12)
FINITE, ZERO, CENSORED = 0, 1, 2

pytestmark = pytest.mark.usefixtures("float64")


def taken(model: object, task: Task = TASK, count: int = 3) -> Snapshot:
    batch = task.sample(count, torch.Generator().manual_seed(0))
    return snapshot(model, task, batch.beside(model.like), 0)  # type: ignore[arg-type, attr-defined]  # a model


def read(model: object, task: Task = TASK, **settings: int) -> dict[str, Reading]:
    settings = {"length": 60, "warmup": 5} | settings
    return {reading.name: reading for reading in Lyapunov(**settings)(taken(model, task))}


def cell(model: object) -> Recurrence:
    return model.stack.placed[0][0].recurrence  # type: ignore[attr-defined, no-any-return]  # a recurrent model


def with_matrix(matrix: Tensor) -> object:
    model = linear_rnn(TASK, hidden=len(matrix))
    with torch.no_grad():
        cell(model).weights()["recurrent"].copy_(matrix)
    return model


def test_a_rotation_neither_grows_nor_fades() -> None:
    readings = read(linear_rnn(TASK, hidden=4))
    for name in ("finite", "asymptotic", "maximum"):
        np.testing.assert_allclose(readings[f"{name}/{KEY}"].values, 0.0, atol=1e-14)
    assert readings[f"kaplan_yorke/{KEY}"].values == 4


def test_a_diagonal_recurrence_has_the_logarithms_of_its_entries() -> None:
    """In any order of the entries, natural logarithms, the largest first; one that leaves every format is exact."""
    readings = read(with_matrix(torch.diag(torch.tensor([0.1, -0.9, 1.2, 1e-200]))))
    expected = [math.log(1.2), math.log(0.9), math.log(0.1), math.log(1e-200)]
    for name in ("finite", "asymptotic"):
        reading = readings[f"{name}/{KEY}"]
        np.testing.assert_allclose(np.atleast_2d(reading.values)[0], expected, rtol=1e-14)
        assert (np.asarray(reading.status) == FINITE).all()
    np.testing.assert_allclose(readings[f"maximum/{KEY}"].values, math.log(1.2), rtol=1e-14)
    np.testing.assert_allclose(
        readings[f"kaplan_yorke/{KEY}"].values, 2 + (math.log(1.2) + math.log(0.9)) / math.log(10), rtol=1e-12
    )


def test_a_complex_pair_has_the_logarithm_of_its_absolute_value_twice() -> None:
    """Eigenvalues ½ ± ½i of a matrix that is not normal: together exact at any length, each within O(1/length)."""
    readings = read(with_matrix(torch.tensor([[0.0, -0.5], [1.0, 1.0]])), length=1000)
    found = readings[f"asymptotic/{KEY}"].values
    np.testing.assert_allclose(found.sum(), math.log(0.5), rtol=1e-12)
    np.testing.assert_allclose(found, 0.5 * math.log(0.5), atol=5e-3)


def test_an_lstm_without_recurrent_weights_has_half_of_its_exponents_from_its_forget_gates() -> None:
    """n of -∞, for what the hidden state carries, and n of the cell's: over h alone none of these would be found.

    A change of a cell is Π f of it some times later, and o (1 - tanh² c) of that in the hidden state beside it.
    """
    model = lstm(TASK, hidden=3)
    with torch.no_grad():
        cell(model).weights()["recurrent"].zero_()
    on = taken(model)
    weights, course = cell(model).weights(), on.courses[KEY]
    bias = weights["input_bias"] + weights["recurrent_bias"]

    def expected(inputs: Tensor, warmup: int = 0) -> Tensor:
        enter, forget, candidate, leave = (inputs @ weights["input"].T + bias).detach().chunk(4, 1)
        cells, stretched = torch.zeros(3), [torch.zeros(3)]
        for at in range(len(inputs)):
            cells = forget[at].sigmoid() * cells + enter[at].sigmoid() * candidate[at].tanh()
            beside = leave[at].sigmoid() * (1 - cells.tanh().square())
            stretched.append(0.5 * (1 + beside.square()).log())
        grown = forget[warmup:].sigmoid().log().sum(0) + stretched[-1] - stretched[warmup]
        return (grown / (len(inputs) - warmup)).sort(descending=True).values

    readings = {reading.name: reading for reading in Lyapunov(samples=2, length=40, warmup=7)(on)}
    finite = readings[f"finite/{KEY}"]
    assert finite.status is not None
    for sample in range(2):
        np.testing.assert_allclose(finite.values[sample, :3], expected(course.inputs[sample]), rtol=1e-13)
    assert np.isneginf(finite.values[:, 3:]).all() and (finite.status[:, 3:] == ZERO).all()
    assert (finite.status[:, :3] == FINITE).all()
    # the three samples one behind the other, then the first again; the first seven times left out
    stream = torch.cat([course.inputs[sample] for sample in (0, 1, 2, 0)])[:47]
    np.testing.assert_allclose(readings[f"asymptotic/{KEY}"].values[:3], expected(stream, warmup=7), rtol=1e-13)
    # what was lost before the count began is no zero any more: a direction like another, and lost to rounding
    assert np.asarray(readings[f"asymptotic/{KEY}"].status).tolist() == [FINITE] * 3 + [CENSORED] * 3
    assert (readings[f"asymptotic/{KEY}"].values[3:] < -30).all()
    assert readings[f"kaplan_yorke/{KEY}"].values == 0


@pytest.mark.parametrize("make", [elman, gru, lstm])
def test_their_sum_is_the_mean_logarithm_of_the_determinant(make) -> None:  # type: ignore[no-untyped-def]  # a factory
    torch.manual_seed(0)
    on = taken(make(TASK, hidden=4))
    steps = jacobians(on)
    found = next(iter(Lyapunov()(on))).values[0]
    assert len(found) == (8 if make is lstm else 4)
    expected = torch.stack([torch.linalg.slogdet(step).logabsdet for step in steps]).mean()
    np.testing.assert_allclose(found.sum(), expected, rtol=1e-11)


@pytest.mark.parametrize("make", [elman, gru, lstm])
def test_finite_exponents_are_those_of_the_product_in_the_order_of_time(make) -> None:  # type: ignore[no-untyped-def]
    """J_T ⋯ J_1 = Q R has |R_ii| = e^{T λ_i}; the product the other way round has another R."""
    torch.manual_seed(0)
    task = Adding(length=4)
    on = taken(make(task, hidden=2), task)
    steps = [step * 3 for step in jacobians(on)]  # a factor changes every exponent by its logarithm

    def expected(factors: Sequence[Tensor]) -> Tensor:
        product = torch.linalg.multi_dot([*reversed(factors)])
        logarithms: Tensor = torch.linalg.qr(product).R.diagonal().abs().log() / 4 - math.log(3)
        return logarithms.sort(descending=True).values

    found = next(iter(Lyapunov()(on))).values[0]
    np.testing.assert_allclose(found, expected(steps), rtol=1e-9)
    assert np.abs(found - expected(steps[::-1]).numpy()).max() > 1e-3


def test_a_matrix_memory_counts_with_all_its_entries() -> None:
    """Linear attention adds to what it has: ∂z_t/∂z_{t-1} = 1 for 2 heads of 2×2 and their normalisers."""
    readings = read(linear_attention(TASK, hidden=4, layers=1, heads=2, feedforward=4))
    np.testing.assert_array_equal(readings[f"finite/{KEY}"].values, np.zeros((1, 12)))


def test_what_rounding_hides_is_censored() -> None:
    """diag(1, 1e-20) seen from turned axes: nothing of the second direction is left in float64."""
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    reading = read(with_matrix(turn @ torch.diag(torch.tensor([1.0, 1e-20])) @ turn.T))[f"finite/{KEY}"]
    assert np.asarray(reading.status).tolist() == [[FINITE, CENSORED]]
    assert reading.values[0, 0] == pytest.approx(0.0, abs=0.05)  # the first step is taken along e_1
    assert math.log(1e-17) < reading.values[0, 1] < math.log(1e-13)


@pytest.mark.parametrize("unheard", [0, 1])
def test_a_direction_that_is_lost_takes_nothing_from_those_behind_it(unheard: int) -> None:
    """A unit that no other hears, W with a column of zeros: the exponents are those of the other columns."""
    matrix = torch.tensor([[0.9, 0.4, 0.3], [0.2, 0.5, 0.1], [0.1, 0.3, -0.6]])
    matrix[:, unheard] = 0
    reading = read(with_matrix(matrix))[f"finite/{KEY}"]
    others = [unit for unit in range(3) if unit != unheard]
    left = torch.linalg.qr(torch.linalg.matrix_power(matrix, 12)[:, others]).R.diagonal().abs().log() / 12
    np.testing.assert_allclose(reading.values[0, :2], left.sort(descending=True).values, rtol=1e-10)
    assert np.isneginf(reading.values[0, 2]) and np.asarray(reading.status).tolist() == [[FINITE, FINITE, ZERO]]


@pytest.mark.parametrize("seed", [19, 39, 41, 42])
def test_no_more_directions_are_known_than_open_units_hand_on(seed: int) -> None:
    """A ReLU layer whose open units are fewer at some time than directions: the rest of these is rounding."""
    task = Adding(length=4)
    torch.manual_seed(seed)
    on = taken(elman_relu(task, hidden=8), task)
    rank = min(int(step.any(1).sum()) for step in jacobians(on))
    reading = next(iter(Lyapunov()(on)))
    assert (np.asarray(reading.status) == FINITE).sum() <= rank


def test_rounding_of_the_vectors_before_counts_by_how_much_a_vector_is_made_of_them() -> None:
    """The third column is about 1e10 times the second, which is 1e-10 long: it is known no better than to 1e-6."""
    upper = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 1e-10, 1.0], [0.0, 0.0, 1e-8]]])
    found = resolution(upper, torch.full((1, 3), 1e-16))
    np.testing.assert_allclose(found[0], [1e-16, 2e-16, 1e-16 * (1 + 1e10 + 1e10)], rtol=1e-12)
    upper[0, 1, 1] = 0  # lost: nothing is made of it
    np.testing.assert_allclose(resolution(upper, torch.full((1, 3), 1e-16))[0], [1e-16, 2e-16, 1e-16], rtol=1e-12)


def test_a_sample_that_is_left_out_leaves_the_others_their_numbers() -> None:
    """Two ReLU units that are shut along the first sample are two parts there, and along the second they are one."""
    on = taken(elman_relu(TASK, hidden=2), count=2)
    weights, course = cell(on.model).weights(), on.courses[KEY]
    with torch.no_grad():
        weights["recurrent"].fill_(0.5)
        weights["input_bias"].fill_(1.0)
    course.inputs[0] = 0.0
    course.states["hidden"][0], course.states["hidden"][1] = 1.0, -3.0
    with pytest.warns(LeftOut):
        (reading,) = Lyapunov(samples=2, length=1, warmup=0, largest=1)(on)
    assert reading.values.shape == (1, 2) and list(reading.dims["sample"]) == [1]


def test_a_dimension_is_a_bound_where_it_is_cut_off_at_one() -> None:
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    for shrunk, status in ((1e-20, CENSORED), (1e-2, FINITE)):
        matrix = turn @ torch.diag(torch.tensor([1.2, shrunk])) @ turn.T
        reading = read(with_matrix(matrix))[f"kaplan_yorke/{KEY}"]
        assert 1 < reading.values < 2 and reading.status == status


def test_a_model_in_single_precision_is_measured_in_double() -> None:
    torch.manual_seed(0)
    model = lstm(TASK, hidden=3)
    exact = read(model)[f"asymptotic/{KEY}"].values
    rounded = read(model.float())[f"asymptotic/{KEY}"]
    np.testing.assert_allclose(rounded.values, exact, rtol=1e-5)


def test_a_stable_network_forgets_its_frame_during_the_warmup() -> None:
    """A Jordan block: its finite exponents begin away from ln ½ and approach it."""
    matrix = torch.tensor([[0.5, 1.0], [0.0, 0.5]]).T  # from e_1 the first vector turns towards e_2
    early, late = (
        read(with_matrix(matrix), length=50, warmup=warmup)[f"asymptotic/{KEY}"].values for warmup in (0, 500)
    )
    assert abs(late[0] - math.log(0.5)) < 3e-3 < 2e-2 < abs(early[0] - math.log(0.5))


def test_both_directions_are_measured_each_by_itself() -> None:
    torch.manual_seed(0)
    readings = read(gru(TASK, hidden=2, layers=2, bidirectional=True))
    assert [name for name in readings if name.startswith("maximum")] == [
        f"maximum/{layer}.{way}" for layer in (0, 1) for way in ("forward", "backward")
    ]


def test_non_finite_states_give_no_number_and_say_so() -> None:
    model = elman(TASK, hidden=2)
    with torch.no_grad():
        cell(model).weights()["input_bias"].fill_(math.nan)
    reading = read(model)[f"finite/{KEY}"]
    assert np.isnan(reading.values).all() and (np.asarray(reading.status) == 4).all()


def test_attention_has_no_exponents() -> None:
    assert not read(transformer(TASK, 8, 1, 2, 8))


@pytest.mark.parametrize(
    ("spectrum", "dimension"),
    [
        ([0.5, -0.25, -1.0], 2.25),
        ([-0.1, -1.0], 0.0),
        ([0.2, 0.1], 2.0),
        ([0.5, -math.inf], 1.0),
        ([0.0, -1e-17, -1e-16], 3.0),
    ],
)
def test_kaplan_yorke_by_hand(spectrum: list[float], dimension: float) -> None:
    assert kaplan_yorke(spectrum) == pytest.approx(dimension)


def test_kaplan_yorke_of_no_number_is_none() -> None:
    assert math.isnan(kaplan_yorke([math.nan, 0.1]))


def test_many_times_are_taken_a_few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = lstm(Adding(length=11), hidden=2)
    whole = read(model, Adding(length=11))
    monkeypatch.setattr("retrograde.core.jacobians.AT_ONCE", 3 * 4 * 4)
    pieces = read(model, Adding(length=11))
    assert whole.keys() == pieces.keys()
    for name, reading in whole.items():
        np.testing.assert_allclose(pieces[name].values, reading.values, rtol=1e-12, atol=1e-14)
