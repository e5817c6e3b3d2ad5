"""The gradients of a cell's states along one loop, put together when a backward pass has gone through it.

Norms are taken of many times together, and the gradients let go; a gradient that has underflown on its way back is told
from one that has no way to the loss by the later states, which have one.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from retrograde.core.scaled import Scaled
from retrograde.core.statuses import CENSORED, ZERO
from retrograde.watching.flow import Measured, Pass
from retrograde.watching.norms import Norm, floored, share

AT_ONCE = 64
"""Times whose gradients are held until their norms are taken together."""

ROUNDING = 16
"""By how many units in the last place two ways to the same derivative may differ."""


@dataclass(eq=False)
class Loop:
    """All calls of one cell in one step. ``names`` are its states' where the type tells them."""

    layer: str
    names: tuple[str, ...]
    states: set[int] = field(default_factory=set)
    within: set[int] = field(default_factory=set)
    refused: bool = False

    def name(self, place: int) -> str:
        """What the result at that place is called."""
        if self.names:
            return self.names[place]
        if place in self.states:
            return "state" if len(self.states) == 1 else f"state.{sorted(self.states).index(place)}"
        return "output" if place == 0 else f"output.{place}"


@dataclass(eq=False)
class Strand:
    """Calls that follow one another, from ``start``; ``last`` is the time of the latest."""

    number: int
    start: int
    last: int

    @property
    def is_loop(self) -> bool:
        return self.last > self.start


@dataclass(eq=False)
class Turn:
    """One call in a strand."""

    loop: Loop
    strand: Strand
    time: int
    handed: bool = False
    places: set[int] = field(default_factory=set)
    changed: set[int] = field(default_factory=set)
    opening: Callable[[], Tensor] | None = None  # ∂h/∂c of an LSTM
    fused: bool = False

    def known(self, place: int) -> bool:
        """Whether the direct part can be told from the carried one."""
        if self.opening is not None and 0 in self.changed:
            return False  # a part of what comes to an LSTM's cell has come through its hidden state
        return place not in self.changed and place not in self.loop.within


def gathered(passing: Pass, turn: Turn) -> "Gathered":
    """What a pass has gathered along the strand of a turn."""
    if turn.strand not in passing.pending:
        passing.pending[turn.strand] = Gathered(turn.loop, turn.strand)
    found: Gathered = passing.pending[turn.strand]
    return found


@dataclass(frozen=True)
class Taken:
    """The gradient at one state: what came through later calls, and the rest."""

    turn: Turn
    rest: Tensor
    carried: Tensor
    opening: Tensor | None


@dataclass(frozen=True)
class Stretch:
    """Norms of one component at some times."""

    times: list[int]
    total: Norm
    direct: Norm
    carried: Norm
    counts: Tensor
    smallest: float


