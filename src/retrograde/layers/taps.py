r"""Total gradients out of a fused kernel of which only the outputs are seen, cuDNN's say: by columns of zeros.

Beside the inputs go zeros, and beside the input weights W, held fixed, the recurrent ones U. A zero is thus added where
h_{t-1} enters, and its gradient is what the later times say of h_{t-1}: nothing of the kernel has to be known, and
neither the outputs nor the gradients of the parameters change.

    Elman, LSTM   columns U                                  gradient of the zeros at t   Uᵀ δ_t
    GRU           columns [[U_r; U_z; 0], [0; 0; I]]         gradient of the zeros at t   U_r,zᵀ δ_t^{r,z}  and  δ_t^n

    Elman, LSTM   g_{t-1} = d_{t-1} + Uᵀ δ_t
    GRU           g_{t-1} = d_{t-1} + z_t ⊙ g_t + U_r,zᵀ δ_t^{r,z} + U_nᵀ (r_t ⊙ δ_t^n)
    LSTM's cell   q_t = d^c_t + g_t ⊙ o_t (1 - tanh² c_t) + f_{t+1} ⊙ q_{t+1}

The recursions that are left are elementwise and run as scans; r, z, f, o and c are computed anew of inputs and
outputs, all times at once.

There is no power of two as in ``closed_form``: what the kernel loses to its format is censored. With
``torch.autograd.grad`` nothing is told unless the inputs, or input weights, are among what is differentiated by.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from retrograde.core.adjoint import refuse_a_second_derivative
from retrograde.core.records import State
from retrograde.layers.closed_form import Weights, after_one, precise
from retrograde.layers.scans import scan
from retrograde.layers.totals import Gradients, Stack


def tapped(
    stack: Stack, x: Tensor, begin: Sequence[Tensor], weights: Sequence[Sequence[Tensor]]
) -> tuple[Tensor, list[Tensor]]:
    """Outputs, and the last states of each direction, by component; their gradients by the kernel itself."""
    value, last = x, []
    reached: dict[int, Tensor] = {}
    for layer in range(stack.layers):
        if layer:
            value = nn.functional.dropout(value, stack.dropout, stack.dropout > 0)
        here = slice(layer * stack.directions, (layer + 1) * stack.directions)
        value, *ends = _layer(stack, layer, reached, value, [part[here] for part in begin], weights[here])
        last.append(ends)
    return value, [torch.cat(component) for component in zip(*last, strict=True)]


def _layer(
    stack: Stack,
    layer: int,
    reached: dict[int, Tensor],
    x: Tensor,
    begin: Sequence[Tensor],
    weights: Sequence[Sequence[Tensor]],
) -> list[Tensor]:
    """Both directions in one call of the kernel."""
    named = [Weights(**dict(zip(stack.weights, each, strict=True))) for each in weights]
    detached = [Weights(**{name: part.detach() for name, part in each.named().items()}) for each in named]
    told = _Told(stack, layer, detached, reached)
    anchor = torch.zeros((), device=x.device, requires_grad=stack.anchored)
    read, *inputs = _Widened.apply(told, anchor, x, *begin, *(each.input for each in named))
    wide = [
        part for weight, each in zip(inputs, named, strict=True) for part in (weight, *list(each.named().values())[1:])
    ]
    return list(_Heard.apply(told, *_kernel(stack, read, begin, wide)))


def _kernel(stack: Stack, x: Tensor, begin: Sequence[Tensor], weights: list[Tensor]) -> list[Tensor]:
    # in training mode throughout, because cuDNN has no backward pass in the other; without dropout they are the same
    settings = "input_bias" in stack.weights, 1, 0.0, True, stack.directions == 2
    kernels: dict[str, Any] = {
        "RNN_TANH": torch.rnn_tanh,
        "RNN_RELU": torch.rnn_relu,
        "GRU": torch.gru,
        "LSTM": torch.lstm,
    }
    kernel = kernels[stack.mode]
    if not stack.ragged:
        return list(kernel(x, _one_or_all(begin), weights, *settings, False))
    packed = pack_padded_sequence(x, stack.lengths.cpu(), enforce_sorted=False)
    assert packed.sorted_indices is not None and packed.unsorted_indices is not None
    sorted_begin = [part.index_select(1, packed.sorted_indices) for part in begin]
    data, *last = kernel(packed.data, packed.batch_sizes, _one_or_all(sorted_begin), weights, *settings)
    outputs, _ = pad_packed_sequence(packed._replace(data=data), total_length=stack.time)
    return [outputs, *(part.index_select(1, packed.unsorted_indices) for part in last)]


def _one_or_all(begin: Sequence[Tensor]) -> Tensor | list[Tensor]:
    return begin[0] if len(begin) == 1 else list(begin)


@dataclass
class _Told:
    """What the two ends of a layer tell each other in the backward pass, and what becomes of it."""

    stack: Stack
    layer: int
    weights: list[Weights]
    reached: dict[int, Bool[Tensor, "time batch"]]
    """By layer, the inputs with a path to the loss; the layer below cannot see it where the gradient underflows."""
    heard: list[Tensor] = field(default_factory=list)
    """Outputs, and the gradients of outputs and last states, while the kernel's own backward pass runs."""

    @property
    def taps(self) -> int:
        """The columns of one direction."""
        recurrent = self.weights[0].recurrent
        return 2 * recurrent.shape[1] if self.stack.mode == "GRU" else recurrent.shape[1]

    def columns(self, direction: int) -> Float[Tensor, "gates taps"]:
        """What stands beside a direction's input weights."""
        own = recurrent = self.weights[direction].recurrent
        if self.stack.mode == "GRU":
            hidden = recurrent.shape[1]
            own = recurrent.new_zeros(len(recurrent), 2 * hidden)
            own[: 2 * hidden, :hidden] = recurrent[: 2 * hidden]
            own[2 * hidden :, hidden:] = torch.eye(hidden, dtype=own.dtype, device=own.device)
        columns = recurrent.new_zeros(len(recurrent), self.stack.directions * self.taps)
        columns[:, direction * self.taps : (direction + 1) * self.taps] = own
        return columns

    def tell(self, x: Tensor, begin: Sequence[Tensor], taps: Tensor) -> None:
        """Of every direction, from what the zeros were told."""
        stack = self.stack
        outputs, of_outputs, *of_last = self.heard
        self.heard = []
        width = outputs.shape[-1] // stack.directions
        inputs_reached = []
        for direction, weights in enumerate(self.weights):
            own, of_own = (
                precise(stack.read(part[..., direction * width : (direction + 1) * width], direction))
                for part in (outputs, of_outputs)
            )
            columns = precise(stack.read(taps[..., direction * self.taps : (direction + 1) * self.taps], direction))
            placed = [stack.at_ends(precise(part[direction])) for part in of_last]
            direct = dict(zip(("hidden", "cell"), (of_own + placed[0], *placed[1:]), strict=False))
            read = precise(stack.read(x, direction))
            total, of_nodes = _gradients(
                stack.mode, weights.precise(), read, [precise(part[direction]) for part in begin], own, columns, direct
            )
            present = torch.stack([(part != 0).any(-1) for part in direct.values()]).any(0)
            if self.layer + 1 in self.reached:
                present |= stack.read(self.reached[self.layer + 1], direction)
            present = after_one(present)
            reached = present.flip(0).cummax(0).values.flip(0)
            inputs_reached.append(stack.read(reached[1:], direction))
            nothing = torch.zeros_like(present, dtype=torch.int32)
            stack.tell(self.layer, direction, Gradients(total, nothing, reached, of_nodes, nothing, present))
        self.reached[self.layer] = torch.stack(inputs_reached).any(0)


