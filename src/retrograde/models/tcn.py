r"""Temporal convolutional network: dilated causal convolutions that look back twice as far from block to block.

    (w * x)_t = Σ_{i=0}^{kernel-1} W_i x_{t-d i} + b        d = 2^l in block l = 0, 1, …
    a = Dropout(ReLU(w * x))
    b = Dropout(ReLU(w' * a))
    x ← ReLU(b + x)                                         `layers` times, in the first with R x + r for x
    y = V x + c

x (batch, time, width), at the start the embedded input; a and b (batch, time, hidden). What lies before the first input
is zero. W_i = g v_i / ‖v‖, one length g and one norm for each output channel (weight normalisation).

An output depends on the last 1 + 2 (kernel - 1) (2^layers - 1) inputs and on no other. Run position by position, a
convolution has to keep its last (kernel - 1) d inputs; `state_size` counts these, though a trace shows the activations.

Source: Bai, Kolter, Koltun 2018, arXiv:1803.01271, section 3; weight normalisation: Salimans & Kingma 2016,
arXiv:1602.07868.
Differs: the first block maps its residual path whatever its width, where the paper does so if the widths differ: the
zeros of one-hot inputs would else pass its ReLU at the kink. Dropout zeroes single entries, as the authors' code does,
where the paper says whole channels. Kernels start as torch.nn.Conv1d's, in the authors' code from N(0, 0.01²).
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from retrograde.core.choices import require_at_least, require_dropout
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch, Trace
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.opened import Opened


class CausalConvolution(nn.Module):
    """A weight-normalised convolution over (batch, time, width) that sees the present and ``reach`` earlier inputs."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.reach = (kernel - 1) * dilation
        self.convolution = weight_norm(nn.Conv1d(inputs, outputs, kernel, dilation=dilation))

    def forward(self, x: Float[Tensor, "batch time inputs"]) -> Float[Tensor, "batch time outputs"]:
        return self.convolution(nn.functional.pad(x.mT, (self.reach, 0))).mT


def time_last(gradient: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
    """The same gradient, laid out in memory as convolutions are: copied once here, and not anew in every block."""
    return gradient.mT.contiguous().mT


class ResidualBlock(nn.Module):
    """Two dilated convolutions beside a residual path.

    Only the ``first`` of a stack maps its residual path and rectifies the sum: later ones add what is never negative,
    which a ReLU leaves as it is. Without it, a unit that is silent has the gradient of the sum there, and not the zero
    that torch takes for a ReLU at 0.
    """

    def __init__(self, inputs: int, hidden: int, kernel: int, dilation: int, dropout: float, first: bool) -> None:
        super().__init__()
        self.rectify = nn.ReLU() if first else nn.Identity()
        self.residual = nn.Linear(inputs, hidden) if first else nn.Identity()
        self.first = CausalConvolution(inputs, hidden, kernel, dilation)
        self.second = CausalConvolution(hidden, hidden, kernel, dilation)
        self.dropout = nn.Dropout(dropout)
        self.carried = self.first.reach * inputs + self.second.reach * hidden

    def forward(self, x: Float[Tensor, "batch time inputs"]) -> Float[Tensor, "batch time hidden"]:
        return self.after(x, self.inner(x))

    def inner(self, x: Float[Tensor, "batch time inputs"]) -> Float[Tensor, "batch time hidden"]:
        """What stands between the two convolutions."""
        return self.dropout(torch.relu(self.first(x)))

    def after(self, x: Tensor, inner: Tensor) -> Float[Tensor, "batch time hidden"]:
        """The block's output, of its input and of what stands between its convolutions."""
        made = self.rectify(self.dropout(torch.relu(self.second(inner))) + self.residual(x))
        if made.requires_grad:
            made.register_hook(time_last)
        return made


class TCN(SequenceModel):
    """``layers`` blocks; the states are the embedded inputs (layer 0) and each block's activations.

    Layer l shows ``inner``, what stands between the two convolutions of block l - 1, and ``activation``, its output.
    """

    def __init__(
        self,
        task: Task,
        hidden: int = 64,
        layers: int = 6,
        kernel: int = 3,
        dropout: float = 0.0,
        embedding: EmbeddingFactory = OneHot,
    ) -> None:
        super().__init__()
        for name, size in (("hidden", hidden), ("layers", layers), ("kernel", kernel)):
            require_at_least(name, size, 1)
        require_dropout(dropout)
        self.embedding = embedding(task.inputs)
        widths = [self.embedding.width] + layers * [hidden]
        self.chain = [
            ResidualBlock(widths[depth], hidden, kernel, 2**depth, dropout, first=depth == 0) for depth in range(layers)
        ]
        self.blocks = nn.ModuleList(self.chain)
        self.readout = nn.Linear(hidden, task.outputs.size)

    def forward(self, batch: Batch) -> Float[Tensor, "batch time size"]:
        x = self.embedding(batch.inputs)
        for block in self.chain:
            x = block(x)
        return self.readout(x)

    def trace(self, batch: Batch, perturb: Mapping[str, Tensor] | None = None) -> Trace:
        opened = Opened(perturb)
        x = opened.kept("0.forward.activation", opened.read(self.embedding(batch.inputs)))
        for depth, block in enumerate(self.chain, 1):
            inner = opened.kept(f"{depth}.forward.inner", block.inner(x))
            x = opened.kept(f"{depth}.forward.activation", block.after(x, inner))
        return opened.trace(self.readout(x))

    @property
    def state_size(self) -> int:
        """The windows of all convolutions, which is what a run position by position has to carry."""
        return sum(block.carried for block in self.chain)
