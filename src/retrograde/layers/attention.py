"""Scaled dot-product attention of several heads, fused for training and opened up for its maps."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention

from retrograde.core.abreast import abreast, seeds_first
from retrograde.core.choices import require_at_least
from retrograde.core.streamed import LONGEST_HELD, AttentionMap, StreamedMap
from retrograde.layers.positions import Position

ROWS = 256
"""Queries that attention with a bias is worked on at a time where the sequence is long."""


class MultiHeadAttention(nn.Module):
    r"""Each head lets every query look at the keys and takes the mean of the values by what it sees.

        A = softmax(Q Kᵀ / √d + bias)        output = (A V) of all heads side by side, times W_O

    Q, K and V are made of x, d wide in each head; or K and V of a ``memory`` (cross-attention). The bias and what else
    is done to Q and K are the position encoding's. Without ``scaling`` the scores are not divided by √d.

    Of x a query sees itself and what came before, all of it or, with a ``window``, the last ``window`` positions with
    its own; or everything, where attention is not ``causal``. Of a memory it sees everything. ``visible`` takes away
    from that. A query that is left nothing sees all, so that its weights still sum to 1: nobody may read what it makes.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.
    """

    def __init__(
        self, width: int, heads: int, causal: bool = True, window: int | None = None, scaling: bool = True
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"the width must be a multiple of heads: {width} is not one of {heads}")
        if window is not None:
            require_at_least("window", window, 1)
            if not causal:
                raise ValueError(f"a window reaches back from the query: window {window} needs causal attention")
        self.heads = heads
        self.causal = causal
        self.window = window
        self.scale = math.sqrt(heads / width) if scaling else 1.0
        self.project = nn.Linear(width, 3 * width)
        self.combine = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "batch query width"],
        memory: Float[Tensor, "batch key width"] | None = None,
        visible: Bool[Tensor, "#batch #head #query #key"] | None = None,
        position: Position | None = None,
    ) -> Float[Tensor, "batch query width"]:
        """Fused. Nothing of the size of a map is held, except for ``visible`` that differs by query.

        Up to ``LONGEST_HELD`` positions a bias is; of more, a few rows of it at a time.
        """
        return self._fused(*self._heads(x, memory, position), self.causal and memory is None, visible, position)

    def trace(
        self,
        x: Float[Tensor, "batch query width"],
        memory: Float[Tensor, "batch key width"] | None = None,
        visible: Bool[Tensor, "#batch #head #query #key"] | None = None,
        position: Position | None = None,
    ) -> tuple[Float[Tensor, "batch query width"], AttentionMap]:
        """The same with the map A, whose rows sum to 1; that of a long sequence to itself is not held, but streamed."""
        query, key, value = self._heads(x, memory, position)
        if memory is None and x.shape[1] > LONGEST_HELD:
            attended = self._fused(query, key, value, self.causal, visible, position)
            return attended, self._streamed(query, key, visible, position)
        times = _times(query), _times(key)
        bias = None if position is None else position.bias(*times, query)
        mask = self._mask(*times, self.causal and memory is None, visible, bias)
        scores = query @ key.mT * self.scale
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        weights = torch.softmax(scores, -1)
        return self._combined(weights @ value), weights

    def _fused(
        self,
        query: Float[Tensor, "batch head query each"],
        key: Float[Tensor, "batch head key each"],
        value: Float[Tensor, "batch head key each"],
        causal: bool,
        visible: Bool[Tensor, "#batch #head #query #key"] | None,
        position: Position | None,
    ) -> Float[Tensor, "batch query width"]:
        length = query.shape[2]
        if causal and self.window is not None and visible is None and length > self.window:
            return self._combined(self._in_blocks(query, key, value, self.window, position))
        times = _times(query), _times(key)
        if position is not None and length > LONGEST_HELD and _is_biased(position, query):
            return self._combined(self._by_rows(query, key, value, causal, visible, position))
        bias = None if position is None else position.bias(*times, query)
        if causal and visible is None and bias is None:  # a window that is left here is longer than the sequence
            return self._combined(attended(query, key, value, None, True, self.scale))
        mask = self._mask(*times, causal, visible, bias)
        return self._combined(attended(query, key, value, mask, False, self.scale))

    @torch.no_grad()
    def _streamed(
        self,
        query: Float[Tensor, "batch head time width"],
        key: Float[Tensor, "batch head time width"],
        visible: Bool[Tensor, "#batch #head #time #time"] | None,
        position: Position | None,
    ) -> StreamedMap:
        precision = torch.promote_types(query.dtype, torch.float32)
        # laid out anew: what is seen of one projection of queries, keys and values would keep all three
        query, key = (part.to(precision, copy=True, memory_format=torch.contiguous_format) for part in (query, key))
        bias = None
        if position is not None:
            time = torch.arange(2 * query.shape[2] - 1, device=query.device)
            bias = position.bias(time[query.shape[2] - 1 :][:1], time, query)  # of distances alone: from one query
        return StreamedMap(
            query, key, self.scale, self.causal, self.window, visible, None if bias is None else bias[:, 0]
        )

    def _heads(self, x: Tensor, memory: Tensor | None, position: Position | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (batch, head, time, width)."""
        if memory is None:
            made = [self.project(x)]
        else:
            sizes = [x.shape[-1], 2 * x.shape[-1]]
            weights, biases = self.project.weight.split(sizes), self.project.bias.split(sizes)
            made = [linear(*each) for each in zip((x, memory), weights, biases, strict=True)]
        query, key, value = (
            part for each in made for part in each.unflatten(-1, (-1, self.heads, x.shape[-1] // self.heads)).unbind(-3)
        )
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        if position is not None:
            query, key = position.turned(query), position.turned(key)
        return query, key, value

    def _mask(
        self,
        query: Int[Tensor, " query"],
        key: Int[Tensor, " key"],
        causal: bool,
        visible: Bool[Tensor, "*places #query #key"] | None,
        bias: Float[Tensor, "head query key"] | None,
    ) -> Tensor | None:
        """What queries see of keys at these times: as booleans or, with a bias, as what is added to the scores."""
        seen: Tensor | None = None
        if causal:
            distance = query[:, None] - key
            seen = distance >= 0
            if self.window is not None:
                seen = seen & (distance < self.window)
        if visible is not None:
            seen = visible if seen is None else seen & visible
            seen = seen | ~seen.any(-1, keepdim=True)
        if bias is None:
            return seen
        bias = bias[None]  # with its batch axis even where that is 1: the fused kernel takes no mask of three axes
        return bias if seen is None else torch.where(seen, bias, -math.inf)

    def _in_blocks(
        self, query: Tensor, key: Tensor, value: Tensor, window: int, position: Position | None
    ) -> Float[Tensor, "batch head query width"]:
        """Attention to a window with time · window scores instead of time · time.

        A block of ``window`` queries sees no further back than to the keys of the block before its own.
        """
        heads, length = query.shape[1:3]
        blocks = math.ceil(length / window)
        end = blocks * window - length
        query = pad(query, (0, 0, 0, end)).unflatten(2, (blocks, window))
        key, value = (pad(part, (0, 0, window, end)).unfold(2, 2 * window, window).mT for part in (key, value))
        time = torch.arange(2 * window, device=query.device)
        began = torch.arange(blocks, device=query.device) > 0
        visible = (began[:, None] | (time >= window))[:, None, None]  # before the first block there are no keys
        bias = None if position is None else position.bias(time[window:], time, query)
        mask = self._mask(time[window:], time, True, visible, bias)
        assert mask is not None  # it is causal
        mask = mask.expand(blocks, heads, window, 2 * window)
        # the blocks of all heads in the place of heads
        query, key, value = (part.transpose(1, 2).flatten(1, 2) for part in (query, key, value))
        made = attended(query, key, value, mask.flatten(0, 1)[None], False, self.scale)
        return made.unflatten(1, (blocks, heads)).transpose(1, 2).flatten(2, 3)[:, :, :length]

    def _by_rows(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        causal: bool,
        visible: Bool[Tensor, "#batch #head #query #key"] | None,
        position: Position,
    ) -> Float[Tensor, "batch head query width"]:
        """Attention with a bias, of ``ROWS`` queries at a time, so that no bias of all scores is ever held.

        It is made again in the backward pass: no more of it is kept than the rows that are worked on.
        """
        length, keys = query.shape[2], key.shape[2]
        time = _times(key)

        def of_rows(rows: slice, seen: slice) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
            def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
                shown = visible
                if shown is not None:
                    shown = shown if shown.shape[2] == 1 else shown[:, :, rows]
                    shown = shown if shown.shape[3] == 1 else shown[..., seen]
                times = time[rows], time[seen]
                mask = self._mask(*times, causal, shown, position.bias(*times, query))
                return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self.scale)

            return attended

        made, learned = [], list(position.parameters())
        for start in range(0, length, ROWS):
            rows = slice(start, min(start + ROWS, length))
            # what lies behind is left out, but for queries that are left nothing of it: they see all
            seen = slice(0, rows.stop if causal and visible is None else keys)
            given = query[:, :, rows], key[:, :, seen], value[:, :, seen]
            made.append(_MadeAgain.apply(of_rows(rows, seen), *given, *learned))
        return torch.cat(made, 2)

    def _combined(self, made: Float[Tensor, "batch head query width"]) -> Tensor:
        return self.combine(made.transpose(1, 2).flatten(2))


def attended(
    query: Float[Tensor, "batch head query width"],
    key: Float[Tensor, "batch head key width"],
    value: Float[Tensor, "batch head key width"],
    mask: Tensor | None,
    causal: bool,
    scale: float,
) -> Float[Tensor, "batch head query width"]:
    """The mean of the values by softmax(Q Kᵀ · scale), fused; causal, or of what the mask says, or of all.

    The mask is boolean, or is added to the scores; it has four axes or two.
    """
    if abreast(query, key, value, *(() if mask is None else (mask,))):
        made: Tensor = _Attended.apply(query, key, value, mask, causal, scale)
        return made
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, scale=scale)


