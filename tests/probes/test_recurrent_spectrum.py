"""Spectra by hand, departure from normality by another decomposition, and each matrix against what its step does."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from retrograde.core.contracts import SequenceModel, Snapshot, Task
from retrograde.core.recurrence import Recurrence
from retrograde.core.snapshot import snapshot
from retrograde.layers.cells import ElmanCell, GRUCell, LSTMCell
from retrograde.models.antisymmetric_rnn import AntisymmetricCell
from retrograde.models.clockwork_rnn import ClockworkCell
from retrograde.models.cornn import OscillatorCell
from retrograde.models.gru_simple import UpdateGateCell
from retrograde.models.indrnn import IndependentCell, indrnn
from retrograde.models.lem import MemoryCell
from retrograde.models.linear_rnn import LinearCell, linear_rnn
from retrograde.models.lstm import lstm
from retrograde.models.lstm_1997 import CarouselCell
from retrograde.models.lstm_peephole import PeepholeCell
from retrograde.models.orthogonal_rnn import OrthogonalCell, orthogonal_rnn
from retrograde.models.slstm import ScalarLSTMCell
from retrograde.models.torchrecurrent import OTHER_WEIGHTS, TorchRecurrentCell
from retrograde.models.transformer import transformer
from retrograde.probes.recurrent_spectrum import RecurrentSpectrum, of_diagonal, of_matrix
from retrograde.tasks.adding import Adding

pytestmark = pytest.mark.usefixtures("float64")

TASK = Adding(length=5)


def values(numbers: dict[str, tuple[Tensor, str]]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, (value, _) in numbers.items()}


def matrix(*rows: list[float]) -> dict[str, np.ndarray]:
    return values(of_matrix(torch.tensor(rows)))


def taken(model: SequenceModel, task: Task = TASK) -> Snapshot:
    return snapshot(model, task, task.sample(2, torch.Generator().manual_seed(0)), 0)


def readings(model: SequenceModel, **settings: int) -> dict[str, np.ndarray]:
    return {reading.name: reading.values for reading in RecurrentSpectrum(**settings)(taken(model))}


def test_a_rotation_that_shrinks_has_a_pair_of_one_size() -> None:
    angle, size = 0.3, 0.9
    across, along = size * math.sin(angle), size * math.cos(angle)
    made = matrix([along, -across], [across, along])
    np.testing.assert_allclose(made["magnitude"], [size, size])
    np.testing.assert_allclose(made["phase"], [angle, -angle])
    np.testing.assert_allclose([made["radius"], made["norm"]], size)
    np.testing.assert_allclose([made["departure"], made["departure_share"]], 0, atol=1e-7)


def test_a_jordan_block_departs_from_normality_by_what_stands_above_its_diagonal() -> None:
    """[[a, 1], [0, a]]: σ² = a² + 1/2 ± √(a² + 1/4)."""
    a = 0.5
    made = matrix([a, 1.0], [0.0, a])
    np.testing.assert_allclose(made["magnitude"], [a, a])
    np.testing.assert_allclose(made["norm"], math.sqrt(a**2 + 0.5 + math.sqrt(a**2 + 0.25)))
    np.testing.assert_allclose(made["departure"], 1)
    np.testing.assert_allclose(made["departure_share"], 1 / math.sqrt(2 * a**2 + 1))


def test_eigenvalues_come_with_the_largest_first_and_their_own_angles() -> None:
    made = matrix([0.5, 0.0, 0.0], [0.0, -2.0, 0.0], [0.0, 0.0, 1.0])
    np.testing.assert_allclose(made["magnitude"], [2, 1, 0.5])
    np.testing.assert_allclose(made["phase"], [math.pi, 0, 0])
    assert made["radius"] == made["norm"] == 2


def test_a_matrix_of_zeros_is_normal() -> None:
    made = matrix([0.0, 0.0], [0.0, 0.0])
    assert not made["magnitude"].any() and made["departure"] == made["departure_share"] == 0


def test_departure_is_what_stands_above_the_diagonal_of_the_schur_form() -> None:
    """Henrici's number by its other definition, and the eigenvalues from that form."""
    given = torch.randn(12, 12)
    upper, _ = scipy.linalg.schur(given.numpy(), output="complex")
    made = values(of_matrix(given))
    np.testing.assert_allclose(made["departure"], np.linalg.norm(np.triu(upper, 1)), rtol=1e-10)
    np.testing.assert_allclose(made["magnitude"], np.sort(np.abs(np.diag(upper)))[::-1], rtol=1e-10)
    np.testing.assert_allclose(made["norm"], np.linalg.norm(given.numpy(), 2))


