r"""Models of one architecture that train together: one computation with an axis of seeds in front.

    L(θ) = Σ_s L_s(θ_s)        ∂L/∂θ_s = ∂L_s/∂θ_s

s a member, θ_s its weights, L_s the mean loss of its own batch. The weights of all members lie in leaves (seed, …), one
for each parameter, and each member's own parameters are views of them: a member goes on being a model by itself, and
shows the present weights at any time. The equations are those of one model, under ``torch.func.vmap``.

No member reads what another computes, and nothing is multiplied by zero to be left out: what is not finite in one
stays there.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import pad

from retrograde.core.choices import require_at_least, require_one_of
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch

CLOSE = 1e-8
"""How far, of the largest entry, one model in float64 may be from itself in a trial: rounding is far below."""

TRIAL = 2
"""Members, and samples of each, in a trial."""

OWN = frozenset(vars(nn.Module())) | {"form"}
"""What every module holds for itself, and what does not tell one model from another."""

COMPARED = (bool, int, float, str, tuple, list, dict, FunctionType, BuiltinFunctionType, Tensor, type(None))
"""Of all else that a module holds two can be the same without being equal."""


@dataclass(frozen=True)
class Objective:
    """Each member's mean loss over its own batch, and the outputs that it was taken of, with room for the longest."""

    losses: Float[Tensor, " seed"]
    outputs: Float[Tensor, "seed batch target size"] | None
    lengths: tuple[int, ...]

    def of(self, member: int) -> Tensor | None:
        """A member's own outputs, (batch, target, …), of the length of its own batch."""
        return None if self.outputs is None else self.outputs[member][:, : self.lengths[member]]


class Ensemble:
    """The members, in the order in which they were given and joined.

    Raises ValueError where they cannot be of one architecture; see ``unlike``. Whether their equations bear to be
    computed together, ``refusal`` says.
    """

    def __init__(self, members: Sequence[SequenceModel]) -> None:
        require_at_least("the number of members", len(members), 1)
        self.members: list[SequenceModel] = []
        self.leaves: dict[str, Tensor] = {}
        self.buffers: dict[str, Tensor] = {}
        # its own, so that what a member is told, as to be in eval mode, is not told to all; its tensors are never read
        self._equations = _Objective(copy.deepcopy(members[0]).to("meta").train())
        self._gather(members)

    def __len__(self) -> int:
        return len(self.members)

    def objective(self, task: Task, batches: Sequence[Batch]) -> Objective:
        """Of each member on its own batch, in training. The sum of the losses is what to differentiate.

        Batches of different lengths are padded to the longest.
        """
        if len(batches) != len(self):
            raise ValueError(f"{len(self)} members need a batch each, not {len(batches)}")
        stacked = stacked_batches(batches)

        def of_one(
            parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
        ) -> tuple[Tensor, Tensor | None]:
            given = {f"model.{name}": value for name, value in (*parameters.items(), *buffers.items())}
            losses, outputs = functional_call(self._equations, given, (task, Batch(**tensors)))
            return losses.mean(), outputs

        losses, outputs = vmap(of_one, out_dims=(0, 0))(self.leaves, self.buffers, stacked.tensors())
        return Objective(losses, outputs, tuple(batch.targets.shape[1] for batch in batches))

    def gradients(self, member: int) -> dict[str, Tensor]:
        """A member's gradients by the name of the parameter, as views; of those alone that have one."""
        return {name: leaf.grad[member] for name, leaf in self.leaves.items() if leaf.grad is not None}

    def show_gradients(self) -> None:
        """Set ``.grad`` of the members' own parameters to views of theirs, for what reads them there."""
        for member, model in enumerate(self.members):
            for name, parameter in model.named_parameters():
                grad = self.leaves[name].grad
                parameter.grad = None if grad is None else grad[member]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for leaf in self.leaves.values():
            leaf.grad = None
        for model in self.members:
            model.zero_grad(set_to_none=True)

    def gradient_norms(self) -> Float[Tensor, " seed"]:
        """Each member's norm over all its gradients."""
        norms = [torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in self._gradients()]
        if not norms:
            raise ValueError("there is no gradient: backward() comes first")
        return torch.linalg.vector_norm(torch.stack(norms), dim=0)

    def largest_gradients(self) -> Float[Tensor, " seed"]:
        """Each member's largest entry, without its sign."""
        return torch.stack([gradient.flatten(1).abs().amax(1) for gradient in self._gradients()]).amax(0)

    def clip(self, bound: float, by: str = "norm", norms: Float[Tensor, " seed"] | None = None) -> None:
        """What ``torch.nn.utils.clip_grad_norm_``, or ``clip_grad_value_``, does to each member by itself.

        ``norms`` are those of ``gradient_norms``, where they are known. No member's norm says anything to another.
        """
        require_one_of("by", by, ("norm", "value"))
        if by == "value":
            for gradient in self._gradients():
                gradient.clamp_(-bound, bound)
            return
        norms = self.gradient_norms() if norms is None else norms
        factors = (bound / (norms + 1e-6)).clamp(max=1.0)  # torch's own; a norm of NaN stays NaN, in its member alone
        for gradient in self._gradients():
            gradient.mul_(factors.to(gradient.dtype).view(-1, *[1] * (gradient.dim() - 1)))

    def leave(self, member: int) -> SequenceModel:
        """The member, with weights of its own from now on; the others go on. Gradients are forgotten."""
        rest = [model for at, model in enumerate(self.members) if at != member]
        left = self.members[member]
        self.release()
        if rest:
            self._gather(rest)
        return left

    def join(self, model: SequenceModel) -> None:
        """One more member, behind the others, as it is. Gradients are forgotten.

        Raises ValueError, and leaves all as it was, where it is of another architecture.
        """
        self._gather([*self.members, model])

    def release(self) -> None:
        """Give every member weights of its own, as they are; the ensemble is then empty."""
        with torch.no_grad():
            for model in self.members:
                for tensor in (*model.parameters(), *model.buffers()):
                    tensor.data = tensor.data.clone()
                    tensor.grad = None
                for module in model.modules():
                    if isinstance(module, nn.RNNBase):
                        module.flatten_parameters()  # cuDNN wants its weights in one piece
        self.members, self.leaves, self.buffers = [], {}, {}

    def _gather(self, models: Sequence[SequenceModel]) -> None:
        said = unlike(models)
        if said is not None:
            raise ValueError(said)
        parameters = [dict(model.named_parameters()) for model in models]
        buffers = [dict(model.named_buffers()) for model in models]
        with torch.no_grad():
            self.leaves = {
                name: torch.stack([each[name] for each in parameters]).requires_grad_(first.requires_grad)
                for name, first in parameters[0].items()
            }
            self.buffers = {name: torch.stack([each[name] for each in buffers]) for name in buffers[0]}
            for at, (own, kept) in enumerate(zip(parameters, buffers, strict=True)):
                for name, parameter in own.items():
                    parameter.data, parameter.grad = self.leaves[name].detach()[at], None
                for name, buffer in kept.items():
                    buffer.data = self.buffers[name][at]
        self.members = list(models)

    def _gradients(self) -> list[Tensor]:
        return [leaf.grad for leaf in self.leaves.values() if leaf.grad is not None]


