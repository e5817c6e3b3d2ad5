"""Recurrent encoder and recurrent decoder, with attention in between or without.

Both sides are the stacks of recurrent models, from any factory that makes one. Every component of the decoder's state
begins as tanh of a learned linear map of what the encoder's top layer says at its end (in both directions).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from retrograde.core.adjoint import Layer, Placed, trace_stack
from retrograde.core.contracts import Reals, SequenceModel, Space, Task
from retrograde.core.losses import sample_means
from retrograde.core.records import Batch, Ledger, State, Trace, node
from retrograde.core.recurrence import Recurrence, clocked
from retrograde.core.splits import Split
from retrograde.core.statistics import present
from retrograde.core.truncated import truncated
from retrograde.layers.decoding import Carried, Writing
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.memory_attention import MemoryAttention, context
from retrograde.layers.recurrent import RecurrentModel, RecurrentStack
from retrograde.layers.windows.hard import Hard

RecurrentFactory = Callable[[Task], RecurrentModel]


class Side(Task):
    """One side of a transduction as a task of its own: vectors as inputs, everything else the whole task's.

    Its lags are its part of the whole's: the encoder's reach to the end of the source, the decoder's back to the state
    that it begins with, at -1.
    """

    kind = "aligned"

    def __init__(self, whole: Task, width: int, decodes: bool) -> None:
        self.whole = whole
        self.width = width
        self.decodes = decodes

    @property
    def inputs(self) -> Reals:
        return Reals(self.width)

    @property
    def outputs(self) -> Space:
        return self.whole.outputs

    def sample(self, count: int, generator: torch.Generator, split: Split = "train") -> Batch:
        return self.whole.sample(count, generator, split)

    def loss(self, outputs: Float[Tensor, "batch target size"], batch: Batch) -> Float[Tensor, "batch target"]:
        return self.whole.loss(outputs, batch)

    def judged(self, batch: Batch) -> Bool[Tensor, "batch target"]:
        return self.whole.judged(batch)

    def score(self, outputs: Float[Tensor, "batch target size"], batch: Batch) -> Float[Tensor, "batch target"]:
        return self.whole.score(outputs, batch)

    def needs(self, batch: Batch) -> Int[Tensor, "pieces 3"]:
        return self.whole.needs(batch)

    def lags(self, batch: Batch) -> Int[Tensor, " pieces"]:
        sample, time, position = self.needs(batch).unbind(1)
        return position + 1 if self.decodes else batch.lengths[sample] - 1 - time

    def labels(self, batch: Batch) -> list[list[str]]:
        return self.whole.labels(batch)

    def target_labels(self, batch: Batch) -> list[list[str]] | None:
        return self.whole.target_labels(batch)

    def describe(self) -> Mapping[str, Any]:
        return self.whole.describe()


class Attending(Recurrence):
    """A cell whose every input is widened by what its state before it makes of the memory.

        c_t = look(h_{t-1})          z_t = cell([x_t; c_t], z_{t-1})

    ``seen`` is what ``look`` reads, one batch's memory included, so that such a recurrence lives as long as the batch.
    Its clock is the time itself, for the window, and behind it the cell's own.
    """

    def __init__(self, cell: Recurrence, attention: MemoryAttention, seen: Mapping[str, Tensor]) -> None:
        super().__init__()
        if type(cell).read is not Recurrence.read:
            raise ValueError(
                f"attention before a cell needs one that is read of its state alone, as lstm and gru are; "
                f"{type(cell).__name__} is not, and seq2seq_luong fits"
            )
        self.cell = cell
        self.attention = attention
        self.seen = dict(seen)

    def let_go(self) -> None:
        """Keep of what is seen the numbers alone.

        A snapshot keeps the recurrence; the graph behind the memory would keep the snapshot, and both would live for
        ever, because Python does not see through a graph.
        """
        self.seen = {name: value.detach() for name, value in self.seen.items()}

    @property
    def components(self) -> Mapping[str, tuple[int, ...]]:
        return self.cell.components

    def initial_state(self, like: Float[Tensor, "batch *rest"]) -> State:
        return self.cell.initial_state(like)

    @property
    def of_samples(self) -> frozenset[str]:
        """What is remembered of the sources."""
        return frozenset(self.seen) - frozenset(self.attention.weights())

    def weights(self) -> dict[str, Tensor]:
        of_cell = {f"cell.{name}": value for name, value in self.cell.weights().items()}
        return of_cell | self.seen

    def clock(self, times: Int[Tensor, " time"]) -> Int[Tensor, "time columns"]:
        return torch.cat([times.unsqueeze(-1), self.cell.clock(times)], -1)

    def step(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> State:
        return self.cell.step(_of_cell(weights), self._widened(weights, x, state), state)

    def gates(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        return self.cell.gates(_of_cell(weights), self._widened(weights, x, state), state)

    def kept(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> dict[str, Tensor]:
        return self.cell.kept(_of_cell(weights), self._widened(weights, x, state), state)

    def transitions(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.cell.transitions(_of_cell(weights))

    def products(
        self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State
    ) -> dict[str, tuple[str, Tensor]]:
        of_cell = self.cell.products(_of_cell(weights), self._widened(weights, x, state), state)
        return {f"cell.{name}": (f"cell.{bias}", vector) for name, (bias, vector) in of_cell.items()}

    def _widened(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> Tensor:
        """What the cell reads: the input, what is seen of the memory, and the cell's own clock."""
        own = self.cell.clock(torch.zeros(1, dtype=torch.long, device=x.device)).shape[-1]
        inputs, time, ticks = x.split([x.shape[-1] - 1 - own, 1, own], -1)
        seen, _ = self.attention.look(weights, state[self.cell.output], time)
        return torch.cat([inputs, seen, ticks], -1)

    def read(self, weights: Mapping[str, Tensor], x: Float[Tensor, "... width"], state: State) -> Tensor:
        return state[self.cell.output]

    @property
    def width(self) -> int:
        return self.cell.components[self.cell.output][-1]


