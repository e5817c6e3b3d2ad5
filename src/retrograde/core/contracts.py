"""The contracts that members sign: Task, SequenceModel, Probe, Recorder, RunStore.

Each is abstract; a member fills it in and is not subclassed further. ``tests/contracts`` holds every member to what
is said here, and finds the members in ``conf/``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from retrograde.core.choices import require_at_least
from retrograde.core.losses import sample_means
from retrograde.core.records import Batch, Course, Reading, StateGradient, Trace, Update
from retrograde.core.recurrence import HiddenAttention
from retrograde.core.splits import Split

if TYPE_CHECKING:  # the record's reading side speaks pandas; the mathematics does not load it
    import pandas as pd


LONGEST_LABEL = 12


@dataclass(frozen=True)
class Tokens:
    """One of ``size`` symbols at every position; ``symbols``, where given, are what they are called."""

    size: int
    symbols: tuple[str, ...] = ()

    def label(self, token: int) -> str:
        """The symbol as short as fits on an axis; its number where it has no name."""
        symbol = self.symbols[token] if self.symbols else str(token)
        return symbol if len(symbol) <= LONGEST_LABEL else f"{symbol[: LONGEST_LABEL - 1]}…"


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
class Source:
    """Where real sequences come from: what a run records of them, and what their loader has made sure of.

    ``count`` is how many there are, of what ``unit`` says. ``sha256`` is the hash of the file, or of everything that
    was read where it came from several files.
    """

    name: str
    version: str
    licence: str
    count: int
    unit: str
    sha256: str


@dataclass(frozen=True)
class Card:
    """What a task is, in words and numbers: printed on every figure that uses it.

    ``solved`` is the score from which on the task counts as solved. ``lags`` are the distances in time that credit has
    to bridge, in order, each with how often it was found in a sample, one count per piece of information that a scored
    position needs; there are none where nobody knows what a position needs.

    ``comparable`` are the published results, with their source, that were obtained on this very variant;
    ``incomparable`` those on others of the same name, with what differs. ``window`` is what the effective window
    counts, where the task has one.
    """

    variant: str
    scored: str
    score: str
    solved: float
    baselines: tuple[Baseline, ...]
    lags: tuple[tuple[int, int], ...]
    comparable: tuple[str, ...] = ()
    incomparable: tuple[str, ...] = ()
    window: str | None = None
    source: Source | None = None

    @property
    def baseline(self) -> Baseline:
        """The best of the trivial rules, by score, then by loss."""
        return max(self.baselines, key=lambda baseline: (baseline.score, -baseline.loss))


END, START = 0, 1
"""The first symbols of every target sequence: ``<eos>``, which ends it, and ``<sos>``, which a decoder begins with."""


Kind = Literal["aligned", "transduce", "cloze"]
"""``aligned``: one output per input position; ``transduce``: a target sequence from a source sequence, among whose
symbols are END and START; ``cloze``: the token at each position from its neighbours, itself left out."""


class Task(ABC):
    """Draws batches and says what counts. Members are frozen dataclasses: the fields are the settings.

    ``sample`` uses nothing random but the generator that it is handed, and draws on that generator's device. What is
    said here of loss and score is for tokens; a task whose outputs are real numbers says its own.
    """

    kind: Kind

    @property
    @abstractmethod
    def inputs(self) -> Space: ...

    @property
    @abstractmethod
    def outputs(self) -> Space: ...

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator, split: Split = "train") -> Batch:
        """``count`` sequences of the split, drawn on the generator's device. Splits have no sequence in common."""

    @abstractmethod
    def describe(self) -> Mapping[str, Any]:
        """The card's fields but ``lags``, which are measured."""

    def available(self, split: Split) -> int | None:
        """How many sequences the split has; None where there are as many as one likes."""
        return None

    @property
    def indivisible(self) -> str | None:
        """Why training and test are drawn from the same sequences, where there are too few to divide them."""
        return None

    @property
    def longer(self) -> "Task | None":
        """The same task on sequences longer than those trained on, for tests alone, where its settings ask for that."""
        return None

    def loss(self, outputs: Float[Tensor, "batch target size"], batch: Batch) -> Float[Tensor, "batch target"]:
        """The loss at every position, unreduced; what it says where ``batch.scored`` is False is never used.

        The cross-entropy in nats.
        """
        losses = cross_entropy(outputs.flatten(0, 1), batch.targets.flatten(), reduction="none")
        return losses.view_as(batch.targets)

    def judged(self, batch: Batch) -> Bool[Tensor, "batch target"]:
        """The scored positions that the score is about: not those where nobody can know the answer, or anybody does."""
        return batch.scored

    def score(self, outputs: Float[Tensor, "batch target size"], batch: Batch) -> Float[Tensor, "batch target"]:
        """The score at every position: higher is better, 1 is perfect; its mean over scored positions counts.

        That mean is the share of the judged positions at which the likeliest token is the right one.
        """
        judged = self.judged(batch)
        right = ((outputs.argmax(2) == batch.targets) & judged).to(outputs.dtype)
        return right * (batch.scored.sum(1, keepdim=True) / judged.sum(1, keepdim=True))

    def effective_window(self, loss: float) -> float | None:
        """The loss in the unit of ``card.window``: how much of the sequence would have to be seen to do as well."""
        return None

    def metrics(
        self,
        answers: Float[Tensor, "batch target size"] | Int[Tensor, "batch target"],
        losses: Float[Tensor, "batch target"],
        batch: Batch,
    ) -> Mapping[str, float]:
        """What else the field reports of a whole test set, by name, such as ``bleu``.

        ``answers`` are the likeliest tokens, or the outputs where these are real numbers.
        """
        return {}

    def rules(self) -> Mapping[str, Callable[[Batch], Float[Tensor, "batch target size"]]]:
        """Shallow rules that make sense for this task alone, by name: from a batch to outputs.

        None of them may look at anything of the batch but what a model sees.
        """
        return {}

    def needs(self, batch: Batch) -> Int[Tensor, "pieces 3"]:
        """What has to be remembered: rows of a sample, the time of an input, and a scored position that needs it.

        None where nobody knows that.
        """
        return batch.lengths.new_zeros(0, 3)

    def lags(self, batch: Batch) -> Int[Tensor, " pieces"]:
        """The lag from each piece of information that a scored position needs to that position.

        A target with an axis of its own counts as if it were written behind the source.
        """
        sample, time, position = self.needs(batch).unbind(1)
        if self.kind == "transduce":
            position = position + batch.lengths[sample]
        return (position - time).abs()

    def furthest_lags(self, batch: Batch) -> Int[Tensor, "batch target"]:
        """The largest lag that each position needs, -1 where it needs nothing that is known."""
        furthest = batch.lengths.new_full(batch.scored.shape, -1).flatten()
        sample, _, position = self.needs(batch).unbind(1)
        furthest.scatter_reduce_(0, sample * batch.scored.shape[1] + position, self.lags(batch), "amax")
        return furthest.view(batch.scored.shape)

    def labels(self, batch: Batch) -> list[list[str]]:
        """Each sample's inputs in words as short as fit on an axis, one per position; padding is empty."""
        return spelled(batch.inputs, batch.lengths, self.inputs)

    def target_labels(self, batch: Batch) -> list[list[str]] | None:
        """The same of the target, where it has an axis of its own."""
        if batch.target_lengths is None:
            return None
        return spelled(batch.targets, batch.target_lengths, self.outputs)

    @cached_property
    def card(self) -> Card:
        """The card; the lags are counted in 512 sequences of a fixed generator."""
        batch = self.sample(512, torch.Generator().manual_seed(0))
        counts = torch.zeros(0, dtype=torch.int64)
        for few in torch.arange(len(batch)).split(32):  # needs may grow with the square of the length
            found = torch.bincount(self.lags(batch.select(few)), minlength=len(counts))
            counts = torch.nn.functional.pad(counts, (0, len(found) - len(counts))) + found
        present = counts.nonzero().squeeze(1)
        return Card(**self.describe(), lags=tuple(zip(present.tolist(), counts[present].tolist(), strict=True)))