class _Objective(nn.Module):
    """A model's objective as a module's ``forward``, which is what can be called with other weights."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, task: Task, batch: Batch) -> tuple[Tensor, Tensor | None]:
        return self.model.objective(task, batch)


def stacked_batches(batches: Sequence[Batch]) -> Batch:
    """All batches as one with an axis of seeds in front of every tensor, padded to the longest.

    What is added is token 0 or the number 0, is not scored, and lies behind every sample's length.
    """
    if len({len(batch) for batch in batches}) > 1:
        raise ValueError(f"all batches need as many samples: they have {', '.join(str(len(each)) for each in batches)}")
    ends = {"inputs": "inputs", "targets": "targets", "scored": "targets", "decoder_inputs": "targets"}
    longest = {axis: max(getattr(batch, axis).shape[1] for batch in batches) for axis in ("inputs", "targets")}

    def with_room(name: str, value: Tensor) -> Tensor:
        missing = longest[ends[name]] - value.shape[1] if name in ends else 0
        return pad(value, [0, 0] * (value.dim() - 2) + [0, missing]) if missing else value

    tensors = [batch.tensors() for batch in batches]
    return Batch(**{name: torch.stack([with_room(name, each[name]) for each in tensors]) for name in tensors[0]})


def unlike(models: Sequence[SequenceModel]) -> str | None:
    """In one line, the first thing beside weights in which two models differ, or are not two; None for none."""
    first = models[0]
    if len({id(model) for model in models}) < len(models):
        return "a model cannot be two members"
    for other in models[1:]:
        if type(other) is not type(first):
            return f"the members are of several kinds, {type(first).__name__} and {type(other).__name__}"
        kinds, others = ({path: type(module) for path, module in model.named_modules()} for model in (first, other))
        for path in sorted(kinds.keys() | others.keys()):
            if kinds.get(path) is not others.get(path):
                return f"the members differ in the kind of {path}"
        for what, one, two in (
            ("parameter", dict(first.named_parameters()), dict(other.named_parameters())),
            ("buffer", dict(first.named_buffers()), dict(other.named_buffers())),
        ):
            if one.keys() != two.keys():
                return f"the members differ in their {what}s: {min(one.keys() ^ two.keys())}"
            for name, value in one.items():
                if _kind(value) != _kind(two[name]):
                    return f"the members differ in the {what} {name}: {_kind(value)} and {_kind(two[name])}"
        here, there = dict(_settings(first)), dict(_settings(other))
        for name in sorted(here.keys() | there.keys()):
            if not _same(here.get(name), there.get(name)):
                return f"the members differ in {name}, which is no parameter"
    return None


def _kind(tensor: Tensor) -> tuple[tuple[int, ...], torch.dtype, str, bool]:
    return tuple(tensor.shape), tensor.dtype, str(tensor.device), tensor.requires_grad


def _settings(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """What modules hold beside parameters, buffers and modules, by name: plain values, what holds such, functions."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            # the form in which a recurrence is computed is its own affair: together it is another one
            if name not in OWN and isinstance(value, COMPARED):
                yield f"{path}.{name}".lstrip("."), value


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):  # weights, of which a list may hold some, are what members differ in
        return isinstance(one, nn.Parameter) or torch.equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, FunctionType):
        return one.__code__ is other.__code__ and _same(_bound(one), _bound(other))
    return not isinstance(one, COMPARED) or bool(one == other)


