"""What every model promises, as checks that a test can apply to any of them, a wrong one included.

All are meant for float64. Tolerances: two forms of one computation differ by rounding, 1e-9 of values of order one.
Central differences are held to 1e-6 of the largest gradient over time; their step, 1e-7, leaves rounding of about 1e-9
and rarely carries a unit across the kink of a ReLU.
"""

import math
from collections import defaultdict
from dataclasses import replace

import torch
from torch import Tensor

from retrograde.core.contracts import SequenceModel, Task, Tokens
from retrograde.core.losses import sample_means
from retrograde.core.records import Batch
from retrograde.core.snapshot import gradient_flow
from retrograde.core.statistics import present

FORMS = 1e-9
GRADIENTS = 1e-8
DIFFERENCES = 1e-6
STEP = 1e-7
LONG = 300


def check_trace_computes_the_outputs(model: SequenceModel, task: Task, batch: Batch) -> None:
    """Fused and stepped forms agree, in values and in every parameter's gradient, where there is anything to train."""
    outputs = model(batch)
    traced = model.trace(batch).outputs
    torch.testing.assert_close(traced, outputs, rtol=0, atol=FORMS)
    if not model.learns:
        return
    parameters = list(model.parameters())
    made, expected = (
        torch.autograd.grad(
            task.loss(given, batch)[batch.scored].sum(), parameters, allow_unused=True, materialize_grads=True
        )
        for given in (traced, outputs)
    )
    assert any(gradient.any() for gradient in expected), "the loss depends on no parameter"
    for gradient, reference in zip(made, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=GRADIENTS, atol=GRADIENTS)


def check_states_are_those_computed_with(model: SequenceModel, task: Task, batch: Batch) -> None:
    """A change of a state shows in that state by as much as it was changed, and not before it in time.

    That the loss then changes as the total gradient says is ``check_totals_are_finite_differences``.
    """
    trace = model.trace(batch)
    states = trace.states
    for key, times in trace.times.items():
        at = len(times) // 2
        counts = present(batch, times, key in trace.target_side)
        added = torch.zeros_like(states[key])
        added[:, at] = torch.randn_like(added[:, at])
        changed = model.trace(batch, {key: added}).states[key] - states[key]
        torch.testing.assert_close(changed[:, at], added[:, at], rtol=0, atol=FORMS)
        before = slice(at + 1, None) if ".backward." in key else slice(at)
        # two forms: the one that is not perturbed may be a faster one
        earlier = changed[:, before][counts[:, before]]
        assert (earlier.abs() <= FORMS).all(), f"'{key}' changes before time {times[at]}"


def check_totals_are_finite_differences(model: SequenceModel, task: Task, batch: Batch) -> None:
    """Along a random direction at every time, the loss changes as the total gradient says.

    One run serves all times: a copy of the batch for each time and sign, changed at that time alone. The components of
    one state are held to one measure, the largest gradient over time of any of them.
    """
    flow = gradient_flow(model, task, batch)
    assert flow.gradients, "the model shows no state"
    errors: dict[str, float] = {}
    largest: dict[str, float] = defaultdict(float)
    for key, gradient in flow.gradients.items():
        total = gradient.total.value()
        counts = present(batch, gradient.times, key in flow.trace.target_side)
        direction = torch.randn_like(total) * counts.view(*counts.shape, *[1] * (total.ndim - 2))
        places = len(gradient.times)
        copies = batch.select(torch.arange(len(batch)).repeat(2 * places))
        added = torch.zeros(2, places, *direction.shape)
        for at in range(places):
            added[0, at, :, at], added[1, at, :, at] = STEP * direction[:, at], -STEP * direction[:, at]
        up, down = losses(model, task, copies, {key: added.flatten(0, 2)}).view(2, places, len(batch))
        predicted = (total * direction).flatten(2).sum(2).T
        errors[key] = float(((up - down) / (2 * STEP) - predicted).abs().max())
        layer = key.rpartition(".")[0]
        largest[layer] = max(largest[layer], float(predicted.abs().max()))
    for key, error in errors.items():
        layer = key.rpartition(".")[0]
        assert largest[layer] > 0, f"the loss does not depend on '{layer}'"
        share = error / largest[layer]
        assert share <= DIFFERENCES, f"'{key}': differences and totals differ by {share:.1e} of the largest"


