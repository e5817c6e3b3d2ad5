r"""How much each time adds to the gradient of a recurrence's weights.

    C_t = (∂z_t/∂W)ᵀ g_t           what using W at time t adds to dL/dW: of a matrix that meets h_{t-1}, δ_t h_{t-1}ᵀ
    G   = Σ_t C_t                  dL/dW, as far as it comes through the state
    norm     ‖C_t‖
    share    ⟨C_t, G⟩ / ‖G‖²       of either sign; over all times the shares add up to 1

z_t the full state after input t, ∂z_t/∂W its derivative with z_{t-1} held, g_t = dL/dz_t the total gradient, δ_t the
gradient at the sum that W h_{t-1} is a part of. L is the mean loss over one sample's scored positions. Norms, in log10,
and shares are of one sample, then their mean and quantiles over the first `samples` of the probe batch.

W is each weight that the step reads, as it reads it: where a recurrence makes it of parameters (an orthogonal matrix,
one with entries held at zero) G is the gradient at what is made. What a layer's read-out reads of its weights does not
pass through time and is not counted; nothing is for a layer without recurrence.

A product with a state of zeros, as that before the first input, adds nothing. Where the outer product is known to be
one (Elman, LSTM, GRU) the norm then reads zero, elsewhere censored, because the format might have lost it.

Source: Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063, eqs. 3-5.
Cost: for each sample one step at all times at once, and its gradient: together a sixth of a training step for an LSTM.
Where the outer product is not known it is formed, chunk by chunk, T times as many numbers as W has: a few times that.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import vjp, vmap

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Snapshot
from retrograde.core.records import Course, Reading, State
from retrograde.core.scaled import Scaled, log10_norm, power_of_two
from retrograde.core.statistics import (
    STATISTICS,
    log10_statistics,
    plain_status,
    signed_statistics,
    status_of,
)
from retrograde.core.statuses import CENSORED, FINITE, ZERO

AT_ONCE = 1 << 22
"""Numbers of contributions that exist together, 16 MiB in float32: on a CPU a quarter takes longer, more no less."""

SAFE = 1e12
"""A norm between this and its inverse has lost nothing to the squares of its entries in float32."""


class WeightContribution:
    """Readings ``norm`` and ``share`` over time, for every weight of every recurrence's step."""

    def __init__(self, samples: int = 4) -> None:
        require_at_least("samples", samples, 1)
        self.samples = samples

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        samples = min(self.samples, len(snapshot.batch))
        for layer, course in snapshot.courses.items():
            found = [contributions(course, sample) for sample in range(samples)]
            counts = course.read[:samples]
            kept = counts.any(0)
            dims = {"statistic": STATISTICS, "time": kept.nonzero().flatten().tolist()}
            for name in found[0]:
                parts = zip(*(of_sample[name] for of_sample in found), strict=True)
                norm, status, share, of_share = (in_time(course, torch.stack(part)) for part in parts)
                where = f"{layer}.{name.replace('.', '_')}"
                values, statuses = log10_statistics(norm[:, kept], status[:, kept], counts[:, kept])
                yield Reading(
                    f"norm/{where}", values.cpu().numpy(), dims, "log10 loss per weight", statuses.cpu().numpy()
                )
                values, statuses = signed_statistics(share[:, kept], of_share[:, kept], counts[:, kept])
                yield Reading(f"share/{where}", values.cpu().numpy(), dims, "signed share", statuses.cpu().numpy())


class Contribution(NamedTuple):
    """What every use of one weight adds to its gradient, of one sample, in the order of reading."""

    norm: Float[Tensor, " time"]
    status: Int[Tensor, " time"]
    share: Float[Tensor, " time"]
    of_share: Int[Tensor, " time"]


