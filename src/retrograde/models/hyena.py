r"""Hyena: long convolutions, whose filters a small network makes, between gates that the data set.

    [x¹; …; x^N; v] = causal convolution of (W n + b), 3 wide        n = LayerNorm(x)
    v ← xⁿ ⊙ (hⁿ * v + Dⁿ ⊙ v)                                       n = 1 … N, N = `order`
    x ← x + W_o v + b_o
    x ← x + W_2 GELU(W_1 LayerNorm(x) + b_1) + b_2                   `layers` times
    y = V LayerNorm(x) + d

    hⁿ_t = (e^{-a t / L} + s) ⊙ FFN(p_t)                             filter
    p_t = [t / L, cos(2πkt / L), sin(2πkt / L) for k = 1 … K]        position
    FFN: four linear maps with sin(ω ⊙ ·) between them

x the residual stream (batch, time, hidden), at the start the embedded input; v and xⁿ likewise; (h * v)_t =
Σ_{i≤t} h_i ⊙ v_{t-i} through the FFT of both, filled up with zeros to twice the length, in O(time log time); D and a a
number for each channel, a fixed and evenly spread, so that channels fall to 1 % between 0.3 L and 1.5 L; L is
`length_scale`, K `bands`, s `shift`, ω starts at `frequency`.

A filter is a function of time alone: a longer sequence continues the filters of a shorter one.

Source: Poli et al. 2023, arXiv:2302.10866, definition 3.1, section 3.3 and algorithms 1-3; the decay's range, D and the
widths: the authors' code.
Differs: L is a setting where the paper takes the longest sequence of the training set, and beyond L filters go on; the
features leave out the constant k = 0, since the FFN has biases. The authors' code makes N - 1 long convolutions.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch, Trace
from retrograde.core.recurrence import HiddenAttention
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.opened import Opened
from retrograde.layers.token_matrix import toeplitz

SHORT = 3
"""Width of the convolution behind the projections."""

FASTEST, SLOWEST, TARGET = 0.3, 1.5, 0.01
"""The window falls to TARGET after FASTEST to SLOWEST length scales."""


def causal_convolution(
    x: Float[Tensor, "batch time width"], taps: Float[Tensor, "time width"]
) -> Float[Tensor, "batch time width"]:
    """Each channel of ``x`` convolved with its own filter, which is as long as ``x``; in float32 at least."""
    length = x.shape[1]
    precise = torch.promote_types(x.dtype, torch.float32)
    # room for the whole product, so that its end does not come round to the beginning
    signal = torch.fft.rfft(x.to(precise), 2 * length, 1)
    response = torch.fft.rfft(taps.to(precise), 2 * length, 0)
    return torch.fft.irfft(signal * response, 2 * length, 1)[:, :length].to(x.dtype)


class LongFilter(nn.Module):
    """``count`` filters of ``width`` channels, as long as asked for.

    Made in float32 at least, whatever the model's precision: half of it cannot tell neighbouring times apart beyond a
    few hundred, and the sines multiply its errors.
    """

    def __init__(
        self, width: int, count: int, inner: int, bands: int, length_scale: int, frequency: float, shift: float
    ) -> None:
        super().__init__()
        self.width, self.count, self.bands = width, count, bands
        self.length_scale, self.shift = length_scale, shift
        self.maps = nn.ModuleList(nn.Linear(given, inner) for given in (1 + 2 * bands, inner, inner))
        self.frequency = nn.Parameter(torch.full((inner,), frequency))  # one for all maps, as in the authors' code
        self.last = nn.Linear(inner, count * width, bias=False)
        self.through = nn.Parameter(torch.randn(count, width))

    def forward(self, length: int) -> Float[Tensor, "count length width"]:
        device, precise = self.through.device, torch.promote_types(self.through.dtype, torch.float32)
        with torch.autocast(device.type, enabled=False):
            time = torch.arange(length, device=device, dtype=precise).unsqueeze(1) / self.length_scale
            angle = 2 * math.pi * time * torch.arange(1, self.bands + 1, device=device)
            value = torch.cat([time, angle.cos(), angle.sin()], 1)
            for each in self.maps:
                assert isinstance(each, nn.Linear)  # a ModuleList forgets what it holds
                value = value @ each.weight.to(precise).mT + each.bias.to(precise)
                value = torch.sin(self.frequency.to(precise) * value)
            value = (value @ self.last.weight.to(precise).mT).unflatten(1, (self.count, self.width)).transpose(0, 1)
            spread = torch.linspace(1 / SLOWEST, 1 / FASTEST, self.width, device=device, dtype=precise)
            return value * (torch.exp(math.log(TARGET) * spread * time) + self.shift)


class HyenaOperator(nn.Module):
    """``order`` long convolutions, each followed by a gate."""

    def __init__(
        self,
        width: int,
        order: int,
        filter_width: int,
        bands: int,
        length_scale: int,
        frequency: float,
        shift: float,
    ) -> None:
        super().__init__()
        inner = (order + 1) * width
        self.project = nn.Linear(width, inner)
        self.short = nn.Conv1d(inner, inner, SHORT, groups=inner)
        self.filters = LongFilter(width, order, filter_width, bands, length_scale, frequency, shift)
        self.combine = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
        *gates, value = self.projected(x)
        for gate, taps, through in zip(gates, self.filters(x.shape[1]), self.filters.through, strict=True):
            value = gate * (causal_convolution(value, taps) + through * value)
        return self.combine(value)

    def projected(self, x: Float[Tensor, "batch time width"]) -> tuple[Tensor, ...]:
        """x¹ … x^N and v."""
        return self.short(nn.functional.pad(self.project(x).mT, (SHORT - 1, 0))).mT.chunk(self.filters.count + 1, -1)

    def hidden_attention(self, x: Float[Tensor, "batch time width"]) -> HiddenAttention:
        """Of every channel the product of all diag(xⁿ) (Tⁿ + Dⁿ I), hⁿ_{i-j} at [i, j] of Tⁿ; W_o mixes the channels.

        In float32 at least.
        """
        *gates, value = self.projected(x)
        taps = self.filters(x.shape[1])
        matrix = torch.eye(x.shape[1], dtype=taps.dtype, device=x.device).expand(len(x), x.shape[2], -1, -1)
        for gate, response, through in zip(gates, toeplitz(taps.mT), self.filters.through, strict=True):
            matrix = gate.mT.unsqueeze(-1) * (response @ matrix + through[:, None, None] * matrix)
        mixing, bias = self.combine.weight.to(taps.dtype), self.combine.bias.to(taps.dtype)
        return HiddenAttention(matrix, value.to(taps.dtype).unsqueeze(-1), mixing, bias.expand(*x.shape[:2], -1))


class Hyena(SequenceModel):
    """``layers`` blocks; the states are the residual stream before the first block and after each.

    Padding needs no mask: it stands at the end, where a causal model cannot see it.
    """

    def __init__(
        self,
        task: Task,
        hidden: int = 64,
        layers: int = 2,
        order: int = 2,
        feedforward: int = 256,
        filter_width: int = 64,
        bands: int = 8,
        length_scale: int = 256,
        frequency: float = 10.0,
        shift: float = 0.0,
        dropout: float = 0.0,
        embedding: EmbeddingFactory = OneHot,
    ) -> None:
        super().__init__()
        sizes = {"hidden": hidden, "layers": layers, "order": order, "feedforward": feedforward, "bands": bands}
        for name, size in {**sizes, "filter_width": filter_width, "length_scale": length_scale}.items():
            require_at_least(name, size, 1)
        require_at_least("shift", shift, 0)
        self.embedding = embedding(task.inputs)
        self.project = nn.Linear(self.embedding.width, hidden)
        self.operators = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(hidden),
                HyenaOperator(hidden, order, filter_width, bands, length_scale, frequency, shift),
                nn.Dropout(dropout),
            )
            for _ in range(layers)
        )
        self.feedforwards = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(hidden),
                nn.Linear(hidden, feedforward),
                nn.GELU(),
                nn.Linear(feedforward, hidden),
                nn.Dropout(dropout),
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(hidden)
        self.readout = nn.Linear(hidden, task.outputs.size)

    def forward(self, batch: Batch) -> Float[Tensor, "batch time size"]:
        return self.trace(batch).outputs

    def trace(self, batch: Batch, perturb: Mapping[str, Tensor] | None = None) -> Trace:
        opened = Opened(perturb)
        x = opened.kept("0.forward.residual", self.project(opened.read(self.embedding(batch.inputs))))
        for depth, (operator, feedforward) in enumerate(zip(self.operators, self.feedforwards, strict=True), 1):
            x = x + operator(x)
            x = opened.kept(f"{depth}.forward.residual", x + feedforward(x))
        return opened.trace(self.readout(self.norm(x)))

    def hidden_attention(self, states: Mapping[str, Tensor]) -> dict[str, HiddenAttention]:
        found = {}
        for depth, operator in enumerate(self.operators):
            assert isinstance(operator, nn.Sequential)  # a ModuleList forgets what it holds, and so does a Sequential
            norm, convolutions, _ = operator
            assert isinstance(convolutions, HyenaOperator)
            key = f"{depth}.forward"
            found[key] = convolutions.hidden_attention(norm(states[f"{key}.residual"]))
        return found

    @property
    def state_size(self) -> None:
        """None: every earlier position is convolved anew at each."""
        return None
