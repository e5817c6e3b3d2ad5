r"""Diagonal linear recurrences: all times without a Python loop over them, complex states, and the block around them.

    h_t = a_t ⊙ h_{t-1} + b_t

``scan`` takes one of three forms. On CUDA it is a kernel of its own, ``scan_kernel``, if Triton is installed, which
torch for CUDA brings; if not, it runs in chunks there too, and warns of it once. On a CPU a time that is wide enough
keeps it busy by itself, and one walk through all times does least; else it runs in chunks.

**Chunks.** Time is cut into about √T chunks of √T times each. First all chunks walk side by side from a state of zero:
each ends with what it adds, e, and the product p of its decays. Then the state is carried from chunk to chunk,
h ← p ⊙ h + e, and last all chunks walk side by side again, each from the state it really begins with. That is three
walks of √T steps, of which two handle √T times at once: work and memory are linear in T, and nothing is divided by a
product of decays or taken the logarithm of, so that a decay may be 0.

**Gradient.** g_t = dL/dh_t obeys the same recurrence backward in time, and is found in the same way:

    g_t = d_t + ā_{t+1} ⊙ g_{t+1}        ∂L/∂b_t = g_t        ∂L/∂a_t = g_t ⊙ h̄_{t-1}

d_t direct gradient at h_t, ¯ the complex conjugate. Only a and h are kept for it, and read where they lie.

Source: scans: Blelloch 1990, CMU-CS-90-190; for networks, with the gradient: Martin & Cundy 2018, arXiv:1709.04057.
"""

import math
import warnings
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Complex, Float, Inexact
from torch import Tensor

from retrograde.core.abreast import seeds_first

WIDE = 20 * 1024
"""Bytes of one time, over all samples, from which on one walk is the faster on a CPU; between 16 and 32 thousand."""

SHORT = 24
"""Times up to which one walk is the faster, however narrow they are."""


def scan(
    decay: Inexact[Tensor, "..."],
    inputs: Inexact[Tensor, "batch time *rest"],
    initial: Inexact[Tensor, "batch *rest"] | None = None,
    reverse: bool = False,
) -> Inexact[Tensor, "batch time *rest"]:
    """h at every time, real or complex, from ``initial`` before the first time, or from zero.

    In ``reverse`` time runs backward: h_t = a_t ⊙ h_{t+1} + b_t, from ``initial`` after the last time. ``decay``
    broadcasts against ``inputs``: one that is the same at all times needs no axis for them. Computed in float32 at
    least and given in the precision of what comes in, laid out in memory as the inputs are. Decays are meant to be at
    most 1 in absolute value: products over √T of them must not overflow.
    """
    given = torch.promote_types(decay.dtype, inputs.dtype)
    # the kernel itself reads half precision and adds up in float32
    precise = given if in_kernel(inputs) else torch.promote_types(given, torch.float32)
    begin = inputs.new_zeros(inputs.shape[:1] + inputs.shape[2:]) if initial is None else initial
    decay = decay.to(precise).expand(inputs.shape)
    made: Tensor = _Scan.apply(decay, inputs.to(precise), begin.to(precise), reverse)
    return made.to(given)


def rectified_scan(
    decay: Float[Tensor, " width"], inputs: Float[Tensor, "batch time width"], initial: Float[Tensor, "batch width"]
) -> Float[Tensor, "batch time width"]:
    """h_t = max(0, a ⊙ h_{t-1} + b_t) at every time, in float32 at least and given in the type of the inputs.

    The ReLU stands between the steps, so that they are taken one by one. On the way back it is a factor of 0 or 1, and
    the gradient of all times a scan.
    """
    precise = torch.promote_types(inputs.dtype, torch.float32)
    of_samples = decay.to(precise).expand(len(inputs), -1)
    made: Tensor = _Rectified.apply(of_samples, inputs.to(precise), initial.to(precise))
    return made.to(inputs.dtype)


