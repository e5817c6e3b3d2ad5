r"""What a watch has seen: a table of norms for every step that it recorded, and nothing larger.

    total     ‖dL/dz_t‖     along every later path
    direct    ‖∂L/∂z_t‖     what does not come through the state that is handed on to later times
    carried   share of the total that does, ‖carried part‖ / (‖direct‖ + ‖carried part‖)

z_t one component of a layer's state, or a layer's output, at time t (t = -1: the state that was given to begin with).
Norms are of one sample, in log10, then their mean and quantiles over the batch. L is the loss as it was differentiated:
the mean over a batch carries its 1/batch. What a scaler put on it is taken off.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from retrograde.core.statistics import STATISTICS, linear_statistics, log10_statistics
from retrograde.core.statuses import STATUSES
from retrograde.watching.norms import Norm

if TYPE_CHECKING:  # pandas takes a third of a second; whoever asks for a table pays for it
    import pandas as pd

NOT_THERE = -1
"""In place of a status: the sample does not reach to that time."""

COLUMNS = {
    "total": "log10 of the norm of dL/dz_t, along every later path; per sample, then the statistic over the batch",
    "direct": "log10 of the norm of what does not come through the state that is handed on to later times",
    "carried": "share of the total that does, between 0 and 1",
    "time": "position in the sequence; -1: the state that was begun with; missing: the layer's output has no time",
    "step": "number of the forward that a gradient came back to, from 0",
    "call": "number of the layer's call within the step",
    "backward": "number of the differentiation within the step",
}
"""What the columns of a frame mean."""

HEAD_NUMBERS = ("entropy", "entropy_share", "confidence", "distance", "previous_token")


class Scaler(Protocol):
    """What scales a loss against underflow, as ``torch.amp.GradScaler``."""

    def get_scale(self) -> float:
        """The factor that the loss is multiplied by now."""


@dataclass(frozen=True)
class Measured:
    """The norms of one component of one call of a layer, sample by sample; ``times`` is None for what has no time."""

    layer: str
    component: str
    call: int
    times: Sequence[int] | None
    total: Norm
    direct: Norm
    carried: Tensor
    counts: Tensor


@dataclass(frozen=True)
class Heads:
    """What the heads of one call of an attention look at: numbers, each (head,), and a map of the first sample.

    A row and a column of the map stand for ``block`` queries and keys.
    """

    layer: str
    call: int
    numbers: dict[str, Tensor]
    map: Tensor
    block: tuple[int, int]


@dataclass(frozen=True)
class Block:
    """The numbers of one component in one pass, each (statistic or sample, place)."""

    step: int
    backward: int
    layer: str
    component: str
    call: int
    times: Sequence[int] | None
    total: np.ndarray
    direct: np.ndarray
    carried: np.ndarray
    status: np.ndarray
    direct_status: np.ndarray


@dataclass(frozen=True)
class HeadBlock:
    """The numbers of one call's heads in one pass, each (head,)."""

    step: int
    backward: int
    layer: str
    call: int
    numbers: dict[str, np.ndarray]


@dataclass(frozen=True)
class Map:
    """Where the first sample's queries looked, (head, query, key), in the last recorded step.

    ``queries`` and ``keys`` are the positions that each row and each column begins at.
    """

    layer: str
    call: int
    weights: np.ndarray
    queries: Sequence[int]
    keys: Sequence[int]


class Pending(Protocol):
    """What can be put together only when a pass is over."""

    def settled(self) -> Iterator[Measured]:
        """The norms, once."""


@dataclass(eq=False)
class Pass:
    """One differentiation, and what it has reported so far; ``decades`` are those that its loss was scaled by."""

    step: "Step"
    number: int
    decades: float
    measured: list[Measured] = field(default_factory=list)
    heads: list[Heads] = field(default_factory=list)
    pending: dict[Any, Any] = field(default_factory=dict)

    def parts(self) -> list[Measured]:
        """All that was measured, the parts that had to wait included."""
        waited = [part for pending in self.pending.values() for part in pending.settled()]
        parts = self.measured + waited
        for part in parts:
            if not len(part.counts):
                self.step.flow.leave_out(part.layer, "a batch without samples has no gradient to be measured")
        return [part for part in parts if len(part.counts)]


