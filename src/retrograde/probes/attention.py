r"""What attention looks at.

    map                    A_ij, the weight that query i gives key j, of the first samples
    entropy                -Σ_j S_ij ln S_ij, nats; near 0 a head has collapsed on one key
    entropy_share          the same over ln(number of keys that some head gives weight to)
    distance               Σ_j A_ij |i - j|, positions
    confidence             max_j S_ij
    previous_token         A_{i,i-1}
    induction              A_{i,p+1}, p the last earlier position with the token of i; token tasks alone

per head, the mean over samples and queries (over those that have such a key). S_ij = A_ij / Σ_j A_ij, because a window
between a target and its source may take from the weights, which then sum to less than 1; all others sum to 1. Between a
target and its source, where positions cannot be compared, the first two and confidence alone. On demand, of the samples
whose map is stored:

    row                    A_ij of the queries i asked for, of all keys j
    query_entropy          entropy and distance of each query by itself
    query_distance

Source: entropy: Zhai et al. 2023, arXiv:2303.06296; confidence: Voita et al. 2019, arXiv:1905.09418; previous-token and
induction score: Olsson et al. 2022, arXiv:2209.11895 (there on repeated random text; here on the task's own sequences).
Cost: one walk over the maps, T² weights for each head and sample, of which a few rows exist at a time. Of sequences of
more than ``LONGEST_HELD`` positions the trace has no weights, and they are made on the way: at T = 4096 less than half
of a training step.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Snapshot, Tokens
from retrograde.core.maps import (
    OfBlock,
    Pooled,
    by_query,
    confidence,
    distance,
    entropy,
    keys_seen,
    mean_over_queries,
    weight_at,
)
from retrograde.core.records import Reading
from retrograde.core.statistics import present
from retrograde.core.streamed import AttentionMap, first_samples, rows_of


class Attention:
    """Maps of the first ``samples`` samples and a number per head and layer; nothing for a model without attention.

    Of a map longer than ``longest`` positions equal blocks are stored: sums over keys, means over queries. ``rows`` are
    the times of queries whose weights are stored one by one, negative ones counted from the end; with ``queries``
    entropy and distance are stored query by query.
    """

    def __init__(self, samples: int = 1, longest: int = 128, rows: Sequence[int] = (), queries: bool = False) -> None:
        require_at_least("samples", samples, 1)
        require_at_least("longest", longest, 1)
        self.samples = samples
        self.longest = longest
        self.rows = tuple(rows)
        self.queries = queries

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        for layer, weights in snapshot.trace.maps.items():
            pooling = Pooled(weights, self.samples, self.longest)
            found = by_query(weights, asked(layer, snapshot), pooling)
            yield pooling.reading(layer)
            for name, (values, unit) in head_numbers(layer, found, snapshot).items():
                yield Reading(f"{name}/{layer}", values.double().cpu().numpy(), {"head": range(len(values))}, unit)
            yield from self._by_row(layer, weights, found)

    def _by_row(self, layer: str, weights: AttentionMap, found: dict[str, Tensor]) -> Iterable[Reading]:
        samples, (heads, queries, keys) = range(min(self.samples, weights.shape[0])), weights.shape[1:]
        dims: dict[str, Sequence[int]] = {"sample": samples, "head": range(heads)}
        for name, unit in (("entropy", "nats"), ("distance", "positions")):
            if self.queries and name in found:
                values = found[name][: len(samples)].double().cpu().numpy()
                yield Reading(f"query_{name}/{layer}", values, dims | {"time": range(queries)}, unit)
        if self.rows:
            for time in self.rows:
                if not -queries <= time < queries:
                    raise ValueError(f"rows: {time} is none of the {queries} queries of layer {layer}")
            times = [time % queries for time in self.rows]
            asked_for = torch.tensor(times, device=weights.device)
            rows = rows_of(first_samples(weights, len(samples)), asked_for).double().cpu().numpy()
            yield Reading(f"row/{layer}", rows, dims | {"time": times, "key": range(keys)}, "share")


def asked(layer: str, snapshot: Snapshot) -> dict[str, OfBlock]:
    """What is wanted of every query of a layer's map; what compares positions only where these are of one sequence."""
    trace, inputs = snapshot.trace, snapshot.batch.inputs
    numbers: dict[str, OfBlock] = {"entropy": entropy, "keys_seen": keys_seen, "confidence": confidence}
    if layer in trace.cross:
        return numbers
    batch, _, queries, keys = trace.maps[layer].shape
    numbers["distance"] = distance
    if keys > 1:
        before = torch.arange(-1, queries - 1, device=inputs.device).expand(batch, -1)
        numbers["previous_token"] = partial(weight_at, keys=before)
    if isinstance(snapshot.task.inputs, Tokens) and layer not in trace.target_side:
        after, _ = after_previous_occurrence(inputs)
        numbers["induction"] = partial(weight_at, keys=after)
    return numbers


def head_numbers(
    layer: str, found: dict[str, Tensor], snapshot: Snapshot
) -> dict[str, tuple[Float[Tensor, " head"], str]]:
    """Each number with its unit, per head, of what was found of every query."""
    entropies = found["entropy"]
    real = present(snapshot.batch, range(entropies.shape[-1]), layer in snapshot.trace.target_side)
    seen = found["keys_seen"].expand_as(entropies)
    numbers = {
        "entropy": (mean_over_queries(entropies, real), "nats"),
        "entropy_share": (mean_over_queries(entropies / seen.clamp(min=2).log(), real[:, None] & (seen > 1)), "share"),
        "confidence": (mean_over_queries(found["confidence"], real), "share"),
    }
    if "distance" in found:
        numbers["distance"] = (mean_over_queries(found["distance"], real), "positions")
    if "previous_token" in found:
        numbers["previous_token"] = (mean_over_queries(found["previous_token"][..., 1:], real[:, 1:]), "share")
    if "induction" in found:
        _, exists = after_previous_occurrence(snapshot.batch.inputs)
        numbers["induction"] = (mean_over_queries(found["induction"], exists & real), "share")
    return numbers


def after_previous_occurrence(
    tokens: Int[Tensor, "batch time"],
) -> tuple[Int[Tensor, "batch time"], Bool[Tensor, "batch time"]]:
    """For each position, the one after the last earlier occurrence of its token, and whether there is any."""
    ordered, position = tokens.sort(dim=1, stable=True)  # equal tokens side by side, in the order of time
    repeats = torch.zeros_like(tokens, dtype=torch.bool)
    repeats[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    after = torch.where(repeats, position.roll(1, 1) + 1, 0)
    in_time = position.argsort(1)
    return after.gather(1, in_time), repeats.gather(1, in_time)
