"""From a loss at every position to the two numbers that are reported and differentiated."""

from jaxtyping import Bool, Float
from torch import Tensor


def sample_means(
    values: Float[Tensor, "batch target"], scored: Bool[Tensor, "batch target"]
) -> Float[Tensor, " batch"]:
    """Each sample's mean over its scored positions; the value does not read what stands elsewhere, not even a NaN."""
    return values.where(scored, 0.0).sum(1) / scored.sum(1)