def losses(model: SequenceModel, task: Task, batch: Batch, perturb: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        outputs = model.trace(batch, perturb).outputs
        return sample_means(task.loss(outputs, batch), batch.scored)


def check_outputs_do_not_see_the_future(model: SequenceModel, task: Task, batch: Batch) -> None:
    """Of their own sequence: a decoder may read the whole source, and of the target what stands before."""
    given, space = (batch.inputs, task.inputs)
    if batch.decoder_inputs is not None:
        given, space = batch.decoder_inputs, task.outputs
    cut = given.shape[1] // 2
    changed = given.clone()
    later = changed[:, cut:]
    changed[:, cut:] = (later + 1) % space.size if isinstance(space, Tokens) else later + 1
    field = "inputs" if batch.decoder_inputs is None else "decoder_inputs"
    before, after = (model(replace(batch, **{field: tokens}))[:, :cut] for tokens in (given, changed))
    torch.testing.assert_close(after, before, rtol=0, atol=FORMS)


def check_samples_do_not_mix(model: SequenceModel, task: Task, batch: Batch) -> None:
    chosen = torch.tensor([len(batch) - 1, 0])
    torch.testing.assert_close(model(batch.select(chosen)), model(batch)[chosen], rtol=0, atol=FORMS)


def check_padding_changes_nothing(model: SequenceModel, task: Task, batch: Batch) -> None:
    """Three more positions of rubbish after every sample's end, of the source and of the target."""

    def longer(values: Tensor | None) -> Tensor | None:
        return None if values is None else torch.cat([values, values[:, :3].flip(1)], 1)

    padded = Batch(
        longer(batch.inputs),
        longer(batch.targets),
        torch.cat([batch.scored, torch.zeros_like(batch.scored[:, :3])], 1),
        batch.lengths,
        longer(batch.decoder_inputs),
        batch.target_lengths,
    )
    time = torch.arange(batch.targets.shape[1])
    real = time < (batch.lengths if batch.target_lengths is None else batch.target_lengths)[:, None]
    torch.testing.assert_close(model(padded)[:, : len(time)][real], model(batch)[real], rtol=0, atol=FORMS)
    target_side = model.trace(batch).target_side
    short, long = (gradient_flow(model, task, given).gradients for given in (batch, padded))
    for key, gradient in short.items():
        counts = present(batch, gradient.times, key in target_side)
        place = present(padded, long[key].times, key in target_side)
        torch.testing.assert_close(
            long[key].total.value()[place], gradient.total.value()[counts], rtol=GRADIENTS, atol=GRADIENTS
        )


def check_every_parameter_learns(model: SequenceModel, task: Task, batch: Batch) -> None:
    """From a loss at every position: at one alone, a backward direction has only just begun."""
    outputs = model(batch)
    loss = (outputs * torch.randn_like(outputs)).sum()
    for (name, _), gradient in zip(
        model.named_parameters(), torch.autograd.grad(loss, list(model.parameters()), allow_unused=True), strict=True
    ):
        assert gradient is not None and gradient.any(), f"'{name}' gets no gradient"


def check_maps_are_attention(model: SequenceModel, task: Task, batch: Batch) -> None:
    for layer, weights in model.trace(batch).maps.items():
        assert (weights >= 0).all(), f"layer {layer}"
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), rtol=0, atol=FORMS)


def check_state_size_is_as_declared(model: SequenceModel, task: Task, batch: Batch) -> None:
    """Counted in what recurrences carry, at one time of one sample; None where attention beside them keeps all times.

    A model without recurrence shows activations, not what it would carry. It says None where an output depends on
    inputs however long ago; else the last output of a long sequence does not depend on the first input at all.
    """
    trace = model.trace(batch)
    if trace.ledger.claimed:
        carried = [state for key, state in trace.states.items() if key in trace.ledger.claimed]
        expected = None if trace.maps else sum(state[0, 0].numel() for state in carried)
        assert model.state_size == expected
        return
    inputs = torch.cat([batch.inputs] * math.ceil(LONG / batch.length), 1)
    trace = model.trace(replace(batch, inputs=inputs, lengths=torch.full_like(batch.lengths, inputs.shape[1])))
    (felt,) = torch.autograd.grad(trace.outputs[:, -1].sum(), next(iter(trace.states.values())))
    assert bool(felt[:, 0].any()) == (model.state_size is None)
