r"""From each position to each: the matrix that a linear recurrence applies to its values.

    h_i = L_i(h_{i-1}) + b_i v_i        y_i = c_i · h_i
    A_ij = c_i · L_i(… L_{j+1}(b_j))    y_i = Σ_{j≤i} A_ij v_j

h state of one head, b what a value of 1 is written as, c what the state is read by, L linear and of the input alone.

What each position has written is carried on beside what all others have, time by time, by the recurrence's own L: so
nothing is divided by a product of decays or taken the logarithm of, and a decay may be 0.

Source: Ali, Zimerman, Wolf 2024, arXiv:2403.01590, eqs. 10-12.
"""

from collections.abc import Callable

import torch
from jaxtyping import Inexact
from torch import Tensor


def token_matrix(
    written: Inexact[Tensor, "batch time head state"],
    read: Inexact[Tensor, "batch time #head state"],
    carried: Callable[[int, Tensor], Tensor],
) -> Inexact[Tensor, "batch head time time"]:
    """A of b and c; ``carried(i, states)`` is L_i of several states, (batch, position, head, state).

    Zero above the diagonal. Memory is that of the matrix and of as many states as there are positions.
    """
    samples, length, heads, _ = written.shape
    matrix = written.new_zeros(samples, length, length, heads)
    states = written[:, :0]
    for time in range(length):
        states = torch.cat([carried(time, states), written[:, time : time + 1]], 1)
        matrix[:, time, : time + 1] = (states * read[:, time : time + 1]).sum(-1)
    return matrix.permute(0, 3, 1, 2)


def toeplitz(response: Inexact[Tensor, "*shape time"]) -> Inexact[Tensor, "*shape time time"]:
    """A of what is the same from everywhere: at [i, j] the response after i - j times, zero above the diagonal."""
    time = torch.arange(response.shape[-1], device=response.device)
    return response[..., (time.unsqueeze(1) - time).clamp(min=0)].tril()