class Gathered:
    """The gradients along one strand in one pass: norms are taken of many times together, and the gradients let go."""

    def __init__(self, loop: Loop, strand: Strand) -> None:
        self.loop = loop
        self.strand = strand
        self.raw: dict[int, dict[int, Taken]] = {}
        self.stretches: dict[int, list[Stretch]] = {}

    def take(self, time: int, place: int, turn: Turn, rest: Tensor, carried: Tensor | None) -> None:
        """One state's gradient. Times come from the last to the first."""
        if time not in self.raw and len(self.raw) >= AT_ONCE:
            self._take_norms()
        if rest.ndim == 1:
            rest, carried = rest.unsqueeze(0), None if carried is None else carried.unsqueeze(0)
        # of the weights as they are in this pass: later they may have learnt
        opening = turn.opening() if place == 1 and turn.opening is not None and time == turn.time else None
        through = torch.zeros_like(rest) if carried is None else carried
        self.raw.setdefault(time, {})[place] = Taken(turn, rest, through, opening)

    def settled(self) -> Iterator[Measured]:
        """Each component over all its times."""
        self._take_norms()
        for place, stretches in self.stretches.items():
            yield self._over_time(place, stretches)

    def _take_norms(self) -> None:
        alike: dict[tuple[int, Any], list[int]] = {}
        for time, taken in sorted(self.raw.items()):
            for place, one in taken.items():
                alike.setdefault((place, one.rest.shape[1:]), []).append(time)
        for (place, _), times in alike.items():
            self.stretches.setdefault(place, []).append(self._stretch(place, times))
        self.raw = {}

    def _stretch(self, place: int, times: list[int]) -> Stretch:
        taken = [self.raw[time][place] for time in times]
        samples = max(len(one.rest) for one in taken)
        counts = torch.stack([torch.arange(samples, device=one.rest.device) < len(one.rest) for one in taken], 1)
        rest, carried = (_stacked([getattr(one, part) for one in taken], samples) for part in ("rest", "carried"))
        total, direct, through = (Norm.of(Scaled.of(value)) for value in (rest + carried, rest, carried))
        openings = [one.opening for one in taken]
        if any(opening is not None for opening in openings):
            hidden = [self.raw[time].get(0) for time in times]
            total, direct, through = _through_hidden(taken, hidden, rest, carried, samples)
        told = [one.turn.known(place) or time < one.turn.time for one, time in zip(taken, times, strict=True)]
        known = torch.tensor(told, device=rest.device)
        unknown = Norm.unknown(samples, len(times), rest.device)
        keep = known.expand(samples, -1)
        smallest = math.log10(torch.finfo(rest.dtype).smallest_normal)
        return Stretch(times, total, direct.where(keep, unknown), through.where(keep, unknown), counts, smallest)

    def _over_time(self, place: int, stretches: list[Stretch]) -> Measured:
        samples = max(len(stretch.counts) for stretch in stretches)
        device = stretches[0].counts.device
        times = [time for stretch in stretches for time in stretch.times]
        # what lies behind the last state that the loss knows of has no way to it
        behind = list(range(max(times) + 1, self.strand.last + 1))
        some = Norm.nothing(samples, len(behind), device)
        parts = [[_grown(getattr(one, part), samples) for one in stretches] for part in ("total", "direct", "carried")]
        total, direct, carried = (Norm.joined([*part, some]) for part in parts)
        there = [nn.functional.pad(one.counts, (0, 0, 0, samples - len(one.counts))) for one in stretches]
        counts = torch.cat(there, 1)
        latest = max(range(len(times)), key=times.__getitem__)
        counts = torch.cat([counts, counts[:, latest : latest + 1].expand(-1, len(behind))], 1)
        times += behind
        order = torch.tensor(sorted(range(len(times)), key=times.__getitem__), device=device)
        total, direct, carried, counts = total.at(order), direct.at(order), carried.at(order), counts[:, order]
        if place in self.loop.states:
            later = (total.status != ZERO).flip(1).cummax(1).values.flip(1)
            lost = (total.status == ZERO) & later  # a later state has a gradient, and hands it on
            floor = Norm(torch.full_like(total.value, stretches[0].smallest), torch.full_like(total.status, CENSORED))
            total = floor.where(lost, total)
        return Measured(
            self.loop.layer,
            self.loop.name(place),
            self.strand.number,
            sorted(times),
            total,
            direct,
            share(total, direct, carried),
            counts,
        )


def _through_hidden(
    taken: list[Taken], hidden: list[Taken | None], rest: Tensor, carried: Tensor, samples: int
) -> tuple[Norm, Norm, Norm]:
    """Total, direct and carried norms of an LSTM's cell, the way through the hidden state of the same time counted."""
    openings, rests, carrieds = [], [], []
    for cell_, at in zip(taken, hidden, strict=True):
        nothing = torch.zeros_like(cell_.rest)
        opens = cell_.opening is not None and at is not None
        openings.append(cell_.opening if opens and cell_.opening is not None else nothing)
        rests.append(at.rest if opens and at is not None else nothing)
        carrieds.append(at.carried if opens and at is not None else nothing)
    opening, hidden_rest, hidden_carried = (_stacked(part, samples) for part in (openings, rests, carrieds))
    through = opening * hidden_carried
    fused = torch.tensor([one.turn.fused for one in taken], device=rest.device)
    apart = _shaped(fused, rest)  # autograd has not brought the hidden state's gradient to the cell
    whole = torch.where(apart, rest + opening * hidden_rest, rest)
    direct = torch.where(apart, whole, rest - through)
    total = torch.where(apart, whole + carried + through, rest + carried)
    noise = torch.where(apart, 0.0, ROUNDING * torch.finfo(rest.dtype).eps * hidden_carried)
    # before the first call nothing was opened
    opened = torch.tensor([one.opening is not None for one in taken], device=rest.device)
    noise = torch.where(_shaped(opened, rest), noise, 0.0)
    return Norm.of(Scaled.of(total)), floored(direct, noise), Norm.of(Scaled.of(carried + through))


def _stacked(parts: Sequence[Tensor], samples: int) -> Tensor:
    """(sample, time, …) of tensors that have fewer samples where some sequences have ended."""
    return torch.stack(
        [nn.functional.pad(part, (0, 0) * (part.ndim - 1) + (0, samples - len(part))) for part in parts], 1
    )


def _shaped(flags: Tensor, like: Tensor) -> Tensor:
    return flags.reshape(1, -1, *(1,) * (like.ndim - 2))


def _grown(norm: Norm, samples: int) -> Norm:
    missing = samples - len(norm.value)
    if not missing:
        return norm
    nothing = Norm.nothing(missing, norm.value.shape[1], norm.value.device)
    return Norm(torch.cat([norm.value, nothing.value]), torch.cat([norm.status, nothing.status]))
