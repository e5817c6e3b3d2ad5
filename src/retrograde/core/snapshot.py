"""How a Snapshot is made: one trace, one loss, one pass of the gradient through every state."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.contracts import SequenceModel, Snapshot, Task
from retrograde.core.losses import sample_means
from retrograde.core.records import Batch, Course, StateGradient, Trace, Update


@dataclass(frozen=True)
class Flow:
    """A batch run through a model, and the gradient of each sample's loss at every state."""

    trace: Trace
    losses: Float[Tensor, "batch target"]
    gradients: dict[str, StateGradient]
    inputs: StateGradient | None
    courses: dict[str, Course]


def gradient_flow(model: SequenceModel, task: Task, batch: Batch) -> Flow:
    """Total and direct gradients of every sample's mean loss at every state of the model, in eval mode.

    Nothing is written to ``.grad``. There are none for a model without states. Raises ValueError for a state that the
    loss's gradient cannot be asked at.
    """
    with torch.enable_grad(), evaluating(model):
        trace = model.trace(batch)
        losses = task.loss(trace.outputs, batch).where(batch.scored, 0.0)
        if not trace.states:
            return Flow(_detached(trace), losses.detach(), {}, None, {})
        loss = sample_means(losses, batch.scored).sum()
    detached = [key for key, state in trace.states.items() if not state.requires_grad]
    if detached:
        raise ValueError(f"state '{detached[0]}' carries no gradient: is every weight below it frozen?")
    trace.ledger.weights = False
    read = [] if trace.inputs is None else [trace.inputs]
    _, *direct = torch.autograd.grad(
        loss, [trace.ledger.anchor, *trace.states.values(), *read], allow_unused=True, materialize_grads=True
    )
    gradients = dict(trace.ledger.gradients)
    inputs = None
    if trace.inputs is not None:
        known = trace.ledger.reached(direct.pop())
        inputs = StateGradient(known, known, range(trace.inputs.shape[1]))
    for key, gradient in zip(trace.states, direct, strict=True):
        if key not in gradients:  # no recurrence: all that the loss knows of the state comes through later layers
            known = trace.ledger.reached(gradient)
            gradients[key] = StateGradient(known, known, trace.times[key])
    in_order = {key: gradients[key] for key in trace.states}
    layers = dict.fromkeys(key.rpartition(".")[0] for key in trace.states)
    courses = {layer: trace.ledger.courses[layer] for layer in layers if layer in trace.ledger.courses}
    return Flow(_detached(trace), losses.detach(), in_order, inputs, courses)


def snapshot(model: SequenceModel, task: Task, batch: Batch, step: int, update: Update | None = None) -> Snapshot:
    """What probes read at one step."""
    flow = gradient_flow(model, task, batch)
    return Snapshot(
        step, model, task, batch, flow.trace, flow.losses, flow.gradients, flow.inputs, flow.courses, update
    )


def _detached(trace: Trace) -> Trace:
    return Trace(
        trace.outputs.detach(),
        {key: state.detach() for key, state in trace.states.items()},
        trace.times,
        {key: weights.detach() for key, weights in trace.maps.items()},
        target_side=trace.target_side,
        cross=trace.cross,
        inputs=None if trace.inputs is None else trace.inputs.detach(),
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; afterwards every part of it is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:  # one by one: a part may be kept in eval mode throughout
            module.training = training
