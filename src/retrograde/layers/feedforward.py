"""The gated feed-forward layer that blocks of linear recurrences share."""

import math

from jaxtyping import Float
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """W_3 (SiLU(W_1 x) ⊙ W_2 x), no biases; 8/3 of the width inside, up to the next multiple of 8.

    So it has as many weights as two layers of four times the width. Source: Shazeer 2020, arXiv:2002.05202, eq. 6.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = math.ceil(width / 3) * 8
        self.enter = nn.Linear(width, 2 * inner, bias=False)
        self.leave = nn.Linear(inner, width, bias=False)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        gate, value = self.enter(x).chunk(2, -1)
        return self.leave(nn.functional.silu(gate) * value)
