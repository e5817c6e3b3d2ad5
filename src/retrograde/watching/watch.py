"""``retrograde.watch``: exact gradients over time of any PyTorch model, in the loop that somebody else wrote.

    with retrograde.watch(model) as flow:
        loss = criterion(model(x), y)
        loss.backward()
    flow.frame()

Inside the block the ``forward`` of every module of the model is called through a stand-in, which is taken away at the
end, however that comes. Outputs, gradients of parameters and random numbers are what they are without it: those of the
fused recurrent layers to rounding, and but for what their dropout draws on CUDA and of packed sequences. See
docs/watch.md.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import MethodType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from retrograde.watching import attention, fused, loops  # noqa: F401  # each registers how its kinds are served
from retrograde.watching.activations import plain, time_axis
from retrograde.watching.calls import Call, Layout, serve, tensors
from retrograde.watching.flow import Block, Flow, HeadBlock, Scaler, Step
from retrograde.watching.steps import has_step, stepped

if TYPE_CHECKING:
    import wandb

Choice = Callable[[str, nn.Module], bool]


class Sender(Protocol):
    """What is told of every step as it is seen."""

    def send(self, blocks: Sequence[Block], heads: Sequence[HeadBlock]) -> None:
        """What is new."""

    def close(self, flow: Flow) -> None:
        """The watch is over."""


class Watching:
    """The context: see ``watch``."""

    def __init__(
        self,
        model: nn.Module,
        when: Callable[[int], bool],
        only: Choice,
        batch_first: bool | None,
        per_sample: bool,
        scaler: Scaler | None,
        sender: Sender | None,
    ) -> None:
        refuse(model)
        self.model = model
        self.when = when
        self.scaler = scaler
        self.sender = sender
        self.flow = Flow(per_sample)
        self.flow.why_empty = self._why_empty
        self.chosen = {name: module for name, module in model.named_modules() if only(name, module)}
        said = [getattr(module, "batch_first", None) for module in model.modules()]
        mixed = any(one is False for one in said)
        self.layout = Layout(
            batch_first,
            mixed,
            not mixed and any(one is True for one in said),
            any(time_axis(module) == 2 for module in model.modules()),
        )
        self.standing: list[StandIn] = []
        self.active = False
        self.pinned = False
        self.depth = 0
        self.current: Step | None = None
        self.recorded = False
        self.forwards = 0
        self.blind = 0

    def __enter__(self) -> Flow:
        if self.standing:
            raise RuntimeError("this watch is already in use: make another one")
        for name, module in self.model.named_modules():
            if isinstance(vars(module).get("forward"), StandIn):
                raise RuntimeError(
                    f"{repr(name) if name else 'the model'} is being watched already: one watch at a time"
                )
        parameters = [parameter.requires_grad for parameter in self.model.parameters()]
        self.frozen = bool(parameters) and not any(parameters)
        # in the model's own place always: its calls are the steps
        self.standing = [StandIn(self, module, name) for name, module in {"": self.model, **self.chosen}.items()]
        self.active = True
        return self.flow

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.active = False
        for stand_in in reversed(self.standing):
            stand_in.leave()
        self.standing = []
        self.publish()
        if self.sender is not None:
            self.sender.close(self.flow)

    def begin(self, number: int, recorded: bool) -> None:
        """Begin a step by hand; it lasts until the next one is begun."""
        self.pinned = True
        self.publish()
        self.current = Step(self.flow, number, recorded, self.scaler)

    def publish(self) -> None:
        """Turn what has come in into tables, and send what is new."""
        blocks, heads = self.flow.settle()
        if self.sender is not None:
            self.sender.send(blocks, heads)

    def called(self, stand_in: "StandIn", args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """In place of a module's forward."""
        if not self.active:
            return stand_in.forward(*args, **kwargs)
        # the second while the compiler looks for what it can compile, having given up on the frame around
        if torch.compiler.is_compiling() or torch._C._dynamo.eval_frame.get_eval_frame_callback():
            raise RuntimeError("retrograde.watch cannot see into compiled code: call the model as it is")
        if torch._C._functorch.peek_interpreter_stack() is not None:
            self.flow.leave_out(stand_in.layer, "it is called under a transform of torch.func (grad, vmap, …)", True)
            with self._muted():
                return stand_in.forward(*args, **kwargs)
        if not torch.is_grad_enabled():
            self.blind += 1
            return stand_in.forward(*args, **kwargs)
        outermost = not self.depth
        # what is called inside a backward pass is a checkpoint, computed again
        if outermost and torch._C._current_graph_task_id() == -1:
            self._begin_forward(args, kwargs)
        step = self.current
        if step is None or not step.recorded:
            made = self._unrecorded(stand_in, args, kwargs)
        else:
            self.recorded = True
            self.depth += 1
            try:
                chosen = stand_in.name in self.chosen
                made = self._served(step, stand_in, args, kwargs) if chosen else stand_in.forward(*args, **kwargs)
            finally:
                self.depth -= 1
        if outermost and step is not None:
            result = _first(made)
            if isinstance(result, Tensor):
                step.compare(result.shape)
            for _, value in tensors(made):
                if value.grad_fn is not None:  # a hook on a parameter would stay there
                    value.register_hook(step.reach)
        return made

    def _begin_forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.forwards += 1
        if not self.pinned and (self.current is None or self.current.reached):
            self.publish()
            number = 0 if self.current is None else self.current.number + 1
            self.current = Step(self.flow, number, self.when(number), self.scaler)
        if self.current is not None and self.current.samples is None:
            self.current.samples = _samples((args, kwargs), self.layout.batch_first)
            given = _first((args, kwargs))
            self.current.given = given.shape if isinstance(given, Tensor) else ()

    def _unrecorded(self, stand_in: "StandIn", args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self._muted():
            return stand_in.forward(*args, **kwargs)

    def _served(self, step: Step, stand_in: "StandIn", args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = stand_in.module
        call = Call(module, stand_in.layer, stand_in.forward, args, kwargs, step, self.layout, self.frozen, self._muted)
        return serve(module, call)

    @contextmanager
    def _muted(self) -> Iterator[None]:
        before, self.active = self.active, False
        try:
            yield
        finally:
            self.active = before

    def _why_empty(self) -> str:
        if not self.chosen:
            return "`only` has chosen none of the model's modules: it is given their names as in model.named_modules()"
        if not self.forwards and self.blind:
            return "the model was only called without gradients (torch.no_grad or inference_mode)"
        if not self.forwards:
            return f"the model was not called inside the block{self._left_out()}"
        reached = self.current is not None and (self.current.reached or self.current.number > 0)
        if not reached:
            return "no gradient has come to the model: call loss.backward() inside the block, on a loss of its outputs"
        if self.flow.left_out:
            return f"no layer could be served{self._left_out()}"
        if not self.recorded:
            return "`when` has chosen none of the steps that there were"
        return "no gradient has come to the modules that `only` has chosen: " + ", ".join(map(repr, self.chosen))

    def _left_out(self) -> str:
        named = "; ".join(f"{layer}: {reason}" for layer, reason in self.flow.left_out.items())
        return f": {named}" if named else ""


class StandIn:
    """Stands in the place of a module's ``forward``."""

    def __init__(self, watching: Watching, module: nn.Module, name: str) -> None:
        self.watching = watching
        self.module = module
        self.name = name
        self.layer = name or type(module).__name__
        self.own = vars(module).get("forward")
        self.forward = module.forward
        self.__wrapped__ = module.forward  # what asks for the signature is told the module's own
        vars(module)["forward"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.watching.called(self, args, kwargs)

    def leave(self) -> None:
        """Give the place back, unless another has taken it meanwhile: that one will find this one out of use."""
        if vars(self.module).get("forward") is not self:
            return
        if self.own is None:
            del vars(self.module)["forward"]
        else:
            vars(self.module)["forward"] = self.own

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the module is not watched."""
        if self.own is not None:
            return copy.deepcopy(self.own, memo)
        return MethodType(type(self.module).forward, copy.deepcopy(self.module, memo))

    def __reduce__(self) -> Any:
        return getattr, (self.module, "forward") if self.own is None else self.own


@serve.register(nn.Module)
def _(module: nn.Module, call: Call) -> Any:
    if has_step(module):
        return stepped(call)
    if type(module).__module__.startswith("torch.nn."):
        return plain(call)
    return loops.cell(call)


def refuse(model: nn.Module) -> None:
    """Raise ValueError for what no watch can see into."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"retrograde.watch takes a torch.nn.Module, not {type(model).__name__}")
    for name, module in model.named_modules():
        where = f"'{name}'" if name else "the model"
        own = vars(module).get("forward")
        # by name: to import the compiler takes a second
        compiled = module._compiled_call_impl is not None or type(module).__name__ == "OptimizedModule"
        if compiled or getattr(own, "_torchdynamo_orig_callable", None):
            raise ValueError(
                f"{where} is compiled, and a watch cannot see into it: watch and call what it was compiled from"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"{where} is TorchScript, and a watch cannot see into it: watch the module that it was made of"
            )
        if isinstance(module, nn.DataParallel):
            raise ValueError(
                f"{where} is nn.DataParallel, whose copies a watch does not see: use DistributedDataParallel"
            )


def watch(
    model: nn.Module,
    *,
    when: Callable[[int], bool] = lambda step: True,
    only: Choice = lambda name, module: True,
    batch_first: bool | None = None,
    per_sample: bool = False,
    scaler: Scaler | None = None,
    wandb: "wandb.Run | None" = None,
) -> Watching:
    """A context in which every backward pass through the model leaves the norms of its gradients over time.

    ``when`` is asked of every step, counted from 0, whether to record it (see ``log_spaced``); ``only`` of every
    module, by name, whether to look at it. ``batch_first`` says where the batch is in what the model is given and in
    results that have (batch, time, width). By default that is found by the batch's size, which a recurrent layer or an
    attention of ``torch.nn`` tells. Without these the first axis of what the model is given is taken to be the batch;
    unless a layer says ``batch_first``, or a cell's state or the model's result has that axis and not the next,
    ``left_out`` tells of it. ``per_sample`` keeps every sample's norm. ``scaler`` is the ``torch.amp.GradScaler`` of
    the loop, if it has one. ``wandb`` is a W&B run to send to.

    Raises ValueError for a model that is compiled, TorchScript or nn.DataParallel.
    """
    sender: Sender | None = None
    if wandb is not None:
        from retrograde.watching import publish

        sender = publish.Sender(wandb)
    return Watching(model, when, only, batch_first, per_sample, scaler, sender)


def log_spaced(per_decade: int = 8) -> Callable[[int], bool]:
    """Step 0, and then evenly in the logarithm, ``per_decade`` for each factor of ten."""
    if per_decade < 1:
        raise ValueError(f"per_decade must be at least 1, not {per_decade}")

    def chosen(step: int) -> bool:
        spaced = set()
        exponent = 0
        while (at := round(10 ** (exponent / per_decade))) <= step:
            spaced.add(at)
            exponent += 1
        return step == 0 or step in spaced

    return chosen


def _samples(given: Any, batch_first: bool | None) -> int | None:
    """How many samples the first tensor holds that a model is called with."""
    first = _first(given)
    if isinstance(first, PackedSequence):
        return int(first.batch_sizes[0])
    if first is None:
        return None
    return first.shape[1 if batch_first is False and first.ndim > 1 else 0]


def _first(given: Any) -> Tensor | PackedSequence | None:
    """The first of what has an axis."""
    if isinstance(given, PackedSequence) or (isinstance(given, Tensor) and given.ndim):
        return given
    if isinstance(given, dict):
        given = list(given.values())
    if isinstance(given, tuple | list):
        return next((found for part in given if (found := _first(part)) is not None), None)
    return None