class Step:
    """The calls of a model's layers from one beginning to the next, and the differentiations that reach into them."""

    def __init__(self, flow: "Flow", number: int, recorded: bool, scaler: Scaler | None = None) -> None:
        self.flow = flow
        self.number = number
        self.recorded = recorded
        self.scaler = scaler
        self.reached = False  # by any gradient
        self.calls: Counter[str] = Counter()
        self.passes: dict[int, Pass] = {}
        self.ranks: dict[str, dict[int, int]] = {}
        self.outer: dict[int, int] = {}
        self.loops: dict[str, Any] = {}
        self.samples: int | None = None  # the batch's size, as far as it is known
        self.sure = False  # whether a layer that knows its batch axis has said so, or sizes have
        self.given: Sequence[int] = ()  # the shape of what the model was called with first

    def call(self, layer: str) -> int:
        """A number for the call that begins."""
        self.calls[layer] += 1
        return self.calls[layer] - 1

    def told(self, samples: int) -> None:
        """How large the batch is, by a layer that knows which axis is its."""
        self.samples = max(samples, self.samples or 0) if self.sure else samples
        self.sure = True

    def compare(self, shape: Sequence[int]) -> None:
        """See whether something without time tells that the batch comes first in what the model was given."""
        if len(self.given) > 1 and len(shape) < 3:
            batch, behind = self.given[:2]
            self.sure |= shape[0] == batch and behind not in shape

    def reach(self, gradient: Tensor) -> None:
        """A hook on what the model gave."""
        self.reached = True

    def within(self) -> int:
        """The differentiation that is under way, -1 where there is none; of nested ones the outermost."""
        number: int = torch._C._current_graph_task_id()
        while number in self.outer:
            number = self.outer[number]
        return number

    def passing(self, within: int = -1) -> Pass:
        """The pass under way, as one of this step's; ``within`` is that in which what reports was computed, if any.

        A checkpoint that is computed again inside a backward pass is differentiated by a pass of its own, which is a
        part of the outer one.
        """
        now: int = torch._C._current_graph_task_id()
        if within not in (-1, now):
            self.outer[now] = within
        number = self.within()
        self.reached = True
        if number not in self.passes:
            decades = 0.0 if self.scaler is None else math.log10(self.scaler.get_scale())
            self.passes[number] = Pass(self, len(self.passes), decades)
            self.flow.open.append(self.passes[number])
        return self.passes[number]

    def rank(self, layer: str, calls: Iterable[int]) -> None:
        """Number the calls of a layer that a gradient has reached: others are as if they had not been."""
        known = self.ranks.setdefault(layer, {})
        for call in sorted(calls):
            known.setdefault(call, len(known))


class Flow:
    """The tables. ``left_out`` says of every layer that could not be served, or not wholly, why."""

    def __init__(self, per_sample: bool = False) -> None:
        self.per_sample = per_sample
        self.sample_blocks: list[Block] = []
        self.left_out: dict[str, str] = {}
        self.open: list[Pass] = []
        self.blocks: list[Block] = []
        self.head_blocks: list[HeadBlock] = []
        self.last_maps: list[Map] = []
        self.why_empty: Callable[[], str] = lambda: "nothing was watched"

    def leave_out(self, layer: str, reason: str, warn: bool = False) -> None:
        """Name a layer and the reason, once."""
        if layer not in self.left_out:
            self.left_out[layer] = reason
            if warn:
                warnings.warn(f"retrograde.watch leaves out {layer}: {reason}", stacklevel=2)

    def frame(self, per_sample: bool = False) -> "pd.DataFrame":
        """One row for every step, layer, component, call, time and statistic (or sample).

        ``total`` and ``direct`` are log10, ``carried`` is a share; ``status`` and ``direct_status`` say what the first
        two are. Calls are numbered among those that a gradient reached; ``backward`` numbers the differentiations of
        one step. ``time`` is missing where a layer's output has none. What a column means stands in ``frame.attrs``.
        Raises RuntimeError where there is nothing, with the reason.
        """
        import pandas as pd

        if per_sample and not self.per_sample:
            raise ValueError(
                "single samples are kept where that is asked for: retrograde.watch(model, per_sample=True)"
            )
        self.settle()
        if not self.blocks:
            raise RuntimeError(self.why_empty())
        by = "sample" if per_sample else "statistic"
        blocks = self.sample_blocks if per_sample else self.blocks
        frame = pd.concat([pd.DataFrame(_rows(block, by)) for block in blocks], ignore_index=True)
        frame.attrs.update(COLUMNS)
        return frame

    def attention(self) -> "pd.DataFrame":
        """One row for every step, layer, call and head, with the numbers of ``probes/attention``; none without maps."""
        import pandas as pd

        self.settle()
        frames = [
            pd.DataFrame(
                {
                    "step": block.step,
                    "layer": block.layer,
                    "call": block.call,
                    "backward": block.backward,
                    "head": np.arange(len(block.numbers["entropy"])),
                    **block.numbers,
                }
            )
            for block in self.head_blocks
        ]
        columns = ["step", "layer", "call", "backward", "head", *HEAD_NUMBERS]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)

    def maps(self) -> list[Map]:
        """The first sample's attention maps in the last recorded step, in the order of the calls."""
        self.settle()
        return self.last_maps

    def settle(self) -> tuple[list[Block], list[HeadBlock]]:
        """Turn what passes have reported into tables; gives what is new."""
        passes, self.open = self.open, []
        blocks: list[Block] = []
        head_blocks: list[HeadBlock] = []
        for passing in passes:
            step = passing.step
            parts = passing.parts()
            calls: dict[str, set[int]] = {}
            for layer, call in [(part.layer, part.call) for part in parts] + [(h.layer, h.call) for h in passing.heads]:
                calls.setdefault(layer, set()).add(call)
            for layer, reached in calls.items():
                step.rank(layer, reached)
            blocks += [_block(passing, part) for part in parts]
            if self.per_sample:
                self.sample_blocks += [_block(passing, part, per_sample=True) for part in parts]
            for heads in passing.heads:
                numbers = {name: value.cpu().double().numpy() for name, value in heads.numbers.items()}
                head_blocks.append(
                    HeadBlock(step.number, passing.number, heads.layer, step.ranks[heads.layer][heads.call], numbers)
                )
            if passing.heads:
                self.last_maps = [_map(heads, step.ranks[heads.layer][heads.call]) for heads in passing.heads]
            passing.measured, passing.heads, passing.pending = [], [], {}
        self.blocks += blocks
        self.head_blocks += head_blocks
        return blocks, head_blocks