def test_an_orthogonal_network_has_all_its_eigenvalues_on_the_unit_circle() -> None:
    made = readings(orthogonal_rnn(TASK, hidden=16))
    np.testing.assert_allclose(made["magnitude/0.forward.recurrent"], 1)
    np.testing.assert_allclose(made["norm/0.forward.recurrent"], 1)
    assert made["departure_share/0.forward.recurrent"] < 1e-6


def test_the_radius_is_the_one_that_the_network_was_made_with() -> None:
    made = readings(linear_rnn(TASK, hidden=16, radius=0.8, matrix="nonnormal"))
    np.testing.assert_allclose(made["radius/0.forward.recurrent"], 0.8)
    assert made["norm/0.forward.recurrent"] > 0.8 and made["departure_share/0.forward.recurrent"] > 0.3


def test_weights_of_float32_lose_nothing_more() -> None:
    """A symmetric matrix is normal: by float32 arithmetic it would depart by 1e-3."""
    torch.set_default_dtype(torch.float32)
    made = readings(linear_rnn(TASK, hidden=64, matrix="normal"))
    assert made["departure_share/0.forward.recurrent"] < 1e-6
    assert made["magnitude/0.forward.recurrent"].dtype == np.float64


def test_a_diagonal_has_time_scales() -> None:
    given = torch.tensor([0.0, 0.5j, -1.0, math.exp(-0.01), 1.5])
    made = values(of_diagonal(given))
    np.testing.assert_allclose(made["magnitude"], [1.5, 1, math.exp(-0.01), 0.5, 0])
    np.testing.assert_allclose(made["phase"], [0, math.pi, 0, math.pi / 2, 0])
    np.testing.assert_allclose(made["time_scale"], [math.inf, math.inf, 100, 1 / math.log(2), 0])
    assert made["radius"] == 1.5 and "departure" not in made


def test_independent_units_are_a_diagonal() -> None:
    model = indrnn(TASK, hidden=4, length=10)
    made = readings(model)
    own = model.stack.placed[0][0].recurrence.weights()["recurrent"].detach().abs().sort(descending=True).values
    np.testing.assert_allclose(made["magnitude/0.forward.recurrent"], own)
    assert "norm/0.forward.recurrent" not in made


def test_each_matrix_of_every_layer_and_direction_is_read() -> None:
    made = readings(lstm(TASK, hidden=4, layers=2, bidirectional=True))
    assert {name for name in made if name.startswith("radius/")} == {
        f"radius/{layer}.{direction}.{gate}"
        for layer in (0, 1)
        for direction in ("forward", "backward")
        for gate in ("input", "forget", "candidate", "output")
    }


def test_weights_that_are_no_numbers_are_read_as_none() -> None:
    given = torch.eye(3)
    given[1, 2] = math.inf
    for value in values(of_matrix(given)).values():
        assert np.isnan(value).all()
    assert np.isnan(values(of_diagonal(torch.tensor([0.5, math.nan])))["magnitude"]).any()


def test_of_a_matrix_too_wide_the_norm_alone_is_read() -> None:
    model = linear_rnn(TASK, hidden=6, matrix="nonnormal")
    whole, wide = readings(model), readings(model, widest=5)
    assert wide == {"norm/0.forward.recurrent": whole["norm/0.forward.recurrent"]}


def test_what_has_no_recurrent_weights_yields_nothing() -> None:
    assert not readings(transformer(TASK, 8, 1, 2, 8))


def test_a_width_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="widest must be at least 1, not 0"):
        RecurrentSpectrum(widest=0)


# Each matrix is what its step multiplies the state by: the step's derivatives where the nonlinearities' are known.

N = 4


