"""Maps from positions to positions, of attention or of what acts like it: how one is stored, and numbers of it.

Maps come a block of rows at a time (``retrograde.core.streamed``), whether they are held or not.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from retrograde.core.records import Reading
from retrograde.core.streamed import AttentionMap, Block, blocks

OfBlock = Callable[[Block], Shaped[Tensor, "sample #head row"]]
"""A number of each query of a block."""


class Pooled:
    """The maps of the first ``samples`` samples in at most ``longest`` rows and columns, as blocks of them come in.

    Over equal blocks of queries the mean is taken, over blocks of keys the sum, so that rows still sum to 1. ``sizes``
    is how many positions each row and each column stands for.
    """

    def __init__(self, weights: AttentionMap, samples: int, longest: int) -> None:
        batch, heads, self.queries, self.keys = weights.shape
        self.sizes = math.ceil(self.queries / longest), math.ceil(self.keys / longest)
        stored = (math.ceil(length / size) for length, size in zip((self.queries, self.keys), self.sizes, strict=True))
        self.shape = min(batch, samples), heads, *stored
        self.sums: Tensor | None = None

    def add(self, block: Block) -> None:
        """A part of the map, which must not come twice."""
        if self.sums is None:
            self.sums = block.weights.new_zeros(self.shape)
        rows, columns = self.sizes
        samples = slice(block.samples.start, min(block.samples.stop, self.shape[0]))
        if samples.start >= samples.stop:
            return
        weights = block.weights[: samples.stop - samples.start]
        before = block.keys.start % columns
        if columns > 1:
            after = -(before + weights.shape[-1]) % columns
            if before or after:
                weights = nn.functional.pad(weights, (before, after))
            weights = weights.unflatten(-1, (-1, columns)).sum(-1)
        first = block.keys.start // columns
        places = torch.arange(block.queries.start, block.queries.stop, device=weights.device) // rows
        self.sums[samples, :, :, first : first + weights.shape[-1]].index_add_(2, places, weights)

    def means(self) -> Float[Tensor, "sample head row column"]:
        """The pooled maps, all blocks having come in."""
        assert self.sums is not None  # a map has rows
        rows = self.sizes[0]
        sizes = torch.full((self.shape[2], 1), rows, device=self.sums.device)
        sizes[-1] -= -self.queries % rows
        return self.sums / sizes

    def reading(self, where: str, start: int = 0) -> Reading:
        """The pooled maps, which begin at time ``start``."""
        stored = self.means()
        dims = {
            "sample": range(len(stored)),
            "head": range(stored.shape[1]),
            "query": [start + place * self.sizes[0] for place in range(stored.shape[2])],
            "key": [start + place * self.sizes[1] for place in range(stored.shape[3])],
        }
        return Reading(f"map/{where}", stored.double().cpu().numpy(), dims, "share")


def map_reading(where: str, weights: AttentionMap, longest: int, start: int = 0) -> Reading:
    """The maps of all samples, each of at most ``longest`` rows and columns, which begin at time ``start``."""
    return _all_of(weights, longest).reading(where, start)


def pooled(weights: AttentionMap, longest: int) -> tuple[Float[Tensor, "sample head queries keys"], tuple[int, int]]:
    """Maps of at most ``longest`` rows and columns, and how many positions each row and each column stands for."""
    pooling = _all_of(weights, longest)
    return pooling.means(), pooling.sizes


def _all_of(weights: AttentionMap, longest: int) -> Pooled:
    pooling = Pooled(weights, weights.shape[0], longest)
    for block in blocks(weights):
        pooling.add(block)
    return pooling


def by_query(
    weights: AttentionMap, numbers: Mapping[str, OfBlock], pooling: Pooled | None = None
) -> dict[str, Shaped[Tensor, "batch #head query"]]:
    """Several numbers of every query, in one walk over the map, which ``pooling`` is told of too."""
    batch, _, queries, _ = weights.shape
    found: dict[str, Tensor] = {}
    for block in blocks(weights):
        if pooling is not None:
            pooling.add(block)
        for name, number in numbers.items():
            made = number(block)
            if name not in found:
                found[name] = made.new_empty(batch, made.shape[1], queries)
            found[name][block.samples, :, block.queries] = made
    return found


def entropy(block: Block) -> Float[Tensor, "sample head row"]:
    """-Σ_j S_ij ln S_ij in nats, S_ij = A_ij / Σ_j A_ij: a window may take from the weights, which then sum to less."""
    total, largest = block.totals, block.largest
    # -Σ_j S_ij ln(A_ij / max A_ij) - ln max_j S_ij, neither of them below 0: nothing cancels, however small it is
    below = torch.linalg.vecdot(block.weights, block.logarithms) / total
    return (below + (largest / total).log()).neg_().add_(0.0)


def keys_seen(block: Block) -> Int[Tensor, "sample 1 row"]:
    """How many keys some head gives weight to; a head whose weights are not numbers counts as one that gives some."""
    # in the weights' own type, and of what is not given: a comparison that makes booleans takes twice as long
    never = block.weights.sum(1, keepdim=True).eq_(0).sum(-1, dtype=torch.float32)
    return block.weights.shape[-1] - never.long()


def confidence(block: Block) -> Float[Tensor, "sample head row"]:
    """max_j A_ij / Σ_j A_ij."""
    return block.largest / block.totals


def distance(block: Block) -> Float[Tensor, "sample head row"]:
    """Σ_j A_ij |i - j|, positions."""
    return distances(block.weights, block.queries.start - block.keys.start)


def weight_at(block: Block, keys: Int[Tensor, "batch query"]) -> Float[Tensor, "sample head row"]:
    """A_ij, j the key that is asked for of each query of the map."""
    columns = block.weights.shape[-1]
    asked = keys[block.samples, block.queries] - block.keys.start
    inside = (asked >= 0) & (asked < columns)
    index = asked.clamp(0, columns - 1)[:, None, :, None].expand(*block.weights.shape[:-1], 1)
    return block.weights.gather(-1, index).squeeze(-1).where(inside[:, None], 0.0)


def distances(weights: Float[Tensor, "*shape query key"], first: int = 0) -> Float[Tensor, "*shape query"]:
    """Σ_j A_ij |i - j|: how far away each query looks on average, in positions; ``first`` is that of the first query.

    Positions count from that of the first key.
    """
    # as real numbers, which is faster; in float32 at least, which holds whole numbers to 2^24
    count = partial(torch.arange, dtype=torch.promote_types(weights.dtype, torch.float32), device=weights.device)
    distance = (count(first, first + weights.shape[-2])[:, None] - count(weights.shape[-1])).abs_()
    real = weights.to(distance.dtype)
    if math.prod(weights.shape[:-2]) == 1:
        return torch.linalg.vecdot(real, distance).to(weights.dtype)
    # a product of all maps with each query's distances: what it multiplies is never written down
    return torch.einsum("...qk,qk->...q", real, distance).to(weights.dtype)


def mean_over_queries(
    values: Float[Tensor, "batch head query"], counts: Bool[Tensor, "batch query"] | Bool[Tensor, "batch #head query"]
) -> Float[Tensor, " head"]:
    """Over samples and queries that count; NaN where none does."""
    counts = (counts if counts.ndim == values.ndim else counts[:, None]).expand_as(values)
    return values.where(counts, 0.0).sum((0, 2)) / counts.sum((0, 2))
