"""Checks of probes that read what a recurrence does to its state, whatever the loss."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from mpmath import mp  # type: ignore[import-untyped]  # ships no types
from torch import Tensor

from exact.case import FLOOR, Case, error, magnitudes, of_statistics, worst
from exact.loops import Course
from exact.steps import exponents, jacobians, logarithms, own_path, parts
from retrograde.core.records import Reading
from retrograde.core.recurrence import clocked
from retrograde.core.statuses import CENSORED, FINITE
from retrograde.probes.jacobian import Jacobian
from retrograde.probes.lyapunov import Lyapunov

LENGTH, WARM_UP = 8, 3
"""Times of the asymptotic exponents, and times before them."""

SMALL = 40
"""Numbers of a state that bear on one another whose exponents are computed in a hundred digits."""


def jacobian(case: Case) -> float | None:
    """torch.autograd.functional.jacobian of the step at the states of the loop; products one after the other."""
    probe, readings = case.probes["jacobian"], case.readings("jacobian")
    assert isinstance(probe, Jacobian)
    errors = []
    for name, found in case.jacobians.items():
        if max(len(part) for part in parts(found)) > probe.largest:
            continue
        last = len(found)
        root = len(found[0]) ** 0.5
        product = torch.eye(len(found[0]))
        products = [product]
        for step in reversed(found):
            product = product @ step
            products.append(product)
        in_time = found[::-1] if ".backward" in name else found
        times = np.linspace(0, last - 1, probe.times).round()
        if ".backward" in name:
            times = last - 1 - times
        lags = [*(10 ** (np.arange(99) / probe.per_decade)).round(), last]
        for quantity, dim, places, matrices, order, scale in (
            ("spectral", "time", times, in_time, 2, 1.0),
            ("frobenius", "time", range(last), in_time, "fro", root),
            ("product_spectral", "lag", [lag for lag in lags if lag <= last], products, 2, 1.0),
            ("product_frobenius", "lag", range(last + 1), products, "fro", root),
        ):
            reading = readings[f"{quantity}/{name}"]
            chosen = sorted({int(place) for place in places})
            errors.append(0.0 if list(reading.dims[dim]) == chosen else math.inf)
            sizes = [torch.linalg.matrix_norm(matrices[place], order) / scale for place in chosen]
            errors.append(error(magnitudes(reading), torch.stack(sizes).detach().expand(4, -1)))
    return worst(errors)


def lyapunov(case: Case) -> float | None:
    """Where few numbers bear on one another, one decomposition of the whole product in a hundred digits.

    Of any state the sum of the exponents, mean ln |det|.
    """
    probe = Lyapunov(length=LENGTH, warmup=WARM_UP)
    readings = {reading.name: reading for reading in probe(case.snapshot)}
    of_target = {key.rpartition(".")[0] for key in case.snapshot.trace.target_side}
    errors = []
    for name, steps in case.jacobians.items():
        largest = max(len(part) for part in parts(steps))
        if largest > probe.largest:
            continue
        finite = readings[f"finite/{name}"]
        assert finite.status is not None
        if largest <= SMALL:
            errors += apart(finite.values[0], finite.status[0], exponents(steps))
        if (finite.status == FINITE).all():
            errors.append(error(float(finite.values[0].sum()), volume(steps), floor=FLOOR))
        if name not in of_target and largest <= SMALL:
            errors += on_the_long_run(readings, name, case.live.courses[name])
    return worst(errors)


def apart(found: np.ndarray, status: np.ndarray, expected: Sequence[float]) -> list[float]:
    """Errors of a spectrum: numbers against the largest that there are, bounds and zeros against what is left then.

    A bound has to be one. None where there are no numbers, and all bounds hold.
    """
    finite = status == FINITE
    there = np.array(sorted(expected, reverse=True))
    errors = [error(found[finite], there[: finite.sum()], floor=FLOOR)] if finite.any() else []
    below = np.sort(found[~finite])[::-1]
    return errors if (below >= there[finite.sum() :]).all() else [*errors, math.inf]


def on_the_long_run(readings: Mapping[str, Reading], name: str, course: Course) -> list[float]:
    """Errors of asymptotic exponents, of the largest of them, and of the dimension.

    Each direction's are those of the whole way less those of the way before the count begins. Where one is lost on
    that, another of the decomposition's own choice begins in its place: then nothing is known of them on paper.
    """
    on = jacobians(on_and_on(course, WARM_UP + LENGTH))
    before = logarithms(on[:WARM_UP])
    if -math.inf in before:
        return []
    expected = [(end - begun) / LENGTH for end, begun in zip(logarithms(on), before, strict=True)]
    spectrum, dimension = readings[f"asymptotic/{name}"], readings[f"kaplan_yorke/{name}"]
    assert spectrum.status is not None
    errors = apart(spectrum.values, spectrum.status, expected)
    if spectrum.status[0] == FINITE:
        errors.append(error(float(readings[f"maximum/{name}"].values), max(expected), floor=FLOOR))
    if dimension.status != CENSORED:
        errors.append(error(float(dimension.values), kaplan_yorke(sorted(expected, reverse=True)), floor=FLOOR))
    return errors


def kaplan_yorke(spectrum: Sequence[float]) -> float:
    """By hand: directions are taken in, the largest first, as long as what they span does not shrink."""
    sums = np.cumsum([0.0, *spectrum])
    whole = max(count for count, total in enumerate(sums) if total >= -FLOOR * FLOOR)
    return whole + (sums[whole] / -spectrum[whole] if whole < len(spectrum) else 0.0)


def volume(steps: Sequence[Tensor]) -> float:
    """By how much a step changes volumes: the mean of ln |det J|."""
    return float(torch.stack([torch.linalg.slogdet(step).logabsdet for step in steps]).mean())


def on_and_on(course: Course, count: int) -> Course:
    """The recurrence along all samples one behind the other, from the beginning again where there are too few."""
    recurrence = course.recurrence
    columns = recurrence.clock(torch.zeros(1, dtype=torch.long)).shape[1]
    rows = [row[:length] for row, length in zip(course.inputs.detach(), course.lengths.tolist(), strict=True)]
    read = torch.cat(rows)[:, : course.inputs.shape[2] - columns]
    read = torch.cat([read] * (count // len(read) + 1))[:count]
    whole = Course(course.placed, clocked(recurrence, read.unsqueeze(0)), torch.tensor([count]), course.weights)
    state = recurrence.initial_state(whole.inputs)
    for x in whole.inputs.unbind(1):
        whole.point.append(state)
        state = recurrence.step(whole.weights, x, state)
    return whole


def gates(case: Case) -> float | None:
    """Products of the factors by which a step hands on each entry along its own path, as ``oracles.own_path`` finds."""
    readings = case.readings("gates")
    errors = []
    for name, course in case.live.courses.items():
        first = {component: state.detach() for component, state in course.point[0].items()}
        for component in course.recurrence.kept(course.weights, course.inputs[:, 0].detach(), first):
            where = f"{name}.{component}"
            found = [own_path(course, component, time) for time in range(course.inputs.shape[1])]
            factors = [factor for factor in found if factor is not None]
            if len(factors) < len(found):
                continue  # nothing tells the own path from the others
            units = list(readings[f"time_constant/{where}"].dims["unit"])
            sizes = torch.stack([factor.abs().flatten(1)[:, units] for factor in factors], 1)
            read = (torch.arange(sizes.shape[1]) < course.lengths.unsqueeze(1)).unsqueeze(2)
            mean = sizes.where(read, 0.0).sum((0, 1)) / read.sum()
            constant = readings[f"time_constant/{where}"].values
            errors.append(error(np.exp(-1 / np.where(constant == 0, 1e-300, constant)), mean.clamp(max=1)))
            lags = list(readings[f"forget_path/{where}"].dims["lag"])
            paths, counts = [], []
            for sample, length in enumerate(course.lengths.tolist()):
                back = torch.cat([torch.ones(1, len(units)), sizes[sample, :length].flip(0).cumprod(0)])
                paths.append(torch.stack([back[min(lag, length)] for lag in lags], 1))
                counts.append(torch.tensor([lag <= length for lag in lags]).expand(len(units), -1))
            errors.append(of_statistics(readings[f"forget_path/{where}"], torch.cat(paths), torch.cat(counts)))
    return worst(errors)


def spectrum(case: Case) -> float | None:
    """Eigenvalues: their sizes in many digits, and sums of all their powers against traces of the matrix's.

    σ_max² against the root of WᵀW; the rest by hand.
    """
    readings = case.readings("recurrent_spectrum")
    errors = []
    for name, course in case.live.courses.items():
        for part, weight in course.recurrence.transitions(course.weights).items():
            where = f"{name}.{part}"
            matrix = weight.detach().to(torch.complex128)
            matrix = torch.diag(matrix) if matrix.ndim == 1 else matrix
            sizes, angles = (torch.as_tensor(readings[f"{what}/{where}"].values) for what in ("magnitude", "phase"))
            values = torch.polar(sizes, angles)
            power = torch.eye(len(matrix), dtype=matrix.dtype)
            for order in range(1, len(matrix) + 1):
                power = power @ matrix
                floor = FLOOR * float((sizes**order).sum())
                differ = (values**order).sum() - torch.trace(power)
                errors.append(float(differ.abs()) / max(float(torch.trace(power).abs()), floor, 1e-300))
            known = matrix.diagonal().abs() if weight.ndim == 1 else eigenvalue_sizes(matrix)
            known = known.sort(descending=True).values
            errors.append(error(sizes, known, floor=FLOOR * float(known.max())))
            errors.append(error(readings[f"radius/{where}"].values, known.max()))
            if weight.ndim == 1:
                scale = torch.where(sizes >= 1, math.inf, -1 / sizes.log())
                errors.append(error(1 / readings[f"time_scale/{where}"].values, 1 / scale, floor=FLOOR))
            else:
                square = torch.linalg.eigvalsh(matrix.mH @ matrix).max()
                errors.append(error(readings[f"norm/{where}"].values, square.sqrt()))
                whole = matrix.abs().square().sum()
                rest = (whole - known.square().sum()).clamp(min=0)  # the root of rounding is no rounding
                errors.append(error(readings[f"departure/{where}"].values ** 2, rest, floor=FLOOR * float(whole)))
    return worst(errors)


def eigenvalue_sizes(matrix: Tensor) -> Tensor:
    """|λ| in thirty digits."""
    with mp.workdps(30):
        return torch.tensor([float(abs(each)) for each in mp.eig(mp.matrix(matrix.tolist()), False, False)])
