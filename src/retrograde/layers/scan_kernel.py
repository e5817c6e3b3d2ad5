r"""The scan as a kernel: each program walks a block of columns along time, a tile of times after another.

A column is one number of one sample at all times. What a tile needs is fetched at once, so that all its times wait for
memory once; within it the recurrence is an associative scan, and its last state begins the next tile. Whatever comes
in is added up in float32 at least, and complex numbers are pairs. The adjoint forms the gradient of the decays as it
passes, from the states on the other side of each time:

    g_t = d_t + ā_{t+1} ⊙ g_{t+1}        ∂L/∂a_t = g_t ⊙ h̄_{t-1}

Nothing is copied beforehand: every axis is read with the stride that it has, and a decay that is the same everywhere
is one number in memory.

Needs Triton, which torch brings where it brings CUDA; ``scans`` imports this module for tensors on such a device alone.
With TRITON_INTERPRET=1 it runs on a CPU, slowly: so it is tested without a device.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 32
"""Of a program: as many as it has threads, or a line of memory in float32."""

TIMES = 32
"""Of a tile, of numbers of 4 bytes; of larger ones fewer, so that a thread's registers hold them all."""

WARPS = 1
"""Of a program."""

AXES = 3
"""At most, of columns, once those that lie behind each other in all tensors are one."""


def states(decay: Tensor, inputs: Tensor, initial: Tensor, reverse: bool) -> Tensor:
    """h at every time, of three tensors of one type, laid out as the inputs are."""
    made, _ = _walked(reverse, decay, inputs, initial)
    return made


def adjoint(
    decay: Tensor, direct: Tensor, made: Tensor, initial: Tensor, reverse: bool, of_decay: bool
) -> tuple[Tensor, Tensor | None]:
    """Total gradients of the states ``made`` by a scan, and those of the decays at every time if asked for."""
    return _walked(not reverse, decay, direct, initial, made, of_decay)


