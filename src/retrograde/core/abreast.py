"""What a layer needs to know of seeds that train together: ``torch.func.vmap`` hides their axis from its equations.

Where torch has a kernel that does not know of such an axis, the layer asks ``abreast`` and hands what it computes to
an ``autograd.Function`` whose ``vmap`` gets the tensors with the axis in front; what that does is differentiated as if
it stood anywhere else.
"""

from collections.abc import Sequence

from torch import Tensor
from torch._C._functorch import is_batchedtensor  # torch.func has no public word for it


def abreast(*tensors: Tensor) -> bool:
    """Whether any of them has an axis that ``vmap`` hides."""
    return any(is_batchedtensor(tensor) for tensor in tensors)


def seeds_first(seeds: int, hidden: Sequence[int | None], tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The tensors with the axis of seeds in front, as a ``vmap`` rule is handed them; repeated where one has none."""
    return [
        tensor if tensor is None else _in_front(seeds, axis, tensor)
        for axis, tensor in zip(hidden, tensors, strict=True)
    ]


def _in_front(seeds: int, axis: int | None, tensor: Tensor) -> Tensor:
    return tensor.expand(seeds, *tensor.shape) if axis is None else tensor.movedim(axis, 0)