class _Widened(torch.autograd.Function):
    """Inputs and input weights, with room for the taps; tells of what came back through them."""

    @staticmethod
    def forward(ctx: Any, told: _Told, anchor: Tensor, x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        begin, inputs = others[: -told.stack.directions], others[-told.stack.directions :]
        ctx.told = told
        ctx.save_for_backward(x, *begin)
        zeros = x.new_zeros(*x.shape[:2], told.stack.directions * told.taps)
        wide = [torch.cat([weight, told.columns(direction)], 1) for direction, weight in enumerate(inputs)]
        learned = ctx.needs_input_grad[-len(wide) :]
        # the anchor would have the kernel make the gradients of frozen weights as well
        ctx.mark_non_differentiable(*(weight for weight, learns in zip(wide, learned, strict=True) if not learns))
        return torch.cat([x, zeros], -1), *wide

    @staticmethod
    def backward(ctx: Any, of_x: Tensor, *of_inputs: Tensor) -> tuple[Tensor | None, ...]:
        refuse_a_second_derivative()
        x, *begin = ctx.saved_tensors
        width = x.shape[-1]
        with torch.autocast(x.device.type, enabled=False):
            ctx.told.tell(x, begin, of_x[..., width:])
        return None, None, of_x[..., :width], *(None for _ in begin), *(part[:, :width] for part in of_inputs)


class _Heard(torch.autograd.Function):
    """Outputs and last states as they are; notes what is said of them directly."""

    @staticmethod
    def forward(ctx: Any, told: _Told, outputs: Tensor, *last: Tensor) -> tuple[Tensor, ...]:
        ctx.told = told
        ctx.save_for_backward(outputs)
        return outputs.view_as(outputs), *(part.view_as(part) for part in last)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.told.heard = [ctx.saved_tensors[0], *gradients]
        return None, *gradients


def _gradients(
    mode: str,
    weights: Weights,
    x: Float[Tensor, "time batch width"],
    begin: Sequence[Tensor],
    outputs: Float[Tensor, "time batch read"],
    taps: Float[Tensor, "time batch taps"],
    direct: State,
) -> tuple[State, State]:
    """Total and direct ones of every state, of one direction in the order in which it reads."""
    before = torch.cat([begin[0][None], outputs[:-1]])
    of_hidden = after_one(direct["hidden"])
    hidden = len(weights.recurrent) // {"GRU": 3, "LSTM": 4}.get(mode, 1)
    if mode == "GRU":
        reset, update = _gates(weights, x, before, slice(2 * hidden)).sigmoid().chunk(2, -1)
        said = taps[..., :hidden] + (reset * taps[..., hidden:]) @ weights.recurrent[2 * hidden :]
        total = {"hidden": _scan_back(update, of_hidden + _before_one(said))}
        return total, {"hidden": of_hidden}
    of_outputs = of_hidden + _before_one(taps)
    if mode != "LSTM":
        return {"hidden": of_outputs}, {"hidden": of_hidden}
    entry, forget, candidate, out = _gates(weights, x, before, slice(None)).chunk(4, -1)
    forget = forget.sigmoid()
    entered = entry.sigmoid() * candidate.tanh()
    cells = scan(forget.transpose(0, 1), entered.transpose(0, 1), begin[1]).transpose(0, 1)
    slope = after_one(out.sigmoid() * (1 - cells.tanh().square()))
    of_cell = after_one(direct["cell"])

    def through_hidden(gradient: Tensor) -> Tensor:
        return slope * (gradient if weights.projection is None else gradient @ weights.projection)

    total = {"hidden": of_outputs, "cell": _scan_back(forget, of_cell + through_hidden(of_outputs))}
    return total, {"hidden": of_hidden, "cell": of_cell + through_hidden(of_hidden)}


def _gates(weights: Weights, x: Tensor, before: Tensor, rows: slice) -> Float[Tensor, "time batch rows"]:
    """What some gates are made of, where the reset gate has no part in it."""
    bias, other = weights.input_bias, weights.recurrent_bias
    from_input = nn.functional.linear(x, weights.input[rows], None if bias is None else bias[rows])
    return from_input + nn.functional.linear(before, weights.recurrent[rows], None if other is None else other[rows])


def _before_one(value: Float[Tensor, "time batch width"]) -> Float[Tensor, "states batch width"]:
    """What inputs say of the states that they are read in; the last state is read by none."""
    return torch.cat([value, torch.zeros_like(value[:1])])


def _scan_back(
    kept: Float[Tensor, "time batch width"], said: Float[Tensor, "states batch width"]
) -> Float[Tensor, "states batch width"]:
    """g_s = said_s + kept_s ⊙ g_{s+1}, from the last state on."""
    return scan(_before_one(kept).transpose(0, 1), said.transpose(0, 1), reverse=True).transpose(0, 1)
