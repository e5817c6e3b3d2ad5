"""One step as matrices, against torch.autograd.functional.jacobian of the step alone, for states of every kind."""

from collections.abc import Mapping

import pytest
import torch
from members import built
from torch import Tensor

from retrograde.core.contracts import SequenceModel
from retrograde.core.jacobians import (
    Trajectory,
    joined,
    parts_within,
    step_jacobians,
    trajectories,
    unit_by_unit,
)
from retrograde.core.records import State
from retrograde.core.recurrence import Recurrence
from retrograde.core.snapshot import snapshot
from retrograde.layers.cells import ElmanCell
from retrograde.models.elman import elman
from retrograde.models.elman_relu import elman_relu
from retrograde.models.gru import gru
from retrograde.models.lstm import lstm
from retrograde.tasks.adding import Adding
from retrograde.tasks.reverse import Reverse

pytestmark = pytest.mark.usefixtures("float64")

TASK = Adding(length=5)


def along(model: SequenceModel, sample: int = 0) -> dict[str, Trajectory]:
    batch = TASK.sample(2, torch.Generator().manual_seed(0))
    return trajectories(snapshot(model, TASK, batch.beside(model.like), 0), sample, torch.float64)


def by_autograd(on: Trajectory, time: int) -> Tensor:
    """∂z_t/∂z_{t-1} of the flattened state."""
    sizes = [value[0].numel() for value in on.states.values()]

    def step(flat: Tensor) -> Tensor:
        parts = zip(on.states.items(), flat.split(sizes), strict=True)
        after = on.recurrence.step(on.weights, on.inputs[time], {name: p.view(z[0].shape) for (name, z), p in parts})
        return torch.cat([after[name].flatten() for name in on.states])

    flat = torch.cat([value[time].flatten() for value in on.states.values()])
    made = torch.autograd.functional.jacobian(step, flat)
    assert isinstance(made, Tensor)
    return made


def dense(on: Trajectory) -> Tensor:
    """Every J_t, put together from its parts."""
    parts = on.parts(on.size)
    made = torch.zeros(on.length, on.size, on.size)
    for part, blocks in zip(parts, on.jacobians(parts, range(on.length)), strict=True):
        for numbers, block in zip(part, blocks.unbind(1), strict=True):
            made[:, numbers[:, None], numbers] = block
    return made


@pytest.mark.parametrize(
    "stem",
    ["elman", "lstm", "gru", "clockwork_rnn", "lstm_peephole", "slstm", "lru", "linear_attention", "deltanet", "mamba"],
)
def test_every_step_is_autograds_jacobian_of_the_full_state(stem: str) -> None:
    torch.manual_seed(0)
    on = along(built(stem, TASK))["0.forward"]
    for time in (0, on.length - 1):
        torch.testing.assert_close(dense(on)[time], by_autograd(on, time), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("stem", "sizes"),
    [
        ("lstm", {16: 1}),
        ("lru", {2: 8}),
        ("linear_attention", {1: 24}),
        ("indrnn", {1: 8}),
        ("deltanet", {4: 8, 20: 4}),
    ],
)
def test_numbers_that_do_not_bear_on_one_another_are_parts(stem: str, sizes: dict[int, int]) -> None:
    """Complex numbers are pairs; a column of deltanet's memory is a part, a head's keys with their convolution one."""
    assert {part.shape[1]: part.shape[0] for part in along(built(stem, TASK))["0.forward"].parts(20)} == sizes


@pytest.mark.parametrize("upper", [True, False])
def test_parts_are_told_from_all_times_not_from_those_that_are_looked_at(upper: bool) -> None:
    """A ReLU layer that is shut at the first, the middle and the last time, and at the others hands one way only."""
    on = along(elman_relu(TASK, hidden=2))["0.forward"]
    shut = torch.zeros(5, 1, 1)
    shut[[0, 2, 4]] = -1e3
    inputs = torch.cat([on.inputs[..., :1] + shut, on.inputs[..., 1:]], -1)
    one_way = torch.ones(2, 2).triu() if upper else torch.ones(2, 2).tril()
    open_else = {"input": torch.ones(2, 2), "input_bias": torch.full((2,), 10.0), "recurrent": one_way}
    run = Trajectory.run(on.recurrence, dict(on.weights) | open_else, inputs)
    assert not run.jacobians([torch.arange(2)[None]], range(0, 1))[0].any()
    assert [tuple(part.shape) for part in run.parts(2)] == [(1, 2)]


