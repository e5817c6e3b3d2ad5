r"""S4D: a diagonal state space model for every channel, a recurrence in time and a convolution in training.

    u_t = LayerNorm(x_t)
    s_t = Ā ⊙ s_{t-1} + B̄ u_t                      each channel by itself, with N/2 complex states
    y_t = 2 Re(Σ_n C_n s_{t,n}) + D u_t
    x'_t = x_t + (W v_t + b) ⊙ σ(V v_t + c)        v = GELU(y)                      `layers` times

from s' = A s + B u in continuous time, A = -e^α + i ω, with the step Δ, one for each channel:

    zoh        Ā = e^{ΔA}                          B̄ = (e^{ΔA} - 1) / A · B
    bilinear   Ā = (1 + ΔA/2) / (1 - ΔA/2)         B̄ = Δ / (1 - ΔA/2) · B

x the residual stream and u, y (batch, time, hidden), s (batch, hidden, N/2) complex, shown as pairs of a real and an
imaginary part; A, B, C (hidden, N/2), D and Δ (hidden). The other N/2 states would be the complex conjugates: so 2 Re.
Re A < 0 whatever α is, so |Ā| < 1 in both discretisations.

With s_{-1} = 0 the same is y = K * u + D u, a causal convolution along time with the kernel

    K_t = 2 Re(Σ_n C_n B̄_n Ā_n^t)

which is how it trains, through Fourier space, in T log T. Powers are taken of √T times each, Ā^t = Ā^{Lj} Ā^l, so that
the kernel is a matrix product and not every power of every state is kept. Where Ā is exactly 0 (bilinear, ΔA = -2)
log Ā is -∞ and the kernel NaN; ΔA begins far from there.

A at the start, n from 0 to N/2 - 1:
lin     A_n = -1/2 + i π n
inv     A_n = -1/2 + i N/π (N / (2n + 1) - 1)
legs    the eigenvalues of the normal part of HiPPO-LegS, -1/2 + i of a skew matrix's; inv is their limit
B is 1, C and D Gaussian with variance 1 (1/2 for each part of C), Δ log-uniform in [dt_min, dt_max].

Source: Gu, Gupta, Goel, Ré 2022, arXiv:2206.11893, section 3, A at the start section 4; the block: Gu et al. 2022,
arXiv:2111.00396.
Differs: LayerNorm before every layer, where the paper chooses norm and place by task. B is 1 for legs too: C is random,
and only the product of both counts. The same learning rate and weight decay for all parameters. Only forward in time.
"""

import math
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from retrograde.core.choices import require_at_least, require_one_of
from retrograde.core.contracts import Task
from retrograde.core.records import State
from retrograde.core.recurrence import Form, HiddenAttention, Recurrence, own_forms
from retrograde.core.sweep import unrolling
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.gated_block import GatedBlock
from retrograde.layers.residual import ResidualModel
from retrograde.layers.scanned import scanned
from retrograde.layers.scans import as_complex, as_pairs
from retrograde.layers.token_matrix import toeplitz

Initialisation = Literal["lin", "inv", "legs"]
Discretisation = Literal["zoh", "bilinear"]


