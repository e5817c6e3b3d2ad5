r"""Pascanu's Ω: the error is to keep its size from step to step, in the direction that it has.

    Ω_t = (‖J_tᵀ g_t‖ / ‖g_t‖ - 1)²            J_t = ∂z_t/∂z_{t-1},  g_t = dL/dz_t
    loss = weight · mean of Ω_t                 over times and samples; the sum over recurrences

z is the full state, all components side by side. The immediate derivative alone is taken: every z_t and g_t is held
where the sweep found it, and the weights move in the one step that J_t is the Jacobian of. Times at which g_t is zero,
below the format's range or no number are left out. It is measured in evaluation mode, without dropout.

Source: Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063, section 3.3; weights 2 and 4: section 4.
Differs: the paper's state is what its nonlinearity is taken of, so that J_t depends immediately on the recurrent matrix
and nothing else; here it is what the nonlinearity gives, whose slope depends on weights and biases as well. The mean
over times is that of the authors' code, so that a weight means the same at every length; the paper writes a sum. That
code squares both norms, and leaves out times with ‖g_t‖² below 1e-20.
Cost: a sweep of the batch, and the step at all times at once, differentiated twice.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch, Course
from retrograde.core.scaled import LOG10_2, Scaled, log10_norm, power_of_two
from retrograde.core.snapshot import gradient_flow
from retrograde.core.statistics import log10_joint
from retrograde.core.statuses import FINITE
from retrograde.core.sweep import vector_jacobian


class Omega:
    """Ω of the training batch at every step, weighted."""

    def __init__(self, weight: float = 2.0) -> None:
        if weight <= 0:
            raise ValueError(f"weight must be greater than 0, not {weight}; regularizer=null is none")
        self.weight = weight

    def __call__(self, model: SequenceModel, task: Task, batch: Batch, step: int) -> Float[Tensor, ""]:
        courses = gradient_flow(model, task, batch).courses
        if not courses:
            raise ValueError(f"regularizer=omega keeps the error in a recurrence, and {type(model).__name__} has none")
        found = self.weight * torch.stack([omega(course).mean() for course in courses.values()]).sum()
        if not found.requires_grad:
            raise ValueError(
                "regularizer=omega moves the weights of a step, and this model's steps have none that learn"
            )
        return found


def omega(course: Course) -> Float[Tensor, " batch"]:
    """Ω of each sample along one recurrence, with a graph to its weights."""
    norms = [log10_norm(total) for total in course.total.values()]
    values, statuses = (torch.stack(part)[..., 1:] for part in zip(*norms, strict=True))
    size, status = log10_joint(values, statuses)
    counts = course.read & (status == FINITE)
    error = {name: _of_length_one(total, size, counts) for name, total in course.total.items()}
    with torch.enable_grad():
        before = {name: value.transpose(0, 1).clone().requires_grad_() for name, value in course.before.items()}
        after = course.recurrence.step(_weights(course), course.inputs.transpose(0, 1), before)
        gradient = {name: value.transpose(0, 1) for name, value in error.items()}
        carried = vector_jacobian(after, before, gradient, create_graph=True)
        ratio = torch.linalg.vector_norm(torch.cat([value.flatten(2) for value in carried.values()], -1), dim=-1).T
        return (ratio - 1).square().where(counts, 0.0).sum(1) / counts.sum(1).clamp(min=1)


def _weights(course: Course) -> dict[str, Tensor]:
    """Those that the step reads, with their graph; what the recurrence keeps of one batch, a memory say, is held."""
    held = course.recurrence.of_samples
    return {
        name: course.weights[name] if name in held else value for name, value in course.recurrence.weights().items()
    }


def _of_length_one(
    total: Scaled, size: Float[Tensor, "batch time"], counts: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch time *state"]:
    """One component of the error after each step, where the full vector of them is divided by its norm, log10 ``size``.

    The power of two goes first, so that no error leaves the format; what does not count is zero.
    """
    binary = torch.where(counts, size / LOG10_2, 0.0)
    whole = binary.floor()
    near = power_of_two(total.mantissa[:, 1:], total.exponent[:, 1:] - whole.to(total.exponent.dtype))
    rest = torch.where(counts, torch.exp2(whole - binary), 0.0).to(near.dtype)
    return torch.where(_beside(counts, near), near * _beside(rest, near), 0.0)


def _beside(value: Tensor, like: Tensor) -> Tensor:
    """(batch, time) with as many axes as ``like`` has."""
    return value.reshape(value.shape + (1,) * (like.ndim - 2))
