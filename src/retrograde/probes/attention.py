r"""What attention looks at.

    map                    A_ij, the weight that query i gives key j, of the first samples
    entropy                -Σ_j A_ij ln A_ij, nats; near 0 a head has collapsed on one key
    entropy_share          the same over ln(number of keys that some head gives weight to)
    distance               Σ_j A_ij |i - j|, positions
    confidence             max_j A_ij
    previous_token         A_{i,i-1}
    induction              A_{i,p+1}, p the last earlier position with the token of i; token tasks alone

per head, the mean over samples and queries (over those that have such a key). Between a target and its source, where
positions cannot be compared, the first two and confidence alone.

Source: entropy: Zhai et al. 2023, arXiv:2303.06296; confidence: Voita et al. 2019, arXiv:1905.09418; previous-token and
induction score: Olsson et al. 2022, arXiv:2209.11895 (there on repeated random text; here on the task's own sequences).
Cost: none beyond the snapshot; a stored map is samples · heads · T² numbers.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from retrograde.core.contracts import Snapshot, Tokens
from retrograde.core.maps import distances, map_reading, mean_over_queries
from retrograde.core.records import Reading
from retrograde.core.statistics import present


class Attention:
    """Maps of the first ``samples`` samples and a number per head and layer; nothing for a model without attention.

    Of a map longer than ``longest`` positions equal blocks are stored: sums over keys, means over queries.
    """

    def __init__(self, samples: int = 1, longest: int = 128) -> None:
        if samples < 1 or longest < 1:
            raise ValueError(f"samples and longest must be at least 1, not {samples} and {longest}")
        self.samples = samples
        self.longest = longest

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        for layer, weights in snapshot.trace.maps.items():
            yield map_reading(layer, weights[: self.samples], self.longest)
            for name, (values, unit) in head_numbers(layer, weights, snapshot).items():
                yield Reading(f"{name}/{layer}", values.double().cpu().numpy(), {"head": range(len(values))}, unit)


def head_numbers(
    layer: str, weights: Float[Tensor, "batch head query key"], snapshot: Snapshot
) -> dict[str, tuple[Float[Tensor, " head"], str]]:
    """Each number with its unit, per head; what compares positions only where queries and keys are of one sequence."""
    batch, target_side, cross = snapshot.batch, layer in snapshot.trace.target_side, layer in snapshot.trace.cross
    real = present(batch, range(weights.shape[-2]), target_side)
    shares = weights / weights.sum(-1, keepdim=True)  # a window may take from the weights, which then sum to less
    entropy = torch.special.entr(shares).sum(-1)
    visible = (weights > 0).any(1, keepdim=True).sum(-1).expand_as(entropy)
    numbers = {
        "entropy": (mean_over_queries(entropy, real), "nats"),
        "entropy_share": (
            mean_over_queries(entropy / visible.clamp(min=2).log(), real[:, None] & (visible > 1)),
            "share",
        ),
        "confidence": (mean_over_queries(weights.amax(-1), real), "share"),
    }
    if cross:
        return numbers
    numbers["distance"] = (mean_over_queries(distances(weights), real), "positions")
    if weights.shape[-1] > 1:
        previous = torch.diagonal(weights, offset=-1, dim1=-2, dim2=-1)
        numbers["previous_token"] = (mean_over_queries(previous, real[:, 1:]), "share")
    if isinstance(snapshot.task.inputs, Tokens) and not target_side:
        after, exists = after_previous_occurrence(batch.inputs)
        chosen = weights.gather(-1, after[:, None, :, None].expand(-1, weights.shape[1], -1, 1)).squeeze(-1)
        numbers["induction"] = (mean_over_queries(chosen, exists & real), "share")
    return numbers


def after_previous_occurrence(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """For each position, the one after the last earlier occurrence of its token, and whether there is any."""
    position = torch.arange(tokens.shape[1], device=tokens.device)
    earlier = (tokens[:, :, None] == tokens[:, None, :]) & (position[None, :] < position[:, None])
    last = torch.where(earlier, position, -1).amax(-1)
    return (last + 1).clamp(max=tokens.shape[1] - 1), last >= 0