def _walked(
    reverse: bool,
    decay: Tensor,
    inputs: Tensor,
    initial: Tensor,
    made: Tensor | None = None,
    of_decay: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Of ``made``, which is there in an adjoint, the layout and what its products are formed of."""
    adjoint = made is not None
    read = [decay, inputs, initial.unsqueeze(1), inputs if made is None else made]
    parts, sizes, strides, out, products = _laid_out(read, of_decay)
    if len(sizes) > AXES:
        parts, sizes, strides, out, products = _laid_out([part.contiguous() for part in read], of_decay)
    arguments: dict[str, Any] = {
        "PAIRED": out.is_complex(),
        "REVERSE": reverse,
        "ADJOINT": adjoint,
        "PRODUCTS": of_decay,
        "PRECISE": tl.float64 if parts[0].dtype == torch.float64 else tl.float32,
        "TIMES": TIMES // max(1, out.element_size() // 4),
        "COLUMNS": COLUMNS,
    }
    columns = math.prod(sizes)
    with torch.cuda.device_of(out):
        walk[triton.cdiv(columns, COLUMNS),](
            *parts, columns, out.shape[1], sizes[1:], *strides, **arguments, num_warps=WARPS, enable_fp_fusion=True
        )
    return out, products if of_decay else None


def _laid_out(
    read: Sequence[Tensor], of_decay: bool
) -> tuple[list[Tensor], tuple[int, ...], list[tuple[int, ...]], Tensor, Tensor]:
    """Everything that the kernel takes, the results laid out as the last of what it reads; and these themselves."""
    out = torch.empty_like(read[-1])
    products = torch.empty_like(out) if of_decay else out  # not written
    parts = [_numbers(part) for part in (*read, out, products)]
    return parts, *_columns(out.shape, parts), out, products


def _numbers(value: Tensor) -> Tensor:
    """Complex numbers as pairs of parts, the parts of one side by side."""
    return torch.view_as_real(value.resolve_conj()) if value.is_complex() else value


def _columns(shape: Sequence[int], parts: Sequence[Tensor]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The sizes of all axes but time, and of each tensor the strides of time and of them; at least ``AXES``."""
    rest = [axis for axis in range(len(shape)) if axis != 1 and shape[axis] != 1]
    sizes: list[int] = []
    strides: list[list[int]] = [[] for _ in parts]
    for axis in rest:
        here = [0 if part.shape[axis] == 1 else part.stride(axis) for part in parts]
        if sizes and all(own[-1] == step * shape[axis] for own, step in zip(strides, here, strict=True)):
            sizes[-1] *= shape[axis]
            for own, step in zip(strides, here, strict=True):
                own[-1] = step
        else:
            sizes.append(shape[axis])
            for own, step in zip(strides, here, strict=True):
                own.append(step)
    missing = max(0, AXES - len(sizes))
    along = [0 if part.shape[1] == 1 else part.stride(1) for part in parts]
    return (
        (1,) * missing + tuple(sizes),
        [(time, *(0,) * missing, *own) for time, own in zip(along, strides, strict=True)],
    )


@triton.jit
def places(column, sizes, strides):
    """Where the columns begin in a tensor of these strides."""
    outer = column // (sizes[0] * sizes[1])
    middle = column // sizes[1] % sizes[0]
    return outer * strides[1] + middle * strides[2] + column % sizes[1] * strides[3]


@triton.jit
def joined(decay, added, later_decay, later_added):
    """Two stretches of time as one."""
    return decay * later_decay, later_decay * added + later_added


@triton.jit
def joined_pairs(decay, decay_i, added, added_i, later, later_i, more, more_i):
    """The same of complex numbers, by parts."""
    return (
        decay * later - decay_i * later_i,
        decay * later_i + decay_i * later,
        later * added - later_i * added_i + more,
        later * added_i + later_i * added + more_i,
    )


@triton.jit
def walk(
    decay,
    inputs,
    initial,
    before,
    out,
    products,
    columns,
    length,
    sizes,
    of_decay,
    of_inputs,
    of_initial,
    of_before,
    of_out,
    of_products,
    PAIRED: tl.constexpr,
    REVERSE: tl.constexpr,
    ADJOINT: tl.constexpr,
    PRODUCTS: tl.constexpr,
    PRECISE: tl.constexpr,
    TIMES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A block of columns; the adjoint begins with zero, and a state's decay is that of the time it comes from."""
    column = (tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    there = column < columns
    own = there[None, :]
    row = tl.arange(0, TIMES)[:, None]
    decay += places(column, sizes, of_decay)[None, :]
    inputs += places(column, sizes, of_inputs)[None, :]
    out += places(column, sizes, of_out)[None, :]
    initial += places(column, sizes, of_initial)
    before += places(column, sizes, of_before)[None, :]
    products += places(column, sizes, of_products)[None, :]
    state = tl.zeros([COLUMNS], PRECISE)
    state_i = tl.zeros([COLUMNS], PRECISE)
    if not ADJOINT:
        state = tl.load(initial, mask=there, other=0.0).to(PRECISE)
        if PAIRED:
            state_i = tl.load(initial + 1, mask=there, other=0.0).to(PRECISE)
    for start in range(0, length, TIMES):
        walked = (start + row).to(tl.int64)
        inside = own & (walked < length)
        time = walked
        back = 1
        if REVERSE:
            time = length - 1 - walked
            back = -1
        kept_at = decay + time * of_decay[0]
        kept_there = inside
        if ADJOINT:
            kept_at -= back * of_decay[0]
            kept_there = inside & (walked > 0)
        kept = tl.load(kept_at, mask=kept_there, other=0.0).to(PRECISE)
        added = tl.load(inputs + time * of_inputs[0], mask=inside, other=0.0).to(PRECISE)
        if PAIRED:
            kept_i = tl.load(kept_at + 1, mask=kept_there, other=0.0).to(PRECISE)
            added_i = tl.load(inputs + time * of_inputs[0] + 1, mask=inside, other=0.0).to(PRECISE)
            if ADJOINT:
                kept_i = -kept_i
            kept, kept_i, added, added_i = tl.associative_scan((kept, kept_i, added, added_i), 0, joined_pairs)
            made = added + kept * state[None, :] - kept_i * state_i[None, :]
            made_i = added_i + kept * state_i[None, :] + kept_i * state[None, :]
            tl.store(out + time * of_out[0] + 1, made_i, mask=inside)
            state_i = tl.sum(tl.where(row == TIMES - 1, made_i, 0.0), axis=0)
        else:
            kept, added = tl.associative_scan((kept, added), 0, joined)
            made = added + kept * state[None, :]
        tl.store(out + time * of_out[0], made, mask=inside)
        state = tl.sum(tl.where(row == TIMES - 1, made, 0.0), axis=0)
        if PRODUCTS:
            ahead = inside & (walked + 1 < length)
            earlier_at = before + (time + back) * of_before[0]
            last = inside & (walked + 1 == length)
            begun_at = initial[None, :] + walked * 0
            earlier = tl.load(earlier_at, mask=ahead, other=0.0) + tl.load(begun_at, mask=last, other=0.0)
            earlier = earlier.to(PRECISE)
            at = products + time * of_products[0]
            if PAIRED:
                earlier_i = tl.load(earlier_at + 1, mask=ahead, other=0.0) + tl.load(begun_at + 1, mask=last, other=0.0)
                earlier_i = earlier_i.to(PRECISE)
                tl.store(at, made * earlier + made_i * earlier_i, mask=inside)
                tl.store(at + 1, made_i * earlier - made * earlier_i, mask=inside)
            else:
                tl.store(at, made * earlier, mask=inside)