def spelled(values: Tensor, lengths: Int[Tensor, " batch"], space: Space) -> list[list[str]]:
    """A label for every position: the symbol, or one or two numbers; the time alone of a vector; padding is empty."""

    def label(time: int, value: Any) -> str:
        if isinstance(space, Tokens):
            return space.label(value)
        return " ".join(f"{each:.2f}" for each in value) if space.size <= 2 else str(time)

    return [
        [label(time, value) if time < length else "" for time, value in enumerate(sample)]
        for sample, length in zip(values.tolist(), lengths.tolist(), strict=True)
    ]


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

    recurrent: ClassVar[bool] = False
    """Whether ``forward`` carries a state through time whose gradient it can cut."""

    truncation: int | None = None
    """At every how many times ``forward`` cuts the gradient through time; None where it does not. See ``truncate``."""

    @abstractmethod
    def forward(self, batch: Batch) -> Float[Tensor, "batch target size"]: ...

    @property
    def like(self) -> Tensor:
        """A parameter, or a buffer where there is none, whose device and precision batches take."""
        for tensor in chain(self.parameters(), self.buffers()):
            if tensor.is_floating_point():
                return tensor
        raise ValueError(
            "a model without parameters must register a buffer of real numbers: batches are moved beside it"
        )

    @property
    def learns(self) -> bool:
        """Whether there is anything to train; what has nothing is evaluated as it stands."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def truncate(self, length: int | None) -> None:
        """From now on ``forward`` cuts the gradient of its recurrences at every ``length`` times; None for never.

        Its values stay what they are, and so does all of ``trace``; see ``truncated``. Raises ValueError for a model
        without a recurrence.
        """
        if length is not None:
            require_at_least("the length that gradients are truncated to", length, 1)
            if not self.recurrent:
                raise ValueError(f"{type(self).__name__} has no recurrence to truncate")
        self.truncation = length

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
        """In eval mode the same outputs as ``model(batch)``, with states and maps.

        ``perturb`` adds a tensor to the states of a key, as they are made and before anything reads them: the way to
        re-run a sequence from a changed state. Its entries have the shape of ``Trace.states[key]``.
        """

    def hidden_attention(self, states: Mapping[str, Tensor]) -> Mapping[str, HiddenAttention]:
        """By layer, the matrix that an operator applies to its values, of states that ``trace`` shows, in eval mode.

        Of operators that are no ``Recurrence``, which say it themselves, and no attention, whose maps the trace has.
        """
        return {}

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
    inputs: StateGradient | None = None  # at ``trace.inputs``, where total and direct are one
    courses: Mapping[str, Course] = field(default_factory=dict)  # every recurrence, by layer and direction
    update: Update | None = None


class Probe(Protocol):
    """One measurement. It keeps no state and never writes ``.grad``, a parameter or the global random state."""

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]: ...


class Regularizer(Protocol):
    """A remedy that is trained with: what is added to the loss of a training step, weighted; None on a step without."""

    def __call__(self, model: SequenceModel, task: Task, batch: Batch, step: int) -> Float[Tensor, ""] | None: ...


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

    def flush_when_due(self) -> None:
        """Asked after every step."""
        ...

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
        self,
        name: str,
        runs: Sequence[str] | None = None,
        steps: Sequence[int] | None = None,
        statistic: str | None = None,
    ) -> "pd.DataFrame":
        """The table ``probe/quantity``; empty, with the right columns, where no run holds it."""
        ...
