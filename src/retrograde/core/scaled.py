"""Gradients whose size outruns the floating-point format: a mantissa and a power of two per sample and time.

A vanishing gradient leaves float32 after a few hundred steps, and its *squares* leave it at 1e-23 already (at 1e-154
in float64), so a plain ``.norm()`` reads zero long before the gradient is zero. Norms are therefore taken of the
mantissa scaled by its largest entry, and kept as log10. An explosion is kept as well: log10 of 1e400 is 400.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from retrograde.core.statuses import CENSORED, FINITE, INF, NAN, ZERO

LOG10_2 = math.log10(2.0)

IN_CACHE = 2**17
"""Numbers that are read several times in turn without being fetched anew."""


@dataclass(frozen=True)
class Scaled:
    """The tensor ``mantissa · 2^exponent``, one exponent per sample and time.

    ``reached`` says where a path to the loss exists at all, which tells an underflow from a true zero.
    """

    mantissa: Float[Tensor, "batch time *state"]
    exponent: Int[Tensor, "batch time"]
    reached: Bool[Tensor, "batch time"]

    @classmethod
    def of(cls, value: Float[Tensor, "batch time *state"]) -> "Scaled":
        """A plain tensor; it counts as reached where it is not exactly zero."""
        exponent = torch.zeros(value.shape[:2], dtype=torch.int32, device=value.device)
        return cls(value, exponent, _largest(value.flatten(2)) != 0)

    def value(self) -> Float[Tensor, "batch time *state"]:
        """As a plain tensor; entries outside the format's range become 0 or infinity."""
        if not self.exponent.any():
            return self.mantissa
        return power_of_two(self.mantissa, self.exponent)

    def __sub__(self, other: "Scaled") -> "Scaled":
        return self + Scaled(-other.mantissa, other.exponent, other.reached)

    def __add__(self, other: "Scaled") -> "Scaled":
        if not (self.exponent != other.exponent).any():
            return Scaled(self.mantissa + other.mantissa, self.exponent, self.reached | other.reached)
        zero, other_zero = _largest(self.mantissa.flatten(2)) == 0, _largest(other.mantissa.flatten(2)) == 0
        larger = torch.maximum(self.exponent, other.exponent)
        exponent = torch.where(zero, other.exponent, torch.where(other_zero, self.exponent, larger))
        # at most 0, but where there is nothing to be shifted
        shifts = (part.exponent.sub(exponent).clamp(max=0) for part in (self, other))
        mantissa = _shrunk(self.mantissa, next(shifts)) + _shrunk(other.mantissa, next(shifts))
        return Scaled(mantissa, exponent, self.reached | other.reached)


def power_of_two(value: Tensor, exponent: Int[Tensor, "..."]) -> Tensor:
    """``value · 2^exponent``, the exponent given for the leading axes; zeros and infinities stay what they are.

    In two halves, because 2^exponent by itself can leave the format where the product does not. (``torch.ldexp``
    forms it in float32 whatever the value's type.)
    """
    exponent = exponent.reshape(exponent.shape + (1,) * (value.ndim - exponent.ndim))
    half = torch.div(exponent, 2, rounding_mode="floor")
    factor, other = (torch.exp2(part.to(value.dtype)) for part in (half, exponent - half))
    # zeros and infinities are what is twice itself; times a factor out of the format they would be NaN
    return torch.where(value + value == value, value, value * factor * other)


def _shrunk(value: Tensor, exponent: Int[Tensor, "batch time"]) -> Tensor:
    """``value · 2^exponent`` for exponents that are not above 0."""
    if not exponent.any():
        return value
    if not bool((exponent > -100).all()):
        return power_of_two(value, exponent)
    # a factor that is itself a number of the format, which one product will do for
    return value * torch.exp2(exponent.to(value.dtype)).reshape(exponent.shape + (1,) * (value.ndim - 2))


def _largest(values: Tensor) -> Tensor:
    """The largest absolute value along the last axis; NaN where one is."""
    if values.stride(0) < values.stride(1):
        return _largest(values.transpose(0, 1)).t()
    return torch.maximum(values.amax(-1), -values.amin(-1))


def log10_norm(
    gradient: Scaled,
) -> tuple[Float[Tensor, "batch time"], Int[Tensor, "batch time"]]:
    """log10 of the Euclidean norm over the state's axes, in float64, and its status.

    A true zero reads -inf. A censored entry reads where the format ends at the sweep's scale; see ``statuses``.
    """
    if gradient.mantissa.stride(0) < gradient.mantissa.stride(1):  # reductions in the order of the memory are faster
        value, status = log10_norm(Scaled(*(part.transpose(0, 1) for part in vars(gradient).values())))
        return value.t(), status.t()
    mantissa = gradient.mantissa.flatten(2)
    mantissa = mantissa.to(torch.promote_types(mantissa.dtype, torch.float32))
    at_once = max(1, IN_CACHE // max(1, mantissa[:1].numel()))
    pairs = [(_largest(part), torch.linalg.vector_norm(part, dim=-1)) for part in mantissa.split(at_once)]
    largest, norm = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    numbers = torch.finfo(mantissa.dtype)
    # where squares are sure to be numbers of the format the plain norm will do, which is an order of magnitude faster
    plain = (largest >= numbers.tiny**0.25) & (largest <= numbers.max**0.25)
    norm = norm.to(torch.float64)
    rest = torch.isfinite(largest) & (largest > 0) & ~plain
    if rest.any():
        scale = largest[rest].to(torch.float64)
        relative = torch.linalg.vector_norm(mantissa[rest].to(torch.float64) / scale.unsqueeze(-1), dim=-1)
        value = torch.log10(norm).masked_scatter(rest, torch.log10(relative) + torch.log10(scale))
    else:
        value = torch.log10(norm)
    shift = gradient.exponent.to(torch.float64) * LOG10_2
    value = value + shift

    smallest = torch.finfo(gradient.mantissa.dtype).smallest_normal
    below = (largest < smallest) & gradient.reached
    value = torch.where(below, math.log10(smallest) + shift, value)
    value = torch.where((largest == 0) & ~gradient.reached, -math.inf, value)
    value = torch.where(torch.isposinf(largest), math.inf, value)
    value = torch.where(torch.isnan(largest), math.nan, value)
    status = torch.full(value.shape, FINITE, dtype=torch.int8, device=value.device)
    status = torch.where(below, CENSORED, status)
    status = torch.where((largest == 0) & ~gradient.reached, ZERO, status)
    status = torch.where(torch.isposinf(largest), INF, status)
    return value, torch.where(torch.isnan(largest), NAN, status)
