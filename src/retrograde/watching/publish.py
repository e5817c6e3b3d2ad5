"""What a watch has seen, in a W&B run: means at log-spaced lags as scalars, and the whole table as a file.

    watch/total/<layer>.<component>/lag_<k>      0, 1, 2, 4, 8, … before what is read last; also direct, carried
    watch/total/<layer>.<component>              of what has no time
    watch/entropy/<layer>/<head>                 and the other numbers of attention's heads

The run is the user's, and so are its rows. Numbers are put into the row that the user is writing, one step's into
each; what finds none is sent when the watch ends. To begin rows of our own meanwhile would push W&B's count of steps
past those that a user gives, and W&B drops what then comes too late. The axis is ``watch/step``.
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import wandb

from retrograde.record.view import log_spaced
from retrograde.watching.flow import Block, Flow, HeadBlock

STEP = "watch/step"

_SENT: "WeakKeyDictionary[wandb.Run, int]" = WeakKeyDictionary()
"""The row of each run that numbers were last put into."""


class Sender:
    """Sends to a run that somebody else writes as well."""

    def __init__(self, run: wandb.Run) -> None:
        self.run = run
        self.waiting: list[dict[str, Any]] = []
        run.define_metric(STEP, hidden=True)
        run.define_metric("watch/*", step_metric=STEP)

    def send(self, blocks: Sequence[Block], heads: Sequence[HeadBlock]) -> None:
        """Put in line what is new, and the first in line into the user's row if it has none of ours yet."""
        self.waiting += [{**values, STEP: step} for step, values in by_step(blocks, heads)]
        if self.waiting and _SENT.get(self.run) != self.run.step:
            self._fill(self.waiting.pop(0))

    def close(self, flow: Flow) -> None:
        """Send the rest, and the table."""
        for row in self.waiting:
            if _SENT.get(self.run) == self.run.step:
                self.run.log({})  # ends the row that has some of ours
            self._fill(row)
        self.waiting = []
        attach(self.run, flow)

    def _fill(self, row: dict[str, Any]) -> None:
        _SENT[self.run] = self.run.step
        self.run.log(row, commit=False)


class LiveSender:
    """Sends to a run whose rows nobody counts, as Lightning's logger writes it: each step in a row of its own."""

    def __init__(self, run: wandb.Run, axis: str) -> None:
        self.run = run
        self.axis = axis

    def send(self, blocks: Sequence[Block], heads: Sequence[HeadBlock]) -> None:
        """Log what is new."""
        for step, values in by_step(blocks, heads):
            self.run.log({**values, self.axis: step})

    def close(self, flow: Flow) -> None:
        """Attach the table."""
        attach(self.run, flow)


def by_step(blocks: Sequence[Block], heads: Sequence[HeadBlock]) -> Iterator[tuple[int, dict[str, float]]]:
    """The numbers of each step."""
    for step in dict.fromkeys(block.step for block in blocks):
        mine = [block for block in blocks if block.step == step]
        yield step, scalars(mine, [head for head in heads if head.step == step])


def scalars(blocks: Sequence[Block], heads: Sequence[HeadBlock]) -> dict[str, float]:
    """The numbers of one step, by the names that they have in W&B; of several passes the last's."""
    logged: dict[str, float] = {}
    for block in blocks:
        where = f"{block.layer}.{block.component}" + (f".{block.call}" if block.call else "")
        values = {"total": block.total}
        if block.times is not None and not np.array_equal(block.total, block.direct, equal_nan=True):
            values |= {"direct": block.direct, "carried": block.carried}
        for quantity, (mean, *_) in values.items():
            if block.times is None:
                logged[f"watch/{quantity}/{where}"] = float(mean[0])
                continue
            backward = re.search(r"\.\d+\.backward$", block.layer)  # a direction of a fused layer, which ends at 0
            last = 0 if backward else max(block.times)
            at = {abs(last - time): float(value) for time, value in zip(block.times, mean, strict=True)}
            logged |= {
                f"watch/{quantity}/{where}/lag_{lag}": at[lag] for lag in log_spaced(max(at)).tolist() if lag in at
            }
    for head in heads:
        where = head.layer + (f".{head.call}" if head.call else "")
        for quantity, numbers in head.numbers.items():
            logged |= {
                f"watch/{quantity}/{where}/{place}": float(value)
                for place, value in enumerate(numbers)
                if not math.isnan(value)
            }
    return logged


def attach(run: wandb.Run, flow: Flow) -> None:
    """The tables as files of the run; a second watch of the same run has files of its own."""
    if not flow.blocks:
        return
    folder = Path(run.dir) / "retrograde"
    folder.mkdir(exist_ok=True)
    number = len(list(folder.glob("watch*.parquet")))
    tables = {f"watch{number or ''}.parquet": flow.frame()}
    if flow.head_blocks:
        tables[f"attention{number or ''}.parquet"] = flow.attention()
    for name, table in tables.items():
        table.to_parquet(folder / name)
        run.save(str(folder / name), base_path=run.dir, policy="end", glob=False)
