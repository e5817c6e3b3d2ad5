"""What ``torch.nn.RNN``, ``LSTM`` and ``GRU`` give, with the total gradient of every state as the loss's passes by.

    output, hx = with_totals(module, input, hx, report)      # in place of module(input, hx)
    loss(output, hx).backward()                              # calls report(place, gradient, lengths), top layer first

``report`` is called once for each component of each layer and direction: ``place`` is ``0.forward.hidden``,
``0.forward.cell``, ``1.backward.hidden`` …; ``gradient`` a ``StateGradient``, its tensors (batch, states, width) in the
order of time: the states of a forward direction stand at t = -1 … T-1, those of a backward one at 0 … T, and the one
that it begins with, ``hx`` or zeros, is among them; ``lengths`` (batch,) in the order of the batch as it was given,
also for a packed sequence. Beyond a sample's length all is zero, but for the state that a backward direction begins
with: it stands at T, however short the sample. A sequence without a batch axis is a batch of one.

The loss is whatever ``backward`` was called on, with its 1/batch, if it has one. A frozen module reports as well: what
it gives always requires a gradient. The direct gradient of ``hx`` is zero: the layer knows only what it does with it.

On a CPU the gradients are those of ``closed_form``; they replace autograd's, and have its values, in float32 at least.
Where C++ can be had (``compiled``) forward and back take less time than the module's own; where it cannot, less in an
RNN and a GRU, about as much in an LSTM, and up to half as much again in wide layers (benchmarks/overhead.py). Elsewhere
they are those of ``taps``: what the kernel gives is in its own precision, and what is left to do is done in float32 at
least.

Outputs may not be changed in place, as the module's own mostly may: the way back begins with them. Dropout between
layers acts as in the module, in training. On a CPU it draws the numbers that the module would, unless the samples of a
packed sequence differ in length; then, and elsewhere, it draws others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from retrograde.core.adjoint import refuse_a_second_derivative
from retrograde.core.scaled import Scaled, power_of_two
from retrograde.core.sweep import common_scale
from retrograde.layers import compiled
from retrograde.layers.closed_form import Arriving, Run, Swept, Weights, form, precise, run
from retrograde.layers.taps import tapped
from retrograde.layers.totals import Report, Stack

NAMES = {
    "input": "weight_ih",
    "recurrent": "weight_hh",
    "input_bias": "bias_ih",
    "recurrent_bias": "bias_hh",
    "projection": "weight_hr",
}
"""Our words for the parameters of ``torch.nn``, in its order."""


def with_totals(
    module: nn.RNNBase, input: Tensor | PackedSequence, hx: Tensor | tuple[Tensor, Tensor] | None, report: Report
) -> tuple[Any, Any]:
    """The module's outputs and last states; see above.

    Raises ValueError for a module of another kind, and in a backward pass that is to be differentiated itself.
    """
    if not isinstance(module, nn.RNN | nn.LSTM | nn.GRU):
        raise ValueError(f"totals are known of nn.RNN, nn.LSTM and nn.GRU, not of {type(module).__name__}")
    batched = isinstance(input, PackedSequence) or input.dim() != 2
    x, lengths, ragged = _padded(module, input)
    begin = _begin(module, x, hx, batched)
    _check(module, input, begin, batched)
    absent = set() if module.bias else {"input_bias", "recurrent_bias"}
    names = tuple(name for name in NAMES if name not in absent and (name != "projection" or module.proj_size))
    stack = Stack(
        mode=module.mode,
        layers=module.num_layers,
        directions=2 if module.bidirectional else 1,
        weights=names,
        dropout=module.dropout if module.training else 0.0,
        time=len(x),
        lengths=lengths,
        ragged=ragged,
        report=report,
        compiled=_compiled(module, x, begin),
    )
    suffixes = [f"_l{layer}{end}" for layer in range(module.num_layers) for end in ("", "_reverse")[: stack.directions]]
    weights = [[getattr(module, NAMES[name] + suffix) for name in names] for suffix in suffixes]
    apply = closed if x.device.type == "cpu" else tapped
    outputs, last = apply(stack, x, begin, weights)
    if not batched:
        last = [part.squeeze(1) for part in last]
    return _as_given(module, input, outputs, lengths), last[0] if len(last) == 1 else tuple(last)


def _compiled(module: nn.RNNBase, x: Tensor, begin: Sequence[Tensor]) -> bool:
    """Whether C++ is to be had for that."""
    return len(x) > 0 and not module.proj_size and compiled.serves(x, *begin, *module.parameters())


def closed(
    stack: Stack, x: Tensor, begin: Sequence[Tensor], weights: Sequence[Sequence[Tensor]]
) -> tuple[Tensor, list[Tensor]]:
    """Outputs, and the last states of each direction, by component; their gradients in closed form."""
    anchor = torch.zeros((), device=x.device, requires_grad=stack.anchored)
    outputs, *last = _Closed.apply(stack, anchor, x, *begin, *(part for each in weights for part in each))
    return outputs, last


def _padded(module: nn.RNNBase, input: Tensor | PackedSequence) -> tuple[Tensor, Tensor, bool]:
    """Inputs (time, batch, width), how many of them each sample has, and whether some have fewer than others."""
    if isinstance(input, PackedSequence):
        x, lengths = pad_packed_sequence(input)
        # asked where they are numbers of the CPU: a device would have to be waited for
        return x, lengths.to(x.device), bool((lengths != len(x)).any())
    if input.dim() not in (2, 3):
        raise ValueError(f"{type(module).__name__} reads an input of 2 or 3 axes; this one has {input.dim()}")
    x = input.unsqueeze(1) if input.dim() == 2 else input.transpose(0, 1) if module.batch_first else input
    return x, torch.full(x.shape[1:2], len(x), device=x.device), False


def _begin(module: nn.RNNBase, x: Tensor, hx: Any, batched: bool) -> list[Tensor]:
    """By component, the states that the directions begin with: (layer · directions, batch, width)."""
    if hx is not None:
        given = [hx] if isinstance(hx, Tensor) else list(hx)
        return given if batched else [part.unsqueeze(1) for part in given]
    widths = [module.proj_size or module.hidden_size, module.hidden_size][: 2 if module.mode == "LSTM" else 1]
    number = module.num_layers * (2 if module.bidirectional else 1)
    return [x.new_zeros(number, x.shape[1], width) for width in widths]


def _check(module: nn.RNNBase, input: Tensor | PackedSequence, begin: list[Tensor], batched: bool) -> None:
    """Raises what the module would."""
    if module.mode == "LSTM" and len(begin) != 2:
        raise ValueError(f"LSTM begins with two states, a hidden one and a cell; {len(begin)} were given")
    hidden: Any = begin[0] if len(begin) == 1 else tuple(begin)
    if isinstance(input, PackedSequence):
        module.check_forward_args(input.data, hidden, input.batch_sizes)
    else:
        given = input if batched else input.unsqueeze(0 if module.batch_first else 1)
        module.check_forward_args(given, hidden, None)


def _as_given(module: nn.RNNBase, input: Tensor | PackedSequence, outputs: Tensor, lengths: Tensor) -> Any:
    """Outputs in the layout of the inputs."""
    if isinstance(input, PackedSequence):
        if input.sorted_indices is not None:
            outputs, lengths = outputs.index_select(1, input.sorted_indices), lengths[input.sorted_indices]
        return pack_padded_sequence(outputs, lengths.cpu())._replace(
            batch_sizes=input.batch_sizes,
            sorted_indices=input.sorted_indices,
            unsorted_indices=input.unsorted_indices,
        )
    if input.dim() == 2:
        return outputs.squeeze(1)
    return outputs.transpose(0, 1) if module.batch_first else outputs


@dataclass(frozen=True)
class _Above:
    """What is said from above of the outputs of a layer: ``value · 2^exponent``, as in ``Arriving``."""

    value: Tensor
    exponent: Tensor | None = None
    reached: Tensor | None = None

    def scaled(self) -> Scaled:
        plain = Scaled.of(self.value)
        return Scaled(
            self.value,
            plain.exponent if self.exponent is None else self.exponent,
            plain.reached if self.reached is None else self.reached,
        )

    def __add__(self, other: "_Above") -> "_Above":
        if self.exponent is None and other.exponent is None and self.reached is not None and other.reached is not None:
            return _Above(self.value + other.value, None, self.reached | other.reached)
        return _Above(*vars(self.scaled() + other.scaled()).values())

    def columns(self, start: int, end: int) -> "_Above":
        return _Above(self.value[..., start:end], self.exponent, self.reached)

    def read(self, stack: Stack, direction: int) -> "_Above":
        """In the order in which a direction reads, or back."""
        exponent, reached = (
            None if part is None else stack.read(part, direction) for part in (self.exponent, self.reached)
        )
        return _Above(stack.read(self.value, direction), exponent, reached)


class _Closed(torch.autograd.Function):
    """All layers as one node of the graph, so that exponents pass from one to the next."""

    @staticmethod
    def forward(ctx: Any, stack: Stack, anchor: Tensor, x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        parts = 2 if stack.mode == "LSTM" else 1
        begin, weights = tensors[:parts], _each(tensors[parts:], len(stack.weights))
        value = x
        runs: list[Run] = []
        masks: list[Tensor] = []
        last: list[tuple[Tensor, ...]] = []
        for layer in range(stack.layers):
            if layer and stack.dropout:
                value, mask = torch.native_dropout(value, stack.dropout, True)
                masks.append(mask)
            made = []
            for direction in range(stack.directions):
                at = len(runs)
                form_here = form(stack.mode, Weights(**dict(zip(stack.weights, next(weights), strict=True))))
                along = compiled.along if stack.compiled else run
                begins, lengths = tuple(part[at] for part in begin), stack.lengths if stack.ragged else None
                one, end = along(form_here, stack.read(value, direction), begins, lengths)
                runs.append(one)
                last.append(end)
                made.append(stack.read(one.outputs, direction))
            value = torch.cat(made, -1) if stack.directions > 1 else made[0]
        ctx.stack, ctx.cells = stack, [len(one.cells) for one in runs]
        kept = [part for one in runs for part in (one.x, one.outputs, *one.cells)]
        ctx.save_for_backward(*tensors, *masks, *kept)
        ctx.set_materialize_grads(False)
        return value, *(torch.stack(component) for component in zip(*last, strict=True))

    @staticmethod
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_a_second_derivative()
        saved = ctx.saved_tensors  # once: checkpointing does not hand them out again
        with torch.autocast(saved[0].device.type, enabled=False):
            return _Back(ctx, iter(saved)).gradients(*given)


class _Back:
    """The way back through all layers."""

    def __init__(self, ctx: Any, saved: Iterator[Tensor]) -> None:
        self.stack: Stack = ctx.stack
        self.begin = [next(saved) for _ in range(2 if self.stack.mode == "LSTM" else 1)]
        number = self.stack.layers * self.stack.directions
        self.weights = [[next(saved) for _ in self.stack.weights] for _ in range(number)]
        self.masks = [next(saved) for _ in range(self.stack.layers - 1 if self.stack.dropout else 0)]
        self.runs = []
        for at, cells in enumerate(ctx.cells):
            form_here = form(self.stack.mode, Weights(**dict(zip(self.stack.weights, self.weights[at], strict=True))))
            x, outputs, *boundaries = (next(saved) for _ in range(2 + cells))
            begin = tuple(part[at] for part in self.begin)
            kind = compiled.Along if self.stack.compiled else Run
            self.runs.append(kind(form_here, x, begin, outputs, boundaries))
        _, _, self.of_inputs, *others = ctx.needs_input_grad
        self.learned = any(others[len(self.begin) :])
        # of each direction, from the last: what is kept of a sweep when the layer has been told of
        self.first: list[list[Tensor]] = []
        self.of_weights: list[dict[str, Tensor]] = []

    def gradients(self, of_outputs: Tensor | None, *of_last: Tensor | None) -> tuple[Tensor | None, ...]:
        like = self.runs[-1].outputs
        above: _Above | None = _Above(
            like.new_zeros(*like.shape[:2], self.stack.directions * like.shape[2]) if of_outputs is None else of_outputs
        )
        for layer in range(self.stack.layers - 1, -1, -1):
            assert above is not None  # of a layer that is not the lowest it was asked for
            above = self._through(layer, above, of_last)
        of_x = None
        if above is not None:
            of_x = above.value if above.exponent is None else power_of_two(above.value, above.exponent)
            of_x = of_x.to(self.runs[0].x.dtype)
        of_begin = (
            torch.stack(of_states).to(begin.dtype)
            for of_states, begin in zip(zip(*reversed(self.first), strict=True), self.begin, strict=True)
        )
        of_weights = (
            made[name].to(weight.dtype) if self.learned else None
            for made, weights in zip(reversed(self.of_weights), self.weights, strict=True)
            for name, weight in zip(self.stack.weights, weights, strict=True)
        )
        return None, None, of_x, *of_begin, *of_weights

    def _through(self, layer: int, above: _Above, of_last: Sequence[Tensor | None]) -> _Above | None:
        """Tells of a layer; what is said of its inputs, where that is asked for."""
        stack = self.stack
        swept: list[Swept] = []  # from the last direction
        below: _Above | None = None
        for direction in range(stack.directions - 1, -1, -1):
            at = layer * stack.directions + direction
            width = self.runs[at].form.read
            said = above.columns(direction * width, (direction + 1) * width).read(stack, direction)
            ends = [None if part is None else part[at] for part in of_last]
            one = self.runs[at].sweep(self._arriving(said, *ends), self.learned, bool(layer) or self.of_inputs)
            swept.append(one)
            exponent = one.gradients.exponent
            self.first.append([power_of_two(total[0], exponent[0]) for total in one.gradients.total.values()])
            self.of_weights.append(one.weights)
            if one.inputs is not None:
                scale = exponent[1:] if bool(exponent[1:].any()) else None
                made = _Above(one.inputs, scale, one.gradients.reached[1:]).read(stack, direction)
                below = made if below is None else below + made
        for direction in range(stack.directions):
            stack.tell(layer, direction, swept[-1 - direction].gradients)
        return None if below is None else self._before_dropout(below, layer)

    def _arriving(self, said: _Above, hidden: Tensor | None = None, cell: Tensor | None = None) -> Arriving:
        """With what is said of the last states: a direction has made them where a sample ends."""
        ends = self.stack.ends
        if hidden is None and cell is None:
            return Arriving(said.value, None, said.exponent, said.reached)
        if said.exponent is not None:
            of_hidden = said.scaled()
            parts = {
                "hidden": of_hidden if hidden is None else of_hidden + Scaled.of(self.stack.at_ends(precise(hidden)))
            }
            if cell is not None:
                parts["cell"] = Scaled.of(self.stack.at_ends(precise(cell)))
            parts = common_scale(parts)
            some = parts["hidden"]
            of_cell = parts["cell"].mantissa if "cell" in parts else None
            return Arriving(some.mantissa, of_cell, some.exponent, some.reached)
        value, reached = said.value, said.reached
        if hidden is not None:
            value = precise(value).clone()
            value[ends] += precise(hidden)
        if reached is not None:
            said_of = [(part != 0).any(-1) for part in (hidden, cell) if part is not None]
            reached = reached.clone()
            reached[ends] |= torch.stack(said_of).any(0)
        return Arriving(value, None if cell is None else self.stack.at_ends(precise(cell)), None, reached)

    def _before_dropout(self, above: _Above, layer: int) -> _Above:
        if layer == 0 or not self.stack.dropout:
            return above
        left = 1 - self.stack.dropout
        # a mask of truth values times a number would have the default type, and its rounding
        value = (above.value * self.masks[layer - 1]).mul_(1 / left if left else 0.0)
        return _Above(value, above.exponent, above.reached)


def _each(tensors: Sequence[Tensor], number: int) -> Iterator[Sequence[Tensor]]:
    return (tensors[at : at + number] for at in range(0, len(tensors), number))