def test_what_bears_on_one_another_over_others_belongs_together() -> None:
    label = joined(torch.arange(6), torch.tensor([3, 4, 5]), torch.tensor([0, 1, 3]))
    assert label.tolist() == [0, 1, 2, 0, 1, 0]
    assert joined(label, torch.tensor([5]), torch.tensor([4])).tolist() == [0, 0, 2, 0, 0, 0]


def test_parts_are_looked_for_no_further_than_the_largest_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GRU's first row has all units in it; the others are not computed then."""
    on = along(gru(TASK, hidden=6))["0.forward"]
    asked = []
    rows = Trajectory._rows
    monkeypatch.setattr("retrograde.core.jacobians.AT_ONCE", 16 * 6)
    monkeypatch.setattr(Trajectory, "_rows", lambda on, time, of: asked.append(of.tolist()) or rows(on, time, of))
    assert on.parts(5) is None
    assert asked == [[0]]
    assert on.parts(6) is not None


class NeighbouringCell(ElmanCell):
    """Hands on half of its neighbour's state besides: units that mix outside of any matrix."""

    def step(self, weights: Mapping[str, Tensor], x: Tensor, state: State) -> State:
        made = super().step(weights, x, state)["hidden"]
        return {"hidden": made + 0.5 * state["hidden"].roll(1, -1)}


def test_a_cell_derived_from_a_fused_one_is_linearised_by_its_own_step() -> None:
    cell = NeighbouringCell(2, 3)
    weights = {name: weight.detach() for name, weight in cell.weights().items()}
    x, before = torch.randn(4, 1, 2), torch.randn(4, 1, 3)
    made = step_jacobians(cell, weights, x, {"hidden": before})
    for time in range(4):
        expected = torch.autograd.functional.jacobian(
            lambda hidden, time=time: cell.step(weights, x[time], {"hidden": hidden[None]})["hidden"][0],
            before[time, 0],
        )
        torch.testing.assert_close(made[time], expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("make", [elman, elman_relu, lstm, gru])
def test_the_form_by_units_equals_products_row_by_row(make) -> None:  # type: ignore[no-untyped-def]  # a factory
    torch.manual_seed(0)
    recurrence = make(TASK, hidden=3).stack.placed[0][0].recurrence
    weights = {name: weight.detach() for name, weight in recurrence.weights().items()}
    x = torch.randn(4, 1, 2)
    before: State = {name: torch.randn(4, 1, *shape) for name, shape in recurrence.components.items()}
    by_rows = step_jacobians.dispatch(Recurrence)(recurrence, weights, x, before)
    by_units = unit_by_unit(recurrence, weights, x, before)
    torch.testing.assert_close(by_units, by_rows, rtol=1e-13, atol=1e-14)
    assert torch.equal(step_jacobians(recurrence, weights, x, before), by_units)


def test_a_single_precision_model_is_linearised_in_double() -> None:
    torch.manual_seed(0)
    model = gru(TASK, hidden=3).double()
    exact = dense(along(model)["0.forward"])
    rounded = along(model.float())["0.forward"]
    assert rounded.weights["recurrent"].dtype == rounded.inputs.dtype == torch.float64
    torch.testing.assert_close(dense(rounded), exact, rtol=0, atol=1e-6)
    assert model.like.dtype == torch.float32


def test_a_decoder_that_looks_at_a_memory_is_linearised_at_its_own_samples() -> None:
    task = Reverse(symbols=3, shortest=2, longest=4)
    torch.manual_seed(0)
    model = built("seq2seq_bahdanau", task)
    batch = task.sample(3, torch.Generator().manual_seed(0))
    found = [trajectories(snapshot(model, task, batch, 0), sample, torch.float64) for sample in range(3)]
    for sample, layers in enumerate(found):
        decoder = layers["decoder0.forward"]
        assert (
            decoder.length == batch.target_lengths[sample]
            and layers["encoder0.forward"].length == batch.lengths[sample]
        )
        torch.testing.assert_close(dense(decoder)[-1], by_autograd(decoder, decoder.length - 1), rtol=1e-12, atol=1e-14)


def test_a_layer_that_is_too_large_is_named_with_the_way_out() -> None:
    on = along(elman(TASK, hidden=6))["0.forward"]
    assert parts_within(on, 6, "jacobian", "0.forward") is not None
    with pytest.warns(
        UserWarning, match=r"jacobian leaves out layer '0.forward': 6 numbers .* probe\.jacobian\.largest=6"
    ):
        assert parts_within(on, 5, "jacobian", "0.forward") is None
