r"""The delta rule: a matrix of associations from which every write first takes what its key already recalls.

    S_t = α_t S_{t-1} (I - β_t k_t k_tᵀ) + β_t v_t k_tᵀ        y_t = S_t q_t

S memory (batch, head, values, keys), q and k (batch, head, keys), v (batch, head, values), α decay in (0, 1] and β
writing strength (batch, head).

**Chunks.** From the state S at a chunk's start, with b_i = log α_1 + … + log α_i inside the chunk,

    S_i = e^{b_i} S + Σ_{j≤i} e^{b_i-b_j} u_j k_jᵀ
    u_i = β_i (v_i - e^{b_i} S k_i - Σ_{j<i} e^{b_i-b_j} (k_j·k_i) u_j)

The writes u_i of a chunk are the solution of one unit lower triangular system (I + A) U = β (V - e^b K Sᵀ), in which
only the right side depends on S, and linearly: both parts are solved for all chunks at once, and only the states are
carried from chunk to chunk. Decay enters as e^{b_i-b_j} with j ≤ i alone, which is at most 1; each is made of its own
terms and not by subtraction, which a steep decay earlier in the chunk would leave nothing but rounding of.

Source: Yang et al. 2024, arXiv:2406.06484, section 3 (WY and UT form); the rule: Schlag et al. 2021, arXiv:2102.11174;
with decay: Yang et al. 2024, arXiv:2412.06464, section 3.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.choices import require_at_least
from retrograde.core.records import State
from retrograde.core.recurrence import Form, HiddenAttention, Recurrence, own_forms
from retrograde.layers.outer_products import decay_between
from retrograde.layers.short_convolution import convolved, filter_at_start, short_convolution, window_after
from retrograde.layers.token_matrix import token_matrix

CHUNK = 32
"""Times solved together: on a CPU the fastest of 8 to 128 for heads of width 8 to 64, within a fifth."""

SMALLEST = 1e-6
"""What is added to the squared length of a key or query: a vector of zeros stays one, and has a gradient."""


def delta_rule(
    query: Float[Tensor, "batch time head keys"],
    key: Float[Tensor, "batch time head keys"],
    value: Float[Tensor, "batch time head values"],
    strength: Float[Tensor, "batch time head"],
    log_decay: Float[Tensor, "batch time head"] | None,
    initial: Float[Tensor, "batch head values keys"],
    chunk: int = CHUNK,
) -> Float[Tensor, "batch time head values"]:
    """y at every time, from the state before the first, chunk by chunk; memory grows linearly in time.

    Computed in float32 at least, because errors of a triangular system add up, and given in the values' own type.
    """
    with torch.autocast(query.device.type, enabled=False):
        decay = None if log_decay is None else _precise(log_decay)
        query, key, strength, initial = _precise(query), _precise(key), _precise(strength), _precise(initial)
        made = _chunked(query, key, _precise(value), strength, decay, initial, min(chunk, query.shape[1]))
    return made.to(value.dtype)


def _precise(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _chunked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    strength: Tensor,
    log_decay: Tensor | None,
    state: Tensor,
    chunk: int,
) -> Tensor:
    length = query.shape[1]
    query, key, value = (_in_chunks(part, chunk) for part in (query, key, value))
    strength = _in_chunks(strength.unsqueeze(-1), chunk)
    written, read = key @ key.mT, (query @ key.mT).tril()
    recalled = key  # what meets the state at the chunk's start
    if log_decay is not None:
        decay = _in_chunks(log_decay.unsqueeze(-1), chunk)
        between = decay_between(decay)
        written, read = written * between, read * between
        since_start, to_end = decay.cumsum(-2).exp(), between[..., -1, :].unsqueeze(-1)
        recalled, query, key = key * since_start, query * since_start, key * to_end
    system = (strength * written).tril(-1)
    right = strength * torch.cat([value, recalled], -1)
    # the diagonal of ones is understood, not read
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    of_values, of_state = solved.split([value.shape[-1], key.shape[-1]], -1)
    kept = None if log_decay is None else since_start[..., -1:, :].unbind(0)
    states, writes = [], []
    for at, (own, through, ends) in enumerate(zip(of_values.unbind(0), of_state.unbind(0), key.unbind(0), strict=True)):
        states.append(state)
        writes.append(own - through @ state.mT)
        carried = state if kept is None else kept[at] * state
        state = carried + writes[-1].mT @ ends
    made = query @ torch.stack(states).mT + read @ torch.stack(writes)  # chunk, batch, head, time, values
    return made.permute(1, 0, 3, 2, 4).flatten(1, 2)[:, :length]


def _in_chunks(value: Float[Tensor, "batch time head width"], chunk: int) -> Float[Tensor, "chunk batch head in width"]:
    """Filled up with zeros, which write nothing and decay nothing."""
    missing = -value.shape[1] % chunk
    filled = nn.functional.pad(value, (0, 0, 0, 0, 0, missing)) if missing else value
    return filled.unflatten(1, (-1, chunk)).permute(1, 0, 3, 2, 4)


class DeltaRuleCell(Recurrence):
    r"""The delta rule behind a short causal convolution.

        [q̃; k̃; ṽ]_t = SiLU(Σ_{i<width} w_i ⊙ [q'; k'; v']_{t-i})        q = q̃ / ‖q̃‖,  k = k̃ / ‖k̃‖,  v = ṽ    per head

    It reads q', k', v', the strength β and, with ``decays``, log α side by side, which is for its block to make; q is
    as wide as k. States: ``memory`` S, and ``window``, the last ``convolution`` vectors [q'; k'; v'], the present one
    last: the read-out's query needs it. ``convolution=1`` is none, and there is no window.

    No entry of S has a path of its own: β k kᵀ mixes all of a row, and what an entry loses by itself, 1 - β k_i², says
    only how the key happens to lie among the axes. So nothing is ``kept``; what fades and what is written are gates.
    """

    output = "memory"

    def __init__(
        self, keys: int, values: int, heads: int, convolution: int, decays: bool, strongest: float = 1.0
    ) -> None:
        """``strongest`` is the greatest β that the block gives, at which the gate counts as open."""
        super().__init__()
        require_at_least("heads", heads, 1)
        require_at_least("convolution", convolution, 1)
        for name, size in (("keys", keys), ("values", values)):
            if size % heads:
                raise ValueError(f"the width of the {name} must be a multiple of heads: {size} is not one of {heads}")
        self.keys, self.values, self.heads, self.decays = keys, values, heads, decays
        self.convolution, self.strongest = convolution, strongest
        if convolution > 1:
            self.filter = nn.Parameter(filter_at_start(self.channels, convolution))

    @property
    def channels(self) -> int:
        """The width of query, key and value side by side."""
        return 2 * self.keys + self.values

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        memory = (self.heads, self.values // self.heads, self.keys // self.heads)
        window = {"window": (self.channels, self.convolution)} if self.convolution > 1 else {}
        return {"memory": memory, **window}

    @property
    def width(self) -> int:
        return self.values

    def weights(self) -> dict[str, Tensor]:
        return {"filter": self.filter} if self.convolution > 1 else {}

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        channels, strength, log_decay = self._inputs(x)
        after: State = {}
        if self.convolution > 1:
            after["window"] = window_after(state["window"], channels)
        _, key, value = self._heads(self._convolved(weights, channels, after))
        memory = state["memory"]
        if log_decay is not None:
            memory = log_decay.exp()[..., None, None] * memory
        recalled = (memory @ key.unsqueeze(-1)).squeeze(-1)
        write = strength.unsqueeze(-1) * (value - recalled)
        return {"memory": memory + write.unsqueeze(-1) * key.unsqueeze(-2), **after}

    def read(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> Tensor:
        channels, _, _ = self._inputs(x)
        query, _, _ = self._heads(self._convolved(weights, channels, state))
        return (state["memory"] @ query.unsqueeze(-1)).squeeze(-1).flatten(-2)

    def gates(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        """β over the greatest that it can be, and α where there is one."""
        _, strength, log_decay = self._inputs(x)
        written = {"write": strength / self.strongest}
        return written if log_decay is None else {**written, "decay": log_decay.exp()}

    def hidden_attention(self, weights: Mapping[str, Tensor], x: Float[Tensor, "batch time width"]) -> HiddenAttention:
        """β_j q_i · (α_i (I - β_i k_i k_iᵀ) … α_{j+1} (I - β_{j+1} k_{j+1} k_{j+1}ᵀ) k_j) of every head."""
        channels, strength, log_decay = self._inputs(x)
        if self.convolution > 1:
            channels = short_convolution(channels, self.initial_state(x)["window"], weights["filter"])
        query, key, value = self._heads(channels)
        strength = strength.unsqueeze(-1)
        decay = torch.ones_like(strength) if log_decay is None else log_decay.exp().unsqueeze(-1)

        def carried(time: int, states: Tensor) -> Tensor:
            now = slice(time, time + 1)
            recalled = (states * key[:, now]).sum(-1, keepdim=True)
            return decay[:, now] * (states - strength[:, now] * recalled * key[:, now])

        return HiddenAttention(token_matrix(strength * key, query, carried), value)

    def _inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        channels, strength, log_decay = x.split([self.channels, self.heads, self.heads * self.decays], -1)
        return channels, strength, log_decay if self.decays else None

    def _convolved(self, weights: Mapping[str, Tensor], channels: Tensor, state: State) -> Tensor:
        if self.convolution == 1:
            return channels
        return convolved(state["window"], weights["filter"])

    def _heads(self, convolved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of every head, (..., head, width)."""
        parts = nn.functional.silu(convolved).split([self.keys, self.keys, self.values], -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)) for part in parts)
        return _unit(query), _unit(key), value


def _unit(vector: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
    return vector * torch.rsqrt(vector.square().sum(-1, keepdim=True) + SMALLEST)


@own_forms.register
def _(recurrence: DeltaRuleCell, inputs: Tensor) -> dict[str, Form]:
    return {"chunked": Form(_by_chunks)}


def _by_chunks(
    recurrence: DeltaRuleCell, inputs: Float[Tensor, "batch time width"], initial: State | None = None
) -> Float[Tensor, "batch time values"]:
    start = recurrence.initial_state(inputs) if initial is None else initial
    channels, strength, log_decay = recurrence._inputs(inputs)
    if recurrence.convolution > 1:
        channels = short_convolution(channels, start["window"], recurrence.filter)
    query, key, value = recurrence._heads(channels)
    return delta_rule(query, key, value, strength, log_decay, start["memory"]).flatten(2)
