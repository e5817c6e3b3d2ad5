r"""The matrix from each position to each that a layer without attention applies to its values.

    y_i = Σ_j A_ij v_j                     of a state space model: A_ij = C_i (Π_{k=j+1..i} Ā_k) B̄_j
    S_ij = |A_ij| / Σ_j |A_ij|             A has signs, and its rows do not sum to 1

    map        S of the first sample
    entropy    -Σ_j S_ij ln S_ij, nats
    distance   Σ_j S_ij |i - j|, positions

v what the layer writes at each position, y what it reads, i, j positions. Per head, the mean over samples and queries,
leaving out those that look at nothing at all. Heads of one value each, channels or entries of the state, are many: of
these the map is the mean, and the two numbers have mean and quantiles over them.

A is all that stands between v and y: gates, normalisers, the delta rule's products. v stands behind what is made of the
input position by position or by a short convolution, and what never was in the state (D u of s4d, lru and mamba, c of
mlstm) is not in A. For an rwkv A is a softmax along j, with the bonus at i = j, times the receptance. A state that a
full matrix reads or carries (lru, linear_rnn) has a head for each entry, or for each eigenvalue of W, as they are
before that matrix mixes them. What an initial state adds is not in A.

The first ``positions`` inputs of a sequence are looked at, in the order of reading: a causal matrix begins the same
whatever follows. Not served are recurrences whose state is not linear in what was written to it (elman, lstm, gru and
their kin), tcn, and fla, whose kernels do not show what they carry. Hyena's operator shows its own matrix, transformers
theirs in ``attention``.

Source: Ali, Zimerman, Wolf 2024, arXiv:2403.01590; for Hyena: Poli et al. 2023, arXiv:2302.10866. Entropy and distance
are those of ``attention``.
Cost: T² numbers for each head and sample, made of as many as a head carries. One sample of 256 positions through one
layer of width 128, one thread: 0.02 s for heads of outer products, 0.1 to 0.4 s for channels, 0.9 s for a mamba, whose
matrices take 70 MB.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Inexact
from torch import Tensor

from retrograde.core import recurrence
from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Snapshot
from retrograde.core.maps import distances, map_reading, mean_over_queries
from retrograde.core.records import Reading
from retrograde.core.statistics import STATISTICS, linear_statistics

HEADS = 16
"""Heads whose numbers are made at once: the shares of all channels and their logarithms need not exist together."""


class HiddenAttention:
    """Readings ``map``, ``entropy`` and ``distance`` of the first ``samples`` samples for every layer with a matrix.

    At most ``positions`` of each are looked at, since the matrix grows with their square; of a map longer than
    ``longest`` equal blocks are stored: sums over keys, means over queries.
    """

    def __init__(self, samples: int = 4, positions: int = 256, longest: int = 128) -> None:
        for name, value in (("samples", samples), ("positions", positions), ("longest", longest)):
            require_at_least(name, value, 1)
        self.samples = samples
        self.positions = positions
        self.longest = longest

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        found: dict[str, list[Looked]] = defaultdict(list)
        for sample in range(min(self.samples, len(snapshot.batch))):
            for layer, looked in self._looked(snapshot, sample).items():
                found[layer].append(looked)
                if sample == 0:
                    yield map_reading(layer, looked.shares.unsqueeze(0), self.longest, looked.start)
        for layer, parts in found.items():
            counts = torch.cat([part.counts for part in parts], 1)
            for name, unit, of_parts in (
                ("entropy", "nats", [part.entropy for part in parts]),
                ("distance", "positions", [part.distance for part in parts]),
            ):
                mean = mean_over_queries(torch.cat(of_parts, 1).unsqueeze(0), counts.unsqueeze(0)).double()
                dims: Mapping[str, Sequence[Any]] = {"head": range(len(mean))}
                if parts[0].by_channel:
                    looking = counts.any(1, keepdim=True)
                    if not looking.any():
                        continue
                    mean, dims = linear_statistics(mean.unsqueeze(1), looking).squeeze(1), {"statistic": STATISTICS}
                yield Reading(f"{name}/{layer}", mean.cpu().numpy(), dims, unit)

    @torch.no_grad()
    def _looked(self, snapshot: Snapshot, sample: int) -> "dict[str, Looked]":
        """Of one sample, by layer."""
        found = {}
        for layer, course in snapshot.courses.items():
            length = int(course.lengths[sample])
            read = min(length, self.positions)
            attention = course.recurrence.hidden_attention(
                {name: precise(weight) for name, weight in course.weights.items()},
                precise(course.inputs[sample : sample + 1, :read]),
            )
            if attention is not None and course.backward:
                found[layer] = Looked.of(replace(attention, weights=attention.weights.flip(2, 3)), length - read)
            elif attention is not None:
                found[layer] = Looked.of(attention)
        read = min(int(snapshot.batch.lengths[sample]), self.positions)
        states = {key: state[sample : sample + 1, :read] for key, state in snapshot.trace.states.items()}
        return found | {key: Looked.of(each) for key, each in snapshot.model.hidden_attention(states).items()}


@dataclass(frozen=True)
class Looked:
    """One sample's shares, those of channels as their mean, and of every query its numbers and whether it counts.

    ``start`` is the time of the first position.
    """

    shares: Float[Tensor, "head query key"]
    entropy: Float[Tensor, "channel query"]
    distance: Float[Tensor, "channel query"]
    counts: Bool[Tensor, "channel query"]
    by_channel: bool
    start: int

    @classmethod
    def of(cls, attention: recurrence.HiddenAttention, start: int = 0) -> "Looked":
        """Of weights in the order of time."""
        by_channel = attention.values.shape[-1] == 1
        stored, entropy, distance, counts = [], [], [], []
        for weights in attention.weights[0].split(HEADS):
            shares, some = shares_of(weights)
            stored.append(shares.sum(0, keepdim=True) / len(attention.weights[0]) if by_channel else shares)
            entropy.append(torch.special.entr(shares).sum(-1))
            distance.append(distances(shares))
            counts.append(some)
        together = torch.cat(stored)
        return cls(
            together.sum(0, keepdim=True) if by_channel else together,
            torch.cat(entropy),
            torch.cat(distance),
            torch.cat(counts),
            by_channel,
            start,
        )


def shares_of(
    weights: Inexact[Tensor, "head query key"],
) -> tuple[Float[Tensor, "head query key"], Bool[Tensor, "head query"]]:
    """Sizes over the sum of their row, and which rows look at anything; the others stay at zero."""
    size = weights.abs()
    total = size.sum(-1, keepdim=True)
    return torch.where(total == 0, 0.0, size / total), (total != 0).squeeze(-1)


def precise(value: Tensor) -> Tensor:
    """In float32 at least, where it is a number and not a mask: a product of many decays needs its digits."""
    return value.to(torch.promote_types(value.dtype, torch.float32)) if value.is_floating_point() else value