def _bound(function: FunctionType) -> tuple[Any, ...]:
    """What a function holds beside its code."""
    return function.__defaults__, *(cell.cell_contents for cell in function.__closure__ or ())


def refusal(
    models: Sequence[SequenceModel], task: Task, *, autocast: bool = False, ranks: int = 1, regularized: bool = False
) -> str | None:
    """In one line, why these models cannot train together on the task; None where they can.

    What cannot be asked of a model is tried: the losses and gradients of two copies, in float64, on two samples each
    of different draws, together and by themselves. ``autocast``: the training computes in mixed precision; ``ranks``:
    the processes that share a batch; ``regularized``: something is added to the loss.
    """
    said = unlike(models)
    if said is not None:
        return said
    model = models[0]
    if autocast:
        return "mixed precision: which products are rounded is decided for one model at a time"
    if ranks > 1:
        return f"{ranks} processes share each batch; models that train together need it whole"
    if regularized:
        return "a regularizer is asked of one model at a time"
    if not model.learns:
        return "there is nothing to train"
    half = {tensor.dtype for tensor in model.parameters()} - {torch.float32, torch.float64}
    if half:
        return f"parameters in {min(str(dtype) for dtype in half)}: its rounding is that of each kernel"
    for name, module in model.named_modules():
        probability = getattr(module, "p" if isinstance(module, nn.modules.dropout._DropoutNd) else "dropout", 0.0)
        if isinstance(probability, float) and probability > 0:
            return f"dropout in {name}: each model draws on its own random numbers"
    return _trial(model, task)


def _trial(model: SequenceModel, task: Task) -> str | None:
    """Why the equations do not bear an axis of seeds, or give something else with one."""
    generator = torch.Generator(model.like.device).manual_seed(0)
    alone = [copy.deepcopy(model).double().train() for _ in range(TRIAL)]
    with torch.no_grad():
        for parameter in alone[1].parameters():
            parameter.mul_(1.01)
    batches = [task.sample(TRIAL, generator).beside(alone[0].like) for _ in range(TRIAL)]
    try:
        ensemble = Ensemble([copy.deepcopy(each) for each in alone])
        with warnings.catch_warnings():
            # a call that has no form for many seeds is made for one after the other, with this warning
            warnings.filterwarnings("error", message="There is a performance drop")
            made = ensemble.objective(task, batches)
            made.losses.sum().backward()
    except Exception as error:  # whatever vmap, or the model under it, cannot do
        return f"{type(model).__name__} cannot be computed for several seeds at once: {_one_line(error)}"
    for at, (each, batch) in enumerate(zip(alone, batches, strict=True)):
        before = copy.deepcopy(dict(_settings(each)))
        loss = each.objective(task, batch)[0].mean()
        loss.backward()
        for name, value in each.named_buffers():
            if not torch.allclose(ensemble.buffers[name][at], value, rtol=CLOSE, equal_nan=True):
                return f"{type(model).__name__} sets its buffer {name} anew, which several seeds at once do not keep"
        for name, value in _settings(each):
            if name in before and not _same(value, before[name]):
                return f"{type(model).__name__} changes {name} as it computes, which has no room for several seeds"
        seen = ensemble.gradients(at) | {"the loss": made.losses[at].detach()}
        expected = {name: p.grad for name, p in each.named_parameters() if p.grad is not None}
        expected["the loss"] = loss.detach()
        if seen.keys() != expected.keys():
            return f"{type(model).__name__} gives gradients of other parameters for several seeds at once"
        for name, value in expected.items():
            if not torch.allclose(seen[name], value, rtol=CLOSE, atol=CLOSE * float(value.abs().max()), equal_nan=True):
                return f"{type(model).__name__} gives something else for several seeds at once, in {name}"
    return None


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0].partition(". Please")[0] if text else type(error).__name__
