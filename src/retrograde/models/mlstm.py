r"""Matrix LSTM of xLSTM: a memory of outer products with exponential gates and a normaliser for what they let in.

    [u; z]_t = W_up LayerNorm(x_t)                              two branches, each `expansion` · hidden wide
    c_t = SiLU(Σ_{i<4} w_i ⊙ u_{t-i} + w)                       causal convolution of each channel by itself
    q_t = W_q c_t,  k_t = W_k c_t,  v_t = W_v u_t               block-diagonal, blocks of `block`
    ĩ_t, f̃_t = W_i [q; k; v] + b_i, W_f [q; k; v] + b_f         one number a head, log i = ĩ
    log f_t = log σ(f̃_t)  or  f̃_t                               forget gate: sigmoid or exponential
    m_t = max(log f_t + m_{t-1}, ĩ_t)                           stabiliser
    i'_t = exp(ĩ_t - m_t),  f'_t = exp(log f_t + m_{t-1} - m_t)
    C_t = f'_t C_{t-1} + i'_t k_t v_tᵀ / √d                     memory
    n_t = f'_t n_{t-1} + i'_t k_t / √d                          normaliser
    y_t = C_tᵀ q_t / max(|n_t · q_t|, exp(-m_t))
    x ← x + W_down ((GroupNorm(y) + s ⊙ c) ⊙ SiLU(z))           a group is a head, s a skip; `layers` times

x the residual stream (batch, time, hidden), at the start the embedded input; q, k, v (batch, head, d),
C (batch, head, keys, values), n (batch, head, d), m (batch, head), at the start 0 but for m, which is so low that e^m
is 0: what is let in first counts in full. C, n and m are kept in float32 at least.

The stabiliser keeps the exponentials in range and changes no value: e^m C and e^m n are what they were without it, and
exp(-m) is the 1 of max(|n·q|, 1). As a state it is a coordinate like the others, its gradient taken with C_t and n_t
held, and so

    dL/dm_t = Σ C_t ⊙ dL/dC_t + n_t · dL/dn_t

y itself is computed from both parts of the fraction times exp(min(m, 0)), so that nothing positive is exponentiated.

For training, m_t is found at all times by one running maximum, and taken as given; then f' and i' are at most 1, and
C and n are a memory of outer products with the decay f', for keys times i' and values with a 1 at their end.

Source: Beck et al. 2024, arXiv:2405.04517, eqs. 19-27 and appendix A.3, and the authors' package xlstm 2, from which
the start is taken: W_i and W_f zero, b_f from 3 to 6 along the heads, b_i Gaussian with deviation 0.1, s one.
Differs: gates of q, k and v rather than of x, and projections without a bias, as in the package, which besides adds
1e-6 to the lower part of y's fraction; GroupNorm has a bias, which the package's norm has not; no dropout; the
exponential forget gate begins at the same f as the sigmoid.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from retrograde.core.block import Block
from retrograde.core.choices import require_at_least, require_one_of
from retrograde.core.contracts import Task
from retrograde.core.records import State
from retrograde.core.recurrence import Form, HiddenAttention, Recurrence, affine, own_forms
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.outer_products import outer_products
from retrograde.layers.residual import ResidualModel
from retrograde.layers.short_convolution import convolved, filter_at_start, short_convolution, window_after
from retrograde.layers.stabiliser import with_sums_of_nothing

Forget = Literal["sigmoid", "exponential"]


class MatrixLSTMCell(Recurrence):
    """Convolution, gates and memory: from u it makes y and c side by side. Equations in the module's docstring.

    The states are ``memory`` C, ``normaliser`` n, ``stabiliser`` m and ``window``, the last vectors u, the present one
    last: q_t needs it.
    """

    output: ClassVar[str] = "memory"

    def __init__(self, inner: int, start: int, heads: int, convolution: int, block: int, forget: Forget) -> None:
        """``inner`` is the width of u; the projections start Gaussian with variance 2 / (5 ``start``)."""
        super().__init__()
        require_one_of("forget", forget, get_args(Forget))
        for name, size in (("heads", heads), ("convolution", convolution), ("block", block)):
            require_at_least(name, size, 1)
        for name, size in (("heads", heads), ("block", block)):
            if inner % size:
                raise ValueError(f"expansion · hidden must be a multiple of {name}; {inner} is none of {size}")
        self.inner, self.heads, self.convolution, self.forget = inner, heads, convolution, forget
        self.filter = nn.Parameter(filter_at_start(inner, convolution))
        self.filter_bias = nn.Parameter((2 * torch.rand(inner) - 1) / convolution**0.5)
        blocks = (inner // block, block, block)
        self.query, self.key, self.value = (
            nn.Parameter(torch.randn(blocks) * math.sqrt(2 / (5 * start))) for _ in range(3)
        )
        self.input_gate = nn.Parameter(torch.zeros(heads, 3 * inner))
        self.input_bias = nn.Parameter(0.1 * torch.randn(heads))
        self.forget_gate = nn.Parameter(torch.zeros(heads, 3 * inner))
        bias = torch.linspace(3.0, 6.0, heads)
        self.forget_bias = nn.Parameter(bias if forget == "sigmoid" else logsigmoid(bias))

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        size = self.inner // self.heads
        return {
            "memory": (self.heads, size, size),
            "normaliser": (self.heads, size),
            "stabiliser": (self.heads,),
            "window": (self.inner, self.convolution),
        }

    @property
    def width(self) -> int:
        return 2 * self.inner

    def initial_state(self, like: Float[Tensor, "batch *rest"]) -> State:
        return with_sums_of_nothing(super().initial_state(like), "stabiliser", ("memory", "normaliser"))

    def weights(self) -> dict[str, Tensor]:
        return dict(self.named_parameters())

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        window = window_after(state["window"], x)
        mixed = activated(convolved(window, weights["filter"]), weights["filter_bias"])
        _, key, value, log_input, log_forget = self.parts(weights, x, mixed)
        log_forget = log_forget + state["stabiliser"]
        stabiliser = torch.maximum(log_forget, log_input)
        kept, let_in = torch.exp(log_forget - stabiliser), torch.exp(log_input - stabiliser)
        key = let_in.unsqueeze(-1) * key
        return {
            "memory": kept[..., None, None] * state["memory"] + key.unsqueeze(-1) * value.unsqueeze(-2),
            "normaliser": kept.unsqueeze(-1) * state["normaliser"] + key,
            # a tensor of its own: a change of it with memory and normaliser held changes what follows, while a change
            # that they took part in would change nothing at all
            "stabiliser": stabiliser.clone(),
            "window": window,
        }

    def read(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> Tensor:
        mixed = activated(convolved(state["window"], weights["filter"]), weights["filter_bias"])
        query, _, _, _, _ = self.parts(weights, x, mixed)
        found = (query.to(state["memory"].dtype).unsqueeze(-2) @ state["memory"]).squeeze(-2)
        weight = (query * state["normaliser"]).sum(-1)
        read = fraction(found, weight, state["stabiliser"]).flatten(-2)
        return torch.cat([read.to(mixed.dtype), mixed], -1)

    def gates(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        """i' and f', which the stabiliser keeps within 1."""
        window = window_after(state["window"], x)
        mixed = activated(convolved(window, weights["filter"]), weights["filter_bias"])
        _, _, _, log_input, log_forget = self.parts(weights, x, mixed)
        log_forget = log_forget + state["stabiliser"]
        stabiliser = torch.maximum(log_forget, log_input)
        return {"input": torch.exp(log_input - stabiliser), "forget": torch.exp(log_forget - stabiliser)}

    def kept(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        """f' of memory and normaliser; what they stand for, e^m times them, is carried on by f."""
        forget = self.gates(weights, x, state)["forget"]
        return {
            "memory": forget[..., None, None].expand_as(state["memory"]),
            "normaliser": forget.unsqueeze(-1).expand_as(state["normaliser"]),
        }

    def hidden_attention(self, weights: Mapping[str, Tensor], x: Float[Tensor, "batch time width"]) -> HiddenAttention:
        """f_{j+1} ⋯ f_i i_j (q_i · k_j) / √d over max(|its sum along j|, 1) of every head; c is apart."""
        start = self.initial_state(x)["window"]
        mixed = activated(short_convolution(x, start, weights["filter"]), weights["filter_bias"])
        query, key, value, log_input, log_forget = self.parts(weights, x, mixed)
        query, key, log_input, log_forget = (part.transpose(1, 2) for part in (query, key, log_input, log_forget))
        forgotten = log_forget.unsqueeze(-1).expand(-1, -1, -1, x.shape[1]).tril(-1).cumsum(-2)  # each of its own terms
        causal = torch.ones_like(forgotten, dtype=torch.bool).tril()
        counted = (forgotten + log_input.unsqueeze(-2)).masked_fill(~causal, -torch.inf)
        stabiliser = counted.amax(-1)
        products = torch.exp(counted - stabiliser.unsqueeze(-1)) * (query @ key.mT)
        matrix = fraction(products, products.sum(-1), stabiliser)
        # y stands first in what is read, c behind it
        mixing = torch.eye(2 * self.inner, self.inner, dtype=x.dtype, device=x.device)
        return HiddenAttention(matrix, value, mixing, nn.functional.pad(mixed, (self.inner, 0)))

    def parts(
        self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], mixed: Float[Tensor, "... width"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """q, k / √d and v of every head, (..., head, width), and log i and log f, (..., head), of u and c."""
        query, key = blockwise(mixed, weights["query"]), blockwise(mixed, weights["key"])
        value = blockwise(x, weights["value"])
        together = torch.cat([query, key, value], -1)
        log_input = affine(together, weights["input_gate"], weights["input_bias"])
        log_forget = affine(together, weights["forget_gate"], weights["forget_bias"])
        if self.forget == "sigmoid":
            log_forget = logsigmoid(log_forget)
        query, key, value = (part.unflatten(-1, (self.heads, -1)) for part in (query, key, value))
        return query, key / math.sqrt(key.shape[-1]), value, log_input, log_forget


def activated(summed: Float[Tensor, "... width"], bias: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
    """c of what the filter makes."""
    return nn.functional.silu(summed + bias.unsqueeze(-2))


def blockwise(x: Float[Tensor, "... width"], weight: Tensor) -> Float[Tensor, "... width"]:
    """W x with W block-diagonal, ``weight`` being its blocks, (..., blocks, block, block)."""
    blocks = x.unflatten(-1, (weight.shape[-3], -1)).transpose(-3, -2) @ weight.mT
    return blocks.transpose(-3, -2).flatten(-2)


def fraction(
    found: Float[Tensor, "*batch head values"],
    weight: Float[Tensor, "*batch head"],
    stabiliser: Float[Tensor, "*batch head"],
) -> Float[Tensor, "*batch head values"]:
    """found / max(|weight|, e^{-m}), both parts of it times e^{min(m, 0)}."""
    zero = torch.zeros_like(stabiliser)
    scale = torch.exp(torch.minimum(stabiliser, zero))
    least = torch.exp(-torch.maximum(stabiliser, zero))
    return found * (scale / torch.maximum((scale * weight).abs(), least)).unsqueeze(-1)


@own_forms.register
def _(recurrence: MatrixLSTMCell, inputs: Tensor) -> dict[str, Form]:
    return {"chunked": Form(_chunked)}


def _chunked(
    recurrence: MatrixLSTMCell, inputs: Float[Tensor, "batch time width"], initial: State | None = None
) -> Float[Tensor, "batch time twice"]:
    start = recurrence.initial_state(inputs) if initial is None else initial
    mixed = activated(short_convolution(inputs, start["window"], recurrence.filter), recurrence.filter_bias)
    query, key, value, log_input, log_forget = (
        part.transpose(1, 2) for part in recurrence.parts(recurrence.weights(), inputs, mixed)
    )
    stabiliser = stabilisers(log_input, log_forget, start["stabiliser"])
    before = torch.cat([start["stabiliser"].to(stabiliser.dtype).unsqueeze(-1), stabiliser[..., :-1]], -1)
    decay = log_forget + before - stabiliser
    # the first decay, of a start that may be one of nothing, is no number to add others to: it acts on the start here
    first, decay = torch.exp(decay[..., :1]).unsqueeze(-1), nn.functional.pad(decay[..., 1:], (1, 0)).unsqueeze(-1)
    key = torch.exp(log_input - stabiliser).unsqueeze(-1) * key
    # a value that is always 1 sums the keys up
    value = torch.cat([value, torch.ones_like(value[..., :1])], -1)
    memory = torch.cat([start["memory"], start["normaliser"].unsqueeze(-1)], -1)
    made = outer_products(query.to(key.dtype), key, value.to(key.dtype), first * memory.to(key.dtype), decay)
    found = fraction(made[..., :-1].transpose(1, 2), made[..., -1].transpose(1, 2), stabiliser.transpose(1, 2))
    return torch.cat([found.flatten(2).to(inputs.dtype), mixed], -1)


def stabilisers(
    log_input: Float[Tensor, "batch head time"],
    log_forget: Float[Tensor, "batch head time"],
    initial: Float[Tensor, "batch head"],
) -> Float[Tensor, "batch head time"]:
    """m at every time, in float32 at least and without a gradient: y depends on no choice of it."""
    with torch.no_grad():
        dtype = torch.promote_types(log_input.dtype, torch.float32)
        forgotten = log_forget.to(dtype).cumsum(-1)
        largest = (log_input - forgotten).cummax(-1).values
        return forgotten + torch.maximum(largest, initial.to(dtype).unsqueeze(-1))


class MatrixLSTMBlock(Block):
    """The paper's block around the cell: a norm, an up-projection with a gate beside it, and a residual path."""

    def __init__(
        self, hidden: int, layers: int, heads: int, expansion: int, convolution: int, block: int, forget: Forget
    ) -> None:
        super().__init__()
        require_at_least("expansion", expansion, 1)
        inner = expansion * hidden
        self.inner = inner
        self.recurrence = MatrixLSTMCell(inner, hidden, heads, convolution, block, forget)
        self.norm = nn.LayerNorm(hidden, bias=False)
        self.enlarge = nn.Linear(hidden, 2 * inner, bias=False)
        self.head_norm = nn.GroupNorm(heads, inner)
        self.skip = nn.Parameter(torch.ones(inner))
        self.reduce = nn.Linear(inner, hidden, bias=False)
        nn.init.normal_(self.enlarge.weight, std=math.sqrt(2 / (5 * hidden)))
        nn.init.normal_(self.reduce.weight, std=2 / (layers * math.sqrt(hidden)))

    def enter(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time inner"]:
        return nn.functional.linear(self.norm(x), self.enlarge.weight[: self.inner])

    def leave(
        self, x: Float[Tensor, "batch time width"], y: Float[Tensor, "batch time read"]
    ) -> Float[Tensor, "batch time width"]:
        gate = nn.functional.linear(self.norm(x), self.enlarge.weight[self.inner :])
        found, mixed = y.chunk(2, -1)
        normed = self.head_norm(found.flatten(0, 1)).view_as(found)
        return x + self.reduce((normed + self.skip * mixed) * nn.functional.silu(gate))


def mlstm(
    task: Task,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    expansion: int = 2,
    convolution: int = 4,
    block: int = 4,
    forget: Forget = "sigmoid",
    embedding: EmbeddingFactory = OneHot,
) -> ResidualModel:
    """The matrix LSTM; ``expansion`` · ``hidden`` must be a multiple of ``heads`` and of ``block``."""
    return ResidualModel(
        task,
        lambda: MatrixLSTMBlock(hidden, layers, heads, expansion, convolution, block, forget),
        hidden,
        layers,
        norm=lambda width: nn.LayerNorm(width, bias=False),
        embedding=embedding,
    )
