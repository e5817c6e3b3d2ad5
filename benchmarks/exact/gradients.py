"""Checks of probes that read the loss's gradient: at states, inputs and weights, over time and by lag."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from exact.case import FLOOR, Case, error, exists, norms, of_statistics, statistics, vectors, worst
from exact.differences import derivative
from exact.loops import Course, live
from retrograde.core.records import Batch


def forms(case: Case) -> float | None:
    """Fused and stepped form: outputs, relative to themselves or to 1, and every parameter's gradient.

    That is relative to its own largest entry, or to ``FLOOR`` of the largest of all where this is more.
    """
    outputs, traced = case.model(case.batch), case.live.trace.outputs
    counts = case.batch.scored
    errors = [error(outputs[counts].detach(), traced[counts].detach(), floor=1.0)]
    parameters = [parameter for parameter in case.model.parameters() if parameter.requires_grad]
    if parameters:
        made, expected = (
            torch.autograd.grad(
                case.task.loss(given, case.batch)[counts].sum(),
                parameters,
                retain_graph=True,
                materialize_grads=True,
                allow_unused=True,
            )
            for given in (outputs, traced)
        )
        largest = max(float(gradient.abs().max()) for gradient in expected)
        errors += [
            float((a - b).abs().max()) / max(float(b.abs().max()), FLOOR * largest)
            for a, b in zip(made, expected, strict=True)
        ]
    return worst(errors) if case.live.courses else None


def total(case: Case) -> float | None:
    """Every state's vector, sample by sample, and the statistics of their norms."""
    errors = []
    readings = case.readings("state_gradient")
    for course in case.live.courses.values():
        for key in course.placed.keys:
            counts = case.counts(key)
            found, expected, floor = (
                case.snapshot.gradients[key].total.value(),
                case.totals[key],
                FLOOR * case.whole(key),
            )
            errors.append(vectors(found, expected, counts, floor))
            errors.append(of_statistics(readings[f"total/{key}"], norms(expected), counts, floor=floor))
    return worst(errors)


def total_by_differences(case: Case) -> float | None:
    """Along a random direction at every time: one run for all times, with a copy of the batch changed at each."""
    errors: dict[str, list[float]] = {}
    largest: dict[str, float] = {}
    claimed: dict[str, list[float]] = {}
    for key, gradient in case.snapshot.gradients.items():
        found = gradient.total.value()
        counts = case.counts(key)
        direction = torch.randn_like(found) * counts.view(*counts.shape, *[1] * (found.ndim - 2))
        places = len(gradient.times)
        added = torch.zeros(places, *direction.shape)
        added[range(places), :, range(places)] = direction.transpose(0, 1)
        copies = case.batch.select(torch.arange(len(case.batch)).repeat(places))

        def changed(step: float, key: str = key, added: Tensor = added, copies: Batch = copies) -> Tensor:
            with torch.no_grad():
                outputs = case.model.trace(copies, {key: step * added.flatten(0, 1)}).outputs
                losses = case.task.loss(outputs, copies).where(copies.scored, 0.0).sum(1) / copies.scored.sum(1)
            return losses.view(len(added), -1)

        expected = derivative(changed)
        layer = key.rpartition(".")[0]
        predicted = (found * direction).flatten(2).sum(2).T
        errors.setdefault(layer, []).append(float((predicted - expected.value).abs().max()))
        claimed.setdefault(layer, []).append(float(expected.error.max()))
        largest[layer] = max(largest.get(layer, 0.0), float(expected.value.abs().max()))
    case.claimed += [max(claimed[layer]) / size for layer, size in largest.items()]
    return worst(max(errors[layer]) / size if size else math.inf for layer, size in largest.items())


def direct(case: Case) -> float | None:
    errors = []
    readings = case.readings("state_gradient")
    for key, expected in case.directs.items():
        counts, floor = case.counts(key), FLOOR * case.whole(key)
        errors.append(vectors(case.snapshot.gradients[key].direct.value(), expected, counts, floor))
        errors.append(of_statistics(readings[f"direct/{key}"], norms(expected), counts, floor=floor))
    return worst(errors)