class DiagonalStateSpace(Recurrence):
    """s_t = Ā ⊙ s_{t-1} + B̄ u_t in every channel, read as 2 Re(Σ_n C_n s_{t,n}) + D u_t."""

    output = "state"

    def __init__(
        self,
        hidden: int,
        state: int,
        initialisation: Initialisation,
        discretisation: Discretisation,
        dt_min: float,
        dt_max: float,
    ) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        require_one_of("initialisation", initialisation, get_args(Initialisation))
        require_one_of("discretisation", discretisation, get_args(Discretisation))
        if state < 2 or state % 2:
            raise ValueError(f"state must be even, of pairs of complex conjugates, and at least 2, not {state}")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"steps need 0 < dt_min ≤ dt_max, not dt_min {dt_min} and dt_max {dt_max}")
        self.hidden, self.pairs = hidden, state // 2
        self.discretisation = discretisation
        low, high = math.log(dt_min), math.log(dt_max)
        self.log_timescale = nn.Parameter(low + (high - low) * torch.rand(hidden))
        self.log_decay = nn.Parameter(torch.full((hidden, self.pairs), math.log(0.5)))
        self.frequency = nn.Parameter(frequencies(state, initialisation).repeat(hidden, 1))
        self.input = nn.Parameter(torch.tensor([1.0, 0.0]).repeat(hidden, self.pairs, 1))
        self.output_weight = nn.Parameter(torch.randn(hidden, self.pairs, 2) / math.sqrt(2))
        self.skip = nn.Parameter(torch.randn(hidden))

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"state": (self.hidden, self.pairs, 2)}

    @property
    def width(self) -> int:
        return self.hidden

    def weights(self) -> dict[str, Tensor]:
        """log Δ, α, ω, B, C and D."""
        return {
            "timescale": self.log_timescale,
            "decay": self.log_decay,
            "frequency": self.frequency,
            "input": self.input,
            "output": self.output_weight,
            "skip": self.skip,
        }

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        decay, drive = self.discrete(weights)
        after = decay.unsqueeze(-3) * as_complex(state["state"]) + drive.unsqueeze(-3) * x.unsqueeze(-1)
        return {"state": as_pairs(after, x.dtype)}

    def read(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> Tensor:
        weighted = as_complex(weights["output"]).unsqueeze(-3) * as_complex(state["state"])
        return 2 * weighted.sum(-1).real.to(x.dtype) + weights["skip"].unsqueeze(-2) * x

    def kept(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        """Ā, whatever the input."""
        decay, _ = self.discrete(weights)
        return {"state": decay.unsqueeze(-3).expand(x.shape[:-1] + decay.shape[-2:])}

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Ā; the eigenvalues of the states that are left out, the conjugates, are its conjugates."""
        decay, _ = self.discrete(weights)
        return {"state": decay.flatten()}

    def hidden_attention(self, weights: Mapping[str, Tensor], x: Float[Tensor, "batch time width"]) -> HiddenAttention:
        """K_{i-j} of every channel; D u is apart."""
        _, drive = self.discrete(weights)
        kernel = response(self.log_decay_of(weights), as_complex(weights["output"]) * drive, x.shape[1])
        matrix = toeplitz(kernel).expand(len(x), -1, -1, -1)
        return HiddenAttention(matrix, x.unsqueeze(-1), rest=weights["skip"] * x)

    def discrete(
        self, weights: Mapping[str, Tensor]
    ) -> tuple[Complex[Tensor, "... hidden pairs"], Complex[Tensor, "... hidden pairs"]]:
        """Ā and B̄."""
        timescale, continuous = self.continuous(weights)
        change = timescale * continuous
        if self.discretisation == "zoh":
            return torch.exp(change), torch.expm1(change) / continuous * as_complex(weights["input"])
        drive = timescale / (1 - change / 2) * as_complex(weights["input"])
        return (1 + change / 2) / (1 - change / 2), drive

    def log_decay_of(self, weights: Mapping[str, Tensor]) -> Complex[Tensor, "... hidden pairs"]:
        """log Ā, without a detour over Ā, which may be too small for the format."""
        timescale, continuous = self.continuous(weights)
        change = timescale * continuous
        return change if self.discretisation == "zoh" else 2 * torch.atanh(change / 2)

    def continuous(
        self, weights: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "... hidden 1"], Complex[Tensor, "... hidden pairs"]]:
        """Δ and A."""
        continuous = as_complex(torch.stack([-weights["decay"].exp(), weights["frequency"]], -1))
        return weights["timescale"].exp().unsqueeze(-1), continuous


def frequencies(state: int, initialisation: Initialisation) -> Float[Tensor, " pairs"]:
    """The imaginary parts of A at the start, those above zero; lin begins with zero itself."""
    n = torch.arange(state // 2, dtype=torch.float64)
    if initialisation == "lin":
        made = math.pi * n
    elif initialisation == "inv":
        made = state / math.pi * (state / (2 * n + 1) - 1)
    else:
        root = torch.sqrt(torch.arange(state, dtype=torch.float64) + 0.5)
        lower = torch.outer(root, root).tril(-1)
        made = torch.linalg.eigvalsh(1j * (lower - lower.T)).flip(0)[: state // 2]  # i times a skew matrix is Hermitian
    return made.to(torch.get_default_dtype())


def response(
    log_decay: Complex[Tensor, "hidden pairs"], amount: Complex[Tensor, "*batch hidden pairs"], length: int
) -> Float[Tensor, "*batch hidden time"]:
    """2 Re(Σ_n amount_n e^(t log_decay_n)) for the times t from 0."""
    within = max(1, math.isqrt(length))
    fine, coarse = (
        torch.exp(log_decay.unsqueeze(-1) * torch.arange(0, end, every, device=log_decay.device))
        for end, every in ((within, 1), (length, within))
    )
    made = (amount.unsqueeze(-1) * coarse).mT @ fine
    return 2 * made.real.flatten(-2)[..., :length]


@own_forms.register
def _(recurrence: DiagonalStateSpace, inputs: Tensor) -> dict[str, Form]:
    return {"convolved": Form(_convolved)}


def _convolved(
    recurrence: DiagonalStateSpace, inputs: Float[Tensor, "batch time width"], initial: State | None = None
) -> Float[Tensor, "batch time hidden"]:
    weights = recurrence.weights()
    decay, drive = recurrence.discrete(weights)
    log_decay, read, length = recurrence.log_decay_of(weights), as_complex(weights["output"]), inputs.shape[1]
    channels = inputs.mT.to(read.real.dtype)
    kernel = response(log_decay, read * drive, length)
    around = 2 * length  # a product of spectra is a convolution around a circle: this one is too wide to meet itself
    made = torch.fft.irfft(torch.fft.rfft(channels, around) * torch.fft.rfft(kernel, around), around)[..., :length]
    if initial is not None:
        made = made + response(log_decay, read * decay * as_complex(initial["state"]), length)
    return made.mT.to(inputs.dtype) + weights["skip"] * inputs


unrolling.register(DiagonalStateSpace)(scanned)


def s4d(
    task: Task,
    hidden: int = 64,
    layers: int = 2,
    state: int = 64,
    initialisation: Initialisation = "lin",
    discretisation: Discretisation = "zoh",
    dt_min: float = 0.001,
    dt_max: float = 0.1,
    dropout: float = 0.0,
    embedding: EmbeddingFactory = OneHot,
) -> ResidualModel:
    """The state space model; ``state`` is N, the real numbers that each channel carries."""
    return ResidualModel(
        task,
        lambda: GatedBlock(
            hidden, DiagonalStateSpace(hidden, state, initialisation, discretisation, dt_min, dt_max), dropout
        ),
        hidden,
        layers,
        embedding=embedding,
    )
