"""One step of a recurrence by plain autograd: whole Jacobians, their product, and an entry's own path."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import torch
from mpmath import mp  # type: ignore[import-untyped]  # ships no types
from torch import Tensor

from exact.loops import Course
from retrograde.core.records import State
from retrograde.core.recurrence import Recurrence

OWN = 1e-9
"""Of a Jacobian's largest entry: less is nothing."""

DRAWS = 8
"""States at which it is asked which weights stand before a component: at some a ReLU is shut."""

DIGITS, ROUNDED = 100, 10
"""Of the product of all steps, whose columns are nearly parallel, and how many of them rounding may take."""

LARGEST = 1024
"""Numbers of a state whose Jacobian is computed, which takes a backward pass each."""


def jacobians(course: Course) -> list[Tensor]:
    """∂z_t/∂z_{t-1} of the first sample over the full state, its components flat and side by side, step by step.

    Empty for a state of more than ``LARGEST`` numbers.
    """
    shapes = {name: state.shape[1:] for name, state in course.point[0].items()}
    sizes = [shape.numel() for shape in shapes.values()]
    if sum(sizes) > LARGEST:
        return []

    def stepped(x: Tensor, flat: Tensor) -> Tensor:
        parts = zip(shapes.items(), flat.split(sizes), strict=True)
        state = {name: part.view(1, *shape) for (name, shape), part in parts}
        made = course.recurrence.step(course.weights, x, state)
        return torch.cat([made[name][0].flatten() for name in shapes])

    found = []
    for time, x in enumerate(course.inputs[:1].detach().unbind(1)):
        before = torch.cat([course.point[time][name][0].detach().flatten() for name in shapes])
        found.append(torch.autograd.functional.jacobian(lambda z, x=x: stepped(x, z), before))
    return found


def exponents(steps: Sequence[Tensor]) -> list[float]:
    """ln |R_ii| of one orthogonal decomposition of the whole product, over the number of steps, the largest first."""
    return sorted((logarithm / len(steps) for logarithm in logarithms(steps)), reverse=True)


def logarithms(steps: Sequence[Tensor]) -> list[float]:
    """ln |R_ii| of one orthogonal decomposition of the whole product, direction by direction.

    In a hundred digits, so that nothing has to be orthogonalised on the way; -∞ where the product has lost a direction.
    Parts of the state that do not bear on one another are taken one after the other: their columns are orthogonal.
    """
    found = [0.0] * len(steps[0])
    for part in parts(steps):
        own = _logarithms([step[part][:, part] for step in steps])
        for number, logarithm in zip(part, own, strict=True):
            found[number] = logarithm
    return found


def parts(steps: Sequence[Tensor]) -> list[list[int]]:
    """The numbers of a state by parts that do not bear on one another in any of the steps."""
    bears = torch.stack([(step != 0) | (step.T != 0) for step in steps]).any(0) | torch.eye(len(steps[0])).bool()
    label = torch.arange(len(bears))
    while True:
        smallest = label.expand_as(bears).where(bears, len(bears)).amin(1)
        if torch.equal(smallest, label):
            return [(label == one).nonzero().flatten().tolist() for one in label.unique()]
        label = smallest


def _logarithms(steps: Sequence[Tensor]) -> list[float]:
    """The same of steps that are taken as they are."""
    with mp.workdps(DIGITS):
        product = mp.eye(len(steps[0]))
        for step in steps:
            product = mp.matrix(step.tolist()) * product
        # Gram and Schmidt: what of each column stands out of those before it
        frame: list[mp.matrix] = []
        found = []
        for at in range(product.cols):
            column = product[:, at]
            before = mp.norm(column)
            for other in frame:
                column = column - other * (other.T * column)[0]
            size = mp.norm(column)
            lost = size <= before * mp.mpf(10) ** (ROUNDED - DIGITS)
            found.append(-math.inf if lost else float(mp.log(size)))
            if not lost:
                frame.append(column / size)
    return found


