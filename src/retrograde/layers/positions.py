r"""How self-attention learns of order (``model/position=`` on the command line).

    x ← placed(x)                             the embedded inputs, before the first layer
    Q, K ← turned(Q), turned(K)               in every head of every layer
    A = softmax(Q Kᵀ / √d + bias)             in every layer; one bias for each head

A position encoding does one of the three and serves all layers of a stack. Cross-attention has none.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retrograde.core.choices import require_at_least


@dataclass(frozen=True)
class Layout:
    """The attention that a position encoding serves: the width of the inputs, the heads, what a query may see."""

    width: int
    heads: int
    causal: bool


class Position(nn.Module):
    """What a position encoding does at each of its three places: nothing, where it says nothing else."""

    def placed(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
        """The inputs with what tells their positions."""
        return x

    def turned(self, x: Float[Tensor, "batch head time width"]) -> Float[Tensor, "batch head time width"]:
        """Queries, or keys, with what tells their positions."""
        return x

    def bias(
        self, query: Int[Tensor, " query"], key: Int[Tensor, " key"], like: Tensor
    ) -> Float[Tensor, "head query key"] | None:
        """What is added to the scores of queries and keys at these times, in the type of ``like``; None for nothing.

        It depends on the distances alone, so that the times may count from anywhere.
        """
        return None


PositionFactory = Callable[[Layout], Position]


class NoPosition(Position):
    """Nothing tells positions apart but, where attention is causal, how many keys there are to see."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()


class Sinusoidal(Position):
    """``sinusoidal``, added to the inputs."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()

    def placed(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
        return x + sinusoidal(x.shape[1], x.shape[2], x)


class Learned(Position):
    """A vector of its own for each position, added to the inputs; none beyond ``longest``.

    Source: Gehring et al. 2017, arXiv:1705.03122, section 3.1; the start, Gaussian with deviation 0.1: their published
    code.
    """

    def __init__(self, layout: Layout, longest: int = 512) -> None:
        super().__init__()
        require_at_least("position.longest", longest, 1)
        self.vectors = nn.Parameter(0.1 * torch.randn(longest, layout.width))

    def placed(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
        length, longest = x.shape[1], len(self.vectors)
        if length > longest:
            raise ValueError(f"position.longest must be at least {length}, the length of a sequence; not {longest}")
        return x + self.vectors[:length]


class Rope(Position):
    """Queries and keys ``rotated``."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        if layout.width % (2 * layout.heads):
            raise ValueError(
                f"rope needs an even width per head: hidden {layout.width} over {layout.heads} heads gives none"
            )

    def turned(self, x: Float[Tensor, "batch head time width"]) -> Float[Tensor, "batch head time width"]:
        return rotated(x)


class Alibi(Position):
    r"""A penalty on every score that grows with the distance, at a slope of each head's own; nothing is learned.

        bias_{h,i,j} = -m_h |i - j|        m_h = 2^{-8h/H}, h = 1 … H

    Where H is no power of two: the slopes of the next smaller power P, then every second one of those for 2P.

    Source: Press et al. 2022, arXiv:2108.12409, section 3; the other H: their published code.
    Differs: the paper knows causal attention alone; here both sides of a query count alike where both are seen.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.heads = layout.heads

    def bias(
        self, query: Int[Tensor, " query"], key: Int[Tensor, " key"], like: Tensor
    ) -> Float[Tensor, "head query key"] | None:
        distance = (query[:, None] - key).abs()
        return (-slopes(self.heads, like)[:, None, None] * distance).to(like.dtype)


class T5(Position):
    r"""A learned number for each head and bucket of distances, added to the scores; one table for all layers.

        bias_{h,i,j} = B_{bucket(i-j),h}
        bucket(n) = n                                               n < E: one distance each
                    E + ⌊(N-E) ln(n/E) / ln(furthest/E)⌋            at most N - 1: ever more distances share one

    n = i - j ≥ 0 and N = ``buckets`` where attention is causal. Where it is not, each side of a query has half of the
    buckets: n = abs(i - j), N = ``buckets``/2, and the bucket is N more for keys after the query. E = N/2.

    Source: Raffel et al. 2020, arXiv:1910.10683, section 2.1; the formula and the start, Gaussian with deviation
    1/√width: their published code.
    Differs: scores are divided by √d all the same (``scaling``); T5 leaves that to its initialisation.
    """

    least: Tensor

    def __init__(self, layout: Layout, buckets: int = 32, furthest: int = 128) -> None:
        super().__init__()
        sides = 1 if layout.causal else 2
        if buckets < 1 or buckets % (2 * sides):
            raise ValueError(f"position.buckets must be a multiple of {2 * sides} and more than 0, not {buckets}")
        self.causal = layout.causal
        self.each = buckets // sides
        require_at_least("position.furthest", furthest, self.each // 2 + 1)
        least = torch.tensor(least_distances(self.each, furthest))
        self.register_buffer("least", least, persistent=False)
        self.values = nn.Parameter(torch.randn(buckets, layout.heads) / layout.width**0.5)

    def bias(
        self, query: Int[Tensor, " query"], key: Int[Tensor, " key"], like: Tensor
    ) -> Float[Tensor, "head query key"] | None:
        distance = query[:, None] - key
        size = distance.clamp(min=0) if self.causal else distance.abs()
        bucket = torch.bucketize(size, self.least, right=True) - 1
        if not self.causal:
            bucket = bucket + self.each * (distance < 0)
        return nn.functional.embedding(bucket, self.values).permute(2, 0, 1).to(like.dtype)


def least_distances(buckets: int, furthest: int) -> list[int]:
    """The smallest distance of each bucket of ``T5``, in whole numbers: a rounded logarithm errs at powers of two."""
    exact = buckets // 2
    rest = buckets - exact
    least = list(range(exact))
    distance = exact
    for bucket in range(rest):
        # rest · ln(distance/exact) / ln(furthest/exact) ≥ bucket
        while (distance**rest) * (exact**bucket) < (furthest**bucket) * (exact**rest):
            distance += 1
        least.append(distance)
    return least


def slopes(heads: int, like: Tensor) -> Float[Tensor, " head"]:
    """The slopes of ``Alibi``, on the device of ``like``, in float32 at least."""
    power = 2 ** (heads.bit_length() - 1)
    head = torch.arange(1, heads + 1, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
    share = torch.where(head <= power, head / power, (2 * (head - power) - 1) / (2 * power))
    return torch.exp2(-8 * share)


def sinusoidal(length: int, width: int, like: Tensor) -> Float[Tensor, "length width"]:
    r"""Sines and cosines of geometrically spaced wavelengths.

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