def carried(case: Case) -> float | None:
    """At the times at which in no sample the total is nothing or cancels: the share of what does is rounding's."""
    errors = []
    readings = case.readings("state_gradient")
    for key, alone in case.directs.items():
        counts, whole = case.counts(key), norms(case.totals[key])
        rest = norms(case.totals[key] - alone)
        share = torch.where(rest == 0, 0.0, rest / (norms(alone) + rest))
        sound = ((whole > FLOOR * case.whole(key)) | ~counts).all(0)[counts.any(0)]
        expected = statistics(share[:, counts.any(0)], counts[:, counts.any(0)])
        found = torch.as_tensor(readings[f"carried/{key}"].values)
        if sound.any():
            errors.append(error(found[:, sound], expected[:, sound], floor=FLOOR))
    return worst(errors)


def inputs(case: Case) -> float | None:
    """By autograd over the loops, and where inputs are real numbers by differences too."""
    readings = case.readings("input_gradient")
    read = case.live.trace.inputs
    if read is None:
        return None if not readings else math.inf
    (expected,) = case.live.of([read])
    counts = exists(case.batch, range(expected.shape[1]), False)
    product = (read.detach() * expected).sum(2)
    errors = [
        of_statistics(readings["norm/inputs"], norms(expected), counts),
        of_statistics(
            readings["product/inputs"],
            product,
            counts,
            log10=False,
            floor=FLOOR * norms(read.detach()) * norms(expected),
        ),
    ]
    if torch.equal(read, case.batch.inputs):
        errors.append(inputs_by_differences(case, counts))
    return worst(errors)


def inputs_by_differences(case: Case, counts: Tensor) -> float:
    assert case.snapshot.inputs is not None
    found = case.snapshot.inputs.total.value()
    direction = torch.randn_like(found) * counts.unsqueeze(2)
    places = found.shape[1]
    added = torch.zeros(places, *found.shape)
    added[range(places), :, range(places)] = direction.transpose(0, 1)
    copies = case.batch.select(torch.arange(len(case.batch)).repeat(places))

    def changed(step: float) -> Tensor:
        moved = Batch(**(copies.tensors() | {"inputs": copies.inputs + step * added.flatten(0, 1)}))
        with torch.no_grad():
            losses = case.task.loss(case.model(moved), moved).where(moved.scored, 0.0).sum(1) / moved.scored.sum(1)
        return losses.view(places, -1)

    expected = derivative(changed)
    largest = float(expected.value.abs().max())
    case.claimed.append(float(expected.error.max()) / largest)
    return float(((found * direction).sum(2).T - expected.value).abs().max()) / largest


def targets(case: Case, count: int) -> list[list[int]]:
    """``count`` scored positions of every sample, evenly spread, the last among them."""
    chosen = []
    for scored in case.batch.scored:
        own = scored.nonzero().flatten().tolist()
        last = len(own) - 1
        wanted = min(count, len(own))
        places = [last] if wanted == 1 else [round(k * last / (wanted - 1)) for k in range(wanted)]
        chosen.append([own[place] for place in places])
    return chosen


def by_lag(case: Case) -> float | None:
    """Each target's loss alone, differentiated at the live nodes, and read from the target backwards."""
    readings = case.readings("lag_gradient")
    if (case.batch.scored.sum(1) == 1).all():
        chosen = [row.nonzero().flatten().tolist() for row in case.batch.scored]
    else:
        chosen = targets(case, 4)
    rows: dict[str, list[list[float]]] = {}
    floors: dict[str, list[list[float]]] = {}
    for place in range(max(len(own) for own in chosen)):
        position = torch.tensor([own[min(place, len(own) - 1)] for own in chosen])
        totals = live(case.model, case.task, case.batch, position).totals()
        for key, gradient in totals.items():
            if case.task.kind == "transduce" and key not in case.snapshot.trace.target_side:
                continue
            layer, times = key.rpartition(".")[0], case.times(key)
            whole = norms(*(value for other, value in totals.items() if other.rpartition(".")[0] == layer))
            for sample, own in enumerate(chosen):
                if place < len(own):
                    sizes = dict(zip(times, norms(gradient)[sample].tolist(), strict=True))
                    least = dict(zip(times, (FLOOR * whole)[sample].tolist(), strict=True))
                    if ".backward." in key:
                        path = range(own[place], int(case.batch.lengths[sample]))
                    else:
                        path = range(own[place], times.start - 1, -1)
                    rows.setdefault(key, []).append([sizes[time] for time in path])
                    floors.setdefault(key, []).append([least[time] for time in path])
    errors = []
    for key, curves in rows.items():
        longest = max(len(curve) for curve in curves)
        counts = torch.tensor([[lag < len(curve) for lag in range(longest)] for curve in curves])
        values, floor = (
            torch.tensor([curve + [0.0] * (longest - len(curve)) for curve in part]) for part in (curves, floors[key])
        )
        errors.append(of_statistics(readings[f"norm/{key}"], values, counts, floor=floor))
        if (values[:, 0] <= floor[:, 0]).any():
            continue  # relative to what cancels, or is nothing, there is nothing
        relative = values / values[:, :1]
        errors.append(of_statistics(readings[f"relative/{key}"], relative, counts))
        mean = statistics(relative, counts)[0]
        errors.append(error(float(readings[f"horizon/{key}"].values), max((mean >= 0.01).nonzero()).item()))
        some = (mean > 0).nonzero().flatten()
        if len(some) >= 2:
            fall = float(np.polyfit(some.numpy(), mean[some].log10().numpy(), 1)[0])
            half = math.inf if fall >= 0 else -math.log10(2) / fall
            errors.append(error(float(readings[f"slope/{key}"].values), fall, floor=FLOOR))
            errors.append(error(1 / float(readings[f"half_life/{key}"].values), 1 / half, floor=FLOOR))
    return worst(errors)


