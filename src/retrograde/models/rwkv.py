r"""RWKV, version 4: a weighted mean of values whose weights fade at a rate of each channel's own.

Time mixing, one block; n = LayerNorm(x) and μ is a vector of its own for each of k, v and r:

    k_t, v_t, r_t = W (μ ⊙ n_t + (1 - μ) ⊙ n_{t-1})             key, value, receptance
    wkv_t = (a_{t-1} + e^{u+k_t} ⊙ v_t) / (b_{t-1} + e^{u+k_t})
    a_t = e^{-w} ⊙ a_{t-1} + e^{k_t} ⊙ v_t                      numerator
    b_t = e^{-w} ⊙ b_{t-1} + e^{k_t}                            denominator
    x ← x + W_o (σ(r_t) ⊙ wkv_t)

Channel mixing, the next block, with its own n, μ and W:

    k_t, r_t = W (μ ⊙ n_t + (1 - μ) ⊙ n_{t-1})
    x ← x + σ(r_t) ⊙ W_v max(0, k_t)²

x the residual stream (batch, time, hidden), at the start the LayerNorm of the embedded input; all vectors
(batch, hidden) but the k of channel mixing, which is `expansion` times as wide. w = e^ω > 0 decay, u bonus of the
present, both (hidden). A layer is two blocks, so that the states of layer i are keyed 2i (time) and 2i + 1 (channels).

The states that carry: the last n, of each block; and a, b with the exponent p that both are meant to be multiplied by,
so that no positive number is exponentiated:

    p_t = max(p_{t-1} - w, k_t)        a_t = e^{p_{t-1}-w-p_t} ⊙ a_{t-1} + e^{k_t-p_t} ⊙ v_t        b_t likewise

p is so low before the first time that e^p is 0; a, b and p are kept in float32 at least. As a state p is a coordinate
like the others: with a and b held, dL/dp = a ⊙ dL/da + b ⊙ dL/db. wkv_t reads what was before time t, hence
σ(r) ⊙ wkv is a component as well, `hidden`, which nothing later reads; so is `shifted`, the n_{t-1} that channel mixing
reads. Both count in the state's size: of 7 · hidden a layer, 5 carry.

For training, p_t is found at all times by one running maximum, and taken as given; a and b are then a scan.

Source: Peng et al. 2023, arXiv:2305.13048, eqs. 11-18 and appendix on the stable form; the start: the authors' code.
Differs: dense layers that the authors' code starts at zero (k and r of time mixing, W_o; r and W_v of channel mixing)
do so here, the others and the embedding start as torch.nn.Linear does.
"""

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.block import Block
from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Task
from retrograde.core.records import State
from retrograde.core.recurrence import Form, HiddenAttention, Recurrence, own_forms
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.residual import ResidualModel
from retrograde.layers.scans import scan
from retrograde.layers.stabiliser import with_sums_of_nothing