def derivative(cell: Recurrence, made: str, by: str, **state: float) -> Tensor:
    """∂made/∂by with no input and no bias, where states are zero but for those given."""
    weights = {name: value.detach() * ("bias" not in name) for name, value in cell.weights().items()}
    width = 3 + cell.clock(torch.zeros(1, dtype=torch.long)).shape[-1]
    x = torch.zeros(1, width)
    x[:, 3:] = 1  # every clock ticks
    before = {name: torch.full((1, *shape), state.get(name, 0.0)) for name, shape in cell.components.items()}

    def step(value: Tensor) -> Tensor:
        return cell.step(weights, x, before | {by: value[None]})[made][0]

    return torch.autograd.functional.jacobian(step, before[by][0])


def gate_derivative(cell: Recurrence, gate: str) -> Tensor:
    """∂ logit(gate)/∂hidden, at random states."""
    weights = {name: value.detach() for name, value in cell.weights().items()}
    state = {name: torch.randn(1, *shape) for name, shape in cell.components.items()}
    x = torch.randn(1, 3)

    def logit(hidden: Tensor) -> Tensor:
        return torch.logit(cell.gates(weights, x, state | {"hidden": hidden[None]})[gate])[0]

    return torch.autograd.functional.jacobian(logit, state["hidden"][0])


EYE = torch.eye(N, dtype=torch.float64)

STEPS: dict[str, tuple[Callable[[], Recurrence], str, str, str, Callable[[Tensor], Tensor]]] = {
    "elman": (lambda: ElmanCell(3, N), "recurrent", "hidden", "hidden", lambda w: w),
    "linear": (lambda: LinearCell(3, N, 1.0, "nonnormal"), "recurrent", "hidden", "hidden", lambda w: w),
    "clockwork": (lambda: ClockworkCell(3, N, 2), "recurrent", "hidden", "hidden", lambda w: w),
    "antisymmetric": (
        lambda: AntisymmetricCell(3, N, 0.1, 0.2, 1.0, False),
        "recurrent",
        "hidden",
        "hidden",
        lambda w: EYE + 0.1 * w,
    ),
    "cornn hidden": (
        lambda: OscillatorCell(3, N, 0.5, 2.0, 3.0, "explicit"),
        "recurrent",
        "velocity",
        "hidden",
        lambda w: 0.5 * (w - 2 * EYE),
    ),
    "cornn velocity": (
        lambda: OscillatorCell(3, N, 0.5, 2.0, 3.0, "explicit"),
        "velocity",
        "velocity",
        "velocity",
        lambda w: EYE + 0.5 * (w - 3 * EYE),
    ),
    "lstm": (lambda: LSTMCell(3, N), "candidate", "cell", "hidden", lambda w: w / 2),
    "lstm_peephole": (lambda: PeepholeCell(3, N, 1.0), "candidate", "cell", "hidden", lambda w: w / 2),
    "lstm_1997": (lambda: CarouselCell(3, N, 0.0, 0.0), "offered", "cell", "hidden", lambda w: w / 2),
    "gru": (lambda: GRUCell(3, N), "candidate", "hidden", "hidden", lambda w: EYE / 2 + w / 4),
    "gru_simple": (lambda: UpdateGateCell(3, N), "candidate", "hidden", "hidden", lambda w: EYE / 2 + w / 2),
    "lem written": (lambda: MemoryCell(3, N, 1.0), "written", "memory", "hidden", lambda w: w / 2),
    "lem read": (lambda: MemoryCell(3, N, 1.0), "read", "hidden", "memory", lambda w: w / 4),
}
"""A cell, one of its matrices, the derivative of what by what, and what it must be of that matrix."""


@pytest.mark.parametrize("name", STEPS)
def test_a_matrix_is_what_the_step_multiplies_the_state_by(name: str) -> None:
    factory, weight, made, by, expected = STEPS[name]
    cell = factory()
    found = cell.transitions(cell.weights())[weight].detach()
    torch.testing.assert_close(derivative(cell, made, by), expected(found))


def test_the_matrix_of_an_orthogonal_network_is_its_derivative_where_units_are_open() -> None:
    cell = OrthogonalCell(3, N, "henaff")
    weights = {name: value.detach() for name, value in cell.weights().items()}
    weights["bias"] = weights["bias"].abs()
    x = torch.randn(1, 3)
    made = torch.autograd.functional.jacobian(
        lambda hidden: cell.step(weights, x, {"hidden": hidden[None]})["hidden"][0], torch.randn(N)
    )
    torch.testing.assert_close(made, cell.transitions(weights)["recurrent"])


