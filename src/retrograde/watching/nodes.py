"""Tensors that watched modules give, as nodes of the autograd graph: one hook for each, however many modules gave it.

A state that a loop hands back to its module passes through ``handed_on``. Backward leaves there what comes through
later calls and sends zeros on in its place; where the state was made, both parts meet again. So the gradient is told
apart into what came through later calls and everything else, both exactly, and what any hook of the user's sees, and
all that lies before, is their sum as ever. (To subtract one from the other would lose a part that is small beside the
other. Where more than two parts meet, their sum may change in its last digit by that.)
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from retrograde.watching.flow import Flow, Heads, Pass, Step

COPIES = frozenset(
    {
        "AliasBackward0",
        "CloneBackward0",
        "SqueezeBackward0",
        "SqueezeBackward1",
        "SqueezeBackward2",
        "UnsafeViewBackward0",
        "UnsqueezeBackward0",
        "ViewBackward0",
        "_HandedOnBackward",
    }
)
"""Nodes of autograd's that give the same numbers in the same order."""

FARTHEST = 32
"""Copies of copies that are followed."""

Report = Callable[[Pass, Tensor, Tensor | None], bool]
"""Takes what did not come through later calls, and what did; says whether it was this one's to take."""


class Node:
    """A tensor that a watched module gave. Its gradient is told of once: as the state of the innermost loop that made
    it, or else as a result of the innermost module.
    """

    def __init__(self, step: Step, tensor: Tensor) -> None:
        self.step = step
        self.shape = tensor.shape
        self.nothing = tensor.new_zeros(()).expand(tensor.shape)
        self.within = step.within()
        self.marks: dict[str, Any] = {}
        self.as_state: list[Report] = []
        self.as_result: list[Report] = []
        self.heads: list[Heads] = []
        self.handed: dict[int, Tensor] = {}

    def hand_back(self, gradient: Tensor) -> None:
        """Leave here what came through a later call."""
        number = torch._C._current_graph_task_id()
        self.handed[number] = self.handed[number] + gradient if number in self.handed else gradient

    def hook(self, gradient: Tensor | None) -> Tensor | None:
        """What arrives at the tensor, None where that is nothing but another result of the same kernel has some.

        Gives back all of it.
        """
        carried = self.handed.pop(torch._C._current_graph_task_id(), None)
        passing = self.step.passing(self.within)
        # not detached where it need not be: autograd may write into what nobody else seems to hold
        rest = self.nothing if gradient is None else gradient.detach() if gradient.requires_grad else gradient
        through = carried.detach() if carried is not None and carried.requires_grad else carried
        passing.heads += self.heads
        for report in (*self.as_state, *self.as_result):
            if report(passing, rest, through):
                break
        return None if carried is None else carried if gradient is None else gradient + carried


def node_of(step: Step, tensor: Tensor) -> Node | None:
    """The node of a tensor, made where there is none; None for a tensor that no gradient comes through."""
    if tensor.grad_fn is None:
        return None
    function: Any = tensor.grad_fn  # torch's stubs take its attributes for methods
    metadata, key = function.metadata, _key(step.flow, tensor.output_nr)
    if key not in metadata:
        metadata[key] = Node(step, tensor)
        tensor.register_hook(metadata[key].hook)
    node: Node = metadata[key]
    return node


def origin(flow: Flow, layer: str, tensor: Tensor) -> tuple[Node, Any] | None:
    """The tensor that the layer gave and of which this one is a copy, with autograd's function that made it."""
    function: Any = tensor.grad_fn
    number = tensor.output_nr
    for _ in range(FARTHEST):
        if function is None:
            return None
        node: Node | None = function.metadata.get(_key(flow, number))
        if node is not None and layer in node.marks:
            return (node, function) if node.shape == tensor.shape else None
        function, number = _copied(function, number)
    return None


def made_of(flow: Flow, layer: str, function: Any, most: int) -> tuple[list[Any], bool]:
    """What a layer has noted of those of its results that autograd's function has made its own of.

    Nearest first, and nothing behind them; the search ends at states that were handed on. Also whether it came to its
    end, or was given up after ``most`` functions.
    """
    marks: list[Any] = []
    seen: set[tuple[Any, int]] = set()
    front = [function]
    while front and len(seen) <= most:
        following = []
        for reached in front:
            if reached.name() == "_HandedOnBackward":
                continue
            for one, number in reached.next_functions:
                if one is None or (one, number) in seen:
                    continue
                seen.add((one, number))
                node: Node | None = one.metadata.get(_key(flow, number))
                if node is not None and layer in node.marks:
                    marks.append(node.marks[layer])
                else:
                    following.append(one)
        front = following
    return marks, not front


def handed_on(tensor: Tensor, node: Node) -> Tensor:
    """The same state, for a later call."""
    handed: Tensor = _HandedOn.apply(tensor, node)
    return handed


class _HandedOn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, node: Node) -> Tensor:
        ctx.node = node
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        ctx.node.hand_back(gradients[0])
        return torch.zeros_like(gradients[0]), None


def _key(flow: Flow, number: int) -> tuple[str, int, int]:
    return "retrograde", id(flow), number


def _copied(function: Any, number: int) -> tuple[Any, int]:
    """What a copy was made of, with its number; (None, 0) for everything that is more than a copy."""
    name = function.name()
    if name in COPIES:
        return function.next_functions[0]
    if name == "SelectBackward0":
        stack, _ = function.next_functions[0]
        axes = len(function._saved_self_sym_sizes)
        index, axis = function._saved_index, _axis(function._saved_dim, axes)
    elif name == "UnbindBackward0":
        stack, _ = function.next_functions[0]
        axes, index, axis = 0, number, function._saved_dim
    else:
        return None, 0
    if stack is None or stack.name() != "StackBackward0":
        return None, 0
    if _axis(stack._saved_dim, axes) != (axis if axes else _axis(axis, axes)):
        return None, 0
    parts = stack.next_functions
    return parts[_axis(index, len(parts))]


def _axis(saved: int, length: int) -> int:
    """An index that autograd has saved as an unsigned number, counted from the beginning."""
    signed = saved - 2**64 if saved >= 2**63 else saved
    return signed + length if signed < 0 else signed