class _Attended(torch.autograd.Function):
    """The same of seeds that train together: the kernel takes them as further samples."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
        raise RuntimeError("attention of a single seed needs no axis of seeds")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: what ``vmap`` does is differentiated by itself."""

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, int]:
        seeds = info.batch_size
        parts = seeds_first(seeds, in_dims[:3], (query, key, value))
        query, key, value = (part.flatten(0, 1) for part in parts)
        if mask is not None and in_dims[3] is not None:
            mask = mask.movedim(in_dims[3], 0)
            if mask.dim() == 3:
                mask = mask[:, None, None]
            mask = mask.expand(seeds, len(query) // seeds, *mask.shape[2:]).flatten(0, 1)
        elif mask is not None and mask.dim() == 4 and len(mask) > 1:
            mask = mask.repeat(seeds, 1, 1, 1)
        return attended(query, key, value, mask, causal, scale).unflatten(0, (seeds, -1)), 0


class _MadeAgain(torch.autograd.Function):
    """A function of three tensors and of parameters, of which nothing else is kept for the backward pass.

    Not by ``torch.utils.checkpoint``: what it makes again stays until all of it has been asked for, and a snapshot
    never asks for the gradients of parameters.
    """

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*inputs)
        return function(*inputs[:3])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        inputs = [
            part.detach().requires_grad_(need) if place < 3 else part
            for place, (part, need) in enumerate(zip(ctx.saved_tensors, needed, strict=True))
        ]
        with torch.enable_grad():
            made = ctx.function(*inputs[:3])
        asked = [part for part, need in zip(inputs, needed, strict=True) if need]
        found = iter(torch.autograd.grad(made, asked, gradient))
        return None, *(next(found) if need else None for need in needed)


def _is_biased(position: Position, like: Tensor) -> bool:
    here = torch.zeros(1, dtype=torch.long, device=like.device)
    return position.bias(here, here, like) is not None


def _times(part: Float[Tensor, "batch head time width"]) -> Int[Tensor, " time"]:
    return torch.arange(part.shape[2], device=part.device)
