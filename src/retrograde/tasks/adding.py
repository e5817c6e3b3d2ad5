"""The adding problem: two marked numbers in a long stream, their sum at its end."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from retrograde.core.choices import require_one_of
from retrograde.core.contracts import Baseline, Reals, Task
from retrograde.core.records import Batch

SHORTEST: Mapping[str, int] = {
    "first_ten": 20,  # below, one of the first ten pairs would lie beyond the first half
    "one_per_half": 2,
    "any_two": 2,
}


@dataclass(frozen=True)
class Adding(Task):
    """Every input is a pair (value, marker); two pairs are marked, and the last output is their values' sum.

    Three forms are published, and they differ in how far back the marks lie (T is ``length``):

    - ``one_per_half``: values U[0,1], T pairs, one mark anywhere in each half; where T is odd, the second
      half has one pair more. The target is X₁ + X₂. Arjovsky et al. 2016, arXiv:1511.06464, and their
      adding_problem.py.
    - ``any_two``: the same with two different pairs out of all T. Bai et al. 2018, arXiv:1803.01271, and
      their adding_problem/utils.py.
    - ``first_ten``: values U[-1,1], a random length from T to T + T/10, one mark among the first ten pairs,
      the other among the first T/2 - 1 pairs still unmarked, target 0.5 + (X₁ + X₂)/4. The marker is 1
      where marked, -1 at the first and the last pair, else 0. Hochreiter & Schmidhuber 1997, experiment 4.

    The edge case of ``first_ten``: the first pair can be drawn. The paper then sets X₁ to zero, and leaves
    open which marker stands there and what happens when it is the second mark that falls on it. Here the
    first pair keeps its -1, and a mark drawn on it, either one, counts as 0: the target is always made of
    what is visibly marked.

    The score is 1 - (squared error)/Var[target]: 0 on average for the best constant, 1 for a perfect answer.
    For values U[0,1] it is w/T for the best guess from the last w pairs alone (T even), so the score times T
    is the *effective window*.

    Differs: in 1997 a sequence is right within 0.04; here all forms share one threshold on the score.

    >>> task = Adding(length=8)
    >>> batch = task.sample(1, torch.Generator().manual_seed(0))
    >>> print(*task.labels(batch)[0])
    0.77 0.09 0.13 0.31* 0.63 0.49* 0.90 0.46
    >>> print(f"{batch.targets[0, 7].item():.2f}", task.lags(batch).tolist())
    0.80 [4, 2]
    """

    kind = "aligned"

    length: int = 50
    markers: Literal["first_ten", "one_per_half", "any_two"] = "one_per_half"

    def __post_init__(self) -> None:
        require_one_of("markers", self.markers, SHORTEST)
        least = SHORTEST[self.markers]
        if self.length < least:
            raise ValueError(f"length must be at least {least} for markers={self.markers!r}, not {self.length}")

    @property
    def inputs(self) -> Reals:
        return Reals(2)

    @property
    def outputs(self) -> Reals:
        return Reals(1)

    @property
    def variance(self) -> float:
        """The target's variance, exactly: the loss of the best constant."""
        if self.markers == "first_ten":
            second_counts = 1 - 0.9 / (self.length // 2 - 1)
            return (0.9 + second_counts) / 48
        return 1 / 6

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        draw: dict[str, Any] = {"generator": generator, "device": generator.device}
        room = self.length + (self.length // 10 if self.markers == "first_ten" else 0)
        lengths = torch.randint(self.length, room + 1, (count,), **draw)
        time = torch.arange(room, device=generator.device)
        scored = time == lengths[:, None] - 1
        values = torch.rand(count, room, **draw)
        marks = torch.zeros_like(values).scatter_(1, self._positions(count, draw), 1.0)
        if self.markers == "first_ten":
            values = (2 * values - 1).where(time < lengths[:, None], 0.0)
            marks = marks.where(~scored, -1.0)
            marks[:, 0] = -1.0
        total = values.where(marks == 1, 0.0).sum(1, keepdim=True)
        answer = 0.5 + total / 4 if self.markers == "first_ten" else total
        return Batch(
            inputs=torch.stack([values, marks], 2),
            targets=answer.where(scored, 0.0).unsqueeze(2),
            scored=scored,
            lengths=lengths,
        )

    def _positions(self, count: int, draw: Mapping[str, Any]) -> Int[Tensor, "batch 2"]:
        half = self.length // 2
        if self.markers == "one_per_half":
            first = torch.randint(half, (count,), **draw)
            second = torch.randint(half, self.length, (count,), **draw)
        else:
            firsts, both = (10, half) if self.markers == "first_ten" else (self.length, self.length)
            first = torch.randint(firsts, (count,), **draw)
            second = torch.randint(both - 1, (count,), **draw)
            second = second + (second >= first)  # skips the first: all other pairs stay equally likely
        return torch.stack([first, second], 1)

    def loss(self, outputs: Float[Tensor, "batch time size"], batch: Batch) -> Float[Tensor, "batch time"]:
        """The squared error."""
        return (outputs - batch.targets).square().squeeze(2)

    def score(self, outputs: Float[Tensor, "batch time size"], batch: Batch) -> Float[Tensor, "batch time"]:
        """The share of the target's variance that is explained; negative where a constant would do better."""
        return 1 - self.loss(outputs, batch) / self.variance

    def lags(self, batch: Batch) -> Int[Tensor, " pieces"]:
        """From each visible mark to the last pair: the earlier mark first, sample by sample."""
        time = torch.arange(batch.length, device=batch.lengths.device)
        return (batch.lengths[:, None] - 1 - time)[batch.inputs[:, :, 1] == 1]

    def labels(self, batch: Batch) -> list[list[str]]:
        """Values, with a star where marked and a bar where the marker is -1; padding is empty."""
        signs = {1.0: "*", 0.0: "", -1.0: "|"}
        labels = [[f"{value:.2f}{signs[mark]}" for value, mark in sample] for sample in batch.inputs.tolist()]
        for sample, length in zip(labels, batch.lengths.tolist(), strict=True):
            sample[length:] = [""] * (batch.length - length)
        return labels

    def describe(self) -> Mapping[str, Any]:
        if self.markers == "first_ten":
            values, lengths = "U[-1,1]", f"{self.length} to {self.length + self.length // 10}"
            rule = "always 0.5"
            why = "P[a mark shows]/48, summed over both marks: 9/10 and 1 - (9/10)/(T/2 - 1)"
        else:
            values, lengths = "U[0,1]", f"{self.length}"
            rule = "always 1"
            why = "the variance of two independent U[0,1] values, 2/12"
        return {
            "variant": f"{self.markers.replace('_', ' ')}, values {values}, length {lengths}",
            "scored": "the last position",
            "score": "share of the target's variance explained",
            "solved": 0.94,  # for values U[0,1], a mean squared error of 0.01
            "baselines": (Baseline(rule, self.variance, 0.0, why),),
        }
