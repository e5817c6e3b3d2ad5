"""Norms of parameters against numpy, and counts of what was put there to be counted."""

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch

from retrograde.core.contracts import Snapshot
from retrograde.core.nonfinite import Place, first_backward, first_forward
from retrograde.core.records import Batch, Reading, StateGradient, Trace, Update
from retrograde.core.scaled import Scaled
from retrograde.core.snapshot import snapshot
from retrograde.models.elman import elman
from retrograde.models.transformer_seq2seq import TransformerEncoderDecoder
from retrograde.probes.health import Health
from retrograde.probes.parameters import Parameters, log10_norms
from retrograde.tasks.adding import Adding
from retrograde.tasks.reverse import Reverse


def test_norms_of_each_parameter_and_of_all_together() -> None:
    made = log10_norms({"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([[12.0]])})
    np.testing.assert_allclose(10**made, [5.0, 12.0, 13.0])


def test_norms_that_float32_squares_would_lose_are_kept() -> None:
    made = log10_norms({"a": torch.tensor([3e-30, 4e-30]), "b": torch.zeros(2), "c": torch.tensor([math.inf])})
    assert made[0] == math.log10(5e-30) or abs(made[0] - math.log10(5e-30)) < 1e-6
    assert made[1] == -math.inf and made[2] == math.inf


def test_update_ratio_is_of_the_weight_before_the_step() -> None:
    task = Adding(length=4)
    model = elman(task, hidden=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.1)
    change = {name: torch.full_like(parameter, 0.1) for name, parameter in model.named_parameters()}
    gradients = {name: torch.full_like(parameter, 2.0) for name, parameter in model.named_parameters()}
    batch = task.sample(2, torch.Generator().manual_seed(0))
    taken = snapshot(model, task, batch, 1, Update(gradients, gradients, change, 0.25))
    readings = {reading.name: reading.values for reading in Parameters()(taken)}
    np.testing.assert_allclose(10 ** readings["update_ratio/parameters"], 0.1, rtol=1e-5)
    np.testing.assert_allclose(readings["clipped/steps"], 0.25)
    size = sum(parameter.numel() for parameter in model.parameters())
    np.testing.assert_allclose(10 ** readings["gradient/parameters"][-1], 2 * math.sqrt(size))


def test_before_the_first_step_there_is_the_weight_alone() -> None:
    task = Adding(length=4)
    taken = snapshot(elman(task, hidden=2), task, task.sample(2, torch.Generator().manual_seed(0)), 0)
    assert [reading.name for reading in Parameters()(taken)] == ["weight/parameters"]


def with_states(state: torch.Tensor, total: torch.Tensor, lengths: list[int]) -> Snapshot:
    task = Adding(length=4)
    count, time = len(lengths), state.shape[1] - 1
    batch = Batch(
        torch.zeros(count, time, 2),
        torch.zeros(count, time, 1),
        torch.ones(count, time, dtype=torch.bool),
        torch.tensor(lengths),
    )
    times = range(-1, time)
    trace = Trace(torch.zeros(count, time, 1), {"0.forward.hidden": state}, {"0.forward.hidden": times})
    gradients = {"0.forward.hidden": StateGradient(Scaled.of(total), Scaled.of(total), times)}
    return Snapshot(0, elman(task, 2), task, batch, trace, torch.zeros(count, time), gradients)


def health(snapshot: Snapshot, **settings: float) -> dict[str, float]:
    """Every number of the one state by its name, counts as the sum of NaN and infinities."""
    readings = [reading for reading in Health(**settings)(snapshot) if reading.name.endswith("hidden")]
    return {reading.name.partition("/")[0]: float(reading.values.sum()) for reading in readings}


def counts(readings: Iterable[Reading], name: str) -> dict[str, float]:
    """What one reading counts, by kind."""
    (reading,) = (reading for reading in readings if reading.name == name)
    return dict(zip(reading.dims["kind"], reading.values.tolist(), strict=True))


def test_states_that_hold_no_number_are_counted_with_the_first_time() -> None:
    state = torch.zeros(2, 4, 3)
    state[0, 2, 1] = math.nan
    state[0, 3, :2] = torch.tensor([math.nan, math.inf])
    state[1, 3] = -math.inf
    taken = with_states(state, torch.ones(2, 4, 3), [3, 3])
    assert counts(Health()(taken), "nonfinite/0.forward.hidden") == {"nan": 2, "inf": 1}
    assert health(taken)["first_nonfinite"] == 1  # index 0 is the initial state
    assert health(taken)["gradient_nonfinite"] == 0 and math.isnan(health(taken)["gradient_first"])


def test_a_gradient_that_goes_back_meets_the_last_time_first() -> None:
    total = torch.ones(2, 4, 3)
    total[0, 0, 0] = math.nan
    total[1, :3, 2] = math.inf
    taken = with_states(torch.zeros(2, 4, 3), total, [3, 3])
    assert counts(Health()(taken), "gradient_nonfinite/0.forward.hidden") == {"nan": 1, "inf": 3}
    assert health(taken)["gradient_first"] == 1


def test_a_gradient_whose_exponent_leaves_the_format_counts_as_infinite() -> None:
    """It has a size, 2^150, and what training computes of it in float32 is infinite."""
    kept = Scaled(torch.full((1, 4, 2), 0.5), torch.tensor([[151, 129, 128, 0]]), torch.ones(1, 4, dtype=torch.bool))
    taken = with_states(torch.zeros(1, 4, 2), torch.ones(1, 4, 2), [3])
    taken = replace(taken, gradients={"0.forward.hidden": StateGradient(kept, kept, range(-1, 3))})
    assert counts(Health()(taken), "gradient_nonfinite/0.forward.hidden") == {"nan": 0, "inf": 2}
    assert health(taken)["gradient_first"] == 0


def test_padding_is_not_counted() -> None:
    state, total = torch.zeros(2, 4, 3), torch.ones(2, 4, 3)
    state[1, 3] = total[1, 3] = math.nan
    made = health(with_states(state, total, [3, 2]))
    assert made["nonfinite"] == made["gradient_nonfinite"] == 0
    assert math.isnan(made["first_nonfinite"]) and math.isnan(made["gradient_first"])


def test_dead_and_saturated_units_and_saturated_entries_are_shares() -> None:
    state = torch.zeros(1, 4, 4)
    state[:, :, 0] = -0.99
    state[:, :, 1] = -0.5
    state[:, 2, 1] = 0.96
    state[0, 0, 2:] = 1.0  # the initial state, which counts nowhere
    made = health(with_states(state, torch.ones(1, 4, 4), [3]))
    assert made["dead"] == 0.5 and made["saturated"] == 4 / 12 and made["saturated_units"] == 0.25
    assert health(with_states(state, torch.ones(1, 4, 4), [3]), saturated=0.97)["saturated"] == 0.25
    assert "saturated" not in health(with_states(3 * state, torch.ones(1, 4, 4), [3]))


def test_what_nobody_scores_may_be_anything_and_what_is_scored_is_counted() -> None:
    task = Adding(length=4)
    model = elman(task, hidden=2)
    with torch.no_grad():
        model.readout.bias.fill_(math.inf)
    readings = list(Health()(snapshot(model, task, task.sample(3, torch.Generator().manual_seed(0)), 0)))
    assert counts(readings, "nonfinite/outputs") == {"nan": 0, "inf": 12}
    assert counts(readings, "nonfinite/loss") == {"nan": 0, "inf": 3}  # one position of each sample is scored
    assert (
        counts(readings, "nonfinite/inputs") == counts(readings, "nonfinite/0.forward.hidden") == {"nan": 0, "inf": 0}
    )
    first = {reading.name: float(reading.values) for reading in readings if reading.name.startswith("first")}
    assert first["first_nonfinite/outputs"] == 0 and first["first_nonfinite/loss"] == 3


def test_a_model_without_states_is_looked_at_where_it_answers() -> None:
    taken = with_states(torch.zeros(1, 4, 2), torch.ones(1, 4, 2), [3])
    outputs = torch.tensor([0.0, math.nan, math.inf]).reshape(1, 3, 1)
    readings = list(Health()(replace(taken, trace=Trace(outputs, {}, {}), gradients={})))
    assert {reading.name.partition("/")[2] for reading in readings} == {"outputs", "loss"}
    assert counts(readings, "nonfinite/outputs") == {"nan": 1, "inf": 1}


def test_a_direction_that_reads_from_the_end_comes_to_the_last_time_first() -> None:
    task = Adding(length=6)
    model = elman(task, hidden=2, bidirectional=True)
    taken = snapshot(model, task, task.sample(2, torch.Generator().manual_seed(0)), 0)
    key = "0.backward.hidden"
    state, total = taken.trace.states[key].clone(), taken.gradients[key].total.value()
    state[0, 2:5], total[1, 2:5] = math.inf, math.nan
    changed = replace(
        taken,
        trace=replace(taken.trace, states={**taken.trace.states, key: state}),
        gradients={**taken.gradients, key: StateGradient(Scaled.of(total), Scaled.of(total), range(7))},
    )
    made = {reading.name: float(reading.values) for reading in Health()(changed) if not reading.dims}
    assert made[f"first_nonfinite/{key}"] == 4 and made[f"gradient_first/{key}"] == 2


def test_of_samples_of_unequal_length_each_is_read_from_its_own_end() -> None:
    """Of 6 inputs time 2 is read fourth, of 3 time 1 second and time 0 third."""
    task = Adding(length=6)
    batch = task.sample(2, torch.Generator().manual_seed(0))
    lengths = torch.tensor([6, 3])
    batch = replace(batch, lengths=lengths, scored=torch.arange(6) == lengths[:, None] - 1)
    taken = snapshot(elman(task, hidden=2, bidirectional=True), task, batch, 0)
    key = "0.backward.hidden"
    state, total = taken.trace.states[key].clone(), taken.gradients[key].total.value()
    state[0, 2] = total[0, 2] = math.nan
    state[1, :2] = total[1, :2] = math.inf
    changed = replace(
        taken,
        trace=replace(taken.trace, states={**taken.trace.states, key: state}),
        gradients={key: StateGradient(Scaled.of(total), Scaled.of(total), range(7))},
    )
    made = {reading.name: float(reading.values) for reading in Health()(changed) if not reading.dims}
    assert made[f"first_nonfinite/{key}"] == 1 and made[f"gradient_first/{key}"] == 2
    assert first_forward(changed) == Place("state", key, 1, 1, math.inf)
    found = first_backward(changed)
    assert found is not None and (found.time, found.sample) == (2, 0) and math.isnan(found.value)


def test_every_target_position_counts_where_the_target_is_longer_than_the_source() -> None:
    """A unit that is alive at the last target position alone is not dead."""
    task = Reverse(symbols=3, shortest=3, longest=4)
    model = TransformerEncoderDecoder(task, 8, 1, heads=2, feedforward=8)
    taken = snapshot(model, task, task.sample(2, torch.Generator().manual_seed(0)), 0)
    key = "decoder1.forward.residual"
    state = torch.zeros_like(taken.trace.states[key])
    state[:, -1] = 1.0
    shown = replace(taken, trace=replace(taken.trace, states={**taken.trace.states, key: state}))
    (dead,) = (float(reading.values) for reading in Health()(shown) if reading.name == f"dead/{key}")
    assert dead == 0
