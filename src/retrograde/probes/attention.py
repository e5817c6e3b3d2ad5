r"""What attention looks at.

    map                    A_ij, the weight that query i gives key j, of the first samples
    entropy                -Σ_j A_ij ln A_ij, nats; near 0 a head has collapsed on one key
    entropy_share          the same over ln(number of visible keys)
    distance               Σ_j A_ij |i - j|, positions
    confidence             max_j A_ij
    previous_token         A_{i,i-1}
    induction              A_{i,p+1}, p the last earlier position with the token of i; token tasks alone

per head, the mean over samples and queries (over those that have such a key).

Source: entropy: Zhai et al. 2023, arXiv:2303.06296; confidence: Voita et al. 2019, arXiv:1905.09418; previous-token and
induction score: Olsson et al. 2022, arXiv:2209.11895 (there on repeated random text; here on the task's own sequences).
Cost: none beyond the snapshot; a stored map is samples · heads · T² numbers.
"""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from retrograde.core.contracts import Snapshot, Tokens
from retrograde.core.records import Reading


class Attention:
    """Maps of the first ``samples`` samples and a number per head and layer; nothing for a model without attention.

    A map longer than ``longest`` positions is stored as means over equal blocks of keys and queries.
    """

    def __init__(self, samples: int = 1, longest: int = 128) -> None:
        if samples < 1 or longest < 1:
            raise ValueError(f"samples and longest must be at least 1, not {samples} and {longest}")
        self.samples = samples
        self.longest = longest

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        position = torch.arange(snapshot.batch.length, device=snapshot.batch.lengths.device)
        real = position < snapshot.batch.lengths.unsqueeze(1)
        for layer, weights in snapshot.trace.maps.items():
            stored, block = pooled(weights[: self.samples], self.longest)
            blocks = [place * block for place in range(stored.shape[-1])]
            dims = {
                "sample": range(len(stored)),
                "head": range(stored.shape[1]),
                "query": blocks,
                "key": blocks,
            }
            yield Reading(f"map/{layer}", stored.double().cpu().numpy(), dims, "share")
            for name, (values, unit) in head_numbers(weights, real, snapshot).items():
                yield Reading(f"{name}/{layer}", values.double().cpu().numpy(), {"head": range(len(values))}, unit)


def pooled(
    weights: Float[Tensor, "sample head query key"], longest: int
) -> tuple[Float[Tensor, "sample head queries keys"], int]:
    """Maps of at most ``longest`` rows and columns, and how many positions each stands for.

    Over a block of queries the mean is taken, over a block of keys the sum, so that rows still sum to 1.
    """
    length = weights.shape[-1]
    block = math.ceil(length / longest)
    if block == 1:
        return weights, 1
    padding = -length % block
    keys = torch.nn.functional.pad(weights, (0, padding)).unflatten(-1, (-1, block)).sum(-1)
    queries = torch.nn.functional.pad(keys, (0, 0, 0, padding)).unflatten(-2, (-1, block))
    sizes = torch.full((queries.shape[2], 1), block, device=weights.device)
    sizes[-1] -= padding
    return queries.sum(-2) / sizes, block


def head_numbers(
    weights: Float[Tensor, "batch head query key"], real: Bool[Tensor, "batch query"], snapshot: Snapshot
) -> dict[str, tuple[Float[Tensor, " head"], str]]:
    """Each number with its unit, per head."""
    position = torch.arange(weights.shape[-1], device=weights.device)
    entropy = torch.special.entr(weights).sum(-1)
    keys = real.sum(-1)[:, None, None].expand_as(entropy)
    visible = torch.minimum(position + 1, keys) if snapshot.model.causal else keys
    distance = (weights * (position[:, None] - position).abs()).sum(-1)
    numbers = {
        "entropy": (_mean(entropy, real), "nats"),
        "entropy_share": (_mean(entropy / visible.clamp(min=2).log(), real[:, None] & (visible > 1)), "share"),
        "distance": (_mean(distance, real), "positions"),
        "confidence": (_mean(weights.amax(-1), real), "share"),
    }
    if weights.shape[-1] > 1:
        previous = torch.diagonal(weights, offset=-1, dim1=-2, dim2=-1)
        numbers["previous_token"] = (_mean(previous, real[:, 1:]), "share")
    if isinstance(snapshot.task.inputs, Tokens):
        after, exists = after_previous_occurrence(snapshot.batch.inputs)
        chosen = weights.gather(-1, after[:, None, :, None].expand(-1, weights.shape[1], -1, 1)).squeeze(-1)
        numbers["induction"] = (_mean(chosen, exists & real), "share")
    return numbers


def after_previous_occurrence(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """For each position, the one after the last earlier occurrence of its token, and whether there is any."""
    position = torch.arange(tokens.shape[1], device=tokens.device)
    earlier = (tokens[:, :, None] == tokens[:, None, :]) & (position[None, :] < position[:, None])
    last = torch.where(earlier, position, -1).amax(-1)
    return (last + 1).clamp(max=tokens.shape[1] - 1), last >= 0


def _mean(values: Float[Tensor, "batch head query"], counts: Tensor) -> Float[Tensor, " head"]:
    """Over samples and queries that count; NaN where none does."""
    counts = (counts if counts.ndim == values.ndim else counts[:, None]).expand_as(values)
    return values.where(counts, 0.0).sum((0, 2)) / counts.sum((0, 2))
