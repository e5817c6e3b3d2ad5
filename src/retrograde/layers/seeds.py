r"""Elman, LSTM and GRU of several seeds at once: one batched product a step, and the gradient by hand.

    outputs, cell = of_seeds(mode, x, begin, weights)        # under torch.func.vmap, which hides the axis of seeds

Forward is a loop over time; what every step reads of the inputs is one product before it. On the way back the slopes
of a few steps are made at once, the gradient goes through them by one product a step, and the weights' gradients are
one product of all δ of those steps with what they read; the equations are those of ``closed_form``:

    Elman   δ_t = g_t ⊙ f'                                        g_{t-1} = d_{t-1} + Uᵀ δ_t
    GRU     δ_t = [g_t ⊙ ∂h/∂(U_n h), g_t ⊙ ∂h/∂r, g_t ⊙ ∂h/∂z]   g_{t-1} = d_{t-1} + z_t ⊙ g_t + Uᵀ δ_t
    LSTM    q_t = g_t ⊙ o (1 - tanh² c_t) + f_{t+1} ⊙ q_{t+1}     g_{t-1} = d_{t-1} + Uᵀ δ_t
            δ_t = [q_t ⊙ ∂c/∂i, q_t ⊙ ∂c/∂f, q_t ⊙ ∂c/∂g, g_t ⊙ ∂h/∂o]

g_t total and d_t direct gradient of the hidden state, q_t that of the cell. There are no totals to be had and no powers
of two are carried: this is for training, where torch's own kernels have neither. It serves where ``compiled``, which is
faster, is not to be had: on a GPU, and on machines without a compiler.

Axes are (seed, time, batch, width), gates an axis before the width; what batched products write to step by step has
time first, because they want the place of a step in one piece.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from retrograde.core.abreast import abreast, seeds_first
from retrograde.layers import compiled

CACHED = 2**19
"""Numbers that the gates of a few steps hold: two megabytes, which are near the core when they are read again."""


def of_seeds(
    mode: str,
    x: Float[Tensor, "batch time width"],
    begin: tuple[Tensor, ...],
    weights: Sequence[Tensor],
    in_cpp: bool = False,
) -> tuple[Float[Tensor, "batch time hidden"], Tensor]:
    """Outputs, and the last cell of an LSTM (of the others nothing that is of use); the latter without a gradient.

    ``mode`` and the four weights are those of the ``torch.nn`` module; ``begin`` the hidden state, and the cell.
    ``in_cpp`` takes what ``compiled`` makes in place of the forms here.
    """
    made: tuple[Tensor, Tensor] = _Hidden.apply(in_cpp, mode, x, *begin, *weights)
    return made


def in_cpp(
    mode: str,
    x: Float[Tensor, "batch time width"],
    begin: tuple[Tensor, ...],
    weights: Sequence[Tensor],
) -> Float[Tensor, "batch time hidden"]:
    """Outputs by ``compiled``, of one seed, or under ``torch.func.vmap`` of several."""
    if abreast(x, *weights):
        return of_seeds(mode, x, begin, weights, in_cpp=True)[0]
    parts, each = [part[None] for part in begin], [weight[None] for weight in weights]
    outputs, _ = compiled.layer(mode, x.transpose(0, 1)[None], parts, each)
    return outputs[0].transpose(0, 1)


class _Hidden(torch.autograd.Function):
    """Brings the axis of seeds to light."""

    @staticmethod
    def forward(in_cpp: bool, mode: str, x: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        raise RuntimeError("a single seed is its own kernel's")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: what ``vmap`` does is differentiated by itself."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], in_cpp: bool, mode: str, *tensors: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int | None]]:
        x, *others = seeds_first(info.batch_size, in_dims[2:], tensors)
        if in_cpp:
            outputs, last = compiled.layer(mode, x.transpose(1, 2), others[:-4], others[-4:])
            return (outputs.transpose(1, 2), last), (0, 0 if last.numel() else None)
        outputs, last = _Run.apply(FORMS[mode], x.transpose(1, 2), *others)
        return (outputs.permute(1, 2, 0, 3), last), (0, 0)


class _Run(torch.autograd.Function):
    """Of stacked tensors; the weights are those of ``torch.nn``, (seed, …)."""

    @staticmethod
    def forward(ctx: Any, form: "type[Form]", x: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        run = form(x, tensors)
        states = run.forward()
        last = run.last(states)
        ctx.form = form
        ctx.save_for_backward(x, *tensors, states, *run.kept)
        ctx.mark_non_differentiable(last)
        return states[1:], last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, direct: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        form: type[Form] = ctx.form
        x, *saved = ctx.saved_tensors
        number = form.components + 4
        run = form(x, saved[:number])
        run.kept = tuple(saved[number + 1 :])
        return None, *run.backward(saved[number], direct, of_inputs=ctx.needs_input_grad[1])


class Form(ABC):
    """The equations of a kind of layer, for one batch of each seed."""

    components = 1
    """Of the state."""

    gates = 1
    """Widths of all the δ of a step."""

    def __init__(self, x: Float[Tensor, "seed time batch width"], tensors: Sequence[Tensor]) -> None:
        self.x = x
        self.begin = tensors[: self.components]
        self.input, self.recurrent, self.input_bias, self.recurrent_bias = tensors[self.components :]
        self.seeds, self.steps, self.batch, self.width = x.shape
        self.hidden = self.recurrent.shape[2]
        self.kept: tuple[Tensor, ...] = ()

    @abstractmethod
    def forward(self) -> Float[Tensor, "states seed batch hidden"]:
        """Every hidden state from the initial one on; what ``slopes`` reads goes to ``kept``."""

    def last(self, states: Tensor) -> Tensor:
        """The cell after the last step, where there is one."""
        return states[-1].clone()

    @abstractmethod
    def slopes(
        self, first: int, end: int, states: Tensor, delta: Float[Tensor, "time seed batch gates hidden"]
    ) -> None:
        """Fill in what a gradient is multiplied by to be δ, of the steps from ``first`` to before ``end``."""

    @abstractmethod
    def back(
        self, at: int, delta: Float[Tensor, "seed batch gates hidden"], total: Tensor, direct: Tensor, out: Tensor
    ) -> None:
        """Turn the slopes of a step into δ; to ``out`` goes the total at the state before it, whose ``direct`` part is.

        ``at`` is the step's place among those whose slopes were filled in.
        """

    def of_recurrent(self, delta: Float[Tensor, "seed rows gates"]) -> Tensor:
        """Of the δ, those of the sums that U h stands in, in the order of the rows of U as ``turned`` has them."""
        return delta

    def of_input(self, delta: Float[Tensor, "seed rows gates"]) -> Tensor:
        """Of the δ, those of the sums that W x stands in, in the order of the rows of W."""
        return delta

    def turned(self, rows: Tensor, back: bool = False) -> Tensor:
        """Rows of U, or of what belongs to them, in the order of the δ; or back in torch's."""
        return rows

    def of_begin(self, total: Tensor) -> tuple[Tensor, ...]:
        """What the loss says of each component that the layer begins with."""
        return (total,)

    @property
    def few(self) -> int:
        """Steps that are made ready at once."""
        return max(1, min(self.steps, CACHED // max(1, self.seeds * self.batch * self.gates * self.hidden)))

    def driven(self, bias: Float[Tensor, "seed gates"]) -> Iterator[Float[Tensor, "seed batch gates"]]:
        """What the inputs say to the gates, step by step; good until the next step is asked for."""
        bias, weight, made = bias.unsqueeze(1), self.input.mT, self.x.new_empty(0)
        for x in self.x.split(self.few, 1):
            rows = x.reshape(self.seeds, -1, self.width)
            if made.shape[:2] != rows.shape[:2]:
                made = self.x.new_empty(*rows.shape[:2], weight.shape[2])
            torch.baddbmm(bias, rows, weight, out=made)
            yield from made.view(self.seeds, x.shape[1], self.batch, -1).unbind(1)

    def begun(self) -> Float[Tensor, "states seed batch hidden"]:
        """Room for the hidden states, the initial one filled in."""
        states = self.room(self.steps + 1)
        states[0] = self.begin[0]
        return states

    def room(self, steps: int, gates: int = 1) -> Float[Tensor, "time seed batch gates"]:
        """For so many steps."""
        return self.x.new_empty(steps, self.seeds, self.batch, gates * self.hidden)

    def backward(self, states: Tensor, direct: Tensor, of_inputs: bool) -> tuple[Tensor | None, ...]:
        """Gradients of x, of what the layer begins with, and of the weights in the order of torch."""
        few = self.few
        room = self.x.new_empty(self.seeds, few, self.batch, self.gates, self.hidden)
        of_x = torch.empty_like(self.x, memory_format=torch.contiguous_format) if of_inputs else None
        # transposed, because products with few inputs are ten times as fast that way round
        of_input, of_recurrent = (torch.zeros_like(weight.mT.contiguous()) for weight in (self.input, self.recurrent))
        of_input_bias, of_recurrent_bias = torch.zeros_like(self.input_bias), torch.zeros_like(self.recurrent_bias)
        total, other, none = (self.x.new_zeros(self.seeds, self.batch, self.hidden) for _ in range(3))
        total.copy_(direct[-1])
        directs = [none, *direct.unbind()]  # of the state that each step is carried to
        for end in range(self.steps, 0, -few):
            first = max(0, end - few)
            delta = room[:, : end - first]
            self.slopes(first, end, states, delta.transpose(0, 1))
            for t in range(end - 1, first - 1, -1):
                self.back(t - first, delta[:, t - first], total, directs[t], other)
                total, other = other, total
            rows = delta.reshape(self.seeds, -1, self.gates * self.hidden)
            read = states[first:end].transpose(0, 1).reshape(self.seeds, -1, self.hidden)
            for_recurrent, for_input = self.of_recurrent(rows), self.of_input(rows)
            of_recurrent.baddbmm_(read.mT, for_recurrent)
            of_input.baddbmm_(self.x[:, first:end].reshape(self.seeds, -1, self.width).mT, for_input)
            of_recurrent_bias += for_recurrent.sum(1)
            of_input_bias += for_input.sum(1)
            if of_x is not None:
                of_x[:, first:end] = torch.bmm(for_input, self.input).view(self.seeds, -1, self.batch, self.width)
        return (
            of_x,
            *self.of_begin(total),
            of_input.mT.contiguous(),
            self.turned(of_recurrent.mT, back=True).contiguous(),
            of_input_bias,
            self.turned(of_recurrent_bias, back=True),
        )


class Elman(Form):
    """h_t = f(W x_t + b + U h_{t-1} + c), f tanh or ReLU, as ``torch.nn.RNN``."""

    tanh = True

    def forward(self) -> Tensor:
        states = self.begun()
        recurrent = self.recurrent.mT
        made = self.room(1)[0]
        hidden = states[0]
        for given, state in zip(self.driven(self.input_bias + self.recurrent_bias), states[1:].unbind(), strict=True):
            torch.baddbmm(given, hidden, recurrent, out=made)
            hidden = torch.tanh(made, out=state) if self.tanh else torch.clamp(made, min=0, out=state)
        return states

    def slopes(self, first: int, end: int, states: Tensor, delta: Tensor) -> None:
        after, slope = states[first + 1 : end + 1], delta.squeeze(3)
        if self.tanh:
            torch.addcmul(after.new_ones(()), after, after, value=-1, out=slope)
        else:
            slope.copy_(after != 0)  # NaN passes, as with torch

    def back(self, at: int, delta: Tensor, total: Tensor, direct: Tensor, out: Tensor) -> None:
        torch.baddbmm(direct, delta.squeeze(2).mul_(total), self.recurrent, out=out)


class ElmanReLU(Elman):
    """The same with ReLU."""

    tanh = False


class GRU(Form):
    """Reset and update gate, the reset gate after U_n; its δ are those of U_n h, r, z and of the candidate's sum."""

    gates = 4

    def turned(self, rows: Tensor, back: bool = False) -> Tensor:
        at = self.hidden if back else 2 * self.hidden
        return torch.cat([rows[:, at:], rows[:, :at]], 1)

    @cached_property
    def rows(self) -> Float[Tensor, "seed gates hidden"]:
        """U as the δ are ordered."""
        return self.turned(self.recurrent)

    def of_recurrent(self, delta: Tensor) -> Tensor:
        return delta[..., : 3 * self.hidden]

    def of_input(self, delta: Tensor) -> Tensor:
        return delta[..., self.hidden :]

    def forward(self) -> Tensor:
        states = self.begun()
        both = 2 * self.hidden
        bias = torch.cat([self.input_bias[:, :both] + self.recurrent_bias[:, :both], self.input_bias[:, both:]], 1)
        of_gates, of_candidate = self.recurrent[:, :both].mT, self.recurrent[:, both:].mT
        candidate_bias = self.recurrent_bias[:, None, both:]
        gates, entered, candidates = self.room(self.steps, 2), *(self.room(self.steps) for _ in range(2))
        hidden = states[0]
        for given, gate, reset, update, from_hidden, candidate, state in zip(
            self.driven(bias),
            gates.unbind(),
            gates[..., : self.hidden].unbind(),
            gates[..., self.hidden :].unbind(),
            entered.unbind(),
            candidates.unbind(),
            states[1:].unbind(),
            strict=True,
        ):
            torch.baddbmm(given[..., :both], hidden, of_gates, out=gate).sigmoid_()
            torch.baddbmm(candidate_bias, hidden, of_candidate, out=from_hidden)
            torch.addcmul(given[..., both:], reset, from_hidden, out=candidate).tanh_()
            hidden = torch.lerp(candidate, hidden, update, out=state)
        self.kept = gates, entered, candidates
        return states

    def slopes(self, first: int, end: int, states: Tensor, delta: Tensor) -> None:
        gates, entered, candidate = (part[first:end] for part in self.kept)
        reset, update = gates.split(self.hidden, -1)
        of_entered, of_reset, of_update, of_candidate = delta.unbind(3)
        rest = 1 - update
        slope = torch.mul(rest, candidate)
        torch.addcmul(rest, slope, candidate, value=-1, out=slope)  # ∂h/∂ of the candidate's sum
        of_candidate.copy_(slope)
        slope.mul_(reset)
        of_entered.copy_(slope)
        slope.mul_(entered)
        torch.addcmul(slope, slope, reset, value=-1, out=of_reset)
        torch.sub(states[first:end], candidate, out=slope)
        torch.mul(slope.mul_(rest), update, out=of_update)
        self.carried = update.unbind()

    def back(self, at: int, delta: Tensor, total: Tensor, direct: Tensor, out: Tensor) -> None:
        delta.mul_(total.unsqueeze(2))
        torch.addcmul(direct, total, self.carried[at], out=out)
        out.baddbmm_(delta[:, :, :3].flatten(2), self.rows)


class LSTM(Form):
    """Input, forget and output gate around a cell, in the order i, f, g, o."""

    components = 2
    gates = 4

    def forward(self) -> Tensor:
        states = self.begun()
        recurrent = self.recurrent.mT
        gates, candidates, shown, cells = self.room(self.steps, 4), *(self.room(self.steps + n) for n in (0, 0, 1))
        cells[0] = self.begin[1]
        hidden, cell = states[0], cells[0]
        parts = gates.unflatten(-1, (4, self.hidden)).unbind(-2)
        for given, gate, entry, forget, of_candidate, out, candidate, new, squashed, state in zip(
            self.driven(self.input_bias + self.recurrent_bias),
            gates.unbind(),
            *(part.unbind() for part in parts),
            candidates.unbind(),
            cells[1:].unbind(),
            shown.unbind(),
            states[1:].unbind(),
            strict=True,
        ):
            torch.baddbmm(given, hidden, recurrent, out=gate)
            torch.tanh(of_candidate, out=candidate)
            gate.sigmoid_()  # that of the candidate is not read
            torch.mul(entry, candidate, out=new)
            cell = new.addcmul_(forget, cell)
            hidden = torch.mul(out, torch.tanh(cell, out=squashed), out=state)
        self.kept = gates, candidates, shown, cells
        return states

    @cached_property
    def carried(self) -> Float[Tensor, "seed batch hidden"]:
        """The gradient of the cell, from the step after; zero at first."""
        return torch.zeros_like(self.begin[1], memory_format=torch.contiguous_format)

    def last(self, states: Tensor) -> Tensor:
        return self.kept[3][-1].clone()

    def slopes(self, first: int, end: int, states: Tensor, delta: Tensor) -> None:
        gates, candidate, squashed = (part[first:end] for part in self.kept[:3])
        cells = self.kept[3]
        entry, forget, _, out = gates.split(self.hidden, -1)
        of_entry, of_forget, of_candidate, of_out = delta.unbind(3)
        some = entry * candidate
        torch.addcmul(some, some, entry, value=-1, out=of_entry)
        torch.addcmul(entry, some, candidate, value=-1, out=of_candidate)
        torch.mul(cells[first:end], forget, out=some)
        torch.addcmul(some, some, forget, value=-1, out=of_forget)
        torch.mul(out, squashed, out=some)
        torch.addcmul(some, some, out, value=-1, out=of_out)
        self.of_cell = torch.addcmul(out, some, squashed, value=-1).unbind()  # ∂h/∂c
        self.forget = forget.unbind()

    def back(self, at: int, delta: Tensor, total: Tensor, direct: Tensor, out: Tensor) -> None:
        q = torch.addcmul(self.carried, self.of_cell[at], total, out=self.of_cell[at])
        delta[:, :, :3].mul_(q.unsqueeze(2))
        delta[:, :, 3].mul_(total)
        torch.mul(q, self.forget[at], out=self.carried)
        torch.baddbmm(direct, delta.flatten(2), self.recurrent, out=out)

    def of_begin(self, total: Tensor) -> tuple[Tensor, ...]:
        return total, self.carried


FORMS: dict[str, type[Form]] = {"RNN_TANH": Elman, "RNN_RELU": ElmanReLU, "GRU": GRU, "LSTM": LSTM}
"""By the mode of the ``torch.nn`` module."""