def test_independent_units_hand_on_their_weight_where_they_are_active() -> None:
    cell = IndependentCell(3, N, 10, 2.0)
    weights = {name: value.detach() for name, value in cell.weights().items()}
    state = torch.full((N,), 100.0)
    made = torch.autograd.functional.jacobian(
        lambda hidden: cell.step(weights, torch.zeros(1, 3), {"hidden": hidden[None]})["hidden"][0], state
    )
    torch.testing.assert_close(made, torch.diag(cell.transitions(weights)["recurrent"]))


def test_the_candidate_of_scalar_lstm_reads_its_own_head_alone() -> None:
    """With i' = 1 the cell changes by R_z h: two blocks on the diagonal."""
    cell = ScalarLSTMCell(3, N, 2, "sigmoid")
    torch.nn.init.normal_(cell.recurrent)
    found = cell.transitions(cell.weights())["candidate"].detach()
    assert found[:2, :2].all() and found[2:, 2:].all() and not found[:2, 2:].any() and not found[2:, :2].any()
    torch.testing.assert_close(derivative(cell, "cell", "hidden", normaliser=1.0), found)


GATES: list[tuple[Callable[[], Recurrence], tuple[str, ...]]] = [
    (lambda: LSTMCell(3, N), ("input", "forget", "output")),
    (lambda: PeepholeCell(3, N, 1.0), ("input", "forget")),  # the output gate sees the cell that hidden changes
    (lambda: CarouselCell(3, N, 0.0, 0.0), ("input", "output")),
    (lambda: GRUCell(3, N), ("reset", "update")),
    (lambda: UpdateGateCell(3, N), ("update",)),
    (lambda: MemoryCell(3, N, 0.5), ("memory_rate", "hidden_rate")),
    (lambda: ScalarLSTMCell(3, N, 2, "sigmoid"), ("output",)),  # i' and f' are no sigmoids
]


@pytest.mark.parametrize("place", range(len(GATES)))
def test_a_gates_matrix_is_what_the_hidden_state_says_to_that_gate(place: int) -> None:
    factory, gates = GATES[place]
    cell = factory()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    for gate in gates:
        torch.testing.assert_close(
            gate_derivative(cell, gate), cell.transitions(cell.weights())[gate].detach(), rtol=1e-8, atol=1e-8
        )


class Multiplied(TorchFunctionMode):
    """The matrices that something made of the state is multiplied by."""

    def __init__(self) -> None:
        super().__init__()
        self.matrices: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.__matmul__, torch.matmul, Tensor.matmul) and args[0].requires_grad:
            self.matrices.append(args[1].detach().mT)
        return func(*args, **(kwargs or {}))


def cells() -> list[str]:
    package = pytest.importorskip("torchrecurrent")
    return [name.removesuffix("Cell") for name in package.__all__ if name.endswith("Cell")]


@pytest.mark.parametrize("name", cells())
def test_blocks_of_a_cell_of_torchrecurrent_are_what_it_multiplies_the_state_by(name: str) -> None:
    """Recorded while the cell steps, with a state that is a live node among weights that are not."""
    cell = TorchRecurrentCell(N if name == "IntersectionRNN" else 3, N, name)
    weights = {key: torch.randn_like(value) for key, value in cell.weights().items()}
    found = cell.transitions(weights)
    assert not (found and name in OTHER_WEIGHTS)
    state = {key: torch.randn(2, *shape).requires_grad_() for key, shape in cell.components.items()}
    x = torch.randn(2, N if name == "IntersectionRNN" else 3)
    with Multiplied() as seen:
        cell.step(weights, x, state)
    for key, block in found.items():
        assert block.shape == (N, N)
        rows = [each for matrix in seen.matrices if matrix.shape[-1] == N for each in matrix.split(N)]
        assert any(torch.equal(block, each) for each in rows), f"the state is not multiplied by {key}"
    if not found and name not in OTHER_WEIGHTS:
        assert not any(key.endswith("weight_hh") and value.ndim == 2 for key, value in weights.items())
