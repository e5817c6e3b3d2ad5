"""The matrix applied is the layer's output; the matrix itself against autograd and loops; its numbers by hand."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from members import built, fitting, stems
from torch import Tensor, nn

from retrograde.core.contracts import SequenceModel, Snapshot, Task
from retrograde.core.records import Reading
from retrograde.core.recurrence import Recurrence, sequence, unroll
from retrograde.core.snapshot import snapshot
from retrograde.layers.delta_rule import DeltaRuleCell
from retrograde.layers.token_matrix import toeplitz, token_matrix
from retrograde.models.deltanet import deltanet
from retrograde.models.gated_deltanet import gated_deltanet
from retrograde.models.gla import GatedLinearAttentionCell, gla
from retrograde.models.gru import gru
from retrograde.models.hyena import Hyena, HyenaOperator
from retrograde.models.linear_attention import LinearAttentionCell
from retrograde.models.linear_rnn import LinearCell
from retrograde.models.lru import LinearRecurrentUnit
from retrograde.models.mamba import SelectiveStateSpace, mamba
from retrograde.models.mingru import MinGRUCell, mingru
from retrograde.models.minlstm import MinLSTMCell
from retrograde.models.mlstm import MatrixLSTMCell
from retrograde.models.retnet import RetentionCell
from retrograde.models.rwkv import TimeMixingCell
from retrograde.models.s4d import DiagonalStateSpace
from retrograde.probes.hidden_attention import HiddenAttention, shares_of
from retrograde.tasks.adding import Adding
from retrograde.tasks.copying import Copying

pytestmark = pytest.mark.usefixtures("float64")

TASK = Copying(length=4, symbols=3, recall=2)
IDENTITY = 1e-10
LENGTH = 9


def away(module: Any) -> Any:
    """Away from the start, where much is zero or the same."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.4 * torch.randn_like(parameter)
    return module


def taken(model: SequenceModel, task: Task, count: int = 3) -> Snapshot:
    batch = task.sample(count, torch.Generator().manual_seed(0)).beside(model.like)
    return snapshot(model, task, batch, 0)


def by_name(readings: object) -> dict[str, Reading]:
    return {reading.name: reading for reading in readings}  # type: ignore[attr-defined]  # readings


def attention_of(cell: Recurrence, x: Tensor) -> "tuple[Tensor, Tensor]":
    found = cell.hidden_attention({name: weight.detach() for name, weight in cell.weights().items()}, x)
    assert found is not None
    return found.weights[0], found.applied()


@cache
def member(stem: str) -> Snapshot | None:
    """Of the model away from its start; None where none of its recurrences has a matrix."""
    task = next((task for task in fitting(stem) if task.inputs.size > 2), fitting(stem)[0])
    model = built(stem, task)
    if any(type(part).hidden_attention is not Recurrence.hidden_attention for part in recurrences(model)):
        return taken(away(model), task)
    return None


@pytest.mark.parametrize("stem", stems("model"))
def test_the_matrix_applied_to_the_values_is_the_layers_output(stem: str) -> None:
    """Of every recurrence of every model that has a matrix, on what it reads in the model."""
    on = member(stem)
    if on is None:
        return
    served = 0
    for course in on.courses.values():
        found = course.recurrence.hidden_attention(course.weights, course.inputs)
        if found is not None:
            expected = sequence(course.recurrence, course.inputs)
            torch.testing.assert_close(found.applied(), expected, rtol=0, atol=IDENTITY)
            served += 1
    assert served


def recurrences(model: SequenceModel) -> list[Recurrence]:
    return [part for part in model.modules() if isinstance(part, Recurrence)]


