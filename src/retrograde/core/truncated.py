r"""Back-propagation through time that is cut: the state is carried on as a number, its gradient is not.

    z_t = step(x_t, z_{t-1})             but for t = K, 2K, 3K, …
    z_t = step(x_t, stop(z_{t-1}))       at those: the same value, and no gradient to what came before

K the length of a piece, t counted from what the recurrence reads first. What a position's loss says of the states of
its own piece is kept, so that it reaches back between 1 and K positions; what it reads of the layer below is not cut.

Source: Williams & Peng 1990, Neural Computation 2(4), BPTT(h; h') with h = h' = K.
Differs: the weights are updated after the whole sequence, not after each piece.
"""

from functools import singledispatch

import torch
from jaxtyping import Float
from torch import Tensor

from retrograde.core.choices import require_at_least
from retrograde.core.records import State
from retrograde.core.recurrence import Recurrence, clocked, sequence


def truncated(
    recurrence: Recurrence,
    inputs: Float[Tensor, "batch time width"],
    length: int | None,
    initial: State | None = None,
) -> Float[Tensor, "batch time hidden"]:
    """What ``sequence`` gives, its gradient cut at every ``length`` times; uncut where that is None.

    ``initial`` keeps its gradient, from the first piece.
    """
    if length is None or length >= inputs.shape[1]:
        return sequence(recurrence, inputs, initial)
    require_at_least("length", length, 1)
    return in_pieces(recurrence, inputs, length, initial)


@singledispatch
def in_pieces(
    recurrence: Recurrence, inputs: Float[Tensor, "batch time width"], length: int, initial: State | None = None
) -> Float[Tensor, "batch time hidden"]:
    """The outputs of all pieces, in the fastest form known for the recurrence's type that gives a piece's last state.

    The loop over ``step`` where no form is registered.
    """
    inputs = clocked(recurrence, inputs)
    weights = recurrence.weights()
    state = recurrence.initial_state(inputs) if initial is None else initial
    states = []
    for t, x in enumerate(inputs.unbind(1)):
        if t > 0 and t % length == 0:
            state = {name: value.detach() for name, value in state.items()}
        state = recurrence.step(weights, x, state)
        states.append(state)
    after = {name: torch.stack([each[name] for each in states], 1) for name in recurrence.components}
    return recurrence.read(weights, inputs, after)
