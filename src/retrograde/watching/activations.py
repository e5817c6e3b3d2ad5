"""Gradients at what modules without a recurrence give: autograd's own, which are total as they are.

The first result of every module is told of. A tensor that several modules give (a block and its last layer) is told of
once, under the innermost, and under the Transformer layers of ``torch.nn`` rather than under their norms. It has a norm
for each sample and time where it is (batch, time, width), for each sample where it is (batch, width) or has more axes.
Which axis is the batch's is told by its size; see ``Site.found_axes``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from retrograde.core.scaled import Scaled
from retrograde.watching.calls import Call, Layout, replaced, tensors
from retrograde.watching.flow import Heads, Measured, Pass, Step
from retrograde.watching.nodes import node_of
from retrograde.watching.norms import Norm

Axes = tuple[int | None, int | None]
"""The batch's and the time's; a tensor without the former is one sample."""

UNSURE = (
    "no layer says where the batch is, and so it is taken to come first in what the model is given: say batch_first="
)


@singledispatch
def time_axis(module: nn.Module) -> int | None:
    """Which axis of a result (batch, …, …) is time; register a layer type of your own for which the answer is another.

    ``None`` for a module that gives back whatever it was given.
    """
    return None


@time_axis.register(nn.Linear)
@time_axis.register(nn.LayerNorm)
@time_axis.register(nn.RMSNorm)
@time_axis.register(nn.Embedding)
@time_axis.register(nn.MultiheadAttention)
@time_axis.register(nn.TransformerEncoderLayer)
@time_axis.register(nn.TransformerDecoderLayer)
def _(module: nn.Module) -> int:
    return 1


@time_axis.register(nn.Conv1d)
@time_axis.register(nn.ConvTranspose1d)
@time_axis.register(nn.BatchNorm1d)
@time_axis.register(nn.GroupNorm)
@time_axis.register(nn.InstanceNorm1d)
@time_axis.register(nn.MaxPool1d)
@time_axis.register(nn.AvgPool1d)
@time_axis.register(nn.AdaptiveAvgPool1d)
@time_axis.register(nn.AdaptiveMaxPool1d)
def _(module: nn.Module) -> int:
    return 2


@dataclass(eq=False)
class Site:
    """One call of one module, whose first result is told of."""

    layer: str
    number: int
    step: Step
    module: nn.Module
    layout: Layout
    axes: Axes | None = None

    def report(self, passing: Pass, rest: Tensor, carried: Tensor | None) -> bool:
        """The gradient at the result."""
        gradient = rest if carried is None else rest + carried
        axes = self.axes or self.found_axes(gradient.shape)
        if axes is not None:
            passing.measured.append(measured(self.layer, "output", self.number, gradient, axes))
        return True

    def found_axes(self, shape: Sequence[int]) -> Axes | None:
        """Batch and time by their sizes; None, having named the layer, where they cannot be told."""
        samples, layout = self.step.samples, self.layout
        time = time_axis(self.module)
        batch, why = 0, ""
        if samples is None:
            why = "nothing tells how large the batch is"
        elif len(shape) == 3 and time != 2:
            if layout.batch_first is not None:
                batch = 0 if layout.batch_first else 1
            elif shape[0] == shape[1] == samples and layout.mixed:
                why = "may have batch or time first: say batch_first="
            else:
                batch = 0 if shape[0] == samples else 1
                if not (self.step.sure or layout.agreed):
                    self.step.flow.leave_out("batch_first", UNSURE)
            if shape[batch] != samples:
                why = f"has no place for the batch of {samples}"
        elif shape[0] != samples:
            why = f"does not begin with the batch of {samples}"
        if why:
            self.step.flow.leave_out(self.layer, f"its result {tuple(shape)}: {why}")
            return None
        if len(shape) != 3:
            return batch, None
        if time is None and layout.time_last:
            self.step.flow.leave_out(f"{self.layer}: time", "beside convolutions, which axis it is cannot be told")
            return batch, None
        return batch, time if time == 2 else 1 - batch


def measured(layer: str, component: str, number: int, gradient: Tensor, axes: Axes) -> Measured:
    """The norms of a gradient that is total as it is."""
    batch, time = axes
    if batch is None:
        gradient = gradient.unsqueeze(0)
        batch, time = 0, None if time is None else time + 1
    gradient = gradient.movedim(batch, 0)
    gradient = gradient.unsqueeze(1) if time is None else gradient.movedim(time + (time < batch), 1)
    norm = Norm.of(Scaled.of(gradient))
    return Measured(
        layer,
        component,
        number,
        None if time is None else range(gradient.shape[1]),
        norm,
        norm,
        torch.zeros_like(norm.value),
        torch.ones_like(norm.status, dtype=torch.bool),
    )


def first_result(made: Any) -> tuple[tuple[Any, ...], Tensor] | None:
    """The first tensor of real numbers with a batch axis, and where it stands."""
    found = ((path, value) for path, value in tensors(made) if value.is_floating_point() and value.ndim >= 2)
    return next(found, None)


def differentiable(call: Call, made: Any) -> Any:
    """The same results, which autograd follows from here on, where nothing in the model learns."""
    result = first_result(made)
    if not call.frozen or result is None or result[1].requires_grad:
        return made
    if next(call.module.parameters(recurse=False), None) is None:
        return made
    path, value = result
    return replaced(made, path, followed(value))


def followed(value: Tensor) -> Tensor:
    """The same numbers with a gradient, as a result of autograd's."""
    return value.detach().requires_grad_().view_as(value)


def attend(
    call: Call, number: int, made: Any, axes: Axes | None = None, heads: Heads | None = None, foremost: bool = False
) -> None:
    """See to it that the gradient at the first result is told of; ``foremost``, before what is inside the module."""
    result = first_result(made)
    node = None if result is None else node_of(call.step, result[1])
    if node is None:
        return
    if heads is not None:
        node.heads.append(heads)
    site = Site(call.layer, number, call.step, call.module, call.layout, axes)
    node.marks.setdefault(call.layer, site)
    node.as_result.insert(0 if foremost else len(node.as_result), site.report)


def plain(call: Call) -> Any:
    """A call of a module that has no state."""
    number = call.step.call(call.layer)
    made = differentiable(call, call.run())
    attend(call, number, made)
    return made