def _of_cell(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("cell."): value for name, value in weights.items() if name.startswith("cell.")}


class EncoderDecoder(SequenceModel):
    """Two stacks, and where attention stands: ``before`` the decoder's lowest cell, asked by that cell's last output,
    or ``after`` the top one, asked by its output of now; or nowhere.

    In evaluation the loss is that of the given target, the score that of the model's own answers. What the decoder
    begins with keeps its gradient where that through time is truncated, and so does what it looks at.
    """

    kinds = ("transduce",)
    recurrent = True

    def __init__(
        self,
        task: Task,
        encoder: RecurrentFactory,
        decoder: RecurrentFactory,
        attention: Callable[[int, int], MemoryAttention] | None = None,
        where: Literal["before", "after"] = "after",
        writing: Writing = Writing(),
        embedding: EmbeddingFactory = OneHot,
    ) -> None:
        super().__init__()
        self.writing = writing
        self.before = attention is not None and where == "before"
        self.after = attention is not None and where == "after"

        self.source_embedding, self.target_embedding = embedding(task.inputs), embedding(task.outputs)
        self.encoder = _stack("encoder", encoder, Side(task, self.source_embedding.width, decodes=False))
        seen = self.encoder.width
        width = self.target_embedding.width + (seen if self.before else 0)
        self.decoder = _stack("decoder", decoder, Side(task, width, decodes=True))
        if any(placed.backward for layer in self.decoder.placed for placed in layer):
            raise ValueError("a decoder writes from the beginning to the end: decoder.bidirectional must be false")
        lowest, read = self.decoder.placed[0][0].recurrence, self.decoder.width
        self.attention = None if attention is None else attention(lowest.width if self.before else read, seen)
        if self.before and self.attention is not None and isinstance(self.attention.window, Hard):
            raise ValueError("window=hard draws between steps and cannot stand inside one: it fits seq2seq_luong")
        self.begins = nn.ModuleDict(
            {
                _module(key): nn.Linear(seen, torch.Size(placed.recurrence.components[name]).numel())
                for placed in self._placed({})
                for key, name in _begun(placed).items()
            }
        )
        self.combine = nn.Linear(seen + read, read) if self.after else None
        self.readout = nn.Linear(read, task.outputs.size)

    def forward(self, batch: Batch) -> Float[Tensor, "batch target size"]:
        top, weights = self._top(batch)
        return self._read_out(top, weights)[0]

    def objective(self, task: Task, batch: Batch) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch ..."] | None]:
        """The task's loss; hard attention adds the gradient of its draws."""
        if self.attention is None or not isinstance(self.attention.window, Hard):
            return super().objective(task, batch)
        window = self.attention.window
        top, weights = self._top(batch)
        energy = self.attention.energy(weights, top.transpose(0, 1))
        share, chosen, entropy = window.drawn(window.probabilities(energy, batch.lengths))
        outputs = self._combined(top, context(share, weights["memory"]).transpose(0, 1))
        losses = sample_means(task.loss(outputs, batch), batch.scored)
        counts = present(batch, range(batch.targets.shape[1]), target_side=True)
        return window.surrogate(losses, chosen.T, entropy.T, counts), outputs

    def answers(self, batch: Batch, outputs: Float[Tensor, "batch target size"]) -> Float[Tensor, "batch target size"]:
        return self.writing.answers(self, batch, outputs)

    def trace(self, batch: Batch, perturb: Mapping[str, Tensor] | None = None) -> Trace:
        """The decoder reads the given target."""
        assert batch.decoder_inputs is not None and batch.target_lengths is not None
        ledger, changes = Ledger(), dict(perturb or {})
        own = {key for placed in self._placed({}) for key in placed.keys}
        of_decoder = {key: changes.pop(key) for key in own & set(changes)}
        read = node(self.source_embedding(batch.inputs))
        source = self.encoder.trace(read, batch.lengths, ledger, changes)
        weights = self._weights(source.outputs, batch.lengths)
        x = self.target_embedding(batch.decoder_inputs)
        initial = self._initial(self.encoder.last(source.outputs, batch.lengths))
        stack = [Layer([placed]) for placed in self._placed(weights)]
        target = trace_stack(stack, x, batch.target_lengths, ledger, of_decoder, initial)
        lowest = stack[0].placed[0].recurrence
        if isinstance(lowest, Attending):
            lowest.let_go()
        outputs, share = self._read_out(target.outputs, weights)
        if self.before:
            share = self._looked(weights, target.states)
        maps = {} if share is None else {"cross0": share.unsqueeze(1)}
        return Trace(
            outputs,
            source.states | target.states,
            source.times | target.times,
            maps,
            ledger,
            target_side=frozenset({*target.states, *maps}),
            cross=frozenset(maps),
            inputs=read,
        )

    @property
    def state_size(self) -> int | None:
        """None with attention, which keeps the encoder's outputs."""
        if self.attention is not None:
            return None
        return sum(
            placed.recurrence.size
            for stack in (self.encoder, self.decoder)
            for layer in stack.placed
            for placed in layer
        )

    def begin(self, batch: Batch) -> Carried:
        source = self.encoder(self.source_embedding(batch.inputs), batch.lengths)
        carried = self._initial(self.encoder.last(source, batch.lengths)) | {
            "time": batch.lengths.new_zeros(len(batch), 1)
        }
        return carried if self.attention is None else carried | self.attention.remembered(source, batch.lengths)

    def advance(self, carried: Carried, tokens: Int[Tensor, " batch"]) -> tuple[Float[Tensor, "batch size"], Carried]:
        x = self.target_embedding(tokens.unsqueeze(1)).squeeze(1)
        weights = carried if self.attention is None else self.attention.weights() | carried
        made: Carried = {}
        for placed in self._placed(weights):
            own, time = placed.recurrence.weights(), int(carried["time"][0])
            x = clocked(placed.recurrence, x.unsqueeze(1), start=time).squeeze(1)
            state = placed.recurrence.step(own, x, {name: carried[key] for key, name in placed.keys.items()})
            x = placed.recurrence.read(own, x, state)
            made |= {key: state[name] for key, name in placed.keys.items()}
        if self.attention is not None and self.after:
            seen, _ = self.attention.look(weights, x, carried["time"].to(_times(x.unsqueeze(1)).dtype))
            x = self._tanh(x, seen)
        return self.readout(x), carried | made | {"time": carried["time"] + 1}

    def _placed(self, weights: Mapping[str, Tensor]) -> list[Placed]:
        """The decoder's recurrences from the bottom; the lowest with its attention, bound to a batch's memory."""
        placed = [each for layer in self.decoder.placed for each in layer]
        if not self.before or not weights:
            return placed
        assert self.attention is not None
        return [replace(placed[0], recurrence=Attending(placed[0].recurrence, self.attention, weights)), *placed[1:]]

    def _weights(self, memory: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """What ``MemoryAttention.look`` reads."""
        if self.attention is None:
            return {}
        return self.attention.weights() | self.attention.remembered(memory, lengths)

    def _initial(self, last: Float[Tensor, "batch memory"]) -> dict[str, Tensor]:
        """What the decoder begins with: set by the encoder where it may be, else as the recurrence begins by itself."""
        initial: dict[str, Tensor] = {}
        for placed in self._placed({}):
            own = placed.recurrence.initial_state(last)
            initial |= {key: own[name] for key, name in placed.keys.items()}
            for key, name in _begun(placed).items():
                made = torch.tanh(self.begins[_module(key)](last))
                initial[key] = made.unflatten(-1, placed.recurrence.components[name])
        return initial

    def _top(self, batch: Batch) -> tuple[Float[Tensor, "batch target hidden"], dict[str, Tensor]]:
        """The decoder's top layer on the given target or on what training mixes into it."""
        tokens = self.writing.read(self, batch, self.training)
        source = self.encoder(self.source_embedding(batch.inputs), batch.lengths, self.truncation)
        weights = self._weights(source, batch.lengths)
        initial = self._initial(self.encoder.last(source, batch.lengths))
        x = self.target_embedding(tokens)
        for depth, placed in enumerate(self._placed(weights)):
            if depth > 0:
                x = self.decoder.dropout(x)
            begin = {name: initial[key] for key, name in placed.keys.items()}
            x = truncated(placed.recurrence, x, self.truncation, begin)
        return x, weights

    def _read_out(
        self, top: Float[Tensor, "batch target hidden"], weights: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "batch target size"], Float[Tensor, "batch target slots"] | None]:
        if self.attention is None or not self.after:
            return self.readout(top), None
        seen, share = self.attention.look(weights, top.transpose(0, 1), _times(top).transpose(0, 1))
        return self._combined(top, seen.transpose(0, 1)), share.transpose(0, 1)

    def _combined(self, top: Tensor, seen: Tensor) -> Float[Tensor, "batch target size"]:
        return self.readout(self._tanh(top, seen))

    def _tanh(self, top: Tensor, seen: Tensor) -> Tensor:
        assert self.combine is not None  # where attention stands after the decoder
        return torch.tanh(self.combine(torch.cat([seen, top], -1)))

    def _looked(
        self, weights: Mapping[str, Tensor], states: Mapping[str, Tensor]
    ) -> Float[Tensor, "batch target slots"]:
        """The weights with which a cell that attends has looked at each time."""
        assert self.attention is not None
        lowest = self.decoder.placed[0][0]
        asked = states[f"{lowest.name}.{lowest.recurrence.output}"][:, :-1]
        _, share = self.attention.look(weights, asked.transpose(0, 1), _times(asked).transpose(0, 1))
        return share.transpose(0, 1)


def _stack(side: str, factory: RecurrentFactory, task: Task) -> RecurrentStack:
    """The stack of what a factory makes, its layers named after their side."""
    made = factory(task)
    if not isinstance(made, RecurrentModel):
        raise ValueError(
            f"the {side} must be a stack of recurrences, such as lstm or gru; {type(made).__name__} is none"
        )
    made.stack.rename(side)
    return made.stack


def _begun(placed: Placed) -> dict[str, str]:
    """The keys of the components that an encoder may set, with their names."""
    allowed = placed.recurrence.begun
    return {key: name for key, name in placed.keys.items() if allowed is None or name in allowed}


def _times(like: Float[Tensor, "batch target width"]) -> Float[Tensor, "batch target 1"]:
    """In float32 at least: half precision cannot count beyond a few hundred."""
    time = torch.arange(like.shape[1], device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
    return time.view(1, -1, 1).expand(len(like), -1, -1)


def _module(key: str) -> str:
    """A state's key as the name of a module, which may hold no dots."""
    return key.replace(".", "_")
