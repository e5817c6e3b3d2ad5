"""The records that everything else passes around: Batch, Trace, Reading, and what a Snapshot is made of.

Snapshot itself stands in ``contracts``, because it holds a model and a task.

Axes have one name everywhere: ``batch`` samples, ``time`` positions of the sequence from 0, ``head``, ``query`` and
``key`` of attention. *Time* is a position, *step* an update of the optimiser, *lag* a distance in time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from retrograde.core.abreast import abreast
from retrograde.core.scaled import Scaled
from retrograde.core.streamed import AttentionMap

if TYPE_CHECKING:  # which reads this module
    from retrograde.core.recurrence import Recurrence

State = dict[str, Tensor]
"""A recurrent state: component name → (..., width), for an LSTM ``{"hidden": …, "cell": …}``."""


@dataclass(frozen=True)
class Batch:
    """What a task draws: a set of sequences, padded at the end to one length.

    ``scored`` says which positions count; it is data, not a magic label among the targets.

    Where a task leads from a source to a target sequence, ``inputs`` and ``lengths`` are the source's, and the target
    has an axis of its own: ``decoder_inputs`` are what a decoder reads to give ``targets``, one position behind them.
    """

    inputs: Float[Tensor, "batch time width"] | Int[Tensor, "batch time"]
    targets: Float[Tensor, "batch target size"] | Int[Tensor, "batch target"]
    scored: Bool[Tensor, "batch target"]
    lengths: Int[Tensor, " batch"]  # positions at and after a sample's length are padding
    decoder_inputs: Int[Tensor, "batch target"] | None = None
    target_lengths: Int[Tensor, " batch"] | None = None

    def __len__(self) -> int:
        return self.inputs.shape[0]

    @property
    def length(self) -> int:
        """Positions of the longest sample that the batch has room for."""
        return self.inputs.shape[1]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Batch":
        """On the device, and real numbers in the precision, where one is given; itself where nothing has to move."""
        moved = {}
        for name, value in self.tensors().items():
            there = value.to(device, dtype if value.is_floating_point() else None)
            if there is not value:
                moved[name] = there
        return replace(self, **moved) if moved else self

    def beside(self, parameter: Tensor) -> "Batch":
        """On the device and in the precision of a model's parameter."""
        return self.to(parameter.device, parameter.dtype)

    def select(self, samples: Int[Tensor, " chosen"]) -> "Batch":
        """The chosen samples, in that order; one may be chosen several times."""
        return replace(self, **{name: value[samples] for name, value in self.tensors().items()})

    def trimmed(self) -> "Batch":
        """Without the positions that are padding in every sample."""
        source = int(self.lengths.max())
        target = source if self.target_lengths is None else int(self.target_lengths.max())
        ends = {"inputs": source, "targets": target, "scored": target, "decoder_inputs": target}
        return replace(
            self, **{name: value[:, : ends[name]] if name in ends else value for name, value in self.tensors().items()}
        )

    @staticmethod
    def joined(parts: "Sequence[Batch]") -> "Batch":
        """The samples of several batches that have equally much room, one behind the other."""
        if len(parts) == 1:
            return parts[0]
        return Batch(**{name: torch.cat([part.tensors()[name] for part in parts]) for name in parts[0].tensors()})

    def tensors(self) -> dict[str, Tensor]:
        """What the batch holds, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class StateGradient:
    """The gradient of each sample's own loss at one component of the state, over time.

    ``total`` is dL/dz_t along every later path; ``direct`` is ∂L/∂z_t with the layer's states at other times held
    fixed. L is the mean over the sample's scored positions, without 1/batch. Both are (batch, time, …).
    """

    total: Scaled
    direct: Scaled
    times: range


@dataclass(frozen=True)
class Course:
    """One recurrence along a batch, in the order in which it reads: what its equations need to be asked about it.

    Read first is index 0; a recurrence that runs ``backward`` reads each sample from its own end, and padding comes
    last in either direction. ``states`` has the initial state first. ``inputs`` has the recurrence's clock behind it.

    ``total`` and ``carried`` are gradients of the state as a point, the components of one time being coordinates that
    do not depend on each other: carried_t = J_{t+1}ᵀ total_{t+1}, and total_t adds what the loss says of z_t itself.
    """

    recurrence: "Recurrence"
    weights: Mapping[str, Tensor]
    inputs: Float[Tensor, "batch time clocked"]
    states: Mapping[str, Tensor]
    lengths: Int[Tensor, " batch"]
    backward: bool
    total: Mapping[str, Scaled]
    carried: Mapping[str, Scaled]

    @property
    def read(self) -> Bool[Tensor, "batch time"]:
        """Which inputs are no padding."""
        return torch.arange(self.inputs.shape[1], device=self.lengths.device) < self.lengths.unsqueeze(1)

    @property
    def before(self) -> dict[str, Tensor]:
        """The state that each input is read in."""
        return {name: value[:, :-1] for name, value in self.states.items()}

    def in_time(self, value: Tensor) -> Tensor:
        """Something of every input, (batch, time, …), in the order of time."""
        if not self.backward:
            return value
        time = torch.arange(value.shape[1], device=value.device)
        order = torch.where(self.read, self.lengths.unsqueeze(1) - 1 - time, time)
        return value.gather(1, order.reshape(order.shape + (1,) * (value.ndim - 2)).expand_as(value))


class Ledger:
    """Where recurrences leave the gradients of their states while the loss's gradient passes through them.

    ``anchor`` is a scalar that every recurrence of a trace hangs on: to differentiate by it runs all their sweeps,
    and nothing else has to require a gradient for that. Where ``weights`` is False, no gradient of parameters is going
    to be asked for, and recurrences leave it out, which saves up to a third of their sweeps.
    """

    def __init__(self) -> None:
        self.anchor = torch.zeros((), requires_grad=True)
        self.weights = True
        self.gradients: dict[str, StateGradient] = {}
        self.courses: dict[str, Course] = {}
        self.claimed: set[str] = set()
        self.lost: Tensor | None = None

    def lose(self, handed_on: Scaled) -> None:
        """Note the samples of whose gradient something was too small to be handed on as a plain number.

        Between two stacks it has no exponent; what then reads zero in the next one is censored rather than zero.
        """
        lost = ((handed_on.mantissa != 0) & (handed_on.value() == 0)).flatten(1).any(1)
        self.lost = lost if self.lost is None else self.lost | lost

    def reached(self, gradient: Tensor) -> Scaled:
        """A gradient that came as plain numbers, with what is known of whether it is truly zero."""
        scaled = Scaled.of(gradient)
        return scaled if self.lost is None else replace(scaled, reached=scaled.reached | self.lost.unsqueeze(1))

    def claim(self, keys: Sequence[str]) -> None:
        """Make sure that no two recurrences of a model write under one key."""
        twice = self.claimed & set(keys)
        if twice:
            raise ValueError(f"two recurrences show a state '{min(twice)}': give their layers names of their own")
        self.claimed |= set(keys)


@dataclass(frozen=True)
class Trace:
    """What a model computed on a batch, opened up for probes.

    ``states`` are nodes of the autograd graph, keyed ``layer.direction.component`` (``"0.forward.hidden"``), each
    (batch, time, …). ``times`` gives the times of a state's second axis where they are not 0 … T-1: a recurrence that
    runs forward begins with its initial state at t = -1, one that runs backward ends with it at t = T.
    ``maps`` are attention weights (batch, head, query, key), keyed by layer; those named in ``cross`` lead from target
    to source positions. Of a sequence longer than ``LONGEST_HELD`` to itself a map may be a ``StreamedMap``, which
    holds no weights; ``blocks`` and ``rows_of`` read both kinds.
    ``target_side`` names the states and maps (by their queries) whose time is a position of the target sequence, where
    the task has one apart from its inputs.
    ``ledger`` is what the recurrences write to. A key of ``states`` that never appears there belongs to a layer
    without recurrence, whose own gradient is the total one.
    ``inputs`` are the vectors that the model reads ``batch.inputs`` as, a node of the graph; None where it reads them
    otherwise.
    """

    outputs: Float[Tensor, "batch target size"]
    states: Mapping[str, Tensor]
    times: Mapping[str, range]
    maps: Mapping[str, AttentionMap] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    target_side: frozenset[str] = frozenset()
    cross: frozenset[str] = frozenset()
    inputs: Float[Tensor, "batch time width"] | None = None


def node(value: Tensor) -> Tensor:
    """The same numbers as a node of the autograd graph, where they are none: data that a gradient can be asked of.

    Not of seeds that train together, of whose data ``vmap`` lets nothing be asked.
    """
    return value if value.requires_grad or abreast(value) else value.detach().requires_grad_()


@dataclass(frozen=True)
class Update:
    """One step of the optimiser, parameter by parameter: the gradient as it came and as it was used, and the change.

    ``clipped`` is the share of the steps since the snapshot before on which the gradient was clipped.
    """

    raw: Mapping[str, Tensor]
    used: Mapping[str, Tensor]
    change: Mapping[str, Tensor]
    clipped: float


@dataclass(frozen=True)
class Reading:
    """A measured quantity: ``name`` is ``quantity/where``, ``dims`` maps each axis of ``values`` to its coordinates.

    Values that are not finite are kept. ``status`` tells, entry by entry, what a value is (see
    ``retrograde.core.scaled.STATUSES``); left out, it follows from the values.
    """

    name: str
    values: np.ndarray
    dims: Mapping[str, Sequence[Any]]
    unit: str
    status: np.ndarray | None = None

    def __post_init__(self) -> None:
        shape = tuple(len(coordinates) for coordinates in self.dims.values())
        if shape != self.values.shape:
            raise ValueError(f"reading {self.name}: dims {shape} do not describe values of shape {self.values.shape}")
        if self.status is not None and self.status.shape != shape:
            raise ValueError(f"reading {self.name}: status has shape {self.status.shape}, the values {shape}")
