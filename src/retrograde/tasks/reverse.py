"""String reversal: the symbols of a string, last first."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import END, START, Baseline, Task, Tokens
from retrograde.core.records import Batch

FIRST = 2
"""Where the symbols begin among those of the target, behind END and START."""


@dataclass(frozen=True)
class Reverse(Task):
    """A string of ``symbols`` different symbols is to be said backwards, and ended with ``<eos>``.

    Lengths are uniform from ``shortest`` to ``longest``. The decoder reads ``<sos>`` and then the target itself, one
    position behind. Scored are the string's positions and the one of ``<eos>``.

    A lag counts positions as if the target were written behind the source: the last symbol of the source stands next
    to where it is due, the first is due after everything else.

    Source: Delétang et al. 2022, arXiv:2207.02098, "Reverse String".
    Differs: a target with its own axis and ``<eos>``; the paper feeds a model as many empty symbols as are due.

    >>> task = Reverse(symbols=2, shortest=3, longest=4)
    >>> batch = task.sample(1, torch.Generator().manual_seed(0))
    >>> task.labels(batch)[0], batch.targets[0].tolist()
    (['1', '1', '0', ''], [2, 3, 3, 0, 0])
    >>> batch.decoder_inputs[0].tolist(), task.lags(batch).tolist()
    ([1, 2, 3, 3, 0], [5, 3, 1])
    """

    kind = "transduce"

    symbols: int = 2
    shortest: int = 1
    longest: int = 10

    def __post_init__(self) -> None:
        require_at_least("symbols", self.symbols, 2)
        require_at_least("shortest", self.shortest, 1)
        require_at_least("longest", self.longest, self.shortest)

    @property
    def inputs(self) -> Tokens:
        return Tokens(self.symbols)

    @property
    def outputs(self) -> Tokens:
        return Tokens(FIRST + self.symbols)

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        draw: dict[str, Any] = {"generator": generator, "device": generator.device}
        lengths = torch.randint(self.shortest, self.longest + 1, (count,), **draw)
        inputs = torch.randint(self.symbols, (count, self.longest), **draw)
        time = torch.arange(self.longest + 1, device=generator.device)
        last = lengths[:, None]
        inputs = inputs.where(time[:-1] < last, 0)
        targets = (FIRST + inputs.gather(1, (last - 1 - time).clamp(min=0).clamp(max=self.longest - 1))).where(
            time < last, END
        )
        started = torch.cat([torch.full_like(last, START), targets[:, :-1]], 1)
        return Batch(inputs, targets, time <= last, lengths, started, lengths + 1)

    def loss(self, outputs: Float[Tensor, "batch target size"], batch: Batch) -> Float[Tensor, "batch target"]:
        """The cross-entropy in nats."""
        return cross_entropy(outputs.flatten(0, 1), batch.targets.flatten(), reduction="none").view_as(batch.targets)

    def score(self, outputs: Float[Tensor, "batch target size"], batch: Batch) -> Float[Tensor, "batch target"]:
        """1 where the likeliest symbol is the right one, else 0."""
        return (outputs.argmax(2) == batch.targets).to(outputs.dtype)

    def lags(self, batch: Batch) -> Int[Tensor, " pieces"]:
        """From each symbol of the source to where it is due."""
        time = torch.arange(batch.length, device=batch.lengths.device)
        return (2 * (batch.lengths[:, None] - time) - 1)[time < batch.lengths[:, None]]

    def labels(self, batch: Batch) -> list[list[str]]:
        """Symbols as numbers; padding is empty."""
        return [
            [str(symbol) for symbol in sample[:length]] + [""] * (batch.length - length)
            for sample, length in zip(batch.inputs.tolist(), batch.lengths.tolist(), strict=True)
        ]

    def target_labels(self, batch: Batch) -> list[list[str]]:
        """Symbols as numbers, "." for ``<eos>``; padding is empty."""
        assert batch.target_lengths is not None  # ``sample`` sets them
        return [
            ["." if symbol == END else str(symbol - FIRST) for symbol in sample[:length]]
            + [""] * (len(sample) - length)
            for sample, length in zip(batch.targets.tolist(), batch.target_lengths.tolist(), strict=True)
        ]

    def describe(self) -> Mapping[str, Any]:
        lengths = range(self.shortest, self.longest + 1)
        share = sum(length / (length + 1) for length in lengths) / len(lengths)
        guess = Baseline(
            "the right length of random symbols",
            share * log(self.symbols),
            share / self.symbols + 1 - share,
            "n/(n+1) positions hold a symbol, each a uniform guess; the last is <eos>",
        )
        return {
            "variant": f"strings of {self.shortest} to {self.longest} of {self.symbols} symbols, said backwards",
            "scored": "every position of the target, <eos> included",
            "score": "share of the target's symbols that are right, <eos> included",
            "solved": 0.99,
            "baselines": (guess,),
        }
