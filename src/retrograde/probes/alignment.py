r"""Whether attention from a target to its source looks where it has to, and in which order.

    needed         Σ_{j needed by i} A_ij, the mean over the targets: the weight on what a target needs
    coverage       the share of source positions j with Σ_i A_ij ≥ ``covered``
    monotonicity   2 / (T (T - 1)) Σ_{i<i'} sgn(m_{i'} - m_i),  m_i = Σ_j j A_ij: Kendall's τ of target and source order
    diagonal       Σ_{|j - i (S-1)/(T-1)| ≤ width} A_ij, the mean over the targets: the weight along the diagonal

per head, the mean over samples. A_ij is what target i gives source position j, over its row's sum, since a window may
take from the weights. i = 0 … T-1 are a sample's targets in order, j = 0 … S-1 its source positions without padding.

Where the task knows which source position a target needs (``Task.needs``), the targets are those that need one: not the
end symbol. Where nobody knows, as between languages, they are all that are scored, and there is no ``needed``.

τ is 1 where the place looked at always moves on, -1 where it always falls back, 0 where it does not depend on the
target; a sample with a single target has none. The diagonal leads from the first target and source position to the
last of both. Of a perfect copy all four are 1; of a perfect reversal needed and coverage are 1 and τ is -1; attention
that is spread evenly has needed 1/S, τ 0, and coverage 1 where there are ``covered`` · S targets or more.

Units: shares; monotonicity a correlation.
Source: alignment read off attention: Bahdanau et al. 2014, arXiv:1409.0473, and Luong, Pham, Manning 2015,
arXiv:1508.04025, section 5.4; coverage: Tu et al. 2016, arXiv:1601.04811; τ: Kendall 1938. Definitions are ours.
Cost: some passes over maps of samples · heads · T · max(S, T) numbers: 2 ms for 32 samples of 20 positions and eight
heads, 22 ms for 100 positions, one thread.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from retrograde.core.contracts import Snapshot
from retrograde.core.records import Reading
from retrograde.core.streamed import whole


class Alignment:
    """Readings for each head of each layer that looks from a target to its source; nothing where there is none.

    ``covered`` is the weight, summed over targets, from which on a source position counts as looked at, ``width`` the
    positions on either side of the diagonal that belong to it.
    """

    def __init__(self, covered: float = 0.5, width: float = 1.0) -> None:
        if covered <= 0 or width < 0:
            raise ValueError(f"covered must be greater than 0 and width at least 0, not {covered} and {width}")
        self.covered = covered
        self.width = width

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        if not snapshot.trace.cross:
            return
        needed = needed_sources(snapshot)
        targets = snapshot.batch.scored if needed is None else needed.any(2)
        lengths = snapshot.batch.lengths
        some, several = targets.sum(1) >= 1, targets.sum(1) >= 2
        for layer in sorted(snapshot.trace.cross):
            weights = whole(snapshot.trace.maps[layer])
            shares = weights / weights.sum(-1, keepdim=True)
            numbers = {
                "coverage": (coverage(shares, targets, lengths, self.covered), some, "share"),
                "monotonicity": (monotonicity(shares, targets), several, "correlation"),
                "diagonal": (diagonal(shares, targets, lengths, self.width), some, "share"),
            }
            if needed is not None:
                looked = (shares * needed.unsqueeze(1)).sum(-1)
                numbers["needed"] = (over_targets(looked, targets), some, "share")
            for name, (values, counts, unit) in numbers.items():
                heads = values[counts].mean(0)  # NaN where no sample has such targets
                yield Reading(f"{name}/{layer}", heads.double().cpu().numpy(), {"head": range(len(heads))}, unit)


def needed_sources(snapshot: Snapshot) -> Bool[Tensor, "batch target source"] | None:
    """Which source positions each target needs; None where nobody knows."""
    batch = snapshot.batch
    pieces = snapshot.task.needs(batch)
    if not len(pieces):
        return None
    sample, time, target = pieces.unbind(1)
    needed = torch.zeros(len(batch), batch.targets.shape[1], batch.length, dtype=torch.bool, device=pieces.device)
    needed[sample, target, time] = True
    return needed


def coverage(
    shares: Float[Tensor, "batch head target source"],
    targets: Bool[Tensor, "batch target"],
    lengths: Int[Tensor, " batch"],
    covered: float,
) -> Float[Tensor, "batch head"]:
    """The share of a sample's source positions that get at least ``covered`` of its targets together."""
    given = shares.where(targets[:, None, :, None], 0.0).sum(2)
    real = torch.arange(shares.shape[-1], device=lengths.device) < lengths.unsqueeze(1)
    looked_at = ((given >= covered) & real.unsqueeze(1)).sum(-1)
    return (looked_at / lengths.unsqueeze(1)).where(given.isfinite().all(-1), torch.nan)


def monotonicity(
    shares: Float[Tensor, "batch head target source"], targets: Bool[Tensor, "batch target"]
) -> Float[Tensor, "batch head"]:
    """Kendall's τ between a sample's targets and where they look on average; NaN for fewer than two targets."""
    place = (shares * torch.arange(shares.shape[-1], device=shares.device)).sum(-1)
    pairs = (targets.unsqueeze(2) & targets.unsqueeze(1)).triu(1)
    moved = [(head.unsqueeze(1) - head.unsqueeze(2)).sign().where(pairs, 0.0).sum((1, 2)) for head in place.unbind(1)]
    return torch.stack(moved, 1) / pairs.sum((1, 2)).unsqueeze(1)


def diagonal(
    shares: Float[Tensor, "batch head target source"],
    targets: Bool[Tensor, "batch target"],
    lengths: Int[Tensor, " batch"],
    width: float,
) -> Float[Tensor, "batch head"]:
    """The weight within ``width`` of the line from first to first and from last to last, the mean over targets."""
    order, last = targets.cumsum(1) - 1, (targets.sum(1) - 1).clamp(min=1)
    line = order * (lengths - 1).unsqueeze(1) / last.unsqueeze(1)  # divided last: a whole position stays one
    source = torch.arange(shares.shape[-1], device=shares.device)
    near = (source - line.unsqueeze(2)).abs() <= width
    return over_targets((shares * near.unsqueeze(1)).sum(-1), targets)


def over_targets(
    values: Float[Tensor, "batch head target"], targets: Bool[Tensor, "batch target"]
) -> Float[Tensor, "batch head"]:
    """The mean over a sample's own targets; NaN where it has none."""
    return values.where(targets.unsqueeze(1), 0.0).sum(2) / targets.sum(1).unsqueeze(1)
