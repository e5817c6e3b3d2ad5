"""Maps of attention too long to be held: a few rows at a time, made of queries and keys when they are asked for.

A map of T positions is T² numbers a head and sample, 64 MiB at T = 4096 in float32; its queries and keys are 2 T d.
Every number that is known of a map (``retrograde.core.maps``) is one of its rows, or a sum over them: it needs some
rows at a time, never all. A row needs all of its keys, and so there is nothing that would have to be known beforehand,
such as the log-sum-exp of a fused kernel.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LONGEST_HELD = 512
"""Queries or keys, from where on a trace holds no map: up to there its T² numbers cost next to nothing."""

AT_ONCE = {"cpu": 2**20, "cuda": 2**24}
"""Weights that are formed at once: as many as the processor's cache holds, or as keep a GPU busy."""


@dataclass(frozen=True)
class StreamedMap:
    """The map softmax(``scale`` · Q Kᵀ + bias) of one sequence to itself, which is never held.

    A query sees itself and what came before where the map is ``causal``, the last ``window`` positions of it with its
    own, if there is one; ``visible`` takes away from that, and a query that is left nothing sees all, as in
    ``MultiHeadAttention``. ``bias`` is what is added to the score of a query and a key that lies d positions behind
    it, at place d + T - 1 of its last axis. Its numbers carry no gradient, and are float32 at least.
    """

    query: Float[Tensor, "batch head time width"]
    key: Float[Tensor, "batch head time width"]
    scale: float
    causal: bool = False
    window: int | None = None
    visible: Bool[Tensor, "#batch #head #time #time"] | None = None
    bias: Float[Tensor, "head distances"] | None = None

    @property
    def shape(self) -> torch.Size:
        """Of the whole map: batch, head, query, key."""
        return torch.Size([*self.query.shape[:3], self.key.shape[2]])

    @property
    def device(self) -> torch.device:
        return self.query.device

    def detach(self) -> "StreamedMap":
        """Itself: it carries no graph."""
        return self

    def block(self, samples: slice, queries: slice) -> "Block":
        """The rows of some queries, as far as the keys that any of them sees."""
        keys = self._seen_by(queries)
        times = torch.arange(queries.start, queries.stop, device=self.device)
        scores = self._scores(times, samples, keys)
        for part in self._uncertain(queries, keys):
            seen = self._seen(times, samples, part)
            if seen is not None:
                scores[..., part.start - keys.start : part.stop - keys.start].masked_fill_(~seen, self._never)
        scores -= scores.amax(-1, keepdim=True)
        return Block(torch.softmax(scores, -1), samples, queries, keys, scores)

    def rows(self, queries: Int[Tensor, " row"]) -> Float[Tensor, "batch head row key"]:
        """The weights that these queries give, exactly."""
        everything = slice(0, self.shape[0]), slice(0, self.shape[3])
        scores = self._scores(queries, *everything)
        seen = self._seen(queries, *everything)
        if seen is not None:
            scores.masked_fill_(~seen, self._never)
        return torch.softmax(scores, -1)

    @property
    def _never(self) -> float:
        """The score of a key that is not seen: its weight is 0, and so is that times the score."""
        return torch.finfo(self.query.dtype).min / 2

    def _scores(self, queries: Int[Tensor, " row"], samples: slice, keys: slice) -> Tensor:
        scores = (self.query[samples][:, :, queries] * self.scale) @ self.key[samples][:, :, keys].mT
        if self.bias is not None:
            starts = keys.start + self.query.shape[2] - 1 - queries
            scores += self.bias.unfold(1, keys.stop - keys.start, 1)[:, starts]
        return scores

    def _seen_by(self, queries: slice) -> slice:
        """The keys beyond which none of these queries sees anything."""
        if not self.causal or self.visible is not None:  # of those that are visible a query may be left none
            return slice(0, self.shape[3])
        return slice(0 if self.window is None else max(0, queries.start - self.window + 1), queries.stop)

    def _uncertain(self, queries: slice, keys: slice) -> list[slice]:
        """Of these keys those that not every one of these queries sees."""
        if self.visible is not None or not self.causal:
            return [keys]
        stop = max(keys.start, queries.start)
        start = keys.start if self.window is None else min(stop, max(keys.start, queries.stop - self.window))
        return [slice(keys.start, start), slice(stop, keys.stop)]

    def _seen(
        self, queries: Int[Tensor, " row"], samples: slice, keys: slice
    ) -> Bool[Tensor, "#sample #head #row column"] | None:
        seen: Tensor | None = None
        if self.causal:
            distance = queries[:, None] - torch.arange(keys.start, keys.stop, device=self.device)
            seen = (distance >= 0)[None, None]
            if self.window is not None:
                seen = seen & (distance < self.window)
        if self.visible is None:
            return seen
        visible = self.visible if self.visible.shape[0] == 1 else self.visible[samples]
        visible = visible if visible.shape[2] == 1 else visible[:, :, queries]
        visible = visible if visible.shape[3] == 1 else visible[..., keys]
        seen = visible if seen is None else seen & visible
        return seen | ~seen.any(-1, keepdim=True)


