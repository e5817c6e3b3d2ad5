r"""A memory of outer products that decays: what linear attention and its descendants have in common.

    S_t = diag(α_t) S_{t-1} + k_t v_tᵀ        y_t = S_tᵀ q_t

S memory (batch, head, keys, values), q and k (batch, head, time, keys), v (batch, head, time, values). The decay α lies
in (0, 1]: none at all (α = 1), one number for a head, fixed or at every time, or one for each entry of a key.

**Chunks.** From the state S at a chunk's start, with b_i = log α_1 + … + log α_i inside the chunk,

    y_i = (S ⊙ e^{b_i})ᵀ q_i + Σ_{j≤i} (Σ_d q_{id} k_{jd} e^{b_{id}-b_{jd}}) v_j

The sum over j is a product of masked matrices for all chunks at once; the states at the chunks' starts are a scan.

Where the decay is one number for a head, e^{b_i-b_j} is a matrix that multiplies q_i·k_j. Where each entry of a key
decays by itself, e^{b_i} e^{-b_j} would split the sum over d into two factors, of which the second overflows. So a
chunk is halved and halved again: a time i of a later half and a time j of the earlier half have the middle m between
them, and e^{b_i-b_m} and e^{b_m-b_j} are both at most 1. No positive number is exponentiated anywhere.

Source: chunks: Sun et al. 2023, arXiv:2307.08621, eq. 7, and Yang et al. 2023, arXiv:2312.06635, section 4; halving
instead of the latter's two levels of chunks is ours.
"""

import math

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

    ``log_decay`` is log α, never positive; it broadcasts: a decay that is the same at all times, or for all entries of
    a key, has that axis of size 1. Computed in float32 at least and given in the values' own type. ``chunk`` is a power
    of two.
    """
    length = query.shape[2]
    size = min(chunk, 1 << (length - 1).bit_length())
    with torch.autocast(query.device.type, enabled=False):
        queries, keys, values = (_in_chunks(_precise(part), size) for part in (query, key, value))
        decay = None if log_decay is None else _decay_in_chunks(_precise(log_decay), size)
        made = _within(queries, keys, values, decay) + _across(queries, keys, values, decay, _precise(initial))
    return made.flatten(2, 3)[:, :, :length].to(value.dtype)


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


def _across(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor | None, initial: Tensor) -> Tensor:
    """What is read of the state at the chunk's start."""
    kept = torch.ones_like(initial[:1, :1, :1, :1]).unsqueeze(1)
    if log_decay is not None:
        since_start = log_decay.cumsum(-2)
        kept = since_start[..., -1, :].exp().unsqueeze(-1).transpose(1, 2)  # batch, chunk, head, keys, 1
        query, key = query * since_start.exp(), key * (since_start[..., -1:, :] - since_start).exp()
    written = (key[:, :, :-1].mT @ value[:, :, :-1]).transpose(1, 2)
    start = initial.unsqueeze(1)
    if written.shape[1]:
        later = scan(kept if kept.shape[1] == 1 else kept[:, :-1], written, initial)
        start = torch.cat([start, later], 1)
    return query @ start.transpose(1, 2)


def _within(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor | None) -> Tensor:
    """What the chunk's own keys and values add."""
    if log_decay is None:
        return (query @ key.mT).tril() @ value
    if log_decay.shape[-1] > 1:
        return _halved(query, key, value, log_decay)
    since_start = log_decay.cumsum(-2)
    later = torch.ones(query.shape[-2], query.shape[-2], dtype=torch.bool, device=query.device).triu(1)
    between = (since_start - since_start.mT).masked_fill(later, -math.inf).exp()
    return (query @ key.mT * between) @ value


def _halved(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor) -> Tensor:
    """Each time with itself, then earlier with later halves of 2 times, of 4, … of the whole chunk."""
    made = (query * key).sum(-1, keepdim=True) * value
    half = 1
    while half < query.shape[-2]:
        decay, asked, kept, carried = (
            part.unflatten(-2, (-1, 2, half)).unbind(-3) for part in (log_decay, query, key, value)
        )
        before, after = (part.cumsum(-2) for part in decay)  # from the start of a half on, each time included
        to_middle, from_middle = (before[..., -1:, :] - before).exp(), after.exp()
        added = (asked[1] * from_middle) @ (kept[0] * to_middle).mT @ carried[0]
        made = made + torch.stack([torch.zeros_like(added), added], -3).flatten(-4, -2)
        half *= 2
    return made