def _block(passing: Pass, part: Measured, per_sample: bool = False) -> Block:
    counts = part.counts.cpu()
    kept = counts.any(0)
    counts = counts[:, kept]
    total = part.total.lowered(passing.decades).to("cpu").at(kept)
    # what is total as it is, as an activation's gradient, need not be looked at twice
    direct = total if part.direct is part.total else part.direct.lowered(passing.decades).to("cpu").at(kept)
    carried = part.carried.cpu()[:, kept]
    times = None if part.times is None else [t for t, keep in zip(part.times, kept.tolist(), strict=True) if keep]
    if per_sample:
        values = [total.value, direct.value, carried]
        statuses = [torch.where(counts, norm.status, NOT_THERE) for norm in (total, direct)]
    else:
        of_total = log10_statistics(total.value, total.status, counts)
        of_direct = of_total if direct is total else log10_statistics(direct.value, direct.status, counts)
        of_carried = torch.zeros_like(of_total[0]) if direct is total else linear_statistics(carried, counts)
        values, statuses = [of_total[0], of_direct[0], of_carried], [of_total[1], of_direct[1]]
    return Block(
        passing.step.number,
        passing.number,
        part.layer,
        part.component,
        passing.step.ranks[part.layer][part.call],
        times,
        *(value.double().numpy() for value in values),
        *(status.numpy() for status in statuses),
    )


def _rows(block: Block, by: str) -> dict[str, Any]:
    import pandas as pd

    first, places = block.total.shape
    kept = (block.status != NOT_THERE).ravel()
    time: Any = pd.array([pd.NA] * places if block.times is None else list(block.times), dtype="Int64")
    coordinates = np.arange(first) if by == "sample" else np.array(STATISTICS)
    names = np.array(STATUSES)
    return {
        "step": block.step,
        "layer": block.layer,
        "component": block.component,
        "call": block.call,
        "backward": block.backward,
        "time": time.take(np.tile(np.arange(places), first)[kept]),
        by: np.repeat(coordinates, places)[kept],
        "total": block.total.ravel()[kept],
        "direct": block.direct.ravel()[kept],
        "carried": block.carried.ravel()[kept],
        "status": names[block.status.ravel()[kept]],
        "direct_status": names[block.direct_status.ravel()[kept]],
    }


def _map(heads: Heads, call: int) -> Map:
    weights = heads.map.cpu().float().numpy()
    queries, keys = (
        [place * block for place in range(length)] for length, block in zip(weights.shape[1:], heads.block, strict=True)
    )
    return Map(heads.layer, call, weights, queries, keys)
