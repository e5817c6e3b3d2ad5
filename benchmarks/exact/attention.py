"""Checks of probes that read maps from positions to positions, of attention or of what acts like it."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from exact.case import FLOOR, Case, error, exists, statistics, worst
from retrograde.core.records import Reading
from retrograde.core.recurrence import HiddenAttention
from retrograde.core.streamed import whole


def hidden_attention(case: Case) -> float | None:
    """The matrix applied to the values is what the layer gives of its loop; entropy and distance from it by hand."""
    readings = case.readings("hidden_attention")
    errors = []
    for name, course in case.live.courses.items():
        begin = course.recurrence.initial_state(course.inputs)
        begun = any(not torch.equal(state.detach(), begin[part]) for part, state in course.point[0].items())
        made = None if begun else course.recurrence.hidden_attention(course.weights, course.inputs)
        if made is None:
            continue
        errors.append(error(made.applied().detach(), course.read.detach(), floor=1.0))
        errors += of_matrix(name, made, course.lengths, course.placed.backward, readings)
    given: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda module, args, made: given.append(made) if torch.is_tensor(made) else None)
        for module in case.model.modules()
    ]
    trace = case.model.trace(case.batch)
    for hook in hooks:
        hook.remove()
    for name, made in case.model.hidden_attention(trace.states).items():
        applied = made.applied().detach()
        # some module gives what this operator does
        errors.append(min(error(applied, one.detach(), floor=1.0) for one in given if one.shape == applied.shape))
        errors += of_matrix(name, made, case.batch.lengths, False, readings)
    return worst(errors)


def of_matrix(
    name: str, made: HiddenAttention, lengths: Tensor, backward: bool, readings: Mapping[str, Reading]
) -> Iterable[float]:
    """Map of the first sample, entropy and distance per head of the first ones, of a matrix in reading order."""
    matrix, channels = made.weights.detach(), made.values.shape[-1] == 1
    maps, entropies, distances, looking = [], [], [], []
    for sample, length in enumerate(lengths.tolist()):
        sizes = matrix[sample, :, :length, :length].abs()
        shares = sizes / sizes.sum(2, keepdim=True)
        shares = shares.nan_to_num(0.0)
        place = torch.arange(length)
        maps.append(shares.flip(1, 2) if backward else shares)
        entropies.append(torch.special.xlogy(-shares, shares).sum(2))
        distances.append((shares * (place.unsqueeze(1) - place).abs()).sum(2))
        looking.append(sizes.sum(2) > 0)
    counts = torch.cat(looking, 1)
    first = maps[0].mean(0, keepdim=True) if channels else maps[0]
    yield error(readings[f"map/{name}"].values[0], first, floor=FLOOR)
    for quantity, values in (("entropy", entropies), ("distance", distances)):
        mean = torch.cat(values, 1).where(counts, 0.0).sum(1) / counts.sum(1)
        if channels:
            mean = statistics(mean.unsqueeze(1), counts.any(1, keepdim=True))[:, 0]
        yield error(readings[f"{quantity}/{name}"].values, mean, floor=FLOOR)


def maps(case: Case) -> float | None:
    """Each query by itself: rows sum to 1; entropy, distance, confidence and the weight on the position before."""
    readings = case.readings("attention")
    errors = []
    for layer, shown in case.live.trace.maps.items():
        target, cross = layer in case.snapshot.trace.target_side, layer in case.snapshot.trace.cross
        weights = whole(shown).detach()
        counts = exists(case.batch, range(weights.shape[2]), target)
        errors.append(error(weights.sum(3), torch.ones_like(weights[..., 0])))
        found: dict[str, list[float]] = {}
        for head in range(weights.shape[1]):
            numbers: dict[str, list[float]] = {"entropy": [], "distance": [], "confidence": [], "previous_token": []}
            for sample, query in counts.nonzero().tolist():
                row = weights[sample, head, query].tolist()
                numbers["entropy"].append(-sum(share * math.log(share) for share in row if share > 0))
                numbers["confidence"].append(max(row))
                if not cross:
                    numbers["distance"].append(sum(share * abs(key - query) for key, share in enumerate(row)))
                    if query:
                        numbers["previous_token"].append(row[query - 1])
            for quantity, values in numbers.items():
                if values:
                    found.setdefault(quantity, []).append(sum(values) / len(values))
        errors.append(error(readings[f"map/{layer}"].values[0], weights[0]))
        errors += [
            error(readings[f"{quantity}/{layer}"].values, torch.tensor(values), floor=FLOOR)
            for quantity, values in found.items()
        ]
    return worst(errors)


def alignment(case: Case) -> float | None:
    """Target by target, pair by pair, with what the task says that each target needs."""
    readings = case.readings("alignment")
    errors = []
    needs: dict[tuple[int, int], set[int]] = {}
    for sample, source, position in case.task.needs(case.batch).tolist():
        needs.setdefault((sample, position), set()).add(source)
    for layer in case.live.trace.cross:
        weights = whole(case.live.trace.maps[layer]).detach()
        found: dict[str, list[list[float]]] = {}
        for head in range(weights.shape[1]):
            by_sample: dict[str, list[float]] = {}
            for sample, length in enumerate(case.batch.lengths.tolist()):
                at = [place for place in range(weights.shape[2]) if (sample, place) in needs]
                rows = [(row / row.sum()).tolist() for row in weights[sample, head, at]]
                given = [sum(row[source] for row in rows) for source in range(length)]
                centres = [sum(source * share for source, share in enumerate(row)) for row in rows]
                pairs = [(one, other) for other in range(len(at)) for one in range(other)]
                slope = (length - 1) / max(1, len(at) - 1)
                near = [
                    sum(share for source, share in enumerate(row) if abs(source - order * slope) <= 1 + FLOOR)
                    for order, row in enumerate(rows)
                ]
                right = [
                    sum(row[source] for source in needs[sample, place]) for place, row in zip(at, rows, strict=True)
                ]
                numbers = {
                    "coverage": sum(value >= 0.5 for value in given) / length,
                    "diagonal": sum(near) / len(near),
                    "needed": sum(right) / len(right),
                }
                if pairs:
                    moved = [np.sign(centres[other] - centres[one]) for one, other in pairs]
                    numbers["monotonicity"] = float(sum(moved)) / len(pairs)
                for quantity, value in numbers.items():
                    by_sample.setdefault(quantity, []).append(value)
            for quantity, values in by_sample.items():
                found.setdefault(quantity, []).append([sum(values) / len(values)])
        errors += [
            error(readings[f"{quantity}/{layer}"].values, torch.tensor(values)[:, 0], floor=FLOOR)
            for quantity, values in found.items()
        ]
    return worst(errors)


def rolled(case: Case) -> float | None:
    """R_ij as a sum over all paths from i to j through the layers, each step by half attention and by half staying."""
    readings = case.readings("rollout")
    errors = []
    trace = case.live.trace
    for side, target in (("input", False), ("target", True)):
        layers = [
            whole(weights).detach().mean(1)
            for layer, weights in trace.maps.items()
            if layer not in trace.cross and (layer in trace.target_side) == target
        ]
        if not layers:
            continue
        size = layers[0].shape[1]
        counts = exists(case.batch, range(size), target)
        distances = []
        for sample in range(len(case.batch)):
            reach = [[float(i == j) for j in range(size)] for i in range(size)]
            for weights in layers:
                step = [[(float(weights[sample, i, j]) + (i == j)) / 2 for j in range(size)] for i in range(size)]
                reach = [[sum(step[i][k] * reach[k][j] for k in range(size)) for j in range(size)] for i in range(size)]
            if sample == 0:
                errors.append(error(readings[f"map/{side}"].values[0, 0], np.array(reach)))
            for i in counts[sample].nonzero().flatten().tolist():
                distances.append(sum(reach[i][j] * abs(i - j) for j in range(size)))
        errors.append(error(readings[f"distance/{side}"].values, sum(distances) / len(distances)))
    return worst(errors)
