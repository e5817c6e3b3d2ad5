r"""How much of each position reaches each position through all layers of self-attention together.

    R^l = N(A^l + I) R^{l-1}        R^0 = I

    map        R of the top layer, of the first samples
    distance   Σ_j R_ij |i - j|, positions: the mean over samples and queries

A^l attention map of layer l, its heads averaged; N divides each row by its sum, so that N(A + I) = (A + I) / 2. The I
stands for the residual path, of which the method takes it that it carries as much as attention does, whatever the model
does; values, feed-forward layers and norms have no part in it. Of an encoder-decoder each side by itself: ``input`` is
the side of the inputs, ``target`` that of a target with an axis of its own; attention between the two is left out.

Nothing for a model without self-attention.

Source: Abnar & Zuidema 2020, arXiv:2005.00928, section 3, "attention rollout".
Cost: a product of T × T matrices for each layer and sample: 60 ms for 16 samples of 400 positions through two layers,
one thread. R is held, T² numbers a sample, also where no layer's map is.
"""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Snapshot
from retrograde.core.maps import distances, map_reading, mean_over_queries
from retrograde.core.records import Reading
from retrograde.core.statistics import present
from retrograde.core.streamed import AttentionMap, blocks


class Rollout:
    """Readings ``map``, of the first ``samples`` samples, and ``distance`` for each side that has self-attention.

    A map longer than ``longest`` positions is stored as means over equal blocks of keys and queries.
    """

    def __init__(self, samples: int = 1, longest: int = 128) -> None:
        require_at_least("samples", samples, 1)
        require_at_least("longest", longest, 1)
        self.samples = samples
        self.longest = longest

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        trace = snapshot.trace
        for side, target in (("input", False), ("target", True)):
            layers = [
                weights
                for layer, weights in trace.maps.items()
                if layer not in trace.cross and (layer in trace.target_side) == target
            ]
            if not layers:
                continue
            rolled = rollout(layers)
            yield map_reading(side, rolled[: self.samples].unsqueeze(1), self.longest)
            real = present(snapshot.batch, range(rolled.shape[-1]), target)
            distance = mean_over_queries(distances(rolled).unsqueeze(1), real)
            yield Reading(f"distance/{side}", np.array(distance.item()), {}, "positions")


def rollout(layers: Iterable[AttentionMap]) -> Float[Tensor, "batch time time"]:
    """R of the maps of layers on top of each other, the lowest first; in float32 at least."""
    rolled: Tensor | None = None
    for weights in layers:
        heads = mean_of_heads(weights)
        mixed = heads + torch.eye(heads.shape[-1], dtype=heads.dtype, device=heads.device)
        mixed = mixed / mixed.sum(-1, keepdim=True)
        rolled = mixed if rolled is None else mixed @ rolled
    assert rolled is not None  # there is a layer
    return rolled


def mean_of_heads(weights: AttentionMap) -> Float[Tensor, "batch time time"]:
    """The map of all heads together, in float32 at least."""
    batch, _, queries, keys = weights.shape
    made: Tensor | None = None
    for block in blocks(weights):
        precision = torch.promote_types(block.weights.dtype, torch.float32)
        if made is None:
            made = block.weights.new_zeros(batch, queries, keys, dtype=precision)
        made[block.samples, block.queries, block.keys] = block.weights.to(precision).mean(1)
    assert made is not None  # a map has rows
    return made