class _Rectified(torch.autograd.Function):
    """δ_t, the gradient at what the ReLU is taken of, obeys δ_t = [h_t > 0] ⊙ (d_t + a ⊙ δ_{t+1}).

    Each sample has an a of its own.
    """

    @staticmethod
    def forward(decay: Tensor, inputs: Tensor, initial: Tensor) -> Tensor:
        states, state = torch.empty_like(inputs), initial
        for added, made in zip(inputs.unbind(1), states.unbind(1), strict=True):
            state = torch.addcmul(added, decay, state, out=made).relu_()
        return states

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        decay, _, initial = inputs
        ctx.save_for_backward(decay, initial, output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *given: Tensor) -> tuple[Tensor, int]:
        """Seeds are further samples."""
        parts = [part.flatten(0, 1) for part in seeds_first(info.batch_size, in_dims, given)]
        return _Rectified.apply(*parts).unflatten(0, (info.batch_size, -1)), 0

    @staticmethod
    def backward(ctx: Any, *direct: Tensor) -> tuple[Tensor | None, ...]:
        decay, initial, states = ctx.saved_tensors
        active = (states > 0).to(states.dtype)
        inner = scan(active * decay.unsqueeze(1), active * direct[0], reverse=True)
        of_decay = None
        if ctx.needs_input_grad[0]:
            of_decay = (inner[:, 1:] * states[:, :-1]).sum(1) + inner[:, 0] * initial
        return of_decay, inner, decay * inner[:, 0]


def in_kernel(value: Tensor) -> bool:
    """Whether a scan of it is one kernel: on CUDA, where Triton is there. Warns once where it is not."""
    return value.is_cuda and _triton_is_there()


@cache
def _triton_is_there() -> bool:
    found = find_spec("triton") is not None
    if not found:
        warnings.warn(
            "scans on CUDA run in chunks, by some 4 √T calls of torch each, because Triton is not installed; "
            "pip install triton makes them one kernel",
            stacklevel=2,
        )
    return found


class _Scan(torch.autograd.Function):
    """The recurrence forward in time or, from ``initial`` after the end, backward; each is the other's adjoint."""

    @staticmethod
    def forward(decay: Tensor, inputs: Tensor, initial: Tensor, reverse: bool) -> Tensor:
        if in_kernel(inputs):
            from retrograde.layers import scan_kernel

            return scan_kernel.states(decay, inputs, initial, reverse)
        states = torch.empty_like(inputs)
        _recur(decay, inputs, initial, reverse, states)
        return states

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
        decay, _, initial, ctx.reverse = inputs
        ctx.save_for_backward(decay, initial, output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *given: Any) -> tuple[Tensor, int]:
        """Seeds are further samples."""
        *tensors, reverse = given
        parts = [part.flatten(0, 1) for part in seeds_first(info.batch_size, in_dims[:3], tensors)]
        return _Scan.apply(*parts, reverse).unflatten(0, (info.batch_size, -1)), 0

    @staticmethod
    def backward(ctx: Any, *direct: Tensor) -> tuple[Tensor | None, ...]:
        """Of differentiable calls where it is to be differentiated again, without copies where not."""
        adjoint = _differentiable_adjoint if torch.is_grad_enabled() else _adjoint
        decay, initial, states = ctx.saved_tensors
        return *adjoint(decay, initial, states, direct[0], ctx.reverse, ctx.needs_input_grad), None