def of_source(case: Case) -> float | None:
    """Each target of the first sample alone, differentiated at the live nodes of the encoder."""
    readings = case.readings("source_gradient")
    if case.task.kind != "transduce":
        return None if not readings else math.inf
    first = case.batch.select(torch.tensor([0]))
    rows: dict[str, list[Tensor]] = {}
    for target in first.scored[0].nonzero().flatten():
        for key, gradient in live(case.model, case.task, first, target.view(1)).totals().items():
            if key not in case.snapshot.trace.target_side:
                own = [at for at, time in enumerate(case.times(key)) if time < int(first.lengths[0])]
                rows.setdefault(key, []).append(norms(gradient)[0, own])
    return worst(error(10 ** readings[f"norm/{key}"].values[0], torch.stack(values)) for key, values in rows.items())


def weights(case: Case) -> float | None:
    """A name of its own for a weight at every step: what it adds there; their sum is the fused form's own gradient."""
    if not case.live.courses:
        return None
    readings = case.readings("weight_contribution")
    sizes: dict[str, list[Tensor]] = {}
    shares: dict[str, list[Tensor]] = {}
    errors = []
    courses: list[dict[str, Course]] = []
    for sample in range(len(case.batch)):
        alone = case.batch.select(torch.tensor([sample])).trimmed()
        one = live(case.model, case.task, alone)
        courses.append(one.courses)
        parameters = {id(parameter): parameter for parameter in case.model.parameters() if parameter.requires_grad}
        losses = case.task.loss(case.model(alone), alone)
        fused = dict(
            zip(
                parameters,
                torch.autograd.grad(
                    losses.where(alone.scored, 0.0).sum() / alone.scored.sum(),
                    list(parameters.values()),
                    allow_unused=True,
                    materialize_grads=True,
                ),
                strict=True,
            )
        )
        for layer, course in one.courses.items():
            for name, weight in course.weights.items():
                where = f"{layer}.{name.replace('.', '_')}"
                if not weight.is_floating_point() or name in course.recurrence.of_samples:
                    continue  # a mask, or what is kept of the batch: neither is a weight
                added = torch.stack(one.of([used[name] for used in course.used])).flatten(1)
                if not added.any() and f"norm/{where}" not in readings:
                    continue  # the step does not read it
                gradient = added.sum(0)
                if id(weight) in fused and not read_of(course, weight):
                    whole = fused[id(weight)].flatten()
                    size = float(added.norm(dim=1).sum())
                    errors.append(error(size + float((gradient - whole).norm()), size))
                sizes.setdefault(where, []).append(added.norm(dim=1))
                shares.setdefault(where, []).append(added @ gradient / gradient.square().sum())
    for where, found in sizes.items():
        layer = where.rpartition(".")[0]
        if not all(float(share.abs().max()) < 1 / FLOOR for share in shares[where]):
            shares.pop(where)  # the contributions cancel, or there are none: their shares are rounding's
        length = max(len(size) for size in found)
        counts = torch.tensor([[time < len(size) for time in range(length)] for size in found])
        for quantity, values in (("norm", found), ("share", shares.get(where, []))):
            if values:
                padded = torch.stack([torch.cat([each, each.new_zeros(length - len(each))]) for each in values])
                padded = case.live.courses[layer].of_inputs_in_time(padded)
                reading = readings[f"{quantity}/{where}"]
                errors.append(
                    of_statistics(reading, padded, counts, log10=quantity == "norm", floor=FLOOR * padded.abs())
                )
    return worst(errors)


