"""The contracts that members sign: Task, SequenceModel, Probe, Recorder, RunStore.

Each is abstract; a member fills it in and is not subclassed further. ``tests/contracts`` holds every member to what
is said here, and finds the members in ``conf/``.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retrograde.core.losses import sample_means
from retrograde.core.records import Batch, Reading, StateGradient, Trace, Update

if TYPE_CHECKING:  # the record's reading side speaks pandas; the mathematics does not load it
    import pandas as pd


@dataclass(frozen=True)
class Tokens:
    """One of ``size`` symbols at every position."""

    size: int


@dataclass(frozen=True)
class Reals:
    """``size`` real numbers at every position."""

    size: int


Space = Tokens | Reals


@dataclass(frozen=True)
class Baseline:
    """What a rule scores that anyone could write down without learning, exactly, and why."""

    rule: str
    loss: float
    score: float
    derivation: str


@dataclass(frozen=True)
class Card:
    """What a task is, in words and numbers: printed on every figure that uses it.

    ``solved`` is the score from which on the task counts as solved. ``lags`` is a sample of the distances in time
    that credit has to bridge, one entry per piece of information that a scored position needs, sorted.
    """

    variant: str
    scored: str
    score: str
    solved: float
    baselines: tuple[Baseline, ...]
    lags: tuple[int, ...]

    @property
    def baseline(self) -> Baseline:
        """The best of the trivial rules, by score, then by loss."""
        return max(self.baselines, key=lambda baseline: (baseline.score, -baseline.loss))


END, START = 0, 1
"""The first symbols of every target sequence: ``<eos>``, which ends it, and ``<sos>``, which a decoder begins with."""


class Task(ABC):
    """Draws batches and says what counts. Members are frozen dataclasses: the fields are the settings.

    ``sample`` uses nothing random but the generator that it is handed, and draws on that generator's device.
    """

    kind: ClassVar[Literal["aligned", "transduce", "cloze"]]
    """``aligned``: one output per input position; ``transduce``: a target sequence from a source sequence, among whose
    symbols are END and START; ``cloze``: the token at each position from its neighbours, itself left out."""

    @property
    @abstractmethod
    def inputs(self) -> Space: ...

    @property
    @abstractmethod
    def outputs(self) -> Space: ...

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """``count`` sequences, drawn on the generator's device."""

    @abstractmethod
    def loss(self, outputs: Float[Tensor, "batch target size"], batch: Batch) -> Float[Tensor, "batch target"]:
        """The loss at every position, unreduced; what it says where ``batch.scored`` is False is never used."""

    @abstractmethod
    def score(self, outputs: Float[Tensor, "batch target size"], batch: Batch) -> Float[Tensor, "batch target"]:
        """The score at every position: higher is better, 1 is perfect; its mean over scored positions counts."""

    @abstractmethod
    def lags(self, batch: Batch) -> Int[Tensor, " pieces"]:
        """The lag from each piece of information that a scored position needs to that position."""

    @abstractmethod
    def labels(self, batch: Batch) -> list[list[str]]:
        """Each sample's inputs in words as short as fit on an axis, one per position."""

    def target_labels(self, batch: Batch) -> list[list[str]] | None:
        """The same of the target, where it has an axis of its own."""
        return None

    @abstractmethod
    def describe(self) -> Mapping[str, Any]:
        """The card's fields but ``lags``, which are measured."""

    @cached_property
    def card(self) -> Card:
        """The card; the lags are sampled from 512 sequences of a fixed generator."""
        lags = self.lags(self.sample(512, torch.Generator().manual_seed(0)))
        return Card(**self.describe(), lags=tuple(sorted(lags.tolist())))


class SequenceModel(nn.Module, ABC):
    """A model from a batch to outputs at every position. It owns its embedding and its read-out.

    ``model(batch)`` is the fastest form, for training; ``model.trace(batch)`` means the same and shows its inside.
    """

    kinds: ClassVar[tuple[str, ...]] = ("aligned",)
    """The kinds of task that it fits."""

    causal: bool = True
    """Whether an output depends on nothing later than itself, as built with the default settings."""

    exempt: ClassVar[Mapping[str, str]] = {}
    """Contract tests, by name, that this model need not pass, each with the reason."""

    @abstractmethod
    def forward(self, batch: Batch) -> Float[Tensor, "batch target size"]: ...

    def objective(self, task: Task, batch: Batch) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch ..."] | None]:
        """Each sample's loss in training, and the outputs that it was taken of, where it was taken of outputs.

        The task's own loss of ``model(batch)`` unless a paper trains otherwise.
        """
        outputs = self(batch)
        return sample_means(task.loss(outputs, batch), batch.scored), outputs

    def answers(self, batch: Batch, outputs: Float[Tensor, "batch target size"]) -> Float[Tensor, "batch target size"]:
        """What is scored: ``outputs``, unless the model was shown the targets' beginnings and answers without."""
        return outputs

    @abstractmethod
    def trace(self, batch: Batch, perturb: Mapping[str, Tensor] | None = None) -> Trace:
        """The same outputs as ``model(batch)`` in eval mode, with states and maps.

        ``perturb`` adds a tensor to the states of a key, as they are made and before anything reads them: the way to
        re-run a sequence from a changed state. Its entries have the shape of ``Trace.states[key]``.
        """

    @property
    @abstractmethod
    def state_size(self) -> int | None:
        """How many numbers the model carries from one position to the next; None where that grows with time."""


@dataclass(frozen=True)
class Snapshot:
    """Everything that probes may read at one step of training, made once and shared by all of them.

    It is taken outside the training step, on a fixed probe batch that is the same for every model of a study.
    Tensors are detached. ``update`` is None before the first step.
    """

    step: int
    model: SequenceModel
    task: Task
    batch: Batch
    trace: Trace
    losses: Float[Tensor, "batch target"]  # per position, in the task's unit, zero where not scored
    gradients: Mapping[str, StateGradient]
    update: Update | None = None


class Probe(Protocol):
    """One measurement. It keeps no state and never writes ``.grad``, a parameter or the global random state."""

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]: ...


class Recorder(Protocol):
    """Keeps what a run yields. ``close`` says how the run ended; until then the run is recorded as running."""

    def labels(
        self, labels: Sequence[Sequence[str]], scored: np.ndarray, side: Literal["input", "target"] = "input"
    ) -> None:
        """The probe batch in words, a row per sample, and which positions are scored; a target's words apart."""
        ...

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars named ``split/quantity``, such as ``train/loss``."""
        ...

    def readings(self, step: int, probe: str, readings: Iterable[Reading]) -> None: ...

    def flush(self) -> None: ...

    def close(self, status: str, summary: Mapping[str, Any]) -> None: ...


class RunStore(Protocol):
    """Gives recorded runs back as tables; what to leave out is decided while reading."""

    def runs(self) -> "pd.DataFrame":
        """One row a run: identity, status, score, baseline, and every setting as a column."""
        ...

    def card(self, run: str) -> dict[str, Any]:
        """The task's card as it was when the run was made."""
        ...

    def tables(self, runs: Sequence[str] | None = None) -> list[str]:
        """The names that ``readings`` knows."""
        ...

    def metrics(self, runs: Sequence[str] | None = None) -> "pd.DataFrame": ...

    def labels(self, runs: Sequence[str] | None = None) -> "pd.DataFrame": ...

    def readings(
        self, name: str, runs: Sequence[str] | None = None, steps: Sequence[int] | None = None
    ) -> "pd.DataFrame":
        """The table ``probe/quantity``; empty, with the right columns, where no run holds it."""
        ...
