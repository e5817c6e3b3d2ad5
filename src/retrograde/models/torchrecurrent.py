r"""Any cell of the package torchrecurrent, by name: ``model=torchrecurrent model.cell=JANET``.

    state_t = cell(x_t, state_{t-1})        the package's own forward, with its own initialisation

x input (batch, width), the state's components (batch, hidden), zero at the start. They are called hidden, or hidden and
cell, unless they are something else: context (SCRN), control (MCLSTM), carried (IntersectionRNN), previous (the input
before, TGRU and TLSTM), delayed (the hidden state before, tauGRU). Where a cell's output is no part of what it carries
on (IntersectionRNN, MCLSTM, TLSTM), the output joins the state as ``hidden``, which no later step reads but which
counts in the state's size.

Source: torchrecurrent 0.2.5, Martinuzzi 2025, arXiv:2510.21252; each cell's paper stands in its own docstring there.
Differs: a cell has the settings that the package gives it, no others; the weights may have no leading axes, as those of
our own recurrences may; the delay of tauGRU is 1, as in the package's layer; IntersectionRNN needs inputs as wide as
``hidden``. Where the package differs from a paper, so does this: its LEM reads the memory from before the step.
"""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from retrograde.core.choices import Unavailable, nearest, require_at_least
from retrograde.core.contracts import Task
from retrograde.core.records import State
from retrograde.core.recurrence import Form, Recurrence, own_forms
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.recurrent import RecurrentModel

COMPONENTS = {
    "IntersectionRNN": ("hidden", "carried"),
    "MCLSTM": ("hidden", "control", "cell"),
    "SCRN": ("hidden", "context"),
    "TGRU": ("hidden", "previous"),
    "TLSTM": ("hidden", "cell", "previous"),
    "tauGRU": ("hidden", "delayed"),
}
"""What a cell returns, in its order, where that is not the hidden state, or hidden state and cell."""

OTHER_WEIGHTS = ("AntisymmetricRNN", "GatedAntisymmetricRNN", "MCLSTM", "TGRU", "TLSTM")
"""Cells whose ``weight_hh`` is not what a state is multiplied by: half of an antisymmetric matrix, the map from a state
to the entries of one, or weights of the input before."""

SUFFIX = "Cell"


class TorchRecurrentCell(Recurrence):
    """A cell of the package as a recurrence. ``cell`` is its name there, without the ending."""

    def __init__(self, inputs: int, hidden: int, cell: str) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        self.name = cell
        package = _package()
        known = sorted(name.removesuffix(SUFFIX) for name in package.__all__ if name.endswith(SUFFIX))
        if cell not in known:
            raise ValueError(f"torchrecurrent has no cell {cell!r}{nearest(cell, known)}; it has {', '.join(known)}")
        if cell == "IntersectionRNN" and inputs != hidden:
            raise ValueError(
                f"cell=IntersectionRNN needs inputs as wide as hidden; they are {inputs} and {hidden} wide"
            )
        made = getattr(package, cell + SUFFIX)(inputs, hidden)
        self.cell = _Delayed(made, hidden) if cell == "tauGRU" else made
        self._try(inputs, cell)

    def _try(self, inputs: int, cell: str) -> None:
        """Find out by one step what the cell carries on, how wide it is, and which of its results it is."""
        x = torch.zeros(1, inputs)
        watch = _Shaped()
        with torch.no_grad():
            results = _flat(self.cell(x))
            self.pair = self.cell.uses_double_state()
            names = COMPONENTS.get(cell, ("hidden", "cell")[: len(results)])
            self.shapes = {name: tuple(value.shape[1:]) for name, value in zip(names, results, strict=True)}
            self.carried = names[-2:] if self.pair else names[-1:]
            given = self._given(self.initial_state(x))
            with watch:
                results = _flat(self.cell(x, given))
        self.places = [watch.place(value) for value in results]

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return self.shapes

    def weights(self) -> dict[str, Tensor]:
        return dict(self.cell.named_parameters())

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        """The cell's own step over all leading axes as one batch; they must be those of inputs and state alone."""
        leading = torch.broadcast_shapes(x.shape[:-1], *(state[name].shape[:-1] for name in self.carried))
        flat = {name: state[name].expand(*leading, -1).reshape(-1, state[name].shape[-1]) for name in self.carried}
        inputs = x.expand(*leading, -1).reshape(-1, x.shape[-1])
        watch = _Shaped([place for place in self.places if place is not None], leading)
        with watch:
            results = _flat(functional_call(self.cell, dict(weights), (inputs, self._given(flat))))
        return {
            name: value.reshape(*leading, -1) if place is None else watch.shaped_as(value, place)
            for name, value, place in zip(self.shapes, results, self.places, strict=True)
        }

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The square blocks of ``weight_hh``, in the package's order; what each is called there it does not tell."""
        found = [weight for name, weight in weights.items() if name.endswith("weight_hh") and weight.ndim == 2]
        if self.name in OTHER_WEIGHTS or not found:
            return {}
        blocks = found[0].split(found[0].shape[-1], -2)
        return {"recurrent" if len(blocks) == 1 else f"recurrent_{at}": block for at, block in enumerate(blocks)}

    def _given(self, state: State) -> Tensor | tuple[Tensor, ...]:
        return tuple(state[name] for name in self.carried) if self.pair else state[self.carried[0]]