def by_autograd(read: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """(head, query, key): ∂y_i/∂v_j of every head, whose values act alike and on nothing but themselves."""
    jacobian = torch.autograd.functional.jacobian(read, values)  # query, head, value, key, head, value
    heads = torch.diagonal(torch.diagonal(jacobian, 0, 1, 4), 0, 1, 3)  # query, key, head, value
    torch.testing.assert_close(jacobian.abs().sum(), heads.abs().sum())
    torch.testing.assert_close(heads, heads[..., :1].expand_as(heads))
    return heads[..., 0].permute(2, 0, 1)


HEADS, KEYS, VALUES = 2, 4, 3
OUTER_PRODUCTS: dict[str, tuple[Recurrence, Callable[[], Tensor]]] = {
    "retnet": (RetentionCell(HEADS * KEYS, HEADS * VALUES, HEADS), lambda: torch.randn(1, LENGTH, 22)),
    "linear_attention": (LinearAttentionCell(HEADS * VALUES, HEADS), lambda: torch.randn(1, LENGTH, 18)),
    "gla": (
        GatedLinearAttentionCell(HEADS * KEYS, HEADS * VALUES, HEADS),
        lambda: torch.cat(
            [torch.randn(1, LENGTH, 16), torch.randn(1, LENGTH, 8).sigmoid().log(), torch.randn(1, LENGTH, 6)], 2
        ),
    ),
}


@pytest.mark.parametrize("stem", OUTER_PRODUCTS)
def test_with_queries_keys_and_gates_held_the_matrix_is_the_jacobian_by_the_values(stem: str) -> None:
    """The values are the last inputs; the loop over ``step`` is differentiated."""
    cell, draw = OUTER_PRODUCTS[stem]
    x = draw()
    rest, values = x[..., : -HEADS * VALUES], x[..., -HEADS * VALUES :]

    def read(values: Tensor) -> Tensor:
        inputs = torch.cat([rest, values.flatten(1).unsqueeze(0)], 2)
        states = {name: state[:, 1:] for name, state in unroll(cell, inputs).items()}
        return cell.read({}, inputs, states)[0].unflatten(-1, (HEADS, VALUES))

    expected = by_autograd(read, values[0].unflatten(-1, (HEADS, VALUES)))
    torch.testing.assert_close(attention_of(cell, x)[0], expected, rtol=0, atol=IDENTITY)


@pytest.mark.parametrize("decays", [False, True])
def test_the_delta_rules_matrix_is_the_jacobian_by_the_values(decays: bool) -> None:
    """Without a convolution v is SiLU of the last channels; β up to 2, where a write takes back more than there was."""
    cell = DeltaRuleCell(HEADS * KEYS, HEADS * VALUES, HEADS, convolution=1, decays=decays, strongest=2.0)
    channels, strength = torch.randn(1, LENGTH, 22), 2 * torch.rand(1, LENGTH, HEADS)
    gates = torch.cat([strength, *([torch.rand(1, LENGTH, HEADS).log()] if decays else [])], 2)
    values = nn.functional.silu(channels[0, :, 16:]).unflatten(-1, (HEADS, VALUES))
    q, k = (part.unflatten(-1, (HEADS, KEYS)) for part in nn.functional.silu(channels[0, :, :16]).chunk(2, -1))
    q, k = (part / (part.square().sum(-1, keepdim=True) + 1e-6).sqrt() for part in (q, k))

    def read(values: Tensor) -> Tensor:
        memory, made = torch.zeros(HEADS, VALUES, KEYS), []
        for t in range(LENGTH):
            b = gates[0, t, :HEADS, None, None]
            a = gates[0, t, HEADS:, None, None].exp() if decays else 1.0
            erased = torch.eye(KEYS) - b * k[t, :, :, None] * k[t, :, None, :]
            memory = a * memory @ erased + b * values[t, :, :, None] * k[t, :, None, :]
            made.append((memory @ q[t].unsqueeze(-1)).squeeze(-1))
        return torch.stack(made)

    expected = by_autograd(read, values)
    torch.testing.assert_close(attention_of(cell, torch.cat([channels, gates], 2))[0], expected, rtol=0, atol=IDENTITY)


def test_mambas_matrix_is_the_jacobian_by_u_with_the_selection_held() -> None:
    cell = away(SelectiveStateSpace(inner=4, state=3, rank=2, convolution=1, dt_min=0.01, dt_max=1.0))
    weights = {name: weight.detach() for name, weight in cell.weights().items()}
    x = torch.randn(1, LENGTH, 4)
    u = cell.activated(weights, x * weights["filter"][:, 0])
    timescale, enter, leave = (part[0] for part in cell.selected(weights, u))

    def read(u: Tensor) -> Tensor:
        state, made = torch.zeros(4, 3), []
        for t in range(LENGTH):
            decay = torch.exp(-timescale[t, :, None] * weights["decay"].exp())
            state = decay * state + timescale[t, :, None] * enter[t] * u[t]
            made.append(state @ leave[t].unsqueeze(-1))
        return torch.stack(made)

    torch.testing.assert_close(attention_of(cell, x)[0], by_autograd(read, u[0].unsqueeze(-1)), rtol=0, atol=IDENTITY)


@pytest.mark.parametrize("kind", [MinGRUCell, MinLSTMCell])
def test_a_minimal_cells_matrix_is_the_jacobian_by_the_candidates(kind: type) -> None:
    """Its rows, with what is left of the initial state, are shares of a mean."""
    cell = away(kind(3, 4))
    x = torch.randn(1, LENGTH, 3)
    *gates, candidate = cell.project(x)[0].detach().chunk(cell.parts, -1)
    keep, _ = cell.kept_and_written(*gates, candidate)

    def read(candidate: Tensor) -> Tensor:
        hidden, made = torch.zeros(4), []
        for t in range(LENGTH):
            hidden = keep[t] * hidden + (1 - keep[t]) * candidate[t, :, 0]
            made.append(hidden.unsqueeze(-1))
        return torch.stack(made)

    matrix, _ = attention_of(cell, x)
    torch.testing.assert_close(matrix, by_autograd(read, candidate.unsqueeze(-1)), rtol=0, atol=IDENTITY)
    torch.testing.assert_close(matrix.sum(-1) + keep.cumprod(0).T, torch.ones(4, LENGTH))


@pytest.mark.parametrize("discretisation", ["zoh", "bilinear"])
def test_a_state_space_models_matrix_is_the_jacobian_by_its_inputs_but_for_the_skip(discretisation: str) -> None:
    cell = away(DiagonalStateSpace(3, 4, "lin", discretisation, 0.1, 1.0))  # type: ignore[arg-type]  # a parameter
    x = torch.randn(1, LENGTH, 3)

    def read(values: Tensor) -> Tensor:
        inputs = values.permute(2, 0, 1)
        states = {name: state[:, 1:] for name, state in unroll(cell, inputs).items()}
        return cell.read(cell.weights(), inputs, states)[0].unsqueeze(-1)

    expected = by_autograd(read, x[0].unsqueeze(-1)) - torch.eye(LENGTH) * cell.skip.detach()[:, None, None]
    torch.testing.assert_close(attention_of(cell, x)[0], expected, rtol=0, atol=IDENTITY)


def test_an_lrus_matrix_holds_the_powers_of_its_eigenvalues() -> None:
    cell = away(LinearRecurrentUnit(3, 4, 0.5, 0.99, 2 * math.pi))
    matrix, _ = attention_of(cell, torch.randn(1, LENGTH, 3))
    for entry, eigenvalue in enumerate(cell.decay(cell.weights())[0].tolist()):
        for i in range(LENGTH):
            for j in range(LENGTH):
                expected = eigenvalue ** (i - j) if j <= i else 0.0
                assert matrix[entry, i, j].item() == pytest.approx(expected, abs=IDENTITY)


def test_a_linear_networks_matrix_holds_the_powers_of_its_eigenvalues() -> None:
    """A rotation by a quarter turn in the plane, times 0.8."""
    cell = LinearCell(2, 2, 0.8, "orthogonal")
    with torch.no_grad():
        cell.recurrent.copy_(torch.tensor([[0.0, -0.8], [0.8, 0.0]]))
    matrix, _ = attention_of(cell, torch.randn(1, LENGTH, 2))
    assert sorted(matrix[:, 1, 0].imag.tolist()) == pytest.approx([-0.8, 0.8])
    torch.testing.assert_close(matrix[:, 3, 1], torch.full((2,), -0.64 + 0j))
    torch.testing.assert_close(matrix[:, 8, 0].abs(), torch.full((2,), 0.8**8))


@pytest.mark.parametrize("entries", [[[0.5, 1.0], [0.0, 0.5]], [[0.5, math.nan], [0.0, 0.5]]])
def test_a_linear_network_without_a_basis_of_eigenvectors_has_no_matrix(entries: list[list[float]]) -> None:
    cell = LinearCell(2, 2, 0.8, "orthogonal")
    with torch.no_grad():
        cell.recurrent.copy_(torch.tensor(entries))
    assert cell.hidden_attention(cell.weights(), torch.randn(1, 3, 2)) is None


def test_an_rwkvs_matrix_is_a_softmax_with_a_bonus_for_the_present_times_the_receptance() -> None:
    """Every weight summed up by itself, without any scaling."""
    cell = away(TimeMixingCell(4, 0, 2))
    weights = {name: weight.detach() for name, weight in cell.weights().items()}
    x = torch.randn(LENGTH, 4)
    before = torch.cat([torch.zeros(1, 4), x[:-1]])
    k, r = (
        (weights[f"mix_{name}"] * x + (1 - weights[f"mix_{name}"]) * before) @ weights[name].T
        for name in ("key", "receptance")
    )
    w = weights["log_decay"].exp()
    matrix, _ = attention_of(cell, x.unsqueeze(0))
    for i in range(LENGTH):
        shares = [torch.exp(k[j] - (i - 1 - j) * w) for j in range(i)] + [torch.exp(weights["bonus"] + k[i])]
        expected = torch.stack(shares) / sum(shares) / (1 + torch.exp(-r[i]))
        torch.testing.assert_close(matrix[:, i, : i + 1], expected.T, rtol=0, atol=IDENTITY)
        assert not matrix[:, i, i + 1 :].any()


@pytest.mark.parametrize("forget", ["sigmoid", "exponential"])
def test_an_mlstms_matrix_is_divided_by_its_normaliser(forget: str) -> None:
    """Products of gates, summed up one by one without a stabiliser; the normaliser on either side of 1."""
    cell = MatrixLSTMCell(8, 8, HEADS, 2, 4, forget)  # type: ignore[arg-type]  # a parameter
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.copy_(0.7 * torch.randn_like(parameter))
    weights = {name: weight.detach() for name, weight in cell.weights().items()}
    x = torch.randn(1, LENGTH, 8)
    window = torch.stack([torch.cat([torch.zeros(1, 1, 8), x[:, :-1]], 1), x], -1)
    mixed = nn.functional.silu((window * weights["filter"]).sum(-1) + weights["filter_bias"])
    q, k, _, log_input, log_forget = (part[0] for part in cell.parts(weights, x, mixed))
    i, f = log_input.exp(), log_forget.exp()
    matrix, _ = attention_of(cell, x)
    below = []
    for head in range(HEADS):
        for t in range(LENGTH):
            row = torch.stack(
                [f[s + 1 : t + 1, head].prod() * i[s, head] * (q[t, head] @ k[s, head]) for s in range(t + 1)]
            )
            below.append(bool(row.sum().abs() < 1))
            expected = row / row.sum().abs().clamp(min=1)
            torch.testing.assert_close(matrix[head, t, : t + 1], expected, rtol=0, atol=IDENTITY)
    assert any(below) and not all(below)


def test_hyenas_matrix_is_the_jacobian_by_v_with_the_gates_held_and_gives_the_operators_output() -> None:
    operator = away(HyenaOperator(3, 2, 8, 2, 16, 10.0, 0.1))
    x = torch.randn(1, LENGTH, 3)
    *gates, value = (part[0].detach() for part in operator.projected(x))
    filters, through = operator.filters(LENGTH).detach(), operator.filters.through.detach()

    def read(v: Tensor) -> Tensor:
        v = v.squeeze(-1)
        for n in range(2):
            past = torch.stack([sum(filters[n, i - j] * v[j] for j in range(i + 1)) for i in range(LENGTH)])
            v = gates[n] * (past + through[n] * v)
        return v.unsqueeze(-1)

    found = operator.hidden_attention(x)
    torch.testing.assert_close(found.weights[0], by_autograd(read, value.unsqueeze(-1)), rtol=0, atol=IDENTITY)
    torch.testing.assert_close(found.applied(), operator(x), rtol=0, atol=IDENTITY)


def test_hyena_shows_the_operator_of_every_layer() -> None:
    task = Copying(length=4, symbols=3, recall=2)
    on = taken(away(Hyena(task, hidden=4, layers=2)), task)
    found = on.model.hidden_attention(on.trace.states)
    assert list(found) == ["0.forward", "1.forward"]
    assert "distance/1.forward" in by_name(HiddenAttention()(on))


def test_what_was_written_is_carried_on_time_by_time() -> None:
    """Two positions of a state of two: L turns by a quarter, so that what was written twice before changes its sign."""
    written = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]).view(1, 3, 1, 2)
    read = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]]).view(1, 3, 1, 2)
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    matrix = token_matrix(written, read, lambda time, states: states @ quarter.T)
    assert matrix[0, 0].tolist() == [[1.0, 0.0, 0.0], [1.0, 2.0, 0.0], [-1.0, -2.0, 3.0]]
    assert toeplitz(torch.tensor([1.0, 2.0, 3.0])).tolist() == [[1.0, 0.0, 0.0], [2.0, 1.0, 0.0], [3.0, 2.0, 1.0]]


