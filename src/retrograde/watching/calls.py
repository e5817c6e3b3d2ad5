"""One call of a watched module, and how it is served: by its type."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from torch import Tensor, nn

from retrograde.watching.flow import Flow, Step

Path = tuple[Any, ...]
"""Where a tensor stands among nested arguments: ``(1, 0)`` for the first of a tuple that comes second."""


@dataclass(frozen=True)
class Layout:
    """What is known of a model's layout beforehand.

    ``batch_first`` as the user says; ``mixed`` where some layer of the model has time before the batch; ``agreed``
    where some layer says that the batch comes first, and none the opposite; ``time_last`` where some has time behind
    the channels.
    """

    batch_first: bool | None
    mixed: bool
    agreed: bool
    time_last: bool


@dataclass(frozen=True)
class Call:
    """A call of ``module``, which the model knows as ``layer``; ``forward`` is the module's own.

    ``frozen`` says that nothing in the model learns, so that autograd has to be told to follow it at all. While
    ``muted()`` lasts, what the module calls is not watched.
    """

    module: nn.Module
    layer: str
    forward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    step: Step
    layout: Layout
    frozen: bool
    muted: Callable[[], AbstractContextManager[None]]

    @property
    def flow(self) -> Flow:
        return self.step.flow

    def run(self) -> Any:
        """What the module gives by itself."""
        return self.forward(*self.args, **self.kwargs)

    def leave_out(self, reason: str, warn: bool = True) -> None:
        """Name the layer as not served."""
        self.flow.leave_out(self.layer, reason, warn)


@singledispatch
def serve(module: nn.Module, call: Call) -> Any:
    """What the module gives in this call, having seen to it that its gradients are told of; by the module's type."""
    raise NotImplementedError


def overrides(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module of that kind computes something of its own."""
    return type(module).forward is not kind.forward


def tensors(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """The tensors in nested tuples, lists and mappings, with where they stand."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, tuple | list):
        for place, inner in enumerate(value):
            yield from tensors(inner, (*path, place))
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from tensors(inner, (*path, name))


def replaced(value: Any, path: Path, tensor: Tensor) -> Any:
    """The same nested values with another tensor at one place."""
    if not path:
        return tensor
    place, *rest = path
    inner = replaced(value[place], tuple(rest), tensor)
    if isinstance(value, tuple):
        parts = [*value[:place], inner, *value[place + 1 :]]
        return type(value)(*parts) if type(value) is not tuple else tuple(parts)
    if isinstance(value, list):
        return [*value[:place], inner, *value[place + 1 :]]
    copied = value.copy()
    copied[place] = inner
    return copied
