"""The copying problem: keep a few symbols over a long blank, then say them in order."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from retrograde.core.choices import require_one_of
from retrograde.core.contracts import Baseline, Task, Tokens
from retrograde.core.records import Batch

BLANK = 0

SOURCES: Mapping[tuple[str, bool, str], str] = {
    ("one", True, "all"): "as in uRNN",
    ("one", False, "all"): "as in expRNN",
    ("every", True, "all"): "as in TCN",
    ("every", False, "answer"): "as in S4",
}


@dataclass(frozen=True)
class Copying(Task):
    """K symbols come in, then T blanks, then the same K symbols have to come out while nothing new comes in.

    K is ``recall``, T is ``length``. There are always T + 2K positions, and the answer is due at the last K,
    so every symbol has to be kept for exactly T + K positions. Token 0 is the blank, 1 to ``symbols`` are
    drawn with repetition, ``symbols`` + 1 is the marker; outside the answer the right output is the blank.

    The sources differ in what tells the network to begin, and in what the loss counts:

        delimiter  announced  scored
        one        True       all      uRNN: Arjovsky et al. 2016, arXiv:1511.06464, memory_problem.py
        one        False      all      expRNN: Lezcano & Martínez-Rubio 2019, arXiv:1901.08428, 1_copying.py
        every      True       all      TCN: Bai et al. 2018, arXiv:1803.01271, copy_memory/utils.py
        every      False      answer   S4: Gu et al. 2022, arXiv:2111.00396, datasets/copying.py

    ``delimiter``: one marker where the answer begins, or one at every position of it. ``announced``: the
    first marker comes a position ahead of the answer, in place of the last blank (so "every" makes K + 1 of
    them); otherwise the first symbol is due while the marker is being read. ``scored``: every position, or
    the answer alone: two scales of the loss that differ by (T + 2K)/K.

    The score looks at the answer in either case: a right symbol counts (scored positions)/K and every other
    position 0, so that the mean over the scored positions is the share of symbols that are right.

    Differs: the marker is no output, as in the first two; TCN and S4 have it as one that is never right.

    >>> task = Copying(length=3, recall=2)
    >>> batch = task.sample(1, torch.Generator().manual_seed(0))
    >>> print(*task.labels(batch)[0])
    5 8 _ _ _ | _
    >>> print(*batch.targets[0].tolist())
    0 0 0 0 0 5 8
    >>> announced = Copying(length=3, recall=2, delimiter="every", announced=True)
    >>> print(*announced.labels(announced.sample(1, torch.Generator().manual_seed(0)))[0])
    5 8 _ _ | | |
    """

    kind = "aligned"

    length: int = 50
    symbols: int = 8
    recall: int = 10
    delimiter: Literal["one", "every"] = "one"
    announced: bool = False
    scored: Literal["all", "answer"] = "all"

    def __post_init__(self) -> None:
        for name, known in (("delimiter", ("one", "every")), ("scored", ("all", "answer"))):
            require_one_of(name, getattr(self, name), known)
        if self.announced and self.length < 1:
            raise ValueError(f"length must be at least 1 for announced=True, not {self.length}")
        for name, least in (("length", 0), ("symbols", 2), ("recall", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")

    @property
    def inputs(self) -> Tokens:
        return Tokens(self.symbols + 2)

    @property
    def outputs(self) -> Tokens:
        return Tokens(self.symbols + 1)

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        device = generator.device
        time = self.length + 2 * self.recall
        answer = time - self.recall
        marker = self.symbols + 1
        symbols = torch.randint(1, marker, (count, self.recall), generator=generator, device=device)
        inputs = torch.full((count, time), BLANK, device=device)
        inputs[:, : self.recall] = symbols
        cue = answer - self.announced
        inputs[:, cue : cue + 1 if self.delimiter == "one" else time] = marker
        targets = torch.full((count, time), BLANK, device=device)
        targets[:, answer:] = symbols
        scored = torch.ones(count, time, dtype=torch.bool, device=device)
        if self.scored == "answer":
            scored[:, :answer] = False
        return Batch(inputs, targets, scored, lengths=torch.full((count,), time, device=device))

    def loss(self, outputs: Float[Tensor, "batch time size"], batch: Batch) -> Float[Tensor, "batch time"]:
        """The cross-entropy in nats."""
        losses = cross_entropy(outputs.flatten(0, 1), batch.targets.flatten(), reduction="none")
        return losses.view_as(batch.targets)

    def score(self, outputs: Float[Tensor, "batch time size"], batch: Batch) -> Float[Tensor, "batch time"]:
        """Zero but at the answer's right symbols; its mean over scored positions is their share."""
        right = (outputs.argmax(2) == batch.targets).to(outputs.dtype)
        right[:, : -self.recall] = 0
        return right * batch.scored.sum(1, keepdim=True) / self.recall

    def lags(self, batch: Batch) -> Int[Tensor, " pieces"]:
        """T + K for each symbol. The marker, at most K back, is not counted."""
        pieces = len(batch) * self.recall
        return torch.full((pieces,), self.length + self.recall, device=batch.inputs.device)

    def labels(self, batch: Batch) -> list[list[str]]:
        """Symbols as their numbers, "_" for a blank, "|" for a marker."""
        names = ["_", *(str(symbol) for symbol in range(1, self.symbols + 1)), "|"]
        return [[names[token] for token in sample] for sample in batch.inputs.tolist()]

    def describe(self) -> Mapping[str, Any]:
        positions = self.length + 2 * self.recall
        source = SOURCES.get((self.delimiter, self.announced, self.scored), "unpublished")
        cue = "1 marker" if self.delimiter == "one" else f"{self.recall + self.announced} markers"
        if self.announced:
            cue += ", the first ahead of the answer"
        if self.scored == "all":
            scored, why = f"all {positions} positions", "K ln(symbols)/(T + 2K)"
            share = self.recall / positions
        else:
            scored, why = f"the last {self.recall} positions", "ln(symbols)"
            share = 1.0
        guess = Baseline("blanks, then a uniform guess", share * log(self.symbols), 1 / self.symbols, why)
        return {
            "variant": f"{self.recall} of {self.symbols} symbols, T = {self.length}, {cue} ({source})",
            "scored": scored,
            "score": "share of the answer's symbols that are right",
            "solved": 0.99,
            "baselines": (guess,),
        }