def read_of(course: Course, weight: Tensor) -> bool:
    """Whether the layer's read-out reads the weight, beside its step."""
    states = {name: course.states(name)[:, 1:] for name in course.recurrence.components}
    read = course.recurrence.read(course.weights, course.inputs.detach(), states)
    if not read.requires_grad:
        return False
    return torch.autograd.grad(read.sum(), weight, allow_unused=True)[0] is not None


def omega(case: Case) -> float | None:
    """From the gradients of live nodes that a step is handed and that a step has made."""
    readings = case.readings("omega")
    errors = []
    for name, course in case.live.courses.items():
        total, passed = (norms(*case.live.at(course, which).values()) for which in ("point", "on"))
        read = torch.arange(total.shape[1] - 1) < course.lengths.unsqueeze(1)
        counts = read & (total[:, 1:] > 0)
        ratio = torch.where(counts, passed[:, :-1] / total[:, 1:], 1.0)
        some = counts.any(1, keepdim=True)
        if some.any():
            whole = statistics((ratio - 1).square().sum(1, keepdim=True), some)[:, 0]
            errors.append(error(readings[f"omega/{name}"].values, whole, floor=FLOOR))
        errors.append(error(float(readings[f"left_out/{name}"].values), (read & ~counts).sum(1).double().mean()))
        if some.any():
            ratio, counts = course.of_inputs_in_time(ratio), course.of_inputs_in_time(counts)
            errors.append(of_statistics(readings[f"ratio/{name}"], ratio, counts))
    return worst(errors)


def truncated(case: Case) -> float | None:
    """Loops that let go of a state's gradient at every K inputs, and what that leaves of the parameters'."""
    readings = case.readings("truncation")
    named = {name: each for name, each in case.model.named_parameters() if each.requires_grad}
    if not case.live.courses or not named:
        return None if not readings else math.inf
    cosines = readings["cosine/parameters"]
    names, lengths = list(cosines.dims["parameter"]), list(cosines.dims["length"])

    def gradients(window: int | None) -> list[Tensor]:
        losses = live(case.model, case.task, case.batch, window=window).losses
        made = torch.autograd.grad(losses.mean(), list(named.values()), allow_unused=True, materialize_grads=True)
        by_name = {name: gradient.flatten() for name, gradient in zip(named, made, strict=True)}
        by_name["all"] = torch.cat(list(by_name.values()))
        return [by_name[name] for name in names]

    whole = gradients(None)
    cosine, off = (torch.full((len(names), len(lengths)), math.nan) for _ in range(2))
    for place, length in enumerate(lengths):
        for row, (cut, full) in enumerate(zip(gradients(length), whole, strict=True)):
            if full.any():
                cosine[row, place] = (cut @ full) / (cut.norm() * full.norm())
                off[row, place] = (cut - full).norm() / full.norm()
    largest = float(whole[names.index("all")].norm())
    kept = torch.tensor([float(full.norm()) > FLOOR * largest for full in whole])
    return max(
        error(readings[f"{quantity}/parameters"].values[kept], values[kept], floor=1.0)
        for quantity, values in (("cosine", cosine), ("error", off))
    )