AttentionMap = Float[Tensor, "_batch _head _query _key"] | StreamedMap
"""A map as a trace has it: held, or streamed where it is too long for that. One signature may have several sizes."""


@dataclass(frozen=True)
class Block:
    """What some queries of some samples give to the keys from ``keys.start`` up to ``keys.stop``; to others nothing.

    ``scores``, where there are any, are ln(A_ij / max_j A_ij) as the weights A were made of it.
    """

    weights: Float[Tensor, "sample head row column"]
    samples: slice
    queries: slice
    keys: slice
    scores: Float[Tensor, "sample head row column"] | None = None

    @cached_property
    def totals(self) -> Float[Tensor, "sample head row"]:
        """Σ_j A_ij, which is 1 but where a window takes from the weights."""
        return self.weights.sum(-1)

    @cached_property
    def largest(self) -> Float[Tensor, "sample head row"]:
        """max_j A_ij."""
        return self.weights.amax(-1)

    @property
    def logarithms(self) -> Float[Tensor, "sample head row column"]:
        """ln(A_ij / max_j A_ij), and a finite number where the weight is 0."""
        if self.scores is not None:
            return self.scores
        shares = self.weights / self.largest.unsqueeze(-1)
        return shares.clamp(min=torch.finfo(shares.dtype).tiny).log_()


def blocks(weights: AttentionMap) -> Iterator[Block]:
    """The whole map, whole rows of a few queries at a time: sample by sample, and within these from the first query."""
    batch, heads, queries, keys = weights.shape
    at_once = AT_ONCE["cpu" if weights.device.type == "cpu" else "cuda"]
    few = min(queries, max(1, at_once // (heads * keys)))
    many = max(1, at_once // (heads * few * keys))
    for sample in range(0, batch, many):
        samples = slice(sample, min(sample + many, batch))
        for first in range(0, queries, few):
            rows = slice(first, min(first + few, queries))
            if isinstance(weights, Tensor):
                yield Block(weights[samples, :, rows], samples, rows, slice(0, keys))
            else:
                yield weights.block(samples, rows)


def rows_of(weights: AttentionMap, queries: Int[Tensor, " row"]) -> Float[Tensor, "batch head row key"]:
    """The weights that these queries give, exactly."""
    return weights[:, :, queries] if isinstance(weights, Tensor) else weights.rows(queries)


def first_samples(weights: AttentionMap, count: int) -> AttentionMap:
    """Of the first samples alone."""
    if isinstance(weights, Tensor):
        return weights[:count]
    visible = weights.visible
    if visible is not None and len(visible) > 1:
        visible = visible[:count]
    return replace(weights, query=weights.query[:count], key=weights.key[:count], visible=visible)


def whole(weights: AttentionMap) -> Float[Tensor, "batch head query key"]:
    """All of it, held: T² numbers a head and sample."""
    if isinstance(weights, Tensor):
        return weights
    return weights.rows(torch.arange(weights.shape[2], device=weights.device))
