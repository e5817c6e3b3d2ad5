"""A short causal convolution of each channel by itself: step by step, and at all times at once.

    u_t = Σ_{i<width} w_i ⊙ x_{t-width+1+i}

w filter (channels, width), its last entry the present's. What looks back is a window: the last ``width`` inputs, the
present one last and included, for the read-out of a layer needs u_t again.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def filter_at_start(channels: int, width: int) -> Float[Tensor, "channels width"]:
    """Uniform on ± 1/√width, as torch.nn.Conv1d starts a convolution of each channel by itself."""
    return (2 * torch.rand(channels, width) - 1) / width**0.5


def window_after(
    window: Float[Tensor, "*batch channels width"], x: Float[Tensor, "*batch channels"]
) -> Float[Tensor, "*batch channels width"]:
    """The window one input later."""
    return torch.cat([window[..., 1:], x.unsqueeze(-1)], -1)


def convolved(window: Float[Tensor, "... channels width"], taps: Float[Tensor, "... width"]) -> Tensor:
    """u_t of the window at t; the filter may have leading axes of its own (one per seed, say)."""
    return (window * taps.unsqueeze(-3)).sum(-1)


def short_convolution(
    inputs: Float[Tensor, "batch time channels"],
    window: Float[Tensor, "batch channels width"],
    taps: Float[Tensor, "channels width"],
) -> Float[Tensor, "batch time channels"]:
    """u at every time, from the window before the first.

    A sum of shifted products: on a CPU, with its gradient, as fast as conv1d and twice as fast as windows by unfold.
    """
    width, length = taps.shape[-1], inputs.shape[1]
    known = torch.cat([window[..., 1:].mT, inputs], 1)
    *earlier, present = taps.unbind(-1)
    total = known[:, width - 1 :] * present
    for start, tap in enumerate(earlier):
        total = torch.addcmul(total, known[:, start : start + length], tap)
    return total
