"""One optimiser step for all members of an ensemble, and their own optimisers' states in and out.

An optimiser that treats every entry by itself does to stacked weights what it does to each member's. Each member keeps
its own optimiser, whose settings count, so that a schedule set on it goes on as it would alone; what the steps
remember is kept stacked, and handed back whenever it is asked for.
"""

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from retrograde.core.contracts import SequenceModel
from retrograde.core.ensemble import Ensemble

SHAPES: tuple[tuple[int, ...], ...] = ((3, 4), (4,), ())
STEPS = 3
SAME = 1e-12
"""Of what an optimiser is tried on: shapes of parameters, steps, and how far two forms of float64 may differ."""


class NotElementwise(ValueError):
    """An optimiser that lets one entry of a parameter act on another."""


class JointOptimizer:
    """The members' optimisers as one, or as one for each run of members with the same settings and steps behind them.

    ``optimizers`` are the members' own, in the ensemble's order. Raises NotElementwise for one that mixes entries.
    """

    def __init__(self, ensemble: Ensemble, optimizers: Sequence[Optimizer]) -> None:
        if len(optimizers) != len(ensemble):
            raise ValueError(f"{len(ensemble)} members need an optimizer each, not {len(optimizers)}")
        self.ensemble = ensemble
        self.optimizers = list(optimizers)
        self._entries: dict[int, frozenset[str]] = {}
        for optimizer in self.optimizers:
            self._try(optimizer)
        self._parts: list[_Part] = []
        self._divide()

    def step(self) -> None:
        """One step of every member, each with the settings that its own optimiser has by now."""
        if any(part.apart(self.optimizers) for part in self._parts):
            self.settle()
            self._divide()
        for part in self._parts:
            for shared, own in zip(part.joint.param_groups, self.optimizers[part.rows.start].param_groups, strict=True):
                shared.update(_settings(own))
            for name, stacked in part.stacked.items():
                gradient = self.ensemble.leaves[name].grad
                stacked.grad = None if gradient is None else gradient[part.rows]
            part.joint.step()
        for optimizer in self.optimizers:
            optimizer._opt_called = True  # type: ignore[attr-defined]  # what a scheduler asks before it moves on

    def settle(self) -> None:
        """Hand every member's own optimiser the state that it would have had by itself, as copies."""
        for part in self._parts:
            for at in range(part.rows.start, part.rows.stop):
                own = dict(self.ensemble.members[at].named_parameters())
                self.optimizers[at].state = defaultdict(
                    dict,
                    {
                        own[name]: {
                            key: value[at - part.rows.start].clone() if key in part.entries else _copied(value)
                            for key, value in part.joint.state[stacked].items()
                        }
                        for name, stacked in part.stacked.items()
                        if stacked in part.joint.state
                    },
                )

    def leave(self, member: int) -> tuple[SequenceModel, Optimizer]:
        """The member and its optimiser, on their own from now on, after the last step; the others go on."""
        self.settle()
        left = self.ensemble.leave(member), self.optimizers.pop(member)
        self._divide()
        return left

    def join(self, model: SequenceModel, optimizer: Optimizer) -> None:
        """One more member, as it and its optimiser are."""
        self._try(optimizer)
        self.settle()
        self.ensemble.join(model)
        self.optimizers.append(optimizer)
        self._divide()

    def _try(self, optimizer: Optimizer) -> None:
        if not any(optimizer is other and id(other) in self._entries for other in self.optimizers):
            self._entries[id(optimizer)] = stacked_entries(optimizer)

    def _divide(self) -> None:
        """Runs of neighbours whose settings and steps are the same, and their states stacked."""
        names: list[dict[Tensor, str]] = [
            {parameter: name for name, parameter in m.named_parameters()} for m in self.ensemble.members
        ]
        said = [self._alike(at, names[at]) for at in range(len(names))]
        starts = [at for at in range(len(said)) if at == 0 or said[at] != said[at - 1]]
        self._parts = [self._part(slice(*ends), names) for ends in pairwise([*starts, len(said)])]

    def _alike(self, at: int, names: Mapping[Tensor, str]) -> Any:
        """All that two members must share to be stepped as one."""
        optimizer, entries = self.optimizers[at], self._entries[id(self.optimizers[at])]
        unknown = [p for group in optimizer.param_groups for p in group["params"] if p not in names]
        if unknown:
            raise ValueError(f"the optimizer of member {at} holds a parameter that its model does not")
        groups = [({names[p] for p in group["params"]}, _settings(group)) for group in optimizer.param_groups]
        state = {
            names[p]: {key: key in entries or _plain(value) for key, value in kept.items()}
            for p, kept in optimizer.state.items()
        }
        return type(optimizer), entries, groups, state

    def _part(self, rows: slice, names: Sequence[Mapping[Tensor, str]]) -> "_Part":
        members = range(rows.start, rows.stop)
        first = self.optimizers[rows.start]
        entries = self._entries[id(first)]
        stacked: dict[str, Tensor] = {}
        groups = []
        for group in first.param_groups:
            of_group = [names[rows.start][p] for p in group["params"]]
            stacked |= {name: self.ensemble.leaves[name].detach()[rows] for name in of_group}
            groups.append(_settings(group) | {"params": [stacked[name] for name in of_group]})
        joint = _like(first, groups)
        own = [{names[at][p]: kept for p, kept in self.optimizers[at].state.items()} for at in members]
        for name, kept in own[0].items():
            joint.state[stacked[name]] = {
                key: torch.stack([each[name][key] for each in own]) if key in entries else _copied(value)
                for key, value in kept.items()
            }
        return _Part(rows, joint, stacked, entries)