def halving(task: Task, **settings: Any) -> SequenceModel:
    """minGRU whose update gate is 1/2 at all times: A_ij = 2^{-(i-j+1)}."""
    model = mingru(task, hidden=4, **settings)
    with torch.no_grad():
        for cell in recurrences(model):
            cell.project.weight.zero_()  # type: ignore[union-attr]  # a Linear
            cell.project.bias.zero_()  # type: ignore[union-attr]  # a Linear
    return model


def halves(length: int) -> np.ndarray:
    """The same by hand: rows 1; 1/3, 2/3; 1/7, 2/7, 4/7; …"""
    return np.array([[2.0**j / (2 ** (i + 1) - 1) if j <= i else 0.0 for j in range(length)] for i in range(length)])


def test_numbers_and_map_of_a_memory_that_halves_by_hand() -> None:
    on = taken(halving(TASK), TASK)
    made = by_name(HiddenAttention()(on))
    shares = halves(on.batch.length)
    stored = made["map/0.forward"]
    assert {name: len(dim) for name, dim in stored.dims.items()} == {"sample": 1, "head": 1, "query": 8, "key": 8}
    np.testing.assert_allclose(stored.values[0, 0], shares, atol=1e-12)
    distance = np.mean([sum(row[j] * (i - j) for j in range(i)) for i, row in enumerate(shares)])
    entropy = np.mean([-sum(share * math.log(share) for share in row if share) for row in shares])
    assert made["distance/0.forward"].unit == "positions" and made["entropy/0.forward"].unit == "nats"
    np.testing.assert_allclose(made["distance/0.forward"].values, [distance] * 4)  # mean and quantiles over channels
    np.testing.assert_allclose(made["entropy/0.forward"].values, [entropy] * 4)


