"""Checks of probes that read what a recurrence does to its state, whatever the loss."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from exact.case import FLOOR, Case, error, magnitudes, of_statistics, worst
from exact.loops import Course
from exact.steps import exponents, jacobians, own_path
from retrograde.core.records import Reading
from retrograde.core.recurrence import clocked
from retrograde.core.statuses import CENSORED
from retrograde.probes.lyapunov import Lyapunov

LENGTH, WARM_UP = 8, 3
"""Times of the asymptotic exponents, and times before them."""

SMALL = 32
"""Numbers of a state whose exponents are computed in a hundred digits."""


def jacobian(case: Case) -> float | None:
    """torch.autograd.functional.jacobian of the step at the states of the loop; products one after the other."""
    readings = case.readings("jacobian")
    errors = []
    for name, found in case.jacobians.items():
        root = len(found[0]) ** 0.5
        product = torch.eye(len(found[0]))
        products = [product]
        for step in reversed(found):
            product = product @ step
            products.append(product)
        in_time = found[::-1] if ".backward" in name else found
        for quantity, dim, matrices, order, scale in (
            ("spectral", "time", in_time, 2, 1.0),
            ("frobenius", "time", in_time, "fro", root),
            ("product_spectral", "lag", products, 2, 1.0),
            ("product_frobenius", "lag", products, "fro", root),
        ):
            reading = readings.get(f"{quantity}/{name}")
            if reading is not None:
                sizes = [torch.linalg.matrix_norm(matrices[place], order) / scale for place in reading.dims[dim]]
                errors.append(error(magnitudes(reading), torch.stack(sizes).detach().expand(4, -1)))
    return worst(errors)


def lyapunov(case: Case) -> float | None:
    """Of a small state one decomposition of the whole product in a hundred digits; of any, the sum, mean ln |det|."""
    probe = Lyapunov(length=LENGTH, warmup=WARM_UP)
    readings = {reading.name: reading for reading in probe(case.snapshot)}
    errors = []
    for name, steps in case.jacobians.items():
        finite, asymptotic = readings[f"finite/{name}"], readings.get(f"asymptotic/{name}")
        if len(steps[0]) <= SMALL and not censored(finite):
            errors.append(error(finite.values[0], np.array(exponents(steps)), floor=FLOOR))
        if sound(finite):
            errors.append(error(float(finite.values.sum()), volume(steps), floor=FLOOR))
        if asymptotic is not None and len(steps[0]) <= SMALL and sound(asymptotic):
            on = jacobians(on_and_on(case.live.courses[name], WARM_UP + LENGTH))
            errors.append(error(float(asymptotic.values.sum()), volume(on[WARM_UP:]), floor=FLOOR))
    return worst(errors)


def censored(reading: Reading) -> bool:
    """Whether it says of some entry that it is a bound."""
    return bool((np.asarray(reading.status) == CENSORED).any())


def sound(reading: Reading) -> bool:
    """Whether all of it is numbers."""
    return bool(np.isfinite(reading.values).all()) and not censored(reading)


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
        components = [
            reading.split("/")[1].rpartition(".")[2]
            for reading in readings
            if reading.startswith(f"forget_path/{name}.")
        ]
        for component in components:
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
    """Sums of the eigenvalues' powers against traces of the matrix's; σ_max² against the root of WᵀW; by hand."""
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
            for order in range(1, min(len(matrix), 4) + 1):
                power = power @ matrix
                floor = FLOOR * float((sizes**order).sum())
                differ = (values**order).sum() - torch.trace(power)
                errors.append(float(differ.abs()) / max(float(torch.trace(power).abs()), floor, 1e-300))
            errors.append(error(readings[f"radius/{where}"].values, sizes.max()))
            if weight.ndim == 1:
                errors.append(error(sizes, matrix.diagonal().abs().sort(descending=True).values))
                scale = torch.where(sizes >= 1, math.inf, -1 / sizes.log())
                errors.append(error(1 / readings[f"time_scale/{where}"].values, 1 / scale, floor=FLOOR))
            else:
                square = torch.linalg.eigvalsh(matrix.mH @ matrix).max()
                errors.append(error(readings[f"norm/{where}"].values, square.sqrt()))
                whole = matrix.abs().square().sum()
                rest = (whole - sizes.square().sum()).clamp(min=0)  # the root of rounding is no rounding
                errors.append(error(readings[f"departure/{where}"].values ** 2, rest, floor=FLOOR * float(whole)))
    return worst(errors)
