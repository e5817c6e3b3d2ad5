"""Statistics over the samples of a batch, for quantities that may be zero, infinite or below the format's range."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from retrograde.core.records import Batch, Reading
from retrograde.core.statuses import CENSORED, FINITE, INF, NAN, ZERO

STATISTICS = ("mean", "q10", "q50", "q90")
QUANTILES = (0.1, 0.5, 0.9)

OF_A_SET = ("mean", "count")
"""The statistics of a curve over a whole test set: at each coordinate the mean, and of how many."""

NEGLIGIBLE = 1e-6
"""A mean counts as censored where censored samples could make up more than this share of it."""


def present(batch: Batch, times: range, target_side: bool = False) -> Bool[Tensor, "batch states"]:
    """Which states of a sample exist: those of its own positions, and the initial one before or after them."""
    lengths, length = batch.lengths, batch.length
    if target_side:
        assert batch.target_lengths is not None  # a target side exists where the task leads to one
        lengths, length = batch.target_lengths, batch.targets.shape[1]
    time = torch.arange(times.start, times.stop, device=lengths.device)
    inside = (time >= 0) & (time < length)
    return torch.where(inside, time < lengths.unsqueeze(1), True)


def log10_statistics(
    values: Float[Tensor, "sample place"], status: Int[Tensor, "sample place"], counts: Bool[Tensor, "sample place"]
) -> tuple[Float[Tensor, "statistic place"], Int[Tensor, "statistic place"]]:
    """The log10 of the mean, and the quantiles, of quantities given as log10, over the samples that count.

    A quantile is a sample's own value with its status, never a mixture of two. At least one sample must count.
    """
    number = counts.sum(0)
    natural = (values * math.log(10)).where(counts, -math.inf)
    censored = (status == CENSORED) & counts
    mean = _log_sum(natural) / math.log(10) - torch.log10(number.to(values.dtype))
    of_censored = _log_sum(natural.where(censored, -math.inf))
    uncertain = censored.any(0) & ~(of_censored < _log_sum(natural) + math.log(NEGLIGIBLE))
    mean_status = status_of(mean)
    mean_status = torch.where((mean_status == FINITE) & uncertain, CENSORED, mean_status)
    quantiles, quantile_status = _quantiles(values, status, counts)
    return torch.cat([mean[None], quantiles]), torch.cat([mean_status[None], quantile_status])


def log10_joint(
    values: Float[Tensor, "vector *place"], status: Int[Tensor, "vector *place"]
) -> tuple[Float[Tensor, "*place"], Int[Tensor, "*place"]]:
    """log10 of the norm of vectors side by side, of the log10 of their norms, and its status."""
    natural = values * (2 * math.log(10))
    joint = _log_sum(natural)
    censored = status == CENSORED
    uncertain = censored.any(0) & ~(_log_sum(natural.where(censored, -math.inf)) < joint + math.log(NEGLIGIBLE))
    joint = joint / (2 * math.log(10))
    joint_status = status_of(joint)
    return joint, torch.where((joint_status == FINITE) & uncertain, CENSORED, joint_status)


def linear_statistics(
    values: Float[Tensor, "sample place"], counts: Bool[Tensor, "sample place"]
) -> Float[Tensor, "statistic place"]:
    """The mean and the quantiles over the samples that count."""
    mean = values.where(counts, 0.0).sum(0) / counts.sum(0)
    quantiles, _ = _quantiles(values, torch.zeros_like(values, dtype=torch.int8), counts)
    return torch.cat([mean[None], quantiles])


def signed_statistics(
    values: Float[Tensor, "sample place"], status: Int[Tensor, "sample place"], counts: Bool[Tensor, "sample place"]
) -> tuple[Float[Tensor, "statistic place"], Int[Tensor, "statistic place"]]:
    """The mean and the quantiles of quantities of either sign, over the samples that count.

    What is zero or censored has the value 0. A mean is so where every sample is, censored where one of them is.
    """
    mean = values.where(counts, 0.0).sum(0) / counts.sum(0)
    nothing = ((status == ZERO) | (status == CENSORED) | ~counts).all(0)
    censored = ((status == CENSORED) & counts).any(0)
    of_mean = torch.where(nothing, torch.where(censored, CENSORED, ZERO), plain_status(mean))
    quantiles, of_quantiles = _quantiles(values, status, counts)
    return torch.cat([mean[None], quantiles]), torch.cat([of_mean[None], of_quantiles])


def curve(
    quantity: str, dim: str, coordinate: Int[Tensor, " values"], values: Float[Tensor, " values"], unit: str
) -> Reading:
    """What outputs say at each coordinate: the mean of the values that stand there, and how many these are."""
    at, index = coordinate.unique(return_inverse=True)
    count = torch.bincount(index, minlength=len(at)).double()
    mean = torch.zeros(len(at), dtype=torch.float64).index_add_(0, index, values) / count
    shown = torch.stack([mean, count]).numpy()
    return Reading(f"{quantity}/outputs", shown, {"statistic": OF_A_SET, dim: at.tolist()}, unit)


def plain_status(values: Tensor) -> Tensor:
    """The status that a number has by itself, which is no logarithm."""
    status = torch.full(values.shape, FINITE, dtype=torch.int8, device=values.device)
    status = torch.where(torch.isinf(values), INF, status)
    return torch.where(torch.isnan(values), NAN, status)


def status_of(log10: Tensor) -> Tensor:
    """The status that a log10 value has by itself."""
    status = torch.full(log10.shape, FINITE, dtype=torch.int8, device=log10.device)
    status = torch.where(torch.isneginf(log10), ZERO, status)
    status = torch.where(torch.isposinf(log10), INF, status)
    return torch.where(torch.isnan(log10), NAN, status)


def _log_sum(natural: Tensor) -> Tensor:
    """logsumexp over samples, also of infinities."""
    largest = natural.amax(0)
    shift = torch.where(torch.isfinite(largest), largest, 0.0)
    return torch.where(torch.isinf(largest), largest, (natural - shift).exp().sum(0).log() + shift)


def _quantiles(values: Tensor, status: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    # NaN needs a place in the order: above infinity, and what does not count above NaN
    rank = torch.nan_to_num(values, nan=1e301, posinf=1e300)
    rank = torch.where(counts, rank, math.inf)
    order = rank.argsort(dim=0, stable=True)
    index = torch.stack([((counts.sum(0) - 1) * quantile).round().long() for quantile in QUANTILES])
    chosen = order.gather(0, index)
    return values.gather(0, chosen), status.gather(0, chosen)
