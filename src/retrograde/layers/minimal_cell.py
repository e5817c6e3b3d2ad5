"""A hidden state that fades by a share and takes in, both made of the input alone; so time is a scan."""

from abc import abstractmethod
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.choices import require_at_least
from retrograde.core.records import State
from retrograde.core.recurrence import Recurrence, affine, sequence
from retrograde.layers.scans import scan


class MinimalCell(Recurrence):
    """h_t = a_t ⊙ h_{t-1} + b_t, where a and b are made of ``parts`` vectors W x_t + b, one above the other in W."""

    def __init__(self, inputs: int, hidden: int, parts: int) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        self.hidden, self.parts = hidden, parts
        self.project = nn.Linear(inputs, parts * hidden)

    @abstractmethod
    def kept_and_written(self, *parts: Float[Tensor, "... hidden"]) -> tuple[Tensor, Tensor]:
        """a and b."""

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (self.hidden,)}

    def weights(self) -> dict[str, Tensor]:
        return {"input": self.project.weight, "bias": self.project.bias}

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        keep, write = self.of_input(weights, x)
        return {"hidden": keep * state["hidden"] + write}

    def of_input(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"]) -> tuple[Tensor, Tensor]:
        """a and b of an input."""
        return self.kept_and_written(*affine(x, weights["input"], weights["bias"]).chunk(self.parts, -1))


@sequence.register
def _(
    recurrence: MinimalCell, inputs: Float[Tensor, "batch time width"], initial: State | None = None
) -> Float[Tensor, "batch time hidden"]:
    keep, write = recurrence.of_input(recurrence.weights(), inputs)
    return scan(keep, write, None if initial is None else initial["hidden"])