def test_a_backward_direction_looks_at_later_times_of_each_samples_own() -> None:
    task = Adding(length=20, markers="first_ten")
    on = taken(halving(task, bidirectional=True), task, count=4)
    length = int(on.batch.lengths[0])
    made = by_name(HiddenAttention()(on))
    np.testing.assert_allclose(made["map/0.backward"].values[0, 0], halves(length)[::-1, ::-1], atol=1e-12)
    np.testing.assert_allclose(made["distance/0.backward"].values, made["distance/0.forward"].values)
    cut = by_name(HiddenAttention(positions=5)(on))["map/0.backward"]
    assert list(cut.dims["key"]) == list(range(length - 5, length))  # read first
    np.testing.assert_allclose(cut.values[0, 0], halves(5)[::-1, ::-1], atol=1e-12)


def test_padding_has_no_part_in_the_numbers() -> None:
    task = Adding(length=20, markers="first_ten")
    on = taken(halving(task), task, count=3)
    lengths = on.batch.lengths.tolist()
    assert len(set(lengths)) > 1
    rows = [row for length in lengths for row in halves(length)]
    expected = np.mean([sum(share * (np.flatnonzero(row).max() - j) for j, share in enumerate(row)) for row in rows])
    np.testing.assert_allclose(by_name(HiddenAttention()(on))["distance/0.forward"].values[0], expected)


