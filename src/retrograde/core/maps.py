"""Maps from positions to positions, of attention or of what acts like it: how one is stored, and numbers of it."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from retrograde.core.records import Reading


def map_reading(where: str, weights: Float[Tensor, "sample head query key"], longest: int, start: int = 0) -> Reading:
    """The maps of the first samples, each of at most ``longest`` rows and columns, which begin at time ``start``."""
    stored, (queries, keys) = pooled(weights, longest)
    dims = {
        "sample": range(len(stored)),
        "head": range(stored.shape[1]),
        "query": [start + place * queries for place in range(stored.shape[2])],
        "key": [start + place * keys for place in range(stored.shape[3])],
    }
    return Reading(f"map/{where}", stored.double().cpu().numpy(), dims, "share")


def pooled(
    weights: Float[Tensor, "sample head query key"], longest: int
) -> tuple[Float[Tensor, "sample head queries keys"], tuple[int, int]]:
    """Maps of at most ``longest`` rows and columns, and how many positions each row and each column stands for.

    Over a block of queries the mean is taken, over a block of keys the sum, so that rows still sum to 1.
    """
    rows, columns = (math.ceil(length / longest) for length in weights.shape[-2:])
    keys = nn.functional.pad(weights, (0, -weights.shape[-1] % columns)).unflatten(-1, (-1, columns)).sum(-1)
    padding = -weights.shape[-2] % rows
    queries = nn.functional.pad(keys, (0, 0, 0, padding)).unflatten(-2, (-1, rows))
    sizes = torch.full((queries.shape[2], 1), rows, device=weights.device)
    sizes[-1] -= padding
    return queries.sum(-2) / sizes, (rows, columns)


def distances(weights: Float[Tensor, "*shape query key"]) -> Float[Tensor, "*shape query"]:
    """Σ_j A_ij |i - j|: how far away each query looks on average, in positions."""
    position = torch.arange(weights.shape[-1], device=weights.device)
    return (weights * (position[: weights.shape[-2], None] - position).abs()).sum(-1)


def mean_over_queries(
    values: Float[Tensor, "batch head query"], counts: Bool[Tensor, "batch query"] | Bool[Tensor, "batch #head query"]
) -> Float[Tensor, " head"]:
    """Over samples and queries that count; NaN where none does."""
    counts = (counts if counts.ndim == values.ndim else counts[:, None]).expand_as(values)
    return values.where(counts, 0.0).sum((0, 2)) / counts.sum((0, 2))
