"""A recurrence, written once as ``step``; the loop over it is the reference for every faster form."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Inexact, Int, Num
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from retrograde.core.records import State


class Recurrence(nn.Module, ABC):
    """One layer in one direction: weights, a state, and the step from one state to the next."""

    output: ClassVar[str] = "hidden"
    """The component that the layer above reads, where ``read`` and ``width`` say nothing else."""

    begun: ClassVar[tuple[str, ...] | None] = None
    """The components that an encoder may set for a decoder to begin with; None for all of them."""

    form: str | None = None
    """The form that ``sequence`` takes where a gradient is asked for; None for the first that there is."""

    @property
    @abstractmethod
    def components(self) -> Mapping[str, tuple[int, ...]]:
        """The state's components and the shape of each, without batch axes."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """The parameters that ``step`` reads, under the names by which it reads them."""

    @property
    def of_samples(self) -> frozenset[str]:
        """Those of ``weights`` that hold something of each sample of one batch, on their first axis: no parameters."""
        return frozenset()

    @abstractmethod
    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        """The state after one input. Pure: it reads its arguments and settings of the layer, nothing else.

        It broadcasts over any axes before the last, for inputs, state and weights alike, and has at least one: the
        same equations serve a batch, a set of probes and a set of seeds.
        """

    def read(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> Tensor:
        """What the layer above gets, (..., ``self.width``), of the input and the state after it; pure, as ``step``.

        The sweep hands the gradient from above straight to a component that is given as it stands, not as a copy.
        """
        return state[self.output]

    def clock(self, times: Int[Tensor, " time"]) -> Num[Tensor, "time columns"]:
        """What ``step`` and ``read`` know of time: columns behind those of their inputs; none but where a paper has."""
        return times.new_empty(len(times), 0)

    def gates(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        """The gates that the step opens and closes, each entry within [0, 1], under the names of the paper.

        Of an input and the state before it, as ``step``, with their leading axes and at least one more; none where a
        paper has none. A name has no dots: it becomes part of a reading's.
        """
        return {}

    def kept(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        """By component, the factor by which each entry is carried on along its own path, every other path cut.

        For an LSTM's cell that is the forget gate; what the factor itself is made of is held. Real, of the state's own
        shape, or complex, without the last axis, that of pairs; none for a component without such a path.
        """
        return {}

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights that the state is multiplied by: square matrices by name, or vectors that are their diagonals.

        A matrix that makes a gate has that gate's name. Real or complex; none where there is none, or where what the
        state is multiplied by depends on the input.
        """
        return {}

    def products(
        self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State
    ) -> dict[str, tuple[str, Tensor]]:
        """Weights W that the step reads in a sum W v + b alone: by name, the name of that b, and v.

        Of an input and the state before it, as ``step``. What a step adds to the gradient of W is then what it adds to
        that of b, times vᵀ: known without being formed. None, or not all, where nothing is said of it.
        """
        return {}

    def hidden_attention(
        self, weights: Mapping[str, Tensor], x: Float[Tensor, "batch time width"]
    ) -> "HiddenAttention | None":
        """The matrix from each input position to each output position that the layer applies to its values.

        None where there is no such matrix, because the state is not linear in what was written to it.
        """
        return None

    @property
    def width(self) -> int:
        """The width of what ``read`` gives."""
        return self.components[self.output][-1]

    @property
    def size(self) -> int:
        """How many numbers the state holds."""
        return sum(torch.Size(shape).numel() for shape in self.components.values())

    def initial_state(self, like: Float[Tensor, "batch *rest"]) -> State:
        """Zeros, of the batch size, type and device of ``like``."""
        return {name: like.new_zeros(like.shape[0], *shape) for name, shape in self.components.items()}


@dataclass(frozen=True)
class HiddenAttention:
    """y_i = Σ_j A_ij v_j for each head, as a layer computes it, and what it gives of the heads side by side.

    ``weights`` A: signed, not summing to 1, and complex where the state is. ``values`` v. ``mixing`` is the matrix by
    which the layer's read-out mixes the heads, complex ones as pairs of parts; None where they stay side by side.
    ``rest`` is what it adds that did not pass through the matrix.
    """

    weights: Inexact[Tensor, "batch head query key"]
    values: Inexact[Tensor, "batch key head value"]
    mixing: Float[Tensor, "width parts"] | None = None
    rest: Float[Tensor, "batch query width"] | None = None

    def applied(self) -> Float[Tensor, "batch query width"]:
        """What the layer's ``read`` gives, by this matrix."""
        made = torch.einsum("bhqk,bkhv->bqhv", self.weights, self.values)
        side_by_side = (torch.view_as_real(made) if made.is_complex() else made).flatten(2)
        mixed = side_by_side if self.mixing is None else side_by_side @ self.mixing.mT
        return mixed if self.rest is None else mixed + self.rest


def clocked(
    recurrence: Recurrence, inputs: Float[Tensor, "batch time width"], start: int = 0
) -> Float[Tensor, "batch time clocked"]:
    """The inputs with the recurrence's clock, the first of them read at time ``start``."""
    columns = recurrence.clock(torch.arange(start, start + inputs.shape[1], device=inputs.device)).to(inputs.dtype)
    return torch.cat([inputs, columns.expand(len(inputs), -1, -1)], -1) if columns.shape[1] else inputs


def affine(x: Float[Tensor, "... n"], weight: Float[Tensor, "... m n"], bias: Tensor) -> Float[Tensor, "... m"]:
    """``x Wᵀ + b``, where the weights may have leading axes of their own (one per seed, say)."""
    return x @ weight.mT + bias.unsqueeze(-2)


def unroll(
    recurrence: Recurrence,
    inputs: Float[Tensor, "batch time width"],
    perturb: State | None = None,
    initial: State | None = None,
) -> dict[str, Float[Tensor, "batch states ..."]]:
    """The loop over ``step``: every state from t = -1, the initial one, to t = T-1.

    ``initial`` stands in for the recurrence's own initial state.

    ``perturb`` is added to the states as they are made, before anything reads them: not even a component that the
    same step makes of another, as an LSTM its hidden state of its cell.
    """
    return _unrolled(recurrence, clocked(recurrence, inputs), perturb, initial)


def _unrolled(
    recurrence: Recurrence,
    inputs: Float[Tensor, "batch time clocked"],
    perturb: State | None = None,
    initial: State | None = None,
) -> dict[str, Float[Tensor, "batch states ..."]]:
    weights = recurrence.weights()
    state = recurrence.initial_state(inputs) if initial is None else initial
    if perturb is not None:
        state = {name: value + perturb[name][:, 0] for name, value in state.items()}
    states = [state]
    # unbind once: an index inside the loop would make the backward quadratic in time
    for t, x in enumerate(inputs.unbind(1)):
        if perturb is None:
            state = recurrence.step(weights, x, state)
        else:
            added = {name: value[:, t + 1] for name, value in perturb.items()}
            state = perturbed_step(recurrence, weights, x, state, added)
        states.append(state)
    return {name: torch.stack([state[name] for state in states], 1) for name in recurrence.components}


@dataclass(frozen=True)
class Form:
    """One way to compute what ``sequence`` gives; tests hold it equal to the loop, in values and in all gradients.

    ``twice`` says whether its gradient can be differentiated again, ``transformed`` whether torch.func, such as vmap,
    sees through it. ``timed`` is False where it does all that another form does, and more, so that it is never faster.
    """

    compute: Callable[[Any, Tensor, State | None], Tensor]
    twice: bool = True
    transformed: bool = True
    timed: bool = True


@singledispatch
def own_forms(recurrence: Recurrence, inputs: Float[Tensor, "batch time width"]) -> dict[str, Form]:
    """By name, the forms beside the loop that a recurrence of this type has for such inputs.

    The first is the one that is taken where nothing was chosen.
    """
    return {}


LOOP = "loop"


def forms(
    recurrence: Recurrence,
    inputs: Float[Tensor, "batch time width"],
    twice: bool = False,
    transformed: bool = False,
) -> dict[str, Form]:
    """By name, every form that can run on such inputs and do what is asked; the loop is the last."""
    found = {**own_forms(recurrence, inputs), LOOP: Form(loop)}
    return {
        name: form
        for name, form in found.items()
        if (form.twice or not twice) and (form.transformed or not transformed)
    }


def loop(
    recurrence: Recurrence, inputs: Float[Tensor, "batch time width"], initial: State | None = None
) -> Float[Tensor, "batch time hidden"]:
    """The reference for all forms: what is read of the states that ``step`` makes, one after the other."""
    inputs = clocked(recurrence, inputs)
    states = _unrolled(recurrence, inputs, initial=initial)
    return recurrence.read(recurrence.weights(), inputs, {name: value[:, 1:] for name, value in states.items()})


Listener = Callable[[Recurrence, Tensor, State | None, Tensor], None]
"""Is told of a call of ``sequence``, its outputs last."""

_TWICE: ContextVar[bool] = ContextVar("_TWICE", default=False)
_LISTENER: ContextVar[Listener | None] = ContextVar("_LISTENER", default=None)


@contextmanager
def differentiated_twice() -> Iterator[None]:
    """For as long as this lasts ``sequence`` takes forms alone whose gradient can be differentiated again."""
    before = _TWICE.set(True)
    try:
        yield
    finally:
        _TWICE.reset(before)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """For as long as this lasts the listener is told of every call of ``sequence``."""
    before = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(before)


def sequence(
    recurrence: Recurrence, inputs: Float[Tensor, "batch time width"], initial: State | None = None
) -> Float[Tensor, "batch time hidden"]:
    """What ``read`` gives at every time, in the form that was chosen for this layer.

    It is the first of ``forms`` where none was chosen or the chosen one cannot do what is asked, and where no gradient
    is asked for: what is evaluated does not depend on the choice. ``initial`` stands in for the recurrence's own
    initial state.
    """
    if torch.compiler.is_compiling():  # the compiler makes a form of its own, of the first
        return next(iter(forms(recurrence, inputs).values())).compute(recurrence, inputs, initial)
    able = forms(recurrence, inputs, _TWICE.get(), torch._C._functorch.peek_interpreter_stack() is not None)
    chosen = recurrence.form if torch.is_grad_enabled() and recurrence.form in able else next(iter(able))
    made = able[chosen].compute(recurrence, inputs, initial)
    listener = _LISTENER.get()
    if listener is not None:
        listener(recurrence, inputs, initial, made)
    return made


def perturbed_step(
    recurrence: Recurrence, weights: Mapping[str, Tensor], x: Tensor, state: State, added: State
) -> State:
    """``step``, with a tensor added to each component the moment it is made."""
    watch = _Results()
    with watch:
        made = recurrence.step(weights, x, state)
    places: dict[int, Tensor] = {}
    for name, value in added.items():
        at = watch.position(made[name], name)
        places[at] = places[at] + value if at in places else value  # two components may be one tensor
    with _Results(places):
        return recurrence.step(weights, x, state)


class _Results(TorchFunctionMode):
    """Numbers the results of torch calls, so that a repeated computation can be changed at one of them."""

    def __init__(self, added: Mapping[int, Tensor] | None = None) -> None:
        super().__init__()
        self.added = added or {}
        self.results: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, Tensor):
            return result
        self.results.append(result)  # kept, so that no later tensor can take its identity
        at = len(self.results) - 1
        return result + self.added[at] if at in self.added else result

    def position(self, tensor: Tensor, name: str) -> int:
        for at, result in enumerate(self.results):
            if result is tensor:
                return at
        raise ValueError(f"component '{name}' is not the result of a torch call of this step and cannot be perturbed")