@dataclass(frozen=True)
class _Part:
    """Members that are stepped as one; ``stacked`` are their rows of the leaves."""

    rows: slice
    joint: Optimizer
    stacked: dict[str, Tensor]
    entries: frozenset[str]

    def apart(self, optimizers: Sequence[Optimizer]) -> bool:
        """Whether a schedule has told one of them something else than the others."""
        first, *others = optimizers[self.rows]
        return any(
            _settings(one) != _settings(other)
            for each in others
            for one, other in zip(first.param_groups, each.param_groups, strict=True)
        )


def stacked_entries(optimizer: Optimizer) -> frozenset[str]:
    """What the optimiser keeps for every entry of a parameter, by name; the rest it keeps once for a parameter.

    Found by trying it, with its own settings: two sets of parameters stepped together and each alone have to come to
    the same. Raises NotElementwise otherwise.
    """
    kind = type(optimizer).__name__
    generator = torch.Generator().manual_seed(0)

    def drawn() -> list[Tensor]:
        return [
            torch.randn(2, *shape, generator=generator, dtype=torch.float64)
            for _ in optimizer.param_groups
            for shape in SHAPES
        ]

    begun, gradients = drawn(), [drawn() for _ in range(STEPS)]
    found = []
    try:
        for rows in (slice(0, 2), 0, 1):
            parameters = [value[rows].clone() for value in begun]
            each = iter(parameters)
            groups = [
                copy.deepcopy(_settings(group)) | {"params": [next(each) for _ in SHAPES]}
                for group in optimizer.param_groups
            ]
            tried = _like(optimizer, groups)
            for of_step in gradients:
                for parameter, gradient in zip(parameters, of_step, strict=True):
                    parameter.grad = gradient[rows].clone()
                tried.step()
            found.append((tried, parameters))
    except Exception as error:  # whatever an optimiser of another kind asks for
        raise NotElementwise(f"{kind} cannot step several models at once: {error}") from error
    (joint, together), *alone = found
    entries = {
        key
        for parameter in together
        for key, value in joint.state[parameter].items()
        if isinstance(value, Tensor) and value.dim() and value.shape == parameter.shape
    }
    for at, (own, parameters) in enumerate(alone):
        for parameter, stacked in zip(parameters, together, strict=True):
            kept, both = own.state[parameter], joint.state[stacked]
            same = kept.keys() == both.keys() and _close(parameter, stacked[at])
            if not same or not all(_close(kept[k], both[k][at] if k in entries else both[k]) for k in kept):
                raise NotElementwise(f"{kind} cannot step several models at once: its entries act on each other")
    return frozenset(entries)


def _like(optimizer: Optimizer, groups: list[dict[str, Any]]) -> Optimizer:
    """The same kind of optimiser with other parameters and no state yet."""
    made = copy.copy(optimizer)
    made.state = defaultdict(dict)
    made.param_groups = groups
    return made


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.allclose(one, other, rtol=SAME, atol=SAME, equal_nan=True)
    return bool(one == other)
