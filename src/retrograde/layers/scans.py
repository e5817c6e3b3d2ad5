r"""Diagonal linear recurrences: all times without a Python loop over them, complex states, and the block around them.

    h_t = a_t ⊙ h_{t-1} + b_t

**Chunks.** Time is cut into about √T chunks of √T times each. First all chunks walk side by side from a state of zero:
each ends with what it adds, e, and the product p of its decays. Then the state is carried from chunk to chunk,
h ← p ⊙ h + e, and last all chunks walk side by side again, each from the state it really begins with. That is three
walks of √T steps, of which each handles √T times at once: work and memory are linear in T, and nothing is divided by
a product of decays or taken the logarithm of, so that a decay may be 0. On a CPU a time that is wide enough keeps it
busy by itself: there one walk through all times does less.

**Gradient.** g_t = dL/dh_t obeys the same recurrence backward in time, and is found in the same way:

    g_t = d_t + ā_{t+1} ⊙ g_{t+1}        ∂L/∂b_t = g_t        ∂L/∂a_t = g_t ⊙ h̄_{t-1}

d_t direct gradient at h_t, ¯ the complex conjugate. Only a and h are kept for it.

Source: scans: Blelloch 1990, CMU-CS-90-190; for networks, with the gradient: Martin & Cundy 2018, arXiv:1709.04057.
"""

import math
from typing import Any

import torch
from jaxtyping import Complex, Float, Inexact
from torch import Tensor, nn

from retrograde.core.abreast import seeds_first

WIDE = 4096
"""Numbers of one time, over all samples, from which on one walk is the faster on a CPU; of 128 to 512 times."""


def scan(
    decay: Inexact[Tensor, "..."],
    inputs: Inexact[Tensor, "batch time *rest"],
    initial: Inexact[Tensor, "batch *rest"] | None = None,
) -> Inexact[Tensor, "batch time *rest"]:
    """h at every time, real or complex, from ``initial`` before the first time, or from zero.

    ``decay`` broadcasts against ``inputs``: one that is the same at all times needs no axis for them. Computed in
    float32 at least and given in the precision of what comes in. Decays are meant to be at most 1 in absolute value:
    products over √T of them must not overflow.
    """
    given = torch.promote_types(decay.dtype, inputs.dtype)
    precise = torch.promote_types(given, torch.float32)
    begin = inputs.new_zeros(inputs.shape[:1] + inputs.shape[2:]) if initial is None else initial
    decay = decay.to(precise).expand(inputs.shape)
    made: Tensor = _Scan.apply(decay, inputs.to(precise), begin.to(precise), False)
    return made.to(given)


class _Scan(torch.autograd.Function):
    """The recurrence forward in time or, from ``initial`` after the end, backward; each is the other's adjoint."""

    @staticmethod
    def forward(decay: Tensor, inputs: Tensor, initial: Tensor, backward: bool) -> Tensor:
        walk = _walked if inputs.device.type == "cpu" and inputs.numel() >= WIDE * inputs.shape[1] else _chunked
        return walk(decay, inputs, initial, backward)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
        decay, _, initial, ctx.backward_in_time = inputs
        ctx.save_for_backward(decay, initial, output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *given: Any) -> tuple[Tensor, int]:
        """Seeds are further samples."""
        *tensors, backward = given
        parts = [part.flatten(0, 1) for part in seeds_first(info.batch_size, in_dims[:3], tensors)]
        return _Scan.apply(*parts, backward).unflatten(0, (info.batch_size, -1)), 0

    @staticmethod
    def backward(ctx: Any, *direct: Tensor) -> tuple[Tensor | None, ...]:
        """Made of differentiable calls, so that it can be differentiated again."""
        decay, initial, states = ctx.saved_tensors
        conjugate = decay.conj() if decay.is_complex() else decay
        nothing = torch.zeros_like(initial)
        if ctx.backward_in_time:
            shifted = torch.cat([torch.zeros_like(decay[:, :1]), conjugate[:, :-1]], 1)
            total = _Scan.apply(shifted, direct[0], nothing, False)
            before = torch.cat([states[:, 1:], initial.unsqueeze(1)], 1)
            first = conjugate[:, -1] * total[:, -1]
        else:
            shifted = torch.cat([conjugate[:, 1:], torch.zeros_like(decay[:, :1])], 1)
            total = _Scan.apply(shifted, direct[0], nothing, True)
            before = torch.cat([initial.unsqueeze(1), states[:, :-1]], 1)
            first = conjugate[:, 0] * total[:, 0]
        of_decay = total * before.conj() if ctx.needs_input_grad[0] else None
        return of_decay, total, first, None


def _walked(decay: Tensor, inputs: Tensor, initial: Tensor, backward: bool) -> Tensor:
    states = torch.empty_like(inputs, memory_format=torch.contiguous_format)
    state = initial
    times = range(inputs.shape[1])
    for t in times[::-1] if backward else times:
        state = torch.addcmul(inputs[:, t], decay[:, t], state, out=states[:, t])
    return states


def _chunked(decay: Tensor, inputs: Tensor, initial: Tensor, backward: bool) -> Tensor:
    length = inputs.shape[1]
    within = max(1, math.isqrt(length))
    decay, inputs = _in_chunks(decay, within), _in_chunks(inputs, within)
    times, chunks = range(within), range(inputs.shape[1])
    if backward:
        times, chunks = times[::-1], chunks[::-1]
    end, product = inputs[:, :, times[0]], decay[:, :, times[0]]
    for t in times[1:]:
        end = torch.addcmul(inputs[:, :, t], decay[:, :, t], end)
        product = product * decay[:, :, t]
    begin = torch.empty_like(end)
    state = initial
    for chunk in chunks:
        begin[:, chunk] = state
        state = torch.addcmul(end[:, chunk], product[:, chunk], state)
    states = torch.empty_like(inputs, memory_format=torch.contiguous_format)
    state = begin
    for t in times:
        state = torch.addcmul(inputs[:, :, t], decay[:, :, t], state, out=states[:, :, t])
    return states.flatten(1, 2)[:, :length]


def _in_chunks(value: Tensor, within: int) -> Tensor:
    """(batch, chunk, in, …), filled up with zeros: forward nothing reads them, and backward all begins with zero."""
    missing = -value.shape[1] % within
    if missing:
        value = nn.functional.pad(value, [0, 0] * (value.dim() - 2) + [0, missing])
    return value.unflatten(1, (-1, within))


def as_complex(pairs: Float[Tensor, "*shape 2"]) -> Complex[Tensor, "*shape"]:
    """Pairs of a real and an imaginary part as numbers, in float32 at least: complex ones come in no less.

    States are kept as pairs, because the sweep and the norms of gradients are those of real numbers.
    """
    return torch.view_as_complex(pairs.to(torch.promote_types(pairs.dtype, torch.float32)).contiguous())


def as_pairs(values: Complex[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape 2"]:
    """The inverse of ``as_complex``, in the precision of what the pairs stand beside."""
    return torch.view_as_real(values).to(dtype)