def influence(case: Case) -> float | None:
    """Every number of an output differentiated by itself; by the fused form where the inputs are real numbers."""
    readings = case.readings("influence")
    two = case.batch.select(torch.arange(2)).trimmed()
    shown = live(case.model, case.task, two).trace
    if shown.inputs is None:
        return None if not readings else math.inf
    if case.task.outputs.size > 8:
        return None  # directions drawn at random stand in for the outputs
    read, outputs = shown.inputs, shown.outputs
    if torch.equal(read, two.inputs):
        read = two.inputs.clone().requires_grad_()
        outputs = case.model(Batch(**(two.tensors() | {"inputs": read})))
    sides = two.lengths if two.target_lengths is None else two.target_lengths
    curves: list[dict[int, float]] = []
    places: list[list[list[float]]] = [[], []]
    for sample, (length, written) in enumerate(zip(two.lengths.tolist(), sides.tolist(), strict=True)):
        for place in range(1, 5):
            at = math.ceil(written * place / 4) - 1
            rows = [
                torch.autograd.grad(number, read, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
                for number in outputs[sample, at]
            ]
            sizes = torch.stack([row[sample] for row in rows]).square().sum((0, 2))[:length]
            own = at if two.target_lengths is None else at + length
            lags = own - torch.arange(length)
            curves.append(dict(zip(lags.tolist(), sizes.sqrt().tolist(), strict=True)))
            mean = float((sizes * lags).sum() / sizes.sum())
            spread = float(((sizes * (lags - mean).square()).sum() / sizes.sum()).sqrt())
            places[sample].append([mean, spread])
    lags = sorted({lag for curve in curves for lag in curve})
    values, counts = (
        torch.tensor([[fill(curve, lag) for lag in lags] for curve in curves])
        for fill in (lambda curve, lag: curve.get(lag, 0.0), lambda curve, lag: lag in curve)
    )
    floor = (FLOOR * values.amax(1, keepdim=True)).expand_as(values)  # a convolution's rounding is in the future too
    errors = [of_statistics(readings["norm/inputs"], values, counts, floor=floor)]
    for quantity, number in (("mean_lag", 0), ("spread", 1)):
        found = torch.tensor(places)[..., number]
        every = torch.ones_like(found, dtype=torch.bool)
        errors.append(of_statistics(readings[f"{quantity}/inputs"], found, every, log10=False, floor=FLOOR))
    return worst(errors)


def noise(case: Case) -> float | None:
    """Mean and scatter of each sample's own gradient, of the fused form's parameters and at live nodes by lag."""
    readings = case.readings("noise")
    errors = []
    named = {name: each for name, each in case.model.named_parameters() if each.requires_grad}
    count = len(case.batch)
    if named:
        rows: dict[str, list[Tensor]] = {name: [] for name in [*named, "all"]}
        for sample in range(count):
            one = case.batch.select(torch.tensor([sample])).trimmed()
            loss = case.task.loss(case.model(one), one).where(one.scored, 0.0).sum() / one.scored.sum()
            made = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
            for name, gradient in zip(named, made, strict=True):
                rows[name].append(gradient.flatten())
            rows["all"].append(torch.cat([gradient.flatten() for gradient in made]))
        names = list(readings["signal/parameters"].dims["parameter"])
        signal, scatter = (torch.stack(part) for part in zip(*(moments(rows[name]) for name in names), strict=True))
        size = signal.abs() + scatter
        kept = size > FLOOR * FLOOR * size.max()  # what cancels has rounding's signal and noise
        errors.append(error(readings["signal/parameters"].values[kept], signal[kept], floor=FLOOR * size[kept]))
        errors.append(error(readings["noise/parameters"].values[kept], scatter[kept], floor=FLOOR * size[kept]))
        known = kept & (scatter > FLOOR * size)
        ratio = signal / scatter
        if known.any():
            floor = FLOOR * (1 + ratio[known].abs())
            errors.append(error(readings["ratio/parameters"].values[known], ratio[known], floor=floor))
    last = torch.tensor([int(scored.nonzero().max()) for scored in case.batch.scored])
    totals = live(case.model, case.task, case.batch, last).totals()
    for key, gradient in totals.items():
        if case.task.kind == "transduce" and key not in case.snapshot.trace.target_side:
            continue  # between a target position and a source position there is no lag
        reading = readings[f"ratio_by_lag/{key}"]
        times = case.times(key)
        for place, lag in enumerate(reading.dims["lag"]):
            at = [(int(time) + lag if ".backward." in key else int(time) - lag) - times.start for time in last]
            exist = case.counts(key)
            own = [
                gradient[sample, where].flatten()
                for sample, where in enumerate(at)
                if 0 <= where < len(times) and 0 <= times[where] < exist.shape[1] and exist[sample, where]
            ]
            signal, scatter = moments(own)
            if scatter > FLOOR * FLOOR * gradient.square().sum():
                expected = float(signal / scatter)
                errors.append(error(reading.values[0, place], expected, floor=FLOOR * (1 + abs(expected))))
    return worst(errors)


def moments(vectors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """‖E g‖² and tr Cov g, both without bias."""
    together = torch.stack(list(vectors))
    scatter = (together - together.mean(0)).square().sum() / (len(together) - 1)
    return together.mean(0).square().sum() - scatter / len(together), scatter


def over_time(case: Case) -> float | None:
    """The loss of each position summed and counted by hand."""
    reading = case.readings("loss_over_time")["loss_by_position/outputs"]
    losses = case.task.loss(case.model(case.batch), case.batch).detach()
    columns = []
    for position in reading.dims["position"]:
        own = [float(losses[row, position]) for row in range(len(losses)) if case.batch.scored[row, position]]
        columns.append([sum(own) / len(own), float(len(own))])
    return error(reading.values, torch.tensor(columns).T)
