"""What a layer needs to know of seeds that train together: ``torch.func.vmap`` hides their axis from its equations.

Where torch has a kernel that does not know of such an axis, the layer asks ``abreast`` and hands what it computes to
an ``autograd.Function`` whose ``vmap`` gets the tensors with the axis in front; what that does is differentiated as if
it stood anywhere else.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor  # torch.func has no public word for it
from torch.utils.checkpoint import checkpoint


def abreast(*tensors: Tensor) -> bool:
    """Whether any of them has an axis that ``vmap`` hides."""
    return any(is_batchedtensor(tensor) for tensor in tensors)


def seeds_first(seeds: int, hidden: Sequence[int | None], tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors with the axis of seeds in front, as a ``vmap`` rule is handed them; repeated where one has none."""
    return [_in_front(seeds, axis, tensor) for axis, tensor in zip(hidden, tensors, strict=True)]


def _in_front(seeds: int, axis: int | None, tensor: Tensor) -> Tensor:
    return tensor.expand(seeds, *tensor.shape) if axis is None else tensor.movedim(axis, 0)


def recomputed(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """What the function gives; what it makes on the way is not kept for the gradient, but made again."""
    if abreast(*tensors):
        made: tuple[Tensor, ...] = _Recomputed.apply(function, *tensors)
        return made
    return _checkpointed(function, *tensors)


class _Recomputed(torch.autograd.Function):
    """The second time is outside of the ``vmap`` that hid the axis, so it has one of its own."""

    @staticmethod
    def forward(function: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError("without an axis of seeds there is nothing to bring to light")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: what ``vmap`` does is differentiated by itself."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], function: Any, *tensors: Tensor) -> tuple[Any, Any]:
        made = _checkpointed(torch.func.vmap(function), *seeds_first(info.batch_size, in_dims[1:], tensors))
        return made, tuple(0 for _ in made)


def _checkpointed(function: Any, *tensors: Any) -> tuple[Tensor, ...]:
    made: tuple[Tensor, ...] = checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False)
    return made
