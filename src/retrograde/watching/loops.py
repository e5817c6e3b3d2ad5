r"""Cells that a loop calls once for every time: live nodes, so the gradient at a state is the total one.

``nn.RNNCell``, ``LSTMCell`` and ``GRUCell`` are known by type. Any other module counts as a cell when it is handed back
what it returned in a call before: that, or a copy of it (a slice of a stack, a view). Time is the number of the call,
t = -1 the state that the first was given.

    carried   what comes through the state that is handed to the next call
    direct    everything else, also what later times owe to this one by other ways (attention, a result fed back)

Where the loop changes a state between two calls (a mask, dropout), what comes through it cannot be told apart: direct
and carried are then not numbers; total is what it is, at the state as the cell gave it. The same where a cell makes one
state of another within the call. Of ``nn.LSTMCell`` the way from cell to hidden state is known,

    ∂h/∂c = o (1 - tanh² c)

and dL/dc counts it, as everywhere; where a kernel gives both at once, so that autograd does not, it is added. On the
CPU the direct part at a cell is a difference, censored below what rounding leaves of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from retrograde.watching.activations import attend, differentiable, followed
from retrograde.watching.attention import returned_heads
from retrograde.watching.calls import Call, Path, overrides, replaced, serve, tensors
from retrograde.watching.flow import Pass
from retrograde.watching.nodes import Node, handed_on, made_of, node_of, origin
from retrograde.watching.strands import Loop, Strand, Turn, gathered

WITHIN_A_LOOP = 256
"""Functions of autograd's between a cell's state and the one that it is given next, at most."""

CHANGED = "the loop changes the state between two calls, so that the direct part cannot be told from the carried one"
MADE_WITHIN = "the cell makes one state of another, so that the direct part cannot be told from the carried one"


@serve.register(nn.RNNCell)
@serve.register(nn.GRUCell)
@serve.register(nn.LSTMCell)
def _(module: nn.RNNCellBase, call: Call) -> Any:
    kind = next(kind for kind in (nn.RNNCell, nn.GRUCell, nn.LSTMCell) if isinstance(module, kind))
    if overrides(module, kind):
        return cell(call)
    return known_cell(call, ("hidden", "cell") if kind is nn.LSTMCell else ("hidden",))


def known_cell(call: Call, names: tuple[str, ...]) -> Any:
    """A call of a cell that takes its state second, and returns it alone."""
    step = call.step
    loop = step.loops.setdefault(call.layer, Loop(call.layer, names, set(range(len(names)))))
    args, kwargs = call.args, dict(call.kwargs)
    given = kwargs["hx"] if "hx" in kwargs else args[1] if len(args) > 1 else None
    x = kwargs["input"] if "input" in kwargs else args[0]
    if x.ndim == 2:
        step.told(len(x))
    turn = _next_known(call, loop, given)
    if given is not None:
        for place, (path, state) in enumerate(tensors(given)):
            given = replaced(given, path, _given(call, turn, place, state))
        if "hx" in kwargs:
            kwargs["hx"] = given
        else:
            args = (args[0], given, *args[2:])
    made = call.forward(*args, **kwargs)
    if not next(tensors(made))[1].requires_grad and any(not p.requires_grad for p in call.module.parameters()):
        for path, value in list(tensors(made)):
            made = replaced(made, path, followed(value))
    states = [value for _, value in tensors(made)]
    if len(names) == 2:
        before = [value.detach() for _, value in tensors(given)] if given is not None else None
        turn.fused = states[0].grad_fn is states[1].grad_fn
        turn.opening = _opening(call.module, x.detach(), before, states[1].detach())
    for place, state in enumerate(states):
        _watch(call, turn, place, state)
    return made


def _next_known(call: Call, loop: Loop, given: Any) -> Turn:
    """Which turn it is, by the state alone."""
    copies, changed = [], []
    for _, state in tensors(given):
        found = origin(call.flow, call.layer, state)
        if found is not None:
            copies.append(found[0].marks[call.layer])
        elif state.grad_fn is not None:  # nothing that the cell gave: is it made of that?
            changed += made_of(call.flow, call.layer, state.grad_fn, WITHIN_A_LOOP)[0]
    for turn, place in changed:
        turn.changed.add(place)
        call.flow.leave_out(f"{call.layer}: direct", CHANGED)
    if not copies and not changed:
        return _first(call, loop)
    return _after(call, loop, max((turn for turn, _ in copies + changed), key=lambda turn: turn.time))


def _given(call: Call, turn: Turn, place: int, state: Tensor) -> Tensor:
    """The state as it is handed to the call."""
    found = origin(call.flow, call.layer, state)
    if found is not None:
        return handed_on(state, found[0])
    if turn.time > turn.strand.start:
        return state
    alias = state.view_as(state) if state.requires_grad else followed(state)
    within = call.step.within()

    def report(gradient: Tensor) -> None:
        along = gathered(call.step.passing(within), turn)
        along.take(turn.time - 1, place, turn, torch.zeros_like(gradient), gradient.detach())

    alias.register_hook(report)
    return alias


def cell(call: Call) -> Any:
    """A call of a module that may be a cell."""
    args: dict[str, Any] = {"args": call.args, "kwargs": dict(call.kwargs)}
    found: list[tuple[Path, Tensor, Node, Any]] = []
    for path, value in tensors(args):
        if path == ("args", 0) and value.ndim > 2:
            continue  # the same layer once more, upon its own result: depth, not time
        copied = origin(call.flow, call.layer, value)
        if copied is not None:
            found.append((path, value, *copied))
    loop = call.step.loops.setdefault(call.layer, Loop(call.layer, ()))
    befores = {id(node.marks[call.layer][0]): node.marks[call.layer][0] for _, _, node, _ in found}
    if len(befores) > 1 and not loop.refused:
        loop.refused = True
        call.leave_out("it is handed results of several of its calls at once: which is its state cannot be told")
    if not found or loop.refused:
        turn = _first(call, loop)
    else:
        (before,) = befores.values()
        turn = _after(call, loop, before)
        _note_states(call, loop, found)
        _note_changed(call, before, args, found)
        for path, value, node, _ in found:
            call.step.compare(value.shape)
            args = replaced(args, path, handed_on(value, node))
    made = differentiable(call, call.forward(*args["args"], **args["kwargs"]))
    for place, (_, value) in enumerate(list(tensors(made))):
        if value.is_floating_point() and value.ndim >= 2:
            _watch(call, turn, place, value)
    attend(call, turn.strand.number, made, heads=returned_heads(call, turn.strand.number, made))
    return made


def _note_states(call: Call, loop: Loop, found: Sequence[tuple[Path, Tensor, Node, Any]]) -> None:
    """Which results are states, and which of them the cell makes others of; the first time tells."""
    at = {node.marks[call.layer][1]: function for _, _, node, function in found}
    new = set(at) - loop.states
    loop.states |= set(at)
    if not new or len(at) < 2:
        return
    for place, function in at.items():
        mine = {other for other, made_by in at.items() if other != place and made_by is not function}
        marks, ended = made_of(call.flow, call.layer, function, WITHIN_A_LOOP)
        loop.within |= mine & {mark[1] for mark in marks} if ended else mine
    if loop.within:
        call.flow.leave_out(f"{call.layer}: direct", MADE_WITHIN)


def _note_changed(call: Call, before: Turn, args: Any, found: Sequence[tuple[Path, Tensor, Node, Any]]) -> None:
    """Which results of the turn before come back as something that was made of them."""
    others = before.places - {node.marks[call.layer][1] for _, _, node, _ in found}
    if not others:
        return
    copies = {path for path, *_ in found}
    for path, value in tensors(args):
        if path in copies or value.grad_fn is None:
            continue
        marks, ended = made_of(call.flow, call.layer, value.grad_fn, WITHIN_A_LOOP)
        before.changed |= others & {place for turn, place in marks if turn is before} if ended else others
    if before.changed:
        call.flow.leave_out(f"{call.layer}: direct", CHANGED)


def _first(call: Call, loop: Loop) -> Turn:
    return Turn(loop, Strand(call.step.call(call.layer), 0, 0), 0)


def _after(call: Call, loop: Loop, before: Turn) -> Turn:
    """The turn after another; a second one after the same turn begins a strand of its own."""
    time = before.time + 1
    if before.handed:
        return Turn(loop, Strand(call.step.call(call.layer), time, time), time)
    before.handed = True
    before.strand.last = time
    return Turn(loop, before.strand, time)


def _watch(call: Call, turn: Turn, place: int, state: Tensor) -> None:
    node = node_of(call.step, state)
    if node is None:
        return
    if call.layer in node.marks and node.marks[call.layer][0] is turn:
        return  # given twice, as output and as state
    node.marks[call.layer] = (turn, place)
    turn.places.add(place)

    def report(passing: Pass, rest: Tensor, carried: Tensor | None) -> bool:
        if turn.loop.refused:
            return False
        if not turn.loop.names and not turn.strand.is_loop:
            return False  # called but once: a layer like any other
        gathered(passing, turn).take(turn.time, place, turn, rest, carried)
        return True

    node.as_state.append(report)


def _opening(module: Any, x: Tensor, before: list[Tensor] | None, after: Tensor) -> Callable[[], Tensor]:
    """∂h/∂c of the state that an ``nn.LSTMCell`` has made, when it is asked for."""

    def opening() -> Tensor:
        with torch.no_grad():
            _, _, _, weight = module.weight_ih.chunk(4)
            gate = x.to(weight.dtype) @ weight.mT
            if before is not None:
                gate = gate + before[0].to(weight.dtype) @ module.weight_hh.chunk(4)[3].mT
            if module.bias:
                gate = gate + module.bias_ih.chunk(4)[3] + module.bias_hh.chunk(4)[3]
            opened = torch.sigmoid(gate) * (1 - torch.tanh(after) ** 2)
            return opened if opened.ndim > 1 else opened.unsqueeze(0)

    return opening