def own_path(course: Course, component: str, time: int) -> Tensor | None:
    """The factor by which the step at ``time`` hands on each entry of a component along that entry's own path.

    Of a state whose step is affine in the component, or that has no path but through weights that multiply it, it is
    the Jacobian's diagonal, or complex where pairs of numbers are. Of others (a GRU's, which is in its own gates) the
    component is made u times as large and the weights that it meets u times as small: whatever such a product stands
    in stays as it was, and of c'(u) = factor · u c + … the factor remains. Which weights these are shows in that c'(u)
    is of that form. None where it is for no choice, or factors differ: then nothing tells the own path from the others.
    """
    x = course.inputs[:, time].detach()
    state = {name: value.detach() for name, value in course.on[time].items()}
    weights = {name: value.detach() for name, value in course.weights.items()}
    here, other = state[component], torch.randn_like(state[component])
    multiplying = _multiplying(course.recurrence, weights, x, state, component)

    def after(value: Tensor, scale: float = 1.0, names: Sequence[str] = tuple(multiplying)) -> Tensor:
        scaled = {name: torch.where(multiplying[name], weights[name] * scale, weights[name]) for name in names}
        return course.recurrence.step({**weights, **scaled}, x, state | {component: value})[component]

    jacobian = _rows(after, here)
    size = float(jacobian.abs().max())
    if not multiplying or _close(jacobian, _rows(after, other), size):
        return _diagonal(jacobian, here)
    if _close(_rows(lambda z: after(z, 0.0), here), 0.0, 1.0):
        return _diagonal(jacobian, here)

    def carried(value: Tensor, names: Sequence[str]) -> Tensor | None:
        """factor · c."""
        half, one, two = (after(scale * value, 1 / scale, names) for scale in (0.5, 1.0, 2.0))
        return two - one if _close(two - one, 2 * (one - half), 1.0) else None

    subsets = (names for count in range(len(multiplying)) for names in combinations(multiplying, count + 1))
    met = [names for names in subsets if carried(other, names) is not None]
    found: list[Tensor] = []
    for names in met:
        if here.any():
            passed = carried(here, names)
            if passed is None:
                return None
            found.append(passed / here)
        else:  # what a weight says of nothing is nothing
            found.append(after(torch.ones_like(here), 0.0, names) - after(here, 0.0, names))
    return found[0] if found and all(_close(factor, found[0], 1.0) for factor in found) else None


def _close(found: Tensor, expected: Tensor | float, size: float) -> bool:
    return bool(((found - expected).abs() <= OWN * max(size, 1.0)).all())


def _multiplying(
    recurrence: Recurrence, weights: Mapping[str, Tensor], x: Tensor, state: State, component: str
) -> dict[str, Tensor]:
    """By name, which entries of a weight only ever stand before the component: without it they say nothing."""

    def felt(value: Tensor) -> dict[str, Tensor]:
        leaves = {
            name: weight.clone().requires_grad_() for name, weight in weights.items() if weight.is_floating_point()
        }
        others = {name: torch.randn_like(part) for name, part in state.items() if name != component}
        made = recurrence.step({**weights, **leaves}, x, state | others | {component: value})
        said = sum((part * torch.randn_like(part)).sum() for part in made.values())
        if not leaves or not isinstance(said, Tensor) or not said.requires_grad:
            return {}
        found = torch.autograd.grad(said, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return {name: gradient != 0 for name, gradient in zip(leaves, found, strict=True)}

    masks: dict[str, Tensor] = {}
    for _ in range(DRAWS):
        without, with_it = felt(torch.zeros_like(state[component])), felt(torch.randn_like(state[component]))
        for name, some in with_it.items():
            seen = masks.setdefault(name, torch.zeros(2, *some.shape, dtype=torch.bool))
            masks[name] = seen | torch.stack([some, without[name]])
    found = {name: some & ~without for name, (some, without) in masks.items()}
    return {name: mask for name, mask in found.items() if mask.any()}


def _rows(f: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """(batch, size, size): the Jacobian of f of each sample by itself, by plain autograd, a row at a time."""
    size = at[0].numel()
    z = at.detach().requires_grad_()
    made = f(z)
    flat = made.flatten(1)
    if not made.requires_grad:
        return at.new_zeros(len(at), size, size)
    rows = [
        torch.autograd.grad(flat[:, row].sum(), z, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
        for row in range(size)
    ]
    return torch.stack(rows, 1).flatten(2)


def _diagonal(jacobian: Tensor, like: Tensor) -> Tensor | None:
    """The diagonal in the state's own shape, or of pairs of numbers, a complex one; None where there is more."""
    own = torch.diagonal(jacobian, dim1=1, dim2=2)
    size = float(jacobian.abs().max())
    if _close(jacobian - torch.diag_embed(own), 0.0, size):
        return own.view_as(like)
    if like.shape[-1] != 2:
        return None
    pairs = jacobian.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # batch, pair, part, pair, part
    blocks = torch.diagonal(pairs, dim1=1, dim2=3)  # batch, part, part, pair
    turned = torch.complex(blocks[:, 0, 0], blocks[:, 1, 0])
    rebuilt = torch.stack([torch.stack([turned.real, -turned.imag], 1), torch.stack([turned.imag, turned.real], 1)], 1)
    rest = pairs.clone()
    torch.diagonal(rest, dim1=1, dim2=3).zero_()
    if not (_close(blocks, rebuilt, size) and _close(rest, 0.0, size)):
        return None
    return turned.view(like.shape[:-1])