def _differentiable_adjoint(
    decay: Tensor, initial: Tensor, states: Tensor, direct: Tensor, reverse: bool, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients of decays, inputs and initial state."""
    conjugate, nothing = decay.conj(), torch.zeros_like(initial)
    if reverse:
        shifted = torch.cat([torch.zeros_like(decay[:, :1]), conjugate[:, :-1]], 1)
        before = torch.cat([states[:, 1:], initial.unsqueeze(1)], 1)
    else:
        shifted = torch.cat([conjugate[:, 1:], torch.zeros_like(decay[:, :1])], 1)
        before = torch.cat([initial.unsqueeze(1), states[:, :-1]], 1)
    total = _Scan.apply(shifted, direct, nothing, not reverse)
    begin = -1 if reverse else 0
    return total * before.conj() if wanted[0] else None, total, conjugate[:, begin] * total[:, begin]


def _adjoint(
    decay: Tensor, initial: Tensor, states: Tensor, direct: Tensor, reverse: bool, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """The same."""
    begin, end = (-1, 0) if reverse else (0, -1)
    of_decay: Tensor | None = None
    if in_kernel(direct):
        from retrograde.layers import scan_kernel

        total, of_decay = scan_kernel.adjoint(decay, direct, states, initial, reverse, wanted[0])
    else:
        earlier, later = slice(None, -1), slice(1, None)
        if reverse:
            earlier, later = later, earlier
        total = torch.empty_like(states)
        total[:, end] = direct[:, end]
        if states.shape[1] > 1:
            kept = _unexpanded(decay)
            kept = kept if kept.shape[1] == 1 else kept[:, later]
            _recur(kept.conj().resolve_conj(), direct[:, earlier], total[:, end], not reverse, total[:, earlier])
        if wanted[0]:
            of_decay = torch.empty_like(states)
            torch.mul(total[:, later], states[:, earlier].conj(), out=of_decay[:, later])
            torch.mul(total[:, begin], initial.conj(), out=of_decay[:, begin])
    return of_decay, total, decay[:, begin].conj() * total[:, begin] if wanted[2] else None


def _recur(decay: Tensor, inputs: Tensor, initial: Tensor, reverse: bool, out: Tensor) -> None:
    """All states into ``out``."""
    length = inputs.shape[1]
    wide = inputs.device.type == "cpu" and inputs.numel() * inputs.element_size() >= WIDE * length
    walk = _walk if wide or length <= SHORT else _walk_in_chunks
    walk(_unexpanded(decay), inputs, initial, reverse, out)


def _unexpanded(value: Tensor) -> Tensor:
    """With one entry along each axis along which all are the same one."""
    for axis, step in enumerate(value.stride()):
        if step == 0:
            value = value.narrow(axis, 0, 1)
    return value


def _walk(decay: Tensor, inputs: Tensor, initial: Tensor, reverse: bool, out: Tensor) -> None:
    """Time by time."""
    # taken apart all at once: an index for each time costs more than what is computed with it
    kept_at_all = decay.expand(-1, inputs.shape[1], *decay.shape[2:])
    steps = list(zip(*(part.unbind(1) for part in (kept_at_all, inputs, out)), strict=True))
    state = initial
    for kept, added, made in reversed(steps) if reverse else steps:
        state = torch.addcmul(added, kept, state, out=made)


def _walk_in_chunks(decay: Tensor, inputs: Tensor, initial: Tensor, reverse: bool, out: Tensor) -> None:
    """All chunks side by side, and what is left over at the end of the walk by itself."""
    length = inputs.shape[1]
    within = math.isqrt(length)
    rest = length % within
    body, tail = slice(0, length - rest), slice(length - rest, length)
    if reverse:
        body, tail = slice(rest, length), slice(0, rest)
    constant = decay.shape[1] == 1
    added, made = (part[:, body].unflatten(1, (-1, within)).unbind(2) for part in (inputs, out))
    kept = (decay.unsqueeze(1) if constant else decay[:, body].unflatten(1, (-1, within))).unbind(2)
    steps = list(zip(kept * within if constant else kept, added, made, strict=True))
    if reverse:
        steps.reverse()
    product, end, _ = steps[0]
    end, product = end.clone(), product.clone()
    for kept_now, added_now, _ in steps[1:]:
        torch.addcmul(added_now, kept_now, end, out=end)
        torch.mul(product, kept_now, out=product)
    # the states between the chunks, those before the first and after the last included
    between = end.new_empty(end.shape[:1] + (end.shape[1] + 1,) + end.shape[2:])
    first, last = (-1, 0) if reverse else (0, -1)
    before, after = (between[:, 1:], between[:, :-1]) if reverse else (between[:, :-1], between[:, 1:])
    between[:, first] = initial
    _walk(product, end, initial, reverse, after)
    state = before
    for kept_now, added_now, made_now in steps:
        state = torch.addcmul(added_now, kept_now, state, out=made_now)
    if rest:
        _walk(decay if constant else decay[:, tail], inputs[:, tail], between[:, last], reverse, out[:, tail])


def as_complex(pairs: Float[Tensor, "*shape 2"]) -> Complex[Tensor, "*shape"]:
    """Pairs of a real and an imaginary part as numbers, in float32 at least: complex ones come in no less.

    States are kept as pairs, because the sweep and the norms of gradients are those of real numbers.
    """
    return torch.view_as_complex(pairs.to(torch.promote_types(pairs.dtype, torch.float32)).contiguous())


def as_pairs(values: Complex[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape 2"]:
    """The inverse of ``as_complex``, in the precision of what the pairs stand beside."""
    return torch.view_as_real(values).to(dtype)
