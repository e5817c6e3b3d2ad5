r"""Scalar LSTM of xLSTM: exponential gates, a normaliser for what they have let in, and recurrence within heads.

    ĩ_t, f̃_t, z̃_t, õ_t = W x_t + R h_{t-1} + b           each (hidden)
    log i_t = ĩ_t                                          input gate
    log f_t = log σ(f̃_t)  or  f̃_t                          forget gate: sigmoid or exponential
    m_t = max(log f_t + m_{t-1}, log i_t)                  stabiliser
    i'_t = exp(log i_t - m_t),  f'_t = exp(log f_t + m_{t-1} - m_t)
    c_t = f'_t ⊙ c_{t-1} + i'_t ⊙ tanh(z̃_t)                cell
    n_t = f'_t ⊙ n_{t-1} + i'_t                            normaliser
    h_t = σ(õ_t) ⊙ c_t / n_t                               hidden

x input (batch, width), all states (batch, hidden), at the start 0 but for m, which is so low that e^m is 0: what is
let in first counts in full, however little that is. ⊙ is elementwise. R is block-diagonal: a unit reads the hidden
states of its own head alone.

The stabiliser keeps the exponentials in range and changes no value: e^m c and e^m n are what they were without it. As a
state it is a coordinate like the others, its gradient taken with c_t and n_t held, and so

    dL/dm_t = c_t ⊙ dL/dc_t + n_t ⊙ dL/dn_t

c, n and m are kept in float32 at least. An encoder may set h_{-1} alone: of a cell with e^m = 0 nothing is read.

Source: Beck et al. 2024, arXiv:2405.04517, eqs. 8-17 and the authors' package xlstm 2, from which the start is taken:
R zero; W Gaussian with variance 2 / (5 width); b zero but for f̃, whose rows within a head fall from 5 to -7.
Differs: the cell alone, without the block that the paper puts around it (norms, a short convolution before two of the
gates, a gated feed-forward, the residual path); W is not split into heads; every layer of a stack takes the first
block's b_f, and the exponential forget gate begins at the same f as the sigmoid.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from retrograde.core.choices import require_at_least, require_one_of
from retrograde.core.contracts import Task
from retrograde.core.records import State
from retrograde.core.recurrence import Recurrence, affine
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.recurrent import RecurrentModel
from retrograde.layers.stabiliser import with_sums_of_nothing

Forget = Literal["sigmoid", "exponential"]


class ScalarLSTMCell(Recurrence):
    """Exponentially gated cell; equations in the module's docstring.

    The rows of W and b are those of ĩ, f̃, z̃ and õ in turn; R is (heads, 4 · hidden/heads, hidden/heads), its rows
    within a head in the same order.
    """

    begun: ClassVar[tuple[str, ...] | None] = ("hidden",)

    def __init__(self, inputs: int, hidden: int, heads: int, forget: Forget) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        require_at_least("heads", heads, 1)
        require_one_of("forget", forget, get_args(Forget))
        if hidden % heads:
            raise ValueError(f"hidden must be a multiple of heads; {hidden} is none of {heads}")
        self.hidden, self.heads, self.forget = hidden, heads, forget
        size = hidden // heads
        self.input = nn.Parameter(torch.randn(4 * hidden, inputs) * (2 / (5 * inputs)) ** 0.5)
        self.recurrent = nn.Parameter(torch.zeros(heads, 4 * size, size))
        log_forget = 5 - 12 * torch.linspace(0, 1, size) ** 0.3
        if forget == "exponential":
            log_forget = logsigmoid(log_forget)
        bias = torch.zeros(4, hidden)
        bias[1] = log_forget.repeat(heads)
        self.bias = nn.Parameter(bias.flatten())

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return dict.fromkeys(("hidden", "cell", "normaliser", "stabiliser"), (self.hidden,))

    def initial_state(self, like: Float[Tensor, "batch *rest"]) -> State:
        return with_sums_of_nothing(super().initial_state(like), "stabiliser", ("cell", "normaliser"))

    def weights(self) -> dict[str, Tensor]:
        return {"input": self.input, "recurrent": self.recurrent, "bias": self.bias}

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        log_input, log_forget, candidate, output = self._driven(weights, x, state)
        stabiliser = torch.maximum(log_forget, log_input)
        input_gate, forget_gate = torch.exp(log_input - stabiliser), torch.exp(log_forget - stabiliser)
        cell = forget_gate * state["cell"] + input_gate * torch.tanh(candidate)
        normaliser = forget_gate * state["normaliser"] + input_gate
        return {
            "hidden": (torch.sigmoid(output) * cell / normaliser).to(x.dtype),
            "cell": cell,
            "normaliser": normaliser,
            # a tensor of its own: a change of it with cell and normaliser held changes what follows, while a change
            # that they took part in would change nothing at all
            "stabiliser": stabiliser.clone(),
        }

    def gates(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        """i' and f', which the stabiliser keeps within 1, and the output gate."""
        log_input, log_forget, _, output = self._driven(weights, x, state)
        stabiliser = torch.maximum(log_forget, log_input)
        return {
            "input": torch.exp(log_input - stabiliser),
            "forget": torch.exp(log_forget - stabiliser),
            "output": torch.sigmoid(output),
        }

    def kept(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        """f', for the cell and what it is divided by alike."""
        forget = self.gates(weights, x, state)["forget"]
        return {"cell": forget, "normaliser": forget}

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """R gate by gate, with zeros between heads."""
        heads = (head.chunk(4, -2) for head in weights["recurrent"].unbind(-3))
        names = ("input", "forget", "candidate", "output")
        return {name: torch.block_diag(*blocks) for name, blocks in zip(names, zip(*heads, strict=True), strict=True)}

    def _driven(
        self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """ĩ, log f + m_{t-1}, z̃ and õ."""
        from_input = affine(x, weights["input"], weights["bias"])
        log_input, forget, candidate, output = (from_input + self._mixed(weights, state["hidden"])).chunk(4, -1)
        log_forget = (logsigmoid(forget) if self.forget == "sigmoid" else forget) + state["stabiliser"]
        return log_input, log_forget, candidate, output

    def _mixed(self, weights: Mapping[str, Tensor], hidden: Float[Tensor, "... hidden"]) -> Tensor:
        """R h, (..., 4 hidden), gate by gate."""
        by_head = hidden.unflatten(-1, (self.heads, -1)).transpose(-3, -2) @ weights["recurrent"].mT
        return by_head.transpose(-3, -2).unflatten(-1, (4, -1)).transpose(-3, -2).flatten(-3)


def slstm(
    task: Task,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    heads: int = 4,
    forget: Forget = "sigmoid",
    embedding: EmbeddingFactory = OneHot,
) -> RecurrentModel:
    """The exponentially gated network; ``hidden`` must be a multiple of ``heads``."""
    return RecurrentModel(
        task, lambda width: ScalarLSTMCell(width, hidden, heads, forget), layers, bidirectional, dropout, embedding
    )
