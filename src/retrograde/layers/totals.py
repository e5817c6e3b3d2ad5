"""How the layers of a ``torch.nn`` module stand on a batch, and how the gradients of their states are told of."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from retrograde.core.adjoint import reading_order
from retrograde.core.records import State, StateGradient
from retrograde.core.scaled import Scaled

Report = Callable[[str, StateGradient, Int[Tensor, " batch"]], None]
"""Is told the place, ``layer.direction.component``, the gradient there, and the lengths of the samples."""

DIRECTIONS = ("forward", "backward")


@dataclass(frozen=True)
class Gradients:
    """Of every state as a node, initial one first, by component; each to be multiplied by 2^exponent.

    A cell's include the path through the hidden state of the same time.
    """

    total: State
    exponent: Int[Tensor, "states batch"]
    reached: Bool[Tensor, "states batch"]
    direct: State
    direct_exponent: Int[Tensor, "states batch"]
    direct_reached: Bool[Tensor, "states batch"]


@dataclass(frozen=True)
class Stack:
    """The layers of a module on a batch: time is the first axis and the batch the second, in all that passes here.

    ``mode`` is the name that ``torch.nn`` has for their kind, ``weights`` are the names of those that each has.
    ``anchored`` says whether there is a way back, to tell of totals, where nothing learns, and ``compiled`` whether
    ``layers/compiled.py`` goes both ways.
    """

    mode: str
    layers: int
    directions: int
    weights: tuple[str, ...]
    dropout: float
    time: int
    lengths: Int[Tensor, " batch"]
    ragged: bool
    report: Report
    anchored: bool = True
    compiled: bool = False

    @cached_property
    def _order(self) -> Int[Tensor, "time batch"]:
        return reading_order(self.time, self.lengths).t()

    @property
    def ends(self) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
        """Where, in the order in which a direction reads, each sample is read to its end."""
        return self.lengths - 1, torch.arange(len(self.lengths), device=self.lengths.device)

    @cached_property
    def padding(self) -> Bool[Tensor, "time batch"]:
        """Beyond a sample's length, in either order."""
        return torch.arange(self.time, device=self.lengths.device).unsqueeze(1) >= self.lengths

    def read(self, value: Shaped[Tensor, "time batch *width"], direction: int) -> Shaped[Tensor, "time batch *width"]:
        """The order of time ↔ the order in which a direction reads: each sample from its own end; padding last."""
        if direction == 0:
            return value
        return value[self._order, self.ends[1]] if self.ragged else value.flip(0)

    def at_ends(self, value: Float[Tensor, "batch width"]) -> Float[Tensor, "time batch width"]:
        """Zeros but at each sample's end."""
        placed = value.new_zeros(self.time, *value.shape)
        placed[self.ends] = value
        return placed

    def tell(self, layer: int, direction: int, gradients: Gradients) -> None:
        """Of each component in the order of time."""
        times = range(0, self.time + 1) if direction else range(-1, self.time)

        def shown(value: Tensor, exponent: Tensor, reached: Tensor) -> Scaled:
            return Scaled(*(self._in_time(part, direction) for part in (value, exponent, reached)))

        for component, total in gradients.total.items():
            gradient = StateGradient(
                shown(total, gradients.exponent, gradients.reached),
                shown(gradients.direct[component], gradients.direct_exponent, gradients.direct_reached),
                times,
            )
            self.report(f"{layer}.{DIRECTIONS[direction]}.{component}", gradient, self.lengths)

    def _in_time(self, states: Tensor, direction: int) -> Tensor:
        """States as they are made, initial one first → (batch, states, …) in the order of time."""
        if direction:
            states = torch.cat([self.read(states[1:], direction), states[:1]])
        return states.transpose(0, 1)
