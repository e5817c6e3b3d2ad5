"""How attention learns of order: what is added to the inputs, or done to queries and keys."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def sinusoidal(length: int, width: int, like: Tensor) -> Float[Tensor, "length width"]:
    r"""Sines and cosines of geometrically spaced wavelengths, to be added to the inputs.

        p_{t,2i} = sin(t / 10000^{2i/width})        p_{t,2i+1} = cos(t / 10000^{2i/width})

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
    """
    angle = _angles(length, width, like)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)[:, :width].to(like.dtype)


def rotated(x: Float[Tensor, "batch head time width"]) -> Float[Tensor, "batch head time width"]:
    r"""Queries or keys with each pair of entries turned by an angle that grows with time (rotary positions).

        (x_{2i}, x_{2i+1}) ↦ rotation by t / 10000^{2i/width}

    so that the product of a query and a key depends on their distance alone. The width must be even.

    Source: Su et al. 2021, arXiv:2104.09864, eq. 34.
    """
    angle = _angles(x.shape[-2], x.shape[-1], x)
    sin, cos = angle.sin().to(x.dtype), angle.cos().to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def _angles(length: int, width: int, like: Tensor) -> Float[Tensor, "length pairs"]:
    """In float32 at least: half precision cannot tell neighbouring times apart beyond a few hundred."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    time = torch.arange(length, device=like.device, dtype=dtype)
    pair = torch.arange(math.ceil(width / 2), device=like.device, dtype=dtype)
    return time[:, None] * torch.exp(-math.log(10000.0) * 2 * pair / width)