@dataclass(frozen=True)
class Read:
    """A recurrence along one sample, time first and a batch of one behind it, and the gradient at every state.

    The gradient is ``mantissa · 2^exponent``; ``top`` is the largest exponent of any time.
    """

    course: Course
    fixed: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    x: Float[Tensor, "time 1 clocked"]
    before: State
    mantissa: State
    exponent: Int[Tensor, " time"]
    reached: Tensor
    top: Int[Tensor, ""]

    @classmethod
    def of(cls, course: Course, sample: int) -> "Read":
        """That of one sample; what of the weights belongs to samples is cut down to it, and no weight."""
        given = {
            name: weight[sample : sample + 1] if name in course.recurrence.of_samples else weight
            for name, weight in course.weights.items()
        }
        learned = [
            name
            for name, weight in given.items()
            if weight.is_floating_point() and name not in course.recurrence.of_samples
        ]
        mantissa = {name: part.mantissa[sample, 1:].unsqueeze(1) for name, part in course.total.items()}
        scale = next(iter(course.total.values()))  # the components share exponent and reach
        exponent = scale.exponent[sample, 1:]
        some = torch.stack([(part != 0).flatten(1).any(1) for part in mantissa.values()]).any(0)
        return cls(
            course,
            {name: weight for name, weight in given.items() if name not in learned},
            {name: given[name] for name in learned},
            course.inputs[sample].unsqueeze(1),
            {name: value[sample].unsqueeze(1) for name, value in course.before.items()},
            mantissa,
            exponent,
            scale.reached[sample, 1:],
            torch.where(some, exponent, torch.iinfo(exponent.dtype).min).amax(),
        )

    def from_top(self, value: Tensor) -> Tensor:
        """What goes with each time's mantissa, in units of 2^top instead."""
        return power_of_two(value, (self.exponent - self.top).clamp(max=0))  # a zero's own exponent says nothing

    def step(self, weights: Mapping[str, Tensor]) -> State:
        """The states after every input, made with these weights."""
        return self.course.recurrence.step({**self.fixed, **weights}, self.x, self.before)

    def log10(self, norm: Float[Tensor, " time"]) -> tuple[Float[Tensor, " time"], Int[Tensor, " time"]]:
        """log10 of norms that go with the mantissas, and their status."""
        value, status = log10_norm(Scaled(norm[None, :, None], self.exponent[None], self.reached[None]))
        return value[0], status[0]


def contributions(course: Course, sample: int) -> dict[str, Contribution]:
    """By name, for every weight that the step reads."""
    read = Read.of(course, sample)
    found = outer_products(read)
    found |= formed(read, [name for name in read.weights if name not in found])
    return {name: found[name] for name in read.weights if name in found}


def outer_products(read: Read) -> dict[str, Contribution]:
    """Of the weights of which the recurrence says what they are multiplied by, and of the biases beside them."""
    known = read.course.recurrence.products({**read.fixed, **read.weights}, read.x, read.before)
    biases = list(dict.fromkeys(bias for bias, _ in known.values()))
    if not biases:
        return {}
    times = len(read.x)
    # a bias of its own for every time: its gradient is that of the sum which it is a part of
    leaves = {name: read.weights[name].expand(times, *read.weights[name].shape).clone() for name in biases}
    with torch.enable_grad():
        leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
        after = read.step({**read.weights, **leaves})
    live = [name for name, value in after.items() if value.requires_grad]
    deltas = torch.autograd.grad(
        [after[name] for name in live], list(leaves.values()), [read.mantissa[name] for name in live]
    )
    found = {}
    for bias, delta in zip(biases, deltas, strict=True):
        from_top = read.from_top(delta)
        norm, status = read.log10(norms(delta))
        gradient = from_top.sum(0)
        found[bias] = shared(read, delta @ unit(gradient), gradient, norm, status)
        for name, (beside, multiplied) in known.items():
            if beside == bias:
                vector = multiplied.squeeze(1)
                gradient = from_top.mT @ vector
                of_product = norm + norms(vector).to(norm.dtype).log10()
                own = torch.where((status == FINITE) | (vector == 0).all(1), status_of(of_product), status)
                found[name] = shared(read, (delta @ unit(gradient) * vector).sum(1), gradient, of_product, own)
    return found


