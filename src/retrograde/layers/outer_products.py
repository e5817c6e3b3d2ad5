r"""A memory of outer products that decays: what linear attention and its descendants have in common.

    S_t = diag(α_t) S_{t-1} + k_t v_tᵀ        y_t = S_tᵀ q_t

S memory (batch, head, keys, values), q and k (batch, head, time, keys), v (batch, head, time, values). The decay α lies
in (0, 1]: none at all (α = 1), one number for a head, fixed or at every time, or one for each entry of a key.

**Chunks.** From the state S at a chunk's start, with b_i = log α_1 + … + log α_i inside the chunk,

    y_i = (S ⊙ e^{b_i})ᵀ q_i + Σ_{j≤i} (Σ_d q_{id} k_{jd} e^{b_{id}-b_{jd}}) v_j

The sum over j is a product of masked matrices for all chunks at once; the states at the chunks' starts are a scan.

**Precision.** b_i - b_j is never formed by subtraction: one steep decay earlier in the chunk would leave nothing of it
but rounding. Each e^{b_i-b_j} is made of its own terms alone. No positive number is exponentiated anywhere, and α may
be 0, which is a log decay of -∞.

Where the decay is one number for a head, e^{b_i-b_j} is a matrix that multiplies q_i·k_j. Where each entry of a key
decays by itself, e^{b_i} e^{-b_j} would split the sum over d into two factors, of which the second overflows. So a
chunk is halved and halved again: a time i of a later half and a time j of the earlier half have the middle m between
them, and e^{b_i-b_m} and e^{b_m-b_j} are both at most 1.

Source: chunks: Sun et al. 2023, arXiv:2307.08621, eq. 7, and Yang et al. 2023, arXiv:2312.06635, section 4; halving
instead of the latter's two levels of chunks is ours.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.layers.scans import scan

CHUNK = 32
"""Times of one chunk, a power of two. Of 16 to 128 the fastest, or nearly so, on a CPU, for heads of 8 and of 32."""


def outer_products(
    query: Float[Tensor, "batch head time keys"],
    key: Float[Tensor, "batch head time keys"],
    value: Float[Tensor, "batch head time values"],
    initial: Float[Tensor, "batch head keys values"],
    log_decay: Float[Tensor, "#batch #head #time #keys"] | None = None,
    chunk: int = CHUNK,
) -> Float[Tensor, "batch head time values"]:
    """y at every time, from the state before the first; memory grows linearly in time.

    ``log_decay`` is log α, never positive, at the least -∞; it broadcasts: a decay that is the same at all times, or
    for all entries of a key, has that axis of size 1. Computed in float32 at least and given in the values' own type.
    ``chunk`` is a power of two.
    """
    length = query.shape[2]
    size = min(chunk, 1 << (length - 1).bit_length())
    with torch.autocast(query.device.type, enabled=False):
        queries, keys, values = (_in_chunks(_precise(part), size) for part in (query, key, value))
        initial = _precise(initial)
        if log_decay is None:
            kept = torch.ones_like(initial[:1, :1, :1, :1]).unsqueeze(1)
            made = (queries @ keys.mT).tril() @ values
        else:
            decay = _decay_in_chunks(_precise(log_decay), size)
            within = _one_rate if decay.shape[-1] == 1 else _halved
            made, since_start, to_end = within(queries, keys, values, decay)
            kept = since_start[..., -1, :].unsqueeze(-1).transpose(1, 2)  # batch, chunk, head, keys, 1
            queries, keys = queries * since_start, keys * to_end
        made = made + _across(queries, keys, values, kept, initial)
    return made.flatten(2, 3)[:, :, :length].to(value.dtype)


def decay_between(log_decay: Float[Tensor, "*batch time 1"]) -> Float[Tensor, "*batch time time"]:
    """α_{j+1} ⋯ α_i at [i, j], 1 on the diagonal and 0 above it.

    Every entry is e to the sum of its own logarithms, so that no decay outside of it costs precision.
    """
    length = log_decay.shape[-2]
    own = log_decay.expand(*log_decay.shape[:-1], length).tril(-1)
    return own.cumsum(-2).exp().tril()


def by_head(made: Float[Tensor, "batch head time values"]) -> Float[Tensor, "batch time width"]:
    """The heads side by side at every time."""
    return made.transpose(1, 2).flatten(2)


def _precise(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _in_chunks(value: Float[Tensor, "batch head time width"], size: int) -> Float[Tensor, "batch head chunk in width"]:
    """Filled up with zeros: such keys write nothing, and nothing after them is read."""
    missing = -value.shape[2] % size
    filled = nn.functional.pad(value, (0, 0, 0, missing)) if missing else value
    return filled.unflatten(2, (-1, size))


def _decay_in_chunks(
    log_decay: Float[Tensor, "batch head time width"], size: int
) -> Float[Tensor, "batch head chunk in width"]:
    if log_decay.shape[2] > 1 or size == 1:
        return _in_chunks(log_decay, size)
    return log_decay.unsqueeze(2).expand(-1, -1, -1, size, -1)  # one chunk that stands for all


def _across(query: Tensor, key: Tensor, value: Tensor, kept: Tensor, initial: Tensor) -> Tensor:
    """What is read of the state at the chunk's start, of which ``kept`` is left at its end."""
    written = (key[:, :, :-1].mT @ value[:, :, :-1]).transpose(1, 2)
    start = initial.unsqueeze(1)
    if written.shape[1]:
        later = scan(kept if kept.shape[1] == 1 else kept[:, :-1], written, initial)
        start = torch.cat([start, later], 1)
    return query @ start.transpose(1, 2)


def _one_rate(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the chunk's own keys and values add, and the decay from its start to each time and from there to its end."""
    between = decay_between(log_decay)
    return (query @ key.mT * between) @ value, log_decay.cumsum(-2).exp(), between[..., -1, :].unsqueeze(-1)


def _halved(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same where entries decay apart: each time with itself, then earlier with later halves of 2 times, 4, … all.

    Products of decays grow with the halves: up to each time, itself included, and from there to the end.
    """
    made = (query * key).sum(-1, keepdim=True) * value
    up_to = log_decay.exp()
    beyond = torch.ones_like(up_to)
    half = 1
    while half < query.shape[-2]:
        asked, carried, kept, before, after = (
            part.unflatten(-2, (-1, 2, half)).unbind(-3) for part in (query, value, key, up_to, beyond)
        )
        added = (asked[1] * before[1]) @ (kept[0] * after[0]).mT @ carried[0]
        made = made + torch.stack([torch.zeros_like(added), added], -3).flatten(-4, -2)
        up_to = torch.stack([before[0], before[1] * before[0][..., -1:, :]], -3).flatten(-4, -2)
        beyond = torch.stack([after[0] * before[1][..., -1:, :], after[1]], -3).flatten(-4, -2)
        half *= 2
    return made, up_to, beyond
