"""The width at which a model has the size that it is compared at."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from retrograde.core.choices import require_at_least, require_one_of
from retrograde.core.contracts import SequenceModel, Task

Measure = Literal["parameters", "state"]


@dataclass(frozen=True)
class Budget:
    """``size`` numbers, of ``parameters`` or of recurrent ``state``, at most; widths are multiples of ``multiple``."""

    of: Measure
    size: int
    multiple: int = 4

    def __post_init__(self) -> None:
        require_one_of("budget.of", self.of, get_args(Measure))
        require_at_least("budget.size", self.size, 1)
        require_at_least("budget.multiple", self.multiple, 1)

    def width(self, task: Task, build: Callable[[int], SequenceModel]) -> int:
        """The largest width whose model is within the budget, by building models and counting.

        ``build`` gives the model of a width. Raises ValueError where the smallest is too large, where the model does
        not follow the width, and where a model has no state to count.
        """

        def measured(steps: int) -> int:
            try:
                model = build(steps * self.multiple)
            except ValueError as error:
                raise ValueError(f"{error}; budget.multiple={self.multiple} sets which widths are tried") from error
            return parameters(model) if self.of == "parameters" else carried(model, task)

        smallest = measured(1)
        if smallest > self.size:
            counted = f"with width {self.multiple}, the smallest, this model has {smallest} {self.words}"
            raise ValueError(f"budget.size={self.size}: {counted}")
        if measured(2) == smallest:
            raise ValueError(f"budget={self.of} sets the width, and this model's {self.words} do not depend on it")
        within, beyond = 1, 2
        while measured(beyond) <= self.size:
            within, beyond = beyond, 2 * beyond
        while beyond - within > 1:
            middle = (within + beyond) // 2
            within, beyond = (middle, beyond) if measured(middle) <= self.size else (within, middle)
        return within * self.multiple

    @property
    def words(self) -> str:
        """What is counted."""
        return "parameters" if self.of == "parameters" else "numbers of state"


def parameters(model: SequenceModel) -> int:
    """How many numbers the model learns."""
    return sum(parameter.numel() for parameter in model.parameters())


def carried(model: SequenceModel, task: Task) -> int:
    """How many numbers its recurrences carry from one position to the next, counted in the states of a trace.

    Raises ValueError for a model that shows none, or that keeps more beside them.
    """
    with torch.no_grad():
        trace = model.eval().trace(task.sample(1, torch.Generator().manual_seed(0)))
    states = [state for key, state in trace.states.items() if key in trace.ledger.claimed]
    if not states or trace.maps:
        why = "this model has attention" if trace.maps else "this model has none"
        raise ValueError(f"budget=state counts what recurrences carry, and {why}; budget=parameters fits")
    return sum(state[0, 0].numel() for state in states)