def formed(read: Read, names: list[str]) -> dict[str, Contribution]:
    """Of any weights, by forming what each time adds; those that the step does not read are left out."""
    if not names:
        return {}
    with torch.enable_grad():
        leaves = {name: read.weights[name].detach().requires_grad_() for name in names}
        after = read.step({**read.weights, **leaves})
        live = [name for name, value in after.items() if value.requires_grad]
    if not live:
        return {}
    gradients: Sequence[Tensor | None] = torch.autograd.grad(
        [after[name] for name in live],
        list(leaves.values()),
        [read.from_top(read.mantissa[name]) for name in live],
        allow_unused=True,
    )
    gradient = {name: made for name, made in zip(names, gradients, strict=True) if made is not None}
    weights = {name: read.weights[name] for name in gradient}
    others = {name: weight for name, weight in {**read.fixed, **read.weights}.items() if name not in weights}

    def at_one_time(x: Tensor, before: State, mantissa: State) -> dict[str, Tensor]:
        def step(weights: Mapping[str, Tensor]) -> State:
            return read.course.recurrence.step({**others, **weights}, x, before)

        made, back = vjp(step, weights)  # type: ignore[misc]  # three only where there is something beside
        (added,) = back({name: mantissa[name] for name in made})
        return added

    along: dict[str, list[Tensor]] = {name: [] for name in weights}
    sizes: dict[str, list[Tensor]] = {name: [] for name in weights}
    stretch = max(1, AT_ONCE // sum(weight.numel() for weight in weights.values()))
    for start in range(0, len(read.x), stretch):
        times = slice(start, start + stretch)
        added = vmap(at_one_time)(
            read.x[times],
            {name: value[times] for name, value in read.before.items()},
            {name: value[times] for name, value in read.mantissa.items()},
        )
        for name, value in added.items():
            rows = value.flatten(1)
            along[name].append(rows @ unit(gradient[name]).flatten())
            sizes[name].append(norms(rows))
    return {
        name: shared(read, torch.cat(along[name]), made, *read.log10(torch.cat(sizes[name])))
        for name, made in gradient.items()
    }


def shared(read: Read, along: Tensor, gradient: Tensor, norm: Tensor, status: Tensor) -> Contribution:
    """The contribution whose product with ``unit(gradient)`` is ``along``, in the mantissas' own scales."""
    largest = gradient.abs().amax().to(torch.float64)
    square = unit(gradient).to(torch.float64).square().sum()
    share = read.from_top(along.to(torch.float64)) / (largest * square)
    lost = (status == ZERO) | (status == CENSORED)
    of_share = torch.where((share == 0) & (along != 0), CENSORED, plain_status(share))
    return Contribution(norm, status, share.masked_fill(lost, 0.0), torch.where(lost, status, of_share))


def unit(gradient: Tensor) -> Tensor:
    """The same direction with a largest entry of 1, so that products with it stay in range."""
    return gradient / gradient.abs().amax()


def norms(rows: Float[Tensor, "time size"]) -> Float[Tensor, " time"]:
    """The norm of each row, also where the squares of its entries leave the format."""
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    made = torch.linalg.vector_norm(rows, dim=1)
    unsure = ((made < 1 / SAFE) | (made > SAFE)).nonzero().flatten()
    if len(unsure):
        largest = rows[unsure].abs().amax(1)
        scale = largest.where(torch.isfinite(largest) & (largest > 0), 1.0)
        made[unsure] = torch.linalg.vector_norm(rows[unsure] / scale.unsqueeze(1), dim=1) * scale
    return made


def in_time(
    course: Course, values: Float[Tensor, "sample time"] | Int[Tensor, "sample time"]
) -> Float[Tensor, "sample time"] | Int[Tensor, "sample time"]:
    """What belongs to the first samples of a course, in the order of time."""
    others = values.new_zeros(len(course.lengths) - len(values), values.shape[1])
    return course.in_time(torch.cat([values, others]))[: len(values)]
