"""A hidden state that fades by a share and takes in, both made of the input alone; so time is a scan."""

from abc import abstractmethod
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.choices import require_at_least
from retrograde.core.records import State
from retrograde.core.recurrence import Form, HiddenAttention, Recurrence, affine, own_forms
from retrograde.core.sweep import unrolling
from retrograde.layers.scanned import scanned
from retrograde.layers.scans import scan
from retrograde.layers.token_matrix import token_matrix


class MinimalCell(Recurrence):
    """h_t = a_t ⊙ h_{t-1} + b_t, where a and b are made of ``parts`` vectors W x_t + b, one above the other in W."""

    def __init__(self, inputs: int, hidden: int, parts: int) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        self.hidden, self.parts = hidden, parts
        self.project = nn.Linear(inputs, parts * hidden)

    @abstractmethod
    def kept_and_written(self, *parts: Float[Tensor, "... hidden"]) -> tuple[Tensor, Tensor]:
        """a and b, which is 1 - a times the last of the parts, the candidate."""

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (self.hidden,)}

    def weights(self) -> dict[str, Tensor]:
        return {"input": self.project.weight, "bias": self.project.bias}

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        keep, write = self.of_input(weights, x)
        return {"hidden": keep * state["hidden"] + write}

    def kept(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        return {"hidden": self.of_input(weights, x)[0].expand_as(state["hidden"])}

    def hidden_attention(self, weights: Mapping[str, Tensor], x: Float[Tensor, "batch time width"]) -> HiddenAttention:
        """a_{j+1} ⋯ a_i (1 - a_j) of every entry, the shares of candidates in a mean, since b = (1 - a) ⊙ candidate."""
        keep, _ = self.of_input(weights, x)
        *_, candidate = affine(x, weights["input"], weights["bias"]).chunk(self.parts, -1)

        def carried(time: int, states: Tensor) -> Tensor:
            return keep[:, time, None, :, None] * states

        matrix = token_matrix((1 - keep).unsqueeze(-1), torch.ones_like(keep).unsqueeze(-1), carried)
        return HiddenAttention(matrix, candidate.unsqueeze(-1))

    def of_input(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"]) -> tuple[Tensor, Tensor]:
        """a and b of an input."""
        return self.kept_and_written(*affine(x, weights["input"], weights["bias"]).chunk(self.parts, -1))


@own_forms.register
def _(recurrence: MinimalCell, inputs: Tensor) -> dict[str, Form]:
    return {"scanned": Form(_scanned)}


def _scanned(
    recurrence: MinimalCell, inputs: Float[Tensor, "batch time width"], initial: State | None = None
) -> Float[Tensor, "batch time hidden"]:
    keep, write = recurrence.of_input(recurrence.weights(), inputs)
    return scan(keep, write, None if initial is None else initial["hidden"])


unrolling.register(MinimalCell)(scanned)
