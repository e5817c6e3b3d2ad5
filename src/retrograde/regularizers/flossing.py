r"""Gradient flossing: the first Lyapunov exponents of a recurrence are pulled towards zero.

    Q_t R_t = J_t Q_{t-1}          J_t = ∂z_t/∂z_{t-1},  Q_0 the first k unit vectors of the state, in a random frame
    λ_i = 1/T Σ_t ln |R_t,ii|      natural logarithm, i = 1 … k, along a training sequence of length T
    loss = weight · 1/k Σ_i λ_i²   the mean over sequences, the sum over recurrences

differentiated within its recurrence: through the orthogonalisation, the Jacobians and the states. Held are its inputs,
so that the exponents of an upper layer say nothing to the layers below, the initial state, and what a decoder looks at.
z is the full state, so that an LSTM has 2H exponents. An exponent of 0 is a direction in which gradients neither vanish
nor explode over these T steps.

It acts on every ``every``-th step of training, the first included, on the first ``samples`` sequences of the batch.

Source: Engelken 2023, NeurIPS, arXiv:2312.17306, section 3, there before training and at intervals of it; the number of
exponents is the paper's main setting.
Cost: T steps of a loop with k tangents each and as many QR decompositions, differentiated: many training steps.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch, Course, State
from retrograde.core.recurrence import Recurrence
from retrograde.core.snapshot import gradient_flow
from retrograde.core.sweep import vector_jacobian


class Flossing:
    """The mean square of the first ``exponents`` exponents of every recurrence; None between the steps it acts on."""

    def __init__(self, weight: float = 1.0, exponents: int = 8, every: int = 20, samples: int = 2) -> None:
        if weight <= 0:
            raise ValueError(f"weight must be greater than 0, not {weight}; regularizer=null is none")
        for name, value in (("exponents", exponents), ("every", every), ("samples", samples)):
            require_at_least(name, value, 1)
        self.weight = weight
        self.exponents = exponents
        self.every = every
        self.samples = samples

    def __call__(self, model: SequenceModel, task: Task, batch: Batch, step: int) -> Float[Tensor, ""] | None:
        if (step - 1) % self.every:
            return None
        first = batch.select(torch.arange(min(self.samples, len(batch)), device=batch.lengths.device))
        courses = gradient_flow(model, task, first.trimmed()).courses
        if not courses:
            raise ValueError(f"regularizer=flossing is for recurrences, and {type(model).__name__} has none")
        squares = [
            exponents(course, sample, self.exponents).square().mean()
            for course in courses.values()
            for sample in range(len(first))
        ]
        found = self.weight * torch.stack(squares).sum() / len(first)
        if not found.requires_grad:
            raise ValueError(
                "regularizer=flossing moves the weights of a step; this model's steps have none that learn"
            )
        return found


def exponents(course: Course, sample: int, count: int) -> Float[Tensor, " exponents"]:
    """The first ``count`` finite-time exponents along one sample, with a graph to the recurrence's weights.

    As many as the state has where these are fewer. Raises ValueError where fewer directions than that survive a step;
    what is no number is no such case, and is handed on.
    """
    recurrence, length = course.recurrence, int(course.lengths[sample])
    held = recurrence.of_samples  # what is kept of one batch, a memory say: this sample's, and no weight
    weights = {
        name: course.weights[name][sample : sample + 1] if name in held else value
        for name, value in recurrence.weights().items()
    }
    inputs = course.inputs[sample : sample + 1, :length].detach().unbind(1)
    state = {name: value[sample : sample + 1, 0].detach() for name, value in course.states.items()}
    size = sum(value.numel() for value in state.values())
    count = min(count, size)
    frame = frame_of(size, count, inputs[0])
    logarithms = []
    for x in inputs:
        state, tangents = _advanced(recurrence, weights, x, state, frame)
        frame, upper = torch.linalg.qr(tangents)
        stretched = upper.diagonal().abs()
        if bool((stretched == 0).any()):
            raise ValueError(
                f"regularizer=flossing: of {count} directions only {int((stretched != 0).sum())} survive a step; lower "
                "regularizer.exponents"
            )
        logarithms.append(stretched.log())
    return torch.stack(logarithms).mean(0)


def frame_of(size: int, count: int, like: Tensor) -> Float[Tensor, "size count"]:
    """Orthonormal directions to begin with, always the same ones."""
    drawn = torch.randn(size, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(drawn)[0].to(like)


def _advanced(
    recurrence: Recurrence, weights: dict[str, Tensor], x: Tensor, state: State, frame: Float[Tensor, "size count"]
) -> tuple[State, Float[Tensor, "size count"]]:
    """The next state, and what the step makes of each direction, in the order of the components.

    One row for each direction. J v is had without forward mode: it is the derivative of ⟨Jᵀ u, v⟩ by u.
    """
    count = frame.shape[1]
    before = {name: value.expand(count, *value.shape[1:]).clone() for name, value in state.items()}
    before = {name: value if value.requires_grad else value.requires_grad_() for name, value in before.items()}
    after = recurrence.step(weights, x.expand(count, -1), before)
    dummies = {name: torch.zeros_like(value, requires_grad=True) for name, value in after.items()}
    carried = vector_jacobian(after, before, dummies, create_graph=True)
    directions = frame.T.split([value[0].numel() for value in before.values()], 1)
    along = sum((carried[name].flatten(1) * v).sum() for name, v in zip(before, directions, strict=True))
    made = torch.autograd.grad(along, list(dummies.values()), create_graph=True, materialize_grads=True)
    return {name: value[:1] for name, value in after.items()}, torch.cat([part.flatten(1) for part in made], 1).T