def test_the_first_positions_look_the_same_whatever_follows() -> None:
    on = taken(away(mamba(TASK, hidden=4, layers=1, state=3)), TASK)
    whole, cut = (by_name(HiddenAttention(positions=count)(on))["map/0.forward"].values for count in (8, 5))
    np.testing.assert_allclose(cut, whole[:, :, :5, :5], atol=1e-12)


def test_heads_of_several_values_are_told_apart() -> None:
    on = taken(gla(TASK, hidden=8, layers=1, heads=2), TASK)
    made = by_name(HiddenAttention(longest=4)(on))
    assert list(made["distance/0.forward"].dims) == list(made["entropy/0.forward"].dims) == ["head"]
    assert made["map/0.forward"].values.shape == (1, 2, 4, 4)
    np.testing.assert_allclose(made["map/0.forward"].values.sum(-1), 1.0)


def test_signs_and_phases_do_not_count_and_a_row_of_nothing_looks_nowhere() -> None:
    shares, looks = shares_of(torch.tensor([[[-1.0, 3.0], [0.0, 0.0]]]))
    assert shares.tolist() == [[[0.25, 0.75], [0.0, 0.0]]] and looks.tolist() == [[True, False]]
    shares, _ = shares_of(torch.tensor([[[3 + 4j, 5j]]]))
    assert shares.tolist() == [[[0.5, 0.5]]]
    shares, looks = shares_of(torch.tensor([[[math.nan, 1.0]]]))
    assert shares.isnan().all() and looks.all()