@own_forms.register
def _(recurrence: TorchRecurrentCell, inputs: Tensor) -> dict[str, Form]:
    return {"module": Form(_module)}


def _module(
    recurrence: TorchRecurrentCell, inputs: Float[Tensor, "batch time width"], initial: State | None = None
) -> Float[Tensor, "batch time hidden"]:
    """The loop over the package's module as it is, without what a pure step costs."""
    state = recurrence.initial_state(inputs) if initial is None else initial
    outputs = []
    for x in inputs.unbind(1):
        results = _flat(recurrence.cell(x, recurrence._given(state)))
        state = dict(zip(recurrence.shapes, results, strict=True))
        outputs.append(state[recurrence.output])
    return torch.stack(outputs, 1)


class _Delayed(nn.Module):
    """tauGRU with the hidden state of one step before as part of its state, as the package's layer keeps it."""

    def __init__(self, cell: nn.Module, hidden: int) -> None:
        super().__init__()
        self.cell = cell
        self.hidden_size = hidden

    def uses_double_state(self) -> bool:
        return True

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        hidden, delayed = state or (x.new_zeros(len(x), self.hidden_size),) * 2
        return self.cell(x, hidden, delayed), hidden


class _Shaped(TorchFunctionMode):
    """Gives chosen results of torch calls their leading axes, and lets whatever reads them read them from there.

    A cell sees one batch axis; its state has several. To shape the state when the cell is done would cut it off from
    what the same step makes of it (of a cell its hidden state), which counts into its gradient.
    """

    def __init__(self, places: list[int] | None = None, leading: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.places = places or []
        self.leading = leading
        self.results: list[Tensor] = []
        self.shaped: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, Tensor):
            return result
        self.results.append(result)
        place = len(self.results) - 1
        if place not in self.places:
            return result
        shaped = result.reshape(*self.leading, -1)
        self.shaped[place] = shaped, shaped.reshape(result.shape)
        return self.shaped[place][1]

    def shaped_as(self, tensor: Tensor, place: int) -> Tensor:
        """With its leading axes, the tensor that the cell returned, which must be the result at ``place``."""
        shaped, handed_on = self.shaped[place]
        if tensor is not handed_on:
            raise RuntimeError(
                "the cell computed its state by other calls than at its making: it has more than one way"
            )
        return shaped

    def place(self, tensor: Tensor) -> int | None:
        """Which result the tensor is; None where the cell was handed it."""
        return next((at for at, result in enumerate(self.results) if result is tensor), None)


def _flat(made: Any) -> list[Tensor]:
    """The tensors that a cell returns: a state, a pair, or an output and either of these."""
    return [made] if isinstance(made, Tensor) else [tensor for part in made for tensor in _flat(part)]


def _package() -> ModuleType:
    try:
        return importlib.import_module("torchrecurrent")
    except ModuleNotFoundError as error:
        if error.name != "torchrecurrent":
            raise
        needed = "model=torchrecurrent needs the package torchrecurrent: pip install 'retrograde[torchrecurrent]'"
        raise Unavailable(needed) from error


def torchrecurrent(
    task: Task,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    cell: str = "MGU",
    embedding: EmbeddingFactory = OneHot,
) -> RecurrentModel:
    """A stack of the package's cells of one name, such as ``MGU`` for ``torchrecurrent.MGUCell``."""
    return RecurrentModel(
        task, lambda width: TorchRecurrentCell(width, hidden, cell), layers, bidirectional, dropout, embedding
    )