class TimeMixingCell(Recurrence):
    """The first three lines of the equations, read as σ(r) ⊙ wkv."""

    def __init__(self, hidden: int, layer: int, layers: int) -> None:
        super().__init__()
        self.hidden = hidden
        depth, remaining = layer / max(layers - 1, 1), 1 - layer / layers
        channel = torch.arange(hidden) / hidden
        # fractions of the channels' number, more even the deeper the layer, but for values, which favour the present
        self.mix_key = nn.Parameter(channel**remaining)
        self.mix_value = nn.Parameter(channel**remaining + 0.3 * depth)
        self.mix_receptance = nn.Parameter(channel ** (0.5 * remaining))
        along = torch.arange(hidden) / max(hidden - 1, 1)
        self.log_decay = nn.Parameter(-5 + 8 * along ** (0.7 + 1.3 * depth))
        self.bonus = nn.Parameter(math.log(0.3) + 0.5 * ((torch.arange(hidden) + 1) % 3 - 1))
        self.key = nn.Parameter(torch.zeros(hidden, hidden))
        self.value = nn.Parameter((2 * torch.rand(hidden, hidden) - 1) / hidden**0.5)
        self.receptance = nn.Parameter(torch.zeros(hidden, hidden))

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return dict.fromkeys(("hidden", "last", "numerator", "denominator", "exponent"), (self.hidden,))

    def initial_state(self, like: Float[Tensor, "batch *rest"]) -> State:
        return with_sums_of_nothing(super().initial_state(like), "exponent", ("numerator", "denominator"))

    def weights(self) -> dict[str, Tensor]:
        return dict(self.named_parameters())

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        key, value, receptance = self.parts(weights, x, state["last"])
        numerator, denominator, exponent = state["numerator"], state["denominator"], state["exponent"]
        faded = exponent - weights["log_decay"].exp().unsqueeze(-2)
        largest = torch.maximum(faded, key)
        kept, added = torch.exp(faded - largest), torch.exp(key - largest)
        present = weights["bonus"].unsqueeze(-2) + key
        wkv = weighted(numerator, denominator, exponent, value, present)
        return {
            "hidden": torch.sigmoid(receptance) * wkv.to(x.dtype),
            "last": x.clone(),
            "numerator": kept * numerator + added * value,
            "denominator": kept * denominator + added,
            # a tensor of its own, so that it can change with numerator and denominator held
            "exponent": largest.clone(),
        }

    def gates(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        """σ(r)."""
        _, _, receptance = self.parts(weights, x, state["last"])
        return {"receptance": torch.sigmoid(receptance)}

    def kept(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        """e^{p_{t-1}-w-p_t} of both sums; what they stand for, e^p times them, is carried on by e^{-w}."""
        key, _, _ = self.parts(weights, x, state["last"])
        faded = state["exponent"] - weights["log_decay"].exp().unsqueeze(-2)
        return dict.fromkeys(("numerator", "denominator"), torch.exp(faded - torch.maximum(faded, key)))

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """e^{-w}, of what both sums stand for."""
        return {"decay": torch.exp(-weights["log_decay"].exp())}

    def hidden_attention(self, weights: Mapping[str, Tensor], x: Float[Tensor, "batch time width"]) -> HiddenAttention:
        """σ(r_i) softmax_j(k_j - (i - 1 - j) w for j < i, u + k_i for j = i) of every channel."""
        key, value, receptance = self.parts(weights, x, preceded(self.initial_state(x)["last"], x))
        time = torch.arange(x.shape[1], device=x.device)
        elapsed = time.unsqueeze(1) - time
        faded = -(elapsed - 1).unsqueeze(-1) * weights["log_decay"].exp()  # query, key, channel
        weight = torch.where(elapsed.unsqueeze(-1) == 0, weights["bonus"], faded) + key.unsqueeze(1)
        shares = torch.softmax(weight.masked_fill(elapsed.unsqueeze(-1) < 0, -torch.inf), 2)
        matrix = torch.sigmoid(receptance).unsqueeze(2) * shares
        return HiddenAttention(matrix.permute(0, 3, 1, 2), value.unsqueeze(-1))

    def parts(
        self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], last: Float[Tensor, "... width"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """k, v and r."""
        key, value, receptance = (
            mixed(x, last, weights[f"mix_{name}"].unsqueeze(-2)) @ weights[name].mT
            for name in ("key", "value", "receptance")
        )
        return key, value, receptance


def mixed(
    x: Float[Tensor, "*batch width"], last: Float[Tensor, "*batch width"], share: Float[Tensor, "*#batch width"]
) -> Float[Tensor, "*batch width"]:
    """μ ⊙ x_t + (1 - μ) ⊙ x_{t-1}."""
    return share * x + (1 - share) * last


def weighted(
    numerator: Float[Tensor, "*batch width"],
    denominator: Float[Tensor, "*batch width"],
    exponent: Float[Tensor, "*batch width"],
    value: Float[Tensor, "*batch width"],
    present: Float[Tensor, "*batch width"],
) -> Float[Tensor, "*batch width"]:
    """wkv, of the state before and of the present value with the logarithm of its weight."""
    largest = torch.maximum(exponent, present)
    before, now = torch.exp(exponent - largest), torch.exp(present - largest)
    return (before * numerator + now * value) / (before * denominator + now)


@own_forms.register
def _(recurrence: TimeMixingCell, inputs: Tensor) -> dict[str, Form]:
    return {"scanned": Form(_scanned)}


def _scanned(
    recurrence: TimeMixingCell, inputs: Float[Tensor, "batch time width"], initial: State | None = None
) -> Float[Tensor, "batch time hidden"]:
    start = recurrence.initial_state(inputs) if initial is None else initial
    weights = recurrence.weights()
    last = preceded(start["last"], inputs)
    key, value, receptance = recurrence.parts(weights, inputs, last)
    precise = torch.promote_types(inputs.dtype, torch.float32)
    rate = weights["log_decay"].to(precise).exp()
    key, value = key.to(precise), value.to(precise)
    exponent = exponents(key, rate, start["exponent"].to(precise))
    before = preceded(start["exponent"].to(precise), exponent)
    added = torch.exp(key - exponent)
    sums = scan(
        torch.exp(before - rate - exponent).unsqueeze(-1),
        torch.stack([added * value, added], -1),
        torch.stack([start["numerator"], start["denominator"]], -1).to(precise),
    )
    numerator, denominator = sums.unbind(-1)
    wkv = weighted(
        preceded(start["numerator"].to(precise), numerator),
        preceded(start["denominator"].to(precise), denominator),
        before,
        value,
        weights["bonus"] + key,
    )
    return torch.sigmoid(receptance) * wkv.to(inputs.dtype)


def preceded(
    first: Float[Tensor, "batch width"], value: Float[Tensor, "batch time width"]
) -> Float[Tensor, "batch time width"]:
    """The values one time earlier, ``first`` before them."""
    return torch.cat([first.unsqueeze(1), value[:, :-1]], 1)


def exponents(
    key: Float[Tensor, "batch time width"], rate: Float[Tensor, " width"], initial: Float[Tensor, "batch width"]
) -> Float[Tensor, "batch time width"]:
    """p at every time, without a gradient: wkv depends on no choice of it."""
    with torch.no_grad():
        faded = rate * torch.arange(1, key.shape[1] + 1, device=key.device, dtype=key.dtype).unsqueeze(-1)
        return torch.maximum((key + faded).cummax(1).values, initial.unsqueeze(1)) - faded


class TimeMixing(Block):
    """A norm, the recurrence, and a residual path; in the first layer that path too begins with a norm."""

    def __init__(self, hidden: int, layer: int, layers: int) -> None:
        super().__init__()
        self.recurrence = TimeMixingCell(hidden, layer, layers)
        self.first = nn.LayerNorm(hidden) if layer == 0 else nn.Identity()
        self.norm = nn.LayerNorm(hidden)
        self.combine = nn.Linear(hidden, hidden, bias=False)
        nn.init.zeros_(self.combine.weight)

    def enter(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time inner"]:
        return self.norm(self.first(x))

    def leave(
        self, x: Float[Tensor, "batch time width"], y: Float[Tensor, "batch time read"]
    ) -> Float[Tensor, "batch time width"]:
        return self.first(x) + self.combine(y)


class ShiftCell(Recurrence):
    """Reads the input before the present one."""

    output: ClassVar[str] = "shifted"

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return {"shifted": (self.hidden,), "last": (self.hidden,)}

    def weights(self) -> dict[str, Tensor]:
        return {}

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        return {"shifted": state["last"].clone(), "last": x.clone()}


@own_forms.register
def _(recurrence: ShiftCell, inputs: Tensor) -> dict[str, Form]:
    return {"shifted": Form(_shifted)}


def _shifted(
    recurrence: ShiftCell, inputs: Float[Tensor, "batch time width"], initial: State | None = None
) -> Float[Tensor, "batch time hidden"]:
    start = recurrence.initial_state(inputs) if initial is None else initial
    return preceded(start["last"], inputs)


class ChannelMixing(Block):
    """A feed-forward layer, squared and gated, of the present and the last position."""

    def __init__(self, hidden: int, layer: int, layers: int, expansion: int) -> None:
        super().__init__()
        remaining = 1 - layer / layers
        self.recurrence = ShiftCell(hidden)
        self.norm = nn.LayerNorm(hidden)
        self.mix_key = nn.Parameter((torch.arange(hidden) / hidden) ** remaining)
        self.mix_receptance = nn.Parameter((torch.arange(hidden) / hidden) ** remaining)
        self.key = nn.Linear(hidden, expansion * hidden, bias=False)
        self.receptance = nn.Linear(hidden, hidden, bias=False)
        self.value = nn.Linear(expansion * hidden, hidden, bias=False)
        nn.init.zeros_(self.receptance.weight)
        nn.init.zeros_(self.value.weight)

    def enter(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time inner"]:
        return self.norm(x)

    def leave(
        self, x: Float[Tensor, "batch time width"], y: Float[Tensor, "batch time read"]
    ) -> Float[Tensor, "batch time width"]:
        present = self.norm(x)
        key = torch.relu(self.key(mixed(present, y, self.mix_key))).square()
        receptance = torch.sigmoid(self.receptance(mixed(present, y, self.mix_receptance)))
        return x + receptance * self.value(key)


def rwkv(
    task: Task,
    hidden: int = 64,
    layers: int = 2,
    expansion: int = 4,
    embedding: EmbeddingFactory = OneHot,
) -> ResidualModel:
    """The network; ``expansion`` is the width inside channel mixing in that of the model."""
    for name, size in (("hidden", hidden), ("layers", layers), ("expansion", expansion)):
        require_at_least(name, size, 1)

    def blocks() -> Iterator[Block]:
        for layer in range(layers):
            yield TimeMixing(hidden, layer, layers)
            yield ChannelMixing(hidden, layer, layers, expansion)

    made = blocks()
    return ResidualModel(task, lambda: next(made), hidden, 2 * layers, embedding=embedding)
