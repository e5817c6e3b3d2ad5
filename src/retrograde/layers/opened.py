"""The inside of a model without recurrence, shown as it is made."""

from collections.abc import Mapping

from torch import Tensor

from retrograde.core.records import Trace, node
from retrograde.core.streamed import AttentionMap


class Opened:
    """Keeps activations (batch, time, …) under their keys while a model computes, changed where a change is asked for.

    The gradient at such an activation is the total one, because nothing carries it from one time to the next but the
    layers above.
    """

    def __init__(self, perturb: Mapping[str, Tensor] | None) -> None:
        self.perturb = dict(perturb or {})
        self.states: dict[str, Tensor] = {}
        self.maps: dict[str, AttentionMap] = {}
        self.inputs: Tensor | None = None

    def read(self, embedded: Tensor) -> Tensor:
        """The vectors that the model reads its inputs as, a node that the gradient can be asked of."""
        self.inputs = node(embedded)
        return self.inputs

    def kept(self, key: str, activation: Tensor) -> Tensor:
        """The activation with what ``perturb`` adds to it: what everything after has to read."""
        if key in self.states:
            raise ValueError(f"two activations are shown as '{key}': give their layers names of their own")
        self.states[key] = activation + self.perturb[key] if key in self.perturb else activation
        return self.states[key]

    def trace(self, outputs: Tensor) -> Trace:
        """What was kept, with the outputs. Raises ValueError for a change of an activation that is not there."""
        unknown = set(self.perturb) - set(self.states)
        if unknown:
            raise ValueError(f"there is no state '{min(unknown)}' to perturb; the states are {', '.join(self.states)}")
        times = {key: range(state.shape[1]) for key, state in self.states.items()}
        return Trace(outputs, self.states, times, self.maps, inputs=self.inputs)
