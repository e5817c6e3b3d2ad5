"""Norms of single samples, as log10 with a status: small enough to be kept, while gradients are dropped."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from retrograde.core.scaled import Scaled, log10_norm
from retrograde.core.statuses import CENSORED, NAN, ZERO

AT_ONCE = 2**22
"""Numbers of a gradient that are brought to double precision at once."""


@dataclass(frozen=True)
class Norm:
    """log10 of a norm for every sample and place, and what each value is."""

    value: Float[Tensor, "sample place"]
    status: Int[Tensor, "sample place"]

    @classmethod
    def of(cls, gradient: Scaled) -> "Norm":
        """Over all axes behind sample and place."""
        samples, places = gradient.mantissa.shape[:2]
        step = max(1, AT_ONCE // max(1, gradient.mantissa[0].numel() if samples else 1))
        parts = [
            log10_norm(Scaled(*(part[at : at + step] for part in vars(gradient).values())))
            for at in range(0, max(samples, 1), step)
        ]
        values, statuses = zip(*parts, strict=True)
        return cls(torch.cat(values), torch.cat(statuses).reshape(samples, places))

    @classmethod
    def nothing(cls, samples: int, places: int, device: torch.device) -> "Norm":
        """Zeros: there is no path."""
        value = torch.full((samples, places), -math.inf, dtype=torch.float64, device=device)
        return cls(value, torch.full((samples, places), ZERO, dtype=torch.int8, device=device))

    @classmethod
    def unknown(cls, samples: int, places: int, device: torch.device) -> "Norm":
        """Not a number, because nobody can tell it."""
        value = torch.full((samples, places), math.nan, dtype=torch.float64, device=device)
        return cls(value, torch.full((samples, places), NAN, dtype=torch.int8, device=device))

    def lowered(self, decades: float) -> "Norm":
        """Of a gradient that was too large by so many decades."""
        return Norm(self.value - decades, self.status)

    def to(self, device: torch.device | str) -> "Norm":
        """The same on another device."""
        return Norm(self.value.to(device), self.status.to(device))

    def where(self, keep: Bool[Tensor, "sample place"], other: "Norm") -> "Norm":
        """The other's entry wherever ``keep`` does not hold."""
        return Norm(torch.where(keep, self.value, other.value), torch.where(keep, self.status, other.status))

    def at(self, places: Tensor) -> "Norm":
        """Those places alone, in that order."""
        return Norm(self.value[:, places], self.status[:, places])

    @staticmethod
    def joined(parts: "list[Norm]") -> "Norm":
        """Places side by side."""
        return Norm(torch.cat([part.value for part in parts], 1), torch.cat([part.status for part in parts], 1))


def difference(one: Scaled, other: Scaled) -> Scaled:
    """``one - other``; what has one scale, as most gradients have, need not be brought to one."""
    if torch.equal(one.exponent, other.exponent):
        return Scaled(one.mantissa - other.mantissa, one.exponent, one.reached | other.reached)
    return one - other


def share(total: Norm, direct: Norm, carried: Norm) -> Float[Tensor, "sample place"]:
    """‖carried‖ / (‖direct‖ + ‖carried‖), as ``probes/state_gradient`` has it."""
    none = (carried.status == ZERO) | (carried.status == CENSORED)
    part = torch.where(none, 0.0, 1 / (1 + 10 ** (direct.value - carried.value)))
    return torch.where(total.status == CENSORED, math.nan, part)  # nobody knows which part is lost


def floored(value: Float[Tensor, "sample place *state"], noise: Float[Tensor, "sample place *state"]) -> Norm:
    """The norm of a difference, censored where it is no larger than the rounding of what was subtracted."""
    norm, floor = Norm.of(Scaled.of(value)), Norm.of(Scaled.of(noise))
    lost = (norm.value <= floor.value) & (floor.status != ZERO)
    censored = Norm(floor.value, torch.full_like(floor.status, CENSORED))
    return norm.where(~lost, censored)
