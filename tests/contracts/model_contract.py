"""What every model promises, as checks that a test can apply to any of them, a wrong one included.

All are meant for float64. Tolerances: two forms of one computation differ by rounding, 1e-9 of values of order one.
Central differences are held to 1e-6 of the largest gradient over time; their step, 1e-6, leaves rounding of about 1e-10
and rarely carries a unit across the kink of a ReLU.
"""

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
STEP = 1e-6


def check_trace_computes_the_outputs(model: SequenceModel, task: Task, batch: Batch) -> None:
    """Fused and stepped forms agree, in values and in every parameter's gradient."""
    outputs = model(batch)
    traced = model.trace(batch).outputs
    torch.testing.assert_close(traced, outputs, rtol=0, atol=FORMS)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(task.loss(outputs, batch)[batch.scored].sum(), parameters)
    made = torch.autograd.grad(task.loss(traced, batch)[batch.scored].sum(), parameters)
    for gradient, reference in zip(made, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=GRADIENTS, atol=GRADIENTS)


def check_states_are_those_computed_with(model: SequenceModel, task: Task, batch: Batch) -> None:
    """A change of a state shows in that state by as much as it was changed, and not before it in time.

    That the loss then changes as the total gradient says is ``check_totals_are_finite_differences``.
    """
    states = model.trace(batch).states
    for key, times in model.trace(batch).times.items():
        at = len(times) // 2
        counts = present(batch, times)
        added = torch.zeros_like(states[key])
        added[:, at] = torch.randn_like(added[:, at])
        changed = model.trace(batch, {key: added}).states[key] - states[key]
        torch.testing.assert_close(changed[:, at], added[:, at], rtol=0, atol=FORMS)
        before = slice(at + 1, None) if ".backward." in key else slice(at)
        assert not changed[:, before][counts[:, before]].any(), f"'{key}' changes before time {times[at]}"


def check_totals_are_finite_differences(model: SequenceModel, task: Task, batch: Batch) -> None:
    """Along a random direction at every time, the loss changes as the total gradient says.

    One run serves all times: a copy of the batch for each time and sign, changed at that time alone.
    """
    flow = gradient_flow(model, task, batch)
    assert flow.gradients, "the model shows no state"
    for key, gradient in flow.gradients.items():
        total = gradient.total.value()
        direction = torch.randn_like(total) * present(batch, gradient.times).view(*total.shape[:2], 1)
        places = len(gradient.times)
        copies = batch.select(torch.arange(len(batch)).repeat(2 * places))
        added = torch.zeros(2, places, *direction.shape)
        for at in range(places):
            added[0, at, :, at], added[1, at, :, at] = STEP * direction[:, at], -STEP * direction[:, at]
        up, down = losses(model, task, copies, {key: added.flatten(0, 2)}).view(2, places, len(batch))
        predicted = (total * direction).flatten(2).sum(2).T
        worst = ((up - down) / (2 * STEP) - predicted).abs().max()
        assert predicted.any(), f"the loss does not depend on '{key}'"
        share = float(worst / predicted.abs().max())
        assert share <= DIFFERENCES, f"'{key}': differences and totals differ by {share:.1e} of the largest"


def losses(model: SequenceModel, task: Task, batch: Batch, perturb: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        outputs = model.trace(batch, perturb).outputs
        return sample_means(task.loss(outputs, batch), batch.scored)


def check_outputs_do_not_see_the_future(model: SequenceModel, task: Task, batch: Batch) -> None:
    cut = batch.length // 2
    inputs = batch.inputs.clone()
    later = inputs[:, cut:]
    inputs[:, cut:] = (later + 1) % task.inputs.size if isinstance(task.inputs, Tokens) else later + 1
    before, after = (model(replace(batch, inputs=given))[:, :cut] for given in (batch.inputs, inputs))
    torch.testing.assert_close(after, before, rtol=0, atol=FORMS)


def check_samples_do_not_mix(model: SequenceModel, task: Task, batch: Batch) -> None:
    chosen = torch.tensor([len(batch) - 1, 0])
    torch.testing.assert_close(model(batch.select(chosen)), model(batch)[chosen], rtol=0, atol=FORMS)


def check_padding_changes_nothing(model: SequenceModel, task: Task, batch: Batch) -> None:
    """Three more positions of rubbish after every sample's end."""
    rubbish = batch.inputs[:, :3].flip(1)
    targets = batch.targets[:, :3]
    padded = Batch(
        torch.cat([batch.inputs, rubbish], 1),
        torch.cat([batch.targets, targets], 1),
        torch.cat([batch.scored, torch.zeros_like(batch.scored[:, :3])], 1),
        batch.lengths,
    )
    real = torch.arange(batch.length) < batch.lengths[:, None]
    torch.testing.assert_close(model(padded)[:, : batch.length][real], model(batch)[real], rtol=0, atol=FORMS)
    short, long = (gradient_flow(model, task, given).gradients for given in (batch, padded))
    for key, gradient in short.items():
        counts = present(batch, gradient.times)
        place = present(padded, long[key].times)
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
    """Counted in the states of one time of one sample; attention, which keeps all times, declares None."""
    trace = model.trace(batch)
    if model.state_size is None:
        assert trace.maps, "only attention may keep everything"
        return
    assert sum(state[0, 0].numel() for state in trace.states.values()) == model.state_size