def test_a_model_in_half_precision_is_read_in_single() -> None:
    torch.set_default_dtype(torch.float32)
    model = mamba(TASK, hidden=4, layers=1)
    exact = by_name(HiddenAttention()(taken(model, TASK)))["map/0.forward"].values
    rounded = by_name(HiddenAttention()(taken(model.bfloat16(), TASK)))["map/0.forward"].values
    np.testing.assert_allclose(rounded, exact, atol=0.02)
    assert not (rounded == exact).all()


def test_what_is_not_linear_in_what_was_written_has_no_matrix() -> None:
    assert not list(HiddenAttention()(taken(gru(TASK, hidden=4), TASK)))


def own_path(cell: Recurrence, weights: dict[str, Tensor], x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """∂z'/∂z of a component's entries by themselves, a pair's parts together, by one step's Jacobian."""

    def step(value: Tensor) -> Tensor:
        return cell.step(weights, x.unsqueeze(0), {**state, name: value.unsqueeze(0)})[name][0]

    value = state[name][0]
    return torch.autograd.functional.jacobian(step, value).reshape(value.numel(), value.numel())


@pytest.mark.parametrize("stem", stems("model"))
def test_kept_is_the_derivative_of_an_entry_by_itself_where_the_state_is_linear(stem: str) -> None:
    """Identity (6) step by step, of every recurrence that has a matrix; complex entries as the pairs that they are."""
    on = member(stem)
    if on is None:
        return
    course = next(iter(on.courses.values()))
    at = 3
    x = course.inputs[:1, at]
    before = {name: value[:1, at] for name, value in course.states.items()}
    for name, factor in course.recurrence.kept(course.weights, x, before).items():
        jacobian = own_path(course.recurrence, dict(course.weights), x[0], before, name)
        if factor.is_complex():
            pairs = jacobian.view(jacobian.shape[0] // 2, 2, jacobian.shape[0] // 2, 2)
            own = torch.diagonal(pairs, 0, 0, 2)  # part, part, entry
            torch.testing.assert_close(torch.complex(own[0, 0], own[1, 0]), factor.flatten())
            torch.testing.assert_close(own[1, 1], own[0, 0])
            torch.testing.assert_close(own[0, 1], -own[1, 0])
        else:
            assert factor.shape == before[name].shape
            torch.testing.assert_close(torch.diagonal(jacobian), factor.flatten())


@pytest.mark.parametrize(
    ("cell", "x"),
    [
        (DiagonalStateSpace(2, 4, "lin", "zoh", 0.1, 1.0), torch.zeros(1, 2)),
        (LinearRecurrentUnit(3, 4, 0.5, 0.99, 2 * math.pi), torch.zeros(1, 3)),
        (RetentionCell(8, 4, 2), torch.zeros(1, 20)),
        (LinearAttentionCell(4, 2), torch.zeros(1, 12)),
    ],
)
def test_transitions_are_the_eigenvalues_of_a_step(cell: Recurrence, x: Tensor) -> None:
    """Of its Jacobian, where each is one of the transitions or the conjugate of one; every transition is among them."""
    cell, x = cell.double(), x.double()
    weights = {name: weight.detach() for name, weight in cell.weights().items()}
    state = {name: torch.randn(1, *shape) for name, shape in cell.components.items()}
    for name, diagonal in cell.transitions(weights).items():
        found = torch.linalg.eigvals(own_path(cell, weights, x[0], state, name))
        both = torch.cat([diagonal, diagonal.conj()]).to(found.dtype)
        apart = (found[:, None] - both).abs()
        assert apart.amin(1).max() < 1e-9 and apart.amin(0).max() < 1e-9


def test_an_rwkvs_sums_stand_for_what_is_carried_on_by_its_decay() -> None:
    """e^{p_t} kept_t = e^{-w} e^{p_{t-1}}."""
    cell = away(TimeMixingCell(4, 0, 2))
    weights = cell.weights()
    states = unroll(cell, torch.randn(1, 5, 4))
    x = torch.randn(1, 4)
    before = {name: value[:, -1] for name, value in states.items()}
    after = cell.step(weights, x, before)
    kept = cell.kept(weights, x, before)["numerator"]
    torch.testing.assert_close(
        (after["exponent"] - before["exponent"]).exp() * kept, cell.transitions(weights)["decay"].unsqueeze(0)
    )


def test_gates_of_linear_recurrences_are_those_of_their_papers() -> None:
    x = OUTER_PRODUCTS["gla"][1]()
    assert torch.equal(OUTER_PRODUCTS["gla"][0].gates({}, x, {})["forget"], x[..., 16:24].view(1, LENGTH, 2, 4).exp())
    delta = DeltaRuleCell(4, 4, 2, convolution=1, decays=True, strongest=2.0)
    x = torch.cat([torch.randn(1, 12), torch.tensor([[2.0, 1.0]]), torch.tensor([[0.5, 0.25]]).log()], 1)
    made = delta.gates({}, x, {})
    torch.testing.assert_close(made["write"], torch.tensor([[1.0, 0.5]]))
    torch.testing.assert_close(made["decay"], torch.tensor([[0.5, 0.25]]))
    mixing = away(TimeMixingCell(4, 0, 2))
    x, state = torch.randn(1, 4), {"last": torch.zeros(1, 4)}
    expected = torch.sigmoid(mixing.receptance @ (mixing.mix_receptance * x[0]))
    torch.testing.assert_close(mixing.gates(mixing.weights(), x, state)["receptance"][0], expected)


@pytest.mark.parametrize("make", [deltanet, gated_deltanet])
@pytest.mark.parametrize("negative", [False, True])
def test_a_delta_rules_gate_is_open_where_its_strength_is_the_greatest(make: Any, negative: bool) -> None:
    model = make(TASK, hidden=4, layers=1, heads=2, negative_eigenvalues=negative)
    course = taken(model, TASK).courses["0.forward"]
    block = model.chain[0]
    normed = block.norm(model.entered(model.embedding(TASK.sample(3, torch.Generator().manual_seed(0)).inputs)))
    made = course.recurrence.gates(course.weights, course.inputs, course.before)["write"]
    torch.testing.assert_close(made, torch.sigmoid(block.strength(normed)))


@pytest.mark.parametrize("setting", ["samples", "positions", "longest"])
def test_a_setting_below_one_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be at least 1, not 0"):
        HiddenAttention(**{setting: 0})
